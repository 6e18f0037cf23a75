/* SPDX-License-Identifier: MIT */
#ifndef WIRE_BITMAP_H
#define WIRE_BITMAP_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * The received bitmap as it stands behind a RECV_BITMAP message: be64 size, the
 * bits as 64-bit little-endian words, be64 end mark. Words are written byte by
 * byte, so host order and word size do not matter.
 */
#define BITMAP_END_MARK UINT64_C(0x0123456789ABCDEF)
#define BITMAP_FRAME 16u /* size and end mark */

/* Bytes of bitmap for so many pages, without the frame */
uint64_t bitmap_bytes(uint64_t pages);

/* The words alone, as they lie in a file: bitmap_bytes() of them. Return: bytes written */
size_t bitmap_bits_put(uint8_t *buf, const uint64_t *map, uint64_t pages);
/* Return: 0, or -EPROTO and a sentence if a bit is set behind the last page */
int bitmap_bits_get(const uint8_t *buf, uint64_t *map, uint64_t pages, struct wh_err *err);

/* Writes frame and bits of `pages` pages; padding bits are 0. Return: bytes written */
size_t bitmap_put(uint8_t *buf, const uint64_t *map, uint64_t pages);

/**
 * bitmap_get() - Check and take a framed bitmap
 * @pages:	That the block has; the size on the wire must be exactly theirs
 * @map:	bits_words(@pages) words, written on 1 only
 *
 * Return: 1 taken, 0 more bytes are needed, -EPROTO with a sentence (size, end
 * mark, or padding bits)
 */
int bitmap_get(const uint8_t *buf, size_t length, size_t *used, uint64_t *map, uint64_t pages,
	       struct wh_err *err);

#endif /* WIRE_BITMAP_H */
