/* SPDX-License-Identifier: MIT */
#ifndef BASE_WALK_H
#define BASE_WALK_H

#include <stdint.h>

#define WALK_GROUP 32u /* words: 256 bytes hide the latency of a look at them */

/**
 * struct walk - What base/bits.c does with many words
 * @pass:	First word of the first group in [@at, @end) in which any is not @nothing, or of
 *		the rest, which is no group. The words seen are read before whatever the caller
 *		reads then
 * @sum:	Set bits in [@at, @end)
 * @flip:	Writes the inverse of @words words; the two may be one
 *
 * Others may set and clear bits meanwhile, though not of what is flipped: each bit is seen as it is
 * before or after.
 */
struct walk {
	uint64_t (*pass)(const uint64_t *map, uint64_t at, uint64_t end, uint64_t nothing);
	uint64_t (*sum)(const uint64_t *map, uint64_t at, uint64_t end);
	void (*flip)(uint64_t *to, const uint64_t *from, uint64_t words);
};

/* Any thread. The best for this processor */
const struct walk *walk_best(void);

/*
 * Of any processor; of x86-64 with what the levels v2 and v3 have, or NULL; and of one that counts
 * the bits of a vector, as most with the level v4 do
 */
extern const struct walk walk_plain;
const struct walk *walk_v2(void);
const struct walk *walk_v3(void);
const struct walk *walk_v4(void);

#endif /* BASE_WALK_H */
