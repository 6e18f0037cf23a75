/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/err.h"
#include "postcopy/source_internal.h"
#include "wire/device.h"

#include <errno.h>
#include <string.h>

/*
 * The switch, one way or the other. The guest is paused; device state is taken first,
 * since taking it may still write guest memory, then the last pages are counted.
 *
 *	precopy		PART ..., END, device sections | EOF, description
 *	postcopy	DISCARD ... | WHERRY_ID, PING 2, PACKAGED{...}, PING 4
 *
 * Left of the bar everything can be undone by resuming the guest. What is right of it
 * makes the destination start, and it is one batch: once that is handed out nobody here
 * knows how much of it has arrived. A destination that is a QEMU starts at the EOF byte,
 * even where the description behind it gets lost.
 */

bool source_urgent_settled(struct source *source, uint64_t now_ns)
{
	const struct source_config *config = &source->config;

	if (config->urgent != WH_URGENT_AT_SWITCH || source->urgent == URGENT_OPEN ||
	    source->urgent == URGENT_GIVEN_UP)
		return true;
	if (config->dead_peer_ns && now_ns - source->wanted_ns >= config->dead_peer_ns) {
		source->urgent = URGENT_GIVEN_UP;
		return true;
	}
	/* a destination that has answered once is one that knows its main channel */
	if (source->urgent == URGENT_NONE && __atomic_load_n(&source->pong, __ATOMIC_ACQUIRE)) {
		source->urgent = URGENT_OPENING;
		/* the reason it gives is not ours to tell: it goes on without */
		if (source->ops->open_urgent(source->ctx, NULL) < 0)
			source->urgent = URGENT_GIVEN_UP;
	}
	return source->urgent == URGENT_OPEN || source->urgent == URGENT_GIVEN_UP;
}

bool source_peer_settled(const struct source *source, uint64_t now_ns)
{
	uint64_t silent_ns = source->config.dead_peer_ns;

	return !source->ops->random ||
	       __atomic_load_n(&source->peer, __ATOMIC_ACQUIRE) != PEER_UNKNOWN ||
	       (silent_ns && now_ns - source->wanted_ns >= silent_ns);
}

void source_urgent_opened(struct source *source, int result)
{
	bool again = source->phase == SOURCE_RECOVER && source->urgent == URGENT_OPENING;
	bool before = source->phase == SOURCE_SETUP || source->phase == SOURCE_PRECOPY;

	/* too late: the taker of requests is settled */
	if ((!before && !again) || source->urgent == URGENT_GIVEN_UP ||
	    source->config.urgent == WH_URGENT_OFF)
		return;
	if (result >= 0)
		source->urgent = URGENT_OPEN;
	else
		source->urgent = again ? URGENT_REFUSED : URGENT_GIVEN_UP;
	source->had_urgent |= result >= 0;
	__atomic_store_n(&source->urgent_open, result >= 0, __ATOMIC_RELEASE);
}

static int take_device(struct source *source, struct wh_err *err)
{
	const size_t frame = 4 * (size_t)DEVICE_OWN_FRAME; /* more than a package has around it */
	int ret;

	ret = source->ops->device(source->ctx, &source->device, &source->device_bytes,
				  &source->device_format, err);
	if (ret < 0)
		return source_said(err, ret, "device state");
	if (source->device_bytes > UINT32_MAX - frame)
		return err_set(err, -EFBIG, "device state: %zu bytes, the format has room for %zu",
			       source->device_bytes, UINT32_MAX - frame);
	return 0;
}

static int pause_guest(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	int ret;

	ret = source->ops->pause(source->ctx, err);
	if (ret < 0)
		return source_said(err, ret, "pausing the guest");
	source->paused = true;
	__atomic_store_n(&source->counters.paused_ns, now_ns, __ATOMIC_RELAXED);
	ret = take_device(source, err);
	if (ret < 0)
		return ret;
	return source_sync(source, err);
}

/* A host page with any dirty page in it is dirty altogether: it is discarded as a whole. */
static void widen(struct source *source)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < source->blocks; i++) {
		struct source_block *b = &source->block[i];
		uint64_t group = b->region->page_size / TARGET_PAGE;

		if (group > 1)
			bits_range_widen(b->dirty, source_block_pages(b), group);
		pages += bits_count(b->dirty, source_block_pages(b));
	}
	__atomic_store_n(&source->pages_left, pages, __ATOMIC_RELEASE);
}

int source_switch(struct source *source, bool postcopy, uint64_t now_ns, struct wh_err *err)
{
	source_move(source, SOURCE_SWITCHOVER, NULL);
	if (pause_guest(source, now_ns, err) < 0)
		return source_break(source, err);
	if (postcopy)
		widen(source);
	source_rewind(source);
	source->step = postcopy ? STEP_DISCARD : STEP_LAST_PAGES;
	return SOURCE_AGAIN;
}

int source_last_pages(struct source *source, uint64_t now_ns, struct batch *batch,
		      struct wh_err *err)
{
	const struct source_fill all = { .bytes_max = BATCH_BYTES, .pages_max = UINT64_MAX };

	if (source->multifd.lanes) {
		int ret = source_lanes_pages(source, now_ns, batch, err);

		if (ret == SOURCE_AGAIN)
			source->step = STEP_DEVICE;
		return ret;
	}
	if (source->config.beside) {
		int ret = source_beside_pages(source, now_ns, SIZE_MAX, batch);

		if (ret == SOURCE_AGAIN)
			source->step = STEP_DEVICE;
		return ret;
	}
	batch_part(batch, SECTION_PART);
	if (!source_fill(source, batch, &all)) {
		source->step = STEP_DEVICE;
		return SOURCE_AGAIN;
	}
	batch_part_end(batch);
	return source_send(source, batch, false);
}

/* The VMM's bytes go out from where they are; a frame around them if they have none. */
static void put_device(struct source *source, struct batch *batch)
{
	bool own = source->device_format == WH_DEVICE_OWN;

	if (own)
		batch_commit(batch, device_put_own_head(batch_arena(batch), SECTION_DEVICE_ID,
							(uint32_t)source->device_bytes));
	batch_point(batch, source->device, source->device_bytes);
	if (own)
		batch_commit(batch, device_put_own_tail(batch_arena(batch), SECTION_DEVICE_ID));
}

static size_t device_frame(const struct source *source)
{
	uint8_t scratch[DEVICE_OWN_FRAME];

	if (source->device_format != WH_DEVICE_OWN)
		return 0;
	return device_put_own_head(scratch, SECTION_DEVICE_ID, 0) +
	       device_put_own_tail(scratch, SECTION_DEVICE_ID);
}

int source_device(struct source *source, struct batch *batch)
{
	source_lanes_end(source, batch);
	put_device(source, batch);
	source->step = STEP_EOF;
	return source_send(source, batch, false);
}

int source_eof(struct source *source, struct batch *batch, struct wh_err *err)
{
	uint8_t json[256] = "{}";
	size_t length = 2;
	int ret;

	ret = source_commit(source, err);
	if (ret)
		return ret;
	if (source->device_format == WH_DEVICE_OWN)
		length = device_put_own_vmdesc(json, (uint32_t)source->device_bytes);
	batch_commit(batch, stream_put_eof(batch_arena(batch)));
	batch_commit(batch, stream_put_vmdesc(batch_arena(batch), (uint32_t)length));
	memcpy(batch_arena(batch), json, length);
	batch_commit(batch, length);
	source_move(source, SOURCE_HANDOVER, NULL);
	source->step = STEP_ANSWER;
	return source_send(source, batch, false);
}

/* The next dirty ranges of one block, as many as a command holds. */
static unsigned next_ranges(struct source *source, struct wire_range *ranges)
{
	struct source_block *b = &source->block[source->cursor_block];
	uint64_t pages = source_block_pages(b);
	unsigned count = 0;

	while (count < CMD_DISCARD_RANGES) {
		uint64_t page = bits_next_set(b->dirty, source->cursor_page, pages);
		uint64_t end = bits_next_clear(b->dirty, page, pages);

		if (page == pages)
			break;
		ranges[count].start = page * TARGET_PAGE;
		ranges[count].length = (end - page) * TARGET_PAGE;
		count++;
		source->cursor_page = end;
	}
	return count;
}

int source_discard(struct source *source, struct batch *batch)
{
	struct wire_range ranges[CMD_DISCARD_RANGES];

	while (source->cursor_block < source->blocks) {
		struct cmd_msg msg = { .kind = CMD_POSTCOPY_RAM_DISCARD };

		if (!batch_room(batch, 1, CMD_PUT_MAX))
			return source_send(source, batch, false);
		msg.discard.count = next_ranges(source, ranges);
		if (!msg.discard.count) {
			source->cursor_block++;
			source->cursor_page = 0;
			continue;
		}
		msg.discard.block = source->block[source->cursor_block].name;
		batch_command(batch, &msg, ranges);
	}
	source_rewind(source);
	source->step = STEP_PACKAGE;
	return batch->count ? source_send(source, batch, false) : SOURCE_AGAIN;
}

/* In front of what makes the destination start: one that runs the guest has the id. */
static int put_id(struct source *source, struct batch *batch, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_ID };
	struct identity *identity = &source->identity;
	int ret;

	if (!source->ops->random || __atomic_load_n(&source->peer, __ATOMIC_ACQUIRE) != PEER_OURS)
		return 0;
	ret = source->ops->random(source->ctx, &identity->id, err);
	if (ret < 0)
		return source_said(err, ret, "a random number");
	identity->known = true;
	msg.wherry_id.high = identity->id.high;
	msg.wherry_id.low = identity->id.low;
	batch_command(batch, &msg, NULL);
	return 0;
}

int source_package(struct source *source, struct batch *batch, uint64_t now_ns, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_PACKAGED };
	int ret;

	if (put_id(source, batch, err) < 0)
		return source_break(source, err);
	ret = source_commit(source, err);
	if (ret)
		return ret;
	/* LISTEN, PING 3 and RUN */
	msg.packaged.length = (uint32_t)(CMD_HEADER + device_frame(source) + source->device_bytes +
					 CMD_HEADER + 4 + CMD_HEADER);
	batch_ping(batch, 2);
	batch_command(batch, &msg, NULL);
	batch_bare_command(batch, CMD_POSTCOPY_LISTEN);
	put_device(source, batch);
	batch_ping(batch, 3);
	batch_bare_command(batch, CMD_POSTCOPY_RUN);
	batch_ping(batch, 4);
	source_move(source, SOURCE_POSTCOPY, NULL);
	/* blocks are named anew, and what was sent before counts against the other limit */
	source->channel[CHANNEL_MAIN].last_block = -1;
	bucket_set(&source->bucket, source->config.postcopy_bandwidth, now_ns);
	source->step = STEP_BACKGROUND;
	return source_send(source, batch, false);
}
