/* SPDX-License-Identifier: MIT */
/*
 * Destination: where pages go before they have come, so that a link can receive them
 * there.
 *
 * A source sends what it has in order, so behind a row of neighbours the next neighbour is
 * a good guess. A wrong one costs a copy, and must cost nothing else: contents are only
 * expected in memory whose own contents do not count. Before arming that is a page
 * which has not come yet (written in vain it is cleared again, since one that is never
 * sent reads as zeros). Afterwards it is a stage behind the pages that lie in it, or the
 * file's page under a host page that this channel has begun and nobody else will place.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"

#include <string.h>

#define ROW_LEAST 8u

void dest_row(struct dest_channel *c, const struct ram_event *event)
{
	bool page = event->record == RAM_GOT_PAGE;

	if (page && c->row && event->block == c->row_block &&
	    event->offset == c->row_offset + TARGET_PAGE)
		c->row++;
	else
		c->row = page;
	c->row_block = event->block;
	c->row_offset = event->offset;
}

static enum ram_in_at next_unit(const struct dest *dest, enum channel channel)
{
	return channel == CHANNEL_MAIN ? stream_in_at(&dest->stream) :
					 ram_in_at(&dest->channel[channel].urgent);
}

static const struct ram_in *records(const struct dest *dest, enum channel channel)
{
	return channel == CHANNEL_MAIN ? &dest->stream.ram : &dest->channel[channel].urgent;
}

/* Whoever comes behind the run goes on with it, or has to wait until it is placed. */
static bool behind_run(const struct dest_run *run, unsigned block, uint64_t offset, uint64_t bytes)
{
	return !run->length ||
	       (!run->zero && run->block == block && run->offset + run->length == offset &&
		run->offset / bytes == offset / bytes);
}

/* The page that is next on this channel; NULL: its contents cannot be received in place */
static uint8_t *place_next(struct dest *dest, enum channel channel, unsigned block, uint64_t offset)
{
	const struct dest_channel *c = &dest->channel[channel];
	const struct dest_block *b = &dest->block[block];
	enum dest_phase phase = dest_get_phase(dest);
	bool owned;

	if (!dest->ops->ahead || c->holding)
		return NULL;
	if (!dest_armed(phase)) {
		if (phase != DEST_PRECOPY && phase != DEST_ADVISED)
			return NULL;
		return dest->ops->ahead(dest->ctx, channel, block, offset, true);
	}
	owned = c->inside && !c->before && c->next_block == block && c->next_offset == offset;
	if (!owned &&
	    (c->inside || offset % b->page_size || bits_test(b->arrived, offset / TARGET_PAGE)))
		return NULL;
	if (!behind_run(&c->run, block, offset, run_bytes(b, channel)))
		return NULL;
	return dest->ops->ahead(dest->ctx, channel, block, offset, owned);
}

/* Behind one at @from that place_next() has found room for; all up to @at come in a row */
static uint8_t *place_later(struct dest *dest, enum channel channel, unsigned block, uint64_t from,
			    uint64_t at)
{
	const struct dest_channel *c = &dest->channel[channel];
	const struct dest_block *b = &dest->block[block];
	uint64_t first = at - at % b->page_size;
	bool owned;

	if (!dest_armed(dest_get_phase(dest))) {
		if (bits_test(b->received, at / TARGET_PAGE))
			return NULL;
		return dest->ops->ahead(dest->ctx, channel, block, at, true);
	}
	if (from / run_bytes(b, channel) != at / run_bytes(b, channel))
		return NULL;
	owned = c->inside && first == from - from % b->page_size;
	if (!owned && bits_test(b->arrived, first / TARGET_PAGE))
		return NULL;
	return dest->ops->ahead(dest->ctx, channel, block, at, owned);
}

unsigned dest_expect(struct dest *dest, enum channel channel, struct dest_ahead *ahead)
{
	const struct ram_in *in = records(dest, channel);
	enum ram_in_at next = next_unit(dest, channel);
	struct dest_channel *c = &dest->channel[channel];
	uint64_t from = in->offset, used;
	unsigned most = c->row < DEST_AHEAD_MAX ? c->row : DEST_AHEAD_MAX;

	ahead->count = 0;
	ahead->begun = next == RAM_IN_AT_CONTENTS;
	if (next == RAM_IN_AT_OTHER || c->row < ROW_LEAST || in->block >= dest->blocks)
		return 0;
	/*
	 * One page is received with its head at a time, and copied: to look whether there is more
	 * where as much has come as there was room for costs more.
	 */
	if (run_bytes(&dest->block[in->block], channel) == TARGET_PAGE)
		return 0;
	used = dest->block[in->block].used;
	if (!ahead->begun)
		from += TARGET_PAGE;
	for (uint64_t at = from; ahead->count < most && at < used; at += TARGET_PAGE) {
		uint8_t *place;

		if (at == from && !ahead->begun && !dest_armed(dest_get_phase(dest)) &&
		    bits_test(dest->block[in->block].received, at / TARGET_PAGE))
			break; /* another page's contents must not come over it */
		place = at == from ? place_next(dest, channel, in->block, at) :
				     place_later(dest, channel, in->block, from, at);
		if (!place)
			break;
		ahead->at[ahead->count++] = place;
	}
	return ahead->count;
}

uint8_t *dest_contents(struct dest *dest, enum channel channel)
{
	const struct ram_in *in = records(dest, channel);

	if (next_unit(dest, channel) != RAM_IN_AT_CONTENTS || in->block >= dest->blocks)
		return NULL;
	return place_next(dest, channel, in->block, in->offset);
}

void dest_unexpected(struct dest *dest, enum channel channel, const struct dest_ahead *ahead,
		     unsigned first, unsigned end)
{
	/* The end of a section, or a zero page, which ends the row by itself */
	if (next_unit(dest, channel) != RAM_IN_AT_OTHER)
		dest->channel[channel].row = 0;
	if (dest_armed(dest_get_phase(dest)))
		return;
	for (; first < end; first++)
		memset(ahead->at[first], 0, TARGET_PAGE);
}
