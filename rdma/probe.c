/* SPDX-License-Identifier: MIT */
/*
 * Edge: is there RDMA on this machine, and if not, which part is missing.
 */
#include "rdma/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int may_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* Any of the nodes will do: one is a device's. */
static int may_open_any(const char *pattern)
{
	int ret = -ENOENT;
	glob_t found;

	if (glob(pattern, 0, NULL, &found) != 0)
		return -ENOENT;
	for (size_t i = 0; i < found.gl_pathc && ret != 0; i++)
		ret = may_open(found.gl_pathv[i]);
	globfree(&found);
	return ret;
}

/* Of @room; what does not fit as a whole is left out */
static void word_add(char *text, size_t room, const char *between, const char *word)
{
	size_t have = strlen(text);

	if (!have)
		between = "";
	if (have + strlen(between) + strlen(word) < room)
		snprintf(text + have, room - have, "%s%s", between, word);
}

uint32_t verbs_on_demand(struct ibv_context *context)
{
	struct ibv_device_attr_ex attr = { 0 };

	if (ibv_query_device_ex(context, NULL, &attr) != 0 ||
	    !(attr.odp_caps.general_caps & IBV_ODP_SUPPORT))
		return 0;
	return attr.odp_caps.per_transport_caps.rc_odp_caps;
}

static void demand_add(struct verbs_probe *probe, struct ibv_context *context)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} operations[] = {
		{ IBV_ODP_SUPPORT_SEND, "send" },     { IBV_ODP_SUPPORT_RECV, "receive" },
		{ IBV_ODP_SUPPORT_WRITE, "write" },   { IBV_ODP_SUPPORT_READ, "read" },
		{ IBV_ODP_SUPPORT_ATOMIC, "atomic" },
	};
	uint32_t has = verbs_on_demand(context);
	char line[128];

	snprintf(line, sizeof(line), "%.64s:%s", ibv_get_device_name(context->device),
		 has ? "" : " none");
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (has & operations[i].bit)
			word_add(line, sizeof(line), " ", operations[i].name);
	word_add(probe->demand, sizeof(probe->demand), "; ", line);
	if (has & IBV_ODP_SUPPORT_WRITE && has & IBV_ODP_SUPPORT_READ)
		probe->on_demand++;
}

static int find_devices(struct verbs_probe *probe)
{
	struct ibv_device **list;
	int count = 0;

	errno = 0;
	list = ibv_get_device_list(&count);
	if (!list)
		return errno ? -errno : -ENODEV;
	for (int i = 0; i < count; i++) {
		struct ibv_context *context = ibv_open_device(list[i]);

		if (!context)
			continue;
		word_add(probe->names, sizeof(probe->names), " ", ibv_get_device_name(list[i]));
		probe->devices++;
		demand_add(probe, context);
		ibv_close_device(context);
	}
	ibv_free_device_list(list);
	return probe->devices ? 0 : -ENODEV;
}

static int part_probe(struct verbs_probe *probe, enum verbs_part part)
{
	switch (part) {
	case VERBS_CORE:
		return access("/sys/class/infiniband", R_OK) < 0 ? -errno : 0;
	case VERBS_UVERBS:
		return may_open_any("/dev/infiniband/uverbs*");
	case VERBS_CM:
		return may_open("/dev/infiniband/rdma_cm");
	case VERBS_DEVICE:
		return find_devices(probe);
	case VERBS_PART_COUNT:
		break;
	}
	return 0;
}

void verbs_probe(struct verbs_probe *probe)
{
	*probe = (struct verbs_probe){ .missing = VERBS_CORE };
	while (probe->missing < VERBS_PART_COUNT) {
		probe->code = part_probe(probe, probe->missing);
		if (probe->code < 0)
			return;
		probe->missing++;
	}
}
