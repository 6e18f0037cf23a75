/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_BURIAL_H
#define SELFTESTS_SIM_BURIAL_H

#include "selftests/sim/dest_side.h"
#include "selftests/sim/source_side.h"

/*
 * What becomes of the rest when a process has died: the kernel closes its connections, and
 * the VMM of an agent does what postcopy/agent_vmm_link.c does.
 */

static inline void death_cuts(struct sim *sim, enum pipe_kind kind)
{
	struct pipe *pipe = &sim->pipe[kind];

	sim->dead = true;
	if (!pipe->open || pipe->silent)
		return;
	/* a machine that is gone tells nobody; of a process that is the kernel tells */
	if (sim->plan.death_silent && sim->plan.victim != SIM_THE_AGENT)
		pipe->silent = true;
	else
		pipe_cut(pipe, sim_pick(sim, pipe->written - pipe->read + 1));
}

/* It and its guest, if that ran there */
static inline void source_bury(struct sim *sim)
{
	struct sim_source *source = &sim->source;
	bool all = sim_one_in(sim, 2);

	sim->kill.armed = false;
	sim->plan.kills_left--;
	sim_trace(sim, "the source dies");
	source->dead = source->closed = true;
	source->dial_ns = SIM_NEVER;
	source->sending[CHANNEL_MAIN].under_way = source->sending[CHANNEL_URGENT].under_way = false;
	sim->source_runs = false;
	sim->dead = true;
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		if (all && i != PIPE_REPLY && !sim->plan.death_silent)
			/* what the kernel has still goes out */
			sim->pipe[i].writer_gone = sim->pipe[i].reader_gone = true;
		else
			death_cuts(sim, (enum pipe_kind)i);
}

static inline uint64_t pages_missing(const struct sim *sim)
{
	uint64_t missing = 0;

	for (unsigned i = 0; i < sim->blocks; i++) {
		uint64_t pages = sim->block[i].pages;

		missing += pages - bits_count(sim->block[i].bitmaps + bits_words(pages), pages);
	}
	return missing;
}

static inline void vmm_starts(struct sim *sim)
{
	if (sim->dest.started)
		return;
	if (sim->source_runs)
		sim_fail(sim, "two guests: started by the VMM, running at the source");
	sim->dest.started = sim->dest_runs = true;
}

/* The guest is here if its device state is, and nobody has given it up. */
static inline enum dest_phase vmm_decides(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	bool armed = dest->agent == SIM_ARMED;

	if (dest->started && !armed)
		return DEST_DONE;
	if (!armed || !dest->loaded)
		return DEST_FAILED;
	if (dest->loaded_ns != SIM_NEVER) {
		dest->vmm_loaded_ns = dest->loaded_ns;
		return DEST_PAUSED;
	}
	vmm_starts(sim);
	if (pages_missing(sim) || dest->vmm_loaded_ns != SIM_NEVER)
		return DEST_PAUSED;
	check_all_there(sim);
	dest->disarmed = true;
	kernel_wake_all(sim);
	return DEST_DONE;
}

/* The engine is no more: in its place is what the VMM says of it. */
static inline void agent_dies(struct sim *sim)
{
	enum dest_phase phase = vmm_decides(sim);
	struct sim_dest *dest = &sim->dest;

	dest->deaths++;
	dest->loaded_ns = SIM_NEVER;
	dest->orphan = phase == DEST_PAUSED;
	dest->engine.phase = phase;
	sim_trace(sim, "the agent dies: %s", dest_phase_name(phase));
}

static inline void dest_dies(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;

	sim_trace(sim, "the destination dies");
	dest->dead = true;
	dest->loaded_ns = SIM_NEVER;
	dest->engine.phase = DEST_FAILED;
	dest->messages = dest->changing = 0;
	sim->dest_runs = false;
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		sim->vcpu[i].state = VCPU_RUNS;
}

static inline void dest_bury(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;

	sim->kill.armed = false;
	sim->plan.kills_left--;
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		death_cuts(sim, (enum pipe_kind)i);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		uint8_t *bytes = dest->inlet[i].bytes;

		dest->inlet[i] = (struct sim_inlet){ .bytes = bytes, .ended = true };
		dest->up[i] = false;
	}
	dest->closed = true;
	dest->parked = dest->listening = dest->waiting = dest->announces = false;
	dest->wake_ns = 0;
	/* read, and not looked at */
	dest->faults = 0;
	if (sim->plan.victim == SIM_THE_AGENT)
		agent_dies(sim);
	else
		dest_dies(sim);
}

/* The VMM finds another agent, and starts the guest when its device state is in. */
static inline bool dest_does_adopt(struct sim *sim)
{
	struct sim_dest *dest = &sim->dest;
	struct wh_err err = { 0 };

	if (dest->vmm_loaded_ns <= sim->now_ns) {
		dest->vmm_loaded_ns = SIM_NEVER;
		vmm_starts(sim);
		return true;
	}
	if (!dest->orphan)
		return false;
	dest->orphan = false;
	kill_plan(sim);
	dest_side_init(sim);
	if (dest_adopt(&dest->engine, &dest->past, &err) < 0)
		sim_fail(sim, "it is not adopted: %s", err.text);
	dest->adopted++;
	guest_check_awake(sim);
	return true;
}

/* Between two steps of it: is it time? Who has ended is not killed any more. */
static inline void kill_look(struct sim *sim)
{
	bool over = sim->dest.orphan || dest_phase_ended(dest_get_phase(&sim->dest.engine));

	if (sim->plan.victim == SIM_THE_SOURCE)
		over = source_phase_ended(source_get_phase(sim->source.engine));
	if (!kill_due(sim, false))
		return;
	if (over)
		sim->kill.armed = false;
	else if (sim->plan.victim == SIM_THE_SOURCE)
		source_bury(sim);
	else
		dest_bury(sim);
}

#endif /* SELFTESTS_SIM_BURIAL_H */
