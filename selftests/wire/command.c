/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/command.h"

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
#define RANGES                          \
	random_name(random, &m->block); \
	m->count = 1 + (uint32_t)random_below(random, CMD_DISCARD_RANGES);
#define MSG(kind_, number, body, fields)                                      \
	static void random_##body(struct random *random, struct cmd_msg *msg) \
	{                                                                     \
		__typeof__(msg->body) *m = &msg->body;                        \
                                                                              \
		(void)m;                                                      \
		(void)random;                                                 \
		msg->kind = CMD_##kind_;                                      \
		fields                                                        \
	}
#include "wire/command.def"
#undef MSG
#undef RANGES
#undef NAME
#undef F

#define F(type, name) equal &= a->name == b->name;
#define NAME(name)                                   \
	equal &= a->name.length == b->name.length && \
		 !memcmp(a->name.text, b->name.text, a->name.length + 1u);
#define RANGES NAME(block) F(u32, count)
#define MSG(kind_, number, body, fields)                                           \
	static bool equal_##body(const struct cmd_msg *x, const struct cmd_msg *y) \
	{                                                                          \
		const __typeof__(x->body) *a = &x->body, *b = &y->body;            \
		bool equal = x->kind == y->kind && x->empty == y->empty;           \
                                                                                   \
		(void)a;                                                           \
		(void)b;                                                           \
		fields return equal;                                               \
	}
#include "wire/command.def"
#undef MSG
#undef RANGES
#undef NAME
#undef F
#undef NOTHING

static const struct {
	enum cmd_kind kind;
	const char *name;
	void (*random)(struct random *random, struct cmd_msg *msg);
	bool (*equal)(const struct cmd_msg *x, const struct cmd_msg *y);
} kinds[] = {
#define MSG(kind, number, body, fields) { CMD_##kind, #kind, random_##body, equal_##body },
#include "wire/command.def"
#undef MSG
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define ROUNDS 200u

FIXTURE(cmd)
{
	struct random random;
	uint8_t bytes[CMD_HEADER + 2 * 65536];
	uint8_t again[CMD_PUT_MAX];
	struct wire_range range[CMD_DISCARD_RANGES];
	struct wh_err err;
	struct cmd_msg out;
	struct cmd_msg in;
	size_t length;
	size_t used;
};

FIXTURE_SETUP(cmd)
{
	unsigned i;

	memset(self, 0, sizeof(*self));
	for (i = 0; i < CMD_DISCARD_RANGES; i++) {
		self->range[i].start = random_u64(&self->random);
		self->range[i].length = random_u64(&self->random);
	}
}

FIXTURE_TEARDOWN(cmd)
{
}

/* Puts a random message of the kind; its ranges are the fixture's */
static void put_random(FIXTURE_DATA(cmd) *self, unsigned kind)
{
	memset(&self->out, 0, sizeof(self->out));
	kinds[kind].random(&self->random, &self->out);
	self->length = cmd_put(self->bytes, &self->out,
			       self->out.kind == CMD_POSTCOPY_RAM_DISCARD ? self->range : NULL);
}

static bool ranges_equal(const struct wire_range *range, const struct cmd_msg *msg)
{
	uint32_t i;

	for (i = 0; i < msg->discard.count; i++)
		if (cmd_range(msg, i).start != range[i].start ||
		    cmd_range(msg, i).length != range[i].length)
			return false;
	return true;
}

TEST_F(cmd, every_kind_comes_back)
{
	unsigned i, round;

	for (i = 0; i < KINDS; i++)
		for (round = 0; round < ROUNDS; round++) {
			put_random(self, i);
			ASSERT_LE(self->length, CMD_PUT_MAX);
			ASSERT_EQ(1, cmd_get(self->bytes, self->length, &self->used, &self->in,
					     &self->err));
			ASSERT_EQ(self->length, self->used);
			ASSERT_TRUE(kinds[i].equal(&self->out, &self->in));
			if (self->in.kind == CMD_POSTCOPY_RAM_DISCARD)
				ASSERT_TRUE(ranges_equal(self->range, &self->in));
		}
}

TEST_F(cmd, an_empty_advise_comes_back)
{
	self->out.kind = CMD_POSTCOPY_ADVISE;
	self->out.empty = true;
	self->length = cmd_put(self->bytes, &self->out, NULL);
	ASSERT_EQ(CMD_HEADER, self->length);
	self->in.advise.page_sizes = 7;
	ASSERT_EQ(1, cmd_get(self->bytes, self->length, &self->used, &self->in, &self->err));
	ASSERT_TRUE(self->in.empty);
	ASSERT_EQ(0, self->in.advise.page_sizes);
	ASSERT_EQ(0, self->in.advise.target_page);
}

TEST_F(cmd, every_message_is_put_as_it_came)
{
	struct wire_range range[CMD_DISCARD_RANGES];
	unsigned round, hits = 0, i;

	for (round = 0; round < 200000; round++) {
		self->bytes[0] = 8;
		put_be16(self->bytes + 1, (uint16_t)random_below(&self->random, CMD_COUNT + 1));
		put_be16(self->bytes + 3, (uint16_t)random_below(&self->random, 40));
		for (i = 5; i < 60; i++)
			self->bytes[i] = (uint8_t)(0x20 + random_below(&self->random, 8));
		self->bytes[5] = (uint8_t)random_below(&self->random, 3);
		self->bytes[6] = (uint8_t)random_below(&self->random, 3);
		self->bytes[7 + self->bytes[6]] = 0;
		if (cmd_get(self->bytes, 60, &self->used, &self->in, &self->err) != 1)
			continue;
		hits++;
		for (i = 0; self->in.kind == CMD_POSTCOPY_RAM_DISCARD && i < self->in.discard.count;
		     i++)
			range[i] = cmd_range(&self->in, i);
		ASSERT_EQ(self->used, cmd_put(self->again, &self->in, range));
		ASSERT_EQ(0, memcmp(self->bytes, self->again, self->used));
	}
	ASSERT_GT(hits, 1000);
}

TEST_F(cmd, a_strict_prefix_asks_for_the_rest)
{
	unsigned i;
	size_t n;

	for (i = 0; i < KINDS; i++) {
		put_random(self, i);
		for (n = 0; n < self->length; n++) {
			uint8_t *copy = malloc(n ? n : 1); /* of that size: no byte behind it */

			memcpy(copy, self->bytes, n);
			ASSERT_EQ(0, cmd_get(copy, n, &self->used, &self->in, &self->err));
			ASSERT_EQ(n < CMD_HEADER ? CMD_HEADER : self->length, self->used);
			free(copy);
		}
	}
}

TEST_F(cmd, every_other_length_is_an_error)
{
	unsigned i, length;

	for (i = 0; i < KINDS; i++) {
		memset(self->bytes, 'x', sizeof(self->bytes));
		put_random(self, i);
		for (length = 0; length < 65536; length++) {
			bool pairs = kinds[i].kind == CMD_POSTCOPY_RAM_DISCARD &&
				     length >= 3u + 16 + self->out.discard.block.length &&
				     (length - 3u - self->out.discard.block.length) % 16 == 0;
			bool empty = kinds[i].kind == CMD_POSTCOPY_ADVISE && !length;

			put_be16(self->bytes + 3, (uint16_t)length);
			memset(&self->err, 0, sizeof(self->err));
			if (length + CMD_HEADER == self->length || pairs || empty) {
				ASSERT_EQ(1, cmd_get(self->bytes, sizeof(self->bytes), &self->used,
						     &self->in, &self->err));
				continue;
			}
			ASSERT_EQ(-EPROTO, cmd_get(self->bytes, sizeof(self->bytes), &self->used,
						   &self->in, &self->err));
			ASSERT_EQ(-EPROTO, self->err.code);
			ASSERT_NE(NULL, strstr(self->err.text, kinds[i].name));
		}
	}
}

TEST_F(cmd, a_wrong_length_is_not_waited_for)
{
	unsigned i;

	for (i = 0; i < KINDS; i++) {
		if (kinds[i].kind == CMD_POSTCOPY_RAM_DISCARD)
			continue;
		self->bytes[0] = 8;
		put_be16(self->bytes + 1, (uint16_t)kinds[i].kind);
		put_be16(self->bytes + 3, 257);
		ASSERT_EQ(-EPROTO, cmd_get(self->bytes, CMD_HEADER, &self->used, &self->in, NULL));
	}
}

TEST_F(cmd, the_largest_discard)
{
	size_t length = 2u + 1 + 1 + 16 * CMD_RANGES_MAX;
	uint8_t *at = self->bytes + CMD_HEADER;

	self->bytes[0] = 8;
	put_be16(self->bytes + 1, CMD_POSTCOPY_RAM_DISCARD);
	ASSERT_LE(length, 65535);
	ASSERT_GT(length + 16, 65535);
	put_be16(self->bytes + 3, (uint16_t)length);
	memcpy(at, "\0\1r\0", 4);
	put_be64(at + 4 + 16 * (CMD_RANGES_MAX - 1), 0x123456789a000);
	ASSERT_EQ(0, cmd_get(self->bytes, CMD_HEADER + length - 1, &self->used, &self->in,
			     &self->err));
	ASSERT_EQ(CMD_HEADER + length, self->used);
	ASSERT_EQ(1, cmd_get(self->bytes, CMD_HEADER + length, &self->used, &self->in, &self->err));
	ASSERT_EQ(CMD_RANGES_MAX, self->in.discard.count);
	ASSERT_EQ(0x123456789a000, cmd_range(&self->in, CMD_RANGES_MAX - 1).start);
}

TEST_F(cmd, discards_are_checked)
{
	static const struct {
		const char *payload;
		uint16_t length;
		const char *expect;
	} bad[] = {
		{ "\1\1r\0"
		  "0123456701234567",
		  20, "version 1" },
		{ "\0\1r\1"
		  "0123456701234567",
		  20, "0x01 behind the block's name" },
		{ "\0\0\0"
		  "0123456701234567x",
		  20, "empty name" },
		{ "\0\1\n\0"
		  "0123456701234567",
		  20, "byte 0x0a in a name" },
		{ "\0\1r\0"
		  "01234567012345678",
		  21, "pairs" },
		{ "\0\2rr\0"
		  "012345670123456",
		  20, "pairs" },
		{ "\0\1r\0"
		  "012345670123456",
		  19, "expected 20" },
		{ "\0\x13"
		  "aaaaaaaaaaaaaaaaaaa",
		  20, "not where its name ends" },
		{ "\0\x12"
		  "aaaaaaaaaaaaaaaaaa",
		  20, "not where its name ends" },
		{ "\0\x11"
		  "aaaaaaaaaaaaaaaaa\0",
		  20, "pairs" },
		{ "\0\xff"
		  "aaaaaaaaaaaaaaaaaa",
		  20, "not where its name ends" },
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(self->bytes, 'z', 64);
		memcpy(self->bytes, "\10\0\6", 3);
		put_be16(self->bytes + 3, bad[i].length);
		memcpy(self->bytes + 5, bad[i].payload, bad[i].length);
		ASSERT_EQ(-EPROTO, cmd_get(self->bytes, 64, &self->used, &self->in, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, bad[i].expect))
		{
			TH_LOG("%u: %s", i, self->err.text);
		}
	}
}

TEST_F(cmd, unknown_kinds_are_refused)
{
	unsigned kind;

	self->bytes[0] = 8;
	for (kind = 0; kind < 65536; kind++) {
		if ((kind >= CMD_OPEN_RETURN_PATH && kind <= CMD_SWITCHOVER_START) ||
		    (kind >= CMD_WHERRY_ID && kind <= CMD_WHERRY_PROOF))
			continue;
		put_be16(self->bytes + 1, (uint16_t)kind);
		ASSERT_EQ(-EPROTO, cmd_get(self->bytes, 5, &self->used, &self->in, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "unknown kind"));
	}
}

TEST_F(cmd, begins_with_its_section_type)
{
	memcpy(self->bytes, "\7\0\1\0\0", 5);
	ASSERT_EQ(-EPROTO, cmd_get(self->bytes, 5, &self->used, &self->in, &self->err));
}

TEST_F(cmd, vectors)
{
	struct wire_range range[2];
	unsigned count, i;
	struct vector *v = vectors_load("command", &count);

	ASSERT_EQ(KINDS + 1, count);
	for (i = 0; i < count; i++) {
		ASSERT_EQ(1, cmd_get(v[i].bytes, v[i].length, &self->used, &self->in, &self->err));
		ASSERT_EQ(v[i].length, self->used);
		ASSERT_EQ(0, strncmp(v[i].name, cmd_name(self->in.kind),
				     strlen(cmd_name(self->in.kind))));
		ASSERT_EQ(!strcmp(v[i].name, "POSTCOPY_ADVISE-empty"), self->in.empty);
		if (self->in.kind == CMD_POSTCOPY_RAM_DISCARD) {
			ASSERT_EQ(2, self->in.discard.count);
			range[0] = cmd_range(&self->in, 0);
			range[1] = cmd_range(&self->in, 1);
			ASSERT_EQ(0x6000, range[0].start);
			ASSERT_EQ(0x20fa000, range[0].length);
			ASSERT_EQ(0x100000000, range[1].start);
			ASSERT_EQ(0x1000, range[1].length);
		}
		ASSERT_EQ(v[i].length, cmd_put(self->again, &self->in, range));
		ASSERT_EQ(0, memcmp(v[i].bytes, self->again, v[i].length));
	}
	free(v);
}

TEST(names)
{
	ASSERT_STREQ("OPEN_RETURN_PATH", cmd_name(CMD_OPEN_RETURN_PATH));
	ASSERT_STREQ("SWITCHOVER_START", cmd_name(CMD_SWITCHOVER_START));
	ASSERT_STREQ("?", cmd_name(CMD_COUNT));
	ASSERT_STREQ("?", cmd_name((enum cmd_kind)0));
}

TEST_HARNESS_MAIN
