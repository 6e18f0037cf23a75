/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_WIRE_RAM_FIXTURE_H
#define SELFTESTS_WIRE_RAM_FIXTURE_H

#include "wire/ram.h"

#include "base/bytes.h"
#include "selftests/wire/feed.h"

#include <errno.h>

#include "kselftest_harness.h"

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)

FIXTURE(ram)
{
	struct random random;
	struct ram_in in;
	struct ram_blocks blocks;
	struct wh_err err;
	struct text text;
	uint8_t bytes[400000];
	size_t length;
};

FIXTURE_SETUP(ram)
{
	memset(self, 0, sizeof(*self));
	ram_in_init(&self->in, false);
	text_init(&self->text);
}

FIXTURE_TEARDOWN(ram)
{
	text_fini(&self->text);
}

static const __attribute__((unused)) struct pieces whole = { piece_all, NULL };
static const __attribute__((unused)) struct pieces units = { piece_need, NULL };

static inline void add(FIXTURE_DATA(ram) *self, const void *bytes, size_t length)
{
	memcpy(self->bytes + self->length, bytes, length);
	self->length += length;
}

static inline void add_be64(FIXTURE_DATA(ram) *self, uint64_t value)
{
	put_be64(self->bytes + self->length, value);
	self->length += 8;
}

static inline void add_be16(FIXTURE_DATA(ram) *self, uint16_t value)
{
	put_be16(self->bytes + self->length, value);
	self->length += 2;
}

static inline void add_name(FIXTURE_DATA(ram) *self, const char *name)
{
	uint8_t length = (uint8_t)strlen(name);

	add(self, &length, 1);
	add(self, name, length);
}

static inline void add_block(FIXTURE_DATA(ram) *self, const char *name, uint64_t used)
{
	add_name(self, name);
	add_be64(self, used);
}

/* Two blocks: ram of 16 pages and rom of 2 */
static inline void add_list(FIXTURE_DATA(ram) *self)
{
	add_be64(self, 18 * PAGE | RAM_MEM_SIZE);
	add_block(self, "ram", 16 * PAGE);
	add_block(self, "rom", 2 * PAGE);
	add_be64(self, RAM_EOS);
}

static inline void add_page(FIXTURE_DATA(ram) *self)
{
	unsigned i;

	for (i = 0; i < PAGE; i++)
		self->bytes[self->length++] = (uint8_t)random_below(&self->random, 256);
}

static inline int feed(FIXTURE_DATA(ram) *self, const struct pieces *pieces)
{
	int ret = feed_ram(&self->in, &self->blocks, self->bytes, self->length, pieces, &self->text,
			   &self->err);

	self->length = 0;
	return ret;
}

/* Bytes made, fed both ways: refused, with a sentence that has these words */
#define ASSERT_REFUSED(words)                                  \
	do {                                                   \
		struct ram_in before = self->in;               \
		size_t n = self->length;                       \
                                                               \
		ASSERT_EQ(-EPROTO, feed(self, &whole));        \
		ASSERT_EQ(-EPROTO, self->err.code);            \
		ASSERT_NE(NULL, strstr(self->err.text, words)) \
		{                                              \
			TH_LOG("%s", self->err.text);          \
		}                                              \
		self->in = before;                             \
		self->length = n;                              \
		ASSERT_EQ(-EPROTO, feed(self, &units));        \
		ram_in_init(&self->in, self->in.urgent);       \
	} while (0)

#endif /* SELFTESTS_WIRE_RAM_FIXTURE_H */
