/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/ram_fixture.h"

#include "kselftest_harness.h"

TEST_F(ram, every_kind_of_record)
{
	add_list(self);
	add_be64(self, 3 * PAGE | RAM_PAGE);
	add_name(self, "ram");
	memset(self->bytes + self->length, 7, PAGE);
	self->length += PAGE;
	add_be64(self, 4 * PAGE | RAM_ZERO | RAM_CONTINUE);
	add(self, "", 1);
	add_be64(self, 0 * PAGE | RAM_ZERO);
	add_name(self, "rom");
	add(self, "", 1);
	add_be64(self, RAM_MULTIFD_FLUSH);
	add_be64(self, RAM_HOOK);
	add_be64(self, PAGE | RAM_XBZRLE | RAM_CONTINUE);
	add(self, "\1\0\3\0\1x", 6);
	add_be64(self, RAM_EOS);
	/* the next body goes on in the same block */
	add_be64(self, PAGE | RAM_ZERO | RAM_CONTINUE);
	add(self, "", 1);
	add_be64(self, 15 * PAGE | RAM_XBZRLE);
	add_name(self, "ram");
	add(self, "\1\0\3\0\1y", 6);
	add_be64(self, RAM_EOS);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("blocks ram 0x10000/0x0 rom 0x2000/0x0\n"
		     "eos\n"
		     "page ram 0x3000 4096 c2e70000\n"
		     "zero ram 0x4000\n"
		     "zero rom 0x0\n"
		     "flush\n"
		     "hook\n"
		     "xbzrle rom 0x1000 3 00000097\n"
		     "eos\n"
		     "zero rom 0x1000\n"
		     "xbzrle ram 0xf000 3 00000098\n"
		     "eos\n",
		     text_get(&self->text));
}

/* The contents of a page may be elsewhere: at that moment all about it is known. */
TEST_F(ram, contents_are_asked_for_by_their_place)
{
	struct ram_event event;
	uint8_t head[16], page[PAGE];
	size_t used;

	add_list(self);
	ASSERT_EQ(0, feed(self, &whole));
	put_be64(head, 5 * PAGE | RAM_PAGE);
	memcpy(head + 8, "\3rom", 4);
	ASSERT_EQ(-EPROTO, ram_in_next(&self->in, &self->blocks, head, 12, &used, &event, NULL));
	ram_in_reconnect(&self->in);
	put_be64(head, 5 * PAGE | RAM_PAGE);
	memcpy(head + 8, "\3ram", 4);
	ASSERT_EQ(8, self->in.need);
	ASSERT_EQ(0, ram_in_next(&self->in, &self->blocks, head, 12, &used, &event, NULL));
	ASSERT_EQ(12, used);
	ASSERT_EQ(PAGE, self->in.need);
	ASSERT_EQ(0, self->in.block);
	ASSERT_EQ(5 * PAGE, self->in.offset);
	ASSERT_EQ(0, ram_in_next(&self->in, &self->blocks, page, PAGE - 1, &used, &event, NULL));
	ASSERT_EQ(0, used);
	ASSERT_EQ(1, ram_in_next(&self->in, &self->blocks, page, PAGE, &used, &event, NULL));
	ASSERT_EQ(PAGE, used);
	ASSERT_EQ(RAM_GOT_PAGE, event.record);
	ASSERT_TRUE(event.data == page);
	ASSERT_EQ(8, self->in.need);
}

TEST_F(ram, a_list_of_nothing)
{
	add_be64(self, RAM_MEM_SIZE);
	add_be64(self, RAM_EOS);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("blocks\neos\n", text_get(&self->text));
	add_be64(self, RAM_PAGE);
	add_name(self, "a");
	ASSERT_REFUSED("unknown block a");
}

TEST_F(ram, as_many_blocks_as_there_is_room_for)
{
	char name[8];
	unsigned i;

	add_be64(self, RAM_BLOCKS_MAX * PAGE | RAM_MEM_SIZE);
	for (i = 0; i < RAM_BLOCKS_MAX; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		add_block(self, name, PAGE);
	}
	add_be64(self, RAM_EOS);
	add_be64(self, RAM_ZERO);
	add_name(self, "b255");
	add(self, "", 1);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_EQ(RAM_BLOCKS_MAX, self->blocks.count);
	ASSERT_EQ(255, self->in.block);
	ram_in_init(&self->in, false);
	add_be64(self, (RAM_BLOCKS_MAX + 1) * PAGE | RAM_MEM_SIZE);
	for (i = 0; i <= RAM_BLOCKS_MAX; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		add_block(self, name, PAGE);
	}
	add_be64(self, RAM_EOS);
	ASSERT_REFUSED("more than 256 blocks");
}

/* Whatever may stand behind a length is told apart from a page size. */
TEST_F(ram, page_sizes_are_told_from_what_follows)
{
	static const uint64_t sizes[] = { 0, 4096, 65536, 2 * MIB, 1024 * MIB, UINT64_C(1) << 54 };
	char name[256], expect[1024];
	unsigned first, second, length, next;

	for (length = 1; length < 256; length += 1 + length / 8)
		for (first = 0; first < 6; first++)
			for (second = 0; second < 6; second++)
				for (next = 0; next < 2; next++) {
					uint64_t size[2] = { sizes[first] ? sizes[first] : PAGE,
							     sizes[second] ? sizes[second] : PAGE };

					memset(name, 'n', length);
					name[length] = '\0';
					add_be64(self, (size[0] + size[1]) | RAM_MEM_SIZE);
					add_block(self, "a", size[0]);
					if (sizes[first])
						add_be64(self, sizes[first]);
					add_block(self, name, size[1]);
					if (sizes[second])
						add_be64(self, sizes[second]);
					add_be64(self, next ? RAM_MULTIFD_FLUSH : RAM_EOS);
					ram_in_init(&self->in, false);
					text_fini(&self->text);
					text_init(&self->text);
					ASSERT_EQ(0, feed(self, next ? &units : &whole));
					snprintf(expect, sizeof(expect),
						 "blocks a 0x%llx/0x%llx %s 0x%llx/0x%llx\n%s\n",
						 (unsigned long long)size[0],
						 (unsigned long long)sizes[first], name,
						 (unsigned long long)size[1],
						 (unsigned long long)sizes[second],
						 next ? "flush" : "eos");
					ASSERT_STREQ(expect, text_get(&self->text));
				}
}

TEST_F(ram, a_learner_takes_names_as_they_come)
{
	char name[8];
	unsigned i;

	ram_in_learn(&self->in);
	add_be64(self, PAGE << 40 | RAM_ZERO);
	add_name(self, "pc.ram");
	add(self, "", 1);
	add_be64(self, RAM_ZERO);
	add_name(self, "rom");
	add(self, "", 1);
	add_be64(self, PAGE | RAM_ZERO);
	add_name(self, "pc.ram");
	add(self, "", 1);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("zero pc.ram 0x10000000000000\nzero rom 0x0\nzero pc.ram 0x1000\n",
		     text_get(&self->text));
	for (i = 0; i < RAM_BLOCKS_MAX - 2; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		add_be64(self, RAM_ZERO);
		add_name(self, name);
		add(self, "", 1);
	}
	ASSERT_EQ(0, feed(self, &whole));
	add_be64(self, RAM_ZERO);
	add_name(self, "one");
	add(self, "", 1);
	ASSERT_REFUSED("more than 256 blocks");
}

/* A list of up to five blocks, with huge pages or without */
static void put_random_list(FIXTURE_DATA(ram) *self)
{
	struct ram_block *block;
	uint64_t total = 0;
	unsigned i;

	self->blocks.count = 1 + (unsigned)random_below(&self->random, 5);
	for (i = 0; i < self->blocks.count; i++) {
		block = &self->blocks.block[i];
		random_name(&self->random, &block->name);
		block->page_size = random_below(&self->random, 2) ? 2 * MIB : 0;
		block->used = (1 + random_below(&self->random, 1 << 20)) *
			      (block->page_size ? 2 * MIB : PAGE);
		total += block->used;
	}
	self->length = ram_put_total(self->bytes, total);
	for (i = 0; i < self->blocks.count; i++)
		self->length += ram_put_block(self->bytes + self->length, &self->blocks.block[i]);
}

/* What is in front of the contents. Return: its length */
static size_t put_head(uint8_t *at, const struct ram_event *event, const struct wire_name *name)
{
	if (event->record == RAM_GOT_PAGE)
		return ram_put_page(at, event->offset, name);
	if (event->record == RAM_GOT_ZERO)
		return ram_put_zero(at, event->offset, name);
	return ram_put_xbzrle(at, event->offset, name, (uint16_t)event->data_length);
}

/* A record of a page; in the block that was the last one it goes without a name */
static void put_random_record(FIXTURE_DATA(ram) *self, unsigned *last, struct text *expect)
{
	struct ram_event event = { .record = random_below(&self->random, 3), .data_length = PAGE };
	const struct ram_block *block;

	event.block = (unsigned)random_below(&self->random, self->blocks.count);
	block = &self->blocks.block[event.block];
	event.offset = random_below(&self->random, block->used / PAGE) * PAGE;
	if (event.record == RAM_GOT_XBZRLE)
		event.data_length = 1 + random_below(&self->random, PAGE);
	self->length += put_head(self->bytes + self->length, &event,
				 event.block == *last ? NULL : &block->name);
	*last = event.block;
	event.data = self->bytes + self->length;
	if (event.record != RAM_GOT_ZERO) {
		memset(self->bytes + self->length, (int)self->length, event.data_length);
		self->length += event.data_length;
	}
	text_ram(expect, &self->blocks, &event);
}

/* Random records written and read: the same again, in pieces of any size */
TEST_F(ram, what_is_put_comes_back)
{
	struct pieces random_pieces = { piece_random, &self->random };
	const struct pieces *const pieces[] = { &units, &whole, &random_pieces };
	struct ram_event list = { .record = RAM_GOT_BLOCKS };
	struct ram_event end = { .record = RAM_GOT_EOS };
	struct text expect;
	unsigned round, i, last;

	for (round = 0; round < 90; round++) {
		ram_in_init(&self->in, false);
		text_fini(&self->text);
		text_init(&self->text);
		text_init(&expect);
		put_random_list(self);
		text_ram(&expect, &self->blocks, &list);
		last = RAM_BLOCKS_MAX;
		for (i = 0; i < 60; i++)
			put_random_record(self, &last, &expect);
		self->length += ram_put_eos(self->bytes + self->length);
		text_ram(&expect, &self->blocks, &end);
		ASSERT_EQ(0, feed(self, pieces[round % 3]));
		ASSERT_EQ(8, self->in.need);
		ASSERT_STREQ(text_get(&expect), text_get(&self->text));
		text_fini(&expect);
	}
}

TEST_F(ram, the_longest_of_what_is_put)
{
	struct ram_block block = { .used = 2 * MIB, .page_size = 2 * MIB };

	memset(block.name.text, 'a', 255);
	block.name.length = 255;
	ASSERT_EQ(RAM_RECORD_MAX, ram_put_block(self->bytes, &block));
	ASSERT_LE(ram_put_page(self->bytes, PAGE, &block.name), RAM_RECORD_MAX);
	ASSERT_LE(ram_put_zero(self->bytes, PAGE, &block.name), RAM_RECORD_MAX);
	ASSERT_LE(ram_put_xbzrle(self->bytes, PAGE, &block.name, 4096), RAM_RECORD_MAX);
}

TEST_HARNESS_MAIN
