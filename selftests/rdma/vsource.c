/* SPDX-License-Identifier: GPL-2.0 */
/* The source's engine: a connection, its stream and its writes; and all of it, at random. */
#include "selftests/rdma/vsource_world.h"

#include "kselftest_harness.h"

TEST_F(vsource, a_message_waits_for_room)
{
	struct vsource_write write;
	size_t bytes;

	EXPECT_FALSE(vsource_may_stream(&self->source));
	vsource_open(&self->source);
	EXPECT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(0, ready(self));
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_BLOCKS_REQUEST, get_be32(self->message + 4));
	EXPECT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
}

TEST_F(vsource, the_stream_outside_of_brackets)
{
	ASSERT_EQ(0, meet(self));
	EXPECT_TRUE(vsource_may_stream(&self->source));
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(0, ready(self));
	open_bracket(self);
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_TRUE(vsource_may_stream(&self->source));
}

/* Neighbours are one write up to a chunk's end; zeros are none, and pin nothing */
TEST_F(vsource, by_chunks)
{
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, MIB + PAGE);
	memset(self->from[1] + 2 * MIB, 2, PAGE);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 1024));
	ASSERT_TRUE(hand_over(self, 1, 0, 513));
	ASSERT_TRUE(hand_over(self, 2, 0, 1));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(3, self->writes);
	EXPECT_EQ(2 * MIB + PAGE, self->source.written_bytes);
	EXPECT_EQ(4 * MIB + PAGE, self->source.zero_bytes);
	EXPECT_EQ(5, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(3, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(1, self->asked_at_once);
	EXPECT_FALSE(self->granted[0][2]);
}

/* A key once given is used again, and what became zero in between arrives */
TEST_F(vsource, what_becomes_zero)
{
	ASSERT_EQ(0, meet(self));
	memset(self->from[2], 1, PAGE);
	for (unsigned round = 0; round < 2; round++) {
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 2, 0, 1));
		ASSERT_EQ(0, close_bracket(self));
		EXPECT_EQ(0, memcmp(self->from[2], self->to[2], PAGE));
		memset(self->from[2], 0, PAGE);
	}
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(0, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(2, self->writes);
}

TEST_F(vsource, several_at_once)
{
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(self->from[i], 3, lengths[i]);
	memset(self->from[0] + MIB, 0, MIB);
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		ASSERT_TRUE(hand_over(self, i, 0, lengths[i] / PAGE));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(7, self->asked_at_once);
	EXPECT_EQ(1, self->kinds[CONTROL_ZERO]);
}

/* Two ranges of one chunk need one key */
TEST_F(vsource, a_chunk_in_pieces)
{
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 3, MIB);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 3));
	ASSERT_TRUE(hand_over(self, 0, 5, 2));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(1, self->asked_at_once);
	EXPECT_EQ(2, self->writes);
}

TEST_F(vsource, pinned)
{
	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, MIB);
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		ASSERT_TRUE(hand_over(self, i, 0, lengths[i] / PAGE));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(8, self->writes);
	EXPECT_EQ(0, self->kinds[CONTROL_ZERO] + self->kinds[CONTROL_REGISTER_REQUEST]);
}

/* The queue is full, and the writes under way are few */
TEST_F(vsource, what_is_bounded)
{
	unsigned taken = 0;

	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	/* every other page: nothing can be merged */
	while (vsource_range(&self->source, 0, taken * 2 * PAGE, PAGE))
		taken++;
	EXPECT_EQ(VSOURCE_RANGES, taken);
	ASSERT_EQ(0, turn(self));
	EXPECT_EQ(VSOURCE_RANGES, self->writes);
	EXPECT_EQ(WRITES, self->most);
	EXPECT_TRUE(vsource_range(&self->source, 0, taken * 2 * PAGE, PAGE));
	ASSERT_EQ(0, close_bracket(self));
}

/* Most writes say nothing of themselves */
TEST_F(vsource, signals)
{
	begin(self, CONTROL_PIN_ALL);
	self->source.writes_max = UNDER_WAY;
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	for (unsigned i = 0; i < 50; i++)
		ASSERT_TRUE(vsource_range(&self->source, 0, i * 2 * PAGE, PAGE));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(50, self->writes);
	EXPECT_EQ(50 / VSOURCE_SIGNAL + 1, self->signals);
}

/* The bracket does not end before its writes */
TEST_F(vsource, the_end_waits_for_writes)
{
	struct vsource_write write;
	size_t bytes;

	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 2, 0, 1));
	vsource_close(&self->source);
	ASSERT_EQ(VSOURCE_WRITE, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_TRUE(write.signal);
	ASSERT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	vsource_written(&self->source, 1);
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_REGISTER_FINISHED, get_be32(self->message + 4));
}

/* The key of the next chunk is asked for in front of the write to this one */
TEST_F(vsource, it_asks_ahead)
{
	struct control_grant got = { .rkey = key(0, 0), .host = (uintptr_t)self->to[0] };
	struct vsource_write write;
	size_t bytes;

	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, 2 * MIB);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 512));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	control_put_grant(self->answer, 0, &got);
	ASSERT_EQ(0, hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, 1, 0)));
	ASSERT_EQ(0, ready(self));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_REGISTER_REQUEST, get_be32(self->message + 4));
	ASSERT_EQ(VSOURCE_PIN, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(VSOURCE_WRITE, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(MIB, write.length);
	EXPECT_TRUE(write.signal);
}

/* ---- All of it, at random ---------------------------------------------------------- */

static void write_memory(FIXTURE_DATA(vsource) *self, struct random *random, unsigned block,
			 uint64_t page)
{
	memset(self->from[block] + page * PAGE,
	       random_below(random, 2) ? (int)random_below(random, 256) : 0, PAGE);
}

/* Rounds of dirty pages, runs and single ones, handed over in pieces */
TEST_F(vsource, random_rounds)
{
	struct random random = { 7 };

	for (unsigned how = 0; how < 16; how++) {
		self->bits = how & 8 ? 21 : 20;
		begin(self, (how & 5) == 1 ? CONTROL_PIN_ALL : how & 2 ? CONTROL_SEVERAL : 0);
		set_limit(self, how & 4 ? 3 * MIB : 0, (how & 7) == 5);
		self->there_room = (how & 7) == 5 ? 2 : 0;
		ASSERT_EQ(0, meet(self));
		for (unsigned round = 0; round < 40; round++) {
			open_bracket(self);
			for (unsigned block = 0; block < BLOCKS; block++) {
				uint64_t pages = lengths[block] / PAGE;
				uint64_t page = round ? random_below(&random, 200) : 0;

				while (page < pages) {
					write_memory(self, &random, block, page);
					while (!vsource_range(&self->source, block, page * PAGE,
							      PAGE))
						ASSERT_EQ(0, turn(self))
					TH_LOG("%s", self->err.text);
					if (!random_below(&random, 50))
						ASSERT_EQ(0, turn(self))
					TH_LOG("%s", self->err.text);
					page += round && !random_below(&random, 4) ?
							random_below(&random, 300) + 1 :
							1;
				}
			}
			ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %u", how, round);
		}
		EXPECT_EQ((how & 4) != 0, self->source.unregisters != 0);
	}
}

TEST_HARNESS_MAIN
