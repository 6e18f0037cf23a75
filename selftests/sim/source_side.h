/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_SOURCE_SIDE_H
#define SELFTESTS_SIM_SOURCE_SIDE_H

#include "selftests/sim/break.h"
#include "selftests/sim/death.h"
#include "selftests/sim/guest.h"

/*
 * The source: what the engine asks for, and what a joining does for it. Each
 * source_does_...() is one thing that a thread or the kernel might do next; it returns
 * whether there was anything to do.
 */

static inline int source_op_sync(void *ctx, unsigned block, struct wh_err *err)
{
	struct sim *sim = ctx;
	struct sim_block *b = &sim->block[block];

	(void)err;
	source_may_die(sim);
	if (source_get_phase(sim->source.engine) >= SOURCE_HANDOVER)
		sim_fail(sim, "dirty_sync() in phase %s",
			 source_phase_name(source_get_phase(sim->source.engine)));
	for (size_t i = 0; i < bits_words(b->pages); i++) {
		b->dirty[i] |= b->written[i];
		b->written[i] = 0;
	}
	return 0;
}

static inline int source_op_pause(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;

	source_may_die(sim);
	if (!sim->source_runs)
		sim_fail(sim, "paused twice");
	if (sim->plan.pause_fails)
		return err_set(err, -EIO, "it does not want to stop");
	sim->source_runs = false;
	return 0;
}

static inline int source_op_resume(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	if (sim->source_runs)
		sim_fail(sim, "resumed, and it ran");
	source_may_die(sim);
	if (sim->dest_runs || sim->dest.started)
		sim_fail(sim, "two guests: resumed at the source, running at the destination");
	sim->source_runs = true;
	return 0;
}

/* Taking it stops devices, and these write back what they were about to. */
static inline int source_op_device(void *ctx, const void **data, size_t *length,
				   enum wh_device_format *format, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	source_may_die(sim);
	if (sim->source_runs)
		sim_fail(sim, "device state of a running guest");
	for (uint64_t i = sim_pick(sim, 4); i; i--)
		guest_write_at_source(sim);
	*data = sim->source.device;
	*length = sim->source.device_bytes;
	*format = sim->plan.format;
	return 0;
}

static inline int source_op_open(void *ctx, struct wh_err *err)
{
	struct sim *sim = ctx;

	if ((sim->plan.urgent_fails || sim->source.recoveries) && sim_one_in(sim, 4))
		return err_set(err, -ECONNREFUSED, "nobody there");
	sim->source.dial_ns = sim->now_ns + sim_pick(sim, SIM_MS);
	return 0;
}

static inline void source_op_moved(void *ctx, enum source_phase from, enum source_phase to,
				   const struct wh_err *err)
{
	struct sim *sim = ctx;
	bool reason = to == SOURCE_FAILED || to == SOURCE_PAUSED || to == SOURCE_UNKNOWN;

	sim_trace(sim, "source: %s to %s%s%s", source_phase_name(from), source_phase_name(to),
		  err ? ": " : "", err ? err->text : "");
	if (reason != (err && err->code < 0 && err->text[0]))
		sim_fail(sim, "source %s %s a reason", source_phase_name(to),
			 reason ? "without" : "with");
	/* where the package gets lost there is nothing to recover: not too often */
	if (to == SOURCE_RECOVER || (to == SOURCE_POSTCOPY && sim_one_in(sim, 8)))
		break_plan(sim, to == SOURCE_RECOVER);
	if ((to == SOURCE_FAILED || to == SOURCE_CANCELLED) && !sim->source_runs)
		sim_fail(sim, "source %s, and the guest is not running", source_phase_name(to));
	if (from == SOURCE_RECOVER && to == SOURCE_POSTCOPY)
		sim->source.recoveries++;
	if (to >= SOURCE_HANDOVER && to <= SOURCE_DONE && sim->source_runs)
		sim_fail(sim, "source %s, and the guest runs", source_phase_name(to));
	source_may_die(sim);
}

static inline void source_op_asked(void *ctx)
{
	struct sim *sim = ctx;

	sim->source.called = true;
}

static inline void source_op_serve(void *ctx)
{
	struct sim *sim = ctx;

	sim->source.urgent_called = true;
}

static const struct source_ops sim_source_ops = {
	.dirty_sync = source_op_sync,
	.pause = source_op_pause,
	.resume = source_op_resume,
	.device = source_op_device,
	.open_urgent = source_op_open,
	.moved = source_op_moved,
	.asked = source_op_asked,
	.serve = source_op_serve,
	.random = sim_number,
};

static inline bool source_is_over(const struct sim *sim)
{
	return sim->source.dead || source_over(source_get_phase(sim->source.engine));
}

static inline void source_tell_lost(struct sim *sim, enum channel channel, const char *how)
{
	struct wh_err err;

	if (sim->source.told[channel])
		return;
	sim->source.told[channel] = true;
	err_set(&err, -ECONNRESET, "%s", how);
	sim_trace(sim, "source: %s channel lost: %s", channel ? "urgent" : "main", how);
	source_link_lost(sim->source.engine, channel, &err, sim->now_ns);
}

/* The bulk thread: the next batch, if the one before is with the kernel */
static inline bool source_does_next(struct sim *sim)
{
	struct sending *out = &sim->source.sending[CHANNEL_MAIN];
	struct wh_err err = { 0 };
	int todo;

	if (source_is_over(sim) || (out->under_way && !sim->source.called))
		return false;
	if (sim->source.wake_ns > sim->now_ns && !sim->source.called)
		return false;
	sim->source.called = false;
	todo = source_next(sim->source.engine, sim->now_ns, out->batch, &err);
	if (todo < 0 && !err.text[0])
		sim_fail(sim, "source_next() fails without a sentence");
	if (out->under_way && todo == SOURCE_SEND)
		sim_fail(sim, "a second batch");
	if (todo == SOURCE_SEND) {
		if (!out->batch->bytes)
			sim_fail(sim, "an empty batch");
		sim_trace(sim, "source: batch of %zu bytes", out->batch->bytes);
		out->under_way = true;
		out->sent = 0;
		return true;
	}
	sim->source.wake_ns = todo == SOURCE_WAIT ? source_wake_ns(sim->source.engine) : SIM_NEVER;
	return todo != SOURCE_WAIT;
}

/* Some of a batch into the socket's buffer. Return: 1 some, 0 none, -1 it is gone */
static inline int source_push(struct sim *sim, enum channel channel)
{
	struct sending *out = &sim->source.sending[channel];
	struct pipe *pipe = &sim->pipe[channel == CHANNEL_MAIN ? PIPE_MAIN : PIPE_URGENT];
	size_t most, skip = out->sent, space;

	if (pipe->reader_gone)
		return -1;
	space = pipe_space(pipe);
	most = 1 + sim_pick(sim, sim->plan.bite);
	if (!space)
		return 0;
	if (most > space)
		most = space;
	for (unsigned i = 0; i < out->batch->count && most && pipe_space(pipe); i++) {
		const struct iovec *iov = &out->batch->iov[i];
		size_t length;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		length = iov->iov_len - skip < most ? iov->iov_len - skip : most;
		pipe_write(sim, pipe, (const uint8_t *)iov->iov_base + skip, length);
		out->sent += length;
		most -= length;
		skip = 0;
	}
	return 1;
}

static inline bool source_does_push(struct sim *sim)
{
	struct sending *out = &sim->source.sending[CHANNEL_MAIN];
	int pushed;

	if (!out->under_way || sim->source.told[CHANNEL_MAIN] || source_is_over(sim))
		return false;
	pushed = source_push(sim, CHANNEL_MAIN);
	if (pushed < 0) {
		source_tell_lost(sim, CHANNEL_MAIN, "broken pipe");
		return true;
	}
	if (pushed && out->sent == out->batch->bytes) {
		out->under_way = false;
		sim->source.called = true;
		source_sent(sim->source.engine, out->sent, sim->now_ns);
	}
	return pushed;
}

/* The request thread: the urgent channel */
static inline bool source_does_urgent(struct sim *sim)
{
	struct sending *out = &sim->source.sending[CHANNEL_URGENT];
	int pushed;

	if (!sim->pipe[PIPE_URGENT].open || sim->source.told[CHANNEL_URGENT] || sim->source.closed)
		return false;
	if (!out->under_way) {
		if (!sim->source.urgent_called)
			return false;
		sim->source.urgent_called = false;
		out->under_way = source_urgent(sim->source.engine, out->batch);
		out->sent = 0;
		return out->under_way;
	}
	pushed = source_push(sim, CHANNEL_URGENT);
	if (pushed < 0) {
		source_tell_lost(sim, CHANNEL_URGENT, "broken pipe");
		return true;
	}
	if (pushed && out->sent == out->batch->bytes) {
		out->under_way = false;
		sim->source.urgent_called = true;
		source_urgent_sent(sim->source.engine, out->sent, sim->now_ns);
	}
	return pushed;
}

/* The request thread: the return path, a few bytes of it */
static inline bool source_does_reply(struct sim *sim)
{
	struct sim_source *source = &sim->source;
	struct pipe *pipe = &sim->pipe[PIPE_REPLY];
	size_t ready = pipe_ready(sim, pipe), take, used;
	struct wh_err err = { 0 };

	if (source->closed || source->broken_input || source->told[CHANNEL_MAIN])
		return false;
	if (!ready) {
		if (!pipe_ended(pipe))
			return false;
		source_tell_lost(sim, CHANNEL_MAIN, "closed");
		return true;
	}
	take = 1 + sim_pick(sim, ready < 64 ? ready : 64);
	if (take > ready)
		take = ready;
	if (source->reply_have + take > 4096)
		take = 0; /* it takes no more just now */
	pipe_read(pipe, source->reply + source->reply_have, take);
	source->reply_have += take;
	if (source_input(source->engine, source->reply, source->reply_have, &used, sim->now_ns,
			 &err) < 0) {
		sim_fail(sim, "the source refuses what the destination said: %s", err.text);
		return true;
	}
	source->reply_have -= used;
	memmove(source->reply, source->reply + used, source->reply_have);
	source->urgent_called = true;
	return take || used;
}

/* The urgent channel comes up, or does not */
static inline bool source_does_dial(struct sim *sim)
{
	struct sim_source *source = &sim->source;

	if (source->dial_ns > sim->now_ns)
		return false;
	source->dial_ns = SIM_NEVER;
	source->called = true;
	if (sim->plan.urgent_fails || sim->dead || sim->dest.dead || sim->dest.orphan ||
	    (sim->source.recoveries && sim_one_in(sim, 8)) || source_is_over(sim)) {
		source_urgent_opened(source->engine, -ECONNREFUSED);
		return true;
	}
	pipe_open(&sim->pipe[PIPE_URGENT], 1 + sim_pick(sim, 200000),
		  sim->pipe[PIPE_MAIN].delay_ns);
	source->called = true;
	source->urgent_called = true;
	source_urgent_opened(source->engine, 0);
	return true;
}

/* It has ended: everything is closed, and what the kernel has still goes out. */
static inline bool source_does_close(struct sim *sim)
{
	if (!source_is_over(sim) || sim->source.closed)
		return false;
	sim->source.closed = true;
	sim->pipe[PIPE_MAIN].writer_gone = true;
	sim->pipe[PIPE_URGENT].writer_gone = true;
	sim->pipe[PIPE_REPLY].reader_gone = true;
	sim_trace(sim, "source: closed");
	return true;
}

/* Somebody has told it to resume: another connection, or two, and another link */
static inline bool source_does_redial(struct sim *sim)
{
	struct sim_source *source = &sim->source;
	bool urgent = !sim_one_in(sim, 8);

	if (!sim->dest.listening || !source->closed || source->dead ||
	    source_get_phase(source->engine) != SOURCE_PAUSED)
		return false;
	sim->dest.listening = false;
	sim->dead = false;
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		pipe_reset(&sim->pipe[i]);
	pipes_open(sim, urgent);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		source->sending[i].under_way = false;
		source->told[i] = false;
	}
	source->reply_have = 0;
	source->dial_ns = SIM_NEVER;
	source->wake_ns = 0;
	source->called = source->urgent_called = source->closed = false;
	sim_trace(sim, "source: resumes");
	source_reconnected(source->engine, urgent, sim->now_ns);
	return true;
}

static inline void source_side_begin(struct sim *sim)
{
	const struct sim_plan *plan = &sim->plan;
	struct source_config config = {
		.postcopy = plan->postcopy,
		.return_path = plan->return_path,
		.urgent = plan->urgent,
		.bandwidth = plan->bandwidth,
		.postcopy_bandwidth = plan->postcopy_bandwidth,
		.downtime_ns = plan->downtime_ns,
		.postcopy_after_ns = plan->postcopy_after_ns,
		.dead_peer_ns = plan->dead_peer_ns,
	};

	sim->source.dial_ns = SIM_NEVER;
	wire_name_set(&config.machine, "sim");
	source_init(sim->source.engine, &sim_source_ops, sim, &config);
	for (unsigned i = 0; i < sim->blocks; i++) {
		struct source_block block = { .region = &sim->block[i].source,
					      .dirty = sim->block[i].dirty };
		struct wh_err err;

		wire_name_set(&block.name, sim->block[i].source.name);
		if (source_add_block(sim->source.engine, &block, &err) < 0)
			sim_fail(sim, "%s", err.text);
	}
	if (plan->format == WH_DEVICE_OWN) {
		sim->source.device_bytes = sim_pick(sim, SIM_DEVICE_MAX);
		for (size_t i = 0; i < sim->source.device_bytes; i++)
			sim->source.device[i] = (uint8_t)sim_pick(sim, 256);
	} else {
		static const uint8_t section[] = "\4\0\0\0\7\5timer\0\0\0\0\0\0\0\2abcdefgh"
						 "\x7e\0\0\0\7";

		sim->source.device_bytes = sizeof(section) - 1;
		memcpy(sim->source.device, section, sim->source.device_bytes);
	}
	source_connected(sim->source.engine, sim->now_ns);
}

#endif /* SELFTESTS_SIM_SOURCE_SIDE_H */
