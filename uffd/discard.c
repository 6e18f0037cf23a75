/* SPDX-License-Identifier: MIT */
/*
 * Edge: making pages missing.
 *
 * What drops a page depends on where it is. Private anonymous memory: MADV_DONTNEED. A
 * file's: a hole punched in the file; MADV_DONTNEED would only unmap it. Of a file
 * mapped privately both, since the pages that were written are not the file's.
 *
 * Unmapping alone is enough for pages that will come again (placer_hide()): to a
 * userfaultfd that watches for MINOR faults they are missing. It costs a fraction, and
 * so does placing them, since they need not be allocated.
 */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/err.h"
#include "base/zero.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define HUGE_BYTES (UINT64_C(2) << 20)
#define HUGE_PAGES (HUGE_BYTES / TARGET_PAGE)
#define PUNCH_TRIES 3

static int unmap(const struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	uint8_t *at = placer->region->addr + offset;

	if (madvise(at, length, MADV_DONTNEED) == 0)
		return 0;
	/* Locked memory: Linux 5.18 has a way to say that it is meant */
	if (errno == EINVAL && madvise(at, length, MADV_DONTNEED_LOCKED) == 0)
		return 0;
	return err_sys(err, errno,
		       "block '%s': madvise(MADV_DONTNEED) of %" PRIu64 " bytes at %#" PRIx64,
		       placer->region->name, length, offset);
}

static int punch(const struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	const struct region *region = placer->region;
	int ret;

	if (region->fd >= 0)
		ret = fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(region->fd_offset + offset), (off_t)length);
	else
		ret = madvise(region->addr + offset, length, MADV_REMOVE);
	if (ret < 0)
		return err_sys(err, errno,
			       "block '%s': punching a hole of %" PRIu64 " bytes at %#" PRIx64,
			       region->name, length, offset);
	return 0;
}

/*
 * Bytes from @offset on that are alike: in memory, or not. At most @length and not
 * beyond the next huge page. For shared and unmapped memory this is about the file.
 */
static int64_t resident_run(const struct placer *placer, uint64_t offset, uint64_t length,
			    bool *resident, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;
	uint64_t left = HUGE_BYTES - offset % HUGE_BYTES;
	unsigned char vec[HUGE_PAGES];
	uint64_t i;

	if (left > length)
		left = length;
	if (mincore(placer->region->addr + offset, left, vec) < 0)
		return err_sys(err, errno, "block '%s': mincore at %#" PRIx64, placer->region->name,
			       offset);
	*resident = vec[0] & 1;
	for (i = page; i < left; i += page)
		if ((bool)(vec[i / TARGET_PAGE] & 1) != *resident)
			break;
	return (int64_t)(i < left ? i : left);
}

/* Offset of the first page in memory, or the end */
static int64_t first_resident(const struct placer *placer, uint64_t offset, uint64_t end,
			      struct wh_err *err)
{
	while (offset < end) {
		bool resident = false;
		int64_t run = resident_run(placer, offset, end - offset, &resident, err);

		if (run < 0)
			return run;
		if (resident)
			break;
		offset += (uint64_t)run;
	}
	return (int64_t)offset;
}

/*
 * Did a hole come of it? Of a huge page only in part within the hole the kernel
 * clears the bytes if it cannot split it (somebody has it pinned): no fault would
 * follow, and the guest would read zeros. Only the two ends of a hole can be so.
 */
static int64_t left_over(const struct placer *placer, uint64_t offset, uint64_t end,
			 struct wh_err *err)
{
	uint64_t head = (offset + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
	uint64_t tail = end / HUGE_BYTES * HUGE_BYTES;
	int64_t found;

	if (head >= tail)
		return first_resident(placer, offset, end, err);
	found = first_resident(placer, offset, head, err);
	if (found < 0 || (uint64_t)found < head)
		return found;
	return first_resident(placer, tail, end, err);
}

static int punch_checked(const struct placer *placer, uint64_t offset, uint64_t length,
			 struct wh_err *err)
{
	uint64_t end = offset + length;
	int64_t found;
	int tries, ret;

	for (tries = 0; tries < PUNCH_TRIES; tries++) {
		ret = punch(placer, offset, length, err);
		if (ret < 0 || placer->mapping.hugetlb)
			return ret;
		found = left_over(placer, offset, end, err);
		if (found < 0)
			return (int)found;
		if ((uint64_t)found == end)
			return 0;
	}
	return err_set(err, -EBUSY,
		       "block '%s': the page at %#" PRIx64 " could not be dropped: "
		       "the huge page it is in is pinned",
		       placer->region->name, (uint64_t)found);
}

/*
 * Without its descriptor a private mapping's file is out of reach. A page of zeros is as
 * good as none: the kernel itself puts one there when a hole is written to.
 */
static int check_zeros(const struct placer *placer, uint64_t offset, uint64_t length,
		       struct wh_err *err)
{
	const uint8_t *block = placer->region->addr;
	uint64_t end = offset + length;
	uint64_t at = offset;

	for (;; at += TARGET_PAGE) {
		int64_t found = first_resident(placer, at, end, err);

		if (found < 0)
			return (int)found;
		at = (uint64_t)found;
		if (at == end)
			break;
		if (!zero_page(block + at, TARGET_PAGE))
			return err_set(err, -EOPNOTSUPP,
				       "block '%s': is a private mapping of a file that has "
				       "contents at %#" PRIx64
				       "; they can be dropped only with its descriptor",
				       placer->region->name, at);
	}
	/* Looking at them has mapped them */
	return unmap(placer, offset, length, err);
}

static int drop(const struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	int ret;

	if (placer->mapping.shared)
		return punch_checked(placer, offset, length, err);
	ret = unmap(placer, offset, length, err);
	if (ret < 0 || !placer->mapping.file)
		return ret;
	if (placer->region->fd >= 0)
		return punch_checked(placer, offset, length, err);
	/* Nothing tells what a hugetlb file holds that is not mapped */
	return placer->mapping.hugetlb ? 0 : check_zeros(placer, offset, length, err);
}

static int check_range(const struct placer *placer, uint64_t offset, uint64_t length,
		       struct wh_err *err)
{
	const struct region *region = placer->region;

	if (offset % region->page_size || length % region->page_size || offset > region->length ||
	    length > region->length - offset)
		return err_set(err, -EINVAL,
			       "block '%s': dropping %" PRIu64 " bytes at %#" PRIx64
			       ", it has %" PRIu64 " in pages of %" PRIu64,
			       region->name, length, offset, region->length, region->page_size);
	if (placer->armed && placer->uffd->features & UFFD_FEATURE_EVENT_REMOVE)
		return err_set(err, -EBUSY,
			       "block '%s': dropping pages while they are watched for "
			       "removal would wait for itself",
			       region->name);
	return 0;
}

int placer_discard(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;
	int ret = check_range(placer, offset, length, err);

	if (ret < 0 || length == 0)
		return ret;
	ret = drop(placer, offset, length, err);
	if (ret == 0 && placer->state)
		state_set(placer->state, offset / page, (offset + length) / page, PAGE_ABSENT);
	return ret;
}

int placer_hide(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;
	int ret = check_range(placer, offset, length, err);

	/* A huge page that came now would fill what is dropped here, before it is watched */
	if (ret == 0)
		ret = placer_advise(placer, err);
	if (ret < 0)
		return ret;
	if (!placer->alias)
		return placer_discard(placer, offset, length, err);
	while (ret == 0 && length) {
		bool resident = false;
		int64_t run = resident_run(placer, offset, length, &resident, err);

		if (run < 0)
			return (int)run;
		/*
		 * What looks absent may be in the file all the same (swapped out; huge and not
		 * mapped here): that it is gone is certain only after punching.
		 */
		if (!resident)
			ret = placer_discard(placer, offset, (uint64_t)run, err);
		else if (placer->armed)
			ret = unmap(placer, offset, (uint64_t)run, err);
		if (ret == 0 && resident)
			state_set(placer->state, offset / page, (offset + (uint64_t)run) / page,
				  PAGE_HIDDEN);
		offset += (uint64_t)run;
		length -= (uint64_t)run;
	}
	return ret;
}

int placer_unmap_hidden(struct placer *placer, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;
	uint64_t pages = placer->region->length / page;
	uint64_t first = 0, end;
	int ret = 0;

	if (!placer->state)
		return 0;
	while (ret == 0 && (first = state_next(placer->state, first, pages, PAGE_HIDDEN)) < pages) {
		end = state_next_other(placer->state, first, pages, PAGE_HIDDEN);
		ret = unmap(placer, first * page, (end - first) * page, err);
		/* Huge pages before Linux 5.18: they have to come anew */
		if (ret == -EINVAL)
			ret = placer_discard(placer, first * page, (end - first) * page, err);
		first = end;
	}
	return ret;
}
