/* SPDX-License-Identifier: MIT */
/*
 * Edge: filters. The messages are ours, since libnl-route knows of no cookies.
 *
 * Protocol ALL: with "ip", ARP, IPv6 and VLAN frames pass by. TC_ACT_STOLEN: with the default
 * a copy passes by. u32 has no key at all: one key of four bytes, even with an empty mask, does
 * not match a frame that has fewer of them behind its header.
 */
#include "netplug/filters.h"

#include "netplug/links.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <string.h>

#define CLSACT_IN TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) /* understood by ingress too */
#define CLSACT_OUT TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)

static struct nl_msg *filter_message(int type, int flags, int ifindex, enum filter_at at,
				     uint32_t info, uint32_t handle)
{
	struct tcmsg head = {
		.tcm_family = AF_UNSPEC,
		.tcm_ifindex = ifindex,
		.tcm_parent = at == FILTER_IN ? CLSACT_IN : CLSACT_OUT,
		.tcm_info = info,
		.tcm_handle = handle,
	};
	struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

	if (msg && nlmsg_append(msg, &head, sizeof(head), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

static int put_redirect(struct nl_msg *msg, int actions, int to, const uint8_t *cookie)
{
	struct tc_mirred mirred = {
		.action = TC_ACT_STOLEN,
		.eaction = TCA_EGRESS_REDIR,
		.ifindex = (uint32_t)to,
	};
	struct nlattr *all, *one, *options;

	all = nla_nest_start(msg, actions);
	one = all ? nla_nest_start(msg, 1) : NULL;
	if (!one || nla_put_string(msg, TCA_ACT_KIND, "mirred") < 0 ||
	    nla_put(msg, TCA_ACT_COOKIE, FILTER_COOKIE, cookie) < 0)
		return -NLE_NOMEM;
	options = nla_nest_start(msg, TCA_ACT_OPTIONS);
	if (!options || nla_put(msg, TCA_MIRRED_PARMS, sizeof(mirred), &mirred) < 0)
		return -NLE_NOMEM;
	nla_nest_end(msg, options);
	nla_nest_end(msg, one);
	nla_nest_end(msg, all);
	return 0;
}

static int filter_add_kind(struct nl_sock *netlink, int ifindex, enum filter_at at, int to,
			   const uint8_t *cookie, const char *kind)
{
	struct tc_u32_sel everything = { .flags = TC_U32_TERMINAL };
	bool u32 = !strcmp(kind, "u32");
	struct nlattr *options;
	struct nl_msg *msg;
	int ret;

	msg = filter_message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, at,
			     FILTER_PRIORITY << 16 | htons(ETH_P_ALL), 1);
	if (!msg)
		return -ENOMEM;
	ret = nla_put_string(msg, TCA_KIND, kind);
	options = ret == 0 ? nla_nest_start(msg, TCA_OPTIONS) : NULL;
	if (!options)
		ret = -NLE_NOMEM;
	if (ret == 0 && u32)
		ret = nla_put(msg, TCA_U32_SEL, sizeof(everything), &everything);
	if (ret == 0)
		ret = put_redirect(msg, u32 ? TCA_U32_ACT : TCA_MATCHALL_ACT, to, cookie);
	if (ret < 0) {
		nlmsg_free(msg);
		return nl_code(ret);
	}
	nla_nest_end(msg, options);
	return nl_code(nl_send_sync(netlink, msg)); /* which frees it */
}

int filter_add(struct nl_sock *netlink, int ifindex, enum filter_at at, int to,
	       const uint8_t cookie[FILTER_COOKIE])
{
	int ret = filter_add_kind(netlink, ifindex, at, to, cookie, "matchall");

	if (ret == -ENOENT) /* the kernel has none */
		ret = filter_add_kind(netlink, ifindex, at, to, cookie, "u32");
	return ret;
}

int filter_delete(struct nl_sock *netlink, int ifindex, enum filter_at at,
		  const struct filter_info *info)
{
	struct nl_msg *msg =
		filter_message(RTM_DELTFILTER, 0, ifindex, at,
			       (uint32_t)info->priority << 16 | info->protocol, info->handle);

	if (!msg || nla_put_string(msg, TCA_KIND, info->kind) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return nl_code(nl_send_sync(netlink, msg));
}

bool filter_is_entry(const struct filter_info *info)
{
	return !strcmp(info->kind, "u32") ? TC_U32_NODE(info->handle) != 0 : info->handle != 0;
}

struct listing {
	struct filter_info *list;
	unsigned room;
	unsigned count;
};

/* The cookie of its first action; each kind of filter keeps its actions elsewhere */
static void take_cookie(struct nlattr *options, const char *kind, struct filter_info *info)
{
	int at = !strcmp(kind, "u32")	   ? TCA_U32_ACT :
		 !strcmp(kind, "matchall") ? TCA_MATCHALL_ACT :
					     0;
	struct nlattr *actions = at ? nla_find(nla_data(options), nla_len(options), at) : NULL;
	struct nlattr *first = actions ? nla_find(nla_data(actions), nla_len(actions), 1) : NULL;
	struct nlattr *cookie =
		first ? nla_find(nla_data(first), nla_len(first), TCA_ACT_COOKIE) : NULL;

	if (!cookie || nla_len(cookie) != FILTER_COOKIE)
		return;
	info->has_cookie = true;
	memcpy(info->cookie, nla_data(cookie), FILTER_COOKIE);
}

static void take_filter(void *opaque, struct nlmsghdr *answer)
{
	struct filter_info info = { 0 };
	struct listing *listing = opaque;
	struct nlattr *of[TCA_MAX + 1];
	struct tcmsg *head = nlmsg_data(answer);

	if (answer->nlmsg_type != RTM_NEWTFILTER ||
	    nlmsg_parse(answer, sizeof(*head), of, TCA_MAX, NULL) < 0)
		return;
	info.handle = head->tcm_handle;
	info.priority = (uint16_t)(head->tcm_info >> 16);
	info.protocol = (uint16_t)head->tcm_info;
	if (of[TCA_KIND])
		nla_strlcpy(info.kind, of[TCA_KIND], sizeof(info.kind));
	if (of[TCA_OPTIONS])
		take_cookie(of[TCA_OPTIONS], info.kind, &info);
	if (listing->count < listing->room)
		listing->list[listing->count] = info;
	listing->count++;
}

int filter_list(struct nl_sock *netlink, int ifindex, enum filter_at at, struct filter_info *list,
		unsigned room)
{
	struct listing listing = { .list = list, .room = room };
	struct nl_msg *msg = filter_message(RTM_GETTFILTER, NLM_F_DUMP, ifindex, at, 0, 0);
	int ret = msg ? links_talk(netlink, msg, take_filter, &listing) : -ENOMEM;

	return ret < 0 ? ret : (int)listing.count;
}
