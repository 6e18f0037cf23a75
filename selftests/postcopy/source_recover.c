/* SPDX-License-Identifier: GPL-2.0 */
/* A break, and another connection: postcopy/source_recover.c */
#include "postcopy/source_internal.h"
#include "selftests/postcopy/source_world.h"
#include "wire/bitmap.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "pc.ram", 300, 4096 },
	{ "huge", 64, 32768 },
};

FIXTURE(again)
{
	struct world w;
};

FIXTURE_VARIANT(again)
{
	enum wh_urgent urgent;
};

FIXTURE_VARIANT_ADD(again, off){ .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(again, at_start){ .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(again, at_switch){ .urgent = WH_URGENT_AT_SWITCH };

/* In postcopy, with a batch half sent on each channel, and then the link is gone */
FIXTURE_SETUP(again)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.urgent = variant->urgent,
		.dead_peer_ns = WORLD_S,
		.postcopy_bandwidth = 10 << 20, /* a batch is not all of it */
	};
	struct world *w = &self->w;

	world_init(w, &config, blocks, 2);
	world_scribble(w);
	w->open_answers = true;
	source_connected(w->source, w->now_ns);
	ASSERT_EQ(0, world_pong(w, 1));
	source_want_postcopy(w->source);
	ASSERT_TRUE(world_run_to(w, SOURCE_POSTCOPY));
	ASSERT_EQ(SOURCE_SEND, world_ask(w));
	if (variant->urgent != WH_URGENT_OFF) {
		ASSERT_EQ(0, world_request(w, 1, 48, 8));
		ASSERT_TRUE(source_urgent(w->source, w->urgent));
	}
	source_link_lost(w->source, CHANNEL_MAIN, NULL, w->now_ns);
	ASSERT_EQ(SOURCE_PAUSED, w->phase);
	EXPECT_EQ(SOURCE_ENDED, world_ask(w));
}

FIXTURE_TEARDOWN(again)
{
	world_fini(&self->w);
}

/* The tape and the model begin anew: neither header nor list comes */
static void reconnect(struct world *w, bool urgent)
{
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		w->tape[i].length = 0;
		w->model.taken[i] = 0;
		w->model.open[i] = (struct source_span){ 0 };
	}
	stream_in_resume(&w->model.in);
	ram_in_init(&w->model.urgent, true);
	w->model.commands = 0;
	source_reconnected(w->source, urgent, w->now_ns);
}

static int bitmap(struct world *w, unsigned block, const char *name, const uint64_t *map)
{
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };
	uint8_t buf[RP_MSG_MAX + BITMAP_FRAME + 300 / 8 + 8];
	size_t length, used;
	int ret;

	wire_name_set(&msg.recv_bitmap.block, name);
	length = rp_put(buf, &msg);
	length += bitmap_put(buf + length, map, blocks[block].pages);
	/* byte by byte, as it may come */
	for (size_t have = 1, start = 0; start + have <= length;) {
		ret = world_input(w, buf + start, have, &used);
		if (ret < 0)
			return ret;
		start += used;
		have = have - used + 1;
		if (start == length)
			return 0;
	}
	return -EAGAIN;
}

static int bitmaps(struct world *w, const uint64_t map[2][5])
{
	int ret = bitmap(w, 0, "pc.ram", map[0]);

	return ret ? ret : bitmap(w, 1, "huge", map[1]);
}

static int ack(struct world *w, uint32_t value)
{
	return world_say(w, &(struct rp_msg){ .kind = RP_RESUME_ACK, .resume_ack = { value } });
}

TEST_F(again, handshake)
{
	static const uint64_t have[2][5] = { { ~UINT64_C(0), 0, 0xff }, { 0xfffff } };
	const struct model *m = &self->w.model;
	struct world *w = &self->w;
	unsigned asks = w->asks, opens = w->opens, serves = w->serves;

	reconnect(w, true);
	EXPECT_EQ(SOURCE_RECOVER, w->phase);
	/* all questions at once, and nothing else */
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(SOURCE_WAIT, world_ask(w));
	ASSERT_EQ(2, m->commands);
	EXPECT_EQ(CMD_RECV_BITMAP, m->command[0].kind);
	EXPECT_STREQ("pc.ram", m->command[0].recv_bitmap.block.text);
	EXPECT_STREQ("huge", m->command[1].recv_bitmap.block.text);
	ASSERT_EQ(0, bitmaps(w, have));
	EXPECT_EQ(asks + 2, w->asks);
	EXPECT_EQ(opens, w->opens);
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(opens + (variant->urgent == WH_URGENT_AT_SWITCH), w->opens);
	ASSERT_EQ(3, m->commands);
	EXPECT_EQ(CMD_POSTCOPY_RESUME, m->command[2].kind);
	EXPECT_EQ(SOURCE_WAIT, world_ask(w));
	ASSERT_EQ(0, ack(w, 1));
	/* requests do not wait for the bulk thread's turn */
	ASSERT_EQ(0, world_request(w, 1, 56, 8));
	EXPECT_EQ(SOURCE_RECOVER, w->phase);
	/* a host page of which any page is missing is missing: 16 of 20 are there */
	EXPECT_EQ(300 - 72 + 64 - 16, source_pages_left(w->source));
	memset(m->came[0], 0, 300 * sizeof(unsigned));
	memset(m->came[1], 0, 64 * sizeof(unsigned));
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(SOURCE_POSTCOPY, w->phase);
	EXPECT_EQ(serves + (variant->urgent != WH_URGENT_OFF), w->serves);
	/* the background is not there yet */
	EXPECT_EQ(variant->urgent != WH_URGENT_OFF, world_step_urgent(w));
	EXPECT_EQ(1, m->came[1][56]);
	world_run_to(w, SOURCE_ENDING);
	while (world_step_urgent(w))
		;
	world_run_to(w, SOURCE_ENDING);
	EXPECT_EQ(SOURCE_ENDING, w->phase);
	for (unsigned i = 0; i < 300; i++)
		EXPECT_EQ(!(have[0][i / 64] >> i % 64 & 1), m->came[0][i]);
	for (unsigned i = 0; i < 64; i++)
		EXPECT_EQ(i >= 16, m->came[1][i]);
	EXPECT_FALSE(m->strange || m->interleaved);
	ASSERT_EQ(0, world_shut(w, 0));
	EXPECT_EQ(SOURCE_ENDED, world_ask(w));
	EXPECT_EQ(SOURCE_DONE, w->phase);
	EXPECT_EQ(0u, w->resumes);
}

/* Again and again, broken off behind each message: what was told before counts for nothing. */
TEST_F(again, breaks_behind_every_message)
{
	static const uint64_t none[2][5] = { { 0 } };
	static const uint64_t some[2][5] = { { 0xff00 }, { 0xff } };
	struct world *w = &self->w;

	for (unsigned steps = 0; steps < 7; steps++) {
		reconnect(w, true);
		if (steps > 0)
			EXPECT_EQ(SOURCE_SEND, world_ask(w));
		if (steps > 1)
			world_deliver(w);
		if (steps > 2)
			ASSERT_EQ(0, bitmap(w, 0, "pc.ram", none[0]));
		if (steps > 3)
			ASSERT_EQ(0, bitmap(w, 1, "huge", none[1]));
		if (steps > 4)
			EXPECT_EQ(SOURCE_SEND, world_step(w));
		if (steps > 5)
			ASSERT_EQ(0, ack(w, 1));
		source_link_lost(w->source, CHANNEL_MAIN, NULL, w->now_ns);
		EXPECT_EQ(SOURCE_PAUSED, w->phase);
		EXPECT_NE(NULL, strstr(w->reason.text, "stays stopped"));
	}
	reconnect(w, true);
	world_step(w);
	ASSERT_EQ(0, bitmaps(w, some));
	world_step(w);
	ASSERT_EQ(0, ack(w, 1));
	EXPECT_EQ(300 - 8 + 64 - 8, source_pages_left(w->source));
	world_step(w);
	EXPECT_EQ(SOURCE_POSTCOPY, w->phase);
	EXPECT_EQ(0u, w->resumes);
}

/* Another link has no second connection: requests are served in front of the next batch. */
TEST_F(again, without_an_urgent_channel)
{
	static const uint64_t none[2][5] = { { 0 } };
	unsigned opens = self->w.opens;
	struct world *w = &self->w;

	reconnect(w, false);
	world_step(w);
	ASSERT_EQ(0, bitmaps(w, none));
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(opens, w->opens);
	ASSERT_EQ(0, ack(w, 1));
	ASSERT_EQ(0, world_request(w, 1, 40, 8));
	memset(w->model.came[1], 0, 64 * sizeof(unsigned));
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(1, w->model.came[1][40]);
	EXPECT_FALSE(world_step_urgent(w));
}

TEST_F(again, urgent_channel_is_refused)
{
	static const uint64_t none[2][5] = { { 0 } };
	struct world *w = &self->w;

	if (variant->urgent != WH_URGENT_AT_SWITCH)
		SKIP(return, "of those that open it late");
	for (unsigned later = 0; later < 2; later++) {
		w->open_answers = false;
		w->open_ret = later ? 0 : -ECONNREFUSED;
		reconnect(w, true);
		world_step(w);
		ASSERT_EQ(0, bitmaps(w, none));
		if (later) {
			EXPECT_EQ(SOURCE_WAIT, world_ask(w));
			source_urgent_opened(w->source, -ECONNREFUSED);
		}
		EXPECT_EQ(-ECONNREFUSED, world_ask(w));
		EXPECT_EQ(SOURCE_PAUSED, w->phase);
		EXPECT_NE(NULL, strstr(w->reason.text, "urgent channel"));
	}
	/* it is asked for the next time again */
	w->open_ret = 0;
	w->open_answers = true;
	reconnect(w, true);
	world_step(w);
	ASSERT_EQ(0, bitmaps(w, none));
	EXPECT_EQ(SOURCE_SEND, world_step(w));
	EXPECT_EQ(SOURCE_RECOVER, w->phase);
}

TEST_F(again, silent_destination)
{
	static const uint64_t none[2][5] = { { 0 } };
	struct world *w = &self->w;

	for (unsigned steps = 0; steps < 3; steps++) {
		reconnect(w, true);
		EXPECT_EQ(SOURCE_SEND, world_step(w));
		if (steps > 0)
			ASSERT_EQ(0, bitmap(w, 0, "pc.ram", none[0]));
		if (steps > 1) {
			ASSERT_EQ(0, bitmap(w, 1, "huge", none[1]));
			EXPECT_EQ(SOURCE_SEND, world_step(w));
		}
		EXPECT_EQ(SOURCE_WAIT, world_ask(w));
		EXPECT_EQ(w->now_ns + WORLD_S, source_wake_ns(w->source));
		/* the clock of the thread that hears may be ahead */
		w->now_ns -= 1000;
		EXPECT_EQ(SOURCE_WAIT, world_ask(w));
		w->now_ns += 1000;
		w->now_ns += WORLD_S;
		EXPECT_EQ(-ETIMEDOUT, world_ask(w));
		EXPECT_EQ(SOURCE_PAUSED, w->phase);
	}
}

/* A stranger at the other end */
TEST_F(again, refused)
{
	static const uint64_t none[2][5] = { { 0 } };
	struct world *w = &self->w;
	static const uint8_t bits[] = "\0\0\0\0\0\0\0\7";
	size_t used;

	reconnect(w, true);
	EXPECT_EQ(40 + BITMAP_FRAME < RP_MSG_MAX ? RP_MSG_MAX : 0, source_need(w->source));
	world_step(w);
	EXPECT_EQ(-EPROTO, world_request(w, 0, 0, 1));
	EXPECT_EQ(-EPROTO, world_shut(w, 0));
	EXPECT_EQ(-EPROTO, world_shut(w, 1));
	EXPECT_EQ(-EPROTO, world_pong(w, 1));
	EXPECT_EQ(-EPROTO, ack(w, 1));
	EXPECT_NE(NULL, strstr(w->err.text, "nothing was said for"));
	EXPECT_EQ(-EPROTO, bitmap(w, 1, "huge", none[1]));
	EXPECT_NE(NULL, strstr(w->err.text, "expected that of \"pc.ram\""));
	ASSERT_EQ(0, bitmaps(w, none));
	EXPECT_EQ(-EPROTO, bitmap(w, 0, "pc.ram", none[0]));
	world_step(w);
	EXPECT_EQ(-EPROTO, ack(w, 2));
	EXPECT_EQ(0, ack(w, 1));
	EXPECT_EQ(-EPROTO, ack(w, 1));

	source_link_lost(w->source, CHANNEL_MAIN, NULL, w->now_ns);
	reconnect(w, true);
	world_step(w);
	ASSERT_EQ(0, world_say(w, &(struct rp_msg){ .kind = RP_RECV_BITMAP,
						    .recv_bitmap.block = { 6, "pc.ram" } }));
	EXPECT_EQ(-EPROTO, world_input(w, bits, 8, &used));
	EXPECT_NE(NULL, strstr(w->err.text, "bitmap of 7 bytes, expected 40"));
}

TEST_HARNESS_MAIN
