/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_DEST_OPS_H
#define SELFTESTS_SIM_DEST_OPS_H

#include "selftests/sim/break.h"
#include "selftests/sim/death.h"
#include "selftests/sim/guest.h"

/*
 * What the destination's engine asks for: memory with a page table, and a kernel that
 * refuses to place now and then.
 */

static inline int dest_op_block(void *ctx, const struct ram_block *line, struct dest_block *block,
				struct wh_err *err)
{
	struct sim *sim = ctx;
	struct sim_block *b = NULL;
	size_t words;

	for (unsigned i = 0; i < sim->blocks; i++)
		if (!strcmp(sim->block[i].dest.name, line->name.text))
			b = &sim->block[i];
	if (!b)
		return err_set(err, -EPROTO, "no block %s", line->name.text);
	words = bits_words(b->pages);
	/* what was received outlives an agent, the others do not */
	memset(b->bitmaps, 0, words * 8);
	memset(b->bitmaps + 2 * words, 0, words * 8);
	*block = (struct dest_block){
		.region = &b->dest,
		.used = line->used,
		.page_size = b->source.page_size,
		.arrived = b->bitmaps,
		.received = b->bitmaps + words,
		.asked = b->bitmaps + 2 * words,
	};
	/* without postcopy the list does not say, and it does not matter */
	if (!sim->plan.postcopy)
		block->page_size = b->dest.page_size;
	return 0;
}

/* Who sleeps for a page that is not even on its way has asked for it. */
static inline void check_asked(struct sim *sim, const struct vcpu *vcpu)
{
	const struct dest_block *block = &sim->dest.engine.block[vcpu->block];
	uint64_t first = vcpu->page - vcpu->page % (block->page_size / TARGET_PAGE);

	if (!bits_test(block->arrived, first) && !bits_test(sim->block[vcpu->block].asked, first))
		sim_fail(sim, "vcpu %u waits for page %llu of block %u, which nobody asked for",
			 vcpu->tid, (unsigned long long)vcpu->page, vcpu->block);
}

/* No page is asked for twice: the first request is answered, or the link is dead. */
static inline void dest_said(struct sim *sim, const uint8_t *message, size_t length)
{
	struct rp_msg msg;
	uint64_t page;
	size_t used;

	if (rp_get(message, length, &used, &msg, NULL) != 1 || used != length) {
		sim_fail(sim, "dest says half a message, or two");
		return;
	}
	sim_trace(sim, "dest: says %s", rp_name(msg.kind));
	if (msg.kind == RP_REQ_PAGES_ID)
		for (unsigned i = 0; i < sim->blocks; i++)
			if (!strcmp(msg.req_pages_id.block.text, sim->block[i].dest.name))
				sim->dest.asked_block = i;
	if (msg.kind != RP_REQ_PAGES_ID && msg.kind != RP_REQ_PAGES)
		return;
	page = (msg.kind == RP_REQ_PAGES ? msg.req_pages.start : msg.req_pages_id.start) /
	       TARGET_PAGE;
	if (bits_test_set(sim->block[sim->dest.asked_block].asked, page))
		sim_fail(sim, "page %llu of block %u is asked for twice", (unsigned long long)page,
			 sim->dest.asked_block);
}

static inline int dest_op_send(void *ctx, const void *message, size_t length, struct wh_err *err)
{
	struct sim *sim = ctx;
	struct pipe *pipe = &sim->pipe[PIPE_REPLY];

	/* what was decided, by the phase or by a bit, was decided before this */
	sim->others(sim);
	dest_may_die(sim);
	if (pipe->reader_gone || !pipe->open)
		return err_set(err, -EPIPE, "broken pipe");
	/* the joining has a buffer of its own: a message is taken whole */
	if (pipe->segments == PIPE_SEGMENTS)
		return err_set(err, -ENOBUFS, "the source reads nothing");
	/* a request whose page came while it was being made: as the joining does */
	if (sim->dest.shut)
		return 0;
	sim->dest.shut = get_be16(message) == RP_SHUT;
	dest_said(sim, message, length);
	pipe_write(sim, pipe, message, length);
	dest_may_die(sim);
	return 0;
}

static inline int dest_op_send_bitmap(void *ctx, const void *message, size_t length, unsigned block,
				      struct wh_err *err)
{
	struct sim *sim = ctx;
	const struct dest_block *b = &sim->dest.engine.block[block];
	struct pipe *pipe = &sim->pipe[PIPE_REPLY];
	uint8_t frame[RP_MSG_MAX + BITMAP_FRAME + SIM_PAGES_MAX / 8];

	sim->others(sim);
	memcpy(frame, message, length);
	length += bitmap_put(frame + length, b->received, b->used / TARGET_PAGE);
	sim->others(sim);
	dest_may_die(sim);
	if (pipe->reader_gone)
		return err_set(err, -EPIPE, "broken pipe");
	if (pipe->segments == PIPE_SEGMENTS)
		return err_set(err, -ENOBUFS, "the source reads nothing");
	pipe_write(sim, pipe, frame, length);
	return 0;
}

static inline void dest_op_resumed(void *ctx)
{
	struct sim *sim = ctx;

	sim->dest.announces = true;
	sim->dest.recoveries++;
}

static inline uint8_t *dest_op_room(void *ctx, enum channel channel, unsigned block,
				    uint64_t offset)
{
	struct sim *sim = ctx;

	if (!sim->dest.armed || sim->plan.alias)
		return sim->block[block].dest.addr + offset;
	return sim->dest.stage[channel] + offset % SIM_STAGE;
}

static inline uint8_t *dest_op_ahead(void *ctx, enum channel channel, unsigned block,
				     uint64_t offset, bool owned)
{
	struct sim *sim = ctx;

	if (sim->dest.armed && sim->plan.removes)
		return NULL;
	if (sim->dest.armed && sim->plan.alias && !owned)
		return NULL;
	return dest_op_room(ctx, channel, block, offset);
}

static inline bool dest_marked(const struct sim *sim, unsigned block, uint64_t offset,
			       uint64_t length)
{
	uint64_t end = (offset + length) / TARGET_PAGE;

	return bits_next_set(sim->dest.engine.block[block].received, offset / TARGET_PAGE, end) <
	       end;
}

/* Host page by host page, until one is there */
static inline enum placed dest_fill(struct sim *sim, enum channel channel, unsigned block,
				    uint64_t offset, uint64_t length, bool zero, uint64_t *done)
{
	struct sim_block *b = &sim->block[block];
	uint64_t each = b->dest.page_size;

	for (*done = 0; *done < length; *done += each, offset += each) {
		uint8_t *to = b->dest.addr + offset;

		if (page_present(sim, block, offset / TARGET_PAGE))
			return PLACED_BEFORE;
		if (zero)
			memset(to, 0, each);
		else if (!sim->plan.alias)
			memcpy(to, sim->dest.stage[channel] + offset % SIM_STAGE, each);
		if (memcmp(to, b->truth + offset, each) &&
		    !page_in_removal(sim, block, offset / TARGET_PAGE))
			sim_fail(sim, "wrong contents are placed at 0x%llx of block %u",
				 (unsigned long long)offset, block);
		bits_range_set(b->present, offset / TARGET_PAGE, each / TARGET_PAGE);
		/* waking is a part of it: the engine never asks for less */
		kernel_wake(sim, block, offset, each);
	}
	return PLACED_OK;
}

static inline enum placed dest_put(struct sim *sim, enum channel channel, unsigned block,
				   uint64_t offset, uint64_t length, bool wake, bool zero,
				   uint64_t *done)
{
	struct sim_block *b = &sim->block[block];
	uint64_t some = length;
	enum placed placed;

	*done = 0;
	if (!sim->dest.armed || sim->dest.disarmed)
		sim_fail(sim, "placing, and nothing is armed");
	if (!length || offset % b->dest.page_size || length % b->dest.page_size ||
	    offset + length > b->dest.length)
		sim_fail(sim, "placing 0x%llx+0x%llx", (unsigned long long)offset,
			 (unsigned long long)length);
	if (!wake)
		sim_fail(sim, "placing without waking: who wakes?");
	if (sim->dest.changing)
		return PLACED_CHANGING;
	if (sim->plan.chaos && sim_one_in(sim, sim->plan.chaos)) {
		some = sim_pick(sim, length / b->dest.page_size) * b->dest.page_size;
		placed = dest_fill(sim, channel, block, offset, some, zero, done);
		if (placed != PLACED_OK)
			return placed;
		return sim_one_in(sim, 4) ? PLACED_NO_MEMORY : PLACED_CHANGING;
	}
	return dest_fill(sim, channel, block, offset, length, zero, done);
}

static inline enum placed dest_op_place(void *ctx, enum channel channel, unsigned block,
					uint64_t offset, uint64_t length, bool wake, uint64_t *done,
					struct wh_err *err)
{
	struct sim *sim = ctx;
	enum placed placed;

	(void)err;
	*done = 0;
	dest_may_die(sim);
	if (dest_marked(sim, block, offset, length)) {
		if (!sim->plan.removes)
			sim_fail(sim, "marked received before it is placed: 0x%llx of block %u",
				 (unsigned long long)offset, block);
		return PLACED_CHANGING;
	}
	placed = dest_put(sim, channel, block, offset, length, wake, false, done);
	if (*done)
		dest_may_die_marking(sim, block, offset, *done);
	return placed;
}

static inline enum placed dest_op_zero(void *ctx, enum channel channel, unsigned block,
				       uint64_t offset, uint64_t length, bool wake, uint64_t *done,
				       struct wh_err *err)
{
	enum placed placed;

	(void)err;
	dest_may_die(ctx);
	placed = dest_put(ctx, channel, block, offset, length, wake, true, done);
	/* filled in for a fault on a page that is marked, or brought */
	if (*done && !dest_marked(ctx, block, offset, *done))
		dest_may_die_marking(ctx, block, offset, *done);
	return placed;
}

static inline int dest_op_wake(void *ctx, unsigned block, uint64_t offset, uint64_t length,
			       struct wh_err *err)
{
	(void)err;
	dest_may_die(ctx);
	kernel_wake(ctx, block, offset, length);
	return 0;
}

static inline int dest_op_discard(void *ctx, unsigned block, uint64_t offset, uint64_t length,
				  struct wh_err *err)
{
	struct sim *sim = ctx;
	struct sim_block *b = &sim->block[block];

	(void)err;
	dest_may_die(sim);
	if (sim->dest.armed || sim->dest_runs)
		sim_fail(sim, "discard, and it is in use");
	memset(b->dest.addr + offset, 0, length);
	return 0;
}

/*
 * What was written is there. What was said to be zero may be there, if something read
 * it, or not. What was not received must not be: nobody would ask for it.
 */
static inline void kernel_watches(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++) {
		struct sim_block *b = &sim->block[i];
		uint64_t group = b->dest.page_size / TARGET_PAGE;

		for (uint64_t page = 0; page < b->pages; page += group) {
			bool there = dest_marked(sim, i, page * TARGET_PAGE, b->dest.page_size);
			bool zero = true;

			for (uint64_t k = page; k < page + group; k++)
				zero &= page_is_zero(dest_page_at(sim, i, k));
			if (!there && !zero)
				sim_fail(sim, "page %llu of block %u is stale",
					 (unsigned long long)page, i);
			if (there && (!zero || sim_one_in(sim, 2)))
				bits_range_set(b->present, page, group);
		}
	}
	sim->dest.armed = true;
}

/* Of an engine that adopts it is armed already. */
static inline int dest_op_arm(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;
	const struct dest *engine = &sim->dest.engine;

	(void)err;
	dest_may_die(sim);
	if (!sim->dest.armed)
		kernel_watches(sim);
	sim->dest.past = (struct dest_past){ .blocks = engine->stream.blocks,
					     .ram_id = engine->stream.ram_id,
					     .id = engine->identity.id,
					     .has_id = engine->identity.known };
	sim->dest.agent = SIM_ARMED;
	kill_plan(sim);
	dest_may_die(sim);
	return 0;
}

static inline void check_all_there(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++)
		for (uint64_t page = 0; page < sim->block[i].pages; page++)
			if (!page_present(sim, i, page) && !page_in_removal(sim, i, page) &&
			    !page_is_zero(truth_page(sim, i, page)))
				sim_fail(sim, "disarmed, and page %llu of block %u is missing",
					 (unsigned long long)page, i);
}

static inline int dest_op_disarm(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	dest_may_die(sim);
	check_all_there(sim);
	/* Unregistering would wake them, and so hide that they were forgotten. */
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		if (sim->vcpu[i].state == VCPU_ASKED)
			sim_fail(sim, "disarmed, and vcpu %u still sleeps", sim->vcpu[i].tid);
	sim->dest.disarmed = true;
	kernel_wake_all(sim);
	return 0;
}

static inline uint8_t *dest_op_buffer(void *ctx, size_t size, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	if (size > sim->dest.buffer_room) {
		sim->dest.buffer_room = size;
		sim->dest.buffer = realloc(sim->dest.buffer, size);
	}
	return sim->dest.buffer;
}

static inline int dest_op_device(void *ctx, const void *data, size_t length,
				 enum wh_device_format format, struct wh_err *err)
{
	struct sim *sim = ctx;

	if (length != sim->source.device_bytes || format != sim->plan.format ||
	    (length && memcmp(data, sim->source.device, length)))
		sim_fail(sim, "device state of %zu bytes is not that of the source", length);
	dest_may_die(sim);
	if (sim->plan.device_fails)
		return err_set(err, -EINVAL, "device state is not liked");
	sim->dest.loaded = true;
	if (!sim->plan.pending)
		return 0;
	sim->dest.loaded_ns = sim->now_ns + sim_pick(sim, 5 * SIM_MS);
	return WH_PENDING;
}

static inline int dest_op_start(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	dest_may_die(sim);
	if (sim->dest.started || !sim->dest.loaded)
		sim_fail(sim, "started %s", sim->dest.started ? "twice" : "without device state");
	if (sim->source_runs)
		sim_fail(sim, "two guests: started at the destination, running at the source");
	sim->dest.started = true;
	sim->dest_runs = true;
	if (sim->dest.armed)
		return 0;
	/* precopy: everything has to be there */
	for (unsigned i = 0; i < sim->blocks; i++) {
		if (memcmp(sim->block[i].dest.addr, sim->block[i].truth,
			   sim->block[i].pages * TARGET_PAGE))
			sim_fail(sim, "started by precopy with wrong memory in block %u", i);
		bits_range_set(sim->block[i].present, 0, sim->block[i].pages);
	}
	return 0;
}

static inline void dest_op_moved(void *ctx, enum dest_phase from, enum dest_phase to,
				 const struct wh_err *err)
{
	struct sim *sim = ctx;

	sim_trace(sim, "dest: %s to %s%s%s", dest_phase_name(from), dest_phase_name(to),
		  err ? ": " : "", err ? err->text : "");
	if (to == DEST_RUNNING) {
		break_plan(sim, false);
		kill_plan(sim);
	}
	if (to == DEST_LOADING)
		kill_plan(sim);
	if (to == DEST_FAILED)
		sim->dest.agent = SIM_GIVEN_UP;
	if (from == DEST_RECOVER && to == DEST_PAUSED)
		sim->dest.handshakes_broken++;
	if (to == DEST_FAILED && sim->dest.started)
		sim_fail(sim, "dest failed after the guest was started");
	if ((to == DEST_RUNNING || to == DEST_DONE) && !sim->dest.started &&
	    sim->dest.vmm_loaded_ns == SIM_NEVER)
		sim_fail(sim, "dest %s, and the guest was not started", dest_phase_name(to));
	dest_may_die(sim);
}

static inline void dest_op_last_page(void *ctx)
{
	struct sim *sim = ctx;

	sim->dest.last_pages++;
	sim->dest.wake_ns = 0;
}

static const struct dest_ops sim_dest_ops = {
	.block = dest_op_block,
	.send = dest_op_send,
	.send_bitmap = dest_op_send_bitmap,
	.resumed = dest_op_resumed,
	.room = dest_op_room,
	.place = dest_op_place,
	.zero = dest_op_zero,
	.ahead = dest_op_ahead,
	.wake = dest_op_wake,
	.discard = dest_op_discard,
	.arm = dest_op_arm,
	.disarm = dest_op_disarm,
	.buffer = dest_op_buffer,
	.device = dest_op_device,
	.start = dest_op_start,
	.moved = dest_op_moved,
	.last_page = dest_op_last_page,
	.random = sim_number,
};

#endif /* SELFTESTS_SIM_DEST_OPS_H */
