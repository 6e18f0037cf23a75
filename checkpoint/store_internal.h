/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_STORE_INTERNAL_H
#define CHECKPOINT_STORE_INTERNAL_H

#include "checkpoint/slab.h"
#include "checkpoint/stage.h" /* CP_PAGE */
#include "checkpoint/store.h"

/* For store.c, which receives and keeps, store_full.c: what comes in parts, and store_unpack.c */

/* Pages that lie together, and where their contents are: in a slab */
struct store_part {
	uint8_t *at;
	uint64_t first;
	uint32_t pages, bytes;
	uint16_t region;
	uint8_t content; /* enum cp_content */
};

/* One of the two places */
struct store_slot {
	struct store_part *parts;
	size_t count, room;
	struct slab_chain pages;  /* contents as they are */
	struct slab_chain packed; /* contents that have to be unpacked */
	uint8_t *device;
	size_t device_length, device_room;
};

/* One in parts: what is known of each page of a region */
struct store_seen {
	uint64_t *described;
	uint64_t *zero;	 /* and by the last description it is all zeros */
	uint64_t *wrote; /* other contents were put into it before */
	uint8_t *beside; /* contents, where memory is a complete one; NULL: of the first */
};

struct cp_store {
	struct cp_store_settings set;
	const struct region *regions;
	unsigned region_count;
	uint64_t pages_max; /* of all regions */
	uint32_t block_count;
	uint16_t region_of[CP_BLOCKS_MAX];

	struct slab_pool pool;
	struct store_slot slots[2], *coming, *kept;
	/* of the one that is coming */
	size_t at;	    /* part whose contents come next */
	uint32_t at_bytes;  /* so many of them are here */
	uint64_t described; /* bytes, unpacked */
	struct store_seen *seen;
	uint8_t *scratch; /* CP_PACKED_BYTES_MAX: of one in parts, what is to be unpacked */
	/* memory is a complete one, or being made so: of this, if that came in parts */
	bool has_one;
	struct store_seen *placing;
	unsigned at_region; /* so far it is in place */
	uint64_t at_page;
	struct ZSTD_DCtx_s *zstd;
};

/* Return: 0, or -ENOMEM with a sentence */
int store_add_part(struct cp_store *store, const struct store_part *part, struct wh_err *err);
/* The coming one's parts are gone, and their slabs */
void store_empty(struct cp_store *store, struct store_slot *slot);

static inline uint8_t *store_memory(const struct cp_store *store, const struct store_part *part)
{
	return store->regions[part->region].addr + part->first * CP_PAGE;
}

/*
 * What came as @packed: unpacked to @to, @part->pages of them. Return: 0, or -EPROTO with a
 * sentence
 */
int store_unpack(struct cp_store *store, const struct store_part *part, const uint8_t *packed,
		 uint8_t *to, struct wh_err *err);

/* Zeros, unless they are there: to look does not make a page of memory where there was none */
void store_zero(uint8_t *to, uint64_t pages);

/* One in parts: entries, contents, its end, and that it is not to be had */
int store_full_entry(struct cp_store *store, const struct store_part *part, struct wh_err *err);
int store_full_pages(struct cp_store *store, const uint8_t *payload, size_t length,
		     struct wh_err *err);
int store_full_verify(struct cp_store *store, struct wh_err *err);
void store_full_end(struct cp_store *store);
/* It is kept; a part of it is put in place (return: that was all); it is */
void store_full_keep(struct cp_store *store);
bool store_full_place(struct cp_store *store);
void store_full_placed(struct cp_store *store);

#endif /* CHECKPOINT_STORE_INTERNAL_H */
