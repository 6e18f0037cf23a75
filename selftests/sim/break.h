/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_BREAK_H
#define SELFTESTS_SIM_BREAK_H

#include "selftests/sim/guest.h"
#include "selftests/sim/pipe.h"

/*
 * Links that die in postcopy and come again. Where the next one dies is decided when it has
 * something to carry: at a byte of one of its pipes, so that what lies in front of that
 * byte arrives and nothing behind it, or at some step.
 */

static inline void pipes_open(struct sim *sim, bool urgent)
{
	uint64_t delay_ns = sim_pick(sim, 2 * SIM_MS);

	pipe_open(&sim->pipe[PIPE_MAIN], 1 + sim_pick(sim, 100000), delay_ns);
	pipe_open(&sim->pipe[PIPE_REPLY], 1 << 20, delay_ns);
	if (urgent && sim->plan.urgent == WH_URGENT_AT_START)
		pipe_open(&sim->pipe[PIPE_URGENT], 1 + sim_pick(sim, 200000), delay_ns);
}

/* A phase begins in which it may break: the handshake, which is short, or what follows */
static inline void break_plan(struct sim *sim, bool handshake)
{
	static const uint64_t some[PIPE_COUNT][3] = {
		[PIPE_MAIN] = { 600, 20000, 400000 },
		[PIPE_URGENT] = { 10, 5000, 50000 },
		[PIPE_REPLY] = { 20, 100, 600 },
	};
	struct sim_break *b = &sim->breaks;

	if (b->armed || !sim->plan.recovers || !sim->plan.breaks_left ||
	    (handshake && sim_one_in(sim, 2)))
		return;
	b->armed = true;
	b->pipe = (enum pipe_kind)sim_pick(sim, PIPE_COUNT);
	if (!sim->pipe[b->pipe].open)
		b->pipe = PIPE_MAIN;
	b->byte = sim->pipe[b->pipe].written;
	if (handshake)
		b->byte += sim_pick(sim, b->pipe == PIPE_REPLY ? 400 : 80);
	else
		b->byte += sim_pick(sim, some[b->pipe][sim_pick(sim, 3)]);
	b->step = sim->step + sim_pick(sim, handshake ? 300 : 3000);
	b->urgent_only = sim_one_in(sim, 6);
}

static inline void break_pipe(struct sim *sim, enum pipe_kind kind, uint64_t keep)
{
	struct pipe *pipe = &sim->pipe[kind];

	if (!pipe->open)
		return;
	if (sim->plan.death_silent) {
		/* nobody hears of it: what is written from here on goes nowhere */
		pipe->silent = true;
		return;
	}
	pipe_cut(pipe, keep);
}

/* Some of what is on its way still arrives */
static inline void break_somewhere(struct sim *sim, enum pipe_kind kind)
{
	uint64_t held = sim->pipe[kind].written - sim->pipe[kind].read;

	break_pipe(sim, kind, held ? sim_pick(sim, held + 1) : 0);
}

/* Is it time? */
static inline void break_look(struct sim *sim)
{
	struct sim_break *b = &sim->breaks;
	struct pipe *pipe = &sim->pipe[b->pipe];
	bool reached;

	if (!b->armed)
		return;
	reached = pipe->written >= b->byte;
	if (!reached && sim->step < b->step)
		return;
	b->armed = false;
	sim->plan.breaks_left--;
	sim->dead = true;
	sim_trace(sim, "the link dies at byte %llu of pipe %u%s", (unsigned long long)b->byte,
		  b->pipe, sim->plan.death_silent ? ", and nobody is told" : "");
	if (reached && !pipe->silent)
		break_pipe(sim, b->pipe, b->byte > pipe->read ? b->byte - pipe->read : 0);
	if (b->urgent_only && sim->pipe[PIPE_URGENT].open) {
		break_somewhere(sim, PIPE_URGENT);
		return;
	}
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		if (i != b->pipe || !reached)
			/* one direction lives on, for a while */
			if (i == PIPE_MAIN || !sim_one_in(sim, 4))
				break_somewhere(sim, (enum pipe_kind)i);
}

#endif /* SELFTESTS_SIM_BREAK_H */
