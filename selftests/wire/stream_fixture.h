/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_WIRE_STREAM_FIXTURE_H
#define SELFTESTS_WIRE_STREAM_FIXTURE_H

#include "wire/stream.h"

#include "base/bytes.h"
#include "selftests/wire/feed.h"
#include "selftests/wire/vector.h"
#include "wire/device.h"

#include <errno.h>

#include "kselftest_harness.h"

#define PAGE UINT64_C(4096)

static const __attribute__((unused)) struct pieces whole = { piece_all, NULL };
static const __attribute__((unused)) struct pieces units = { piece_need, NULL };

FIXTURE(stream)
{
	struct random random;
	struct stream_in in;
	struct wh_err err;
	struct text text;
	struct vector *vectors;
	unsigned count;
	uint8_t bytes[100000];
	size_t length;
};

FIXTURE_SETUP(stream)
{
	memset(self, 0, sizeof(*self));
	stream_in_init(&self->in, false);
	text_init(&self->text);
	self->vectors = vectors_load("stream", &self->count);
}

FIXTURE_TEARDOWN(stream)
{
	text_fini(&self->text);
	free(self->vectors);
}

static const struct vector *find(const FIXTURE_DATA(stream) *self, const char *name)
{
	unsigned i;

	for (i = 0; i < self->count; i++)
		if (!strcmp(self->vectors[i].name, name))
			return &self->vectors[i];
	abort();
}

static inline void add(FIXTURE_DATA(stream) *self, const void *bytes, size_t length)
{
	memcpy(self->bytes + self->length, bytes, length);
	self->length += length;
}

#define ADD(literal) add(self, literal, sizeof(literal) - 1)

static inline int feed(FIXTURE_DATA(stream) *self, const struct pieces *pieces)
{
	int ret =
		feed_stream(&self->in, self->bytes, self->length, pieces, &self->text, &self->err);

	self->length = 0;
	return ret;
}

static inline void again(FIXTURE_DATA(stream) *self)
{
	stream_in_init(&self->in, false);
	text_fini(&self->text);
	text_init(&self->text);
	self->length = 0;
}

/* Header and a START of ram, id 7, with block r of two pages; up to its footer */
static inline void add_start(FIXTURE_DATA(stream) *self)
{
	ADD("QEVM\0\0\0\3"
	    "\1\0\0\0\7\3ram\0\0\0\0\0\0\0\4"
	    "\0\0\0\0\0\0\x20\4\1r\0\0\0\0\0\0\x20\0"
	    "\0\0\0\0\0\0\0\x10\x7e\0\0\0\7");
}

static inline void add_end(FIXTURE_DATA(stream) *self)
{
	ADD("\3\0\0\0\7\0\0\0\0\0\0\0\x10\x7e\0\0\0\7");
}

/* Bytes behind a good beginning are refused, with a sentence that says where and what */
#define ASSERT_REFUSED(words)                                  \
	do {                                                   \
		size_t n = self->length;                       \
		struct wh_err first;                           \
                                                               \
		stream_in_init(&self->in, false);              \
		memset(&self->err, 0, sizeof(self->err));      \
		ASSERT_EQ(-EPROTO, feed(self, &whole));        \
		ASSERT_EQ(-EPROTO, self->err.code);            \
		EXPECT_NE(NULL, strstr(self->err.text, words)) \
		{                                              \
			TH_LOG("%s", self->err.text);          \
		}                                              \
		first = self->err;                             \
		stream_in_init(&self->in, false);              \
		self->length = n;                              \
		ASSERT_EQ(-EPROTO, feed(self, &units));        \
		ASSERT_STREQ(first.text, self->err.text);      \
	} while (0)

#endif /* SELFTESTS_WIRE_STREAM_FIXTURE_H */
