/* SPDX-License-Identifier: MIT */
/*
 * Edge: staging memory, and when MOVE pays.
 *
 * A whole huge page moves for nothing: the stage loses it and the guest has it. The
 * next byte written to the stage makes the kernel hand out another, zeroed, for less
 * than the 512 small ones of COPY. But where the guest has a page table already,
 * though an empty one, the huge page is split and its pages move one by one; that is
 * dearer than COPY, and the empty page table it leaves behind in the stage keeps
 * huge pages away from there. Nothing tells such a place from another beforehand. It
 * shows afterwards: the next filling of the stage is not huge. Then MOVE is left alone
 * for a while, longer each time, and the stage gets a new mapping before it is tried
 * again.
 *
 * To zero the next huge page takes twice as long as to fill it, and is all that MOVE costs.
 * So there are two: while one is filled another thread may have the other one zeroed
 * (stage_ahead()). Which of the two threads the spare belongs to is said by @ready. If it is
 * not ready in time, or nobody does that, the page comes when it is touched, as ever.
 */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#define SKIP_MAX 255u

static int stage_map(void *at, uint64_t size)
{
	void *memory = mmap(at, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	/* A child would share its pages, and shared ones do not move. */
	(void)madvise(memory, size, MADV_DONTFORK);
	(void)madvise(memory, size, MADV_HUGEPAGE);
	return 0;
}

/* Bytes with the spare, if it has one */
static uint64_t stage_bytes(const struct stage *stage)
{
	return stage->size == STAGE_BYTES ? 2 * stage->size : stage->size;
}

int stage_init(struct stage *stage, uint64_t size, struct wh_err *err)
{
	uint8_t *room, *at;
	uint64_t bytes;
	int ret;

	*stage = (struct stage){ .size = size, .pagemap = -1 };
	if (size < TARGET_PAGE || size & (size - 1))
		return err_set(err, -EINVAL, "stage: %" PRIu64 " bytes", size);
	bytes = stage_bytes(stage);
	room = mmap(NULL, bytes + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		    0);
	if (room == MAP_FAILED)
		return err_sys(err, errno, "stage of %" PRIu64 " bytes", size);
	at = room + (-(uintptr_t)room & (size - 1));
	ret = stage_map(at, bytes);
	if (ret < 0) {
		munmap(room, bytes + size);
		return err_sys(err, ret, "stage of %" PRIu64 " bytes", size);
	}
	/* What is left over on both sides */
	if (at > room)
		munmap(room, (size_t)(at - room));
	munmap(at + bytes, (size_t)(room + size - at));
	stage->memory = at;
	if (bytes > size)
		stage->spare = at + size;
	/* Without it (no /proc) nothing is known to be huge and MOVE is never tried */
	if (size >= STAGE_BYTES)
		stage->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return 0;
}

void stage_fini(struct stage *stage)
{
	if (stage->memory)
		munmap(stage->memory, stage->size);
	if (stage->spare)
		munmap(stage->spare, stage->size);
	if (stage->pagemap >= 0)
		close(stage->pagemap);
	*stage = (struct stage){ .pagemap = -1 };
}

static bool stage_huge(const struct stage *stage)
{
	uint64_t start = (uintptr_t)stage->memory;
	struct page_region found = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = start + STAGE_BYTES,
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};

	return ioctl(stage->pagemap, PAGEMAP_SCAN, &arg) == 1 && found.start == start &&
	       found.end == start + STAGE_BYTES;
}

static void stage_skip(struct stage *stage)
{
	stage->skips = stage->skips * 2 + 1 > SKIP_MAX ? SKIP_MAX : stage->skips * 2 + 1;
	stage->skip = stage->skips;
	stage->moved = false;
}

bool stage_movable(struct stage *stage)
{
	if (stage->pagemap < 0 || stage->skip)
		return false;
	if (!stage_huge(stage)) {
		stage_skip(stage);
		return false;
	}
	if (stage->moved)
		stage->skips = 0;
	return true;
}

void stage_moved(struct stage *stage, bool moved)
{
	uint8_t *memory = stage->memory;

	if (!moved) {
		stage_skip(stage);
		return;
	}
	stage->moved = true;
	if (__atomic_load_n(&stage->ready, __ATOMIC_ACQUIRE)) {
		stage->memory = stage->spare;
		stage->spare = memory;
		/* The helper finds the one that was moved away, not the one that is ours now */
		__atomic_store_n(&stage->ready, false, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&stage->moves, true, __ATOMIC_RELEASE);
}

bool stage_ahead(struct stage *stage)
{
	/* As long as it is ready, which is the spare one is for the other thread to say */
	if (!__atomic_load_n(&stage->moves, __ATOMIC_ACQUIRE) ||
	    __atomic_load_n(&stage->ready, __ATOMIC_ACQUIRE) || !stage->spare)
		return false;
	/* Linux 5.14; without it, or without memory, the page comes when it is touched */
	if (madvise(stage->spare, stage->size, MADV_POPULATE_WRITE) < 0)
		return false;
	/* Its thread sees the page before it takes it */
	__atomic_store_n(&stage->ready, true, __ATOMIC_RELEASE);
	return true;
}

void stage_copied(struct stage *stage)
{
	if (!stage->skip || --stage->skip)
		return;
	/* Should it fail the old pages are as good as before */
	(void)stage_map(stage->memory, stage->size);
}
