/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Whole conversations of two QEMUs (selftests/vectors/rdma/), with an engine of ours in the place of
 * one of them: what it answers, or says and writes, is what the QEMU did.
 */
#include "rdma/vdest.h"
#include "rdma/vsource.h"

#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

#define PAGE UINT64_C(4096)
#define EVENTS 512u
#define BLOCKS 8u
#define MESSAGE (CONTROL_HEADER + CONTROL_STREAM_MAX)

/* '>' the source says, '<' the destination says, '=' the source writes */
struct event {
	char who;
	enum control_kind kind;
	uint8_t *message;
	size_t bytes;
	uint64_t address;
	uint32_t key;
	uint64_t length;
};

FIXTURE(conversation)
{
	struct event event[EVENTS];
	unsigned events;
	struct control_block block[BLOCKS];
	unsigned blocks;
	struct wh_err err;
	/* As the destination */
	struct vdest dest;
	uint32_t next_key;
	uint8_t answer[VDEST_ANSWER_MAX];
	size_t answered;
	bool ready_owed;
	uint64_t cleared;
	/* As the source */
	struct vsource source;
	struct vsource_chunk *chunk[BLOCKS];
	uint8_t *memory[BLOCKS];
	struct vsource_write write[VSOURCE_RANGES];
	unsigned writes, under_way;
	uint8_t said[MESSAGE];
	size_t said_bytes;
};

FIXTURE_VARIANT(conversation)
{
	const char *name;
	bool pin_all;
};

FIXTURE_VARIANT_ADD(conversation, chunks){
	.name = "qemu-7.2-chunks",
};
FIXTURE_VARIANT_ADD(conversation, pin_all){
	.name = "qemu-7.2-pin-all",
	.pin_all = true,
};
FIXTURE_VARIANT_ADD(conversation, rounds){
	.name = "qemu-7.2-rounds",
};
FIXTURE_VARIANT_ADD(conversation, chunks_10_0){
	.name = "qemu-10.0-chunks",
};

/* ---- What was recorded -------------------------------------------------------------- */

static size_t bytes_of(const char *hex, uint8_t *bytes)
{
	size_t count = 0;
	unsigned byte;

	for (; *hex && *hex != '\n'; hex++)
		if (*hex != ' ') {
			if (sscanf(hex, "%2x", &byte) != 1)
				return 0;
			bytes[count++] = (uint8_t)byte;
			hex++;
		}
	return count;
}

/* All messages of a conversation */
static uint8_t arena[1 << 19];
static size_t arena_used;

/* Of the stream's messages only the beginning was kept */
static bool read_message(struct event *event, const char *hex)
{
	uint8_t bytes[2048] = { 0 };
	struct control control;
	size_t have;

	if (strlen(hex) / 2 >= sizeof(bytes))
		return false;
	have = bytes_of(hex, bytes);
	event->bytes = CONTROL_HEADER + get_be32(bytes);
	if (have < CONTROL_HEADER || event->bytes > MESSAGE ||
	    event->bytes > sizeof(arena) - arena_used)
		return false;
	event->message = arena + arena_used;
	arena_used += event->bytes;
	memcpy(event->message, bytes, have < event->bytes ? have : event->bytes);
	if (control_get(event->message, event->bytes, &control, NULL) < 0)
		return false;
	event->kind = control.kind;
	return have == event->bytes || control.kind == CONTROL_STREAM;
}

static bool read_event(struct event *event, const char *line)
{
	unsigned long long address, length;

	event->who = line[0];
	if (line[0] != '=')
		return (line[0] == '>' || line[0] == '<') && read_message(event, line + 1);
	if (sscanf(line + 1, "%llx %x %llx", &address, &event->key, &length) != 3)
		return false;
	event->address = address;
	event->length = length;
	return true;
}

static bool load(FIXTURE_DATA(conversation) *self, const char *name)
{
	char path[128], line[4096];
	bool good = true;
	FILE *file;

	snprintf(path, sizeof(path), "selftests/vectors/rdma/%s", name);
	file = fopen(path, "re");
	while (good && file && fgets(line, sizeof(line), file))
		if (line[0] != '#')
			good = self->events < EVENTS &&
			       read_event(&self->event[self->events++], line);
	if (file)
		fclose(file);
	for (unsigned i = 0; i < self->events; i++) {
		struct control list;

		if (self->event[i].kind != CONTROL_BLOCKS_RESULT)
			continue;
		control_get(self->event[i].message, self->event[i].bytes, &list, NULL);
		self->blocks = list.count;
		for (unsigned b = 0; b < list.count && b < BLOCKS; b++)
			control_get_block(&list, b, &self->block[b]);
	}
	return good && self->blocks && self->blocks <= BLOCKS;
}

FIXTURE_SETUP(conversation)
{
	memset(self, 0, sizeof(*self));
	ASSERT_TRUE(load(self, variant->name));
}

FIXTURE_TEARDOWN(conversation)
{
	for (unsigned i = 0; i < self->blocks; i++) {
		free(self->chunk[i]);
		if (self->memory[i])
			munmap(self->memory[i], self->block[i].length);
	}
}

/* Without what nobody looks at: QEMU leaves there what was on its stack */
static size_t put_again(uint8_t *to, const uint8_t *message, size_t bytes)
{
	struct control control;

	memset(to, 0, bytes);
	if (control_get(message, bytes, &control, NULL) < 0)
		return 0;
	for (uint32_t i = 0; control_item_bytes(control.kind) && i < control.count; i++) {
		struct control_block block;
		struct control_zero zero;
		struct control_grant grant;
		struct control_ask ask;

		if (control.kind == CONTROL_BLOCKS_RESULT) {
			control_get_block(&control, i, &block);
			control_put_block(to, i, &block);
		} else if (control.kind == CONTROL_ZERO) {
			control_get_zero(&control, i, &zero);
			control_put_zero(to, i, &zero);
		} else if (control.kind == CONTROL_REGISTER_RESULT) {
			control_get_grant(&control, i, &grant);
			control_put_grant(to, i, &grant);
		} else {
			control_get_ask(&control, i, &ask);
			control_put_ask(to, i, &ask);
		}
	}
	return control_put(to, control.kind, control.count, control.length);
}

static bool same(const struct event *event, const uint8_t *message, size_t bytes)
{
	uint8_t theirs[2048], ours[2048];

	return bytes == event->bytes && bytes <= sizeof(ours) &&
	       put_again(theirs, event->message, bytes) == bytes &&
	       put_again(ours, message, bytes) == bytes && !memcmp(theirs, ours, bytes);
}

/* ---- As the destination --------------------------------------------------------------- */

/* The key that the QEMU gave: the next one in the record, or that of the list */
static int grant(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err)
{
	FIXTURE_DATA(conversation) *self = ctx;

	(void)err;
	*rkey = chunk == VDEST_WHOLE ? self->block[block].rkey : self->next_key;
	return 0;
}

static int take_back(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err)
{
	(void)ctx, (void)block, (void)chunk;
	return err_set(err, -EIO, "no QEMU asks for this");
}

static void clear(void *ctx, unsigned block, uint64_t offset, uint64_t length)
{
	(void)block, (void)offset;
	((FIXTURE_DATA(conversation) *)ctx)->cleared += length;
}

static const struct vdest_ops ops = { grant, take_back, clear };

static void be_destination(FIXTURE_DATA(conversation) *self, bool pin_all)
{
	struct vdest_block block[BLOCKS];

	vdest_init(&self->dest, &ops, self, pin_all ? CONTROL_PIN_ALL : 0);
	for (unsigned i = 0; i < self->blocks; i++)
		block[i] = (struct vdest_block){ .host = self->block[i].host,
						 .length = self->block[i].length };
	vdest_blocks(&self->dest, block, self->blocks);
	/* where a block begins is the destination's to choose: the source says what the QEMU chose */
	for (unsigned i = 0; i < self->blocks; i++)
		self->dest.block[i].start = self->block[i].start;
	self->ready_owed = true;
}

static int take(FIXTURE_DATA(conversation) *self, const struct event *event)
{
	struct control control;

	return vdest_take(&self->dest, event->message, event->bytes, &control, self->answer,
			  &self->answered, &self->err);
}

static void note_key(FIXTURE_DATA(conversation) *self, unsigned at)
{
	struct control control;
	struct control_grant result;

	for (; at < self->events; at++)
		if (self->event[at].kind == CONTROL_REGISTER_RESULT) {
			control_get(self->event[at].message, self->event[at].bytes, &control, NULL);
			control_get_grant(&control, 0, &result);
			self->next_key = result.rkey;
			return;
		}
}

TEST_F(conversation, as_the_destination)
{
	uint64_t zeros = 0;
	int next;

	be_destination(self, variant->pin_all);
	for (unsigned i = 0; i < self->events; i++) {
		const struct event *event = &self->event[i];

		if (event->who == '<' && event->kind == CONTROL_READY) {
			EXPECT_EQ(0, self->answered);
			EXPECT_TRUE(self->ready_owed) TH_LOG("event %u", i);
			self->ready_owed = false;
		} else if (event->who == '<') {
			EXPECT_TRUE(same(event, self->answer, self->answered))
			TH_LOG("event %u", i);
			self->answered = 0;
		}
		if (event->who != '>')
			continue;
		EXPECT_EQ(0, self->answered) TH_LOG("event %u: it was to be answered", i);
		EXPECT_FALSE(self->ready_owed);
		note_key(self, i);
		next = take(self, event);
		/* the stream's reader sees the word by which it announces this */
		if (next == VDEST_WAIT) {
			EXPECT_NE(CONTROL_STREAM, event->kind);
			vdest_hook(&self->dest);
			next = take(self, event);
		}
		ASSERT_EQ(event->kind == CONTROL_STREAM ? VDEST_STREAM : VDEST_READY, next)
		TH_LOG("event %u: %s", i, self->err.text);
		if (event->kind == CONTROL_ZERO)
			zeros += get_be64(event->message + CONTROL_HEADER + 16);
		self->ready_owed = true;
	}
	EXPECT_EQ(zeros, self->cleared);
	EXPECT_FALSE(self->dest.bracket);
}

/* ---- As the source --------------------------------------------------------------------- */

static void be_source(FIXTURE_DATA(conversation) *self, bool pin_all)
{
	vsource_init(&self->source, pin_all ? CONTROL_PIN_ALL : 0, VSOURCE_WRITES_MAX);
	for (unsigned i = 0; i < self->blocks; i++) {
		uint64_t length = self->block[i].length;

		self->chunk[i] =
			calloc(vsource_chunks(&self->source, length), sizeof(*self->chunk[i]));
		self->memory[i] = mmap(NULL, length, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		vsource_add_block(&self->source, self->memory[i], length, self->chunk[i]);
	}
}

/* The range that was zero, or was written */
static bool find(FIXTURE_DATA(conversation) *self, const struct event *event, unsigned *block,
		 uint64_t *offset, uint64_t *length)
{
	if (event->kind == CONTROL_ZERO) {
		const uint8_t *at = event->message + CONTROL_HEADER;

		*block = get_be32(at + 4);
		*offset = get_be64(at + 8) - self->block[*block].start;
		*length = get_be64(at + 16);
		return true;
	}
	if (event->who != '=')
		return false;
	for (*block = 0; *block < self->blocks; ++*block) {
		*offset = event->address - self->block[*block].host;
		*length = event->length;
		if (event->address >= self->block[*block].host &&
		    *offset < self->block[*block].length)
			return true;
	}
	return false;
}

/* A bracket from its first message on: what was moved in it, in the order in which it was */
static bool open_bracket(FIXTURE_DATA(conversation) *self, unsigned at)
{
	uint64_t offset, length;
	unsigned block;

	vsource_open(&self->source);
	for (; self->event[at].kind != CONTROL_REGISTER_FINISHED; at++) {
		if (!find(self, &self->event[at], &block, &offset, &length))
			continue;
		for (uint64_t page = offset; page < offset + length; page += PAGE)
			self->memory[block][page] = self->event[at].who == '=';
		if (!vsource_range(&self->source, block, offset, length))
			return false;
	}
	vsource_close(&self->source);
	return true;
}

/* Its next message or write, whichever comes. Return: false, it waits */
static bool go_on(FIXTURE_DATA(conversation) *self)
{
	struct vsource_write write;
	size_t bytes;

	switch (vsource_next(&self->source, self->said, &bytes, &write)) {
	case VSOURCE_SAY:
		self->said_bytes = bytes;
		return true;
	case VSOURCE_WRITE:
		self->write[self->writes++] = write;
		self->under_way++;
		return true;
	case VSOURCE_PIN:
	case VSOURCE_UNPIN:
		return true;
	case VSOURCE_WAIT:
		break;
	}
	if (!self->under_way)
		return false;
	vsource_written(&self->source, self->under_way);
	self->under_way = 0;
	return true;
}

static bool says(FIXTURE_DATA(conversation) *self, const struct event *event)
{
	while (!self->said_bytes)
		if (!go_on(self))
			return false;
	if (!same(event, self->said, self->said_bytes))
		return false;
	self->said_bytes = 0;
	return true;
}

static bool writes(FIXTURE_DATA(conversation) *self, const struct event *event)
{
	const struct vsource_write *write = &self->write[0];
	bool good;

	while (!self->writes)
		if (!go_on(self))
			return false;
	good = write->address == event->address && write->length == event->length &&
	       write->rkey == event->key;
	memmove(self->write, self->write + 1, --self->writes * sizeof(*write));
	return good;
}

TEST_F(conversation, as_the_source)
{
	uint64_t written = 0;

	be_source(self, variant->pin_all);
	for (unsigned i = 0; i < self->events; i++) {
		const struct event *event = &self->event[i];

		if (event->who == '<') {
			ASSERT_EQ(0, vsource_take(&self->source, event->message, event->bytes,
						  &self->err))
			TH_LOG("event %u: %s", i, self->err.text);
			continue;
		}
		if (event->who == '>' && event->kind == CONTROL_STREAM) {
			ASSERT_TRUE(vsource_may_stream(&self->source)) TH_LOG("event %u", i);
			continue;
		}
		if (!vsource_is_open(&self->source))
			ASSERT_TRUE(open_bracket(self, i));
		ASSERT_TRUE(event->who == '=' ? writes(self, event) : says(self, event))
		TH_LOG("event %u", i);
		written += event->length;
	}
	EXPECT_EQ(written, self->source.written_bytes);
	EXPECT_FALSE(vsource_is_open(&self->source));
	EXPECT_EQ(0, self->writes);
}

TEST_HARNESS_MAIN
