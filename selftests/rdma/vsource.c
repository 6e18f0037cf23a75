/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The source's engine against the destination's, with a device between them that looks at each key
 * and range as a real one would; and against a stranger.
 */
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

static void set_limit(FIXTURE_DATA(vsource) *self, uint64_t bytes, bool no_room)
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

static bool same(FIXTURE_DATA(vsource) *self)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		if (memcmp(self->from[i], self->to[i], lengths[i]) != 0)
			return false;
	return !self->wrong;
}

TEST_F(vsource, a_message_waits_for_room)
{
	struct vsource_write write;
	size_t bytes;

	EXPECT_FALSE(vsource_may_stream(&self->source));
	vsource_open(&self->source);
	EXPECT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(0, ready(self));
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_BLOCKS_REQUEST, get_be32(self->message + 4));
	EXPECT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
}

TEST_F(vsource, the_stream_outside_of_brackets)
{
	ASSERT_EQ(0, meet(self));
	EXPECT_TRUE(vsource_may_stream(&self->source));
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(0, ready(self));
	open_bracket(self);
	EXPECT_FALSE(vsource_may_stream(&self->source));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_TRUE(vsource_may_stream(&self->source));
}

/* Neighbours are one write up to a chunk's end; zeros are none, and pin nothing */
TEST_F(vsource, by_chunks)
{
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, MIB + PAGE);
	memset(self->from[1] + 2 * MIB, 2, PAGE);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 1024));
	ASSERT_TRUE(hand_over(self, 1, 0, 513));
	ASSERT_TRUE(hand_over(self, 2, 0, 1));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(3, self->writes);
	EXPECT_EQ(2 * MIB + PAGE, self->source.written_bytes);
	EXPECT_EQ(4 * MIB + PAGE, self->source.zero_bytes);
	EXPECT_EQ(5, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(3, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(1, self->asked_at_once);
	EXPECT_FALSE(self->granted[0][2]);
}

/* A key once given is used again, and what became zero in between arrives */
TEST_F(vsource, what_becomes_zero)
{
	ASSERT_EQ(0, meet(self));
	memset(self->from[2], 1, PAGE);
	for (unsigned round = 0; round < 2; round++) {
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 2, 0, 1));
		ASSERT_EQ(0, close_bracket(self));
		EXPECT_EQ(0, memcmp(self->from[2], self->to[2], PAGE));
		memset(self->from[2], 0, PAGE);
	}
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(0, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(2, self->writes);
}

TEST_F(vsource, several_at_once)
{
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(self->from[i], 3, lengths[i]);
	memset(self->from[0] + MIB, 0, MIB);
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		ASSERT_TRUE(hand_over(self, i, 0, lengths[i] / PAGE));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_EQ(7, self->asked_at_once);
	EXPECT_EQ(1, self->kinds[CONTROL_ZERO]);
}

/* Two ranges of one chunk need one key */
TEST_F(vsource, a_chunk_in_pieces)
{
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 3, MIB);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 3));
	ASSERT_TRUE(hand_over(self, 0, 5, 2));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(1, self->asked_at_once);
	EXPECT_EQ(2, self->writes);
}

TEST_F(vsource, pinned)
{
	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, MIB);
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		ASSERT_TRUE(hand_over(self, i, 0, lengths[i] / PAGE));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(8, self->writes);
	EXPECT_EQ(0, self->kinds[CONTROL_ZERO] + self->kinds[CONTROL_REGISTER_REQUEST]);
}

/* The queue is full, and the writes under way are few */
TEST_F(vsource, what_is_bounded)
{
	unsigned taken = 0;

	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	/* every other page: nothing can be merged */
	while (vsource_range(&self->source, 0, taken * 2 * PAGE, PAGE))
		taken++;
	EXPECT_EQ(VSOURCE_RANGES, taken);
	ASSERT_EQ(0, turn(self));
	EXPECT_EQ(VSOURCE_RANGES, self->writes);
	EXPECT_EQ(WRITES, self->most);
	EXPECT_TRUE(vsource_range(&self->source, 0, taken * 2 * PAGE, PAGE));
	ASSERT_EQ(0, close_bracket(self));
}

/* Most writes say nothing of themselves */
TEST_F(vsource, signals)
{
	begin(self, CONTROL_PIN_ALL);
	self->source.writes_max = UNDER_WAY;
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	for (unsigned i = 0; i < 50; i++)
		ASSERT_TRUE(vsource_range(&self->source, 0, i * 2 * PAGE, PAGE));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(50, self->writes);
	EXPECT_EQ(50 / VSOURCE_SIGNAL + 1, self->signals);
}

/* The bracket does not end before its writes */
TEST_F(vsource, the_end_waits_for_writes)
{
	struct vsource_write write;
	size_t bytes;

	begin(self, CONTROL_PIN_ALL);
	ASSERT_EQ(0, meet(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 2, 0, 1));
	vsource_close(&self->source);
	ASSERT_EQ(VSOURCE_WRITE, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_TRUE(write.signal);
	ASSERT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	vsource_written(&self->source, 1);
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_REGISTER_FINISHED, get_be32(self->message + 4));
}

/* The key of the next chunk is asked for in front of the write to this one */
TEST_F(vsource, it_asks_ahead)
{
	struct control_grant got = { .rkey = key(0, 0), .host = (uintptr_t)self->to[0] };
	struct vsource_write write;
	size_t bytes;

	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, 2 * MIB);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 512));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(VSOURCE_WAIT, vsource_next(&self->source, self->message, &bytes, &write));
	control_put_grant(self->answer, 0, &got);
	ASSERT_EQ(0, hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, 1, 0)));
	ASSERT_EQ(0, ready(self));
	ASSERT_EQ(VSOURCE_SAY, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(CONTROL_REGISTER_REQUEST, get_be32(self->message + 4));
	ASSERT_EQ(VSOURCE_PIN, vsource_next(&self->source, self->message, &bytes, &write));
	ASSERT_EQ(VSOURCE_WRITE, vsource_next(&self->source, self->message, &bytes, &write));
	EXPECT_EQ(MIB, write.length);
	EXPECT_TRUE(write.signal);
}

/* ---- Not all of it can be registered --------------------------------------------------- */

static void write_all(FIXTURE_DATA(vsource) *self, int byte)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(self->from[i], byte, lengths[i]);
}

static int move_all(FIXTURE_DATA(vsource) *self)
{
	open_bracket(self);
	for (unsigned i = 0; i < BLOCKS; i++)
		if (!hand_over(self, i, 0, lengths[i] / PAGE))
			return -ENOBUFS;
	return close_bracket(self);
}

TEST_F(vsource, under_a_limit)
{
	static const unsigned limits[] = { 1, 2, 3, 7 };

	for (unsigned how = 0; how < 8; how++) {
		unsigned limit = limits[how / 2];

		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, limit * MIB, false);
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(limit, self->there_most);
		EXPECT_EQ(limit, self->here_most);
		EXPECT_EQ(self->source.registers - self->there_count, self->source.unregisters);
	}
}

TEST_F(vsource, less_than_a_chunk_is_one)
{
	set_limit(self, 4096, false);
	ASSERT_EQ(0, meet(self));
	write_all(self, 1);
	ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(same(self));
	EXPECT_EQ(1, self->there_most);
}

/* Nobody has said how much it may be, on one side or the other, or both */
TEST_F(vsource, a_limit_that_is_found_out)
{
	for (unsigned how = 0; how < 6; how++) {
		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, 0, true);
		self->there_room = how / 2 == 1 ? 0 : 3;
		self->here_room = how / 2 == 2 ? 0 : 2;
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(self->there_room ? 3 : 8, self->there_most);
		EXPECT_EQ(self->here_room ? 2 : self->there_most, self->here_most);
		EXPECT_EQ(self->there_room != 0, self->given_back > 0);
	}
}

/* A destination that says so gives up itself; the source, if it has nothing to unpin */
TEST_F(vsource, no_room_for_anything)
{
	set_limit(self, 0, true);
	ASSERT_EQ(0, meet(self));
	write_all(self, 1);
	self->there_room = 1;
	self->there_count = 1; /* not the source's */
	EXPECT_EQ(-ENOMEM, move_all(self));
	EXPECT_STREQ("no room", self->err.text);

	memset(&self->err, 0, sizeof(self->err));
	begin(self, CONTROL_SEVERAL);
	set_limit(self, 0, true);
	self->there_room = 0;
	ASSERT_EQ(0, meet(self));
	self->here_room = 1;
	self->here_count = 1;
	EXPECT_EQ(-ENOMEM, move_all(self));
}

/* Ours under a limit of two, with keys of the first two chunks: written, and @done of that complete */
static void write_two(FIXTURE_DATA(vsource) *self, bool done)
{
	struct vsource_write write;
	size_t bytes;

	set_limit(self, 2 * MIB, true);
	meet(self);
	memset(self->from[0], 1, 4 * MIB);
	open_bracket(self);
	hand_over(self, 0, 0, 512);
	while (self->writes < 2)
		switch (vsource_next(&self->source, self->message, &bytes, &write)) {
		case VSOURCE_SAY:
			tell(self, bytes);
			break;
		case VSOURCE_WRITE:
			carry(self, &write);
			break;
		case VSOURCE_PIN:
			pin(self, &write);
			break;
		case VSOURCE_UNPIN:
		case VSOURCE_WAIT:
			return;
		}
	if (done)
		complete(self, 2);
}

/* What it says next, and what it does before that. Return: its kind; or 0, it waits */
static enum control_kind says(FIXTURE_DATA(vsource) *self, struct control *control)
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

static uint64_t chunk_said(const struct control *control)
{
	struct control_ask ask = { .address = 99 };

	control_get_ask(control, 0, &ask);
	return ask.address;
}

TEST_F(vsource, what_is_being_written_stays)
{
	struct control control;

	write_two(self, false);
	ASSERT_EQ(2, self->under_way);
	hand_over(self, 0, 512, 1);
	EXPECT_EQ(0, says(self, &control));
	complete(self, 1);
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, control.count);
	EXPECT_EQ(0, chunk_said(&control));
	EXPECT_EQ(1, self->under_way);
}

TEST_F(vsource, the_least_lately_used_goes)
{
	struct control control;

	write_two(self, true);
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 1));
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, chunk_said(&control));
}

/* Under a limit of three: of the first three chunks, which goes for the fourth? */
TEST_F(vsource, hints)
{
	static const struct {
		uint8_t hint[CHUNKS];
		uint64_t goes;
	} cases[] = {
		{ { 0 }, 0 },
		{ { VSOURCE_HOT }, 1 },
		{ { VSOURCE_HOT, VSOURCE_HOT }, 2 },
		{ { VSOURCE_HOT, VSOURCE_HOT, VSOURCE_HOT }, 0 },
		{ { 0, 0, VSOURCE_COLD }, 2 },
		{ { VSOURCE_HOT, 0, VSOURCE_COLD }, 2 },
		{ { 0, VSOURCE_COLD, VSOURCE_COLD }, 2 },
	};
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin(self, 0);
		set_limit(self, 3 * MIB, false);
		self->source.block[0].hint = cases[i].hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 768));
		ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 768, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control)) TH_LOG("case %u", i);
		EXPECT_EQ(cases[i].goes, chunk_said(&control)) TH_LOG("case %u", i);
	}
}

/* What is hot is asked for with others, if that leaves room */
TEST_F(vsource, what_is_hot_is_asked_for_ahead)
{
	static const uint8_t hint[CHUNKS] = { VSOURCE_COLD, 0, VSOURCE_HOT, VSOURCE_HOT };
	static const unsigned limits[] = { 0, 2, 4, 6 }, asked[] = { 3, 1, 2, 3 };
	struct control_ask ask;
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	for (unsigned i = 0; i < 4; i++) {
		begin(self, CONTROL_SEVERAL);
		set_limit(self, limits[i] * MIB, false);
		self->source.block[0].hint = hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 1));
		ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
		EXPECT_EQ(asked[i], control.count) TH_LOG("limit %u", limits[i]);
		control_get_ask(&control, control.count - 1, &ask);
		EXPECT_EQ(asked[i] == 1 ? 0 : asked[i] * MIB, ask.address);
	}
	/* the key is there when the page comes */
	ASSERT_EQ(0, tell(self, CONTROL_HEADER + control.length));
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(0, close_bracket(self));
	EXPECT_EQ(1, self->kinds[CONTROL_REGISTER_REQUEST]);
	EXPECT_FALSE(self->wrong);
}

static int give_key(FIXTURE_DATA(vsource) *self, uint64_t chunk)
{
	struct control_grant got = { .rkey = key(0, chunk), .host = (uintptr_t)self->to[0] };
	int ret;

	self->granted[0][chunk] = true;
	control_put_grant(self->answer, 0, &got);
	ret = hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, 1, 0));
	return ret < 0 ? ret : ready(self);
}

static int give_finished(FIXTURE_DATA(vsource) *self, uint64_t chunk)
{
	int ret;

	self->granted[0][chunk] = false;
	ret = hear(self, control_put(self->answer, CONTROL_UNREGISTER_FINISHED, 1, 0));
	return ret < 0 ? ret : ready(self);
}

/* It is not read here any more, either, while the answer is on its way */
TEST_F(vsource, wanted_while_it_is_given_back)
{
	struct control control;

	write_two(self, true);
	ASSERT_EQ(0, close_bracket(self));
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 512, 1));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	ASSERT_EQ(0, chunk_said(&control));
	ASSERT_TRUE(hand_over(self, 0, 0, 1));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_FALSE(self->here[0][0]);
	EXPECT_EQ(2, self->writes);
	ASSERT_EQ(0, give_finished(self, 0));
	/* what came first, then this: with a key that it is given anew */
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(2 * MIB, chunk_said(&control));
	ASSERT_EQ(0, give_key(self, 2));
	ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(1, chunk_said(&control));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_EQ(3, self->writes);
	ASSERT_EQ(0, give_finished(self, 1));
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(0, chunk_said(&control));
	ASSERT_EQ(0, give_key(self, 0));
	EXPECT_EQ(0, says(self, &control));
	EXPECT_EQ(4, self->writes);
	EXPECT_FALSE(self->wrong);
}

TEST_F(vsource, it_is_never_given_back)
{
	static const struct {
		enum control_kind kind;
		uint32_t count;
		int ret;
	} answers[] = { { CONTROL_READY, 1, -EPROTO },
			{ CONTROL_REGISTER_RESULT, 1, -EPROTO },
			{ CONTROL_UNREGISTER_FINISHED, 2, -EPROTO },
			{ CONTROL_UNREGISTER_FINISHED, 1, 0 } };
	struct control control;

	for (unsigned i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		begin(self, 0);
		self->writes = 0;
		write_two(self, true);
		ASSERT_TRUE(hand_over(self, 0, 512, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control));
		vsource_close(&self->source);
		EXPECT_EQ(0, says(self, &control));
		EXPECT_TRUE(vsource_is_open(&self->source));
		EXPECT_EQ(answers[i].ret, hear(self, control_put(self->answer, answers[i].kind,
								 answers[i].count, 0)))
		TH_LOG("answer %u", i);
		EXPECT_EQ(answers[i].ret != 0, self->err.text[0] != 0);
	}
}

/* Some in one message, and the others are being written meanwhile */
TEST_F(vsource, given_back_in_batches)
{
	struct vsource_chunk chunk[16] = { 0 };
	struct vsource_write write;
	unsigned under_way = 0, requests = 0, most = 0, busy = 0;
	uint8_t *memory = malloc(16 * MIB);
	size_t bytes;

	memset(memory, 1, 16 * MIB);
	vsource_init(&self->source, CONTROL_SEVERAL, WRITES);
	set_limit(self, 8 * MIB, false);
	vsource_add_block(&self->source, memory, 16 * MIB, chunk);
	self->source.listed = true;
	vsource_open(&self->source);
	ASSERT_EQ(0, ready(self));
	for (unsigned i = 0; i < 16; i++)
		ASSERT_TRUE(vsource_range(&self->source, 0, i * MIB, MIB));
	vsource_close(&self->source);
	while (vsource_is_open(&self->source)) {
		enum vsource_next next = vsource_next(&self->source, self->message, &bytes, &write);
		struct control_grant got = { .rkey = 1 };
		struct control control;

		under_way += next == VSOURCE_WRITE;
		if (next == VSOURCE_WAIT) {
			ASSERT_LT(0, under_way--);
			vsource_written(&self->source, 1);
		}
		if (next != VSOURCE_SAY)
			continue;
		ASSERT_EQ(0, control_get(self->message, bytes, &control, &self->err));
		if (control.kind == CONTROL_UNREGISTER_REQUEST) {
			requests++;
			busy += under_way > 0;
			if (control.count > most)
				most = control.count;
			ASSERT_EQ(0,
				  hear(self, control_put(self->answer, CONTROL_UNREGISTER_FINISHED,
							 control.count, 0)));
		} else if (control.kind == CONTROL_REGISTER_REQUEST) {
			for (unsigned i = 0; i < control.count; i++)
				control_put_grant(self->answer, i, &got);
			ASSERT_EQ(0, hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT,
							    control.count, 0)));
		}
		ASSERT_EQ(0, ready(self));
	}
	EXPECT_EQ(2, most);
	EXPECT_EQ(4, requests);
	EXPECT_LE(3, busy);
	free(memory);
}

/* ---- Larger chunks, where both ends are ours -------------------------------------- */

TEST_F(vsource, large_chunks)
{
	static const unsigned limits[] = { 0, 1, 2 };

	self->bits = 21;
	for (unsigned how = 0; how < 6; how++) {
		unsigned limit = limits[how / 2];

		begin(self, how & 1 ? CONTROL_SEVERAL : 0);
		set_limit(self, limit * 2 * MIB + MIB * (limit > 0), false);
		ASSERT_EQ(0, meet(self));
		for (int round = 1; round < 4; round++) {
			write_all(self, round);
			ASSERT_EQ(0, move_all(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %d", how, round);
		}
		EXPECT_EQ(limit ? limit : 5, self->there_most);
		EXPECT_EQ(limit ? limit : 5, self->here_most);
		EXPECT_EQ(limit == 0, self->source.registers == 5);
		EXPECT_EQ(self->source.registers - self->there_count, self->source.unregisters);
	}
}

/* Though there is a key for it: but not if it is short */
TEST_F(vsource, zeros_in_a_large_chunk)
{
	self->bits = 21;
	begin(self, CONTROL_SEVERAL);
	ASSERT_EQ(0, meet(self));
	memset(self->from[0], 1, PAGE);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 0, 256));
	ASSERT_TRUE(hand_over(self, 0, 256, 256));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	open_bracket(self);
	memset(self->to[0] + MIB, 2, MIB);
	ASSERT_TRUE(hand_over(self, 0, 300, 16));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(2, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(1, self->writes);
	EXPECT_EQ(1, self->source.registers);
	open_bracket(self);
	ASSERT_TRUE(hand_over(self, 0, 300, 15));
	ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(2, self->kinds[CONTROL_ZERO]);
	EXPECT_EQ(2, self->writes);
	EXPECT_EQ(0, self->to[0][300 * PAGE]);
	EXPECT_EQ(0, self->to[0][315 * PAGE]);
	EXPECT_EQ(2, self->to[0][316 * PAGE]);
	EXPECT_FALSE(self->wrong);
}

/* Keys of 256 MiB are asked for at once, of however many chunks that is */
TEST_F(vsource, a_request_of_large_chunks)
{
	static struct vsource_chunk chunk[64];
	const uint64_t length = 1024 * MIB;
	uint8_t *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct control control;

	ASSERT_NE(MAP_FAILED, memory);
	self->bits = 24;
	begin(self, CONTROL_SEVERAL);
	self->source.blocks = 0;
	vsource_add_block(&self->source, memory, length, chunk);
	self->source.listed = true;
	vsource_open(&self->source);
	ASSERT_EQ(0, ready(self));
	for (uint64_t at = 0; at < length; at += 16 * MIB) {
		memory[at] = 1;
		ASSERT_TRUE(vsource_range(&self->source, 0, at, PAGE));
	}
	ASSERT_EQ(CONTROL_REGISTER_REQUEST, says(self, &control));
	EXPECT_EQ(16, control.count);
	munmap(memory, length);
}

/* One MiB that is hot makes it hot, and it is cold if all are: which goes for the first of another block? */
TEST_F(vsource, hints_for_large_chunks)
{
	static const struct {
		uint8_t hint[CHUNKS];
		uint64_t goes;
	} cases[] = {
		{ { 0 }, 0 },
		{ { 0, VSOURCE_HOT }, 1 },
		{ { VSOURCE_COLD, VSOURCE_HOT }, 1 },
		{ { 0, 0, VSOURCE_COLD, 0 }, 0 },
		{ { 0, 0, VSOURCE_COLD, VSOURCE_COLD }, 1 },
	};
	struct control control;

	memset(self->from[0], 1, 4 * MIB);
	memset(self->from[1], 1, PAGE);
	self->bits = 21;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin(self, 0);
		set_limit(self, 4 * MIB, false);
		self->source.block[0].hint = cases[i].hint;
		ASSERT_EQ(0, meet(self));
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 0, 0, 1024));
		ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
		open_bracket(self);
		ASSERT_TRUE(hand_over(self, 1, 0, 1));
		ASSERT_EQ(CONTROL_UNREGISTER_REQUEST, says(self, &control)) TH_LOG("case %u", i);
		EXPECT_EQ(cases[i].goes, chunk_said(&control)) TH_LOG("case %u", i);
	}
}

/* ---- A stranger ------------------------------------------------------------------ */

/* It waits for the list; or, behind that, for two chunks' keys */
static void wait_for_list(FIXTURE_DATA(vsource) *self)
{
	struct vsource_write write;
	size_t bytes;

	ready(self);
	vsource_open(&self->source);
	vsource_next(&self->source, self->message, &bytes, &write);
}

static int say_list(FIXTURE_DATA(vsource) *self, unsigned blocks, unsigned at,
		    const struct control_block *odd)
{
	for (unsigned i = 0; i < blocks; i++) {
		struct control_block line = { .host = UINT64_C(0x10000000000) * (i + 1),
					      .start = 0x1000000 * i,
					      .length = lengths[i % BLOCKS],
					      .rkey = i + 1 };

		control_put_block(self->answer, i, i == at ? odd : &line);
	}
	return hear(self, control_put(self->answer, CONTROL_BLOCKS_RESULT, blocks, 0));
}

TEST_F(vsource, lists_that_are_refused)
{
	static const struct control_block odd[] = {
		{ .host = MIB, .length = 4 * MIB + PAGE, .rkey = 1 },
		{ .host = MIB, .length = 0, .rkey = 1 },
		{ .host = -MIB, .length = 4 * MIB, .rkey = 1 },
		{ .host = MIB, .start = -PAGE, .length = 4 * MIB, .rkey = 1 },
		{ .host = MIB, .length = 4 * MIB, .rkey = 0 },
	};

	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		begin(self, CONTROL_PIN_ALL);
		wait_for_list(self);
		EXPECT_EQ(-EPROTO, say_list(self, BLOCKS, 0, &odd[i])) TH_LOG("line %u", i);
		EXPECT_NE(NULL, strstr(self->err.text, "block 0"));
	}
	for (unsigned blocks = 1; blocks < 6; blocks++) {
		begin(self, CONTROL_PIN_ALL);
		wait_for_list(self);
		EXPECT_EQ(blocks == BLOCKS ? 0 : -EPROTO, say_list(self, blocks, 99, NULL));
	}
	begin(self, CONTROL_PIN_ALL);
	EXPECT_EQ(-EPROTO, say_list(self, BLOCKS, 99, NULL)); /* nobody asked */
}

static int say_grants(FIXTURE_DATA(vsource) *self, unsigned count, uint32_t rkey, uint64_t host)
{
	struct control_grant got = { .rkey = rkey, .host = host };

	for (unsigned i = 0; i < count; i++)
		control_put_grant(self->answer, i, &got);
	return hear(self, control_put(self->answer, CONTROL_REGISTER_RESULT, count, 0));
}

static void wait_for_keys(FIXTURE_DATA(vsource) *self)
{
	struct vsource_write write;
	size_t bytes;

	begin(self, CONTROL_SEVERAL);
	meet(self);
	memset(self->from[0], 1, 2 * MIB);
	open_bracket(self);
	hand_over(self, 0, 0, 512);
	vsource_next(&self->source, self->message, &bytes, &write);
}

TEST_F(vsource, keys_that_are_refused)
{
	static const struct control_block list = { .host = UINT64_C(1) << 40,
						   .length = UINT64_C(1) << 40 };

	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 1, 1, MIB)); /* too few: the seed's, and QEMU's */
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 3, 1, MIB));
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 0, MIB));
	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 1, -MIB));
	wait_for_keys(self);
	/* another answer, whose numbers would do */
	EXPECT_EQ(-EPROTO, say_list(self, 2, 0, &list));
	wait_for_keys(self);
	EXPECT_EQ(0, say_grants(self, 2, 1, MIB));
	EXPECT_EQ(-EPROTO, say_grants(self, 2, 1, MIB)); /* for the second time */
}

TEST_F(vsource, what_comes_at_the_wrong_time)
{
	static const enum control_kind never[] = { CONTROL_STREAM, CONTROL_BLOCKS_REQUEST,
						   CONTROL_REGISTER_FINISHED,
						   CONTROL_UNREGISTER_FINISHED };

	wait_for_keys(self);
	EXPECT_EQ(-EPROTO, ready(self));
	EXPECT_STREQ("rdma: READY instead of an answer", self->err.text);
	for (unsigned i = 0; i < 4; i++) {
		wait_for_keys(self);
		EXPECT_EQ(-EPROTO, hear(self, control_put(self->answer, never[i], 1, 8)));
	}
	begin(self, 0);
	EXPECT_EQ(0, ready(self));
	EXPECT_EQ(-EPROTO, ready(self));
	EXPECT_STREQ("rdma: READY for the second time", self->err.text);
	EXPECT_EQ(-ECONNABORTED, hear(self, control_put(self->answer, CONTROL_ERROR, 1, 0)));
	EXPECT_EQ(-EPROTO, hear(self, 15));
}

/* ---- All of it, at random ---------------------------------------------------------- */

static void write_memory(FIXTURE_DATA(vsource) *self, struct random *random, unsigned block,
			 uint64_t page)
{
	memset(self->from[block] + page * PAGE,
	       random_below(random, 2) ? (int)random_below(random, 256) : 0, PAGE);
}

/* Rounds of dirty pages, runs and single ones, handed over in pieces */
TEST_F(vsource, random_rounds)
{
	struct random random = { 7 };

	for (unsigned how = 0; how < 16; how++) {
		self->bits = how & 8 ? 21 : 20;
		begin(self, (how & 5) == 1 ? CONTROL_PIN_ALL : how & 2 ? CONTROL_SEVERAL : 0);
		set_limit(self, how & 4 ? 3 * MIB : 0, (how & 7) == 5);
		self->there_room = (how & 7) == 5 ? 2 : 0;
		ASSERT_EQ(0, meet(self));
		for (unsigned round = 0; round < 40; round++) {
			open_bracket(self);
			for (unsigned block = 0; block < BLOCKS; block++) {
				uint64_t pages = lengths[block] / PAGE;
				uint64_t page = round ? random_below(&random, 200) : 0;

				while (page < pages) {
					write_memory(self, &random, block, page);
					while (!vsource_range(&self->source, block, page * PAGE,
							      PAGE))
						ASSERT_EQ(0, turn(self))
					TH_LOG("%s", self->err.text);
					if (!random_below(&random, 50))
						ASSERT_EQ(0, turn(self))
					TH_LOG("%s", self->err.text);
					page += round && !random_below(&random, 4) ?
							random_below(&random, 300) + 1 :
							1;
				}
			}
			ASSERT_EQ(0, close_bracket(self)) TH_LOG("%s", self->err.text);
			ASSERT_TRUE(same(self)) TH_LOG("how %u, round %u", how, round);
		}
		EXPECT_EQ((how & 4) != 0, self->source.unregisters != 0);
	}
}

TEST_HARNESS_MAIN
