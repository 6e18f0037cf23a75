/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Whatever breaks, and whenever: the phase that the table promises, and the guest
 * resumed here exactly where the destination cannot have started it.
 */
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "pc.ram", 300, 4096 },
	{ "huge", 64, 32768 },
};

enum way {
	WAY_PLAIN,
	WAY_ANSWERED,
	WAY_POSTCOPY,
	WAY_URGENT,
	WAY_COUNT
};

static void begin(struct world *w, enum way way)
{
	struct source_config config = {
		.downtime_ns = way < WAY_POSTCOPY ? WORLD_S : 1,
		.return_path = way == WAY_ANSWERED,
		.postcopy = way >= WAY_POSTCOPY,
		.urgent = way == WAY_URGENT ? WH_URGENT_AT_START : WH_URGENT_OFF,
	};

	world_init(w, &config, blocks, 2);
	world_scribble(w);
}

/* One step of a whole migration. Return: false, it is over but for the answer */
static bool go_on(struct world *w, enum way way, unsigned step)
{
	if (step == 0) {
		source_connected(w->source, w->now_ns);
		return true;
	}
	if (step == 2 && way >= WAY_POSTCOPY) {
		world_write(w, 0, 7, 0x77);
		source_want_postcopy(w->source);
	}
	return world_ask(w) == SOURCE_SEND;
}

/* Where a lost link leads to from this phase; nowhere: the phase itself */
static enum source_phase promised(enum source_phase phase)
{
	switch (phase) {
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_SWITCHOVER:
		return SOURCE_FAILED;
	case SOURCE_HANDOVER:
		return SOURCE_UNKNOWN;
	case SOURCE_POSTCOPY:
	case SOURCE_ENDING:
	case SOURCE_RECOVER:
		return SOURCE_PAUSED;
	case SOURCE_PAUSED:
	case SOURCE_DONE:
	case SOURCE_FAILED:
	case SOURCE_UNKNOWN:
	case SOURCE_CANCELLED:
	case SOURCE_PHASE_COUNT:
		break;
	}
	return phase;
}

/*
 * The link dies after `steps` steps, with the last batch on its way or delivered.
 * Return: did the migration get that far?
 */
static bool lose(struct __test_metadata *_metadata, enum way way, unsigned steps, bool delivered,
		 enum channel channel, bool *seen)
{
	const struct wh_err reason = { .code = -EPIPE, .text = "cut by the test" };
	enum source_phase before, after;
	bool was_paused, far = true;
	struct world w;

	begin(&w, way);
	for (unsigned step = 0; far && step < steps; step++) {
		far = go_on(&w, way, step);
		if (far && step && (delivered || step + 1 < steps))
			world_deliver(&w);
	}
	before = source_get_phase(w.source);
	was_paused = w.paused;
	after = promised(before);
	/* written without anybody to answer: that is done, not unknown */
	if (way == WAY_PLAIN && before == SOURCE_HANDOVER && delivered)
		after = SOURCE_DONE;
	if (channel == CHANNEL_URGENT && (before == SOURCE_HANDOVER || before == SOURCE_ENDING))
		after = before;
	seen[before] = true;

	source_link_lost(w.source, channel, &reason, w.now_ns);
	EXPECT_EQ(after, source_get_phase(w.source))
	{
		TH_LOG("way %u, step %u, %s, %s", way, steps, delivered ? "delivered" : "out",
		       source_phase_name(before));
	}
	EXPECT_EQ(after == SOURCE_FAILED && was_paused, w.resumes);
	EXPECT_EQ(was_paused && after != SOURCE_FAILED, w.paused);
	if (after != before && after != SOURCE_DONE) {
		EXPECT_EQ(-EPIPE, w.reason.code);
		EXPECT_NE(NULL, strstr(w.reason.text, "cut by the test"));
	}
	if (after != before) {
		unsigned moves = w.moves;

		/* it is over, and the second channel's loss is no news */
		EXPECT_EQ(SOURCE_ENDED, world_ask(&w));
		source_link_lost(w.source, CHANNEL_MAIN, NULL, w.now_ns);
		EXPECT_EQ(moves, w.moves);
		EXPECT_FALSE(source_urgent(w.source, w.urgent));
	}
	world_fini(&w);
	return far;
}

TEST(link_lost_at_every_step)
{
	for (enum way way = 0; way < WAY_COUNT; way++) {
		for (unsigned kind = 0; kind < 4; kind++) {
			enum channel channel = kind / 2 ? CHANNEL_URGENT : CHANNEL_MAIN;
			bool seen[SOURCE_PHASE_COUNT] = { false };

			if (channel == CHANNEL_URGENT && way != WAY_URGENT)
				continue;
			for (unsigned steps = 1; steps < 100; steps++)
				if (!lose(_metadata, way, steps, kind % 2, channel, seen))
					break;
			EXPECT_TRUE(seen[SOURCE_PRECOPY]);
			EXPECT_TRUE(seen[SOURCE_SWITCHOVER]);
			EXPECT_EQ(way < WAY_POSTCOPY, seen[SOURCE_HANDOVER]);
			EXPECT_EQ(way >= WAY_POSTCOPY, seen[SOURCE_POSTCOPY]);
			EXPECT_EQ(way >= WAY_POSTCOPY, seen[SOURCE_ENDING]);
		}
	}
}

TEST(link_that_never_was)
{
	struct world w;

	for (unsigned channel = 0; channel < CHANNEL_COUNT; channel++) {
		begin(&w, WAY_URGENT);
		source_link_lost(w.source, channel, NULL, w.now_ns);
		EXPECT_EQ(SOURCE_FAILED, w.phase);
		EXPECT_EQ(0u, w.resumes);
		EXPECT_NE(NULL, strstr(w.reason.text, channel ? "urgent" : "main"));
		world_fini(&w);
	}
}

/* An urgent channel that is not there cannot get lost. */
TEST(urgent_channel_of_nobody)
{
	struct world w;

	begin(&w, WAY_POSTCOPY);
	source_connected(w.source, w.now_ns);
	source_link_lost(w.source, CHANNEL_URGENT, NULL, w.now_ns);
	EXPECT_EQ(SOURCE_PRECOPY, w.phase);
	world_fini(&w);
}

/* SHUT is read before the end of the connection is: it counts. */
TEST(last_word_counts_even_if_the_line_is_dead)
{
	for (enum way way = WAY_ANSWERED; way < WAY_COUNT; way++) {
		for (uint32_t value = 0; value < 2; value++) {
			enum source_phase bad = way == WAY_ANSWERED ? SOURCE_FAILED : SOURCE_PAUSED;
			unsigned step = 0;
			struct world w;

			begin(&w, way);
			while (go_on(&w, way, step))
				if (step++)
					world_deliver(&w);
			ASSERT_EQ(0, world_shut(&w, value));
			source_link_lost(w.source, CHANNEL_MAIN, NULL, w.now_ns);
			EXPECT_EQ(value ? bad : SOURCE_DONE, source_get_phase(w.source));
			EXPECT_EQ(value && way == WAY_ANSWERED, w.resumes);
			world_fini(&w);
		}
	}
}

/* A destination that gives up says so while it still can: SHUT 1 at any moment. */
TEST(destination_gives_up_at_every_step)
{
	for (enum way way = WAY_ANSWERED; way < WAY_COUNT; way++) {
		bool far = true;

		for (unsigned steps = 2; far && steps < 100; steps++) {
			enum source_phase before, after;
			bool was_paused;
			struct world w;

			begin(&w, way);
			for (unsigned step = 0; far && step < steps; step++) {
				far = go_on(&w, way, step);
				if (far && step && step + 1 < steps)
					world_deliver(&w);
			}
			before = source_get_phase(w.source);
			after = before < SOURCE_POSTCOPY ? SOURCE_FAILED : SOURCE_PAUSED;
			was_paused = w.paused;
			ASSERT_EQ(0, world_shut(&w, 7));
			EXPECT_EQ(-EREMOTEIO, world_ask(&w));
			EXPECT_EQ(after, w.phase);
			EXPECT_EQ(was_paused && after == SOURCE_FAILED, w.resumes);
			EXPECT_NE(NULL, strstr(w.reason.text, "SHUT 7"));
			world_fini(&w);
		}
	}
}

TEST(cancel_at_every_step)
{
	for (enum way way = 0; way < WAY_COUNT; way++) {
		bool far = true, late = false;

		for (unsigned steps = 0; far && steps < 100; steps++) {
			for (unsigned delivered = 0; delivered < 2; delivered++) {
				enum source_phase before;
				bool was_paused;
				struct world w;

				begin(&w, way);
				far = true;
				for (unsigned step = 0; far && step < steps; step++) {
					far = go_on(&w, way, step);
					if (far && step && (delivered || step + 1 < steps))
						world_deliver(&w);
				}
				before = source_get_phase(w.source);
				was_paused = w.paused;
				if (before <= SOURCE_SWITCHOVER) {
					EXPECT_FALSE(late);
					EXPECT_EQ(0, source_want_cancel(w.source));
					EXPECT_EQ(0, source_want_cancel(w.source));
					EXPECT_EQ(before, source_get_phase(w.source));
					EXPECT_EQ(SOURCE_ENDED, world_ask(&w));
					EXPECT_EQ(SOURCE_CANCELLED, w.phase);
					EXPECT_EQ(was_paused, w.resumes);
					EXPECT_EQ(0, w.reason.code);
					EXPECT_FALSE(w.paused);
				} else {
					late = true;
					EXPECT_EQ(-EBUSY, source_want_cancel(w.source));
					EXPECT_NE(SOURCE_CANCELLED, world_ask(&w));
					EXPECT_EQ(0u, w.resumes);
				}
				EXPECT_EQ(-EBUSY, source_want_cancel(w.source));
				world_fini(&w);
			}
		}
		EXPECT_TRUE(late);
	}
}

/* Who was told that it will be cancelled must not read "failed" afterwards. */
TEST(cancelled_is_cancelled_though_the_link_breaks)
{
	struct world w;

	begin(&w, WAY_ANSWERED);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_SWITCHOVER));
	EXPECT_EQ(0, source_want_cancel(w.source));
	source_link_lost(w.source, CHANNEL_MAIN, NULL, w.now_ns);
	EXPECT_EQ(SOURCE_CANCELLED, w.phase);
	EXPECT_EQ(1u, w.resumes);
	world_fini(&w);

	begin(&w, WAY_ANSWERED);
	source_link_lost(w.source, CHANNEL_MAIN, NULL, w.now_ns);
	EXPECT_EQ(SOURCE_FAILED, w.phase);
	EXPECT_EQ(-EBUSY, source_want_cancel(w.source));
	world_fini(&w);
}

/* Of what the VMM does each thing fails in turn; a sentence is there even if it gave none. */
TEST(vmm_fails)
{
	static const char *const says[] = { "pausing the guest", "no device state",
					    "no log of writes" };

	for (unsigned what = 0; what < 3; what++) {
		for (enum way way = 0; way < WAY_COUNT; way++) {
			unsigned step = 0;
			struct world w;

			begin(&w, way);
			w.pause_ret = what == 0 ? -ENODEV : 0;
			w.device_ret = what == 1 ? -ENODEV : 0;
			w.sync_ret = what == 2 ? -ENODEV : 0;
			while (go_on(&w, way, step))
				if (step++)
					world_deliver(&w);
			EXPECT_EQ(SOURCE_FAILED, w.phase);
			EXPECT_EQ(-ENODEV, w.err.code);
			EXPECT_NE(NULL, strstr(w.reason.text, says[what]));
			/* what was not paused is not resumed */
			EXPECT_EQ(what ? w.pauses : 0u, w.resumes);
			EXPECT_FALSE(w.paused);
			world_fini(&w);
		}
	}
}

TEST(guest_that_cannot_be_resumed_is_said)
{
	struct world w;

	begin(&w, WAY_ANSWERED);
	w.device_ret = -ENODEV;
	w.resume_ret = -EBADF;
	source_connected(w.source, w.now_ns);
	world_run(&w);
	EXPECT_EQ(SOURCE_FAILED, w.phase);
	EXPECT_EQ(-ENODEV, w.err.code);
	EXPECT_NE(NULL, strstr(w.reason.text, "could not be resumed"));
	EXPECT_NE(NULL, strstr(w.reason.text, "no device state"));
	world_fini(&w);

	begin(&w, WAY_ANSWERED);
	w.resume_ret = -EBADF;
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_SWITCHOVER));
	source_want_cancel(w.source);
	EXPECT_EQ(-EBADF, world_ask(&w));
	EXPECT_EQ(SOURCE_FAILED, w.phase);
	EXPECT_EQ(1u, w.resumes);
	EXPECT_NE(NULL, strstr(w.reason.text, "could not be resumed"));
	world_fini(&w);
}

/* One that the length fields of the wire cannot say is refused while that is harmless. */
TEST(device_state_too_large)
{
	for (enum way way = WAY_ANSWERED; way < WAY_COUNT; way++) {
		unsigned step = 0;
		struct world w;

		begin(&w, way);
		w.device_bytes = UINT32_MAX;
		while (go_on(&w, way, step))
			if (step++)
				world_deliver(&w);
		EXPECT_EQ(SOURCE_FAILED, w.phase);
		EXPECT_EQ(-EFBIG, w.reason.code);
		EXPECT_EQ(1u, w.resumes);
		world_fini(&w);
	}
}

/* Every caller may do without a sentence. */
TEST(no_err_to_fill_in)
{
	struct world w;
	size_t used;

	begin(&w, WAY_ANSWERED);
	w.device_ret = -ENODEV;
	source_connected(w.source, w.now_ns);
	EXPECT_EQ(-EPROTO,
		  source_input(w.source, (const uint8_t *)"\0\11\0\0", 4, &used, w.now_ns, NULL));
	while (source_next(w.source, w.now_ns, w.batch, NULL) == SOURCE_SEND)
		world_deliver(&w);
	EXPECT_EQ(SOURCE_FAILED, w.phase);
	EXPECT_EQ(-ENODEV, w.reason.code);
	world_fini(&w);
}

TEST_HARNESS_MAIN
