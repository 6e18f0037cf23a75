/* SPDX-License-Identifier: MIT */
/*
 * Edge: the plug qdisc, on an intermediate device (ifb) into which the NICs' output is led.
 *
 * One device for all NICs of a guest: one message turns or releases them all, or none. Each
 * packet comes out at its own NIC again, behind the hook, and the bridge or the host goes on
 * as usual.
 *
 * The plug counts packets and marks none, so what it does is watched. At the barrier nothing is
 * on its way, in or out (the guest stands still, and what was let go has left): what has left
 * and what waits is then all that came up to the end of this epoch. More than that must not have
 * left until the next release. If it has, somebody else is at the plug.
 */
#include "netplug/netplug.h"

#include "base/clock.h"
#include "base/err.h"
#include "netplug/links.h"
#include "netplug/qdiscs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define LEAVE_NS (NS_PER_MS * 50) /* in the guest's stop */
#define DISARM_NS (NS_PER_S * 5)
#define LOOK_US 200

struct plug {
	uint64_t may_leave; /* packets, of those since the plug was made */
	uint64_t closed;    /* the same at the end of the closed epoch */
};

static int plug_init(struct wh_netplug *plug, struct wh_err *err)
{
	plug->own = calloc(1, sizeof(struct plug));
	return plug->own ? 0 : err_set(err, -ENOMEM, "no memory");
}

static void plug_fini(struct wh_netplug *plug)
{
	free(plug->own);
}

/* It is as we made it, and nothing has left that may not */
static int plug_look(struct wh_netplug *plug, struct qdisc_info *info, struct wh_err *err)
{
	const struct plug *own = plug->own;
	int ret = qdisc_get(plug->netlink, plug->marks.ifb, QDISC_ROOT, info);

	if (ret < 0)
		return err_set(err, -ENOTRECOVERABLE, "the plug is not there any more");
	if (!qdisc_is_our_plug(info))
		return err_set(err, -ENOTRECOVERABLE, "there is '%s' where our plug was",
			       info->kind);
	if (info->sent > own->may_leave)
		return err_set(err, -ENOTRECOVERABLE,
			       "%" PRIu64 " packets have left that were not released",
			       info->sent - own->may_leave);
	return 0;
}

static int make_device(struct wh_netplug *plug, struct wh_err *err)
{
	char name[IFNAMSIZ], alias[LINK_ALIAS_MAX];
	struct link_info info = { 0 };
	int ret;

	mark_device_name(name, plug->name, MARK_IFB, 0);
	mark_alias(alias, plug->name);
	ret = link_add_ifb(plug->netlink, name, err);
	if (ret == 0)
		ret = link_get(plug->netlink, name, 0, &info, err);
	if (ret < 0)
		return ret;
	plug->marks.ifb = info.ifindex;
	ret = link_no_ipv6(plug->netlink, info.ifindex);
	if (ret == 0)
		ret = link_set(plug->netlink, info.ifindex, &(struct link_change){ .up = true });
	if (ret < 0)
		return err_sys(err, ret, "set up %s", name);
	/* With the alias on it, it was up once: down then means fenced */
	ret = link_set(plug->netlink, info.ifindex, &(struct link_change){ .alias = alias });
	if (ret < 0)
		return err_sys(err, ret, "name %s", name);
	return plug_make(plug->netlink, info.ifindex, plug->limit_bytes, err);
}

/* Read back: only then it is held */
static int verify(struct wh_netplug *plug, struct wh_err *err)
{
	struct qdisc_info qdisc;
	struct marks found;
	int ret = marks_find(plug->netlink, plug->name, &found, err);

	if (ret == 0)
		ret = qdisc_get(plug->netlink, plug->marks.ifb, QDISC_ROOT, &qdisc);
	if (ret < 0)
		return ret;
	if (found.ifb != plug->marks.ifb || found.fenced || !qdisc_is_our_plug(&qdisc) ||
	    found.filter_count != plug->nic_count)
		return err_set(err, -EIO, "what was made is not there");
	return 0;
}

static int until_left(struct wh_netplug *plug, uint64_t ns, struct wh_err *err)
{
	uint64_t deadline = clock_now_ns() + ns;
	struct qdisc_info info;
	int ret;

	for (;;) {
		ret = qdisc_get(plug->netlink, plug->marks.ifb, QDISC_ROOT, &info);
		if (ret < 0 || !info.packets || !qdisc_is_our_plug(&info))
			return 0;
		if (clock_now_ns() > deadline)
			return err_set(err, -ETIMEDOUT, "%u packets do not leave", info.packets);
		usleep(LOOK_US);
	}
}

/*
 * Everything that waits goes first: with its filter gone a NIC would overtake itself. A plug that
 * is lost, or a device that is down, lets nothing wait.
 */
static int take_away(struct wh_netplug *plug, struct wh_err *err)
{
	int ret;

	if (plug->marks.ifb) {
		plug_command(plug->netlink, plug->marks.ifb, PLUG_RELEASE_ALL, NULL);
		ret = until_left(plug, DISARM_NS, err);
		if (ret < 0)
			return ret;
	}
	return marks_clear(plug->netlink, &plug->marks, err);
}

static int plug_arm(struct wh_netplug *plug, struct wh_err *err)
{
	struct mark_filter hooks[WH_NETPLUG_NICS_MAX];
	struct plug *own = plug->own;
	unsigned hooked = 0;
	int ret = 0;

	*own = (struct plug){ 0 };
	plug->marks = (struct marks){ .edge = WH_NETPLUG_PLUG };
	/* Whatever can be refused is refused before the first packet is held */
	while (ret == 0 && hooked < plug->nic_count) {
		ret = mark_hook(plug->netlink, plug->nics[hooked], &hooks[hooked], err);
		hooked += ret == 0;
	}
	if (ret == 0)
		ret = make_device(plug, err);
	for (unsigned i = 0; ret == 0 && i < plug->nic_count; i++)
		ret = mark_redirect(plug->netlink, plug->name, &plug->marks, &hooks[i],
				    plug->marks.ifb, err);
	if (ret == 0)
		ret = verify(plug, err);
	if (ret == 0)
		return 0;
	if (take_away(plug, NULL) < 0)
		return -ENOTRECOVERABLE;
	while (hooked--)
		mark_unhook(plug->netlink, &hooks[hooked]);
	return ret;
}

/* Two closed epochs would be one to the plug; and counting needs one that stands still */
static int plug_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	uint64_t deadline = clock_now_ns() + LEAVE_NS;
	struct plug *own = plug->own;
	struct qdisc_info info;
	int ret;

	(void)epoch;
	while ((ret = plug_look(plug, &info, err)) == 0 && info.sent < own->may_leave) {
		if (clock_now_ns() > deadline)
			return err_set(err, -EBUSY,
				       "%" PRIu64 " released packets have not left yet",
				       own->may_leave - info.sent);
		usleep(LOOK_US);
	}
	if (ret < 0)
		return ret;
	own->closed = info.sent + info.packets;
	ret = plug_command(plug->netlink, plug->marks.ifb, PLUG_BUFFER, err);
	return ret == -ENOENT || ret == -EINVAL ? -ENOTRECOVERABLE : ret;
}

static int plug_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	struct plug *own = plug->own;
	struct qdisc_info info;
	int ret = plug_look(plug, &info, err);

	(void)epoch;
	if (ret == 0)
		ret = plug_command(plug->netlink, plug->marks.ifb, PLUG_RELEASE_ONE, err);
	if (ret == 0)
		own->may_leave = own->closed;
	return ret == -ENOENT || ret == -EINVAL ? -ENOTRECOVERABLE : ret;
}

/*
 * Down: what waits is dropped, and so is what a filter sends here. Deleting the plug instead
 * would open the gate.
 */
static int plug_fence(struct wh_netplug *plug, struct wh_err *err)
{
	int ret;

	if (!plug->marks.ifb)
		return 0; /* it is deleted: its filters send to nobody */
	ret = link_set(plug->netlink, plug->marks.ifb, &(struct link_change){ .down = true });
	return ret == 0 || ret == -ENODEV ? 0 : err_sys(err, ret, "set the device down");
}

static int plug_disarm(struct wh_netplug *plug, struct wh_err *err)
{
	struct qdisc_info info;
	int ret;

	if (plug->gate.state == WH_NETPLUG_FENCED) {
		ret = marks_idle(plug->netlink, &plug->marks, err);
		return ret < 0 ? ret : marks_clear(plug->netlink, &plug->marks, err);
	}
	/* Of ours or of nobody: a stranger's is told nothing */
	if (plug->gate.state == WH_NETPLUG_ORPHAN && plug->marks.ifb && plug->marks.filter_count) {
		ret = qdisc_get(plug->netlink, plug->marks.ifb, QDISC_ROOT, &info);
		if (ret == 0 && !qdisc_is_our_plug(&info))
			return err_set(err, -EEXIST,
				       "there is '%s' where our plug was: it can only be fenced",
				       info.kind);
	}
	return take_away(plug, err);
}

static int plug_count(struct wh_netplug *plug, struct wh_netplug_status *status, struct wh_err *err)
{
	struct qdisc_info info;
	int ret;

	(void)err;
	if (!plug->marks.ifb)
		return 0;
	ret = qdisc_get(plug->netlink, plug->marks.ifb, QDISC_ROOT, &info);
	if (ret < 0 || !qdisc_is_our_plug(&info))
		return 0;
	status->held_packets = info.packets;
	status->held_bytes = info.bytes;
	status->dropped = info.dropped;
	status->sent = info.sent;
	return 0;
}

const struct netplug_ops plug_ops = {
	.closed_most = 1,
	.kernel = true,
	.init = plug_init,
	.fini = plug_fini,
	.arm = plug_arm,
	.turn = plug_turn,
	.release = plug_release,
	.fence = plug_fence,
	.disarm = plug_disarm,
	.count = plug_count,
};
