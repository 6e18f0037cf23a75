/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_DEST_BYTES_H
#define SELFTESTS_POSTCOPY_DEST_BYTES_H

/* Streams for the destination engine, and how they get into it. */
#include "selftests/postcopy/dest_world.h"
#include "wire/device.h"

#define RAM_ID 2u
#define ALL_SIZES (TARGET_PAGE | HUGE_PAGE | 4 * TARGET_PAGE)

struct bytes {
	uint8_t *at;
	size_t length;
	size_t room;
	bool bare; /* records without sections, for the urgent channel */
	int block; /* of the record before */
};

static uint8_t *bytes_room(struct bytes *b, size_t more)
{
	if (b->room - b->length < more) {
		b->room = 2 * b->room + more;
		b->at = realloc(b->at, b->room);
		if (!b->at)
			abort();
	}
	return b->at + b->length;
}

static void bytes_add(struct bytes *b, const void *data, size_t length)
{
	if (length)
		memcpy(bytes_room(b, length), data, length);
	b->length += length;
}

UNUSED static void bytes_free(struct bytes *b)
{
	free(b->at);
	*b = (struct bytes){ 0 };
}

static void bytes_header(struct bytes *b)
{
	struct wire_name machine;

	wire_name_set(&machine, "pc-q35-7.2");
	b->length += stream_put_header(bytes_room(b, STREAM_PUT_MAX));
	b->length += stream_put_config(bytes_room(b, STREAM_PUT_MAX), &machine);
	b->block = -1;
}

static void bytes_msg(struct bytes *b, const struct cmd_msg *msg, const struct wire_range *ranges)
{
	b->length += cmd_put(bytes_room(b, CMD_PUT_MAX), msg, ranges);
}

static void bytes_command(struct bytes *b, enum cmd_kind kind)
{
	struct cmd_msg msg = { .kind = kind };

	bytes_msg(b, &msg, NULL);
}

static void bytes_ping(struct bytes *b, uint32_t value)
{
	struct cmd_msg msg = { .kind = CMD_PING, .ping.value = value };

	bytes_msg(b, &msg, NULL);
}

UNUSED static void bytes_advise(struct bytes *b, uint64_t sizes, uint64_t target)
{
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_ADVISE };

	msg.advise.page_sizes = sizes;
	msg.advise.target_page = target;
	bytes_msg(b, &msg, NULL);
}

UNUSED static void bytes_discard(struct bytes *b, const char *block, uint64_t start,
				 uint64_t length)
{
	struct wire_range range = { start, length };
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_RAM_DISCARD };

	wire_name_set(&msg.discard.block, block);
	msg.discard.count = 1;
	bytes_msg(b, &msg, &range);
}

static void bytes_eos(struct bytes *b)
{
	b->length += ram_put_eos(bytes_room(b, RAM_RECORD_MAX));
	if (!b->bare)
		b->length += stream_put_footer(bytes_room(b, STREAM_PUT_MAX), RAM_ID);
}

#define ALL (1u << RAM | 1u << HUGE | 1u << ROM)

/* ram START with those of world_blocks */
static void bytes_list(struct bytes *b, unsigned blocks)
{
	struct wire_name ram;
	uint64_t total = 0;

	wire_name_set(&ram, "ram");
	b->length += stream_put_start(bytes_room(b, STREAM_PUT_MAX), SECTION_START, RAM_ID, &ram, 0,
				      STREAM_RAM_VERSION);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		if (blocks & 1u << i)
			total += world_blocks[i].used;
	b->length += ram_put_total(bytes_room(b, RAM_RECORD_MAX), total);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		struct ram_block line = { .used = world_blocks[i].used,
					  .page_size = world_blocks[i].source_page_size };

		if (!(blocks & 1u << i))
			continue;
		wire_name_set(&line.name, world_blocks[i].name);
		b->length += ram_put_block(bytes_room(b, RAM_RECORD_MAX), &line);
	}
	bytes_eos(b);
}

UNUSED static void bytes_part(struct bytes *b, enum section_type type)
{
	b->length += stream_put_part(bytes_room(b, STREAM_PUT_MAX), type, RAM_ID);
}

UNUSED static const struct wire_name *bytes_name(struct bytes *b, unsigned block)
{
	static __thread struct wire_name name;

	if (b->block == (int)block)
		return NULL;
	b->block = (int)block;
	wire_name_set(&name, world_blocks[block].name);
	return &name;
}

/* What page contents are made of here: never 0 */
UNUSED static uint8_t page_byte(unsigned block, uint64_t offset)
{
	return (uint8_t)(1 + (offset / TARGET_PAGE * 7 + block) % 255);
}

UNUSED static void bytes_page(struct bytes *b, unsigned block, uint64_t offset)
{
	b->length += ram_put_page(bytes_room(b, RAM_RECORD_MAX), offset, bytes_name(b, block));
	memset(bytes_room(b, TARGET_PAGE), page_byte(block, offset), TARGET_PAGE);
	b->length += TARGET_PAGE;
}

UNUSED static void bytes_zero(struct bytes *b, unsigned block, uint64_t offset)
{
	b->length += ram_put_zero(bytes_room(b, RAM_RECORD_MAX), offset, bytes_name(b, block));
}

UNUSED static void bytes_pages(struct bytes *b, unsigned block, uint64_t offset, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		bytes_page(b, block, offset + i * TARGET_PAGE);
}

/* Two FULL sections as a QEMU might have them */
UNUSED static void bytes_state(struct bytes *b)
{
	struct wire_name name;

	for (uint32_t id = 4; id < 6; id++) {
		wire_name_set(&name, id == 4 ? "timer" : "cpu");
		b->length += stream_put_start(bytes_room(b, STREAM_PUT_MAX), SECTION_FULL, id,
					      &name, 0, 2);
		/* with something that looks like the end and is none */
		bytes_add(b, "\x7e\0\0\0\2\0\6\0\0\0\x10{\"a\":\1", 17);
		b->length += stream_put_footer(bytes_room(b, STREAM_PUT_MAX), id);
	}
}

#define VMDESC "{\"page_size\": 4096, \"devices\": []}"

UNUSED static void bytes_vmdesc(struct bytes *b)
{
	b->length += stream_put_eof(bytes_room(b, STREAM_PUT_MAX));
	b->length += stream_put_vmdesc(bytes_room(b, STREAM_PUT_MAX), sizeof(VMDESC) - 1);
	bytes_add(b, VMDESC, sizeof(VMDESC) - 1);
}

/* The package with its command: LISTEN, state, PING 3, more PINGs, RUN */
UNUSED static void bytes_package(struct bytes *b, const struct bytes *state, unsigned pings)
{
	struct cmd_msg msg = { .kind = CMD_PACKAGED };
	struct bytes in = { 0 };

	bytes_command(&in, CMD_POSTCOPY_LISTEN);
	if (state)
		bytes_add(&in, state->at, state->length);
	for (uint32_t i = 0; i < pings; i++)
		bytes_ping(&in, 3 + i);
	bytes_command(&in, CMD_POSTCOPY_RUN);
	msg.packaged.length = (uint32_t)in.length;
	bytes_msg(b, &msg, NULL);
	bytes_add(b, in.at, in.length);
	bytes_free(&in);
}

/* Everything in front of the first PART. Postcopy implies a return path. */
UNUSED static void bytes_begin(struct bytes *b, bool return_path, bool postcopy, unsigned blocks)
{
	bytes_header(b);
	if (return_path || postcopy) {
		bytes_command(b, CMD_OPEN_RETURN_PATH);
		bytes_ping(b, 1);
	}
	if (postcopy)
		bytes_advise(b, ALL_SIZES, TARGET_PAGE);
	bytes_list(b, blocks);
}

/* The switch to postcopy with the package; pages may follow it */
UNUSED static void bytes_switch(struct bytes *b)
{
	struct bytes state = { 0 };

	bytes_state(&state);
	bytes_ping(b, 2);
	bytes_package(b, &state, 1);
	bytes_ping(b, 4);
	b->block = -1;
	bytes_free(&state);
}

/* END of ram and EOF */
UNUSED static void bytes_end(struct bytes *b)
{
	bytes_part(b, SECTION_END);
	bytes_eos(b);
	b->length += stream_put_eof(bytes_room(b, STREAM_PUT_MAX));
}

/*
 * Hand bytes to a channel in pieces, as a link does: what was not taken comes again with
 * more behind it. Return: as the last dest_input(); DEST_RETRY if it said so `tries`
 * times in a row
 */
UNUSED static int feed_pieces(struct world *w, enum channel channel, const struct bytes *b,
			      size_t piece, unsigned tries, uint64_t now_ns, struct wh_err *err)
{
	size_t start = 0, have = 0, used;
	unsigned tried = 0;
	int ret = 0;

	do {
		if (ret != DEST_RETRY)
			have += b->length - start - have < piece ? b->length - start - have : piece;
		ret = dest_input(&w->dest, channel, b->at + start, have, &used, now_ns, err);
		start += used;
		have -= used;
		if (ret < 0)
			return ret;
		tried = ret == DEST_RETRY ? tried + 1 : 0;
	} while (tried < tries && (ret == DEST_RETRY || start + have < b->length));
	if (ret == 0 && have && dest_need(&w->dest, channel) <= have)
		abort(); /* it needs no more than it has, and does not take it */
	return ret;
}

/* All at once, and forget them */
UNUSED static int feed(struct world *w, enum channel channel, struct bytes *b, struct wh_err *err)
{
	int ret;

	bytes_room(b, 1);
	ret = feed_pieces(w, channel, b, b->length + 1, 1000, 0, err);
	b->length = 0;
	return ret;
}

#endif /* SELFTESTS_POSTCOPY_DEST_BYTES_H */
