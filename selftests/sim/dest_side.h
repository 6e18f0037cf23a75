/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_DEST_SIDE_H
#define SELFTESTS_SIM_DEST_SIDE_H

#include "selftests/sim/dest_ops.h"

/*
 * What a joining does for the destination. Each dest_does_...() is one thing that a
 * thread or the kernel might do next; it returns whether there was anything to do.
 */

static inline bool dest_over_sim(const struct sim *sim)
{
	enum dest_phase phase = dest_get_phase(&sim->dest.engine);

	return phase == DEST_PAUSED || dest_phase_ended(phase);
}

/* In these it asks at once */
static inline bool dest_asks(const struct sim *sim)
{
	enum dest_phase phase = dest_get_phase(&sim->dest.engine);

	return phase == DEST_LISTENING || phase == DEST_RUNNING || phase == DEST_ENDING;
}

/* A broken postcopy: each page is whole at one of the two ends, and the bits say where. */
static inline void check_nothing_lost(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++) {
		const uint64_t *received = sim->dest.engine.block[i].received;

		for (uint64_t page = 0; page < sim->block[i].pages; page++) {
			const uint8_t *truth = truth_page(sim, i, page);
			bool there = page_present(sim, i, page);

			if (page_in_removal(sim, i, page))
				continue;
			/* one died between placing and marking it: it comes again, in vain */
			if (!bits_test(received, page) && there && sim->dest.deaths) {
				if (memcmp(dest_page_at(sim, i, page), truth, TARGET_PAGE))
					sim_fail(sim, "page %llu of block %u is there and wrong",
						 (unsigned long long)page, i);
			} else if (!bits_test(received, page)) {
				if (there)
					sim_fail(sim, "page %llu of block %u is there, not marked",
						 (unsigned long long)page, i);
				if (!sim->source.dead &&
				    memcmp(source_page(sim, i, page), truth, TARGET_PAGE))
					sim_fail(sim, "page %llu of block %u is lost",
						 (unsigned long long)page, i);
			} else if (there ? memcmp(dest_page_at(sim, i, page), truth, TARGET_PAGE) :
					   !page_is_zero(truth)) {
				sim_fail(sim, "page %llu of block %u is marked and wrong",
					 (unsigned long long)page, i);
			}
		}
	}
}

/* Runs are dropped: who arrived is in place, so that the others may come again. */
static inline void check_paused(struct sim *sim)
{
	check_nothing_lost(sim);
	for (unsigned i = 0; i < sim->blocks; i++) {
		const struct dest_block *b = &sim->dest.engine.block[i];
		uint64_t group = b->page_size / TARGET_PAGE;

		for (uint64_t page = 0; page < sim->block[i].pages; page += group) {
			uint64_t clear = bits_next_clear(b->received, page, page + group);
			bool whole = clear == page + group;

			if (bits_test(b->arrived, page) ? !whole : whole && !sim->plan.removes)
				sim_fail(sim, "page %llu of block %u has %s, and is %sin place",
					 (unsigned long long)page, i,
					 whole ? "not arrived" : "arrived", whole ? "" : "not ");
		}
	}
}

/* What an engine's function returned on this channel. */
static inline void dest_returned(struct sim *sim, enum channel channel, int ret,
				 const struct wh_err *err)
{
	struct sim_inlet *inlet = &sim->dest.inlet[channel];

	sim->dest.wake_ns = 0; /* a joining steps after each completion */
	if (ret < 0 && !err->text[0])
		sim_fail(sim, "dest fails without a sentence");
	/* the source is honest, and what it says arrives in order or not at all */
	if (ret == -EPROTO)
		sim_fail(sim, "the destination refuses what the source said: %s", err->text);
	if (ret < 0)
		inlet->ended = true;
	inlet->retry_ns = 0;
	if (ret == DEST_RETRY) {
		inlet->retry_ns = sim->now_ns + sim->dest.engine.channel[channel].retry_ns;
		if (inlet->retry_ns == sim->now_ns)
			sim_fail(sim, "dest retries without end");
	}
	guest_check_awake(sim);
}

/* Some of the bytes that are ready, to where the intake wants them. Return: how many */
static inline size_t dest_receive(struct sim *sim, struct sim_inlet *inlet, struct pipe *pipe,
				  size_t ready)
{
	size_t take = 1 + sim_pick(sim, ready < sim->plan.bite ? ready : sim->plan.bite);
	unsigned pieces = intake_room(&inlet->intake, inlet->piece);
	size_t taken = 0;

	for (unsigned i = 0; i < pieces && taken < take; i++) {
		size_t bytes = inlet->piece[i].iov_len;

		if (bytes > take - taken)
			bytes = take - taken;
		if (!inlet->piece[i].iov_len)
			sim_fail(sim, "dest wants nothing");
		pipe_read(pipe, inlet->piece[i].iov_base, bytes);
		taken += bytes;
	}
	return taken;
}

/* Bytes of a channel that have arrived, some more of them */
static inline bool dest_does_input(struct sim *sim, enum channel channel)
{
	struct sim_inlet *inlet = &sim->dest.inlet[channel];
	struct pipe *pipe = &sim->pipe[channel == CHANNEL_MAIN ? PIPE_MAIN : PIPE_URGENT];
	size_t ready, take;
	struct wh_err err = { 0 };
	int ret;

	if (!sim->dest.up[channel] || inlet->ended || sim->dest.closed)
		return false;
	if (inlet->retry_ns > sim->now_ns)
		return false;
	/* the urgent channel may be ahead of the package: it is not read before that */
	if (channel == CHANNEL_URGENT && !sim->dest.armed && !dest_over_sim(sim))
		return false;
	ready = pipe_ready(sim, pipe);
	if (!ready && !inlet->retry_ns) {
		if (!pipe_ended(pipe))
			return false;
		inlet->ended = true;
		inlet->lost = true;
		sim_trace(sim, "dest: %s channel closed", channel ? "urgent" : "main");
		return true;
	}
	take = ready && !inlet->retry_ns ? dest_receive(sim, inlet, pipe, ready) : 0;
	ret = intake_took(&inlet->intake, take, sim->now_ns, &err);
	inlet->idle_due = true;
	if (inlet->intake.have > INTAKE_BYTES)
		sim_fail(sim, "dest takes more than there is");
	if (ret == 0 && inlet->intake.have >= dest_need(&sim->dest.engine, channel) &&
	    !dest_over_sim(sim))
		sim_fail(sim, "dest leaves %zu bytes and needs %zu", inlet->intake.have,
			 dest_need(&sim->dest.engine, channel));
	dest_returned(sim, channel, ret, &err);
	return true;
}

/* Whoever's channel it was, the bulk thread tells of its end. */
static inline bool dest_does_lose(struct sim *sim)
{
	for (enum channel channel = CHANNEL_MAIN; channel < CHANNEL_COUNT; channel++) {
		if (!sim->dest.inlet[channel].lost || sim->dest.closed)
			continue;
		sim->dest.inlet[channel].lost = false;
		dest_link_lost(&sim->dest.engine, channel, NULL);
		sim->dest.wake_ns = 0;
		return true;
	}
	return false;
}

/* No more bytes at hand: before the thread sleeps */
static inline bool dest_does_idle(struct sim *sim, enum channel channel)
{
	struct sim_inlet *inlet = &sim->dest.inlet[channel];
	struct wh_err err = { 0 };

	if (!inlet->idle_due || inlet->retry_ns || sim->dest.closed || inlet->ended)
		return false;
	inlet->idle_due = false;
	dest_returned(sim, channel, dest_idle(&sim->dest.engine, channel, sim->now_ns, &err), &err);
	return true;
}

/* Is there a userfaultfd to read from? In PAUSED there is, without any channel. */
static inline bool dest_watches(const struct sim *sim)
{
	return sim->dest.armed && !sim->dest.disarmed && !sim->dest.orphan &&
	       dest_get_phase(&sim->dest.engine) != DEST_FAILED;
}

/* Read messages of the kernel; removals are told at once, faults when there is time. */
static inline bool dest_does_read(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	struct vcpu *message[SIM_EVENTS];
	unsigned count;

	if (!dest->messages || !dest_watches(sim) || dest->faults + dest->messages > SIM_EVENTS)
		return false;
	count = 1 + (unsigned)sim_pick(sim, dest->messages);
	memcpy(message, dest->message, sizeof(message));
	dest->messages -= count;
	memmove(dest->message, dest->message + count, dest->messages * sizeof(*dest->message));
	for (unsigned i = 0; i < count; i++) {
		struct vcpu *vcpu = message[i];

		if (vcpu->state != VCPU_FAULTED)
			continue;
		dest->fault[dest->faults++] =
			(struct sim_fault){ .block = vcpu->block,
					    .page = vcpu->page,
					    .vcpu = (unsigned)(vcpu - sim->vcpu) };
		vcpu->state = VCPU_READ;
	}
	for (unsigned i = 0; i < count; i++) {
		struct vcpu *vcpu = message[i];

		if (vcpu->state != VCPU_REMOVES)
			continue;
		vcpu->state = VCPU_REMOVE_READ;
		dest_removed(&dest->engine, vcpu->block, vcpu->page * TARGET_PAGE,
			     vcpu->pages * TARGET_PAGE);
	}
	dest->wake_ns = 0;
	guest_check_awake(sim);
	return true;
}

static inline bool dest_does_fault(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	struct wh_err err = { 0 };
	struct sim_fault fault;
	struct vcpu *vcpu;
	unsigned i;
	int ret;

	if (!dest->faults || !dest_watches(sim))
		return false;
	i = (unsigned)sim_pick(sim, dest->faults);
	fault = dest->fault[i];
	if (fault.at_ns > sim->now_ns)
		return false;
	dest->fault[i] = dest->fault[--dest->faults];
	vcpu = &sim->vcpu[fault.vcpu];
	ret = dest_fault(&dest->engine, fault.block, fault.page * TARGET_PAGE, vcpu->tid,
			 sim->now_ns, &err);
	if (ret == DEST_RETRY) {
		fault.at_ns = sim->now_ns + 1 + sim_pick(sim, 50 * SIM_US);
		dest->fault[dest->faults++] = fault;
	} else if (vcpu->state == VCPU_READ && vcpu->block == fault.block &&
		   vcpu->page == fault.page) {
		vcpu->state = VCPU_ASKED;
		/* of a dead link a request that failed is remembered, for another link */
		if (ret == 0 && !sim->dead && dest_asks(sim) && !dest->announces)
			check_asked(sim, vcpu);
	}
	if (ret < 0 && !err.text[0])
		sim_fail(sim, "dest_fault() fails without a sentence");
	dest->wake_ns = 0;
	guest_check_awake(sim);
	return true;
}

static inline bool dest_does_step(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	struct wh_err err = { 0 };
	int ret;

	if (dest_over_sim(sim))
		return false;
	if (dest->loaded_ns <= sim->now_ns) {
		dest->loaded_ns = SIM_NEVER;
		ret = dest_device_loaded(&dest->engine, 0, sim->now_ns, &err);
		dest->wake_ns = 0;
		if (ret < 0 && !err.text[0])
			sim_fail(sim, "dest_device_loaded() fails without a sentence");
		return true;
	}
	if (dest->wake_ns > sim->now_ns)
		return false;
	ret = dest_step(&dest->engine, sim->now_ns, &dest->wake_ns, &err);
	if (ret < 0 && !err.text[0])
		sim_fail(sim, "dest_step() fails without a sentence");
	guest_check_awake(sim);
	return true;
}

/* Nothing is left of the connection before */
static inline void inlets_begin(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;

	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		uint8_t *bytes = dest->inlet[i].bytes;

		dest->inlet[i] = (struct sim_inlet){ .bytes = bytes };
		intake_init(&dest->inlet[i].intake, &dest->engine, (enum channel)i, bytes);
		dest->up[i] = false;
	}
}

/* A connection is accepted, and has said what it is */
static inline bool dest_does_accept(struct sim *sim)
{
	for (enum channel channel = CHANNEL_MAIN; channel < CHANNEL_COUNT; channel++) {
		struct pipe *pipe = &sim->pipe[channel == CHANNEL_MAIN ? PIPE_MAIN : PIPE_URGENT];
		struct wh_err err = { 0 };

		if (!pipe->dialed || sim->dest.closed)
			continue;
		if (channel == CHANNEL_URGENT && !sim->dest.up[CHANNEL_MAIN])
			continue;
		pipe->dialed = false;
		sim->dest.up[channel] = true;
		sim->dest.waiting = false;
		if (dest_connected(&sim->dest.engine, channel, &err) < 0) {
			/* over already */
			sim_trace(sim, "dest: %s", err.text);
			sim->dest.inlet[channel].ended = true;
			pipe->reader_gone = true;
		}
		return true;
	}
	return false;
}

static inline bool dest_does_close(struct sim *sim)
{
	if (!dest_over_sim(sim) || sim->dest.closed || sim->dest.waiting)
		return false;
	sim->dest.closed = true;
	sim->dest.parked = sim->dest.announces = false;
	sim->pipe[PIPE_MAIN].reader_gone = true;
	sim->pipe[PIPE_URGENT].reader_gone = true;
	sim->pipe[PIPE_REPLY].writer_gone = true;
	sim_trace(sim, "dest: closed");
	return true;
}

/* Fault thread, in none of its other doings: the connection is none of its any more */
static inline bool dest_does_park(struct sim *sim)
{
	if (!sim->dest.closed || sim->dest.parked || sim->dest.orphan ||
	    dest_get_phase(&sim->dest.engine) != DEST_PAUSED)
		return false;
	dest_parked(&sim->dest.engine);
	sim->dest.parked = true;
	check_paused(sim);
	return true;
}

/* Somebody has told it to recover */
static inline bool dest_does_listen(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;

	if (!sim->plan.recovers || !dest->parked || dest->waiting ||
	    dest_get_phase(&dest->engine) != DEST_PAUSED)
		return false;
	dest->closed = dest->parked = false;
	dest->listening = dest->waiting = true;
	dest->shut = false;
	dest->wake_ns = 0;
	inlets_begin(sim);
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		sim->pipe[i].dialed = false;
	for (unsigned i = 0; i < sim->blocks; i++)
		memset(sim->block[i].asked, 0, bits_words(sim->block[i].pages) * 8);
	sim_trace(sim, "dest: listens");
	return true;
}

/* Fault thread: what was asked for on another connection */
static inline bool dest_does_announce(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	struct wh_err err = { 0 };
	int ret;

	if (!dest->announces)
		return false;
	ret = dest_announce(&dest->engine, 1 + (unsigned)sim_pick(sim, 3), &err);
	if (ret < 0 && !err.text[0])
		sim_fail(sim, "dest_announce() fails without a sentence");
	dest->wake_ns = 0;
	if (ret > 0)
		return true;
	dest->announces = false;
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		if (!ret && sim->vcpu[i].state == VCPU_ASKED && !sim->dead && dest_asks(sim))
			check_asked(sim, &sim->vcpu[i]);
	return true;
}

static inline void dest_side_init(struct sim *sim)
{
	struct dest_config config = {
		.postcopy = sim->plan.postcopy,
		.device_state_max = 1 << 20,
		.urgent_wait_ns = sim->plan.urgent_wait_ns,
	};

	dest_init(&sim->dest.engine, &sim_dest_ops, sim, &config);
}

static inline void dest_side_begin(struct sim *sim)
{
	sim->dest.loaded_ns = sim->dest.vmm_loaded_ns = SIM_NEVER;
	dest_side_init(sim);
	inlets_begin(sim);
}

#endif /* SELFTESTS_SIM_DEST_SIDE_H */
