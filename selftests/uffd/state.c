/* SPDX-License-Identifier: GPL-2.0 */
#include "uffd/state.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "kselftest_harness.h"

#define PAGES 200

static uint64_t random_of(uint64_t *seed, uint64_t below)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (*seed >> 33) % below;
}

/* All functions beside an array of a byte a page */
TEST(as_an_array)
{
	uint64_t map[(PAGES + 31) / 32], seed = 1, i, round;
	uint8_t model[PAGES] = { 0 };

	ASSERT_EQ(sizeof(map) / sizeof(map[0]), state_words(PAGES));
	memset(map, 0, sizeof(map));
	for (round = 0; round < 20000; round++) {
		uint64_t first = random_of(&seed, PAGES),
			 end = first + random_of(&seed, PAGES - first + 1);
		enum page_state from = (enum page_state)random_of(&seed, PAGE_STATE_COUNT);
		enum page_state to = (enum page_state)random_of(&seed, PAGE_STATE_COUNT);
		uint64_t moved = 0, in = end, out = end;

		if (random_of(&seed, 4) == 0) {
			state_set(map, first, end, to);
			for (i = first; i < end; i++)
				model[i] = (uint8_t)to;
		} else {
			for (i = first; i < end; i++)
				if (model[i] == from) {
					model[i] = (uint8_t)to;
					moved++;
				}
			ASSERT_EQ(moved, state_move(map, first, end, from, to));
		}
		for (i = end; i-- > first;) {
			if (model[i] == to)
				in = i;
			else
				out = i;
		}
		ASSERT_EQ(in, state_next(map, first, end, to));
		ASSERT_EQ(out, state_next_other(map, first, end, to));
		for (i = 0; i < PAGES; i++)
			ASSERT_EQ(model[i], state_get(map, i));
	}
}

struct claimer {
	pthread_t thread;
	uint64_t *map;
	enum page_state to;
	uint64_t claimed;
};

static void *claimer_main(void *opaque)
{
	struct claimer *claimer = opaque;
	uint64_t i;

	for (i = 0; i < PAGES; i++)
		claimer->claimed += state_move(claimer->map, i, i + 1, PAGE_ABSENT, claimer->to);
	return NULL;
}

/* Of two who want a page one gets it, and it is his afterwards. */
TEST(a_page_has_one_owner)
{
	unsigned round, i;

	for (round = 0; round < 300; round++) {
		uint64_t map[(PAGES + 31) / 32] = { 0 }, seen[PAGE_STATE_COUNT] = { 0 }, page;
		struct claimer claimer[2] = { { .map = map, .to = PAGE_AHEAD },
					      { .map = map, .to = PAGE_TAKEN } };

		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_create(&claimer[i].thread, NULL, claimer_main,
						    &claimer[i]));
		for (i = 0; i < 2; i++)
			pthread_join(claimer[i].thread, NULL);
		for (page = 0; page < PAGES; page++)
			seen[state_get(map, page)]++;
		ASSERT_EQ(claimer[0].claimed, seen[PAGE_AHEAD]);
		ASSERT_EQ(claimer[1].claimed, seen[PAGE_TAKEN]);
		ASSERT_EQ(PAGES, seen[PAGE_AHEAD] + seen[PAGE_TAKEN]);
	}
}

TEST_HARNESS_MAIN
