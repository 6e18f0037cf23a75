/* SPDX-License-Identifier: GPL-2.0 */
/* Requests: what is taken, what is refused, and how fast and whole the answers go. */
#include "base/bytes.h"
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

TEST(bad_messages_are_refused_with_a_sentence)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *says;
	} bad[] = {
#define BAD(bytes, says) { bytes, sizeof(bytes) - 1, says }
		/* kinds there are not, kinds not now, lengths not theirs */
		BAD("\0\0\0\0", ""),
		BAD("\0\10\0\0", ""),
		BAD("\377\377\0\0", ""),
		BAD("\0\1\0\3\0\0\0", ""),
		BAD("\0\2\0\5\0\0\0\0\0", ""),
		BAD("\0\7\0\1\0", ""),
		BAD("\0\4\2\1", ""),
		BAD("\0\5\0\7\6pc.ram", "RECV_BITMAP in phase postcopy"),
		BAD("\0\6\0\4\0\0\0\1", "RESUME_ACK in phase postcopy"),
		BAD("\0\7\0\0", "SWITCHOVER_ACK in phase postcopy"),
		BAD("\0\1\0\4\0\0\0\0", "SHUT 0 in phase postcopy"),
		/* blocks there are not */
		BAD("\0\4\0\14\0\0\0\0\0\0\0\0\0\0\x10\0", "no block at all"),
		BAD("\0\3\0\17\0\0\0\0\0\0\0\0\0\0\x10\0\2pc", "unknown block \"pc\""),
		BAD("\0\3\0\24\0\0\0\0\0\0\0\0\0\0\x10\0\7pc.ramx", "unknown block"),
		/* ranges that are not pages, or not in the block (8 MiB, 256 KiB) */
		BAD("\0\3\0\23\0\0\0\0\0\0\0\1\0\0\x10\0\6pc.ram", "not in pages of 0x1000"),
		BAD("\0\3\0\23\0\0\0\0\0\0\0\0\0\0\x10\1\6pc.ram", "not in pages of 0x1000"),
		BAD("\0\3\0\21\0\0\0\0\0\0\0\0\0\0\x10\0\4huge", "not in pages of 0x10000"),
		BAD("\0\3\0\21\0\0\0\0\0\0\x10\0\0\1\0\0\4huge", "not in pages of 0x10000"),
		BAD("\0\3\0\23\0\0\0\0\0\x80\0\0\0\0\x10\0\6pc.ram", "it has 0x800000"),
		BAD("\0\3\0\23\0\0\0\0\0\x7f\xf0\0\0\0\x20\0\6pc.ram", "it has 0x800000"),
		BAD("\0\3\0\23\0\0\0\0\0\0\0\0\xff\xff\xf0\0\6pc.ram", "it has 0x800000"),
		BAD("\0\3\0\23\xff\xff\xff\xff\xff\xff\xf0\0\0\0\x10\0\6pc.ram", "it has 0x800000"),
		BAD("\0\3\0\23\xff\xff\xff\xff\xff\xff\xf0\0\0\0\x20\0\6pc.ram", "it has 0x800000"),
		BAD("\0\3\0\21\0\0\0\0\0\4\0\0\0\1\0\0\4huge", "it has 0x40000"),
#undef BAD
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t left;
		struct world w;
		size_t used;

		begin(&w, &main_only);
		left = source_pages_left(w.source);
		ASSERT_EQ(0, world_pong(&w, 3));
		w.err.text[0] = '\0';
		EXPECT_EQ(-EPROTO, world_input(&w, bad[i].bytes, bad[i].length, &used))
		{
			TH_LOG("message %u", i);
		}
		EXPECT_EQ(0u, used);
		EXPECT_NE(NULL, strstr(w.err.text, "return path, byte 8"));
		EXPECT_NE(NULL, strstr(w.err.text, bad[i].says))
		{
			TH_LOG("message %u: %s", i, w.err.text);
		}
		/* it is for the bulk thread to say what that means */
		EXPECT_EQ(SOURCE_POSTCOPY, source_get_phase(w.source));
		EXPECT_EQ(left, source_pages_left(w.source));
		EXPECT_EQ(0u, source_get_counters(w.source)->requests);
		source_link_lost(w.source, CHANNEL_MAIN, &w.err, w.now_ns);
		EXPECT_EQ(SOURCE_PAUSED, w.phase);
		EXPECT_EQ(0u, w.resumes);
		world_fini(&w);
	}
}

/* Every number of a kind, with every length that is not its own */
TEST(lengths_are_checked_for_every_kind)
{
	struct world w;

	begin(&w, &main_only);
	for (unsigned kind = 0; kind < 300; kind++) {
		for (unsigned length = 0; length < 600; length++) {
			uint8_t buf[4 + 600] = { (uint8_t)(kind >> 8), (uint8_t)kind,
						 (uint8_t)(length >> 8), (uint8_t)length };
			bool own = kind == RP_SHUT || kind == RP_PONG || kind == RP_RESUME_ACK ?
					   length == 4 :
				   kind == RP_REQ_PAGES	     ? length == 12 :
				   kind == RP_SWITCHOVER_ACK ? length == 0 :
				   kind == RP_REQ_PAGES_ID   ? length == 13 + 5 :
				   kind == RP_RECV_BITMAP    ? length == 1 + 5 :
				   kind == RP_WHERRY_HELLO   ? length == 24 :
							       false;
			size_t used;

			if (own)
				continue;
			/* a name of five bytes, where there is one */
			buf[4 + (kind == RP_REQ_PAGES_ID ? 12 : 0)] = 5;
			w.source->reply_block = 0;
			EXPECT_EQ(-EPROTO, world_input(&w, buf, 4 + length, &used))
			{
				TH_LOG("kind %u, length %u", kind, length);
			}
		}
	}
	EXPECT_EQ(0u, source_get_counters(w.source)->requests);
	world_fini(&w);
}

TEST(every_kind_in_every_phase_as_the_table_says)
{
	static const struct rp_msg said[] = {
		{ .kind = RP_SHUT, .shut = { 1 } },
		{ .kind = RP_PONG },
		{ .kind = RP_REQ_PAGES_ID, .req_pages_id = { .block = { 6, "pc.ram" } } },
		{ .kind = RP_REQ_PAGES },
		{ .kind = RP_RECV_BITMAP, .recv_bitmap = { .block = { 6, "pc.ram" } } },
		{ .kind = RP_RESUME_ACK, .resume_ack = { 1 } },
		{ .kind = RP_SWITCHOVER_ACK },
		{ .kind = RP_WHERRY_HELLO },
	};

	for (unsigned i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
		for (unsigned post = 0; post < 2; post++) {
			enum source_phase phase = SOURCE_SETUP;
			struct source_config config = main_only;
			struct world w;

			config.downtime_ns = post ? 1 : WORLD_S;
			world_init(&w, &config, blocks, 2);
			world_scribble(&w);
			for (unsigned step = 0; step < 120; step++) {
				bool accepts;

				phase = source_get_phase(w.source);
				accepts = source_phase_accepts(phase, said[i].kind);
				/* names a block once, so that REQ_PAGES has one */
				if (said[i].kind == RP_REQ_PAGES)
					w.source->reply_block = 0;
				EXPECT_EQ(accepts ? 0 : -EPROTO, world_say(&w, &said[i]))
				{
					TH_LOG("%s in %s", rp_name(said[i].kind),
					       source_phase_name(phase));
				}
				w.source->shut = 0; /* as if it were the first */
				if (step == 0)
					source_connected(w.source, w.now_ns);
				if (step == 3 && post)
					source_want_postcopy(w.source);
				world_step(&w);
			}
			EXPECT_EQ(post ? SOURCE_ENDING : SOURCE_HANDOVER, phase);
			world_fini(&w);
		}
	}
}

TEST(nothing_comes_after_shut)
{
	struct world w;

	begin(&w, &main_only);
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	ASSERT_EQ(0, world_shut(&w, 0));
	EXPECT_EQ(-EPROTO, world_pong(&w, 4));
	EXPECT_NE(NULL, strstr(w.err.text, "PONG after SHUT"));
	/* and yet SHUT was said */
	source_link_lost(w.source, CHANNEL_MAIN, &w.err, w.now_ns);
	EXPECT_EQ(SOURCE_DONE, w.phase);
	/* of one that has ended everything is taken and nothing is heard */
	EXPECT_EQ(0, world_pong(&w, 4));
	world_fini(&w);
}

TEST(messages_come_in_pieces)
{
	struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };
	uint8_t buf[2 * RP_MSG_MAX];
	size_t length, used;
	struct world w;

	begin(&w, &main_only);
	msg.req_pages_id.start = 100 * 4096;
	msg.req_pages_id.length = 4096;
	wire_name_set(&msg.req_pages_id.block, "pc.ram");
	length = rp_put(buf, &msg);
	for (size_t i = 0; i < length; i++) {
		ASSERT_EQ(0, world_input(&w, buf, i, &used));
		EXPECT_EQ(0u, used);
	}
	length += rp_put(buf + length,
			 &(struct rp_msg){ .kind = RP_REQ_PAGES, .req_pages = { 8192, 4096 } });
	ASSERT_EQ(0, world_input(&w, buf, length - 1, &used));
	EXPECT_EQ(23u, used);
	ASSERT_EQ(0, world_input(&w, buf + used, length - used, &used));
	EXPECT_EQ(16u, used);
	EXPECT_EQ(2u, source_get_counters(w.source)->requests);
	EXPECT_EQ(8u + 15u + 16u, source_get_counters(w.source)->bytes_return);
	world_step(&w);
	EXPECT_EQ(1u, w.model.came[0][100]);
	EXPECT_EQ(1u, w.model.came[0][2]);
	EXPECT_EQ(2u, w.model.pages);
	world_fini(&w);
}

/* Without an urgent channel: the next batch is the answer and nothing else. */
/* Zero pages are few bytes, but a batch of very many of them takes long to make. */
/* Zero pages are small: a batch of requests ends where the room for their times does. */
/* Asked for a lot at once: in pieces, ascending, and the tail is not lost. */
/* A request in the middle of a host page of the background: that is finished first. */
/* 512 records with contents are as many pieces as a batch has. */
/* The end waits for what was taken off the dirty map and is not sent yet. */
TEST(requests_for_clean_pages_and_empty_ones_are_ignored)
{
	struct world w;

	begin(&w, &main_only);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	w.asks = 0;
	ASSERT_EQ(0, world_request(&w, 0, 0, 1));
	ASSERT_EQ(0, world_request(&w, 0, 0, 8));
	ASSERT_EQ(0, world_request(&w, 0, 2048, 0));
	ASSERT_EQ(0, world_request(&w, 1, 0, 0));
	EXPECT_EQ(4u, source_get_counters(w.source)->requests);
	EXPECT_EQ(0u, w.asks);
	EXPECT_TRUE(source_queue_empty(w.source));
	/* clean by the time it is its turn */
	ASSERT_EQ(SOURCE_SEND, world_ask(&w));
	for (unsigned i = 0; i < 3; i++)
		ASSERT_EQ(0, world_request(&w, 0, 1000, 1));
	world_deliver(&w);
	w.model.pages = 0;
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(1u, w.model.pages);
	ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
	/* and after the end */
	ASSERT_EQ(0, world_request(&w, 0, 0, 2048));
	EXPECT_EQ(SOURCE_WAIT, world_ask(&w));
	EXPECT_EQ(1u, world_came(&w, true));
	world_fini(&w);
}

static bool step_either(struct world *w, bool urgent)
{
	return urgent ? world_step_urgent(w) : world_step(w) == SOURCE_SEND;
}

/* More requests than there is room for: the rest of the bytes waits, and nobody for ever. */
TEST(full_queue)
{
	for (unsigned urgent = 0; urgent < 2; urgent++) {
		static uint8_t buf[1100 * 16 + 32];
		size_t length, used, at = 0;
		struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };
		struct world w;

		begin(&w, urgent ? &with_urgent : &main_only);
		msg.req_pages_id.length = 4096;
		wire_name_set(&msg.req_pages_id.block, "pc.ram");
		length = rp_put(buf, &msg);
		for (unsigned i = 1; i < 1100; i++)
			length += rp_put(buf + length,
					 &(struct rp_msg){ .kind = RP_REQ_PAGES,
							   .req_pages = { i * 4096, 4096 } });
		/* SHUT would come behind them: it must not be stuck for ever */
		ASSERT_EQ(0, world_input(&w, buf, length, &used));
		EXPECT_EQ(23u + 1023u * 16u, used);
		EXPECT_EQ(SOURCE_QUEUE, source_get_counters(w.source)->requests);
		at += used;
		ASSERT_EQ(0, world_input(&w, buf + at, length - at, &used));
		EXPECT_EQ(0u, used);
		EXPECT_EQ(0u, w.serves);
		EXPECT_TRUE(step_either(&w, urgent));
		/* there is room again, and that is said once */
		EXPECT_EQ(1u, w.serves);
		ASSERT_EQ(0, world_input(&w, buf + at, length - at, &used));
		EXPECT_LT(0u, used);
		at += used;
		while (at < length) {
			EXPECT_TRUE(step_either(&w, urgent));
			ASSERT_EQ(0, world_input(&w, buf + at, length - at, &used));
			at += used;
		}
		while (!source_queue_empty(w.source)) {
			ASSERT_TRUE(step_either(&w, urgent));
		}
		while (world_step_urgent(&w))
			;
		for (unsigned i = 0; i < 1100; i++)
			EXPECT_EQ(1u, w.model.came[0][i]);
		ASSERT_TRUE(world_run_to(&w, SOURCE_ENDING));
		EXPECT_EQ(1u, world_came(&w, true));
		world_fini(&w);
	}
}

/* Of two that saw the bit one gets the page. */
/* The other thread is just clearing a host page's bits: the first is, the rest not yet. */
/* Neither takes a page the other has, whatever comes between the two. */

TEST_HARNESS_MAIN
