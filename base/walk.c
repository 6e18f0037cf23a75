/* SPDX-License-Identifier: MIT */
#include "base/walk.h"

#include <stddef.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/*
 * A map is mostly empty or mostly full, and to go through such a one is to go through memory:
 * with vectors of 32 bytes where the processor has them, as in base/zero.c. Bits are counted
 * by its own instruction, which the baseline of x86-64 does not have; some count a whole vector.
 *
 * A vector is not read in one piece, but a bit lies in one byte.
 */
#define UNWATCHED __attribute__((no_sanitize("thread")))
#define INLINE static inline __attribute__((always_inline))

typedef uint64_t lanes __attribute__((vector_size(32), aligned(8), may_alias));

UNWATCHED INLINE uint64_t pass(const uint64_t *map, uint64_t at, uint64_t end, uint64_t nothing)
{
	const lanes no = { nothing, nothing, nothing, nothing };

	for (; end - at >= WALK_GROUP; at += WALK_GROUP) {
		const lanes *p = (const lanes *)(map + at);
		lanes a = (p[0] ^ no) | (p[1] ^ no) | (p[2] ^ no) | (p[3] ^ no);
		lanes b = (p[4] ^ no) | (p[5] ^ no) | (p[6] ^ no) | (p[7] ^ no);
		lanes any = a | b;

		if (any[0] | any[1] | any[2] | any[3])
			break;
	}
	/* who sees that all pages are there sees what is in them: as an acquire of each word */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return at;
}

UNWATCHED static uint64_t pass_plain(const uint64_t *map, uint64_t at, uint64_t end,
				     uint64_t nothing)
{
	return pass(map, at, end, nothing);
}

/* Without a table */
static uint64_t sum_plain(const uint64_t *map, uint64_t at, uint64_t end)
{
	uint64_t sum = 0;

	for (; at < end; at++) {
		uint64_t word = __atomic_load_n(&map[at], __ATOMIC_ACQUIRE);

		word -= (word >> 1) & UINT64_C(0x5555555555555555);
		word = (word & UINT64_C(0x3333333333333333)) +
		       ((word >> 2) & UINT64_C(0x3333333333333333));
		word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
		sum += (word * UINT64_C(0x0101010101010101)) >> 56;
	}
	return sum;
}

#define FLIP_WORDS 8u

/* Two vectors by hand: the compiler leaves a loop over them one */
INLINE void flip(uint64_t *to, const uint64_t *from, uint64_t words)
{
	uint64_t i = 0;

	for (; words - i >= FLIP_WORDS; i += FLIP_WORDS) {
		lanes a = ~((const lanes *)(from + i))[0];
		lanes b = ~((const lanes *)(from + i))[1];

		/* the two may be one: each is read before it is written */
		((lanes *)(to + i))[0] = a;
		((lanes *)(to + i))[1] = b;
	}
	for (; i < words; i++)
		to[i] = ~from[i];
}

static void flip_plain(uint64_t *to, const uint64_t *from, uint64_t words)
{
	flip(to, from, words);
}

const struct walk walk_plain = { pass_plain, sum_plain, flip_plain };

#if defined(__x86_64__)
UNWATCHED __attribute__((target("avx2"))) static uint64_t
pass_avx2(const uint64_t *map, uint64_t at, uint64_t end, uint64_t nothing)
{
	return pass(map, at, end, nothing);
}

__attribute__((target("popcnt"))) INLINE uint64_t count(const uint64_t *word)
{
	return (uint64_t)__builtin_popcountll(__atomic_load_n(word, __ATOMIC_ACQUIRE));
}

/* Four at a time: the processor has several at work, but not if each waits for the one before */
__attribute__((target("popcnt"))) static uint64_t sum_popcnt(const uint64_t *map, uint64_t at,
							     uint64_t end)
{
	uint64_t sum = 0;

	for (; end - at >= 4; at += 4)
		sum += (count(&map[at]) + count(&map[at + 1])) +
		       (count(&map[at + 2]) + count(&map[at + 3]));
	for (; at < end; at++)
		sum += count(&map[at]);
	return sum;
}

__attribute__((target("avx2"))) static void flip_avx2(uint64_t *to, const uint64_t *from,
						      uint64_t words)
{
	flip(to, from, words);
}

const struct walk *walk_v2(void)
{
	static const struct walk walk = { pass_plain, sum_popcnt, flip_plain };

	return __builtin_cpu_supports("popcnt") ? &walk : NULL;
}

const struct walk *walk_v3(void)
{
	static const struct walk walk = { pass_avx2, sum_popcnt, flip_avx2 };

	return walk_v2() && __builtin_cpu_supports("avx2") ? &walk : NULL;
}

#define VECTOR_WORDS UINT64_C(4)
#define COUNTS_VECTORS "popcnt,avx2,avx512vl,avx512vpopcntdq"

__attribute__((target(COUNTS_VECTORS))) INLINE lanes count_vector(const uint64_t *word)
{
	return (lanes)_mm256_popcnt_epi64((__m256i) * (const lanes *)word);
}

/* Of 32 bytes, though there are of 64: for those some processors lower their clock */
UNWATCHED __attribute__((target(COUNTS_VECTORS))) static uint64_t
sum_vectors(const uint64_t *map, uint64_t at, uint64_t end)
{
	lanes a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };

	for (; end - at >= 4 * VECTOR_WORDS; at += 4 * VECTOR_WORDS) {
		a += count_vector(map + at);
		b += count_vector(map + at + VECTOR_WORDS);
		c += count_vector(map + at + 2 * VECTOR_WORDS);
		d += count_vector(map + at + 3 * VECTOR_WORDS);
	}
	a += b + c + d;
	/* as pass() has it */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return a[0] + a[1] + a[2] + a[3] + sum_popcnt(map, at, end);
}

const struct walk *walk_v4(void)
{
	static const struct walk walk = { pass_avx2, sum_vectors, flip_avx2 };

#ifdef __SANITIZE_THREAD__ /* which does not see fences */
	return NULL;
#endif
	return walk_v3() && __builtin_cpu_supports("avx512vl") &&
			       __builtin_cpu_supports("avx512vpopcntdq") ?
		       &walk :
		       NULL;
}
#else
const struct walk *walk_v2(void)
{
	return NULL;
}

const struct walk *walk_v3(void)
{
	return NULL;
}

const struct walk *walk_v4(void)
{
	return NULL;
}
#endif

static const struct walk *choose(void)
{
	const struct walk *const level[] = { walk_v4(), walk_v3(), walk_v2() };

	for (unsigned i = 0; i < sizeof(level) / sizeof(level[0]); i++)
		if (level[i])
			return level[i];
	return &walk_plain;
}

const struct walk *walk_best(void)
{
	static const struct walk *chosen;
	const struct walk *walk = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

	if (walk)
		return walk;
	walk = choose();
	/* every thread that gets here finds the same: the order does not matter */
	__atomic_store_n(&chosen, walk, __ATOMIC_RELAXED);
	return walk;
}
