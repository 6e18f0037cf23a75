/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_BRIDGE_H
#define POSTCOPY_BRIDGE_H

/* RDMA at the destination: for run_bridge.c, the bulk loop's side, and run_bridge_thread.c */
#include "postcopy/run.h"
#include "rdma/link.h"
#include "rdma/memory.h"
#include "rdma/vdest.h"

/* What of the message that has come is to be done yet */
enum bridge_step {
	STEP_NONE,   /* none has come */
	STEP_TAKE,   /* all of it: an answer has no room, or the stream is not read so far */
	STEP_STREAM, /* bytes of the stream */
	STEP_READY,  /* say so */
};

struct bridge {
	struct wh_migration *m;
	/* the bulk loop's */
	struct vcm cm[LISTENERS_MAX];
	struct bridge_request {
		struct op op;
		struct bridge *bridge;
	} request[LISTENERS_MAX];
	unsigned listeners;
	bool refusing; /* it listens no longer */
	bool running;  /* there is a thread */
	pthread_t thread;
	bool ended; /* atomic: the thread touches nothing any more */

	pthread_mutex_t lock; /* what the bulk loop has for the thread */
	uint64_t hooks;
	bool stop;

	/* the thread's */
	struct loop *loop;
	struct op event, receive, send, reader, room, timer, probe;
	struct vlink link;
	struct vmem memory;
	struct vdest engine;
	int fd;
	enum bridge_step step;
	const uint8_t *message;
	size_t message_bytes;
	const uint8_t *left;
	size_t left_bytes;
	uint64_t since_ns;  /* it is waited for the connection, or for the stream's reader */
	uint64_t heard_ns;  /* a message came, or it was asked whether the peer is there */
	uint64_t broken_ns; /* nothing goes on it any more, and nobody has said why */
	bool gone;	    /* the peer has disconnected */
	bool over;
	struct wh_err err;
};

/* Before the thread begins: the engine, and a connection that was accepted */
void bridge_thread_init(struct bridge *bridge, bool pin_all, int fd);
void *bridge_thread(void *arg);

#endif /* POSTCOPY_BRIDGE_H */
