/* SPDX-License-Identifier: MIT */
/*
 * Joining: the first checkpoint, all of memory. Contents go straight there, in the order in which
 * they come; the parts are those whose contents are still to come.
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

/* Runs that may be described ahead of their contents */
#define AHEAD_MAX 65536u

void store_full_end(struct cp_store *store)
{
	for (unsigned i = 0; store->seen && i < store->region_count; i++) {
		free(store->seen[i].described);
		free(store->seen[i].zero);
		free(store->seen[i].wrote);
	}
	free(store->seen);
	free(store->scratch);
	store->seen = NULL;
	store->scratch = NULL;
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
		if (!seen->described || !seen->zero || !seen->wrote) {
			store_full_end(store);
			return err_sys(err, ENOMEM, "checkpoint: maps of memory");
		}
	}
	return 0;
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
	return store_unpack(store, part, store->scratch, store_memory(store, part), err);
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
		return err_set(err, -EPROTO, "checkpoint: a difference in the first one");
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
			to = store_memory(store, part);
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
	if (!store->seen || store->coming->count)
		return err_set(err, -EPROTO, "checkpoint: the first one is not all of memory");
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
