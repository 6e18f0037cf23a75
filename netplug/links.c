/* SPDX-License-Identifier: MIT */
/*
 * Edge: network devices. Reading is ours, for what libnl-route does not know of; making and
 * changing is libnl-route's.
 */
#include "netplug/links.h"

#include "base/err.h"

#include <errno.h>
#include <linux/if_link.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/route/link.h>
#include <netlink/route/link/inet6.h>
#include <netlink/route/rtnl.h>
#include <stdlib.h>
#include <string.h>

int nl_code(int code)
{
	switch (abs(code)) {
	case 0:
		return 0;
	case NLE_OBJ_NOTFOUND:
		return -ENOENT;
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_OPNOTSUPP:
		return -EOPNOTSUPP;
	case NLE_NODEV:
		return -ENODEV;
	case NLE_INVAL:
		return -EINVAL;
	case NLE_EXIST:
		return -EEXIST;
	case NLE_BUSY:
		return -EBUSY;
	default:
		return -EIO;
	}
}

int links_open(struct nl_sock **netlink, struct wh_err *err)
{
	struct nl_sock *sock = nl_socket_alloc();
	int ret;

	if (!sock)
		return err_set(err, -ENOMEM, "no memory");
	ret = nl_code(nl_connect(sock, NETLINK_ROUTE));
	if (ret < 0) {
		nl_socket_free(sock);
		return err_sys(err, ret, "rtnetlink");
	}
	*netlink = sock;
	return 0;
}

void links_close(struct nl_sock *netlink)
{
	if (netlink)
		nl_socket_free(netlink);
}

struct talk {
	void (*each)(void *opaque, struct nlmsghdr *answer);
	void *opaque;
	int code;
	bool over;
};

static int on_answer(struct nl_msg *msg, void *opaque)
{
	struct talk *talk = opaque;

	talk->each(talk->opaque, nlmsg_hdr(msg));
	return NL_OK;
}

static int on_over(struct nl_msg *msg, void *opaque)
{
	struct talk *talk = opaque;

	(void)msg;
	talk->over = true;
	return NL_STOP;
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *error, void *opaque)
{
	struct talk *talk = opaque;

	(void)from;
	talk->code = error->error;
	talk->over = true;
	return NL_STOP;
}

int links_talk(struct nl_sock *netlink, struct nl_msg *msg,
	       void (*each)(void *opaque, struct nlmsghdr *answer), void *opaque)
{
	struct talk talk = { .each = each, .opaque = opaque };
	struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
	int ret = cb ? nl_send_auto(netlink, msg) : -NLE_NOMEM;

	nlmsg_free(msg);
	if (ret >= 0) {
		nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, on_answer, &talk);
		nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_over, &talk);
		nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_over, &talk);
		nl_cb_err(cb, NL_CB_CUSTOM, on_error, &talk);
		ret = 0;
		while (ret >= 0 && !talk.over)
			ret = nl_recvmsgs(netlink, cb);
	}
	if (cb)
		nl_cb_put(cb);
	if (talk.code)
		return talk.code;
	return ret < 0 ? nl_code(ret) : 0;
}

static void copy_text(char *to, size_t room, struct nlattr *from)
{
	if (from)
		nla_strlcpy(to, from, room);
}

static void take_linkinfo(struct nlattr *nest, struct link_info *info)
{
	struct nlattr *of[IFLA_INFO_MAX + 1], *data[IFLA_BR_MAX + 1];

	if (nla_parse_nested(of, IFLA_INFO_MAX, nest, NULL) < 0)
		return;
	copy_text(info->kind, sizeof(info->kind), of[IFLA_INFO_KIND]);
	if (!of[IFLA_INFO_DATA] || strcmp(info->kind, "bridge") != 0 ||
	    nla_parse_nested(data, IFLA_BR_MAX, of[IFLA_INFO_DATA], NULL) < 0)
		return;
	if (data[IFLA_BR_VLAN_FILTERING] && nla_len(data[IFLA_BR_VLAN_FILTERING]) >= 1)
		info->filters_vlans = nla_get_u8(data[IFLA_BR_VLAN_FILTERING]);
}

static int take_link(struct nlmsghdr *answer, struct link_info *info)
{
	struct nlattr *of[IFLA_MAX + 1];
	struct ifinfomsg *head = nlmsg_data(answer);
	struct rtnl_link_stats64 stats;

	*info = (struct link_info){ 0 };
	if (answer->nlmsg_type != RTM_NEWLINK ||
	    nlmsg_parse(answer, sizeof(*head), of, IFLA_MAX, NULL) < 0)
		return -EPROTO;
	info->ifindex = head->ifi_index;
	info->flags = head->ifi_flags;
	copy_text(info->name, sizeof(info->name), of[IFLA_IFNAME]);
	copy_text(info->alias, sizeof(info->alias), of[IFLA_IFALIAS]);
	if (of[IFLA_MASTER] && nla_len(of[IFLA_MASTER]) >= 4)
		info->master = (int)nla_get_u32(of[IFLA_MASTER]);
	if (of[IFLA_MTU] && nla_len(of[IFLA_MTU]) >= 4)
		info->mtu = nla_get_u32(of[IFLA_MTU]);
	if (of[IFLA_ADDRESS] && nla_len(of[IFLA_ADDRESS]) == LINK_ADDRESS)
		memcpy(info->address, nla_data(of[IFLA_ADDRESS]), LINK_ADDRESS);
	if (of[IFLA_LINKINFO])
		take_linkinfo(of[IFLA_LINKINFO], info);
	if (of[IFLA_STATS64] && (size_t)nla_len(of[IFLA_STATS64]) >= sizeof(stats)) {
		memcpy(&stats, nla_data(of[IFLA_STATS64]), sizeof(stats));
		info->tx_dropped = stats.tx_dropped;
	}
	return 0;
}

static struct nl_msg *link_question(const char *name, int ifindex, int flags)
{
	struct ifinfomsg head = { .ifi_family = AF_UNSPEC, .ifi_index = ifindex };
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_GETLINK, flags);

	if (!msg || nlmsg_append(msg, &head, sizeof(head), NLMSG_ALIGNTO) < 0 ||
	    (name && nla_put_string(msg, IFLA_IFNAME, name) < 0)) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

struct one {
	struct link_info *info;
	int ret;
};

static void take_one(void *opaque, struct nlmsghdr *answer)
{
	struct one *one = opaque;

	one->ret = take_link(answer, one->info);
}

int link_get(struct nl_sock *netlink, const char *name, int ifindex, struct link_info *info,
	     struct wh_err *err)
{
	struct one one = { .info = info, .ret = -EPROTO };
	struct nl_msg *msg = link_question(name, ifindex, 0);
	int ret = msg ? links_talk(netlink, msg, take_one, &one) : -ENOMEM;

	if (ret == 0)
		ret = one.ret;
	if (ret < 0)
		*info = (struct link_info){ 0 };
	if (ret == -ENODEV && name)
		return err_set(err, ret, "there is no device %s in this network namespace", name);
	if (ret < 0)
		return err_sys(err, ret, "device %s", name ? name : "by number");
	return 0;
}

struct many {
	struct link_info *list;
	size_t count;
	size_t room;
	int ret;
};

static void take_many(void *opaque, struct nlmsghdr *answer)
{
	struct many *many = opaque;
	struct link_info *larger;

	if (many->ret < 0)
		return;
	if (many->count == many->room) {
		many->room = many->room ? 2 * many->room : 16;
		larger = reallocarray(many->list, many->room, sizeof(*larger));
		if (!larger) {
			many->ret = -ENOMEM;
			return;
		}
		many->list = larger;
	}
	if (take_link(answer, &many->list[many->count]) == 0)
		many->count++;
}

/* All are in before the first is looked at: @each may talk too */
int link_each(struct nl_sock *netlink, int (*each)(void *opaque, const struct link_info *info),
	      void *opaque, struct wh_err *err)
{
	struct many many = { 0 };
	struct nl_msg *msg = link_question(NULL, 0, NLM_F_DUMP);
	int ret = msg ? links_talk(netlink, msg, take_many, &many) : -ENOMEM;

	if (ret == 0)
		ret = many.ret;
	if (ret < 0)
		err_sys(err, ret, "list of devices");
	for (size_t i = 0; ret == 0 && i < many.count; i++)
		ret = each(opaque, &many.list[i]);
	free(many.list);
	return ret;
}

int link_add_ifb(struct nl_sock *netlink, const char *name, struct wh_err *err)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int ret = -NLE_NOMEM;

	if (link) {
		rtnl_link_set_name(link, name);
		ret = rtnl_link_set_type(link, "ifb");
		if (ret == 0)
			ret = rtnl_link_add(netlink, link, NLM_F_CREATE | NLM_F_EXCL);
		rtnl_link_put(link);
	}
	if (nl_code(ret) == -EOPNOTSUPP)
		return err_set(err, -EOPNOTSUPP,
			       "the kernel has no intermediate functional block: modprobe ifb");
	return ret < 0 ? err_sys(err, nl_code(ret), "make device %s", name) : 0;
}

int link_set(struct nl_sock *netlink, int ifindex, const struct link_change *change)
{
	struct rtnl_link *which = rtnl_link_alloc(), *what = rtnl_link_alloc();
	struct nl_addr *address = NULL;
	int ret = which && what ? 0 : -NLE_NOMEM;

	if (ret < 0)
		goto out;
	rtnl_link_set_ifindex(which, ifindex);
	if (change->up)
		rtnl_link_set_flags(what, IFF_UP);
	if (change->down)
		rtnl_link_unset_flags(what, IFF_UP);
	if (change->set_master)
		rtnl_link_set_master(what, change->master);
	if (change->mtu)
		rtnl_link_set_mtu(what, change->mtu);
	if (change->queue)
		rtnl_link_set_txqlen(what, change->queue);
	if (change->alias)
		rtnl_link_set_ifalias(what, change->alias);
	if (change->address) {
		address = nl_addr_build(AF_LLC, change->address, LINK_ADDRESS);
		if (address)
			rtnl_link_set_addr(what, address);
		else
			ret = -NLE_NOMEM;
	}
	if (ret == 0)
		ret = rtnl_link_change(netlink, which, what, 0);
	if (address)
		nl_addr_put(address);
out:
	if (which)
		rtnl_link_put(which);
	if (what)
		rtnl_link_put(what);
	return nl_code(ret);
}

/* Only then may it be up. A kernel without IPv6 has nothing to be told */
int link_no_ipv6(struct nl_sock *netlink, int ifindex)
{
	struct rtnl_link *which = rtnl_link_alloc(), *what = rtnl_link_alloc();
	int ret = which && what ? 0 : -NLE_NOMEM;

	if (ret == 0) {
		rtnl_link_set_ifindex(which, ifindex);
		ret = rtnl_link_inet6_set_addr_gen_mode(what, IN6_ADDR_GEN_MODE_NONE);
	}
	if (ret == 0)
		ret = rtnl_link_change(netlink, which, what, 0);
	if (which)
		rtnl_link_put(which);
	if (what)
		rtnl_link_put(what);
	return ret == -NLE_AF_NOSUPPORT ? 0 : nl_code(ret);
}

int link_delete(struct nl_sock *netlink, int ifindex)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int ret = -NLE_NOMEM;

	if (link) {
		rtnl_link_set_ifindex(link, ifindex);
		ret = rtnl_link_delete(netlink, link);
		rtnl_link_put(link);
	}
	return nl_code(ret);
}
