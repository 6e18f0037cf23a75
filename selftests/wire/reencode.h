/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_WIRE_REENCODE_H
#define SELFTESTS_WIRE_REENCODE_H

#include "wire/stream.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * An event, written again by the writers: the very bytes it was made of. So nothing
 * is lost on the way in, and what is taken is what would have been sent.
 */

/* A record that came without a name is written without one. */
static inline const struct wire_name *name_as_it_came(const struct ram_block *block,
						      const uint8_t *from)
{
	return from[7] & RAM_CONTINUE ? NULL : &block->name;
}

static inline size_t reencode_blocks(uint8_t *out, const struct ram_blocks *blocks)
{
	uint64_t total = 0;
	size_t length;
	unsigned i;

	for (i = 0; i < blocks->count; i++)
		total += blocks->block[i].used;
	length = ram_put_total(out, total);
	for (i = 0; i < blocks->count; i++)
		length += ram_put_block(out + length, &blocks->block[i]);
	return length;
}

/* Return: length, 0 if there is no writer */
static inline size_t reencode_ram(uint8_t *out, const struct ram_blocks *blocks,
				  const struct ram_event *event, const uint8_t *from)
{
	const struct ram_block *block = &blocks->block[event->block];
	size_t length = 0;

	switch (event->record) {
	case RAM_GOT_ZERO:
		return ram_put_zero(out, event->offset, name_as_it_came(block, from));
	case RAM_GOT_PAGE:
		length = ram_put_page(out, event->offset, name_as_it_came(block, from));
		break;
	case RAM_GOT_XBZRLE:
		length = ram_put_xbzrle(out, event->offset, name_as_it_came(block, from),
					(uint16_t)event->data_length);
		break;
	case RAM_GOT_BLOCKS:
		return reencode_blocks(out, blocks);
	case RAM_GOT_EOS:
		return ram_put_eos(out);
	case RAM_GOT_FLUSH:
	case RAM_GOT_HOOK:
		return 0;
	}
	memcpy(out + length, event->data, event->data_length);
	return length + event->data_length;
}

static inline size_t reencode_command(uint8_t *out, const struct cmd_msg *msg)
{
	struct wire_range range[CMD_DISCARD_RANGES];
	uint32_t i;

	if (msg->kind != CMD_POSTCOPY_RAM_DISCARD)
		return cmd_put(out, msg, NULL);
	if (msg->discard.count > CMD_DISCARD_RANGES)
		return 0;
	for (i = 0; i < msg->discard.count; i++)
		range[i] = cmd_range(msg, i);
	return cmd_put(out, msg, range);
}

static inline size_t reencode_event(uint8_t *out, const struct stream_in *in,
				    const struct stream_event *event, const uint8_t *from)
{
	bool section = event->kind == STREAM_COMMAND || event->kind == STREAM_SECTION;

	/* an empty list of capabilities is no event: its bytes are in front of the next one's */
	if (section && from[0] == SECTION_SUBSECTION)
		return 0;
	switch (event->kind) {
	case STREAM_HEADER:
		return stream_put_header(out);
	case STREAM_MACHINE:
		return stream_put_config(out, &event->name);
	case STREAM_COMMAND:
		return reencode_command(out, &event->command);
	case STREAM_SECTION:
		if (event->section == SECTION_START)
			return stream_put_start(out, event->section, (uint32_t)event->number,
						&event->name, 0, STREAM_RAM_VERSION);
		return stream_put_part(out, event->section, (uint32_t)event->number);
	case STREAM_RAM:
		return reencode_ram(out, &in->blocks, &event->ram, from);
	case STREAM_FOOTER:
		return stream_put_footer(out, (uint32_t)event->number);
	case STREAM_EOF:
		return stream_put_eof(out);
	case STREAM_CAPABILITY:
	case STREAM_PAGE_BITS:
	case STREAM_UUID:
	case STREAM_PACKAGE:
	case STREAM_DEVICE:
		break;
	}
	return 0;
}

/* The longest is a block list */
#define REENCODE_MAX (8u + RAM_BLOCKS_MAX * RAM_RECORD_MAX)

static inline bool reencode_is(const uint8_t *out, size_t made, const uint8_t *from, size_t length)
{
	return !made || (made == length && !memcmp(out, from, made));
}

#endif /* SELFTESTS_WIRE_REENCODE_H */
