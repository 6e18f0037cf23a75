/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_END_H
#define SELFTESTS_SIM_END_H

#include "selftests/sim/plan.h"

/*
 * What has to be true at the end, and what was met on the way there.
 */

/* What all seeds together have met: a run that met nothing proves nothing. */
static struct tally {
	uint64_t postcopy, precopy, urgent, again, requests, faults, removals, rounds, huge, steps;
	uint64_t recovered, recovered_twice, handshakes_broken;
	uint64_t deaths, adopted, adopted_twice;
	uint64_t ends[SOURCE_PHASE_COUNT + 1][DEST_PHASE_COUNT + 1]; /* the last: dead */
} tally;

static inline void check_equal(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++) {
		for (uint64_t page = 0; page < sim->block[i].pages; page++) {
			const uint8_t *truth = truth_page(sim, i, page);

			if (page_present(sim, i, page) ?
				    memcmp(dest_page_at(sim, i, page), truth, TARGET_PAGE) :
				    !page_is_zero(truth))
				sim_fail(sim, "page %llu of block %u is wrong at the end",
					 (unsigned long long)page, i);
		}
	}
}

static inline void check_source_keeps_all(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++)
		if (memcmp(sim->block[i].source.addr, sim->block[i].truth,
			   sim->block[i].pages * TARGET_PAGE))
			sim_fail(sim, "memory of the source is wrong in block %u", i);
}

/* Which two ends go together when something broke. */
static inline bool may_end(const struct sim *sim, enum source_phase source, enum dest_phase dest)
{
	switch (source) {
	case SOURCE_DONE:
		/* who asked for no answer gets none */
		return dest == DEST_DONE || (dest == DEST_FAILED && !sim->plan.return_path);
	case SOURCE_FAILED:
	case SOURCE_CANCELLED:
		return dest == DEST_FAILED;
	case SOURCE_UNKNOWN:
		return dest == DEST_DONE || dest == DEST_FAILED;
	case SOURCE_PAUSED:
		/* failed: before the guest ran there; done: but the last word got lost */
		return dest == DEST_PAUSED || dest == DEST_FAILED || dest == DEST_DONE;
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_SWITCHOVER:
	case SOURCE_HANDOVER:
	case SOURCE_POSTCOPY:
	case SOURCE_ENDING:
	case SOURCE_RECOVER:
	case SOURCE_PHASE_COUNT:
		break;
	}
	return false;
}

/* Where it is recovered nothing is left paused, but for the one whose last word got lost. */
static inline bool may_end_recovered(const struct sim *sim, enum source_phase source,
				     enum dest_phase dest)
{
	if (dest == DEST_PAUSED || sim->dest.started != (dest == DEST_DONE))
		return false;
	return may_end(sim, source, dest);
}

/*
 * Where a process was killed. Who has lost the other keeps what it had; an agent's guest is
 * recovered, but for one that died in precopy between telling the source and the VMM.
 */
static inline bool may_end_killed(const struct sim *sim, enum source_phase source,
				  enum dest_phase dest)
{
	bool started = sim->dest.started;

	if (sim->source.dead)
		return dest == DEST_FAILED ? !started :
					     started && (dest == DEST_DONE || dest == DEST_PAUSED);
	if (sim->dest.dead)
		return source == SOURCE_PAUSED || source == SOURCE_UNKNOWN ||
		       source == SOURCE_DONE || (source == SOURCE_FAILED && !started);
	if (sim->plan.victim != SIM_THE_AGENT)
		return may_end(sim, source, dest);
	if (source == SOURCE_DONE && dest == DEST_FAILED)
		return sim->dest.deaths && !sim->dest.armed && !started;
	return may_end_recovered(sim, source, dest);
}

static inline bool may_end_so(const struct sim *sim, enum source_phase source, enum dest_phase dest)
{
	switch (sim->plan.mode) {
	case SIM_LIVE:
		return source == SOURCE_DONE && dest == DEST_DONE;
	case SIM_DIE:
		return may_end(sim, source, dest);
	case SIM_COME:
		return may_end_recovered(sim, source, dest);
	case SIM_KILL:
		return may_end_killed(sim, source, dest);
	case SIM_MODES:
		break;
	}
	return false;
}

static inline void check_end(struct sim *sim, enum sim_mode mode)
{
	enum source_phase source = source_get_phase(sim->source.engine);
	enum dest_phase dest = dest_get_phase(&sim->dest.engine);

	tally.ends[sim->source.dead ? SOURCE_PHASE_COUNT : source]
		  [sim->dest.dead ? DEST_PHASE_COUNT : dest]++;
	/* unregistering lets go of who waits in madvise() */
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		if (sim->vcpu[i].state >= VCPU_REMOVES)
			vcpu_zap(sim, &sim->vcpu[i]);
	if (sim->source_runs && sim->dest_runs)
		sim_fail(sim, "two guests at the end");
	if (!sim->source.dead &&
	    sim->source_runs != (source == SOURCE_FAILED || source == SOURCE_CANCELLED))
		sim_fail(sim, "source %s, and the guest %s", source_phase_name(source),
			 sim->source_runs ? "runs" : "does not run");
	if (!sim->dest.dead && sim->dest_runs != sim->dest.started)
		sim_fail(sim, "the guest at the destination has vanished");
	if (sim->source.cancel_promised && source != SOURCE_CANCELLED)
		sim_fail(sim, "cancelled was promised, it is %s", source_phase_name(source));
	if (!may_end_so(sim, source, dest))
		sim_fail(sim, "ends: source %s, dest %s", source_phase_name(source),
			 dest_phase_name(dest));
	/* a time-out was waited for where somebody should have been woken */
	if (mode == SIM_LIVE && sim->now_ns >= PATIENCE_NS)
		sim_fail(sim, "it took %llu s", (unsigned long long)(sim->now_ns / SIM_S));
	if (dest == DEST_DONE)
		check_equal(sim);
	if (dest == DEST_PAUSED)
		check_nothing_lost(sim);
	if (dest == DEST_FAILED && source != SOURCE_DONE && !sim->source.dead && !sim->dest.started)
		check_source_keeps_all(sim);
	/* nobody sleeps where everything is there */
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		if (dest == DEST_DONE && vcpu_sleeps(&sim->vcpu[i]))
			sim_fail(sim, "vcpu %u sleeps for ever", sim->vcpu[i].tid);
}

static inline void count(struct sim *sim)
{
	const struct source_counters *counters = source_get_counters(sim->source.engine);

	if (sim->dest.armed)
		tally.postcopy++;
	else
		tally.precopy++;
	tally.urgent += counters->pages_urgent;
	tally.requests += counters->requests;
	tally.rounds += counters->rounds;
	tally.steps += sim->step;
	for (unsigned i = 0; i < sim->blocks; i++)
		tally.huge += sim->block[i].source.page_size == SIM_HUGE;
	tally.faults += sim->faults;
	tally.removals += sim->removals;
	tally.again += counters->pages_again;
	tally.recovered += sim->dest.recoveries;
	tally.recovered_twice += sim->dest.recoveries > 1;
	tally.handshakes_broken += sim->dest.handshakes_broken;
	tally.deaths += sim->source.dead + sim->dest.dead + sim->dest.deaths;
	tally.adopted += sim->dest.adopted;
	tally.adopted_twice += sim->dest.adopted > 1;
	/* no page goes twice after the switch, but for those that were asked for on their way */
	if (sim->dest.armed && !sim->plan.removes && !sim->dest.deaths &&
	    sim->dest.engine.counters.pages_before > counters->pages_again)
		sim_fail(sim, "%llu pages came twice",
			 (unsigned long long)sim->dest.engine.counters.pages_before);
}

#endif /* SELFTESTS_SIM_END_H */
