/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The source's engine, a call at a time. What it does when everything goes wrong is in sim.
 */
#include "checkpoint/source.h"

#include <string.h>

#include "kselftest_harness.h"

#define MS UINT64_C(1000000)
#define INTERVAL_NS (50 * MS)

FIXTURE(source)
{
	struct cp_source source;
	struct cp_block block;
	unsigned said[CP_KIND_COUNT];
	unsigned opened, stops;
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
	(void)world;
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

static void on_sync(void *world)
{
	(void)world;
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
	cp_source_staged(&self->source, 0, *now_ns += stop_ns);
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

TEST_HARNESS_MAIN
