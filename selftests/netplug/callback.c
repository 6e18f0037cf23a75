/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VMM that filters its own packets: a list of them, each with its epoch.
 */
#include "selftests/lib/netrig.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <wherry/netplug.h>

#define WORLD_NICS 1
#define WORLD_CLOSED_MOST 0
#define LIST 8192

struct world {
	struct netrig_mark held[LIST];
	uint64_t epochs[LIST];
	unsigned count;
	struct netrig_mark outside[LIST];
	unsigned outside_count;
	uint64_t epoch; /* 0: not armed */
	bool fenced;
	int fails; /* the next call, with this */
};

#include "selftests/netplug/contract.h"

#include "kselftest_harness.h"

static int failing(struct world *world, struct wh_err *err)
{
	int code = world->fails;

	world->fails = 0;
	if (code && err) {
		err->code = code;
		strcpy(err->text, "the VMM's own filter failed");
	}
	return code;
}

static int on_arm(void *opaque, struct wh_err *err)
{
	struct world *world = opaque;

	world->epoch = 1;
	return failing(world, err);
}

static int on_turn(void *opaque, uint64_t epoch, struct wh_err *err)
{
	struct world *world = opaque;
	int ret = failing(world, err);

	if (ret == 0)
		world->epoch = epoch + 1;
	return ret;
}

static int on_release(void *opaque, uint64_t epoch, struct wh_err *err)
{
	struct world *world = opaque;
	unsigned kept = 0;
	int ret = failing(world, err);

	for (unsigned i = 0; ret == 0 && i < world->count; i++) {
		if (world->epochs[i] <= epoch) {
			world->outside[world->outside_count++] = world->held[i];
		} else {
			world->held[kept] = world->held[i];
			world->epochs[kept++] = world->epochs[i];
		}
	}
	if (ret == 0)
		world->count = kept;
	return ret;
}

static void on_fence(void *opaque)
{
	struct world *world = opaque;

	world->fenced = true;
	world->count = 0;
}

static int on_disarm(void *opaque, struct wh_err *err)
{
	struct world *world = opaque;

	on_release(world, UINT64_MAX, NULL);
	world->epoch = 0;
	world->fenced = false;
	return failing(world, err);
}

static void on_count(void *opaque, struct wh_netplug_status *status)
{
	const struct world *world = opaque;

	status->held_packets = world->count;
}

static const struct wh_netplug_filter filter = {
	.arm = on_arm,
	.turn = on_turn,
	.release = on_release,
	.fence = on_fence,
	.disarm = on_disarm,
	.count = on_count,
};

static const char *world_open(struct world *world)
{
	memset(world, 0, sizeof(*world));
	return NULL;
}

static void world_config(struct world *world, struct wh_netplug_config *config)
{
	config->edge = WH_NETPLUG_CALLBACK;
	config->name = "guest";
	config->filter = &filter;
	config->opaque = world;
}

static int world_send(struct world *world, unsigned nic, unsigned epoch, unsigned number)
{
	struct netrig_mark mark = { (uint8_t)nic, (uint8_t)epoch, (uint16_t)number };

	if (world->fenced)
		return 0;
	if (!world->epoch) {
		world->outside[world->outside_count++] = mark;
		return 0;
	}
	world->epochs[world->count] = world->epoch;
	world->held[world->count++] = mark;
	return 0;
}

static size_t world_seen(struct world *world, struct netrig_mark *marks, size_t room,
			 size_t expected)
{
	size_t count = world->outside_count < room ? world->outside_count : room;

	memcpy(marks, world->outside, count * sizeof(*marks));
	world->outside_count = 0;
	return count;
}

/* No barrier, no checkpoint: the epoch stays open, and can be closed again */
TEST_F(contract, a_failed_turn_closes_nothing)
{
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 2);
	self->world.fails = -EAGAIN;
	ASSERT_EQ(-EAGAIN, wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_STREQ("the VMM's own filter failed", self->err.text);
	ASSERT_EQ(-EINVAL, wh_netplug_release(self->plug, 1, NULL));
	SEES(1, 0);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	self->world.fails = -EAGAIN;
	ASSERT_EQ(-EAGAIN, wh_netplug_release(self->plug, 1, NULL));
	SEES(1, 0);
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 2);
}

TEST_F(contract, a_broken_one_is_only_fenced_or_disarmed)
{
	struct wh_netplug_status status;

	DO(wh_netplug_arm(self->plug, &self->err));
	self->world.fails = -ENOTRECOVERABLE;
	ASSERT_EQ(-ENOTRECOVERABLE, wh_netplug_turn(self->plug, 1, NULL));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_BROKEN, status.state);
	ASSERT_EQ(-EIO, wh_netplug_turn(self->plug, 1, NULL));
	ASSERT_EQ(-EBUSY, wh_netplug_arm(self->plug, NULL));
	DO(wh_netplug_fence(self->plug, &self->err));
	ASSERT_TRUE(self->world.fenced);
	DO(wh_netplug_disarm(self->plug, &self->err));
	DO(wh_netplug_arm(self->plug, &self->err));
}

/* Return: what wh_netplug_new() says to a changed configuration */
static int refused(struct world *world, void (*change)(struct wh_netplug_config *config))
{
	struct wh_netplug_config config;
	struct wh_netplug *plug = NULL;
	int ret;

	wh_netplug_config_init(&config);
	world_config(world, &config);
	change(&config);
	ret = wh_netplug_new(&plug, &config, NULL);
	if (ret == 0)
		wh_netplug_free(plug);
	return ret;
}

static const char *const two_nics[] = { "tap0", "tap0" };
static const struct wh_netplug_filter half = { .arm = on_arm };

static void no_name(struct wh_netplug_config *config)
{
	config->name = "";
}

static void long_name(struct wh_netplug_config *config)
{
	config->name = "0123456789012345678901234567890123456789012345678901234567890123";
}

static void odd_name(struct wh_netplug_config *config)
{
	config->name = "a\nb";
}

static void other_size(struct wh_netplug_config *config)
{
	config->size--;
}

static void no_edge(struct wh_netplug_config *config)
{
	config->edge = WH_NETPLUG_EDGE_COUNT;
}

static void half_filter(struct wh_netplug_config *config)
{
	config->filter = &half;
}

static void one_twice(struct wh_netplug_config *config)
{
	config->nics = two_nics;
	config->nic_count = 2;
}

static void too_many(struct wh_netplug_config *config)
{
	config->nic_count = WH_NETPLUG_NICS_MAX + 1;
}

TEST_F(contract, a_configuration_without_sense)
{
	ASSERT_EQ(-EINVAL, refused(&self->world, no_name));
	ASSERT_EQ(-EINVAL, refused(&self->world, long_name));
	ASSERT_EQ(-EINVAL, refused(&self->world, odd_name));
	ASSERT_EQ(-EINVAL, refused(&self->world, other_size));
	ASSERT_EQ(-EINVAL, refused(&self->world, no_edge));
	ASSERT_EQ(-EINVAL, refused(&self->world, half_filter));
	ASSERT_EQ(-EINVAL, refused(&self->world, one_twice));
	ASSERT_EQ(-EINVAL, refused(&self->world, too_many));
}

TEST_HARNESS_MAIN
