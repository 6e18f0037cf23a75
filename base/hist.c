/* SPDX-License-Identifier: MIT */
#include "base/hist.h"

/*
 * Bucket numbers: values below 16 are their own bucket. A larger value has its
 * leading one at bit e >= 4; the four bits behind it choose one of the 16
 * buckets of octave e - 3. The largest e is 63, so there are 61 octaves.
 */
#define SUB_BITS 4u
#define SUB (1u << SUB_BITS)

_Static_assert(HIST_BUCKETS == (64u - SUB_BITS + 1u) * SUB, "an octave for every e");

static unsigned bucket_of(uint64_t value)
{
	unsigned e;

	if (value < SUB)
		return (unsigned)value;
	e = 63u - (unsigned)__builtin_clzll(value);
	return (e - SUB_BITS + 1) * SUB + (unsigned)(value >> (e - SUB_BITS)) % SUB;
}

/* Largest value of a bucket */
static uint64_t bucket_edge(unsigned bucket)
{
	unsigned octave = bucket / SUB;

	if (!octave)
		return bucket;
	/* the first value of the next bucket minus one: 2^64 - 1 for the last, by wrapping */
	return ((uint64_t)(SUB + bucket % SUB + 1) << (octave - 1)) - 1;
}

void hist_add(struct hist *hist, uint64_t value_ns)
{
	uint64_t max = __atomic_load_n(&hist->max_ns, __ATOMIC_RELAXED);

	/* counters order nothing: whoever reads them has no use for other memory by them */
	__atomic_fetch_add(&hist->count, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&hist->sum_ns, value_ns, __ATOMIC_RELAXED);
	__atomic_fetch_add(&hist->bucket[bucket_of(value_ns)], 1, __ATOMIC_RELAXED);
	while (value_ns > max && !__atomic_compare_exchange_n(&hist->max_ns, &max, value_ns, 1,
							      __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

uint64_t hist_quantile(const struct hist *hist, unsigned permille)
{
	uint64_t max = __atomic_load_n(&hist->max_ns, __ATOMIC_RELAXED);
	uint64_t total = 0, rank, seen = 0, edge;
	unsigned i;

	/* not hist->count: a value being added meanwhile may be in one and not in the other */
	for (i = 0; i < HIST_BUCKETS; i++)
		total += __atomic_load_n(&hist->bucket[i], __ATOMIC_RELAXED);
	if (!total)
		return 0;
	rank = permille >= 1000 ? total : (total * permille + 999) / 1000;
	if (!rank)
		rank = 1;
	for (i = 0; i < HIST_BUCKETS; i++) {
		seen += __atomic_load_n(&hist->bucket[i], __ATOMIC_RELAXED);
		if (seen >= rank)
			break;
	}
	edge = bucket_edge(i);
	return edge < max ? edge : max;
}

uint64_t hist_octave(const struct hist *hist, unsigned bits)
{
	unsigned first = bits ? bucket_of(UINT64_C(1) << (bits - 1)) : 0;
	unsigned last = bucket_of(bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX);
	uint64_t count = 0;

	for (unsigned i = first; i <= last; i++)
		count += __atomic_load_n(&hist->bucket[i], __ATOMIC_RELAXED);
	return count;
}
