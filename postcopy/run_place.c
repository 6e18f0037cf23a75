/* SPDX-License-Identifier: MIT */
/*
 * Joining: the destination engine's view of the world: memory by uffd/, callbacks
 * of the VMM, messages by run_reply.c.
 */
#include "base/bits.h"
#include "postcopy/run_dest.h"
#include "uffd/abi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int run_place_open(struct wh_migration *m, struct wh_err *err)
{
	uint64_t wanted = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE;
	struct dest_side *side = m->dest;
	int ret;

	if (!m->config.postcopy)
		return 0;
	if (m->config.removes)
		wanted |= UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
	if (m->handover) {
		side->uffd = m->handover->uffd;
		m->handover->uffd.fd = -1;
	} else {
		ret = uffd_open(&side->uffd, wanted, true, err);
		if (ret < 0)
			return ret;
	}
	side->uffd_open = true;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		ret = stage_init(&side->stage[i], STAGE_BYTES, err);
		if (ret < 0)
			return ret;
		m->own_bytes += STAGE_BYTES;
	}
	m->own_bytes += STAGE_BYTES; /* the main channel's second one */
	ret = stage_init(&side->cached, STAGE_CACHED, err);
	if (ret < 0)
		return ret;
	m->own_bytes += STAGE_CACHED;
	ret = stage_init(&side->page, TARGET_PAGE, err);
	if (ret < 0)
		return ret;
	m->own_bytes += TARGET_PAGE;
	return 0;
}

void run_place_end(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	struct wh_err err = { 0 };

	for (unsigned i = 0; i < side->engine.blocks; i++)
		if (side->placer_up[i] && placer_restore(&side->placer[i], &err) < 0)
			run_log(m, WH_LOG_WARNING, "%s", err.text);
	/* Not later: a thread of the guest may wait in it for an event to be read */
	if (side->uffd_open)
		uffd_close(&side->uffd);
	side->uffd_open = false;
}

/*
 * While anything is armed and not complete the descriptor stays open for ever: closed,
 * the pages that are missing would read as zeros and the guest would go on with them.
 */
void run_place_close(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	bool watched = side->armed && dest_get_phase(&side->engine) != DEST_DONE;

	ahead_stop(m);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		if (side->stage[i].memory)
			stage_fini(&side->stage[i]);
	if (side->cached.memory)
		stage_fini(&side->cached);
	if (side->page.memory)
		stage_fini(&side->page);
	for (unsigned i = 0; i < RAM_BLOCKS_MAX; i++) {
		if (side->placer_up[i] && watched)
			placer_abandon(&side->placer[i]);
		else if (side->placer_up[i])
			placer_fini(&side->placer[i]);
		side->placer_up[i] = false;
	}
	if (side->uffd_open && !watched)
		uffd_close(&side->uffd);
	side->uffd_open = false;
}

static struct dest_side *side_of(void *ctx)
{
	return ((struct wh_migration *)ctx)->dest;
}

static int find_region(struct wh_migration *m, const struct ram_block *line, uint64_t page_size,
		       struct wh_err *err)
{
	struct wh_block more = { .fd = -1, .page_size = page_size, .length = line->used };
	int at = region_named(m->region, m->regions, line->name.text, line->name.length);
	int ret;

	if (at >= 0)
		return at;
	if (!m->cb.block)
		return err_set(err, -EPROTO, "block list: there is no block '%s' here",
			       line->name.text);
	more.name = line->name.text;
	ret = m->cb.block(m->config.opaque, line->name.text, line->used, page_size, &more, err);
	if (ret < 0)
		return err && err->text[0] ? ret : err_sys(err, ret, "block '%s'", line->name.text);
	more.name = line->name.text;
	ret = run_add_region(m, &more, err);
	return ret < 0 ? ret : (int)m->regions - 1;
}

static int op_block(void *ctx, const struct ram_block *line, struct dest_block *block,
		    struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;
	uint64_t page = line->page_size ? line->page_size : TARGET_PAGE;
	size_t bytes;
	int at, ret;

	if (page < TARGET_PAGE || page & (page - 1) || page > STAGE_BYTES)
		return err_set(err, -EPROTO,
			       "block '%s': host pages of %llu bytes are not supported",
			       line->name.text, (unsigned long long)page);
	at = find_region(m, line, page, err);
	if (at < 0)
		return at;
	if (line->used > m->region[at].length)
		return err_set(err, -EPROTO, "block '%s': %llu bytes are to come, it has %llu here",
			       line->name.text, (unsigned long long)line->used,
			       (unsigned long long)m->region[at].length);
	if (page < m->region[at].page_size)
		page = m->region[at].page_size;
	if (line->used % page)
		return err_set(err, -EPROTO,
			       "block '%s': %llu bytes are no multiple of its host page",
			       line->name.text, (unsigned long long)line->used);
	*block = (struct dest_block){
		.region = &m->region[at],
		.used = line->used,
		.page_size = page,
	};
	bytes = bits_words(line->used / TARGET_PAGE) * sizeof(uint64_t);
	block->arrived = calloc(1, bytes);
	block->received = m->handover ? agent_state_received(&m->handover->state, (unsigned)at) :
					calloc(1, bytes);
	block->asked = calloc(1, bytes);
	__atomic_fetch_add(&m->own_bytes, 3 * bytes, __ATOMIC_RELAXED);
	if (!block->arrived || !block->received || !block->asked) {
		ret = err_set(err, -ENOMEM, "block '%s': no memory for its bitmaps",
			      line->name.text);
		goto out_free;
	}
	if (m->config.postcopy) {
		/* Blocks are filled in one after another: this one is the next. */
		ret = placer_init(&side->placer[side->engine.blocks], &m->region[at], &side->uffd,
				  err);
		if (ret < 0)
			goto out_free;
		side->placer_up[side->engine.blocks] = true;
		block->piece = placer_piece(&side->placer[side->engine.blocks], page);
	}
	early_block(m, (unsigned)at,
		    m->config.postcopy ? &side->placer[side->engine.blocks] : NULL);
	if (m->handover)
		agent_state_note(&m->handover->state, (unsigned)at, side->engine.blocks, line);
	return 0;

out_free:
	free(block->arrived);
	if (!m->handover)
		free(block->received);
	free(block->asked);
	block->arrived = block->received = block->asked = NULL;
	return ret;
}

static struct stage *stage_of(struct dest_side *side, enum channel channel, unsigned block)
{
	if (channel == CHANNEL_URGENT && side->engine.block[block].page_size == TARGET_PAGE)
		return &side->page;
	if (channel == CHANNEL_MAIN && side->engine.block[block].piece == STAGE_CACHED)
		return &side->cached;
	return &side->stage[channel];
}

static uint8_t *op_room(void *ctx, enum channel channel, unsigned block, uint64_t offset)
{
	struct dest_side *side = side_of(ctx);

	if (!__atomic_load_n(&side->armed, __ATOMIC_ACQUIRE))
		return side->engine.block[block].region->addr + offset;
	if (channel == CHANNEL_MAIN)
		ahead_follow(ctx, block, offset);
	return placer_room(&side->placer[block], stage_of(side, channel, block), offset);
}

static void op_hold(void *ctx, bool hold)
{
	struct wh_migration *m = ctx;

	if (!m->config.removes)
		return;
	if (hold)
		pthread_mutex_lock(&m->dest->gate);
	else
		pthread_mutex_unlock(&m->dest->gate);
}

/* Has the guest dropped any of these pages since the engine looked? Gate held. */
static bool removed_since(struct dest_side *side, unsigned block, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / TARGET_PAGE;
	uint64_t end = (offset + length) / TARGET_PAGE;

	return bits_next_set(side->engine.block[block].received, first, end) < end;
}

/*
 * PLACED_CHANGING sends the engine back to look at its bits again, which is just what
 * a removed page in the run needs.
 */
static enum placed op_place(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			    uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;
	struct stage *stage = stage_of(side, channel, block);
	enum placed placed = PLACED_CHANGING;

	*done = 0;
	if (!m->config.removes)
		return placer_place(&side->placer[block], stage, offset, length, wake, done, err);
	pthread_mutex_lock(&side->gate);
	if (!removed_since(side, block, offset, length))
		placed = placer_place(&side->placer[block], stage, offset, length, wake, done, err);
	pthread_mutex_unlock(&side->gate);
	return placed;
}

static enum placed op_zero(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			   uint64_t length, bool wake, uint64_t *done, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;
	enum placed placed = PLACED_CHANGING;

	*done = 0;
	op_hold(ctx, true);
	/*
	 * The thread that reads events places zeros where the guest has removed a page and
	 * then touched it. What the guest has written since must not be cleared by the other.
	 */
	if (!m->config.removes || channel == CHANNEL_URGENT ||
	    !removed_since(side, block, offset, length))
		placed = placer_zero(&side->placer[block], stage_of(side, channel, block), offset,
				     length, wake, done, err);
	op_hold(ctx, false);
	return placed;
}

/* Where only this channel's thread places, or nobody yet: not in a mapping of the file */
static uint8_t *op_ahead(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			 bool owned)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;
	struct stage *stage = stage_of(side, channel, block);

	if (!__atomic_load_n(&side->armed, __ATOMIC_ACQUIRE))
		return side->engine.block[block].region->addr + offset;
	if (m->config.removes)
		return NULL;
	if (channel == CHANNEL_MAIN)
		ahead_follow(m, block, offset);
	if (owned)
		return placer_room(&side->placer[block], stage, offset);
	return placer_room_apart(&side->placer[block], stage, offset);
}

static bool op_read(void *ctx, unsigned block, uint64_t offset)
{
	return reads_page(ctx, block, offset);
}

static int op_wake(void *ctx, unsigned block, uint64_t offset, uint64_t length, struct wh_err *err)
{
	return placer_wake(&side_of(ctx)->placer[block], offset, length, err);
}

static int op_discard(void *ctx, unsigned block, uint64_t offset, uint64_t length,
		      struct wh_err *err)
{
	struct dest_side *side = side_of(ctx);

	/* The switch: what is dropped stays missing. Before that, all is dropped and comes anew. */
	if (dest_get_phase(&side->engine) == DEST_DISCARD)
		return placer_hide(&side->placer[block], offset, length, err);
	return placer_discard(&side->placer[block], offset, length, err);
}

static int op_arm(void *ctx, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;

	__atomic_store_n(&side->armed, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < side->engine.blocks; i++) {
		int ret = placer_arm(&side->placer[i], err);

		if (ret < 0)
			return ret;
	}
	if (m->handover) {
		agent_state_keep(&m->handover->state, side->engine.stream.ram_id,
				 &side->engine.identity);
		agent_state_set(&m->handover->state, AGENT_STAGE_ARMED);
	}
	pthread_mutex_lock(&m->post_lock);
	m->post.armed = true;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->fault);
	ahead_start(m);
	return 0;
}

static int op_disarm(void *ctx, struct wh_err *err)
{
	struct dest_side *side = side_of(ctx);
	int ret = 0;

	ahead_stop(ctx);
	/*
	 * Not while zeros are placed. A page that was removed before it had come may be cleared
	 * through the second mapping, where it is the guest's as soon as it is disarmed.
	 */
	op_hold(ctx, true);
	for (unsigned i = 0; i < side->engine.blocks && ret == 0; i++)
		ret = placer_disarm(&side->placer[i], err);
	op_hold(ctx, false);
	return ret;
}

static uint8_t *op_buffer(void *ctx, size_t size, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct dest_side *side = m->dest;
	size_t room = side->device_room ? side->device_room : 65536;
	uint8_t *more;

	if (size <= side->device_room)
		return side->device;
	while (room < size)
		room *= 2;
	more = realloc(side->device, room);
	if (!more) {
		err_set(err, -ENOMEM, "device state: no memory for %zu bytes", room);
		return NULL;
	}
	__atomic_fetch_add(&m->own_bytes, room - side->device_room, __ATOMIC_RELAXED);
	side->device = more;
	side->device_room = room;
	return more;
}

static int op_device(void *ctx, const void *data, size_t length, enum wh_device_format format,
		     struct wh_err *err)
{
	struct wh_migration *m = ctx;
	int ret;

	if (!m->cb.device_load)
		return 0;
	ret = m->cb.device_load(m->config.opaque, data, length, format, err);
	if (ret < 0 && err && !err->text[0])
		return err_sys(err, ret, "device state: loading %zu bytes", length);
	return ret;
}

static int op_start(void *ctx, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	int ret;

	bridge_fence(m);
	ret = m->cb.start ? m->cb.start(m->config.opaque, err) : 0;

	if (ret < 0 && err && !err->text[0])
		return err_sys(err, ret, "starting the guest");
	return ret;
}

static void op_moved(void *ctx, enum dest_phase from, enum dest_phase to, const struct wh_err *err)
{
	enum wh_phase before = dest_phase_public(from);
	enum wh_phase phase = dest_phase_public(to);
	struct wh_migration *m = ctx;

	/* Nothing is allocated behind what is dropped from here on, nor behind the guest's back */
	if (m->dest->ahead.early && to != DEST_PRECOPY && to != DEST_ADVISED)
		ahead_stop(m);
	if (m->handover && to == DEST_FAILED)
		agent_state_set(&m->handover->state, AGENT_STAGE_GIVEN_UP);
	if (before != phase || err)
		run_moved(m, phase, err);
}

static void op_last_page(void *ctx)
{
	loop_wake(((struct wh_migration *)ctx)->bulk);
}

static int op_hook(void *ctx, struct wh_err *err)
{
	return bridge_hook(ctx, err);
}

static void op_unhook(void *ctx)
{
	bridge_unhook(ctx);
}

static void op_hurry(void *ctx)
{
	loop_wake(((struct wh_migration *)ctx)->bulk);
}

static int op_send(void *ctx, const void *message, size_t length, struct wh_err *err)
{
	return reply_send(ctx, message, length, err);
}

static int op_send_bitmap(void *ctx, const void *message, size_t length, unsigned block,
			  struct wh_err *err)
{
	return reply_send_bitmap(ctx, message, length, &side_of(ctx)->engine.block[block], err);
}

static void op_resumed(void *ctx)
{
	struct wh_migration *m = ctx;

	/* silence counts from here on */
	m->dest->heard_ns = 0;
	pthread_mutex_lock(&m->post_lock);
	m->post.announce = true;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->fault);
}

const struct dest_ops run_dest_ops = {
	.block = op_block,
	.send = op_send,
	.send_bitmap = op_send_bitmap,
	.resumed = op_resumed,
	.room = op_room,
	.place = op_place,
	.zero = op_zero,
	.hold = op_hold,
	.ahead = op_ahead,
	.read = op_read,
	.wake = op_wake,
	.discard = op_discard,
	.arm = op_arm,
	.disarm = op_disarm,
	.buffer = op_buffer,
	.device = op_device,
	.start = op_start,
	.moved = op_moved,
	.hurry = op_hurry,
	.hook = op_hook,
	.unhook = op_unhook,
	.last_page = op_last_page,
	.random = run_random,
};
