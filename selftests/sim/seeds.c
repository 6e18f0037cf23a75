/* SPDX-License-Identifier: MIT */
/*
 * A migration from each seed: seeds [--from N] [--count N] [--seed N]
 * [--broken | --recovered | --killed], which choose one of the four:
 *
 * Four times as many migrations as seeds: first with links that live, which have to end
 * with all of memory at the destination; then with links that die, VMMs that fail and
 * operators who cancel, which have to end with one guest at most, and nothing lost; then
 * with links that die in postcopy, as often as not while it is being recovered, which
 * have to end as those that live; then with processes that die, after which nobody runs
 * who may not, and an agent's guest goes on with the next agent.
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
static const struct actor {
	bool (*acts)(struct sim *sim);
	enum sim_thread thread;
} actors[] = {
	{ source_does_next, SIM_SOURCE },   { source_does_push, SIM_SOURCE },
	{ source_does_urgent, SIM_SOURCE }, { source_does_reply, SIM_SOURCE },
	{ source_does_dial, SIM_SOURCE },   { source_does_close, SIM_SOURCE },
	{ source_does_redial, SIM_SOURCE }, { dest_does_accept, SIM_BULK },
	{ dest_input_main, SIM_BULK },	    { dest_idle_main, SIM_BULK },
	{ dest_does_step, SIM_BULK },	    { dest_does_close, SIM_BULK },
	{ dest_does_listen, SIM_BULK },	    { dest_input_urgent, SIM_FAULT },
	{ dest_idle_urgent, SIM_FAULT },    { dest_does_read, SIM_FAULT },
	{ dest_does_fault, SIM_FAULT },	    { dest_does_park, SIM_FAULT },
	{ dest_does_announce, SIM_FAULT },  { dest_does_lose, SIM_BULK },
	{ dest_does_adopt, SIM_BULK },
};

#define ACTORS (sizeof(actors) / sizeof(actors[0]))
#define GUEST (SIM_WEIGHTS - 1)
_Static_assert(ACTORS <= GUEST, "a weight for each, and one for the guest");

/* Where it dies inside of a step, that is all of the step. */
static bool source_acts(struct sim *sim, const struct actor *actor)
{
	if (!setjmp(sim->at_source))
		return actor->acts(sim);
	source_bury(sim);
	return true;
}

static bool acts(struct sim *sim, const struct actor *actor)
{
	bool acted;

	if (sim->busy[actor->thread])
		return false;
	sim->busy[actor->thread] = true;
	acted = actor->thread == SIM_SOURCE ? source_acts(sim, actor) : actor->acts(sim);
	sim->busy[actor->thread] = false;
	return acted;
}

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
		if (acts(sim, &actors[(i + n) % ACTORS]))
			return true;
	return false;
}

/* Both threads of the destination die at once, wherever they are. */
static bool somebody_acts(struct sim *sim)
{
	if (!setjmp(sim->at_dest))
		return anybody_acts(sim);
	memset(sim->busy, 0, sizeof(sim->busy));
	sim->within = false;
	dest_bury(sim);
	return true;
}

static void others(struct sim *sim)
{
	if (sim->within || !sim_one_in(sim, 4))
		return;
	sim->within = true;
	for (uint64_t n = 1 + sim_pick(sim, 30); n; n--) {
		guest_acts_at_dest(sim);
		anybody_acts(sim);
		break_look(sim);
	}
	sim->within = false;
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

	if (!source_is_over(sim)) {
		earliest(&at_ns, now_ns, sim->source.wake_ns);
		earliest(&at_ns, now_ns, sim->source.dial_ns);
	}
	if (!dest_over_sim(sim)) {
		earliest(&at_ns, now_ns, sim->dest.wake_ns);
		earliest(&at_ns, now_ns, sim->dest.loaded_ns);
	}
	earliest(&at_ns, now_ns, sim->dest.vmm_loaded_ns);
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		earliest(&at_ns, now_ns, pipe_next_ns(sim, &sim->pipe[i]));
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		earliest(&at_ns, now_ns, sim->dest.inlet[i].retry_ns);
	for (unsigned i = 0; i < sim->dest.faults && dest_watches(sim); i++)
		earliest(&at_ns, now_ns, sim->dest.fault[i].at_ns);
	return at_ns;
}

static void kill_links(struct sim *sim)
{
	sim->dead = true;
	sim_trace(sim, "links die%s", sim->plan.death_silent ? ", and nobody is told" : "");
	if (sim->plan.death_pipes & 1) {
		break_somewhere(sim, PIPE_MAIN);
		break_somewhere(sim, PIPE_REPLY);
	}
	if (sim->plan.death_pipes & 2)
		break_somewhere(sim, PIPE_URGENT);
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
	if (sim->step == sim->plan.want_step && !sim->source.dead)
		source_want_postcopy(sim->source.engine);
	if (sim->step == sim->plan.cancel_step) {
		sim->source.cancel_promised = !source_want_cancel(sim->source.engine);
		sim->source.called = true;
		sim_trace(sim, "cancel: %s", sim->source.cancel_promised ? "yes" : "too late");
	}
	if (sim->step == sim->plan.death_step)
		kill_links(sim);
	break_look(sim);
	kill_look(sim);
	/* for a guest that is never idle */
	if (sim->plan.mode == SIM_KILL && sim->step % 20000 == 0)
		dead_is_noticed(sim);
}

static bool all_over(const struct sim *sim)
{
	if (!sim->source.closed || !sim->dest.closed)
		return false;
	/* whoever manages them does not give up */
	if (sim->plan.recovers && dest_get_phase(&sim->dest.engine) == DEST_PAUSED)
		return false;
	if (sim->dest.vmm_loaded_ns != SIM_NEVER)
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
		if (sim_pick(sim, 16) < sim->plan.weight[GUEST]) {
			guest_acts_at_source(sim);
			guest_acts_at_dest(sim);
		}
		acted = somebody_acts(sim);
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

static bool try_seed(struct sim *sim, uint64_t seed, enum sim_mode mode)
{
	sim->others = others;
	reset(sim, seed, mode);
	run(sim);
	if (!sim->failed)
		check_end(sim, mode);
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
	printf("# %llu recoveries, %llu migrations more than one, %llu handshakes that broke\n",
	       (unsigned long long)tally.recovered, (unsigned long long)tally.recovered_twice,
	       (unsigned long long)tally.handshakes_broken);
	printf("# %llu deaths, %llu times adopted, %llu migrations more than one\n",
	       (unsigned long long)tally.deaths, (unsigned long long)tally.adopted,
	       (unsigned long long)tally.adopted_twice);
	for (unsigned s = 0; s <= SOURCE_PHASE_COUNT; s++)
		for (unsigned d = 0; d <= DEST_PHASE_COUNT; d++)
			if (tally.ends[s][d])
				printf("# source %s, dest %s: %llu\n",
				       s < SOURCE_PHASE_COUNT ? source_phase_name(s) : "dead",
				       d < DEST_PHASE_COUNT ? dest_phase_name(d) : "dead",
				       (unsigned long long)tally.ends[s][d]);
}

static bool met_deaths(void)
{
	const uint64_t *alone = tally.ends[SOURCE_PHASE_COUNT];

	for (enum source_phase s = SOURCE_DONE; s <= SOURCE_UNKNOWN; s++)
		if (!tally.ends[s][DEST_PHASE_COUNT])
			return false;
	return tally.ends[SOURCE_PAUSED][DEST_PHASE_COUNT] && alone[DEST_PAUSED] &&
	       alone[DEST_DONE] && alone[DEST_FAILED] && tally.adopted && tally.adopted_twice &&
	       tally.ends[SOURCE_DONE][DEST_DONE] && tally.ends[SOURCE_DONE][DEST_FAILED] &&
	       tally.ends[SOURCE_PAUSED][DEST_DONE] && tally.ends[SOURCE_PAUSED][DEST_FAILED];
}

/* Did so many seeds meet everything that they are there for? */
static bool met_all(enum sim_mode mode)
{
	bool done = tally.ends[SOURCE_DONE][DEST_DONE];

	if (mode == SIM_LIVE)
		return tally.postcopy && tally.precopy && tally.urgent && tally.again &&
		       tally.requests && tally.faults && tally.removals && tally.rounds &&
		       tally.huge;
	if (mode == SIM_COME)
		return done && tally.recovered && tally.recovered_twice &&
		       tally.handshakes_broken && tally.ends[SOURCE_PAUSED][DEST_DONE] &&
		       tally.ends[SOURCE_PAUSED][DEST_FAILED];
	if (mode == SIM_KILL)
		return met_deaths();
	return tally.ends[SOURCE_PAUSED][DEST_PAUSED] && tally.ends[SOURCE_FAILED][DEST_FAILED] &&
	       tally.ends[SOURCE_UNKNOWN][DEST_DONE] && tally.ends[SOURCE_UNKNOWN][DEST_FAILED] &&
	       tally.ends[SOURCE_CANCELLED][DEST_FAILED] &&
	       tally.ends[SOURCE_PAUSED][DEST_FAILED] && tally.ends[SOURCE_PAUSED][DEST_DONE] &&
	       done;
}

static const struct {
	const char *what, *option;
} modes[SIM_MODES] = {
	[SIM_LIVE] = { "links that live", "" },
	[SIM_DIE] = { "links that die", " --broken" },
	[SIM_COME] = { "links that come again", " --recovered" },
	[SIM_KILL] = { "processes that die", " --killed" },
};

static bool try_seeds(struct sim *sim, uint64_t first, uint64_t seeds, enum sim_mode mode,
		      unsigned number)
{
	unsigned bad = 0;

	memset(&tally, 0, sizeof(tally));
	for (uint64_t seed = first; seed < first + seeds && bad < 10; seed++) {
		if (try_seed(sim, seed, mode))
			continue;
		bad++;
		printf("# seed %llu: %s\n", (unsigned long long)seed, sim->why);
		printf("# again: build/selftests/sim/seeds --seed %llu%s\n",
		       (unsigned long long)seed, modes[mode].option);
	}
	tell_tally();
	if (!bad && seeds >= 5000 && !met_all(mode)) {
		bad++;
		printf("# not everything was met\n");
	}
	printf("%s %u %llu seeds, %s\n", bad ? "not ok" : "ok", number, (unsigned long long)seeds,
	       modes[mode].what);
	return !bad;
}

int main(int argc, char **argv)
{
	struct sim *sim = sim_new();
	enum sim_mode mode = SIM_LIVE, last = SIM_KILL;
	uint64_t seeds = 10000, seed = 0, first = 1;
	bool good = true;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--broken"))
			mode = SIM_DIE;
		else if (!strcmp(argv[i], "--recovered"))
			mode = SIM_COME;
		else if (!strcmp(argv[i], "--killed"))
			mode = SIM_KILL;
		else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
			seed = strtoull(argv[++i], NULL, 0);
		else if (i + 1 < argc && !strcmp(argv[i], "--count"))
			seeds = strtoull(argv[++i], NULL, 0);
		else if (i + 1 < argc && !strcmp(argv[i], "--from"))
			first = strtoull(argv[++i], NULL, 0);
		else
			return fprintf(stderr,
				       "%s [--from N] [--count N] [--seed N] "
				       "[--broken | --recovered | --killed]\n",
				       argv[0]),
			       2;
	}
	if (mode != SIM_LIVE)
		last = mode;
	printf("TAP version 13\n1..%u\n", seed ? 1 : last - mode + 1u);
	if (seed) {
		sim->trace = true;
		good = try_seed(sim, seed, mode);
		if (!good)
			printf("# %s\n", sim->why);
		printf("%s 1 seed %llu\n", good ? "ok" : "not ok", (unsigned long long)seed);
	} else {
		for (unsigned n = 1; mode <= last; mode++, n++)
			good &= try_seeds(sim, first, seeds, mode, n);
	}
	sim_free(sim);
	return good ? 0 : 1;
}
