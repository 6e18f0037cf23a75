/* SPDX-License-Identifier: MIT */
/* Edge: PAGEMAP_SCAN as a log of written pages; userfaultfd's messages where writers wait. */
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

/* Regions for one call: neighbouring pages are one, a checkerboard takes many calls */
#define SCAN_REGIONS 512

/* To protect so many that are protected costs less than another call */
#define GAP_BYTES (6 * TARGET_PAGE)

/* The pages nobody has touched yet too */
static int protect(struct dirty_log *log, const struct region *region, uint64_t start,
		   uint64_t length, struct wh_err *err)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = start, .len = length },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (ioctl(log->uffd.fd, UFFDIO_WRITEPROTECT, &arg) < 0)
		return err_sys(err, errno, "dirty log of block '%s': protecting its pages",
			       region->name);
	return 0;
}

static int open_uffd(struct dirty_log *log, bool waits, struct wh_err *err)
{
	uint64_t wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			  UFFD_FEATURE_WP_UNPOPULATED | (waits ? 0 : UFFD_FEATURE_WP_ASYNC);
	/* Faults of WP_ASYNC the kernel resolves by itself, its own too: no right is needed. */
	int ret = uffd_open(&log->uffd, wanted, waits, err);

	/* who waits can do without it, but not without PAGEMAP_SCAN, which came with it */
	if (ret == 0 && !(log->uffd.offered & UFFD_FEATURE_WP_ASYNC))
		ret = err_set(err, -EOPNOTSUPP,
			      "dirty log: userfaultfd has no WP_ASYNC here "
			      "(Linux 6.7 and later)");
	return ret;
}

static int open_log(struct dirty_log *log, bool waits, const struct region *regions, unsigned count,
		    struct wh_err *err)
{
	unsigned i;
	int ret;

	*log = (struct dirty_log){
		.uffd = { .fd = -1 },
		.pagemap = -1,
		.regions = regions,
		.waits = waits,
	};
	ret = open_uffd(log, waits, err);
	if (ret < 0)
		goto out_close;
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
		ret = protect(log, &regions[i], (uintptr_t)regions[i].addr, regions[i].length, err);
		if (ret < 0)
			goto out_close;
	}
	return 0;

out_close:
	dirty_log_close(log);
	return ret;
}

int dirty_log_open(struct dirty_log *log, const struct region *regions, unsigned count,
		   struct wh_err *err)
{
	return open_log(log, false, regions, count, err);
}

int dirty_log_open_waiting(struct dirty_log *log, const struct region *regions, unsigned count,
			   struct wh_err *err)
{
	return open_log(log, true, regions, count, err);
}

int dirty_log_let(struct dirty_log *log, void *at, uint64_t length, struct wh_err *err)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)at, .len = length },
	};

	if (ioctl(log->uffd.fd, UFFDIO_WRITEPROTECT, &arg) < 0)
		return err_sys(err, errno, "dirty log: letting %#" PRIx64 " bytes at %p be written",
			       length, at);
	return 0;
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

/*
 * What was found, and where the kernel has not done so, is protected again. It is so after it was
 * marked: a write before is of what is told now, a write after waits. What lies between two of them
 * may have been let meanwhile and would be forgotten, but not while nobody is.
 */
static int64_t take(struct dirty_log *log, const struct region *r, const struct page_region *found,
		    int n, uint64_t *map, struct wh_err *err)
{
	uint64_t base = (uintptr_t)r->addr, gap = log->still ? GAP_BYTES : 0, added = 0;
	int first = 0;

	for (int i = 0; i < n; i++) {
		uint64_t end = found[i].end;
		int ret;

		added += mark(map, (found[i].start - base) / TARGET_PAGE,
			      (end - base) / TARGET_PAGE);
		if (!log->waits || (i + 1 < n && found[i + 1].start - end <= gap))
			continue;
		ret = protect(log, r, found[first].start, end - found[first].start, err);
		if (ret < 0)
			return ret;
		first = i + 1;
	}
	return (int64_t)added;
}

int64_t dirty_log_scan(struct dirty_log *log, unsigned region, uint64_t *map, struct wh_err *err)
{
	const struct region *r = &log->regions[region];
	uint64_t base = (uintptr_t)r->addr;
	struct page_region found[SCAN_REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = log->waits ? 0 : PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = base,
		.end = base + r->length,
		.vec = (uintptr_t)found,
		.vec_len = SCAN_REGIONS,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int64_t added = 0;

	while (arg.start < arg.end) {
		int n = ioctl(log->pagemap, PAGEMAP_SCAN, &arg);
		int64_t more;

		if (n < 0)
			return scan_failed(errno, r, arg.start - base, err);
		more = take(log, r, found, n, map, err);
		if (more < 0)
			return more;
		added += more;
		if (arg.walk_end <= arg.start || arg.walk_end > arg.end)
			return err_set(err, -EIO,
				       "dirty log of block '%s': PAGEMAP_SCAN went from %#" PRIx64
				       " to %#" PRIx64,
				       r->name, (uint64_t)arg.start, (uint64_t)arg.walk_end);
		arg.start = arg.walk_end;
	}
	return added;
}
