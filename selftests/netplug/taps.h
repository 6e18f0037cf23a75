/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_NETPLUG_TAPS_H
#define SELFTESTS_NETPLUG_TAPS_H

/*
 * The world of the edges that work on NICs of the kernel's: a program defines WORLD_EDGE, how
 * many NICs there are, and edge_missing().
 */
#include "selftests/lib/netrig.h"

struct world {
	struct netrig rig;
	uint64_t limit_packets; /* 0: the default */
	uint64_t limit_bytes;
};

#include "selftests/netplug/world.h"

/* Why the edge cannot run here, or NULL; in the namespace of the test */
static const char *edge_missing(void);

static const char *const world_nics[] = { "tap0", "tap1", "tap2", "tap3" };

static const char *world_open(struct world *world)
{
	const char *missing;

	memset(world, 0, sizeof(*world));
	missing = netrig_open(&world->rig, WORLD_NICS);
	return missing ? missing : edge_missing();
}

static void world_config(struct world *world, struct wh_netplug_config *config)
{
	config->edge = WORLD_EDGE;
	config->name = "guest";
	config->nics = world_nics;
	config->nic_count = WORLD_NICS;
	if (world->limit_packets)
		config->limit_packets = world->limit_packets;
	if (world->limit_bytes)
		config->limit_bytes = world->limit_bytes;
}

static int world_send(struct world *world, unsigned nic, unsigned epoch, unsigned number)
{
	return netrig_send(&world->rig, nic, epoch, number, number % NETRIG_RUNT);
}

static size_t world_seen(struct world *world, struct netrig_mark *marks, size_t room,
			 size_t expected)
{
	return netrig_seen(&world->rig, marks, room, expected);
}

/* Another process, or another guest's */
static int world_new(struct world *world, const char *name, struct wh_netplug **plug,
		     struct wh_err *err)
{
	struct wh_netplug_config config;

	wh_netplug_config_init(&config);
	world_config(world, &config);
	config.name = name;
	return wh_netplug_new(plug, &config, err);
}

/* An empty hook does nothing, and nobody can say whose it is */
static char *state_without_hooks(void)
{
	char *state = netrig_state(), *at, *end;

	while ((at = strstr(state, "qdisc ingress ")) && (end = strchr(at, '\n')))
		memmove(at, end + 1, strlen(end + 1) + 1);
	return state;
}

#endif /* SELFTESTS_NETPLUG_TAPS_H */
