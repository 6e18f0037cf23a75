/* SPDX-License-Identifier: MIT */
/*
 * Joining: a checkpoint that comes in parts: the first, which is all of memory and goes straight
 * there, and one that would be too large otherwise, which goes beside it. Contents are put there
 * in the order in which they come; the slot's parts are those whose contents are still to come.
 *
 * A page may be described again as often as it changes while all goes over, so pages of zeros are
 * only noted and made at the end, once: to write all of memory costs a line in a message otherwise.
 */
#include "checkpoint/store_internal.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Runs that may be described ahead of their contents */
#define AHEAD_MAX 65536u
/* Put in place at once: a few milliseconds */
#define PLACE_PAGES 4096u

static void free_seen(struct cp_store *store, struct store_seen *seen)
{
	for (unsigned i = 0; seen && i < store->region_count; i++) {
		free(seen[i].described);
		free(seen[i].zero);
		free(seen[i].wrote);
		if (seen[i].beside)
			munmap(seen[i].beside, store->regions[i].length);
	}
	free(seen);
}

void store_full_end(struct cp_store *store)
{
	free_seen(store, store->seen);
	free(store->scratch);
	store->seen = NULL;
	store->scratch = NULL;
}

/* Untouched, it takes no memory */
static uint8_t *map_beside(uint64_t length)
{
	void *made = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return made == MAP_FAILED ? NULL : made;
}

static int begin(struct cp_store *store, struct wh_err *err)
{
	store->seen = calloc(store->region_count, sizeof(*store->seen));
	store->scratch = malloc(CP_PACKED_BYTES_MAX);
	if (!store->seen || !store->scratch) {
		store_full_end(store);
		return err_sys(err, ENOMEM, "checkpoint: maps of memory");
	}
	for (unsigned i = 0; i < store->region_count; i++) {
		struct store_seen *seen = &store->seen[i];
		size_t words = bits_words(store->regions[i].length / CP_PAGE);

		seen->described = calloc(words, sizeof(uint64_t));
		seen->zero = calloc(words, sizeof(uint64_t));
		seen->wrote = calloc(words, sizeof(uint64_t));
		if (store->has_one)
			seen->beside = map_beside(store->regions[i].length);
		if (!seen->described || !seen->zero || !seen->wrote ||
		    (store->has_one && !seen->beside)) {
			store_full_end(store);
			return err_sys(err, ENOMEM, "checkpoint: maps of memory");
		}
	}
	return 0;
}

/* Where contents of it go */
static uint8_t *place_of(const struct cp_store *store, const struct store_part *part)
{
	uint8_t *beside = store->seen[part->region].beside;

	return beside ? beside + part->first * CP_PAGE : store_memory(store, part);
}

/* All of its contents are here. */
static int end_part(struct cp_store *store, const struct store_part *part, struct wh_err *err)
{
	struct store_seen *seen = &store->seen[part->region];

	bits_range_set(seen->described, part->first, part->pages);
	if (part->content == CP_ZERO) {
		bits_range_set(seen->zero, part->first, part->pages);
		return 0;
	}
	bits_range_clear(seen->zero, part->first, part->pages);
	bits_range_set(seen->wrote, part->first, part->pages);
	if (part->content == CP_PLAIN)
		return 0;
	return store_unpack(store, part, store->scratch, place_of(store, part), err);
}

/* Those whose contents are here, and those that have none */
static int end_parts(struct cp_store *store, struct wh_err *err)
{
	struct store_slot *slot = store->coming;

	while (store->at < slot->count && store->at_bytes == slot->parts[store->at].bytes) {
		int ret = end_part(store, &slot->parts[store->at], err);

		if (ret < 0)
			return ret;
		store->at++;
		store->at_bytes = 0;
	}
	if (store->at == slot->count)
		store->at = slot->count = 0;
	return 0;
}

int store_full_entry(struct cp_store *store, const struct store_part *part, struct wh_err *err)
{
	int ret = store->seen ? 0 : begin(store, err);

	if (ret < 0)
		return ret;
	if (part->content == CP_XBZRLE)
		return err_set(err, -EPROTO, "checkpoint: a difference in one that comes in parts");
	if (store->coming->count >= AHEAD_MAX)
		return err_set(err, -ENOSPC, "checkpoint: over %u runs without their contents",
			       AHEAD_MAX);
	ret = store_add_part(store, part, err);
	return ret < 0 ? ret : end_parts(store, err);
}

int store_full_pages(struct cp_store *store, const uint8_t *payload, size_t length,
		     struct wh_err *err)
{
	struct store_slot *slot = store->coming;

	while (length) {
		const struct store_part *part;
		uint8_t *to = store->scratch;
		size_t bytes;
		int ret;

		if (store->at == slot->count)
			return err_set(err, -EPROTO, "checkpoint: contents of no page");
		part = &slot->parts[store->at];
		if (part->content == CP_PLAIN)
			to = place_of(store, part);
		bytes = part->bytes - store->at_bytes;
		if (bytes > length)
			bytes = length;
		memcpy(to + store->at_bytes, payload, bytes);
		store->at_bytes += (uint32_t)bytes;
		payload += bytes;
		length -= bytes;
		ret = end_parts(store, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static void zero_region(struct cp_store *store, unsigned index)
{
	const struct store_seen *seen = &store->seen[index];
	const struct region *region = &store->regions[index];
	uint64_t pages = region->length / CP_PAGE, end;

	for (uint64_t first = 0;; first = end) {
		first = bits_next_set(seen->zero, first, pages);
		if (first == pages)
			return;
		end = bits_next_clear(seen->zero, first, pages);
		for (uint64_t page = first; page < end; page++)
			if (!store->set.zeroed || bits_test(seen->wrote, page))
				store_zero(region->addr + page * CP_PAGE, 1);
	}
}

int store_full_verify(struct cp_store *store, struct wh_err *err)
{
	if (store->coming->count || (!store->seen && !store->has_one))
		return err_set(err, -EPROTO, "checkpoint: of one in parts not all has come");
	/* what is not in it is as it was */
	if (store->has_one)
		return 0;
	for (unsigned i = 0; i < store->region_count; i++) {
		uint64_t pages = store->regions[i].length / CP_PAGE;
		uint64_t missing = bits_next_clear(store->seen[i].described, 0, pages);

		if (missing < pages)
			return err_set(err, -EPROTO,
				       "checkpoint: page %" PRIu64 " of block '%s' did not come",
				       missing, store->regions[i].name);
	}
	for (unsigned i = 0; i < store->region_count; i++)
		zero_region(store, i);
	store_full_end(store);
	return 0;
}

void store_full_keep(struct cp_store *store)
{
	store->placing = store->seen;
	store->at_region = 0;
	store->at_page = 0;
	store->seen = NULL;
	store_full_end(store);
}

/* Pages [first, end) of a region, all of them described, all zeros or none */
static void place_pages(struct cp_store *store, unsigned index, uint64_t first, uint64_t end)
{
	uint8_t *to = store->regions[index].addr + first * CP_PAGE;
	const struct store_seen *seen = &store->placing[index];

	if (bits_test(seen->zero, first))
		store_zero(to, end - first);
	else
		memcpy(to, seen->beside + first * CP_PAGE, (end - first) * CP_PAGE);
}

bool store_full_place(struct cp_store *store)
{
	uint64_t left = PLACE_PAGES;

	for (; store->at_region < store->region_count; store->at_region++, store->at_page = 0) {
		const struct store_seen *seen = &store->placing[store->at_region];
		uint64_t pages = store->regions[store->at_region].length / CP_PAGE;

		while (left) {
			uint64_t first = bits_next_set(seen->described, store->at_page, pages);
			uint64_t end, same;

			if (first == pages)
				break;
			end = bits_next_clear(seen->described, first, pages);
			same = bits_test(seen->zero, first) ?
				       bits_next_clear(seen->zero, first, end) :
				       bits_next_set(seen->zero, first, end);
			if (same - first > left)
				same = first + left;
			place_pages(store, store->at_region, first, same);
			left -= same - first;
			store->at_page = same;
		}
		if (!left)
			return false;
	}
	return true;
}

void store_full_placed(struct cp_store *store)
{
	free_seen(store, store->placing);
	store->placing = NULL;
}
