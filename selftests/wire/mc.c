/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/mc.h"

#include "selftests/wire/vector.h"

#include <errno.h>

#include "kselftest_harness.h"

static const struct mc_msg all[] = {
	{ .kind = MC_NACK },
	{ .kind = MC_START, .size = 1, .first_page_slab = 1, .slabs = 2 },
	{ .kind = MC_START, .size = 3 * MC_SLAB_BYTES, .first_page_slab = 2, .slabs = 3 },
	{ .kind = MC_COMMIT },
	{ .kind = MC_ABORT },
	{ .kind = MC_ACK },
	{ .kind = MC_END },
};
#define COUNT (sizeof(all) / sizeof(all[0]))

/* What is put is taken, whole and not before */
TEST(messages)
{
	for (unsigned i = 0; i < COUNT; i++) {
		uint8_t bytes[MC_MSG_MAX + 1] = { 0 };
		size_t put = mc_put(bytes, &all[i]), used;
		struct wh_err err = { 0 };
		struct mc_msg msg;

		ASSERT_EQ(all[i].kind == MC_START ? 32 : 8, put);
		for (size_t n = 0; n < put; n++)
			ASSERT_EQ(0, mc_get(bytes, n, &used, &msg, &err));
		ASSERT_EQ(1, mc_get(bytes, put + 1, &used, &msg, &err));
		EXPECT_EQ(put, used);
		EXPECT_EQ(all[i].kind, msg.kind);
		EXPECT_EQ(all[i].size, msg.size);
		EXPECT_EQ(all[i].first_page_slab, msg.first_page_slab);
		EXPECT_EQ(all[i].slabs, msg.slabs);
	}
}

TEST(names)
{
	static const char *const names[] = { "NACK",  "START", "START", "COMMIT",
					     "ABORT", "ACK",   "END" };

	for (unsigned i = 0; i < COUNT; i++)
		EXPECT_STREQ(names[i], mc_name(all[i].kind));
	EXPECT_STREQ("?", mc_name(MC_ANY));
}

/* The numbers, as they stand in the code of 2014 */
TEST(bytes_of_a_start)
{
	static const uint8_t expected[] = {
		0, 0, 0, 0, 0, 0, 1, 0x2d, 0, 0, 0, 0, 0, 0x50, 0, 1,
		0, 0, 0, 0, 0, 0, 0, 1,	   0, 0, 0, 0, 0, 0,	0, 2,
	};
	const struct mc_msg msg = {
		.kind = MC_START, .size = 0x500001, .first_page_slab = 1, .slabs = 2
	};
	uint8_t bytes[MC_MSG_MAX];

	ASSERT_EQ(sizeof(expected), mc_put(bytes, &msg));
	EXPECT_EQ(0, memcmp(expected, bytes, sizeof(expected)));
}

/* Return: events, or of an error */
static int take(const uint8_t *bytes, size_t length, size_t piece, struct mc_in *in,
		uint64_t *contents, struct wh_err *err)
{
	size_t at = 0, end = 0, used;
	struct mc_event event;
	int ret, count = 0;

	*contents = 0;
	*in = (struct mc_in){ 0 };
	while (end < length) {
		end = length - end < piece ? length : end + piece;
		while ((ret = mc_in_next(in, bytes + at, end - at, &used, &event, err)) == 1) {
			at += used;
			count += event.kind != MC_GOT_CONTENTS;
			*contents += event.data_length;
		}
		if (ret < 0)
			return ret;
	}
	return count;
}

TEST(a_checkpoint_in_pieces_of_any_size)
{
	static uint8_t bytes[100 + MC_SLAB_BYTES + 10];
	const struct mc_msg start = {
		.kind = MC_START,
		.size = MC_SLAB_BYTES + 10,
		.first_page_slab = 1,
		.slabs = 3,
	};
	const struct mc_msg commit = { .kind = MC_COMMIT };
	size_t at = mc_put(bytes, &start);
	struct wh_err err = { 0 };
	uint64_t contents;
	struct mc_in in;

	at += mc_put(bytes + at, &commit);
	at += mc_put_slab(bytes + at, 10) + 10;
	at += mc_put_slab(bytes + at, MC_SLAB_BYTES) + MC_SLAB_BYTES;
	for (size_t piece = 1; piece < at; piece = piece * 7 + 1) {
		ASSERT_EQ(4, take(bytes, at, piece, &in, &contents, &err));
		EXPECT_FALSE(mc_in_may_end(&in));
		EXPECT_EQ(MC_SLAB_BYTES + 10, contents);
	}
	/* the last slab is empty, and that is its end */
	at += mc_put_slab(bytes + at, 0);
	ASSERT_EQ(5, take(bytes, at, 1000, &in, &contents, &err));
	EXPECT_TRUE(mc_in_may_end(&in));
	/* it ends nowhere else */
	for (size_t n = 1; n < 64; n++) {
		ASSERT_LE(0, take(bytes, n, n, &in, &contents, &err));
		EXPECT_EQ(0, n >= 32 && mc_in_may_end(&in));
	}
}

/* Those that are bad are refused with a sentence, the others are not */
TEST(vectors)
{
	unsigned count, bad = 0;
	struct vector *v = vectors_load("mc", &count);

	for (unsigned i = 0; i < count; i++) {
		struct wh_err err = { 0 };
		uint64_t contents;
		struct mc_in in;
		int ret = take(v[i].bytes, v[i].length, 3, &in, &contents, &err);

		EXPECT_EQ(!strncmp(v[i].name, "bad-", 4) || !strcmp(v[i].name, "checkpoints"),
			  ret == -EPROTO && err.text[0])
		{
			TH_LOG("%s: %d", v[i].name, ret);
		}
		bad += ret < 0;
	}
	EXPECT_EQ(14, bad);
	free(v);
}

TEST_HARNESS_MAIN
