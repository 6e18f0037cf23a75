/* SPDX-License-Identifier: MIT */
#ifndef RING_OP_H
#define RING_OP_H

#include "ring/loop.h"

#include <liburing.h>

/* The user headers of older distributions lack it */
#ifndef IORING_POLL_ADD_MULTI
#define IORING_POLL_ADD_MULTI (1U << 0)
#endif

/*
 * What loop.c and op.c share. An operation is in exactly one list, that of the busy
 * ones, from the moment it is asked for until done() is called. Its address is the
 * user_data of its submission; what loop.c submits for itself has &loop->wake, and a
 * cancellation 0.
 */
struct loop {
	struct io_uring ring;
	struct op busy; /* head of the list */
	struct op wake;
	struct loop_caps caps;
	unsigned refused;     /* busy operations that could not be queued */
	unsigned cancels_due; /* busy operations whose cancellation could not */
	unsigned agains;      /* busy operations that are done() once more */
	int wake_fd;
	int event_fd; /* atomic: signalled by the ring; -1 as long as nobody asked loop_fd() */
	int poll_fd;  /* what loop_fd() gives */
	int woken;    /* atomic: loop_wake() has written, and this was not seen yet */
	bool wake_seen;
	bool resting; /* the caller may sleep on loop_fd(): nothing was queued since */
	bool enabled;
	bool closing;
};

/**
 * loop_sqe() - A free submission entry
 * @why:	Filled in with a negative errno if there is none; may be NULL
 */
struct io_uring_sqe *loop_sqe(struct loop *loop, int *why);

/* @op is under way. NULL: it waits in the list for loop_step(), which says why it was refused */
struct io_uring_sqe *op_begin(struct loop *loop, struct op *op);

/* Something is queued that the caller, who may sleep on loop_fd(), does not know of */
void loop_rouse(struct loop *loop);

/* Done: out of the list, and told. Last touch of @op, which done() may have freed */
void op_end(struct op *op, int result);

/* A watch, which goes on, is told of @events */
void op_tell(struct op *op, int events);

/* Queues a cancellation of @op, an operation or &loop->wake; false: there is no room */
bool op_cancel(struct loop *loop, void *op);

#endif /* RING_OP_H */
