/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_PLAN_H
#define SELFTESTS_SIM_PLAN_H

#include "selftests/sim/burial.h"

/*
 * A seed becomes a plan, and a world to carry it out in.
 */

/* An operator's patience, where nothing is broken: no time-out may be needed */
#define PATIENCE_NS (1000 * SIM_S)

static inline uint64_t one_of(struct sim *sim, const uint64_t *from, unsigned count)
{
	return from[sim_pick(sim, count)];
}

static inline void plan_blocks(struct sim *sim)
{
	static const uint64_t sizes[] = { 4096, 4096, 8192, 32768, 65536 };

	sim->blocks = 1 + (unsigned)sim_pick(sim, SIM_BLOCKS);
	for (unsigned i = 0; i < sim->blocks; i++) {
		struct sim_block *b = &sim->block[i];
		uint64_t size = one_of(sim, sizes, 5), group;

		b->pages = 1 + sim_pick(sim, 64);
		if (sim_one_in(sim, 60)) {
			size = SIM_HUGE;
			b->pages = 1 + sim_pick(sim, 2 * 512);
		}
		group = size / TARGET_PAGE;
		b->pages = (b->pages + group - 1) / group * group;
		b->source.page_size = size;
		b->dest.page_size = sim_one_in(sim, 4) ? TARGET_PAGE : size;
		b->source.length = b->dest.length = b->pages * TARGET_PAGE;
		snprintf(b->source.name, sizeof(b->source.name), "block%u", i);
		snprintf(b->dest.name, sizeof(b->dest.name), "block%u", i);
	}
}

static inline void plan_failures(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;

	switch (sim_pick(sim, 8)) {
	case 0:
		plan->cancel_step = sim_pick(sim, 2000);
		break;
	case 1:
		plan->device_fails = true;
		break;
	case 2:
		plan->pause_fails = true;
		break;
	default:
		plan->death_step = sim_pick(sim, sim_one_in(sim, 2) ? 300 : 4000);
		plan->death_pipes = 1 + (unsigned)sim_pick(sim, 3);
		plan->death_silent = sim_one_in(sim, 3);
		break;
	}
}

/* Breaks are for behind the switch: that has to be reached. */
static inline void plan_breaks(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;

	plan->recovers = true;
	plan->breaks_left = 1 + (unsigned)sim_pick(sim, 4);
	plan->death_silent = sim_one_in(sim, 12);
	plan->postcopy = plan->return_path = true;
	plan->urgent = (enum wh_urgent)sim_pick(sim, 3);
	plan->want_step = sim_pick(sim, 200);
	plan->downtime_ns = 1;
}

/*
 * An agent dies once or more, most often behind the switch, and links break as well; who
 * has one removes nothing, and has pages copied. Anybody else dies once, at any time.
 */
static inline void plan_kills(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;

	plan->kills_left = 1;
	plan->victim = (enum sim_victim)sim_pick(sim, 4);
	plan->death_silent = sim_one_in(sim, 4);
	if (plan->victim >= SIM_THE_AGENT) {
		plan->victim = SIM_THE_AGENT;
		plan_breaks(sim);
		plan->breaks_left = (unsigned)sim_pick(sim, 3);
		plan->kills_left = 1 + (unsigned)sim_pick(sim, 3);
		plan->alias = plan->removes = false;
		if (sim_one_in(sim, 6)) {
			plan->want_step = SIM_NEVER;
			plan->postcopy_after_ns = 0;
		}
		if (!sim_one_in(sim, 4))
			return;
	}
	kill_plan(sim);
}

static inline void make_plan(struct sim *sim, enum sim_mode mode)
{
	static const uint64_t limits[] = { 0, 0, 0, 20 << 20, 5 << 20, 100 << 20 };
	static const uint64_t downtimes[] = { 1, 1, 100 * SIM_US, 300 * SIM_MS };
	struct sim_plan *plan = &sim->plan;
	bool broken = mode != SIM_LIVE;

	*plan = (struct sim_plan){
		.mode = mode,
		.want_step = SIM_NEVER,
		.cancel_step = SIM_NEVER,
		.death_step = SIM_NEVER,
	};
	plan->postcopy = !sim_one_in(sim, 4);
	plan->return_path = plan->postcopy || sim_one_in(sim, 2);
	plan->urgent = plan->postcopy ? (enum wh_urgent)sim_pick(sim, 3) : WH_URGENT_OFF;
	plan->urgent_fails = plan->urgent == WH_URGENT_AT_SWITCH && sim_one_in(sim, 6);
	plan->alias = sim_one_in(sim, 2);
	plan->removes = sim_one_in(sim, 4);
	plan->pending = sim_one_in(sim, 3);
	plan->format = sim_one_in(sim, 3) ? WH_DEVICE_QEMU : WH_DEVICE_OWN;
	plan->bandwidth = one_of(sim, limits, 6);
	plan->postcopy_bandwidth = one_of(sim, limits, 6);
	plan->downtime_ns = one_of(sim, downtimes, 4);
	plan->dead_peer_ns = broken ? 2 * SIM_S : PATIENCE_NS;
	plan->urgent_wait_ns = broken ? SIM_S : PATIENCE_NS;
	if (sim_one_in(sim, 2))
		plan->want_step = sim_pick(sim, sim_one_in(sim, 2) ? 40 : 400);
	else if (!sim_one_in(sim, 4))
		plan->postcopy_after_ns = 1 + sim_pick(sim, 3 * SIM_MS);
	plan->chaos = sim_one_in(sim, 2) ? 0 : 1 + (unsigned)sim_pick(sim, 8) + 1;
	plan->writes_left = (unsigned)sim_pick(sim, 1000);
	plan->step_ns = 1 + sim_pick(sim, 20 * SIM_US);
	plan->bite = 1 + sim_pick(sim, sim_one_in(sim, 2) ? 6000 : 100000);
	for (unsigned i = 0; i < SIM_WEIGHTS; i++)
		plan->weight[i] = 1 + (unsigned)sim_pick(sim, 8) * (unsigned)sim_pick(sim, 4);
	plan_blocks(sim);
	if (mode == SIM_DIE)
		plan_failures(sim);
	if (mode == SIM_COME)
		plan_breaks(sim);
	if (mode == SIM_KILL)
		plan_kills(sim);
}

/* One world, used again by every seed: buffers stay, everything else is made new. */

static inline void *buffer(size_t bytes)
{
	void *at = aligned_alloc(TARGET_PAGE, bytes);

	if (!at)
		abort();
	return at;
}

static inline struct sim *sim_new(void)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	size_t words = bits_words(SIM_PAGES_MAX);

	for (unsigned i = 0; i < SIM_BLOCKS; i++) {
		struct sim_block *b = &sim->block[i];

		b->source.addr = buffer(SIM_BLOCK_MAX);
		b->dest.addr = buffer(SIM_BLOCK_MAX);
		b->truth = buffer(SIM_BLOCK_MAX);
		b->dirty = calloc(words, 8);
		b->written = calloc(words, 8);
		b->present = calloc(words, 8);
		b->bitmaps = calloc(3 * words, 8);
		b->asked = calloc(words, 8);
	}
	sim->source.engine = malloc(source_bytes());
	sim->source.reply = malloc(4096 + 64);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		sim->source.sending[i].batch = malloc(sizeof(struct batch));
		sim->dest.inlet[i].bytes = malloc(INTAKE_BYTES);
		sim->dest.stage[i] = buffer(SIM_STAGE);
	}
	return sim;
}

static inline void sim_free(struct sim *sim)
{
	for (unsigned i = 0; i < SIM_BLOCKS; i++) {
		free(sim->block[i].source.addr);
		free(sim->block[i].dest.addr);
		free(sim->block[i].truth);
		free(sim->block[i].dirty);
		free(sim->block[i].written);
		free(sim->block[i].present);
		free(sim->block[i].bitmaps);
		free(sim->block[i].asked);
	}
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		free(sim->source.sending[i].batch);
		free(sim->dest.inlet[i].bytes);
		free(sim->dest.stage[i]);
	}
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		free(sim->pipe[i].bytes);
	free(sim->source.engine);
	free(sim->source.reply);
	free(sim->dest.buffer);
	free(sim);
}

static inline void reset_block(struct sim *sim, unsigned i)
{
	struct sim_block *b = &sim->block[i];
	size_t words = bits_words(b->pages), bytes = b->pages * TARGET_PAGE;

	memset(b->written, 0, words * 8);
	memset(b->present, 0, words * 8);
	memset(b->bitmaps, 0, 3 * words * 8);
	memset(b->asked, 0, words * 8);
	memset(b->source.addr, 0, bytes);
	memset(b->truth, 0, bytes);
	/* what lies there from before has to go */
	memset(b->dest.addr, 0xee, bytes);
	/* of a large block most stays zero, which is fast */
	for (uint64_t page = 0; page < b->pages; page++)
		if (b->pages <= 64 ? !sim_one_in(sim, 3) : sim_one_in(sim, 16))
			guest_write(sim, source_page(sim, i, page), truth_page(sim, i, page));
}

static inline void reset(struct sim *sim, uint64_t seed, enum sim_mode mode)
{
	struct sim_source *source = &sim->source;
	struct sim_dest *dest = &sim->dest;

	sim->seed = seed;
	sim->random = mode == SIM_COME ? ~seed : mode == SIM_KILL ? seed << 24 : seed * 2 + mode;
	sim->failed = false;
	sim->now_ns = SIM_S;
	sim->step = 0;
	sim->dead = false;
	sim->source_runs = true;
	sim->dest_runs = false;
	sim->faults = sim->reads = sim->writes = sim->removals = 0;
	sim->breaks = (struct sim_break){ 0 };
	sim->kill = (struct sim_kill){ 0 };
	make_plan(sim, mode);
	for (unsigned i = 0; i < sim->blocks; i++)
		reset_block(sim, i);
	for (unsigned i = 0; i < PIPE_COUNT; i++)
		pipe_reset(&sim->pipe[i]);
	for (unsigned i = 0; i < SIM_VCPUS; i++)
		sim->vcpu[i] = (struct vcpu){ .tid = 100 + i };
	*source = (struct sim_source){
		.engine = source->engine,
		.reply = source->reply,
		.sending = { { .batch = source->sending[0].batch },
			     { .batch = source->sending[1].batch } },
	};
	dest->armed = dest->disarmed = dest->started = dest->loaded = dest->closed = false;
	dest->wake_ns = 0;
	dest->last_pages = dest->messages = dest->changing = dest->faults = 0;
	dest->parked = dest->listening = dest->waiting = dest->announces = dest->shut = false;
	dest->recoveries = dest->handshakes_broken = 0;
	dest->dead = dest->orphan = false;
	dest->deaths = dest->adopted = 0;
	dest->agent = SIM_BEGUN;

	pipes_open(sim, true);
	dest_side_begin(sim);
	source_side_begin(sim);
}

#endif /* SELFTESTS_SIM_PLAN_H */
