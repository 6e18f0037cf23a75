/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench_side.h"

#include "base/clock.h"
#include "selftests/lib/bench.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004U
#endif

#define HUGE (UINT64_C(2) << 20)
#define WAIT_NS (60 * NS_PER_S)
#define WARM_IDLE (UINT64_C(128) << 20) /* where pages come one by one */
#define WARM_SMALL (UINT64_C(2) << 30)	/* or there is no room beside 16 GiB */

const struct bench_load bench_load_default = {
	.postcopy = true,
	.bulk = true,
	.urgent = true,
	.fault_cpu = BENCH_CPU_FOLLOW,
	.cpu = BENCH_CPU_ANY,
	.bytes = UINT64_C(1) << 30,
};

static const struct {
	const char *key;
	const char *name;
} memories[] = {
	[BENCH_ANON] = { "anon", "private anonymous, huge pages" },
	[BENCH_SMALL] = { "small", "private anonymous, small pages" },
	[BENCH_MEMFD] = { "memfd", "memfd" },
	[BENCH_HUGETLB] = { "hugetlb", "hugetlb 2M" },
};

static_assert(sizeof(memories) / sizeof(memories[0]) == BENCH_MEMORY_COUNT, "one line a kind");

const char *bench_memory_key(enum bench_memory memory)
{
	return memories[memory].key;
}

const char *bench_memory_name(enum bench_memory memory)
{
	return memories[memory].name;
}

uint64_t bench_page(enum bench_memory memory)
{
	return memory == BENCH_HUGETLB ? HUGE : 4096;
}

/* Room in the address space, aligned to huge pages */
static uint8_t *room(uint64_t bytes)
{
	uint8_t *at = mmap(NULL, bytes + HUGE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before = at == MAP_FAILED ? 0 : -(uintptr_t)at & (HUGE - 1);

	if (at == MAP_FAILED)
		return MAP_FAILED;
	if (before)
		munmap(at, before);
	munmap(at + before + bytes, HUGE - before);
	return at + before;
}

/* One piece, again and again */
static void *map_pieces(uint8_t *at, uint64_t bytes, uint64_t piece)
{
	int fd = memfd_create("bench-piece", MFD_CLOEXEC);
	void *memory = at;

	if (fd < 0 || ftruncate(fd, (off_t)piece) < 0)
		return MAP_FAILED;
	for (uint64_t i = 0; i < bytes; i += piece)
		if (mmap(at + i, piece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    MAP_FAILED)
			memory = MAP_FAILED;
	close(fd);
	return memory;
}

void *bench_map(const struct bench_load *load, bool source, int *fd)
{
	bool anon = load->memory == BENCH_ANON || load->memory == BENCH_SMALL;
	int flags = anon ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	uint8_t *at = room(load->bytes);
	void *memory;

	*fd = -1;
	if (at == MAP_FAILED)
		return MAP_FAILED;
	if (source && load->piece)
		return map_pieces(at, load->bytes, load->piece);
	if (!anon) {
		*fd = memfd_create("bench", load->memory == BENCH_HUGETLB ? MFD_HUGETLB : 0);
		if (*fd < 0 || ftruncate(*fd, (off_t)load->bytes) < 0)
			return MAP_FAILED;
	}
	memory = mmap(at, load->bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, *fd, 0);
	if (memory != MAP_FAILED && load->memory == BENCH_ANON)
		madvise(memory, load->bytes, MADV_HUGEPAGE);
	return memory;
}

void bench_fill(void *memory, uint64_t bytes)
{
	uint64_t *at = memory;

	for (uint64_t i = 0; i < bytes / sizeof(*at); i++)
		at[i] = i | 1;
}

void bench_clear(void *memory, uint64_t bytes)
{
	for (uint64_t at = HUGE / 2; at < bytes; at += HUGE)
		memset((uint8_t *)memory + at, 0, HUGE / 2);
}

struct bench_shared *bench_share(void)
{
	struct bench_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return shared == MAP_FAILED ? NULL : shared;
}

void bench_stamp(uint64_t *at)
{
	uint64_t none = 0;

	__atomic_compare_exchange_n(at, &none, clock_now_ns(), false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
}

int bench_wait(struct bench_side *side, const uint64_t *at)
{
	const struct timespec nap = { .tv_nsec = 200000 };
	uint64_t until = clock_now_ns() + WAIT_NS;

	while (!__atomic_load_n(at, __ATOMIC_ACQUIRE)) {
		bool failed = __atomic_load_n(&side->shared->failed, __ATOMIC_ACQUIRE);
		int status;

		if (failed || clock_now_ns() > until) {
			snprintf(side->why, sizeof(side->why), "%.150s",
				 failed ? side->shared->why : "it takes too long");
			return -1;
		}
		/* One that was killed says nothing */
		for (int i = 0; i < 2; i++) {
			pid_t *pid = i ? &side->source : &side->dest;

			if (*pid <= 0 || waitpid(*pid, &status, WNOHANG) != *pid)
				continue;
			*pid = 0;
			snprintf(side->why, sizeof(side->why), "%.150s",
				 side->shared->failed ? side->shared->why : "a process is gone");
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

pid_t bench_fork(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

/* As much as the destination will take, of the size that it will take */
static struct bench_warm *warm(const struct bench_kind *kind, const struct bench_load *load)
{
	uint64_t bytes = load->bulk ? load->bytes : WARM_IDLE;
	uint64_t small = bytes < WARM_SMALL ? bytes : WARM_SMALL;

	if (load->cold)
		return NULL;
	switch (load->memory) {
	case BENCH_ANON:
		if (!load->postcopy)
			return bench_warm(0, bytes);
		/* QEMU's pages go in one by one; ours do so when somebody waits for them */
		return kind == &bench_qemu ? bench_warm(bytes, 0) : bench_warm(small, bytes);
	case BENCH_SMALL:
		return load->postcopy ? bench_warm(small, bytes) : bench_warm(bytes, 0);
	case BENCH_MEMFD:
		return bench_warm(bytes, 0);
	case BENCH_HUGETLB: /* pages of a pool are never given back */
	case BENCH_MEMORY_COUNT:
		break;
	}
	return NULL;
}

int bench_start(struct bench_side *side, const struct bench_kind *kind,
		const struct bench_load *load)
{
	*side = (struct bench_side){ .kind = kind, .load = load, .shared = bench_share() };
	if (!side->shared)
		return -1;
	side->warm = warm(kind, load);
	if (load->cpu != BENCH_CPU_ANY)
		bench_pin(load->cpu);
	if (kind->start(side) == 0)
		return 0;
	bench_stop(side);
	return -1;
}

int bench_go(struct bench_side *side)
{
	bench_warm_follow(side->warm);
	side->resident = bench_resident(side->dest);
	side->cpu_ns[0] = bench_cpu_ns(side->dest);
	side->cpu_ns[1] = bench_cpu_ns(side->source);
	return side->kind->go(side);
}

int bench_done(struct bench_side *side)
{
	return side->kind->done(side);
}

void bench_stop(struct bench_side *side)
{
	side->kind->stop(side);
	bench_warm_end(side->warm);
	side->warm = NULL;
	if (side->shared)
		munmap(side->shared, sizeof(*side->shared));
	side->shared = NULL;
	bench_unpin();
}

double bench_rate(const struct bench_side *side)
{
	const struct bench_shared *shared = side->shared;
	uint64_t from = side->load->postcopy ? shared->postcopy_ns : shared->begin_ns;

	if (side->load->rdma && shared->go)
		from = shared->go;
	return (double)side->load->bytes / (double)(shared->done_ns - from);
}

double bench_cpu_s(const struct bench_side *side)
{
	uint64_t used = bench_cpu_ns(side->dest) - side->cpu_ns[0] + bench_cpu_ns(side->source) -
			side->cpu_ns[1];

	return (double)used / (double)NS_PER_S;
}

double bench_dest_cpu_s(const struct bench_side *side)
{
	return (double)(bench_cpu_ns(side->dest) - side->cpu_ns[0]) / (double)NS_PER_S;
}
