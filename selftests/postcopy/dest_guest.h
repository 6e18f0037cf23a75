/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_DEST_GUEST_H
#define SELFTESTS_POSTCOPY_DEST_GUEST_H

/* A guest that runs in postcopy, and what has become of its pages. */
#include "selftests/postcopy/dest_bytes.h"

#define PAGES(n) ((uint64_t)(n)*TARGET_PAGE)

/* Both channels, and of three blocks not a page is here; the main one is in a PART. */
UNUSED static bool run(struct world *w)
{
	struct bytes b = { 0 };
	int ret;

	ret = dest_connected(&w->dest, CHANNEL_MAIN, NULL);
	bytes_begin(&b, true, true, ALL);
	bytes_switch(&b);
	ret |= feed(w, CHANNEL_MAIN, &b, NULL);
	ret |= dest_connected(&w->dest, CHANNEL_URGENT, NULL);
	bytes_part(&b, SECTION_PART);
	ret |= feed(w, CHANNEL_MAIN, &b, NULL);
	bytes_free(&b);
	w->calls = 0;
	w->sents = 0;
	w->orders = 0;
	memset(w->order, 0, sizeof(w->order));
	return ret == 0 && dest_get_phase(&w->dest) == DEST_RUNNING;
}

/* The end of the PART and of everything */
UNUSED static int end(struct world *w)
{
	struct bytes b = { 0 };
	int ret;

	bytes_eos(&b);
	bytes_end(&b);
	ret = feed(w, CHANNEL_MAIN, &b, NULL);
	bytes_free(&b);
	return ret;
}

/* All of a block as zeros */
UNUSED static void bytes_all_zero(struct bytes *b, unsigned block)
{
	for (uint64_t at = 0; at < world_blocks[block].used; at += TARGET_PAGE)
		bytes_zero(b, block, at);
}

UNUSED static int idle(struct world *w)
{
	return dest_idle(&w->dest, CHANNEL_MAIN, 0, NULL);
}

UNUSED static bool received(const struct world *w, unsigned block, uint64_t offset)
{
	return bits_test(w->dest.block[block].received, offset / TARGET_PAGE);
}

UNUSED static bool arrived(const struct world *w, unsigned block, uint64_t offset)
{
	return bits_test(w->dest.block[block].arrived, offset / TARGET_PAGE);
}

UNUSED static bool asked(const struct world *w, unsigned block, uint64_t offset)
{
	return bits_test(w->dest.block[block].asked, offset / TARGET_PAGE);
}

UNUSED static bool page_is(const struct world *w, unsigned block, uint64_t offset, uint8_t byte)
{
	const uint8_t *page = w->region[block].addr + offset;

	return page[0] == byte && !memcmp(page, page + 1, TARGET_PAGE - 1);
}

/* As it came over the wire, and marked */
UNUSED static bool page_came(const struct world *w, unsigned block, uint64_t offset)
{
	return received(w, block, offset) && page_is(w, block, offset, page_byte(block, offset));
}

/* Was this the call of that number? */
UNUSED static bool called(const struct world *w, unsigned number, char what, unsigned block,
			  uint64_t offset, uint64_t length)
{
	const struct world_call *call = &w->call[number];

	return number < w->calls && call->what == what && call->block == block &&
	       call->offset == offset && call->length == length;
}

#endif /* SELFTESTS_POSTCOPY_DEST_GUEST_H */
