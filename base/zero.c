/* SPDX-License-Identifier: MIT */
#include "base/zero.h"

#include <stdint.h>

/*
 * One loop, written once for each width of vector: the or of 256 bytes, and a
 * look at it. 256 bytes hide the latency of the look; larger groups only delay
 * the early exit. Most pages that are not zero show it in their first bytes, so
 * those are looked at before the loop gets going.
 *
 * 32-byte vectors reach the speed at which memory can be touched at all, so
 * there is no 64-byte version: it wins in the cache only, and the pages asked
 * about come from memory. Some processors lower their clock for it besides.
 *
 * Guest memory may change under these loads: each byte is loaded once, and any
 * mixture of old and new is an answer the contract allows.
 */
#define GROUP 256u

#define UNWATCHED __attribute__((no_sanitize("thread")))

typedef bool (*zero_fn)(const void *page, size_t size);

#if defined(__x86_64__)
typedef uint64_t v16 __attribute__((vector_size(16), may_alias));
typedef uint64_t v32 __attribute__((vector_size(32), may_alias));
typedef long long v32_signed __attribute__((vector_size(32)));

UNWATCHED static bool zero_sse2(const void *page, size_t size)
{
	const v16 *p = page, *end = p + size / sizeof(*p);

	if ((*p)[0])
		return false;
	for (; p < end; p += GROUP / sizeof(*p)) {
		v16 a = p[0] | p[1] | p[2] | p[3];
		v16 b = p[4] | p[5] | p[6] | p[7];
		v16 c = p[8] | p[9] | p[10] | p[11];
		v16 d = p[12] | p[13] | p[14] | p[15];
		v16 all = (a | b) | (c | d);

		if (all[0] | all[1])
			return false;
	}
	return true;
}

UNWATCHED __attribute__((target("avx2"))) static bool zero_avx2(const void *page, size_t size)
{
	const v32 *p = page, *end = p + size / sizeof(*p);

	if ((*p)[0])
		return false;
	for (; p < end; p += GROUP / sizeof(*p)) {
		v32 a = p[0] | p[1] | p[2] | p[3];
		v32 b = p[4] | p[5] | p[6] | p[7];
		v32 all = a | b;

		if (!__builtin_ia32_ptestz256((v32_signed)all, (v32_signed)all))
			return false;
	}
	return true;
}

static zero_fn choose(void)
{
	return __builtin_cpu_supports("avx2") ? zero_avx2 : zero_sse2;
}

#else

typedef uint64_t word __attribute__((may_alias));

UNWATCHED static bool zero_words(const void *page, size_t size)
{
	const word *p = page, *end = p + size / sizeof(*p);
	unsigned i;

	if (*p)
		return false;
	for (; p < end; p += GROUP / sizeof(*p)) {
		uint64_t all = 0;

		for (i = 0; i < GROUP / sizeof(*p); i++)
			all |= p[i];
		if (all)
			return false;
	}
	return true;
}

static zero_fn choose(void)
{
	return zero_words;
}
#endif

bool zero_page(const void *page, size_t size)
{
	static zero_fn chosen;
	zero_fn zero = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

	if (!zero) {
		/* every thread that gets here finds the same: the order does not matter */
		zero = choose();
		__atomic_store_n(&chosen, zero, __ATOMIC_RELAXED);
	}
	return zero(page, size);
}
