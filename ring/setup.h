/* SPDX-License-Identifier: MIT */
#ifndef RING_SETUP_H
#define RING_SETUP_H

#include "ring/loop.h"

#include <liburing.h>

/**
 * setup_ring() - Make a disabled io_uring with the best mode the kernel has
 * @ring:	Filled in; for io_uring_queue_exit()
 * @entries:	Of the submission queue
 * @defer:	DEFER_TASKRUN if the kernel has it
 * @caps:	What it has got
 *
 * Return: 0, or a negative errno with the sentence that loop_open() promises
 */
int setup_ring(struct io_uring *ring, unsigned entries, bool defer, struct loop_caps *caps,
	       struct wh_err *err);

/* Is io_uring switched off for this machine or process (kernel.io_uring_disabled)? */
bool setup_disabled(void);

#endif /* RING_SETUP_H */
