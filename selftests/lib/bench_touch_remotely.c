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

static uint64_t missing_page(int pagemap, const struct bench_side *side, unsigned *seed)
{
	uint64_t pages = side->load->bytes / 4096;

	for (int i = 0; i < TRIES; i++) {
		uint64_t page = ((uint64_t)rand_r(seed) << 15 ^ (uint64_t)rand_r(seed)) % pages;
		uint64_t at = side->base + page * 4096;
		uint64_t entry;

		if (pread(pagemap, &entry, 8, (off_t)(at / 4096 * 8)) == 8 && !(entry & PRESENT))
			return at;
	}
	return 0;
}

size_t bench_touch_remotely(const struct bench_side *side, double *us, size_t most, unsigned seed)
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
			perror("bench: process_vm_readv");
			break;
		}
		us[count++] = (double)(clock_now_ns() - begin) / 1e3;
		nanosleep(&pause, NULL);
	}
	if (pagemap >= 0)
		close(pagemap);
	return count;
}
