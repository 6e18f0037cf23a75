/* SPDX-License-Identifier: GPL-2.0 */
/* The switch to postcopy: when it comes, and what is sent in which order. */
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

static const struct world_block small[] = {
	{ "pc.ram", 600, 4096 },
	{ "pc.bios", 64, 4096 },
};
static const struct world_block huge[] = {
	{ "pc.ram", 128, 65536 },
	{ "pc.bios", 64, 4096 },
};

static const struct source_config postcopy = {
	.downtime_ns = 1,
	.postcopy = true,
	.dead_peer_ns = 5 * WORLD_S,
};

/* Keeps precopy from converging */
static void dirty_some(struct world *w)
{
	for (unsigned i = 3; i < 40; i += 3)
		world_write(w, 0, i, (uint8_t)(w->rounds + i));
}

static unsigned command_at(const struct world *w, enum cmd_kind kind, unsigned nth)
{
	for (unsigned i = 0; i < w->model.commands; i++)
		if (w->model.command[i].kind == kind && !nth--)
			return i;
	return UINT32_MAX;
}

TEST(postcopy_in_the_order_of_the_wire)
{
	static const enum cmd_kind order[] = {
		CMD_OPEN_RETURN_PATH,	  CMD_PING, CMD_POSTCOPY_ADVISE, CMD_POSTCOPY_RAM_DISCARD,
		CMD_POSTCOPY_RAM_DISCARD, CMD_PING, CMD_PACKAGED,	 CMD_PING,
	};
	struct package package;
	size_t at, length;
	struct world w;
	bool points = false;

	world_init(&w, &postcopy, small, 2);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	world_step(&w); /* some of the first round */
	source_want_postcopy(w.source);
	while (source_get_phase(w.source) != SOURCE_POSTCOPY) {
		ASSERT_EQ(SOURCE_SEND, world_ask(&w));
		for (unsigned i = 0; i < w.batch->count; i++)
			points |= w.batch->iov[i].iov_base == w.device;
		EXPECT_EQ(1u, w.pauses);
		world_deliver(&w);
	}
	/* device state is sent from where it lies */
	EXPECT_TRUE(points);
	ASSERT_EQ(sizeof(order) / sizeof(order[0]), w.model.commands);
	for (unsigned i = 0; i < w.model.commands; i++)
		EXPECT_EQ(order[i], w.model.command[i].kind);
	EXPECT_EQ(2u, w.model.command[5].ping.value);
	EXPECT_EQ(4u, w.model.command[7].ping.value);
	ASSERT_EQ(0, package_get(w.model.package.bytes, w.model.package.length, &package, &w.err));
	EXPECT_EQ(1u, package.pings);
	EXPECT_EQ(3u, package.ping[0]);
	ASSERT_EQ(1, device_own(w.model.package.bytes + package.state, package.state_length, &at,
				&length, &w.err));
	EXPECT_EQ(w.device_bytes, length);
	EXPECT_EQ(0, memcmp(w.model.package.bytes + package.state + at, w.device, length));

	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_TRUE(world_equal(&w));
	EXPECT_TRUE(w.model.eof);
	EXPECT_EQ(1u, w.model.device.length); /* the EOF byte, no description */
	EXPECT_FALSE(w.model.strange);
	ASSERT_EQ(0, world_shut(&w, 0));
	EXPECT_EQ(SOURCE_ENDED, world_ask(&w));
	EXPECT_EQ(SOURCE_DONE, w.phase);
	EXPECT_EQ(0u, w.resumes);
	world_fini(&w);
}

TEST(postcopy_names_the_block_anew)
{
	struct world w;
	size_t before;

	world_init(&w, &postcopy, small, 1);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	w.on_round = dirty_some;
	world_step(&w);
	source_want_postcopy(w.source);
	world_write(&w, 0, 9, 1);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	before = w.tape[0].length;
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(0, memcmp(w.tape[0].bytes + before + PART_HEAD + 8, "\6pc.ram", 7));
	world_fini(&w);
}

TEST(discards_are_what_is_dirty_at_the_switch)
{
	struct world w;

	world_init(&w, &postcopy, small, 2);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	while (source_pages_left(w.source))
		world_step(&w);
	/* 30 ranges in the first block: three commands; one in the second */
	for (unsigned i = 0; i < 30; i++)
		world_write(&w, 0, i * 4, 1);
	world_write(&w, 1, 10, 1);
	world_write(&w, 1, 11, 1);
	world_write(&w, 1, 12, 1);
	source_want_postcopy(w.source);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(4u, command_at(&w, CMD_PACKAGED, 0) - 1 -
			      command_at(&w, CMD_POSTCOPY_RAM_DISCARD, 0));
	EXPECT_EQ(12u, w.model.command[3].discard.count);
	EXPECT_EQ(12u, w.model.command[4].discard.count);
	EXPECT_EQ(6u, w.model.command[5].discard.count);
	EXPECT_EQ(1u, w.model.command[6].discard.count);
	for (unsigned i = 0; i < 600; i++)
		EXPECT_EQ(i % 4 == 0 && i < 120, bits_test(w.model.discarded[0], i));
	EXPECT_EQ(3u, bits_count(w.model.discarded[1], 64));
	EXPECT_EQ(33u, source_pages_left(w.source));
	world_fini(&w);
}

TEST(many_discards)
{
	static const struct world_block wide[] = { { "pc.ram", 16384, 4096 } };
	struct world w;

	world_init(&w, &postcopy, wide, 1);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	while (source_pages_left(w.source))
		world_step(&w);
	for (unsigned i = 0; i < 16384; i += 2)
		bits_set(w.written[0], i);
	source_want_postcopy(w.source);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(8192u, bits_count(w.model.discarded[0], 16384));
	EXPECT_EQ((8192u + 11) / 12, w.model.commands - 6);
	EXPECT_FALSE(w.model.strange);
	world_fini(&w);
}

TEST(host_pages_are_widened_and_go_whole)
{
	struct world w;

	world_init(&w, &postcopy, huge, 2);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	while (source_pages_left(w.source))
		world_step(&w);
	world_write(&w, 0, 17, 1);  /* the second of eight host pages */
	world_write(&w, 0, 127, 1); /* and the last */
	world_write(&w, 1, 5, 1);
	source_want_postcopy(w.source);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(33u, source_pages_left(w.source));
	EXPECT_EQ(32u, bits_count(w.model.discarded[0], 128));
	EXPECT_EQ(16u, bits_range_count(w.model.discarded[0], 16, 16));
	EXPECT_EQ(16u, bits_range_count(w.model.discarded[0], 112, 16));
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_FALSE(w.model.interleaved);
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_EQ(1u, w.model.came[0][31]);
	EXPECT_EQ(0u, w.model.came[0][32]);
	EXPECT_EQ(0u, bits_count(w.dirty[0], 128));
	EXPECT_TRUE(world_equal(&w));
	world_fini(&w);
}

TEST(postcopy_after_a_time_breaks_a_round_off)
{
	struct source_config config = postcopy;
	uint64_t begun_ns;
	struct world w;

	config.postcopy_after_ns = 100 * WORLD_MS;
	world_init(&w, &config, small, 2);
	world_scribble(&w);
	w.bytes_per_s = 10 << 20; /* a round takes 200 ms, a batch 100 */
	source_connected(w.source, w.now_ns);
	begun_ns = w.now_ns;
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(0u, w.rounds);
	EXPECT_GE(w.now_ns - begun_ns, 100 * WORLD_MS);
	EXPECT_LT(w.now_ns - begun_ns, 150 * WORLD_MS);
	world_fini(&w);
}

TEST(postcopy_wanted_from_the_beginning)
{
	struct world w;

	world_init(&w, &postcopy, small, 2);
	world_scribble(&w);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(664u, source_pages_left(w.source));
	EXPECT_EQ(664u,
		  bits_count(w.model.discarded[0], 600) + bits_count(w.model.discarded[1], 64));
	EXPECT_EQ(0u, w.model.pages);
	world_fini(&w);
}

TEST(without_postcopy_nobody_gets_it)
{
	struct source_config config = { .downtime_ns = WORLD_S, .return_path = true };
	struct world w;

	config.postcopy_after_ns = 1;
	config.urgent = WH_URGENT_AT_START;
	world_init(&w, &config, small, 2);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	EXPECT_TRUE(world_run_to(&w, SOURCE_HANDOVER));
	EXPECT_EQ(0u, w.opens);
	world_fini(&w);
}

TEST(urgent_channel_is_settled_before_the_guest_is_paused)
{
	struct source_config config = postcopy;
	struct world w;

	config.urgent = WH_URGENT_AT_SWITCH;
	world_init(&w, &config, small, 2);
	world_scribble(&w);
	w.on_round = dirty_some;
	dirty_some(&w);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	for (unsigned i = 0; i < 20; i++)
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(0u, w.opens);
	ASSERT_EQ(0, world_pong(&w, 1));
	for (unsigned i = 0; i < 20; i++)
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(1u, w.opens);
	EXPECT_EQ(0u, w.pauses);
	EXPECT_EQ(SOURCE_PRECOPY, source_get_phase(w.source));
	source_urgent_opened(w.source, 0);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(1u, w.opens);
	/* it is used, and who takes the requests does not change any more */
	source_urgent_opened(w.source, -ECONNRESET);
	ASSERT_EQ(0, world_request(&w, 0, 6, 1));
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_EQ(1u, w.model.came[0][6]);
	world_fini(&w);
}

TEST(urgent_channel_that_does_not_come_is_done_without)
{
	/* no PONG; no answer to open_urgent(); it says no; it says no at once; yes at once */
	for (unsigned how = 0; how < 5; how++) {
		struct source_config config = postcopy;
		uint64_t begun_ns;
		struct world w;

		config.urgent = WH_URGENT_AT_SWITCH;
		world_init(&w, &config, small, 2);
		world_scribble(&w);
		w.bytes_per_s = 8 << 20;
		w.on_round = dirty_some;
		dirty_some(&w);
		w.open_ret = how == 3 ? -ECONNREFUSED : 0;
		w.open_answers = how == 4;
		source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		begun_ns = w.now_ns;
		world_step(&w);
		if (how) {
			ASSERT_EQ(0, world_pong(&w, 1));
		}
		world_step(&w);
		if (how == 2)
			source_urgent_opened(w.source, -ECONNREFUSED);
		ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
		EXPECT_GE(w.now_ns - begun_ns, how < 2 ? config.dead_peer_ns : 0);
		EXPECT_LT(w.now_ns - begun_ns, (how < 2 ? config.dead_peer_ns : 0) + WORLD_S);
		/* too late: requests are answered on the main channel */
		if (how != 4)
			source_urgent_opened(w.source, 0);
		ASSERT_EQ(0, world_request(&w, 0, 6, 1));
		EXPECT_EQ(how == 4, world_step_urgent(&w));
		world_fini(&w);
	}
}

TEST(urgent_channel_from_the_start_ends_with_eos)
{
	struct source_config config = postcopy;
	struct world w;

	config.urgent = WH_URGENT_AT_START;
	world_init(&w, &config, small, 2);
	world_scribble(&w);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	EXPECT_EQ(0u, w.opens);
	ASSERT_EQ(0, world_request(&w, 0, 599, 1));
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_FALSE(world_step_urgent(&w));
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	EXPECT_EQ(1u, w.serves);
	EXPECT_FALSE(w.model.urgent_eos);
	EXPECT_TRUE(world_step_urgent(&w));
	EXPECT_TRUE(w.model.urgent_eos);
	EXPECT_FALSE(world_step_urgent(&w));
	EXPECT_EQ(1u, source_get_counters(w.source)->pages_urgent);
	EXPECT_FALSE(w.model.strange);
	world_fini(&w);
}

TEST_HARNESS_MAIN
