/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/trace.h"
#include "base/zero.h"
#include "postcopy/source_internal.h"

/*
 * Whoever clears a page's dirty bit sends it. In precopy the bit is cleared before
 * the contents are looked at: what the guest writes after that comes back with the
 * next dirty_sync(), so a page may go out torn but never stays so. In postcopy the
 * guest does not run here, and a host page is one thing: its first bit decides.
 */
bool source_claim(struct source *source, enum channel channel, unsigned block, uint64_t page)
{
	struct source_block *b = &source->block[block];
	enum source_phase phase = source_get_phase(source);
	uint64_t group = 1, first;

	if (phase == SOURCE_POSTCOPY || phase == SOURCE_ENDING)
		group = b->region->page_size / TARGET_PAGE;
	first = page - page % group;
	if (!bits_test_clear(b->dirty, first))
		return false;
	if (group > 1)
		bits_range_clear(b->dirty, first + 1, group - 1);
	source->channel[channel].span = (struct source_span){ block, first, first + group };
	return true;
}

static void put_page(struct source *source, enum channel channel, struct batch *batch,
		     unsigned block, uint64_t page)
{
	struct source_channel *c = &source->channel[channel];
	struct source_block *b = &source->block[block];
	const struct wire_name *name = c->last_block == (int)block ? NULL : &b->name;
	const uint8_t *data = b->region->addr + page * TARGET_PAGE;

	if (zero_page(data, TARGET_PAGE)) {
		batch_commit(batch, ram_put_zero(batch_arena(batch), page * TARGET_PAGE, name));
		source_count(&source->counters.pages_zero, 1);
	} else {
		batch_commit(batch, ram_put_page(batch_arena(batch), page * TARGET_PAGE, name));
		batch_point(batch, data, TARGET_PAGE);
		source_count(&source->counters.pages_normal, 1);
	}
	c->last_block = (int)block;
	trace(page_send, block, page, channel);
}

/*
 * A record needs two pieces at most, and on the main channel the section has to be
 * closed behind it. 512 records with nothing around them just fit: a host page of
 * 2 MiB is one batch of the urgent channel.
 */
static bool has_room(enum channel channel, const struct batch *batch)
{
	return channel == CHANNEL_MAIN ? batch_room(batch, 3, RAM_RECORD_MAX + PART_TAIL) :
					 batch_room(batch, 2, RAM_RECORD_MAX);
}

bool source_put_span(struct source *source, enum channel channel, struct batch *batch)
{
	struct source_span *span = &source->channel[channel].span;

	while (span->page < span->end) {
		if (!has_room(channel, batch))
			return false;
		put_page(source, channel, batch, span->block, span->page++);
	}
	return true;
}

void source_rewind(struct source *source)
{
	source->cursor_block = 0;
	source->cursor_page = 0;
}

/* The next dirty page from the cursor on, taken. Return: is there one? */
static bool next_page(struct source *source)
{
	while (source->cursor_block < source->blocks) {
		struct source_block *b = &source->block[source->cursor_block];
		uint64_t pages = source_block_pages(b), page;

		page = bits_next_set(b->dirty, source->cursor_page, pages);
		if (page == pages) {
			source->cursor_block++;
			source->cursor_page = 0;
			continue;
		}
		/* taken meanwhile, or half of a host page that just is: not ours */
		if (!source_claim(source, CHANNEL_MAIN, source->cursor_block, page)) {
			source->cursor_page = page + 1;
			continue;
		}
		source->cursor_page = source->channel[CHANNEL_MAIN].span.end;
		return true;
	}
	return false;
}

bool source_have_page(struct source *source)
{
	const struct source_span *span = &source->channel[CHANNEL_MAIN].span;

	if (span->page < span->end)
		return true;
	if (!next_page(source))
		return false;
	__atomic_fetch_sub(&source->pages_left, span->end - span->page, __ATOMIC_RELAXED);
	return true;
}

uint64_t source_fill(struct source *source, struct batch *batch, const struct source_fill *fill)
{
	struct source_span *span = &source->channel[CHANNEL_MAIN].span;
	uint64_t put = 0;

	/* one page whatever the limit: a batch with none would mean that there is none left */
	while ((!put || batch->bytes < fill->bytes_max) && put < fill->pages_max &&
	       has_room(CHANNEL_MAIN, batch) && source_have_page(source)) {
		put_page(source, CHANNEL_MAIN, batch, span->block, span->page++);
		put++;
	}
	return put;
}
