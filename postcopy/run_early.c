/* SPDX-License-Identifier: MIT */
/*
 * Joining: a row of pages that is received before its block is watched, by the cheapest way
 * (uffd/early.h). The intake says where contents are to lie, and does not get to know that they
 * came there by way of a file: they lie there before it is told that they have come.
 */
#include "base/bits.h"
#include "postcopy/run_dest.h"

#include <stdlib.h>

#define ROW_BYTES (DEST_AHEAD_MAX * TARGET_PAGE)
/*
 * Pages that are allocated and then do not come stay. Behind a row of so many they are a
 * quarter of what has come at most.
 */
#define ROW_LONG (4 * DEST_AHEAD_MAX)
/* The same of a huge page, for which small ones come where there is none */
#define ROW_HUGE (4 * STAGE_BYTES / TARGET_PAGE)
/* What is worth a call */
#define PIECE_LONG (8 * TARGET_PAGE)

void early_block(struct wh_migration *m, unsigned region, const struct placer *placer)
{
	struct early *early = &m->dest->early[region];
	struct mapping mapping;

	if (placer)
		early_init(early, &m->region[region], &placer->mapping);
	else if (mapping_find(&mapping, &m->region[region], NULL) == 0)
		early_init(early, &m->region[region], &mapping);
	else
		early_init(early, &m->region[region], NULL);
}

/* Of the list; or as many as there are */
static unsigned block_of(const struct dest_side *side, const struct region *region)
{
	unsigned i = 0;

	while (i < side->engine.blocks && side->engine.block[i].region != region)
		i++;
	return i;
}

/* Advised to have no huge pages, since postcopy may come */
static bool is_small(const struct dest_side *side, const struct region *region)
{
	unsigned i = block_of(side, region);

	return i < side->engine.blocks && side->placer_up[i] && side->placer[i].advised;
}

/* Postcopy may still come if the source has said so, and only then */
static enum early_way way_of(const struct dest_side *side, const struct early *early)
{
	return early_way(early, is_small(side, early->region), side->engine.advised);
}

/* The index of the first piece that lies in guest memory, behind a head or none; or count */
static unsigned first_contents(const struct wh_migration *m, const struct iovec *piece,
			       unsigned count, int *region, uint64_t *offset)
{
	for (unsigned i = 0; i < count && i < 2; i++) {
		*region = region_find(m->region, m->regions, piece[i].iov_base, offset);
		if (*region >= 0)
			return i;
	}
	return count;
}

/* Contents go to the stage, in the order and distance that they have in the block */
static void through_stage(struct early_row *row, const struct early *early, uint64_t offset,
			  struct iovec *piece, unsigned first, unsigned count)
{
	const uint8_t *begin = piece[first].iov_base;

	if (!row->stage)
		row->stage = malloc(ROW_BYTES);
	if (!row->stage)
		return;
	row->early = early;
	row->offset = offset;
	for (unsigned i = first; i < count; i += 2)
		piece[i].iov_base = row->stage + ((const uint8_t *)piece[i].iov_base - begin);
}

/* In a long row another thread has it allocated, and what is behind it: it is there, and mapped */
static bool behind_row(struct wh_migration *m, const struct early *early, uint64_t offset)
{
	const struct dest_side *side = m->dest;
	uint64_t row = (uint64_t)side->engine.channel[CHANNEL_MAIN].row * TARGET_PAGE;
	unsigned block = block_of(side, early->region);

	return early->populates && block < side->engine.blocks &&
	       ahead_early(m, (unsigned)(early->region - m->region), offset,
			   side->engine.block[block].used, row);
}

void early_receive(struct inlet *inlet, struct iovec *piece, unsigned count)
{
	struct wh_migration *m = inlet->m;
	struct dest_side *side = m->dest;
	struct early *early;
	uint64_t offset, end;
	unsigned first, last;
	int region;

	inlet->early.early = NULL;
	if (count < 2 || __atomic_load_n(&side->armed, __ATOMIC_ACQUIRE))
		return;
	first = first_contents(m, piece, count, &region, &offset);
	if (first == count)
		return;
	last = count - 1 - (count - 1 - first) % 2;
	early = &side->early[region];
	end = offset +
	      (uint64_t)((uint8_t *)piece[last].iov_base - (uint8_t *)piece[first].iov_base) +
	      piece[last].iov_len;
	if (count + 1 >= INTAKE_PIECES && behind_row(m, early, offset))
		return;
	switch (way_of(side, early)) {
	case EARLY_TOUCH:
		if (count + 1 >= INTAKE_PIECES &&
		    side->engine.channel[CHANNEL_MAIN].row >= ROW_HUGE)
			early_touch(early, offset, end - offset);
		break;
	case EARLY_POPULATE:
		if (count + 1 >= INTAKE_PIECES &&
		    side->engine.channel[CHANNEL_MAIN].row >= ROW_LONG)
			early_populate(early, offset, end - offset);
		break;
	case EARLY_WRITE:
		if (end - offset <= ROW_BYTES)
			through_stage(&inlet->early, early, offset, piece, first, count);
		break;
	}
}

const struct early *early_pieces(struct wh_migration *m, const struct dest_block *block,
				 const struct iovec *piece, unsigned count)
{
	struct early *early = &m->dest->early[block->region - m->region];

	switch (way_of(m->dest, early)) {
	case EARLY_TOUCH:
		return NULL;
	case EARLY_WRITE:
		return early;
	case EARLY_POPULATE:
		break;
	}
	for (unsigned i = 0; i < count; i++) {
		uint64_t offset = (uint64_t)((uint8_t *)piece[i].iov_base - block->region->addr);

		if (piece[i].iov_len >= PIECE_LONG &&
		    !bits_test(block->received, offset / TARGET_PAGE))
			early_populate(early, offset, piece[i].iov_len);
	}
	return NULL;
}

int early_received(struct inlet *inlet, size_t bytes, struct wh_err *err)
{
	const struct early_row *row = &inlet->early;
	uint64_t length = 0;

	if (!row->early)
		return 0;
	for (unsigned i = 0; bytes; i++) {
		size_t here = inlet->piece[i].iov_len < bytes ? inlet->piece[i].iov_len : bytes;
		const uint8_t *at = inlet->piece[i].iov_base;

		if (at >= row->stage && at < row->stage + ROW_BYTES)
			length = (uint64_t)(at - row->stage) + here;
		bytes -= here;
	}
	return early_write(row->early, row->stage, row->offset, length, err);
}

void early_fini(struct inlet *inlet)
{
	free(inlet->early.stage);
	inlet->early = (struct early_row){ 0 };
}
