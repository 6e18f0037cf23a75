/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/return_path.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"
#include "selftests/wire/vector.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

/* From the table: a message with random contents, and whether two are equal */
#define NOTHING
#define F(type, name) m->name = random_##type(random);
#define NAME(name) random_name(random, &m->name);
#define MSG(kind_, number, body, fields)                                     \
	static void random_##body(struct random *random, struct rp_msg *msg) \
	{                                                                    \
		__typeof__(msg->body) *m = &msg->body;                       \
                                                                             \
		(void)m;                                                     \
		(void)random;                                                \
		msg->kind = RP_##kind_;                                      \
		fields                                                       \
	}
#include "wire/return_path.def"
#undef MSG
#undef NAME
#undef F

#define F(type, name) equal &= a->name == b->name;
#define NAME(name)                                   \
	equal &= a->name.length == b->name.length && \
		 !memcmp(a->name.text, b->name.text, a->name.length + 1u);
#define MSG(kind_, number, body, fields)                                         \
	static bool equal_##body(const struct rp_msg *x, const struct rp_msg *y) \
	{                                                                        \
		const __typeof__(x->body) *a = &x->body, *b = &y->body;          \
		bool equal = x->kind == y->kind;                                 \
                                                                                 \
		(void)a;                                                         \
		(void)b;                                                         \
		fields return equal;                                             \
	}
#include "wire/return_path.def"
#undef MSG
#undef NAME
#undef F
#undef NOTHING

static const struct {
	enum rp_kind kind;
	const char *name;
	void (*random)(struct random *random, struct rp_msg *msg);
	bool (*equal)(const struct rp_msg *x, const struct rp_msg *y);
	bool named;
} kinds[] = {
#define F(type, name) || 0
#define NAME(name) || 1
#define NOTHING || 0
#define MSG(kind, number, body, fields) { RP_##kind, #kind, random_##body, equal_##body, 0 fields },
#include "wire/return_path.def"
#undef MSG
#undef NOTHING
#undef NAME
#undef F
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define ROUNDS 200u

FIXTURE(rp)
{
	struct random random;
	uint8_t bytes[65536 + RP_MSG_MAX];
	uint8_t again[RP_MSG_MAX];
	struct wh_err err;
	struct rp_msg out;
	struct rp_msg in;
	size_t length;
	size_t used;
};

FIXTURE_SETUP(rp)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(rp)
{
}

TEST_F(rp, every_kind_comes_back)
{
	unsigned i, round;

	for (i = 0; i < KINDS; i++)
		for (round = 0; round < ROUNDS; round++) {
			kinds[i].random(&self->random, &self->out);
			self->length = rp_put(self->bytes, &self->out);
			ASSERT_LE(self->length, RP_MSG_MAX);
			ASSERT_EQ(1, rp_get(self->bytes, self->length, &self->used, &self->in,
					    &self->err));
			ASSERT_EQ(self->length, self->used);
			ASSERT_TRUE(kinds[i].equal(&self->out, &self->in));
		}
}

TEST_F(rp, every_message_is_put_as_it_came)
{
	unsigned round, hits = 0, i;

	for (round = 0; round < 200000; round++) {
		put_be16(self->bytes, (uint16_t)random_below(&self->random, RP_COUNT + 1));
		put_be16(self->bytes + 2, (uint16_t)random_below(&self->random, 20));
		for (i = 4; i < 40; i++)
			self->bytes[i] = (uint8_t)(0x20 + random_below(&self->random, 8));
		self->bytes[4 + random_below(&self->random, 14)] = 1;
		if (rp_get(self->bytes, 40, &self->used, &self->in, &self->err) != 1)
			continue;
		hits++;
		ASSERT_EQ(self->used, rp_put(self->again, &self->in));
		ASSERT_EQ(0, memcmp(self->bytes, self->again, self->used));
	}
	ASSERT_GT(hits, 1000);
}

TEST_F(rp, a_strict_prefix_asks_for_more)
{
	unsigned i;
	size_t n;

	for (i = 0; i < KINDS; i++) {
		kinds[i].random(&self->random, &self->out);
		self->length = rp_put(self->bytes, &self->out);
		for (n = 0; n < self->length; n++) {
			uint8_t *copy = malloc(n ? n : 1); /* of that size: no byte behind it */

			memcpy(copy, self->bytes, n);
			ASSERT_EQ(0, rp_get(copy, n, &self->used, &self->in, &self->err));
			free(copy);
		}
	}
}

TEST_F(rp, every_other_length_is_an_error)
{
	unsigned i, length;

	for (i = 0; i < KINDS; i++) {
		memset(self->bytes, 'x', sizeof(self->bytes));
		kinds[i].random(&self->random, &self->out);
		self->length = rp_put(self->bytes, &self->out);
		for (length = 0; length < 65536; length++) {
			put_be16(self->bytes + 2, (uint16_t)length);
			memset(&self->err, 0, sizeof(self->err));
			if (length + RP_HEADER == self->length)
				continue;
			ASSERT_EQ(-EPROTO, rp_get(self->bytes, sizeof(self->bytes), &self->used,
						  &self->in, &self->err));
			ASSERT_EQ(-EPROTO, self->err.code);
			ASSERT_NE(NULL, strstr(self->err.text, kinds[i].name));
		}
	}
}

/* The name says that it goes on behind the payload: nothing there is read. */
TEST_F(rp, a_name_is_read_in_its_payload_only)
{
	unsigned i, length;

	for (i = 0; i < KINDS; i++) {
		kinds[i].random(&self->random, &self->out);
		self->length = rp_put(self->bytes, &self->out);
		for (length = 0; length + RP_HEADER < self->length; length++) {
			uint8_t *copy = malloc(RP_HEADER + length);

			memcpy(copy, self->bytes, RP_HEADER + length);
			put_be16(copy + 2, (uint16_t)length);
			ASSERT_EQ(-EPROTO, rp_get(copy, RP_HEADER + length, &self->used, &self->in,
						  &self->err));
			free(copy);
		}
	}
}

/* A length that no payload of the kind has is refused before the payload is there. */
TEST_F(rp, a_wrong_length_is_not_waited_for)
{
	unsigned i;

	for (i = 0; i < KINDS; i++) {
		put_be16(self->bytes, (uint16_t)kinds[i].kind);
		put_be16(self->bytes + 2, RP_PAYLOAD_MAX + 1);
		ASSERT_EQ(-EPROTO, rp_get(self->bytes, RP_HEADER, &self->used, &self->in, NULL));
	}
}

TEST_F(rp, unknown_kinds_are_refused)
{
	unsigned kind;

	for (kind = 0; kind < 65536; kind++) {
		if ((kind >= RP_SHUT && kind <= RP_SWITCHOVER_ACK) || kind == RP_WHERRY_HELLO)
			continue;
		put_be16(self->bytes, (uint16_t)kind);
		put_be16(self->bytes + 2, 4);
		ASSERT_EQ(-EPROTO, rp_get(self->bytes, 8, &self->used, &self->in, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "unknown kind"));
	}
}

TEST_F(rp, names_are_checked)
{
	unsigned i, byte;

	for (i = 0; i < KINDS; i++) {
		if (!kinds[i].named)
			continue;
		kinds[i].random(&self->random, &self->out);
		self->length = rp_put(self->bytes, &self->out);
		for (byte = 0; byte < 256; byte++) {
			/* of both kinds the name is the last field */
			self->bytes[self->length - 1] = (uint8_t)byte;
			ASSERT_EQ(byte < 0x20 || byte == 0x7f ? -EPROTO : 1,
				  rp_get(self->bytes, self->length, &self->used, &self->in,
					 &self->err));
		}
	}
	put_be16(self->bytes, RP_RECV_BITMAP);
	put_be16(self->bytes + 2, 2);
	self->bytes[4] = 0;
	ASSERT_EQ(-EPROTO, rp_get(self->bytes, 6, &self->used, &self->in, &self->err));
	ASSERT_STREQ("RECV_BITMAP: empty name", self->err.text);
}

TEST_F(rp, random_bytes_are_taken_or_refused)
{
	unsigned round, i;
	int ret;

	for (round = 0; round < 100000; round++) {
		size_t n = random_below(&self->random, 64);
		uint8_t *copy = malloc(n ? n : 1);

		for (i = 0; i < n; i++)
			copy[i] = (uint8_t)random_below(&self->random, i < 4 ? 8 : 256);
		ret = rp_get(copy, n, &self->used, &self->in, &self->err);
		ASSERT_TRUE(ret == 0 || ret == -EPROTO || (ret == 1 && self->used <= n));
		free(copy);
	}
}

TEST_F(rp, vectors)
{
	unsigned count, i;
	struct vector *v = vectors_load("return_path", &count);

	ASSERT_EQ(9, count);
	for (i = 0; i < count; i++) {
		if (!strcmp(v[i].name, "conversation"))
			continue;
		ASSERT_EQ(1, rp_get(v[i].bytes, v[i].length, &self->used, &self->in, &self->err));
		ASSERT_STREQ(v[i].name, rp_name(self->in.kind));
		ASSERT_EQ(self->used, rp_put(self->again, &self->in));
		ASSERT_EQ(0, memcmp(v[i].bytes, self->again, self->used));
		if (self->in.kind != RP_RECV_BITMAP)
			ASSERT_EQ(v[i].length, self->used);
	}
	free(v);
}

TEST_F(rp, the_numbers_are_the_wires)
{
	struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };

	msg.req_pages_id.start = 0x42000;
	msg.req_pages_id.length = 0x1000;
	wire_name_set(&msg.req_pages_id.block, "pc.ram");
	ASSERT_EQ(23, rp_put(self->bytes, &msg));
	ASSERT_EQ(0, memcmp(self->bytes, "\0\3\0\x13\0\0\0\0\0\4\x20\0\0\0\x10\0\6pc.ram", 23));
	msg.kind = RP_REQ_PAGES;
	ASSERT_EQ(16, rp_put(self->bytes, &msg));
	ASSERT_EQ(4, self->bytes[1]);
}

TEST(names)
{
	ASSERT_STREQ("SHUT", rp_name(RP_SHUT));
	ASSERT_STREQ("SWITCHOVER_ACK", rp_name(RP_SWITCHOVER_ACK));
	ASSERT_STREQ("?", rp_name(RP_COUNT));
	ASSERT_STREQ("?", rp_name((enum rp_kind)0));
}

TEST_HARNESS_MAIN
