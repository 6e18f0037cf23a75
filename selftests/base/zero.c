/* SPDX-License-Identifier: GPL-2.0 */
#include "base/zero.h"

#include <stdint.h>
#include <string.h>

#include "kselftest_harness.h"

/* All the versions, whichever this processor would choose */
#define zero_page zero_page_of_this_file
bool zero_page_of_this_file(const void *page, size_t size);
#include "base/zero.c"
#undef zero_page
#if defined(__x86_64__)
#undef __x86_64__
#define choose choose_words
#define zero_page zero_page_of_words
bool zero_page_of_words(const void *page, size_t size);
#include "base/zero.c"
#undef zero_page
#undef choose
#define __x86_64__ 1
#endif

static uint8_t page[2 * 4096] __attribute__((aligned(4096)));

static void check(struct __test_metadata *_metadata, bool (*zero)(const void *, size_t))
{
	static const size_t sizes[] = { 256, 512, 4096 };
	unsigned i, bit;
	size_t at;

	for (i = 0; i < 3; i++) {
		memset(page, 0xff, sizeof(page));
		memset(page, 0, sizes[i]);
		ASSERT_TRUE(zero(page, sizes[i]));
		for (at = 0; at < sizes[i]; at++)
			for (bit = 0; bit < 8; bit += 7) {
				page[at] = (uint8_t)(1u << bit);
				ASSERT_FALSE(zero(page, sizes[i]));
				page[at] = 0;
			}
	}
}

TEST(chosen)
{
	check(_metadata, zero_page);
}

TEST(portable)
{
	check(_metadata, zero_words);
}

#if defined(__x86_64__)
TEST(sse2)
{
	check(_metadata, zero_sse2);
}

TEST(avx2)
{
	if (!__builtin_cpu_supports("avx2"))
		SKIP(return, "processor has no avx2");
	check(_metadata, zero_avx2);
}

TEST(avx2_is_chosen_where_it_is)
{
	zero_fn expected = __builtin_cpu_supports("avx2") ? zero_avx2 : zero_sse2;

	ASSERT_TRUE(choose() == expected);
}
#endif

TEST_HARNESS_MAIN
