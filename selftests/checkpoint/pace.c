/* SPDX-License-Identifier: GPL-2.0 */
#include "checkpoint/pace.h"

#include "kselftest_harness.h"

#define MS UINT64_C(1000000)

static const struct cp_pace_settings usual = {
	.min_ns = 5 * MS,
	.max_ns = 1000 * MS,
	.stop_ns = 5 * MS,
	.duty_percent = 5,
	.hold_ns = 50 * MS,
};

static uint64_t settles_at(const struct cp_pace_settings *want, uint64_t stop_ns, uint64_t ack_ns)
{
	struct cp_pace pace;

	cp_pace_init(&pace, want);
	for (unsigned i = 0; i < 100; i++)
		cp_pace_next(&pace, pace.interval_ns, stop_ns, ack_ns);
	return pace.interval_ns;
}

/* Output waits for the stop at the end of its epoch, and the answer: about 50 ms in all */
TEST(as_often_as_output_may_wait)
{
	uint64_t interval = settles_at(&usual, 1 * MS, 4 * MS);

	EXPECT_LE(interval, 46 * MS);
	EXPECT_GT(interval, 40 * MS);
	/* an answer that takes longer leaves less of it */
	EXPECT_LT(settles_at(&usual, MS / 2, 30 * MS), 25 * MS);
}

/* It stands still for 5 % of the time at most, whatever output would like */
TEST(the_guest_has_its_part)
{
	EXPECT_GE(settles_at(&usual, 4 * MS, 4 * MS), 80 * MS);
	EXPECT_GE(settles_at(&usual, 20 * MS, 4 * MS), 400 * MS);
}

TEST(within_its_bounds)
{
	struct cp_pace_settings fixed = usual;
	struct cp_pace pace;

	EXPECT_EQ(5 * MS, settles_at(&usual, 0, 60 * MS));
	EXPECT_EQ(1000 * MS, settles_at(&usual, 200 * MS, 4 * MS));
	fixed.min_ns = fixed.max_ns = 25 * MS;
	EXPECT_EQ(25 * MS, settles_at(&fixed, 10 * MS, 4 * MS));
	EXPECT_EQ(25 * MS, settles_at(&fixed, 0, 0));
	/* what makes no sense is taken as something that does; nothing divides by it */
	cp_pace_init(&pace, &(struct cp_pace_settings){ 0 });
	EXPECT_EQ(1, cp_pace_next(&pace, 0, 0, 0));
	cp_pace_init(&pace, &(struct cp_pace_settings){ UINT64_MAX, UINT64_MAX, UINT64_MAX, 1000,
							UINT64_MAX });
	EXPECT_EQ(pace.want.max_ns, cp_pace_next(&pace, UINT64_MAX, UINT64_MAX, UINT64_MAX));
}

/* One that was slow is no reason to stand still for long, nor one that was quick to hurry */
TEST(half_of_the_way_at_once)
{
	struct cp_pace pace;
	uint64_t before = 5 * MS;

	cp_pace_init(&pace, &usual);
	for (unsigned i = 0; i < 100; i++)
		before = cp_pace_next(&pace, before, 1 * MS, 4 * MS);
	EXPECT_GE(cp_pace_next(&pace, before, 1 * MS, 400 * MS), before / 2);
	cp_pace_init(&pace, &usual);
	before = pace.interval_ns;
	EXPECT_LE(cp_pace_next(&pace, before, MS / 100, 0), before * 2);
}

/* Nobody waits: longer and longer, for as long as the stop is short; and back when it is not */
TEST(without_output)
{
	struct cp_pace pace;
	uint64_t idle = 0;

	cp_pace_init(&pace, &usual);
	for (unsigned i = 0; i < 100; i++) {
		uint64_t before = pace.idle_ns;

		/* 1 ms of stop for each 100 ms */
		cp_pace_next(&pace, before, before / 100, 4 * MS);
		EXPECT_LE(pace.idle_ns, before + before / 2 + 1);
		EXPECT_LE(pace.interval_ns, pace.idle_ns);
		idle = pace.idle_ns;
	}
	EXPECT_LE(pace.interval_ns, 46 * MS);
	/* as long as 5 ms of stop allow */
	EXPECT_GT(idle, 450 * MS);
	EXPECT_LT(idle, 550 * MS);
	/* one that writes more has a longer stop, and less time */
	for (unsigned i = 0; i < 100; i++)
		cp_pace_next(&pace, pace.idle_ns, pace.idle_ns / 30, 4 * MS);
	EXPECT_GE(170 * MS, pace.idle_ns);
	EXPECT_LE(130 * MS, pace.idle_ns);
	EXPECT_LE(pace.interval_ns, 46 * MS);
}

TEST_HARNESS_MAIN
