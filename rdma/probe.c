/* SPDX-License-Identifier: MIT */
/*
 * Edge: is there RDMA on this machine, and if not, which part is missing.
 */
#include "rdma/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <infiniband/verbs.h>
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

static void names_add(struct verbs_probe *probe, const char *name)
{
	size_t have = strlen(probe->names);
	size_t length = strlen(name);

	if (have + 1 + length >= sizeof(probe->names))
		return;
	if (have)
		probe->names[have++] = ' ';
	memcpy(probe->names + have, name, length + 1);
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
		names_add(probe, ibv_get_device_name(list[i]));
		probe->devices++;
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
