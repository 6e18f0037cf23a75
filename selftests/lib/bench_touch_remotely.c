/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: missing pages of another process, touched from outside.
 */
#include "base/clock.h"
#include "selftests/lib/bench_side.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NS 200000
#define TRIES 2000 /* pages looked at until one is missing */
#define PRESENT (UINT64_C(3) << 62)

static uint64_t missing_page(struct bench_toucher *toucher)
{
	const struct bench_side *side = toucher->side;
	uint64_t pages = side->load->bytes / 4096;
	unsigned *seed = &toucher->seed;

	for (int i = 0; i < TRIES; i++) {
		uint64_t page = ((uint64_t)rand_r(seed) << 15 ^ (uint64_t)rand_r(seed)) % pages;
		uint64_t at = side->base + page * 4096;
		uint64_t entry;

		if (pread(toucher->pagemap, &entry, 8, (off_t)(at / 4096 * 8)) == 8 &&
		    !(entry & PRESENT))
			return at;
	}
	return 0;
}

void bench_toucher_open(struct bench_toucher *toucher, const struct bench_side *side, unsigned seed)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", side->dest);
	*toucher = (struct bench_toucher){
		.side = side,
		.pagemap = open(path, O_RDONLY | O_CLOEXEC),
		.seed = seed,
	};
}

double bench_toucher_next(struct bench_toucher *toucher)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint64_t at = missing_page(toucher), begin_ns, ns;
	struct iovec there = { (void *)(uintptr_t)at, 1 };
	char byte;
	struct iovec here = { &byte, 1 };

	if (!at)
		return -1;
	begin_ns = clock_now_ns();
	if (process_vm_readv(toucher->side->dest, &here, 1, &there, 1, 0) != 1) {
		perror("bench: process_vm_readv");
		return -1;
	}
	ns = clock_now_ns() - begin_ns;
	nanosleep(&pause, NULL);
	return (double)ns / 1e3;
}

void bench_toucher_close(struct bench_toucher *toucher)
{
	if (toucher->pagemap >= 0)
		close(toucher->pagemap);
}

size_t bench_touch_remotely(const struct bench_side *side, double *us, size_t most, unsigned seed)
{
	struct bench_toucher toucher;
	size_t count = 0;
	double next;

	bench_toucher_open(&toucher, side, seed);
	while (count < most && (next = bench_toucher_next(&toucher)) >= 0)
		us[count++] = next;
	bench_toucher_close(&toucher);
	return count;
}
