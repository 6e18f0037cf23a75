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
 *
 * Others may set and clear bits meanwhile: each bit is seen as it is before or after.
 */
struct walk {
	uint64_t (*pass)(const uint64_t *map, uint64_t at, uint64_t end, uint64_t nothing);
	uint64_t (*sum)(const uint64_t *map, uint64_t at, uint64_t end);
};

/* Any thread. The best for this processor */
const struct walk *walk_best(void);

/* Of any processor; of x86-64 with what the levels v2 and v3 have, or NULL */
extern const struct walk walk_plain;
const struct walk *walk_v2(void);
const struct walk *walk_v3(void);

#endif /* BASE_WALK_H */
