/* SPDX-License-Identifier: MIT */
/*
 * A parked VM in one file: what a QEMU has migrated there is read into memory, but for pages that
 * have their place in it. Nothing says whether it is as it was, but that it holds together.
 */
#include "cli/parked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *made, struct wh_err *err)
{
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	struct parked *parked = opaque;
	struct parked_block *block = &parked->block[parked->blocks];

	if (parked->blocks == RECEIVE_BLOCKS_MAX)
		return receive_fail(err, -EPROTO, "%s: more than %u blocks", parked->path,
				    RECEIVE_BLOCKS_MAX);
	if (length > machine - parked->bytes)
		return receive_fail(err, -ENOMEM,
				    "%s: block '%s' of %" PRIu64 " bytes and %" PRIu64
				    " before it, this machine has %" PRIu64,
				    parked->path, name, length, parked->bytes, machine);
	*block = (struct parked_block){ .length = length, .page_size = page_size };
	snprintf(block->name, sizeof(block->name), "%s", name);
	parked->blocks++;
	if (parked_room(block) || mprotect(block->at, length, PROT_READ | PROT_WRITE))
		return receive_fail(err, -errno, "%s: memory of %" PRIu64 " bytes: %m",
				    parked->path, length);
	parked->bytes += length;
	*made = (struct wh_block){ .addr = block->at, .length = length, .fd = -1 };
	return 0;
}

int parked_load(struct parked *parked, const char *uri, struct wh_err *err)
{
	struct wh_file_load load = { .opaque = parked, .block = on_block, .map = true };
	int ret = wh_file_load(uri, &load, err);

	parked->device = load.device;
	parked->device_length = load.device_length;
	parked->device_format = load.device_format;
	memcpy(parked->machine, load.machine, sizeof(parked->machine));
	return ret;
}
