/* SPDX-License-Identifier: GPL-2.0 */
#include "base/walk.h"

#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define ALL (~UINT64_C(0))
#define WORDS (5 * WALK_GROUP + 7)

static uint64_t map[WORDS];

/* The same a word and a bit at a time */
static uint64_t slow_pass(uint64_t at, uint64_t end, uint64_t nothing)
{
	uint64_t i;

	for (; end - at >= WALK_GROUP; at += WALK_GROUP)
		for (i = at; i < at + WALK_GROUP; i++)
			if (map[i] != nothing)
				return at;
	return at;
}

static uint64_t slow_sum(uint64_t at, uint64_t end)
{
	uint64_t bit, sum = 0;

	for (bit = at * 64; bit < end * 64; bit++)
		sum += map[bit / 64] >> bit % 64 & 1;
	return sum;
}

static void check_pass(struct __test_metadata *_metadata, const struct walk *walk)
{
	static const unsigned bits[] = { 0, 7, 31, 32, 63 };
	uint64_t nothing, at, end, i, b;

	/* One bit that is not like the others, wherever it may be, or none at all */
	for (nothing = 0;; nothing = ALL) {
		for (i = 0; i <= WORDS; i++)
			for (b = 0; b < 5; b++) {
				memset(map, (int)(nothing & 0xff), sizeof(map));
				if (i < WORDS)
					map[i] ^= UINT64_C(1) << bits[b];
				for (at = 0; at < WALK_GROUP + 3; at += 1 + i % 5)
					for (end = WORDS - 40; end <= WORDS; end += 1 + b)
						ASSERT_EQ(slow_pass(at, end, nothing),
							  walk->pass(map, at, end, nothing));
				ASSERT_EQ(3, walk->pass(map, 3, 3, nothing));
			}
		if (nothing)
			break;
	}
}

static void check_sum(struct __test_metadata *_metadata, const struct walk *walk)
{
	unsigned seed = 1, i;
	uint64_t at, end;

	for (i = 0; i < 20 * WORDS; i++)
		map[i % WORDS] ^= (uint64_t)rand_r(&seed) << i % 34;
	for (at = 0; at < 9; at++)
		for (end = at; end <= WORDS; end++)
			ASSERT_EQ(slow_sum(at, end), walk->sum(map, at, end));
	memset(map, 0xff, sizeof(map));
	ASSERT_EQ(WORDS * 64, walk->sum(map, 0, WORDS));
}

/* Wherever it begins, and not a word more; into other memory and in place */
static void check_flip(struct __test_metadata *_metadata, const struct walk *walk)
{
	static uint64_t other[WORDS], before[WORDS];
	unsigned seed = 2, i;
	uint64_t at, end;

	for (i = 0; i < WORDS; i++)
		before[i] = (uint64_t)rand_r(&seed) << 33 ^ (uint64_t)rand_r(&seed);
	for (at = 0; at < 9; at++)
		for (end = at; end <= WORDS; end++) {
			memcpy(map, before, sizeof(map));
			memset(other, 0x5a, sizeof(other));
			walk->flip(other + at, map + at, end - at);
			walk->flip(map + at, map + at, end - at);
			for (i = 0; i < WORDS; i++) {
				bool flipped = i >= at && i < end;

				ASSERT_EQ(flipped ? ~before[i] : before[i], map[i]);
				ASSERT_EQ(flipped ? ~before[i] : UINT64_C(0x5a5a5a5a5a5a5a5a),
					  other[i]);
			}
		}
}

static void check(struct __test_metadata *_metadata, const struct walk *walk)
{
	check_pass(_metadata, walk);
	check_sum(_metadata, walk);
	check_flip(_metadata, walk);
}

TEST(plain)
{
	check(_metadata, &walk_plain);
}

TEST(v2)
{
	if (!walk_v2())
		SKIP(return, "processor has no popcnt");
	check(_metadata, walk_v2());
}

TEST(v3)
{
	if (!walk_v3())
		SKIP(return, "processor has no avx2");
	check(_metadata, walk_v3());
}

TEST(v4)
{
	if (!walk_v4())
		SKIP(return, "processor does not count the bits of a vector");
	check(_metadata, walk_v4());
}

TEST(best_is_chosen)
{
	const struct walk *best = walk_v4() ? walk_v4() :
				  walk_v3() ? walk_v3() :
				  walk_v2() ? walk_v2() :
					      &walk_plain;

	ASSERT_TRUE(walk_best() == best);
	ASSERT_TRUE(walk_best() == best);
}

TEST_HARNESS_MAIN
