/* SPDX-License-Identifier: MIT */
/*
 * A migration from each seed: seeds [--count N] [--seed N [--broken]].
 *
 * Twice as many migrations as seeds: first with links that live, which have to end
 * with all of memory at the destination; then with links that die, VMMs that fail and
 * operators who cancel, which have to end with one guest at most, and nothing lost.
 */
#include "selftests/sim/end.h"

#define STEPS_MAX 3000000u

/* The loop */

static bool dest_input_main(struct sim *sim)
{
	return dest_does_input(sim, CHANNEL_MAIN);
}
static bool dest_input_urgent(struct sim *sim)
{
	return dest_does_input(sim, CHANNEL_URGENT);
}
static bool dest_idle_main(struct sim *sim)
{
	return dest_does_idle(sim, CHANNEL_MAIN);
}
static bool dest_idle_urgent(struct sim *sim)
{
	return dest_does_idle(sim, CHANNEL_URGENT);
}

/* Who may act next. The guest comes last: it alone never gets a migration anywhere. */
static bool (*const actors[])(struct sim *sim) = {
	source_does_next,  source_does_push,  source_does_urgent, source_does_reply,
	source_does_dial,  source_does_close, dest_does_accept,	  dest_input_main,
	dest_input_urgent, dest_idle_main,    dest_idle_urgent,	  dest_does_read,
	dest_does_fault,   dest_does_step,    dest_does_close,
};

#define ACTORS (sizeof(actors) / sizeof(actors[0]))
_Static_assert(ACTORS < 16, "a weight for each, and one for the guest");

/* By weight first; if that one has nothing to do, whoever has. */
static bool anybody_acts(struct sim *sim)
{
	unsigned sum = 0, i;
	uint64_t at;

	for (i = 0; i < ACTORS; i++)
		sum += sim->plan.weight[i];
	at = sim_pick(sim, sum);
	for (i = 0; at >= sim->plan.weight[i]; i++)
		at -= sim->plan.weight[i];
	for (unsigned n = 0; n < ACTORS; n++)
		if (actors[(i + n) % ACTORS](sim))
			return true;
	return false;
}

static void earliest(uint64_t *at_ns, uint64_t now_ns, uint64_t other_ns)
{
	if (other_ns > now_ns && other_ns < *at_ns)
		*at_ns = other_ns;
}

/* When something will be possible that is not now */
static uint64_t next_ns(struct sim *sim)
{
	uint64_t at_ns = SIM_NEVER, now_ns = sim->now_ns;

	if (!source_over(sim)) {
		earliest(&at_ns, now_ns, sim->source.wake_ns);
		earliest(&at_ns, now_ns, sim->source.dial_ns);
	}
	if (!dest_over_sim(sim)) {
		earliest(&at_ns, now_ns, sim->dest.wake_ns);
		earliest(&at_ns, now_ns, sim->dest.loaded_ns);
	}
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		earliest(&at_ns, now_ns, pipe_next_ns(sim, &sim->pipe[i]));
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		earliest(&at_ns, now_ns, sim->dest.inlet[i].retry_ns);
	for (unsigned i = 0; i < sim->dest.faults && dest_watches(sim); i++)
		earliest(&at_ns, now_ns, sim->dest.fault[i].at_ns);
	return at_ns;
}

static void kill_pipe(struct sim *sim, enum pipe_kind kind)
{
	struct pipe *pipe = &sim->pipe[kind];
	uint64_t held = pipe->written - pipe->read;

	if (!pipe->open)
		return;
	if (sim->plan.death_silent) {
		/* nobody hears of it: what is written from here on goes nowhere */
		pipe->silent = true;
		return;
	}
	pipe_cut(pipe, held ? sim_pick(sim, held + 1) : 0);
}

static void kill_links(struct sim *sim)
{
	sim->dead = true;
	sim_trace(sim, "links die%s", sim->plan.death_silent ? ", and nobody is told" : "");
	if (sim->plan.death_pipes & 1) {
		kill_pipe(sim, PIPE_MAIN);
		kill_pipe(sim, PIPE_REPLY);
	}
	if (sim->plan.death_pipes & 2)
		kill_pipe(sim, PIPE_URGENT);
}

/* Nothing can happen any more: keep-alives find out that a link is dead. */
static bool dead_is_noticed(struct sim *sim)
{
	bool news = false;

	if (!sim->dead || !sim->plan.death_silent)
		return false;
	sim->now_ns += 3 * SIM_S;
	for (unsigned i = 0; i < PIPE_COUNT; i++) {
		struct pipe *pipe = &sim->pipe[i];

		news |= pipe->silent;
		if (pipe->silent) {
			pipe->silent = false;
			pipe_cut(pipe, 0);
		}
	}
	return news;
}

static void commands(struct sim *sim)
{
	if (sim->step == sim->plan.want_step)
		source_want_postcopy(sim->source.engine);
	if (sim->step == sim->plan.cancel_step) {
		sim->source.cancel_promised = !source_want_cancel(sim->source.engine);
		sim->source.called = true;
		sim_trace(sim, "cancel: %s", sim->source.cancel_promised ? "yes" : "too late");
	}
	if (sim->step == sim->plan.death_step)
		kill_links(sim);
}

static bool all_over(const struct sim *sim)
{
	if (!sim->source.closed || !sim->dest.closed)
		return false;
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		if (dest_watches(sim) &&
		    (sim->vcpu[i].state == VCPU_FAULTED || sim->vcpu[i].state == VCPU_READ ||
		     sim->vcpu[i].state >= VCPU_REMOVES))
			return false;
	return !sim->dest.faults || !dest_watches(sim);
}

static void run(struct sim *sim)
{
	unsigned stuck = 0;

	while (!sim->failed && !all_over(sim)) {
		bool acted;

		if (++sim->step > STEPS_MAX) {
			sim_fail(sim, "it does not end");
			break;
		}
		sim->now_ns += sim_pick(sim, sim->plan.step_ns);
		commands(sim);
		if (sim_pick(sim, 16) < sim->plan.weight[15]) {
			guest_acts_at_source(sim);
			guest_acts_at_dest(sim);
		}
		acted = anybody_acts(sim);
		if (acted) {
			stuck = 0;
		} else if (next_ns(sim) != SIM_NEVER) {
			/* but the guest goes on meanwhile */
			if (sim_one_in(sim, 4))
				sim->now_ns = next_ns(sim);
		} else if (++stuck > 3000 && !dead_is_noticed(sim)) {
			sim_fail(sim, "stuck: source %s, dest %s, %llu pages left",
				 source_phase_name(source_get_phase(sim->source.engine)),
				 dest_phase_name(dest_get_phase(&sim->dest.engine)),
				 (unsigned long long)source_pages_left(sim->source.engine));
		}
	}
}

static bool try_seed(struct sim *sim, uint64_t seed, bool broken)
{
	reset(sim, seed, broken);
	run(sim);
	if (!sim->failed)
		check_end(sim, broken);
	if (!sim->failed)
		count(sim);
	return !sim->failed;
}

/* TAP */

static void tell_tally(void)
{
	printf("# %llu postcopies, %llu precopies, %llu rounds, %llu faults, %llu requests, "
	       "%llu urgent pages, %llu of them again, %llu removals, %llu blocks of 2 MiB pages, %llu steps\n",
	       (unsigned long long)tally.postcopy, (unsigned long long)tally.precopy,
	       (unsigned long long)tally.rounds, (unsigned long long)tally.faults,
	       (unsigned long long)tally.requests, (unsigned long long)tally.urgent,
	       (unsigned long long)tally.again, (unsigned long long)tally.removals,
	       (unsigned long long)tally.huge, (unsigned long long)tally.steps);
	for (unsigned s = 0; s < SOURCE_PHASE_COUNT; s++)
		for (unsigned d = 0; d < DEST_PHASE_COUNT; d++)
			if (tally.ends[s][d])
				printf("# source %s, dest %s: %llu\n", source_phase_name(s),
				       dest_phase_name(d), (unsigned long long)tally.ends[s][d]);
}

/* Did so many seeds meet everything that they are there for? */
static bool met_all(bool broken)
{
	if (!broken)
		return tally.postcopy && tally.precopy && tally.urgent && tally.again &&
		       tally.requests && tally.faults && tally.removals && tally.rounds &&
		       tally.huge;
	return tally.ends[SOURCE_PAUSED][DEST_PAUSED] && tally.ends[SOURCE_FAILED][DEST_FAILED] &&
	       tally.ends[SOURCE_UNKNOWN][DEST_DONE] && tally.ends[SOURCE_UNKNOWN][DEST_FAILED] &&
	       tally.ends[SOURCE_CANCELLED][DEST_FAILED] &&
	       tally.ends[SOURCE_PAUSED][DEST_FAILED] && tally.ends[SOURCE_PAUSED][DEST_DONE] &&
	       tally.ends[SOURCE_DONE][DEST_DONE];
}

static bool try_seeds(struct sim *sim, unsigned test, uint64_t seeds, bool broken)
{
	const char *what = broken ? "links that die" : "links that live";
	unsigned bad = 0;

	memset(&tally, 0, sizeof(tally));
	for (uint64_t seed = 1; seed <= seeds && bad < 10; seed++) {
		if (try_seed(sim, seed, broken))
			continue;
		bad++;
		printf("# seed %llu: %s\n", (unsigned long long)seed, sim->why);
		printf("# again: build/selftests/sim/seeds --seed %llu%s\n",
		       (unsigned long long)seed, broken ? " --broken" : "");
	}
	tell_tally();
	if (!bad && seeds >= 5000 && !met_all(broken)) {
		bad++;
		printf("# not everything was met\n");
	}
	printf("%s %u %llu seeds, %s\n", bad ? "not ok" : "ok", test, (unsigned long long)seeds,
	       what);
	return !bad;
}

int main(int argc, char **argv)
{
	struct sim *sim = sim_new();
	uint64_t seeds = 10000, seed = 0;
	bool broken = false, good;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--broken"))
			broken = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
			seed = strtoull(argv[++i], NULL, 0);
		else if (i + 1 < argc && !strcmp(argv[i], "--count"))
			seeds = strtoull(argv[++i], NULL, 0);
		else
			return fprintf(stderr, "%s [--count N] [--seed N [--broken]]\n", argv[0]),
			       2;
	}
	printf("TAP version 13\n1..%u\n", seed ? 1 : 2);
	if (seed) {
		sim->trace = true;
		good = try_seed(sim, seed, broken);
		if (!good)
			printf("# %s\n", sim->why);
		printf("%s 1 seed %llu\n", good ? "ok" : "not ok", (unsigned long long)seed);
	} else {
		good = try_seeds(sim, 1, seeds, false);
		good &= try_seeds(sim, 2, seeds, true);
	}
	sim_free(sim);
	return good ? 0 : 1;
}
