/* SPDX-License-Identifier: MIT */
#include "wire/bitmap.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>

/*
 * Bit i is bit i % 8 of byte i / 8. Made of shifts, a word is the same bytes on
 * every host; compilers make one store of the loop where the host is little endian.
 */
static void put_le64(uint8_t *at, uint64_t word)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		at[i] = (uint8_t)(word >> (8 * i));
}

static uint64_t get_le64(const uint8_t *at)
{
	uint64_t word = 0;
	unsigned i;

	for (i = 0; i < 8; i++)
		word |= (uint64_t)at[i] << (8 * i);
	return word;
}

/* Bits of the last word that stand for pages */
static uint64_t last_mask(uint64_t pages)
{
	return pages % 64 ? (UINT64_C(1) << (pages % 64)) - 1 : ~UINT64_C(0);
}

uint64_t bitmap_bytes(uint64_t pages)
{
	return (uint64_t)bits_words(pages) * 8;
}

size_t bitmap_put(uint8_t *buf, const uint64_t *map, uint64_t pages)
{
	size_t words = bits_words(pages), i;
	uint8_t *at = buf + 8;

	put_be64(buf, bitmap_bytes(pages));
	for (i = 0; i < words; i++, at += 8) {
		/* pages may arrive meanwhile: a bit seen here is of a page that is in place */
		uint64_t word = __atomic_load_n(&map[i], __ATOMIC_ACQUIRE);

		put_le64(at, i + 1 < words ? word : word & last_mask(pages));
	}
	put_be64(at, BITMAP_END_MARK);
	return BITMAP_FRAME + words * 8;
}

int bitmap_get(const uint8_t *buf, size_t length, size_t *used, uint64_t *map, uint64_t pages,
	       struct wh_err *err)
{
	size_t words = bits_words(pages), i;
	const uint8_t *bits = buf + 8;

	if (length < 8)
		return 0;
	if (get_be64(buf) != bitmap_bytes(pages))
		return err_set(err, -EPROTO, "bitmap of %llu bytes, expected %llu for %llu pages",
			       (unsigned long long)get_be64(buf),
			       (unsigned long long)bitmap_bytes(pages), (unsigned long long)pages);
	if (length < BITMAP_FRAME + words * 8)
		return 0;
	if (get_be64(bits + words * 8) != BITMAP_END_MARK)
		return err_set(err, -EPROTO, "bitmap ends with 0x%016llx, expected 0x%016llx",
			       (unsigned long long)get_be64(bits + words * 8),
			       (unsigned long long)BITMAP_END_MARK);
	if (words && get_le64(bits + (words - 1) * 8) & ~last_mask(pages))
		return err_set(err, -EPROTO, "bitmap has bits behind its %llu pages",
			       (unsigned long long)pages);
	for (i = 0; i < words; i++)
		map[i] = get_le64(bits + i * 8);
	*used = BITMAP_FRAME + words * 8;
	return 1;
}
