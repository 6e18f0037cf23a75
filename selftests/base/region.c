/* SPDX-License-Identifier: GPL-2.0 */
#include "base/region.h"

#include <string.h>

#include "kselftest_harness.h"

static uint8_t memory[16 * TARGET_PAGE];

static const struct region regions[] = {
	{ .name = "pc.ram", .addr = memory + 4 * TARGET_PAGE, .length = 4 * TARGET_PAGE },
	{ .name = "low", .addr = memory, .length = TARGET_PAGE },
	{ .name = "pc.rom", .addr = memory + 8 * TARGET_PAGE, .length = TARGET_PAGE },
};

TEST(find_knows_the_edges)
{
	uint64_t offset = 77;

	ASSERT_EQ(0, region_find(regions, 3, memory + 4 * TARGET_PAGE, &offset));
	ASSERT_EQ(0, offset);
	ASSERT_EQ(0, region_find(regions, 3, memory + 8 * TARGET_PAGE - 1, &offset));
	ASSERT_EQ(4 * TARGET_PAGE - 1, offset);
	ASSERT_EQ(2, region_find(regions, 3, memory + 8 * TARGET_PAGE, &offset));
	ASSERT_EQ(0, offset);
	ASSERT_EQ(1, region_find(regions, 3, memory + 5, &offset));
	ASSERT_EQ(5, offset);
}

TEST(find_finds_nothing_between)
{
	uint64_t offset = 77;

	ASSERT_EQ(-1, region_find(regions, 3, memory + TARGET_PAGE, &offset));
	ASSERT_EQ(-1, region_find(regions, 3, memory + 4 * TARGET_PAGE - 1, &offset));
	ASSERT_EQ(-1, region_find(regions, 3, memory + 9 * TARGET_PAGE, &offset));
	ASSERT_EQ(-1, region_find(regions, 0, memory, &offset));
	ASSERT_EQ(77, offset);
}

TEST(named_compares_the_whole_name)
{
	struct region full = { .length = 0 };

	ASSERT_EQ(0, region_named(regions, 3, "pc.ram", 6));
	ASSERT_EQ(2, region_named(regions, 3, "pc.rom and more", 6));
	ASSERT_EQ(-1, region_named(regions, 3, "pc.ram", 5));
	ASSERT_EQ(-1, region_named(regions, 3, "pc.ramx", 7));
	ASSERT_EQ(-1, region_named(regions, 3, "", 0));
	memset(full.name, 'a', REGION_NAME - 1);
	ASSERT_EQ(0, region_named(&full, 1, full.name, REGION_NAME - 1));
	ASSERT_EQ(-1, region_named(&full, 1, full.name, REGION_NAME));
	ASSERT_EQ(-1, region_named(&full, 1, full.name, REGION_NAME - 2));
}

TEST_HARNESS_MAIN
