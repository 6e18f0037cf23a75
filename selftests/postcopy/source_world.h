/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_SOURCE_WORLD_H
#define SELFTESTS_POSTCOPY_SOURCE_WORLD_H

/*
 * A world for the source engine: a guest of a few pages, a link that takes so and so
 * many bytes a second of a scripted clock, and a destination that believes every byte
 * (source_model.h). What the engine asked for is counted.
 */
#include "base/err.h"
#include "selftests/postcopy/source_model.h"
#include "wire/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORLD_S UINT64_C(1000000000)
#define WORLD_MS UINT64_C(1000000)

struct world {
	struct source *source;
	struct source_config config;
	unsigned blocks;
	struct region region[WORLD_BLOCKS];
	uint64_t *dirty[WORLD_BLOCKS];
	uint64_t *written[WORLD_BLOCKS]; /* since the last sync */
	uint64_t now_ns;
	uint64_t bytes_per_s; /* 0: no time passes */

	const void *device;
	size_t device_bytes;
	enum wh_device_format device_format;
	int pause_ret, resume_ret, device_ret, sync_ret, open_ret;
	bool open_answers; /* open_urgent() calls source_urgent_opened() itself */
	bool mute;	   /* PING_ARRIVED is not answered by itself */

	bool paused;
	unsigned pauses, resumes, opens, syncs, rounds, asks, serves, moves;
	enum source_phase phase;
	struct wh_err reason;
	void (*on_round)(struct world *w);

	struct batch *batch;
	struct batch *urgent;
	struct tape tape[CHANNEL_COUNT];
	struct model model;
	struct wh_err err;
};

struct world_block {
	const char *name;
	uint64_t pages;
	uint64_t page_size;
};

/* The guest */

static inline uint8_t *world_page(const struct world *w, unsigned block, uint64_t page)
{
	return w->region[block].addr + page * TARGET_PAGE;
}

static inline uint64_t world_pages(const struct world *w, unsigned block)
{
	return w->region[block].length / TARGET_PAGE;
}

static inline void world_write(struct world *w, unsigned block, uint64_t page, uint8_t value)
{
	memset(world_page(w, block, page), value, TARGET_PAGE);
	bits_set(w->written[block], page);
}

/* What the engine asks for */

static inline int world_sync(void *ctx, unsigned block, struct wh_err *err)
{
	struct world *w = ctx;

	w->syncs++;
	if (w->sync_ret)
		return err_set(err, w->sync_ret, "no log of writes");
	for (size_t i = 0; i < bits_words(world_pages(w, block)); i++) {
		__atomic_fetch_or(&w->dirty[block][i], w->written[block][i], __ATOMIC_RELAXED);
		w->written[block][i] = 0;
	}
	return 0;
}

static inline int world_pause(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	(void)err; /* says nothing: the engine has to */
	w->pauses++;
	w->paused = !w->pause_ret;
	return w->pause_ret;
}

static inline int world_resume(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	(void)err;
	w->resumes++;
	w->paused = w->resume_ret;
	return w->resume_ret;
}

static inline int world_device(void *ctx, const void **data, size_t *length,
			       enum wh_device_format *format, struct wh_err *err)
{
	struct world *w = ctx;

	*data = w->device;
	*length = w->device_bytes;
	*format = w->device_format;
	return w->device_ret ? err_set(err, w->device_ret, "no device state") : 0;
}

static inline int world_open(void *ctx, struct wh_err *err)
{
	struct world *w = ctx;

	w->opens++;
	if (w->open_ret)
		return err_set(err, w->open_ret, "no urgent channel");
	if (w->open_answers)
		source_urgent_opened(w->source, 0);
	return 0;
}

static inline void world_moved(void *ctx, enum source_phase from, enum source_phase to,
			       const struct wh_err *err)
{
	struct world *w = ctx;

	(void)from;
	w->moves++;
	w->phase = to;
	w->reason = err ? *err : (struct wh_err){ 0 };
}

static inline void world_asked(void *ctx)
{
	((struct world *)ctx)->asks++;
}

static inline void world_serve(void *ctx)
{
	((struct world *)ctx)->serves++;
}

static inline void world_round(void *ctx, uint64_t round, uint64_t bytes, uint64_t dirty_pages)
{
	struct world *w = ctx;

	(void)bytes;
	(void)dirty_pages;
	w->rounds = (unsigned)round;
	if (w->on_round)
		w->on_round(w);
}

static const struct source_ops world_ops = {
	.dirty_sync = world_sync,
	.pause = world_pause,
	.resume = world_resume,
	.device = world_device,
	.open_urgent = world_open,
	.moved = world_moved,
	.asked = world_asked,
	.round = world_round,
	.serve = world_serve,
};

static inline void world_init(struct world *w, const struct source_config *config,
			      const struct world_block *blocks, unsigned count)
{
	static const uint8_t state[1000] = "device state";

	memset(w, 0, sizeof(*w));
	w->config = *config;
	w->now_ns = 1000 * WORLD_S;
	w->bytes_per_s = 1 << 30;
	w->device = state;
	w->device_bytes = sizeof(state);
	if (!config->machine.length)
		wire_name_set(&w->config.machine, "pc-q35-7.2");
	w->source = malloc(source_bytes());
	w->batch = malloc(sizeof(*w->batch));
	w->urgent = malloc(sizeof(*w->urgent));
	source_init(w->source, &world_ops, w, &w->config);
	stream_in_init(&w->model.in, false);
	ram_in_init(&w->model.urgent, true);
	for (unsigned i = 0; i < count; i++) {
		uint64_t bytes = blocks[i].pages * TARGET_PAGE;
		size_t words = bits_words(blocks[i].pages);
		struct source_block block = { .region = &w->region[i] };
		struct region *region = &w->region[i];

		snprintf(region->name, sizeof(region->name), "%s", blocks[i].name);
		region->addr = aligned_alloc(TARGET_PAGE, bytes);
		memset(region->addr, 0, bytes);
		region->length = bytes;
		region->page_size = blocks[i].page_size;
		w->dirty[i] = calloc(words, 8);
		w->written[i] = calloc(words, 8);
		w->model.copy[i] = malloc(bytes);
		memset(w->model.copy[i], 0xee, bytes);
		w->model.came[i] = calloc(blocks[i].pages, sizeof(unsigned));
		w->model.discarded[i] = calloc(words, 8);
		block.dirty = w->dirty[i];
		wire_name_set(&block.name, blocks[i].name);
		if (source_add_block(w->source, &block, &w->err) < 0)
			abort();
	}
	w->blocks = count;
	w->model.region = w->region;
	w->model.blocks = count;
}

static inline void world_fini(struct world *w)
{
	for (unsigned i = 0; i < w->blocks; i++) {
		free(w->region[i].addr);
		free(w->dirty[i]);
		free(w->written[i]);
		free(w->model.copy[i]);
		free(w->model.came[i]);
		free(w->model.discarded[i]);
	}
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		free(w->tape[i].bytes);
	free(w->model.package.bytes);
	free(w->model.device.bytes);
	free(w->batch);
	free(w->urgent);
	free(w->source);
}

/* The link */

static inline void world_carry(struct world *w, enum channel channel, const struct batch *batch)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < batch->count; i++) {
		tape_add(&w->tape[channel], batch->iov[i].iov_base, batch->iov[i].iov_len);
		bytes += batch->iov[i].iov_len;
	}
	if (bytes != batch->bytes || !bytes)
		abort();
	if (w->bytes_per_s)
		w->now_ns += (uint64_t)((double)bytes * 1e9 / (double)w->bytes_per_s);
	if (channel == CHANNEL_MAIN)
		model_take_main(&w->model, &w->tape[channel]);
	else
		model_take_urgent(&w->model, &w->tape[channel]);
}

/* Only asks; the batch, if there is one, is under way afterwards. */
static inline int world_ask(struct world *w)
{
	return source_next(w->source, w->now_ns, w->batch, &w->err);
}

static inline int world_pong(struct world *w, uint32_t value);

/* Is it asked behind this whether all has arrived? */
static inline bool world_asks_arrived(const struct batch *batch)
{
	static const uint8_t ping[] = { 8, 0, CMD_PING, 0, 4, 0, 0, 0, PING_ARRIVED };
	const struct iovec *last = &batch->iov[batch->count - 1];

	return last->iov_len >= sizeof(ping) &&
	       !memcmp((const uint8_t *)last->iov_base + last->iov_len - sizeof(ping), ping,
		       sizeof(ping));
}

static inline void world_deliver(struct world *w)
{
	bool asked = world_asks_arrived(w->batch);

	world_carry(w, CHANNEL_MAIN, w->batch);
	source_sent(w->source, w->batch->bytes, w->now_ns);
	if (asked && !w->mute && world_pong(w, PING_ARRIVED) < 0)
		abort();
}

/* One batch, or waiting for what the engine waits for. */
static inline int world_step(struct world *w)
{
	int todo = world_ask(w);

	if (todo == SOURCE_SEND)
		world_deliver(w);
	else if (todo == SOURCE_WAIT && source_wake_ns(w->source) != UINT64_MAX &&
		 source_wake_ns(w->source) > w->now_ns)
		w->now_ns = source_wake_ns(w->source);
	return todo;
}

/* Until it neither sends nor waits for a time. */
static inline int world_run(struct world *w)
{
	int todo;

	do
		todo = world_step(w);
	while (todo == SOURCE_SEND ||
	       (todo == SOURCE_WAIT && source_wake_ns(w->source) != UINT64_MAX));
	return todo;
}

/* Until this phase, or until nothing more can happen. Return: is it there? */
static inline bool world_run_to(struct world *w, enum source_phase phase)
{
	while (source_get_phase(w->source) != phase) {
		int todo = world_step(w);

		if (todo < 0 || todo == SOURCE_ENDED ||
		    (todo == SOURCE_WAIT && source_wake_ns(w->source) == UINT64_MAX))
			break;
	}
	return source_get_phase(w->source) == phase;
}

static inline bool world_step_urgent(struct world *w)
{
	if (!source_urgent(w->source, w->urgent))
		return false;
	world_carry(w, CHANNEL_URGENT, w->urgent);
	source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
	return true;
}

/* The return path */

static inline int world_input(struct world *w, const void *bytes, size_t length, size_t *used)
{
	return source_input(w->source, bytes, length, used, w->now_ns, &w->err);
}

static inline int world_say(struct world *w, const struct rp_msg *msg)
{
	uint8_t buf[RP_MSG_MAX];
	size_t used, length = rp_put(buf, msg);
	int ret = world_input(w, buf, length, &used);

	if (!ret && used != length)
		return -EAGAIN;
	return ret;
}

static inline int world_shut(struct world *w, uint32_t value)
{
	return world_say(w, &(struct rp_msg){ .kind = RP_SHUT, .shut = { value } });
}

static inline int world_pong(struct world *w, uint32_t value)
{
	return world_say(w, &(struct rp_msg){ .kind = RP_PONG, .pong = { value } });
}

static inline int world_request(struct world *w, unsigned block, uint64_t page, uint64_t pages)
{
	struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };

	msg.req_pages_id.start = page * TARGET_PAGE;
	msg.req_pages_id.length = (uint32_t)(pages * TARGET_PAGE);
	wire_name_set(&msg.req_pages_id.block, w->region[block].name);
	return world_say(w, &msg);
}

/* Is the destination's memory the guest's? */
static inline bool world_equal(const struct world *w)
{
	for (unsigned i = 0; i < w->blocks; i++)
		if (memcmp(w->region[i].addr, w->model.copy[i], w->region[i].length))
			return false;
	return true;
}

/* How often the commonest (most) or the rarest page came since the package. */
static inline unsigned world_came(const struct world *w, bool most)
{
	unsigned came = w->model.came[0][0];

	for (unsigned i = 0; i < w->blocks; i++)
		for (uint64_t page = 0; page < world_pages(w, i); page++)
			if (most ? w->model.came[i][page] > came : w->model.came[i][page] < came)
				came = w->model.came[i][page];
	return came;
}

/* Every page something of its own, but for every fifth, which is zero. */
static inline void world_scribble(struct world *w)
{
	for (unsigned i = 0; i < w->blocks; i++)
		for (uint64_t page = 0; page < world_pages(w, i); page++)
			if (page % 5)
				memset(world_page(w, i, page), (int)(page % 250 + i + 1),
				       TARGET_PAGE);
}

#endif /* SELFTESTS_POSTCOPY_SOURCE_WORLD_H */
