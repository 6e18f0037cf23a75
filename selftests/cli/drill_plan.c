/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cli/drill_plan.c: a seed is one plan and no other, and no plan asks for what cannot be.
 */
#include "cli/drill.h"

#include "kselftest_harness.h"

#define SEEDS 20000
#define MEMORY (12u << 20)

TEST(same_seed_same_plan)
{
	static struct drill_plan a, b;

	for (unsigned i = 0; i < 200; i++) {
		drill_plan_make(&a, drill_seed(7, i), MEMORY, DRILL_ALL_KINDS, NULL);
		memset(&b, 0xee, sizeof(b));
		drill_plan_make(&b, drill_seed(7, i), MEMORY, DRILL_ALL_KINDS, NULL);
		ASSERT_EQ(a.faults, b.faults);
		ASSERT_EQ(a.bandwidth, b.bandwidth);
		for (unsigned f = 0; f < a.faults; f++) {
			ASSERT_EQ(a.fault[f].kind, b.fault[f].kind);
			ASSERT_EQ(a.fault[f].at, b.fault[f].at);
			ASSERT_EQ(a.fault[f].connection, b.fault[f].connection);
		}
		for (unsigned n = 0; n < DRILL_AGAIN; n++)
			ASSERT_EQ(a.again[n].wait_ms, b.again[n].wait_ms);
	}
}

/* Written down, so that a seed of last year is still the same drill, or this says that not */
TEST(known_seeds)
{
	struct drill_random random = { .state = 0 };

	EXPECT_EQ(0xe220a8397b1dcdafu, drill_random(&random)); /* splitmix64's own vector */
	EXPECT_EQ(0x6e789e6aa1b965f4u, drill_random(&random));
	EXPECT_EQ(0xb8b4c2977eabce45u, drill_seed(7, 0));
	EXPECT_EQ(0x27e8ac81e7bc3b89u, drill_seed(7, 1));
}

TEST(plans_are_possible)
{
	static struct drill_plan plan;

	for (unsigned i = 0; i < SEEDS; i++) {
		unsigned connection = 0;

		drill_plan_make(&plan, drill_seed(1, i), MEMORY, DRILL_ALL_KINDS, NULL);
		ASSERT_TRUE(plan.blocks >= 1 && plan.blocks <= DRILL_BLOCKS);
		ASSERT_TRUE(plan.faults >= 1 && plan.faults <= DRILL_FAULTS);
		for (unsigned b = 0; b < plan.blocks; b++) {
			ASSERT_LT(0, plan.pages[b]);
			if (plan.memory[0] == DRILL_HUGETLB)
				ASSERT_EQ(0, plan.pages[b] * DRILL_PAGE % DRILL_HUGE);
		}
		ASSERT_EQ(plan.memory[0] == DRILL_HUGETLB, plan.memory[1] == DRILL_HUGETLB);
		ASSERT_TRUE(plan.bandwidth && plan.postcopy_bandwidth && plan.dead_peer_ms);
		ASSERT_TRUE(plan.postcopy || plan.urgent == WH_URGENT_OFF);
		/* what an agent needs, and what it cannot do */
		if (plan.agent) {
			ASSERT_TRUE(plan.postcopy && !plan.removes && !plan.own_loop[DRILL_DEST]);
			ASSERT_NE(DRILL_PRIVATE, plan.memory[DRILL_DEST]);
		}
		for (unsigned f = 0; f < plan.faults; f++) {
			const struct drill_fault *fault = &plan.fault[f];

			ASSERT_TRUE(fault->kind != DRILL_AGENT || plan.agent);
			ASSERT_TRUE(fault->kind != DRILL_NO_MEMORY || !plan.agent);
			ASSERT_TRUE(fault->kind != DRILL_NO_SPACE ||
				    (plan.no_space && plan.memory[DRILL_DEST] != DRILL_PRIVATE));
			if (fault->kind == DRILL_AGENT)
				ASSERT_TRUE(fault->connection || fault->postcopy);
			ASSERT_GT(DRILL_KINDS, fault->kind);
			/* in order, and no connection is left out */
			ASSERT_TRUE(fault->connection == connection ||
				    fault->connection == connection + 1);
			connection = fault->connection;
			ASSERT_TRUE(plan.postcopy || (!fault->postcopy && !connection));
			if (fault->channel == DRILL_URGENT)
				ASSERT_NE(WH_URGENT_OFF, plan.urgent);
			if (fault->kind == DRILL_BITMAP || fault->kind == DRILL_HANDSHAKE)
				ASSERT_LT(0, connection);
			if (fault->kind == DRILL_KILL || fault->kind == DRILL_CANCEL)
				ASSERT_TRUE(!connection && !fault->postcopy);
			if (fault->kind == DRILL_DELAY)
				ASSERT_LT(0, fault->ms);
		}
	}
}

/* Only those that were asked for, but for the cut in front of what needs a recovery */
TEST(kinds)
{
	static struct drill_plan plan;
	char unknown[16];
	unsigned seen = 0;

	EXPECT_EQ(1u << DRILL_CUT, drill_kinds_read("cut", unknown, sizeof(unknown)));
	EXPECT_EQ(1u << DRILL_ONE_WAY | 1u << DRILL_STOP,
		  drill_kinds_read("one-way,stop", unknown, sizeof(unknown)));
	EXPECT_EQ(0, drill_kinds_read("cut,", unknown, sizeof(unknown)));
	EXPECT_STREQ("", unknown);
	EXPECT_EQ(0, drill_kinds_read("cuts,cut", unknown, sizeof(unknown)));
	EXPECT_STREQ("cuts", unknown);
	for (unsigned kind = 0; kind < DRILL_KINDS; kind++)
		for (unsigned i = 0; i < 200; i++) {
			drill_plan_make(&plan, drill_seed(kind, i), MEMORY, 1u << kind, NULL);
			for (unsigned f = 0; f < plan.faults; f++) {
				bool is = plan.fault[f].kind == kind;

				seen |= (unsigned)is << kind;
				ASSERT_TRUE(is || plan.fault[f].kind == DRILL_CUT);
			}
		}
	EXPECT_EQ(DRILL_ALL_KINDS, seen);
}

/* With a QEMU nothing is planned that it has not got, or that would only end it */
TEST(with_a_qemu)
{
	static struct drill_plan plan;
	unsigned at[DRILL_SIDES] = { 0 };

	for (unsigned i = 0; i < SEEDS; i++) {
		const struct drill_peer peer = {
			.side = (enum drill_side)(i % (DRILL_SIDES + 1)),
			.urgent = WH_URGENT_AT_START,
		};

		drill_plan_make(&plan, drill_seed(2, i), MEMORY, DRILL_ALL_KINDS, &peer);
		ASSERT_TRUE(plan.qemu < DRILL_SIDES);
		ASSERT_TRUE(peer.side == DRILL_SIDES || plan.qemu == peer.side);
		at[plan.qemu] += peer.side == DRILL_SIDES;
		ASSERT_EQ(1, plan.blocks);
		ASSERT_EQ(0, plan.pages[0] * DRILL_PAGE % (1u << 20));
		ASSERT_EQ(DRILL_PRIVATE, plan.memory[plan.qemu]);
		ASSERT_NE(DRILL_HUGETLB, plan.memory[!plan.qemu]);
		ASSERT_NE(WH_URGENT_AT_SWITCH, plan.urgent);
		for (unsigned n = 0; n < DRILL_AGAIN; n++)
			ASSERT_FALSE(plan.again[n].source_first);
		for (unsigned f = 0; f < plan.faults; f++) {
			const struct drill_fault *fault = &plan.fault[f];

			ASSERT_NE(DRILL_KILL, fault->kind);
			ASSERT_NE(DRILL_AGENT, fault->kind);
			if (plan.qemu == DRILL_DEST)
				ASSERT_NE(DRILL_REMOVES, fault->kind);
			if (plan.qemu == DRILL_SOURCE && fault->kind == DRILL_CANCEL)
				ASSERT_FALSE(plan.postcopy);
			if (plan.qemu == DRILL_DEST && fault->kind == DRILL_PAUSE)
				ASSERT_EQ(DRILL_SOURCE, fault->side);
		}
	}
	EXPECT_LT(SEEDS / 10, at[DRILL_SOURCE]);
	EXPECT_LT(SEEDS / 10, at[DRILL_DEST]);
}

TEST_HARNESS_MAIN
