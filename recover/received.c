/* SPDX-License-Identifier: MIT */
#include "recover/received.h"

#include "base/bits.h"

#include <string.h>

/* Words at a time, so that the compiler has a loop of known length to make vectors of */
#define STRIDE 8u

void received_invert(uint64_t *missing, const uint64_t *received, uint64_t pages, uint64_t group)
{
	size_t words = bits_words(pages), i = 0;
	uint64_t part[STRIDE];

	for (; words - i >= STRIDE; i += STRIDE) {
		/* by way of a copy: the two may be one */
		memcpy(part, received + i, sizeof(part));
		for (unsigned k = 0; k < STRIDE; k++)
			part[k] = ~part[k];
		memcpy(missing + i, part, sizeof(part));
	}
	for (; i < words; i++)
		missing[i] = ~received[i];
	if (pages % 64)
		missing[words - 1] &= (UINT64_C(1) << pages % 64) - 1;
	if (group > 1)
		bits_range_widen(missing, pages, group);
}
