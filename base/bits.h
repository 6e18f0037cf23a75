/* SPDX-License-Identifier: MIT */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Bitmaps of pages: bit i is bit i % 64 of 64-bit word i / 64, in host order.
 * Their wire format is made in wire/bitmap.c and nowhere else.
 *
 * Functions whose name has no "range" in it are atomic and may be used by
 * several threads on one bitmap. bits_set() and bits_test_set() are releases,
 * bits_test() is an acquire: who sees a page's bit sees what was written before
 * the bit was set. Range functions are atomic word by word, not as a whole.
 */

static inline size_t bits_words(uint64_t bits)
{
	return (size_t)((bits + 63) / 64);
}

static inline bool bits_test(const uint64_t *map, uint64_t bit)
{
	return __atomic_load_n(&map[bit / 64], __ATOMIC_ACQUIRE) >> (bit % 64) & 1;
}

static inline void bits_set(uint64_t *map, uint64_t bit)
{
	__atomic_fetch_or(&map[bit / 64], UINT64_C(1) << (bit % 64), __ATOMIC_RELEASE);
}

static inline void bits_clear(uint64_t *map, uint64_t bit)
{
	__atomic_fetch_and(&map[bit / 64], ~(UINT64_C(1) << (bit % 64)), __ATOMIC_RELEASE);
}

/* Was the bit set before? Whoever gets false has set it, and is the only one. */
static inline bool bits_test_set(uint64_t *map, uint64_t bit)
{
	uint64_t mask = UINT64_C(1) << (bit % 64);

	return __atomic_fetch_or(&map[bit / 64], mask, __ATOMIC_ACQ_REL) & mask;
}

/* Was the bit set before? Whoever gets true has cleared it, and is the only one. */
static inline bool bits_test_clear(uint64_t *map, uint64_t bit)
{
	uint64_t mask = UINT64_C(1) << (bit % 64);

	return __atomic_fetch_and(&map[bit / 64], ~mask, __ATOMIC_ACQ_REL) & mask;
}

/* First set (clear) bit in [from, bits), or bits if there is none. */
uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t bits);
uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t bits);

/* Number of set bits in [0, bits), or in [first, first + count). */
uint64_t bits_count(const uint64_t *map, uint64_t bits);
uint64_t bits_range_count(const uint64_t *map, uint64_t first, uint64_t count);

/* Set or clear [first, first + count). Nothing outside it is touched. */
void bits_range_set(uint64_t *map, uint64_t first, uint64_t count);
void bits_range_clear(uint64_t *map, uint64_t first, uint64_t count);

/* For every group of `group` bits with any bit set, set them all: host pages. */
void bits_range_widen(uint64_t *map, uint64_t bits, uint64_t group);

#endif /* BASE_BITS_H */
