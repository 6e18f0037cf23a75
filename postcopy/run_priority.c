/* SPDX-License-Identifier: MIT */
/*
 * Joining: who of the library's threads goes first, where processors are short.
 *
 * Somebody waits for what the fault and the request thread do, for microseconds each time;
 * nobody for what the bulk thread does and the helper that allocates ahead of it, and they compute
 * all the time. Left equal, whoever is woken waits until one of those has used up its slice.
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define URGENT_SLICE_NS (100 * NS_PER_US) /* the least there is */

int priority_attributes(const struct wh_migration *m, pthread_attr_t *attr, struct wh_err *err)
{
	struct sched_param param = { .sched_priority = m->config.fault_priority };
	cpu_set_t cpus;
	int ret;

	if (m->config.fault_cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((size_t)m->config.fault_cpu, &cpus);
		ret = pthread_attr_setaffinity_np(attr, sizeof(cpus), &cpus);
		if (ret)
			return err_sys(err, ret, "fault thread: processor %d", m->config.fault_cpu);
	}
	if (m->config.fault_priority) {
		pthread_attr_setinheritsched(attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(attr, SCHED_FIFO);
		ret = pthread_attr_setschedparam(attr, &param);
		if (ret)
			return err_sys(err, ret, "fault thread: SCHED_FIFO priority %d",
				       m->config.fault_priority);
	}
	return 0;
}

/* The fair scheduler lets one with a shorter slice go first. Linux 6.12; before, nothing changes */
void priority_urgent(void)
{
	struct {
		uint32_t size;
		uint32_t policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime;
		uint64_t deadline;
		uint64_t period;
	} attr = { .size = sizeof(attr) };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0 || attr.policy != SCHED_OTHER)
		return;
	attr.size = sizeof(attr);
	attr.runtime = URGENT_SLICE_NS;
	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
}

/* For good: without privileges nobody becomes less nice again */
void priority_yield(const struct wh_migration *m)
{
	id_t self = (id_t)gettid();
	int nice;

	if (!m->config.bulk_nice)
		return;
	errno = 0;
	nice = getpriority(PRIO_PROCESS, self);
	if (!errno)
		(void)setpriority(PRIO_PROCESS, self, nice + m->config.bulk_nice);
}

/*
 * Without an urgent channel the bulk thread has the pages that are waited for as well. And a
 * thread starts as nice as its maker: with TLS and RDMA a recovery needs new ones, some of which
 * somebody waits for.
 */
bool priority_bulk(const struct wh_migration *m)
{
	bool urgent = m->dest ? m->dest->urgent_up && !m->dest->bridge :
				m->source->urgent_up && !m->source->ferry;

	if (!urgent || m->tls || __atomic_load_n(&m->phase, __ATOMIC_ACQUIRE) != WH_PHASE_POSTCOPY)
		return false;
	priority_yield(m);
	return true;
}
