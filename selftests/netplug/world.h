/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_NETPLUG_WORLD_H
#define SELFTESTS_NETPLUG_WORLD_H

/*
 * What the tests of the edges have in common: a program defines struct world and the functions
 * below, and includes this. Each test has a world of its own.
 */
#include "selftests/lib/netrig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wherry/netplug.h>

#include "kselftest_harness.h"

/* Return: NULL, or what is missing */
static const char *world_open(struct world *world);
static void world_config(struct world *world, struct wh_netplug_config *config);
static int world_send(struct world *world, unsigned nic, unsigned epoch, unsigned number);
static size_t world_seen(struct world *world, struct netrig_mark *marks, size_t room,
			 size_t expected);

#define SEEN_MAX 8192

static const unsigned closed_most = WORLD_CLOSED_MOST; /* 0: any number */

static struct netrig_mark seen[SEEN_MAX];

FIXTURE(contract)
{
	struct world world;
	struct wh_netplug *plug;
	struct wh_err err;
	unsigned number;
};

FIXTURE_SETUP(contract)
{
	struct wh_netplug_config config;
	const char *missing = world_open(&self->world);

	if (missing)
		SKIP(return, "%s", missing);
	wh_netplug_config_init(&config);
	world_config(&self->world, &config);
	ASSERT_EQ(0, wh_netplug_new(&self->plug, &config, &self->err))
	TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(contract)
{
	wh_netplug_free(self->plug);
}

/* As the loop of a VMM would: before the kernel's queue is full */
static void process(struct wh_netplug *plug)
{
	wh_netplug_process(plug, NULL);
}

/* Return: whether all of @count could be sent; numbers go on from *@number */
static bool send_some(struct world *world, struct wh_netplug *plug, unsigned *number,
		      unsigned epoch, unsigned count)
{
	for (unsigned i = 0; i < count; i++, ++*number) {
		if (world_send(world, *number % WORLD_NICS, epoch, *number) != 0)
			return false;
		if (i % 256 == 255)
			process(plug);
	}
	process(plug);
	return true;
}

/* Exactly the packets from *@number on, in order; of each NIC where there are several */
static bool sees(struct world *world, unsigned *number, unsigned epoch, unsigned count)
{
	size_t n = world_seen(world, seen, SEEN_MAX, count);
	unsigned next[NETRIG_NICS];

	if (n != count) {
		ksft_print_msg("%zu packets are outside, not %u\n", n, count);
		return false;
	}
	for (unsigned nic = 0; nic < WORLD_NICS; nic++)
		next[nic] = *number + (nic + WORLD_NICS - *number % WORLD_NICS) % WORLD_NICS;
	for (size_t i = 0; i < n; i++) {
		unsigned *at = &next[seen[i].nic % WORLD_NICS];

		if (seen[i].epoch != epoch || seen[i].number != *at) {
			ksft_print_msg("packet %u of epoch %u, not %u of %u\n", seen[i].number,
				       seen[i].epoch, *at, epoch);
			return false;
		}
		*at += WORLD_NICS;
	}
	*number += count;
	return true;
}

#define SEND(epoch, count) \
	ASSERT_TRUE(send_some(&self->world, self->plug, &self->number, epoch, count))
#define SEES(epoch, count) ASSERT_TRUE(sees(&self->world, &outside, epoch, count))
#define DO(call)           \
	ASSERT_EQ(0, call) \
	TH_LOG("%s", self->err.text)

#endif /* SELFTESTS_NETPLUG_WORLD_H */
