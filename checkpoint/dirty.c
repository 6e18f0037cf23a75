/* SPDX-License-Identifier: MIT */
#include "checkpoint/dirty.h"

#include "uffd/dirty.h"

static int written(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	int64_t ret = dirty_log_scan(world, block, map, err);

	return ret < 0 ? (int)ret : 0;
}

struct cp_dirty cp_dirty_uffd(struct dirty_log *log)
{
	return (struct cp_dirty){ .written = written, .world = log };
}
