/* SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "base/trace.h"
#include "base/zero.h"
#include "postcopy/source_internal.h"

#include <errno.h>
#include <string.h>

/*
 * Multifd: precopy whose pages go out on lanes, connections beside the main one, a packet
 * at a time on whichever has room. The main channel has the zero pages, which every QEMU
 * takes there and those before 9.0 nowhere else, and one section a round. At its end is a
 * mark, and each lane gets a SYNC for it behind the packet that is under way: the
 * destination waits for all of them before it takes what comes behind.
 *
 * Zero pages are found while a packet is filled, and wait here for the main channel.
 */

static bool is_idle(const struct source_multifd *mf)
{
	for (unsigned i = 0; i < mf->lanes; i++)
		if (mf->lane[i].sending || mf->lane[i].syncs)
			return false;
	return true;
}

bool source_lanes_idle(const struct source *source)
{
	return is_idle(&source->multifd);
}

/* Pages for one packet, all of one block, and zero pages met on the way. Return: any? */
static bool fill(struct source *source, struct source_packet *packet, uint64_t pages_max)
{
	struct source_span *span = &source->channel[CHANNEL_MAIN].span;
	struct source_multifd *mf = &source->multifd;
	struct multifd_packet *head = &packet->head;

	while (head->normal < pages_max && source_have_page(source)) {
		const struct source_block *b = &source->block[span->block];
		const uint8_t *data = b->region->addr + span->page * TARGET_PAGE;

		if (zero_page(data, TARGET_PAGE)) {
			if (mf->zeros == SOURCE_ZEROS_MAX)
				break;
			mf->zero[mf->zeros++] = (struct source_zero){ span->block, span->page };
			source_count(&source->counters.pages_zero, 1);
		} else {
			if (head->normal && span->block != packet->block)
				break;
			packet->block = span->block;
			head->offset[head->normal] = span->page * TARGET_PAGE;
			packet->page[head->normal++] =
				(struct iovec){ (void *)(uintptr_t)data, TARGET_PAGE };
			source_count(&source->counters.pages_normal, 1);
			trace(page_send, span->block, span->page, CHANNEL_MAIN);
		}
		span->page++;
	}
	if (head->normal)
		head->block = source->block[packet->block].name;
	return head->normal;
}

bool source_lane_next(struct source *source, unsigned at, uint64_t now_ns,
		      struct source_packet *packet)
{
	struct source_multifd *mf = &source->multifd;
	struct source_lane *lane = &mf->lane[at];
	size_t bytes_max = BATCH_BYTES;
	uint64_t pages_max;

	if (lane->sending || source_over(source->phase))
		return false;
	memset(&packet->head, 0, sizeof(packet->head));
	if (lane->syncs) {
		/* what is dirty now belongs behind the mark */
		packet->head.sync = true;
		lane->syncs--;
	} else {
		if ((source->step != STEP_ROUND && source->step != STEP_LAST_PAGES) ||
		    !source->start_sent)
			return false;
		if (source->step == STEP_ROUND && bucket_wait(&source->bucket, now_ns, &bytes_max))
			return false;
		pages_max = bytes_max / TARGET_PAGE;
		if (pages_max > MULTIFD_PAGES)
			pages_max = MULTIFD_PAGES;
		if (!fill(source, packet, pages_max ? pages_max : 1))
			return false;
		mf->unmarked = true;
	}
	packet->head.number = mf->number++;
	packet->head.bytes = packet->head.normal * (uint32_t)TARGET_PAGE;
	bucket_take(&source->bucket, packet->head.bytes);
	source->round_bytes += packet->head.bytes;
	lane->taken = packet->head.bytes;
	lane->sending = true;
	return true;
}

void source_lane_sent(struct source *source, unsigned at, size_t bytes, uint64_t now_ns)
{
	struct source_lane *lane = &source->multifd.lane[at];

	lane->sending = false;
	source_count(&source->counters.bytes[CHANNEL_MAIN], bytes);
	/* compressed it was fewer than were taken */
	if (source->bucket.rate)
		source->bucket.bytes += (int64_t)lane->taken - (int64_t)bytes;
	if (source->phase == SOURCE_PRECOPY) {
		source->meter.bytes += bytes;
		meter_mark(&source->meter, now_ns, false);
	}
}

void source_lane_lost(struct source *source, unsigned at, const struct wh_err *reason)
{
	struct wh_err err = *reason;

	/* What was sent or not, the destination says it on the main channel */
	if (source->phase == SOURCE_HANDOVER || source_over(source->phase))
		return;
	err_wrap(&err, "multifd channel %u", at);
	source_break(source, &err);
}

static void open_section(struct source *source, struct batch *batch, enum section_type type)
{
	struct source_multifd *mf = &source->multifd;

	if (!mf->section)
		batch_part(batch, type);
	mf->section = true;
}

/* Zero pages that wait, as many as there is room for */
static void put_zeros(struct source *source, struct batch *batch)
{
	struct source_channel *c = &source->channel[CHANNEL_MAIN];
	struct source_multifd *mf = &source->multifd;
	unsigned put = 0;

	for (; put < mf->zeros && batch_room(batch, 1, 2 * (size_t)RAM_RECORD_MAX); put++) {
		const struct source_zero *zero = &mf->zero[put];
		const struct wire_name *name = &source->block[zero->block].name;

		if (c->last_block == (int)zero->block)
			name = NULL;
		batch_commit(batch,
			     ram_put_zero(batch_arena(batch), zero->page * TARGET_PAGE, name));
		c->last_block = (int)zero->block;
		trace(page_send, zero->block, zero->page, CHANNEL_MAIN);
	}
	memmove(mf->zero, mf->zero + put, (mf->zeros - put) * sizeof(*mf->zero));
	mf->zeros -= put;
}

void source_part_end(struct source *source, struct batch *batch, bool mark)
{
	struct source_multifd *mf = &source->multifd;

	for (unsigned i = 0; mark && i < mf->lanes; i++)
		mf->lane[i].syncs++;
	if (mark && mf->lanes && !source->config.lanes_by_section)
		batch_commit(batch, ram_put_flush(batch_arena(batch)));
	mf->section = mf->unmarked = false;
	batch_part_end(batch);
}

/*
 * A destination that waits for more lanes than there are takes nothing and says nothing: until
 * its first PONG it is not waited for longer than for any other answer.
 */
static int await_lanes(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	uint64_t silent_ns = source->config.dead_peer_ns;

	if (!silent_ns || !source->return_path || __atomic_load_n(&source->pong, __ATOMIC_ACQUIRE))
		return source_wait(source, UINT64_MAX);
	if (now_ns - source->begun_ns < silent_ns)
		return source_wait(source, source->begun_ns + silent_ns);
	err_set(err, -ETIMEDOUT,
		"the destination has not begun for %llu ms: is it to have %u multifd channels?",
		(unsigned long long)(silent_ns / 1000000), source->multifd.lanes);
	return source_break(source, err);
}

int source_lanes_pages(struct source *source, uint64_t now_ns, struct batch *batch,
		       struct wh_err *err)
{
	struct source_multifd *mf = &source->multifd;
	bool last = source->step == STEP_LAST_PAGES;

	if (mf->zeros) {
		open_section(source, batch, last ? SECTION_END : SECTION_PART);
		put_zeros(source, batch);
	}
	if (!mf->zeros && !source_have_page(source)) {
		/* ram's END is what the last ones are in, and has its own mark */
		if (last && !batch->count)
			return SOURCE_AGAIN;
		if (!last && (mf->section || mf->unmarked)) {
			open_section(source, batch, SECTION_PART);
			source_part_end(source, batch, true);
		} else if (!last) {
			return SOURCE_AGAIN;
		}
	}
	if (!batch->count)
		return await_lanes(source, now_ns, err);
	source->round_bytes += batch->bytes;
	return source_send(source, batch, !last);
}

void source_lanes_end(struct source *source, struct batch *batch)
{
	open_section(source, batch, SECTION_END);
	source_part_end(source, batch, true);
}
