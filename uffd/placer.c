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

static int open_alias(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;
	void *alias;

	/*
	 * NORESERVE: huge pages are taken by COPY, which can say that there are none left;
	 * through here only such as the file has already.
	 */
	alias = mmap(NULL, region->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		     region->fd, (off_t)region->fd_offset);
	if (alias == MAP_FAILED)
		return err_sys(err, errno, "block '%s': second mapping of %" PRIu64 " bytes",
			       region->name, region->length);
	(void)madvise(alias, region->length, MADV_DONTFORK);
	placer->alias = alias;
	placer->hidden = calloc(bits_words(pages_of(region)), sizeof(uint64_t));
	placer->direct = calloc(bits_words(stages_of(region)), sizeof(uint64_t));
	if (!placer->hidden || !placer->direct)
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

int placer_init(struct placer *placer, const struct region *region, const struct uffd *uffd,
		struct wh_err *err)
{
	int ret;

	*placer = (struct placer){ .region = region, .uffd = uffd, .way = PLACER_COPY };
	ret = mapping_find(&placer->mapping, region, err);
	if (ret < 0)
		return ret;
	if (!placer->mapping.file && uffd->offered & UFFD_FEATURE_MOVE)
		placer->way = PLACER_MOVE;
	if (placer->mapping.shared && region->fd >= 0 && region->page_size <= STAGE_BYTES &&
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
	free(placer->hidden);
	free(placer->direct);
	*placer = (struct placer){ .region = region };
}

void placer_fini(struct placer *placer)
{
	if (placer->advised)
		(void)mapping_restore(&placer->mapping, placer->region, NULL);
	placer_abandon(placer);
}

int placer_advise(struct placer *placer, struct wh_err *err)
{
	const struct region *region = placer->region;

	/* EINVAL: a kernel without transparent huge pages */
	if (!placer->mapping.hugetlb &&
	    madvise(region->addr, region->length, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return err_sys(err, errno, "block '%s': madvise(MADV_NOHUGEPAGE)", region->name);
	placer->advised = true;
	return 0;
}

/* Which stages' worth of the block can be received in place */
static void find_direct(struct placer *placer)
{
	uint64_t pages = pages_of(placer->region);
	uint64_t each = STAGE_BYTES / placer->region->page_size;
	uint64_t first;

	for (first = 0; first < pages; first += each) {
		uint64_t end = first + each < pages ? first + each : pages;

		if (bits_next_clear(placer->hidden, first, end) == end)
			bits_set(placer->direct, first / each);
		else
			bits_clear(placer->direct, first / each);
	}
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
	ret = placer_unmap_hidden(placer, err);
	if (ret < 0)
		return ret;
	ret = uffd_register(placer->uffd, region->addr, region->length, modes, &placer->ioctls,
			    err);
	if (ret < 0) {
		err_wrap(err, "block '%s'", region->name);
		return ret;
	}
	if (placer->alias)
		find_direct(placer);
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
	ret = uffd_unregister(placer->uffd, region->addr, region->length, err);
	if (ret < 0) {
		err_wrap(err, "block '%s'", region->name);
		return ret;
	}
	__atomic_store_n(&placer->armed, false, __ATOMIC_RELEASE);
	return 0;
}

int placer_wake(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err)
{
	if (!__atomic_load_n(&placer->armed, __ATOMIC_ACQUIRE))
		return 0;
	return uffd_wake(placer->uffd, placer->region->addr + offset, length, err);
}
