/* SPDX-License-Identifier: GPL-2.0 */
/* When a helper is at work (postcopy/dest_trial.c): streams whose parts take what the test says. */
#include "postcopy/dest_trial.h"

#include "kselftest_harness.h"

#define TRIAL (TRIAL_STRETCHES * TRIAL_STRETCH)
#define REST (TRIAL_REST * TRIAL_STRETCH)
#define MS UINT64_C(1000000)

FIXTURE(trial)
{
	struct dest_trial trial;
	uint64_t now_ns;
	uint64_t part_ns[2]; /* a part takes: without the helper, with it */
};

FIXTURE_SETUP(trial)
{
	self->now_ns = 5 * MS;
	self->part_ns[false] = self->part_ns[true] = MS;
}

FIXTURE_TEARDOWN(trial)
{
}

static bool next(FIXTURE_DATA(trial) *self)
{
	bool helps = dest_trial_part(&self->trial, self->now_ns);

	self->now_ns += self->part_ns[helps];
	return helps;
}

/* Of the next @parts, those with the helper */
static unsigned helped(FIXTURE_DATA(trial) *self, unsigned parts)
{
	unsigned count = 0;

	while (parts--)
		count += next(self);
	return count;
}

TEST_F(trial, takes_turns_and_begins_with_the_helper)
{
	for (unsigned stretch = 0; stretch < TRIAL_STRETCHES; stretch++)
		EXPECT_EQ(stretch % 2 ? 0 : TRIAL_STRETCH, helped(self, TRIAL_STRETCH));
}

TEST_F(trial, what_helps_goes_on)
{
	self->part_ns[true] = MS * 9 / 10;
	EXPECT_EQ(TRIAL / 2, helped(self, TRIAL));
	EXPECT_EQ(REST, helped(self, REST));
}

TEST_F(trial, what_does_not_help_rests)
{
	self->part_ns[true] = MS * 11 / 10;
	EXPECT_EQ(TRIAL / 2, helped(self, TRIAL));
	EXPECT_EQ(0, helped(self, REST));
}

TEST_F(trial, what_helps_by_little_is_not_worth_a_processor)
{
	self->part_ns[true] = MS * 98 / 100;
	EXPECT_EQ(TRIAL / 2, helped(self, TRIAL));
	EXPECT_EQ(0, helped(self, REST));
}

TEST_F(trial, is_held_again)
{
	self->part_ns[true] = MS * 11 / 10;
	(void)helped(self, TRIAL + REST);
	self->part_ns[true] = MS / 2;
	EXPECT_EQ(TRIAL / 2, helped(self, TRIAL));
	EXPECT_EQ(REST, helped(self, REST));
}

/* Both ways: a way's first parts are the other one's still, and a stretch may meet with a pause */
TEST_F(trial, is_not_misled)
{
	for (unsigned i = 0; i < 4; i++) {
		bool better = i % 2;
		unsigned paused = i / 2 * 2 * TRIAL_STRETCH;

		self->trial = (struct dest_trial){ 0 };
		self->part_ns[!better] = MS;
		self->part_ns[better] = MS * 9 / 10;
		for (unsigned part = 0; part < TRIAL; part++) {
			bool helps = next(self);

			if (helps != better)
				continue;
			if (part % TRIAL_STRETCH < TRIAL_UNCOUNTED)
				self->now_ns += MS;
			else if (part - paused < 2 * TRIAL_STRETCH)
				self->now_ns += 100 * MS;
		}
		EXPECT_EQ(better ? REST : 0, helped(self, REST));
	}
}

/* Memory that is cold from somewhere on, where the helper has the time for it */
TEST_F(trial, is_held_at_once_when_the_stream_grows_slow)
{
	(void)helped(self, TRIAL);
	EXPECT_EQ(0, helped(self, 5 * TRIAL_STRETCH));
	self->part_ns[false] = MS * 3 / 2;
	EXPECT_EQ(0, helped(self, 5 * TRIAL_STRETCH));
	self->part_ns[false] = 5 * MS;
	EXPECT_EQ(0, helped(self, TRIAL_STRETCH));
	EXPECT_EQ(TRIAL / 2, helped(self, TRIAL));
	EXPECT_EQ(REST, helped(self, REST));
}

TEST_F(trial, is_not_held_at_once_with_the_helper)
{
	self->part_ns[true] = MS / 2;
	(void)helped(self, TRIAL);
	self->part_ns[true] = 5 * MS;
	EXPECT_EQ(REST, helped(self, REST));
}

TEST_HARNESS_MAIN
