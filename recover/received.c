/* SPDX-License-Identifier: MIT */
#include "recover/received.h"

#include "base/bits.h"
#include "base/walk.h"

void received_invert(uint64_t *missing, const uint64_t *received, uint64_t pages, uint64_t group)
{
	size_t words = bits_words(pages);

	walk_best()->flip(missing, received, words);
	if (pages % 64)
		missing[words - 1] &= (UINT64_C(1) << pages % 64) - 1;
	if (group > 1)
		bits_range_widen(missing, pages, group);
}
