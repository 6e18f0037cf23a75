/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench_side.h"

#include "base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif

const char *bench_memory_name(enum bench_memory memory)
{
	static const char *const names[BENCH_MEMORY_COUNT] = {
		[BENCH_ANON] = "private anonymous",
		[BENCH_MEMFD] = "memfd",
		[BENCH_HUGETLB] = "hugetlb 2M",
	};

	return names[memory];
}

uint64_t bench_page(enum bench_memory memory)
{
	return memory == BENCH_HUGETLB ? UINT64_C(2) << 20 : 4096;
}

void *bench_map(enum bench_memory memory, uint64_t bytes, int *fd)
{
	int flags = memory == BENCH_ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	*fd = -1;
	if (memory != BENCH_ANON) {
		*fd = memfd_create("bench", memory == BENCH_HUGETLB ? MFD_HUGETLB : 0);
		if (*fd < 0 || ftruncate(*fd, (off_t)bytes) < 0)
			return MAP_FAILED;
	}
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, *fd, 0);
}

void bench_fill(void *memory, uint64_t bytes)
{
	uint64_t *at = memory;

	for (uint64_t i = 0; i < bytes / sizeof(*at); i++)
		at[i] = i | 1;
}

struct bench_shared *bench_share(void)
{
	struct bench_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return shared == MAP_FAILED ? NULL : shared;
}

void bench_unshare(struct bench_shared *shared)
{
	if (shared)
		munmap(shared, sizeof(*shared));
}

int bench_wait(struct bench_side *side, const uint64_t *at)
{
	const struct timespec nap = { .tv_nsec = 200 * 1000 };
	uint64_t until = clock_now_ns() + 60 * NS_PER_S;

	while (!__atomic_load_n(at, __ATOMIC_ACQUIRE)) {
		if (__atomic_load_n(&side->shared->failed, __ATOMIC_ACQUIRE) ||
		    clock_now_ns() > until) {
			fprintf(stderr, "bench: %s\n",
				side->shared->failed ? side->shared->why : "time is out");
			return -1;
		}
		nanosleep(&nap, NULL);
	}
	return 0;
}

void bench_kill(pid_t *pid)
{
	if (*pid <= 0)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}
