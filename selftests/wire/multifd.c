/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/multifd.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kselftest_harness.h"

#define SEEDS "selftests/fuzz/seeds/multifd/"

FIXTURE(multifd)
{
	struct random random;
	struct wh_err err;
	struct multifd_hello hello;
	struct multifd_packet packet;
	struct multifd_packet again;
	uint8_t bytes[MULTIFD_HEAD_BYTES];
};

FIXTURE_SETUP(multifd)
{
	memset(self, 0, sizeof(*self));
	wire_name_set(&self->packet.block, "pc.ram");
	self->packet.normal = 2;
	self->packet.zero = 1;
	self->packet.bytes = 2 * 4096;
	self->packet.offset[1] = 0x7000;
	self->packet.offset[2] = UINT64_C(0x123456789000);
}

FIXTURE_TEARDOWN(multifd)
{
}

TEST_F(multifd, a_hello_comes_back)
{
	struct multifd_hello again;

	self->hello.channel = 7;
	memcpy(self->hello.uuid, "0123456789abcdef", MULTIFD_UUID_BYTES);
	ASSERT_EQ(MULTIFD_HELLO_BYTES, multifd_put_hello(self->bytes, &self->hello));
	for (size_t length = 0; length < MULTIFD_HELLO_BYTES; length++)
		ASSERT_EQ(0, multifd_get_hello(self->bytes, length, &again, &self->err));
	ASSERT_EQ(1, multifd_get_hello(self->bytes, MULTIFD_HELLO_BYTES, &again, &self->err));
	ASSERT_EQ(0, memcmp(&self->hello, &again, sizeof(again)));
}

TEST_F(multifd, a_strange_hello)
{
	multifd_put_hello(self->bytes, &self->hello);
	put_be32(self->bytes + 4, 2);
	ASSERT_EQ(-EPROTO,
		  multifd_get_hello(self->bytes, MULTIFD_HELLO_BYTES, &self->hello, &self->err));
	ASSERT_STREQ("multifd hello of version 2, expected 1", self->err.text);
	put_be32(self->bytes, 0x5145564d);
	ASSERT_EQ(-EPROTO,
		  multifd_get_hello(self->bytes, MULTIFD_HELLO_BYTES, &self->hello, &self->err));
	ASSERT_STREQ("multifd hello begins with 0x5145564d, expected 0x11223344", self->err.text);
}

static void make_packet(struct random *random, struct multifd_packet *packet)
{
	uint32_t pages;

	memset(packet, 0, sizeof(*packet));
	packet->sync = random_u64(random) % 2;
	packet->method = (enum multifd_method)(random_u64(random) % MULTIFD_METHOD_COUNT);
	packet->number = random_u64(random);
	packet->normal = (uint32_t)(random_u64(random) % (MULTIFD_PAGES + 1));
	packet->zero = (uint32_t)(random_u64(random) % (MULTIFD_PAGES + 1 - packet->normal));
	pages = packet->normal + packet->zero;
	if (packet->normal)
		packet->bytes = packet->method == MULTIFD_NONE ?
					packet->normal * 4096 :
					1 + (uint32_t)(random_u64(random) % MULTIFD_BYTES_MAX);
	if (pages)
		wire_name_set(&packet->block, pages % 2 ? "pc.ram" : "/rom@etc/acpi/tables");
	for (uint32_t i = 0; i < pages; i++)
		packet->offset[i] = random_u64(random) & ~UINT64_C(4095);
}

TEST_F(multifd, a_packet_comes_back)
{
	for (unsigned turn = 0; turn < 500; turn++) {
		memset(&self->again, 0, sizeof(self->again));
		make_packet(&self->random, &self->packet);
		ASSERT_EQ(MULTIFD_HEAD_BYTES, multifd_put_head(self->bytes, &self->packet));
		for (size_t length = turn % 7; length < MULTIFD_HEAD_BYTES; length += 7)
			ASSERT_EQ(0,
				  multifd_get_head(self->bytes, length, &self->again, &self->err));
		ASSERT_EQ(1, multifd_get_head(self->bytes, MULTIFD_HEAD_BYTES, &self->again,
					      &self->err))
		TH_LOG("%s", self->err.text);
		ASSERT_EQ(0, memcmp(&self->packet, &self->again, sizeof(self->again)));
	}
}

/* 7.2 leaves name, offsets and length of the packet before in one without pages */
TEST_F(multifd, what_a_packet_without_pages_says_of_them_does_not_count)
{
	multifd_put_head(self->bytes, &self->packet);
	put_be32(self->bytes + 16, 0);
	put_be32(self->bytes + 32, 0);
	ASSERT_EQ(1, multifd_get_head(self->bytes, MULTIFD_HEAD_BYTES, &self->again, &self->err));
	ASSERT_EQ(0, self->again.bytes);
	ASSERT_EQ(0, self->again.block.length);
	/* and 10.0 asserts that one with zero pages only says 0 */
	self->packet.normal = 0;
	multifd_put_head(self->bytes, &self->packet);
	ASSERT_EQ(0, get_be32(self->bytes + 20));
}

struct lie {
	size_t at;
	uint32_t value;
	const char *sentence;
};

TEST_F(multifd, lies)
{
	static const struct lie lies[] = {
		{ 0, 0x11223345, "multifd packet begins with 0x11223345, expected 0x11223344" },
		{ 4, 2, "multifd packet of version 2, expected 1" },
		{ 8, 0x40, "multifd packet of device state, which is not supported" },
		{ 8, 0x80, "multifd packet with unknown flags 0x80" },
		{ 8, 0x80000000, "multifd packet with unknown flags 0x80000000" },
		{ 8, 0x06, "multifd packet with flags 0x6, compressed in several ways" },
		{ 16, 129, "multifd packet of 129 and 1 zero pages, at most 128" },
		{ 16, 0xffffffff, "multifd packet of 4294967295 and 1 zero pages, at most 128" },
		{ 16, 128, "multifd packet of 128 and 1 zero pages, at most 128" },
		{ 32, 0xffffffff, "multifd packet of 2 and 4294967295 zero pages, at most 128" },
		{ 20, 8191, "multifd packet of 8191 bytes for 2 pages, expected 8192 to 8192" },
		{ 20, 0, "multifd packet of 0 bytes for 2 pages, expected 8192 to 8192" },
		{ 64, 0, "empty name" },
		{ 64, 0x70630a00, "byte 0x0a in a name, at 2 of 3" },
		{ 332, 0x7001, "multifd packet with a page at 0x7001 of block pc.ram" },
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		multifd_put_head(self->bytes, &self->packet);
		put_be32(self->bytes + lies[i].at, lies[i].value);
		ASSERT_EQ(-EPROTO, multifd_get_head(self->bytes, MULTIFD_HEAD_BYTES, &self->again,
						    &self->err));
		ASSERT_STREQ(lies[i].sentence, self->err.text);
	}
	multifd_put_head(self->bytes, &self->packet);
	memset(self->bytes + 64, 'a', 256);
	ASSERT_EQ(-EPROTO,
		  multifd_get_head(self->bytes, MULTIFD_HEAD_BYTES, &self->again, &self->err));
	ASSERT_STREQ("multifd packet with a block's name without end", self->err.text);
	self->packet.method = MULTIFD_ZSTD;
	self->packet.bytes = MULTIFD_BYTES_MAX + 1;
	multifd_put_head(self->bytes, &self->packet);
	ASSERT_EQ(-EPROTO,
		  multifd_get_head(self->bytes, MULTIFD_HEAD_BYTES, &self->again, &self->err));
	ASSERT_STREQ("multifd packet of 1048577 bytes for 2 pages, expected 1 to 1048576",
		     self->err.text);
}

TEST(methods_by_name)
{
	for (int i = 0; i < MULTIFD_METHOD_COUNT; i++)
		ASSERT_EQ(i, multifd_method_named(multifd_method_name((enum multifd_method)i)));
	ASSERT_EQ(-1, multifd_method_named("zst"));
	ASSERT_EQ(-1, multifd_method_named("zstdd"));
	ASSERT_EQ(-1, multifd_method_named(""));
}

/* Channels of real QEMUs: -M none -m 64k, two pages of one content, the rest zero */
FIXTURE(recorded)
{
	struct wh_err err;
	size_t length;
	uint8_t bytes[16384];
};

FIXTURE_VARIANT(recorded)
{
	const char *name;
	enum multifd_method method;
	unsigned zeros;
	unsigned syncs;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(recorded, plain_7_2)
{
	.name = "qemu-7.2",
	.syncs = 3,
};

FIXTURE_VARIANT_ADD(recorded, zstd_7_2)
{
	.name = "qemu-7.2-zstd",
	.method = MULTIFD_ZSTD,
	.syncs = 3,
};

FIXTURE_VARIANT_ADD(recorded, plain_10_0)
{
	.name = "qemu-10.0",
	.zeros = 14,
	.syncs = 3,
};

FIXTURE_VARIANT_ADD(recorded, zstd_10_0)
{
	.name = "qemu-10.0-zstd",
	.method = MULTIFD_ZSTD,
	.zeros = 14,
	.syncs = 3,
};
/* clang-format on */

FIXTURE_SETUP(recorded)
{
	char path[128];
	FILE *file;

	memset(self, 0, sizeof(*self));
	snprintf(path, sizeof(path), SEEDS "%s", variant->name);
	file = fopen(path, "r");
	ASSERT_NE(NULL, file);
	self->length = fread(self->bytes, 1, sizeof(self->bytes), file);
	fclose(file);
}

FIXTURE_TEARDOWN(recorded)
{
}

TEST_F(recorded, to_its_last_byte)
{
	unsigned syncs = 0, normal = 0, zeros = 0;
	struct multifd_packet packet;
	struct multifd_hello hello;
	size_t at = MULTIFD_HELLO_BYTES;

	ASSERT_EQ(1, multifd_get_hello(self->bytes, self->length, &hello, &self->err));
	ASSERT_EQ(0, hello.channel);
	while (at < self->length) {
		ASSERT_EQ(1, multifd_get_head(self->bytes + at, self->length - at, &packet,
					      &self->err))
		TH_LOG("at %zu: %s", at, self->err.text);
		at += MULTIFD_HEAD_BYTES + packet.bytes;
		ASSERT_GE(self->length, at);
		syncs += packet.sync;
		normal += packet.normal;
		zeros += packet.zero;
		if (!packet.normal)
			continue;
		ASSERT_EQ(variant->method, packet.method);
		ASSERT_STREQ("ram", packet.block.text);
		ASSERT_EQ(UINT64_C(0x7000), packet.offset[0] + packet.offset[1]);
	}
	ASSERT_EQ(variant->syncs, syncs);
	ASSERT_EQ(2, normal);
	ASSERT_EQ(variant->zeros, zeros);
}

TEST_HARNESS_MAIN
