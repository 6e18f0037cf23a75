/* SPDX-License-Identifier: MIT */
#include "postcopy/dest_trial.h"

/* By less than a thirty-second it is not worth a processor */
#define WORTH 32u
/* Without the helper a stretch may take so many times what the better one took */
#define SLOW 2u

/* With the helper first: at the beginning nothing is known, and cold memory gains most */
static bool with_helper(unsigned stretch)
{
	return stretch % 2 == 0;
}

/* Of two stretches the better one: what slows a stream down is mostly something else */
static void compare(struct dest_trial *trial, unsigned stretch, uint64_t ns)
{
	uint64_t *best = &trial->best_ns[with_helper(stretch)];

	if (!*best || ns < *best)
		*best = ns;
	trial->helps =
		stretch + 1 < TRIAL_STRETCHES ?
			with_helper(stretch + 1) :
			trial->best_ns[true] + trial->best_ns[true] / WORTH < trial->best_ns[false];
}

/* Memory that is cold begins somewhere, and is several times dearer then */
static bool grown_slow(const struct dest_trial *trial, uint64_t ns)
{
	return !trial->helps && ns / SLOW > trial->best_ns[false];
}

bool dest_trial_part(struct dest_trial *trial, uint64_t now_ns)
{
	unsigned stretch = trial->part / TRIAL_STRETCH;
	unsigned within = trial->part % TRIAL_STRETCH;

	if (trial->part && !within) {
		uint64_t ns = now_ns - trial->counted_ns;

		if (stretch <= TRIAL_STRETCHES)
			compare(trial, stretch - 1, ns);
		else if (stretch == TRIAL_STRETCHES + TRIAL_REST || grown_slow(trial, ns))
			*trial = (struct dest_trial){ 0 };
	}
	if (!trial->part)
		trial->helps = with_helper(0);
	if (within == TRIAL_UNCOUNTED)
		trial->counted_ns = now_ns;
	trial->part++;
	return trial->helps;
}
