/* SPDX-License-Identifier: MIT */
/* Edge: PAGEMAP_SCAN as a log of written pages. */
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

/* Regions for one call: neighbouring pages are one, a checkerboard takes many calls */
#define SCAN_REGIONS 512

/* Everything is protected once; the pages nobody has touched yet too */
static int protect(struct dirty_log *log, const struct region *region, struct wh_err *err)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)region->addr, .len = region->length },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (ioctl(log->uffd.fd, UFFDIO_WRITEPROTECT, &arg) < 0)
		return err_sys(err, errno, "dirty log of block '%s': protecting its pages",
			       region->name);
	return 0;
}

int dirty_log_open(struct dirty_log *log, const struct region *regions, unsigned count,
		   struct wh_err *err)
{
	uint64_t wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			  UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
	unsigned i;
	int ret;

	*log = (struct dirty_log){ .pagemap = -1, .regions = regions };
	/* The kernel resolves these faults by itself, its own too: no right is needed. */
	ret = uffd_open(&log->uffd, wanted, false, err);
	if (ret < 0)
		return ret;
	if (!(log->uffd.features & UFFD_FEATURE_WP_ASYNC)) {
		ret = err_set(err, -EOPNOTSUPP,
			      "dirty log: userfaultfd has no WP_ASYNC here "
			      "(Linux 6.7 and later)");
		goto out_close;
	}
	log->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (log->pagemap < 0) {
		ret = err_sys(err, errno, "dirty log: /proc/self/pagemap");
		goto out_close;
	}
	for (i = 0; i < count; i++) {
		ret = uffd_register(&log->uffd, regions[i].addr, regions[i].length, UFFD_WP, NULL,
				    err);
		if (ret < 0) {
			err_wrap(err, "dirty log of block '%s'", regions[i].name);
			goto out_close;
		}
		log->count = i + 1;
		ret = protect(log, &regions[i], err);
		if (ret < 0)
			goto out_close;
	}
	return 0;

out_close:
	dirty_log_close(log);
	return ret;
}

void dirty_log_close(struct dirty_log *log)
{
	unsigned i;

	for (i = 0; i < log->count; i++)
		(void)uffd_unregister(&log->uffd, log->regions[i].addr, log->regions[i].length,
				      NULL);
	log->count = 0;
	if (log->pagemap >= 0)
		close(log->pagemap);
	log->pagemap = -1;
	uffd_close(&log->uffd);
}

/* Set [first, end); the map may be in use by other threads. Return: bits that were clear */
static uint64_t mark(uint64_t *map, uint64_t first, uint64_t end)
{
	uint64_t added = 0;

	while (first < end) {
		uint64_t bits = 64 - first % 64 < end - first ? 64 - first % 64 : end - first;
		uint64_t mask = ~UINT64_C(0) >> (64 - bits) << first % 64;
		uint64_t old = __atomic_fetch_or(&map[first / 64], mask, __ATOMIC_RELEASE);

		added += (uint64_t)__builtin_popcountll(mask & ~old);
		first += bits;
	}
	return added;
}

static int scan_failed(int code, const struct region *region, uint64_t offset, struct wh_err *err)
{
	if (code == EPERM)
		return err_set(err, -EPERM,
			       "dirty log of block '%s': memory behind %#" PRIx64
			       " was mapped anew and is not watched",
			       region->name, offset);
	return err_sys(err, code, "dirty log of block '%s': PAGEMAP_SCAN at %#" PRIx64,
		       region->name, offset);
}

int64_t dirty_log_scan(struct dirty_log *log, unsigned region, uint64_t *map, struct wh_err *err)
{
	const struct region *r = &log->regions[region];
	uint64_t base = (uintptr_t)r->addr;
	struct page_region found[SCAN_REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = base,
		.end = base + r->length,
		.vec = (uintptr_t)found,
		.vec_len = SCAN_REGIONS,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	uint64_t added = 0;

	while (arg.start < arg.end) {
		int i, n = ioctl(log->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return scan_failed(errno, r, arg.start - base, err);
		for (i = 0; i < n; i++)
			added += mark(map, (found[i].start - base) / TARGET_PAGE,
				      (found[i].end - base) / TARGET_PAGE);
		if (arg.walk_end <= arg.start || arg.walk_end > arg.end)
			return err_set(err, -EIO,
				       "dirty log of block '%s': PAGEMAP_SCAN went from %#" PRIx64
				       " to %#" PRIx64,
				       r->name, (uint64_t)arg.start, (uint64_t)arg.walk_end);
		arg.start = arg.walk_end;
	}
	return (int64_t)added;
}
