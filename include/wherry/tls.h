/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_TLS_H
#define WHERRY_TLS_H

#include <stdbool.h>
#include <wherry/err.h>

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

enum wh_tls_kind {
	WH_TLS_X509, /* certificates; QEMU's tls-creds-x509 */
	WH_TLS_PSK,  /* a shared key; QEMU's tls-creds-psk */
};

/**
 * struct wh_tls - TLS for every connection of a migration, as QEMU has it
 * @kind:	Of credentials
 * @unverified:	Certificates: take whoever comes (QEMU's verify-peer=no)
 * @dir:	Folder of the files, named as QEMU wants them. Certificates: ca-cert.pem;
 *		server-cert.pem and server-key.pem (destination); client-cert.pem and
 *		client-key.pem (source, which may go without where the destination takes that);
 *		ca-crl.pem if there is one. Shared key: keys.psk
 * @username:	Shared key, source: whose line of keys.psk. NULL: qemu
 * @hostname:	Certificates, source: what the destination's has to name. NULL: the host in
 *		the URI. Where that has none (unix:, fd:, vsock:) it has to be given
 * @priority:	GnuTLS's priority string. NULL: its default, without what is older than TLS 1.2
 */
struct wh_tls {
	enum wh_tls_kind kind;
	bool unverified;
	const char *dir;
	const char *username;
	const char *hostname;
	const char *priority;
};

/**
 * wh_tls_parse() - Of a text, for an option of a program
 * @text:	[x509,|psk,]dir=DIR[,verify-peer=yes|no][,username=NAME][,hostname=NAME]
 *		[,priority=TEXT]; tls-creds-x509 and tls-creds-psk are x509 and psk
 *
 * Looks at no file; wh_new() does.
 *
 * Return: 0 and *@tls, one piece of memory for free(); or a negative errno and a sentence
 */
int wh_tls_parse(struct wh_tls **tls, const char *text, struct wh_err *err);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_TLS_H */
