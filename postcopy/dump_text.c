/* SPDX-License-Identifier: MIT */
#include "postcopy/dump_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define RAM_PAGE UINT64_C(4096)

/* A line in the making */
struct text {
	char text[DUMP_LINE_MAX];
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

void dump_number(struct dump_message *message, const char *name, enum wh_dump_form form,
		 uint64_t number)
{
	assert(message->fields < DUMP_FIELDS_MAX);
	message->field[message->fields++] =
		(struct wh_dump_field){ .name = name, .form = form, .number = number };
}

void dump_text(struct dump_message *message, const char *name, const char *text)
{
	assert(message->fields < DUMP_FIELDS_MAX);
	message->field[message->fields++] =
		(struct wh_dump_field){ .name = name, .form = WH_DUMP_TEXT, .text = text };
}

static void tell(struct wh_dump *dump, uint64_t offset, const struct dump_message *m,
		 const char *line)
{
	const struct wh_dump_message message = {
		.offset = offset,
		.kind = m->kind,
		.line = line,
		.inside = *line == ' ',
		.fields = m->fields,
		.field = m->field,
	};

	dump->message(dump->opaque, &message);
}

void dump_say(struct wh_dump *dump, uint64_t offset, const struct dump_message *message,
	      const char *format, ...)
{
	struct text text = { .length = 0 };
	va_list args;

	va_start(args, format);
	text_vadd(&text, format, args);
	va_end(args);
	tell(dump, offset, message, text.text);
}

void dump_say_kind(struct wh_dump *dump, uint64_t offset, const char *kind)
{
	const struct dump_message m = { .kind = kind };

	tell(dump, offset, &m, kind);
}

/* The line is the kind and every field in its order */
static void say_fields(struct wh_dump *dump, uint64_t offset, const struct dump_message *m,
		       const char *indent, const char *behind)
{
	struct text text = { .length = 0 };

	text_add(&text, "%s%s", indent, m->kind);
	for (unsigned i = 0; i < m->fields; i++) {
		const struct wh_dump_field *field = &m->field[i];

		switch (field->form) {
		case WH_DUMP_DECIMAL:
			text_add(&text, " %s %" PRIu64, field->name, field->number);
			break;
		case WH_DUMP_HEX:
			text_add(&text, " %s 0x%" PRIx64, field->name, field->number);
			break;
		case WH_DUMP_ID:
			text_add(&text, " %s %016" PRIx64, field->name, field->number);
			break;
		case WH_DUMP_TEXT:
			text_add(&text, " %s %s", field->name, field->text);
			break;
		}
	}
	text_add(&text, "%s", behind);
	tell(dump, offset, m, text.text);
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
	case RAM_GOT_HOOK:
	case RAM_GOT_EOS:
		break;
	}
	return "?";
}

void dump_run_end(struct wh_dump *dump)
{
	struct dump_message m = { .kind = "pages" };
	const struct run *run = &dump->run;

	if (!run->pages)
		return;
	dump_text(&m, "block", dump->stream.blocks.block[run->block].name.text);
	dump_number(&m, "start", WH_DUMP_HEX, run->start);
	dump_number(&m, "length", WH_DUMP_HEX, run->pages * RAM_PAGE);
	dump_text(&m, "record", record_name(run->record));
	dump_number(&m, "pages", WH_DUMP_DECIMAL, run->pages);
	dump_say(dump, run->offset, &m, "%s 0x%" PRIx64 "+0x%" PRIx64 " %s x%" PRIu64,
		 m.field[0].text, run->start, run->pages * RAM_PAGE, m.field[3].text, run->pages);
	dump->run.pages = 0;
}

static void say_each_page(struct wh_dump *dump, const struct ram_event *event)
{
	const char *block = dump->stream.blocks.block[event->block].name.text;
	struct dump_message m = { .kind = "page" };

	dump_text(&m, "block", block);
	dump_number(&m, "start", WH_DUMP_HEX, event->offset);
	dump_text(&m, "record", record_name(event->record));
	if (event->record != RAM_GOT_XBZRLE) {
		dump_say(dump, dump->begin, &m, "%s 0x%" PRIx64 " %s", block, event->offset,
			 record_name(event->record));
		return;
	}
	dump_number(&m, "bytes", WH_DUMP_DECIMAL, event->data_length);
	dump_say(dump, dump->begin, &m, "%s 0x%" PRIx64 " xbzrle %zu bytes", block, event->offset,
		 event->data_length);
}

static void say_page(struct wh_dump *dump, const struct ram_event *event)
{
	struct run *run = &dump->run;

	if (dump->pages) {
		say_each_page(dump, event);
		return;
	}
	if (!run->pages || run->block != event->block || run->record != event->record ||
	    run->start + run->pages * RAM_PAGE != event->offset) {
		dump_run_end(dump);
		run->offset = dump->begin;
		run->start = event->offset;
		run->block = event->block;
		run->record = event->record;
	}
	run->pages++;
}

static void say_block(struct wh_dump *dump, const struct ram_block *block)
{
	struct dump_message m = { .kind = "block" };

	dump_text(&m, "name", block->name.text);
	dump_number(&m, "length", WH_DUMP_HEX, block->used);
	if (!block->page_size) {
		dump_say(dump, dump->begin, &m, "block %s 0x%" PRIx64 " bytes", block->name.text,
			 block->used);
		return;
	}
	dump_number(&m, "page_size", WH_DUMP_HEX, block->page_size);
	dump_say(dump, dump->begin, &m, "block %s 0x%" PRIx64 " bytes, pages of 0x%" PRIx64,
		 block->name.text, block->used, block->page_size);
}

static void say_blocks(struct wh_dump *dump)
{
	const struct ram_blocks *blocks = &dump->stream.blocks;
	struct dump_message m = { .kind = "blocks" };
	uint64_t total = 0;
	unsigned i;

	for (i = 0; i < blocks->count; i++)
		total += blocks->block[i].used;
	dump_number(&m, "count", WH_DUMP_DECIMAL, blocks->count);
	dump_number(&m, "length", WH_DUMP_HEX, total);
	dump_say(dump, dump->begin, &m, "%u blocks, 0x%" PRIx64 " bytes", blocks->count, total);
	for (i = 0; i < blocks->count; i++)
		say_block(dump, &blocks->block[i]);
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
		dump_say_kind(dump, dump->begin, "MULTIFD_FLUSH");
	if (event->record == RAM_GOT_HOOK)
		dump_say_kind(dump, dump->begin, "HOOK");
	/* in a section its footer says the same */
	if (event->record == RAM_GOT_EOS && dump->kind == WH_DUMP_URGENT)
		dump_say_kind(dump, dump->begin, "EOS");
}

/* Commands and messages: every field of the tables, in their order */

#define AS_value WH_DUMP_DECIMAL
#define AS_start WH_DUMP_HEX
#define AS_length WH_DUMP_HEX
#define AS_page_sizes WH_DUMP_HEX
#define AS_target_page WH_DUMP_HEX
#define AS_high WH_DUMP_ID
#define AS_low WH_DUMP_ID
#define AS_proof WH_DUMP_ID
#define F(type, name) dump_number(&m, #name, AS_##name, body->name);
#define NAME(name) dump_text(&m, #name, body->name.text);
#define NOTHING
#define RANGES NAME(block) dump_number(&m, "ranges", WH_DUMP_DECIMAL, body->count);

static void say_command(struct wh_dump *dump, uint64_t offset, const struct cmd_msg *msg)
{
	struct dump_message m = { .kind = cmd_name(msg->kind) };
	uint32_t i;

	switch (msg->kind) {
#define MSG(kind, number, member, fields)                           \
	case CMD_##kind: {                                          \
		const __typeof__(msg->member) *body = &msg->member; \
                                                                    \
		(void)body;                                         \
		if (!msg->empty) {                                  \
			fields                                      \
		}                                                   \
	} break;
#include "wire/command.def"
#undef MSG
	case CMD_COUNT:
		break;
	}
	say_fields(dump, offset, &m, "", msg->empty ? " (empty)" : "");
	if (msg->kind != CMD_POSTCOPY_RAM_DISCARD)
		return;
	for (i = 0; i < msg->discard.count; i++) {
		struct dump_message range = { .kind = "range" };

		dump_number(&range, "start", WH_DUMP_HEX, cmd_range(msg, i).start);
		dump_number(&range, "length", WH_DUMP_HEX, cmd_range(msg, i).length);
		dump_say(dump, offset, &range, "  0x%" PRIx64 "+0x%" PRIx64, range.field[0].number,
			 range.field[1].number);
	}
}

void dump_say_message(struct wh_dump *dump, const struct rp_msg *msg)
{
	struct dump_message m = { .kind = rp_name(msg->kind) };

	switch (msg->kind) {
#define MSG(kind, number, member, fields)                           \
	case RP_##kind: {                                           \
		const __typeof__(msg->member) *body = &msg->member; \
                                                                    \
		(void)body;                                         \
		fields                                              \
	} break;
#include "wire/return_path.def"
#undef MSG
	case RP_COUNT:
		break;
	}
	say_fields(dump, dump->begin, &m, "", "");
}

#undef RANGES
#undef NOTHING
#undef NAME
#undef F

void dump_say_bitmap(struct wh_dump *dump, uint64_t bytes, uint64_t pages)
{
	struct dump_message m = { .kind = "bitmap" };

	dump_number(&m, "bytes", WH_DUMP_DECIMAL, bytes);
	dump_number(&m, "pages", WH_DUMP_DECIMAL, pages);
	dump_say(dump, dump->begin, &m,
		 "bitmap of %" PRIu64 " bytes, %" PRIu64 " pages are in place", bytes, pages);
}

void dump_say_break(struct wh_dump *dump, uint64_t end)
{
	struct dump_message m = { .kind = "break" };
	uint64_t bytes = end - dump->begin;

	dump_number(&m, "bytes", WH_DUMP_DECIMAL, bytes);
	dump_say(dump, end, &m, "breaks off, %" PRIu64 " bytes behind the last whole message",
		 bytes);
}

/* Device state */

void dump_say_state(struct wh_dump *dump, uint64_t offset, const char *indent, const uint8_t *state,
		    size_t length)
{
	struct dump_message m = { .kind = "device-state" };
	size_t at, own;

	if (!length)
		return;
	dump_number(&m, "bytes", WH_DUMP_DECIMAL, length);
	if (device_own(state, length, &at, &own, NULL) != 1) {
		dump_say(dump, offset, &m, "%sdevice state, %zu bytes", indent, length);
		return;
	}
	dump_number(&m, "own", WH_DUMP_DECIMAL, own);
	dump_say(dump, offset, &m, "%sdevice state, %zu bytes: " DEVICE_OWN_NAME " of %zu bytes",
		 indent, length, own);
}

void dump_say_description(struct wh_dump *dump, uint64_t offset, uint64_t bytes)
{
	struct dump_message m = { .kind = "VMDESCRIPTION" };

	dump_number(&m, "bytes", WH_DUMP_DECIMAL, bytes);
	dump_say(dump, offset, &m, "VMDESCRIPTION, %" PRIu64 " bytes", bytes);
}

static void say_packaged(struct wh_dump *dump, uint64_t offset, enum cmd_kind kind)
{
	const struct dump_message m = { .kind = cmd_name(kind) };

	say_fields(dump, offset, &m, "  ", "");
}

void dump_say_package(struct wh_dump *dump, const struct package *package)
{
	uint64_t at = dump->kept_offset;
	unsigned i;

	say_packaged(dump, at, CMD_POSTCOPY_LISTEN);
	at += package->state;
	dump_say_state(dump, at, "  ", dump->kept.at + package->state, package->state_length);
	at += package->state_length;
	for (i = 0; i < package->pings; i++, at += CMD_HEADER + 4) {
		struct dump_message m = { .kind = cmd_name(CMD_PING) };

		dump_number(&m, "value", WH_DUMP_DECIMAL, package->ping[i]);
		say_fields(dump, at, &m, "  ", "");
	}
	say_packaged(dump, at, CMD_POSTCOPY_RUN);
}

void dump_uuid(char text[37], const uint8_t uuid[16])
{
	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*text++ = '-';
		text += sprintf(text, "%02x", uuid[i]);
	}
}

static void say_uuid(struct wh_dump *dump, const uint8_t *uuid)
{
	struct dump_message m = { .kind = "uuid" };
	char text[37];

	dump_uuid(text, uuid);
	dump_text(&m, "uuid", text);
	dump_say(dump, dump->begin, &m, "uuid %s", text);
}

/* A number or a name in front of the sections */
static void say_head(struct wh_dump *dump, const struct stream_event *event)
{
	struct dump_message m = { .kind = "header" };

	switch (event->kind) {
	case STREAM_HEADER:
		dump_number(&m, "version", WH_DUMP_DECIMAL, event->number);
		dump_say(dump, dump->begin, &m, "QEVM version %" PRIu64, event->number);
		break;
	case STREAM_MACHINE:
	case STREAM_CAPABILITY:
		m.kind = event->kind == STREAM_MACHINE ? "machine" : "capability";
		dump_text(&m, "name", event->name.text);
		dump_say(dump, dump->begin, &m, "%s %s", m.kind, event->name.text);
		break;
	case STREAM_PAGE_BITS:
		m.kind = "page-bits";
		dump_number(&m, "bits", WH_DUMP_DECIMAL, event->number);
		dump_say(dump, dump->begin, &m, "page bits %" PRIu64, event->number);
		break;
	case STREAM_UUID:
		say_uuid(dump, event->data);
		break;
	case STREAM_COMMAND:
	case STREAM_SECTION:
	case STREAM_RAM:
	case STREAM_FOOTER:
	case STREAM_PACKAGE:
	case STREAM_DEVICE:
	case STREAM_EOF:
		break;
	}
}

static void say_section(struct wh_dump *dump, const struct stream_event *event)
{
	bool ends = event->kind == STREAM_FOOTER;
	struct dump_message m = { .kind = ends ? "footer" : "section" };
	const char *type = section_name(event->section);

	dump_text(&m, "type", type);
	if (!ends)
		dump_text(&m, "name", "ram");
	dump_number(&m, "id", WH_DUMP_DECIMAL, event->number);
	if (ends)
		dump_say(dump, dump->begin, &m, "end of %s, id %" PRIu64, type, event->number);
	else
		dump_say(dump, dump->begin, &m, "%s of ram, id %" PRIu64, type, event->number);
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
	case STREAM_MACHINE:
	case STREAM_CAPABILITY:
	case STREAM_PAGE_BITS:
	case STREAM_UUID:
		say_head(dump, event);
		break;
	case STREAM_COMMAND:
		say_command(dump, dump->begin, &event->command);
		break;
	case STREAM_SECTION:
	case STREAM_FOOTER:
		say_section(dump, event);
		break;
	case STREAM_EOF:
		dump_say_kind(dump, dump->begin, "EOF");
		break;
	case STREAM_RAM:
	case STREAM_PACKAGE:
	case STREAM_DEVICE:
		break;
	}
}
