/* SPDX-License-Identifier: MIT */
/*
 * Edge: TLS credentials, in a folder laid out as QEMU's -object tls-creds-x509 and
 * tls-creds-psk want it. What is in the files is in no sentence: only their names are.
 */
#include "ring/tls_session.h"

#include "base/err.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATH_ROOM 4096
#define PSK_LINE 1024
#define PSK_USERNAME "qemu"
#define PSK_METHODS ":+ECDHE-PSK:+DHE-PSK:+PSK"

static int file_path(char path[PATH_ROOM], const char *dir, const char *name, struct wh_err *err)
{
	int n = snprintf(path, PATH_ROOM, "%s/%s", dir, name);

	if (n < 0 || n >= PATH_ROOM)
		return err_set(err, -ENAMETOOLONG, "TLS: the folder's name has over %d bytes",
			       PATH_ROOM);
	if (access(path, R_OK) < 0)
		return err_sys(err, errno, "TLS: %.150s", path);
	return 0;
}

static int file_refused(const char *path, int code, struct wh_err *err)
{
	return err_set(err, -EINVAL, "TLS: %.150s: %s", path,
		       code ? gnutls_strerror(code) : "there is no certificate in it");
}

/* What every peer would refuse is better told here */
static int check_own_time(const struct tls_creds *creds, const char *path, struct wh_err *err)
{
	time_t now = time(NULL);
	gnutls_x509_crt_t cert = NULL;
	gnutls_datum_t der = { 0 };
	time_t begin, end;
	int ret;

	ret = gnutls_certificate_get_crt_raw(creds->x509, 0, 0, &der);
	if (ret < 0 || gnutls_x509_crt_init(&cert) < 0)
		return file_refused(path, ret, err);
	ret = gnutls_x509_crt_import(cert, &der, GNUTLS_X509_FMT_DER);
	begin = gnutls_x509_crt_get_activation_time(cert);
	end = gnutls_x509_crt_get_expiration_time(cert);
	gnutls_x509_crt_deinit(cert);
	if (ret < 0)
		return file_refused(path, ret, err);
	if (end < now)
		return err_set(err, -EKEYEXPIRED, "TLS: %.150s: the certificate has expired", path);
	if (begin > now)
		return err_set(err, -EINVAL, "TLS: %.150s: the certificate is not valid yet", path);
	return 0;
}

static int load_own(struct tls_creds *creds, const char *dir, struct wh_err *err)
{
	const char *cert_name = creds->server ? "server-cert.pem" : "client-cert.pem";
	const char *key_name = creds->server ? "server-key.pem" : "client-key.pem";
	char cert[PATH_ROOM], key[PATH_ROOM];
	struct wh_err missing = { 0 };
	int ret;

	/* A client may go without: the server says whether it takes such */
	ret = file_path(cert, dir, cert_name, &missing);
	if (ret == -ENOENT && !creds->server)
		return 0;
	if (ret < 0)
		return err_set(err, ret, "%s", missing.text);
	ret = file_path(key, dir, key_name, err);
	if (ret < 0)
		return ret;
	ret = gnutls_certificate_set_x509_key_file(creds->x509, cert, key, GNUTLS_X509_FMT_PEM);
	if (ret < 0)
		return err_set(err, -EINVAL, "TLS: %.100s and %s: %s", cert, key_name,
			       gnutls_strerror(ret));
	return check_own_time(creds, cert, err);
}

static int load_x509(struct tls_creds *creds, const char *dir, struct wh_err *err)
{
	char path[PATH_ROOM];
	int ret;

	ret = gnutls_certificate_allocate_credentials(&creds->x509);
	if (ret < 0)
		return err_set(err, -ENOMEM, "TLS: %s", gnutls_strerror(ret));
	if (creds->verify) {
		ret = file_path(path, dir, "ca-cert.pem", err);
		if (ret < 0)
			return ret;
		ret = gnutls_certificate_set_x509_trust_file(creds->x509, path,
							     GNUTLS_X509_FMT_PEM);
		if (ret <= 0)
			return file_refused(path, ret, err);
	}
	if (file_path(path, dir, "ca-crl.pem", NULL) == 0) {
		ret = gnutls_certificate_set_x509_crl_file(creds->x509, path, GNUTLS_X509_FMT_PEM);
		if (ret < 0)
			return file_refused(path, ret, err);
	}
	return load_own(creds, dir, err);
}

/* The line "NAME:HEX" of this name; its key alone is left in @line. 0 or -ENOENT */
static int psk_find(FILE *file, const char *name, char line[PSK_LINE])
{
	size_t length = strlen(name);

	while (fgets(line, PSK_LINE, file)) {
		if (strncmp(line, name, length) != 0 || line[length] != ':')
			continue;
		memmove(line, line + length + 1, strlen(line + length + 1) + 1);
		line[strcspn(line, "\r\n")] = '\0';
		return 0;
	}
	return -ENOENT;
}

static int load_psk_client(struct tls_creds *creds, const char *path, const char *name,
			   struct wh_err *err)
{
	gnutls_datum_t key;
	char line[PSK_LINE];
	FILE *file;
	int ret;

	file = fopen(path, "re");
	if (!file)
		return err_sys(err, errno, "TLS: %.150s", path);
	ret = psk_find(file, name, line);
	fclose(file);
	if (ret < 0)
		return err_set(err, ret, "TLS: %.150s: there is no line of user '%.50s'", path,
			       name);
	key = (gnutls_datum_t){ (unsigned char *)line, (unsigned)strlen(line) };
	ret = gnutls_psk_allocate_client_credentials(&creds->psk_client);
	if (ret == 0)
		ret = gnutls_psk_set_client_credentials(creds->psk_client, name, &key,
							GNUTLS_PSK_KEY_HEX);
	gnutls_memset(line, 0, sizeof(line));
	return ret < 0 ? file_refused(path, ret, err) : 0;
}

static int load_psk(struct tls_creds *creds, const char *dir, const char *name, struct wh_err *err)
{
	char path[PATH_ROOM];
	int ret;

	ret = file_path(path, dir, "keys.psk", err);
	if (ret < 0)
		return ret;
	if (!creds->server)
		return load_psk_client(creds, path, name ? name : PSK_USERNAME, err);
	ret = gnutls_psk_allocate_server_credentials(&creds->psk_server);
	if (ret == 0)
		ret = gnutls_psk_set_server_credentials_file(creds->psk_server, path);
	return ret < 0 ? file_refused(path, ret, err) : 0;
}

static int load_priority(struct tls_creds *creds, const char *wanted, struct wh_err *err)
{
	const char *text = wanted && wanted[0] ? wanted : TLS_PRIORITY;
	const char *at = NULL;
	char *all;
	int ret;

	if (asprintf(&all, "%s%s", text, creds->psk ? PSK_METHODS : "") < 0)
		return err_set(err, -ENOMEM, "TLS: no memory");
	ret = gnutls_priority_init(&creds->priority, all, &at);
	if (ret < 0)
		ret = err_set(err, -EINVAL, "TLS: priority '%.100s': %s, at '%.50s'", text,
			      gnutls_strerror(ret), at ? at : "");
	free(all);
	return ret;
}

int tls_creds_load(struct tls_creds *creds, const struct tls_config *config, struct wh_err *err)
{
	int ret;

	*creds = (struct tls_creds){
		.server = config->server,
		.psk = config->psk,
		.verify = config->verify,
	};
	if (!config->dir || !config->dir[0])
		return err_set(err, -EINVAL, "TLS: which folder are the credentials in?");
	if (config->hostname) {
		if (strlen(config->hostname) >= sizeof(creds->hostname))
			return err_set(err, -EINVAL, "TLS: the hostname has over 255 bytes");
		memcpy(creds->hostname, config->hostname, strlen(config->hostname));
	}
	ret = load_priority(creds, config->priority, err);
	if (ret < 0)
		return ret;
	return config->psk ? load_psk(creds, config->dir, config->username, err) :
			     load_x509(creds, config->dir, err);
}

void tls_creds_free(struct tls_creds *creds)
{
	if (creds->x509)
		gnutls_certificate_free_credentials(creds->x509);
	if (creds->psk_client)
		gnutls_psk_free_client_credentials(creds->psk_client);
	if (creds->psk_server)
		gnutls_psk_free_server_credentials(creds->psk_server);
	if (creds->priority)
		gnutls_priority_deinit(creds->priority);
	*creds = (struct tls_creds){ 0 };
}
