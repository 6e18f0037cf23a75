/* SPDX-License-Identifier: MIT */
/*
 * Edge: small pages made huge when everything is in.
 *
 * Pages that were placed one by one are small. The kernel's own khugepaged would find them
 * in the course of hours; MADV_COLLAPSE does it now. Of private memory it copies 2 MiB; of
 * a file whose pages are huge already and only mapped small it maps them anew, for a
 * twentieth. Never while holes are to fault: collapsing would fill them.
 */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE /* Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

#define HUGE_BYTES (UINT64_C(2) << 20)
#define SCAN_REGIONS 64
/* With more holes than that a huge page would mostly be memory nobody asked for */
#define LEAST_BYTES (HUGE_BYTES / 2)

/* Bytes of the 2 MiB at @at that are there and not merely the kernel's page of zeros */
static int64_t there(int pagemap, const uint8_t *at, bool *huge)
{
	struct page_region found[SCAN_REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)at,
		.end = (uintptr_t)at + HUGE_BYTES,
		.vec = (uintptr_t)found,
		.vec_len = SCAN_REGIONS,
		.category_inverted = PAGE_IS_PFNZERO,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_PFNZERO,
		.return_mask = PAGE_IS_HUGE,
	};
	uint64_t bytes = 0;

	*huge = false;
	while (arg.start < arg.end) {
		int i, n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++) {
			bytes += found[i].end - found[i].start;
			*huge |= found[i].categories & PAGE_IS_HUGE;
		}
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return (int64_t)bytes;
}

static void collapse_one(uint8_t *at, int pagemap, struct placer_collapse *count)
{
	bool huge = false;
	/* Before Linux 6.7, and without /proc, nothing is known: the kernel has to look */
	int64_t bytes = pagemap < 0 ? -ENOSYS : there(pagemap, at, &huge);

	if (huge)
		count->before++;
	else if (bytes >= 0 && bytes < (int64_t)LEAST_BYTES)
		count->sparse++;
	else if (madvise(at, HUGE_BYTES, MADV_COLLAPSE) == 0)
		count->made++;
	else
		count->refused++;
}

int placer_collapse(struct placer *placer, uint64_t offset, uint64_t length,
		    struct placer_collapse *count, struct wh_err *err)
{
	const struct region *region = placer->region;
	uint8_t *at, *end;
	int pagemap, ret;

	if (offset > region->length || length > region->length - offset)
		return err_set(err, -EINVAL,
			       "block '%s': collapsing %" PRIu64 " bytes at %#" PRIx64
			       ", it has %" PRIu64,
			       region->name, length, offset, region->length);
	if (placer->armed)
		return err_set(err, -EBUSY,
			       "block '%s': is watched; what is missing would be filled with zeros",
			       region->name);
	if (!placer->mapping.huge)
		return err_set(err, -EOPNOTSUPP, "block '%s': is not to have huge pages",
			       region->name);
	ret = placer_restore(placer, err);
	if (ret < 0)
		return ret;
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	at = region->addr + offset;
	end = at + length;
	at += -(uintptr_t)at & (HUGE_BYTES - 1);
	for (; at < end && (uint64_t)(end - at) >= HUGE_BYTES; at += HUGE_BYTES)
		collapse_one(at, pagemap, count);
	if (pagemap >= 0)
		close(pagemap);
	return 0;
}
