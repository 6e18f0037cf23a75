/* SPDX-License-Identifier: GPL-2.0 */
#include "checkpoint/slab.h"
#include "selftests/lib/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define S UINT64_C(1000000000)
#define MANY 512u /* slabs, of more huge pages than are free on any machine that tests */

FIXTURE(slab)
{
	struct slab_pool pool;
	struct slab_chain chain, other;
	struct wh_err err;
};

FIXTURE_SETUP(slab)
{
	memset(self, 0, sizeof(*self));
	slab_pool_init(&self->pool, 8 * SLAB_BYTES - 1, false);
}

FIXTURE_TEARDOWN(slab)
{
	slab_chain_give(&self->pool, &self->chain);
	slab_chain_give(&self->pool, &self->other);
	EXPECT_EQ(0, self->pool.used);
	slab_pool_fini(&self->pool);
	EXPECT_EQ(0, self->pool.total);
}

static uint8_t *room(FIXTURE_DATA(slab) *self, struct slab_chain *chain, uint64_t want,
		     uint64_t least, uint64_t *got)
{
	return slab_room(&self->pool, chain, want, least, got, &self->err);
}

TEST_F(slab, is_memory_of_whole_pages)
{
	uint64_t got = 0;
	uint8_t *at = room(self, &self->chain, SLAB_BYTES, 1, &got);

	ASSERT_NE(NULL, at);
	EXPECT_EQ(SLAB_BYTES, got);
	EXPECT_EQ(0, (uintptr_t)at % 4096);
	for (uint64_t i = 0; i < got; i += 4096)
		ASSERT_EQ(0, at[i]);
	memset(at, 1, got);
	EXPECT_EQ(1, self->pool.total);
}

TEST_F(slab, a_chain_is_filled_from_its_beginning)
{
	uint64_t got;
	uint8_t *first = room(self, &self->chain, 100, 100, &got), *next;

	ASSERT_NE(NULL, first);
	EXPECT_EQ(100, got);
	next = room(self, &self->chain, 50, 1, &got);
	EXPECT_EQ(first + 100, next);
	slab_room_trim(&self->chain, 20);
	EXPECT_EQ(first + 130, room(self, &self->chain, 10, 10, &got));
	/* what is left, and not as much as was wanted */
	next = room(self, &self->chain, 2 * SLAB_BYTES, 1, &got);
	EXPECT_EQ(first + 140, next);
	EXPECT_EQ(SLAB_BYTES - 140, got);
	EXPECT_EQ(1, self->chain.slabs);
	/* a new one, and then the rest of it is too small */
	ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES - 10, 1, &got));
	EXPECT_EQ(2, self->chain.slabs);
	ASSERT_NE(NULL, room(self, &self->chain, 11, 11, &got));
	EXPECT_EQ(11, got);
	EXPECT_EQ(3, self->chain.slabs);
	EXPECT_EQ(3, self->pool.used);
}

TEST_F(slab, two_chains_share_nothing)
{
	uint64_t got;
	uint8_t *one = room(self, &self->chain, 4096, 4096, &got);
	uint8_t *two = room(self, &self->other, 4096, 4096, &got);

	ASSERT_NE(NULL, one);
	ASSERT_NE(NULL, two);
	memset(one, 1, 4096);
	memset(two, 2, 4096);
	EXPECT_EQ(1, one[4095]);
	EXPECT_EQ(2, self->pool.used);
}

TEST_F(slab, no_more_than_the_cap)
{
	uint64_t got;

	for (unsigned i = 0; i < 8; i++)
		ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got));
	EXPECT_EQ(NULL, room(self, &self->chain, 1, 1, &got));
	EXPECT_EQ(-ENOSPC, self->err.code);
	EXPECT_NE(NULL, strstr(self->err.text, "32 MiB"));
	/* given back, it is there again, and no other was made for it */
	slab_chain_give(&self->pool, &self->chain);
	EXPECT_EQ(NULL, self->chain.first);
	ASSERT_NE(NULL, room(self, &self->other, SLAB_BYTES, SLAB_BYTES, &got));
	EXPECT_EQ(8, self->pool.total);
}

TEST_F(slab, is_there_before_it_is_taken)
{
	uint64_t got;

	ASSERT_EQ(0, slab_reserve(&self->pool, 3 * SLAB_BYTES - 5, &self->err));
	EXPECT_EQ(3, self->pool.total);
	EXPECT_EQ(0, self->pool.used);
	ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES, 1, &got));
	EXPECT_EQ(3, self->pool.total);
	/* two are free */
	ASSERT_EQ(0, slab_reserve(&self->pool, 2 * SLAB_BYTES, &self->err));
	EXPECT_EQ(3, self->pool.total);
	EXPECT_EQ(-ENOSPC, slab_reserve(&self->pool, 8 * SLAB_BYTES, &self->err));
	EXPECT_NE('\0', self->err.text[0]);
	EXPECT_EQ(8, self->pool.total);
}

TEST_F(slab, half_goes_after_ten_seconds_without_need)
{
	uint64_t got;

	slab_pool_step(&self->pool, 1 * S);
	ASSERT_EQ(0, slab_reserve(&self->pool, 8 * SLAB_BYTES, &self->err));
	/* four of eight: not less than half */
	for (unsigned i = 0; i < 4; i++)
		ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got));
	slab_pool_step(&self->pool, 11 * S - 1);
	EXPECT_EQ(8, self->pool.total);
	slab_chain_give(&self->pool, &self->chain);
	slab_pool_step(&self->pool, 11 * S);
	EXPECT_EQ(8, self->pool.total);

	/* three at the most: half, and half of that */
	for (unsigned i = 0; i < 3; i++)
		ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got));
	slab_chain_give(&self->pool, &self->chain);
	slab_pool_step(&self->pool, 21 * S - 1);
	EXPECT_EQ(8, self->pool.total);
	slab_pool_step(&self->pool, 21 * S);
	EXPECT_EQ(4, self->pool.total);
	ASSERT_NE(NULL, room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got));
	slab_pool_step(&self->pool, 31 * S);
	EXPECT_EQ(2, self->pool.total);
	/* the one that is in use is one of two */
	slab_pool_step(&self->pool, 41 * S);
	EXPECT_EQ(2, self->pool.total);
}

struct watched {
	const uint8_t *at[8];
	unsigned there, wrong;
};

static void made(void *world, uint8_t *at)
{
	struct watched *watched = world;

	watched->at[watched->there++ % 8] = at;
	watched->wrong += at[0] != 0;
}

static void unmade(void *world, const uint8_t *at)
{
	struct watched *watched = world;
	unsigned i = 0;

	/* as it was left: it is there still */
	watched->wrong += at[0] > 1;
	while (i < watched->there && watched->at[i] != at)
		i++;
	if (i == watched->there)
		watched->wrong++;
	else
		watched->at[i] = watched->at[--watched->there];
}

TEST_F(slab, each_is_told_of_before_it_is_used_and_before_it_goes)
{
	struct watched watched = { .there = 0 };
	uint64_t got;
	uint8_t *at;

	self->pool.watch = (struct slab_watch){ .made = made, .unmade = unmade, .world = &watched };
	slab_pool_step(&self->pool, 1 * S);
	ASSERT_EQ(0, slab_reserve(&self->pool, 2 * SLAB_BYTES, &self->err));
	EXPECT_EQ(2, watched.there);
	/* two that are there, and two that are made */
	for (unsigned i = 0; i < 4; i++) {
		at = room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got);
		ASSERT_NE(NULL, at);
		at[0] = 1;
		EXPECT_EQ(i < 2 ? 2 : i + 1, watched.there);
	}
	/* given back they are not gone: nothing is told */
	slab_chain_give(&self->pool, &self->chain);
	slab_pool_step(&self->pool, 11 * S);
	EXPECT_EQ(4, watched.there);
	slab_pool_step(&self->pool, 21 * S);
	EXPECT_EQ(2, watched.there);
	slab_pool_fini(&self->pool);
	EXPECT_EQ(0, watched.there);
	EXPECT_EQ(0, watched.wrong);
}

/* Of huge pages, of ours, in KiB */
static long huge_mine(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	char line[128];
	long kib = -1;

	while (file && kib < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "Private_Hugetlb: %ld kB", &kib);
	if (file)
		fclose(file);
	return kib;
}

/* There are not enough huge pages for all of it: the rest is of others */
TEST_F(slab, of_huge_pages_as_far_as_there_are)
{
	struct huge_pages huge_pages;
	uint64_t got;
	int ret = huge_pages_take(&huge_pages, 4, &self->err);

	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret) TH_LOG("%s", self->err.text);
	slab_pool_init(&self->pool, MANY * SLAB_BYTES, true);
	for (unsigned i = 0; i < MANY && self->pool.huge; i++) {
		uint8_t *at = room(self, &self->chain, SLAB_BYTES, SLAB_BYTES, &got);

		EXPECT_NE(NULL, at);
		if (at)
			memset(at, 1, got);
	}
	EXPECT_FALSE(self->pool.huge);
	EXPECT_LE(4 * 2048, huge_mine());
	slab_chain_give(&self->pool, &self->chain);
	slab_pool_fini(&self->pool);
	huge_pages_drop(&huge_pages);
}

TEST_HARNESS_MAIN
