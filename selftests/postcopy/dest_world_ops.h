/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_DEST_WORLD_OPS_H
#define SELFTESTS_POSTCOPY_DEST_WORLD_OPS_H

/*
 * What a world made of arrays does of what the destination engine asks for, and what it writes
 * down of it.
 */
#include "selftests/postcopy/dest_world_state.h"

static int world_block(void *ctx, const struct ram_block *line, struct dest_block *block,
		       struct wh_err *err)
{
	struct world *w = ctx;
	uint64_t page = line->page_size ? line->page_size : TARGET_PAGE;
	int at = region_named(w->region, WORLD_BLOCKS, line->name.text, line->name.length);
	size_t words;

	if (w->block_result)
		return world_refuse(w, w->block_result, err);
	if (at < 0)
		return err_set(err, -EPROTO, "there is no block '%s' here", line->name.text);
	if (line->used > w->region[at].length)
		return err_set(err, -EPROTO, "block '%s' is too large", line->name.text);
	words = bits_words(w->region[at].length / TARGET_PAGE);
	*block = (struct dest_block){
		.region = &w->region[at],
		.used = w->bad_used ? line->used + TARGET_PAGE : line->used,
		.page_size = w->region[at].page_size > page ? w->region[at].page_size : page,
		.arrived = w->bitmaps[at],
		.received = w->bitmaps[at] + words,
		.asked = w->bitmaps[at] + 2 * words,
	};
	if (w->bad_page_size)
		block->page_size = 3 * TARGET_PAGE;
	w->block_of[w->known++] = (unsigned)at;
	return 0;
}

static int world_send(void *ctx, const void *message, size_t length, struct wh_err *err)
{
	struct world *w = ctx;
	struct rp_msg msg;
	size_t used;
	int ret;

	if (w->fail_send) {
		ret = w->fail_send;
		if (w->fail_once)
			w->fail_send = 0;
		return world_refuse(w, ret, err);
	}
	ret = rp_get(message, length, &used, &msg, NULL);
	if (ret != 1 || used != length)
		abort(); /* half a message, or two */
	pthread_mutex_lock(&w->lock);
	/* That was the last message. A request of the other thread that was on its way then
	 * is what send() has to drop. */
	if (w->shut && (!w->threads || msg.kind == RP_SHUT))
		abort();
	w->shut |= msg.kind == RP_SHUT;
	w->sent[w->sents++ % WORLD_SENT] = msg;
	if (w->hear)
		w->hear(w, &msg);
	if (msg.kind == RP_SHUT)
		world_say(w, msg.shut.value ? '1' : '0');
	if (msg.kind == RP_PONG)
		world_say(w, 'P');
	pthread_mutex_unlock(&w->lock);
	return 0;
}

static int world_send_bitmap(void *ctx, const void *message, size_t length, unsigned block,
			     struct wh_err *err)
{
	struct world *w = ctx;

	w->told++;
	(void)block;
	return world_send(ctx, message, length, err);
}

static void world_resumed(void *ctx)
{
	((struct world *)ctx)->resumes++;
}

static uint8_t *world_room(void *ctx, enum channel channel, unsigned block, uint64_t offset)
{
	struct world *w = ctx;

	if (!w->armed || w->alias)
		return world_region(w, block)->addr + offset;
	return w->stage[channel] + offset % WORLD_STAGE;
}

static uint8_t *world_ahead(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			    bool owned)
{
	struct world *w = ctx;

	return w->armed && w->alias && !owned ? NULL : world_room(ctx, channel, block, offset);
}

/* Is any of it marked, so that it was removed since? */
static bool world_marked(struct world *w, unsigned block, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / TARGET_PAGE, end = (offset + length) / TARGET_PAGE;

	return bits_next_set(w->dest.block[block].received, first, end) < end;
}

/* Place host page by host page until one is there. */
static enum placed world_fill(struct world *w, enum channel channel, unsigned block,
			      uint64_t offset, uint64_t length, bool zero, uint64_t *done)
{
	const struct region *region = world_region(w, block);
	uint64_t *present = world_present(w, block);

	if (offset % region->page_size || length % region->page_size || !length ||
	    offset + length > region->length)
		abort();
	if (!zero && !w->alias && offset / WORLD_STAGE != (offset + length - 1) / WORLD_STAGE)
		abort();
	for (*done = 0; *done < length; *done += region->page_size, offset += region->page_size) {
		bool there = bits_test_set(present, offset / TARGET_PAGE);

		if (there)
			return PLACED_BEFORE;
		for (uint64_t p = 1; p < region->page_size / TARGET_PAGE; p++)
			bits_set(present, offset / TARGET_PAGE + p);
		if (zero)
			memset(region->addr + offset, 0, region->page_size);
		else if (!w->alias)
			memcpy(region->addr + offset, w->stage[channel] + offset % WORLD_STAGE,
			       region->page_size);
	}
	return PLACED_OK;
}

static enum placed world_put(struct world *w, enum channel channel, unsigned block, uint64_t offset,
			     uint64_t length, bool wake, bool zero, uint64_t *done,
			     struct wh_err *err)
{
	struct world_call *call = world_called(w, zero ? 'z' : 'p', block, offset, length);
	struct world_step step = { PLACED_OK, length };

	if (!w->armed)
		abort();
	if (w->before_put) {
		void (*once)(struct world * w) = w->before_put;

		w->before_put = NULL;
		once(w);
	}
	call->channel = channel;
	call->wake = wake;
	*done = 0;
	if (w->chaos && __atomic_add_fetch(&w->chaos_calls, 1, __ATOMIC_RELAXED) % w->chaos == 0)
		return PLACED_CHANGING;
	if (w->step_at < w->steps)
		step = w->step[w->step_at++];
	step.done -= step.done % world_region(w, block)->page_size;
	if (step.done > length || step.outcome == PLACED_OK)
		step.done = length;
	if (step.done)
		call->outcome = world_fill(w, channel, block, offset, step.done, zero, done);
	if (call->outcome == PLACED_OK)
		call->outcome = step.outcome;
	/* It says so because one is there */
	if (step.outcome == PLACED_BEFORE && *done < length)
		bits_range_set(world_present(w, block), (offset + *done) / TARGET_PAGE,
			       world_region(w, block)->page_size / TARGET_PAGE);
	if (call->outcome == PLACED_FAILED && !w->mute)
		err_set(err, -EIO, "the memory is broken");
	return call->outcome;
}

static void world_hold(void *ctx, bool hold)
{
	struct world *w = ctx;

	if (!w->removes)
		return;
	if (hold)
		pthread_mutex_lock(&w->gate);
	else
		pthread_mutex_unlock(&w->gate);
}

static enum placed world_place(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			       uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	struct world *w = ctx;
	enum placed placed = PLACED_CHANGING;

	*done = 0;
	world_hold(ctx, true);
	if (!w->removes || !world_marked(w, block, offset, length)) {
		placed = world_put(w, channel, block, offset, length, wake, false, done, err);
		if (*done && world_marked(w, block, offset, *done))
			abort(); /* marked before it was there */
	}
	world_hold(ctx, false);
	return placed;
}

static enum placed world_zero(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			      uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	enum placed placed;

	world_hold(ctx, true);
	placed = world_put(ctx, channel, block, offset, length, wake, true, done, err);
	world_hold(ctx, false);
	return placed;
}

static int world_wake(void *ctx, unsigned block, uint64_t offset, uint64_t length,
		      struct wh_err *err)
{
	struct world *w = ctx;

	if (w->fail_wake)
		return world_refuse(w, w->fail_wake, err);
	world_called(w, 'w', block, offset, length);
	return 0;
}

static int world_discard(void *ctx, unsigned block, uint64_t offset, uint64_t length,
			 struct wh_err *err)
{
	struct world *w = ctx;
	const struct region *region = world_region(w, block);

	if (w->fail_discard)
		return world_refuse(w, w->fail_discard, err);
	if (offset + length > w->dest.block[block].used || offset % region->page_size)
		abort();
	world_called(w, 'd', block, offset, length);
	if (madvise(region->addr + offset, length, MADV_DONTNEED) < 0)
		abort();
	return 0;
}

static int world_arm(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	world_say(w, 'A');
	if (w->fail_arm)
		return world_refuse(w, w->fail_arm, err);
	w->arms++;
	/* What was written is there; what was only said to be zero is not. */
	for (unsigned i = 0; i < w->dest.blocks; i++) {
		uint64_t each = world_region(w, i)->page_size / TARGET_PAGE;

		for (uint64_t at = 0; at < w->dest.block[i].used / TARGET_PAGE; at++)
			if (bits_test(w->dest.block[i].received, at) &&
			    world_region(w, i)->addr[at * TARGET_PAGE])
				bits_range_set(world_present(w, i), at - at % each, each);
	}
	w->armed = true;
	return 0;
}

static int world_disarm(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	if (w->fail_disarm)
		return world_refuse(w, w->fail_disarm, err);
	w->disarms++;
	world_say(w, 'D');
	return 0;
}

static uint8_t *world_buffer(void *ctx, size_t size, struct wh_err *err)
{
	struct world *w = ctx;
	uint8_t *more;

	if (w->fail_buffer) {
		world_refuse(w, w->fail_buffer, err);
		return NULL;
	}
	if (size > w->buffer_most)
		w->buffer_most = size;
	if (size <= w->buffer_room)
		return w->buffer;
	/* Moved each time, so that who keeps the old one is found out. */
	more = malloc(size);
	if (w->buffer_room)
		memcpy(more, w->buffer, w->buffer_room);
	free(w->buffer);
	w->buffer = more;
	w->buffer_room = size;
	return more;
}

static int world_device(void *ctx, const void *data, size_t length, enum wh_device_format format,
			struct wh_err *err)
{
	struct world *w = ctx;

	if (w->device_result < 0)
		return world_refuse(w, w->device_result, err);
	w->devices++;
	world_say(w, 'L');
	free(w->device);
	w->device = malloc(length + 1);
	if (length)
		memcpy(w->device, data, length);
	w->device_length = length;
	w->device_format = format;
	return w->device_result;
}

static int world_start(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	world_say(w, 'S');
	if (w->fail_start)
		return world_refuse(w, w->fail_start, err);
	w->starts++;
	return 0;
}

static void world_moved(void *ctx, enum dest_phase from, enum dest_phase to,
			const struct wh_err *err)
{
	struct world *w = ctx;

	if (!dest_phase_may(from, to) || dest_get_phase(&w->dest) != to)
		abort();
	if ((to == DEST_FAILED || to == DEST_PAUSED) != (err != NULL))
		abort();
	if (err && (err->code >= 0 || !err->text[0]))
		abort();
	if (err)
		w->reason = *err;
	if (w->moves < WORLD_MOVES)
		w->move[w->moves++] = to;
}

static void world_hurry(void *ctx)
{
	((struct world *)ctx)->hurries++;
}

/* Nobody knows it but the tests */
static int world_random(void *ctx, struct identity_number *number, struct wh_err *err)
{
	(void)ctx;
	(void)err;
	*number = (struct identity_number){ .high = 0x1234, .low = 0x5678 };
	return 0;
}

static void world_last_page(void *ctx)
{
	struct world *w = ctx;

	__atomic_fetch_add(&w->last_pages, 1, __ATOMIC_RELAXED);
}

static const struct dest_ops world_ops = {
	.block = world_block,
	.send = world_send,
	.send_bitmap = world_send_bitmap,
	.resumed = world_resumed,
	.room = world_room,
	.place = world_place,
	.zero = world_zero,
	.hold = world_hold,
	.ahead = world_ahead,
	.wake = world_wake,
	.discard = world_discard,
	.arm = world_arm,
	.disarm = world_disarm,
	.buffer = world_buffer,
	.device = world_device,
	.start = world_start,
	.moved = world_moved,
	.hurry = world_hurry,
	.last_page = world_last_page,
	.random = world_random,
};

#endif
