/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/parcel.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define MOST 200u

/* Something else in each field, and whether two are equal; from the table */
/* clang-format off */
#define F(type, name) body->name = random_##type(random);
#define BYTES(name) body->name = bytes;
#define PARCEL(kind_, number, member, fields)                                                   \
	static void random_##member(struct parcel *parcel, uint32_t bytes, struct random *random) \
	{                                                                                       \
		__typeof__(parcel->member) *body = &parcel->member;                             \
												\
		(void)bytes;                                                                    \
		parcel->kind = PARCEL_##kind_;                                                  \
		fields                                                                          \
	}
#include "wire/parcel.def"
#undef PARCEL
#undef BYTES
#undef F
/* clang-format on */

static const struct {
	const char *name;
	void (*fill)(struct parcel *parcel, uint32_t bytes, struct random *random);
} kinds[] = {
#define PARCEL(kind, number, member, fields) { #kind, random_##member },
#include "wire/parcel.def"
#undef PARCEL
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

FIXTURE(parcel)
{
	struct random random;
	uint8_t bytes[PARCEL_HEADER_MAX + MOST + 1], again[PARCEL_HEADER_MAX + MOST];
	struct parcel parcel;
	struct wh_err err;
};

FIXTURE_SETUP(parcel)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(parcel)
{
}

/* A message of kinds[i] with so many bytes of the stream, if it has any. Return: its length */
static size_t some(FIXTURE_DATA(parcel) *self, unsigned i, uint32_t bytes)
{
	struct parcel parcel = {
		.taken = random_u32(&self->random),
		.emptied = random_u64(&self->random),
	};
	size_t length;

	kinds[i].fill(&parcel, bytes, &self->random);
	length = parcel_put(self->bytes, &parcel);
	if (parcel.kind != PARCEL_STREAM)
		return length;
	for (uint32_t at = 0; at < bytes; at++)
		self->bytes[length + at] = (uint8_t)random_u32(&self->random);
	return length + bytes;
}

static int get(FIXTURE_DATA(parcel) *self, size_t length)
{
	self->err = (struct wh_err){ 0 };
	return parcel_get(self->bytes, length, &self->parcel, &self->err);
}

TEST_F(parcel, every_kind_comes_back)
{
	for (unsigned round = 0; round < 100; round++) {
		unsigned i = round % KINDS;
		uint32_t bytes = (uint32_t)random_below(&self->random, MOST + 1);
		size_t length = some(self, i, bytes), put;

		ASSERT_EQ(0, get(self, length)) TH_LOG("%s: %s", kinds[i].name, self->err.text);
		put = parcel_put(self->again, &self->parcel);
		EXPECT_EQ(put, parcel_header(self->parcel.kind));
		ASSERT_GE(PARCEL_HEADER_MAX, put);
		EXPECT_EQ(self->bytes + put, self->parcel.payload);
		EXPECT_EQ(0, memcmp(self->bytes, self->again, put));
		EXPECT_EQ(self->parcel.kind == PARCEL_STREAM ? bytes : 0, length - put);
	}
}

TEST_F(parcel, every_other_length_is_an_error)
{
	for (unsigned i = 0; i < KINDS; i++) {
		size_t length = some(self, i, 7);

		for (size_t other = 0; other <= length + 1; other++) {
			if (other == length)
				continue;
			EXPECT_EQ(-EPROTO, get(self, other)) TH_LOG("%s", kinds[i].name);
			EXPECT_NE('\0', self->err.text[0]);
		}
	}
}

TEST_F(parcel, unknown_kinds_are_refused)
{
	size_t length = some(self, 0, 1);

	put_be32(self->bytes, 0);
	EXPECT_EQ(-EPROTO, get(self, length));
	put_be32(self->bytes, PARCEL_COUNT);
	EXPECT_EQ(-EPROTO, get(self, length));
	EXPECT_STREQ("rdma: message of unknown kind 3, 33 bytes", self->err.text);
}

/* What is on the wire, byte by byte */
TEST_F(parcel, layouts)
{
	static const uint8_t stream[] = { 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3,   0,
					  0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 'a', 'b' };
	static const uint8_t area[] = { 0, 0, 0, 2, 0,	0, 0, 2, 0, 0, 0, 0, 0,	 0, 0, 3, 0, 0,
					0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 9 };

	memcpy(self->bytes, stream, sizeof(stream));
	ASSERT_EQ(0, get(self, sizeof(stream)));
	EXPECT_EQ(PARCEL_STREAM, self->parcel.kind);
	EXPECT_EQ(2, self->parcel.taken);
	EXPECT_EQ(3, self->parcel.emptied);
	EXPECT_EQ(2, self->parcel.stream.bytes);
	EXPECT_EQ(5, self->parcel.stream.landed);
	EXPECT_EQ(6, self->parcel.stream.at);
	EXPECT_EQ('a', self->parcel.payload[0]);
	memcpy(self->bytes, area, sizeof(area));
	ASSERT_EQ(0, get(self, sizeof(area)));
	EXPECT_EQ(PARCEL_AREA, self->parcel.kind);
	EXPECT_EQ(0x1000, self->parcel.area.address);
	EXPECT_EQ(0x2000, self->parcel.area.length);
	EXPECT_EQ(9, self->parcel.area.key);
}

TEST_HARNESS_MAIN
