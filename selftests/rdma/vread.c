/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Both ends of what is said about pages that are read, against each other and against strangers, with a
 * device between them that looks at each key as a real one would.
 */
#include "rdma/vread.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define MIB (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define BLOCKS 3u
#define CHUNKS 5u

/* The second one has a last chunk of one page */
static const uint64_t lengths[BLOCKS] = { 4 * MIB, 2 * MIB + PAGE, PAGE };
static const uint64_t hosts[BLOCKS] = { 0x7f0000000000, 0x7e0000001000, 0xfffffffffffff000 - PAGE };

FIXTURE(vread)
{
	struct vread read;
	struct vread_chunk chunk[BLOCKS][CHUNKS];
	struct vlend lend;
	bool lent[BLOCKS][CHUNKS], refuses[BLOCKS][CHUNKS];
	unsigned asked[BLOCKS][CHUNKS];
	unsigned under_way[VREAD_SLOTS], first, count;
	bool wrong; /* a key for what is not there, or a read that no key allows */
	uint8_t message[CONTROL_MSG_MAX];
	uint8_t answer[VREAD_MESSAGE];
	size_t bytes, length;
	struct vread_job job;
	struct wh_err err;
};

static uint32_t key_of(unsigned block, uint64_t chunk)
{
	return 0x100 * (block + 1) + (uint32_t)chunk;
}

static uint32_t op_key(void *ctx, unsigned block, uint64_t chunk)
{
	FIXTURE_DATA(vread) *self = ctx;

	if (block >= BLOCKS || chunk >= vread_chunks(lengths[block])) {
		self->wrong = true;
		return 0;
	}
	self->asked[block][chunk]++;
	self->lent[block][chunk] = !self->refuses[block][chunk];
	return self->lent[block][chunk] ? key_of(block, chunk) : 0;
}

static const struct vlend_ops ops = { op_key };

FIXTURE_SETUP(vread)
{
	memset(self, 0, sizeof(*self));
	vread_init(&self->read);
	vlend_init(&self->lend, &ops, self);
	for (unsigned i = 0; i < BLOCKS; i++) {
		vread_add_block(&self->read, lengths[i], self->chunk[i]);
		vlend_add_block(&self->lend, hosts[i], lengths[i]);
	}
}

FIXTURE_TEARDOWN(vread)
{
}

static enum vread_next next(FIXTURE_DATA(vread) *self)
{
	size_t bytes;
	enum vread_next next = vread_next(&self->read, self->message, &bytes, &self->job);

	if (next == VREAD_SAY)
		self->bytes = bytes;
	return next;
}

/* What next() has said is answered, and the answer in answer */
static int ask(FIXTURE_DATA(vread) *self)
{
	return vlend_take(&self->lend, self->message, self->bytes, self->answer, &self->length,
			  &self->err);
}

static int hear(FIXTURE_DATA(vread) *self)
{
	return vread_take(&self->read, self->answer, self->length, &self->err);
}

/* The device: is it the page, with a key of its chunk? */
static void begin(FIXTURE_DATA(vread) *self)
{
	const struct vread_slot *slot = &self->read.slot[self->job.slot];
	uint64_t chunk = slot->offset / MIB;

	if (slot->state != VREAD_UNDER_WAY ||
	    self->job.address != hosts[slot->block] + slot->offset ||
	    slot->offset + PAGE > lengths[slot->block] || !self->lent[slot->block][chunk] ||
	    self->job.rkey != key_of(slot->block, chunk))
		self->wrong = true;
	self->under_way[(self->first + self->count++) % VREAD_SLOTS] = self->job.slot;
}

static void is_done(FIXTURE_DATA(vread) *self)
{
	unsigned slot = self->under_way[self->first++ % VREAD_SLOTS];

	self->count--;
	vread_done(&self->read, 1);
	if (self->read.slot[slot].state != VREAD_HERE)
		self->wrong = true;
}

TEST_F(vread, a_page_is_read)
{
	EXPECT_EQ(VREAD_WAIT, next(self));
	EXPECT_TRUE(vread_page(&self->read, 1, 2 * MIB + 77));
	ASSERT_EQ(VREAD_SAY, next(self));
	EXPECT_EQ(VREAD_WAIT, next(self));
	ASSERT_EQ(0, ask(self));
	EXPECT_EQ(VREAD_WAIT, next(self));
	ASSERT_EQ(0, hear(self));
	ASSERT_EQ(VREAD_READ, next(self));
	begin(self);
	EXPECT_EQ(VREAD_WAIT, next(self));
	EXPECT_EQ(VREAD_SLOTS, vread_find(&self->read, VREAD_HERE));
	is_done(self);
	EXPECT_EQ(0, vread_find(&self->read, VREAD_HERE));
	vread_free(&self->read, 0);
	/* the key is known from there on */
	EXPECT_TRUE(vread_page(&self->read, 1, 2 * MIB));
	EXPECT_EQ(VREAD_READ, next(self));
	begin(self);
	/* and with it there is nothing to be said; without, a page is not begun with */
	EXPECT_TRUE(vread_page(&self->read, 1, 0));
	EXPECT_FALSE(vread_begin(&self->read, &self->job));
	EXPECT_TRUE(vread_page(&self->read, 1, 2 * MIB));
	EXPECT_TRUE(vread_begin(&self->read, &self->job));
	begin(self);
	EXPECT_FALSE(vread_begin(&self->read, &self->job));
	EXPECT_EQ(1, self->asked[1][2]);
	EXPECT_FALSE(self->wrong);
}

TEST_F(vread, keys_are_asked_for_together)
{
	EXPECT_TRUE(vread_page(&self->read, 0, 0));
	EXPECT_TRUE(vread_page(&self->read, 0, PAGE));
	EXPECT_TRUE(vread_page(&self->read, 0, 3 * MIB));
	EXPECT_TRUE(vread_page(&self->read, 2, 0));
	ASSERT_EQ(VREAD_SAY, next(self));
	EXPECT_EQ(3, get_be32(self->message + 8));
	/* and what is wanted meanwhile behind them */
	EXPECT_TRUE(vread_page(&self->read, 1, 0));
	EXPECT_EQ(VREAD_WAIT, next(self));
	ASSERT_EQ(0, ask(self));
	ASSERT_EQ(0, hear(self));
	for (unsigned i = 0; i < 4; i++) {
		ASSERT_EQ(VREAD_READ, next(self));
		begin(self);
	}
	ASSERT_EQ(VREAD_SAY, next(self));
	EXPECT_EQ(1, get_be32(self->message + 8));
	EXPECT_FALSE(self->wrong);
}

TEST_F(vread, without_a_key_or_room)
{
	self->refuses[0][1] = true;
	EXPECT_TRUE(vread_page(&self->read, 0, MIB));
	EXPECT_TRUE(vread_page(&self->read, 0, MIB + PAGE));
	EXPECT_TRUE(vread_page(&self->read, 0, 0));
	ASSERT_EQ(VREAD_SAY, next(self));
	ASSERT_EQ(0, ask(self));
	ASSERT_EQ(0, hear(self));
	/* those are to be asked for, and so are others of the chunk; nothing is asked again */
	EXPECT_EQ(0, vread_find(&self->read, VREAD_VAIN));
	vread_free(&self->read, 0);
	EXPECT_EQ(1, vread_find(&self->read, VREAD_VAIN));
	vread_free(&self->read, 1);
	EXPECT_FALSE(vread_page(&self->read, 0, 2 * MIB - 1));
	EXPECT_EQ(VREAD_READ, next(self));
	begin(self);
	EXPECT_EQ(VREAD_WAIT, next(self));
	/* so many at once */
	for (unsigned i = 1; i < VREAD_SLOTS; i++)
		EXPECT_TRUE(vread_page(&self->read, 0, i * PAGE));
	EXPECT_FALSE(vread_page(&self->read, 0, 0));
	/* what is no page of a block */
	vread_free(&self->read, 3);
	EXPECT_FALSE(vread_page(&self->read, 0, 4 * MIB));
	EXPECT_FALSE(vread_page(&self->read, 0, UINT64_MAX));
	EXPECT_FALSE(vread_page(&self->read, BLOCKS, 0));
	EXPECT_TRUE(vread_page(&self->read, 2, PAGE - 1));
	EXPECT_FALSE(self->wrong);
}

/* Whatever state it is in, a page is not forgotten */
TEST_F(vread, the_connection_is_lost)
{
	EXPECT_TRUE(vread_page(&self->read, 0, 0));
	EXPECT_TRUE(vread_page(&self->read, 0, PAGE));
	ASSERT_EQ(VREAD_SAY, next(self));
	ASSERT_EQ(0, ask(self));
	ASSERT_EQ(0, hear(self));
	ASSERT_EQ(VREAD_READ, next(self));
	begin(self);
	ASSERT_EQ(VREAD_READ, next(self));
	begin(self);
	is_done(self);
	EXPECT_TRUE(vread_page(&self->read, 1, 0));
	EXPECT_TRUE(vread_page(&self->read, 0, 2 * PAGE));
	vread_lost(&self->read);
	EXPECT_EQ(VREAD_HERE, self->read.slot[0].state);
	EXPECT_EQ(VREAD_VAIN, self->read.slot[1].state);
	EXPECT_EQ(VREAD_VAIN, self->read.slot[2].state);
	EXPECT_EQ(VREAD_VAIN, self->read.slot[3].state);
	/* one that says it is complete all the same */
	vread_done(&self->read, 5);
	EXPECT_EQ(VREAD_VAIN, self->read.slot[1].state);
}

static int put(FIXTURE_DATA(vread) *self, unsigned count, uint32_t rkey, uint64_t host)
{
	struct control_grant grant = { .rkey = rkey, .host = host };

	for (unsigned i = 0; i < count; i++)
		control_put_grant(self->answer, i, &grant);
	self->length = control_put(self->answer, CONTROL_KEY_RESULT, count, 0);
	self->err = (struct wh_err){ 0 };
	return hear(self);
}

static void want(FIXTURE_DATA(vread) *self, uint64_t chunk)
{
	vread_page(&self->read, 0, chunk * MIB);
	while (next(self) == VREAD_READ)
		;
}

TEST_F(vread, a_strange_source)
{
	EXPECT_EQ(-EPROTO, put(self, 1, 1, hosts[0]));
	EXPECT_NE(NULL, strstr(self->err.text, "KEY_RESULT, where pages are read"));
	want(self, 0);
	EXPECT_EQ(-EPROTO, put(self, 2, 1, hosts[0]));
	EXPECT_STREQ("rdma: KEY_RESULT of 2 keys, asked was for 1", self->err.text);
	EXPECT_EQ(0, put(self, 1, 1, hosts[0]));
	EXPECT_EQ(-EPROTO, put(self, 1, 1, hosts[0]));
	want(self, 1);
	EXPECT_EQ(-EPROTO, put(self, 1, 1, hosts[0] + PAGE));
	EXPECT_STREQ("rdma: KEY_RESULT: block 0 is at 0x7f0000001000, and was at 0x7f0000000000",
		     self->err.text);
	self->read.block[0].placed = false;
	want(self, 2);
	EXPECT_EQ(-EPROTO, put(self, 1, 1, UINT64_MAX - 4 * MIB + 1));
	EXPECT_STREQ("rdma: KEY_RESULT: block 0 is at 0xffffffffffc00000", self->err.text);
	self->length = control_put(self->answer, CONTROL_READY, 1, 0);
	EXPECT_EQ(-EPROTO, hear(self));
	EXPECT_NE(NULL, strstr(self->err.text, "READY, where pages are read"));
}

static int request(FIXTURE_DATA(vread) *self, unsigned count, unsigned block, uint64_t chunk,
		   uint64_t more)
{
	struct control_ask item = { .block = 0 };

	for (unsigned i = 0; i + 1 < count; i++)
		control_put_ask(self->message, i, &item);
	item = (struct control_ask){ .block = block, .address = chunk, .chunks = more };
	control_put_ask(self->message, count - 1, &item);
	self->bytes = control_put(self->message, CONTROL_KEY_REQUEST, count, 0);
	self->err = (struct wh_err){ 0 };
	return ask(self);
}

/* Nothing is lent for a message of which a part is wrong */
TEST_F(vread, a_strange_destination)
{
	EXPECT_EQ(-EPROTO, request(self, 2, BLOCKS, 0, 0));
	EXPECT_EQ(-EPROTO, request(self, 2, UINT32_MAX, 0, 0));
	EXPECT_EQ(-EPROTO, request(self, 2, 1, 3, 0));
	EXPECT_STREQ("rdma: KEY_REQUEST of chunk 0x3 and 0 more of block 1", self->err.text);
	EXPECT_EQ(-EPROTO, request(self, 2, 0, UINT64_MAX, 0));
	EXPECT_EQ(-EPROTO, request(self, 2, 0, 0, 1));
	EXPECT_EQ(-EPROTO, request(self, VREAD_SLOTS + 1, 0, 0, 0));
	EXPECT_STREQ("rdma: KEY_REQUEST of 17 chunks", self->err.text);
	self->bytes = control_put(self->message, CONTROL_KEY_RESULT, 1, 0);
	EXPECT_EQ(-EPROTO, ask(self));
	self->bytes--;
	EXPECT_EQ(-EPROTO, ask(self));
	EXPECT_EQ(0, self->asked[0][0]);
	EXPECT_EQ(0, self->length);
	EXPECT_EQ(0, request(self, VREAD_SLOTS, 1, 2, 0));
	EXPECT_EQ(1, self->asked[1][2]);
	EXPECT_EQ(CONTROL_HEADER + VREAD_SLOTS * 16, self->length);
	EXPECT_FALSE(self->wrong);
}

/* Whatever happens in whatever order: all that was handed over comes back, once */
TEST_F(vread, by_chance)
{
	struct random random = { 7 };
	unsigned handed = 0, here = 0, vain = 0, at;
	bool said = false, answered = false;

	self->refuses[0][2] = self->refuses[1][1] = true;
	for (unsigned i = 0; i < 200000; i++) {
		unsigned block = (unsigned)random_below(&random, BLOCKS);

		switch (random_below(&random, 6)) {
		case 0:
			handed += vread_page(&self->read, block,
					     random_below(&random, lengths[block]));
			break;
		case 1:
			switch (answered ? VREAD_WAIT : next(self)) {
			case VREAD_SAY:
				ASSERT_FALSE(said);
				said = true;
				ASSERT_EQ(0, ask(self));
				answered = true;
				break;
			case VREAD_READ:
				begin(self);
				break;
			case VREAD_WAIT:
				break;
			}
			break;
		case 2:
			if (answered)
				ASSERT_EQ(0, hear(self));
			said = answered = false;
			break;
		case 3:
			if (self->count)
				is_done(self);
			break;
		case 4:
			at = vread_find(&self->read, VREAD_HERE);
			here += at < VREAD_SLOTS;
			if (at < VREAD_SLOTS)
				vread_free(&self->read, at);
			break;
		case 5:
			at = vread_find(&self->read, VREAD_VAIN);
			vain += at < VREAD_SLOTS;
			if (at < VREAD_SLOTS)
				vread_free(&self->read, at);
			break;
		}
	}
	vread_lost(&self->read);
	for (unsigned i = 0; i < VREAD_SLOTS; i++)
		here += self->read.slot[i].state != VREAD_FREE;
	EXPECT_EQ(handed, here + vain);
	EXPECT_LT(10000, here);
	EXPECT_LT(1, vain);
	EXPECT_FALSE(self->wrong);
	for (unsigned i = 0; i < BLOCKS; i++)
		for (unsigned c = 0; c < vread_chunks(lengths[i]); c++)
			EXPECT_EQ(1, self->asked[i][c]);
}

TEST_HARNESS_MAIN
