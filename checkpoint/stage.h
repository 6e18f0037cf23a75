/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_STAGE_H
#define CHECKPOINT_STAGE_H

#include "base/region.h"
#include "checkpoint/cow.h"
#include "checkpoint/slab.h"
#include "wire/checkpoint.h"

#include <stdbool.h>
#include <sys/uio.h>

/*
 * A checkpoint's bytes at the source: from guest memory, through slabs, to messages. When, the
 * engine says (source.h); nothing here knows a socket, a clock or a thread.
 *
 * Why no byte is lost. Of each page one of these is true at any time:
 *
 *	the destination has it as it is;
 *	it was written since the tracker was last asked, which will tell (struct cp_dirty);
 *	its bit is set in the map of what is to be copied;
 *	its copy is in the stage, newer copies counting before older ones.
 *
 * The tracker is asked before pages are copied, so a page written while it is copied is told the
 * next time and copied again: that may be done beside the running guest, as long as the last
 * look and the last copy are made while it stands still (cp_stage_stop()). A bit is cleared when
 * the copy is made and no earlier; so whatever fails on the way is not forgotten. With a struct cow
 * the last copy is made later, of pages that nobody has written to since (cow.h).
 *
 * What is left out, or sent as a difference, is so against what the destination *has*: what it
 * has acknowledged. The hashes and the copies of what was last sent are brought up to date by
 * cp_stage_acked() alone. Until then the epoch may be sent again, the same bytes; and the next one
 * cannot be begun. The destination unpacks an epoch only after the one before is in place, so both
 * speak of the same contents. A page is left out if its XXH3 of 128 bits, from a seed of the
 * session, is that of the contents acknowledged.
 *
 * The first checkpoint is all of memory, in parts, each sent and forgotten while the guest runs,
 * with no differences in it. If it fails there is no session, so what was sent counts as there.
 *
 * What was written since the last acknowledged one only grows; if it has grown too large for the
 * slabs it goes in parts as well (cp_stage_again()). Then what was sent counts as there until that
 * one is acknowledged, which includes it, or is given up: what of memory is there is not
 * known any more then, so all of it is to be copied.
 *
 * Pages are of 4096 bytes, whatever is behind them: a cp_block's page_size is CP_PAGE.
 */
#define CP_PAGE TARGET_PAGE

struct cp_stage;

/**
 * struct cp_stage_settings - What one takes and does
 * @generation:	Of the session: in every header
 * @contents_max: Bytes of pages in one checkpoint, before packing, that the destination has
 *		room for: as in struct cp_source_settings
 * @device_max:	The same of device state
 * @slab_cap:	Bytes of slabs; at least @contents_max, or less than that may be what fits. Twice
 *		as much is plenty
 * @cache_bytes: Of pages as they were last sent, for XBZRLE. 0: none
 * @seed:	Of the hashes: unknown to the guest
 * @zstd_level:	0: zstd's own choice
 * @hash:	Leave out pages that were written but are as they were. 16 bytes for each page of
 *		the guest
 * @huge:	Slabs of hugetlb pages where there are any
 * @cow:	Pages of a stop are copied after it, with this one's help, and its cow_dirty() is who
 *		knows what was written. It is closed before cp_stage_free(). NULL: in the stop
 * @watch:	Of the slabs that contents are sent from
 */
struct cp_stage_settings {
	uint64_t generation;
	uint64_t contents_max, device_max;
	uint64_t slab_cap, cache_bytes;
	uint64_t seed;
	int zstd_level;
	bool hash, huge;
	struct cow *cow;
	struct slab_watch watch;
};

/* Of the epoch in the stage, and of all that were acknowledged; written here only. */
struct cp_stage_figures {
	uint64_t pages; /* staged, a page twice if it was copied twice */
	uint64_t wire;	/* bytes of messages given by cp_stage_next(), heads included */
	uint64_t zero, same, delta, packed, plain; /* pages, by what became of them */
	uint64_t delta_bytes, packed_bytes;	   /* of contents */
};

/**
 * cp_stage_new() - One for a guest
 * @regions:	Its memory, in the order of the engine's blocks; addr is what is read. Stays
 * @dirty:	Asked on the thread that calls the stage; is copied
 *
 * One thread at a time is in any function of a stage.
 *
 * Return: NULL and a sentence: no memory, or more regions than CP_BLOCKS_MAX
 */
struct cp_stage *cp_stage_new(const struct cp_stage_settings *settings,
			      const struct region *regions, unsigned count,
			      const struct cp_dirty *dirty, struct wh_err *err);
/* NULL is fine. */
void cp_stage_free(struct cp_stage *stage);

/**
 * cp_stage_begin() - The first epoch: all of memory is to be copied
 * @features:	What both ends agreed on: of struct cp_source's settings, after READY
 *
 * The tracker has been started before. To be called once.
 */
void cp_stage_begin(struct cp_stage *stage, uint32_t features);

/**
 * cp_stage_again() - The epoch that is open goes in parts, as the first did
 * @all:	One that was begun in parts was given up: nothing of memory is known to be there
 *
 * In place of what is in the stage, in any state of it, but that nothing given out by
 * cp_stage_next() is under way: what was copied is to be copied still. An epoch
 * that is sent and not acknowledged is given up as well, and takes @all.
 */
void cp_stage_again(struct cp_stage *stage, bool all);

/**
 * cp_stage_look() - Ask the tracker
 *
 * While the guest runs: a page that it writes after this is told again.
 *
 * Return: pages that a stop now would have, copied ahead or not: what contents_max is to be
 * compared with; or a negative errno with a sentence
 */
int64_t cp_stage_look(struct cp_stage *stage, struct wh_err *err);

/**
 * cp_stage_copy() - Copy what is to be copied, up to @bytes, while the guest runs
 *
 * For the parts of the first checkpoint, and ahead of a stop when there is much: then what is
 * copied may have to be copied again, and takes twice the room. Half of the slabs at most
 * are filled by this, so that a stop is not without any.
 *
 * Return: bytes copied: 0 if nothing is to be copied or there is no room now; or a negative errno
 * with a sentence
 */
int64_t cp_stage_copy(struct cp_stage *stage, uint64_t bytes, struct wh_err *err);

/**
 * cp_stage_stop() - The guest stands still: look, and copy all of it, or see to it that it can be
 * copied later as it is now
 * @device:	malloc()ed device state, or NULL; the stage frees it, at once if this fails
 * @length:	Bytes of it
 *
 * Memory that the copy needs and the pool does not have is made here, which makes the stop longer:
 * cp_stage_ready() does so before. After a failure the stage is as before, and everything is to be
 * copied still.
 *
 * Return: 0; -ENOSPC: more than @contents_max or, in parts or not, more than the slabs hold;
 * -EMSGSIZE: more device state than may be; or the tracker's errno; with a sentence
 */
int cp_stage_stop(struct cp_stage *stage, void *device, size_t length, struct wh_err *err);

/**
 * cp_stage_ready() - Have room for the next stop
 *
 * While the guest runs, after cp_stage_acked(): for what is to be copied as far as it is known,
 * or for as much as the last time, and a quarter more.
 *
 * Return: 0, or a negative errno with a sentence; it is no harm to go on
 */
int cp_stage_ready(struct cp_stage *stage, struct wh_err *err);

/**
 * cp_stage_pack() - Make messages of what is in the stage
 * @epoch:	Number in the headers: 1, and one more after each cp_stage_acked()
 *
 * While the guest runs; this is what takes long. What can be made smaller by what was agreed on
 * is. Of epoch 1 for each part, followed by cp_stage_next() to its end and cp_stage_forget();
 * the last part is what cp_stage_stop() copied. Of others once, after cp_stage_stop().
 *
 * With a struct cow it begins with copying what cp_stage_stop() has left.
 *
 * Return: 0, or -ENOMEM with a sentence: nothing is lost, and it may be called again; or why pages
 * are not as they were in the stop, of which nothing can be made any more: they are to be copied
 */
int cp_stage_pack(struct cp_stage *stage, uint64_t epoch, struct wh_err *err);

#define CP_OUT_PIECES 64

/**
 * struct cp_out - A message to be sent, its head in here, the rest where it lies
 * @header:	What it is
 * @iov:	@count pieces, the first is in @head; @bytes in all
 */
struct cp_out {
	struct cp_header header;
	unsigned count;
	size_t bytes;
	struct iovec iov[CP_OUT_PIECES];
	uint8_t head[CP_MSG_MAX];
};

/**
 * cp_stage_next() - The next message: BEGIN, META and PAGES, DEVICE. COMMIT is the engine's to say
 * @out:	Filled in. It points into itself: it is not to be moved. What it points to stays
 *		until cp_stage_acked(), cp_stage_forget(), cp_stage_free()
 *
 * Several may be under way, in their order. The hash runs along.
 *
 * Return: false: that was all of it
 */
bool cp_stage_next(struct cp_stage *stage, struct cp_out *out);

/* The part of the first checkpoint is on its way: nothing points to it any more. */
void cp_stage_forget(struct cp_stage *stage);

/* To be sent again, from BEGIN on: not of epoch 1. Nothing given out before is under way. */
void cp_stage_rewind(struct cp_stage *stage);

/* For cp_source_sent(): of all messages since BEGIN, when cp_stage_next() has said false. */
void cp_stage_totals(const struct cp_stage *stage, struct cp_msg *commit);

/**
 * cp_stage_acked() - The destination has it: the stage is empty, and the next epoch may be begun
 *
 * Takes the time of copying what was sent into the cache, if there is one: let go what is held
 * first. An epoch that is never acknowledged never gets here.
 */
void cp_stage_acked(struct cp_stage *stage);

/* About once a second: the slabs shrink. */
void cp_stage_step(struct cp_stage *stage, uint64_t now_ns);

const struct cp_stage_figures *cp_stage_last(const struct cp_stage *stage);
const struct cp_stage_figures *cp_stage_total(const struct cp_stage *stage);
/* Bytes of slabs that there are */
uint64_t cp_stage_slabs(const struct cp_stage *stage);

#endif /* CHECKPOINT_STAGE_H */
