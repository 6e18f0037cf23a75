/* SPDX-License-Identifier: GPL-2.0 */
/* The source's engine where not all of it can be registered. */
#include "selftests/rdma/vsource_world.h"

#include "kselftest_harness.h"

TEST_F(vsource, under_a_limit)
{
	static const unsigned limits[] = { 1, 2, 3, 7 };

	for (unsigned how = 0; how < 8; how++) {
		unsigned limit = limits[how / 2];

		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, limit * MIB, false);
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(limit, self->there_most);
		EXPECT_EQ(limit, self->here_most);
		EXPECT_EQ(self->source.registers - self->there_count, self->source.unregisters);
	}
}

TEST_F(vsource, less_than_a_chunk_is_one)
{
	set_limit(self, 4096, false);
	ASSERT_EQ(0, meet(self));
	write_all(self, 1);
	ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(1, self->there_most);
}

/* Nobody has said how much it may be, on one side or the other, or both */
TEST_F(vsource, a_limit_that_is_found_out)
{
	for (unsigned how = 0; how < 6; how++) {
		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, 0, true);
		self->there_room = how / 2 == 1 ? 0 : 3;
		self->here_room = how / 2 == 2 ? 0 : 2;
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(self->there_room ? 3 : 8, self->there_most);
		EXPECT_EQ(self->here_room ? 2 : self->there_most, self->here_most);
		EXPECT_EQ(self->there_room != 0, self->given_back > 0);
	}
}

/* A destination that says so gives up itself; the source, if it has nothing to unpin */
TEST_F(vsource, no_room_for_anything)
{
	set_limit(self, 0, true);
	ASSERT_EQ(0, meet(self));
	write_all(self, 1);
	self->there_room = 1;
	self->there_count = 1; /* not the source's */
	EXPECT_EQ(-ENOMEM, move_all(self));
	EXPECT_STREQ("no room", self->err.text);

	memset(&self->err, 0, sizeof(self->err));
	begin(self, CONTROL_SEVERAL);
	set_limit(self, 0, true);
	self->there_room = 0;
	ASSERT_EQ(0, meet(self));
	self->here_room = 1;
	self->here_count = 1;
	EXPECT_EQ(-ENOMEM, move_all(self));
}

/* Ours under a limit of two, with keys of the first two chunks: written, and @done of that complete */
static void write_two(FIXTURE_DATA(vsource) *self, bool done)
{
	struct vsource_write write;
	size_t bytes;

	set_limit(self, 2 * MIB, true);
	meet(self);
	memset(self->from[0], 1, 4 * MIB);
	open_bracket(self);
	hand_over(self, 0, 0, 512);
	while (self->writes < 2)
		switch (vsource_next(&self->source, self->message, &bytes, &write)) {
		case VSOURCE_SAY:
			tell(self, bytes);
			break;
		case VSOURCE_WRITE:
			carry(self, &write);
			break;
		case VSOURCE_PIN:
			pin(self, &write);
			break;
		case VSOURCE_UNPIN:
		case VSOURCE_WAIT:
			return;
		}
	if (done)
		complete(self, 2);
}

TEST_F(vsource, what_is_being_written_stays)
{
	struct control control;

	write_two(self, false);
	ASSERT_EQ(2, self->under_way);
	hand_over(self, 0, 512, 1);
	EXPECT_EQ(0, says(self, &control));
	complete(self, 1);
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, control.count);
	EXPECT_EQ(0, chunk_said(&control));
	EXPECT_EQ(1, self->under_way);
}

TEST_F(vsource, the_least_lately_used_goes)
{
	struct control control;

	write_two(self, true);
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 1));
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, chunk_said(&control));
}

/* Under a limit of three: of the first three chunks, which goes for the fourth? */
TEST_F(vsource, hints)
{
	static const struct {
		uint8_t hint[CHUNKS];
		uint64_t goes;
	} cases[] = {
		{ { 0 }, 0 },
		{ { VSOURCE_HOT }, 1 },
		{ { VSOURCE_HOT, VSOURCE_HOT }, 2 },
		{ { VSOURCE_HOT, VSOURCE_HOT, VSOURCE_HOT }, 0 },
		{ { 0, 0, VSOURCE_COLD }, 2 },
		{ { VSOURCE_HOT, 0, VSOURCE_COLD }, 2 },
		{ { 0, VSOURCE_COLD, VSOURCE_COLD }, 2 },
	};
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin(self, 0);
		set_limit(self, 3 * MIB, false);
		self->source.block[0].hint = cases[i].hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 768));
		ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 768, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control)) TH_LOG("case %u", i);
		EXPECT_EQ(cases[i].goes, chunk_said(&control)) TH_LOG("case %u", i);
	}
}

/* What is hot is asked for with others, if that leaves room */
TEST_F(vsource, what_is_hot_is_asked_for_ahead)
{
	static const uint8_t hint[CHUNKS] = { VSOURCE_COLD, 0, VSOURCE_HOT, VSOURCE_HOT };
	static const unsigned limits[] = { 0, 2, 4, 6 }, asked[] = { 3, 1, 2, 3 };
	struct control_ask ask;
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	for (unsigned i = 0; i < 4; i++) {
		begin(self, CONTROL_SEVERAL);
		set_limit(self, limits[i] * MIB, false);
		self->source.block[0].hint = hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 1));
		ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
		EXPECT_EQ(asked[i], control.count) TH_LOG("limit %u", limits[i]);
		control_get_ask(&control, control.count - 1, &ask);
		EXPECT_EQ(asked[i] == 1 ? 0 : asked[i] * MIB, ask.address);
	}
	/* the key is there when the page comes */
	ASSERT_EQ(0, tell(self, CONTROL_HEADER + control.length));
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_FALSE(self->wrong);
}

static int give_key(FIXTURE_DATA(vsource) *self, uint64_t chunk)
{
	struct control_grant got = { .rkey = key(0, chunk), .host = (uintptr_t)self->to[0] };
	int ret;

	self->granted[0][chunk] = true;
	control_put_grant(self->answer, 0, &got);
	ret = hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, 1, 0));
	return ret < 0 ? ret : ready(self);
}

static int give_finished(FIXTURE_DATA(vsource) *self, uint64_t chunk)
{
	int ret;

	self->granted[0][chunk] = false;
	ret = hear(self, control_put(self->answer, CONTROL_UNREGISTER_FINISHED, 1, 0));
	return ret < 0 ? ret : ready(self);
}

/* It is not read here any more, either, while the answer is on its way */
TEST_F(vsource, wanted_while_it_is_given_back)
{
	struct control control;

	write_two(self, true);
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	ASSERT_EQ(0, chunk_said(&control));
	ASSERT_TRUE(hand_over(self, 0, 0, 1));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_FALSE(self->here[0][0]);
	EXPECT_EQ(2, self->writes);
	ASSERT_EQ(0, give_finished(self, 0));
	/* what came first, then this: with a key that it is given anew */
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(2 * MIB, chunk_said(&control));
	ASSERT_EQ(0, give_key(self, 2));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, chunk_said(&control));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_EQ(3, self->writes);
	ASSERT_EQ(0, give_finished(self, 1));
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(0, chunk_said(&control));
	ASSERT_EQ(0, give_key(self, 0));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_EQ(4, self->writes);
	EXPECT_FALSE(self->wrong);
}

TEST_F(vsource, it_is_never_given_back)
{
	static const struct {
		enum control_kind kind;
		uint32_t count;
		int ret;
	} answers[] = { { CONTROL_READY, 1, -EPROTO },
			{ CONTROL_REGISTER_RESULT, 1, -EPROTO },
			{ CONTROL_UNREGISTER_FINISHED, 2, -EPROTO },
			{ CONTROL_UNREGISTER_FINISHED, 1, 0 } };
	struct control control;

	for (unsigned i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		begin(self, 0);
		self->writes = 0;
		write_two(self, true);
		ASSERT_TRUE(hand_over(self, 0, 512, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
		vsource_close(&self->source);
		EXPECT_EQ(0, says(self, &control));
		EXPECT_TRUE(vsource_is_open(&self->source));
		EXPECT_EQ(answers[i].ret, hear(self, control_put(self->answer, answers[i].kind,
								 answers[i].count, 0)))
		TH_LOG("answer %u", i);
		EXPECT_EQ(answers[i].ret != 0, self->err.text[0] != 0);
	}
}

/* Some in one message, and the others are being written meanwhile */
TEST_F(vsource, given_back_in_batches)
{
	struct vsource_chunk chunk[16] = { 0 };
	struct vsource_write write;
	unsigned under_way = 0, requests = 0, most = 0, busy = 0;
	uint8_t *memory = malloc(16 * MIB);
	size_t bytes;

	memset(memory, 1, 16 * MIB);
	vsource_init(&self->source, CONTROL_SEVERAL, WRITES);
	set_limit(self, 8 * MIB, false);
	vsource_add_block(&self->source, memory, 16 * MIB, chunk);
	self->source.listed = true;
	vsource_open(&self->source);
	ASSERT_EQ(0, ready(self));
	for (unsigned i = 0; i < 16; i++)
		ASSERT_TRUE(vsource_range(&self->source, 0, i * MIB, MIB));
	vsource_close(&self->source);
	while (vsource_is_open(&self->source)) {
		enum vsource_next next = vsource_next(&self->source, self->message, &bytes, &write);
		struct control_grant got = { .rkey = 1 };
		struct control control;

		under_way += next == VSOURCE_WRITE;
		if (next == VSOURCE_WAIT) {
			ASSERT_LT(0, under_way--);
			vsource_written(&self->source, 1);
		}
		if (next != VSOURCE_SAY)
			continue;
		ASSERT_EQ(0, control_get(self->message, bytes, &control, &self->err));
		if (control.kind == CONTROL_UNREGISTER_REQUEST) {
			requests++;
			busy += under_way > 0;
			if (control.count > most)
				most = control.count;
			ASSERT_EQ(0,
				  hear(self, control_put(self->answer, CONTROL_UNREGISTER_FINISHED,
							 control.count, 0)));
		} else if (control.kind == CONTROL_REGISTER_REQUEST) {
			for (unsigned i = 0; i < control.count; i++)
				control_put_grant(self->answer, i, &got);
			ASSERT_EQ(0, hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT,
							    control.count, 0)));
		}
		ASSERT_EQ(0, ready(self));
	}
	EXPECT_EQ(2, most);
	EXPECT_EQ(4, requests);
	EXPECT_LE(3, busy);
	free(memory);
}

TEST_HARNESS_MAIN
