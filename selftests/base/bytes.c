/* SPDX-License-Identifier: GPL-2.0 */
#include "base/bytes.h"

#include <string.h>

#include "kselftest_harness.h"

static const uint8_t bytes[] = { 0, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10, 0 };

/* at an odd address, with the sign bit of every part set or not */
TEST(get)
{
	ASSERT_EQ(0xfedc, get_be16(bytes + 1));
	ASSERT_EQ(0xfedcba98, get_be32(bytes + 1));
	ASSERT_EQ(UINT64_C(0xfedcba9876543210), get_be64(bytes + 1));
	ASSERT_EQ(0x7654, get_be16(bytes + 5));
	ASSERT_EQ(0x76543210, get_be32(bytes + 5));
}

TEST(put_is_the_reverse_and_writes_nothing_else)
{
	uint8_t out[sizeof(bytes)];

	memset(out, 0, sizeof(out));
	put_be64(out + 1, UINT64_C(0xfedcba9876543210));
	ASSERT_EQ(0, memcmp(out, bytes, sizeof(out)));
	memset(out, 0, sizeof(out));
	put_be32(out + 1, 0xfedcba98);
	put_be16(out + 5, 0x7654);
	put_be16(out + 7, 0x3210);
	ASSERT_EQ(0, memcmp(out, bytes, sizeof(out)));
}

TEST_HARNESS_MAIN
