/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: memory that a virtual machine's host has backed.
 *
 * It backs memory on its first touch, which takes ten times as long as any other, and
 * kernels that report free memory let it take that back within milliseconds. So as much as a
 * run will allocate is touched before it, held while it is made ready, and given back in
 * small portions just ahead of what the run takes: what was freed last is taken first. Whoever
 * gives it back takes no processor from those who are measured: 16 MiB of small pages at once
 * are a millisecond, in which nobody else runs there.
 *
 * Small pages do not come from huge ones that were freed but from what is left of others,
 * which is cold; so there is some of both, given back in step.
 *
 * Pages that are freed are kept for the processor that they were freed on, a gigabyte of them if
 * the kernel sees fit; a run on another one would find what is cold. So while a benchmark runs
 * these lists are kept short, where it may do that.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define AHEAD (64 * MIB)
#define PORTION (16 * MIB)
#define LOOK_NS 2000000
#define NICE 10
/* What a processor keeps for itself of what is given back on it */
#define HOARD (512 * MIB)

static const char lists_path[] = "/proc/sys/vm/percpu_pagelist_high_fraction";
/* Of a processor's share of the memory a thousandth: 12 MiB of 24 GiB for two */
#define LISTS_SHORT "1000"
#define LISTS_TRIES 500u

enum {
	SMALL,
	LARGE,
	SIZES
};

struct bench_warm {
	uint8_t *memory[SIZES];
	uint64_t bytes[SIZES];
	uint64_t given[SIZES];
	uint64_t free_before;
	pthread_t thread;
	bool following;
	bool stop;
};

static uint64_t free_bytes(void)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ? 0 : (uint64_t)info.freeram * info.mem_unit;
}

static uint8_t *touched(uint64_t bytes, int advice)
{
	uint8_t *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, bytes, advice);
	/* Or whoever is forked meanwhile would hold it too */
	madvise(memory, bytes, MADV_DONTFORK);
	for (uint64_t i = 0; i < bytes; i += 4096)
		memory[i] = 1;
	return memory;
}

/*
 * It waits for whoever was here before to have put back what he found. It has a session of its
 * own, so that what ends the benchmark does not end it.
 */
static void keep_lists_short(int hold, int report)
{
	int fd = open(lists_path, O_RDWR | O_CLOEXEC);
	char before[32] = "";
	bool done = false;
	ssize_t length, n;

	setsid();
	for (unsigned i = 0; i < LISTS_TRIES && flock(fd, LOCK_EX | LOCK_NB) < 0; i++)
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
	length = pread(fd, before, sizeof(before), 0);
	if (length > 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		done = pwrite(fd, LISTS_SHORT, strlen(LISTS_SHORT), 0) > 0;
	n = write(report, &done, sizeof(done));
	close(report);
	/* Until the benchmark has ended */
	while (n > 0 && (n = read(hold, &(char){ 0 }, 1)) < 0 && errno == EINTR)
		n = 1;
	if (done)
		n = pwrite(fd, before, (size_t)length, 0);
	(void)n;
	_exit(0);
}

/* Once in a program. Its end of the pipe stays open for as long as it runs, whatever ends it */
static void shorten_lists(void)
{
	static bool asked;
	int hold[2], report[2];
	bool done = false;
	pid_t keeper;

	if (asked || pipe2(hold, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
		return;
	asked = true;
	fflush(stdout);
	keeper = fork();
	if (keeper == 0) {
		close(hold[1]);
		close(report[0]);
		keep_lists_short(hold[0], report[1]);
	}
	close(hold[0]);
	close(report[1]);
	if (keeper < 0 || read(report[0], &done, sizeof(done)) != sizeof(done) || !done)
		printf("\n%s is as it was: some memory may be cold\n", lists_path);
	close(report[0]);
}

struct bench_warm *bench_warm(uint64_t small, uint64_t large)
{
	struct bench_warm *warm = calloc(1, sizeof(*warm));

	shorten_lists();
	small += small < HOARD ? small : HOARD;
	large += large < HOARD ? large : HOARD;
	if (!warm || free_bytes() < small + large)
		return warm;
	warm->memory[SMALL] = small ? touched(small, MADV_NOHUGEPAGE) : NULL;
	warm->memory[LARGE] = large ? touched(large, MADV_HUGEPAGE) : NULL;
	warm->bytes[SMALL] = warm->memory[SMALL] ? small : 0;
	warm->bytes[LARGE] = warm->memory[LARGE] ? large : 0;
	return warm;
}

/* Until so much of each was given back */
static void give(struct bench_warm *warm, uint64_t wanted)
{
	for (int i = 0; i < SIZES; i++) {
		uint64_t most = wanted < warm->bytes[i] ? wanted : warm->bytes[i];

		if (most <= warm->given[i])
			continue;
		munmap(warm->memory[i] + warm->given[i], most - warm->given[i]);
		warm->given[i] = most;
	}
}

static void *follow(void *arg)
{
	const struct timespec nap = { .tv_nsec = LOOK_NS };
	struct bench_warm *warm = arg;
	uint64_t wanted = AHEAD;

	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
	while (!__atomic_load_n(&warm->stop, __ATOMIC_ACQUIRE)) {
		uint64_t given = warm->given[SMALL] + warm->given[LARGE];
		uint64_t taken = warm->free_before + given - free_bytes();

		if ((int64_t)taken > 0 && taken + AHEAD > wanted)
			wanted = (taken + AHEAD + PORTION - 1) / PORTION * PORTION;
		give(warm, wanted);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

void bench_warm_follow(struct bench_warm *warm)
{
	if (!warm)
		return;
	warm->free_before = free_bytes();
	give(warm, AHEAD);
	if (warm->given[SMALL] < warm->bytes[SMALL] || warm->given[LARGE] < warm->bytes[LARGE])
		warm->following = pthread_create(&warm->thread, NULL, follow, warm) == 0;
}

void bench_warm_end(struct bench_warm *warm)
{
	if (!warm)
		return;
	if (warm->following) {
		__atomic_store_n(&warm->stop, true, __ATOMIC_RELEASE);
		pthread_join(warm->thread, NULL);
	}
	give(warm, UINT64_MAX);
	free(warm);
}

bool bench_pool(struct huge_pages *pages, uint64_t bytes)
{
	struct wh_err err = { 0 };
	void *pool;

	if (huge_pages_take(pages, (unsigned)(bytes / MIB) + 8, &err) < 0) {
		printf("\nhugetlb is not measured: %s\n", err.text);
		return false;
	}
	pool = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (pool != MAP_FAILED)
		munmap(pool, 2 * bytes);
	return true;
}
