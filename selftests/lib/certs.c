/* SPDX-License-Identifier: MIT */
/*
 * Certificates and keys for tests, as QEMU's documentation has certtool and psktool make them.
 */
#include "selftests/lib/certs.h"

#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY 86400

static bool save(const char *dir, const char *name, const gnutls_datum_t *data)
{
	char path[512];
	FILE *file;
	bool good;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "we");
	if (!file)
		return false;
	good = fwrite(data->data, 1, data->size, file) == data->size;
	return fclose(file) == 0 && good;
}

static bool save_key(const char *dir, const char *name, gnutls_x509_privkey_t key)
{
	gnutls_datum_t pem;
	bool good;

	if (gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem) < 0)
		return false;
	good = save(dir, name, &pem);
	gnutls_free(pem.data);
	return good;
}

static bool save_cert(const char *dir, const char *name, gnutls_x509_crt_t cert)
{
	gnutls_datum_t pem;
	bool good;

	if (gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pem) < 0)
		return false;
	good = save(dir, name, &pem);
	gnutls_free(pem.data);
	return good;
}

static bool load(const char *dir, const char *name, gnutls_datum_t *data)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return gnutls_load_file(path, data) == 0;
}

struct signer {
	gnutls_x509_crt_t cert;
	gnutls_x509_privkey_t key;
};

static bool new_key(gnutls_x509_privkey_t *key)
{
	return gnutls_x509_privkey_init(key) == 0 &&
	       gnutls_x509_privkey_generate(*key, GNUTLS_PK_ECDSA,
					    GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1),
					    0) == 0;
}

static bool new_cert(gnutls_x509_crt_t *cert, gnutls_x509_privkey_t key, const char *name,
		     time_t end)
{
	unsigned char serial[8];

	if (gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial)) < 0)
		return false;
	serial[0] &= 0x7f;
	return gnutls_x509_crt_init(cert) == 0 && gnutls_x509_crt_set_version(*cert, 3) == 0 &&
	       gnutls_x509_crt_set_serial(*cert, serial, sizeof(serial)) == 0 &&
	       gnutls_x509_crt_set_activation_time(*cert, time(NULL) - 10 * DAY) == 0 &&
	       gnutls_x509_crt_set_expiration_time(*cert, end) == 0 &&
	       gnutls_x509_crt_set_dn_by_oid(*cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
					     (unsigned)strlen(name)) == 0 &&
	       gnutls_x509_crt_set_key(*cert, key) == 0;
}

static bool sign(gnutls_x509_crt_t cert, const struct signer *signer)
{
	return gnutls_x509_crt_sign2(cert, signer->cert, signer->key, GNUTLS_DIG_SHA256, 0) == 0;
}

static bool make_ca(const char *dir, struct signer *ca)
{
	unsigned char number[4];
	char name[64];

	/* two of one name would be one that signs wrongly */
	if (gnutls_rnd(GNUTLS_RND_NONCE, number, sizeof(number)) < 0)
		return false;
	snprintf(name, sizeof(name), "CA of a test, %02x%02x%02x%02x", number[0], number[1],
		 number[2], number[3]);
	return new_key(&ca->key) && new_cert(&ca->cert, ca->key, name, time(NULL) + 10 * DAY) &&
	       gnutls_x509_crt_set_ca_status(ca->cert, 1) == 0 &&
	       gnutls_x509_crt_set_key_usage(ca->cert, GNUTLS_KEY_KEY_CERT_SIGN) == 0 &&
	       sign(ca->cert, ca) && save_cert(dir, "ca-cert.pem", ca->cert) &&
	       save_key(dir, "ca-key.pem", ca->key);
}

static bool load_ca(const char *from, const char *dir, struct signer *ca)
{
	gnutls_datum_t cert, key;
	bool good;

	if (!load(from, "ca-cert.pem", &cert))
		return false;
	if (!load(from, "ca-key.pem", &key)) {
		gnutls_free(cert.data);
		return false;
	}
	good = gnutls_x509_crt_init(&ca->cert) == 0 &&
	       gnutls_x509_crt_import(ca->cert, &cert, GNUTLS_X509_FMT_PEM) == 0 &&
	       gnutls_x509_privkey_init(&ca->key) == 0 &&
	       gnutls_x509_privkey_import(ca->key, &key, GNUTLS_X509_FMT_PEM) == 0 &&
	       save(dir, "ca-cert.pem", &cert);
	gnutls_free(cert.data);
	gnutls_free(key.data);
	return good;
}

static bool add_host(gnutls_x509_crt_t cert, const char *host)
{
	struct in_addr loopback = { htonl(INADDR_LOOPBACK) };
	const char *name = host ? host : "localhost";

	if (gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, name,
						 (unsigned)strlen(name), GNUTLS_FSAN_SET) < 0)
		return false;
	return host ||
	       gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, &loopback,
						    sizeof(loopback), GNUTLS_FSAN_APPEND) == 0;
}

static bool make_end(const char *dir, const struct signer *ca, const char *who,
		     const struct certs *certs)
{
	bool server = strcmp(who, "server") == 0;
	bool expired = server ? certs->server_expired : certs->client_expired;
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t cert = NULL;
	char name[32];
	bool good;

	good = new_key(&key) &&
	       new_cert(&cert, key, who, time(NULL) + (expired ? -DAY : 10 * DAY)) &&
	       gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE |
							   GNUTLS_KEY_KEY_ENCIPHERMENT) == 0 &&
	       gnutls_x509_crt_set_key_purpose_oid(cert,
						   server ? GNUTLS_KP_TLS_WWW_SERVER :
							    GNUTLS_KP_TLS_WWW_CLIENT,
						   0) == 0 &&
	       (!server || add_host(cert, certs->host)) && sign(cert, ca);
	snprintf(name, sizeof(name), "%s-cert.pem", who);
	good = good && save_cert(dir, name, cert);
	snprintf(name, sizeof(name), "%s-key.pem", who);
	good = good && save_key(dir, name, key);
	gnutls_x509_crt_deinit(cert);
	gnutls_x509_privkey_deinit(key);
	return good;
}

static bool make_psk(const char *dir)
{
	gnutls_datum_t line;
	unsigned char key[16];
	char text[64] = "qemu:";

	if (gnutls_rnd(GNUTLS_RND_KEY, key, sizeof(key)) < 0)
		return false;
	for (unsigned i = 0; i < sizeof(key); i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%02x", key[i]);
	strcat(text, "\n");
	line = (gnutls_datum_t){ (unsigned char *)text, (unsigned)strlen(text) };
	return save(dir, "keys.psk", &line);
}

bool certs_make(const char *dir, const struct certs *certs)
{
	static const struct certs plain;
	struct signer ca = { 0 };
	bool good;

	if (!certs)
		certs = &plain;
	good = certs->ca_of ? load_ca(certs->ca_of, dir, &ca) : make_ca(dir, &ca);
	good = good && make_end(dir, &ca, "server", certs) && make_end(dir, &ca, "client", certs) &&
	       make_psk(dir);
	gnutls_x509_crt_deinit(ca.cert);
	gnutls_x509_privkey_deinit(ca.key);
	return good;
}
