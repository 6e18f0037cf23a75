/* SPDX-License-Identifier: MIT */
/*
 * Destination: pages that it reads from the source by itself. Whatever becomes of a read, the page's
 * bit in asked is set by then, so it is waited for in the same way as one that was requested: read it
 * is placed like a page of the urgent channel, not read it is requested, and if there is nobody to ask
 * dest_announce() finds it.
 *
 * The source does not know what was read, and sends it all the same. Which copy is placed, the bit in
 * arrived decides, as always; they are equal. So behind its last page everything has arrived, and what
 * is missing then is being placed here (dest->reading).
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/zero.h"

static void reading(struct dest *dest, bool is)
{
	__atomic_store_n(&dest->reading, is, __ATOMIC_SEQ_CST);
}

int dest_read_step(struct dest *dest, uint64_t now_ns, struct wh_err *err)
{
	int ret;

	if (!__atomic_load_n(&dest->reading, __ATOMIC_RELAXED))
		return 0;
	ret = dest_idle(dest, CHANNEL_URGENT, now_ns, err);
	if (ret < 0)
		dest_drop(dest, CHANNEL_URGENT);
	if (ret != DEST_RETRY)
		reading(dest, false);
	return ret;
}

int dest_read(struct dest *dest, unsigned block, uint64_t offset, const uint8_t *page,
	      uint64_t now_ns, struct wh_err *err)
{
	struct ram_event event = {
		.record = zero_page(page, TARGET_PAGE) ? RAM_GOT_ZERO : RAM_GOT_PAGE,
		.block = block,
		.offset = offset,
		.data = page,
	};
	int ret = dest_read_step(dest, now_ns, err);

	if (ret)
		return ret;
	/* Somebody's memory is there, though he may say nothing: he is not silent */
	count_add(&dest->counters.bytes[CHANNEL_URGENT], TARGET_PAGE);
	/* Nothing comes any more: asked for again is what is missing when it does */
	if (dest_over(dest_get_phase(dest)))
		return 0;
	/* In front of its bit in arrived, for the end */
	reading(dest, true);
	ret = dest_page(dest, CHANNEL_URGENT, &event, now_ns, err);
	if (ret == DEST_RETRY)
		return 0;
	if (ret < 0)
		dest_drop(dest, CHANNEL_URGENT);
	reading(dest, false);
	/* the link has gone since we looked */
	if (ret >= 0 || dest_over(dest_get_phase(dest)))
		return 0;
	return dest_fail_later(dest, err);
}

int dest_unread(struct dest *dest, unsigned block, uint64_t offset, struct wh_err *err)
{
	if (bits_test(dest->block[block].received, offset / TARGET_PAGE))
		return 0;
	return dest_want(dest, block, offset, false, err);
}
