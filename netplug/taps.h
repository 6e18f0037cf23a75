/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_TAPS_H
#define NETPLUG_TAPS_H

#include <netlink/netlink.h>
#include <wherry/err.h>

/* Bytes in front of each packet: struct virtio_net_hdr, so that large segments stay whole */
#define TAP_HEADER 10

/* Make a tap that goes with its descriptor; non-blocking. Return: the descriptor, or -errno */
int tap_open(struct nl_sock *netlink, const char *name, const char *alias, int *ifindex,
	     struct wh_err *err);

#endif /* NETPLUG_TAPS_H */
