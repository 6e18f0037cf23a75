/* SPDX-License-Identifier: MIT */
/* Helper: two bits a page, one in each half of a word, so that one step changes both. */
#include "uffd/state.h"

#define EACH UINT64_C(32) /* pages of a word */
#define LOW UINT64_C(0xffffffff)

/* @mask of pages, with the two bits of @state for each */
static uint64_t spread(uint64_t mask, enum page_state state)
{
	return (state & 1 ? mask : 0) | (state & 2 ? mask << EACH : 0);
}

/* Which pages of a word are in @state: a bit of the lower half each */
static uint64_t pages_in(uint64_t word, enum page_state state)
{
	uint64_t other = word ^ spread(LOW, state);

	return ~(other | other >> EACH) & LOW;
}

/* Pages [first, end) of the word that @first is in, in its lower half */
static uint64_t part(uint64_t first, uint64_t end)
{
	uint64_t mask = LOW << first % EACH;

	if (end / EACH == first / EACH)
		mask &= ~(LOW << end % EACH);
	return mask;
}

static uint64_t word_end(uint64_t first, uint64_t end)
{
	uint64_t behind = (first / EACH + 1) * EACH;

	return behind < end ? behind : end;
}

enum page_state state_get(const uint64_t *map, uint64_t page)
{
	uint64_t word = __atomic_load_n(&map[page / EACH], __ATOMIC_ACQUIRE) >> page % EACH;

	return (enum page_state)((word & 1) | (word >> (EACH - 1) & 2));
}

/* @invert: LOW to look for one that is not in @state */
static uint64_t next(const uint64_t *map, uint64_t first, uint64_t end, enum page_state state,
		     uint64_t invert)
{
	while (first < end) {
		uint64_t word = __atomic_load_n(&map[first / EACH], __ATOMIC_ACQUIRE);
		uint64_t found = (pages_in(word, state) ^ invert) & part(first, end);

		if (found)
			return first / EACH * EACH + (uint64_t)__builtin_ctzll(found);
		first = word_end(first, end);
	}
	return end;
}

uint64_t state_next(const uint64_t *map, uint64_t first, uint64_t end, enum page_state state)
{
	return next(map, first, end, state, 0);
}

uint64_t state_next_other(const uint64_t *map, uint64_t first, uint64_t end, enum page_state state)
{
	return next(map, first, end, state, LOW);
}

/*
 * Acquire and release: whoever finds a page in a state he leads on from sees what was done
 * before, and who sees the new state sees what we did.
 */
static uint64_t change(uint64_t *word, uint64_t mask, uint64_t any, enum page_state from,
		       enum page_state to)
{
	uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
	uint64_t which, new;

	do {
		which = mask & (pages_in(old, from) | any);
		new = (old & ~(which | which << EACH)) | spread(which, to);
	} while (which && !__atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_ACQ_REL,
						       __ATOMIC_RELAXED));
	return (uint64_t)__builtin_popcountll(which);
}

void state_set(uint64_t *map, uint64_t first, uint64_t end, enum page_state to)
{
	for (; first < end; first = word_end(first, end))
		change(&map[first / EACH], part(first, end), LOW, to, to);
}

uint64_t state_move(uint64_t *map, uint64_t first, uint64_t end, enum page_state from,
		    enum page_state to)
{
	uint64_t moved = 0;

	for (; first < end; first = word_end(first, end))
		moved += change(&map[first / EACH], part(first, end), 0, from, to);
	return moved;
}
