/* SPDX-License-Identifier: GPL-2.0 */
#include "base/siphash.h"

#include "kselftest_harness.h"

/* Of the reference: the key is 00 01 .. 0f, the message 00 01 02 .. */
TEST(as_the_reference_says)
{
	const uint64_t key[2] = { UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908) };
	const uint64_t words[2] = { UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908) };

	EXPECT_EQ(UINT64_C(0x726fdb47dd0e0e31), siphash(key, words, 0));
	EXPECT_EQ(UINT64_C(0x93f5f5799a932462), siphash(key, words, 1));
	EXPECT_EQ(UINT64_C(0x3f2acc7f57c29bdb), siphash(key, words, 2));
}

TEST_HARNESS_MAIN
