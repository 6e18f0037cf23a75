/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_NETPLUG_H
#define NETPLUG_NETPLUG_H

#include "netplug/gate.h"
#include "netplug/marks.h"

#include <net/if.h>
#include <netlink/netlink.h>
#include <stdbool.h>
#include <wherry/netplug.h>

#define NETPLUG_NAME_MAX 63

/**
 * struct netplug_ops - An edge: who holds the packets
 *
 * The gate was asked before. A call that failed has done nothing, unless it returns
 * -ENOTRECOVERABLE. Those that are NULL have nothing to do.
 *
 * @closed_most:	See struct gate
 * @kernel:		It works on NICs of this network namespace: @marks is looked up for it
 * @disarm:		Also after a fence, and of what a dead process has left
 * @waits:		There is something, as far as it is known without asking the kernel
 */
struct netplug_ops {
	uint64_t closed_most;
	bool kernel;
	int (*init)(struct wh_netplug *plug, struct wh_err *err);
	void (*fini)(struct wh_netplug *plug);
	int (*arm)(struct wh_netplug *plug, struct wh_err *err);
	int (*turn)(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err);
	int (*release)(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err);
	int (*fence)(struct wh_netplug *plug, struct wh_err *err);
	int (*disarm)(struct wh_netplug *plug, struct wh_err *err);
	int (*count)(struct wh_netplug *plug, struct wh_netplug_status *status, struct wh_err *err);
	int (*process)(struct wh_netplug *plug, struct wh_err *err);
	bool (*waits)(const struct wh_netplug *plug);
};

extern const struct netplug_ops callback_ops;
extern const struct netplug_ops queue_ops;
extern const struct netplug_ops plug_ops;
extern const struct netplug_ops holder_ops;

struct serve;

struct wh_netplug {
	const struct netplug_ops *ops;
	struct gate gate;
	enum wh_netplug_edge edge;
	char name[NETPLUG_NAME_MAX + 1];
	char nics[WH_NETPLUG_NICS_MAX][IFNAMSIZ];
	unsigned nic_count;
	char bridge[IFNAMSIZ];
	uint64_t limit_bytes;
	uint64_t limit_packets;
	uint64_t answer_ns;
	struct wh_netplug_filter filter;
	void *opaque;
	int lock;		 /* kernel edges: the name is ours */
	struct nl_sock *netlink; /* the same */
	struct marks marks;	 /* of ours, found or made */
	int fd;			 /* the edge's, readable when it has something to do */
	struct serve *serve;	 /* NULL: only our caller drives it */
	void *own;		 /* the edge's */
};

#endif /* NETPLUG_NETPLUG_H */
