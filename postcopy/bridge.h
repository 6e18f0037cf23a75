/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_BRIDGE_H
#define POSTCOPY_BRIDGE_H

/*
 * RDMA at the destination: for run_bridge.c, the bulk loop's side, run_bridge_thread.c, and
 * run_bridge_back.c, the thread's way back
 */
#include "postcopy/run_dest.h"
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
	pthread_mutex_t lock;
	pthread_cond_t cond; /* for the bulk loop */

	/* from here on: of one connection */
	bool running; /* there is a thread */
	struct sockaddr_storage peer;
	struct control_ticket ticket; /* of those that follow it; zeros: they have none */
	bool has_back;		      /* the second connection was accepted */
	bool may_read;	/* it was agreed that there is a third, which pages are read on */
	bool has_reads; /* and that was accepted */
	pthread_t thread;
	bool ended; /* atomic: the thread touches nothing any more */

	/* @lock: what the bulk loop has for the thread */
	uint64_t hooks;
	bool stop;
	bool fence; /* memory is not to be written to any more */
	bool back_given;
	bool fenced; /* nor is it */

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
	bool closed;	    /* memory is given up */
	uint64_t since_ns;  /* it is waited for the connection, or for the stream's reader */
	uint64_t heard_ns;  /* a message came, or it was asked whether the peer is there */
	uint64_t broken_ns; /* nothing goes on it any more, and nobody has said why */
	bool gone;	    /* the peer has disconnected */
	bool over;
	struct wh_err err;

	/* the way back: the bulk loop's until it is given to the thread, and when that has ended */
	struct vlink back;
	struct op answer, back_event, back_receive, back_send, patience;
	bool back_open;
	bool credit;	  /* the source has room for a message */
	uint64_t mute_ns; /* there is something to say, and no way to */
};

/* Before the thread begins: the engine, and a connection that was accepted; @flags: what was agreed */
void bridge_thread_init(struct bridge *bridge, uint32_t flags, int fd);
void *bridge_thread(void *arg);
void bridge_watch(struct bridge *bridge, struct op *op, int fd, short events);

/* run_bridge_back.c, on the thread */
void bridge_back_init(struct bridge *bridge, void (*polled)(struct op *op, int result));
/* What is to be said is, as far as there is room. Return: 0, or a negative errno and a sentence */
int bridge_back_turn(struct bridge *bridge, struct wh_err *err);
/* The end: the last that was to be said leaves, if it can */
void bridge_back_flush(struct bridge *bridge);

#endif /* POSTCOPY_BRIDGE_H */
