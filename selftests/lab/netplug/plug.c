/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's plug, in a namespace of our own: where the kernel has one, which is the lab.
 */
#include <wherry/netplug.h>

#define WORLD_NICS 2
#define WORLD_CLOSED_MOST 1

#define WORLD_EDGE WH_NETPLUG_PLUG

#include "selftests/netplug/taps.h"

#include "selftests/netplug/contract.h"

#include "kselftest_harness.h"

static const char *edge_missing(void)
{
	if (netrig_run("ip link add scratch type ifb && tc qdisc add dev scratch root plug "
		       "2>/dev/null"))
		return "this kernel has no sch_plug";
	netrig_run("ip link del scratch");
	return NULL;
}

/* By bytes; of a VLAN's frame its tag does not count */
TEST_F(contract, above_the_limit_it_is_dropped_and_counted)
{
	struct wh_netplug_status status;
	struct wh_netplug *plug = NULL;
	unsigned outside = 0;

	self->world.limit_bytes = 4 * 114 + 110 + 113;
	DO(world_new(&self->world, "other", &plug, &self->err));
	DO(wh_netplug_arm(plug, &self->err));
	ASSERT_TRUE(send_some(&self->world, plug, &self->number, 1, 8));
	DO(wh_netplug_turn(plug, 1, &self->err));
	DO(wh_netplug_status(plug, &status, &self->err));
	ASSERT_EQ(5, status.held_packets);
	ASSERT_EQ(4 * 114 + 110, status.held_bytes);
	ASSERT_EQ(3, status.dropped);
	DO(wh_netplug_release(plug, 1, &self->err));
	SEES(1, 5);
	wh_netplug_free(plug);
}

#define DEVICE "$(ip -br link | grep -o '^wh[0-9a-f]*b0')"

/* Somebody else at our plug, who lets go what nobody has acknowledged: it is seen, and said */
TEST_F(contract, a_leak_by_another_hand_is_noticed)
{
	struct wh_netplug_status status;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_EQ(0, netrig_run("tc qdisc change dev " DEVICE
				" root handle 5748: plug release_indefinite"));
	ASSERT_EQ(6, netrig_seen(&self->world.rig, seen, SEEN_MAX, 6));
	ASSERT_EQ(-ENOTRECOVERABLE, wh_netplug_release(self->plug, 1, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "6 packets have left that were not released"));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_BROKEN, status.state);
	DO(wh_netplug_fence(self->plug, &self->err));
}

/* A lost plug is said, not made anew; another one in its place is told nothing */
TEST_F(contract, a_lost_plug_is_reported)
{
	struct wh_netplug_status status;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	ASSERT_EQ(0, netrig_run("tc qdisc replace dev " DEVICE " root handle 77: pfifo limit 9"));
	ASSERT_EQ(-ENOTRECOVERABLE, wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "'pfifo'"));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_BROKEN, status.state);
	/* the next one finds it: it can be fenced, not let go */
	wh_netplug_free(self->plug);
	DO(world_new(&self->world, "guest", &self->plug, &self->err));
	ASSERT_EQ(-EEXIST, wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(0, netrig_run("tc qdisc show dev " DEVICE " | grep -q 'pfifo 77:'"));
	DO(wh_netplug_fence(self->plug, &self->err));
}

/* The device is gone with all that waited: the filters send to nobody */
TEST_F(contract, a_deleted_device_lets_nothing_out)
{
	char *before = state_without_hooks(), *after;
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	ASSERT_EQ(0, netrig_run("ip link del " DEVICE));
	ASSERT_EQ(-ENOTRECOVERABLE, wh_netplug_turn(self->plug, 1, &self->err));
	world_send(&self->world, 0, 1, 100);
	SEES(1, 0);
	wh_netplug_free(self->plug);
	DO(world_new(&self->world, "guest", &self->plug, &self->err));
	DO(wh_netplug_disarm(self->plug, &self->err));
	after = state_without_hooks();
	ASSERT_STREQ(before, after);
	free(before);
	free(after);
}

TEST_HARNESS_MAIN
