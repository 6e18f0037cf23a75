/* SPDX-License-Identifier: MIT */
#ifndef RING_TLS_H
#define RING_TLS_H

#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>
#include <wherry/tls.h>

/**
 * struct tls_config - What one end of a migration shows, and whom it takes
 * @server:	It accepts; otherwise it connects
 * @psk:	A shared key of @dir/keys.psk, not certificates
 * @verify:	Take nobody whose certificate is not of the CA in @dir/ca-cert.pem
 * @dir:	QEMU's layout: ca-cert.pem, server-cert.pem, server-key.pem and so on
 * @username:	PSK client: whose line of keys.psk; NULL: qemu
 * @hostname:	Client: whom the certificate has to name; NULL: the host that is dialled
 * @priority:	GnuTLS's words; NULL: TLS_PRIORITY
 * @handshake_ns: A listener's peer that has not shaken hands for so long is dropped
 * @linger_ns:	What is left to be sent when the descriptor is closed may stand still so long
 */
struct tls_config {
	bool server;
	bool psk;
	bool verify;
	const char *dir;
	const char *username;
	const char *hostname;
	const char *priority;
	uint64_t handshake_ns;
	uint64_t linger_ns;
};

/* As QEMU's default, which leaves it to GnuTLS whether there is TLS 1.0: here there is none */
#define TLS_PRIORITY "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"

/**
 * struct tls - Credentials, and the connections that were made with them
 */
struct tls;

/**
 * tls_open() - Read the credentials
 *
 * Nothing of @config is kept.
 *
 * Return: 0 and *@tls, for tls_close(); or a negative errno and a sentence that names the file
 */
int tls_open(struct tls **tls, const struct tls_config *config, struct wh_err *err);

/* The same of what a VMM says. @linger_ns: 0: the usual */
int tls_open_as(struct tls **tls, const struct wh_tls *as, bool server, uint64_t linger_ns,
		struct wh_err *err);

/**
 * tls_close() - End what is left of the connections, and free
 * @tls:	NULL is fine
 * @flush:	Wait until what was written before the descriptors were closed has left;
 *		otherwise it is dropped
 *
 * Every descriptor of tls_wrap() is closed already.
 */
void tls_close(struct tls *tls, bool flush);

/**
 * tls_wrap() - Begin TLS on a connection
 * @fd:		A connected stream socket; taken over, also if this fails
 * @host:	Client: who was dialled, "" if nobody knows
 * @deadline_ns: Of the handshake, on CLOCK_MONOTONIC
 *
 * Any thread; does not block. The descriptor that is returned is a non-blocking stream
 * socket that carries what the peer and the caller say in the clear, and is used and closed
 * as the one that was handed in would have been. One byte comes first, when the handshake
 * has succeeded; if the connection ends before that, tls_why() knows why it has not.
 *
 * Return: the descriptor, or a negative errno and a sentence
 */
int tls_wrap(struct tls *tls, int fd, const char *host, uint64_t deadline_ns, struct wh_err *err);

/* Can a peer be told from another? Client, before it dials: -EINVAL and what is missing */
int tls_check_host(const struct tls *tls, const char *host, struct wh_err *err);

/**
 * tls_why() - What broke a connection whose end was read, or which takes no more
 * @tls:	NULL is fine: nothing is known
 * @fd:		Of tls_wrap()
 *
 * Any thread. -ECONNABORTED is a peer that hung up without saying that it had said
 * everything: a stranger on the way may have cut it there.
 *
 * Return: 0 and @err untouched if the peer has ended it as it should, or it goes on; or a
 * negative errno and a sentence
 */
int tls_why(struct tls *tls, int fd, struct wh_err *err);

#endif /* RING_TLS_H */
