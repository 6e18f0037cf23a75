/* SPDX-License-Identifier: MIT */
/* Edge: pages of a block before it is watched (early.h). */
#include "uffd/early.h"
#include "uffd/placer.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/*
 * Will a pwrite() anywhere in the block do what a store through its mapping does? Not where it
 * is refused, or goes to the end of the file (O_APPEND), makes the file longer, or ends in a
 * signal. Of another file system than tmpfs nothing is known.
 */
static bool takes_writes(const struct region *region)
{
	uint64_t end = region->fd_offset + region->length;
	int flags, seals;
	struct rlimit limit;
	struct statfs fs;
	struct stat stat;

	if (region->fd < 0 || fstatfs(region->fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC ||
	    fstat(region->fd, &stat) < 0 || (uint64_t)stat.st_size < end)
		return false;
	flags = fcntl(region->fd, F_GETFL);
	seals = fcntl(region->fd, F_GET_SEALS);
	if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || flags & O_APPEND ||
	    (seals > 0 && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
		return false;
	return getrlimit(RLIMIT_FSIZE, &limit) == 0 &&
	       (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= end);
}

void early_init(struct early *early, const struct region *region, const struct mapping *mapping)
{
	*early = (struct early){ .region = region };
	if (!mapping || mapping->hugetlb || region->page_size != TARGET_PAGE)
		return;
	early->huge = mapping->huge_by_touch;
	early->writes = mapping->shared && takes_writes(region);
	early->populates = true;
}

enum early_way early_way(const struct early *early, bool small, bool watched)
{
	if (early->huge && !small)
		return EARLY_TOUCH;
	if (early->writes && !watched)
		return EARLY_WRITE;
	return early->populates ? EARLY_POPULATE : EARLY_TOUCH;
}

void early_populate(struct early *early, uint64_t offset, uint64_t length)
{
	uint64_t first = offset - offset % TARGET_PAGE;
	uint64_t end = (offset + length + TARGET_PAGE - 1) / TARGET_PAGE * TARGET_PAGE;

	/* Of all else the copy says what there is to be said */
	if (mapping_populate(early->region, early->region->addr, first, end - first, NULL) ==
	    -EOPNOTSUPP)
		early->populates = false;
}

void early_touch(struct early *early, uint64_t offset, uint64_t length)
{
	const struct region *region = early->region;
	uint64_t last = (uintptr_t)region->addr + offset + length - 1;
	uint64_t huge = last - last % STAGE_BYTES;

	if (!early->huge || !early->populates || huge == early->touched)
		return;
	/* What is not all of the block's has no huge page, or not by this */
	if (huge < (uintptr_t)region->addr ||
	    huge + STAGE_BYTES > (uintptr_t)region->addr + region->length)
		return;
	early->touched = huge;
	early_populate(early, huge - (uintptr_t)region->addr, STAGE_BYTES);
}

int early_write(const struct early *early, const void *from, uint64_t offset, uint64_t length,
		struct wh_err *err)
{
	const struct region *region = early->region;
	const uint8_t *at = from;

	while (length) {
		ssize_t n = pwrite(region->fd, at, length, (off_t)(region->fd_offset + offset));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_sys(err, n ? errno : EIO,
				       "block '%s': writing %" PRIu64 " bytes at %#" PRIx64,
				       region->name, length, offset);
		at += n;
		offset += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}
