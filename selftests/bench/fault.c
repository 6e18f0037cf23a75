/* SPDX-License-Identifier: MIT */
/*
 * What a missing page costs that is fetched from another process: from the touch to the
 * byte. All sides are touched the same way, by process_vm_readv() into the destination,
 * which faults there as a vCPU in the kernel does; only pages that are still missing
 * count (/proc/PID/pagemap).
 */
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TOUCHES 4000
#define PAUSE_NS 200000
#define TRIES 2000 /* pages looked at until one is missing */
#define MAPPED (UINT64_C(3) << 62)

struct way {
	const char *name;
	int (*start)(struct bench_side *side, const struct bench_load *load);
	void (*stop)(struct bench_side *side);
	bool urgent;
	bool idle; /* can be had without background pages */
	uint64_t spin_ns;
};

static const struct way ways[] = {
	{ "floor", floor_start, floor_stop, true, true, 0 },
	{ "wherry", wherry_start, wherry_stop, true, true, 0 },
	{ "wherry, polling 50 us", wherry_start, wherry_stop, true, true, 50000 },
	{ "wherry, no urgent channel", wherry_start, wherry_stop, false, true, 0 },
	{ "QEMU 7.2, preempt", qemu_pair_start, qemu_pair_stop, true, false, 0 },
	{ "QEMU 7.2", qemu_pair_start, qemu_pair_stop, false, false, 0 },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static double touched[TOUCHES];

static uint64_t missing_page(int pagemap, const struct bench_side *side, unsigned *seed)
{
	uint64_t pages = side->load->bytes / 4096;

	for (int i = 0; i < TRIES; i++) {
		uint64_t page = ((uint64_t)rand_r(seed) << 15 ^ (uint64_t)rand_r(seed)) % pages;
		uint64_t at = side->base + page * 4096;
		uint64_t entry;

		if (pread(pagemap, &entry, 8, (off_t)(at / 4096 * 8)) == 8 && !(entry & MAPPED))
			return at;
	}
	return 0;
}

/* Return: touches that had to wait, in us */
static size_t touch(const struct bench_side *side, size_t most, unsigned seed)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	char path[64], byte;
	size_t count = 0;
	uint64_t at;
	int pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", side->dest);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	while (count < most && (at = missing_page(pagemap, side, &seed))) {
		struct iovec here = { &byte, 1 };
		struct iovec there = { (void *)(uintptr_t)at, 1 };
		uint64_t begin = clock_now_ns();

		if (process_vm_readv(side->dest, &here, 1, &there, 1, 0) != 1) {
			fprintf(stderr, "fault: process_vm_readv: %s\n", strerrordesc_np(errno));
			break;
		}
		touched[count++] = (double)(clock_now_ns() - begin) / 1e3;
		nanosleep(&pause, NULL);
	}
	if (pagemap >= 0)
		close(pagemap);
	return count;
}

static void measure(const struct bench *bench, struct bench_load *load)
{
	struct bench_row p50[WAYS] = { 0 }, p99[WAYS] = { 0 };
	size_t most = bench->quick ? TOUCHES / 4 : TOUCHES;
	int rounds = bench->quick ? 2 : 5;
	char title[128];

	for (unsigned i = 0; i < WAYS; i++) {
		p50[i] = (struct bench_row){ .side = ways[i].name, .unit = "us" };
		p99[i] = p50[i];
	}
	/* Sides take turns, so that what the machine does besides meets all of them */
	for (int round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < WAYS; i++) {
			struct bench_side side;
			size_t count;

			if (!load->bulk && !ways[i].idle)
				continue;
			load->urgent = ways[i].urgent;
			load->spin_ns = ways[i].spin_ns;
			bench_warm(2 * load->bytes);
			if (ways[i].start(&side, load) < 0)
				continue;
			count = touch(&side, most, (unsigned)round + 1);
			ways[i].stop(&side);
			if (count < 20)
				continue;
			bench_add(&p50[i], bench_quantile(touched, count, 0.50));
			bench_add(&p99[i], bench_quantile(touched, count, 0.99));
		}
	}
	snprintf(title, sizeof(title), "remote fault, %s, %s, p50", load->tcp ? "TCP" : "unix",
		 load->bulk ? "bulk saturated" : "idle");
	bench_print(bench, title, p50, WAYS);
	snprintf(title, sizeof(title), "remote fault, %s, %s, p99", load->tcp ? "TCP" : "unix",
		 load->bulk ? "bulk saturated" : "idle");
	bench_print(bench, title, p99, WAYS);
}

int main(int argc, char **argv)
{
	struct bench bench;

	bench_begin(&bench, "fault", argc, argv);
	for (int tcp = 0; tcp < 2; tcp++) {
		for (int bulk = 0; bulk < 2; bulk++) {
			struct bench_load load = {
				.tcp = tcp,
				.bulk = bulk,
				.postcopy = true,
				.bytes = bench.quick ? UINT64_C(512) << 20 : UINT64_C(1) << 30,
			};

			measure(&bench, &load);
		}
	}
	return 0;
}
