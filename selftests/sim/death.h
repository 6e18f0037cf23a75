/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_DEATH_H
#define SELFTESTS_SIM_DEATH_H

#include "selftests/sim/sim.h"

/*
 * Processes that are killed: the source with its guest, the destination with its memory, or
 * the agent of a destination, whose VMM lives on (agent.rst). When is decided in advance;
 * it is between two steps of the victim or in the middle of one, where its engine asks for
 * something: then all of its calls are left at once, and nothing behind them happens.
 * What comes after that is in burial.h.
 */

static inline void kill_plan(struct sim *sim)
{
	static const uint64_t within[] = { 20, 300, 3000 };
	struct sim_kill *kill = &sim->kill;

	if (kill->armed || !sim->plan.kills_left)
		return;
	kill->armed = true;
	kill->step = sim->step + 1 + sim_pick(sim, within[sim_pick(sim, 3)]);
	kill->inside = !sim_one_in(sim, 3);
}

/* Not for ever: it may be that nothing more is asked for. */
static inline bool kill_due(const struct sim *sim, bool inside)
{
	const struct sim_kill *kill = &sim->kill;

	if (!kill->armed || sim->step < kill->step)
		return false;
	return kill->inside == inside || (!inside && sim->step > kill->step + 400);
}

static inline bool dest_dies_here(struct sim *sim)
{
	return sim->plan.victim != SIM_THE_SOURCE && kill_due(sim, true) && sim_one_in(sim, 4);
}

static inline void dest_may_die(struct sim *sim)
{
	if (dest_dies_here(sim))
		longjmp(sim->at_dest, 1);
}

static inline void source_may_die(struct sim *sim)
{
	if (sim->plan.victim == SIM_THE_SOURCE && kill_due(sim, true) && sim_one_in(sim, 4))
		longjmp(sim->at_source, 1);
}

/* Placed, and of the bits that say so, a word at a time, some words are set */
static inline void dest_may_die_marking(struct sim *sim, unsigned block, uint64_t offset,
					uint64_t length)
{
	uint64_t first = offset / TARGET_PAGE, pages = length / TARGET_PAGE, end;

	if (!dest_dies_here(sim))
		return;
	end = (first / 64 + sim_pick(sim, pages / 64 + 2)) * 64;
	if (end > first + pages)
		end = first + pages;
	if (end > first)
		bits_range_set(sim->dest.engine.block[block].received, first, end - first);
	longjmp(sim->at_dest, 1);
}

#endif /* SELFTESTS_SIM_DEATH_H */
