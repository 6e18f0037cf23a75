/* SPDX-License-Identifier: MIT */
#include "recover/received.h"

#include "base/bits.h"

#define STRIDE 8u /* words at a time */

/* Two of them; the compiler takes what the processor has for it */
typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));

void received_invert(uint64_t *missing, const uint64_t *received, uint64_t pages, uint64_t group)
{
	size_t words = bits_words(pages), i = 0;

	for (; words - i >= STRIDE; i += STRIDE) {
		const pair *from = (const pair *)(received + i);
		pair *to = (pair *)(missing + i);

		/* the two may be one: each is read before it is written */
		for (unsigned k = 0; k < STRIDE / 2; k++)
			to[k] = ~from[k];
	}
	for (; i < words; i++)
		missing[i] = ~received[i];
	if (pages % 64)
		missing[words - 1] &= (UINT64_C(1) << pages % 64) - 1;
	if (group > 1)
		bits_range_widen(missing, pages, group);
}
