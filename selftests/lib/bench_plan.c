/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: how much of everything there is, and what time it may take.
 *
 * A program has so many seconds. Its comparisons share what is left of them, by their weight; one
 * more round of a comparison is begun if, going by those before, it still fits into its share; the
 * first always, unless all is much later than planned. The table says when there were fewer.
 */
#include "base/clock.h"
#include "selftests/lib/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define MIB (UINT64_C(1) << 20)
#define LATE_S 20

/**
 * struct plan - A program's
 * @what:	Its comparisons
 * @times:	The machine has free memory for so many of the RAM, or the RAM is made smaller
 * @mib:	RAM; where there are several sizes, the largest
 */
struct plan {
	const char *program;
	const char *what;
	unsigned times;
	struct {
		unsigned seconds;
		unsigned rounds;
		unsigned mib;
	} full, quick;
};

/* clang-format off */
static const struct plan plans[] = {
	/* Seconds, rounds, MiB; and those of --quick */
	{ "bulk",    "5 sides: 4 kinds of memory, 2 phases, 2 links; large: 3 sides", 3,
	  {  900,  3,  4096 }, { 30, 1,  256 } },
	{ "criu",    "3 sides: 1 toucher", 3,
	  {   20,  3,  1024 }, {  3, 1,  256 } },
	{ "dirty",   "3 sides: 4 densities", 2,
	  {   56,  7,  4096 }, {  6, 2,  512 } },
	{ "fault",   "11 sides: idle and bulk, 2 links, 2 places", 3,
	  {  360,  5,  1024 }, { 24, 1,  256 } },
	{ "handler", "10 sides: 2 links", 3,
	  {   60,  3,   256 }, {  8, 1,  128 } },
	{ "hold",    "4 rates; 5 MiB each time; 2 intervals; 1 and 8 NICs, 2 edges", 4,
	  {   75,  3,   256 }, { 12, 1,   64 } },
	{ "hops",    "2 sides: 2 links, 2 places", 3,
	  {   40,  5,   256 }, {  3, 1,  256 } },
	{ "placing", "5 ways: 5 kinds of memory, 3 lengths", 4,
	  {   48,  5,    64 }, {  7, 1,   64 } },
	{ "protect", "3 sides: 5 sizes; 6 packings", 4,
	  {   24, 15,  1024 }, {  5, 3,  256 } },
	{ "rdma",    "4 sides over soft-RoCE, in a VM: by chunks, with zeros, pinned; 7 faults; 2 checkpoints", 3,
	  {  120,  3,   128 }, { 40, 1,   32 } },
	{ "receive", "2 destinations of a QEMU's multifd: 3 kinds of memory, warm and cold, 2 links", 3,
	  {   64, 15,   512 }, {  6, 1,  256 } },
	{ "recover", "a broken link, 2 links; 2 bitmaps", 2,
	  {   20, 25,  4096 }, {  2, 5,  512 } },
	{ "restore", "6 sides: 1 GiB and the largest", 5,
	  {  180,  3,  4096 }, {  6, 1,  256 } },
	{ "scale",   "2 sides: sizes in 2 phases; 4 sides: threads on 2 links", 1,
	  {  300,  3, 16384 }, { 16, 1,  512 } },
	{ "touch",   "7 sides: 1 and 8 touchers, 2 links; memfd", 3,
	  {  150,  2,  1024 }, { 16, 1,  128 } },
	{ "walk",    "12 walks; digests beside a stream", 3,
	  {   40,  9,  1024 }, {  5, 5,  256 } },
};
/* clang-format on */

#define PLANS (sizeof(plans) / sizeof(plans[0]))

static struct {
	uint64_t begin_ns;
	uint64_t seconds;
	unsigned rounds;
	bool asked; /* for so many rounds: then there are so many */
	uint64_t part_begin_ns;
	uint64_t part_ns;
	bool fewer; /* rounds than planned: so many */
	unsigned done;
} budget;

void bench_plan_print(bool quick)
{
	unsigned sum = 0;

	printf("%-8s %6s %6s %6s\n", "program", "s", "rounds", "MiB");
	for (size_t i = 0; i < PLANS; i++) {
		const struct plan *plan = &plans[i];
		unsigned seconds = quick ? plan->quick.seconds : plan->full.seconds;

		printf("%-8s %6u %6u %6u  %s\n", plan->program, seconds,
		       quick ? plan->quick.rounds : plan->full.rounds,
		       quick ? plan->quick.mib : plan->full.mib, plan->what);
		sum += seconds;
	}
	printf("%-8s %6u  and what building takes\n", "all", sum);
}

static uint64_t free_bytes(void)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ? 0 : (uint64_t)info.freeram * info.mem_unit;
}

void bench_plan_begin(struct bench *bench)
{
	const struct plan *plan = plans;
	uint64_t have = free_bytes();
	unsigned mib;

	while (strcmp(plan->program, bench->program) != 0)
		if (++plan == plans + PLANS)
			abort();
	bench->sized = bench->bytes;
	mib = bench->quick ? plan->quick.mib : plan->full.mib;
	while (!bench->bytes && mib > 64 && mib * MIB * plan->times > have)
		mib /= 2;
	if (!bench->sized && mib != (bench->quick ? plan->quick.mib : plan->full.mib))
		printf("  RAM of %u MiB instead of %u: %.1f GiB are free\n", mib,
		       bench->quick ? plan->quick.mib : plan->full.mib, (double)have / (1 << 30));
	if (!bench->sized)
		bench->bytes = mib * MIB;
	budget.asked = bench->rounds;
	budget.rounds = bench->rounds ? bench->rounds :
			bench->quick  ? plan->quick.rounds :
					plan->full.rounds;
	budget.seconds = bench->seconds ? bench->seconds :
			 bench->quick	? plan->quick.seconds :
					  plan->full.seconds;
	budget.begin_ns = clock_now_ns();
	bench_part(1, 1);
}

void bench_part(uint64_t weight, uint64_t left)
{
	uint64_t now_ns = clock_now_ns();
	double used = (double)(now_ns - budget.begin_ns) / (double)NS_PER_S;
	double rest = (double)budget.seconds - used;

	budget.part_begin_ns = now_ns;
	budget.part_ns =
		rest > 0 ? (uint64_t)(rest * (double)NS_PER_S * (double)weight / (double)left) : 0;
	budget.fewer = false;
}

/* Much slower than planned: what remains is left out */
static bool late(void)
{
	return clock_now_ns() - budget.begin_ns > (budget.seconds + LATE_S) * NS_PER_S;
}

bool bench_again(unsigned done)
{
	uint64_t used_ns = clock_now_ns() - budget.part_begin_ns;

	if (done >= budget.rounds)
		return false;
	if (budget.asked || (!done && !late()) ||
	    (done && used_ns + used_ns / done <= budget.part_ns))
		return true;
	budget.done = done;
	budget.fewer = true;
	return false;
}

void bench_say_rounds(void)
{
	if (budget.fewer)
		printf("  %u of %u rounds: there was no time for more\n", budget.done,
		       budget.rounds);
}
