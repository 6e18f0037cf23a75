/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_LINKS_H
#define NETPLUG_LINKS_H

#include <net/if.h>
#include <netlink/netlink.h>
#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Network devices of this namespace, by rtnetlink. A device that is not there is -ENODEV.
 */
#define LINK_ADDRESS 6
#define LINK_ALIAS_MAX 256
#define LINK_KIND_MAX 16

struct link_info {
	int ifindex;
	int master; /* 0: none */
	unsigned flags;
	unsigned mtu;
	char name[IFNAMSIZ];
	char alias[LINK_ALIAS_MAX];
	char kind[LINK_KIND_MAX]; /* "tun", "ifb", "bridge" */
	uint8_t address[LINK_ADDRESS];
	bool filters_vlans; /* a bridge that does */
	uint64_t tx_dropped;
};

/* What is to be changed; what is zero stays */
struct link_change {
	bool up;
	bool down;
	bool set_master;
	int master;
	unsigned mtu;
	unsigned queue;
	const char *alias;
	const uint8_t *address;
};

/* 0, or the negative errno of a libnl error of either sign */
int nl_code(int code);

int links_open(struct nl_sock **netlink, struct wh_err *err);
void links_close(struct nl_sock *netlink);
/* Send, and give what is answered to @each, until all of it is in. Frees the message */
int links_talk(struct nl_sock *netlink, struct nl_msg *msg,
	       void (*each)(void *opaque, struct nlmsghdr *answer), void *opaque);

/* By name, or by number if it is NULL */
int link_get(struct nl_sock *netlink, const char *name, int ifindex, struct link_info *info,
	     struct wh_err *err);
/* Return: 0, or what @each did not return 0 with */
int link_each(struct nl_sock *netlink, int (*each)(void *opaque, const struct link_info *info),
	      void *opaque, struct wh_err *err);
int link_add_ifb(struct nl_sock *netlink, const char *name, struct wh_err *err);
int link_set(struct nl_sock *netlink, int ifindex, const struct link_change *change);
/* No address of its own, so no packets of its own */
int link_no_ipv6(struct nl_sock *netlink, int ifindex);
int link_delete(struct nl_sock *netlink, int ifindex);

#endif /* NETPLUG_LINKS_H */
