/* SPDX-License-Identifier: GPL-2.0 */
#include "recover/plan.h"

#include "selftests/recover/maps.h"

#include "kselftest_harness.h"

#define BLOCKS 3u
#define GROUP_MAX 512u

FIXTURE(plan)
{
	struct random random;
	struct plan plan;
	struct plan_block block[BLOCKS];
	uint64_t asked[BLOCKS][MAP_WORDS];
	uint64_t received[BLOCKS][MAP_WORDS];
	/* the slow model: host pages in the order they are to come */
	struct plan_run expected[2 * BLOCKS * MAP_PAGES_MAX];
	unsigned parts[2 * BLOCKS * MAP_PAGES_MAX];
	unsigned count;
};

FIXTURE_SETUP(plan)
{
	memset(self, 0, sizeof(*self));
	for (unsigned i = 0; i < BLOCKS; i++)
		self->block[i] = (struct plan_block){
			.asked = self->asked[i],
			.received = self->received[i],
			.group = 1,
		};
}

FIXTURE_TEARDOWN(plan)
{
}

static uint32_t host_pages(const struct plan_block *block, uint64_t page)
{
	return block->pages - page < block->group ? (uint32_t)(block->pages - page) :
						    (uint32_t)block->group;
}

static bool lacks(const struct plan_block *block, uint64_t page)
{
	for (uint64_t i = page; i < page + host_pages(block, page); i++)
		if (!(block->received[i / 64] >> i % 64 & 1))
			return true;
	return false;
}

static void expect(FIXTURE_DATA(plan) *self)
{
	self->count = 0;
	for (unsigned part = PLAN_ASKED; part < PLAN_END; part++)
		for (uint32_t i = 0; i < BLOCKS; i++) {
			const struct plan_block *block = &self->block[i];

			for (uint64_t page = 0; page < block->pages; page += block->group) {
				bool asked = block->asked[page / 64] >> page % 64 & 1;

				if (asked != (part == PLAN_ASKED) || !lacks(block, page))
					continue;
				self->parts[self->count] = part;
				self->expected[self->count++] =
					(struct plan_run){ i, host_pages(block, page), page };
			}
		}
}

/* Could this host page have been in the run before? */
static bool goes_on(const struct plan_run *run, unsigned part, const struct plan_run *next,
		    unsigned next_part, uint32_t run_max)
{
	return part == next_part && run->block == next->block &&
	       run->page + run->pages == next->page && run->pages + next->pages <= run_max;
}

static void walk(struct __test_metadata *_metadata, FIXTURE_DATA(plan) *self, uint32_t run_max)
{
	struct plan_run run;
	unsigned at = 0, part;

	expect(self);
	plan_init(&self->plan, self->block, BLOCKS, run_max);
	while ((part = plan_next(&self->plan, &run)) != PLAN_END) {
		uint64_t page = run.page, end = run.page + run.pages;

		for (; page < end; page += self->expected[at++].pages) {
			ASSERT_LT(at, self->count);
			ASSERT_EQ(self->parts[at], part);
			ASSERT_EQ(self->expected[at].block, run.block);
			ASSERT_EQ(self->expected[at].page, page);
		}
		ASSERT_EQ(end, page);
		if (run.pages > run_max)
			ASSERT_EQ(self->expected[at - 1].pages, run.pages);
		if (at < self->count)
			ASSERT_FALSE(
				goes_on(&run, part, &self->expected[at], self->parts[at], run_max));
	}
	ASSERT_EQ(self->count, at);
	ASSERT_EQ(PLAN_END, plan_next(&self->plan, &run));
}

static void randomize(FIXTURE_DATA(plan) *self, uint64_t pages)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct plan_block *block = &self->block[i];

		block->pages = i ? random_below(&self->random, pages + 1) : pages;
		block->group = 1 << random_below(&self->random, 10);
		map_fill(self->asked[i], random_below(&self->random, MAP_KINDS), block->pages,
			 &self->random);
		map_fill(self->received[i], random_below(&self->random, MAP_KINDS), block->pages,
			 &self->random);
	}
}

TEST_F(plan, every_size_against_a_slow_model)
{
	static const uint32_t run_max[] = { 0, 1, 7, 64, 1000, UINT32_MAX };
	uint64_t pages = 0;

	while ((pages = map_next_size(pages)))
		for (unsigned i = 0; i < sizeof(run_max) / sizeof(run_max[0]); i++) {
			randomize(self, pages);
			walk(_metadata, self, run_max[i]);
		}
}

TEST_F(plan, what_is_waited_for_comes_first)
{
	struct plan_run run;

	for (unsigned i = 0; i < 2; i++)
		self->block[i].pages = 100;
	bits_range_set(self->received[0], 0, 90);
	bits_range_set(self->received[1], 0, 100);
	bits_range_clear(self->received[1], 40, 3);
	bits_set(self->asked[0], 95);
	bits_set(self->asked[1], 41);
	bits_set(self->asked[1], 42);
	bits_set(self->asked[1], 7); /* came before the link broke */

	plan_init(&self->plan, self->block, BLOCKS, PLAN_RUN_MAX);
	ASSERT_EQ(PLAN_ASKED, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.block == 0 && run.page == 95 && run.pages == 1);
	ASSERT_EQ(PLAN_ASKED, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.block == 1 && run.page == 41 && run.pages == 2);
	ASSERT_EQ(PLAN_REST, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.block == 0 && run.page == 90 && run.pages == 5);
	ASSERT_EQ(PLAN_REST, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.block == 0 && run.page == 96 && run.pages == 4);
	ASSERT_EQ(PLAN_REST, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.block == 1 && run.page == 40 && run.pages == 1);
	ASSERT_EQ(PLAN_END, plan_next(&self->plan, &run));
}

TEST_F(plan, what_comes_meanwhile_is_left_out)
{
	struct plan_run run;
	uint64_t page = 0;

	self->block[0].pages = 1000;
	plan_init(&self->plan, self->block, 1, 1);
	while (plan_next(&self->plan, &run) != PLAN_END) {
		ASSERT_EQ(page, run.page);
		bits_set(self->received[0], run.page);
		bits_range_set(self->received[0], run.page + 1, 99);
		page += 100;
	}
	ASSERT_EQ(1000, page);
}

TEST_F(plan, a_bit_within_a_host_page_asks_for_nothing)
{
	struct plan_run run;

	self->block[0].pages = 1024;
	self->block[0].group = 512;
	bits_set(self->asked[0], 3);
	bits_set(self->asked[0], 512);
	plan_init(&self->plan, self->block, BLOCKS, 1);
	ASSERT_EQ(PLAN_ASKED, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.page == 512 && run.pages == 512);
	ASSERT_EQ(PLAN_REST, plan_next(&self->plan, &run));
	ASSERT_TRUE(run.page == 0 && run.pages == 512);
	ASSERT_EQ(PLAN_END, plan_next(&self->plan, &run));
}

TEST_F(plan, a_run_fits_the_length_of_a_request)
{
	uint64_t pages = UINT64_C(1) << 21, words = bits_words(pages), sum = 0;
	uint64_t *map = calloc(words, sizeof(*map));
	struct plan_block block = { .pages = pages, .group = 512 };
	struct plan_run run;
	unsigned runs = 0;

	memset(map, 0xff, words * sizeof(*map));
	block.asked = map;
	block.received = calloc(words, sizeof(*map));
	plan_init(&self->plan, &block, 1, UINT32_MAX);
	while (plan_next(&self->plan, &run) == PLAN_ASKED) {
		ASSERT_LE(run.pages * UINT64_C(4096), UINT32_MAX);
		ASSERT_EQ(sum, run.page);
		sum += run.pages;
		runs++;
	}
	ASSERT_EQ(pages, sum);
	ASSERT_EQ(3, runs);
	free(map);
}

TEST_HARNESS_MAIN
