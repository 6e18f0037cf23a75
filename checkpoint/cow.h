/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_COW_H
#define CHECKPOINT_COW_H

#include "base/region.h"
#include "checkpoint/dirty.h"

#include <stddef.h>

/*
 * Copy-on-write: what memory was like when the guest stood still, copied while it runs on.
 *
 * Whoever writes first to a page that the tracker has told of waits (dirty_log_open_waiting()), and
 * a thread of ours lets him. In the stop nothing is copied: the tracker is asked a last time, so
 * all of memory is protected, and what is to be copied is noted. Then each of these pages is
 * copied by whoever comes first: cow_copy(), one after the other; or that thread, when somebody
 * wants to write to it, before it lets him. So every copy is one of the stop.
 *
 * Nobody is let in between the last look and the note (cow_stop(), cow_go()): a write of which
 * neither tells would be copied as if it had been there.
 *
 * If something fails everybody is let in at once, and what is not copied yet cannot be any more:
 * cow_copy() and the tracker say so from then on. The guest notices nothing.
 *
 * Writes are seen that go through this process's page tables: not those of a device by DMA, nor
 * those to memory that is pinned. And a page that is dropped (MADV_DONTNEED, MADV_REMOVE) before it
 * is copied cannot be copied any more.
 */
struct cow;

/* Pages that lie together, in the guest and where they are copied to */
struct cow_run {
	uint8_t *at;
	uint64_t first; /* of the block */
	uint32_t block, pages;
};

/* Nothing is watched yet. @regions stay. Return: NULL: no memory, or pages of no size; a sentence */
struct cow *cow_new(const struct region *regions, unsigned count, struct wh_err *err);
/* Closed. NULL is fine */
void cow_free(struct cow *cow);

/* Watch, with a thread that takes the caller's signal mask. 0, or a negative errno and a sentence */
int cow_open(struct cow *cow, struct wh_err *err);
/* Nobody waits any more. What is not copied stays so. It is not opened again */
void cow_close(struct cow *cow);

/* For who asks what was written; one thread, as in all that follow */
struct cp_dirty cow_dirty(struct cow *cow);

/* The guest stands still, nobody writes: whoever waits goes on waiting, until cow_go() */
void cow_stop(struct cow *cow);
/**
 * cow_go() - From here on pages may be written again, those of @runs as soon as they are copied
 * @runs:	In order of blocks and pages, no page twice. They and where they point to stay until
 *		cow_copy() or cow_close(). All these pages were told of since cow_stop() or are as
 *		they were when they were told of
 */
void cow_go(struct cow *cow, const struct cow_run *runs, size_t count);

/* Copy what is left. Return: 0, or a negative errno and a sentence: it is not what it was */
int cow_copy(struct cow *cow, struct wh_err *err);

#endif /* CHECKPOINT_COW_H */
