/* SPDX-License-Identifier: GPL-2.0 */
#include "netplug/gate.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

static uint64_t seed;

static uint32_t below(uint32_t count)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % count;
}

TEST(epochs_are_closed_and_released_in_order)
{
	struct gate gate;

	gate_init(&gate, 0);
	ASSERT_EQ(-EINVAL, gate_may_turn(&gate, 1, NULL));
	ASSERT_EQ(0, gate_may_arm(&gate, NULL));
	gate_armed(&gate);
	ASSERT_EQ(-EBUSY, gate_may_arm(&gate, NULL));
	ASSERT_EQ(-EINVAL, gate_may_turn(&gate, 0, NULL));
	ASSERT_EQ(-EINVAL, gate_may_turn(&gate, 2, NULL));
	ASSERT_EQ(GATE_NO, gate_may_release(&gate, 1, NULL));
	for (uint64_t epoch = 1; epoch <= 3; epoch++) {
		ASSERT_EQ(0, gate_may_turn(&gate, epoch, NULL));
		gate_turned(&gate);
	}
	ASSERT_EQ(GATE_YES, gate_may_release(&gate, 2, NULL));
	gate_released(&gate, 2);
	ASSERT_EQ(GATE_BEFORE, gate_may_release(&gate, 1, NULL));
	ASSERT_EQ(GATE_BEFORE, gate_may_release(&gate, 2, NULL));
	ASSERT_EQ(GATE_NO, gate_may_release(&gate, 0, NULL));
	ASSERT_EQ(GATE_NO, gate_may_release(&gate, 4, NULL));
	ASSERT_EQ(GATE_NO, gate_may_release(&gate, UINT64_MAX, NULL));
	ASSERT_EQ(GATE_YES, gate_may_release(&gate, 3, NULL));
}

TEST(an_edge_that_bears_one_closed_epoch_gets_one)
{
	struct wh_err err;
	struct gate gate;

	gate_init(&gate, 1);
	gate_armed(&gate);
	ASSERT_EQ(0, gate_may_turn(&gate, 1, &err));
	gate_turned(&gate);
	ASSERT_EQ(-EBUSY, gate_may_turn(&gate, 2, &err));
	ASSERT_NE(NULL, strstr(err.text, "1 waits for its release"));
	gate_released(&gate, 1);
	ASSERT_EQ(0, gate_may_turn(&gate, 2, &err));
}

/* What is not held by us is not let go by an acknowledgement, whatever it was before */
TEST(only_what_is_held_is_turned_or_released)
{
	for (int state = 0; state < WH_NETPLUG_STATE_COUNT; state++) {
		struct gate gate = { .state = (enum wh_netplug_state)state, .open = 5 };

		ASSERT_EQ(state == WH_NETPLUG_HELD, gate_may_turn(&gate, 5, NULL) == 0);
		ASSERT_EQ(state == WH_NETPLUG_HELD, gate_may_release(&gate, 4, NULL) == GATE_YES);
		ASSERT_EQ(state == WH_NETPLUG_IDLE, gate_may_arm(&gate, NULL) == 0);
		ASSERT_STRNE("?", wh_netplug_state_name(gate.state));
	}
	ASSERT_STREQ("?", wh_netplug_state_name(WH_NETPLUG_STATE_COUNT));
	ASSERT_STREQ("?", wh_netplug_edge_name(WH_NETPLUG_EDGE_COUNT));
}

#define PACKETS 4096

/* The plug of the kernel: it counts, and has one place for a closed epoch */
struct counting {
	unsigned current;
	unsigned last;
	unsigned to_release;
};

/* Each packet has its epoch; @outside are those that have left */
struct world {
	struct gate gate;
	struct counting plug;
	uint64_t epochs[PACKETS];
	unsigned sent;
	unsigned outside;
	uint64_t acknowledged;
};

static void world_turn(struct world *world)
{
	if (gate_may_turn(&world->gate, world->gate.open, NULL) < 0)
		return;
	world->plug.last = world->plug.current;
	world->plug.current = 0;
	gate_turned(&world->gate);
}

/* An acknowledgement of any closed epoch, also of old ones and of none that there is */
static void world_acknowledge(struct world *world)
{
	uint64_t epoch = below((uint32_t)world->gate.open + 2);

	if (gate_may_release(&world->gate, epoch, NULL) != GATE_YES)
		return;
	world->acknowledged = epoch;
	world->plug.to_release += world->plug.last;
	world->plug.last = 0;
	gate_released(&world->gate, epoch);
}

static void world_step(struct world *world)
{
	switch (below(4)) {
	case 0:
	case 1:
		if (world->sent == PACKETS)
			break;
		world->epochs[world->sent++] = world->gate.open;
		world->plug.current++;
		break;
	case 2:
		world_turn(world);
		break;
	default:
		world_acknowledge(world);
		break;
	}
}

/* The oracle: outside is a prefix of what was sent, and ends with an acknowledged epoch */
TEST(a_plug_behind_the_gate_lets_out_what_is_acknowledged_and_all_of_it)
{
	for (unsigned run = 0; run < 300; run++) {
		struct world world = { 0 };

		seed = run;
		gate_init(&world.gate, 1);
		gate_armed(&world.gate);
		for (unsigned step = 0; step < 400; step++) {
			world_step(&world);
			world.outside += world.plug.to_release;
			world.plug.to_release = 0;
			if (world.outside)
				ASSERT_LE(world.epochs[world.outside - 1], world.acknowledged)
			TH_LOG("run %u step %u", run, step);
			if (world.outside < world.sent)
				ASSERT_GT(world.epochs[world.outside], world.acknowledged)
			TH_LOG("run %u step %u", run, step);
		}
		ASSERT_NE(0, world.outside);
	}
}

TEST_HARNESS_MAIN
