/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What agents have counted, one after the other, as their VMM sees it.
 */
#include "postcopy/agent.h"

#include <stdlib.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(64) * 4096)

FIXTURE(figures)
{
	struct region region;
	struct agent_state state;
	struct agent_figures before;
	struct dest *dest;
	struct wh_err err;
};

FIXTURE_SETUP(figures)
{
	memset(self, 0, sizeof(*self));
	self->region.length = BYTES;
	self->dest = calloc(1, sizeof(*self->dest));
	ASSERT_NE(NULL, self->dest);
	ASSERT_EQ(0, agent_state_new(&self->state, &self->region, 1, &self->err));
}

FIXTURE_TEARDOWN(figures)
{
	agent_state_close(&self->state);
	free(self->dest);
}

/* An agent that begins anew */
static void succeed(FIXTURE_DATA(figures) *self)
{
	memset(self->dest, 0, sizeof(*self->dest));
	agent_figures_take(&self->state, &self->before);
}

static void fault(struct dest *dest, unsigned thread, uint32_t tid, uint64_t ns)
{
	dest->counters.faults++;
	hist_add(&dest->counters.fault_hist, ns);
	dest->thread[thread].tid = tid;
	dest->thread[thread].faults++;
	dest->thread[thread].waited_ns += ns;
}

TEST_F(figures, of_one)
{
	struct dest_counters *c = &self->dest->counters;
	struct wh_stats stats = { .own_bytes = 1000 };

	succeed(self);
	/* each another number, so that none is taken for the other */
	c->bytes[CHANNEL_MAIN] = 1;
	c->bytes[CHANNEL_URGENT] = 2;
	c->bytes_return = 4;
	c->pages_normal = 8;
	c->pages_zero = 16;
	c->pages_xbzrle = 32;
	c->pages_urgent = 64;
	c->pages_before = 128;
	c->requests = 256;
	fault(self->dest, 0, 42, 5000);
	agent_figures_put(&self->state, &self->before, self->dest, 77);
	agent_figures_stats(&self->state, &stats);
	EXPECT_EQ(3, stats.bytes);
	EXPECT_EQ(4, stats.bytes_return);
	EXPECT_EQ(8, stats.pages_normal);
	EXPECT_EQ(16, stats.pages_zero);
	EXPECT_EQ(32, stats.pages_xbzrle);
	EXPECT_EQ(64, stats.pages_urgent);
	EXPECT_EQ(128, stats.pages_before);
	EXPECT_EQ(256, stats.requests);
	EXPECT_EQ(1, stats.faults);
	EXPECT_EQ(5000, stats.fault_p50_ns);
	EXPECT_EQ(5000, stats.fault_p99_ns);
	EXPECT_EQ(5000, stats.fault_max_ns);
	EXPECT_EQ(5000, stats.fault_sum_ns);
	EXPECT_EQ(1077, stats.own_bytes);
}

/* Counters go on, and threads are who they were; the longest wait is of either */
TEST_F(figures, of_the_next_one_too)
{
	struct wh_stats stats = { 0 };
	struct wh_thread_wait waits[3];
	struct hist hist;

	succeed(self);
	self->dest->counters.pages_normal = 10;
	fault(self->dest, 0, 42, 9000);
	fault(self->dest, 1, 43, 100);
	agent_figures_put(&self->state, &self->before, self->dest, 77);
	succeed(self);
	self->dest->counters.pages_normal = 5;
	fault(self->dest, 0, 43, 300);
	fault(self->dest, 1, 44, 600);
	/* more than once: what is shown is not added to what was shown */
	for (unsigned i = 0; i < 3; i++)
		agent_figures_put(&self->state, &self->before, self->dest, 33);
	agent_figures_stats(&self->state, &stats);
	EXPECT_EQ(15, stats.pages_normal);
	EXPECT_EQ(4, stats.faults);
	EXPECT_EQ(10000, stats.fault_sum_ns);
	EXPECT_EQ(9000, stats.fault_max_ns);
	EXPECT_EQ(33, stats.own_bytes);
	agent_figures_hist(&self->state, &hist);
	EXPECT_EQ(4, hist.count);
	ASSERT_EQ(3, agent_figures_waits(&self->state, waits, 3));
	EXPECT_EQ(42, waits[0].tid);
	EXPECT_EQ(9000, waits[0].waited_ns);
	EXPECT_EQ(43, waits[1].tid);
	EXPECT_EQ(2, waits[1].faults);
	EXPECT_EQ(400, waits[1].waited_ns);
	EXPECT_EQ(44, waits[2].tid);
	EXPECT_EQ(3, agent_figures_waits(&self->state, NULL, 0));
}

/* No more of them than there are rows, and none that would be written behind them */
TEST_F(figures, of_many_threads)
{
	for (unsigned generation = 0; generation < 3; generation++) {
		succeed(self);
		for (uint32_t i = 0; i < DEST_THREADS; i++)
			fault(self->dest, i, 1 + i + generation * 100, 1);
		agent_figures_put(&self->state, &self->before, self->dest, 0);
	}
	EXPECT_EQ(DEST_THREADS, agent_figures_waits(&self->state, NULL, 0));
}

TEST_HARNESS_MAIN
