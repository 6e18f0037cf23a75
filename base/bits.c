/* SPDX-License-Identifier: MIT */
#include "base/bits.h"

#include "base/walk.h"

#define ALL_ONES (~UINT64_C(0))

static uint64_t word_at(const uint64_t *map, uint64_t word)
{
	return __atomic_load_n(&map[word], __ATOMIC_ACQUIRE);
}

/*
 * Bits [first, end) of the word they begin in; the caller goes on at the next
 * word. Shifts stay below 64: an empty part is never asked for.
 */
static uint64_t part_mask(uint64_t first, uint64_t end)
{
	uint64_t mask = ALL_ONES << (first % 64);

	if (end / 64 == first / 64)
		mask &= ~(ALL_ONES << (end % 64));
	return mask;
}

/* `invert` is all ones to look for a clear bit, 0 for a set one */
static uint64_t next(const uint64_t *map, uint64_t from, uint64_t bits, uint64_t invert)
{
	uint64_t word, found, at, words = bits_words(bits);

	if (from >= bits)
		return bits;
	word = (word_at(map, from / 64) ^ invert) & (ALL_ONES << (from % 64));
	at = from / 64;
	while (!word) {
		at++;
#ifndef __SANITIZE_THREAD__ /* which does not see fences */
		/* what is near is sooner found without */
		if (at % WALK_GROUP == 0 && at < words)
			at = walk_best()->pass(map, at, words, invert);
#endif
		if (at >= words)
			return bits;
		/* once more, alone: who clears bits may have been here since */
		word = word_at(map, at) ^ invert;
	}
	found = at * 64 + (uint64_t)__builtin_ctzll(word);
	/* the last word may have bits beyond the end, whatever they are */
	return found < bits ? found : bits;
}

uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t bits)
{
	return next(map, from, bits, 0);
}

uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t bits)
{
	return next(map, from, bits, ALL_ONES);
}

/* At least one bit of one word */
static uint64_t part_count(const uint64_t *map, uint64_t first, uint64_t end)
{
	uint64_t part = word_at(map, first / 64) & part_mask(first, end);

	return walk_best()->sum(&part, 0, 1);
}

uint64_t bits_range_count(const uint64_t *map, uint64_t first, uint64_t count)
{
	uint64_t end = first + count, sum = 0;

	if (count && first % 64) {
		sum = part_count(map, first, end);
		first = (first / 64 + 1) * 64;
	}
	if (first >= end)
		return sum;
	sum += walk_best()->sum(map, first / 64, end / 64);
	return sum + (end % 64 ? part_count(map, end - end % 64, end) : 0);
}

uint64_t bits_count(const uint64_t *map, uint64_t bits)
{
	return bits_range_count(map, 0, bits);
}

void bits_range_set(uint64_t *map, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	while (first < end) {
		uint64_t mask = part_mask(first, end);

		/* a whole word needs no read: whoever clears in it came before or after */
		if (mask == ALL_ONES)
			__atomic_store_n(&map[first / 64], mask, __ATOMIC_RELEASE);
		else
			__atomic_fetch_or(&map[first / 64], mask, __ATOMIC_RELEASE);
		first = (first / 64 + 1) * 64;
	}
}

void bits_range_clear(uint64_t *map, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	while (first < end) {
		uint64_t mask = part_mask(first, end);

		if (mask == ALL_ONES)
			__atomic_store_n(&map[first / 64], 0, __ATOMIC_RELEASE);
		else
			__atomic_fetch_and(&map[first / 64], ~mask, __ATOMIC_RELEASE);
		first = (first / 64 + 1) * 64;
	}
}

void bits_range_widen(uint64_t *map, uint64_t bits, uint64_t group)
{
	uint64_t bit = bits_next_set(map, 0, bits);

	while (bit < bits) {
		uint64_t first = bit - bit % group;
		uint64_t count = bits - first < group ? bits - first : group;

		bits_range_set(map, first, count);
		bit = bits_next_set(map, first + count, bits);
	}
}
