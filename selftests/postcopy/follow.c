/* SPDX-License-Identifier: GPL-2.0 */
/* The fault thread goes where the faults are: postcopy/run_follow.c */
#include "postcopy/run_dest.h"

#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define GUESTS 2

struct guest {
	pthread_t thread;
	sem_t up, down;
	int cpu;
	uint32_t tid;
};

FIXTURE(follow)
{
	struct wh_migration m;
	struct guest guest[GUESTS];
	int cpu[GUESTS];
	uint64_t now_ns;
};

static void bind_to(pid_t tid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(tid, sizeof(set), &set) < 0)
		abort();
}

/* Sleeps where it was put */
static void *guest_main(void *arg)
{
	struct guest *guest = arg;

	bind_to(0, guest->cpu);
	guest->tid = (uint32_t)gettid();
	sem_post(&guest->up);
	sem_wait(&guest->down);
	return NULL;
}

/* The processor that this thread is bound to; -1 if it is to several */
static int bound(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) != 1)
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, &set))
			return cpu;
	return -1;
}

FIXTURE_SETUP(follow)
{
	unsigned count = 0;
	cpu_set_t set;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	for (int cpu = 0; cpu < CPU_SETSIZE && count < GUESTS; cpu++)
		if (CPU_ISSET((size_t)cpu, &set))
			self->cpu[count++] = cpu;
	if (count < GUESTS)
		SKIP(return, "one processor: there is nowhere to go");
	self->m.dest = calloc(1, sizeof(*self->m.dest));
	ASSERT_NE(NULL, self->m.dest);
	self->m.config.fault_cpu = WH_FAULT_CPU_FOLLOW;
	for (unsigned i = 0; i < GUESTS; i++) {
		struct guest *guest = &self->guest[i];

		guest->cpu = self->cpu[i];
		sem_init(&guest->up, 0, 0);
		sem_init(&guest->down, 0, 0);
		ASSERT_EQ(0, pthread_create(&guest->thread, NULL, guest_main, guest));
		sem_wait(&guest->up);
	}
}

FIXTURE_TEARDOWN(follow)
{
	for (unsigned i = 0; i < GUESTS; i++) {
		sem_post(&self->guest[i].down);
		pthread_join(self->guest[i].thread, NULL);
	}
	free(self->m.dest);
}

static void fault(FIXTURE_DATA(follow) *self, unsigned guest, unsigned times)
{
	while (times--)
		follow_fault(&self->m, self->guest[guest].tid, self->now_ns);
}

TEST_F(follow, the_first_fault_decides)
{
	follow_begin(&self->m);
	EXPECT_EQ(-1, bound());
	fault(self, 1, 1);
	EXPECT_EQ(self->cpu[1], bound());
}

TEST_F(follow, then_a_row_of_others)
{
	follow_begin(&self->m);
	fault(self, 0, 1);
	fault(self, 1, 3);
	EXPECT_EQ(self->cpu[0], bound());
	fault(self, 1, 1);
	EXPECT_EQ(self->cpu[1], bound());
	/* and not by turns */
	for (unsigned i = 0; i < 20; i++) {
		fault(self, 0, 1);
		fault(self, 1, 1);
	}
	EXPECT_EQ(self->cpu[1], bound());
}

/* One that may run on several: where it was last, looked at again after a while */
TEST_F(follow, an_unbound_thread)
{
	cpu_set_t all;

	CPU_ZERO(&all);
	CPU_SET((size_t)self->cpu[0], &all);
	CPU_SET((size_t)self->cpu[1], &all);
	ASSERT_EQ(0, sched_setaffinity((pid_t)self->guest[1].tid, sizeof(all), &all));
	follow_begin(&self->m);
	fault(self, 1, 1);
	ASSERT_EQ(self->cpu[1], bound());
	bind_to((pid_t)self->guest[1].tid, self->cpu[0]);
	fault(self, 1, 10);
	EXPECT_EQ(self->cpu[1], bound());
	self->now_ns += NS_PER_S;
	fault(self, 1, 10);
	EXPECT_EQ(self->cpu[0], bound());
}

TEST_F(follow, not_if_told_otherwise)
{
	self->m.config.fault_cpu = WH_FAULT_CPU_ANY;
	follow_begin(&self->m);
	fault(self, 1, 10);
	EXPECT_EQ(-1, bound());
}

/* Only where the thread was allowed to be at the beginning */
TEST_F(follow, not_elsewhere)
{
	bind_to(0, self->cpu[0]);
	follow_begin(&self->m);
	fault(self, 1, 10);
	EXPECT_EQ(self->cpu[0], bound());
}

TEST_F(follow, who_is_unknown_is_not_followed)
{
	follow_begin(&self->m);
	for (unsigned i = 0; i < 10; i++) {
		follow_fault(&self->m, 0, 0);
		follow_fault(&self->m, UINT32_MAX, 0);
	}
	EXPECT_EQ(-1, bound());
}

TEST_HARNESS_MAIN
