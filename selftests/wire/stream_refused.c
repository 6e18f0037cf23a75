/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/stream_fixture.h"

#include "kselftest_harness.h"

/* What a decoder of wire/stream.c does not take, and how it says so */

TEST_F(stream, headers_are_checked)
{
	ADD("QEVN\0\0\0\3");
	ASSERT_REFUSED("stream at 0, header: magic 0x5145564e");
	ADD("\x11\x22\x33\x44\0\0\0\1");
	ASSERT_REFUSED("magic 0x11223344, expected 0x5145564d");
	ADD("QEVM\0\0\0\2");
	ASSERT_REFUSED("version 2, expected 3");
	ADD("QEVM\0\0\0\4");
	ASSERT_REFUSED("version 4, expected 3");
}

TEST_F(stream, configurations_are_checked)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *expect;
	} bad[] = {
#define BAD(bytes, expect) { bytes, sizeof(bytes) - 1, expect }
		BAD("\7\0\0\0\0", "stream at 8, configuration: machine type of 0 bytes"),
		BAD("\7\0\0\1\0", "machine type of 256 bytes"),
		BAD("\7\xff\xff\xff\xff", "machine type of 4294967295 bytes"),
		BAD("\7\0\0\0\2p\1", "byte 0x01 in a name"),
		BAD("\7\0\0\0\1p\7\0\0\0\1p", "between sections: section type CONFIGURATION"),
		BAD("\7\0\0\0\1p\5\0\0\0\0\1", "stream at 14, configuration: empty name"),
		BAD("\7\0\0\0\1p\5\1x\0\0\0\1", "unknown subsection x"),
		BAD("\7\0\0\0\1p\5\x12"
		    "configuration/uuid\0\0\0\2",
		    "of version 2, expected 1"),
		BAD("\7\0\0\0\1p\5\x1e"
		    "configuration/target-page-bits\0\0\0\1\0\0\0\x10",
		    "stream at 50, configuration: target pages of 16 bits"),
		BAD("\7\0\0\0\1p\5\x1e"
		    "configuration/target-page-bits\0\0\0\1\0\0\0\0",
		    "target pages of 0 bits"),
		BAD("\7\0\0\0\1p\5\x1e"
		    "configuration/target-page-bits\0\0\0\1\xff\xff\xff\xff",
		    "target pages of 4294967295 bits"),
		BAD("\7\0\0\0\1p\5\x1e"
		    "configuration/target-page-bits\0\0\0\1\0\0\0\x0c"
		    "\5\x1e"
		    "configuration/target-page-bits\0\0\0\1\0\0\0\x0c",
		    "for the second time"),
		BAD("\7\0\0\0\1p\5\x1a"
		    "configuration/capabilities\0\0\0\1\0\0\0\x41",
		    "list of 65 capabilities"),
		BAD("\7\0\0\0\1p\5\x1a"
		    "configuration/capabilities\0\0\0\1\xff\xff\xff\xff",
		    "list of 4294967295 capabilities"),
		BAD("\7\0\0\0\1p\5\x1a"
		    "configuration/capabilities\0\0\0\1\0\0\0\1\0",
		    "empty name"),
#undef BAD
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ADD("QEVM\0\0\0\3");
		add(self, bad[i].bytes, bad[i].length);
		ASSERT_REFUSED(bad[i].expect);
	}
}

TEST_F(stream, the_list_of_ignore_shared_is_refused)
{
	ADD("QEVM\0\0\0\3\7\0\0\0\1p\5\x1a"
	    "configuration/capabilities\0\0\0\1\0\0\0\1"
	    "\x0f"
	    "x-ignore-shared\1\0\0\0\7\3ram\0\0\0\0\0\0\0\4");
	ASSERT_REFUSED("x-ignore-shared, which is not supported");
}

TEST_F(stream, sections_in_front_of_ram_are_refused)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *expect;
	} bad[] = {
#define BAD(bytes, expect) { bytes, sizeof(bytes) - 1, "stream at 8, between sections: " expect }
		BAD("\0", "EOF in front of the end of ram"),
		BAD("\2\0\0\0\0", "section PART of id 0, which was not started"),
		BAD("\3\0\0\0\7", "section END of id 7, which was not started"),
		BAD("\4\0\0\0\7\nvirtio-mem\0\0\0\0\0\0\0\1", "device state virtio-mem in front"),
		BAD("\1\0\0\0\7\4vfio\0\0\0\0\0\0\0\1", "live state vfio"),
		BAD("\1\0\0\0\7\0\0\0\0\0\0\0\0\1", "empty name"),
		BAD("\1\0\0\0\7\4ram\n\0\0\0\0\0\0\0\1", "byte 0x0a in a name"),
		BAD("\1\0\0\0\7\2ra\0\0\0\0\0\0\0\4", "live state ra"),
		BAD("\1\0\0\0\7\4ram2\0\0\0\0\0\0\0\4", "live state ram2"),
		BAD("\1\0\0\0\7\3ram\0\0\0\1\0\0\0\4", "ram instance 1, expected 0"),
		BAD("\1\0\0\0\7\3ram\0\0\0\0\0\0\0\3", "ram of version 3, expected 4"),
		BAD("\1\0\0\0\7\3ram\0\0\0\0\0\0\0\5", "ram of version 5, expected 4"),
		BAD("\1\0\0\0\7\3ram\0\0\0\0\xff\xff\xff\xff", "ram of version 4294967295"),
		BAD("\5", "section type SUBSECTION out of place"),
		BAD("\6", "section type VMDESCRIPTION out of place"),
		BAD("\x7e", "section type footer out of place"),
		BAD("\x09", "unknown section type 0x09"),
		BAD("\xff", "unknown section type 0xff"),
		BAD("\10\0\0\0\0", "command of unknown kind 0"),
		BAD("\10\0\2\0\5", "PING of 5 bytes"),
		BAD("\10\0\7\0\4\0\0\0\0", "package of 0 bytes"),
#undef BAD
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ADD("QEVM\0\0\0\3");
		add(self, bad[i].bytes, bad[i].length);
		ASSERT_REFUSED(bad[i].expect);
	}
}

TEST_F(stream, sections_behind_the_start_are_checked)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *expect;
	} bad[] = {
#define BAD(bytes, expect) { bytes, sizeof(bytes) - 1, expect }
		BAD("\1\0\0\0\7\3ram\0\0\0\0\0\0\0\4", "between sections: ram for the second time"),
		BAD("\1\0\0\0\x8\3ram\0\0\0\0\0\0\0\4", "ram for the second time"),
		BAD("\2\0\0\0\x8", "section PART of id 8, which was not started"),
		BAD("\4\0\0\0\0\5timer\0\0\0\0\0\0\0\2", "device state timer in front"),
		BAD("\0", "EOF in front of the end of ram"),
		BAD("\2\0\0\0\7\0\0\0\0\0\0\0\x10\x7e\0\0\0\x8",
		    "stream at 69, PART of ram: footer of section 8, expected 7"),
		BAD("\3\0\0\0\7\0\0\0\0\0\0\0\x10\2\0\0\0\7",
		    "stream at 69, END of ram: byte 0x02, expected the footer of section 7"),
		BAD("\2\0\0\0\7\0\0\0\0\0\0\0\x0a", "stream at 61, PART of ram: record 0x"),
		BAD("\2\0\0\0\7\0\0\0\0\0\0\0\x0a\1s", "stream at 61, PART of ram: record"),
		BAD("\2\0\0\0\7\0\0\0\0\0\0\x20\x08\1r",
		    "stream at 69, PART of ram: page at 0x2000"),
		BAD("\2\0\0\0\7\0\0\0\0\0\0\x20\4", "block list for the second time"),
#undef BAD
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		add_start(self);
		ASSERT_EQ(56, self->length);
		add(self, bad[i].bytes, bad[i].length);
		ASSERT_REFUSED(bad[i].expect);
	}
}

TEST_F(stream, sections_behind_the_end_are_checked)
{
	add_start(self);
	add_end(self);
	ADD("\2\0\0\0\7");
	ASSERT_REFUSED("section PART of ram, id 7, behind its END");
	add_start(self);
	add_end(self);
	add_end(self);
	ASSERT_REFUSED("section END of ram, id 7, behind its END");
	add_start(self);
	add_end(self);
	ADD("\1\0\0\0\x9\3ram\0\0\0\0\0\0\0\4");
	ASSERT_REFUSED("ram for the second time");
}

TEST_F(stream, a_start_has_a_list)
{
	ADD("QEVM\0\0\0\3"
	    "\1\0\0\0\7\3ram\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\x10");
	ASSERT_REFUSED("START of ram: START of ram ends without a block list");
}

TEST_F(stream, a_resumed_connection_is_checked_as_well)
{
	const struct vector *v = find(self, "postcopy");

	ASSERT_EQ(0, feed_stream(&self->in, v->bytes, 8000, &whole, NULL, &self->err));
	stream_in_resume(&self->in);
	ADD("\2\0\0\0\2");
	ASSERT_EQ(-EPROTO, feed(self, &whole));
	stream_in_resume(&self->in);
	ADD("\2\0\0\0\1\0\0\0\0\0\0\0\x22");
	ASSERT_EQ(-EPROTO, feed(self, &whole)); /* CONTINUE, of the block of another connection */
	stream_in_resume(&self->in);
	ADD("\1\0\0\0\1\3ram\0\0\0\0\0\0\0\4");
	ASSERT_EQ(-EPROTO, feed(self, &whole));
	stream_in_resume(&self->in);
	ADD("QEVM\0\0\0\3");
	ASSERT_EQ(-EPROTO, feed(self, &whole));
	/* nor is anything known to who has not seen the first one */
	stream_in_init(&self->in, true);
	ADD("\10\0\x9\0\0\2\0\0\0\1");
	ASSERT_EQ(-EPROTO, feed(self, &whole));
}

TEST_F(stream, a_refused_unit_is_refused_again)
{
	struct stream_event event;
	size_t used, at;

	add_start(self);
	ADD("\2\0\0\0\7\0\0\0\0\0\0\x20\x08\1r");
	for (at = 0; stream_in_next(&self->in, self->bytes + at, self->length - at, &used, &event,
				    &self->err) == 1;)
		at += used;
	at += used;
	ASSERT_EQ(69, at);
	ASSERT_EQ(69, self->in.offset);
	ASSERT_EQ(-EPROTO, stream_in_next(&self->in, self->bytes + at, self->length - at, &used,
					  &event, &self->err));
	ASSERT_EQ(0, used);
	ASSERT_EQ(0, strncmp(self->err.text, "stream at 69, PART of ram: page at 0x2000", 41));
}

/* One bit of a good stream is wrong: taken or refused, and no more */
TEST_F(stream, a_flipped_bit_does_no_harm)
{
	const struct vector *v = find(self, "postcopy");
	unsigned refused = 0;
	size_t bit, next;
	int ret;

	memcpy(self->bytes, v->bytes, v->length);
	for (bit = 0; bit < v->length * 8; bit = next) {
		next = bit + 1;
		/* of the contents of pages a few are enough */
		if (v->bytes[bit / 8] == v->bytes[bit / 8 + 1] && v->bytes[bit / 8])
			next = bit + 499;
		self->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		stream_in_init(&self->in, false);
		ret = feed_stream(&self->in, self->bytes, v->length, &whole, NULL, &self->err);
		ASSERT_TRUE(ret == 0 || ret == -EPROTO);
		refused += ret != 0;
		self->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	ASSERT_GT(refused, 1000);
}

TEST_F(stream, random_bytes_do_no_harm)
{
	struct pieces random = { piece_random, &self->random };
	unsigned round, i;
	int ret;

	for (round = 0; round < 20000; round++) {
		again(self);
		if (round % 4)
			add_start(self);
		else
			ADD("QEVM\0\0\0\3\7\0\0\0\1p");
		for (i = 0; i < 100; i++)
			self->bytes[self->length++] =
				(uint8_t)random_below(&self->random,
						      1 + random_below(&self->random, 256));
		ret = feed(self, &random);
		ASSERT_TRUE(ret == 0 || ret == -EPROTO);
	}
}

TEST_HARNESS_MAIN
