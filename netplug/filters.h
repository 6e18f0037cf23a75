/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_FILTERS_H
#define NETPLUG_FILTERS_H

#include <netlink/netlink.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Filters that send every packet of a device elsewhere, whatever its protocol, and nothing
 * past it. Each carries a cookie, which the kernel keeps and gives back: so we know our own.
 */
#define FILTER_COOKIE 16
#define FILTER_PRIORITY 1 /* the first: what one before it accepts would not be held */

enum filter_at {
	FILTER_IN,
	FILTER_OUT, /* needs a hook of kind clsact */
};

struct filter_info {
	uint32_t handle;
	uint16_t priority;
	uint16_t protocol; /* network order, as it came */
	char kind[16];
	bool has_cookie;
	uint8_t cookie[FILTER_COOKIE];
};

/* No sentences: a negative errno */
int filter_add(struct nl_sock *netlink, int ifindex, enum filter_at at, int to,
	       const uint8_t cookie[FILTER_COOKIE]);
/* With handle 0: all of its priority */
int filter_delete(struct nl_sock *netlink, int ifindex, enum filter_at at,
		  const struct filter_info *info);
/* A filter, not the table that it is in */
bool filter_is_entry(const struct filter_info *info);
/* All of a device's; at most @room are written. Return: how many there are */
int filter_list(struct nl_sock *netlink, int ifindex, enum filter_at at, struct filter_info *list,
		unsigned room);

#endif /* NETPLUG_FILTERS_H */
