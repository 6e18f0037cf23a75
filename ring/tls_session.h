/* SPDX-License-Identifier: MIT */
#ifndef RING_TLS_SESSION_H
#define RING_TLS_SESSION_H

#include "ring/tls.h"

#include <gnutls/gnutls.h>

/* Of tls_creds.c; read by every session, written by none */
struct tls_creds {
	bool server;
	bool psk;
	bool verify;
	char hostname[256];
	gnutls_priority_t priority;
	gnutls_certificate_credentials_t x509;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_psk_server_credentials_t psk_server;
};

/* 0, or a negative errno and a sentence that names the file; free() in any case */
int tls_creds_load(struct tls_creds *creds, const struct tls_config *config, struct wh_err *err);
void tls_creds_free(struct tls_creds *creds);

/* The transport is the caller's to set. 0, or a negative errno and a sentence */
int tls_session_new(gnutls_session_t *session, const struct tls_creds *creds, struct wh_err *err);
/* Hands are shaken: is it he? @host may be "" */
int tls_session_verify(gnutls_session_t session, const struct tls_creds *creds, const char *host,
		       struct wh_err *err);

/**
 * tls_session_failed() - A sentence of GnuTLS's number
 * @code:	Of GnuTLS, fatal
 * @number:	errno of the socket, if that was it, or 0
 * @what:	Was being done
 */
int tls_session_failed(gnutls_session_t session, int code, int number, const char *what,
		       struct wh_err *err);

#endif /* RING_TLS_SESSION_H */
