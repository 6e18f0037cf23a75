/* SPDX-License-Identifier: MIT */
/*
 * Edge: marks of ours on what is the kernel's, and what a dead process has left.
 */
#include "netplug/marks.h"

#include "base/bytes.h"
#include "base/err.h"
#include "netplug/qdiscs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define COOKIE_MAGIC UINT32_C(0x77487031) /* wHp1 */
#define FILTERS_MAX 64

/* FNV-1a, 40 bits of it: what a device's name has room for */
static uint64_t name_hash(const char *name)
{
	uint64_t hash = UINT64_C(14695981039346656037);

	while (*name)
		hash = (hash ^ (uint8_t)*name++) * UINT64_C(1099511628211);
	return hash >> 24;
}

void mark_device_name(char name[IFNAMSIZ], const char *of, enum mark_device kind, unsigned nic)
{
	snprintf(name, IFNAMSIZ, "wh%010" PRIx64 "%c%x", name_hash(of), (char)kind, nic & 0xf);
}

void mark_alias(char alias[LINK_ALIAS_MAX], const char *of)
{
	snprintf(alias, LINK_ALIAS_MAX, "wherry netplug %s", of);
}

/* magic 4, edge 1, hook 1, hash 5, nothing 1, bridge 4 */
void mark_cookie(uint8_t cookie[FILTER_COOKIE], const char *of, enum wh_netplug_edge edge,
		 bool hook_ours, int bridge)
{
	uint64_t hash = name_hash(of);

	memset(cookie, 0, FILTER_COOKIE);
	put_be32(cookie, COOKIE_MAGIC);
	cookie[4] = (uint8_t)edge;
	cookie[5] = hook_ours;
	cookie[6] = (uint8_t)(hash >> 32);
	put_be32(cookie + 7, (uint32_t)hash);
	put_be32(cookie + 12, (uint32_t)bridge);
}

static bool cookie_is(const struct filter_info *filter, const char *of)
{
	uint8_t ours[FILTER_COOKIE];

	mark_cookie(ours, of, WH_NETPLUG_QUEUE, false, 0);
	return filter->has_cookie && get_be32(filter->cookie) == COOKIE_MAGIC &&
	       !memcmp(filter->cookie + 6, ours + 6, 5) &&
	       (filter->cookie[4] == WH_NETPLUG_QUEUE || filter->cookie[4] == WH_NETPLUG_PLUG);
}

struct search {
	struct nl_sock *netlink;
	const char *of;
	char ifb[IFNAMSIZ];
	char alias[LINK_ALIAS_MAX];
	struct marks *marks;
	struct wh_err *err;
};

static int search_ifb(struct search *search, const struct link_info *info)
{
	if (info->alias[0] && strcmp(info->alias, search->alias) != 0)
		return err_set(search->err, -EEXIST, "device %s is of '%s'", info->name,
			       info->alias);
	if (strcmp(info->kind, "ifb") != 0)
		return err_set(search->err, -EEXIST, "device %s is no ifb but %s", info->name,
			       info->kind);
	search->marks->ifb = info->ifindex;
	search->marks->edge = WH_NETPLUG_PLUG;
	search->marks->fenced = info->alias[0] && !(info->flags & IFF_UP);
	return 0;
}

static int search_nic(struct search *search, const struct link_info *nic)
{
	struct filter_info found[FILTERS_MAX];
	struct marks *marks = search->marks;
	struct mark_filter *mark;
	int count = filter_list(search->netlink, nic->ifindex, FILTER_IN, found, FILTERS_MAX);

	if (count < 0)
		return err_sys(search->err, count, "filters of %s", nic->name);
	for (int i = 0; i < count && i < FILTERS_MAX; i++) {
		if (!cookie_is(&found[i], search->of))
			continue;
		if (marks->filter_count == WH_NETPLUG_NICS_MAX)
			return err_set(search->err, -E2BIG, "more than %d filters are marked '%s'",
				       WH_NETPLUG_NICS_MAX, search->of);
		mark = &marks->filters[marks->filter_count++];
		*mark = (struct mark_filter){
			.nic = *nic,
			.filter = found[i],
			.hook_ours = found[i].cookie[5],
			.bridge = (int)get_be32(found[i].cookie + 12),
		};
		marks->edge = (enum wh_netplug_edge)found[i].cookie[4];
	}
	return 0;
}

static int search_link(void *opaque, const struct link_info *info)
{
	struct search *search = opaque;

	if (!strcmp(info->name, search->ifb))
		return search_ifb(search, info);
	return search_nic(search, info);
}

int marks_find(struct nl_sock *netlink, const char *of, struct marks *marks, struct wh_err *err)
{
	struct search search = { .netlink = netlink, .of = of, .marks = marks, .err = err };

	*marks = (struct marks){ 0 };
	mark_device_name(search.ifb, of, MARK_IFB, 0);
	mark_alias(search.alias, of);
	return link_each(netlink, search_link, &search, err);
}

bool marks_any(const struct marks *marks)
{
	return marks->ifb || marks->filter_count;
}

int mark_hook(struct nl_sock *netlink, const char *nic, struct mark_filter *mark,
	      struct wh_err *err)
{
	struct filter_info found[FILTERS_MAX];
	int ret, count;

	*mark = (struct mark_filter){ 0 };
	ret = link_get(netlink, nic, 0, &mark->nic, err);
	if (ret < 0)
		return ret;
	ret = hook_make(netlink, mark->nic.ifindex, "ingress");
	if (ret < 0 && ret != -EEXIST)
		return err_sys(err, ret, "%s: make an ingress hook%s", nic,
			       ret == -EPERM ? " (it takes CAP_NET_ADMIN)" : "");
	mark->hook_ours = ret == 0;
	count = filter_list(netlink, mark->nic.ifindex, FILTER_IN, found, FILTERS_MAX);
	if (count < 0)
		ret = err_sys(err, count, "filters of %s", nic);
	for (int i = 0; i < count && i < FILTERS_MAX; i++)
		if (found[i].priority <= FILTER_PRIORITY)
			count = ret = err_set(err, -EEXIST,
					      "%s has a filter of priority %u: what it accepts "
					      "would not be held",
					      nic, found[i].priority);
	if (count < 0)
		mark_unhook(netlink, mark);
	return count < 0 ? ret : 0;
}

void mark_unhook(struct nl_sock *netlink, const struct mark_filter *mark)
{
	if (mark->hook_ours && filter_list(netlink, mark->nic.ifindex, FILTER_IN, NULL, 0) == 0)
		hook_delete(netlink, mark->nic.ifindex, "ingress");
}

/*
 * A hook of ours with nothing else on it goes with the filter, by one message. Else the filter
 * alone; u32 leaves its empty table where the whole priority is not meant.
 */
static int filter_away(struct nl_sock *netlink, const struct mark_filter *mark)
{
	struct filter_info found[FILTERS_MAX], ours = mark->filter;
	int count = filter_list(netlink, mark->nic.ifindex, FILTER_IN, found, FILTERS_MAX);
	bool alone = count <= FILTERS_MAX, alone_there = alone;
	struct qdisc_info hook;

	for (int i = 0; i < count && i < FILTERS_MAX; i++) {
		if (!filter_is_entry(&found[i]) || found[i].handle == ours.handle)
			continue;
		alone = false;
		if (found[i].priority == ours.priority)
			alone_there = false;
	}
	if (alone && mark->hook_ours &&
	    qdisc_get(netlink, mark->nic.ifindex, QDISC_HOOK, &hook) == 0 &&
	    !strcmp(hook.kind, "ingress"))
		return hook_delete(netlink, mark->nic.ifindex, "ingress");
	if (alone_there)
		ours.handle = 0;
	return filter_delete(netlink, mark->nic.ifindex, FILTER_IN, &ours);
}

int mark_redirect(struct nl_sock *netlink, const char *of, struct marks *marks,
		  const struct mark_filter *mark, int to, struct wh_err *err)
{
	struct filter_info found[FILTERS_MAX];
	uint8_t cookie[FILTER_COOKIE];
	int ret, count;

	mark_cookie(cookie, of, marks->edge, mark->hook_ours, mark->bridge);
	ret = filter_add(netlink, mark->nic.ifindex, FILTER_IN, to, cookie);
	if (ret < 0)
		return err_sys(err, ret, "%s: make a filter", mark->nic.name);
	/* What the kernel says of it is what takes it away again */
	count = filter_list(netlink, mark->nic.ifindex, FILTER_IN, found, FILTERS_MAX);
	for (int i = 0; i < count && i < FILTERS_MAX; i++) {
		if (!found[i].has_cookie || memcmp(found[i].cookie, cookie, FILTER_COOKIE) != 0)
			continue;
		marks->filters[marks->filter_count] = *mark;
		marks->filters[marks->filter_count++].filter = found[i];
		return 0;
	}
	return err_set(err, -EIO, "%s: the filter that was made is not there", mark->nic.name);
}

/* Its bridge may be gone, and it may have got another one: then there is nothing to do */
static void give_back_port(struct nl_sock *netlink, const struct mark_filter *mark)
{
	struct link_info nic, bridge;

	if (!mark->bridge || link_get(netlink, NULL, mark->nic.ifindex, &nic, NULL) < 0 ||
	    nic.master || link_get(netlink, NULL, mark->bridge, &bridge, NULL) < 0 ||
	    strcmp(bridge.kind, "bridge") != 0)
		return;
	link_set(netlink, nic.ifindex,
		 &(struct link_change){ .set_master = true, .master = mark->bridge });
}

int marks_clear(struct nl_sock *netlink, struct marks *marks, struct wh_err *err)
{
	int ret;

	for (unsigned i = 0; i < marks->filter_count; i++) {
		const struct mark_filter *mark = &marks->filters[i];

		give_back_port(netlink, mark);
		ret = filter_away(netlink, mark);
		/* -EINVAL: the hook is gone too */
		if (ret < 0 && ret != -ENOENT && ret != -ENODEV && ret != -EINVAL)
			return err_sys(err, ret, "%s: take away the filter", mark->nic.name);
	}
	ret = marks->ifb ? link_delete(netlink, marks->ifb) : 0;
	if (ret < 0 && ret != -ENODEV && ret != -ENOENT)
		return err_sys(err, ret, "take away the intermediate device");
	*marks = (struct marks){ .edge = marks->edge };
	return 0;
}

int marks_idle(struct nl_sock *netlink, const struct marks *marks, struct wh_err *err)
{
	struct link_info nic;

	for (unsigned i = 0; i < marks->filter_count; i++) {
		int ret = link_get(netlink, NULL, marks->filters[i].nic.ifindex, &nic, NULL);

		if (ret == 0 && (nic.flags & IFF_UP) && (nic.flags & IFF_RUNNING))
			return err_set(err, -EBUSY,
				       "%s is in use: what is behind it has to be stopped first, "
				       "or the NIC set down",
				       nic.name);
	}
	return 0;
}
