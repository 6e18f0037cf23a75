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
	pace->interval_ns = pace->idle_ns = pace->want.min_ns;
}

/* No more than twice at once, and half of the way: one odd checkpoint is no trend */
static uint64_t scaled(uint64_t now, uint64_t thousandths)
{
	thousandths = at_most(thousandths, 2000);
	return (now + now / 1000 * thousandths + now % 1000 * thousandths / 1000) / 2;
}

static uint64_t within(const struct cp_pace_settings *want, uint64_t interval, uint64_t least)
{
	if (interval < least)
		interval = least;
	if (interval < want->min_ns)
		interval = want->min_ns;
	return at_most(interval, want->max_ns);
}

uint64_t cp_pace_next(struct cp_pace *pace, uint64_t ran_ns, uint64_t stop_ns, uint64_t ack_ns)
{
	const struct cp_pace_settings *want = &pace->want;
	uint64_t stop = at_most(stop_ns, LONGEST_NS), ack = at_most(ack_ns, LONGEST_NS);
	/* In thousandths; how much longer or shorter the budgets would have it */
	uint64_t by_stop = stop ? at_most(want->stop_ns, LONGEST_NS) * 1000 / stop : 2000;
	uint64_t by_hold = at_most(want->hold_ns, LONGEST_NS) * 1000 / (pace->interval_ns + ack);
	/* the part of the time for which it stands still is not to be bargained with */
	uint64_t least = stop * 100 / want->duty_percent, ran = at_most(ran_ns, LONGEST_NS);
	uint64_t both = by_hold < by_stop ? by_hold : by_stop;
	/* a stop after less time is shorter, or the next one tells */
	uint64_t part = ran > pace->interval_ns ? pace->interval_ns * 1000 / ran : 1000;

	pace->interval_ns = within(want, scaled(pace->interval_ns, both), least / 1000 * part);
	pace->idle_ns = within(want, scaled(ran, by_stop), least);
	if (pace->idle_ns < pace->interval_ns)
		pace->idle_ns = pace->interval_ns;
	return pace->interval_ns;
}
