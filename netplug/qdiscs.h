/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_QDISCS_H
#define NETPLUG_QDISCS_H

#include <netlink/netlink.h>
#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Queueing disciplines: the plug, always by our own handle, and the hook that filters hang on.
 */

enum plug_command {
	PLUG_BUFFER,
	PLUG_RELEASE_ONE,
	PLUG_RELEASE_ALL,
};

struct qdisc_info {
	char kind[16];
	uint32_t handle;
	uint32_t packets; /* that wait */
	uint32_t bytes;
	uint32_t dropped;
	uint64_t sent; /* packets */
};

enum qdisc_at {
	QDISC_ROOT,
	QDISC_HOOK,
};

/* Return: 0; -ENOENT if there is none; or a negative errno. No sentence */
int qdisc_get(struct nl_sock *netlink, int ifindex, enum qdisc_at at, struct qdisc_info *info);
bool qdisc_is_our_plug(const struct qdisc_info *info);
/* As root. It holds from its first packet */
int plug_make(struct nl_sock *netlink, int ifindex, uint64_t limit_bytes, struct wh_err *err);
int plug_command(struct nl_sock *netlink, int ifindex, enum plug_command command,
		 struct wh_err *err);
/* For filters of both directions ("clsact"), or of what comes in ("ingress") */
int hook_make(struct nl_sock *netlink, int ifindex, const char *kind);
int hook_delete(struct nl_sock *netlink, int ifindex, const char *kind);

#endif /* NETPLUG_QDISCS_H */
