/* SPDX-License-Identifier: GPL-2.0 */
#include "rdma/vdest.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define MIB (UINT64_C(1) << 20)

/* Three blocks; the second has a last chunk of one page */
static const struct vdest_block blocks[] = {
	{ .host = 0x7f0000000000, .length = 4 * MIB },
	{ .host = 0x7e0000001000, .length = 2 * MIB + 4096 },
	{ .host = 0x7d0000000000, .length = 4096 },
};

FIXTURE(vdest)
{
	struct vdest dest;
	uint8_t granted[3][8], revoked[3][8];
	unsigned whole, cleared, touched;
	uint64_t clear_offset, clear_length;
	unsigned clear_block;
	int fail;
	unsigned room; /* for grants from now on, of which the last one, and all behind it, fail; 0: for all */
	uint8_t message[CONTROL_MSG_MAX];
	uint8_t answer[VDEST_ANSWER_MAX];
	size_t answered;
	struct control control, result;
	struct wh_err err;
};

static int grant(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err)
{
	FIXTURE_DATA(vdest) *self = ctx;

	self->touched++;
	if (self->room && !--self->room)
		self->fail = -ENOMEM;
	if (self->fail) {
		snprintf(err->text, sizeof(err->text), "no memory to pin");
		return err->code = self->fail;
	}
	*rkey = 0x100 * (block + 1) + (uint32_t)(chunk == VDEST_WHOLE ? 0xff : chunk);
	if (chunk == VDEST_WHOLE)
		self->whole++;
	else if (block < 3 && chunk < 8)
		self->granted[block][chunk]++;
	else
		self->touched += 1000; /* outside */
	return 0;
}

static int take_back(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err)
{
	FIXTURE_DATA(vdest) *self = ctx;

	(void)err;
	self->touched++;
	if (block < 3 && chunk < 8)
		self->revoked[block][chunk]++;
	else
		self->touched += 1000;
	return 0;
}

static void clear(void *ctx, unsigned block, uint64_t offset, uint64_t length)
{
	FIXTURE_DATA(vdest) *self = ctx;

	self->touched++;
	self->cleared++;
	self->clear_block = block;
	self->clear_offset = offset;
	self->clear_length = length;
	if (block >= 3 || offset + length > blocks[block].length || !length)
		self->touched += 1000;
}

static const struct vdest_ops ops = { grant, take_back, clear };

FIXTURE_SETUP(vdest)
{
	memset(self, 0, sizeof(*self));
	vdest_init(&self->dest, &ops, self, 0);
}

FIXTURE_TEARDOWN(vdest)
{
}

/* What is in message, of so many bytes */
static int take(FIXTURE_DATA(vdest) *self, size_t bytes)
{
	int ret;

	memset(&self->err, 0, sizeof(self->err));
	ret = vdest_take(&self->dest, self->message, bytes, &self->control, self->answer,
			 &self->answered, &self->err);
	if (self->answered)
		(void)control_get(self->answer, self->answered, &self->result, &self->err);
	return ret;
}

static int say(FIXTURE_DATA(vdest) *self, enum control_kind kind)
{
	return take(self, control_put(self->message, kind, 1, 1));
}

static int ask(FIXTURE_DATA(vdest) *self, enum control_kind kind, uint32_t block, uint64_t address,
	       uint64_t chunks)
{
	struct control_ask item = { .address = address, .block = block, .chunks = chunks };

	control_put_ask(self->message, 0, &item);
	return take(self, control_put(self->message, kind, 1, 0));
}

static int zero(FIXTURE_DATA(vdest) *self, uint32_t block, uint64_t address, uint64_t length)
{
	struct control_zero item = { .block = block, .address = address, .length = length };

	control_put_zero(self->message, 0, &item);
	return take(self, control_put(self->message, CONTROL_ZERO, 1, 0));
}

/* The list is known and asked for, and the second bracket has been announced */
static void set_up(FIXTURE_DATA(vdest) *self)
{
	vdest_blocks(&self->dest, blocks, 3);
	vdest_hook(&self->dest);
	say(self, CONTROL_BLOCKS_REQUEST);
	say(self, CONTROL_REGISTER_FINISHED);
	vdest_hook(&self->dest);
}

TEST_F(vdest, the_way_qemu_goes)
{
	struct control_block line;
	struct control_grant got;

	ASSERT_EQ(VDEST_STREAM, say(self, CONTROL_STREAM));
	EXPECT_EQ(1, self->control.length);
	/* it is asked before the stream has been read as far */
	ASSERT_EQ(VDEST_WAIT, say(self, CONTROL_BLOCKS_REQUEST));
	vdest_blocks(&self->dest, blocks, 3);
	vdest_hook(&self->dest);
	ASSERT_EQ(VDEST_READY, say(self, CONTROL_BLOCKS_REQUEST));
	ASSERT_EQ(CONTROL_BLOCKS_RESULT, self->result.kind);
	ASSERT_EQ(3, self->result.count);
	for (unsigned i = 0; i < 3; i++) {
		control_get_block(&self->result, i, &line);
		EXPECT_EQ(blocks[i].host, line.host);
		EXPECT_EQ(blocks[i].length, line.length);
		EXPECT_EQ(0, line.rkey);
	}
	ASSERT_EQ(VDEST_READY, say(self, CONTROL_REGISTER_FINISHED));
	EXPECT_EQ(0, self->answered);
	ASSERT_EQ(VDEST_STREAM, say(self, CONTROL_STREAM));
	ASSERT_EQ(VDEST_WAIT, ask(self, CONTROL_REGISTER_REQUEST, 0, 3 * MIB + 4096, 0));
	vdest_hook(&self->dest);
	ASSERT_EQ(VDEST_READY, ask(self, CONTROL_REGISTER_REQUEST, 0, 3 * MIB + 4096, 0));
	ASSERT_EQ(CONTROL_REGISTER_RESULT, self->result.kind);
	control_get_grant(&self->result, 0, &got);
	EXPECT_EQ(0x103, got.rkey);
	EXPECT_EQ(blocks[0].host, got.host);
	EXPECT_EQ(1, self->granted[0][3]);
	ASSERT_EQ(VDEST_READY, zero(self, 1, self->dest.block[1].start + 2 * MIB, 4096));
	EXPECT_EQ(1, self->clear_block);
	EXPECT_EQ(2 * MIB, self->clear_offset);
	ASSERT_EQ(VDEST_READY, say(self, CONTROL_REGISTER_FINISHED));
	ASSERT_EQ(VDEST_STREAM, say(self, CONTROL_STREAM));
}

TEST_F(vdest, all_is_pinned_if_it_was_agreed)
{
	struct control_block line;

	self->dest.pin_all = true;
	set_up(self);
	EXPECT_EQ(3, self->whole);
	self->dest.listed = false;
	ASSERT_EQ(VDEST_READY, say(self, CONTROL_BLOCKS_REQUEST));
	control_get_block(&self->result, 2, &line);
	EXPECT_EQ(0x3ff, line.rkey);
}

/* Blocks lie apart: an address belongs to one at most, and its neighbours to none */
TEST_F(vdest, addresses_are_in_one_block)
{
	set_up(self);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t start = self->dest.block[i].start, end = start + blocks[i].length;

		for (unsigned of = 0; of < 3; of++) {
			EXPECT_EQ(of == i ? VDEST_READY : -EPROTO,
				  ask(self, CONTROL_REGISTER_REQUEST, of, start, 0));
			EXPECT_EQ(of == i ? VDEST_READY : -EPROTO,
				  ask(self, CONTROL_REGISTER_REQUEST, of, end - 1, 0));
			EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, of, end, 0));
			EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, of, start - 1, 0));
		}
	}
	EXPECT_EQ(1, self->granted[1][2]); /* the page of the last chunk */
	EXPECT_GT(1000, self->touched);
}

TEST_F(vdest, hostile_ranges)
{
	static const uint64_t odd[] = { 1,
					4095,
					MIB,
					4 * MIB,
					4 * MIB + 4096,
					UINT64_C(1) << 32,
					UINT64_C(1) << 63,
					UINT64_MAX - 4095,
					UINT64_MAX };
	unsigned touched;

	set_up(self);
	touched = self->touched;
	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		EXPECT_EQ(-EPROTO, zero(self, 2, self->dest.block[2].start + odd[i], 4096));
		EXPECT_EQ(-EPROTO, zero(self, 2, self->dest.block[2].start, 4096 + odd[i]));
		EXPECT_EQ(-EPROTO, zero(self, 2, self->dest.block[2].start + odd[i], -odd[i]));
		EXPECT_EQ(-EPROTO, zero(self, 3 + (uint32_t)odd[i] % 1000, 0, 4096));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, 0,
				       self->dest.block[2].start + odd[i], 0));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, 0, 0, odd[i]));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, 0,
				       3 + odd[i] % (UINT64_MAX - 2), 0));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, 0, 0, odd[i]));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, 2, odd[i], 0));
	}
	EXPECT_EQ(-EPROTO, zero(self, 0, 0, 0));
	EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, UINT32_MAX, 0, 0));
	EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, UINT32_MAX, 0, 0));
	EXPECT_EQ(touched, self->touched);
}

/* Of several nothing is revoked if one of them is wrong */
TEST_F(vdest, unregister)
{
	struct control_ask item[3] = { { .address = 1, .block = 0 },
				       { .address = 2, .block = 1 },
				       { .address = 3, .block = 1 } };

	set_up(self);
	for (unsigned i = 0; i < 3; i++)
		control_put_ask(self->message, i, &item[i]);
	EXPECT_EQ(-EPROTO,
		  take(self, control_put(self->message, CONTROL_UNREGISTER_REQUEST, 3, 0)));
	EXPECT_EQ(0, self->revoked[0][1]);
	EXPECT_EQ(VDEST_READY,
		  take(self, control_put(self->message, CONTROL_UNREGISTER_REQUEST, 2, 0)));
	EXPECT_EQ(1, self->revoked[0][1]);
	EXPECT_EQ(1, self->revoked[1][2]);
	EXPECT_EQ(CONTROL_UNREGISTER_FINISHED, self->result.kind);
	EXPECT_EQ(2, self->result.count);
}

/* Its numbers, and where it ends, are of the size that was agreed */
TEST_F(vdest, large_chunks)
{
	vdest_init(&self->dest, &ops, self, CONTROL_CHUNK_4M);
	set_up(self);
	EXPECT_EQ(VDEST_READY, ask(self, CONTROL_REGISTER_REQUEST, 0, 4 * MIB - 1, 0));
	EXPECT_EQ(1, self->granted[0][0]);
	EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, 0, 4 * MIB, 0));
	EXPECT_EQ(VDEST_READY, ask(self, CONTROL_REGISTER_REQUEST, 1,
				   self->dest.block[1].start + 2 * MIB + 4095, 0));
	EXPECT_EQ(1, self->granted[1][0]);
	for (unsigned block = 0; block < 3; block++) {
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, block, 1, 0));
		EXPECT_EQ(-EPROTO, ask(self, CONTROL_UNREGISTER_REQUEST, block, UINT64_MAX, 0));
		EXPECT_EQ(VDEST_READY, ask(self, CONTROL_UNREGISTER_REQUEST, block, 0, 0));
		EXPECT_EQ(1, self->revoked[block][0]);
	}
}

/* QEMU's own end would die of it */
TEST_F(vdest, what_never_was_registered)
{
	struct control_ask item = { .address = 3, .block = 0 };

	set_up(self);
	EXPECT_EQ(VDEST_READY, ask(self, CONTROL_UNREGISTER_REQUEST, 1, 2, 0));
	EXPECT_EQ(CONTROL_UNREGISTER_FINISHED, self->result.kind);
	EXPECT_EQ(1, self->revoked[1][2]);
	/* the same one twice */
	control_put_ask(self->message, 0, &item);
	control_put_ask(self->message, 1, &item);
	EXPECT_EQ(VDEST_READY,
		  take(self, control_put(self->message, CONTROL_UNREGISTER_REQUEST, 2, 0)));
	EXPECT_EQ(2, self->result.count);
}

/* Without room: a peer that can give some back hears of it, any other is given up */
TEST_F(vdest, no_room_for_more)
{
	struct control_ask item[3] = { { .address = 0 },
				       { .address = MIB },
				       { .address = 2 * MIB } };
	struct control_grant got;

	self->dest.no_room = true;
	set_up(self);
	self->room = 2;
	for (unsigned i = 0; i < 3; i++)
		control_put_ask(self->message, i, &item[i]);
	ASSERT_EQ(VDEST_READY,
		  take(self, control_put(self->message, CONTROL_REGISTER_REQUEST, 3, 0)));
	for (unsigned i = 0; i < 3; i++) {
		control_get_grant(&self->result, i, &got);
		EXPECT_EQ(i ? 0 : 0x100, got.rkey);
	}
	/* nothing of it can be given back any more */
	EXPECT_EQ(VDEST_READY, ask(self, CONTROL_UNREGISTER_REQUEST, 0, 0, 0));
	EXPECT_EQ(-ENOMEM, ask(self, CONTROL_REGISTER_REQUEST, 0, MIB, 0));
	EXPECT_STREQ("no memory to pin", self->err.text);
	self->dest.no_room = false;
	self->room = 2;
	self->fail = 0;
	EXPECT_EQ(VDEST_READY, ask(self, CONTROL_REGISTER_REQUEST, 0, MIB, 0));
	EXPECT_EQ(-ENOMEM, ask(self, CONTROL_REGISTER_REQUEST, 0, MIB, 0));
}

TEST_F(vdest, as_many_as_fit)
{
	struct control_ask item = { .block = 0 };
	struct control_grant got;

	set_up(self);
	for (unsigned i = 0; i < CONTROL_REPEAT_MAX; i++) {
		item.address = i % 4 * MIB;
		control_put_ask(self->message, i, &item);
	}
	ASSERT_EQ(VDEST_READY, take(self, control_put(self->message, CONTROL_REGISTER_REQUEST,
						      CONTROL_REPEAT_MAX, 0)));
	EXPECT_EQ(VDEST_ANSWER_MAX, self->answered);
	control_get_grant(&self->result, CONTROL_REPEAT_MAX - 1, &got);
	EXPECT_EQ(0x103, got.rkey);
}

TEST_F(vdest, what_comes_at_the_wrong_time)
{
	/* what a destination says */
	EXPECT_EQ(-EPROTO, say(self, CONTROL_READY));
	EXPECT_EQ(-EPROTO, say(self, CONTROL_BLOCKS_RESULT));
	EXPECT_EQ(-EPROTO, say(self, CONTROL_REGISTER_RESULT));
	EXPECT_EQ(-EPROTO, say(self, CONTROL_UNREGISTER_FINISHED));
	/* memory before the list */
	vdest_blocks(&self->dest, blocks, 3);
	vdest_hook(&self->dest);
	EXPECT_EQ(-EPROTO, zero(self, 0, 0, 4096));
	EXPECT_STREQ("rdma: ZERO before BLOCKS_REQUEST", self->err.text);
	EXPECT_EQ(-EPROTO, ask(self, CONTROL_REGISTER_REQUEST, 0, 0, 0));
	/* the stream within a bracket; the list again */
	EXPECT_EQ(VDEST_READY, say(self, CONTROL_BLOCKS_REQUEST));
	EXPECT_EQ(-EPROTO, say(self, CONTROL_STREAM));
	EXPECT_EQ(-EPROTO, say(self, CONTROL_BLOCKS_REQUEST));
	EXPECT_EQ(VDEST_READY, say(self, CONTROL_REGISTER_FINISHED));
	/* memory outside of one: not before the next is announced */
	EXPECT_EQ(VDEST_WAIT, ask(self, CONTROL_REGISTER_REQUEST, 0, 0, 0));
	EXPECT_EQ(VDEST_WAIT, say(self, CONTROL_REGISTER_FINISHED));
	EXPECT_EQ(0, self->touched);
	EXPECT_EQ(-ECONNABORTED, say(self, CONTROL_ERROR));
}

TEST_F(vdest, what_fails_here_is_told)
{
	set_up(self);
	self->fail = -ENOMEM;
	EXPECT_EQ(-ENOMEM, ask(self, CONTROL_REGISTER_REQUEST, 0, 0, 0));
	EXPECT_STREQ("no memory to pin", self->err.text);
	EXPECT_EQ(0, self->answered);
}

/* Messages of a stranger who knows the kinds: no range outside a block is touched */
TEST_F(vdest, random_messages)
{
	struct random random = { 1 };
	unsigned taken = 0;

	vdest_blocks(&self->dest, blocks, 3);
	for (unsigned round = 0; round < 300000; round++) {
		uint32_t kind = (uint32_t)random_below(&random, CONTROL_COUNT + 1);
		uint32_t count = (uint32_t)random_below(&random, 3);
		uint32_t bytes = 24 * count;

		put_be32(self->message, random_below(&random, 8) ? bytes : 16);
		put_be32(self->message + 4, kind);
		put_be32(self->message + 8, count);
		for (unsigned i = 0; i < bytes; i += 4) {
			uint32_t word = (uint32_t)random_below(&random, 3);

			if (!random_below(&random, 3))
				word = (uint32_t)random_below(&random, 16) << 20;
			if (!random_below(&random, 3))
				word = 4096;
			if (!random_below(&random, 20))
				word = random_u32(&random);
			put_be32(self->message + CONTROL_HEADER + i, word);
		}
		if (random_below(&random, 2)) { /* no value, and no high halves */
			put_be32(self->message + CONTROL_HEADER, 0);
			put_be32(self->message + CONTROL_HEADER + 8, 0);
			put_be32(self->message + CONTROL_HEADER + 16, 0);
		}
		if (!random_below(&random, 10))
			vdest_hook(&self->dest);
		taken += take(self, CONTROL_HEADER + bytes) == VDEST_READY;
		self->dest.listed &= random_below(&random, 100) != 0;
		ASSERT_GT(1000, self->touched);
		self->touched = 0;
	}
	EXPECT_LT(1000, taken);
	EXPECT_LT(20, self->cleared);
}

TEST_HARNESS_MAIN
