/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: how the floor puts contents into memory, for each kind the fastest of what was
 * tried, with both ends on two processors.
 *
 *	precopy, private	populated by 2 MiB, then straight into place; without, each
 *				fault is taken in the middle of a copy
 *	precopy, memfd		a buffer that stays in the cache, and pwrite(), which does not
 *				zero what it allocates
 *	precopy, hugetlb	straight into place
 *	postcopy, private	a huge page of a stage, received into and then moved whole;
 *				copied where a page in it has been placed already
 *	postcopy, memfd		a buffer that stays in the cache, and COPY, which does not zero
 *				either. A second mapping that a thread populates ahead needs
 *				a processor for that thread
 *	postcopy, hugetlb	a second mapping, then CONTINUE
 */
#include "selftests/lib/bench_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CACHED (UINT64_C(64) << 10)

/* By way of a second mapping */
static bool aliased(const struct floor_dest *dest)
{
	return dest->load->memory == BENCH_HUGETLB;
}

int floor_prepare(struct floor_dest *dest)
{
	uint8_t *room = mmap(NULL, 2 * FLOOR_HUGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	dest->touched = calloc(dest->load->bytes / FLOOR_HUGE + 1, 1);
	dest->page = aligned_alloc(4096, 4096);
	if (room == MAP_FAILED || !dest->touched || !dest->page)
		return -1;
	dest->stage = room + (-(uintptr_t)room & (FLOOR_HUGE - 1));
	return madvise(dest->stage, FLOOR_HUGE, MADV_HUGEPAGE);
}

int floor_arm(struct floor_dest *dest)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MOVE | UFFD_FEATURE_MINOR_SHMEM |
			    UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MISSING_SHMEM |
			    UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_THREAD_ID,
	};
	struct uffdio_register range = {
		.range = { (uintptr_t)dest->memory, dest->load->bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING |
			(aliased(dest) ? UFFDIO_REGISTER_MODE_MINOR : 0),
	};

	if (aliased(dest)) {
		dest->alias = mmap(NULL, dest->load->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
				   dest->fd, 0);
		if (dest->alias == MAP_FAILED)
			return -1;
	}
	/* Blocking reads: the cheapest way to wait for one thing */
	dest->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (dest->uffd < 0 || ioctl(dest->uffd, UFFDIO_API, &api) < 0)
		return -1;
	return ioctl(dest->uffd, UFFDIO_REGISTER, &range);
}

static void wake(const struct floor_dest *dest, uint64_t start, uint64_t length)
{
	struct uffdio_range range = { .start = start, .len = length };

	ioctl(dest->uffd, UFFDIO_WAKE, &range);
}

/* COPY or CONTINUE of a range, around the pages that are there already */
static void fill(const struct floor_dest *dest, uint64_t offset, const uint8_t *from,
		 uint64_t length)
{
	uint64_t page = bench_page(dest->load->memory);
	uint64_t at = (uintptr_t)dest->memory + offset;

	while (length) {
		struct uffdio_continue map = { .range = { at, length } };
		struct uffdio_copy copy = { .dst = at, .src = (uintptr_t)from, .len = length };
		int64_t done;
		int ret;

		if (aliased(dest)) {
			ret = ioctl(dest->uffd, UFFDIO_CONTINUE, &map);
			done = map.mapped;
		} else {
			ret = ioctl(dest->uffd, UFFDIO_COPY, &copy);
			done = copy.copy;
		}
		if (ret < 0 && done == -EEXIST) {
			wake(dest, at, page);
			done = (int64_t)page;
		} else if (ret < 0 && done < 0 && done != -EAGAIN) {
			_exit(1);
		}
		done = done < 0 ? 0 : done;
		at += (uint64_t)done;
		from += done;
		length -= (uint64_t)done;
	}
}

uint64_t floor_piece(const struct floor_dest *dest)
{
	return dest->load->memory == BENCH_MEMFD ? CACHED : FLOOR_HUGE;
}

uint8_t *floor_room(struct floor_dest *dest, uint64_t offset)
{
	bool private = dest->fd < 0;

	if (dest->load->memory == BENCH_MEMFD)
		return dest->stage;
	if (!dest->load->postcopy) {
		if (private)
			madvise(dest->memory + offset, FLOOR_HUGE, MADV_POPULATE_WRITE);
		return dest->memory + offset;
	}
	if (aliased(dest))
		return dest->alias + offset;
	madvise(dest->stage, FLOOR_HUGE, MADV_POPULATE_WRITE);
	return dest->stage;
}

/* What a move that broke off has taken along is there; its source would be zeros */
static void move(struct floor_dest *dest, uint64_t offset)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)dest->memory + offset,
		.src = (uintptr_t)dest->stage,
		.len = FLOOR_HUGE,
	};
	uint64_t moved = 0;

	if (!__atomic_load_n(&dest->touched[offset / FLOOR_HUGE], __ATOMIC_ACQUIRE)) {
		if (ioctl(dest->uffd, UFFDIO_MOVE, &arg) == 0)
			return;
		moved = arg.move > 0 ? (uint64_t)arg.move : 0;
	}
	fill(dest, offset + moved, dest->stage + moved, FLOOR_HUGE - moved);
}

void floor_place(struct floor_dest *dest, uint64_t offset)
{
	enum bench_memory memory = dest->load->memory;

	if (!dest->load->postcopy) {
		if (memory == BENCH_MEMFD &&
		    pwrite(dest->fd, dest->stage, CACHED, (off_t)offset) != (ssize_t)CACHED)
			_exit(1);
	} else if (memory == BENCH_MEMFD) {
		fill(dest, offset, dest->stage, CACHED);
	} else if (aliased(dest)) {
		fill(dest, offset, dest->alias + offset, FLOOR_HUGE);
	} else {
		move(dest, offset);
	}
}

uint8_t *floor_page_room(struct floor_dest *dest, uint64_t offset)
{
	return aliased(dest) ? dest->alias + offset : dest->page;
}

void floor_place_page(struct floor_dest *dest, uint64_t offset)
{
	__atomic_store_n(&dest->touched[offset / FLOOR_HUGE], 1, __ATOMIC_RELEASE);
	fill(dest, offset, floor_page_room(dest, offset), bench_page(dest->load->memory));
}
