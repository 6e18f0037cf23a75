/* SPDX-License-Identifier: MIT */
#ifndef WIRE_RAM_H
#define WIRE_RAM_H

#include "wire/name.h"

#include <stdbool.h>
#include <stddef.h>
#include <wherry/err.h>

/* Low bits of the be64 a record begins with; the rest is the offset in the block. */
enum ram_flag {
	RAM_FULL = 0x001,
	RAM_ZERO = 0x002,
	RAM_MEM_SIZE = 0x004,
	RAM_PAGE = 0x008,
	RAM_EOS = 0x010,
	RAM_CONTINUE = 0x020,
	RAM_XBZRLE = 0x040,
	RAM_HOOK = 0x080,
	RAM_COMPRESS_PAGE = 0x100,
	RAM_MULTIFD_FLUSH = 0x200,
};

#define RAM_BLOCKS_MAX 256u
#define RAM_RECORD_MAX (8u + 256u + 8u) /* of what ram_put_*() writes, without contents */

/**
 * struct ram_block - A line of the block list, as it came
 * @used:	used_length in bytes
 * @page_size:	0 if the list does not say: that of the host, 4096
 */
struct ram_block {
	struct wire_name name;
	uint64_t used;
	uint64_t page_size;
};

struct ram_blocks {
	unsigned count;
	struct ram_block block[RAM_BLOCKS_MAX];
};

enum ram_record {
	RAM_GOT_PAGE, /* data: 4096 bytes, wherever the caller had them */
	RAM_GOT_ZERO,
	RAM_GOT_XBZRLE, /* data, data_length: the delta */
	RAM_GOT_BLOCKS, /* the list is complete and in *blocks */
	RAM_GOT_FLUSH,
	RAM_GOT_HOOK, /* RDMA: something beside the stream comes next */
	RAM_GOT_EOS,
};

/*
 * What a record says; block and offset, of the three kinds of page, are checked
 * against the list. Members that a kind does not have keep their old values.
 */
struct ram_event {
	enum ram_record record;
	unsigned block;
	uint64_t offset;
	const uint8_t *data;
	size_t data_length;
};

/**
 * struct ram_in - Decoder of records, one a channel
 *
 * The last block named on a channel outlives sections, so it does here. Records
 * are taken in units: the be64, a name, the contents. A unit must be contiguous,
 * two units need not be: contents may lie somewhere else than their header, and
 * @block and @offset already say of which page while @need asks for them.
 */
struct ram_in {
	size_t need; /* bytes, contiguous, of the next unit */
	unsigned block;
	uint64_t offset;
	/* private: */
	uint32_t flags;
	uint64_t total_left;
	uint8_t step;
	bool have_block;
	bool have_list;
	bool urgent; /* pages, zero pages and EOS only */
	bool learn;
};

void ram_in_init(struct ram_in *in, bool urgent);

/**
 * enum ram_in_at - What the next unit is
 * @RAM_IN_AT_RECORD:	The be64 of a record, and there is a block that it may go on with
 * @RAM_IN_AT_CONTENTS:	A page's contents: of @block and @offset of struct ram_in
 * @RAM_IN_AT_OTHER:	Anything else
 */
enum ram_in_at {
	RAM_IN_AT_RECORD,
	RAM_IN_AT_CONTENTS,
	RAM_IN_AT_OTHER,
};

enum ram_in_at ram_in_at(const struct ram_in *in);

/* A new connection goes on with the same list: a record in the middle is forgotten. */
void ram_in_reconnect(struct ram_in *in);

/*
 * No list will come, as on a channel seen by itself: names are taken as they come and
 * appended to *blocks, with no length to check against. Only for printing.
 */
void ram_in_learn(struct ram_in *in);

/**
 * ram_in_next() - Take a unit, or as many as it needs for an event
 * @blocks:	The list; filled in by MEM_SIZE, read by everything else
 * @used:	Bytes taken from @buf; also on 0
 *
 * Pure. A list is refused if a name is in it twice, if a length is 0 or not of whole
 * pages, if the lengths do not add up to the total, or if it comes again.
 *
 * Return: 1 and *@event; 0: call again with in->need bytes or more, from the first
 * one not taken; -EPROTO
 */
int ram_in_next(struct ram_in *in, struct ram_blocks *blocks, const uint8_t *buf, size_t length,
		size_t *used, struct ram_event *event, struct wh_err *err);

/*
 * Writers. Each returns the bytes written. ram_put_page() writes what stands in
 * front of a page's contents and ram_put_zero() a whole zero page; @name is NULL
 * where the block is that of the record before (CONTINUE).
 */
size_t ram_put_page(uint8_t *buf, uint64_t offset, const struct wire_name *name);
size_t ram_put_zero(uint8_t *buf, uint64_t offset, const struct wire_name *name);
size_t ram_put_xbzrle(uint8_t *buf, uint64_t offset, const struct wire_name *name,
		      uint16_t delta_length);
size_t ram_put_eos(uint8_t *buf);
size_t ram_put_flush(uint8_t *buf);
size_t ram_put_hook(uint8_t *buf);
size_t ram_put_total(uint8_t *buf, uint64_t total);
size_t ram_put_block(uint8_t *buf, const struct ram_block *block);

#endif /* WIRE_RAM_H */
