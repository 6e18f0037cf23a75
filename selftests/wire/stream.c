/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/stream_fixture.h"

#include "kselftest_harness.h"

static const char postcopy_text[] = "header 3\n"
				    "machine none\n"
				    "OPEN_RETURN_PATH\n"
				    "PING\n"
				    "POSTCOPY_ADVISE\n"
				    "START 1 ram\n"
				    "blocks mem 0x400000/0x200000 rom 0x3000/0x0\n"
				    "flush\n"
				    "eos\n"
				    "footer START 1\n"
				    "PART 1 \n"
				    "zero mem 0x0\n"
				    "zero mem 0x1000\n"
				    "zero mem 0x2000\n"
				    "page rom 0x0 4096 ae210000\n"
				    "page rom 0x1000 4096 5c420000\n"
				    "zero rom 0x2000\n"
				    "eos\n"
				    "footer PART 1\n"
				    "SWITCHOVER_START\n"
				    "POSTCOPY_RAM_DISCARD\n"
				    "PING\n"
				    "PACKAGED\n"
				    "package 44 fe25dd29\n"
				    "PING\n"
				    "PART 1 \n"
				    "zero mem 0x0\n"
				    "page mem 0x1000 4096 0a630000\n"
				    "eos\n"
				    "footer PART 1\n"
				    "END 1 \n"
				    "eos\n"
				    "footer END 1\n"
				    "EOF 1\n";

TEST_F(stream, a_postcopy_whole)
{
	const struct vector *v = find(self, "postcopy");

	add(self, v->bytes, v->length);
	ASSERT_EQ(0, feed(self, &whole));
	ASSERT_STREQ(postcopy_text, text_get(&self->text));
	again(self);
	add(self, v->bytes, v->length);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ(postcopy_text, text_get(&self->text));
	ASSERT_EQ(v->length, self->in.offset);
}

TEST_F(stream, a_precopy_whole)
{
	const struct vector *v = find(self, "precopy");

	add(self, v->bytes, v->length);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("header 3\n"
		     "START 2 ram\n"
		     "blocks ram 0x2000/0x0\n"
		     "eos\n"
		     "footer START 2\n"
		     "PART 2 \n"
		     "page ram 0x0 4096 36610000\n"
		     "zero ram 0x1000\n"
		     "eos\n"
		     "footer PART 2\n"
		     "PART 2 \n"
		     "xbzrle ram 0x0 5 001e8c21\n"
		     "eos\n"
		     "footer PART 2\n"
		     "END 2 \n"
		     "eos\n"
		     "footer END 2\n"
		     "device 219 6fe11b0e\n",
		     text_get(&self->text));
}

TEST_F(stream, a_configuration)
{
	const struct vector *v = find(self, "configuration");

	add(self, v->bytes, v->length);
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("header 3\n"
		     "machine none\n"
		     "page bits 12\n"
		     "capability capable-1\n"
		     "capability capable-2\n"
		     "uuid 16 314f7088\n"
		     "OPEN_RETURN_PATH\n",
		     text_get(&self->text));
}

TEST_F(stream, nothing_but_an_empty_list)
{
	const struct vector *v = find(self, "nothing");

	add(self, v->bytes, v->length);
	ASSERT_EQ(0, feed(self, &whole));
	ASSERT_STREQ("header 3\n"
		     "START 2 ram\n"
		     "blocks\n"
		     "eos\n"
		     "footer START 2\n"
		     "END 2 \n"
		     "eos\n"
		     "footer END 2\n"
		     "EOF 1\n"
		     "device 7 3d657a6a\n",
		     text_get(&self->text));
}

/* Of every vector: wherever it is split, and in whatever pieces, the same events */
TEST_F(stream, pieces_make_no_difference)
{
	struct pieces split = { piece_split, NULL };
	struct pieces random = { piece_random, &self->random };
	unsigned i, round;
	size_t at;

	split.context = &at;
	for (i = 0; i < self->count; i++) {
		const struct vector *v = &self->vectors[i];
		bool resumed = !strcmp(v->name, "resumed");
		char *expect;

		again(self);
		stream_in_init(&self->in, resumed);
		stream_in_learn(&self->in);
		ASSERT_EQ(0, feed_stream(&self->in, v->bytes, v->length, &whole, &self->text,
					 &self->err));
		expect = strdup(text_get(&self->text));
		for (at = 0; at <= v->length; at++) {
			again(self);
			stream_in_init(&self->in, resumed);
			stream_in_learn(&self->in);
			ASSERT_EQ(0, feed_stream(&self->in, v->bytes, v->length, &split,
						 &self->text, &self->err));
			ASSERT_STREQ(expect, text_get(&self->text));
		}
		for (round = 0; round < 300; round++) {
			again(self);
			stream_in_init(&self->in, resumed);
			stream_in_learn(&self->in);
			ASSERT_EQ(0, feed_stream(&self->in, v->bytes, v->length, &random,
						 &self->text, &self->err));
			ASSERT_STREQ(expect, text_get(&self->text));
		}
		free(expect);
	}
}

/* The stream is cut at every byte: never an error, never an event that was not whole */
TEST_F(stream, a_strict_prefix_asks_for_more)
{
	const struct vector *v = find(self, "postcopy");
	size_t n;

	for (n = 0; n < v->length; n++) {
		again(self);
		ASSERT_EQ(0, feed_stream(&self->in, v->bytes, n, &whole, &self->text, &self->err));
		fflush(self->text.file); /* a package that is not complete stays out of it */
		ASSERT_LT(self->text.length, sizeof(postcopy_text) - 1);
		ASSERT_EQ(0, memcmp(postcopy_text, self->text.text, self->text.length));
	}
}

TEST_F(stream, contents_of_ram_stay_where_they_are)
{
	const struct vector *v = find(self, "postcopy");
	struct stream_event event;
	size_t at = 0, used;
	unsigned pages = 0;

	while (stream_in_next(&self->in, v->bytes + at, v->length - at, &used, &event,
			      &self->err) == 1) {
		at += used;
		if (event.kind != STREAM_RAM || event.ram.record != RAM_GOT_PAGE)
			continue;
		ASSERT_TRUE(event.ram.data == v->bytes + at - PAGE);
		pages++;
	}
	ASSERT_EQ(3, pages);
	ASSERT_EQ(v->length, at);
}

/* All that a source would write, by the writers: the same bytes as in the vector */
static size_t put_command(uint8_t *at, enum cmd_kind kind, uint32_t value)
{
	struct cmd_msg msg = { .kind = kind };

	if (kind == CMD_PING)
		msg.ping.value = value;
	if (kind == CMD_PACKAGED)
		msg.packaged.length = value;
	return cmd_put(at, &msg, NULL);
}

static uint8_t *put_list(uint8_t *at, struct ram_block block[2])
{
	struct wire_name ram;

	wire_name_set(&ram, "ram");
	wire_name_set(&block[0].name, "mem");
	wire_name_set(&block[1].name, "rom");
	at += stream_put_start(at, SECTION_START, 1, &ram, 0, STREAM_RAM_VERSION);
	at += ram_put_total(at, block[0].used + block[1].used);
	at += ram_put_block(at, &block[0]);
	at += ram_put_block(at, &block[1]);
	put_be64(at, RAM_MULTIFD_FLUSH);
	at += 8;
	at += ram_put_eos(at);
	return at + stream_put_footer(at, 1);
}

static uint8_t *put_pass(uint8_t *at, const struct ram_block block[2])
{
	at += stream_put_part(at, SECTION_PART, 1);
	at += ram_put_zero(at, 0, &block[0].name);
	at += ram_put_zero(at, 0x1000, NULL);
	at += ram_put_zero(at, 0x2000, NULL);
	at += ram_put_page(at, 0, &block[1].name);
	memset(at, 1, PAGE);
	at += PAGE;
	at += ram_put_page(at, 0x1000, NULL);
	memset(at, 2, PAGE);
	at += PAGE;
	at += ram_put_zero(at, 0x2000, NULL);
	at += ram_put_eos(at);
	return at + stream_put_footer(at, 1);
}

static uint8_t *put_switch(uint8_t *at, const struct ram_block block[2])
{
	static const struct wire_range ranges[] = { { 0, 0x200000 }, { 0x200000, 0x200000 } };
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_RAM_DISCARD };
	struct wire_name timer;

	wire_name_set(&timer, "timer");
	at += put_command(at, CMD_SWITCHOVER_START, 0);
	msg.discard.block = block[0].name;
	msg.discard.count = 2;
	at += cmd_put(at, &msg, ranges);
	at += put_command(at, CMD_PING, 2);
	at += put_command(at, CMD_PACKAGED, 44);
	at += put_command(at, CMD_POSTCOPY_LISTEN, 0);
	at += stream_put_start(at, SECTION_FULL, 0, &timer, 0, 2);
	*at++ = 0xab;
	at += stream_put_footer(at, 0);
	at += put_command(at, CMD_PING, 3);
	at += put_command(at, CMD_POSTCOPY_RUN, 0);
	return at + put_command(at, CMD_PING, 4);
}

static uint8_t *put_rest(uint8_t *at, const struct ram_block block[2])
{
	at += stream_put_part(at, SECTION_PART, 1);
	at += ram_put_zero(at, 0, &block[0].name);
	at += ram_put_page(at, 0x1000, NULL);
	memset(at, 3, PAGE);
	at += PAGE;
	at += ram_put_eos(at);
	at += stream_put_footer(at, 1);
	at += stream_put_part(at, SECTION_END, 1);
	at += ram_put_eos(at);
	at += stream_put_footer(at, 1);
	return at + stream_put_eof(at);
}

TEST_F(stream, writers_make_the_vector)
{
	struct ram_block block[2] = { { .used = 0x400000, .page_size = 0x200000 },
				      { .used = 0x3000 } };
	const struct vector *v = find(self, "postcopy");
	struct cmd_msg advise = { .kind = CMD_POSTCOPY_ADVISE };
	struct wire_name none;
	uint8_t *at = self->bytes;

	wire_name_set(&none, "none");
	at += stream_put_header(at);
	at += stream_put_config(at, &none);
	at += put_command(at, CMD_OPEN_RETURN_PATH, 0);
	at += put_command(at, CMD_PING, 1);
	advise.advise.page_sizes = 0x201000;
	advise.advise.target_page = 0x1000;
	at += cmd_put(at, &advise, NULL);
	at = put_list(at, block);
	at = put_pass(at, block);
	at = put_switch(at, block);
	at = put_rest(at, block);
	ASSERT_EQ(v->length, (size_t)(at - self->bytes));
	ASSERT_EQ(0, memcmp(v->bytes, self->bytes, v->length));
}

TEST_F(stream, the_longest_of_what_is_put)
{
	struct wire_name name;
	uint8_t buf[2 * STREAM_PUT_MAX];

	memset(name.text, 'a', 255);
	name.text[255] = '\0';
	name.length = 255;
	ASSERT_LE(stream_put_config(buf, &name), STREAM_PUT_MAX);
	ASSERT_LE(stream_put_start(buf, SECTION_FULL, 1, &name, 0, 1), STREAM_PUT_MAX);
	ASSERT_EQ(5, stream_put_vmdesc(buf, 0x01020304));
	ASSERT_EQ(0, memcmp(buf, "\6\1\2\3\4", 5));
}

TEST_F(stream, no_capabilities_are_a_list_too)
{
	ADD("QEVM\0\0\0\3\7\0\0\0\1p\5\x1a"
	    "configuration/capabilities\0\0\0\1\0\0\0\0"
	    "\10\0\1\0\0");
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_STREQ("header 3\nmachine p\nOPEN_RETURN_PATH\n", text_get(&self->text));
}

/* From the first FULL section on nothing is looked at, whatever it is. */
TEST_F(stream, device_state_is_carried)
{
	static const uint8_t rest[] = "\4\0\0\0\1\2hi\1\2\3\x7e\0\0\0\1\0\6\0\0\0\2{}\xff\1\2\3";
	char expect[64];

	add_start(self);
	add_end(self);
	ADD("\10\0\2\0\4\0\0\0\5"); /* commands come anywhere */
	add(self, rest, sizeof(rest));
	ASSERT_EQ(0, feed(self, &units));
	snprintf(expect, sizeof(expect), "footer END 7\nPING\ndevice %zu ", sizeof(rest));
	ASSERT_NE(NULL, strstr(text_get(&self->text), expect));
	ASSERT_EQ(1, self->in.need);
}

/* A package is carried too, and what comes behind it is understood. */
TEST_F(stream, a_package_of_any_size)
{
	static const uint32_t sizes[] = { 1, 2, 17, 4096, 60000 };
	char expect[64];
	unsigned i;

	for (i = 0; i < 5; i++) {
		again(self);
		add_start(self);
		ADD("\10\0\7\0\4");
		put_be32(self->bytes + self->length, sizes[i]);
		self->length += 4;
		memset(self->bytes + self->length, 0x7e, sizes[i]);
		self->length += sizes[i];
		ADD("\10\0\2\0\4\0\0\0\5");
		ASSERT_EQ(0, feed(self, i % 2 ? &whole : &units));
		snprintf(expect, sizeof(expect), "PACKAGED\npackage %u ", sizes[i]);
		ASSERT_NE(NULL, strstr(text_get(&self->text), expect));
		ASSERT_STREQ("\nPING\n", text_get(&self->text) + strlen(self->text.text) - 6);
	}
}

/* A package of 4 GiB - 1 is said, and comes as it comes: no buffer of that size */
TEST_F(stream, a_package_larger_than_memory)
{
	add_start(self);
	ADD("\10\0\7\0\4\xff\xff\xff\xff");
	ADD("12345678");
	ASSERT_EQ(0, feed(self, &units));
	ASSERT_EQ(1, self->in.need);
}

TEST_F(stream, the_largest_command_is_the_largest_need)
{
	struct stream_event event;
	size_t used;

	ADD("QEVM\0\0\0\3\10\0\6\xff\xff");
	ASSERT_EQ(1, stream_in_next(&self->in, self->bytes, 8, &used, &event, &self->err));
	ASSERT_EQ(0, stream_in_next(&self->in, self->bytes + 8, 5, &used, &event, &self->err));
	ASSERT_EQ(5 + 65535, self->in.need);
	ASSERT_LE(self->in.need, STREAM_NEED_MAX);
}

/* A connection is lost somewhere, the next one goes on */
TEST_F(stream, resumes_wherever_it_was)
{
	const struct vector *first = find(self, "postcopy");
	const struct vector *second = find(self, "resumed");
	size_t at;

	/* from behind the list on; a record or a package in the middle is forgotten */
	for (at = 157; at <= first->length; at++) {
		again(self);
		ASSERT_EQ(0, feed_stream(&self->in, first->bytes, at, &whole, &self->text,
					 &self->err));
		text_fini(&self->text);
		text_init(&self->text);
		stream_in_resume(&self->in);
		ASSERT_EQ(0, feed_stream(&self->in, second->bytes, second->length, &units,
					 &self->text, &self->err))
		{
			TH_LOG("%zu: %s", at, self->err.text);
		}
		ASSERT_EQ(second->length, self->in.offset);
		ASSERT_STREQ("RECV_BITMAP\n"
			     "RECV_BITMAP\n"
			     "POSTCOPY_RESUME\n"
			     "PART 1 \n"
			     "zero mem 0x200000\n"
			     "eos\n"
			     "footer PART 1\n"
			     "END 1 \n"
			     "eos\n"
			     "footer END 1\n"
			     "EOF 1\n",
			     text_get(&self->text));
	}
}

TEST(names)
{
	ASSERT_STREQ("EOF", section_name(SECTION_EOF));
	ASSERT_STREQ("VMDESCRIPTION", section_name(SECTION_VMDESCRIPTION));
	ASSERT_STREQ("footer", section_name(SECTION_FOOTER));
	ASSERT_STREQ("?", section_name((enum section_type)9));
}

TEST_HARNESS_MAIN
