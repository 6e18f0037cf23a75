/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/ram_fixture.h"

#include "kselftest_harness.h"

/* What a decoder of wire/ram.c does not take, and how it says so */

TEST_F(ram, the_list_is_refused)
{
	static const struct {
		uint64_t total;
		const char *name[2];
		uint64_t used[2];
		const char *expect;
	} bad[] = {
		{ PAGE, { "a" }, { 0 }, "block a has 0x0 bytes" },
		{ PAGE, { "a" }, { 1 }, "whole pages" },
		{ PAGE, { "a" }, { PAGE - 1 }, "whole pages" },
		{ PAGE, { "a" }, { PAGE + 1 }, "whole pages" },
		{ PAGE, { "a" }, { 2 * PAGE }, "of the total 0x1000 are left" },
		{ PAGE, { "a" }, { UINT64_MAX }, "whole pages" },
		{ PAGE, { "a" }, { -PAGE }, "of the total" },
		{ 3 * PAGE, { "a", "b" }, { 2 * PAGE, 2 * PAGE }, "total 0x1000 are left" },
		{ 3 * PAGE, { "a", "b" }, { 2 * PAGE, -PAGE }, "of the total" },
		{ 3 * PAGE, { "a", "a" }, { 2 * PAGE, PAGE }, "has a twice" },
		{ -PAGE, { "a", "b" }, { -2 * PAGE, 2 * PAGE }, "total 0x1000 are left" },
		{ PAGE, { "" }, { PAGE }, "empty name" },
		{ PAGE, { "a\033[2J" }, { PAGE }, "byte 0x1b in a name" },
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		add_be64(self, bad[i].total | RAM_MEM_SIZE);
		add_block(self, bad[i].name[0], bad[i].used[0]);
		if (bad[i].name[1])
			add_block(self, bad[i].name[1], bad[i].used[1]);
		add_be64(self, RAM_EOS);
		ASSERT_REFUSED(bad[i].expect);
	}
}

/* Lines are missing: what stands there instead of the next is taken for a name and refused. */
TEST_F(ram, a_total_that_is_too_large_is_refused)
{
	add_be64(self, 3 * PAGE | RAM_MEM_SIZE);
	add_block(self, "a", 2 * PAGE);
	add_be64(self, RAM_EOS);
	ASSERT_REFUSED("empty name");
}

TEST_F(ram, a_list_comes_once)
{
	add_list(self);
	add_be64(self, 18 * PAGE | RAM_MEM_SIZE);
	ASSERT_REFUSED("block list for the second time");
}

TEST_F(ram, pages_before_the_list_are_refused)
{
	add_be64(self, RAM_ZERO);
	add_name(self, "ram");
	ASSERT_REFUSED("unknown block ram");
}

TEST_F(ram, page_sizes_are_checked)
{
	static const uint64_t bad[] = { 3 * PAGE, 12 * PAGE, 8 * PAGE, 2 * MIB, 1ull << 55 };
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		add_be64(self, 12 * PAGE | RAM_MEM_SIZE);
		add_block(self, "a", 12 * PAGE);
		add_be64(self, bad[i]);
		add_be64(self, RAM_EOS);
		ASSERT_REFUSED("has pages of");
	}
	add_be64(self, 12 * PAGE | RAM_MEM_SIZE);
	add_block(self, "a", 12 * PAGE);
	add_be64(self, 0);
	ASSERT_REFUSED("record 0x0000000000000000");
}

TEST_F(ram, offsets_end_with_the_block)
{
	static const uint64_t bad[] = { 2 * PAGE,	   3 * PAGE,
					16 * PAGE,	   UINT64_MAX & ~(PAGE - 1),
					UINT64_C(1) << 63, UINT64_C(1) << 32 };
	static const unsigned flags[] = { RAM_PAGE, RAM_ZERO, RAM_XBZRLE };
	unsigned i, k, cont;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		for (k = 0; k < 3; k++)
			for (cont = 0; cont < 2; cont++) {
				add_list(self);
				add_be64(self, PAGE | RAM_ZERO);
				add_name(self, "rom");
				add(self, "", 1);
				add_be64(self, bad[i] | flags[k] | (cont ? RAM_CONTINUE : 0));
				if (!cont)
					add_name(self, "rom");
				/* refused before the contents are there */
				ASSERT_REFUSED("of block rom, which has 0x2000 bytes");
			}
}

TEST_F(ram, unknown_blocks_are_refused)
{
	static const char *const names[] = { "r", "ra", "ramm", "RAM", "ram ", "romram" };
	char name[256];
	unsigned i;

	for (i = 0; i < 6; i++) {
		add_list(self);
		add_be64(self, RAM_PAGE);
		add_name(self, names[i]);
		ASSERT_REFUSED(names[i]);
	}
	memset(name, 'x', 255);
	name[255] = '\0';
	add_list(self);
	add_be64(self, RAM_PAGE);
	add_name(self, name);
	ASSERT_REFUSED("unknown block xxx");
	add_list(self);
	add_be64(self, RAM_PAGE);
	add_name(self, "");
	ASSERT_REFUSED("empty name");
	add_list(self);
	add_be64(self, RAM_PAGE);
	add_name(self, "ra\x9b"
		       "m\7");
	ASSERT_REFUSED("byte 0x07 in a name");
}

TEST_F(ram, continue_needs_a_block)
{
	add_list(self);
	add_be64(self, RAM_ZERO | RAM_CONTINUE);
	add(self, "", 1);
	ASSERT_REFUSED("CONTINUE without a block");
	/* nor does the block of another connection count */
	add_list(self);
	add_be64(self, RAM_ZERO);
	add_name(self, "rom");
	add(self, "", 1);
	add_be64(self, PAGE | RAM_PAGE | RAM_CONTINUE);
	ASSERT_EQ(0, feed(self, &whole));
	ASSERT_EQ(PAGE, self->in.need);
	ram_in_reconnect(&self->in);
	ASSERT_EQ(8, self->in.need);
	add_be64(self, RAM_ZERO | RAM_CONTINUE);
	add(self, "", 1);
	ASSERT_REFUSED("CONTINUE without a block");
}

/* Of all the values that the flags can have */
TEST_F(ram, only_known_flags_alone)
{
	static const unsigned good[] = { RAM_PAGE,
					 RAM_ZERO,
					 RAM_XBZRLE,
					 RAM_EOS,
					 RAM_MULTIFD_FLUSH,
					 RAM_HOOK,
					 RAM_PAGE | RAM_CONTINUE,
					 RAM_ZERO | RAM_CONTINUE,
					 RAM_XBZRLE | RAM_CONTINUE };
	unsigned flags, i;

	for (flags = 0; flags < 4096; flags++) {
		bool is_good = false;

		for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
			is_good |= flags == good[i];
		ram_in_init(&self->in, false);
		add_list(self);
		add_be64(self, RAM_ZERO);
		add_name(self, "rom");
		add(self, "", 1);
		add_be64(self, flags);
		memset(&self->err, 0, sizeof(self->err));
		ASSERT_EQ(is_good ? 0 : -EPROTO, feed(self, &whole))
		{
			TH_LOG("flags 0x%x", flags);
		}
		ASSERT_EQ(is_good, !self->err.text[0]);
	}
}

TEST_F(ram, refused_flags_are_named)
{
	static const struct {
		uint64_t head;
		const char *expect;
	} bad[] = {
		{ RAM_FULL, "FULL" },
		{ RAM_HOOK | RAM_EOS, "HOOK" },
		{ PAGE | RAM_HOOK, "HOOK" },
		{ RAM_COMPRESS_PAGE, "COMPRESS_PAGE" },
		{ 0x400, "unknown flag" },
		{ 0x800, "unknown flag" },
		{ 0, "do not go together" },
		{ RAM_CONTINUE, "do not go together" },
		{ RAM_PAGE | RAM_ZERO, "do not go together" },
		{ PAGE | RAM_EOS, "do not go together" },
		{ RAM_EOS | RAM_CONTINUE, "do not go together" },
		{ PAGE | RAM_MULTIFD_FLUSH, "do not go together" },
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		add_list(self);
		add_be64(self, bad[i].head);
		ASSERT_REFUSED(bad[i].expect);
	}
}

TEST_F(ram, a_list_has_no_other_flag)
{
	static const unsigned flags[] = { RAM_CONTINUE, RAM_EOS, RAM_PAGE, RAM_ZERO };
	unsigned i;

	for (i = 0; i < 4; i++) {
		add_be64(self, PAGE | RAM_MEM_SIZE | flags[i]);
		add_block(self, "ram", PAGE);
		add_be64(self, RAM_EOS);
		ASSERT_REFUSED("do not go together");
	}
}

/* The caller's offset is that of the unit, not somewhere behind it. */
TEST_F(ram, a_refused_unit_is_not_taken)
{
	struct ram_event event;
	size_t used, good;

	add_list(self);
	ASSERT_EQ(0, feed(self, &whole));
	add_be64(self, RAM_ZERO);
	add_name(self, "rom");
	add(self, "", 1);
	ASSERT_EQ(1, ram_in_next(&self->in, &self->blocks, self->bytes, self->length, &used, &event,
				 &self->err));
	ASSERT_EQ(self->length, used);
	self->length = 0;
	add_be64(self, RAM_ZERO);
	good = self->length;
	add_name(self, "rum");
	add_be64(self, RAM_EOS);
	ASSERT_EQ(-EPROTO, ram_in_next(&self->in, &self->blocks, self->bytes, self->length, &used,
				       &event, &self->err));
	ASSERT_EQ(good, used);
	/* and is refused again */
	ASSERT_EQ(-EPROTO, ram_in_next(&self->in, &self->blocks, self->bytes + used,
				       self->length - used, &used, &event, &self->err));
	ASSERT_EQ(0, used);
}

TEST_F(ram, the_fill_byte_is_zero)
{
	unsigned fill;

	for (fill = 1; fill < 256; fill++) {
		uint8_t byte = (uint8_t)fill;

		add_list(self);
		add_be64(self, RAM_ZERO);
		add_name(self, "rom");
		add(self, &byte, 1);
		ASSERT_REFUSED("fill byte 0x");
	}
}

TEST_F(ram, xbzrle_lengths)
{
	static const uint16_t lengths[] = { 0, 1, 2, 4095, 4096, 4097, 32768, 65535 };
	static const uint8_t delta[65536];
	unsigned i;

	for (i = 0; i < 8; i++) {
		bool good = lengths[i] && lengths[i] <= 4096;

		add_list(self);
		add_be64(self, RAM_XBZRLE);
		add_name(self, "rom");
		add(self, "\1", 1);
		add_be16(self, lengths[i]);
		if (!good)
			ASSERT_REFUSED("expected 1 to 4096");
		if (!good)
			continue;
		add(self, delta, lengths[i]);
		ASSERT_EQ(0, feed(self, &units));
		ASSERT_EQ(8, self->in.need);
		ram_in_init(&self->in, false);
	}
	for (i = 0; i < 256; i++) {
		uint8_t encoding = (uint8_t)i;

		if (i == 1)
			continue;
		add_list(self);
		add_be64(self, RAM_XBZRLE);
		add_name(self, "rom");
		add(self, &encoding, 1);
		add_be16(self, 1);
		ASSERT_REFUSED("with encoding");
	}
}

TEST_F(ram, the_urgent_channel_has_pages_only)
{
	add_list(self);
	ASSERT_EQ(0, feed(self, &whole));
	ram_in_init(&self->in, true);
	add_be64(self, RAM_ZERO);
	add_name(self, "rom");
	add(self, "", 1);
	add_be64(self, PAGE | RAM_PAGE | RAM_CONTINUE);
	add_page(self);
	add_be64(self, RAM_EOS);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_EQ(8, self->in.need);
	add_be64(self, RAM_XBZRLE | RAM_CONTINUE);
	ASSERT_REFUSED("XBZRLE on the urgent channel");
	add_be64(self, PAGE | RAM_MEM_SIZE);
	ASSERT_REFUSED("block list on the urgent channel");
	add_be64(self, RAM_MULTIFD_FLUSH);
	ASSERT_REFUSED("do not go together");
}

static void add_something(FIXTURE_DATA(ram) *self)
{
	uint64_t head = UINT64_C(1) << random_below(&self->random, 10);

	switch (random_below(&self->random, 5)) {
	case 0:
		add_name(self, "ram");
		break;
	case 1:
		add(self, "\0\0\0\0\1", 1 + random_below(&self->random, 5));
		break;
	default:
		head |= random_below(&self->random, 18) * PAGE;
		head |= random_below(&self->random, 2) ? RAM_CONTINUE : 0;
		add_be64(self, head);
		break;
	}
}

TEST_F(ram, random_bytes_are_taken_or_refused)
{
	struct pieces random_pieces = { piece_random, &self->random };
	unsigned round, i;
	int ret;

	for (round = 0; round < 20000; round++) {
		ram_in_init(&self->in, round & 1);
		if (round & 1) {
			self->blocks.count = 1;
			self->blocks.block[0].used = 8 * PAGE;
			wire_name_set(&self->blocks.block[0].name, "ram");
		} else {
			add_list(self);
		}
		for (i = 0; i < 200; i++)
			add_something(self);
		ret = feed(self, &random_pieces);
		ASSERT_TRUE(ret == 0 || ret == -EPROTO);
	}
}

TEST_HARNESS_MAIN
