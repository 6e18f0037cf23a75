/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The source's engine, a call at a time. What it does when everything goes wrong is in sim.
 */
#include "checkpoint/source.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define MS UINT64_C(1000000)
#define INTERVAL_NS (50 * MS)
#define CONTENTS_MAX 100000u

FIXTURE(source)
{
	struct cp_source source;
	struct cp_block block;
	unsigned said[CP_KIND_COUNT];
	unsigned opened, stops, turns, synced;
	enum cp_parts parts;
	uint64_t released;
	bool stands;
};

static int on_say(void *world, struct cp_header *header, const struct cp_msg *msg,
		  struct wh_err *err)
{
	FIXTURE_DATA(source) *self = world;

	(void)msg;
	(void)err;
	self->said[header->kind]++;
	return 0;
}

static int on_hold(void *world, struct wh_err *err)
{
	(void)world;
	(void)err;
	return 0;
}

static int on_turn(void *world, uint64_t epoch, struct wh_err *err)
{
	FIXTURE_DATA(source) *self = world;

	self->turns++;
	(void)epoch;
	(void)err;
	return 0;
}

static int on_release(void *world, uint64_t epoch, struct wh_err *err)
{
	FIXTURE_DATA(source) *self = world;

	(void)err;
	self->released = epoch;
	return 0;
}

static int on_open(void *world, struct wh_err *err)
{
	FIXTURE_DATA(source) *self = world;

	(void)err;
	self->opened++;
	return 0;
}

static void on_sync(void *world, enum cp_parts parts)
{
	FIXTURE_DATA(source) *self = world;

	self->parts = parts;
	self->synced++;
}

static void on_stop(void *world)
{
	FIXTURE_DATA(source) *self = world;

	self->stops++;
	self->stands = true;
}

static void on_resume(void *world)
{
	FIXTURE_DATA(source) *self = world;

	self->stands = false;
}

static void on_epoch(void *world, uint64_t epoch)
{
	(void)world;
	(void)epoch;
}

static const struct cp_source_ops ops = {
	.say = on_say,
	.hold = on_hold,
	.turn = on_turn,
	.release = on_release,
	.fence = on_hold,
	.open = on_open,
	.sync = on_sync,
	.stop = on_stop,
	.stage = on_epoch,
	.resume = on_resume,
	.send = on_epoch,
};

static int hear(FIXTURE_DATA(source) *self, enum cp_kind kind, uint64_t epoch, uint64_t now_ns)
{
	const struct cp_header header = { .kind = kind, .generation = 7, .epoch = epoch };
	const struct cp_msg msg = { .ready.features = CP_FEATURES };

	return cp_source_message(&self->source, &header, &msg, now_ns, NULL);
}

FIXTURE_SETUP(source)
{
	const struct cp_source_settings settings = {
		.generation = 7,
		.heartbeat_ns = 100 * MS,
		.lease_ns = 10000 * MS,
		.answer_ns = 10000 * MS,
		.contents_max = CONTENTS_MAX,
		.held_max = 1000,
		.pace = { .min_ns = INTERVAL_NS, .max_ns = INTERVAL_NS },
	};

	self->block = (struct cp_block){ .length = 4096, .page_size = 4096 };
	cp_source_init(&self->source, &ops, self, &settings, &self->block, 1);
	cp_source_start(&self->source, MS);
	ASSERT_EQ(0, hear(self, CP_READY, 0, MS));
	cp_source_synced(&self->source, MS);
}

FIXTURE_TEARDOWN(source)
{
}

/*
 * As time goes on, to the next stop; it stands still, is copied and acknowledged after so long.
 * Return: when it was asked to stop
 */
static uint64_t checkpoint(FIXTURE_DATA(source) *self, uint64_t *now_ns, uint64_t stop_ns,
			   uint64_t ack_ns)
{
	const struct cp_msg totals = { .commit.contents = 0 };
	uint64_t asked_ns, epoch = self->source.epoch;

	while (!self->stands && *now_ns < 1000000 * MS) {
		uint64_t next_ns = cp_source_step(&self->source, *now_ns);

		if (!self->stands)
			*now_ns = next_ns;
	}
	asked_ns = *now_ns;
	cp_source_stopped(&self->source, *now_ns);
	cp_source_staged(&self->source, NULL, *now_ns += stop_ns);
	cp_source_sent(&self->source, &totals, *now_ns);
	hear(self, CP_ACK, epoch, *now_ns += ack_ns);
	return asked_ns;
}

/* Stop and answer are of the interval, and whatever they take does not come on top */
TEST_F(source, from_one_stop_to_the_next)
{
	uint64_t now_ns = MS, first_ns = checkpoint(self, &now_ns, 5 * MS, 10 * MS);

	for (unsigned i = 1; i < 10; i++)
		EXPECT_EQ(first_ns + i * INTERVAL_NS,
			  checkpoint(self, &now_ns, i * MS, 3 * i * MS));
	EXPECT_EQ(10, self->released);
	EXPECT_EQ(10, self->source.figures.checkpoints);
}

/* Nobody has looked for 20 ms: those behind it come when they would have */
TEST_F(source, a_stop_that_is_late_is_late_once)
{
	uint64_t now_ns = MS, first_ns = checkpoint(self, &now_ns, 5 * MS, 5 * MS);

	now_ns = first_ns + INTERVAL_NS + 20 * MS;
	EXPECT_EQ(first_ns + INTERVAL_NS + 20 * MS, checkpoint(self, &now_ns, 5 * MS, 5 * MS));
	EXPECT_EQ(first_ns + 2 * INTERVAL_NS, checkpoint(self, &now_ns, 5 * MS, 5 * MS));
}

/* What was missed is not made up for: no stop comes sooner than an interval behind the last */
TEST_F(source, an_answer_that_takes_longer_than_the_interval)
{
	uint64_t now_ns = MS, first_ns = checkpoint(self, &now_ns, 5 * MS, 175 * MS);

	EXPECT_EQ(first_ns + 180 * MS, checkpoint(self, &now_ns, 5 * MS, 5 * MS));
	EXPECT_EQ(first_ns + 180 * MS + INTERVAL_NS, checkpoint(self, &now_ns, 5 * MS, 5 * MS));
}

/* An interval that is shorter than the stop leaves the guest its half of the time */
TEST_F(source, it_runs_for_as_long_as_it_stood_still)
{
	uint64_t now_ns = MS, first_ns = checkpoint(self, &now_ns, 40 * MS, MS);

	EXPECT_EQ(first_ns + 80 * MS, checkpoint(self, &now_ns, 5 * MS, MS));
}

/* The guest is asked to stop and does, and what is copied of it does not fit */
static void too_much(FIXTURE_DATA(source) *self, uint64_t *now_ns)
{
	const struct wh_err why = { -ENOSPC, "too much" };

	while (!self->stands && *now_ns < 1000000 * MS)
		*now_ns = cp_source_step(&self->source, *now_ns);
	cp_source_stopped(&self->source, *now_ns);
	cp_source_staged(&self->source, &why, *now_ns);
}

/* The epoch stays closed, nothing is let go, and what it is told is in order */
TEST_F(source, what_does_not_fit_goes_in_parts)
{
	uint64_t now_ns = MS;

	checkpoint(self, &now_ns, MS, MS);
	too_much(self, &now_ns);
	EXPECT_EQ(CP_SOURCE_DEGRADED, self->source.state);
	EXPECT_FALSE(self->stands);
	EXPECT_EQ(1, self->said[CP_DEGRADE]);
	EXPECT_EQ(CP_PARTS_WRITTEN, self->parts);
	EXPECT_EQ(2, self->turns);
	EXPECT_EQ(1, self->released);
	/* not fast enough: more of it, and it is not said again */
	cp_source_synced(&self->source, now_ns);
	too_much(self, &now_ns);
	EXPECT_EQ(CP_PARTS_MORE, self->parts);
	EXPECT_EQ(1, self->said[CP_DEGRADE]);
	EXPECT_EQ(2, self->turns);
	cp_source_synced(&self->source, now_ns);
	checkpoint(self, &now_ns, MS, MS);
	EXPECT_EQ(CP_SOURCE_RUN, self->source.state);
	EXPECT_FALSE(self->source.degraded);
	EXPECT_EQ(2, self->released);
	EXPECT_EQ(0, self->opened);
	/* and the next one is as any */
	checkpoint(self, &now_ns, MS, MS);
	EXPECT_EQ(3, self->turns);
	EXPECT_EQ(3, self->released);
	EXPECT_EQ(3, self->synced);
}

/* Refused: all of it again, but not at once; and its heart beats meanwhile */
TEST_F(source, parts_that_are_refused)
{
	uint64_t now_ns = MS;

	checkpoint(self, &now_ns, MS, MS);
	cp_source_written(&self->source, CONTENTS_MAX + 1, now_ns);
	EXPECT_EQ(CP_SOURCE_DEGRADED, self->source.state);
	EXPECT_EQ(1, self->turns);
	ASSERT_EQ(0, hear(self, CP_NACK, 2, now_ns));
	EXPECT_EQ(CP_SOURCE_DEGRADED, self->source.state);
	EXPECT_EQ(CP_PARTS_NONE, self->parts);
	/* what ended meanwhile is of what was given up */
	cp_source_synced(&self->source, now_ns);
	for (uint64_t end_ns = now_ns + 9900 * MS; now_ns < end_ns;) {
		now_ns = cp_source_step(&self->source, now_ns);
		self->source.heard_ns = now_ns;
		if (now_ns < end_ns)
			ASSERT_EQ(CP_PARTS_NONE, self->parts);
	}
	EXPECT_LE(90, self->said[CP_HEARTBEAT]);
	EXPECT_FALSE(self->stands);
	self->source.heard_ns = now_ns += 200 * MS;
	cp_source_step(&self->source, now_ns);
	EXPECT_EQ(CP_PARTS_ALL, self->parts);
	cp_source_synced(&self->source, now_ns);
	checkpoint(self, &now_ns, MS, MS);
	EXPECT_EQ(2, self->released);
}

/* Where that is wanted the guest waits before it is too much, and while it is */
TEST_F(source, a_guest_that_waits)
{
	uint64_t now_ns = MS;

	checkpoint(self, &now_ns, MS, MS);
	cp_source_written(&self->source, CONTENTS_MAX - CONTENTS_MAX / 8, now_ns);
	EXPECT_FALSE(self->stands);
	self->source.set.full_stalls = true;
	cp_source_written(&self->source, CONTENTS_MAX - CONTENTS_MAX / 8, now_ns);
	EXPECT_TRUE(self->stands);
	EXPECT_TRUE(cp_source_stalls(&self->source));
	cp_source_stopped(&self->source, now_ns);
	cp_source_step(&self->source, now_ns);
	EXPECT_EQ(CP_SOURCE_STAGE, self->source.state);
	too_much(self, &now_ns);
	EXPECT_EQ(CP_SOURCE_DEGRADED, self->source.state);
	EXPECT_TRUE(self->stands);
	cp_source_synced(&self->source, now_ns);
	cp_source_step(&self->source, now_ns);
	checkpoint(self, &now_ns, MS, MS);
	EXPECT_FALSE(self->stands);
	EXPECT_FALSE(cp_source_stalls(&self->source));
}

/* How long the first of what is held may have waited: from the last stop that let something go */
TEST_F(source, since_when_output_waits)
{
	uint64_t now_ns = MS, first_ns, next_ns;

	first_ns = checkpoint(self, &now_ns, MS, MS);
	EXPECT_FALSE(self->source.waits);
	cp_source_step(&self->source, first_ns + 10 * MS);
	cp_source_held(&self->source, 100);
	EXPECT_TRUE(self->source.waits);
	EXPECT_EQ(first_ns + 10 * MS, self->source.since_ns);
	cp_source_step(&self->source, first_ns + 20 * MS);
	cp_source_held(&self->source, 200);
	EXPECT_EQ(first_ns + 10 * MS, self->source.since_ns);
	/* it is let go; what is held then was said later */
	next_ns = checkpoint(self, &now_ns, MS, MS);
	cp_source_held(&self->source, 50);
	EXPECT_EQ(next_ns, self->source.since_ns);
	cp_source_held(&self->source, 0);
	EXPECT_FALSE(self->source.waits);
}

/* Where no output waits the next stop has time, until there is some */
TEST_F(source, nobody_waits)
{
	uint64_t now_ns = MS, first_ns;

	self->source.set.held_told = true;
	self->source.set.pace = (struct cp_pace_settings){
		.min_ns = 10 * MS,
		.max_ns = 400 * MS,
		.stop_ns = 5 * MS,
		.duty_percent = 50,
		.hold_ns = 15 * MS,
	};
	cp_source_pace(&self->source, &self->source.set.pace);
	for (unsigned i = 0; i < 20; i++)
		checkpoint(self, &now_ns, MS, MS);
	EXPECT_EQ(400 * MS, self->source.pace.idle_ns);
	first_ns = checkpoint(self, &now_ns, MS, MS);
	EXPECT_EQ(first_ns + 400 * MS, checkpoint(self, &now_ns, MS, MS));
	/* a packet after 100 ms: it waits no longer than its stop and the answer */
	first_ns = now_ns += 100 * MS;
	cp_source_step(&self->source, now_ns);
	EXPECT_FALSE(self->stands);
	cp_source_held(&self->source, 1);
	EXPECT_EQ(first_ns, checkpoint(self, &now_ns, MS, MS));
	/* and those behind it what they would have */
	EXPECT_EQ(first_ns + self->source.pace.interval_ns, checkpoint(self, &now_ns, MS, MS));
	EXPECT_GE(20 * MS, self->source.pace.interval_ns);
	cp_source_held(&self->source, 0);
	EXPECT_LT(first_ns + 2 * self->source.pace.interval_ns + MS,
		  checkpoint(self, &now_ns, MS, MS));
}

TEST_HARNESS_MAIN
