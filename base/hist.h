/* SPDX-License-Identifier: MIT */
#ifndef BASE_HIST_H
#define BASE_HIST_H

#include <stdint.h>

/*
 * Histogram of durations, 16 buckets to the octave: a quantile is within 6.25 %
 * of the truth. Fixed size, no allocation; hist_add() is atomic and may be
 * called from any thread while another reads.
 */
#define HIST_BUCKETS (61 * 16)

struct hist {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint32_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *hist, uint64_t value_ns);

/* How many values are below 2^@bits, and not below half of that */
uint64_t hist_octave(const struct hist *hist, unsigned bits);

/* Upper edge of the bucket holding the permille-th value, at most max_ns; 0 if empty */
uint64_t hist_quantile(const struct hist *hist, unsigned permille);

#endif /* BASE_HIST_H */
