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

static int stage_map(struct stage *stage, void *at, int flags)
{
	void *memory = mmap(at, stage->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	/* A child would share its pages, and shared ones do not move. */
	(void)madvise(memory, stage->size, MADV_DONTFORK);
	(void)madvise(memory, stage->size, MADV_HUGEPAGE);
	stage->memory = memory;
	return 0;
}

int stage_init(struct stage *stage, uint64_t size, struct wh_err *err)
{
	uint8_t *room;
	int ret;

	*stage = (struct stage){ .size = size, .pagemap = -1 };
	if (size < STAGE_BYTES || size & (size - 1))
		return err_set(err, -EINVAL, "stage: %" PRIu64 " bytes", size);
	room = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return err_sys(err, errno, "stage of %" PRIu64 " bytes", size);
	ret = stage_map(stage, room + (-(uintptr_t)room & (size - 1)), MAP_FIXED);
	if (ret < 0) {
		munmap(room, 2 * size);
		return err_sys(err, ret, "stage of %" PRIu64 " bytes", size);
	}
	/* What is left over on both sides */
	if (stage->memory > room)
		munmap(room, (size_t)(stage->memory - room));
	munmap(stage->memory + size, (size_t)(room + size - stage->memory));
	/* Without it (no /proc) nothing is known to be huge and MOVE is never tried */
	stage->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return 0;
}

void stage_fini(struct stage *stage)
{
	if (stage->memory)
		munmap(stage->memory, stage->size);
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
	if (moved)
		stage->moved = true;
	else
		stage_skip(stage);
}

void stage_copied(struct stage *stage)
{
	if (!stage->skip || --stage->skip)
		return;
	/* Should it fail the old pages are as good as before */
	(void)stage_map(stage, stage->memory, MAP_FIXED);
}
