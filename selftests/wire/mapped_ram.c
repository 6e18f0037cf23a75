/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/mapped_ram.h"

#include "base/bytes.h"
#include "wire/bitmap.h"
#include "wire/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define PAGE UINT64_C(4096)

/* The beginning of a file of QEMU 10.0: -M none -m 4M; the body of START is at 0x51 */
static const uint8_t qemu[] = "QEVM\0\0\0\3\7\0\0\0\4none"
			      "\5\x1a"
			      "configuration/capabilities\0\0\0\1\0\0\0\1\12mapped-ram"
			      "\1\0\0\0\1\3ram\0\0\0\0\0\0\0\4"
			      "\0\0\0\0\0\x40\0\4\3ram\0\0\0\0\0\x40\0\0"
			      "\0\0\0\1\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\x81\0\0\0\0\0\x10\0\0";
#define QEMU_LENGTH (sizeof(qemu) - 1)
#define BODY 0x51u

/* Where it put what, at other lengths: -M q35 -m 64M */
static const struct {
	uint64_t used, header_end, pages;
} laid[] = {
	{ 0x4000000, 0x8b, 0x100000 },	   { 0x20000, 0x4100039, 0x4200000 },
	{ 0x40000, 0x422002c, 0x4300000 }, { 0x20000, 0x434002b, 0x4400000 },
	{ 0x1000, 0x442003a, 0x4500000 },  { 0x1000, 0x4501037, 0x4600000 },
	{ 0x8000000, 0xff000, 0x100000 },  { 0x8008000, 0xff000, 0x200000 },
};

TEST(what_qemu_writes)
{
	struct ram_blocks blocks;
	struct mapped_block block;
	struct mapped_in in;
	struct wh_err err;
	size_t used;

	mapped_in_init(&in, BODY);
	ASSERT_EQ(1, mapped_in_next(&in, &blocks, qemu + BODY, QEMU_LENGTH - BODY, &used, &block,
				    &err));
	ASSERT_EQ(QEMU_LENGTH - BODY, used);
	ASSERT_EQ(1, blocks.count);
	ASSERT_STREQ("ram", blocks.block[0].name.text);
	ASSERT_EQ(0x400000, blocks.block[0].used);
	ASSERT_EQ(0, block.block);
	ASSERT_EQ(QEMU_LENGTH, block.header_end);
	ASSERT_EQ(0x81, block.bitmap);
	ASSERT_EQ(0x100000, block.pages);
	ASSERT_EQ(0x500000, block.end);
	ASSERT_EQ(0x500000, in.offset);
	ASSERT_TRUE(in.done);
}

TEST(laid_out_as_qemu_does)
{
	uint8_t bytes[MAPPED_RAM_HEADER];
	struct mapped_block block;

	for (size_t i = 0; i < sizeof(laid) / sizeof(laid[0]); i++) {
		mapped_block_lay(&block, laid[i].header_end, laid[i].used);
		ASSERT_EQ(laid[i].header_end, block.bitmap);
		ASSERT_EQ(laid[i].pages, block.pages);
		ASSERT_EQ(laid[i].pages + laid[i].used, block.end);
	}
	mapped_block_lay(&block, QEMU_LENGTH, 0x400000);
	ASSERT_EQ(sizeof(bytes), mapped_block_put(bytes, &block));
	ASSERT_EQ(0, memcmp(bytes, qemu + QEMU_LENGTH - sizeof(bytes), sizeof(bytes)));
}

/* Several blocks, in pieces of each size: whatever is too short is asked for */
TEST(pieces)
{
	static const uint64_t lengths[] = { 3 * PAGE, 0x400000, PAGE };
	uint8_t bytes[1024];
	struct mapped_block put[3];
	size_t length = 8, begin[3];
	uint64_t total = 0, offset = 0x1234 + 8;

	for (unsigned i = 0; i < 3; i++) {
		struct wire_name name;
		char text[] = "block-0";

		text[6] = (char)('0' + i);
		wire_name_set(&name, text);
		begin[i] = length;
		length += wire_name_put(bytes + length, &name);
		put_be64(bytes + length, lengths[i]);
		length += 8;
		mapped_block_lay(&put[i], offset + 8 + 8 + MAPPED_RAM_HEADER, lengths[i]);
		length += mapped_block_put(bytes + length, &put[i]);
		offset = put[i].end;
		total += lengths[i];
	}
	put_be64(bytes, total | RAM_MEM_SIZE);
	for (size_t piece = 1; piece <= length; piece++) {
		struct ram_blocks blocks;
		struct mapped_block block;
		struct mapped_in in;
		struct wh_err err;
		size_t at = 0, have = 0;
		unsigned n = 0;

		mapped_in_init(&in, 0x1234);
		while (!in.done) {
			uint8_t *copy = malloc(have - at + 1);
			size_t used;
			int ret;

			memcpy(copy, bytes + at, have - at);
			ret = mapped_in_next(&in, &blocks, copy, have - at, &used, &block, &err);
			free(copy);
			ASSERT_LE(0, ret);
			at += used;
			if (!ret) {
				ASSERT_GT(in.need, have - at);
				ASSERT_LE(in.need, MAPPED_IN_NEED_MAX);
				have = have + piece < length ? have + piece : length;
				continue;
			}
			ASSERT_EQ(at, n < 2 ? begin[n + 1] : length);
			ASSERT_EQ(n, block.block);
			ASSERT_EQ(put[n].bitmap, block.bitmap);
			ASSERT_EQ(put[n].end, block.end);
			n++;
		}
		ASSERT_EQ(3, n);
		ASSERT_EQ(length, at);
	}
}

TEST(refused)
{
	static const struct {
		size_t at;
		unsigned width;
		uint64_t value;
		const char *expect;
	} bad[] = {
		{ 0, 8, 0x400010, "expected a block list" },
		{ 0, 8, 0x400008, "expected a block list" },
		{ 0, 8, 0x000004, "expected a block list" },
		{ 0, 8, 0x3ff004, "of the total 0x3ff000 are left" },
		{ 8, 1, 0, "empty name" },
		{ 9, 1, 0x1b, "byte 0x1b in a name" },
		{ 12, 8, 0, "expected whole pages" },
		{ 12, 8, 0x1fff, "expected whole pages" },
		{ 12, 8, -PAGE, "of the total" },
		{ 20, 4, 0, "mapped-ram of version 0, expected 1" },
		{ 20, 4, 2, "mapped-ram of version 2" },
		{ 24, 8, 8192, "pages of 0x2000, expected 0x1000" },
		{ 24, 8, 0, "pages of 0x0" },
		{ 32, 8, 0x80, "bitmap at 0x80 of the file, its header ends at 0x81" },
		{ 32, 8, 0, "bitmap at 0x0 of the file" },
		{ 32, 8, UINT64_MAX, "bitmap at 0xffffffffffffffff" },
		{ 32, 8, 0x100000, "its bitmap is 0x80 bytes at 0x100000" },
		{ 32, 8, 0xfff81, "its bitmap is 0x80 bytes at 0xfff81" },
		{ 40, 8, 0x100001, "expected whole MiB" },
		{ 40, 8, 0x180000, "expected whole MiB" },
		{ 40, 8, 0, "its bitmap is 0x80 bytes at 0x81" },
		{ 40, 8, UINT64_C(0xfffffffffff00000), "0x400000 bytes of pages at" },
		{ 40, 8, UINT64_C(0x7fffffffffd00000), "0x400000 bytes of pages at" },
	};
	uint8_t bytes[QEMU_LENGTH];
	struct ram_blocks blocks;
	struct mapped_block block;
	struct mapped_in in;
	struct wh_err err;
	size_t used;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memcpy(bytes, qemu, sizeof(bytes));
		for (unsigned k = 0; k < bad[i].width; k++)
			bytes[BODY + bad[i].at + k] =
				(uint8_t)(bad[i].value >> 8 * (bad[i].width - 1 - k));
		memset(&err, 0, sizeof(err));
		mapped_in_init(&in, BODY);
		ASSERT_EQ(-EPROTO, mapped_in_next(&in, &blocks, bytes + BODY, QEMU_LENGTH - BODY,
						  &used, &block, &err))
		{
			TH_LOG("%zu: %s", i, bad[i].expect);
		}
		ASSERT_NE(NULL, strstr(err.text, bad[i].expect))
		{
			TH_LOG("%s: %s", bad[i].expect, err.text);
		}
	}
}

/* The next line begins behind the pages; one that says that its pages are in front of it lies. */
TEST(regions_do_not_overlap)
{
	uint8_t bytes[200];
	struct ram_blocks blocks;
	struct mapped_block block;
	struct mapped_in in;
	struct wh_err err = { 0 };
	size_t length, used, all;

	memcpy(bytes, qemu + BODY, QEMU_LENGTH - BODY);
	length = QEMU_LENGTH - BODY;
	put_be64(bytes, 0x800000 | RAM_MEM_SIZE);
	memcpy(bytes + length, bytes + 8, length - 8);
	all = length + length - 8;
	mapped_in_init(&in, BODY);
	ASSERT_EQ(1, mapped_in_next(&in, &blocks, bytes, all, &used, &block, &err));
	ASSERT_EQ(length, used);
	ASSERT_EQ(-EPROTO,
		  mapped_in_next(&in, &blocks, bytes + used, all - used, &used, &block, &err));
	ASSERT_NE(NULL, strstr(err.text, "block list has ram twice"));
	memcpy(bytes + length + 1, "rom", 3);
	mapped_in_init(&in, BODY);
	ASSERT_EQ(1, mapped_in_next(&in, &blocks, bytes, all, &used, &block, &err));
	ASSERT_EQ(-EPROTO,
		  mapped_in_next(&in, &blocks, bytes + used, all - used, &used, &block, &err));
	ASSERT_NE(NULL, strstr(err.text, "block rom: bitmap at 0x81 of the file, its header ends "
					 "at 0x500028"));
}

TEST(blocks_are_counted)
{
	static struct ram_blocks blocks;
	struct mapped_block block;
	struct mapped_in in;
	struct wh_err err = { 0 };
	uint8_t bytes[64];
	size_t used;
	int ret = 1;

	mapped_in_init(&in, 0);
	put_be64(bytes, 1000 * PAGE | RAM_MEM_SIZE);
	ASSERT_EQ(0, mapped_in_next(&in, &blocks, bytes, 8, &used, &block, &err));
	ASSERT_EQ(8, used);
	for (unsigned i = 0; ret == 1; i++) {
		ASSERT_GE(RAM_BLOCKS_MAX, i);
		bytes[0] = 3;
		snprintf((char *)bytes + 1, 4, "%03u", i);
		put_be64(bytes + 4, PAGE);
		mapped_block_lay(&block, in.offset + 12 + MAPPED_RAM_HEADER, PAGE);
		mapped_block_put(bytes + 12, &block);
		ret = mapped_in_next(&in, &blocks, bytes, 40, &used, &block, &err);
	}
	ASSERT_EQ(-EPROTO, ret);
	ASSERT_STREQ("block list has more than 256 blocks", err.text);
}

/* The decoder of the stream knows that it has to step aside, and only in a file. */
TEST(in_a_stream)
{
	static struct stream_in in;
	struct stream_event event;
	struct wh_err err = { 0 };
	size_t at = 0, used;

	stream_in_init(&in, false);
	stream_in_file(&in, 0x1000);
	do {
		ASSERT_EQ(1, stream_in_next(&in, qemu + at, QEMU_LENGTH - at, &used, &event, &err));
		at += used;
	} while (event.kind != STREAM_SECTION);
	ASSERT_EQ(BODY, at);
	ASSERT_EQ(0x1000 + BODY, in.offset);
	ASSERT_TRUE(in.mapped_ram);
	in.blocks.count = 1;
	wire_name_set(&in.blocks.block[0].name, "ram");
	in.blocks.block[0].used = 0x400000;
	stream_in_listed(&in, 0x500000);
	ASSERT_EQ(1, stream_in_next(&in, (const uint8_t *)"\0\0\0\0\0\0\0\x10", 8, &used, &event,
				    &err));
	ASSERT_EQ(RAM_GOT_EOS, event.ram.record);
	ASSERT_EQ(0x500008, in.offset);

	stream_in_init(&in, false);
	at = 0;
	do {
		int ret = stream_in_next(&in, qemu + at, QEMU_LENGTH - at, &used, &event, &err);

		at += used;
		if (ret == 1)
			continue;
		ASSERT_EQ(-EPROTO, ret);
		break;
	} while (true);
	ASSERT_NE(NULL, strstr(err.text, "capability mapped-ram, which is for files only"));
}

TEST_HARNESS_MAIN
