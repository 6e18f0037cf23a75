/* SPDX-License-Identifier: MIT */
#ifndef WIRE_MAPPED_RAM_H
#define WIRE_MAPPED_RAM_H

#include "wire/ram.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Files of QEMU's mapped-ram (9.0 and later): each page has its place in the file. The body of
 * ram's START is the list of blocks as ever, but behind each line stand where the bitmap and the
 * pages of the block are, the bitmap, room up to the next MiB, and the pages; then the next line.
 * Offsets are from the beginning of the file, wherever in it the stream begins. There are no
 * records of pages. A page without a bit is zero, whatever lies in its place: what was there once
 * is not taken away.
 */
#define MAPPED_RAM_CAPABILITY "mapped-ram"
#define MAPPED_RAM_ALIGN (UINT64_C(1) << 20)
#define MAPPED_RAM_HEADER 28u /* bytes of ours behind a line of the list */

/* Where a block lies; the bitmap has bitmap_bytes() (wire/bitmap.h) for its pages */
struct mapped_block {
	unsigned block; /* in the list */
	uint64_t header_end;
	uint64_t bitmap;
	uint64_t pages;
	uint64_t end; /* behind the pages: there the next line is */
};

/**
 * struct mapped_in - Decoder of the body, up to the end of the list
 *
 * Bytes in, blocks out, as wire/ram.h.
 */
struct mapped_in {
	size_t need;	 /* contiguous bytes of the next unit */
	uint64_t offset; /* in the file, of the next byte */
	bool done;
	/* private: */
	bool begun;
	uint64_t total_left;
};

/* @offset: in the file, of the first byte of the body */
void mapped_in_init(struct mapped_in *in, uint64_t offset);

/**
 * mapped_in_next() - Take bytes until a block is known
 * @blocks:	The list so far, to which the block is appended
 * @used:	Bytes taken from the front of @buf; also on 0
 *
 * Pure. Refused is all that ram_in_next() refuses of a list, and a layout that no QEMU makes:
 * pages that are not aligned, a bitmap or pages in front of what comes before them.
 *
 * Return: 1 and *@block: go on at in->offset, which is block->end, if not in->done; 0: call again
 * with at least in->need contiguous bytes; -EPROTO with a sentence
 */
int mapped_in_next(struct mapped_in *in, struct ram_blocks *blocks, const uint8_t *buf,
		   size_t length, size_t *used, struct mapped_block *block, struct wh_err *err);

/* The longest unit: name, length and header */
#define MAPPED_IN_NEED_MAX (256u + 8u + MAPPED_RAM_HEADER)

/* A block of @used bytes whose header ends at @header_end of the file, as QEMU would lay it out */
void mapped_block_lay(struct mapped_block *block, uint64_t header_end, uint64_t used);
/* Return: MAPPED_RAM_HEADER bytes written */
size_t mapped_block_put(uint8_t *buf, const struct mapped_block *block);

#endif /* WIRE_MAPPED_RAM_H */
