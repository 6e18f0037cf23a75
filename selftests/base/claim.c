/* SPDX-License-Identifier: GPL-2.0 */
#include "base/claim.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

static struct region region_of(uint8_t *memory, unsigned first, unsigned pages)
{
	return (struct region){
		.name = "ram",
		.addr = memory + first * TARGET_PAGE,
		.length = pages * TARGET_PAGE,
	};
}

static uint8_t memory[8 * TARGET_PAGE];

TEST(a_guest_is_not_migrated_and_protected)
{
	struct region low = region_of(memory, 0, 4), high = region_of(memory, 4, 4);
	struct region middle = region_of(memory, 3, 2);
	struct claim migration = { .kind = CLAIM_MIGRATION, .regions = &low };
	struct claim other = { .kind = CLAIM_MIGRATION, .regions = &middle };
	struct claim protection = { .kind = CLAIM_PROTECTION, .regions = &middle };
	struct claim apart = { .kind = CLAIM_PROTECTION, .regions = &high };
	struct wh_err err = { 0 };

	EXPECT_EQ(0, claim_add(&migration, &err));
	/* one beside it is nobody's */
	EXPECT_EQ(0, claim_add(&apart, &err));
	claim_drop(&apart);
	EXPECT_EQ(-EBUSY, claim_add(&protection, &err));
	EXPECT_NE(NULL, strstr(err.text, "'ram'")) TH_LOG("%s", err.text);
	EXPECT_NE(NULL, strstr(err.text, "migrated"));
	/* a migration is not in a migration's way */
	EXPECT_EQ(0, claim_add(&other, &err));
	claim_drop(&migration);
	EXPECT_EQ(-EBUSY, claim_add(&protection, &err));
	claim_drop(&other);
	EXPECT_EQ(0, claim_add(&protection, &err));
	EXPECT_EQ(-EBUSY, claim_add(&apart, &err));
	EXPECT_EQ(-EBUSY, claim_add(&migration, &err));
	EXPECT_NE(NULL, strstr(err.text, "protected"));
	claim_drop(&protection);
	claim_drop(&protection);
	EXPECT_EQ(0, claim_add(&migration, &err));
	claim_drop(&migration);
}

/* Block by block: what was added before stays claimed when a later one is refused */
TEST(each_block_counts)
{
	struct region two[] = { region_of(memory, 0, 1), region_of(memory, 5, 1) };
	struct region low = region_of(memory, 0, 1), high = region_of(memory, 5, 1);
	struct claim protection = { .kind = CLAIM_PROTECTION, .regions = two };
	struct claim first = { .kind = CLAIM_MIGRATION, .regions = &low };
	struct claim second = { .kind = CLAIM_MIGRATION, .regions = &high };
	struct wh_err err = { 0 };

	EXPECT_EQ(0, claim_add(&second, &err));
	EXPECT_EQ(0, claim_add(&protection, &err));
	EXPECT_EQ(-EBUSY, claim_add(&protection, &err));
	EXPECT_EQ(-EBUSY, claim_add(&first, &err));
	claim_drop(&second);
	EXPECT_EQ(0, claim_add(&protection, &err));
	EXPECT_EQ(-EBUSY, claim_add(&second, &err));
	claim_drop(&protection);
	/* from the first one again */
	EXPECT_EQ(0, claim_add(&protection, &err));
	EXPECT_EQ(0, claim_add(&second, &err));
	EXPECT_EQ(-EBUSY, claim_add(&first, &err));
	claim_drop(&second);
	claim_drop(&protection);
}

TEST_HARNESS_MAIN
