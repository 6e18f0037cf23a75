/* SPDX-License-Identifier: GPL-2.0 */
#include "base/bits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define BITS 200u
#define WORDS 5u /* one more than BITS needs: nothing may touch it */

/* The same things a bit at a time */
static uint64_t slow_next(const uint64_t *map, uint64_t from, uint64_t bits, bool set)
{
	while (from < bits && bits_test(map, from) != set)
		from++;
	return from < bits ? from : bits;
}

static uint64_t slow_count(const uint64_t *map, uint64_t first, uint64_t count)
{
	uint64_t i, sum = 0;

	for (i = first; i < first + count; i++)
		sum += bits_test(map, i);
	return sum;
}

static void fill(uint64_t *map, unsigned *seed, unsigned thinness)
{
	unsigned i;

	memset(map, 0, WORDS * sizeof(*map));
	for (i = 0; i < WORDS * 64; i++)
		if (rand_r(seed) % thinness == 0)
			bits_set(map, i);
}

TEST(words)
{
	ASSERT_EQ(0, bits_words(0));
	ASSERT_EQ(1, bits_words(1));
	ASSERT_EQ(1, bits_words(64));
	ASSERT_EQ(2, bits_words(65));
	/* of 16 TiB and more: page numbers do not fit into 32 bits */
	ASSERT_EQ(UINT64_C(1) << 28, bits_words(UINT64_C(1) << 34));
}

TEST(one_bit)
{
	uint64_t map[2] = { 0 };

	ASSERT_FALSE(bits_test_set(map, 70));
	ASSERT_TRUE(bits_test_set(map, 70));
	ASSERT_EQ(UINT64_C(1) << 6, map[1]);
	ASSERT_EQ(0, map[0]);
	ASSERT_TRUE(bits_test(map, 70));
	ASSERT_FALSE(bits_test(map, 69));
	ASSERT_TRUE(bits_test_clear(map, 70));
	ASSERT_FALSE(bits_test_clear(map, 70));
	bits_set(map, 63);
	ASSERT_EQ(UINT64_C(1) << 63, map[0]);
	bits_clear(map, 63);
	ASSERT_EQ(0, map[0]);
}

TEST(next_finds_what_a_slow_search_finds)
{
	static const unsigned thinness[] = { 1, 2, 7, 60, 1000 };
	uint64_t map[WORDS], inverse[WORDS];
	unsigned seed = 1, i, k, from, bits;

	for (i = 0; i < 20; i++) {
		fill(map, &seed, thinness[i % 5]);
		for (k = 0; k < WORDS; k++)
			inverse[k] = ~map[k];
		for (bits = 0; bits <= WORDS * 64; bits += 1 + i % 3)
			for (from = 0; from <= bits + 1; from++) {
				uint64_t set = from > bits ? bits : slow_next(map, from, bits, 1);
				uint64_t clear =
					from > bits ? bits : slow_next(inverse, from, bits, 0);

				ASSERT_EQ(set, bits_next_set(map, from, bits));
				ASSERT_EQ(clear, bits_next_clear(inverse, from, bits));
			}
	}
}

/* So long that words are passed by in groups */
TEST(next_in_a_long_map)
{
	static uint64_t map[200], inverse[200];
	static const unsigned ends[] = { 200 * 64, 200 * 64 - 1, 128 * 64, 127 * 64 + 5 };
	unsigned bit, from, i, seed = 4;

	for (bit = 0; bit < 200 * 64; bit += 1 + (unsigned)rand_r(&seed) % 50) {
		memset(map, 0, sizeof(map));
		bits_set(map, bit);
		for (i = 0; i < 200; i++)
			inverse[i] = ~map[i];
		for (i = 0; i < 4; i++)
			for (from = 0; from < ends[i]; from += 1 + (unsigned)rand_r(&seed) % 900) {
				uint64_t found = from <= bit && bit < ends[i] ? bit : ends[i];

				ASSERT_EQ(found, bits_next_set(map, from, ends[i]));
				ASSERT_EQ(found, bits_next_clear(inverse, from, ends[i]));
			}
	}
}

TEST(count_counts)
{
	uint64_t map[WORDS];
	unsigned seed = 2, first, count;

	fill(map, &seed, 3);
	for (first = 0; first < BITS; first++)
		for (count = 0; first + count <= BITS; count++)
			ASSERT_EQ(slow_count(map, first, count),
				  bits_range_count(map, first, count));
	for (count = 0; count <= BITS; count++)
		ASSERT_EQ(slow_count(map, 0, count), bits_count(map, count));
	memset(map, 0xff, sizeof(map));
	ASSERT_EQ(BITS, bits_count(map, BITS));
}

TEST(ranges_touch_nothing_else)
{
	uint64_t before[WORDS], map[WORDS];
	unsigned seed = 3, first, count, i;

	for (first = 0; first < BITS; first++)
		for (count = 0; first + count <= BITS; count++) {
			fill(before, &seed, 2);
			memcpy(map, before, sizeof(map));
			bits_range_set(map, first, count);
			for (i = 0; i < WORDS * 64; i++)
				ASSERT_EQ(bits_test(before, i) || (i >= first && i < first + count),
					  bits_test(map, i));
			memcpy(map, before, sizeof(map));
			bits_range_clear(map, first, count);
			for (i = 0; i < WORDS * 64; i++)
				ASSERT_EQ(bits_test(before, i) &&
						  !(i >= first && i < first + count),
					  bits_test(map, i));
		}
}

TEST(widen_fills_groups)
{
	static const unsigned groups[] = { 1, 8, 64, 512, 24 };
	uint64_t map[40], before[40];
	unsigned g, bit, first, last, i;
	const unsigned bits = 40 * 64 - 20; /* the last group is not whole */

	for (g = 0; g < 5; g++)
		for (bit = 0; bit < bits; bit += 37) {
			memset(map, 0, sizeof(map));
			bits_set(map, bit);
			bits_set(map, (bit / groups[g] + 1) * groups[g] % bits);
			memcpy(before, map, sizeof(map));
			bits_range_widen(map, bits, groups[g]);
			for (i = 0; i < 40 * 64; i++) {
				first = i / groups[g] * groups[g];
				last = first + groups[g] < bits ? first + groups[g] : bits;
				ASSERT_EQ(i < bits && slow_next(before, first, last, 1) < last,
					  bits_test(map, i));
			}
		}
}

#define SHARED_BITS 4096u
#define ROUNDS 200u

struct shared {
	uint64_t map[SHARED_BITS / 64];
	uint64_t won[2];
	int turn;
};

struct setter {
	struct shared *shared;
	unsigned number;
};

static void *set_all(void *arg)
{
	struct setter *me = arg;
	uint64_t bit;

	for (bit = 0; bit < SHARED_BITS; bit++)
		if (!bits_test_set(me->shared->map, me->number ? SHARED_BITS - 1 - bit : bit))
			me->shared->won[me->number]++;
	return NULL;
}

/* two threads want every bit: each bit has one winner */
TEST(test_set_has_one_winner)
{
	struct setter setter[2];
	struct shared shared;
	pthread_t thread[2];
	unsigned round, i;

	for (round = 0; round < ROUNDS; round++) {
		memset(&shared, 0, sizeof(shared));
		for (i = 0; i < 2; i++) {
			setter[i] = (struct setter){ &shared, i };
			ASSERT_EQ(0, pthread_create(&thread[i], NULL, set_all, &setter[i]));
		}
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_join(thread[i], NULL));
		ASSERT_EQ(SHARED_BITS, shared.won[0] + shared.won[1]);
		ASSERT_EQ(SHARED_BITS, bits_count(shared.map, SHARED_BITS));
	}
}

struct owner {
	uint64_t map[3];
	uint64_t lost;
	bool stop;
};

/* Bits 65 to 126 are this thread's alone: they are as it has left them, or were lost. */
static void *own_bits(void *arg)
{
	struct owner *owner = arg;
	unsigned i;

	while (!__atomic_load_n(&owner->stop, __ATOMIC_RELAXED))
		for (i = 65; i < 127; i++) {
			owner->lost += bits_test_set(owner->map, i);
			owner->lost += !bits_test_clear(owner->map, i);
		}
	return NULL;
}

/* part of a word is changed by ranges while another thread uses the rest of it */
TEST(ranges_lose_no_neighbour)
{
	struct owner owner = { 0 };
	pthread_t thread;
	unsigned round;

	ASSERT_EQ(0, pthread_create(&thread, NULL, own_bits, &owner));
	for (round = 0; round < 1000000; round++) {
		bits_range_set(owner.map, 0, 65);
		bits_range_clear(owner.map, 0, 65);
		bits_range_set(owner.map, 127, 60);
		bits_range_clear(owner.map, 127, 60);
	}
	__atomic_store_n(&owner.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, owner.lost);
	ASSERT_EQ(0, bits_count(owner.map, 192));
}

TEST_HARNESS_MAIN
