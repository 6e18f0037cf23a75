/* SPDX-License-Identifier: MIT */
/*
 * Joining: what comes goes into slabs, and from there into memory. The theory is in store.h.
 * What the engine has checked (pages that there are, kinds that were agreed on, lengths that
 * fit) is not checked again.
 */
#include "checkpoint/store_internal.h"

#include "base/err.h"
#include "base/zero.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/* Parts that pages may be split into, where a slab ends */
#define PARTS_MORE 1024u
/* Slabs that are not filled to the end */
#define SLABS_MORE 8u

struct cp_store *cp_store_new(const struct cp_store_settings *settings,
			      const struct region *regions, unsigned count, struct wh_err *err)
{
	struct cp_store *store = calloc(1, sizeof(*store));
	uint64_t most = settings->contents_max;

	if (!store)
		goto out_err;
	store->set = *settings;
	store->regions = regions;
	store->region_count = count;
	for (unsigned i = 0; i < count; i++)
		store->pages_max += regions[i].length / CP_PAGE;
	if (most > store->pages_max * CP_PAGE)
		most = store->pages_max * CP_PAGE;
	/* what comes, unpacked, and what is put in place meanwhile */
	slab_pool_init(&store->pool, 3 * most + most / 8 + SLABS_MORE * SLAB_BYTES, settings->huge);
	store->coming = &store->slots[0];
	store->kept = &store->slots[1];
	store->zstd = ZSTD_createDCtx();
	if (store->zstd)
		return store;
	cp_store_free(store);
out_err:
	err_sys(err, ENOMEM, "checkpoint: a place to put them");
	return NULL;
}

void store_empty(struct cp_store *store, struct store_slot *slot)
{
	slab_chain_give(&store->pool, &slot->pages);
	slab_chain_give(&store->pool, &slot->packed);
	slot->count = 0;
}

void cp_store_free(struct cp_store *store)
{
	if (!store)
		return;
	for (unsigned i = 0; i < 2; i++) {
		store_empty(store, &store->slots[i]);
		free(store->slots[i].parts);
		free(store->slots[i].device);
	}
	slab_pool_fini(&store->pool);
	store_full_end(store);
	store_full_placed(store);
	ZSTD_freeDCtx(store->zstd);
	free(store);
}

int cp_store_block(struct cp_store *store, uint32_t index, const struct cp_block *block,
		   struct wh_err *err)
{
	int found = region_named(store->regions, store->region_count, block->name.text,
				 block->name.length);

	if (found < 0)
		return err_set(err, -ENOENT, "checkpoint: there is no block '%s' here",
			       block->name.text);
	if (block->page_size != CP_PAGE)
		return err_set(err, -EPROTO, "checkpoint: block '%s' in pages of %llu bytes",
			       block->name.text, (unsigned long long)block->page_size);
	if (block->length != store->regions[found].length)
		return err_set(err, -EPROTO,
			       "checkpoint: block '%s' has %llu bytes there, %llu here",
			       block->name.text, (unsigned long long)block->length,
			       (unsigned long long)store->regions[found].length);
	for (uint32_t i = 0; i < store->block_count; i++)
		if (store->region_of[i] == found)
			return err_set(err, -EPROTO, "checkpoint: block '%s' twice",
				       block->name.text);
	if (index != store->block_count || index >= CP_BLOCKS_MAX)
		return err_set(err, -EPROTO, "checkpoint: block %u behind %u", index,
			       store->block_count);
	store->region_of[store->block_count++] = (uint16_t)found;
	return 0;
}

int store_add_part(struct cp_store *store, const struct store_part *part, struct wh_err *err)
{
	struct store_slot *slot = store->coming;

	if (slot->count == slot->room) {
		size_t room = slot->room ? 2 * slot->room : 256;
		void *parts = realloc(slot->parts, room * sizeof(*slot->parts));

		if (!parts)
			return err_sys(err, ENOMEM, "checkpoint: a list of %zu runs", room);
		slot->parts = parts;
		slot->room = room;
	}
	slot->parts[slot->count++] = *part;
	return 0;
}

/* Its contents will be there; of a long one in several slabs */
static int add_room(struct cp_store *store, struct store_part part, struct wh_err *err)
{
	struct store_slot *slot = store->coming;
	bool plain = part.content == CP_PLAIN;
	uint32_t left = part.bytes, left_pages = part.pages;
	int ret;

	while (left) {
		uint64_t got;

		if (plain)
			part.at = slab_room(&store->pool, &slot->pages, left, CP_PAGE, &got, err);
		else
			part.at = slab_room(&store->pool, &slot->packed, left, left, &got, err);
		if (!part.at)
			return -ENOSPC;
		part.bytes = (uint32_t)got;
		part.pages = plain ? (uint32_t)(got / CP_PAGE) : left_pages;
		ret = store_add_part(store, &part, err);
		if (ret < 0)
			return ret;
		left -= part.bytes;
		left_pages -= part.pages;
		part.first += part.pages;
	}
	return 0;
}

int cp_store_entry(struct cp_store *store, const struct cp_entry *entry, bool full,
		   struct wh_err *err)
{
	struct store_part part = {
		.first = entry->first,
		.pages = entry->pages,
		.bytes = entry->bytes,
		.region = store->region_of[entry->block],
		.content = (uint8_t)entry->content,
	};

	if (full)
		return store_full_entry(store, &part, err);
	if (store->coming->count >= store->pages_max + PARTS_MORE)
		return err_set(err, -ENOSPC, "checkpoint: over %zu runs of %llu pages",
			       store->coming->count, (unsigned long long)store->pages_max);
	if (entry->content == CP_ZERO)
		return store_add_part(store, &part, err);
	if (!entry->bytes)
		return err_set(err, -EPROTO, "checkpoint: a difference to nothing");
	store->described += (uint64_t)entry->pages * CP_PAGE;
	if (store->described > store->set.contents_max)
		return err_set(err, -ENOSPC, "checkpoint: over %llu bytes when unpacked",
			       (unsigned long long)store->set.contents_max);
	return add_room(store, part, err);
}

int cp_store_pages(struct cp_store *store, const uint8_t *payload, size_t length,
		   struct wh_err *err)
{
	struct store_slot *slot = store->coming;

	if (store->seen)
		return store_full_pages(store, payload, length, err);
	while (length) {
		const struct store_part *part;
		size_t bytes;

		while (store->at < slot->count && store->at_bytes == slot->parts[store->at].bytes) {
			store->at++;
			store->at_bytes = 0;
		}
		if (store->at == slot->count)
			return err_set(err, -EPROTO, "checkpoint: contents of no page");
		part = &slot->parts[store->at];
		bytes = part->bytes - store->at_bytes;
		if (bytes > length)
			bytes = length;
		memcpy(part->at + store->at_bytes, payload, bytes);
		store->at_bytes += (uint32_t)bytes;
		payload += bytes;
		length -= bytes;
	}
	return 0;
}

int cp_store_device(struct cp_store *store, const uint8_t *payload, size_t length,
		    struct wh_err *err)
{
	struct store_slot *slot = store->coming;
	size_t need = slot->device_length + length, room = slot->device_room;
	void *device;

	if (need > store->set.device_max)
		return err_set(err, -EPROTO, "checkpoint: device state of over %llu bytes",
			       (unsigned long long)store->set.device_max);
	if (need > room) {
		room = 2 * room > need ? 2 * room : need;
		device = realloc(slot->device, room);
		if (!device)
			return err_sys(err, ENOMEM, "checkpoint: %zu bytes of device state", room);
		slot->device = device;
		slot->device_room = room;
	}
	memcpy(slot->device + slot->device_length, payload, length);
	slot->device_length = need;
	return 0;
}

void cp_store_drop(struct cp_store *store)
{
	store_empty(store, store->coming);
	store->coming->device_length = 0;
	store->at = 0;
	store->at_bytes = 0;
	store->described = 0;
	/* of a first one that did not come to its end, memory has something */
	if (store->seen && !store->has_one)
		store->set.zeroed = false;
	store_full_end(store);
}

void cp_store_keep(struct cp_store *store)
{
	struct store_slot *slot = store->coming;

	store->coming = store->kept;
	store->kept = slot;
	store->coming->device_length = 0;
	store->at = 0;
	store->at_bytes = 0;
	store->described = 0;
	store_full_keep(store);
	store->has_one = true;
}

bool cp_store_apply(struct cp_store *store)
{
	const struct store_slot *slot = store->kept;

	if (store->placing)
		return store_full_place(store);
	for (size_t i = 0; i < slot->count; i++) {
		const struct store_part *part = &slot->parts[i];

		if (part->content == CP_ZERO)
			store_zero(store_memory(store, part), part->pages);
		else
			memcpy(store_memory(store, part), part->at, part->pages * CP_PAGE);
	}
	return true;
}

void cp_store_applied(struct cp_store *store)
{
	store_empty(store, store->kept);
	store_full_placed(store);
}

void store_zero(uint8_t *to, uint64_t pages)
{
	for (; pages; pages--, to += CP_PAGE)
		if (!zero_page(to, CP_PAGE))
			memset(to, 0, CP_PAGE);
}

static const void *device_of(const struct store_slot *slot, size_t *length)
{
	*length = slot->device_length;
	return slot->device_length ? slot->device : NULL;
}

const void *cp_store_coming_device(const struct cp_store *store, size_t *length)
{
	return device_of(store->coming, length);
}

const void *cp_store_kept_device(const struct cp_store *store, size_t *length)
{
	return device_of(store->kept, length);
}

void cp_store_step(struct cp_store *store, uint64_t now_ns)
{
	slab_pool_step(&store->pool, now_ns);
}

uint64_t cp_store_slabs(const struct cp_store *store)
{
	return store->pool.total * SLAB_BYTES;
}
