/* SPDX-License-Identifier: GPL-2.0 */
/* The id of a migration: postcopy/source_switch.c, source_recover.c */
#include "base/bytes.h"
#include "postcopy/source_internal.h"
#include "selftests/postcopy/source_world.h"
#include "wire/bitmap.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "pc.ram", 300, 4096 },
};

static int numbers(void *ctx, struct identity_number *number, struct wh_err *err)
{
	static uint64_t next = 100;

	(void)ctx;
	(void)err;
	*number = (struct identity_number){ .high = next, .low = next + 1 };
	next += 2;
	return 0;
}

static int no_numbers(void *ctx, struct identity_number *number, struct wh_err *err)
{
	(void)ctx;
	(void)number;
	return err_set(err, -EIO, "no numbers today");
}

static struct source_ops ops;

static void begin(struct world *w, enum wh_urgent urgent)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.urgent = urgent,
		.dead_peer_ns = WORLD_S,
		.postcopy_bandwidth = 10 << 20,
	};

	world_init(w, &config, blocks, 1);
	world_scribble(w);
	w->open_answers = true;
	ops = world_ops;
	ops.random = numbers;
	w->source->ops = &ops;
	source_connected(w->source, w->now_ns);
	source_want_postcopy(w->source);
}

static const struct cmd_msg *find(const struct world *w, enum cmd_kind kind)
{
	for (unsigned i = 0; i < w->model.commands; i++)
		if (w->model.command[i].kind == kind)
			return &w->model.command[i];
	return NULL;
}

static bool says_who(const struct world *w)
{
	for (unsigned i = 0; i < w->model.commands; i++)
		if (w->model.command[i].kind == CMD_PING &&
		    w->model.command[i].ping.value == PING_WHO)
			return true;
	return false;
}

/* A QEMU sends back what it does not know: it is never told an id. */
TEST(a_stranger_never_sees_it)
{
	struct world w;

	begin(&w, WH_URGENT_OFF);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_TRUE(says_who(&w));
	ASSERT_EQ(0, world_pong(&w, 1));
	ASSERT_EQ(0, world_pong(&w, PING_WHO));
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_NE(NULL, find(&w, CMD_PACKAGED));
	for (unsigned i = 0; i < w.model.commands; i++)
		EXPECT_LE(w.model.command[i].kind, CMD_SWITCHOVER_START);
	source_link_lost(w.source, CHANNEL_MAIN, NULL, w.now_ns);
	w.tape[CHANNEL_MAIN].length = w.model.taken[CHANNEL_MAIN] = w.model.commands = 0;
	stream_in_resume(&w.model.in);
	source_reconnected(w.source, false, w.now_ns);
	ASSERT_EQ(SOURCE_SEND, world_step(&w));
	EXPECT_EQ(CMD_RECV_BITMAP, w.model.command[0].kind);
	world_fini(&w);
}

/* It is waited for, as long as for anything that is owed. */
TEST(the_switch_waits_for_who_it_is)
{
	uint64_t begun_ns;
	struct world w;

	begin(&w, WH_URGENT_OFF);
	begun_ns = w.now_ns;
	ASSERT_EQ(0, world_pong(&w, 1));
	while (w.phase == SOURCE_PRECOPY) {
		for (uint64_t page = 0; page < 300; page++)
			world_write(&w, 0, page, 1);
		world_step(&w);
	}
	EXPECT_LE(begun_ns + WORLD_S, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	world_deliver(&w);
	EXPECT_EQ(NULL, find(&w, CMD_WHERRY_ID));
	world_fini(&w);
}

TEST(without_numbers_it_fails_in_time)
{
	struct world w;

	begin(&w, WH_URGENT_OFF);
	ops.random = no_numbers;
	ASSERT_EQ(0, world_pong(&w, PONG_OURS));
	while (w.phase == SOURCE_PRECOPY || w.phase == SOURCE_SWITCHOVER)
		world_step(&w);
	EXPECT_EQ(SOURCE_FAILED, w.phase);
	EXPECT_NE(NULL, strstr(w.reason.text, "no numbers today"));
	EXPECT_EQ(NULL, find(&w, CMD_PACKAGED));
	EXPECT_EQ(1, w.resumes);
	world_fini(&w);
}

FIXTURE(again)
{
	struct world w;
	struct identity who; /* as the destination knows it */
};

FIXTURE_VARIANT(again)
{
	enum wh_urgent urgent;
};

FIXTURE_VARIANT_ADD(again, off){ .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(again, at_start){ .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(again, at_switch){ .urgent = WH_URGENT_AT_SWITCH };

static void reconnect(struct world *w)
{
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		w->tape[i].length = w->model.taken[i] = 0;
	stream_in_resume(&w->model.in);
	ram_in_init(&w->model.urgent, true);
	w->model.commands = 0;
	source_reconnected(w->source, true, w->now_ns);
}

/* In postcopy with one of ours, and on a second connection, where it has said hello */
FIXTURE_SETUP(again)
{
	struct world *w = &self->w;
	const struct cmd_msg *id;

	begin(w, variant->urgent);
	ASSERT_EQ(0, world_pong(w, PONG_OURS));
	ASSERT_TRUE(world_run_to(w, SOURCE_POSTCOPY));
	/* in the batch that makes it start, in front of that */
	ASSERT_EQ(SOURCE_POSTCOPY, w->phase);
	world_deliver(w);
	id = find(w, CMD_WHERRY_ID);
	ASSERT_NE(NULL, id);
	ASSERT_LT(id, find(w, CMD_PACKAGED));
	self->who.id.high = id->wherry_id.high;
	self->who.id.low = id->wherry_id.low;
	source_link_lost(w->source, CHANNEL_MAIN, NULL, w->now_ns);
	ASSERT_EQ(SOURCE_PAUSED, w->phase);
	reconnect(w);
	ASSERT_EQ(SOURCE_SEND, world_step(w));
	ASSERT_EQ(1, w->model.commands);
	ASSERT_EQ(CMD_WHERRY_HELLO, w->model.command[0].kind);
	self->who.source.high = w->model.command[0].wherry_hello.high;
	self->who.source.low = w->model.command[0].wherry_hello.low;
	self->who.dest = (struct identity_number){ 7, 8 };
	/* and waits */
	ASSERT_EQ(SOURCE_WAIT, world_ask(w));
}

FIXTURE_TEARDOWN(again)
{
	world_fini(&self->w);
}

static int hello(FIXTURE_DATA(again) *self, uint64_t wrong)
{
	struct rp_msg msg = { .kind = RP_WHERRY_HELLO };

	msg.wherry_hello.high = self->who.dest.high;
	msg.wherry_hello.low = self->who.dest.low;
	msg.wherry_hello.proof = identity_proof(&self->who, IDENTITY_DEST) ^ wrong;
	return world_say(&self->w, &msg);
}

TEST_F(again, who_proves_it_is_resumed)
{
	static const uint64_t none[5];
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };
	uint8_t buf[RP_MSG_MAX + BITMAP_FRAME + 300 / 8 + 8];
	struct world *w = &self->w;
	size_t used, length;

	ASSERT_EQ(0, hello(self, 0)) TH_LOG("%s", w->err.text);
	ASSERT_EQ(SOURCE_SEND, world_step(w));
	ASSERT_EQ(CMD_WHERRY_PROOF, w->model.command[1].kind);
	EXPECT_EQ(identity_proof(&self->who, IDENTITY_SOURCE),
		  w->model.command[1].wherry_proof.proof);
	ASSERT_EQ(SOURCE_SEND, world_step(w));
	ASSERT_EQ(CMD_RECV_BITMAP, w->model.command[2].kind);
	wire_name_set(&msg.recv_bitmap.block, "pc.ram");
	length = rp_put(buf, &msg);
	length += bitmap_put(buf + length, none, 300);
	ASSERT_EQ(0, world_input(w, buf, length, &used));
	ASSERT_EQ(SOURCE_SEND, world_step(w));
	ASSERT_EQ(0, world_say(w, &(struct rp_msg){ .kind = RP_RESUME_ACK, .resume_ack = { 1 } }));
	ASSERT_EQ(SOURCE_SEND, world_ask(w));
	ASSERT_EQ(SOURCE_POSTCOPY, w->phase);
	if (variant->urgent == WH_URGENT_OFF)
		return;
	/* at once, since the destination looks for it, and once */
	ASSERT_TRUE(source_urgent(w->source, w->urgent));
	EXPECT_EQ(8, w->urgent->bytes);
	EXPECT_EQ(get_be64(w->urgent->iov[0].iov_base),
		  identity_proof(&self->who, IDENTITY_URGENT));
	source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
	for (unsigned i = 0; i < 2; i++) {
		ASSERT_EQ(0, world_request(w, 0, 290 + i, 1));
		ASSERT_TRUE(source_urgent(w->source, w->urgent));
		EXPECT_NE(get_be64(w->urgent->iov[0].iov_base),
			  identity_proof(&self->who, IDENTITY_URGENT));
		source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
	}
}

static void refused(FIXTURE_DATA(again) *self, struct __test_metadata *_metadata, int ret,
		    const char *why)
{
	struct world *w = &self->w;
	unsigned commands = w->model.commands;

	EXPECT_EQ(-EPROTO, ret);
	EXPECT_NE(NULL, strstr(w->err.text, why)) TH_LOG("%s", w->err.text);
	EXPECT_EQ(SOURCE_WAIT, world_ask(w));
	source_link_lost(w->source, CHANNEL_MAIN, &w->err, w->now_ns);
	EXPECT_EQ(SOURCE_PAUSED, w->phase);
	EXPECT_EQ(commands, w->model.commands);
	EXPECT_EQ(0, w->resumes);
}

TEST_F(again, another_id_is_refused)
{
	refused(self, _metadata, hello(self, 1), "wrong id");
}

TEST_F(again, a_bitmap_instead_is_refused)
{
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };

	wire_name_set(&msg.recv_bitmap.block, "pc.ram");
	refused(self, _metadata, world_say(&self->w, &msg), "not proved");
}

TEST_F(again, an_answer_in_front_of_the_question_is_refused)
{
	source_link_lost(self->w.source, CHANNEL_MAIN, NULL, self->w.now_ns);
	reconnect(&self->w);
	EXPECT_EQ(-EPROTO, hello(self, 0));
	EXPECT_NE(NULL, strstr(self->w.err.text, "nothing was said for"));
}

/* Another connection, another number: what was said on the one before proves nothing. */
TEST_F(again, an_old_answer_is_refused)
{
	source_link_lost(self->w.source, CHANNEL_MAIN, NULL, self->w.now_ns);
	reconnect(&self->w);
	ASSERT_EQ(SOURCE_SEND, world_step(&self->w));
	refused(self, _metadata, hello(self, 0), "wrong id");
}

TEST_F(again, a_second_answer_is_refused)
{
	ASSERT_EQ(0, hello(self, 0));
	EXPECT_EQ(-EPROTO, hello(self, 0));
}

TEST_HARNESS_MAIN
