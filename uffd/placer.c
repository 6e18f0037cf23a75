/* SPDX-License-Identifier: MIT */
/* Edge: one block of guest memory from the first advice to the last page. */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

static uint64_t pages_of(const struct region *region)
{
	return region->length / region->page_size;
}

static uint64_t stages_of(const struct region *region)
{
	return (region->length + STAGE_BYTES - 1) / STAGE_BYTES;
}

/* Can pages that are in the file be kept away from the guest, and be given to it? */
static bool has_minor(const struct placer *placer)
{
	uint64_t feature =
		placer->mapping.hugetlb ? UFFD_FEATURE_MINOR_HUGETLBFS : UFFD_FEATURE_MINOR_SHMEM;

	return placer->mapping.file && placer->uffd->offered & feature;
}

/*
 * Where a huge page of the file can be mapped as one.
 *
 * NORESERVE: huge pages of hugetlb are taken by COPY and placer_ahead(), which can say that
 * there are none left. What the guest's mapping has reserved they may use.
 */
static void *map_alias(const struct region *region)
{
	uint8_t *room, *at;
	uint64_t before;
	void *alias;

	room = mmap(NULL, region->length + 2 * STAGE_BYTES, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return MAP_FAILED;
	before = (region->fd_offset - (uintptr_t)room) & (STAGE_BYTES - 1);
	at = room + before;
	alias = mmap(at, region->length, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_NORESERVE | MAP_FIXED, region->fd, (off_t)region->fd_offset);
	if (alias == MAP_FAILED) {
		munmap(room, region->length + 2 * STAGE_BYTES);
		return MAP_FAILED;
	}
	if (before)
		munmap(room, before);
	munmap(at + region->length, 2 * STAGE_BYTES - before);
	return alias;
}

static int open_alias(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;
	void *alias;

	alias = map_alias(region);
	if (alias == MAP_FAILED)
		return err_sys(err, errno, "block '%s': second mapping of %" PRIu64 " bytes",
			       region->name, region->length);
	(void)madvise(alias, region->length, MADV_DONTFORK);
	/* Nothing but what was asked for comes into the file through it (ahead.c). EINVAL: as below */
	(void)madvise(alias, region->length, MADV_NOHUGEPAGE);
	placer->alias = alias;
	placer->state = calloc(state_words(pages_of(region)), sizeof(uint64_t));
	placer->direct = calloc(bits_words(stages_of(region)), sizeof(uint64_t));
	if (!placer->state || !placer->direct)
		return err_set(err, -ENOMEM, "block '%s': no memory for its bitmaps", region->name);
	placer->way = PLACER_CONTINUE;
	return 0;
}

/*
 * Never written: its page table leads to the kernel's own page of zeros, again and again.
 * POPULATE: to copy a huge page from memory that is not mapped yet the kernel needs a
 * second huge page on the way.
 */
static int open_zeros(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;
	void *zeros = mmap(NULL, region->page_size, PROT_READ,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE, -1, 0);

	if (zeros == MAP_FAILED)
		return err_sys(err, errno, "block '%s': %" PRIu64 " bytes of zeros", region->name,
			       region->page_size);
	placer->zeros = zeros;
	return 0;
}

/*
 * Memory of another process. A page comes into the file by COPY alone, all of it in one step:
 * what is there is placed, whatever this process was doing when it died. Hence no second
 * mapping, in which a page is there before its contents are.
 */
static int check_shared(const struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;

	if (placer->mapping.shared && region->fd >= 0)
		return 0;
	return err_set(err, -EINVAL,
		       "block '%s': is another process's, and no file that is mapped shared",
		       region->name);
}

int placer_init(struct placer *placer, const struct region *region, const struct uffd *uffd,
		struct wh_err *err)
{
	int ret;

	*placer = (struct placer){ .region = region, .uffd = uffd, .way = PLACER_COPY };
	ret = mapping_find(&placer->mapping, region, err);
	if (ret < 0)
		return ret;
	/* Whoever wants no huge pages is not to be moved one */
	if (!placer->mapping.file && placer->mapping.advice != MADV_NOHUGEPAGE &&
	    uffd->offered & UFFD_FEATURE_MOVE)
		placer->way = PLACER_MOVE;
	if (region->guest)
		ret = check_shared(placer, err);
	else if (placer->mapping.shared && region->fd >= 0 && region->page_size <= STAGE_BYTES &&
		 has_minor(placer))
		ret = open_alias(placer, err);
	if (ret == 0 && placer->mapping.hugetlb)
		ret = open_zeros(placer, err);
	if (ret < 0)
		placer_fini(placer);
	return ret;
}

void placer_abandon(struct placer *placer)
{
	const struct region *region = placer->region;

	if (placer->alias)
		munmap(placer->alias, region->length);
	if (placer->zeros)
		munmap(placer->zeros, region->page_size);
	free(placer->state);
	free(placer->direct);
	*placer = (struct placer){ .region = region };
}

void placer_fini(struct placer *placer)
{
	(void)placer_restore(placer, NULL);
	placer_abandon(placer);
}

uint64_t placer_piece(const struct placer *placer, uint64_t page_size)
{
	bool copies = placer->way != PLACER_MOVE && !placer->mapping.huge_by_touch;

	return copies && page_size <= STAGE_CACHED ? STAGE_CACHED : STAGE_BYTES;
}

int placer_advise(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;

	if (placer->advised)
		return 0;
	/* EINVAL: a kernel without transparent huge pages */
	if (!placer->mapping.hugetlb &&
	    madvise(region->addr, region->length, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return err_sys(err, errno, "block '%s': madvise(MADV_NOHUGEPAGE)", region->name);
	placer->advised = true;
	return 0;
}

int placer_restore(struct placer *placer, struct wh_err *err)
{
	if (!placer->advised)
		return 0;
	placer->advised = false;
	return mapping_restore(&placer->mapping, placer->region, err);
}

void placer_find_direct(struct placer *placer, uint64_t part)
{
	uint64_t pages = pages_of(placer->region);
	uint64_t each = STAGE_BYTES / placer->region->page_size;
	uint64_t first = part * each;
	uint64_t end = first + each < pages ? first + each : pages;

	if (state_next_other(placer->state, first, end, PAGE_HIDDEN) == end)
		bits_set(placer->direct, part);
}

/*
 * Huge pages through the second mapping, if the guest's owner gets them by touching. From
 * here on no hole of what is watched is filled by collapsing: so it is since Linux 6.4, which
 * is known by a feature of the same version.
 */
static void find_huge_ahead(struct placer *placer)
{
	const struct region *region = placer->region;

	placer->huge_ahead = placer->mapping.huge_by_touch && !placer->mapping.hugetlb &&
			     region->fd_offset % STAGE_BYTES == 0 &&
			     placer->uffd->offered & UFFD_FEATURE_WP_UNPOPULATED &&
			     madvise(placer->alias, region->length, MADV_HUGEPAGE) == 0;
}

/* What only goes for the time that it is armed */
static void arm_alias(struct placer *placer)
{
	uint64_t part, parts = stages_of(placer->region);

	bits_range_clear(placer->direct, 0, parts);
	for (part = 0; part < parts; part++)
		placer_find_direct(placer, part);
	find_huge_ahead(placer);
}

int placer_arm(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;
	unsigned modes = UFFD_MISSING;
	int ret;

	/*
	 * A file's page that is not mapped is missing as well if it is one that was hidden,
	 * or one of a private mapping's file, which COPY covers. Of shared memory without a
	 * second mapping what is in the file is what the guest is to see.
	 */
	if (placer->alias || (!placer->mapping.shared && has_minor(placer)))
		modes |= UFFD_MINOR;
	ret = placer_advise(placer, err);
	if (ret == 0)
		ret = placer_unmap_hidden(placer, err);
	if (ret < 0)
		return ret;
	ret = uffd_register(placer->uffd, region_guest(region), region->length, modes,
			    &placer->ioctls, err);
	if (ret < 0) {
		err_wrap(err, "block '%s'", region->name);
		return ret;
	}
	if (placer->alias)
		arm_alias(placer);
	/* Whoever sees it armed finds the bits of direct */
	__atomic_store_n(&placer->armed, true, __ATOMIC_RELEASE);
	return 0;
}

int placer_disarm(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;
	int ret;

	if (!placer->armed)
		return 0;
	ret = uffd_unregister(placer->uffd, region_guest(region), region->length, err);
	if (ret < 0) {
		err_wrap(err, "block '%s'", region->name);
		return ret;
	}
	if (placer->huge_ahead)
		(void)madvise(placer->alias, region->length, MADV_NOHUGEPAGE);
	__atomic_store_n(&placer->armed, false, __ATOMIC_RELEASE);
	return 0;
}

int placer_wake(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	if (!__atomic_load_n(&placer->armed, __ATOMIC_ACQUIRE))
		return 0;
	return uffd_wake(placer->uffd, region_guest(placer->region) + offset, length, err);
}
