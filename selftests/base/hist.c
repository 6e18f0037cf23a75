/* SPDX-License-Identifier: GPL-2.0 */
#include "base/hist.h"

#include <pthread.h>
#include <string.h>

#include "kselftest_harness.h"

/* One value: the quantile is what the bucket's upper edge and the maximum make of it. */
static uint64_t alone(uint64_t value)
{
	static struct hist hist;

	memset(&hist, 0, sizeof(hist));
	hist_add(&hist, value);
	hist_add(&hist, UINT64_MAX); /* so that the maximum does not hide the edge */
	return hist_quantile(&hist, 500);
}

TEST(empty_is_zero)
{
	static struct hist hist;

	ASSERT_EQ(0, hist_quantile(&hist, 500));
}

TEST(small_values_are_exact)
{
	uint64_t value;

	for (value = 0; value < 32; value++)
		ASSERT_EQ(value, alone(value));
}

TEST(within_a_sixteenth)
{
	uint64_t value, edge;
	unsigned shift, add;

	for (shift = 5; shift < 64; shift++)
		for (add = 0; add < 3; add++) {
			value = (UINT64_C(1) << shift) + add - 1;
			edge = alone(value);
			ASSERT_GE(edge, value);
			ASSERT_LE(edge - value, value / 16);
		}
	ASSERT_EQ(UINT64_MAX, alone(UINT64_MAX));
}

TEST(buckets_do_not_overlap)
{
	uint64_t edge, next = 0;
	unsigned i;

	/* from each upper edge to the next: every bucket is met, in order */
	for (i = 0; i < HIST_BUCKETS; i++) {
		edge = alone(next);
		ASSERT_GE(edge, next);
		next = edge + 1;
	}
	ASSERT_EQ(0, next);
}

TEST(octaves)
{
	static struct hist hist;
	unsigned bits;

	hist_add(&hist, 0);
	for (bits = 1; bits <= 64; bits++) {
		hist_add(&hist, UINT64_C(1) << (bits - 1));
		hist_add(&hist, UINT64_MAX >> (64 - bits));
	}
	ASSERT_EQ(1, hist_octave(&hist, 0));
	for (bits = 1; bits <= 64; bits++)
		ASSERT_EQ(2, hist_octave(&hist, bits));
}

TEST(quantiles_of_a_thousand)
{
	static struct hist hist;
	uint64_t value;

	for (value = 1; value <= 1000; value++)
		hist_add(&hist, value * 1000);
	ASSERT_EQ(1000, hist.count);
	ASSERT_EQ(UINT64_C(500500000), hist.sum_ns);
	ASSERT_EQ(1000000, hist.max_ns);
	ASSERT_GE(hist_quantile(&hist, 500), 500000);
	ASSERT_LE(hist_quantile(&hist, 500), 532000);
	ASSERT_GE(hist_quantile(&hist, 990), 990000);
	ASSERT_EQ(1000000, hist_quantile(&hist, 1000));
	ASSERT_GE(hist_quantile(&hist, 0), 1000);
	ASSERT_LE(hist_quantile(&hist, 0), 1063);
	hist_add(&hist, UINT64_MAX);
	ASSERT_EQ(UINT64_MAX, hist_quantile(&hist, 2000));
}

static struct hist shared;

static void *add_some(void *arg)
{
	uint64_t value, base = *(const uint64_t *)arg;

	for (value = 0; value < 100000; value++)
		hist_add(&shared, base + value);
	return NULL;
}

TEST(two_threads_lose_nothing)
{
	uint64_t base[2] = { 0, 1000000 };
	pthread_t thread[2];
	unsigned i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, add_some, &base[i]));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(thread[i], NULL));
	ASSERT_EQ(200000, shared.count);
	ASSERT_EQ(1099999, shared.max_ns);
	ASSERT_EQ(UINT64_C(100000) * 99999 + UINT64_C(100000) * 1000000, shared.sum_ns);
}

TEST_HARNESS_MAIN
