/* SPDX-License-Identifier: MIT */
#ifndef RING_SOCKET_H
#define RING_SOCKET_H

#include "ring/address.h"
#include "ring/loop.h"
#include "ring/tls.h"
#include "ring/uri.h"

/**
 * struct socket_tuning - What a link's socket is set to
 * @dead_peer_ns: A peer that acknowledges nothing for so long is gone (TCP
 *		keep-alive and TCP_USER_TIMEOUT; whole seconds where the link is idle),
 *		and so is one that takes nothing for so long while there is something to
 *		send; 0 leaves the kernel's default
 * @send_buffer: SO_SNDBUF in bytes; 0 leaves the kernel's. A bulk channel beside
 *		an urgent one wants it small: what lies in it delays the other
 * @tls:	What dials and listeners give away has shaken hands, and carries what is said
 *		in the clear (ring/tls.h). NULL: no TLS
 * @shake_ns:	Listener: a peer has so long for that. A dial's time is for both
 */
struct socket_tuning {
	uint64_t dead_peer_ns;
	int send_buffer;
	struct tls *tls;
	uint64_t shake_ns;
};

/* TCP_NODELAY always. Works on any stream socket; what does not apply is left out. */
int socket_tune(int fd, const struct socket_tuning *tuning, struct wh_err *err);

#define ADDRESSES_MAX 16

/**
 * struct dial - One connecting, over all addresses a name has
 * @done:	Called once, from loop_step(): a connected, tuned, non-blocking
 *		socket that now belongs to the caller, or a negative errno and a sentence
 *
 * The caller's storage; zeroed before dial_start().
 */
struct dial {
	void (*done)(struct dial *dial, int fd, struct wh_err *err);
	/* private: */
	struct loop *loop;
	struct op connect;
	struct op timeout;
	struct uri uri;
	struct socket_tuning tuning;
	struct address address[ADDRESSES_MAX];
	unsigned addresses;
	unsigned next;
	uint64_t deadline_ns;
	int fd;
	int result;
	bool expired;
	bool cancelled;
	bool shaking; /* connected, and the handshake is under way */
	uint8_t shaken;
	struct wh_err err;
};

/**
 * dial_start() - Begin to connect
 * @timeout_ns:	For all addresses together; each has an equal share of what is left
 * @tuning:	Copied; NULL leaves the kernel's defaults
 *
 * Names are resolved here, by getaddrinfo(), which may block on the resolver;
 * nothing else does. fd: URIs are done() at the next loop_step() as well, and their
 * descriptor is taken over if 0 is returned.
 *
 * Return: 0, done() will be called; or a negative errno and a sentence, it will not
 */
int dial_start(struct dial *dial, struct loop *loop, const struct uri *uri, uint64_t timeout_ns,
	       const struct socket_tuning *tuning, struct wh_err *err);
/* No-op if not busy; done() still comes, from loop_step(), with -ECANCELED */
void dial_cancel(struct dial *dial);
bool dial_busy(const struct dial *dial);

#define LISTENERS_MAX 4
#define GREETINGS_MAX (16 + LISTENERS_MAX)

/**
 * struct listener - Sockets that accept, one or more for a name's addresses
 * @accepted:	From loop_step(): a tuned, non-blocking socket, now the caller's
 * @refused:	From loop_step(): a handshake has failed; that connection is closed. May be NULL
 *
 * The caller's storage; zeroed before listener_open().
 */
struct listener {
	void (*accepted)(struct listener *listener, int fd);
	void (*refused)(struct listener *listener, const struct wh_err *why);
	/* private: */
	struct loop *loop;
	struct uri uri;
	struct socket_tuning tuning;
	unsigned count;
	struct listener_socket {
		struct op op;
		struct listener *listener;
		int fd;
		bool full; /* it accepts again when a handshake is over */
	} socket[LISTENERS_MAX];
	struct listener_greeting {
		struct op op;
		struct listener *listener;
		int fd;
		uint8_t shaken;
	} greeting[GREETINGS_MAX]; /* with TLS: connections that shake hands */
	uint64_t file_device;	   /* of the unix socket's file */
	uint64_t file_inode;
	bool file_ours;
	bool closing;
};

/*
 * unix: an abandoned socket file of nobody who listens is replaced, one in use is
 * -EADDRINUSE. A passing accept() error (EMFILE, ECONNABORTED) does not end it.
 * fd: a connected socket is accepted() as it is, once; it is taken over if 0 is returned.
 */
int listener_open(struct listener *listener, struct loop *loop, const struct uri *uri,
		  const struct socket_tuning *tuning, struct wh_err *err);
/* Where it really listens (port 0 resolved) as a URI; room for URI_TEXT */
void listener_uri(const struct listener *listener, char *text, size_t room);
/* Nobody has connected who is not accepted yet */
bool listener_quiet(const struct listener *listener);
/* Stops accepting; busy until its accepts have come back. Also after loop_close() */
void listener_close(struct listener *listener);
bool listener_busy(const struct listener *listener);

#endif /* RING_SOCKET_H */
