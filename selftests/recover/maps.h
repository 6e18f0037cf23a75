/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_RECOVER_MAPS_H
#define SELFTESTS_RECOVER_MAPS_H

#include "base/bits.h"
#include "selftests/wire/random.h"

#include <string.h>

/* Bitmaps of a block's size, some of the kinds that there are after a break. */
#define MAP_PAGES_MAX 4200u
#define MAP_WORDS (MAP_PAGES_MAX / 64 + 2)

enum map_kind {
	MAP_NOTHING,
	MAP_ALL,
	MAP_NOISE,
	MAP_SPARSE,
	MAP_DENSE,
	MAP_FRONT, /* the background got so far, and requests have dotted the rest */
	MAP_KINDS
};

/* All words, also behind the pages: what is there must not matter */
static inline void map_fill(uint64_t *map, enum map_kind kind, uint64_t pages,
			    struct random *random)
{
	uint64_t front = random_below(random, pages + 1);

	for (unsigned i = 0; i < MAP_WORDS; i++)
		map[i] = random_u64(random);
	for (uint64_t page = 0; page < pages && kind != MAP_NOISE; page++) {
		bool set = kind == MAP_ALL;

		if (kind == MAP_SPARSE || kind == MAP_DENSE)
			set = (random_below(random, 50) == 0) == (kind == MAP_SPARSE);
		if (kind == MAP_FRONT)
			set = page < front || random_below(random, 30) == 0;
		if (set)
			bits_set(map, page);
		else
			bits_clear(map, page);
	}
}

/* Sizes around the ends of words, and every small one: call until it returns 0 */
static inline uint64_t map_next_size(uint64_t pages)
{
	static const uint64_t more[] = { 255,  256,  257,  319,	 320,  321,  511,  512,	 513,
					 1023, 1024, 1025, 2047, 2048, 4095, 4096, 4097, 0 };
	unsigned i;

	if (pages < 200)
		return pages + 1;
	for (i = 0; more[i] && more[i] <= pages; i++)
		;
	return more[i];
}

#endif /* SELFTESTS_RECOVER_MAPS_H */
