/* SPDX-License-Identifier: GPL-2.0 */
/* The source's engine with larger chunks, where both ends are ours. */
#include "selftests/rdma/vsource_world.h"

#include "kselftest_harness.h"

TEST_F(vsource, large_chunks)
{
	static const unsigned limits[] = { 0, 1, 2 };

	self->bits = 21;
	for (unsigned how = 0; how < 6; how++) {
		unsigned limit = limits[how / 2];

		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, limit * 2 * MIB + MIB * (limit > 0), false);
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(limit ? limit : 5, self->there_most);
		EXPECT_EQ(limit ? limit : 5, self->here_most);
		EXPECT_EQ(limit == 0, self->source.registers == 5);
		EXPECT_EQ(self->source.registers - self->there_count, self->source.unregisters);
	}
}

/* Though there is a key for it: but not if it is short */
TEST_F(vsource, zeros_in_a_large_chunk)
{
	self->bits = 21;
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, PAGE);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 256));
	ASSERT_TRUE(hand_over(self, 0, 256, 256));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	open_bracket(self);
	memset(self->to[0] + MIB, 2, MIB);
	ASSERT_TRUE(hand_over(self, 0, 300, 16));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(2, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(1, self->writes);
	EXPECT_EQ(1, self->source.registers);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 300, 15));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(2, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(2, self->writes);
	EXPECT_EQ(0, self->to[0][300 * PAGE]);
	EXPECT_EQ(0, self->to[0][315 * PAGE]);
	EXPECT_EQ(2, self->to[0][316 * PAGE]);
	EXPECT_FALSE(self->wrong);
}

/* Keys of 256 MiB are asked for at once, of however many chunks that is */
TEST_F(vsource, a_request_of_large_chunks)
{
	static struct vsource_chunk chunk[64];
	const uint64_t length = 1024 * MIB;
	uint8_t *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct control control;

	ASSERT_NE(MAP_FAILED, memory);
	self->bits = 24;
	begin(self, CONTROL_SEVERAL);
	self->source.blocks = 0;
	vsource_add_block(&self->source, memory, length, chunk);
	self->source.listed = true;
	vsource_open(&self->source);
	ASSERT_EQ(0, ready(self));
	for (uint64_t at = 0; at < length; at += 16 * MIB) {
		memory[at] = 1;
		ASSERT_TRUE(vsource_range(&self->source, 0, at, PAGE));
	}
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(16, control.count);
	munmap(memory, length);
}

/* One MiB that is hot makes it hot, and it is cold if all are: which goes for the first of another block? */
TEST_F(vsource, hints_for_large_chunks)
{
	static const struct {
		uint8_t hint[CHUNKS];
		uint64_t goes;
	} cases[] = {
		{ { 0 }, 0 },
		{ { 0, VSOURCE_HOT }, 1 },
		{ { VSOURCE_COLD, VSOURCE_HOT }, 1 },
		{ { 0, 0, VSOURCE_COLD, 0 }, 0 },
		{ { 0, 0, VSOURCE_COLD, VSOURCE_COLD }, 1 },
	};
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	memset(self->from[1], 1, PAGE);
	self->bits = 21;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin(self, 0);
		set_limit(self, 4 * MIB, false);
		self->source.block[0].hint = cases[i].hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 1024));
		ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 1, 0, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control)) TH_LOG("case %u", i);
		EXPECT_EQ(cases[i].goes, chunk_said(&control)) TH_LOG("case %u", i);
	}
}

TEST_HARNESS_MAIN
