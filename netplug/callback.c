/* SPDX-License-Identifier: MIT */
/*
 * Edge: a VMM that filters its own packets, as QEMU's filter-buffer does.
 */
#include "netplug/netplug.h"

#include "base/err.h"

#include <errno.h>

static int callback_init(struct wh_netplug *plug, struct wh_err *err)
{
	const struct wh_netplug_filter *filter = &plug->filter;

	if (plug->nic_count)
		return err_set(err, -EINVAL, "the VMM's own filter knows its NICs: none is named");
	if (!filter->arm || !filter->turn || !filter->release || !filter->fence || !filter->disarm)
		return err_set(err, -EINVAL, "struct wh_netplug_filter: a member is missing");
	return 0;
}

static int callback_arm(struct wh_netplug *plug, struct wh_err *err)
{
	return plug->filter.arm(plug->opaque, err);
}

static int callback_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	return plug->filter.turn(plug->opaque, epoch, err);
}

static int callback_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	return plug->filter.release(plug->opaque, epoch, err);
}

static int callback_fence(struct wh_netplug *plug, struct wh_err *err)
{
	(void)err;
	plug->filter.fence(plug->opaque);
	return 0;
}

static int callback_disarm(struct wh_netplug *plug, struct wh_err *err)
{
	return plug->filter.disarm(plug->opaque, err);
}

static int callback_count(struct wh_netplug *plug, struct wh_netplug_status *status,
			  struct wh_err *err)
{
	(void)err;
	if (plug->gate.state != WH_NETPLUG_IDLE && plug->filter.count)
		plug->filter.count(plug->opaque, status);
	return 0;
}

const struct netplug_ops callback_ops = {
	.init = callback_init,
	.arm = callback_arm,
	.turn = callback_turn,
	.release = callback_release,
	.fence = callback_fence,
	.disarm = callback_disarm,
	.count = callback_count,
};
