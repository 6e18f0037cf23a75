/* SPDX-License-Identifier: GPL-2.0 */
/* The source's engine against a stranger. */
#include "selftests/rdma/vsource_world.h"

#include "kselftest_harness.h"

/* It waits for the list; or, behind that, for two chunks' keys */
static void wait_for_list(FIXTURE_DATA(vsource) *self)
{
	struct vsource_write write;
	size_t bytes;

	ready(self);
	vsource_open(&self->source);
	vsource_next(&self->source, self->message, &bytes, &write);
}

static int say_list(FIXTURE_DATA(vsource) *self, unsigned blocks, unsigned at,
		    const struct control_block *odd)
{
	for (unsigned i = 0; i < blocks; i++) {
		struct control_block line = { .host = UINT64_C(0x10000000000) * (i + 1),
					      .start = 0x1000000 * i,
					      .length = lengths[i % BLOCKS],
					      .rkey = i + 1 };

		control_put_block(self->answer, i, i == at ? odd : &line);
	}
	return hear(self, control_put(self->answer, CONTROL_BLOCKS_RESULT, blocks, 0));
}

TEST_F(vsource, lists_that_are_refused)
{
	static const struct control_block odd[] = {
		{ .host = MIB, .length = 4 * MIB + PAGE, .rkey = 1 },
		{ .host = MIB, .length = 0, .rkey = 1 },
		{ .host = -MIB, .length = 4 * MIB, .rkey = 1 },
		{ .host = MIB, .start = -PAGE, .length = 4 * MIB, .rkey = 1 },
		{ .host = MIB, .length = 4 * MIB, .rkey = 0 },
	};

	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		begin(self, CONTROL_PIN_ALL);
		wait_for_list(self);
		EXPECT_EQ(-EPROTO, say_list(self, BLOCKS, 0, &odd[i])) TH_LOG("line %u", i);
		EXPECT_NE(NULL, strstr(self->err.text, "block 0"));
	}
	for (unsigned blocks = 1; blocks < 6; blocks++) {
		begin(self, CONTROL_PIN_ALL);
		wait_for_list(self);
		EXPECT_EQ(blocks == BLOCKS ? 0 : -EPROTO, say_list(self, blocks, 99, NULL));
	}
	begin(self, CONTROL_PIN_ALL);
	EXPECT_EQ(-EPROTO, say_list(self, BLOCKS, 99, NULL)); /* nobody asked */
}

static int say_grants(FIXTURE_DATA(vsource) *self, unsigned count, uint32_t rkey, uint64_t host)
{
	struct control_grant got = { .rkey = rkey, .host = host };

	for (unsigned i = 0; i < count; i++)
		control_put_grant(self->answer, i, &got);
	return hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, count, 0));
}

static void wait_for_keys(FIXTURE_DATA(vsource) *self)
{
	struct vsource_write write;
	size_t bytes;

	begin(self, CONTROL_SEVERAL);
	meet(self);
	memset(self->from[0], 1, 2 * MIB);
	open_bracket(self);
	hand_over(self, 0, 0, 512);
	vsource_next(&self->source, self->message, &bytes, &write);
}

TEST_F(vsource, keys_that_are_refused)
{
	static const struct control_block list = { .host = UINT64_C(1) << 40,
						   .length = UINT64_C(1) << 40 };

	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 1, 1, MIB)); /* too few: the seed's, and QEMU's */
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 3, 1, MIB));
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 0, MIB));
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 1, -MIB));
	wait_for_keys(self);
	/* another answer, whose numbers would do */
	EXPECT_EQ(-EPROTO, say_list(self, 2, 0, &list));
	wait_for_keys(self);
	EXPECT_EQ(0, say_grants(self, 2, 1, MIB));
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 1, MIB)); /* for the second time */
}

TEST_F(vsource, what_comes_at_the_wrong_time)
{
	static const enum control_kind never[] = { CONTROL_STREAM, CONTROL_BLOCKS_REQUEST,
						   CONTROL_REGISTER_FINISHED,
						   CONTROL_UNREGISTER_FINISHED };

	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, ready(self));
	EXPECT_STREQ("rdma: READY instead of an answer", self->err.text);
	for (unsigned i = 0; i < 4; i++) {
		wait_for_keys(self);
		EXPECT_EQ(-EPROTO, hear(self, control_put(self->answer, never[i], 1, 8)));
	}
	begin(self, 0);
	EXPECT_EQ(0, ready(self));
	EXPECT_EQ(-EPROTO, ready(self));
	EXPECT_STREQ("rdma: READY for the second time", self->err.text);
	EXPECT_EQ(-ECONNABORTED, hear(self, control_put(self->answer, CONTROL_ERROR, 1, 0)));
	EXPECT_EQ(-EPROTO, hear(self, 15));
}

TEST_HARNESS_MAIN
