/* SPDX-License-Identifier: MIT */
/*
 * Joining: what changed is copied out of guest memory. The theory is in stage.h.
 */
#include "checkpoint/stage_internal.h"

#include "base/bits.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zstd.h>

bool stage_grow(struct stage_array *array, size_t bytes)
{
	size_t room = array->room ? array->room : 4096;
	void *items;

	while (room < bytes)
		room *= 2;
	if (room == array->room)
		return true;
	items = realloc(array->items, room);
	if (!items)
		return false;
	array->items = items;
	array->room = room;
	return true;
}

static bool make_blocks(struct cp_stage *stage, const struct region *regions, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct stage_block *block = &stage->blocks[i];
		size_t words;

		block->memory = regions[i].addr;
		block->pages = regions[i].length / CP_PAGE;
		block->base = stage->pages;
		words = bits_words(block->pages);
		block->map = calloc(words, sizeof(*block->map));
		block->staged = calloc(words, sizeof(*block->staged));
		stage->block_count = i + 1;
		stage->pages += block->pages;
		if (!block->map || !block->staged)
			return false;
	}
	return true;
}

/* Untouched, neither takes memory; it is not zeroed here */
static bool make_tables(struct cp_stage *stage)
{
	uint64_t slots = stage->set.cache_bytes / CP_PAGE;
	void *cache;

	if (stage->set.hash) {
		stage->known = calloc(stage->pages, sizeof(*stage->known));
		if (!stage->known)
			return false;
	}
	if (slots > stage->pages)
		slots = stage->pages;
	if (slots) {
		stage->cached = calloc(slots, sizeof(*stage->cached));
		cache = mmap(NULL, slots * CP_PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (cache != MAP_FAILED)
			stage->cache = cache;
		stage->slots = slots;
		if (!stage->cached || !stage->cache)
			return false;
	}
	stage->zstd = ZSTD_createCCtx();
	return stage->zstd != NULL;
}

struct cp_stage *cp_stage_new(const struct cp_stage_settings *settings,
			      const struct region *regions, unsigned count,
			      const struct cp_dirty *dirty, struct wh_err *err)
{
	struct cp_stage *stage;

	if (!count || count > CP_BLOCKS_MAX) {
		err_set(err, -EINVAL, "checkpoint: %u blocks of memory, not 1 to %u", count,
			CP_BLOCKS_MAX);
		return NULL;
	}
	stage = calloc(1, sizeof(*stage));
	if (stage) {
		stage->set = *settings;
		stage->dirty = *dirty;
		slab_pool_init(&stage->pool, settings->slab_cap, settings->huge);
		stage->pool.watch = settings->watch;
		if (make_blocks(stage, regions, count) && make_tables(stage))
			return stage;
	}
	cp_stage_free(stage);
	err_sys(err, ENOMEM, "checkpoint: maps of memory");
	return NULL;
}

static void drop_device(struct cp_stage *stage)
{
	free(stage->device);
	stage->device = NULL;
	stage->device_length = 0;
}

void cp_stage_free(struct cp_stage *stage)
{
	if (!stage)
		return;
	drop_device(stage);
	slab_chain_give(&stage->pool, &stage->raw);
	slab_chain_give(&stage->pool, &stage->packed);
	slab_pool_fini(&stage->pool);
	for (unsigned i = 0; i < stage->block_count; i++) {
		free(stage->blocks[i].map);
		free(stage->blocks[i].staged);
	}
	free(stage->run_array.items);
	free(stage->page_array.items);
	free(stage->entry_array.items);
	free(stage->wire_array.items);
	free(stage->known);
	free(stage->cached);
	if (stage->cache)
		munmap(stage->cache, stage->slots * CP_PAGE);
	ZSTD_freeCCtx(stage->zstd);
	free(stage);
}

static void mark_all(struct stage_block *block)
{
	bits_range_set(block->map, 0, block->pages);
}

void cp_stage_begin(struct cp_stage *stage, uint32_t features)
{
	stage->features = features;
	stage->full = true;
	for (unsigned i = 0; i < stage->block_count; i++)
		mark_all(&stage->blocks[i]);
	stage->at_block = 0;
	stage->at_page = 0;
}

/* What a tracker that fails has forgotten is not known: all of it was written, then. */
static int look(struct cp_stage *stage, struct wh_err *err)
{
	for (unsigned i = 0; i < stage->block_count; i++) {
		int ret = stage->dirty.written(stage->dirty.world, i, stage->blocks[i].map, err);

		if (ret < 0) {
			mark_all(&stage->blocks[i]);
			return ret;
		}
	}
	stage->at_block = 0;
	stage->at_page = 0;
	return 0;
}

/* Pages that a stop now would have: to be copied, or copied ahead; those that are both once */
static uint64_t pages_now(const struct cp_stage *stage)
{
	uint64_t pages = stage->staged;

	for (unsigned i = 0; i < stage->block_count; i++) {
		const struct stage_block *block = &stage->blocks[i];

		pages += bits_count(block->map, block->pages);
		for (size_t j = 0; stage->staged && j < bits_words(block->pages); j++)
			pages -= (uint64_t)__builtin_popcountll(block->map[j] & block->staged[j]);
	}
	return pages;
}

int64_t cp_stage_look(struct cp_stage *stage, struct wh_err *err)
{
	int ret = look(stage, err);

	return ret < 0 ? ret : (int64_t)pages_now(stage);
}

/* Pages [first, first + count) of a block. Their bits are cleared when they are copied. */
static int copy_pages(struct cp_stage *stage, unsigned index, uint64_t first, uint64_t count,
		      struct wh_err *err)
{
	struct stage_block *block = &stage->blocks[index];

	assert(!stage->waits);
	while (count) {
		struct cow_run *run;
		uint64_t got, pages;
		uint8_t *at;

		if (!stage_grow(&stage->run_array, (stage->run_count + 1) * sizeof(*run)))
			return err_sys(err, ENOMEM, "checkpoint: a list of pages");
		at = slab_room(&stage->pool, &stage->raw, count * CP_PAGE, CP_PAGE, &got, err);
		if (!at)
			return -ENOSPC;
		pages = got / CP_PAGE;
		if (!stage->leaves)
			memcpy(at, block->memory + first * CP_PAGE, got);
		run = &stage_runs(stage)[stage->run_count++];
		*run = (struct cow_run){ at, first, index, (uint32_t)pages };
		bits_range_clear(block->map, first, pages);
		stage->staged += pages - bits_range_count(block->staged, first, pages);
		bits_range_set(block->staged, first, pages);
		stage->now.pages += pages;
		first += pages;
		count -= pages;
	}
	return 0;
}

/* From where it was left; up to so many pages. Return: pages, or a negative errno */
static int64_t copy(struct cp_stage *stage, uint64_t most, struct wh_err *err)
{
	uint64_t left = most;

	for (; stage->at_block < stage->block_count; stage->at_block++, stage->at_page = 0) {
		const struct stage_block *block = &stage->blocks[stage->at_block];

		while (left) {
			uint64_t first = bits_next_set(block->map, stage->at_page, block->pages);
			uint64_t end;
			int ret;

			stage->at_page = first;
			if (first == block->pages)
				break;
			end = bits_next_clear(block->map, first, block->pages);
			if (end - first > left)
				end = first + left;
			ret = copy_pages(stage, stage->at_block, first, end - first, err);
			if (ret < 0)
				return ret;
			left -= end - first;
			stage->at_page = end;
		}
		if (!left)
			break;
	}
	return (int64_t)(most - left);
}

/* What was copied is to be copied still. */
static void unstage(struct cp_stage *stage)
{
	for (size_t i = 0; i < stage->run_count; i++) {
		const struct cow_run *run = &stage_runs(stage)[i];
		struct stage_block *block = &stage->blocks[run->block];

		bits_range_set(block->map, run->first, run->pages);
		bits_range_clear(block->staged, run->first, run->pages);
	}
	stage->run_count = 0;
	stage->staged = 0;
	stage->at_block = 0;
	stage->at_page = 0;
	slab_chain_give(&stage->pool, &stage->raw);
}

/* Half of the slabs is for the stop, but for the only one */
int64_t cp_stage_copy(struct cp_stage *stage, uint64_t bytes, struct wh_err *err)
{
	uint64_t slabs = stage->pool.total_max > 1 ? stage->pool.total_max / 2 : 1;
	uint64_t room = slabs * (SLAB_BYTES / CP_PAGE), pages = bytes / CP_PAGE;
	uint64_t full = stage->raw.slabs * (SLAB_BYTES / CP_PAGE);
	int64_t ret;

	/* runs follow each other without a gap: only the last slab is not full */
	if (stage->raw.slabs)
		full -= (SLAB_BYTES - stage->raw.used) / CP_PAGE;
	room = full < room ? room - full : 0;
	ret = copy(stage, pages < room ? pages : room, err);
	return ret < 0 ? ret : ret * (int64_t)CP_PAGE;
}

static int copy_all(struct cp_stage *stage, struct wh_err *err)
{
	int64_t ret = look(stage, err);

	if (ret < 0)
		return (int)ret;
	stage->left = stage->run_count;
	ret = copy(stage, stage->pages, err);
	/* what was copied twice has taken the room: each page once, then */
	if (ret == -ENOSPC && stage->left) {
		unstage(stage);
		stage->left = 0;
		ret = copy(stage, stage->pages, err);
	}
	if (ret < 0)
		return (int)ret;
	/* of one in parts there is no limit: it goes into memory, or beside it */
	if (!stage->full && stage->staged * CP_PAGE > stage->set.contents_max)
		return err_set(err, -ENOSPC,
			       "checkpoint: %" PRIu64
			       " bytes have changed, there is room for %" PRIu64,
			       stage->staged * CP_PAGE, stage->set.contents_max);
	return 0;
}

int stage_copy_left(struct cp_stage *stage, struct wh_err *err)
{
	int ret = stage->set.cow ? cow_copy(stage->set.cow, err) : 0;

	if (ret < 0)
		unstage(stage);
	return ret;
}

/* The same, but that it is copied when the guest runs again, as it is now */
static int leave_all(struct cp_stage *stage, struct wh_err *err)
{
	struct cow *cow = stage->set.cow;
	/* of a stop that nobody has packed */
	int ret = stage_copy_left(stage, err);

	if (ret < 0)
		return ret;
	cow_stop(cow);
	stage->leaves = true;
	ret = copy_all(stage, err);
	stage->leaves = false;
	if (ret < 0)
		cow_go(cow, NULL, 0);
	else
		cow_go(cow, stage_runs(stage) + stage->left, stage->run_count - stage->left);
	return ret;
}

int cp_stage_stop(struct cp_stage *stage, void *device, size_t length, struct wh_err *err)
{
	int ret = 0;

	if (length > stage->set.device_max)
		ret = err_set(err, -EMSGSIZE,
			      "checkpoint: %zu bytes of device state, not over %llu", length,
			      (unsigned long long)stage->set.device_max);
	else
		ret = stage->set.cow ? leave_all(stage, err) : copy_all(stage, err);
	if (ret < 0) {
		unstage(stage);
		free(device);
		return ret;
	}
	stage->device = device;
	stage->device_length = device ? length : 0;
	return 0;
}

int cp_stage_ready(struct cp_stage *stage, struct wh_err *err)
{
	uint64_t pages = pages_now(stage), bytes;

	if (pages < stage->last_pages)
		pages = stage->last_pages;
	bytes = (pages + pages / 4) * CP_PAGE;
	return slab_reserve(&stage->pool, bytes, err);
}

/* Nothing is in the stage any more. */
static void clear(struct cp_stage *stage)
{
	assert(stage->waits && !stage->run_count);
	stage->waits = false;
	slab_chain_give(&stage->pool, &stage->raw);
	slab_chain_give(&stage->pool, &stage->packed);
	stage->page_count = stage->entry_count = 0;
	stage_send_part(stage);
}

void cp_stage_forget(struct cp_stage *stage)
{
	stage_pages_known(stage, false);
	clear(stage);
}

static void add_figures(struct cp_stage_figures *to, const struct cp_stage_figures *what)
{
	to->pages += what->pages;
	to->wire += what->wire;
	to->zero += what->zero;
	to->same += what->same;
	to->delta += what->delta;
	to->packed += what->packed;
	to->plain += what->plain;
	to->delta_bytes += what->delta_bytes;
	to->packed_bytes += what->packed_bytes;
}

void cp_stage_acked(struct cp_stage *stage)
{
	stage_pages_known(stage, true);
	stage->last_pages = stage->page_count;
	stage->acked = stage->epoch;
	stage->last = stage->now;
	add_figures(&stage->total, &stage->now);
	stage->now = (struct cp_stage_figures){ 0 };
	drop_device(stage);
	clear(stage);
	stage->begun = stage->full = false;
}

void cp_stage_again(struct cp_stage *stage, bool all)
{
	/* nobody copies there any more; what becomes of it is of no account */
	(void)stage_copy_left(stage, NULL);
	assert(all || !stage->waits);
	if (stage->waits)
		clear(stage);
	unstage(stage);
	drop_device(stage);
	for (unsigned i = 0; all && i < stage->block_count; i++)
		mark_all(&stage->blocks[i]);
	if (all && stage->known)
		memset(stage->known, 0, stage->pages * sizeof(*stage->known));
	stage->now = (struct cp_stage_figures){ 0 };
	stage->begun = false;
	stage->full = true;
}

void cp_stage_step(struct cp_stage *stage, uint64_t now_ns)
{
	slab_pool_step(&stage->pool, now_ns);
}

const struct cp_stage_figures *cp_stage_last(const struct cp_stage *stage)
{
	return &stage->last;
}

const struct cp_stage_figures *cp_stage_total(const struct cp_stage *stage)
{
	return &stage->total;
}

uint64_t cp_stage_slabs(const struct cp_stage *stage)
{
	return stage->pool.total * SLAB_BYTES;
}
