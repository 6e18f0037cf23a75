/* SPDX-License-Identifier: MIT */
#include "postcopy/source.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/trace.h"
#include "postcopy/source_internal.h"

#include <errno.h>
#include <string.h>

size_t source_bytes(void)
{
	return sizeof(struct source);
}

void source_init(struct source *source, const struct source_ops *ops, void *ctx,
		 const struct source_config *config)
{
	memset(source, 0, sizeof(*source));
	source->ops = ops;
	source->ctx = ctx;
	source->config = *config;
	/* an urgent channel is for requests, and these for postcopy */
	if (!config->postcopy)
		source->config.urgent = WH_URGENT_OFF;
	source->return_path = config->return_path || config->postcopy || config->switchover_ack;
	source->multifd.lanes = config->lanes;
	source->wake_ns = UINT64_MAX;
	source->wanted_ns = UINT64_MAX;
	source->reply_block = -1;
	source->bitmap_block = -1;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		source->channel[i].last_block = -1;
}

int source_add_block(struct source *source, const struct source_block *block, struct wh_err *err)
{
	const struct region *region = block->region;
	uint64_t pages = source_block_pages(block);

	if (source->blocks == RAM_BLOCKS_MAX)
		return err_set(err, -E2BIG, "block %s: more than %u of them", block->name.text,
			       RAM_BLOCKS_MAX);
	if (!block->name.length)
		return err_set(err, -EINVAL, "block %u: no name", source->blocks);
	if (region->page_size < TARGET_PAGE || region->page_size & (region->page_size - 1))
		return err_set(err, -EINVAL, "block %s: pages of 0x%llx bytes", block->name.text,
			       (unsigned long long)region->page_size);
	if (!region->length || region->length % region->page_size)
		return err_set(err, -EINVAL, "block %s: 0x%llx bytes in pages of 0x%llx",
			       block->name.text, (unsigned long long)region->length,
			       (unsigned long long)region->page_size);
	for (unsigned i = 0; i < source->blocks; i++) {
		const struct wire_name *name = &source->block[i].name;

		if (name->length == block->name.length &&
		    !memcmp(name->text, block->name.text, name->length))
			return err_set(err, -EEXIST, "block %s: added twice", name->text);
	}
	memset(block->dirty, 0, bits_words(pages) * sizeof(*block->dirty));
	bits_range_set(block->dirty, 0, pages);
	source->block[source->blocks++] = *block;
	source->pages_left += pages;
	return 0;
}

struct source_block *source_get_block(struct source *source, unsigned block)
{
	return &source->block[block];
}

struct source_counters *source_get_counters(struct source *source)
{
	return &source->counters;
}

enum source_phase source_get_phase(const struct source *source)
{
	return __atomic_load_n(&source->phase, __ATOMIC_ACQUIRE);
}

uint64_t source_pages_left(const struct source *source)
{
	return __atomic_load_n(&source->pages_left, __ATOMIC_ACQUIRE);
}

uint64_t source_wake_ns(const struct source *source)
{
	return source->wake_ns;
}

void source_connected(struct source *source, uint64_t now_ns)
{
	if (source->config.urgent == WH_URGENT_AT_START && source->urgent == URGENT_NONE) {
		source->urgent = URGENT_OPEN;
		source->urgent_open = true;
		source->had_urgent = true;
	}
	source->begun_ns = now_ns;
	bucket_set(&source->bucket, source->config.bandwidth, now_ns);
	meter_start(&source->meter, now_ns);
	source_move(source, SOURCE_PRECOPY, NULL);
}

void source_want_postcopy(struct source *source)
{
	__atomic_store_n(&source->want_postcopy, true, __ATOMIC_RELEASE);
}

int source_want_cancel(struct source *source)
{
	enum source_fate fate = FATE_OPEN;

	if (__atomic_compare_exchange_n(&source->fate, &fate, FATE_CANCEL, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return 0;
	return fate == FATE_CANCEL ? 0 : -EBUSY;
}

void source_move(struct source *source, enum source_phase to, const struct wh_err *err)
{
	enum source_phase from = source->phase;

	source_phase_move(&source->phase, to);
	if (source->ops->moved)
		source->ops->moved(source->ctx, from, to, err);
}

/* The guest goes on here, if it was stopped; before anybody is told of it. */
static int resume_guest(struct source *source, struct wh_err *err)
{
	int ret;

	if (!source->paused)
		return 0;
	source->paused = false;
	err->code = 0;
	ret = source->ops->resume(source->ctx, err);
	if (ret < 0 && !err->code)
		err_set(err, ret, "error %d", -ret);
	return ret;
}

static int fail(struct source *source, struct wh_err *reason)
{
	struct wh_err worse;

	if (resume_guest(source, &worse) < 0)
		err_wrap(reason, "the guest could not be resumed (%s)", worse.text);
	source_move(source, SOURCE_FAILED, reason);
	return reason->code;
}

static int cancel(struct source *source, struct wh_err *err)
{
	__atomic_store_n(&source->fate, FATE_CLOSED, __ATOMIC_RELEASE);
	if (resume_guest(source, err) < 0) {
		err_wrap(err, "cancelled, but the guest could not be resumed");
		return fail(source, err);
	}
	source_move(source, SOURCE_CANCELLED, NULL);
	return SOURCE_ENDED;
}

int source_commit(struct source *source, struct wh_err *err)
{
	enum source_fate fate = FATE_OPEN;

	if (__atomic_compare_exchange_n(&source->fate, &fate, FATE_CLOSED, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return 0;
	return cancel(source, err);
}

int source_break(struct source *source, struct wh_err *reason)
{
	switch (source->phase) {
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_SWITCHOVER:
		/* who was told that it will be cancelled is told the truth */
		if (source_commit(source, reason))
			return source->phase == SOURCE_CANCELLED ? SOURCE_ENDED : reason->code;
		return fail(source, reason);
	case SOURCE_HANDOVER:
		err_wrap(reason, "all was sent, but whether the destination took over is not "
				 "known: the guest stays stopped here, it may run there");
		source_move(source, SOURCE_UNKNOWN, reason);
		return reason->code;
	case SOURCE_POSTCOPY:
	case SOURCE_ENDING:
		err_wrap(reason, "postcopy with %llu pages left, the guest stays stopped here",
			 (unsigned long long)source_pages_left(source));
		source_move(source, SOURCE_PAUSED, reason);
		return reason->code;
	case SOURCE_RECOVER:
		err_wrap(reason, "not recovered, the guest stays stopped here");
		source_move(source, SOURCE_PAUSED, reason);
		return reason->code;
	case SOURCE_PAUSED:
	case SOURCE_DONE:
	case SOURCE_FAILED:
	case SOURCE_UNKNOWN:
	case SOURCE_CANCELLED:
	case SOURCE_PHASE_COUNT:
		break;
	}
	return SOURCE_ENDED;
}

int source_sync(struct source *source, struct wh_err *err)
{
	uint64_t pages = 0;
	int ret;

	for (unsigned i = 0; i < source->blocks; i++) {
		struct source_block *b = &source->block[i];

		ret = source->ops->dirty_sync(source->ctx, i, err);
		if (ret < 0)
			return source_said(err, ret, "dirty_sync");
		pages += bits_count(b->dirty, source_block_pages(b));
	}
	__atomic_store_n(&source->pages_left, pages, __ATOMIC_RELEASE);
	return 0;
}

int source_said(struct wh_err *err, int ret, const char *who)
{
	if (!err->code)
		err_set(err, ret, "%s: error %d", who, -ret);
	return ret;
}

int source_send(struct source *source, struct batch *batch, bool limited)
{
	if (limited)
		bucket_take(&source->bucket, batch->bytes);
	source->sending = true;
	return SOURCE_SEND;
}

int source_wait(struct source *source, uint64_t wake_ns)
{
	source->wake_ns = wake_ns;
	return SOURCE_WAIT;
}

static void set_downtime(struct source *source, uint64_t now_ns)
{
	uint64_t paused_ns = source->counters.paused_ns;

	__atomic_store_n(&source->counters.downtime_ns, now_ns > paused_ns ? now_ns - paused_ns : 0,
			 __ATOMIC_RELAXED);
}

static int done(struct source *source)
{
	source_move(source, SOURCE_DONE, NULL);
	return SOURCE_ENDED;
}

/* The destination's last word */
static int heed_shut(struct source *source, uint32_t value, uint64_t now_ns, struct wh_err *err)
{
	/* the request thread lets SHUT 0 through in HANDOVER and ENDING only */
	err_set(err, -EREMOTEIO, "the destination gave up (SHUT %u)", value);
	switch (source->phase) {
	case SOURCE_HANDOVER:
		if (value)
			return fail(source, err);
		set_downtime(source, now_ns);
		return done(source);
	case SOURCE_ENDING:
		return value ? source_break(source, err) : done(source);
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_SWITCHOVER:
	case SOURCE_POSTCOPY:
	case SOURCE_RECOVER:
		return source_break(source, err);
	case SOURCE_PAUSED:
	case SOURCE_DONE:
	case SOURCE_FAILED:
	case SOURCE_UNKNOWN:
	case SOURCE_CANCELLED:
	case SOURCE_PHASE_COUNT:
		break;
	}
	return SOURCE_ENDED;
}

/* What other threads and the destination want. Return: SOURCE_AGAIN: nothing to heed */
static int heed(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	uint64_t shut = __atomic_load_n(&source->shut, __ATOMIC_ACQUIRE);

	err->code = 0;
	if (source_over(source->phase))
		return SOURCE_ENDED;
	if (__atomic_load_n(&source->fate, __ATOMIC_ACQUIRE) == FATE_CANCEL)
		return cancel(source, err);
	return shut ? heed_shut(source, (uint32_t)shut, now_ns, err) : SOURCE_AGAIN;
}

static int step(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err)
{
	batch_reset(batch);
	switch (source->step) {
	case STEP_START:
		return source_start(source, now_ns, batch);
	case STEP_ROUND:
		return source_round(source, now_ns, batch, err);
	case STEP_LAST_PAGES:
		return source_last_pages(source, now_ns, batch, err);
	case STEP_DEVICE:
		return source_device(source, batch);
	case STEP_EOF:
		return source_eof(source, batch, err);
	case STEP_DISCARD:
		return source_discard(source, batch);
	case STEP_PACKAGE:
		return source_package(source, batch, now_ns, err);
	case STEP_BACKGROUND:
		return source_background(source, now_ns, batch);
	case STEP_ARRIVED:
		return source_arrived(source, now_ns, err);
	case STEP_END:
		return source_end(source, batch);
	case STEP_ANSWER:
		return source_answer(source, now_ns, err);
	case STEP_HELLO:
		return source_hello(source, batch, err);
	case STEP_PROOF:
		return source_proof(source, now_ns, batch, err);
	case STEP_BITMAPS:
		return source_ask_bitmaps(source, now_ns, batch, err);
	case STEP_URGENT:
		return source_reopen_urgent(source, now_ns, err);
	case STEP_RESUME:
		return source_say_resume(source, batch);
	case STEP_ACK:
		return source_await_ack(source, now_ns, err);
	}
	__builtin_unreachable();
}

int source_next(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err)
{
	struct wh_err unused;
	int ret;

	if (!err)
		err = &unused;
	ret = heed(source, now_ns, err);
	if (ret != SOURCE_AGAIN)
		return ret;
	if (source->sending || source->phase == SOURCE_SETUP)
		return source_wait(source, UINT64_MAX);
	do
		ret = step(source, now_ns, batch, err);
	while (ret == SOURCE_AGAIN);
	return ret;
}

void source_sent(struct source *source, size_t bytes, uint64_t now_ns)
{
	source->sending = false;
	source_count(&source->counters.bytes[CHANNEL_MAIN], bytes);
	if (source->phase == SOURCE_PRECOPY) {
		source->meter.bytes += bytes;
		meter_mark(&source->meter, now_ns, false);
	}
	if (source->step == STEP_ANSWER || source->step == STEP_ARRIVED ||
	    source->phase == SOURCE_RECOVER)
		source->answer_ns = now_ns;
	if (source->phase >= SOURCE_HANDOVER && source->phase != SOURCE_RECOVER &&
	    !source->counters.downtime_ns)
		set_downtime(source, now_ns);
	if (!source->urgent_open)
		source_served(source, now_ns);
}

void source_link_lost(struct source *source, enum channel channel, const struct wh_err *reason,
		      uint64_t now_ns)
{
	enum source_phase phase = source->phase;
	struct wh_err err;

	trace(link_lost, channel, reason ? reason->code : 0, phase);
	/* said before it hung up */
	if (heed(source, now_ns, &err) != SOURCE_AGAIN)
		return;
	/*
	 * Of the urgent channel only when pages may still be on it: when all is sent
	 * the destination closes it, and what was lost keeps SHUT from coming.
	 */
	if (channel == CHANNEL_URGENT && phase != SOURCE_SETUP &&
	    (source->urgent != URGENT_OPEN || phase == SOURCE_HANDOVER || phase == SOURCE_ENDING))
		return;
	if (phase == SOURCE_HANDOVER && !source->return_path && !source->sending &&
	    source_lanes_idle(source)) {
		done(source);
		return;
	}
	if (reason)
		err = *reason;
	else
		err_set(&err, -ECONNRESET, "closed by the destination");
	err_wrap(&err, "%s channel", channel == CHANNEL_MAIN ? "main" : "urgent");
	source_break(source, &err);
}
