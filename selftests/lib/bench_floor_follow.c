/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: where the floor's threads run. By the same rule as the library's: who reads
 * faults goes to the processor that they come from, and whoever serves pages has the
 * shortest slice that there is (postcopy/run_follow.c says why).
 */
#include "base/clock.h"
#include "selftests/lib/bench_floor.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SEATS 256u
#define BELIEVED_NS (100 * NS_PER_MS)
#define OTHERS_MOST 4
#define SLICE_NS 100000

/* Where threads were when it was last asked; each that serves faults keeps its own */
static _Thread_local struct seat {
	uint32_t tid;
	int cpu;
	uint64_t since_ns;
} seats[SEATS];

void floor_hurry(void)
{
	/* C libraries do not have it, or have it since lately */
	struct {
		uint32_t size;
		uint32_t policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime;
		uint64_t deadline;
		uint64_t period;
	} attr = { 0 };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0)
		return;
	attr.size = sizeof(attr);
	attr.runtime = SLICE_NS;
	syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int last_cpu(uint32_t tid)
{
	char path[32], text[1024];
	int fd, cpu = -1;
	ssize_t n;
	char *at;

	snprintf(path, sizeof(path), "/proc/%u/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strrchr(text, ')');
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, "%d", &cpu) == 1 ? cpu : -1;
}

void floor_follow(struct floor_dest *dest, uint32_t tid)
{
	struct seat *seat = &seats[tid % SEATS];
	uint64_t now_ns = clock_now_ns();
	cpu_set_t there;

	if (dest->load->fault_cpu != BENCH_CPU_FOLLOW || dest->load->cpu >= 0)
		return;
	if (seat->tid != tid || now_ns - seat->since_ns >= BELIEVED_NS)
		*seat = (struct seat){ tid, last_cpu(tid), now_ns };
	if (seat->cpu < 0 || seat->cpu == dest->cpu) {
		dest->others = 0;
		return;
	}
	if (dest->cpu >= 0 && ++dest->others < OTHERS_MOST)
		return;
	dest->others = 0;
	CPU_ZERO(&there);
	CPU_SET((size_t)seat->cpu, &there);
	if (sched_setaffinity(0, sizeof(there), &there) == 0)
		dest->cpu = seat->cpu;
}
