/* SPDX-License-Identifier: MIT */
/*
 * Joining: what was copied becomes entries and contents, as small as was agreed on. libzstd.
 *
 * A page is, in this order: zeros; as the destination has it; a difference to what the
 * destination has, if that is small; one of a run that zstd makes smaller; or as it is.
 */
#include "checkpoint/stage_internal.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/zero.h"
#include "wire/xbzrle.h"

#include <errno.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

/* A difference of more is left to zstd */
#define DELTA_MAX (CP_PAGE / 8)
/* A run to be packed: less than what may be, so that the other end waits for no large ones */
#define PACK_PAGES 32u
/* What is saved has to be worth the unpacking */
#define PACK_SAVES 8u

static const uint8_t zeros[CP_PAGE] __attribute__((aligned(64)));

static uint64_t slot_of(const struct cp_stage *stage, const struct stage_page *page)
{
	return (stage->blocks[page->block].base + page->page) % stage->slots;
}

static uint64_t number_of(const struct cp_stage *stage, const struct stage_page *page)
{
	return stage->blocks[page->block].base + page->page;
}

const uint8_t *stage_cached(const struct cp_stage *stage, const struct stage_page *page)
{
	uint64_t slot;

	if (!stage->slots)
		return NULL;
	slot = slot_of(stage, page);
	if (stage->cached[slot] != number_of(stage, page) + 1)
		return NULL;
	return stage->cache + slot * CP_PAGE;
}

/* What is there is another, and its contents are not kept here. */
static void uncache_page(struct cp_stage *stage, const struct stage_page *page)
{
	if (stage_cached(stage, page))
		stage->cached[slot_of(stage, page)] = 0;
}

/* A page that is not whole in the cache any more, or was not, is in it no longer. */
static void cache_page(struct cp_stage *stage, const struct stage_page *page)
{
	uint64_t slot = slot_of(stage, page), number = number_of(stage, page);

	if (page->fate == STAGE_ZERO) {
		uncache_page(stage, page);
		return;
	}
	memcpy(stage->cache + slot * CP_PAGE, page->at, CP_PAGE);
	stage->cached[slot] = number + 1;
}

void stage_pages_known(struct cp_stage *stage, bool cache)
{
	cache = cache && stage->slots && (stage->features & CP_FEATURE(CP_XBZRLE));
	for (size_t i = 0; i < stage->page_count; i++) {
		const struct stage_page *page = &stage_pages(stage)[i];

		if (page->fate == STAGE_SAME)
			continue;
		if (stage->known)
			memcpy(stage->known[number_of(stage, page)], page->hash,
			       sizeof(page->hash));
		if (cache)
			cache_page(stage, page);
		else
			uncache_page(stage, page);
	}
}

static void hash_page(const struct cp_stage *stage, const uint8_t *at, uint64_t hash[2])
{
	XXH128_hash_t made = XXH3_128bits_withSeed(at, CP_PAGE, stage->set.seed);

	hash[0] = made.low64;
	hash[1] = made.high64;
}

/*
 * The pages in the stage, each once: the copy that was made last, which is what the guest had
 * when it stood still, or what it has not written since. From the end, and written from the
 * end: what was copied one after the other stays so, and is sent in few pieces.
 */
static void list_pages(struct cp_stage *stage)
{
	struct stage_page *page = stage_pages(stage) + stage->staged;

	for (size_t i = stage->run_count; i; i--) {
		const struct cow_run *run = &stage_runs(stage)[i - 1];
		uint64_t *staged = stage->blocks[run->block].staged;

		for (uint32_t j = run->pages; j; j--) {
			if (!bits_test(staged, run->first + j - 1))
				continue;
			bits_clear(staged, run->first + j - 1);
			page--;
			*page = (struct stage_page){
				.at = run->at + (j - 1) * CP_PAGE,
				.page = run->first + j - 1,
				.block = run->block,
			};
		}
	}
	stage->page_count = stage->staged;
	stage->staged = 0;
	stage->run_count = 0;
}

static void add_entry(struct cp_stage *stage, const struct stage_page *page,
		      enum cp_content content, uint32_t pages, uint32_t bytes, const uint8_t *at)
{
	struct stage_entry *entry = &stage_entries(stage)[stage->entry_count];
	struct stage_entry *last = entry - 1;
	bool joins = content == CP_ZERO || content == CP_PLAIN;

	/* with the one before, if they lie together in the guest, and their contents do, too */
	if (joins && stage->entry_count && last->entry.content == content &&
	    last->entry.block == page->block &&
	    last->entry.first + last->entry.pages == page->page &&
	    (content == CP_ZERO || last->at + last->entry.bytes == at) &&
	    (uint64_t)(last->entry.pages + pages) * CP_PAGE <= CP_RUN_BYTES_MAX) {
		last->entry.pages += pages;
		last->entry.bytes += bytes;
		return;
	}
	*entry = (struct stage_entry){
		.entry = {
			.block = page->block,
			.content = content,
			.pages = pages,
			.first = page->page,
			.bytes = bytes,
		},
		.at = at,
	};
	stage->entry_count++;
}

/* @count pages that lie together. If it cannot be packed, they go as they are. */
static void put_run(struct cp_stage *stage, const struct stage_page *first, uint32_t count)
{
	size_t bytes = count * CP_PAGE, most = bytes - bytes / PACK_SAVES, made = 0;
	uint8_t *at = NULL;
	uint64_t got = 0;

	if (stage->features & CP_FEATURE(CP_ZSTD))
		at = slab_room(&stage->pool, &stage->packed, most, most, &got, NULL);
	if (at) {
		made = ZSTD_compressCCtx(stage->zstd, at, most, first->at, bytes,
					 stage->set.zstd_level);
		if (ZSTD_isError(made))
			made = 0;
		slab_room_trim(&stage->packed, got - made);
	}
	if (made) {
		add_entry(stage, first, CP_ZSTD, count, (uint32_t)made, at);
		stage->now.packed += count;
		stage->now.packed_bytes += made;
	} else {
		add_entry(stage, first, CP_PLAIN, count, (uint32_t)bytes, first->at);
		stage->now.plain += count;
	}
}

static bool put_delta(struct cp_stage *stage, struct stage_page *page)
{
	const uint8_t *before = NULL;
	uint8_t *at;
	uint64_t got;
	int made;

	if ((stage->features & CP_FEATURE(CP_XBZRLE)) && !stage->full)
		before = stage_cached(stage, page);
	if (!before)
		return false;
	at = slab_room(&stage->pool, &stage->packed, DELTA_MAX, DELTA_MAX, &got, NULL);
	if (!at)
		return false;
	made = xbzrle_put(at, DELTA_MAX, before, page->at);
	slab_room_trim(&stage->packed, got - (made > 0 ? (uint64_t)made : 0));
	if (made < 0)
		return false;
	if (!made) {
		page->fate = STAGE_SAME;
		stage->now.same++;
		return true;
	}
	add_entry(stage, page, CP_XBZRLE, 1, (uint32_t)made, at);
	stage->now.delta++;
	stage->now.delta_bytes += (uint64_t)made;
	return true;
}

static bool is_known(const struct cp_stage *stage, const struct stage_page *page)
{
	return stage->known &&
	       !memcmp(stage->known[number_of(stage, page)], page->hash, sizeof(page->hash));
}

/* Zero, the same, a little different. Return: false: it is one of a run */
static bool put_page(struct cp_stage *stage, struct stage_page *page)
{
	bool zero = (stage->features & CP_FEATURE(CP_ZERO)) && zero_page(page->at, CP_PAGE);

	if (stage->known && zero)
		memcpy(page->hash, stage->zero_hash, sizeof(page->hash));
	else if (stage->known)
		hash_page(stage, page->at, page->hash);
	if (is_known(stage, page)) {
		page->fate = STAGE_SAME;
		stage->now.same++;
		return true;
	}
	if (zero) {
		page->fate = STAGE_ZERO;
		add_entry(stage, page, CP_ZERO, 1, 0, NULL);
		stage->now.zero++;
		return true;
	}
	return put_delta(stage, page);
}

static void put_pages(struct cp_stage *stage)
{
	struct stage_page *pages = stage_pages(stage), *run = pages;
	uint32_t count = 0;

	for (size_t i = 0; i < stage->page_count; i++) {
		struct stage_page *page = &pages[i];
		bool joins = count && count < PACK_PAGES && page->block == run->block &&
			     page->page == run->page + count &&
			     page->at == run->at + count * CP_PAGE;
		bool alone = put_page(stage, page);

		if (count && (alone || !joins)) {
			put_run(stage, run, count);
			count = 0;
		}
		if (alone)
			continue;
		if (!count)
			run = page;
		count++;
	}
	if (count)
		put_run(stage, run, count);
}

/*
 * All memory that is needed is there before anything is changed. At most an entry a page: what
 * does not join the one before.
 */
int cp_stage_pack(struct cp_stage *stage, uint64_t epoch, struct wh_err *err)
{
	uint64_t count = stage->staged;
	int ret = stage_copy_left(stage, err);
	uint8_t *wire;

	if (ret < 0)
		return ret;
	if (!stage_grow(&stage->page_array, count * sizeof(struct stage_page)) ||
	    !stage_grow(&stage->entry_array, count * sizeof(struct stage_entry)) ||
	    !stage_grow(&stage->wire_array, count * CP_ENTRY))
		return err_sys(err, ENOMEM, "checkpoint %llu: a list of %llu pages",
			       (unsigned long long)epoch, (unsigned long long)count);
	stage->epoch = epoch;
	stage->waits = true;
	hash_page(stage, zeros, stage->zero_hash);
	list_pages(stage);
	put_pages(stage);
	wire = stage->wire_array.items;
	for (size_t i = 0; i < stage->entry_count; i++)
		cp_entry_put(wire + i * CP_ENTRY, &stage_entries(stage)[i].entry);
	return 0;
}
