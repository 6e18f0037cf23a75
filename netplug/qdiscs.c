/* SPDX-License-Identifier: MIT */
/*
 * Edge: queueing disciplines.
 *
 * Without a handle, a message about a plug silently replaces whatever root there is; with
 * NLM_F_CREATE a command makes a plug anew where it is lost; and one that was made without a
 * limit drops everything. So: our handle always, NLM_F_CREATE and the limit in the message that
 * makes it, and neither of both in any other.
 */
#include "netplug/qdiscs.h"

#include "base/err.h"
#include "netplug/links.h"

#include <errno.h>
#include <limits.h>
#include <linux/gen_stats.h>
#include <linux/pkt_sched.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>
#include <string.h>

/* Below 0x8000, from where on the kernel hands them out */
#define PLUG_HANDLE TC_HANDLE(0x5748, 0)

static void take_qdisc(void *opaque, struct nlmsghdr *answer)
{
	struct nlattr *of[TCA_MAX + 1], *stats[TCA_STATS_MAX + 1];
	struct tcmsg *head = nlmsg_data(answer);
	struct qdisc_info *info = opaque;
	struct gnet_stats_basic basic;
	struct gnet_stats_queue queue;

	if (answer->nlmsg_type != RTM_NEWQDISC ||
	    nlmsg_parse(answer, sizeof(*head), of, TCA_MAX, NULL) < 0)
		return;
	info->handle = head->tcm_handle;
	if (of[TCA_KIND])
		nla_strlcpy(info->kind, of[TCA_KIND], sizeof(info->kind));
	if (!of[TCA_STATS2] || nla_parse_nested(stats, TCA_STATS_MAX, of[TCA_STATS2], NULL) < 0)
		return;
	if (stats[TCA_STATS_BASIC] && (size_t)nla_len(stats[TCA_STATS_BASIC]) >= sizeof(basic)) {
		memcpy(&basic, nla_data(stats[TCA_STATS_BASIC]), sizeof(basic));
		info->sent = basic.packets;
	}
	/* the 64 bits are there once 32 are too few */
	if (stats[TCA_STATS_PKT64] && nla_len(stats[TCA_STATS_PKT64]) >= 8)
		info->sent = nla_get_u64(stats[TCA_STATS_PKT64]);
	if (stats[TCA_STATS_QUEUE] && (size_t)nla_len(stats[TCA_STATS_QUEUE]) >= sizeof(queue)) {
		memcpy(&queue, nla_data(stats[TCA_STATS_QUEUE]), sizeof(queue));
		info->packets = queue.qlen;
		info->bytes = queue.backlog;
		info->dropped = queue.drops;
	}
}

int qdisc_get(struct nl_sock *netlink, int ifindex, enum qdisc_at at, struct qdisc_info *info)
{
	struct tcmsg head = {
		.tcm_family = AF_UNSPEC,
		.tcm_ifindex = ifindex,
		.tcm_parent = at == QDISC_ROOT ? TC_H_ROOT : TC_H_INGRESS,
	};
	/* without the flag only those hear the answer who listen to everything */
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_GETQDISC, NLM_F_ECHO);

	*info = (struct qdisc_info){ 0 };
	if (!msg || nlmsg_append(msg, &head, sizeof(head), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return links_talk(netlink, msg, take_qdisc, info);
}

bool qdisc_is_our_plug(const struct qdisc_info *info)
{
	return !strcmp(info->kind, "plug") && info->handle == PLUG_HANDLE;
}

static struct rtnl_qdisc *plug_new(int ifindex)
{
	struct rtnl_qdisc *plug = rtnl_qdisc_alloc();

	if (!plug)
		return NULL;
	rtnl_tc_set_ifindex(TC_CAST(plug), ifindex);
	rtnl_tc_set_parent(TC_CAST(plug), TC_H_ROOT);
	rtnl_tc_set_handle(TC_CAST(plug), PLUG_HANDLE);
	if (rtnl_tc_set_kind(TC_CAST(plug), "plug") == 0)
		return plug;
	rtnl_qdisc_put(plug);
	return NULL;
}

int plug_make(struct nl_sock *netlink, int ifindex, uint64_t limit_bytes, struct wh_err *err)
{
	struct rtnl_qdisc *plug = plug_new(ifindex);
	int ret;

	if (!plug)
		return err_set(err, -ENOMEM, "no memory");
	ret = rtnl_qdisc_plug_set_limit(plug, limit_bytes < INT_MAX ? (int)limit_bytes : INT_MAX);
	if (ret == 0)
		ret = rtnl_qdisc_add(netlink, plug, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_qdisc_put(plug);
	if (nl_code(ret) == -ENOENT)
		return err_set(err, -ENOSYS,
			       "the kernel has no sch_plug: modprobe sch_plug, or use the queue");
	return ret < 0 ? err_sys(err, nl_code(ret), "make the plug") : 0;
}

int plug_command(struct nl_sock *netlink, int ifindex, enum plug_command command,
		 struct wh_err *err)
{
	struct rtnl_qdisc *plug = plug_new(ifindex);
	int ret = 0;

	if (!plug)
		return err_set(err, -ENOMEM, "no memory");
	switch (command) {
	case PLUG_BUFFER:
		ret = rtnl_qdisc_plug_buffer(plug);
		break;
	case PLUG_RELEASE_ONE:
		ret = rtnl_qdisc_plug_release_one(plug);
		break;
	case PLUG_RELEASE_ALL:
		ret = rtnl_qdisc_plug_release_indefinite(plug);
		break;
	}
	if (ret == 0)
		ret = rtnl_qdisc_add(netlink, plug, 0);
	rtnl_qdisc_put(plug);
	return ret < 0 ? err_sys(err, nl_code(ret), "the plug takes no command") : 0;
}

static struct rtnl_qdisc *hook_new(int ifindex, const char *kind)
{
	struct rtnl_qdisc *hook = rtnl_qdisc_alloc();

	if (!hook)
		return NULL;
	rtnl_tc_set_ifindex(TC_CAST(hook), ifindex);
	rtnl_tc_set_parent(TC_CAST(hook), TC_H_INGRESS);
	rtnl_tc_set_handle(TC_CAST(hook), TC_HANDLE(0xffffu, 0));
	if (rtnl_tc_set_kind(TC_CAST(hook), kind) == 0)
		return hook;
	rtnl_qdisc_put(hook);
	return NULL;
}

int hook_make(struct nl_sock *netlink, int ifindex, const char *kind)
{
	struct rtnl_qdisc *hook = hook_new(ifindex, kind);
	int ret = hook ? rtnl_qdisc_add(netlink, hook, NLM_F_CREATE | NLM_F_EXCL) : -NLE_NOMEM;

	if (hook)
		rtnl_qdisc_put(hook);
	return nl_code(ret);
}

int hook_delete(struct nl_sock *netlink, int ifindex, const char *kind)
{
	struct rtnl_qdisc *hook = hook_new(ifindex, kind);
	int ret = hook ? rtnl_qdisc_delete(netlink, hook) : -NLE_NOMEM;

	if (hook)
		rtnl_qdisc_put(hook);
	return nl_code(ret);
}
