/* SPDX-License-Identifier: GPL-2.0 */
/* The way of a migration through the source: what is sent when, and where it ends. */
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

static const struct source_config plain = { .downtime_ns = WORLD_S };
static const struct source_config answered = { .downtime_ns = WORLD_S, .return_path = true };
static const struct source_config postcopy = {
	.downtime_ns = 1,
	.postcopy = true,
	.dead_peer_ns = 5 * WORLD_S,
};

/* Everything up to the point where only the destination can say how it ended. */
static void run_to_answer(struct world *w)
{
	world_run_to(w, w->config.postcopy ? SOURCE_ENDING : SOURCE_HANDOVER);
}

TEST(start_is_what_qemu_sends)
{
	/* as a q35 of QEMU 7.2 does, but for blocks and section id */
	static const uint8_t head[] = "QEVM\0\0\0\3"
				      "\7\0\0\0\12pc-q35-7.2"
				      "\10\0\1\0\0"
				      "\10\0\2\0\4\0\0\0\1"
				      "\10\0\3\0\20\0\0\0\0\0\1\x10\0\0\0\0\0\0\0\x10\0"
				      "\1\0\1\0\0\3ram\0\0\0\0\0\0\0\4"
				      "\0\0\0\0\0\x0c\0\4"
				      "\6pc.ram\0\0\0\0\0\x08\0\0\0\0\0\0\0\1\0\0"
				      "\7pc.bios\0\0\0\0\0\4\0\0"
				      "\0\0\0\0\0\0\0\x10"
				      "\x7e\0\1\0\0";
	struct world w;

	world_init(&w, &postcopy, huge, 2);
	ASSERT_EQ(SOURCE_WAIT, world_ask(&w));
	source_connected(w.source, w.now_ns);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	ASSERT_EQ(sizeof(head) - 1, w.tape[0].length);
	EXPECT_EQ(0, memcmp(head, w.tape[0].bytes, sizeof(head) - 1));
	EXPECT_EQ(2u, w.model.in.blocks.count);
	EXPECT_EQ(65536u, w.model.in.blocks.block[0].page_size);
	EXPECT_FALSE(w.model.strange);
	world_fini(&w);
}

TEST(start_without_postcopy_says_no_more_than_it_must)
{
	for (int return_path = 0; return_path < 2; return_path++) {
		struct world w;

		world_init(&w, return_path ? &answered : &plain, huge, 2);
		source_connected(w.source, w.now_ns);
		world_step(&w);
		EXPECT_EQ(return_path ? 2u : 0u, w.model.commands);
		/* the destination would not expect the field */
		EXPECT_EQ(0u, w.model.in.blocks.block[0].page_size);
		EXPECT_EQ(2u, w.model.in.blocks.count);
		world_fini(&w);
	}
}

TEST(long_list_comes_in_several_batches)
{
	static struct region region[RAM_BLOCKS_MAX];
	static uint64_t dirty[RAM_BLOCKS_MAX];
	struct source_block block = { 0 };
	char name[256];
	struct world w;
	unsigned batches = 0;
	struct wh_err err;

	memset(name, 'x', sizeof(name));
	name[255] = '\0';
	world_init(&w, &postcopy, NULL, 0);
	for (unsigned i = 0; i < RAM_BLOCKS_MAX; i++) {
		region[i] = (struct region){ .length = 8192, .page_size = 8192 };
		region[i].addr = aligned_alloc(4096, 8192);
		memset(region[i].addr, 0, 8192);
		snprintf(name, sizeof(name), "%03u", i);
		name[3] = 'x';
		wire_name_set(&block.name, name);
		block.region = &region[i];
		block.dirty = &dirty[i];
		ASSERT_EQ(0, source_add_block(w.source, &block, &err));
	}
	name[0] = 'y';
	wire_name_set(&block.name, name);
	EXPECT_EQ(-E2BIG, source_add_block(w.source, &block, &err));
	source_connected(w.source, w.now_ns);
	while (w.model.in.blocks.count < RAM_BLOCKS_MAX && batches++ < 10) {
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
	}
	EXPECT_EQ(2u, batches);
	EXPECT_FALSE(w.model.strange);
	EXPECT_EQ(RAM_BLOCKS_MAX, w.model.in.blocks.count);
	EXPECT_STREQ(name + 4, w.model.in.blocks.block[255].name.text + 4);
	world_fini(&w);
}

TEST(first_round_sends_every_page_once)
{
	struct world w;

	world_init(&w, &plain, small, 2);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	while (source_pages_left(w.source)) {
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
		EXPECT_LE(w.batch->bytes, BATCH_BYTES + 2 * TARGET_PAGE);
	}
	EXPECT_EQ(1u, world_came(&w, true));
	EXPECT_EQ(1u, world_came(&w, false));
	EXPECT_EQ(133u, w.model.zeros);
	EXPECT_EQ(133u, source_get_counters(w.source)->pages_zero);
	EXPECT_EQ(664u - 133u, source_get_counters(w.source)->pages_normal);
	EXPECT_TRUE(world_equal(&w));
	EXPECT_EQ(w.tape[0].length, source_get_counters(w.source)->bytes[CHANNEL_MAIN]);
	world_fini(&w);
}

/* Headers of zero pages lie side by side, and so they are one piece. */
TEST(zero_pages_cost_nine_bytes_and_no_piece_of_their_own)
{
	struct world w;

	world_init(&w, &plain, small, 2);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(1u, w.batch->count);
	EXPECT_EQ(PART_HEAD + 664u * 9u + 7u + 8u + PART_TAIL, w.batch->bytes);
	EXPECT_EQ(0u, source_pages_left(w.source));
	world_fini(&w);
}

TEST(page_written_behind_the_cursor_comes_again)
{
	struct world w;

	world_init(&w, &plain, small, 2);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	world_step(&w);
	ASSERT_EQ(SOURCE_SEND, world_ask(&w));
	/* between the look at the page and the send of it */
	world_write(&w, 0, 7, 0xaa);
	world_write(&w, 0, 5, 0x55); /* was zero */
	world_deliver(&w);
	EXPECT_FALSE(world_equal(&w));
	ASSERT_TRUE(world_run_to(&w, SOURCE_DONE));
	EXPECT_TRUE(world_equal(&w));
	EXPECT_EQ(2u, w.model.came[0][7]);
	EXPECT_EQ(2u, w.model.came[0][5]);
	EXPECT_EQ(1u, w.model.came[0][6]);
	EXPECT_EQ(1u, w.rounds);
	world_fini(&w);
}

/* So many pages written in each round, fewer every time. */
static unsigned dirty_pages;

static void dirty_fewer(struct world *w)
{
	for (unsigned i = 0; i < dirty_pages; i++)
		world_write(w, 0, i, (uint8_t)w->rounds);
	dirty_pages /= 2;
}

TEST(switches_over_when_the_rest_fits_into_the_downtime)
{
	struct source_config config = plain;
	struct world w;

	/* 64 MiB/s: 100 pages and their headers take 6.12 ms */
	config.downtime_ns = 6200000;
	dirty_pages = 400;
	world_init(&w, &config, small, 2);
	world_scribble(&w);
	w.bytes_per_s = 64 << 20;
	w.on_round = dirty_fewer;
	source_connected(w.source, w.now_ns);
	dirty_fewer(&w); /* during the first round: 400 */
	ASSERT_TRUE(world_run_to(&w, SOURCE_DONE));
	/* ends with 400, 200, 100 dirty; what was written after the last look comes too */
	EXPECT_EQ(3u, w.rounds);
	EXPECT_EQ(4u, w.model.came[0][0]);
	EXPECT_TRUE(world_equal(&w));
	EXPECT_GT(source_get_counters(w.source)->bandwidth, 60u << 20);
	EXPECT_LT(source_get_counters(w.source)->bandwidth, 68u << 20);
	/* the last round: 100 pages while 200 were sent, 12.2 ms */
	EXPECT_GT(source_get_counters(w.source)->dirty_rate, 8000u);
	EXPECT_LT(source_get_counters(w.source)->dirty_rate, 8400u);
	world_fini(&w);
}

/* EOF, description and nothing behind; state is what lies in front. */
static bool device_arrived(const struct world *w, const void *data, size_t bytes, bool own)
{
	const struct tape *tape = &w->model.device;
	size_t state, json, json_length, at = 0, length;
	struct wh_err err;

	if (device_end(tape->bytes, tape->length, &state, &json, &json_length, &err) != 1 ||
	    json + json_length != tape->length)
		return false;
	length = state;
	if (own && device_own(tape->bytes, state, &at, &length, &err) != 1)
		return false;
	return length == bytes && (!bytes || !memcmp(tape->bytes + at, data, bytes));
}

TEST(precopy_without_return_path_is_done_when_written)
{
	struct world w;

	world_init(&w, &plain, small, 2);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	ASSERT_EQ(SOURCE_ENDED, world_run(&w));
	EXPECT_EQ(SOURCE_DONE, source_get_phase(w.source));
	EXPECT_EQ(SOURCE_DONE, w.phase);
	EXPECT_EQ(4u, w.moves); /* precopy, switchover, handover, done */
	EXPECT_EQ(1u, w.pauses);
	EXPECT_EQ(0u, w.resumes);
	EXPECT_TRUE(w.paused);
	EXPECT_TRUE(world_equal(&w));
	EXPECT_TRUE(device_arrived(&w, w.device, w.device_bytes, true));
	EXPECT_FALSE(w.model.strange);
	EXPECT_GT(source_get_counters(w.source)->downtime_ns, 0u);
	EXPECT_EQ(SOURCE_ENDED, world_ask(&w));
	world_fini(&w);
}

TEST(device_state_of_qemu_goes_as_it_is)
{
	static const uint8_t section[] = "\4\0\0\0\0\5timer\0\0\0\0\0\0\0\2abcdefgh\x7e\0\0\0\0";
	struct world w;

	world_init(&w, &plain, small, 2);
	w.device = section;
	w.device_bytes = sizeof(section) - 1;
	w.device_format = WH_DEVICE_QEMU;
	source_connected(w.source, w.now_ns);
	world_run(&w);
	EXPECT_TRUE(device_arrived(&w, section, sizeof(section) - 1, false));
	EXPECT_EQ('{', w.model.device.bytes[w.model.device.length - 2]);
	world_fini(&w);
}

/* A VMM without any: no section at all, which every destination understands. */
TEST(no_device_state_is_no_section)
{
	for (unsigned post = 0; post < 2; post++) {
		struct package package;
		struct world w;

		world_init(&w, post ? &postcopy : &plain, small, 2);
		w.device = NULL;
		w.device_bytes = 0;
		w.device_format = WH_DEVICE_QEMU;
		world_scribble(&w);
		source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		world_run(&w);
		EXPECT_FALSE(w.model.strange);
		EXPECT_TRUE(w.model.eof);
		EXPECT_TRUE(world_equal(&w));
		if (post) {
			ASSERT_EQ(0, package_get(w.model.package.bytes, w.model.package.length,
						 &package, &w.err));
			EXPECT_EQ(0u, package.state_length);
		} else {
			EXPECT_TRUE(device_arrived(&w, NULL, 0, false));
		}
		world_fini(&w);
	}
}

TEST(shut_decides_after_precopy)
{
	for (uint32_t value = 0; value < 2; value++) {
		struct world w;

		world_init(&w, &answered, small, 2);
		source_connected(w.source, w.now_ns);
		ASSERT_TRUE(world_run_to(&w, SOURCE_HANDOVER));
		EXPECT_EQ(SOURCE_WAIT, world_run(&w));
		EXPECT_EQ(UINT64_MAX, source_wake_ns(w.source));
		ASSERT_EQ(0, world_shut(&w, value));
		EXPECT_GT(w.asks, 0u);
		EXPECT_EQ(value ? -EREMOTEIO : SOURCE_ENDED, world_ask(&w));
		EXPECT_EQ(value ? SOURCE_FAILED : SOURCE_DONE, w.phase);
		EXPECT_EQ(value, w.resumes);
		EXPECT_EQ(!value, w.paused);
		EXPECT_EQ(value != 0, strstr(w.reason.text, "SHUT 1") != NULL);
		world_fini(&w);
	}
}

/* The first record behind the package names its block, whatever was sent last before. */
/* So many ranges that their commands do not fit into one batch. */
/* The guest goes on running, and pages on crossing, until the urgent channel is there. */
TEST(bad_blocks_are_refused)
{
	static struct region region = { .length = 8192, .page_size = 4096 };
	static uint64_t dirty;
	struct source_block block = { .region = &region, .dirty = &dirty };
	struct wh_err err;
	struct world w;

	world_init(&w, &plain, NULL, 0);
	EXPECT_EQ(-EINVAL, source_add_block(w.source, &block, &err));
	wire_name_set(&block.name, "a");
	region.length = 4097;
	EXPECT_EQ(-EINVAL, source_add_block(w.source, &block, &err));
	region.length = 0;
	EXPECT_EQ(-EINVAL, source_add_block(w.source, &block, &err));
	region.length = 12288;
	region.page_size = 12288;
	EXPECT_EQ(-EINVAL, source_add_block(w.source, &block, &err));
	region.page_size = 2048;
	EXPECT_EQ(-EINVAL, source_add_block(w.source, &block, &err));
	region.page_size = 4096;
	dirty = ~UINT64_C(0);
	EXPECT_EQ(0, source_add_block(w.source, &block, &err));
	EXPECT_EQ(7u, dirty);
	EXPECT_EQ(-EEXIST, source_add_block(w.source, &block, &err));
	EXPECT_EQ(3u, source_pages_left(w.source));
	EXPECT_EQ(&region, source_get_block(w.source, 0)->region);
	world_fini(&w);
}

/* A peer that owes its last word and says nothing is as good as gone. */
TEST(silence_after_the_end)
{
	for (int post = 0; post < 2; post++) {
		struct source_config config = post ? postcopy : answered;
		struct world w;

		config.dead_peer_ns = 5 * WORLD_S;
		world_init(&w, &config, small, 2);
		source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		run_to_answer(&w);
		ASSERT_EQ(SOURCE_WAIT, world_ask(&w));
		EXPECT_EQ(w.now_ns + 5 * WORLD_S, source_wake_ns(w.source));
		w.now_ns += 4 * WORLD_S;
		ASSERT_EQ(0, world_pong(&w, 3)); /* it lives */
		ASSERT_EQ(SOURCE_WAIT, world_ask(&w));
		EXPECT_EQ(w.now_ns + 5 * WORLD_S, source_wake_ns(w.source));
		w.now_ns += 5 * WORLD_S - 1;
		ASSERT_EQ(SOURCE_WAIT, world_ask(&w));
		w.now_ns++;
		EXPECT_EQ(-ETIMEDOUT, world_ask(&w));
		EXPECT_EQ(post ? SOURCE_PAUSED : SOURCE_UNKNOWN, w.phase);
		EXPECT_EQ(0u, w.resumes);
		EXPECT_NE(NULL, strstr(w.reason.text, "said nothing"));
		EXPECT_NE(NULL, strstr(w.reason.text, "stays stopped"));
		EXPECT_EQ(SOURCE_ENDED, world_ask(&w));
		world_fini(&w);
	}
}

/* Neither way is gone before the destination has said that it is ready. */
TEST(no_switch_before_it_is_acknowledged)
{
	static const struct rp_msg ack = { .kind = RP_SWITCHOVER_ACK };

	for (unsigned later = 0; later < 2; later++) {
		const struct source_config config = {
			.downtime_ns = WORLD_S,
			.switchover_ack = true,
			.postcopy = later,
		};
		struct world w;

		world_init(&w, &config, small, 2);
		world_scribble(&w);
		source_connected(w.source, w.now_ns);
		if (later)
			source_want_postcopy(w.source);
		for (unsigned i = 0; i < 500; i++)
			ASSERT_LE(0, world_step(&w));
		EXPECT_EQ(SOURCE_PRECOPY, source_get_phase(w.source));
		EXPECT_EQ(0, w.pauses);
		/* it rests in between, since there is nothing to do */
		EXPECT_LT(5 * WORLD_S, w.now_ns);
		EXPECT_EQ(CMD_OPEN_RETURN_PATH, w.model.command[0].kind);
		ASSERT_LE(0, world_say(&w, &ack));
		EXPECT_TRUE(world_run_to(&w, later ? SOURCE_POSTCOPY : SOURCE_HANDOVER));
		EXPECT_EQ(1, w.pauses);
		EXPECT_TRUE(later || world_equal(&w));
		world_fini(&w);
	}
}

TEST_HARNESS_MAIN
