/* SPDX-License-Identifier: MIT */
#ifndef UFFD_PLACER_H
#define UFFD_PLACER_H

#include "uffd/mapping.h"
#include "uffd/state.h"
#include "uffd/uffd.h"

/*
 * How pages get into one block, by the kind of memory behind it:
 *
 *	private anonymous	stage, then COPY; whole aligned 2 MiB from a huge
 *				stage by MOVE where that is offered
 *	shared, with a file	what the file holds already (placer_hide(), placer_ahead()):
 *				second mapping, then CONTINUE; what it does not: stage, then
 *				COPY, which allocates without zeroing first
 *	any other, and what	stage, then COPY
 *	another process has
 *
 * selftests/bench/placing shows what each way costs. A block has one placer; each
 * channel has a struct stage of its own, so two threads may place into one block at
 * once. Nobody places the same page twice: that is the caller's bitmap.
 */
enum placer_way {
	PLACER_COPY,
	PLACER_MOVE,
	PLACER_CONTINUE,
	PLACER_WAY_COUNT
};

/**
 * struct placer - One block and the way into it
 * @mapping:	Kind of memory, and the advice that placer_fini() restores
 * @way:	The best there is for this block; single pages may go by COPY all the same
 * @alias:	Second mapping of @region, or NULL
 * @state:	With @alias, what is known of each page; shared by the threads that place and
 *		the one that goes ahead
 * @direct:	With @alias, a bit for STAGE_BYTES of the block: all of them were hidden at one
 *		time since it was armed, room is in @alias
 * @huge_ahead:	Pages are populated ahead by 2 MiB only
 * @zeros:	A page of nothing, where the kernel has no ZEROPAGE; or NULL
 * @ioctls:	The kernel's answer when it was armed
 */
struct placer {
	const struct region *region;
	const struct uffd *uffd;
	struct mapping mapping;
	enum placer_way way;
	uint8_t *alias;
	uint64_t *state;
	uint64_t *direct;
	uint8_t *zeros;
	uint64_t ioctls;
	bool armed;
	bool advised;
	bool huge_ahead;
};

/* Bytes a stage holds: one huge page, and the unit in which MOVE wins. */
#define STAGE_BYTES (UINT64_C(2) << 20)
/* And one that stays in the cache */
#define STAGE_CACHED (UINT64_C(256) << 10)

/**
 * struct stage - Where contents lie until they are placed; of one thread
 *
 * Its pages come and go: nobody registers them (fixed buffers, RDMA).
 *
 * @memory:	Aligned to @size, DONTFORK, of one huge page where there is one. One of a TARGET_PAGE
 *		is for pages that are placed one by one: it stays in the cache
 * @spare:	The same, for when @memory was moved away; of the thread that goes ahead until
 *		it is @ready. NULL if @size is not STAGE_BYTES
 * @placer:	The last block with a second mapping for which room was here, ...
 * @part:	... and where in it, in stages: what lies here is of there
 * @pagemap:	/proc/self/pagemap, or -1
 * @skip:	MOVE does not pay here: so many times it is not tried
 * @skips:	How many the last time
 * @moved:	The page was moved away and the next one has not been looked at
 * @moves:	MOVE has worked at least once
 */
struct stage {
	uint8_t *memory;
	uint8_t *spare;
	uint64_t size;
	const struct placer *placer;
	uint64_t part;
	int pagemap;
	unsigned skip;
	unsigned skips;
	bool moved;
	bool moves;
	bool ready;
};

/**
 * placer_init() - Find out what memory it is and how to fill it
 *
 * Finds kind and advice in /proc/self/smaps, makes the second mapping where
 * @region has a descriptor (checked: it must be the file behind addr). Touches
 * nothing of the memory itself.
 *
 * Return: 0, or a negative errno and a sentence naming the block
 */
int placer_init(struct placer *placer, const struct region *region, const struct uffd *uffd,
		struct wh_err *err);
/* Unmaps the second mapping and restores advice. Not while armed. */
void placer_fini(struct placer *placer);
/*
 * While armed: gives back all but what keeps missing pages missing. Who touches one
 * sleeps, as long as the userfaultfd stays open.
 */
void placer_abandon(struct placer *placer);

/**
 * placer_discard() - Drop the contents of a range so that it reads as missing
 *
 * Until it is armed that is: as zeros. Of a file that is mapped privately the contents
 * go too if the block has its descriptor; if it has none the file must hold nothing
 * there, which is checked where it can be.
 *
 * Not while armed with EVENT_REMOVE, since it would wait for its own event to be read.
 *
 * Return: 0, or a negative errno and a sentence
 */
int placer_discard(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err);
/**
 * placer_hide() - The same for what will be placed again, all of it, once armed
 *
 * What a file holds it keeps, so that nothing is given back and allocated anew: armed,
 * the range is missing; until then it reads as it was, and only placer_room() is a way
 * to write to it. Where there is no second mapping it is placer_discard().
 */
int placer_hide(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err);
/*
 * The second half of hiding, for placer_arm(): not before, since whoever reads a page maps
 * its neighbours as well.
 */
int placer_unmap_hidden(struct placer *placer, struct wh_err *err);
/*
 * No huge page may fill holes from here on (MADV_NOHUGEPAGE). placer_hide() and placer_arm()
 * do it, if it was not done: until then the memory fills as its owner wants it.
 */
int placer_advise(struct placer *placer, struct wh_err *err);
/* The owner's advice again, if placer_advise() took it. Not while armed. */
int placer_restore(struct placer *placer, struct wh_err *err);
/* Register with the uffd; from here on missing pages fault. */
int placer_arm(struct placer *placer, struct wh_err *err);
/* Unregister and wake: only when every page is in, absent pages would read as zeros. */
int placer_disarm(struct placer *placer, struct wh_err *err);

/**
 * placer_ahead() - Have pages allocated whose contents are about to come (see ahead.c)
 * @received:	The caller's bitmap, of TARGET_PAGEs: these are left alone. It need not know
 *		of pages that are being placed
 * @offset:	@offset and @length in whole pages of the block; best in whole stages
 *
 * For a thread of its own: it sleeps, half a millisecond and more for each stage. One
 * thread for a placer, while others place; it is to have ended before placer_disarm(),
 * placer_fini() and placer_abandon(). Nothing is done where placer_goes_ahead() says
 * no, nor before arming. What is allocated and then not filled is lost to the system: only
 * for what the stream is about to fill.
 *
 * Return: 0; -EOPNOTSUPP before Linux 5.14; -ENOSPC or -ENOMEM where there is no room for
 * the pages; with a sentence. Nothing is lost by an error, the pages will go by COPY
 */
int placer_ahead(struct placer *placer, const uint64_t *received, uint64_t offset, uint64_t length,
		 struct wh_err *err);
/* Is there anything for placer_ahead() to do in this block at all? */
static inline bool placer_goes_ahead(const struct placer *placer)
{
	return placer->alias != NULL;
}

/* For this folder: the page of @alias is in the file afterwards, else an error */
int placer_populate_one(const struct placer *placer, uint64_t offset, struct wh_err *err);
/* For this folder: has stage @part of the block come to be received in place? */
void placer_find_direct(struct placer *placer, uint64_t part);

/**
 * struct placer_collapse - What became of pieces of 2 MiB
 * @made:	Huge now
 * @before:	Had been huge
 * @sparse:	Left alone: more than half of it is holes or zeros
 * @refused:	Not now: memory is short or in pieces, or a page is pinned
 */
struct placer_collapse {
	uint64_t made;
	uint64_t before;
	uint64_t sparse;
	uint64_t refused;
};

/**
 * placer_collapse() - Make huge pages of small ones, where owner and system want them
 * @length:	What lies in it of whole aligned 2 MiB is looked at, one after another; half a
 *		millisecond each if contents are copied
 * @count:	Added to
 *
 * When all is in and disarmed. Does placer_restore(). Any thread, one at a time.
 *
 * Return: 0; -EOPNOTSUPP where huge pages are not wanted; or another negative errno; with
 * a sentence. None of it is an error of the migration
 */
int placer_collapse(struct placer *placer, uint64_t offset, uint64_t length,
		    struct placer_collapse *count, struct wh_err *err);

/* @size: a power of two, TARGET_PAGE or more; MOVE is for those of STAGE_BYTES */
int stage_init(struct stage *stage, uint64_t size, struct wh_err *err);
void stage_fini(struct stage *stage);
/* A full stage: does it hold one huge page, so that MOVE pays? */
bool stage_movable(struct stage *stage);
/* What became of it: MOVE took the page, or could not; after that, all of it was copied */
void stage_moved(struct stage *stage, bool moved);
void stage_copied(struct stage *stage);
/**
 * stage_ahead() - Have the next huge page zeroed before it is needed
 *
 * For a thread of its own, one for a stage, while another fills it. Only what MOVE has
 * taken away is replaced: before its first one there is nothing to do.
 *
 * Return: a page was zeroed. False: there is one, or none could be had
 */
bool stage_ahead(struct stage *stage);

/**
 * placer_piece() - Bytes that are best placed at once, a power of two
 * @page_size:	In which the caller places, the block's or larger; STAGE_BYTES at most. A piece
 *		is no smaller
 *
 * What is moved or mapped goes by a whole stage. What is copied from one goes by as much as stays
 * in a processor's cache meanwhile.
 */
uint64_t placer_piece(const struct placer *placer, uint64_t page_size);

/**
 * placer_room() - Where the contents of a page are to be put before it is placed
 * @offset:	In the block
 *
 * In the second mapping where the file has the pages, else in the stage, at @offset
 * modulo its size: neighbours lie beside each other up to the next multiple of it (of
 * STAGE_BYTES in the second mapping). Never in the guest's own mapping once armed;
 * before that, always there. What lies in a stage is placed before room is asked for in
 * another part of the block, or in another block.
 */
uint8_t *placer_room(const struct placer *placer, struct stage *stage, uint64_t offset);
/*
 * The same for a page that another thread may be placing: armed, never in the second mapping,
 * which is not even looked at; NULL then.
 */
uint8_t *placer_room_apart(const struct placer *placer, struct stage *stage, uint64_t offset);

/**
 * placer_place() - Let the guest have what placer_room() holds
 * @length:	Multiple of the block's page size; does not cross a stage
 *
 * MOVE falls back to COPY where pages are pinned or the kernel says no. Before
 * arming there is nothing to do: PLACED_OK.
 */
enum placed placer_place(struct placer *placer, struct stage *stage, uint64_t offset,
			 uint64_t length, bool wake, uint64_t *done, struct wh_err *err);
/**
 * placer_zero() - Zero pages
 * @length:	Multiple of the block's page size
 *
 * ZEROPAGE where the memory has it, else zeros are placed. What lies in @stage stays.
 *
 * Not armed, or no longer: PLACED_GONE, and nothing is done. A fault may be looked at when all
 * is in and the guest has long gone on, and what is there then is the guest's.
 *
 * A page that is in the file and merely not mapped, without placer_hide(), has been
 * there all the time (memory was short, or the guest used MADV_DONTNEED): it is mapped
 * again as it is. Whoever put something into placer_room() that is not to be placed
 * discards it.
 */
enum placed placer_zero(struct placer *placer, struct stage *stage, uint64_t offset,
			uint64_t length, bool wake, uint64_t *done, struct wh_err *err);
int placer_wake(struct placer *placer, uint64_t offset, uint64_t length, struct wh_err *err);

#endif /* UFFD_PLACER_H */
