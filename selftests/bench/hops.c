/* SPDX-License-Identifier: MIT */
/*
 * Where the time of a remote fault goes: hop by hop, the floor's beside the library's. The
 * floor stamps its own steps. The library's are its trace points: trace_record() is replaced
 * at link time by one that looks at the clock (build.mk).
 *
 * Nothing else is under way. Both are there at the same time and take turns page by page, as in
 * bench/fault. Of all touches the median of each hop is shown; they need not add up to the median
 * of the whole. Placing wakes, so on two processors the toucher may be
 * back before the call that placed is.
 *
 * WH_RDMA is the address of an RDMA device (selftests/bench/in-lab): then a page is read from the
 * source's memory, where nobody does anything for it, and beside it comes over TCP on the same cable.
 */
#include "base/trace.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TOUCHES 1000
#define PAUSE_NS 200000
#define HOPS (BENCH_HOP_COUNT + 2) /* with the wake, and all of it */

static const char *const names[HOPS] = {
	"touch -> message read", "-> request is sent", "-> at the source", "-> page is sent",
	"-> page is back",	 "-> placed",	       "-> touch returns", "all of it",
};

static const struct {
	const char *name;
	const struct bench_kind *kind, *rdma;
} ways[] = {
#ifndef WH_NO_RDMA
	{ "floor", &bench_floor, &bench_floor_rdma },
#else
	{ "floor", &bench_floor, NULL },
#endif
	{ "wherry", &bench_wherry, &bench_wherry },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* As both ends see them: they are forked */
static const struct bench_side *traced;

void __wrap_trace_record(enum trace_point point, uint64_t a, uint64_t b, uint64_t c);

void __wrap_trace_record(enum trace_point point, uint64_t a, uint64_t b, uint64_t c)
{
	static __thread bool dest;
	struct bench_shared *shared = traced->shared;

	(void)a;
	(void)b;
	(void)c;
	/* Both ends have this one: whoever reads faults is the destination */
	if (point == TRACE_page_fault) {
		dest = true;
		bench_hop(shared, BENCH_HOP_FAULT);
	} else if (point == TRACE_page_request) {
		bench_hop(shared, dest ? BENCH_HOP_REQUEST : BENCH_HOP_TAKEN);
	} else if (point == TRACE_page_send) {
		bench_hop(shared, BENCH_HOP_SERVED);
	} else if (point == TRACE_page_arrive) {
		bench_hop(shared, BENCH_HOP_ARRIVED);
	} else if (point == TRACE_page_place) {
		bench_hop(shared, BENCH_HOP_PLACED);
	}
}

static double hops[WAYS][HOPS][TOUCHES];

/* Where a page is read, none of the source's */
static bool has_hop(const struct bench_side *side, int hop)
{
	return !side->load->rdma || side->load->tcp ||
	       (hop != BENCH_HOP_TAKEN && hop != BENCH_HOP_SERVED);
}

/* Pages that nobody has touched, far apart; false if a stamp is missing or out of order */
static bool touch(const struct bench_side *side, double (*hop_us)[TOUCHES], unsigned at)
{
	uint64_t pages = side->load->bytes / 4096;
	/* The first pages are sent in front of the switch */
	uint64_t address = side->base + (uint64_t)(at + 1) * (pages / TOUCHES - 1) * 4096;
	struct bench_shared *shared = side->shared;
	struct iovec there = { (void *)(uintptr_t)address, 1 };
	uint64_t begin, end, before;
	struct iovec here;
	char byte;

	here = (struct iovec){ &byte, 1 };
	memset(shared->hop_ns, 0, sizeof(shared->hop_ns));
	before = begin = clock_now_ns();
	if (process_vm_readv(side->dest, &here, 1, &there, 1, 0) != 1)
		return false;
	end = clock_now_ns();
	/* The last stamp may come a little later than the toucher does */
	for (int i = 0;
	     i < 1000 && !__atomic_load_n(&shared->hop_ns[BENCH_HOP_PLACED], __ATOMIC_ACQUIRE); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000 }, NULL);
	for (int hop = 0; hop < BENCH_HOP_COUNT; hop++) {
		uint64_t now = shared->hop_ns[hop];

		if (!has_hop(side, hop))
			now = before;
		if (now < before) {
			fprintf(stderr, "hops: touch %u: no stamp, or a wrong one: %s\n", at,
				names[hop]);
			return false;
		}
		hop_us[hop][at] = (double)(now - before) / 1e3;
		before = now;
	}
	hop_us[BENCH_HOP_COUNT][at] = ((double)end - (double)before) / 1e3;
	hop_us[BENCH_HOP_COUNT + 1][at] = (double)(end - begin) / 1e3;
	return true;
}

/* What both ends trace is of their own side, as they were forked with it */
static bool start(unsigned way, struct bench_side *side, const struct bench_load *load)
{
	traced = side;
	trace_enabled = 1;
	if (bench_start(side, load->rdma && !load->tcp ? ways[way].rdma : ways[way].kind, load) <
	    0) {
		fprintf(stderr, "hops: %s: %s\n", ways[way].name, side->why);
		return false;
	}
	side->shared->hops = true;
	if (bench_go(side) == 0)
		return true;
	bench_stop(side);
	return false;
}

/* One round: those that are up, one page of each in turn */
static void run(const struct bench *bench, const struct bench_load *load,
		struct bench_row rows[HOPS][WAYS])
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	unsigned most = bench->quick ? TOUCHES / 4 : TOUCHES;
	unsigned count[WAYS] = { 0 };
	struct bench_side side[WAYS];
	bool up[WAYS];

	for (unsigned way = 0; way < WAYS; way++)
		up[way] = bench_wants(bench, ways[way].name) && start(way, &side[way], load);
	for (unsigned at = 0; at < most; at++)
		for (unsigned way = 0; way < WAYS; way++) {
			if (!up[way] || count[way] != at)
				continue;
			count[way] += touch(&side[way], hops[way], at);
			nanosleep(&pause, NULL);
		}
	for (unsigned way = 0; way < WAYS; way++) {
		if (up[way])
			bench_stop(&side[way]);
		for (unsigned hop = 0; hop < HOPS && count[way]; hop++)
			bench_add(&rows[hop][way], bench_quantile(hops[way][hop], count[way], 0.5));
	}
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	unsigned round;
	struct bench_row rows[HOPS][WAYS] = { 0 };
	char variant[160];

	for (round = 0; bench_again(round); round++)
		run(bench, load, rows);
	snprintf(variant, sizeof(variant), "%s, %s",
		 load->tcp  ? "TCP" :
		 load->rdma ? "RDMA" :
			      "unix",
		 load->cpu < 0 ? "left to the scheduler" : "all on one processor");
	printf("\nthe way of a page, %s, medians of %u in us\n  %-28s %10s %10s %10s\n", variant,
	       round, "", ways[0].name, ways[1].name, "more");
	for (unsigned hop = 0; hop < HOPS; hop++) {
		double us[WAYS] = { 0 };
		char full[256];

		snprintf(full, sizeof(full), "%s, %s", variant, names[hop]);
		for (unsigned way = 0; way < WAYS; way++) {
			rows[hop][way].side = ways[way].name;
			if (rows[hop][way].count)
				us[way] = bench_median(&rows[hop][way]);
			if (bench_wants(bench, ways[way].name))
				bench_record(bench, BENCH_HOP, full, &rows[hop][way],
					     us[0] > 0 ? us[way] / us[0] : 0);
		}
		printf("  %-28s %10.2f %10.2f %10.2f\n", names[hop], us[0], us[1], us[1] - us[0]);
	}
}

int main(int argc, char **argv)
{
	struct bench bench;

	bench_begin(&bench, "hops", argc, argv);
	for (int i = 0; i < 4; i++) {
		struct bench_load load = bench_load_default;

		load.bulk = false;
		load.tcp = i & 1;
		load.cpu = i & 2 ? 0 : BENCH_CPU_ANY;
		load.bytes = bench.bytes;
		load.rdma = getenv("WH_RDMA");
		bench_part(1, 4 - (unsigned)i);
		if (load.rdma && load.cpu >= 0)
			continue;
		if (bench_chosen(bench.link, load.tcp ? "tcp" : "unix") &&
		    bench_chosen(bench.cores, load.cpu < 0 ? "any" : "one"))
			measure(&bench, &load);
	}
	return 0;
}
