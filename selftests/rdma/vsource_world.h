/* SPDX-License-Identifier: GPL-2.0 */
/*
 * RDMA's source engine against the destination's, with a device between them that looks at each key
 * and range as a real one would.
 */
#ifndef SELFTESTS_RDMA_VSOURCE_WORLD_H
#define SELFTESTS_RDMA_VSOURCE_WORLD_H

#include "rdma/vsource.h"

#include "base/bytes.h"
#include "rdma/link.h"
#include "rdma/vdest.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

#define MIB (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define WRITES 4u
#define UNDER_WAY 64u

/* The second one has a last chunk of one page */
static const uint64_t lengths[] = { 4 * MIB, 2 * MIB + PAGE, PAGE };
#define BLOCKS 3u
#define CHUNKS 5u

FIXTURE(vsource)
{
	struct vsource source;
	struct vsource_chunk chunk[BLOCKS][CHUNKS];
	uint8_t *from[BLOCKS], *to[BLOCKS];
	struct vdest dest;
	bool granted[BLOCKS][CHUNKS], whole[BLOCKS];
	bool here[BLOCKS][CHUNKS]; /* registered at the source */
	unsigned there_count, here_count, there_most, here_most;
	unsigned there_room, here_room; /* 0: for all */
	unsigned busy[BLOCKS][CHUNKS];	/* writes under way, and which */
	unsigned bits;			/* of a chunk */
	struct vsource_write log[UNDER_WAY];
	unsigned unsignalled, under_way, most, writes, signals;
	unsigned kinds[CONTROL_COUNT];
	unsigned asked_at_once, given_back,
		given_back_busy; /* and of these while writes were on their way */
	bool wrong;		 /* a write that no key allows, or the same */
	uint8_t message[VLINK_SEND_MAX], answer[VDEST_ANSWER_MAX];
	struct wh_err err;
};

static uint32_t key(unsigned block, uint64_t chunk)
{
	return 0x1000 * (block + 1) + (uint32_t)(chunk == VDEST_WHOLE ? 0xfff : chunk);
}

static int grant(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err)
{
	FIXTURE_DATA(vsource) *self = ctx;

	*rkey = key(block, chunk);
	if (chunk == VDEST_WHOLE) {
		self->whole[block] = true;
		return 0;
	}
	if (self->there_room && self->there_count >= self->there_room) {
		snprintf(err->text, sizeof(err->text), "no room");
		return err->code = -ENOMEM;
	}
	self->there_count += !self->granted[block][chunk];
	if (self->there_count > self->there_most)
		self->there_most = self->there_count;
	self->granted[block][chunk] = true;
	return 0;
}

/* What is written to at this time the device would still need */
static int take_back(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err)
{
	FIXTURE_DATA(vsource) *self = ctx;

	(void)err;
	self->wrong |= self->busy[block][chunk] || !self->granted[block][chunk];
	self->there_count--;
	self->granted[block][chunk] = false;
	return 0;
}

static void clear(void *ctx, unsigned block, uint64_t offset, uint64_t length)
{
	memset(((FIXTURE_DATA(vsource) *)ctx)->to[block] + offset, 0, length);
}

static const struct vdest_ops ops = { grant, take_back, clear };

static void begin(FIXTURE_DATA(vsource) *self, uint32_t flags)
{
	vsource_init(&self->source, flags, WRITES);
	self->source.bits = self->bits;
	memset(self->chunk, 0, sizeof(self->chunk));
	memset(self->granted, 0, sizeof(self->granted));
	memset(self->here, 0, sizeof(self->here));
	self->there_count = self->here_count = self->there_most = self->here_most = 0;
	self->given_back = self->given_back_busy = 0;
	for (unsigned i = 0; i < BLOCKS; i++)
		vsource_add_block(&self->source, self->from[i], lengths[i], self->chunk[i]);
}

static inline void set_limit(FIXTURE_DATA(vsource) *self, uint64_t bytes, bool no_room)
{
	self->source.no_room = no_room;
	vsource_limit(&self->source, bytes);
}

FIXTURE_SETUP(vsource)
{
	memset(self, 0, sizeof(*self));
	self->bits = CONTROL_CHUNK_BITS;
	for (unsigned i = 0; i < BLOCKS; i++) {
		self->from[i] = aligned_alloc(PAGE, lengths[i]);
		self->to[i] = aligned_alloc(PAGE, lengths[i]);
		memset(self->from[i], 0, lengths[i]);
		memset(self->to[i], 0xaa, lengths[i]);
	}
	begin(self, 0);
}

FIXTURE_TEARDOWN(vsource)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		free(self->from[i]);
		free(self->to[i]);
	}
}

static int hear(FIXTURE_DATA(vsource) *self, size_t bytes)
{
	memset(&self->err, 0, sizeof(self->err));
	return vsource_take(&self->source, self->answer, bytes, &self->err);
}

static int ready(FIXTURE_DATA(vsource) *self)
{
	return hear(self, control_put(self->answer, CONTROL_READY, 1, 0));
}

/* Which the device would refuse, it says */
static void carry(FIXTURE_DATA(vsource) *self, const struct vsource_write *write)
{
	uint8_t *host = self->to[write->block];
	uint64_t chunk = write->offset >> self->bits;

	if (!self->source.pin_all)
		self->wrong |= !self->here[write->block][chunk];
	self->log[self->writes % UNDER_WAY] = *write;
	self->busy[write->block][chunk]++;
	self->writes++;
	self->signals += write->signal;
	if (write->address != (uintptr_t)host + write->offset || !write->length ||
	    write->offset + write->length > lengths[write->block])
		self->wrong = true;
	else if (write->rkey == key(write->block, chunk))
		self->wrong |= !self->granted[write->block][chunk] ||
			       (write->offset + write->length - 1) >> self->bits != chunk;
	else
		self->wrong |=
			write->rkey != key(write->block, VDEST_WHOLE) || !self->whole[write->block];
	if (!self->wrong)
		memcpy(host + write->offset, self->from[write->block] + write->offset,
		       write->length);
	self->unsignalled++;
	if (write->signal) {
		self->under_way += self->unsignalled;
		self->unsignalled = 0;
	}
	if (self->under_way + self->unsignalled > self->most)
		self->most = self->under_way + self->unsignalled;
}

/* To the destination, and what it answers. Return: 0, or its or the source's error */
static int tell(FIXTURE_DATA(vsource) *self, size_t bytes)
{
	struct control control;
	size_t length;
	int ret = vdest_take(&self->dest, self->message, bytes, &control, self->answer, &length,
			     &self->err);

	if (ret < 0)
		return ret;
	self->kinds[control.kind]++;
	if (control.kind == CONTROL_REGISTER_REQUEST && control.count > self->asked_at_once)
		self->asked_at_once = control.count;
	if (control.kind == CONTROL_UNREGISTER_REQUEST) {
		self->given_back += control.count;
		if (self->under_way)
			self->given_back_busy += control.count;
	}
	if (length)
		ret = hear(self, length);
	return ret < 0 ? ret : ready(self);
}

static bool pin(FIXTURE_DATA(vsource) *self, const struct vsource_write *write)
{
	bool *here = &self->here[write->block][write->offset >> self->bits];

	self->wrong |= *here || write->offset % (UINT64_C(1) << self->bits);
	if (self->here_room && self->here_count >= self->here_room)
		return vsource_not_pinned(&self->source);
	*here = true;
	if (++self->here_count > self->here_most)
		self->here_most = self->here_count;
	return true;
}

static void unpin(FIXTURE_DATA(vsource) *self, const struct vsource_write *write)
{
	bool *here = &self->here[write->block][write->offset >> self->bits];

	self->wrong |= !*here || write->offset % (UINT64_C(1) << self->bits) ||
		       self->busy[write->block][write->offset >> self->bits];
	*here = false;
	self->here_count--;
}

/* So many of those under way, the first ones */
static void complete(FIXTURE_DATA(vsource) *self, unsigned count)
{
	unsigned first = self->writes - self->under_way - self->unsignalled;

	for (unsigned i = first; i < first + count; i++) {
		const struct vsource_write *write = &self->log[i % UNDER_WAY];

		self->busy[write->block][write->offset >> self->bits]--;
	}
	self->under_way -= count;
	vsource_written(&self->source, count);
}

/* Until it has to wait for more. Return: 0, or an error of either side */
static int turn(FIXTURE_DATA(vsource) *self)
{
	struct vsource_write write;
	size_t bytes;
	int ret;

	for (;;) {
		switch (vsource_next(&self->source, self->message, &bytes, &write)) {
		case VSOURCE_SAY:
			ret = tell(self, bytes);
			if (ret < 0)
				return ret;
			break;
		case VSOURCE_WRITE:
			carry(self, &write);
			break;
		case VSOURCE_PIN:
			if (!pin(self, &write))
				return -ENOMEM;
			break;
		case VSOURCE_UNPIN:
			unpin(self, &write);
			break;
		case VSOURCE_WAIT:
			/* without a signal nobody hears of a write */
			if (!self->under_way)
				return self->unsignalled ? -EDEADLK : 0;
			complete(self, self->under_way);
			break;
		}
	}
}

/* A destination with the same blocks; the first bracket, in which the list is asked for */
static int meet(FIXTURE_DATA(vsource) *self)
{
	struct vdest_block block[BLOCKS];
	int ret;

	vdest_init(&self->dest, &ops, self,
		   (self->source.pin_all ? CONTROL_PIN_ALL : 0) |
			   (self->source.no_room ? CONTROL_NO_ROOM : 0));
	self->dest.bits = self->bits;
	for (unsigned i = 0; i < BLOCKS; i++)
		block[i] = (struct vdest_block){ .host = (uintptr_t)self->to[i],
						 .length = lengths[i] };
	vdest_blocks(&self->dest, block, BLOCKS);
	vdest_hook(&self->dest);
	ret = ready(self);
	vsource_open(&self->source);
	vsource_close(&self->source);
	return ret < 0 ? ret : turn(self);
}

static void open_bracket(FIXTURE_DATA(vsource) *self)
{
	vdest_hook(&self->dest);
	vsource_open(&self->source);
}

static int close_bracket(FIXTURE_DATA(vsource) *self)
{
	int ret;

	vsource_close(&self->source);
	ret = turn(self);
	if (ret == 0 && vsource_is_open(&self->source))
		ret = -EBUSY;
	return ret;
}

static bool hand_over(FIXTURE_DATA(vsource) *self, unsigned block, uint64_t page, uint64_t pages)
{
	bool all = true;

	for (uint64_t i = page; i < page + pages; i++)
		all &= vsource_range(&self->source, block, i * PAGE, PAGE);
	return all;
}

static inline bool same(FIXTURE_DATA(vsource) *self)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		if (memcmp(self->from[i], self->to[i], lengths[i]) != 0)
			return false;
	return !self->wrong;
}

static inline void write_all(FIXTURE_DATA(vsource) *self, int byte)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(self->from[i], byte, lengths[i]);
}

static inline int move_all(FIXTURE_DATA(vsource) *self)
{
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		if (!hand_over(self, i, 0, lengths[i] / PAGE))
			return -ENOBUFS;
	return close_bracket(self);
}

/* What it says next, and what it does before that. Return: its kind; or 0, it waits */
static inline enum control_kind says(FIXTURE_DATA(vsource) *self, struct control *control)
{
	struct vsource_write write;
	size_t bytes;

	for (;;) {
		switch (vsource_next(&self->source, self->message, &bytes, &write)) {
		case VSOURCE_SAY:
			(void)control_get(self->message, bytes, control, &self->err);
			return control->kind;
		case VSOURCE_WRITE:
			carry(self, &write);
			break;
		case VSOURCE_PIN:
			pin(self, &write);
			break;
		case VSOURCE_UNPIN:
			unpin(self, &write);
			break;
		case VSOURCE_WAIT:
			return (enum control_kind)0;
		}
	}
}

static inline uint64_t chunk_said(const struct control *control)
{
	struct control_ask ask = { .address = 99 };

	control_get_ask(control, 0, &ask);
	return ask.address;
}

#endif /* SELFTESTS_RDMA_VSOURCE_WORLD_H */
