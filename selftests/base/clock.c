/* SPDX-License-Identifier: GPL-2.0 */
#include "base/clock.h"

#include <time.h>

#include "kselftest_harness.h"

TEST(is_the_monotonic_clock)
{
	struct timespec before, after;
	uint64_t now;

	ASSERT_EQ(0, clock_gettime(CLOCK_MONOTONIC, &before));
	now = clock_now_ns();
	ASSERT_EQ(0, clock_gettime(CLOCK_MONOTONIC, &after));
	ASSERT_LE((uint64_t)before.tv_sec * NS_PER_S + (uint64_t)before.tv_nsec, now);
	ASSERT_GE((uint64_t)after.tv_sec * NS_PER_S + (uint64_t)after.tv_nsec, now);
}

TEST_HARNESS_MAIN
