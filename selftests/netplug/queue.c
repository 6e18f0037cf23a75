/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The queue of this process, on taps of a namespace of our own.
 */
#include <wherry/netplug.h>

#define WORLD_NICS 2
#define WORLD_STRIDE 1 /* of steps at which it is killed */
#define WORLD_CLOSED_MOST 0

#define WORLD_EDGE WH_NETPLUG_QUEUE

#include "selftests/netplug/taps.h"

#include "selftests/netplug/contract.h"
#include "selftests/netplug/nics.h"

#include "kselftest_harness.h"

static const char *edge_missing(void)
{
	return NULL;
}

/* By packets here; the ones that came first stay */
TEST_F(contract, above_the_limit_it_is_dropped_and_counted)
{
	struct wh_netplug_status status;
	struct wh_netplug *plug = NULL;
	unsigned outside = 0;

	self->world.limit_packets = 5;
	DO(world_new(&self->world, "other", &plug, &self->err));
	DO(wh_netplug_arm(plug, &self->err));
	ASSERT_TRUE(send_some(&self->world, plug, &self->number, 1, 8));
	DO(wh_netplug_turn(plug, 1, &self->err));
	DO(wh_netplug_status(plug, &status, &self->err));
	ASSERT_EQ(5, status.held_packets);
	ASSERT_EQ(5 * 114, status.held_bytes);
	ASSERT_EQ(3, status.dropped);
	DO(wh_netplug_release(plug, 1, &self->err));
	SEES(1, 5);
	wh_netplug_free(plug);
}

TEST_HARNESS_MAIN
