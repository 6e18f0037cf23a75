/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a stage makes of a guest's pages. That another end can make the pages of it again is in
 * through.c.
 */
#include "base/bits.h"
#include "base/err.h"
#include "checkpoint/stage.h"
#include "uffd/dirty.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

#define PAGES 3000u
#define GENERATION 5u
#define SLAB (UINT64_C(4) << 20)

FIXTURE(stage)
{
	struct cp_stage *stage;
	struct region region;
	uint8_t *memory;
	uint64_t map[PAGES / 64 + 1];
	unsigned devices;
	int tracker_ret;
	struct wh_err err;
	struct cp_out out;
};

static int written(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	FIXTURE_DATA(stage) *self = world;

	(void)block;
	if (self->tracker_ret)
		return err_set(err, self->tracker_ret, "a tracker that fails");
	for (uint64_t page = 0; page < PAGES; page++)
		if (bits_test_clear(self->map, page))
			bits_set(map, page);
	return 0;
}

static struct cp_stage_settings usual(void)
{
	return (struct cp_stage_settings){
		.generation = GENERATION,
		.contents_max = PAGES * CP_PAGE,
		.device_max = 3u << 20,
		.slab_cap = 2 * PAGES * CP_PAGE,
		.cache_bytes = PAGES * CP_PAGE,
		.hash = true,
	};
}

/* A stage whose first checkpoint is acknowledged: the destination has what is there */
static int make(FIXTURE_DATA(stage) *self, const struct cp_stage_settings *settings,
		uint32_t features)
{
	const struct cp_dirty dirty = { .written = written, .world = self };
	int64_t ret;

	self->stage = cp_stage_new(settings, &self->region, 1, &dirty, &self->err);
	if (!self->stage)
		return self->err.code;
	cp_stage_begin(self->stage, features);
	while ((ret = cp_stage_copy(self->stage, 1u << 20, &self->err)) > 0) {
		if (cp_stage_pack(self->stage, 1, &self->err) < 0)
			return -1;
		while (cp_stage_next(self->stage, &self->out))
			;
		cp_stage_forget(self->stage);
	}
	if (ret < 0 || cp_stage_stop(self->stage, NULL, 0, &self->err) < 0 ||
	    cp_stage_pack(self->stage, 1, &self->err) < 0)
		return -1;
	while (cp_stage_next(self->stage, &self->out))
		;
	cp_stage_acked(self->stage);
	return 0;
}

FIXTURE_SETUP(stage)
{
	memset(self, 0, sizeof(*self));
	self->memory = mmap(NULL, PAGES * CP_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	self->region.addr = self->memory;
	self->region.length = PAGES * CP_PAGE;
	strcpy(self->region.name, "ram");
}

FIXTURE_TEARDOWN(stage)
{
	cp_stage_free(self->stage);
	munmap(self->memory, PAGES * CP_PAGE);
}

static void fill(FIXTURE_DATA(stage) *self, uint64_t page, uint64_t count, int value)
{
	memset(self->memory + page * CP_PAGE, value, count * CP_PAGE);
	bits_range_set(self->map, page, count);
}

/* That nothing makes smaller */
static void noise(FIXTURE_DATA(stage) *self, uint64_t page, uint64_t count, uint64_t seed)
{
	uint64_t *words = (uint64_t *)(void *)(self->memory + page * CP_PAGE);

	for (uint64_t i = 0; i < count * CP_PAGE / 8; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		words[i] = seed ^ seed >> 29;
	}
	bits_range_set(self->map, page, count);
}

static int stop(FIXTURE_DATA(stage) *self)
{
	self->err = (struct wh_err){ 0 };
	return cp_stage_stop(self->stage, NULL, 0, &self->err);
}

/* The epoch is sent. Return: the first run of the last META */
static struct cp_entry sent(FIXTURE_DATA(stage) *self, uint64_t epoch)
{
	struct cp_entry entry = { 0 };

	cp_stage_pack(self->stage, epoch, &self->err);
	self->devices = 0;
	while (cp_stage_next(self->stage, &self->out))
		if (self->out.header.kind == CP_DEVICE)
			self->devices++;
		else if (self->out.header.kind == CP_META)
			cp_entry_get(self->out.iov[1].iov_base, &entry, &self->err);
	return entry;
}

TEST_F(stage, pages_as_they_are)
{
	struct cp_stage_settings settings = usual();
	struct cp_header header;
	struct cp_entry entry;
	struct cp_msg totals;

	settings.hash = false;
	ASSERT_EQ(0, make(self, &settings, 0));
	fill(self, 7, 3, 0x77);
	ASSERT_EQ(0, stop(self));
	/* what is written then is of the next */
	fill(self, 8, 1, 0x78);
	ASSERT_EQ(0, cp_stage_pack(self->stage, 2, &self->err));

	ASSERT_TRUE(cp_stage_next(self->stage, &self->out));
	ASSERT_EQ(0, cp_header_get(self->out.iov[0].iov_base, CP_FROM_SOURCE, &header, &self->err));
	EXPECT_EQ(CP_BEGIN, header.kind);
	EXPECT_EQ(GENERATION, header.generation);
	EXPECT_EQ(2, header.epoch);
	ASSERT_TRUE(cp_stage_next(self->stage, &self->out));
	EXPECT_EQ(CP_META, self->out.header.kind);
	ASSERT_EQ(2, self->out.count);
	EXPECT_EQ(CP_ENTRY, self->out.iov[1].iov_len);
	ASSERT_EQ(0, cp_entry_get(self->out.iov[1].iov_base, &entry, &self->err));
	EXPECT_EQ(CP_PLAIN, entry.content);
	EXPECT_EQ(7, entry.first);
	EXPECT_EQ(3, entry.pages);
	EXPECT_EQ(3 * CP_PAGE, entry.bytes);
	ASSERT_TRUE(cp_stage_next(self->stage, &self->out));
	ASSERT_EQ(0, cp_header_get(self->out.iov[0].iov_base, CP_FROM_SOURCE, &header, &self->err));
	EXPECT_EQ(CP_PAGES, header.kind);
	EXPECT_EQ(3 * CP_PAGE, header.length);
	/* in one piece, as it was */
	ASSERT_EQ(2, self->out.count);
	ASSERT_EQ(3 * CP_PAGE, self->out.iov[1].iov_len);
	for (unsigned i = 0; i < 3 * CP_PAGE; i++)
		ASSERT_EQ(0x77, ((uint8_t *)self->out.iov[1].iov_base)[i]);
	EXPECT_FALSE(cp_stage_next(self->stage, &self->out));
	cp_stage_totals(self->stage, &totals);
	EXPECT_EQ(1, totals.commit.entries);
	EXPECT_EQ(3 * CP_PAGE, totals.commit.contents);
	EXPECT_EQ(0, totals.commit.device);
	cp_stage_acked(self->stage);

	ASSERT_EQ(0, stop(self));
	entry = sent(self, 3);
	EXPECT_EQ(8, entry.first);
	EXPECT_EQ(1, entry.pages);
}

TEST_F(stage, each_message_is_one_that_may_be)
{
	struct cp_stage_settings settings = usual();
	struct cp_header header;
	unsigned metas = 0, pages = 0, devices = 0, begins = 0;
	uint64_t entries = 0, contents = 0;
	struct cp_msg totals;
	uint8_t *device = calloc(1, 3u << 20);

	ASSERT_EQ(0, make(self, &settings, 0));
	for (unsigned i = 0; i < PAGES; i += 2)
		noise(self, i, 1, i + 1);
	ASSERT_EQ(0, cp_stage_stop(self->stage, device, 3u << 20, &self->err));
	ASSERT_EQ(0, cp_stage_pack(self->stage, 2, &self->err));
	while (cp_stage_next(self->stage, &self->out)) {
		uint64_t bytes = 0;

		ASSERT_EQ(0, cp_header_get(self->out.iov[0].iov_base, CP_FROM_SOURCE, &header,
					   &self->err));
		EXPECT_EQ(self->out.header.length, header.length);
		ASSERT_GE(CP_OUT_PIECES, self->out.count);
		for (unsigned i = 0; i < self->out.count; i++)
			bytes += self->out.iov[i].iov_len;
		/* pages side by side in a slab are one piece of the message */
		EXPECT_GE(3, self->out.count);
		EXPECT_EQ(CP_HEADER + header.length, bytes);
		EXPECT_EQ(bytes, self->out.bytes);
		begins += header.kind == CP_BEGIN;
		metas += header.kind == CP_META;
		pages += header.kind == CP_PAGES;
		devices += header.kind == CP_DEVICE;
		if (header.kind == CP_META)
			entries += header.length / CP_ENTRY;
		if (header.kind == CP_PAGES)
			contents += header.length;
	}
	EXPECT_EQ(1, begins);
	EXPECT_EQ(1, metas);
	EXPECT_EQ(6, pages);
	EXPECT_EQ(3, devices);
	cp_stage_totals(self->stage, &totals);
	EXPECT_EQ(entries, totals.commit.entries);
	EXPECT_EQ(contents, totals.commit.contents);
	EXPECT_EQ(PAGES / 2 * CP_PAGE, contents);
	EXPECT_EQ(3u << 20, totals.commit.device);
}

TEST_F(stage, is_sent_again_as_it_was)
{
	struct cp_stage_settings settings = usual();
	struct cp_msg first, second;
	unsigned count = 0;

	ASSERT_EQ(0, make(self, &settings, CP_FEATURES));
	fill(self, 0, 40, 0x31);
	noise(self, 100, 30, 1);
	ASSERT_EQ(0, stop(self));
	fill(self, 0, 40, 0x32);
	ASSERT_EQ(0, cp_stage_pack(self->stage, 2, &self->err));
	while (cp_stage_next(self->stage, &self->out))
		count++;
	cp_stage_totals(self->stage, &first);
	/* once to its end, once from the middle */
	for (unsigned i = 0; i < 2; i++) {
		unsigned again = 0;

		cp_stage_rewind(self->stage);
		while (again < (i ? 2 : UINT_MAX) && cp_stage_next(self->stage, &self->out))
			again++;
		EXPECT_EQ(i ? 2 : count, again);
	}
	cp_stage_rewind(self->stage);
	while (cp_stage_next(self->stage, &self->out))
		;
	cp_stage_totals(self->stage, &second);
	EXPECT_EQ(first.commit.hash, second.commit.hash);
	EXPECT_EQ(first.commit.entries, second.commit.entries);
	EXPECT_EQ(first.commit.contents, second.commit.contents);
}

TEST_F(stage, zeros_have_no_contents)
{
	struct cp_stage_settings settings = usual();
	struct cp_entry entry;

	fill(self, 0, 10, 1);
	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_ZERO)));
	fill(self, 0, 10, 0);
	ASSERT_EQ(0, stop(self));
	entry = sent(self, 2);
	EXPECT_EQ(CP_ZERO, entry.content);
	EXPECT_EQ(10, entry.pages);
	cp_stage_acked(self->stage);
	EXPECT_EQ(10, cp_stage_last(self->stage)->zero);
}

TEST_F(stage, what_is_as_it_was_is_left_out)
{
	struct cp_stage_settings settings = usual();

	settings.cache_bytes = 0;
	fill(self, 0, 10, 1);
	fill(self, 10, 10, 0);
	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_ZERO)));
	fill(self, 0, 10, 1);
	fill(self, 10, 10, 0);
	fill(self, 5, 1, 2);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(5, sent(self, 2).first);
	cp_stage_acked(self->stage);
	EXPECT_EQ(19, cp_stage_last(self->stage)->same);
	EXPECT_EQ(1, cp_stage_last(self->stage)->plain);
	/* it is compared with what was acknowledged last, not with the first */
	fill(self, 5, 1, 1);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(5, sent(self, 3).first);
	cp_stage_acked(self->stage);
	EXPECT_EQ(1, cp_stage_last(self->stage)->plain);
}

TEST_F(stage, differences_are_to_what_was_acknowledged)
{
	struct cp_stage_settings settings = usual();
	struct cp_entry entry;

	settings.hash = false;
	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_XBZRLE)));
	/* it is not in the cache: all of it */
	noise(self, 3, 1, 1);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(CP_PLAIN, sent(self, 2).content);
	cp_stage_acked(self->stage);
	self->memory[3 * CP_PAGE + 100] ^= 1;
	bits_set(self->map, 3);
	ASSERT_EQ(0, stop(self));
	entry = sent(self, 3);
	EXPECT_EQ(CP_XBZRLE, entry.content);
	EXPECT_EQ(3, entry.first);
	EXPECT_EQ(1, entry.pages);
	EXPECT_EQ(3, entry.bytes);
	cp_stage_acked(self->stage);
	/* it is as it was: not even by XBZRLE */
	bits_set(self->map, 3);
	ASSERT_EQ(0, stop(self));
	sent(self, 4);
	cp_stage_acked(self->stage);
	EXPECT_EQ(1, cp_stage_last(self->stage)->same);
	/* another altogether */
	noise(self, 3, 1, 2);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(CP_PLAIN, sent(self, 5).content);
}

/* Two pages that share a place in the cache */
TEST_F(stage, a_small_cache_forgets)
{
	struct cp_stage_settings settings = usual();

	settings.hash = false;
	settings.cache_bytes = 10 * CP_PAGE;
	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_XBZRLE)));
	noise(self, 3, 1, 1);
	ASSERT_EQ(0, stop(self));
	sent(self, 2);
	cp_stage_acked(self->stage);
	/* to which page 3 would be but a little different */
	noise(self, 13, 1, 1);
	self->memory[13 * CP_PAGE] ^= 1;
	ASSERT_EQ(0, stop(self));
	sent(self, 3);
	cp_stage_acked(self->stage);
	self->memory[3 * CP_PAGE + 9] ^= 1;
	bits_set(self->map, 3);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(CP_PLAIN, sent(self, 4).content);
}

/* Nor is it what a page was before it was zeros */
TEST_F(stage, a_page_of_zeros_is_not_in_the_cache)
{
	struct cp_stage_settings settings = usual();

	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_ZERO) | CP_FEATURE(CP_XBZRLE)));
	noise(self, 3, 1, 1);
	ASSERT_EQ(0, stop(self));
	sent(self, 2);
	cp_stage_acked(self->stage);
	fill(self, 3, 1, 0);
	ASSERT_EQ(0, stop(self));
	sent(self, 3);
	cp_stage_acked(self->stage);
	noise(self, 3, 1, 1);
	self->memory[3 * CP_PAGE] ^= 1;
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(CP_PLAIN, sent(self, 4).content);
}

TEST_F(stage, runs_are_packed)
{
	struct cp_stage_settings settings = usual();
	struct cp_entry entry;

	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_ZSTD)));
	fill(self, 3, 20, 0x41);
	ASSERT_EQ(0, stop(self));
	entry = sent(self, 2);
	EXPECT_EQ(CP_ZSTD, entry.content);
	EXPECT_EQ(20, entry.pages);
	EXPECT_GT(1000, entry.bytes);
	cp_stage_acked(self->stage);
	/* what does not get smaller goes as it is, and in one run */
	noise(self, 3, 100, 1);
	ASSERT_EQ(0, stop(self));
	entry = sent(self, 3);
	EXPECT_EQ(CP_PLAIN, entry.content);
	EXPECT_EQ(100, entry.pages);
}

TEST_F(stage, more_than_there_is_room_for)
{
	struct cp_stage_settings settings = usual();

	settings.contents_max = 10 * CP_PAGE;
	ASSERT_EQ(0, make(self, &settings, 0));
	fill(self, 0, 11, 1);
	EXPECT_EQ(-ENOSPC, stop(self));
	EXPECT_NE(NULL, strstr(self->err.text, "45056"));
	/* nothing is forgotten by that */
	EXPECT_EQ(11, cp_stage_look(self->stage, &self->err));
	cp_stage_free(self->stage);

	/* or the slabs are full */
	memset(self->map, 0, sizeof(self->map));
	settings.contents_max = PAGES * CP_PAGE;
	settings.slab_cap = SLAB;
	memset(self->memory, 0, PAGES * CP_PAGE);
	ASSERT_EQ(0, make(self, &settings, CP_FEATURE(CP_ZERO)));
	fill(self, 0, SLAB / CP_PAGE + 1, 1);
	EXPECT_EQ(-ENOSPC, stop(self));
	EXPECT_NE(NULL, strstr(self->err.text, "4 MiB"));
	EXPECT_EQ(SLAB / CP_PAGE + 1, cp_stage_look(self->stage, &self->err));
}

TEST_F(stage, what_was_copied_ahead_does_not_take_the_room)
{
	struct cp_stage_settings settings = usual();

	settings.slab_cap = 2 * SLAB;
	ASSERT_EQ(0, make(self, &settings, 0));
	noise(self, 0, 2048, 1);
	EXPECT_EQ(2048, cp_stage_look(self->stage, &self->err));
	/* half of the slabs, whatever was asked for */
	EXPECT_EQ(1024 * CP_PAGE, cp_stage_copy(self->stage, 100 * SLAB, &self->err));
	EXPECT_EQ(0, cp_stage_copy(self->stage, 100 * SLAB, &self->err));
	/* those are counted as before; and once, if they are written again */
	EXPECT_EQ(2048, cp_stage_look(self->stage, &self->err));
	noise(self, 1000, 48, 3);
	EXPECT_EQ(2048, cp_stage_look(self->stage, &self->err));
	/* all of it once more: with the copies of before there would not be room */
	noise(self, 0, 2048, 2);
	ASSERT_EQ(0, stop(self));
	sent(self, 2);
	cp_stage_acked(self->stage);
	EXPECT_EQ(2048, cp_stage_last(self->stage)->plain);
}

TEST_F(stage, the_newest_copy_counts)
{
	struct cp_stage_settings settings = usual();
	const uint8_t *at;

	ASSERT_EQ(0, make(self, &settings, 0));
	fill(self, 5, 3, 1);
	ASSERT_EQ(3, cp_stage_look(self->stage, &self->err));
	ASSERT_EQ(3 * CP_PAGE, cp_stage_copy(self->stage, SLAB, &self->err));
	fill(self, 6, 1, 2);
	ASSERT_EQ(3, cp_stage_look(self->stage, &self->err));
	ASSERT_EQ(CP_PAGE, cp_stage_copy(self->stage, SLAB, &self->err));
	fill(self, 6, 1, 3);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(5, sent(self, 2).first);
	cp_stage_rewind(self->stage);
	while (cp_stage_next(self->stage, &self->out) && self->out.header.kind != CP_PAGES)
		;
	EXPECT_EQ(3 * CP_PAGE, self->out.header.length);
	/* the page that was copied last is last */
	ASSERT_EQ(4, self->out.count);
	at = self->out.iov[3].iov_base;
	EXPECT_EQ(3, at[0]);
	EXPECT_EQ(3, at[CP_PAGE - 1]);
	cp_stage_acked(self->stage);
	EXPECT_EQ(3, cp_stage_last(self->stage)->plain);
	EXPECT_EQ(5, cp_stage_last(self->stage)->pages);
}

TEST_F(stage, a_tracker_that_fails_is_not_believed)
{
	struct cp_stage_settings settings = usual();

	ASSERT_EQ(0, make(self, &settings, 0));
	self->tracker_ret = -EIO;
	EXPECT_EQ(-EIO, stop(self));
	EXPECT_NE(NULL, strstr(self->err.text, "a tracker"));
	EXPECT_EQ(-EIO, cp_stage_look(self->stage, &self->err));
	self->tracker_ret = 0;
	EXPECT_EQ(PAGES, cp_stage_look(self->stage, &self->err));
}

TEST_F(stage, device_state_has_a_limit)
{
	struct cp_stage_settings settings = usual();

	settings.device_max = 100;
	ASSERT_EQ(0, make(self, &settings, 0));
	fill(self, 1, 1, 1);
	EXPECT_EQ(-EMSGSIZE, cp_stage_stop(self->stage, calloc(1, 101), 101, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "101"));
	ASSERT_EQ(0, cp_stage_stop(self->stage, calloc(1, 100), 100, &self->err));
	EXPECT_EQ(1, sent(self, 2).first);
	EXPECT_EQ(1, self->devices);
}

TEST_F(stage, has_room_before_the_stop)
{
	struct cp_stage_settings settings = usual();
	uint64_t bytes;

	ASSERT_EQ(0, make(self, &settings, 0));
	fill(self, 0, 2500, 1);
	ASSERT_EQ(2500, cp_stage_look(self->stage, &self->err));
	ASSERT_EQ(0, cp_stage_ready(self->stage, &self->err));
	bytes = cp_stage_slabs(self->stage);
	EXPECT_LE(3 * SLAB, bytes);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(bytes, cp_stage_slabs(self->stage));
}

TEST_F(stage, a_guest_of_no_blocks_or_too_many)
{
	struct cp_stage_settings settings = usual();
	const struct cp_dirty dirty = { .written = written, .world = self };

	EXPECT_EQ(NULL, cp_stage_new(&settings, &self->region, 0, &dirty, &self->err));
	EXPECT_EQ(NULL, cp_stage_new(&settings, &self->region, 65, &dirty, &self->err));
	EXPECT_EQ(-EINVAL, self->err.code);
}

/* The kernel's tracker */
TEST_F(stage, pages_that_userfaultfd_tells)
{
	struct cp_stage_settings settings = usual();
	struct dirty_log log;
	struct cp_dirty dirty;
	int ret = dirty_log_open(&log, &self->region, 1, &self->err);

	if (ret == -EOPNOTSUPP)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret);
	dirty = cp_dirty_uffd(&log);
	settings.hash = false;
	self->stage = cp_stage_new(&settings, &self->region, 1, &dirty, &self->err);
	ASSERT_NE(NULL, self->stage);
	cp_stage_begin(self->stage, 0);
	ASSERT_EQ(0, stop(self));
	sent(self, 1);
	cp_stage_acked(self->stage);
	EXPECT_EQ(PAGES, cp_stage_last(self->stage)->plain);
	memset(self->memory + 1000 * CP_PAGE, 1, 5 * CP_PAGE);
	ASSERT_EQ(0, stop(self));
	EXPECT_EQ(1000, sent(self, 2).first);
	cp_stage_acked(self->stage);
	EXPECT_EQ(5, cp_stage_last(self->stage)->plain);
	dirty_log_close(&log);
}

TEST_HARNESS_MAIN
