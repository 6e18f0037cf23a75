/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_WIRE_FEED_H
#define SELFTESTS_WIRE_FEED_H

#include "selftests/wire/random.h"
#include "selftests/wire/reencode.h"
#include "wire/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Bytes for a decoder, in any pieces, and a text of what it makes of them. Every piece
 * is a copy of its own size, so that an address sanitizer sees one byte too many, and
 * what the contract of the decoders promises to their callers is checked at each call.
 */

struct text {
	char *text;
	size_t length;
	FILE *file;
	/* pieces that are still to be written as one line */
	const char *kind;
	size_t bytes;
	uint32_t sum;
};

static inline void text_init(struct text *text)
{
	memset(text, 0, sizeof(*text));
	text->file = open_memstream(&text->text, &text->length);
}

static inline uint32_t sum_bytes(uint32_t sum, const uint8_t *bytes, size_t length)
{
	while (length--)
		sum = sum * 31 + *bytes++;
	return sum;
}

static inline void text_flush(struct text *text)
{
	if (text->kind)
		fprintf(text->file, "%s %zu %08x\n", text->kind, text->bytes, text->sum);
	text->kind = NULL;
	text->bytes = 0;
	text->sum = 0;
}

static inline void text_piece(struct text *text, const char *kind, const struct stream_event *event)
{
	if (text->kind != kind)
		text_flush(text);
	text->kind = kind;
	text->bytes += event->data_length;
	text->sum = sum_bytes(text->sum, event->data, event->data_length);
}

/* What there is so far; valid until the next call */
static inline const char *text_get(struct text *text)
{
	text_flush(text);
	fflush(text->file);
	return text->text;
}

static inline void text_fini(struct text *text)
{
	fclose(text->file);
	free(text->text);
}

static inline void text_ram(struct text *text, const struct ram_blocks *blocks,
			    const struct ram_event *event)
{
	const char *block = event->record <= RAM_GOT_XBZRLE && event->block < blocks->count ?
				    blocks->block[event->block].name.text :
				    "?";
	unsigned i;

	switch (event->record) {
	case RAM_GOT_PAGE:
	case RAM_GOT_XBZRLE:
		fprintf(text->file, "%s %s 0x%llx %zu %08x\n",
			event->record == RAM_GOT_PAGE ? "page" : "xbzrle", block,
			(unsigned long long)event->offset, event->data_length,
			sum_bytes(0, event->data, event->data_length));
		break;
	case RAM_GOT_ZERO:
		fprintf(text->file, "zero %s 0x%llx\n", block, (unsigned long long)event->offset);
		break;
	case RAM_GOT_BLOCKS:
		fprintf(text->file, "blocks");
		for (i = 0; i < blocks->count; i++)
			fprintf(text->file, " %s 0x%llx/0x%llx", blocks->block[i].name.text,
				(unsigned long long)blocks->block[i].used,
				(unsigned long long)blocks->block[i].page_size);
		fprintf(text->file, "\n");
		break;
	case RAM_GOT_FLUSH:
		fprintf(text->file, "flush\n");
		break;
	case RAM_GOT_HOOK:
		fprintf(text->file, "hook\n");
		break;
	case RAM_GOT_EOS:
		fprintf(text->file, "eos\n");
		break;
	}
}

static inline void text_event(struct text *text, const struct stream_in *in,
			      const struct stream_event *event)
{
	if (event->kind != STREAM_PACKAGE && event->kind != STREAM_DEVICE)
		text_flush(text);
	switch (event->kind) {
	case STREAM_HEADER:
		fprintf(text->file, "header %u\n", (unsigned)event->number);
		break;
	case STREAM_MACHINE:
		fprintf(text->file, "machine %s\n", event->name.text);
		break;
	case STREAM_CAPABILITY:
		fprintf(text->file, "capability %s\n", event->name.text);
		break;
	case STREAM_PAGE_BITS:
		fprintf(text->file, "page bits %u\n", (unsigned)event->number);
		break;
	case STREAM_UUID:
		fprintf(text->file, "uuid %zu %08x\n", event->data_length,
			sum_bytes(0, event->data, event->data_length));
		break;
	case STREAM_COMMAND:
		fprintf(text->file, "%s\n", cmd_name(event->command.kind));
		break;
	case STREAM_SECTION:
		fprintf(text->file, "%s %u %s\n", section_name(event->section),
			(unsigned)event->number,
			event->section == SECTION_START ? event->name.text : "");
		break;
	case STREAM_RAM:
		text_ram(text, &in->blocks, &event->ram);
		break;
	case STREAM_FOOTER:
		fprintf(text->file, "footer %s %u\n", section_name(event->section),
			(unsigned)event->number);
		break;
	case STREAM_PACKAGE:
		text_piece(text, "package", event);
		if (event->last)
			text_flush(text);
		break;
	case STREAM_DEVICE:
		text_piece(text, "device", event);
		break;
	case STREAM_EOF:
		fprintf(text->file, "EOF %zu\n", event->data_length);
		break;
	}
}

static inline void promised(int kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "a decoder broke its contract: %s\n", what);
	abort();
}

/* A page that is said to be there lies in a block. */
static inline void promised_place(const struct ram_blocks *blocks, const struct ram_event *event)
{
	if (event->record > RAM_GOT_XBZRLE)
		return;
	promised(event->block < blocks->count, "block");
	promised(event->offset % 4096 == 0 &&
			 event->offset <= blocks->block[event->block].used - 4096,
		 "page within its block");
}

/*
 * How large the next piece is: so many bytes are left, so many the decoder needs, the
 * first byte is that many bytes from the beginning.
 */
struct pieces {
	size_t (*next)(void *context, size_t at, size_t left, size_t need);
	void *context;
};

static inline size_t piece_all(void *context, size_t at, size_t left, size_t need)
{
	(void)context;
	(void)at;
	(void)need;
	return left;
}

/* Exactly what was asked for, so that each unit is somewhere else */
static inline size_t piece_need(void *context, size_t at, size_t left, size_t need)
{
	(void)context;
	(void)at;
	return need < left ? need : left;
}

/* All in front of *context, then the rest; a unit that lies across it waits for the rest */
static inline size_t piece_split(void *context, size_t at, size_t left, size_t need)
{
	size_t split = *(size_t *)context;

	return at + need <= split ? split - at : left;
}

/* What is needed, and some more */
static inline size_t piece_random(void *context, size_t at, size_t left, size_t need)
{
	struct random *random = context;
	size_t piece = need + random_below(random, random_below(random, 3) ? 16 : 6000);

	(void)at;
	return piece < left ? piece : left;
}

/* As feed_ram(), for the main channel; begins between two events, as that does */
static inline int feed_stream(struct stream_in *in, const uint8_t *bytes, size_t length,
			      const struct pieces *pieces, struct text *text, struct wh_err *err)
{
	static uint8_t out[REENCODE_MAX];
	struct stream_event event;
	size_t at = 0, begin = 0, used, size;
	uint64_t offset = in->offset;
	int ret;

	for (;;) {
		uint8_t *piece;
		size_t taken = 0;

		promised(in->need && in->need <= STREAM_NEED_MAX, "need");
		size = pieces->next(pieces->context, at, length - at, in->need);
		piece = malloc(size ? size : 1);
		memcpy(piece, bytes + at, size);
		do {
			ret = stream_in_next(in, piece + taken, size - taken, &used, &event, err);
			promised(used <= size - taken, "used <= length");
			taken += used;
			promised(in->offset == offset + at + taken, "offset");
			if (ret != 1)
				break;
			if (event.kind == STREAM_RAM)
				promised_place(&in->blocks, &event.ram);
			promised(reencode_is(out, reencode_event(out, in, &event, bytes + begin),
					     bytes + begin, at + taken - begin),
				 "an event is all of its bytes");
			begin = at + taken;
			if (text)
				text_event(text, in, &event);
		} while (true);
		free(piece);
		at += taken;
		if (ret < 0)
			return ret;
		/* else its caller would come back with the same bytes for ever */
		promised(in->need > size - taken, "need > bytes left");
		if (size - taken == length - at)
			return 0;
	}
}

/*
 * Feeds all bytes to a decoder of records. Return: 0 it wants more than there is,
 * or -EPROTO
 */
static inline int feed_ram(struct ram_in *in, struct ram_blocks *blocks, const uint8_t *bytes,
			   size_t length, const struct pieces *pieces, struct text *text,
			   struct wh_err *err)
{
	static uint8_t out[REENCODE_MAX];
	struct ram_event event;
	size_t at = 0, begin = 0, used, size;
	int ret;

	for (;;) {
		uint8_t *piece;
		size_t taken = 0;

		promised(in->need && in->need <= 4096, "need");
		size = pieces->next(pieces->context, at, length - at, in->need);
		piece = malloc(size ? size : 1);
		memcpy(piece, bytes + at, size);
		do {
			ret = ram_in_next(in, blocks, piece + taken, size - taken, &used, &event,
					  err);
			promised(used <= size - taken, "used <= length");
			taken += used;
			promised(blocks->count <= RAM_BLOCKS_MAX, "blocks");
			if (ret != 1)
				break;
			promised_place(blocks, &event);
			promised(reencode_is(out, reencode_ram(out, blocks, &event, bytes + begin),
					     bytes + begin, at + taken - begin),
				 "an event is all of its bytes");
			begin = at + taken;
			if (text)
				text_ram(text, blocks, &event);
		} while (true);
		free(piece);
		at += taken;
		if (ret < 0)
			return ret;
		promised(in->need > size - taken, "need > bytes left");
		if (size - taken == length - at)
			return 0;
	}
}

#endif /* SELFTESTS_WIRE_FEED_H */
