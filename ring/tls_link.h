/* SPDX-License-Identifier: MIT */
#ifndef RING_TLS_LINK_H
#define RING_TLS_LINK_H

#include "ring/tls_session.h"

#include <pthread.h>
#include <stddef.h>

/* Several records: one system call is for all of them */
#define TLS_BUFFER (256u << 10)

struct tls_buffer {
	size_t begin;
	size_t end;
	uint8_t bytes[TLS_BUFFER];
};

/**
 * struct tls_link - One connection, and the thread that has it
 *
 * All of it is the thread's, but for what tls.c says.
 */
struct tls_link {
	struct tls *tls;
	struct tls_link *next; /* @tls->lock */
	pthread_t thread;      /* ... */
	bool over;	       /* ... : the thread is about to end */
	uint64_t cookie;       /* of the caller's descriptor, for tls_why() */

	gnutls_session_t session;
	const struct tls_creds *creds;
	char host[256];
	uint64_t deadline_ns;
	uint64_t linger_ns;
	int fd;	    /* of the network */
	int pair;   /* in the clear; the other end is the caller's */
	int stop;   /* an eventfd: end at once. tls.c's */
	int number; /* errno of what the session asked of the socket */
	bool known; /* @first is filled in */
	uint8_t first[4];

	bool shaken;
	bool left;	   /* the caller has closed his end */
	bool said_all;	   /* ... or writes nothing more */
	bool bye;	   /* and the peer has been told */
	bool ended;	   /* all of it has been sent, and the socket's half is closed */
	bool heard_all;	   /* from the peer nothing more comes */
	bool eof_given;	   /* and the caller sees it */
	struct wh_err why; /* what broke it */

	struct tls_buffer in;	     /* records */
	struct tls_buffer out;	     /* ... */
	struct tls_buffer plain_in;  /* to the caller */
	struct tls_buffer plain_out; /* from him */
};

/* tls_link.c. From the handshake to the end, on the link's thread; @link->why says how it was */
void tls_link_run(struct tls_link *link);

#endif /* RING_TLS_LINK_H */
