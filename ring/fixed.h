/* SPDX-License-Identifier: MIT */
#ifndef RING_FIXED_H
#define RING_FIXED_H

#include "ring/loop.h"

/*
 * Memory that the ring knows: its pages are looked up and pinned once, not with each operation.
 * They count against RLIMIT_MEMLOCK (without CAP_IPC_LOCK). All of it is for the thread that steps
 * the loop.
 */
#define FIXED_MAX 1024u

/* Room for so many pieces, 1 to FIXED_MAX. Once. 0, or a negative errno and a sentence */
int loop_fixed_open(struct loop *loop, unsigned count, struct wh_err *err);

/**
 * loop_fixed_set() - A piece of memory is known from here on, or none
 * @slot:	Its number; what it was before is known no more, once no operation needs it
 * @at:		Page-aligned; NULL: none
 *
 * Return: 0, or a negative errno and a sentence; nothing has changed
 */
int loop_fixed_set(struct loop *loop, unsigned slot, void *at, size_t length, struct wh_err *err);

/**
 * loop_write_fixed() - To a stream, from memory that is known as @slot
 *
 * May be short. A broken stream brings -EPIPE, and SIGPIPE to the thread: it has it blocked.
 */
void loop_write_fixed(struct loop *loop, struct op *op, int fd, const void *buf, size_t length,
		      unsigned slot);

#endif /* RING_FIXED_H */
