/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_MARKS_H
#define NETPLUG_MARKS_H

#include "netplug/filters.h"
#include "netplug/links.h"

#include <stdbool.h>
#include <wherry/netplug.h>

/*
 * What is ours, and how whoever comes after us knows it.
 *
 * A device bears a hash of the name from the moment it is there, and soon the name itself as
 * its alias. A filter on a NIC bears a cookie: the same hash, the edge, whether the hook that it
 * hangs on was made for it, and the bridge that the NIC was a port of. So nothing has to be
 * written down elsewhere, and what is not marked is not touched.
 */
enum mark_device {
	MARK_IFB = 'b',
	MARK_HOLD = 'h',
	MARK_INJECT = 'i',
};

struct mark_filter {
	struct link_info nic;
	struct filter_info filter;
	bool hook_ours;
	int bridge; /* 0: it was no port that we took away */
};

struct marks {
	enum wh_netplug_edge edge;
	int ifb; /* 0: none */
	bool fenced;
	unsigned filter_count;
	struct mark_filter filters[WH_NETPLUG_NICS_MAX];
};

void mark_device_name(char name[IFNAMSIZ], const char *of, enum mark_device kind, unsigned nic);
void mark_alias(char alias[LINK_ALIAS_MAX], const char *of);
/* For the name @of; @hook_ours and @bridge: see struct mark_filter */
void mark_cookie(uint8_t cookie[FILTER_COOKIE], const char *of, enum wh_netplug_edge edge,
		 bool hook_ours, int bridge);

/* Everything that bears the marks of a name */
int marks_find(struct nl_sock *netlink, const char *of, struct marks *marks, struct wh_err *err);
bool marks_any(const struct marks *marks);

/* Make the hook of a NIC if it has none. Fill in what is to be known of it */
int mark_hook(struct nl_sock *netlink, const char *nic, struct mark_filter *mark,
	      struct wh_err *err);
/* The hook of a NIC whose filter is not there, if it is ours and nobody else uses it */
void mark_unhook(struct nl_sock *netlink, const struct mark_filter *mark);
/* From here on the NIC's output goes to @to. Adds @mark to @marks */
int mark_redirect(struct nl_sock *netlink, const char *of, struct marks *marks,
		  const struct mark_filter *mark, int to, struct wh_err *err);
/*
 * Everything goes, as far as it is there: filters, ports back to their bridges, hooks, the
 * device. What of it is gone already is no error
 */
int marks_clear(struct nl_sock *netlink, struct marks *marks, struct wh_err *err);
/* Is a guest still there? -EBUSY and a sentence */
int marks_idle(struct nl_sock *netlink, const struct marks *marks, struct wh_err *err);

#endif /* NETPLUG_MARKS_H */
