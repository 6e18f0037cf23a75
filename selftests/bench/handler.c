/* SPDX-License-Identifier: MIT */
/*
 * Where the thread that serves faults is best put, and whether it pays to let it poll: a
 * toucher on the first processor, nothing else under way. Beside the times stands what
 * processor time the destination used for each fault. Both ways of the floor: its thread goes
 * to where faults come from, as the library's does by default, or is left to the scheduler.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOUCHES 4000

static const struct way {
	const char *name;
	const struct bench_kind *kind;
	int cpu; /* of the fault thread */
	uint64_t spin_ns;
} ways[] = {
	{ "floor", &bench_floor, BENCH_CPU_FOLLOW, 0 },
	{ "floor, left alone", &bench_floor, BENCH_CPU_ANY, 0 },
	{ "wherry", &bench_wherry, BENCH_CPU_FOLLOW, 0 },
	{ "wherry, polling 50 us", &bench_wherry, BENCH_CPU_FOLLOW, 50000 },
	{ "left alone", &bench_wherry, BENCH_CPU_ANY, 0 },
	{ "left alone, polling 50 us", &bench_wherry, BENCH_CPU_ANY, 50000 },
	{ "same processor", &bench_wherry, 0, 0 },
	{ "same, polling 50 us", &bench_wherry, 0, 50000 },
	{ "another processor", &bench_wherry, 1, 0 },
	{ "another, polling 50 us", &bench_wherry, 1, 50000 },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static double touched[TOUCHES];

struct results {
	struct bench_row p50[WAYS];
	struct bench_row p99[WAYS];
	struct bench_row cpu[WAYS];
};

static void run(const struct bench *bench, struct results *results, unsigned way,
		const struct bench_load *load, unsigned round)
{
	size_t most = bench->quick ? TOUCHES / 4 : TOUCHES, count;
	struct bench_load own = *load;
	uint64_t cpu_ns;
	struct bench_side side;

	own.fault_cpu = ways[way].cpu;
	own.spin_ns = ways[way].spin_ns;
	if (own.fault_cpu >= (int)sysconf(_SC_NPROCESSORS_ONLN)) {
		snprintf(results->p50[way].why, sizeof(results->p50[way].why), "there is but one");
		return;
	}
	if (bench_start(&side, ways[way].kind, &own) == 0) {
		bench_pin(0);
		if (bench_go(&side) == 0) {
			cpu_ns = bench_cpu_ns(side.dest);
			count = bench_touch_remotely(&side, touched, most, round + 1);
			cpu_ns = bench_cpu_ns(side.dest) - cpu_ns;
			if (count == most) {
				bench_add(&results->cpu[way], (double)cpu_ns / 1e3 / (double)count);
				bench_add(&results->p50[way], bench_quantile(touched, count, 0.5));
				bench_add(&results->p99[way], bench_quantile(touched, count, 0.99));
			}
		}
		bench_stop(&side);
	}
	snprintf(results->p50[way].why, sizeof(results->p50[way].why), "%s", side.why);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	const char *variant = load->tcp ? "TCP" : "unix";
	struct results results = { 0 };

	for (unsigned i = 0; i < WAYS; i++)
		results.p50[i].side = results.p99[i].side = results.cpu[i].side = ways[i].name;
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < WAYS; i++)
			if (bench_wants(bench, ways[i].name))
				run(bench, &results, i, load, round);
	for (unsigned i = 0; i < WAYS; i++) {
		memcpy(results.p99[i].why, results.p50[i].why, sizeof(results.p99[i].why));
		memcpy(results.cpu[i].why, results.p50[i].why, sizeof(results.cpu[i].why));
	}
	bench_print(bench, BENCH_HANDLER_P50, variant, results.p50, WAYS);
	bench_print(bench, BENCH_HANDLER_P99, variant, results.p99, WAYS);
	bench_print(bench, BENCH_HANDLER_CPU, variant, results.cpu, WAYS);
}

int main(int argc, char **argv)
{
	struct bench bench;

	bench_begin(&bench, "handler", argc, argv);
	for (int tcp = 0; tcp < 2; tcp++) {
		struct bench_load load = bench_load_default;

		load.bulk = false;
		load.tcp = tcp;
		load.bytes = bench.bytes;
		bench_part(1, bench.link ? 1 : 2 - (unsigned)tcp);
		if (bench_chosen(bench.link, tcp ? "tcp" : "unix"))
			measure(&bench, &load);
	}
	return 0;
}
