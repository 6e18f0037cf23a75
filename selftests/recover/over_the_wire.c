/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the destination has in place becomes what the source has to send: encoded by
 * wire/bitmap.c, decoded by it, inverted here. The two folders do not know each other.
 */
#include "base/bytes.h"
#include "recover/received.h"
#include "selftests/recover/maps.h"
#include "selftests/wire/vector.h"
#include "wire/bitmap.h"

#include <errno.h>

#include "kselftest_harness.h"

#define ROOM (BITMAP_FRAME + MAP_WORDS * 8)
#define UNTOUCHED UINT64_C(0x6b6b6b6b6b6b6b6b)

FIXTURE(over_the_wire)
{
	struct random random;
	struct wh_err err;
	uint64_t received[MAP_WORDS];
	uint64_t taken[MAP_WORDS];
	uint8_t bytes[ROOM];
	size_t length;
	size_t used;
};

FIXTURE_SETUP(over_the_wire)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(over_the_wire)
{
}

static void put_noise(FIXTURE_DATA(over_the_wire) *self, uint64_t pages)
{
	map_fill(self->received, MAP_NOISE, pages, &self->random);
	memset(self->bytes, 0xee, sizeof(self->bytes));
	self->length = bitmap_put(self->bytes, self->received, pages);
	for (unsigned i = 0; i < MAP_WORDS; i++)
		self->taken[i] = UNTOUCHED;
}

/* From a buffer that ends where the bytes do: a read behind them is seen by a sanitizer */
static int take(FIXTURE_DATA(over_the_wire) *self, size_t length, uint64_t pages)
{
	uint8_t *copy = malloc(length ? length : 1);
	int ret;

	memcpy(copy, self->bytes, length);
	self->err = (struct wh_err){ 0 };
	ret = bitmap_get(copy, length, &self->used, self->taken, pages, &self->err);
	free(copy);
	return ret;
}

static bool untouched(FIXTURE_DATA(over_the_wire) *self)
{
	for (unsigned i = 0; i < MAP_WORDS; i++)
		if (self->taken[i] != UNTOUCHED)
			return false;
	return true;
}

static void refused(struct __test_metadata *_metadata, FIXTURE_DATA(over_the_wire) *self,
		    uint64_t pages, const char *words)
{
	ASSERT_EQ(-EPROTO, take(self, self->length, pages));
	ASSERT_EQ(-EPROTO, self->err.code);
	ASSERT_NE(NULL, strstr(self->err.text, words))
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_TRUE(untouched(self));
}

TEST_F(over_the_wire, what_is_in_place_is_what_is_not_sent)
{
	uint64_t pages = 0, page;

	while ((pages = map_next_size(pages)))
		for (unsigned kind = 0; kind < MAP_KINDS; kind++) {
			put_noise(self, pages);
			map_fill(self->received, kind, pages, &self->random);
			self->length = bitmap_put(self->bytes, self->received, pages);
			ASSERT_EQ(1, take(self, self->length, pages));
			ASSERT_EQ(self->length, self->used);
			received_invert(self->taken, self->taken, pages, 1);
			for (page = 0; page < pages; page++)
				ASSERT_NE(bits_test(self->received, page),
					  bits_test(self->taken, page));
			for (; page < bits_words(pages) * 64; page++)
				ASSERT_FALSE(bits_test(self->taken, page));
			ASSERT_EQ(UNTOUCHED, self->taken[bits_words(pages)]);
		}
}

TEST_F(over_the_wire, vectors)
{
	static const struct {
		const char *name;
		uint64_t pages;
		uint64_t missing[2];
		uint64_t missing_of_4[2];
	} all[] = {
		{ "none", 0, { UNTOUCHED }, { UNTOUCHED } },
		{ "one", 1, { 0 }, { 0 } },
		/* 0, 8, 63, 64 and 69 are in place, of none of their host pages all */
		{ "seventy", 70, { 0x7ffffffffffffefe, 0x1e }, { UINT64_MAX, 0x3f } },
	};
	unsigned count, i;
	struct vector *v = vectors_load("bitmap", &count);

	ASSERT_EQ(sizeof(all) / sizeof(all[0]), count);
	for (i = 0; i < count; i++) {
		put_noise(self, all[i].pages);
		ASSERT_STREQ(all[i].name, v[i].name);
		memcpy(self->bytes, v[i].bytes, v[i].length);
		ASSERT_EQ(1, take(self, v[i].length, all[i].pages));
		received_invert(self->received, self->taken, all[i].pages, 4);
		received_invert(self->taken, self->taken, all[i].pages, 1);
		for (size_t word = 0; word < bits_words(all[i].pages); word++) {
			ASSERT_EQ(all[i].missing[word], self->taken[word]);
			ASSERT_EQ(all[i].missing_of_4[word], self->received[word]);
		}
	}
	free(v);
}

TEST_F(over_the_wire, a_strict_prefix_asks_for_more)
{
	for (uint64_t pages = 0; pages <= 200; pages++) {
		put_noise(self, pages);
		ASSERT_EQ(BITMAP_FRAME + bitmap_bytes(pages), self->length);
		for (size_t n = 0; n < self->length; n++)
			ASSERT_EQ(0, take(self, n, pages));
		ASSERT_TRUE(untouched(self));
	}
}

TEST_F(over_the_wire, every_other_size_is_refused)
{
	for (uint64_t pages = 0; pages <= 200; pages++) {
		uint64_t right = bitmap_bytes(pages);

		put_noise(self, pages);
		/* one that was rounded otherwise, of another block, and of bits instead of bytes */
		for (uint64_t size = 0; size <= 64; size++) {
			put_be64(self->bytes, size);
			if (size != right)
				refused(_metadata, self, pages, " bytes, expected ");
		}
		for (unsigned bit = 7; bit < 64; bit++) {
			put_be64(self->bytes, right ^ UINT64_C(1) << bit);
			refused(_metadata, self, pages, " bytes, expected ");
		}
		put_be64(self->bytes, right);
		ASSERT_EQ(1, take(self, self->length, pages));
	}
}

TEST_F(over_the_wire, every_other_end_mark_is_refused)
{
	for (uint64_t pages = 0; pages <= 200; pages++)
		for (unsigned bit = 0; bit < 64; bit++) {
			put_noise(self, pages);
			self->bytes[self->length - 1 - bit / 8] ^= (uint8_t)(1u << bit % 8);
			refused(_metadata, self, pages, "bitmap ends with 0x");
		}
}

TEST_F(over_the_wire, every_bit_behind_the_pages_is_refused)
{
	uint64_t pages = 0;

	while ((pages = map_next_size(pages)))
		for (uint64_t bit = pages; bit < bitmap_bytes(pages) * 8; bit++) {
			put_noise(self, pages);
			self->bytes[8 + bit / 8] |= (uint8_t)(1u << bit % 8);
			refused(_metadata, self, pages, "bits behind its ");
		}
}

TEST_HARNESS_MAIN
