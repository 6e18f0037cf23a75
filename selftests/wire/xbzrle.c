/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/xbzrle.h"

#include "selftests/wire/random.h"
#include "selftests/wire/vector.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define PAGE 4096u

FIXTURE(xbzrle)
{
	struct random random;
	struct wh_err err;
	uint8_t before[PAGE];
	uint8_t after[PAGE];
	uint8_t page[PAGE];
	uint8_t delta[3 * PAGE];
};

FIXTURE_SETUP(xbzrle)
{
	unsigned i;

	memset(self, 0, sizeof(*self));
	for (i = 0; i < PAGE; i++)
		self->before[i] = (uint8_t)random_below(&self->random, 256);
	memcpy(self->after, self->before, PAGE);
	memcpy(self->page, self->before, PAGE);
}

FIXTURE_TEARDOWN(xbzrle)
{
}

static void check(struct __test_metadata *_metadata, FIXTURE_DATA(xbzrle) *self)
{
	uint8_t *before = malloc(PAGE), *after = malloc(PAGE), *copy;
	int length;

	/* of that size: no byte behind them */
	memcpy(before, self->before, PAGE);
	memcpy(after, self->after, PAGE);
	length = xbzrle_put(self->delta, sizeof(self->delta), before, after);
	ASSERT_GE(length, 0);
	copy = malloc((size_t)length + 1);
	memcpy(copy, self->delta, (size_t)length);
	memcpy(self->page, self->before, PAGE);
	ASSERT_EQ(0, xbzrle_get(self->page, copy, (size_t)length, &self->err));
	ASSERT_EQ(0, memcmp(self->page, self->after, PAGE));
	free(copy);
	free(after);
	free(before);
}

TEST_F(xbzrle, equal_pages_need_nothing)
{
	ASSERT_EQ(0, xbzrle_put(self->delta, sizeof(self->delta), self->before, self->after));
	ASSERT_EQ(0, xbzrle_get(self->page, self->delta, 0, &self->err));
	ASSERT_EQ(0, memcmp(self->page, self->before, PAGE));
}

TEST_F(xbzrle, each_byte_alone)
{
	unsigned i;

	for (i = 0; i < PAGE; i++) {
		self->after[i] ^= 0x80;
		check(_metadata, self);
		ASSERT_EQ(i < 128 ? 3 : 4,
			  xbzrle_put(self->delta, sizeof(self->delta), self->before, self->after));
		self->after[i] ^= 0x80;
	}
}

TEST_F(xbzrle, runs_of_every_length)
{
	unsigned first, last;

	for (first = 0; first < PAGE; first += 61)
		for (last = first; last < PAGE; last += 1 + last / 5) {
			memcpy(self->after, self->before, PAGE);
			for (unsigned i = first; i <= last; i++)
				self->after[i]++;
			check(_metadata, self);
		}
}

TEST_F(xbzrle, random_pages)
{
	unsigned round, change, i;

	for (round = 0; round < 2000; round++) {
		memcpy(self->after, self->before, PAGE);
		for (change = (unsigned)random_below(&self->random, 40); change; change--) {
			unsigned at = (unsigned)random_below(&self->random, PAGE);
			unsigned n = (unsigned)random_below(&self->random, 20);

			for (i = at; i < at + n && i < PAGE; i++)
				self->after[i] = (uint8_t)random_below(&self->random, 256);
		}
		check(_metadata, self);
	}
	for (i = 0; i < PAGE; i++)
		self->after[i] = (uint8_t)~self->before[i];
	check(_metadata, self);
	/* every other byte, every third: runs are not broken off for one or two bytes */
	for (change = 2; change < 6; change++) {
		memcpy(self->after, self->before, PAGE);
		for (i = 0; i < PAGE; i += change)
			self->after[i]++;
		check(_metadata, self);
		if (change <= 3)
			ASSERT_LE(xbzrle_put(self->delta, sizeof(self->delta), self->before,
					     self->after),
				  (int)PAGE + 4);
	}
}

TEST_F(xbzrle, what_does_not_fit_is_said)
{
	int length, room;

	memset(self->after + 10, 1, 300);
	memset(self->after + 2000, 1, 3);
	length = xbzrle_put(self->delta, sizeof(self->delta), self->before, self->after);
	ASSERT_GT(length, 300);
	for (room = 0; room < length; room++) {
		uint8_t *out = malloc((size_t)room + 1);

		ASSERT_EQ(-EOVERFLOW, xbzrle_put(out, (size_t)room, self->before, self->after));
		free(out);
	}
	ASSERT_EQ(length, xbzrle_put(self->delta, (size_t)length, self->before, self->after));
}

TEST_F(xbzrle, vectors)
{
	unsigned count, i;
	struct vector *v = vectors_load("xbzrle", &count);
	const char *bad;

	for (i = 0; i < count; i++) {
		memset(self->page, 0x11, PAGE);
		bad = strncmp(v[i].name, "bad-", 4) ? NULL : v[i].name;
		ASSERT_EQ(bad ? -EPROTO : 0,
			  xbzrle_get(self->page, v[i].bytes, v[i].length, &self->err))
		{
			TH_LOG("%s", v[i].name);
		}
		if (!strcmp(v[i].name, "two-runs")) {
			ASSERT_EQ(0, memcmp(self->page, "\x11\x11\xaa\xbb\xcc\x11", 6));
			ASSERT_EQ(0, memcmp(self->page + 2 + 3 + 200 - 1, "\x11\xdd\x11", 3));
		}
		if (!strcmp(v[i].name, "last-byte"))
			ASSERT_EQ(0xee, self->page[PAGE - 1]);
		/* nothing is written unless all of it is right */
		if (bad)
			ASSERT_EQ(0, memcmp(self->page, self->page + 1, PAGE - 1));
	}
	ASSERT_EQ(20, count);
	free(v);
}

TEST_F(xbzrle, a_strict_prefix_is_an_error_or_ends_with_a_run)
{
	size_t n;
	int length, ret;

	memset(self->after + 10, 1, 300);
	memset(self->after + 2000, 1, 3);
	length = xbzrle_put(self->delta, sizeof(self->delta), self->before, self->after);
	for (n = 1; n < (size_t)length; n++) {
		ret = xbzrle_get(self->page, self->delta, n, &self->err);
		ASSERT_EQ(n == 3 + 300 ? 0 : -EPROTO, ret);
	}
}

TEST_F(xbzrle, random_bytes_do_no_harm)
{
	unsigned round;
	size_t n, i;
	int ret;

	for (round = 0; round < 50000; round++) {
		uint8_t *page = malloc(PAGE), *delta;

		n = random_below(&self->random, 40);
		delta = malloc(n ? n : 1);
		for (i = 0; i < n; i++)
			delta[i] = (uint8_t)random_below(&self->random, 256) &
				   (random_below(&self->random, 2) ? 0x07 : 0xff);
		memcpy(page, self->before, PAGE);
		ret = xbzrle_get(page, delta, n, &self->err);
		ASSERT_TRUE(ret == 0 || ret == -EPROTO);
		if (ret)
			ASSERT_EQ(0, memcmp(page, self->before, PAGE));
		free(delta);
		free(page);
	}
}

TEST_HARNESS_MAIN
