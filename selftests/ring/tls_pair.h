/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_RING_TLS_PAIR_H
#define SELFTESTS_RING_TLS_PAIR_H

/*
 * For tests of TLS: folders of credentials, both ends of a connection, and an end that is
 * GnuTLS alone and does what it is told.
 */
#include "ring/tls.h"

#include "selftests/lib/certs.h"
#include "selftests/ring/net.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>

#define WAIT_MS 10000

/* A folder below @top */
static inline const char *creds_folder(const char *top, const char *name, const struct certs *certs)
{
	static char paths[16][96];
	static unsigned next;
	char *path = paths[next++ % 16];

	snprintf(path, sizeof(paths[0]), "%s/%s", top, name);
	if (mkdir(path, 0700) < 0 || !certs_make(path, certs))
		return NULL;
	return path;
}

static inline struct tls *tls_of(const char *dir, bool server, bool psk)
{
	const struct tls_config config = {
		.server = server,
		.psk = psk,
		.verify = true,
		.dir = dir,
		.handshake_ns = LIMIT_NS,
	};
	struct wh_err err = { 0 };
	struct tls *tls;

	if (tls_open(&tls, &config, &err) < 0)
		fprintf(stderr, "# %s\n", err.text);
	return tls;
}

/* A TCP connection over the loopback; both ends do not block */
static inline bool tcp_pair(int fds[2])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool good;

	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	good = bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0 &&
	       listen(listener, 1) == 0 &&
	       getsockname(listener, (struct sockaddr *)&at, &length) == 0 &&
	       connect(fds[0], (struct sockaddr *)&at, sizeof(at)) == 0;
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	close(listener);
	return good && fds[1] >= 0 && fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0;
}

static inline uint64_t soon(void)
{
	return clock_now_ns() + LIMIT_NS;
}

/* Up to @length bytes, fewer at the end of the stream; or a negative errno */
static inline ssize_t take(int fd, void *buf, size_t length)
{
	size_t have = 0;

	while (have < length) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (poll(&ready, 1, WAIT_MS) <= 0)
			return -ETIMEDOUT;
		n = recv(fd, (char *)buf + have, length - have, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static inline bool give(int fd, const void *buf, size_t length)
{
	size_t sent = 0;

	while (sent < length) {
		struct pollfd ready = { .fd = fd, .events = POLLOUT };
		ssize_t n;

		if (poll(&ready, 1, WAIT_MS) <= 0)
			return false;
		n = send(fd, (const char *)buf + sent, length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			return false;
		sent += n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* The handshake's end: 0, or why there is none */
static inline int shaken(struct tls *tls, int fd, struct wh_err *err)
{
	uint8_t byte;
	ssize_t n = take(fd, &byte, 1);

	if (n == 1)
		return 0;
	if (n == 0 && tls_why(tls, fd, err) < 0)
		return err->code;
	err->code = n < 0 ? (int)n : -ENODATA;
	snprintf(err->text, sizeof(err->text), "no reason was given (%zd)", n);
	return err->code;
}

/* ---- An end that is GnuTLS alone, on a thread of its own ---- */

enum raw_deed {
	RAW_WAITS, /* until the other end closes */
	RAW_SAYS_BYE,
	RAW_CUTS,   /* "some", and closes the socket without a word */
	RAW_RESETS, /* the same, with a reset */
};

struct raw {
	int fd;
	bool server;
	const char *dir;      /* NULL: shows nothing */
	const char *priority; /* NULL: GnuTLS's default */
	enum raw_deed deed;
	int code; /* of the handshake */
	pthread_t thread;
};

static inline void raw_does(const struct raw *raw, gnutls_session_t session)
{
	const struct linger at_once = { .l_onoff = 1 };
	char buf[4096];

	if (raw->deed != RAW_WAITS)
		(void)gnutls_record_send(session, "some", 4);
	if (raw->deed == RAW_SAYS_BYE)
		(void)gnutls_bye(session, GNUTLS_SHUT_WR);
	if (raw->deed == RAW_RESETS) {
		/* what is behind it in the queue is dropped by a reset: first let it be read */
		usleep(100000);
		setsockopt(raw->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	}
	if (raw->deed == RAW_WAITS || raw->deed == RAW_SAYS_BYE)
		while (gnutls_record_recv(session, buf, sizeof(buf)) > 0)
			;
}

static inline void *raw_main(void *arg)
{
	/* nobody waits for ever for an end that does not come */
	const struct timeval limit = { .tv_sec = WAIT_MS / 1000 };
	const char *priority = ((struct raw *)arg)->priority;
	gnutls_certificate_credentials_t creds;
	gnutls_session_t session;
	struct raw *raw = arg;
	char cert[256], key[256];

	gnutls_certificate_allocate_credentials(&creds);
	if (raw->dir) {
		const char *who = raw->server ? "server" : "client";

		snprintf(cert, sizeof(cert), "%s/%s-cert.pem", raw->dir, who);
		snprintf(key, sizeof(key), "%s/%s-key.pem", raw->dir, who);
		gnutls_certificate_set_x509_key_file(creds, cert, key, GNUTLS_X509_FMT_PEM);
	}
	gnutls_init(&session, (raw->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_SIGNAL |
				      GNUTLS_FORCE_CLIENT_CERT);
	gnutls_priority_set_direct(session, priority ? priority : "NORMAL", NULL);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, creds);
	fcntl(raw->fd, F_SETFL, 0);
	setsockopt(raw->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	gnutls_transport_set_int(session, raw->fd);
	do {
		raw->code = gnutls_handshake(session);
	} while (raw->code < 0 && !gnutls_error_is_fatal(raw->code));
	if (raw->code == 0)
		raw_does(raw, session);
	close(raw->fd);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(creds);
	return NULL;
}

static inline bool raw_start(struct raw *raw)
{
	return pthread_create(&raw->thread, NULL, raw_main, raw) == 0;
}

static inline void raw_end(struct raw *raw)
{
	pthread_join(raw->thread, NULL);
}

#endif /* SELFTESTS_RING_TLS_PAIR_H */
