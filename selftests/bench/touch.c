/* SPDX-License-Identifier: MIT */
/*
 * A guest that touches all of its memory at once, at random: threads of the destination
 * go over all pages while they stream. The time until each page was touched; how many they
 * get on with beside what they do when no page comes but those; the rate of the bulk beside
 * that without a toucher; and what a touch that waited took.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"

#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define TOUCHES_IDLE 20000

enum role {
	TOUCHED,
	UNTOUCHED, /* pages stream, and nobody wants one */
	IDLE,	   /* no page comes but those that are touched, some thousand of them */
};

static const struct way {
	const char *name;
	const struct bench_kind *kind;
	enum role role;
} ways[] = {
	{ "floor", &bench_floor, TOUCHED },
	{ "wherry", &bench_wherry, TOUCHED },
	{ "floor, untouched", &bench_floor, UNTOUCHED },
	{ "wherry, untouched", &bench_wherry, UNTOUCHED },
	{ "floor, idle", &bench_floor, IDLE },
	{ "wherry, idle", &bench_wherry, IDLE },
	{ "QEMU 7.2", NULL, TOUCHED },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

struct results {
	struct bench_row time[WAYS];
	struct bench_row rate[WAYS];
	struct bench_row speed[WAYS];
	struct bench_row p50[WAYS];
	struct bench_row p99[WAYS];
};

static int measure_one(struct results *results, unsigned way, struct bench_side *side)
{
	const struct bench_shared *shared = side->shared;
	const struct bench_load *load = side->load;
	double seconds;

	if (bench_go(side) < 0 || (load->bulk && bench_done(side) < 0))
		return -1;
	if (load->bulk)
		bench_add(&results->rate[way], bench_rate(side));
	if (!load->touchers)
		return 0;
	if (bench_wait(side, &shared->touched_ns) < 0)
		return -1;
	seconds = (double)(shared->touched_ns - shared->postcopy_ns) / 1e9;
	bench_add(&results->speed[way],
		  (double)(load->touches ? load->touches : load->bytes / 4096) / seconds / 1e3);
	bench_add(&results->p50[way], (double)shared->touch_p50_ns / 1e3);
	bench_add(&results->p99[way], (double)shared->touch_p99_ns / 1e3);
	if (load->bulk)
		bench_add(&results->time[way], seconds);
	return 0;
}

static void run(struct results *results, unsigned way, const struct bench_load *load)
{
	struct bench_row *row = &results->time[way];
	struct bench_load own = *load;
	struct bench_side side;

	if (!ways[way].kind) {
		snprintf(row->why, sizeof(row->why), "it has no threads of ours to touch pages");
		return;
	}
	own.touchers = ways[way].role == UNTOUCHED ? 0 : load->touchers;
	own.bulk = ways[way].role != IDLE;
	own.touches = ways[way].role == IDLE ? TOUCHES_IDLE : 0;
	if (bench_start(&side, ways[way].kind, &own) == 0) {
		measure_one(results, way, &side);
		bench_stop(&side);
	}
	snprintf(row->why, sizeof(row->why), "%s", side.why);
}

static void print(const struct bench *bench, enum bench_measure measure, const char *variant,
		  const struct bench_row *from, unsigned roles, const struct results *results)
{
	struct bench_row rows[WAYS];
	unsigned count = 0;

	for (unsigned i = 0; i < WAYS; i++) {
		if (!(roles & 1U << ways[i].role))
			continue;
		rows[count] = from[i];
		rows[count].side = ways[i].name;
		memcpy(rows[count++].why, results->time[i].why, sizeof(rows[0].why));
	}
	bench_print(bench, measure, variant, rows, count);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	unsigned touched = 1U << TOUCHED, idle = 1U << IDLE, untouched = 1U << UNTOUCHED;
	static struct results results;
	char variant[128], size[32];

	memset(&results, 0, sizeof(results));
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < WAYS; i++)
			if (bench_wants(bench, ways[i].name))
				run(&results, i, load);
	if (load->bytes % (1024 * MIB))
		snprintf(size, sizeof(size), "%llu MiB", (unsigned long long)(load->bytes / MIB));
	else
		snprintf(size, sizeof(size), "%llu GiB",
			 (unsigned long long)(load->bytes / MIB / 1024));
	snprintf(variant, sizeof(variant), "%s of %s, %u toucher%s, %s", size,
		 bench_memory_name(load->memory), load->touchers, load->touchers > 1 ? "s" : "",
		 load->tcp ? "TCP" : "unix");
	print(bench, BENCH_TOUCH_TIME, variant, results.time, touched, &results);
	print(bench, BENCH_TOUCH_SPEED, variant, results.speed, touched | idle, &results);
	print(bench, BENCH_TOUCH_RATE, variant, results.rate, touched | untouched, &results);
	print(bench, BENCH_TOUCH_P50, variant, results.p50, touched | idle, &results);
	print(bench, BENCH_TOUCH_P99, variant, results.p99, touched | idle, &results);
}

static bool wanted(const struct bench *bench, const struct bench_load *load)
{
	/* What differs less, only when it is asked for */
	if (!bench->memory && load->memory != BENCH_ANON && (bench->quick || load->tcp))
		return false;
	if (bench->quick && !bench->link && load->tcp && load->touchers == 1)
		return false;
	return bench_chosen(bench->link, load->tcp ? "tcp" : "unix") &&
	       bench_chosen(bench->memory, bench_memory_key(load->memory));
}

int main(int argc, char **argv)
{
	struct bench_load loads[8];
	unsigned count = 0;
	struct bench bench;

	bench_begin(&bench, "touch", argc, argv);
	for (int i = 0; i < 8; i++) {
		struct bench_load load = bench_load_default;

		load.tcp = i & 1;
		load.touchers = i & 2 ? 8 : 1;
		load.memory = i & 4 ? BENCH_MEMFD : BENCH_ANON;
		load.bytes = bench.bytes;
		if (wanted(&bench, &load))
			loads[count++] = load;
	}
	for (unsigned i = 0; i < count; i++) {
		bench_part(1, count - i);
		measure(&bench, &loads[i]);
	}
	return 0;
}
