/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_DEST_TRIAL_H
#define POSTCOPY_DEST_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Does a helper make the stream faster? That depends on the memory, on the link, and above all
 * on whether a processor is idle, and it changes. So it is tried: a stretch of the stream with
 * the helper, one without, and once more; then the stream goes on for a while in the way that
 * was faster, and it is tried again. Where both are alike the helper rests, and its processor
 * with it; and where the stream grows slow without the helper it is tried at once.
 *
 * Pure. A trial that was misled, by a pause of the stream for instance, costs speed and nothing
 * else, until the next one.
 */

/* In parts of the stream, each of the same size */
#define TRIAL_STRETCH 12u
#define TRIAL_UNCOUNTED 4u /* of a stretch: what was done before it has its effect still */
/* In stretches */
#define TRIAL_STRETCHES 4u
#define TRIAL_REST 16u /* until it is tried again */

/**
 * struct dest_trial - Zeroed it is a new one
 * @part:	Of the stream, since the trial has begun
 * @counted_ns:	Since then the stretch counts
 * @best_ns:	What a stretch took: without the helper, with it
 * @helps:	It is at work; or it is of use, as has been found
 */
struct dest_trial {
	unsigned part;
	uint64_t counted_ns;
	uint64_t best_ns[2];
	bool helps;
};

/**
 * dest_trial_part() - The stream has come to its next part
 * @now_ns:	Of a clock that does not go back
 *
 * Return: whether the helper is to work while that part comes
 */
bool dest_trial_part(struct dest_trial *trial, uint64_t now_ns);

#endif /* POSTCOPY_DEST_TRIAL_H */
