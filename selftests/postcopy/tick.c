/* SPDX-License-Identifier: GPL-2.0 */
/* When the bulk thread is woken by the clock. postcopy/run_drive.c */
#include "postcopy/run.h"

#include "kselftest_harness.h"

#define LATER_NS (2000 * NS_PER_MS)
#define SOON_NS (20 * NS_PER_MS)

FIXTURE(tick)
{
	struct wh_migration m;
	struct wh_err err;
};

FIXTURE_SETUP(tick)
{
	memset(&self->m, 0, sizeof(self->m));
	ASSERT_EQ(0, loop_open(&self->m.bulk, 8, &self->err)) TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(tick)
{
	loop_close(self->m.bulk);
}

/* Two things are waited for, each turn asks for both: it sleeps until the first all the same */
TEST_F(tick, the_later_one_is_asked_for_first)
{
	struct wh_migration *m = &self->m;
	uint64_t begin_ns = clock_now_ns(), until_ns = begin_ns + SOON_NS;
	unsigned turns = 0;

	while (clock_now_ns() < until_ns) {
		run_tick(m, begin_ns + LATER_NS);
		run_tick(m, until_ns);
		ASSERT_LE(0, loop_step(m->bulk, -1, &self->err)) TH_LOG("%s", self->err.text);
		turns++;
	}
	EXPECT_GE(3, turns);
	EXPECT_GT(begin_ns + LATER_NS, clock_now_ns());
}

/* Sooner and sooner: the last word counts, though all were said while it was being cancelled */
TEST_F(tick, sooner_and_sooner)
{
	struct wh_migration *m = &self->m;
	uint64_t begin_ns = clock_now_ns();

	for (uint64_t i = 100; i; i--)
		run_tick(m, begin_ns + i * SOON_NS);
	while (clock_now_ns() < begin_ns + SOON_NS) {
		ASSERT_LE(0, loop_step(m->bulk, -1, &self->err));
	}
	EXPECT_GT(begin_ns + 50 * SOON_NS, clock_now_ns());
	EXPECT_FALSE(op_busy(&m->tick));
}

TEST_F(tick, it_ends_while_it_is_to_be_sooner)
{
	struct wh_migration *m = &self->m;

	run_tick(m, UINT64_MAX);
	EXPECT_FALSE(run_tick_end(m));
	run_tick(m, clock_now_ns() + LATER_NS);
	run_tick(m, clock_now_ns() + LATER_NS / 2);
	while (run_tick_end(m)) {
		ASSERT_LE(0, loop_step(m->bulk, -1, &self->err));
	}
	EXPECT_EQ(0, loop_step(m->bulk, 0, &self->err));
}

TEST_HARNESS_MAIN
