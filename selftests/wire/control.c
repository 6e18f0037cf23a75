/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/control.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"
#include "selftests/wire/vector.h"

#include <errno.h>

#include "kselftest_harness.h"

/* Items with something else in each field, and whether two are equal; from the table */
#define F(type, name) item.name = random_##type(random);
#define PAD
#define ITEM(item_, fields)                                                                \
	static void put_random_##item_(uint8_t *buf, uint32_t i, struct random *random)    \
	{                                                                                  \
		struct control_##item_ item;                                               \
                                                                                           \
		fields control_put_##item_(buf, i, &item);                                 \
	}                                                                                  \
	static void put_again_##item_(uint8_t *buf, const struct control *msg, uint32_t i) \
	{                                                                                  \
		struct control_##item_ item;                                               \
                                                                                           \
		control_get_##item_(msg, i, &item);                                        \
		control_put_##item_(buf, i, &item);                                        \
	}
#include "wire/control.def"
#undef ITEM
#undef PAD
#undef F

static void put_random_none(uint8_t *buf, uint32_t i, struct random *random)
{
	(void)buf, (void)i, (void)random;
}

static void put_again_none(uint8_t *buf, const struct control *msg, uint32_t i)
{
	(void)buf, (void)msg, (void)i;
}

enum count {
	NO_ITEMS,
	ONE,
	REPEAT,
	LENGTH,
	BYTES
};

static const struct {
	enum control_kind kind;
	const char *name;
	enum count count;
	void (*put)(uint8_t *buf, uint32_t i, struct random *random);
	void (*again)(uint8_t *buf, const struct control *msg, uint32_t i);
} kinds[] = {
#define KIND(kind, number, item, how) \
	{ CONTROL_##kind, #kind, how, put_random_##item, put_again_##item },
#include "wire/control.def"
#undef KIND
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

FIXTURE(control)
{
	struct random random;
	uint8_t bytes[CONTROL_MSG_MAX + 1];
	uint8_t again[CONTROL_MSG_MAX + 1];
	struct control msg;
	struct wh_err err;
};

FIXTURE_SETUP(control)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(control)
{
}

/* A message of kinds[i] with so many items or bytes, by its length */
static size_t some(FIXTURE_DATA(control) *self, unsigned i, uint32_t count)
{
	size_t length = control_put(self->bytes, kinds[i].kind, count, count);

	for (size_t at = CONTROL_HEADER; at < length; at++)
		self->bytes[at] = 0;
	for (uint32_t item = 0; item < count && control_item_bytes(kinds[i].kind); item++)
		kinds[i].put(self->bytes, item, &self->random);
	return length;
}

static size_t put_again(FIXTURE_DATA(control) *self, unsigned i)
{
	const struct control *msg = &self->msg;
	size_t length = control_put(self->again, msg->kind, msg->count, msg->length);

	if (control_item_bytes(msg->kind))
		for (uint32_t item = 0; item < msg->count; item++)
			kinds[i].again(self->again, msg, item);
	else
		memcpy(self->again + CONTROL_HEADER, msg->payload, msg->length);
	return length;
}

TEST_F(control, every_kind_comes_back)
{
	static const uint32_t counts[] = { 1, 2, 3, 17, 256, CONTROL_REPEAT_MAX };

	for (unsigned i = 0; i < KINDS; i++)
		for (unsigned n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
			size_t length = some(self, i, kinds[i].count == ONE ? 1 : counts[n]);

			ASSERT_EQ(0, control_get(self->bytes, length, &self->msg, &self->err))
			TH_LOG("%s: %s", kinds[i].name, self->err.text);
			EXPECT_EQ(kinds[i].kind, self->msg.kind);
			EXPECT_STREQ(kinds[i].name, control_name(self->msg.kind));
			ASSERT_EQ(length, put_again(self, i));
			/* a stream's repeat is nobody's */
			if (kinds[i].count == BYTES)
				put_be32(self->again + 8, get_be32(self->bytes + 8));
			EXPECT_EQ(0, memcmp(self->bytes, self->again, length))
			TH_LOG("%s of %u", kinds[i].name, counts[n]);
		}
}

/* A SEND is whole: what is shorter or longer than it says is refused */
TEST_F(control, every_other_length_is_refused)
{
	for (unsigned i = 0; i < KINDS; i++) {
		size_t length = some(self, i, kinds[i].count == ONE ? 1 : 3);

		for (size_t other = 0; other < length + 40; other++) {
			uint8_t *copy = malloc(other ? other : 1); /* no byte behind it */

			memcpy(copy, self->bytes, other);
			if (other != length)
				EXPECT_EQ(-EPROTO,
					  control_get(copy, other, &self->msg, &self->err));
			/* and one that says so itself: of items there are whole ones only */
			if (other >= CONTROL_HEADER && other != length && kinds[i].count != BYTES) {
				int wanted = -EPROTO;

				put_be32(copy, (uint32_t)(other - CONTROL_HEADER));
				if (kinds[i].count == LENGTH && other > CONTROL_HEADER &&
				    (other - CONTROL_HEADER) % control_item_bytes(kinds[i].kind) ==
					    0)
					wanted = 0;
				EXPECT_EQ(wanted, control_get(copy, other, &self->msg, &self->err))
				TH_LOG("%s of %zu", kinds[i].name, other);
				EXPECT_NE(NULL, strstr(self->err.text, "rdma: "));
			}
			free(copy);
		}
	}
}

TEST_F(control, counts_are_bounded)
{
	static const uint32_t hostile[] = { CONTROL_REPEAT_MAX + 1, 0x10000000, 0x0aaaaaab,
					    0x80000000, UINT32_MAX };

	for (unsigned i = 0; i < KINDS; i++)
		for (unsigned n = 0; n < sizeof(hostile) / sizeof(hostile[0]); n++) {
			size_t length = some(self, i, 1);
			bool counted = kinds[i].count == REPEAT || kinds[i].count == NO_ITEMS;

			put_be32(self->bytes + 8, hostile[n]);
			EXPECT_EQ(counted ? -EPROTO : 0,
				  control_get(self->bytes, length, &self->msg, &self->err))
			TH_LOG("%s repeated %u times", kinds[i].name, hostile[n]);
		}
	for (unsigned i = 0; i < KINDS; i++) {
		if (kinds[i].count != REPEAT)
			continue;
		put_be32(self->bytes, 0);
		put_be32(self->bytes + 4, kinds[i].kind);
		put_be32(self->bytes + 8, 0);
		EXPECT_EQ(-EPROTO,
			  control_get(self->bytes, CONTROL_HEADER, &self->msg, &self->err));
	}
}

/* More than a buffer has, with a length that is right */
TEST_F(control, too_long)
{
	uint32_t payload = CONTROL_PAYLOAD_MAX;

	control_put(self->bytes, CONTROL_STREAM, 1, payload);
	EXPECT_EQ(0, control_get(self->bytes, CONTROL_MSG_MAX, &self->msg, &self->err));
	EXPECT_EQ(payload, self->msg.length);
	put_be32(self->bytes, payload + 1);
	EXPECT_EQ(-EPROTO, control_get(self->bytes, CONTROL_MSG_MAX + 1, &self->msg, &self->err));
	/* items that would fit, and are more than anybody has */
	for (unsigned i = 0; i < KINDS; i++) {
		size_t length = control_put(self->bytes, kinds[i].kind, CONTROL_REPEAT_MAX + 1, 0);

		if (kinds[i].count == REPEAT || kinds[i].count == LENGTH)
			EXPECT_EQ(-EPROTO, control_get(self->bytes, length, &self->msg, &self->err))
		TH_LOG("%s", kinds[i].name);
	}
}

TEST_F(control, unknown_kinds)
{
	uint32_t kind = 0;

	for (unsigned bit = 0; bit <= 32; bit++) {
		put_be32(self->bytes, 0);
		put_be32(self->bytes + 4, kind);
		put_be32(self->bytes + 8, 1);
		EXPECT_EQ(-EPROTO, control_get(self->bytes, CONTROL_HEADER, &self->msg, &self->err))
		TH_LOG("kind %u", kind);
		kind = bit < 4 ? CONTROL_COUNT + bit : 1u << (bit - 1);
		if (kind < CONTROL_COUNT)
			kind = CONTROL_COUNT;
	}
	EXPECT_STREQ("?", control_name((enum control_kind)0));
	EXPECT_STREQ("?", control_name(CONTROL_COUNT));
}

TEST_F(control, what_qemu_said)
{
	unsigned count;
	struct vector *v = vectors_load("control", &count);

	ASSERT_EQ(KINDS, count);
	for (unsigned i = 0; i < count; i++) {
		ASSERT_EQ(0, control_get(v[i].bytes, v[i].length, &self->msg, &self->err))
		TH_LOG("%s: %s", v[i].name, self->err.text);
		EXPECT_STREQ(v[i].name, control_name(self->msg.kind));
		EXPECT_EQ(v[i].length, put_again(self, i));
		if (self->msg.kind == CONTROL_REGISTER_REQUEST) {
			EXPECT_NE(0, memcmp(v[i].bytes, self->again, v[i].length));
			put_be32(self->again + CONTROL_HEADER + 12, 0x11000000);
		}
		EXPECT_EQ(0, memcmp(v[i].bytes, self->again, v[i].length));
	}
	free(v);
}

TEST_F(control, items_have_their_fields)
{
	unsigned count;
	struct vector *v = vectors_load("control", &count);
	struct control_block block;
	struct control_zero zero;
	struct control_grant grant;
	struct control_ask ask;

	for (unsigned i = 0; i < count; i++) {
		control_get(v[i].bytes, v[i].length, &self->msg, &self->err);
		if (self->msg.kind == CONTROL_BLOCKS_RESULT) {
			ASSERT_EQ(6, self->msg.count);
			control_get_block(&self->msg, 2, &block);
			EXPECT_EQ(0x7f3418600000, block.host);
			EXPECT_EQ(0x2000000, block.start);
			EXPECT_EQ(0x40000, block.length);
			EXPECT_EQ(0x74c, block.rkey);
		} else if (self->msg.kind == CONTROL_ZERO) {
			control_get_zero(&self->msg, 0, &zero);
			EXPECT_EQ(0x138000, zero.address);
			EXPECT_EQ(0x34000, zero.length);
		} else if (self->msg.kind == CONTROL_REGISTER_REQUEST) {
			control_get_ask(&self->msg, 0, &ask);
			EXPECT_EQ(0x1000000, ask.address);
			EXPECT_EQ(0, ask.block);
			EXPECT_EQ(0, ask.chunks);
		} else if (self->msg.kind == CONTROL_UNREGISTER_REQUEST) {
			ASSERT_EQ(2, self->msg.count);
			control_get_ask(&self->msg, 1, &ask);
			EXPECT_EQ(4, ask.address);
			EXPECT_EQ(1, ask.block);
			EXPECT_EQ(1, ask.chunks);
		} else if (self->msg.kind == CONTROL_REGISTER_RESULT) {
			control_get_grant(&self->msg, 0, &grant);
			EXPECT_EQ(0x551, grant.rkey);
			EXPECT_EQ(0x7f14f9e00000, grant.host);
		}
	}
	free(v);
}

TEST_F(control, hello)
{
	struct control_hello hello = { CONTROL_VERSION, CONTROL_PIN_ALL, { 1, 2 } };
	uint8_t bytes[196] = { 0 };

	EXPECT_EQ(CONTROL_HELLO, control_put_hello(bytes, &hello));
	EXPECT_EQ(0, memcmp(bytes, "\0\0\0\1\0\0\0\1", CONTROL_HELLO));
	/* padded by whoever carried it */
	EXPECT_EQ(0, control_get_hello(bytes, sizeof(bytes), &hello, &self->err));
	EXPECT_EQ(CONTROL_PIN_ALL, hello.flags);
	EXPECT_EQ(0, hello.ticket.high | hello.ticket.low);
	EXPECT_EQ(-EPROTO, control_get_hello(NULL, sizeof(bytes), &hello, &self->err));
	for (size_t length = 0; length < CONTROL_HELLO; length++)
		EXPECT_EQ(-EPROTO, control_get_hello(bytes, length, &hello, &self->err));
	for (uint32_t version = 0; version < 4; version++) {
		put_be32(bytes, version);
		EXPECT_EQ(version == 1 ? 0 : -EPROTO,
			  control_get_hello(bytes, CONTROL_HELLO, &hello, &self->err));
	}
	EXPECT_STREQ("rdma: the peer speaks version 3, this is 1", self->err.text);
}

TEST_F(control, hello_with_a_ticket)
{
	const struct control_hello hello = { CONTROL_VERSION,
					     CONTROL_TICKET | CONTROL_SEVERAL,
					     { 0x0102030405060708, 0x090a0b0c0d0e0f10 } };
	uint8_t bytes[56] = { 0 };
	struct control_hello got;

	ASSERT_EQ(CONTROL_HELLO_MAX, control_put_hello(bytes, &hello));
	EXPECT_EQ(0, memcmp(bytes, "\0\0\0\1\204\0\0\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20",
			    CONTROL_HELLO_MAX));
	EXPECT_EQ(0, control_get_hello(bytes, sizeof(bytes), &got, &self->err));
	EXPECT_EQ(hello.flags, got.flags);
	EXPECT_EQ(hello.ticket.high, got.ticket.high);
	EXPECT_EQ(hello.ticket.low, got.ticket.low);
	for (size_t length = 0; length < CONTROL_HELLO_MAX; length++)
		EXPECT_EQ(-EPROTO, control_get_hello(bytes, length, &got, &self->err));
	EXPECT_STREQ("rdma: the peer speaks of a ticket, and shows none", self->err.text);
}

/* Eight of them at least; the largest of those that both ends have said */
TEST_F(control, chunks)
{
	static const struct {
		uint64_t bytes;
		uint32_t flags;
	} room[] = {
		{ 0, 0 },
		{ 32 * CONTROL_CHUNK - 1, 0 },
		{ 32 * CONTROL_CHUNK, CONTROL_CHUNK_4M },
		{ 128 * CONTROL_CHUNK - 1, CONTROL_CHUNK_4M },
		{ 128 * CONTROL_CHUNK, CONTROL_CHUNK_4M | CONTROL_CHUNK_16M },
		{ UINT64_MAX, CONTROL_CHUNK_4M | CONTROL_CHUNK_16M },
	};
	const struct control_hello hello = { CONTROL_VERSION,
					     CONTROL_CHUNK_4M | CONTROL_CHUNK_16M,
					     { 0 } };
	uint8_t bytes[CONTROL_HELLO];

	for (unsigned i = 0; i < sizeof(room) / sizeof(room[0]); i++)
		EXPECT_EQ(room[i].flags, control_chunk_flags(room[i].bytes));
	control_put_hello(bytes, &hello);
	EXPECT_EQ(0, memcmp(bytes, "\0\0\0\1\3\0\0\0", CONTROL_HELLO));
	EXPECT_EQ(24, control_chunk_bits(hello.flags));
	EXPECT_EQ(24, control_chunk_bits(CONTROL_CHUNK_16M));
	EXPECT_EQ(22, control_chunk_bits(CONTROL_CHUNK_4M));
	/* a QEMU's; and whatever else somebody says */
	EXPECT_EQ(20, control_chunk_bits(CONTROL_PIN_ALL));
	EXPECT_EQ(20, control_chunk_bits(~(CONTROL_CHUNK_4M | CONTROL_CHUNK_16M)));
}

TEST_HARNESS_MAIN
