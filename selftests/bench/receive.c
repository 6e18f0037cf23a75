/* SPDX-License-Identifier: MIT */
/*
 * A QEMU's RAM by multifd, into another QEMU and into the library: how fast, and what processor
 * time the destination takes for it. The source is the same for both. Warm is memory that was in use
 * just now; cold is what the host has to back first, at whatever that costs it.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/memory.h"

#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define CHANNELS 4
#define SIDES 2
/* What an aim is about is measured more often */
#define WARM_WEIGHT 4

static const struct {
	const char *name;
	const struct bench_kind *kind;
} sides[SIDES] = {
	{ "QEMU 7.2", &bench_qemu },
	{ "wherry", &bench_from_qemu },
};

static void attempt(unsigned which, const struct bench_load *load, struct bench_row *rate,
		    struct bench_row *cpu)
{
	struct bench_side side;

	if (bench_start(&side, sides[which].kind, load) == 0) {
		if (bench_go(&side) == 0 && bench_done(&side) == 0) {
			bench_add(rate, bench_rate(&side));
			bench_add(cpu, bench_dest_cpu_s(&side) / ((double)load->bytes / (1 << 30)));
		}
		bench_stop(&side);
	}
	if (!side.why[0])
		return;
	/* a table with other rounds in it has no room for that */
	fprintf(stderr, "receive: a round of %s came to nothing: %s\n", sides[which].name,
		side.why);
	snprintf(rate->why, sizeof(rate->why), "%s", side.why);
	memcpy(cpu->why, rate->why, sizeof(cpu->why));
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	struct bench_row rate[SIDES] = { 0 }, cpu[SIDES] = { 0 };
	char variant[128];

	for (unsigned i = 0; i < SIDES; i++)
		rate[i].side = cpu[i].side = sides[i].name;
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < SIDES; i++)
			if (bench_wants(bench, sides[i].name))
				attempt(i, load, &rate[i], &cpu[i]);
	snprintf(variant, sizeof(variant), "%llu MiB of %s, %s, %s",
		 (unsigned long long)(load->bytes / MIB), bench_memory_name(load->memory),
		 load->tcp ? "TCP" : "unix", load->cold ? "cold" : "warm");
	bench_print(bench, BENCH_RECEIVE_RATE, variant, rate, SIDES);
	bench_print(bench, BENCH_RECEIVE_CPU, variant, cpu, SIDES);
}

/* Of hugetlb no page is cold: the pool has been touched */
static const struct {
	enum bench_memory memory;
	bool tcp;
	bool cold;
} kinds[] = {
	{ BENCH_ANON, false, false },	 { BENCH_ANON, true, false },
	{ BENCH_ANON, false, true },	 { BENCH_ANON, true, true },
	{ BENCH_MEMFD, false, false },	 { BENCH_MEMFD, true, false },
	{ BENCH_MEMFD, false, true },	 { BENCH_MEMFD, true, true },
	{ BENCH_HUGETLB, false, false },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static unsigned weight(size_t kind)
{
	return kinds[kind].cold ? 1 : WARM_WEIGHT;
}

static bool wanted(const struct bench *bench, size_t i)
{
	return bench_chosen(bench->memory, bench_memory_key(kinds[i].memory)) &&
	       bench_chosen(bench->link, kinds[i].tcp ? "tcp" : "unix") &&
	       bench_chosen(bench->load, kinds[i].cold ? "cold" : "warm");
}

int main(int argc, char **argv)
{
	struct huge_pages huge_pages = { .hold = -1 };
	struct bench bench;
	unsigned left = 0;

	bench_begin(&bench, "receive", argc, argv);
	for (size_t i = 0; i < KINDS; i++)
		left += wanted(&bench, i) ? weight(i) : 0;
	for (size_t i = 0; i < KINDS; i++) {
		struct bench_load load = bench_load_default;

		if (!wanted(&bench, i) ||
		    (kinds[i].memory == BENCH_HUGETLB && !bench_pool(&huge_pages, bench.bytes)))
			continue;
		load.postcopy = false;
		load.channels = CHANNELS;
		load.bytes = bench.bytes;
		load.tcp = kinds[i].tcp;
		load.cold = kinds[i].cold;
		load.memory = kinds[i].memory;
		bench_part(weight(i), left);
		measure(&bench, &load);
		left -= weight(i);
	}
	huge_pages_drop(&huge_pages);
	return 0;
}
