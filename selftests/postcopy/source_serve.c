/* SPDX-License-Identifier: GPL-2.0 */
/* Answers to requests: how soon, how whole, and on which channel. */
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "pc.ram", 2048, 4096 },
	{ "huge", 64, 65536 },
};

static const struct source_config main_only = {
	.downtime_ns = 1,
	.postcopy = true,
};
static const struct source_config with_urgent = {
	.downtime_ns = 1,
	.postcopy = true,
	.urgent = WH_URGENT_AT_START,
};

/* In postcopy, nothing sent of it yet, all pages dirty */
static void begin(struct world *w, const struct source_config *config)
{
	world_init(w, config, blocks, 2);
	world_scribble(w);
	source_want_postcopy(w->source);
	source_connected(w->source, w->now_ns);
	if (!world_run_to(w, SOURCE_POSTCOPY))
		abort();
}

TEST(main_channel_answers_first)
{
	struct world w;

	begin(&w, &main_only);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	/* so that a request never waits behind much */
	EXPECT_LE(w.tape[0].length, BATCH_BYTES);
	EXPECT_LE(w.batch->bytes, SOURCE_BEHIND_BYTES + 2 * TARGET_PAGE);
	EXPECT_GT(w.batch->bytes, SOURCE_BEHIND_BYTES / 2);
	ASSERT_EQ(SOURCE_SEND, world_ask(&w)); /* on its way while the request comes */
	ASSERT_EQ(0, world_request(&w, 0, 2001, 1));
	EXPECT_EQ(1u, w.asks);
	ASSERT_EQ(0, world_request(&w, 0, 1999, 1));
	world_deliver(&w);
	w.model.pages = 0;
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(2u, w.model.pages);
	EXPECT_EQ(1u, w.model.came[0][2001]);
	EXPECT_EQ(1u, w.model.came[0][1999]);
	EXPECT_EQ(2u, source_get_counters(w.source)->serve_hist.count);
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_EQ(1u, world_came(&w, false));
	EXPECT_TRUE(world_equal(&w));
	EXPECT_FALSE(w.model.strange);
	world_fini(&w);
}

TEST(zero_pages_do_not_hold_a_request_up)
{
	struct world w;

	begin(&w, &main_only);
	memset(w.region[0].addr, 0, w.region[0].length);
	w.model.pages = 0;
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(SOURCE_BEHIND_PAGES, w.model.pages);
	world_fini(&w);
}

TEST(urgent_channel_answers_alone)
{
	struct world w;

	begin(&w, &with_urgent);
	ASSERT_EQ(SOURCE_SEND, world_ask(&w));
	/* a megabyte is under way on the main channel, which is no matter here */
	EXPECT_GT(w.batch->bytes, BATCH_BYTES - 2 * TARGET_PAGE);
	ASSERT_EQ(0, world_request(&w, 0, 2001, 1));
	EXPECT_EQ(0u, w.asks);
	ASSERT_EQ(0, world_request(&w, 1, 32, 16));
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_FALSE(world_step_urgent(&w));
	EXPECT_EQ(1u, w.model.came[0][2001]);
	EXPECT_EQ(1u, w.model.came[1][32]);
	EXPECT_EQ(1u, w.model.came[1][47]);
	EXPECT_EQ(17u, w.model.pages);
	EXPECT_EQ(2u, source_get_counters(w.source)->serve_hist.count);
	world_deliver(&w);
	/* it is clean now: silence */
	ASSERT_EQ(0, world_request(&w, 0, 2001, 1));
	EXPECT_FALSE(world_step_urgent(&w));
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_TRUE(world_equal(&w));
	EXPECT_FALSE(w.model.interleaved);
	world_fini(&w);
}

/* Of a page that is on its way already, what lies before it on the main channel may take long. */
TEST(a_destination_of_ours_gets_it_again)
{
	struct world w;

	begin(&w, &with_urgent);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	ASSERT_EQ(1u, w.model.came[0][0]);
	/* a QEMU echoes */
	ASSERT_EQ(0, world_pong(&w, PING_WHO));
	ASSERT_EQ(0, world_request(&w, 0, 0, 1));
	EXPECT_FALSE(world_step_urgent(&w));
	ASSERT_EQ(0, world_pong(&w, PONG_OURS));
	ASSERT_EQ(0, world_request(&w, 0, 0, 1));
	ASSERT_EQ(0, world_request(&w, 0, 2001, 1));
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_EQ(2u, w.model.came[0][0]);
	EXPECT_EQ(1u, w.model.came[0][2001]);
	EXPECT_EQ(1u, source_get_counters(w.source)->pages_again);
	EXPECT_EQ(1u, source_get_counters(w.source)->pages_urgent);
	/* a page at a time, and of no huge one */
	ASSERT_EQ(0, world_request(&w, 0, 0, 2));
	ASSERT_EQ(0, world_request(&w, 1, 32, 16));
	EXPECT_TRUE(world_step_urgent(&w));
	ASSERT_EQ(0, world_request(&w, 1, 32, 16));
	EXPECT_FALSE(world_step_urgent(&w));
	EXPECT_EQ(2u, w.model.came[0][0]);
	EXPECT_EQ(1u, w.model.came[1][32]);
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	/* nothing behind the end mark */
	ASSERT_EQ(0, world_request(&w, 0, 1, 1));
	EXPECT_TRUE(world_step_urgent(&w)); /* the mark, and in front of it the page */
	ASSERT_EQ(0, world_request(&w, 0, 1, 1));
	EXPECT_FALSE(world_step_urgent(&w));
	EXPECT_EQ(2u, w.model.came[0][1]);
	EXPECT_TRUE(world_equal(&w));
	world_fini(&w);
}

TEST(urgent_batches_stay_small)
{
	struct world w;
	unsigned batches = 0;

	begin(&w, &with_urgent);
	for (unsigned i = 0; i < 100; i++)
		ASSERT_EQ(0, world_request(&w, 0, 1000 + 3 * i, 1));
	while (source_urgent(w.source, w.urgent)) {
		EXPECT_LE(w.urgent->bytes, SOURCE_URGENT_BYTES + 2 * TARGET_PAGE);
		/* one at a time */
		EXPECT_FALSE(source_urgent(w.source, w.urgent));
		world_carry(&w, CHANNEL_URGENT, w.urgent);
		source_urgent_sent(w.source, w.urgent->bytes, w.now_ns);
		batches++;
	}
	EXPECT_EQ(5u, batches); /* of 16 pages with contents and 4 zero ones */
	EXPECT_EQ(100u, w.model.pages);
	EXPECT_EQ(100u, source_get_counters(w.source)->serve_hist.count);
	EXPECT_EQ(100u, source_get_counters(w.source)->pages_urgent);
	world_fini(&w);
}

TEST(many_requests_in_one_batch)
{
	for (unsigned urgent = 0; urgent < 2; urgent++) {
		unsigned batches = 0;
		struct world w;

		begin(&w, urgent ? &with_urgent : &main_only);
		memset(w.region[0].addr, 0, w.region[0].length);
		for (unsigned i = 0; i < 3 * SOURCE_SERVED_MAX; i++)
			ASSERT_EQ(0, world_request(&w, 0, 1000 + i, 1));
		w.model.pages = 0;
		while (w.model.pages < 3 * SOURCE_SERVED_MAX && batches++ < 10) {
			ASSERT_TRUE(urgent ? world_step_urgent(&w) : world_step(&w) == SOURCE_SEND);
		}
		EXPECT_EQ(3u, batches);
		EXPECT_EQ(3 * SOURCE_SERVED_MAX, source_get_counters(w.source)->serve_hist.count);
		world_fini(&w);
	}
}

TEST(long_request)
{
	for (unsigned urgent = 0; urgent < 2; urgent++) {
		struct world w;

		begin(&w, urgent ? &with_urgent : &main_only);
		ASSERT_EQ(0, world_request(&w, 0, 1500, 500));
		ASSERT_EQ(0, world_request(&w, 1, 0, 64));
		for (unsigned i = 0; i < 200 && w.model.came[1][63] == 0; i++) {
			if (urgent)
				world_step_urgent(&w);
			else
				world_step(&w);
		}
		EXPECT_EQ(564u, w.model.pages);
		EXPECT_EQ(1u, w.model.came[0][1999]);
		EXPECT_EQ(0u, w.model.came[0][0]);
		EXPECT_FALSE(w.model.interleaved);
		ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
		EXPECT_EQ(1u, world_came(&w, true));
		EXPECT_EQ(1u, world_came(&w, false));
		EXPECT_EQ(2u, source_get_counters(w.source)->serve_hist.count);
		world_fini(&w);
	}
}

TEST(host_page_is_not_broken_off)
{
	static const struct world_block big[] = {
		{ "huge", 2048, 2 << 20 },
		{ "pc.ram", 8, 4096 },
	};
	struct world w;

	world_init(&w, &main_only, big, 2);
	world_scribble(&w);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_GT(512u, w.model.pages);
	ASSERT_EQ(0, world_request(&w, 1, 3, 1));
	ASSERT_EQ(0, world_request(&w, 0, 1536, 512));
	while (!w.model.came[1][3]) {
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
	}
	EXPECT_EQ(1u, w.model.came[0][511]);
	EXPECT_EQ(0u, w.model.came[0][512]);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(1u, w.model.came[0][1536]);
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_FALSE(w.model.interleaved);
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_TRUE(world_equal(&w));
	world_fini(&w);
}

TEST(host_page_of_two_megabytes_is_one_urgent_batch)
{
	static const struct world_block big[] = { { "huge", 1024, 2 << 20 } };
	struct world w;

	world_init(&w, &with_urgent, big, 1);
	memset(w.region[0].addr, 1, w.region[0].length);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	ASSERT_EQ(0, world_request(&w, 0, 512, 512));
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_EQ(512u, w.model.pages);
	EXPECT_EQ(BATCH_IOV, w.urgent->count);
	EXPECT_EQ(512u, source_get_counters(w.source)->pages_urgent);
	EXPECT_EQ(1u, source_get_counters(w.source)->serve_hist.count);
	world_fini(&w);
}

TEST(end_waits_for_the_urgent_channel)
{
	struct world w;

	begin(&w, &with_urgent);
	ASSERT_EQ(0, world_request(&w, 1, 48, 16));
	ASSERT_TRUE(source_urgent(w.source, w.urgent));
	EXPECT_EQ(SOURCE_WAIT, world_run(&w));
	EXPECT_EQ(SOURCE_POSTCOPY, w.phase);
	EXPECT_EQ(16u, source_pages_left(w.source));
	w.asks = 0;
	world_carry(&w, CHANNEL_URGENT, w.urgent);
	source_urgent_sent(w.source, w.urgent->bytes, w.now_ns);
	EXPECT_EQ(1u, w.asks);
	EXPECT_EQ(SOURCE_SEND, world_step(&w)); /* has all arrived? */
	EXPECT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(SOURCE_ENDING, w.phase);
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_EQ(1u, world_came(&w, false));
	world_fini(&w);
}

/* Behind it a QEMU 7.2 reads no urgent channel any more, whatever breaks and comes again */
TEST(no_end_mark_before_all_has_arrived)
{
	struct world w;

	begin(&w, &with_urgent);
	w.mute = true;
	EXPECT_EQ(SOURCE_WAIT, world_run(&w));
	EXPECT_EQ(0u, source_pages_left(w.source));
	EXPECT_EQ(SOURCE_POSTCOPY, w.phase);
	EXPECT_FALSE(world_step_urgent(&w));
	ASSERT_LE(0, world_pong(&w, 4));
	EXPECT_EQ(SOURCE_WAIT, world_run(&w));
	ASSERT_LE(0, world_pong(&w, PING_ARRIVED));
	EXPECT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(SOURCE_ENDING, w.phase);
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_TRUE(w.model.urgent_eos);
	world_fini(&w);
}

/* A peer that does not answer is gone, as in front of its last word */
TEST(arrival_is_not_waited_for_without_limit)
{
	struct source_config config = with_urgent;
	struct world w;

	config.dead_peer_ns = WORLD_S;
	begin(&w, &config);
	w.mute = true;
	EXPECT_EQ(-ETIMEDOUT, world_run(&w));
	EXPECT_EQ(SOURCE_PAUSED, w.phase);
	EXPECT_NE(NULL, strstr(w.reason.text, "said nothing")) TH_LOG("%s", w.reason.text);
	world_fini(&w);
}

TEST(page_is_claimed_once)
{
	struct world w;

	begin(&w, &with_urgent);
	EXPECT_TRUE(source_claim(w.source, CHANNEL_URGENT, 0, 77));
	EXPECT_FALSE(source_claim(w.source, CHANNEL_MAIN, 0, 77));
	/* of a host page it is the first bit that decides, whichever was seen */
	EXPECT_TRUE(source_claim(w.source, CHANNEL_MAIN, 1, 21));
	EXPECT_FALSE(source_claim(w.source, CHANNEL_URGENT, 1, 16));
	EXPECT_FALSE(source_claim(w.source, CHANNEL_URGENT, 1, 31));
	EXPECT_EQ(0u, bits_range_count(w.dirty[1], 16, 16));
	world_fini(&w);
}

TEST(host_page_half_taken_is_left_alone)
{
	struct world w;

	begin(&w, &with_urgent);
	bits_clear(w.dirty[1], 16);
	w.source->pages_left -= 16;
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_EQ(0u, w.model.came[1][16]);
	EXPECT_EQ(0u, w.model.came[1][31]);
	EXPECT_EQ(1u, w.model.came[1][15]);
	EXPECT_EQ(1u, w.model.came[1][32]);
	world_fini(&w);
}

TEST(each_page_goes_once_over_both_channels)
{
	struct world w;
	uint32_t seed = 1;

	begin(&w, &with_urgent);
	while (source_get_phase(w.source) == SOURCE_POSTCOPY) {
		unsigned page;

		seed = seed * 1103515245 + 12345;
		page = seed >> 16;
		if (page % 4) {
			ASSERT_EQ(0, world_request(&w, 0, page % 2040, page % 8));
		} else {
			ASSERT_EQ(0, world_request(&w, 1, page / 4 % 4 * 16, 16));
		}
		if (page & 64)
			world_step_urgent(&w);
		if (!(page & 0x380))
			world_step(&w);
	}
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_EQ(1u, world_came(&w, false));
	EXPECT_TRUE(world_equal(&w));
	EXPECT_FALSE(w.model.interleaved);
	EXPECT_LT(100u, source_get_counters(w.source)->pages_urgent);
	world_fini(&w);
}

TEST_HARNESS_MAIN
