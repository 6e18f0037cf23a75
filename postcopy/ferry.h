/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_FERRY_H
#define POSTCOPY_FERRY_H

/*
 * RDMA at the source: for run_ferry.c, what it carries, run_ferry_back.c, what comes back, and
 * run_ferry_dial.c, connecting and the end
 */
#include "postcopy/run_source.h"
#include "rdma/link.h"
#include "rdma/memory.h"
#include "rdma/vread.h"
#include "rdma/vsource.h"

#define GOODBYE_NS (10 * NS_PER_S) /* he loads what he has; if dead_peer_ns says nothing */

struct ferry {
	struct wh_migration *m;
	struct uri uri;
	struct address address[ADDRESSES_MAX];
	unsigned addresses, next;
	uint64_t deadline_ns;  /* of connecting, of all of them */
	uint64_t attempt_ns;   /* and of this one */
	struct wh_err failure; /* of this one: the next follows when nothing watches it any more */

	struct op event, receive, send, timer;
	struct vlink link;
	struct vmem memory;
	struct vsource engine;
	struct vsource_chunk *chunk; /* of all blocks */
	uint64_t chunks;
	uint64_t bytes; /* of all blocks */
	bool begun;	/* all that it needs is connected */

	bool batch; /* one is under way */
	unsigned iov;
	size_t iov_at;
	uint64_t delivered_ns; /* the last one of all is with the peer, who is to hang up; 0: not yet */
	uint64_t told_bytes, told_zeros; /* of the engine's counters, to the source's */

	bool waiting; /* for the peer, since since_ns or since he was last heard of */
	uint64_t since_ns;
	uint64_t probed_ns; /* when something was last sent only to see whether he is there */
	uint64_t broken_ns; /* nothing goes on it any more, and nobody has said why */
	bool gone;	    /* the peer has disconnected */
	bool lost;	    /* and that was told, or another end */
	bool closing;

	/* the return path */
	bool has_back;
	struct vlink back;
	struct op back_event, back_receive, back_send, room;
	int reply_fd; /* the request loop reads the other end of it */
	const uint8_t *left;
	size_t left_bytes;
	bool owes_ready; /* the peer may say more, and has not been told */
	bool hung;	 /* nothing more comes: what has come is passed on yet */

	/* where the destination reads pages, if that is agreed */
	struct vlink read;
	struct op read_event, read_receive, read_send;
	struct vmem lent;
	struct vlend lend;
	bool read_over; /* nothing more is read */

	bool closed;	   /* and nothing of it is left */
	uint64_t flush_ns; /* until then the peer may hear of the end */
};

/* run_ferry_dial.c */
void ferry_watch(struct ferry *ferry, struct op *op, int fd, short events);
/* Not up yet: what has come of that */
void ferry_dial_turn(struct ferry *ferry);
/* It is up: what is agreed. Return: 0, or a negative errno and a sentence */
int ferry_begin(struct ferry *ferry, struct wh_err *err);

/* run_ferry_back.c */
int ferry_back_begin(struct ferry *ferry, struct wh_err *err);
/*
 * Behind a turn of the main connection that returned @ret: 0, or -ENOTCONN, it has ended. Return: 0,
 * or a negative errno and a sentence: it is lost
 */
int ferry_back_turn(struct ferry *ferry, int ret, struct wh_err *err);

/* run_ferry_read.c */
/* Is the destination to be offered that? */
bool ferry_read_offered(const struct ferry *ferry);
int ferry_read_begin(struct ferry *ferry, struct wh_err *err);
/* Return: 0, or -EPROTO and a sentence: the peer is no destination. What is only lost is no error */
int ferry_read_turn(struct ferry *ferry, struct wh_err *err);
/* Nothing watches it any more */
void ferry_read_end(struct ferry *ferry);

#endif /* POSTCOPY_FERRY_H */
