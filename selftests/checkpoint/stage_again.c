/* SPDX-License-Identifier: GPL-2.0 */
/* What is too large for one checkpoint goes in parts. That it arrives is in through.c. */
#include "base/bits.h"
#include "base/err.h"
#include "checkpoint/stage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define PAGES 64u
#define MOST 10u /* of them in one */

FIXTURE(again)
{
	struct cp_stage *stage;
	struct region region;
	uint64_t map[1];
	struct wh_err err;
	struct cp_out out;
	/* of what was sent last */
	uint32_t full, kinds[CP_CONTENT_COUNT];
	uint64_t pages, parts;
};

static int written(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	FIXTURE_DATA(again) *self = world;

	(void)block;
	(void)err;
	map[0] |= self->map[0];
	self->map[0] = 0;
	return 0;
}

static void count_entries(FIXTURE_DATA(again) *self)
{
	for (unsigned i = 1; i < self->out.count; i++) {
		const uint8_t *at = self->out.iov[i].iov_base;
		struct cp_entry entry;

		for (size_t j = 0; j < self->out.iov[i].iov_len; j += CP_ENTRY) {
			cp_entry_get(at + j, &entry, &self->err);
			self->kinds[entry.content] += entry.pages;
			self->pages += entry.pages;
		}
	}
}

static void sent(FIXTURE_DATA(again) *self, uint64_t epoch)
{
	cp_stage_pack(self->stage, epoch, &self->err);
	while (cp_stage_next(self->stage, &self->out)) {
		if (self->out.header.kind == CP_BEGIN)
			self->full = self->out.head[CP_HEADER + 3];
		if (self->out.header.kind == CP_META)
			count_entries(self);
	}
}

static void send_parts(FIXTURE_DATA(again) *self, uint64_t epoch)
{
	self->pages = self->parts = 0;
	memset(self->kinds, 0, sizeof(self->kinds));
	while (cp_stage_copy(self->stage, 7 * CP_PAGE, &self->err) > 0) {
		sent(self, epoch);
		cp_stage_forget(self->stage);
		self->parts++;
	}
}

static int stop_and_send(FIXTURE_DATA(again) *self, uint64_t epoch)
{
	int ret = cp_stage_stop(self->stage, NULL, 0, &self->err);

	self->pages = 0;
	memset(self->kinds, 0, sizeof(self->kinds));
	if (ret == 0)
		sent(self, epoch);
	return ret;
}

/* A byte of each is another: a small difference */
static void touch(FIXTURE_DATA(again) *self, uint64_t first, uint64_t count)
{
	for (uint64_t page = first; page < first + count; page++)
		self->region.addr[page * CP_PAGE + 7]++;
	bits_range_set(self->map, first, count);
}

/* All pages are in the cache, all are known */
FIXTURE_SETUP(again)
{
	const struct cp_stage_settings settings = {
		.generation = 5,
		.contents_max = MOST * CP_PAGE,
		.device_max = 16,
		.slab_cap = 8u << 20,
		.cache_bytes = PAGES * CP_PAGE,
		.hash = true,
	};
	const struct cp_dirty dirty = { .written = written, .world = self };

	memset(self, 0, sizeof(*self));
	self->region = (struct region){
		.addr = aligned_alloc(CP_PAGE, PAGES * CP_PAGE),
		.length = PAGES * CP_PAGE,
		.name = "ram",
	};
	ASSERT_NE(NULL, self->region.addr);
	memset(self->region.addr, 0x11, PAGES * CP_PAGE);
	self->stage = cp_stage_new(&settings, &self->region, 1, &dirty, &self->err);
	ASSERT_NE(NULL, self->stage);
	cp_stage_begin(self->stage, CP_FEATURE(CP_XBZRLE));
	ASSERT_EQ(0, stop_and_send(self, 1));
	EXPECT_EQ(1, self->full);
	cp_stage_acked(self->stage);
	touch(self, 0, 3);
	ASSERT_EQ(0, stop_and_send(self, 2));
	EXPECT_EQ(0, self->full);
	EXPECT_EQ(3, self->kinds[CP_XBZRLE]);
	cp_stage_acked(self->stage);
}

FIXTURE_TEARDOWN(again)
{
	cp_stage_free(self->stage);
	free(self->region.addr);
}

TEST_F(again, what_was_written_goes_in_parts)
{
	touch(self, 20, MOST + 5);
	ASSERT_EQ(-ENOSPC, stop_and_send(self, 3));
	cp_stage_again(self->stage, false);
	send_parts(self, 3);
	EXPECT_EQ(1, self->full);
	EXPECT_EQ(3, self->parts);
	EXPECT_EQ(MOST + 5, self->pages);
	EXPECT_EQ(MOST + 5, self->kinds[CP_PLAIN]);
	/* what is left may be of any size, too; and one is as it was sent before */
	touch(self, 22, MOST + 1);
	bits_range_set(self->map, 20, 1);
	ASSERT_EQ(0, stop_and_send(self, 3));
	EXPECT_EQ(MOST + 1, self->kinds[CP_PLAIN]);
	EXPECT_EQ(MOST + 1, self->pages);
	cp_stage_acked(self->stage);
	/* differences are to what was sent last: of the others nothing is kept */
	touch(self, 21, 2);
	touch(self, 50, 1);
	ASSERT_EQ(0, stop_and_send(self, 4));
	EXPECT_EQ(0, self->full);
	EXPECT_EQ(1, self->kinds[CP_PLAIN]);
	EXPECT_EQ(2, self->kinds[CP_XBZRLE]);
	cp_stage_acked(self->stage);
	touch(self, 20, MOST + 1);
	EXPECT_EQ(-ENOSPC, stop_and_send(self, 5));
}

/* Given up when a part was sent, or when all of it was: what is there is not known */
TEST_F(again, one_that_is_given_up)
{
	touch(self, 20, MOST + 5);
	cp_stage_again(self->stage, false);
	cp_stage_copy(self->stage, 7 * CP_PAGE, &self->err);
	sent(self, 3);
	cp_stage_again(self->stage, true);
	send_parts(self, 3);
	EXPECT_EQ(PAGES, self->pages);
	ASSERT_EQ(0, stop_and_send(self, 3));
	EXPECT_EQ(0, self->pages);
	cp_stage_again(self->stage, true);
	send_parts(self, 3);
	EXPECT_EQ(PAGES, self->pages);
	ASSERT_EQ(0, stop_and_send(self, 3));
	cp_stage_acked(self->stage);
	touch(self, 3, 1);
	ASSERT_EQ(0, stop_and_send(self, 4));
	EXPECT_EQ(1, self->pages);
}

/* What was copied ahead, or in a stop that nobody sends, is to be copied still */
TEST_F(again, what_was_copied_and_not_sent)
{
	touch(self, 20, MOST + 5);
	EXPECT_EQ(MOST + 5, cp_stage_look(self->stage, &self->err));
	EXPECT_EQ(8 * CP_PAGE, cp_stage_copy(self->stage, 8 * CP_PAGE, &self->err));
	cp_stage_again(self->stage, false);
	send_parts(self, 3);
	EXPECT_EQ(MOST + 5, self->pages);
	touch(self, 40, 2);
	ASSERT_EQ(0, cp_stage_stop(self->stage, NULL, 0, &self->err));
	cp_stage_again(self->stage, true);
	send_parts(self, 3);
	EXPECT_EQ(PAGES, self->pages);
}

TEST_HARNESS_MAIN
