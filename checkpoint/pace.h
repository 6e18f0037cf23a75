/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_PACE_H
#define CHECKPOINT_PACE_H

#include <stdint.h>

/*
 * When the next checkpoint is due: from how long the last ones stopped the guest and took to
 * be acknowledged. Pure arithmetic; the time is from one stop to the next, so that a packet
 * which is sent behind the first of them waits for that and the answer. Where nothing is sent
 * nobody waits, and it is the stop alone that counts: step by step, since a longer time makes a
 * longer stop.
 */

struct cp_pace_settings {
	uint64_t min_ns, max_ns; /* both over 0; equal: always that */
	uint64_t stop_ns;	 /* the guest may stand still that long, */
	unsigned duty_percent;	 /* and that part of the time */
	uint64_t hold_ns;	 /* output may wait that long for its checkpoint */
};

struct cp_pace {
	struct cp_pace_settings want;
	uint64_t interval_ns;
	uint64_t idle_ns; /* the same, where no output waits: not shorter */
};

/* What is out of bounds is taken as the nearest that is not. */
void cp_pace_init(struct cp_pace *pace, const struct cp_pace_settings *want);

/* After a checkpoint whose stop came @ran_ns after the last one's, took @stop_ns, and was
 * acknowledged @ack_ns after the guest went on. Return: the next interval */
uint64_t cp_pace_next(struct cp_pace *pace, uint64_t ran_ns, uint64_t stop_ns, uint64_t ack_ns);

#endif /* CHECKPOINT_PACE_H */
