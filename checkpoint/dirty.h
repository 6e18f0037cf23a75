/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_DIRTY_H
#define CHECKPOINT_DIRTY_H

#include <stdint.h>
#include <wherry/err.h>

/**
 * struct cp_dirty - Who knows which pages were written
 * @written:	Of a block, an index in the table of regions: set in @map, of 4096-byte pages, those
 *		written since the last call; clear none. 0, or a negative errno with a sentence, and
 *		then nothing may have been forgotten that is not in @map
 *
 * To tell and to forget is one step: a write that comes later is told the next time. Every
 * write counts from before cp_stage_begin() on; until then all pages were.
 */
struct cp_dirty {
	int (*written)(void *world, unsigned block, uint64_t *map, struct wh_err *err);
	void *world;
};

struct dirty_log;
/* Of userfaultfd (uffd/dirty.h), opened for the same regions */
struct cp_dirty cp_dirty_uffd(struct dirty_log *log);

#endif /* CHECKPOINT_DIRTY_H */
