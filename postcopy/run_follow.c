/* SPDX-License-Identifier: MIT */
/*
 * Joining: the fault thread goes where the guest's threads fault.
 *
 * A thread that waits for a page leaves its processor idle. Woken there, the fault thread
 * runs at once; woken on another one it costs an interrupt to a processor that sleeps,
 * several times all the rest of a fault, and left to itself the kernel takes the other
 * one, because it is idle while the faulting thread still runs. So the fault thread binds
 * itself to the processor that faults come from.
 *
 * Where a thread runs is asked of the kernel behind its request, when there is nothing to
 * do but wait for the page, and is believed for a while. With threads on several
 * processors the one with a majority of late decides.
 */
#include "postcopy/run_dest.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BELIEVED_NS (10 * NS_PER_MS) /* at first; twice as long each time it was right */
#define BELIEVED_MOST_NS NS_PER_S
#define OTHERS_MOST 4 /* faults from elsewhere in a row, and it moves */

/* The last processor of a thread that may run on several; -1 */
static int last_cpu(uint32_t tid)
{
	char path[32], text[1024];
	int fd, cpu = -1;
	char *at;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%u/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	/* The name, in brackets, may have anything in it; field 39, and behind it is 3 */
	at = strrchr(text, ')');
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	if (!at || sscanf(at, "%d", &cpu) != 1)
		return -1;
	return cpu;
}

static int cpu_of(uint32_t tid)
{
	cpu_set_t may;

	if (sched_getaffinity((pid_t)tid, sizeof(may), &may) == 0 && CPU_COUNT(&may) == 1)
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET((size_t)cpu, &may))
				return cpu;
	return last_cpu(tid);
}

static int cpu_believed(struct follow *follow, uint32_t tid, uint64_t now_ns)
{
	struct follow_thread *thread = &follow->thread[tid % FOLLOW_THREADS];

	uint64_t believed_ns = BELIEVED_NS;
	int cpu;

	if (thread->tid == tid && now_ns - thread->since_ns < thread->believed_ns)
		return thread->cpu;
	cpu = cpu_of(tid);
	if (thread->tid == tid && thread->cpu == cpu)
		believed_ns = thread->believed_ns * 2;
	*thread = (struct follow_thread){
		.tid = tid,
		.cpu = cpu,
		.since_ns = now_ns,
		.believed_ns = believed_ns < BELIEVED_MOST_NS ? believed_ns : BELIEVED_MOST_NS,
	};
	return cpu;
}

void follow_begin(struct wh_migration *m)
{
	struct follow *follow = &m->dest->follow;

	*follow = (struct follow){ .cpu = -1 };
	follow->on = m->config.fault_cpu == WH_FAULT_CPU_FOLLOW &&
		     sched_getaffinity(0, sizeof(follow->may), &follow->may) == 0 &&
		     CPU_COUNT(&follow->may) > 1;
}

void follow_fault(struct wh_migration *m, uint32_t tid, uint64_t now_ns)
{
	struct follow *follow = &m->dest->follow;
	cpu_set_t there;
	int cpu;

	if (!follow->on || !tid)
		return;
	cpu = cpu_believed(follow, tid, now_ns);
	if (cpu == follow->cpu || cpu < 0 || cpu >= CPU_SETSIZE ||
	    !CPU_ISSET((size_t)cpu, &follow->may)) {
		follow->others = 0;
		return;
	}
	if (follow->cpu >= 0 && ++follow->others < OTHERS_MOST)
		return;
	follow->others = 0;
	CPU_ZERO(&there);
	CPU_SET((size_t)cpu, &there);
	if (sched_setaffinity(0, sizeof(there), &there) == 0)
		follow->cpu = cpu;
	else
		follow->on = false; /* a cpuset that has changed: it is as it was */
}
