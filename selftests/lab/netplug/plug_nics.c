/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's plug, and the NICs that it is led into.
 */
#include <wherry/netplug.h>

#define WORLD_NICS 2
#define WORLD_STRIDE 1 /* of steps at which it is killed */
#define WORLD_CLOSED_MOST 1
#define WORLD_EDGE WH_NETPLUG_PLUG

#include "selftests/netplug/taps.h"

#include "selftests/netplug/nics.h"

#include "kselftest_harness.h"

static const char *edge_missing(void)
{
	if (netrig_run("ip link add scratch type ifb && tc qdisc add dev scratch root plug "
		       "2>/dev/null"))
		return "this kernel has no sch_plug";
	netrig_run("ip link del scratch");
	return NULL;
}

TEST_HARNESS_MAIN
