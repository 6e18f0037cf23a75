/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_STAGE_INTERNAL_H
#define CHECKPOINT_STAGE_INTERNAL_H

#include "checkpoint/slab.h"
#include "checkpoint/stage.h"

/* For stage.c, which copies, stage_pack.c, which makes it small, and stage_send.c */

struct stage_block {
	const uint8_t *memory;
	uint64_t pages;
	uint64_t base;	  /* pages of the blocks before */
	uint64_t *map;	  /* to be copied */
	uint64_t *staged; /* a copy is in the stage */
};

enum stage_fate {
	STAGE_SENT, /* whole, packed or as a difference */
	STAGE_ZERO,
	STAGE_SAME, /* not sent: the destination has it so */
};

struct stage_page {
	const uint8_t *at;
	uint64_t page; /* of the block */
	uint32_t block;
	enum stage_fate fate;
	uint64_t hash[2];
};

struct stage_entry {
	struct cp_entry entry;
	const uint8_t *at; /* entry.bytes of contents */
};

/* An array that grows and is kept */
struct stage_array {
	void *items;
	size_t room; /* bytes */
};

struct cp_stage {
	struct cp_stage_settings set;
	struct cp_dirty dirty;
	uint32_t features;
	unsigned block_count;
	struct stage_block blocks[CP_BLOCKS_MAX];
	uint64_t pages; /* of all blocks */

	struct slab_pool pool;
	struct slab_chain raw, packed;
	struct stage_array run_array, page_array, entry_array, wire_array;
	size_t run_count, page_count, entry_count;
	uint64_t staged; /* pages, each once */
	bool leaves;	 /* what is staged is copied later, by set.cow */
	size_t left;	 /* so it is with the runs from this one on */
	/* where cp_stage_copy() goes on */
	unsigned at_block;
	uint64_t at_page;
	uint8_t *device;
	size_t device_length;
	uint64_t last_pages; /* copied for the epoch before */

	/* what the destination has acknowledged */
	uint64_t (*known)[2]; /* a page's hash */
	uint8_t *cache;	      /* contents of page cached[slot] - 1 */
	uint64_t *cached, slots;
	uint64_t zero_hash[2];
	struct ZSTD_CCtx_s *zstd;

	/* what cp_stage_next() has given */
	uint64_t epoch, acked;
	bool full;  /* in parts, without differences */
	bool waits; /* packed, and not acknowledged or forgotten: nothing may be added */
	bool begun;
	size_t described, sent; /* entries; of @sent that is under way */
	uint32_t sent_bytes;	/* so many */
	size_t device_sent;
	struct cp_hash hash;
	struct cp_msg totals;
	struct cp_stage_figures now, last, total;
};

/* Room for as many bytes. Return: false: no memory, and nothing has changed */
bool stage_grow(struct stage_array *array, size_t bytes);

static inline struct cow_run *stage_runs(const struct cp_stage *stage)
{
	return stage->run_array.items;
}

static inline struct stage_page *stage_pages(const struct cp_stage *stage)
{
	return stage->page_array.items;
}

static inline struct stage_entry *stage_entries(const struct cp_stage *stage)
{
	return stage->entry_array.items;
}

/* Nothing is left to be copied. Return: 0, or a negative errno and a sentence: all of it is */
int stage_copy_left(struct cp_stage *stage, struct wh_err *err);

/* The cache's copy of a page as the destination has it, or NULL */
const uint8_t *stage_cached(const struct cp_stage *stage, const struct stage_page *page);
/* What was packed is what the destination has, from here on; @cache: copies, too */
void stage_pages_known(struct cp_stage *stage, bool cache);

/* cp_stage_next() begins with the entries again, not with BEGIN */
void stage_send_part(struct cp_stage *stage);

#endif /* CHECKPOINT_STAGE_INTERNAL_H */
