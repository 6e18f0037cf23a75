/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/checkpoint.h"

#include "base/bytes.h"

#define XXH_INLINE_ALL
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kselftest_harness.h"

static enum cp_from sides[CP_KIND_COUNT] = {
#define MSG(kind, number, body, fields, from) [number] = CP_FROM_##from,
#include "wire/checkpoint.def"
#undef MSG
};

/* One whose fields are all something else; its bytes */
static size_t some_message(enum cp_kind kind, uint8_t *buf)
{
	struct cp_header header = { .kind = kind,
				    .generation = 0x1122334455667788,
				    .epoch = ~7ull };
	struct cp_msg msg;
	uint8_t *bytes = (uint8_t *)&msg;

	for (size_t i = 0; i < sizeof(msg); i++)
		bytes[i] = (uint8_t)('a' + i % 26);
	wire_name_set(kind == CP_BLOCK ? &msg.block.name :
		      kind == CP_NACK  ? &msg.nack.reason :
					 &msg.degrade.reason,
		      "some words");
	header.length = CP_ENTRY * 3;
	return cp_put(buf, &header, &msg);
}

static enum cp_from side_of(enum cp_kind kind)
{
	return sides[kind] & CP_FROM_SOURCE ? CP_FROM_SOURCE : CP_FROM_DEST;
}

/* After a change that is meant to be seen behind the checksum */
static void sign_again(uint8_t *buf)
{
	put_be32(buf + 28, XXH32(buf, 28, 0));
}

TEST(every_kind_and_every_length)
{
	uint8_t buf[CP_MSG_MAX], again[CP_MSG_MAX];
	struct wh_err err = { 0 };
	struct cp_header header;
	struct cp_msg msg;

	for (enum cp_kind kind = 1; kind < CP_KIND_COUNT; kind++) {
		size_t length = some_message(kind, buf);

		ASSERT_EQ(0, cp_header_get(buf, side_of(kind), &header, &err))
		TH_LOG("%s: %s", cp_name(kind), err.text);
		EXPECT_EQ(kind, header.kind);
		EXPECT_EQ(0x1122334455667788u, header.generation);
		EXPECT_EQ(~7ull, header.epoch);
		EXPECT_NE('?', cp_name(kind)[0]);
		if (cp_has_bytes(kind)) {
			EXPECT_EQ(CP_HEADER, length);
			EXPECT_EQ(CP_ENTRY * 3, header.length);
			continue;
		}
		EXPECT_EQ(length, CP_HEADER + header.length);
		ASSERT_EQ(0, cp_get(&header, buf + CP_HEADER, &msg, &err))
		TH_LOG("%s: %s", cp_name(kind), err.text);
		EXPECT_EQ(length, cp_put(again, &header, &msg));
		EXPECT_EQ(0, memcmp(buf, again, length)) TH_LOG("%s", cp_name(kind));
		/* any other length, that the header says or only cp_get() can see */
		for (uint32_t said = 0; said <= header.length + 1; said++) {
			struct cp_header lying = header;
			int ret;

			if (said == header.length)
				continue;
			memcpy(again, buf, length);
			again[length] = 0;
			put_be32(again + 24, said);
			sign_again(again);
			ret = cp_header_get(again, side_of(kind), &lying, &err);
			if (!ret)
				ret = cp_get(&lying, again + CP_HEADER, &msg, &err);
			EXPECT_EQ(-EPROTO, ret) TH_LOG("%s of %u bytes", cp_name(kind), said);
			EXPECT_NE(NULL, strstr(err.text, cp_name(kind)));
		}
	}
}

TEST(lengths_of_bytes)
{
	static const struct {
		enum cp_kind kind;
		uint32_t length;
		int ret;
	} cases[] = {
		{ CP_META, 0, -EPROTO },
		{ CP_META, CP_ENTRY, 0 },
		{ CP_META, CP_ENTRY + 1, -EPROTO },
		{ CP_META, 4096 * CP_ENTRY, 0 },
		{ CP_META, 4097 * CP_ENTRY, -EPROTO },
		{ CP_PAGES, 0, -EPROTO },
		{ CP_PAGES, 1, 0 },
		{ CP_PAGES, 1 << 20, 0 },
		{ CP_PAGES, (1 << 20) + 1, -EPROTO },
		{ CP_DEVICE, UINT32_MAX, -EPROTO },
	};
	struct wh_err err = { 0 };
	uint8_t buf[CP_MSG_MAX];

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cp_header header;

		some_message(cases[i].kind, buf);
		put_be32(buf + 24, cases[i].length);
		sign_again(buf);
		EXPECT_EQ(cases[i].ret, cp_header_get(buf, CP_FROM_SOURCE, &header, &err))
		TH_LOG("%s of %u", cp_name(cases[i].kind), cases[i].length);
	}
}

TEST(headers_of_strangers)
{
	static const struct {
		unsigned at;
		uint8_t value;
		const char *says;
	} cases[] = {
		{ 0, 0, "not a message" },
		{ 4, 0, "version 0" },
		{ 4, 2, "version 2" },
		{ 5, 0, "unknown kind 0" },
		{ 5, CP_KIND_COUNT, "unknown kind" },
		{ 5, 255, "unknown kind 255" },
		{ 6, 1, "unknown flags" },
		{ 7, 1, "unknown flags" },
		{ 5, CP_ACK, "wrong side" },
	};
	struct wh_err err = { 0 };
	struct cp_header header;
	uint8_t buf[CP_MSG_MAX];

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		some_message(CP_BYE, buf);
		buf[cases[i].at] = cases[i].value;
		sign_again(buf);
		EXPECT_EQ(-EPROTO, cp_header_get(buf, CP_FROM_SOURCE, &header, &err));
		EXPECT_NE(NULL, strstr(err.text, cases[i].says)) TH_LOG("%s", err.text);
	}
	/* both sides have a pulse */
	some_message(CP_HEARTBEAT, buf);
	EXPECT_EQ(0, cp_header_get(buf, CP_FROM_SOURCE, &header, &err));
	EXPECT_EQ(0, cp_header_get(buf, CP_FROM_DEST, &header, &err));
}

TEST(no_bit_of_a_header_can_change)
{
	struct wh_err err = { 0 };
	struct cp_header header;
	uint8_t buf[CP_MSG_MAX];

	some_message(CP_COMMIT, buf);
	for (unsigned bit = 0; bit < CP_HEADER * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		EXPECT_EQ(-EPROTO, cp_header_get(buf, CP_FROM_SOURCE, &header, &err))
		TH_LOG("bit %u", bit);
		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	EXPECT_EQ(0, cp_header_get(buf, CP_FROM_SOURCE, &header, &err));
}

/* The bytes themselves: what is on the wire today has to be read tomorrow */
TEST(golden)
{
	static const uint8_t ack[CP_HEADER] = { 'W', 'H', 'C', 'P', 1,	  CP_ACK, 0,	0,
						0,   0,	  0,   0,   0,	  0,	  0,	3,
						0,   0,	  0,   0,   0,	  0,	  0,	9,
						0,   0,	  0,   0,   0x21, 0x0e,	  0x3a, 0x77 };
	static const uint8_t run[CP_ENTRY] = { 0, 5, CP_XBZRLE, 0, 0, 0, 0, 1, 0,    0,
					       0, 0, 0,		0, 2, 1, 0, 0, 0x12, 0x34 };
	struct cp_header header = { .kind = CP_ACK, .generation = 3, .epoch = 9 };
	const struct cp_entry entry = {
		.block = 5, .content = CP_XBZRLE, .pages = 1, .first = 0x201, .bytes = 0x1234
	};
	uint8_t buf[CP_MSG_MAX];
	struct cp_msg msg = { 0 };

	EXPECT_EQ(sizeof(ack), cp_put(buf, &header, &msg));
	EXPECT_EQ(0, memcmp(ack, buf, sizeof(ack)))
	TH_LOG("%02x %02x %02x %02x", buf[28], buf[29], buf[30], buf[31]);
	cp_entry_put(buf, &entry);
	EXPECT_EQ(0, memcmp(run, buf, sizeof(run)));
}

TEST(entries)
{
	const struct cp_entry entry = {
		.block = 65535, .content = CP_ZSTD, .pages = ~0u, .first = ~0ull, .bytes = ~0u
	};
	struct wh_err err = { 0 };
	uint8_t buf[CP_ENTRY];
	struct cp_entry got;

	cp_entry_put(buf, &entry);
	EXPECT_EQ(0, cp_entry_get(buf, &got, &err));
	EXPECT_EQ(entry.block, got.block);
	EXPECT_EQ(entry.content, got.content);
	EXPECT_EQ(entry.pages, got.pages);
	EXPECT_EQ(entry.first, got.first);
	EXPECT_EQ(entry.bytes, got.bytes);
	buf[2] = CP_CONTENT_COUNT;
	EXPECT_EQ(-EPROTO, cp_entry_get(buf, &got, &err));
	buf[2] = CP_PLAIN;
	buf[3] = 1;
	EXPECT_EQ(-EPROTO, cp_entry_get(buf, &got, &err));
	buf[3] = 0;
	put_be32(buf + 4, 0);
	EXPECT_EQ(-EPROTO, cp_entry_get(buf, &got, &err));
}

/* In pieces or whole: the same; and what is known of XXH3 of nothing */
TEST(hash_of_an_epoch)
{
	uint8_t bytes[5000];
	struct cp_hash whole, pieces;

	cp_hash_begin(&whole);
	EXPECT_EQ(0x2d06800538d394c2u, cp_hash_end(&whole));
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	cp_hash_add(&whole, bytes, sizeof(bytes));
	cp_hash_begin(&pieces);
	for (unsigned at = 0, n; at < sizeof(bytes); at += n) {
		n = at % 613 + 1;
		if (n > sizeof(bytes) - at)
			n = (unsigned)sizeof(bytes) - at;
		cp_hash_add(&pieces, bytes + at, n);
	}
	EXPECT_EQ(cp_hash_end(&whole), cp_hash_end(&pieces));
	bytes[0] ^= 1;
	cp_hash_begin(&pieces);
	cp_hash_add(&pieces, bytes, sizeof(bytes));
	EXPECT_NE(cp_hash_end(&whole), cp_hash_end(&pieces));
}

TEST_HARNESS_MAIN
