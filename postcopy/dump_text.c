/* SPDX-License-Identifier: MIT */
#include "postcopy/dump_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define LINE_MAX_BYTES 1024u

/* A line in the making */
struct text {
	char text[LINE_MAX_BYTES];
	size_t length;
};

__attribute__((format(printf, 2, 0))) static void text_vadd(struct text *text, const char *format,
							    va_list args)
{
	size_t room = sizeof(text->text) - text->length;
	int n = vsnprintf(text->text + text->length, room, format, args);

	/* names are bounded, so every line fits: a longer one would be cut, not overflow */
	if (n > 0)
		text->length += (size_t)n < room ? (size_t)n : room - 1;
}

__attribute__((format(printf, 2, 3))) static void text_add(struct text *text, const char *format,
							   ...)
{
	va_list args;

	va_start(args, format);
	text_vadd(text, format, args);
	va_end(args);
}

void dump_say(struct wh_dump *dump, uint64_t offset, const char *format, ...)
{
	struct text text = { .length = 0 };
	va_list args;

	va_start(args, format);
	text_vadd(&text, format, args);
	va_end(args);
	dump->line(dump->opaque, offset, text.text);
}

/* Pages */

static const char *record_name(enum ram_record record)
{
	switch (record) {
	case RAM_GOT_PAGE:
		return "page";
	case RAM_GOT_ZERO:
		return "zero";
	case RAM_GOT_XBZRLE:
		return "xbzrle";
	case RAM_GOT_BLOCKS:
	case RAM_GOT_FLUSH:
	case RAM_GOT_EOS:
		break;
	}
	return "?";
}

void dump_run_end(struct wh_dump *dump)
{
	const struct run *run = &dump->run;

	if (run->pages)
		dump_say(dump, run->offset, "%s 0x%" PRIx64 "+0x%" PRIx64 " %s x%" PRIu64,
			 dump->stream.blocks.block[run->block].name.text, run->start,
			 run->pages * 4096, record_name(run->record), run->pages);
	dump->run.pages = 0;
}

static void say_page(struct wh_dump *dump, const struct ram_event *event)
{
	struct run *run = &dump->run;

	if (dump->pages) {
		if (event->record == RAM_GOT_XBZRLE)
			dump_say(dump, dump->begin, "%s 0x%" PRIx64 " xbzrle %zu bytes",
				 dump->stream.blocks.block[event->block].name.text, event->offset,
				 event->data_length);
		else
			dump_say(dump, dump->begin, "%s 0x%" PRIx64 " %s",
				 dump->stream.blocks.block[event->block].name.text, event->offset,
				 record_name(event->record));
		return;
	}
	if (!run->pages || run->block != event->block || run->record != event->record ||
	    run->start + run->pages * 4096 != event->offset) {
		dump_run_end(dump);
		run->offset = dump->begin;
		run->start = event->offset;
		run->block = event->block;
		run->record = event->record;
	}
	run->pages++;
}

static void say_blocks(struct wh_dump *dump)
{
	const struct ram_blocks *blocks = &dump->stream.blocks;
	const struct ram_block *block;
	uint64_t total = 0;
	unsigned i;

	for (i = 0; i < blocks->count; i++)
		total += blocks->block[i].used;
	dump_say(dump, dump->begin, "%u blocks, 0x%" PRIx64 " bytes", blocks->count, total);
	for (i = 0; i < blocks->count; i++) {
		block = &blocks->block[i];
		if (block->page_size)
			dump_say(dump, dump->begin,
				 "block %s 0x%" PRIx64 " bytes, pages of 0x%" PRIx64,
				 block->name.text, block->used, block->page_size);
		else
			dump_say(dump, dump->begin, "block %s 0x%" PRIx64 " bytes",
				 block->name.text, block->used);
	}
}

void dump_say_ram(struct wh_dump *dump, const struct ram_event *event)
{
	if (event->record <= RAM_GOT_XBZRLE) {
		say_page(dump, event);
		return;
	}
	dump_run_end(dump);
	if (event->record == RAM_GOT_BLOCKS)
		say_blocks(dump);
	if (event->record == RAM_GOT_FLUSH)
		dump_say(dump, dump->begin, "MULTIFD_FLUSH");
	/* in a section its footer says the same */
	if (event->record == RAM_GOT_EOS && dump->kind == WH_DUMP_URGENT)
		dump_say(dump, dump->begin, "EOS");
}

/* Commands and messages: every field of the tables, in their order */

#define AS_value "%" PRIu64
#define AS_start "0x%" PRIx64
#define AS_length "0x%" PRIx64
#define AS_page_sizes "0x%" PRIx64
#define AS_target_page "0x%" PRIx64
#define AS_high "%016" PRIx64
#define AS_low "%016" PRIx64
#define AS_proof "%016" PRIx64
#define F(type, name) text_add(&text, " " #name " " AS_##name, (uint64_t)m->name);
#define NAME(name) text_add(&text, " " #name " %s", m->name.text);
#define NOTHING
#define RANGES NAME(block) text_add(&text, " ranges %u", m->count);

static void say_command(struct wh_dump *dump, uint64_t offset, const struct cmd_msg *msg)
{
	struct text text = { .length = 0 };
	uint32_t i;

	text_add(&text, "%s", cmd_name(msg->kind));
	switch (msg->kind) {
#define MSG(kind, number, body, fields)                      \
	case CMD_##kind: {                                   \
		const __typeof__(msg->body) *m = &msg->body; \
                                                             \
		(void)m;                                     \
		fields                                       \
	} break;
#include "wire/command.def"
#undef MSG
	case CMD_COUNT:
		break;
	}
	if (msg->empty)
		text_add(&text, " (empty)");
	dump->line(dump->opaque, offset, text.text);
	if (msg->kind != CMD_POSTCOPY_RAM_DISCARD)
		return;
	for (i = 0; i < msg->discard.count; i++)
		dump_say(dump, offset, "  0x%" PRIx64 "+0x%" PRIx64, cmd_range(msg, i).start,
			 cmd_range(msg, i).length);
}

void dump_say_message(struct wh_dump *dump, const struct rp_msg *msg)
{
	struct text text = { .length = 0 };

	text_add(&text, "%s", rp_name(msg->kind));
	switch (msg->kind) {
#define MSG(kind, number, body, fields)                      \
	case RP_##kind: {                                    \
		const __typeof__(msg->body) *m = &msg->body; \
                                                             \
		(void)m;                                     \
		fields                                       \
	} break;
#include "wire/return_path.def"
#undef MSG
	case RP_COUNT:
		break;
	}
	dump->line(dump->opaque, dump->begin, text.text);
}

#undef RANGES
#undef NOTHING
#undef NAME
#undef F

/* Device state */

void dump_say_state(struct wh_dump *dump, uint64_t offset, const char *indent, const uint8_t *state,
		    size_t length)
{
	size_t at, own;

	if (length && device_own(state, length, &at, &own, NULL) == 1)
		dump_say(dump, offset,
			 "%sdevice state, %zu bytes: " DEVICE_OWN_NAME " of %zu bytes", indent,
			 length, own);
	else if (length)
		dump_say(dump, offset, "%sdevice state, %zu bytes", indent, length);
}

void dump_say_package(struct wh_dump *dump, const struct package *package)
{
	uint64_t at = dump->kept_offset;
	unsigned i;

	dump_say(dump, at, "  %s", cmd_name(CMD_POSTCOPY_LISTEN));
	at += package->state;
	dump_say_state(dump, at, "  ", dump->kept.at + package->state, package->state_length);
	at += package->state_length;
	for (i = 0; i < package->pings; i++, at += CMD_HEADER + 4)
		dump_say(dump, at, "  %s value %u", cmd_name(CMD_PING), package->ping[i]);
	dump_say(dump, at, "  %s", cmd_name(CMD_POSTCOPY_RUN));
}

static void say_uuid(struct wh_dump *dump, const uint8_t *uuid)
{
	struct text text = { .length = 0 };
	unsigned i;

	text_add(&text, "uuid ");
	for (i = 0; i < 16; i++)
		text_add(&text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			 uuid[i]);
	dump->line(dump->opaque, dump->begin, text.text);
}

void dump_say_event(struct wh_dump *dump, const struct stream_event *event)
{
	if (event->kind == STREAM_RAM) {
		dump_say_ram(dump, &event->ram);
		return;
	}
	dump_run_end(dump);
	switch (event->kind) {
	case STREAM_HEADER:
		dump_say(dump, dump->begin, "QEVM version %" PRIu64, event->number);
		break;
	case STREAM_MACHINE:
		dump_say(dump, dump->begin, "machine %s", event->name.text);
		break;
	case STREAM_CAPABILITY:
		dump_say(dump, dump->begin, "capability %s", event->name.text);
		break;
	case STREAM_PAGE_BITS:
		dump_say(dump, dump->begin, "page bits %" PRIu64, event->number);
		break;
	case STREAM_UUID:
		say_uuid(dump, event->data);
		break;
	case STREAM_COMMAND:
		say_command(dump, dump->begin, &event->command);
		break;
	case STREAM_SECTION:
		dump_say(dump, dump->begin, "%s of ram, id %" PRIu64, section_name(event->section),
			 event->number);
		break;
	case STREAM_FOOTER:
		dump_say(dump, dump->begin, "end of %s, id %" PRIu64, section_name(event->section),
			 event->number);
		break;
	case STREAM_EOF:
		dump_say(dump, dump->begin, "EOF");
		break;
	case STREAM_RAM:
	case STREAM_PACKAGE:
	case STREAM_DEVICE:
		break;
	}
}
