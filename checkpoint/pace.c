/* SPDX-License-Identifier: MIT */
#include "checkpoint/pace.h"

/* Nobody waits longer for a checkpoint; keeps products of two of these within 64 bits */
#define LONGEST_NS UINT64_C(1000000000000)

static uint64_t at_most(uint64_t value, uint64_t max)
{
	return value < max ? value : max;
}

void cp_pace_init(struct cp_pace *pace, const struct cp_pace_settings *want)
{
	pace->want = *want;
	pace->want.max_ns = at_most(want->max_ns ? want->max_ns : 1, LONGEST_NS);
	pace->want.min_ns = at_most(want->min_ns ? want->min_ns : 1, pace->want.max_ns);
	pace->want.duty_percent = want->duty_percent > 99 ? 99 :
				  want->duty_percent	  ? want->duty_percent :
							    1;
	pace->interval_ns = pace->want.min_ns;
}

uint64_t cp_pace_next(struct cp_pace *pace, uint64_t stop_ns, uint64_t ack_ns)
{
	const struct cp_pace_settings *want = &pace->want;
	uint64_t now = pace->interval_ns, next, least;
	uint64_t stop = at_most(stop_ns, LONGEST_NS), ack = at_most(ack_ns, LONGEST_NS);
	/* In thousandths; how much longer or shorter the budgets would have it */
	uint64_t scale = stop ? at_most(want->stop_ns, LONGEST_NS) * 1000 / stop : 2000;
	uint64_t held = at_most(want->hold_ns, LONGEST_NS) * 1000 / (now + ack);

	if (held < scale)
		scale = held;
	/* no more than twice at once, and half of the way: one odd checkpoint is no trend */
	scale = at_most(scale, 2000);
	next = (now + now / 1000 * scale + now % 1000 * scale / 1000) / 2;
	/* the part of the time for which it stands still is not to be bargained with */
	least = stop * 100 / want->duty_percent;
	if (next < least)
		next = least;
	if (next < want->min_ns)
		next = want->min_ns;
	pace->interval_ns = at_most(next, want->max_ns);
	return pace->interval_ns;
}
