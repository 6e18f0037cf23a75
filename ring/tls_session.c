/* SPDX-License-Identifier: MIT */
/*
 * Edge: one TLS session, who is at its other end, and what went wrong in a sentence.
 */
#include "ring/tls_session.h"

#include "base/err.h"

#include <errno.h>
#include <gnutls/x509.h>

int tls_session_new(gnutls_session_t *session, const struct tls_creds *creds, struct wh_err *err)
{
	unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL;
	int ret;

	/* Nothing is resumed, so nobody needs a ticket */
	flags |= creds->server ? GNUTLS_SERVER | GNUTLS_NO_TICKETS : GNUTLS_CLIENT;
	ret = gnutls_init(session, flags);
	if (ret < 0)
		return err_set(err, -ENOMEM, "TLS: %s", gnutls_strerror(ret));
	ret = gnutls_priority_set(*session, creds->priority);
	if (ret == 0 && creds->x509)
		ret = gnutls_credentials_set(*session, GNUTLS_CRD_CERTIFICATE, creds->x509);
	if (ret == 0 && creds->psk_client)
		ret = gnutls_credentials_set(*session, GNUTLS_CRD_PSK, creds->psk_client);
	if (ret == 0 && creds->psk_server)
		ret = gnutls_credentials_set(*session, GNUTLS_CRD_PSK, creds->psk_server);
	if (ret < 0) {
		gnutls_deinit(*session);
		return err_set(err, -EINVAL, "TLS: %s", gnutls_strerror(ret));
	}
	if (creds->server && creds->x509 && creds->verify)
		gnutls_certificate_server_set_request(*session, GNUTLS_CERT_REQUEST);
	return 0;
}

static const struct {
	unsigned status;
	const char *text;
} refusals[] = {
	/* The first that applies is told: what is expired is also invalid */
	{ GNUTLS_CERT_REVOKED, "has been revoked" },
	{ GNUTLS_CERT_EXPIRED, "has expired" },
	{ GNUTLS_CERT_NOT_ACTIVATED, "is not valid yet" },
	{ GNUTLS_CERT_SIGNER_NOT_FOUND, "is of another CA than that of ca-cert.pem" },
	{ GNUTLS_CERT_SIGNER_NOT_CA, "is signed by somebody who is no CA" },
	{ GNUTLS_CERT_INSECURE_ALGORITHM, "is signed with an insecure algorithm" },
	{ GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED, "may have been revoked: ca-crl.pem is too old" },
	{ GNUTLS_CERT_SIGNATURE_FAILURE, "is signed by another one of the CA's name" },
	{ ~0u, "is not to be trusted" },
};

static int refuse(const char *whose, unsigned status, struct wh_err *err)
{
	unsigned i = 0;

	while (!(refusals[i].status & status))
		i++;
	return err_set(err, -EACCES, "TLS: the %s's certificate %s", whose, refusals[i].text);
}

static int check_hostname(gnutls_session_t session, const char *host, struct wh_err *err)
{
	const gnutls_datum_t *chain;
	gnutls_x509_crt_t cert;
	unsigned count = 0;
	int ret;

	chain = gnutls_certificate_get_peers(session, &count);
	if (!chain || !count)
		return err_set(err, -EACCES, "TLS: the server has no certificate");
	ret = gnutls_x509_crt_init(&cert);
	if (ret < 0)
		return err_set(err, -ENOMEM, "TLS: %s", gnutls_strerror(ret));
	ret = gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER);
	if (ret < 0)
		ret = err_set(err, -EACCES, "TLS: the server's certificate: %s",
			      gnutls_strerror(ret));
	else if (!gnutls_x509_crt_check_hostname(cert, host))
		ret = err_set(err, -EACCES, "TLS: the server's certificate is not of host '%.200s'",
			      host);
	gnutls_x509_crt_deinit(cert);
	return ret;
}

int tls_session_verify(gnutls_session_t session, const struct tls_creds *creds, const char *host,
		       struct wh_err *err)
{
	const char *whose = creds->server ? "client" : "server";
	unsigned status = 0;
	int ret;

	/* With a shared key he has proved to have it */
	if (creds->psk || !creds->verify)
		return 0;
	ret = gnutls_certificate_verify_peers2(session, &status);
	if (ret == GNUTLS_E_NO_CERTIFICATE_FOUND)
		return err_set(err, -EACCES,
			       "TLS: the %s shows no certificate of the CA in ca-cert.pem", whose);
	if (ret < 0)
		return err_set(err, -EACCES, "TLS: the %s's certificate: %s", whose,
			       gnutls_strerror(ret));
	if (status)
		return refuse(whose, status, err);
	return creds->server ? 0 : check_hostname(session, host, err);
}

int tls_session_failed(gnutls_session_t session, int code, int number, const char *what,
		       struct wh_err *err)
{
	const char *alert;

	switch (code) {
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		if (number)
			return err_sys(err, number, "TLS: %s", what);
		break;
	case GNUTLS_E_PREMATURE_TERMINATION:
		return err_set(err, -ECONNABORTED,
			       "TLS: %s: the peer hung up without saying that it was the end",
			       what);
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
	case GNUTLS_E_WARNING_ALERT_RECEIVED:
		alert = gnutls_alert_get_name(gnutls_alert_get(session));
		return err_set(err, -EPROTO, "TLS: %s: the peer refuses: %s", what,
			       alert ? alert : "an unknown alert");
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
		return err_set(err, -EPROTO,
			       "TLS: %s: the peer has no version of it that is allowed here", what);
	default:
		break;
	}
	return err_set(err, -EPROTO, "TLS: %s: %s", what, gnutls_strerror(code));
}
