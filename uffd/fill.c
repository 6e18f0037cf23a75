/* SPDX-License-Identifier: MIT */
/*
 * Edge: pages into a block, each by the cheapest way there is for it (placer.h).
 *
 * Every way ends in an ioctl of place.c and passes its outcome on; what is done here is
 * to cut a range into pieces that go the same way, and to try another way where one is
 * closed. A page is given up nowhere: what is not placed lies where it lay, and the
 * outcome and the bytes done say from where on.
 */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/zero.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#define AROUND_PAGES UINT64_C(16)

/*
 * One range on its way; offset and length are what is left of it. Contents of a block with a
 * second mapping lie there if they do not lie @staged.
 */
struct fill {
	struct placer *placer;
	const struct stage *stage;
	uint64_t offset;
	uint64_t length;
	bool staged;
	bool wake;
	struct wh_err *err;
};

typedef enum placed (*fill_way)(const struct fill *fill, uint64_t length, uint64_t *done);

static uint8_t *fill_at(const struct fill *fill)
{
	return region_guest(fill->placer->region) + fill->offset;
}

static uint8_t *fill_staged(const struct fill *fill)
{
	return fill->stage->memory + fill->offset % fill->stage->size;
}

static void fill_advance(struct fill *fill, uint64_t done)
{
	fill->offset += done;
	fill->length -= done;
}

static bool is_armed(const struct placer *placer)
{
	return __atomic_load_n(&placer->armed, __ATOMIC_ACQUIRE);
}

static enum placed by_continue(const struct fill *fill, uint64_t length, uint64_t *done)
{
	return uffd_continue(fill->placer->uffd, fill_at(fill), length, fill->wake, done,
			     fill->err);
}

/*
 * Linux 6.18, though not 6.12, says EEXIST also if there is no huge page left for COPY. The
 * page table, if it is ours, and the file know whether the page is there.
 */
static enum placed huge_before(const struct fill *fill, uint64_t done)
{
	const struct placer *placer = fill->placer;
	uint8_t *at = fill_at(fill) + done;
	struct wh_err reason = { 0 };
	enum placed placed;
	unsigned char vec;

	if (!placer->region->guest && mincore(at, 1, &vec) == 0 && vec & 1)
		return PLACED_BEFORE;
	if (!placer->alias && !placer->region->guest)
		return PLACED_NO_MEMORY;
	placed = uffd_continue(placer->uffd, at, placer->region->page_size, fill->wake, NULL,
			       &reason);
	if (placed == PLACED_FAILED && reason.code == -EFAULT)
		return PLACED_NO_MEMORY;
	if (placed == PLACED_FAILED && fill->err)
		*fill->err = reason;
	return placed == PLACED_OK ? PLACED_BEFORE : placed;
}

/*
 * A full file system says so before it looks whether the page is there. It is, if whoever placed
 * it died before he could note it down; and where there is just as much room as the block has
 * pages, it will say so for ever.
 */
static enum placed full_before(const struct fill *fill, uint64_t done, enum placed placed)
{
	const struct placer *placer = fill->placer;

	if (placed != PLACED_NO_MEMORY || placer->alias || !placer->mapping.shared)
		return placed;
	placed = uffd_continue(placer->uffd, fill_at(fill) + done, placer->region->page_size,
			       fill->wake, NULL, NULL);
	return placed == PLACED_OK || placed == PLACED_BEFORE ? PLACED_BEFORE : PLACED_NO_MEMORY;
}

/* A page that placer_ahead() has put into the file, or may have */
static bool came_ahead(const struct placer *placer, uint64_t offset)
{
	uint64_t page = offset / placer->region->page_size;
	enum page_state state = placer->state ? state_get(placer->state, page) : PAGE_ABSENT;

	return state == PAGE_AHEAD || state == PAGE_HIDDEN;
}

static enum placed copy_from(const struct fill *fill, const uint8_t *from, uint64_t length,
			     uint64_t *done)
{
	enum placed placed = uffd_copy(fill->placer->uffd, fill_at(fill), from, length, fill->wake,
				       done, fill->err);

	if (placed == PLACED_BEFORE && fill->placer->mapping.hugetlb &&
	    !came_ahead(fill->placer, fill->offset + *done))
		placed = huge_before(fill, *done);
	return full_before(fill, *done, placed);
}

static enum placed by_copy(const struct fill *fill, uint64_t length, uint64_t *done)
{
	return copy_from(fill, fill_staged(fill), length, done);
}

static enum placed by_zeropage(const struct fill *fill, uint64_t length, uint64_t *done)
{
	enum placed placed =
		uffd_zero(fill->placer->uffd, fill_at(fill), length, fill->wake, done, fill->err);

	return full_before(fill, *done, placed);
}

/* One page at a time: there is but one of zeros */
static enum placed by_copy_of_zeros(const struct fill *fill, uint64_t length, uint64_t *done)
{
	const struct placer *placer = fill->placer;
	uint64_t page = placer->region->page_size;
	struct fill one = *fill;
	enum placed placed = PLACED_OK;

	while (*done < length && placed == PLACED_OK) {
		uint64_t bytes = 0;

		placed = copy_from(&one, placer->zeros, page, &bytes);
		fill_advance(&one, bytes);
		*done += bytes;
	}
	return placed;
}

/*
 * The next @length bytes by one way. A call must stay inside one mapping of the
 * kernel's, and a VMM may have split its memory by mprotect() or the like: what seems
 * gone is tried a page at a time until the seam is behind.
 */
static enum placed fill_by(struct fill *fill, fill_way way, uint64_t length)
{
	uint64_t page = fill->placer->region->page_size;
	enum placed placed = PLACED_OK;

	while (length && placed == PLACED_OK) {
		uint64_t done = 0;

		placed = way(fill, length, &done);
		fill_advance(fill, done);
		length -= done;
		if (placed != PLACED_GONE || length <= page)
			continue;
		done = 0;
		placed = way(fill, page, &done);
		fill_advance(fill, done);
		length -= done;
	}
	return placed;
}

/* The same for pages of a file with a second mapping: ahead.c says what a state is good for */
static enum placed fill_taken(struct fill *fill, fill_way way, uint64_t length)
{
	uint64_t page = fill->placer->region->page_size;
	uint64_t before = fill->offset;
	enum placed placed = fill_by(fill, way, length);

	state_set(fill->placer->state, before / page, fill->offset / page, PAGE_TAKEN);
	return placed;
}

/* Bytes of the range's beginning that all are hidden, or that all are not */
static uint64_t hidden_run(const struct fill *fill, bool hidden)
{
	const uint64_t *map = fill->placer->state;
	uint64_t page = fill->placer->region->page_size;
	uint64_t first = fill->offset / page;
	uint64_t end = first + fill->length / page;

	end = hidden ? state_next_other(map, first, end, PAGE_HIDDEN) :
		       state_next(map, first, end, PAGE_HIDDEN);
	return page * (end - first);
}

static bool is_direct(const struct placer *placer, uint64_t offset)
{
	return placer->direct && bits_test(placer->direct, offset / STAGE_BYTES);
}

static uint64_t part_of(const struct stage *stage, uint64_t offset)
{
	return offset / stage->size;
}

/* Do the contents of the page lie in the stage, though room would be elsewhere now? */
static bool is_staged(const struct placer *placer, const struct stage *stage, uint64_t offset)
{
	return stage->placer == placer && stage->part == part_of(stage, offset);
}

/* NULL: it would be in the second mapping, and is to be @apart */
static uint8_t *find_room(const struct placer *placer, struct stage *stage, uint64_t offset,
			  bool apart)
{
	uint64_t page = offset / placer->region->page_size;
	uint8_t *room;

	if (!is_armed(placer)) {
		/* Written after all: what is there from here on counts */
		if (placer->state)
			state_move(placer->state, page, page + 1, PAGE_HIDDEN, PAGE_ABSENT);
		return placer->region->addr + offset;
	}
	if (!is_direct(placer, offset) || is_staged(placer, stage, offset)) {
		stage->placer = placer;
		stage->part = part_of(stage, offset);
		return stage->memory + offset % stage->size;
	}
	if (apart)
		return NULL;
	room = placer->alias + offset;
	/*
	 * A read before the first write: the kernel maps a page that is read together with
	 * its neighbours, and one that is written alone.
	 */
	(void)*(volatile const uint8_t *)room;
	return room;
}

uint8_t *placer_room(const struct placer *placer, struct stage *stage, uint64_t offset)
{
	return find_room(placer, stage, offset, false);
}

uint8_t *placer_room_apart(const struct placer *placer, struct stage *stage, uint64_t offset)
{
	return find_room(placer, stage, offset, true);
}

/*
 * The first page of the range may have come into the file while it was to be allocated: then
 * it takes the way of those that are hidden. EEXIST says so, though not for certain of a
 * huge page; and ENOMEM does not say that it has not, since a full file system refuses to
 * look.
 */
static enum placed fill_ahead(struct fill *fill, enum placed why, bool zero)
{
	struct placer *placer = fill->placer;
	uint64_t page = placer->region->page_size;
	uint8_t *at = placer->alias + fill->offset;
	unsigned char vec = 0;

	if ((why != PLACED_BEFORE && why != PLACED_NO_MEMORY) || !came_ahead(placer, fill->offset))
		return why;
	/* Looking for it must not make a huge one, which would reach over others (ahead.c) */
	if (why == PLACED_NO_MEMORY && placer->huge_ahead &&
	    (mincore(at, 1, &vec) < 0 || !(vec & 1)))
		return why;
	/* Nor end in SIGBUS */
	if (placer_populate_one(placer, fill->offset, NULL) < 0)
		return PLACED_NO_MEMORY;
	if (!zero)
		memcpy(at, fill_staged(fill), page);
	else if (!zero_page(at, page))
		memset(at, 0, page);
	return fill_taken(fill, by_continue, page);
}

/* Shared memory with a second mapping: what the file has goes over it, the rest by COPY */
static enum placed fill_file(struct fill *fill)
{
	enum placed placed = PLACED_OK;

	while (fill->length && placed == PLACED_OK) {
		uint64_t run = fill->staged ? hidden_run(fill, true) : fill->length;

		if (run && fill->staged)
			memcpy(fill->placer->alias + fill->offset, fill_staged(fill), run);
		if (run) {
			placed = fill_taken(fill, by_continue, run);
			continue;
		}
		run = hidden_run(fill, false);
		placed = fill_taken(fill, by_copy, run);
		if (placed != PLACED_OK)
			placed = fill_ahead(fill, placed, false);
	}
	return placed;
}

/* A whole stage by MOVE, if it is of one huge page and goes where one can be */
static bool move_fits(const struct fill *fill, struct stage *stage)
{
	const struct placer *placer = fill->placer;

	return __atomic_load_n(&placer->way, __ATOMIC_RELAXED) == PLACER_MOVE &&
	       placer->ioctls & UINT64_C(1) << _UFFDIO_MOVE && fill->length == STAGE_BYTES &&
	       stage->size == STAGE_BYTES && ((uintptr_t)fill_at(fill) & (STAGE_BYTES - 1)) == 0 &&
	       fill->offset % STAGE_BYTES == 0 && stage_movable(stage);
}

/*
 * Return: PLACED_OK also where nothing or not all was moved and COPY is to do the rest,
 * which then still lies in the stage
 */
static enum placed fill_move(struct fill *fill, struct stage *stage)
{
	struct placer *placer = fill->placer;
	uint64_t done = 0;
	enum placed placed = uffd_move(placer->uffd, fill_at(fill), stage->memory, fill->length,
				       fill->wake, &done, NULL);

	fill_advance(fill, done);
	stage_moved(stage, placed == PLACED_OK);
	switch (placed) {
	case PLACED_OK:
	case PLACED_BEFORE:
	case PLACED_CHANGING:
	case PLACED_DEAD:
		return placed;
	case PLACED_FAILED:
		/* Memory locked, or not of the stage's protection: so it will be next time */
		__atomic_store_n(&placer->way, PLACER_COPY, __ATOMIC_RELAXED);
		return PLACED_OK;
	case PLACED_PINNED:
	case PLACED_NO_MEMORY:
	case PLACED_GONE:
	case PLACED_COUNT:
		break;
	}
	return PLACED_OK;
}

static enum placed fill_staged_pages(struct fill *fill, struct stage *stage)
{
	bool whole = fill->length == stage->size;
	enum placed placed;

	if (move_fits(fill, stage)) {
		placed = fill_move(fill, stage);
		if (placed != PLACED_OK || !fill->length)
			return placed;
	}
	placed = fill_by(fill, by_copy, fill->length);
	if (whole && placed == PLACED_OK)
		stage_copied(stage);
	return placed;
}

/* How much room neighbours share at most: see placer_room() */
static uint64_t room_bytes(const struct fill *fill)
{
	uint64_t each = fill->placer->alias && !fill->staged ? STAGE_BYTES : fill->stage->size;

	return each - fill->offset % each;
}

static enum placed check_range(const struct fill *fill, bool staged)
{
	const struct region *region = fill->placer->region;
	uint64_t page = is_armed(fill->placer) ? region->page_size : TARGET_PAGE;

	if (fill->offset % page == 0 && fill->length && fill->length % page == 0 &&
	    fill->offset < region->length && fill->length <= region->length - fill->offset &&
	    (!staged || fill->length <= room_bytes(fill)))
		return PLACED_OK;
	err_set(fill->err, -EINVAL,
		"placing %" PRIu64 " bytes at %#" PRIx64 " of %" PRIu64 " in pages of %" PRIu64,
		fill->length, fill->offset, region->length, page);
	return PLACED_FAILED;
}

static enum placed fill_end(const struct fill *fill, enum placed placed, uint64_t length,
			    uint64_t *done)
{
	if (done)
		*done = length - fill->length;
	if (placed == PLACED_FAILED)
		err_wrap(fill->err, "block '%s'", fill->placer->region->name);
	return placed;
}

enum placed placer_place(struct placer *placer, struct stage *stage, uint64_t offset,
			 uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	struct fill fill = {
		.placer = placer,
		.stage = stage,
		.offset = offset,
		.length = length,
		.wake = wake,
		.err = err,
	};
	bool armed = is_armed(placer);
	enum placed placed;

	if (offset < placer->region->length)
		fill.staged = !is_direct(placer, offset) || is_staged(placer, stage, offset);
	placed = check_range(&fill, armed);
	if (placed != PLACED_OK)
		return fill_end(&fill, placed, length, done);
	if (!armed)
		fill_advance(&fill, length);
	else if (placer->alias)
		placed = fill_file(&fill);
	else
		placed = fill_staged_pages(&fill, stage);
	return fill_end(&fill, placed, length, done);
}

static enum placed zero_absent(struct fill *fill, uint64_t length)
{
	return fill_by(fill, fill->placer->zeros ? by_copy_of_zeros : by_zeropage, length);
}

/* In the file they often are zeros already, and to read them is cheaper than to write */
static void clear_hidden(const struct fill *fill, uint64_t length)
{
	uint8_t *at = fill->placer->alias + fill->offset;

	for (; length; length -= TARGET_PAGE, at += TARGET_PAGE)
		if (!zero_page(at, TARGET_PAGE))
			memset(at, 0, TARGET_PAGE);
}

/*
 * One that the guest has dropped since is not in the file any more: to look at it there would end in
 * SIGBUS if there is no room. Return: bytes that are in it, 0: there is none
 */
static uint64_t hidden_there(const struct fill *fill, uint64_t length)
{
	const struct placer *placer = fill->placer;

	if (!(placer->uffd->features & UFFD_FEATURE_EVENT_REMOVE))
		return length;
	return placer_populate_one(placer, fill->offset, NULL) < 0 ? 0 : placer->region->page_size;
}

/*
 * A page that is in the file and not mapped, though its contents are right, is seldom alone:
 * hiding one page of a huge one has unmapped all of it. The next ones are mapped as well, as
 * far as they are in the file and nobody's who goes ahead.
 */
static void map_around(const struct fill *fill)
{
	const struct placer *placer = fill->placer;
	uint64_t page = placer->region->page_size;
	uint64_t first = fill->offset / page;
	uint64_t end = (first + AROUND_PAGES - 1) / AROUND_PAGES * AROUND_PAGES;
	struct fill next = *fill;
	uint64_t done = 0;

	if (page > TARGET_PAGE || end * page > placer->region->length)
		return;
	/* Only what nobody goes ahead to any more: such a page would be shown as zeros */
	state_move(placer->state, first, end, PAGE_ABSENT, PAGE_TAKEN);
	end = state_next_other(placer->state, first, end, PAGE_TAKEN);
	next.length = (end - first) * page;
	if (next.length)
		(void)uffd_continue(placer->uffd, fill_at(&next), next.length, true, &done, NULL);
}

static enum placed zero_file(struct fill *fill)
{
	fill_way way = fill->placer->zeros ? by_copy_of_zeros : by_zeropage;
	uint64_t page = fill->placer->region->page_size;
	enum placed placed = PLACED_OK;

	while (fill->length && placed == PLACED_OK) {
		uint64_t run = hidden_run(fill, true);

		if (run) {
			run = hidden_there(fill, run);
			if (!run)
				return PLACED_NO_MEMORY;
			clear_hidden(fill, run);
			placed = fill_taken(fill, by_continue, run);
			continue;
		}
		run = hidden_run(fill, false);
		placed = fill_taken(fill, way, run);
		if (placed != PLACED_OK)
			placed = fill_ahead(fill, placed, true);
		if (placed != PLACED_BEFORE)
			continue;
		/* In the file, though not hidden: its contents are right. Or even mapped */
		placed = fill_taken(fill, by_continue, page);
		if (placed == PLACED_OK)
			map_around(fill);
	}
	return placed;
}

enum placed placer_zero(struct placer *placer, struct stage *stage, uint64_t offset,
			uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	struct fill fill = {
		.placer = placer,
		.stage = stage,
		.offset = offset,
		.length = length,
		.wake = wake,
		.err = err,
	};
	enum placed placed = check_range(&fill, false);

	if (placed != PLACED_OK)
		return fill_end(&fill, placed, length, done);
	/* Too late: whoever waited has a page by now, and may have written to it */
	if (!is_armed(placer))
		placed = PLACED_GONE;
	else if (placer->alias)
		placed = zero_file(&fill);
	else
		placed = zero_absent(&fill, length);
	return fill_end(&fill, placed, length, done);
}
