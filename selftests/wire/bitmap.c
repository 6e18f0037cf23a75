/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/bitmap.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define PAGES_MAX 300u
#define ROOM (BITMAP_FRAME + 64)

FIXTURE(bitmap)
{
	struct random random;
	struct wh_err err;
	uint64_t map[8];
	uint64_t out[8];
	uint8_t bytes[ROOM + 1];
	size_t length;
	size_t used;
};

FIXTURE_SETUP(bitmap)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(bitmap)
{
}

static void put_random(FIXTURE_DATA(bitmap) *self, uint64_t pages)
{
	unsigned i;

	/* bits behind the last page as well: they must not get onto the wire */
	for (i = 0; i < 8; i++)
		self->map[i] = random_u64(&self->random);
	self->length = bitmap_put(self->bytes, self->map, pages);
}

TEST(sizes)
{
	ASSERT_EQ(0, bitmap_bytes(0));
	ASSERT_EQ(8, bitmap_bytes(1));
	ASSERT_EQ(8, bitmap_bytes(64));
	ASSERT_EQ(16, bitmap_bytes(65));
	ASSERT_EQ(4096, bitmap_bytes(32768));
	ASSERT_EQ(UINT64_C(1) << 31, bitmap_bytes(UINT64_C(1) << 34));
}

TEST_F(bitmap, bits_stand_where_the_wire_wants_them)
{
	static const uint8_t expected[] = {
		0,    0,    0, 0, 0,	0,    0,    16, /* size */
		0x01, 0x01, 0, 0, 0,	0,    0,    0x80, 0x21, 0,    0,    0,
		0,    0,    0, 0, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
	};

	bits_set(self->map, 0);
	bits_set(self->map, 8);
	bits_set(self->map, 63);
	bits_set(self->map, 64);
	bits_set(self->map, 69);
	bits_set(self->map, 70); /* of 70 pages this is none */
	ASSERT_EQ(sizeof(expected), bitmap_put(self->bytes, self->map, 70));
	ASSERT_EQ(0, memcmp(self->bytes, expected, sizeof(expected)));
}

TEST_F(bitmap, comes_back)
{
	uint64_t pages, i;

	for (pages = 0; pages <= PAGES_MAX; pages++) {
		put_random(self, pages);
		ASSERT_EQ(BITMAP_FRAME + bitmap_bytes(pages), self->length);
		memset(self->out, 0xff, sizeof(self->out));
		ASSERT_EQ(1,
			  bitmap_get(self->bytes, ROOM, &self->used, self->out, pages, &self->err));
		ASSERT_EQ(self->length, self->used);
		for (i = 0; i < pages; i++)
			ASSERT_EQ(bits_test(self->map, i), bits_test(self->out, i));
		for (; i < bits_words(pages) * 64; i++)
			ASSERT_FALSE(bits_test(self->out, i));
		for (; i < 512; i++)
			ASSERT_TRUE(bits_test(self->out, i)); /* untouched */
	}
}

TEST_F(bitmap, a_strict_prefix_asks_for_more_and_writes_nothing)
{
	size_t n;

	put_random(self, 200);
	for (n = 0; n < self->length; n++) {
		uint8_t *copy = malloc(n ? n : 1);

		memcpy(copy, self->bytes, n);
		ASSERT_EQ(0, bitmap_get(copy, n, &self->used, self->out, 200, &self->err));
		ASSERT_EQ(0, bits_count(self->out, 512));
		free(copy);
	}
}

TEST_F(bitmap, every_other_size_is_an_error)
{
	static const uint64_t sizes[] = { 0, 1, 8, 24, 40, UINT64_MAX, 1ull << 63, 32ull << 32 };
	unsigned i;

	put_random(self, 200); /* 32 bytes */
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		put_be64(self->bytes, sizes[i]);
		/* known to be wrong before the bits are there */
		ASSERT_EQ(-EPROTO,
			  bitmap_get(self->bytes, 8, &self->used, self->out, 200, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "expected 32 for 200 pages"));
	}
	ASSERT_EQ(0, bits_count(self->out, 512));
}

TEST_F(bitmap, the_end_mark_is_checked)
{
	unsigned i;

	for (i = 1; i <= 8; i++) {
		put_random(self, 200);
		self->bytes[self->length - i] ^= 0x10;
		ASSERT_EQ(-EPROTO,
			  bitmap_get(self->bytes, ROOM, &self->used, self->out, 200, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "bitmap ends with"));
	}
	ASSERT_EQ(0, bits_count(self->out, 512));
}

TEST_F(bitmap, padding_is_checked)
{
	unsigned bit;

	for (bit = 200; bit < 256; bit++) {
		put_random(self, 200);
		self->bytes[8 + bit / 8] |= (uint8_t)(1u << bit % 8);
		ASSERT_EQ(-EPROTO,
			  bitmap_get(self->bytes, ROOM, &self->used, self->out, 200, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "behind its 200 pages"));
	}
	ASSERT_EQ(0, bits_count(self->out, 512));
}

TEST_HARNESS_MAIN
