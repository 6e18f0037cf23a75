/* SPDX-License-Identifier: MIT */
/*
 * What a missing page costs that is fetched from another process: from the touch to the
 * byte. All sides are touched the same way, by process_vm_readv() into the destination,
 * which faults there as a vCPU in the kernel does; only pages that are still missing
 * count (/proc/PID/pagemap).
 *
 * Idle: no page comes but those that are asked for; the floor and ours are there at the same
 * time and take turns page by page, since from one second to the next the machine may be half
 * as fast again. Bulk: all others come meanwhile, as fast as they can, until none is missing.
 * Threads are left to the scheduler, or the toucher and both ends are all on one processor; the
 * floor's as ours.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/qemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)
#define IDLE_BYTES (256 * MIB) /* there are several at once, and few pages of it come */
#define TOUCHES_IDLE 4000
#define TOUCHES_MAX 20000
#define TOUCHES_MIN 20 /* from so many on there are quantiles */
#define CURVE 200

enum role {
	TOUCHED,      /* with the load that is measured */
	TOUCHED_IDLE, /* without any, for the ratio */
	ALONE,	      /* bulk, and nobody touches anything */
	ROLE_COUNT
};

struct way {
	const char *name;
	const struct bench_kind *kind;
	enum role role;
	bool one_channel;
	uint64_t spin_ns;
	bool qemu_10;
	bool ours_only; /* another way of ours, which no aim is about */
};

static const struct way ways[] = {
	{ .name = "floor", .kind = &bench_floor },
	{ .name = "wherry", .kind = &bench_wherry },
	{ .name = "wherry, polling 50 us",
	  .kind = &bench_wherry,
	  .spin_ns = 50000,
	  .ours_only = true },
	{ .name = "wherry, no urgent channel",
	  .kind = &bench_wherry,
	  .one_channel = true,
	  .ours_only = true },
	{ .name = "QEMU 7.2, preempt", .kind = &bench_qemu },
	{ .name = "QEMU 7.2", .kind = &bench_qemu, .one_channel = true },
	{ .name = "QEMU 10.0, preempt", .kind = &bench_qemu, .qemu_10 = true },
	{ .name = "floor, idle", .kind = &bench_floor, .role = TOUCHED_IDLE },
	{ .name = "wherry, idle", .kind = &bench_wherry, .role = TOUCHED_IDLE },
	{ .name = "floor, alone", .kind = &bench_floor, .role = ALONE },
	{ .name = "wherry, alone", .kind = &bench_wherry, .role = ALONE },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* All touches of a way, of all rounds, for the curve */
struct pool {
	size_t count;
	double *us;
};

struct results {
	struct bench_row p50[WAYS];
	struct bench_row p99[WAYS];
	struct bench_row rate[WAYS];
	struct bench_row service[2][WAYS];
	struct pool pool[WAYS];
};

static double touched[TOUCHES_MAX];

static void pool_add(struct pool *pool, const double *us, size_t count)
{
	double *more = realloc(pool->us, (pool->count + count) * sizeof(*more));

	if (!more)
		return;
	memcpy(more + pool->count, us, count * sizeof(*more));
	pool->us = more;
	pool->count += count;
}

/* What the source's own books say; ours are told now and then */
static void add_service(struct results *results, unsigned way, const struct bench_side *side)
{
	const struct timespec until_told = { .tv_nsec = 50000000 };
	const struct bench_shared *shared = side->shared;
	bool floor = ways[way].kind == &bench_floor;
	uint64_t p50_ns, p99_ns;

	if (ways[way].kind == &bench_qemu)
		return;
	nanosleep(&until_told, NULL);
	p50_ns = floor ? hist_quantile(&shared->served, 500) : shared->source_p50_ns;
	p99_ns = floor ? hist_quantile(&shared->served, 990) : shared->source_p99_ns;
	if (!p99_ns)
		return;
	bench_add(&results->service[0][way], (double)p50_ns / 1e3);
	bench_add(&results->service[1][way], (double)p99_ns / 1e3);
}

/* What was touched of one way, in one round; why not */
static void add_touches(struct results *results, unsigned way, double *us, size_t count,
			struct bench_side *side)
{
	if (count < TOUCHES_MIN) {
		snprintf(side->why, sizeof(side->why), "only %zu pages were missing", count);
		return;
	}
	pool_add(&results->pool[way], us, count);
	bench_add(&results->p50[way], bench_quantile(us, count, 0.50));
	bench_add(&results->p99[way], bench_quantile(us, count, 0.99));
}

static size_t most_idle(const struct bench *bench)
{
	return bench->quick ? TOUCHES_IDLE / 4 : TOUCHES_IDLE;
}

static int run(const struct bench *bench, struct results *results, unsigned way,
	       struct bench_side *side, unsigned round)
{
	const struct bench_load *load = side->load;
	size_t most = load->bulk ? TOUCHES_MAX : most_idle(bench);

	if (bench_go(side) < 0)
		return -1;
	if (ways[way].role != ALONE) {
		size_t count = bench_touch_remotely(side, touched, most, round + 1);

		add_service(results, way, side);
		add_touches(results, way, touched, count, side);
	}
	if (load->bulk && bench_done(side) < 0)
		return -1;
	if (load->bulk)
		bench_add(&results->rate[way], bench_rate(side));
	return 0;
}

static void say_why(struct results *results, unsigned way, const struct bench_side *side)
{
	snprintf(results->p50[way].why, sizeof(results->p50[way].why), "%s", side->why);
}

static bool left_out(const struct bench *bench, struct results *results, unsigned way)
{
	if (!bench->quick || !ways[way].ours_only)
		return false;
	snprintf(results->p50[way].why, sizeof(results->p50[way].why), "left out by --quick");
	return true;
}

/* With nothing else under way: side by side with others. A QEMU has things of its own to do */
static bool takes_turns(const struct bench *bench, struct results *results, unsigned way)
{
	return ways[way].kind != &bench_qemu && ways[way].role == TOUCHED &&
	       bench_wants(bench, ways[way].name) && !left_out(bench, results, way);
}

/* Those that are up, one page of each in turn */
static void touch_in_turn(struct results *results, struct bench_side *side, const bool *up,
			  size_t most, unsigned round)
{
	static double us[WAYS][TOUCHES_IDLE];
	struct bench_toucher toucher[WAYS];
	size_t count[WAYS] = { 0 };

	for (unsigned i = 0; i < WAYS; i++)
		if (up[i])
			bench_toucher_open(&toucher[i], &side[i], round + 1);
	for (size_t at = 0; at < most; at++)
		for (unsigned i = 0; i < WAYS; i++) {
			double next =
				up[i] && count[i] == at ? bench_toucher_next(&toucher[i]) : -1;

			if (next >= 0)
				us[i][count[i]++] = next;
		}
	for (unsigned i = 0; i < WAYS; i++) {
		if (!up[i])
			continue;
		bench_toucher_close(&toucher[i]);
		add_touches(results, i, us[i], count[i], &side[i]);
	}
}

/* One round with nothing else under way: of the floor, and of ours */
static void attempt_together(const struct bench *bench, struct results *results,
			     const struct bench_load *load, unsigned round)
{
	struct bench_side side[WAYS];
	struct bench_load own[WAYS];
	bool up[WAYS] = { false };

	for (unsigned i = 0; i < WAYS; i++) {
		if (!takes_turns(bench, results, i))
			continue;
		own[i] = *load;
		own[i].urgent = !ways[i].one_channel;
		own[i].spin_ns = ways[i].spin_ns;
		if (own[i].bytes > IDLE_BYTES)
			own[i].bytes = IDLE_BYTES;
		up[i] = bench_start(&side[i], ways[i].kind, &own[i]) == 0;
		if (!up[i])
			say_why(results, i, &side[i]);
	}
	for (unsigned i = 0; i < WAYS; i++)
		if (up[i] && bench_go(&side[i]) < 0) {
			say_why(results, i, &side[i]);
			bench_stop(&side[i]);
			up[i] = false;
		}
	if (load->cpu != BENCH_CPU_ANY)
		bench_pin(load->cpu); /* one that has failed has undone it */
	touch_in_turn(results, side, up, most_idle(bench), round);
	for (unsigned i = 0; i < WAYS; i++)
		if (up[i]) {
			say_why(results, i, &side[i]);
			bench_stop(&side[i]);
		}
}

/* One round of one way; why not, if it cannot be had */
static void attempt(const struct bench *bench, struct results *results, unsigned way,
		    const struct bench_load *load, unsigned round)
{
	struct bench_load own = *load;
	struct bench_side side;

	own.urgent = !ways[way].one_channel;
	own.spin_ns = ways[way].spin_ns;
	own.bulk = load->bulk && ways[way].role != TOUCHED_IDLE;
	if (ways[way].kind == &bench_qemu && !ways[way].qemu_10 && !load->bulk) {
		snprintf(results->p50[way].why, sizeof(results->p50[way].why),
			 "what limits its background pages holds back requested ones");
		return;
	}
	if (left_out(bench, results, way))
		return;
	if (ways[way].qemu_10) {
		own.qemu = qemu_program(QEMU_10_0, results->p50[way].why,
					sizeof(results->p50[way].why));
		if (!own.qemu)
			return;
	}
	if (bench_start(&side, ways[way].kind, &own) == 0) {
		run(bench, results, way, &side, round);
		bench_stop(&side);
	}
	say_why(results, way, &side);
}

static void draw(const struct bench *bench, struct results *results, const char *variant)
{
	double points[CURVE][2];

	for (unsigned i = 0; i < WAYS; i++) {
		struct pool *pool = &results->pool[i];

		for (unsigned at = 0; at < CURVE && pool->count; at++) {
			points[at][1] = ((double)at + 0.5) / CURVE;
			points[at][0] = bench_quantile(pool->us, pool->count, points[at][1]);
		}
		if (pool->count)
			bench_curve(bench, "latency", variant, ways[i].name, points, CURVE);
		free(pool->us);
	}
}

/* Rows that there are for this load; those of one table stand together */
static void print(const struct bench *bench, enum bench_measure measure, const char *variant,
		  const struct results *results, const struct bench_row *from, unsigned roles)
{
	struct bench_row rows[WAYS];
	unsigned count = 0;

	for (unsigned i = 0; i < WAYS; i++) {
		if (!(roles & 1U << ways[i].role))
			continue;
		if (from == results->service[0] || from == results->service[1])
			if (ways[i].kind == &bench_qemu || ways[i].spin_ns)
				continue;
		rows[count] = from[i];
		memcpy(rows[count].why, results->p50[i].why, sizeof(rows[count].why));
		count++;
	}
	bench_print(bench, measure, variant, rows, count);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	unsigned roles = load->bulk ? 1U << TOUCHED | 1U << TOUCHED_IDLE : 1U << TOUCHED;
	static struct results results;
	char variant[128];

	memset(&results, 0, sizeof(results));
	for (unsigned i = 0; i < WAYS; i++) {
		results.p50[i].side = results.p99[i].side = ways[i].name;
		results.rate[i].side = ways[i].name;
		results.service[0][i].side = results.service[1][i].side = ways[i].name;
	}
	/* Sides take turns, so that what the machine does besides meets all of them */
	for (unsigned round = 0; bench_again(round); round++) {
		if (!load->bulk)
			attempt_together(bench, &results, load, round);
		for (unsigned i = 0; i < WAYS; i++)
			if ((load->bulk || ways[i].kind == &bench_qemu) &&
			    bench_wants(bench, ways[i].name))
				attempt(bench, &results, i, load, round);
	}
	snprintf(variant, sizeof(variant), "%s, %s", load->tcp ? "TCP" : "unix",
		 load->cpu < 0 ? "left to the scheduler" : "all on one processor");
	print(bench, load->bulk ? BENCH_FAULT_BULK_P50 : BENCH_FAULT_IDLE_P50, variant, &results,
	      results.p50, roles);
	print(bench, load->bulk ? BENCH_FAULT_BULK_P99 : BENCH_FAULT_IDLE_P99, variant, &results,
	      results.p99, roles);
	if (load->bulk) {
		print(bench, BENCH_FAULT_BULK_RATE, variant, &results, results.rate,
		      1U << TOUCHED | 1U << ALONE);
		print(bench, BENCH_SERVICE_P50, variant, &results, results.service[0], roles);
		print(bench, BENCH_SERVICE_P99, variant, &results, results.service[1], roles);
	}
	snprintf(variant + strlen(variant), sizeof(variant) - strlen(variant), ", %s",
		 load->bulk ? "bulk saturated" : "idle");
	draw(bench, &results, variant);
}

static bool wanted(const struct bench *bench, const struct bench_load *load)
{
	/* Both ends' work on one processor is another load, not another place */
	if (load->bulk && load->cpu >= 0)
		return false;
	if (bench->quick && !bench->cores && load->cpu >= 0)
		return false;
	return bench_chosen(bench->link, load->tcp ? "tcp" : "unix") &&
	       bench_chosen(bench->load, load->bulk ? "bulk" : "idle") &&
	       bench_chosen(bench->cores, load->cpu < 0 ? "any" : "one");
}

/* About as many as there are sides */
static unsigned weight(const struct bench_load *load)
{
	return load->bulk ? WAYS : 5;
}

int main(int argc, char **argv)
{
	struct bench_load loads[8];
	unsigned count = 0, left = 0;
	struct bench bench;

	bench_begin(&bench, "fault", argc, argv);
	for (int i = 0; i < 8; i++) {
		struct bench_load load = bench_load_default;

		load.tcp = i & 1;
		load.bulk = i & 2;
		load.cpu = i & 4 ? 0 : BENCH_CPU_ANY;
		load.bytes = bench.bytes;
		if (wanted(&bench, &load)) {
			loads[count++] = load;
			left += weight(&load);
		}
	}
	for (unsigned i = 0; i < count; i++) {
		bench_part(weight(&loads[i]), left);
		measure(&bench, &loads[i]);
		left -= weight(&loads[i]);
	}
	return 0;
}
