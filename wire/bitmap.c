/* SPDX-License-Identifier: MIT */
#include "wire/bitmap.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

#define HOST_IS_LITTLE (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)

/*
 * Bit i is bit i % 8 of byte i / 8. Made of shifts, a word is the same bytes on every
 * host; written out, compilers make one store or load of it where the host is little endian.
 */
static void put_le64(uint8_t *at, uint64_t word)
{
	at[0] = (uint8_t)word;
	at[1] = (uint8_t)(word >> 8);
	at[2] = (uint8_t)(word >> 16);
	at[3] = (uint8_t)(word >> 24);
	at[4] = (uint8_t)(word >> 32);
	at[5] = (uint8_t)(word >> 40);
	at[6] = (uint8_t)(word >> 48);
	at[7] = (uint8_t)(word >> 56);
}

static uint64_t get_le64(const uint8_t *at)
{
	return (uint64_t)at[7] << 56 | (uint64_t)at[6] << 48 | (uint64_t)at[5] << 40 |
	       (uint64_t)at[4] << 32 | (uint64_t)at[3] << 24 | (uint64_t)at[2] << 16 |
	       (uint64_t)at[1] << 8 | at[0];
}

/* Bits of the last word that stand for pages */
static uint64_t last_mask(uint64_t pages)
{
	return pages % 64 ? (UINT64_C(1) << (pages % 64)) - 1 : ~UINT64_C(0);
}

/* Two words at a time, wherever they lie */
typedef uint64_t pair __attribute__((vector_size(16), aligned(1), may_alias));

/*
 * Pages may arrive meanwhile. Plain loads all the same, of which the compiler makes few: a bit
 * only comes, so whatever is seen was there at some time; and behind the fence, before which it
 * was seen, its page is in place. (The empty statement keeps the loop from becoming a call of
 * memcpy(), of which thread sanitizers cannot be told this.)
 */
static void __attribute__((no_sanitize("thread")))
copy_bits(uint8_t *to, const uint64_t *map, size_t words)
{
	size_t i = 0;

	for (; words - i >= 8; i += 8, to += 64) {
		const pair *from = (const pair *)(map + i);
		pair *at = (pair *)to;

		at[0] = from[0];
		at[1] = from[1];
		at[2] = from[2];
		at[3] = from[3];
		__asm__ volatile("" ::: "memory");
	}
	for (; i < words; i++, to += 8)
		put_le64(to, map[i]);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
}

uint64_t bitmap_bytes(uint64_t pages)
{
	return (uint64_t)bits_words(pages) * 8;
}

size_t bitmap_bits_put(uint8_t *buf, const uint64_t *map, uint64_t pages)
{
	size_t words = bits_words(pages), i;
	uint8_t *at = buf;

	if (HOST_IS_LITTLE) {
		copy_bits(at, map, words);
		at += words * 8;
	} else {
		/* a bit seen here is of a page that is in place */
		for (i = 0; i < words; i++, at += 8)
			put_le64(at, __atomic_load_n(&map[i], __ATOMIC_ACQUIRE));
	}
	if (words)
		put_le64(at - 8, get_le64(at - 8) & last_mask(pages));
	return words * 8;
}

size_t bitmap_put(uint8_t *buf, const uint64_t *map, uint64_t pages)
{
	size_t bytes;

	put_be64(buf, bitmap_bytes(pages));
	bytes = bitmap_bits_put(buf + 8, map, pages);
	put_be64(buf + 8 + bytes, BITMAP_END_MARK);
	return BITMAP_FRAME + bytes;
}

int bitmap_bits_get(const uint8_t *buf, uint64_t *map, uint64_t pages, struct wh_err *err)
{
	size_t words = bits_words(pages), i;

	if (words && get_le64(buf + (words - 1) * 8) & ~last_mask(pages))
		return err_set(err, -EPROTO, "bitmap has bits behind its %llu pages",
			       (unsigned long long)pages);
	if (HOST_IS_LITTLE)
		memcpy(map, buf, words * 8);
	else
		for (i = 0; i < words; i++)
			map[i] = get_le64(buf + i * 8);
	return 0;
}

int bitmap_get(const uint8_t *buf, size_t length, size_t *used, uint64_t *map, uint64_t pages,
	       struct wh_err *err)
{
	size_t words = bits_words(pages);
	const uint8_t *bits = buf + 8;
	int ret;

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
	ret = bitmap_bits_get(bits, map, pages, err);
	if (ret < 0)
		return ret;
	*used = BITMAP_FRAME + words * 8;
	return 1;
}
