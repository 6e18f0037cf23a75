/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What comes, from one who may say anything that the engine lets pass. What a stage says is in
 * through.c.
 */
#include "checkpoint/stage.h" /* CP_PAGE */
#include "checkpoint/store.h"
#include "wire/xbzrle.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

#include "kselftest_harness.h"

#define PAGES 64u
#define DEVICE_MAX 1000u

FIXTURE(store)
{
	struct cp_store *store;
	struct region regions[2];
	struct wh_err err;
	uint8_t packed[4 * CP_PAGE];
	uint8_t page[8 * CP_PAGE];
	uint8_t memory[2][PAGES * CP_PAGE] __attribute__((aligned(64)));
};

static void make(FIXTURE_DATA(store) *self, const struct cp_store_settings *settings)
{
	struct cp_block block = { .length = PAGES * CP_PAGE, .page_size = CP_PAGE };

	cp_store_free(self->store);
	self->store = cp_store_new(settings, self->regions, 2, &self->err);
	/* in another order than here */
	wire_name_set(&block.name, "b");
	cp_store_block(self->store, 0, &block, &self->err);
	wire_name_set(&block.name, "a");
	cp_store_block(self->store, 1, &block, &self->err);
}

FIXTURE_SETUP(store)
{
	const struct cp_store_settings settings = {
		.contents_max = 16 * CP_PAGE,
		.device_max = DEVICE_MAX,
	};

	memset(self, 0, sizeof(*self));
	for (unsigned i = 0; i < 2; i++) {
		self->regions[i].addr = self->memory[i];
		self->regions[i].length = PAGES * CP_PAGE;
		self->regions[i].name[0] = (char)('a' + i);
		memset(self->memory[i], 0x11, PAGES * CP_PAGE);
	}
	memset(self->page, 0x22, sizeof(self->page));
	make(self, &settings);
	ASSERT_EQ(0, self->err.code);
}

FIXTURE_TEARDOWN(store)
{
	cp_store_free(self->store);
}

/* Block 0 is region 1 */
static int describe(FIXTURE_DATA(store) *self, bool full, uint64_t first, uint32_t pages,
		    enum cp_content content, uint32_t bytes)
{
	const struct cp_entry entry = {
		.content = content,
		.pages = pages,
		.first = first,
		.bytes = bytes,
	};

	self->err = (struct wh_err){ 0 };
	return cp_store_entry(self->store, &entry, full, &self->err);
}

static int contents(FIXTURE_DATA(store) *self, const void *bytes, size_t length)
{
	return cp_store_pages(self->store, bytes, length, &self->err);
}

static int verify(FIXTURE_DATA(store) *self)
{
	return cp_store_verify(self->store, false, &self->err);
}

static void keep_and_apply(FIXTURE_DATA(store) *self)
{
	cp_store_keep(self->store);
	cp_store_apply(self->store);
	cp_store_applied(self->store);
}

static bool is_all(const uint8_t *at, uint8_t value, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (at[i] != value)
			return false;
	return true;
}

/* Page of region 1 */
static uint8_t *at(FIXTURE_DATA(store) *self, uint64_t page)
{
	return self->memory[1] + page * CP_PAGE;
}

TEST_F(store, memory_is_touched_when_it_is_applied_and_not_before)
{
	ASSERT_EQ(0, describe(self, false, 3, 2, CP_PLAIN, 2 * CP_PAGE));
	ASSERT_EQ(0, describe(self, false, 10, 1, CP_ZERO, 0));
	ASSERT_EQ(0, contents(self, self->page, 100));
	ASSERT_EQ(0, contents(self, self->page, 2 * CP_PAGE - 100));
	ASSERT_EQ(0, verify(self));
	EXPECT_TRUE(is_all(self->memory[1], 0x11, PAGES * CP_PAGE));
	cp_store_keep(self->store);
	EXPECT_TRUE(is_all(self->memory[1], 0x11, PAGES * CP_PAGE));
	/* the next one comes meanwhile */
	ASSERT_EQ(0, describe(self, false, 4, 1, CP_PLAIN, CP_PAGE));
	memset(self->page, 0x33, CP_PAGE);
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	cp_store_apply(self->store);
	cp_store_applied(self->store);
	EXPECT_TRUE(is_all(at(self, 0), 0x11, 3 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 3), 0x22, 2 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 5), 0x11, 5 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 10), 0, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 11), 0x11, (PAGES - 11) * CP_PAGE));
	EXPECT_TRUE(is_all(self->memory[0], 0x11, PAGES * CP_PAGE));
	ASSERT_EQ(0, verify(self));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(at(self, 4), 0x33, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 3), 0x22, CP_PAGE));
}

TEST_F(store, what_is_dropped_was_never_there)
{
	size_t length;

	ASSERT_EQ(0, describe(self, false, 0, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, cp_store_device(self->store, (const uint8_t *)"old", 3, &self->err));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	ASSERT_EQ(0, verify(self));
	keep_and_apply(self);
	ASSERT_EQ(0, describe(self, false, 0, 2, CP_PLAIN, 2 * CP_PAGE));
	ASSERT_EQ(0, cp_store_device(self->store, (const uint8_t *)"newer", 5, &self->err));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE + 1));
	cp_store_drop(self->store);
	EXPECT_EQ(0, memcmp("old", cp_store_kept_device(self->store, &length), 3));
	EXPECT_EQ(3, length);
	/* and what comes then begins anew */
	ASSERT_EQ(0, describe(self, false, 7, 1, CP_PLAIN, CP_PAGE));
	memset(self->page, 0x44, CP_PAGE);
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	ASSERT_EQ(0, verify(self));
	EXPECT_EQ(NULL, cp_store_coming_device(self->store, &length));
	keep_and_apply(self);
	EXPECT_EQ(NULL, cp_store_kept_device(self->store, &length));
	EXPECT_TRUE(is_all(at(self, 0), 0x22, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 1), 0x11, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 7), 0x44, CP_PAGE));
}

TEST_F(store, contents_that_lie_in_two_slabs)
{
	const struct cp_store_settings settings = { .contents_max = 2000 * CP_PAGE };

	make(self, &settings);
	/* 1024 pages are a slab: the last of these runs begins in one and ends in another */
	ASSERT_EQ(0, describe(self, false, 0, 10, CP_PLAIN, 10 * CP_PAGE));
	for (unsigned i = 0; i < 16; i++)
		ASSERT_EQ(0, describe(self, false, 0, PAGES, CP_PLAIN, PAGES * CP_PAGE));
	for (unsigned i = 0; i < 10 + 16 * PAGES; i++) {
		memset(self->page, (int)i, CP_PAGE);
		ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	}
	ASSERT_EQ(0, verify(self));
	keep_and_apply(self);
	for (unsigned i = 0; i < PAGES; i++)
		EXPECT_TRUE(is_all(at(self, i), (uint8_t)(10 + 15 * PAGES + i), CP_PAGE));
}

TEST_F(store, the_last_description_of_a_page_counts)
{
	uint8_t before[CP_PAGE], after[CP_PAGE];
	int made;

	/* a difference is to the last complete one, whatever was said of the page before */
	memset(before, 0x11, CP_PAGE);
	memcpy(after, before, CP_PAGE);
	after[77] = 0x55;
	made = xbzrle_put(self->packed, CP_PAGE, before, after);
	ASSERT_LT(0, made);
	ASSERT_EQ(0, describe(self, false, 0, 3, CP_PLAIN, 3 * CP_PAGE));
	ASSERT_EQ(0, describe(self, false, 1, 1, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, false, 2, 1, CP_XBZRLE, (uint32_t)made));
	ASSERT_EQ(0, contents(self, self->page, 3 * CP_PAGE));
	ASSERT_EQ(0, contents(self, self->packed, (size_t)made));
	ASSERT_EQ(0, verify(self));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(at(self, 0), 0x22, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 1), 0, CP_PAGE));
	EXPECT_EQ(0, memcmp(at(self, 2), after, CP_PAGE));
}

TEST_F(store, a_bad_difference_is_refused)
{
	const uint8_t bad[] = { 0x00, 0x7f, 1, 2, 3 };

	ASSERT_EQ(0, describe(self, false, 0, 1, CP_XBZRLE, sizeof(bad)));
	ASSERT_EQ(0, contents(self, bad, sizeof(bad)));
	EXPECT_EQ(-EPROTO, verify(self));
	EXPECT_NE(NULL, strstr(self->err.text, "XBZRLE"));
	cp_store_drop(self->store);
	EXPECT_TRUE(is_all(self->memory[1], 0x11, PAGES * CP_PAGE));
	EXPECT_EQ(-EPROTO, describe(self, false, 0, 1, CP_XBZRLE, 0));
	EXPECT_EQ(-EPROTO, describe(self, true, 0, 1, CP_XBZRLE, 5));
	EXPECT_NE(NULL, strstr(self->err.text, "parts"));
}

/* What is said to be a frame of @pages. Return: of verify */
static int frame(FIXTURE_DATA(store) *self, size_t bytes, uint32_t pages)
{
	int ret = describe(self, false, 0, pages, CP_ZSTD, (uint32_t)bytes);

	if (!ret)
		ret = contents(self, self->packed, bytes);
	if (!ret)
		ret = verify(self);
	cp_store_drop(self->store);
	return ret;
}

TEST_F(store, a_frame_is_one_of_as_many_pages)
{
	size_t room = sizeof(self->packed), two, four;

	four = ZSTD_compress(self->packed, room, self->page, 4 * CP_PAGE, 1);
	ASSERT_FALSE(ZSTD_isError(four));
	EXPECT_EQ(0, frame(self, four, 4));
	EXPECT_EQ(-EPROTO, frame(self, four, 3));
	EXPECT_EQ(-EPROTO, frame(self, four, 5));
	EXPECT_EQ(-EPROTO, frame(self, four - 1, 4));
	EXPECT_EQ(-EPROTO, frame(self, four + 1, 4));
	two = ZSTD_compress(self->packed + four, room - four, self->page, CP_PAGE, 1);
	EXPECT_EQ(-EPROTO, frame(self, four + two, 5));
	EXPECT_NE(NULL, strstr(self->err.text, "one zstd frame"));
	self->packed[0] ^= 1;
	EXPECT_EQ(-EPROTO, frame(self, four, 4));
	EXPECT_TRUE(is_all(self->memory[1], 0x11, PAGES * CP_PAGE));
}

TEST_F(store, a_frame_is_unpacked_beside)
{
	size_t made = ZSTD_compress(self->packed, sizeof(self->packed), self->page, 4 * CP_PAGE, 1);

	ASSERT_EQ(0, describe(self, false, 5, 4, CP_ZSTD, (uint32_t)made));
	ASSERT_EQ(0, contents(self, self->packed, made));
	ASSERT_EQ(0, verify(self));
	EXPECT_TRUE(is_all(self->memory[1], 0x11, PAGES * CP_PAGE));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(at(self, 5), 0x22, 4 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 9), 0x11, CP_PAGE));
}

TEST_F(store, no_more_memory_than_was_agreed_on)
{
	/* 17 pages that are 100 bytes on the way */
	for (unsigned i = 0; i < 4; i++)
		ASSERT_EQ(0, describe(self, false, 0, 4, CP_ZSTD, 25));
	EXPECT_EQ(-ENOSPC, describe(self, false, 0, 1, CP_ZSTD, 25));
	EXPECT_NE(NULL, strstr(self->err.text, "unpacked"));
	cp_store_drop(self->store);
	/* zeros take none, but each description does */
	for (unsigned i = 0; i < 2 * PAGES + 1024; i++)
		ASSERT_EQ(0, describe(self, false, 0, PAGES, CP_ZERO, 0));
	EXPECT_EQ(-ENOSPC, describe(self, false, 0, PAGES, CP_ZERO, 0));
	cp_store_drop(self->store);
	/* in the first one: what waits for its contents */
	ASSERT_EQ(0, describe(self, true, 0, 1, CP_PLAIN, CP_PAGE));
	for (unsigned i = 1; i < 65536; i++)
		ASSERT_EQ(0, describe(self, true, 0, PAGES, CP_ZERO, 0));
	EXPECT_EQ(-ENOSPC, describe(self, true, 0, PAGES, CP_ZERO, 0));
}

TEST_F(store, device_state_has_a_limit)
{
	uint8_t state[DEVICE_MAX] = { 1 };
	size_t length;

	ASSERT_EQ(0, cp_store_device(self->store, state, 10, &self->err));
	ASSERT_EQ(0, cp_store_device(self->store, state, DEVICE_MAX - 10, &self->err));
	EXPECT_EQ(-EPROTO, cp_store_device(self->store, state, 1, &self->err));
	ASSERT_NE(NULL, cp_store_coming_device(self->store, &length));
	EXPECT_EQ(DEVICE_MAX, length);
	EXPECT_EQ(1, ((const uint8_t *)cp_store_coming_device(self->store, &length))[10]);
}

TEST_F(store, contents_of_nothing)
{
	EXPECT_EQ(-EPROTO, contents(self, self->page, 1));
	ASSERT_EQ(0, describe(self, false, 0, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	EXPECT_EQ(-EPROTO, contents(self, self->page, 1));
	cp_store_drop(self->store);
	ASSERT_EQ(0, describe(self, true, 0, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	EXPECT_EQ(-EPROTO, contents(self, self->page, 1));
}

TEST_F(store, a_block_is_one_that_is_here)
{
	const struct cp_store_settings settings = { .contents_max = CP_PAGE };
	struct cp_block block = { .length = PAGES * CP_PAGE, .page_size = CP_PAGE };

	cp_store_free(self->store);
	self->store = cp_store_new(&settings, self->regions, 2, &self->err);
	wire_name_set(&block.name, "c");
	EXPECT_EQ(-ENOENT, cp_store_block(self->store, 0, &block, &self->err));
	wire_name_set(&block.name, "a");
	block.length -= CP_PAGE;
	EXPECT_EQ(-EPROTO, cp_store_block(self->store, 0, &block, &self->err));
	block.length += CP_PAGE;
	block.page_size = 2 * CP_PAGE;
	EXPECT_EQ(-EPROTO, cp_store_block(self->store, 0, &block, &self->err));
	block.page_size = CP_PAGE;
	EXPECT_EQ(-EPROTO, cp_store_block(self->store, 1, &block, &self->err));
	EXPECT_EQ(0, cp_store_block(self->store, 0, &block, &self->err));
	EXPECT_EQ(-EPROTO, cp_store_block(self->store, 1, &block, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "twice"));
}

/* All of region 1, and of region 0 all but @missing pages at its end */
static int all_but(FIXTURE_DATA(store) *self, uint32_t missing)
{
	struct cp_entry entry = { .block = 1, .content = CP_ZERO, .pages = PAGES - missing };
	int ret = describe(self, true, 0, PAGES, CP_ZERO, 0);

	if (!ret)
		ret = cp_store_entry(self->store, &entry, true, &self->err);
	if (!ret)
		ret = cp_store_verify(self->store, true, &self->err);
	return ret;
}

TEST_F(store, the_first_is_all_of_memory)
{
	EXPECT_EQ(-EPROTO, cp_store_verify(self->store, true, &self->err));
	EXPECT_EQ(-EPROTO, all_but(self, 1));
	EXPECT_NE(NULL, strstr(self->err.text, "page 63 of block 'a'"));
	cp_store_drop(self->store);
	EXPECT_EQ(0, all_but(self, 0));
	EXPECT_TRUE(is_all(self->memory[0], 0, sizeof(self->memory)));
}

TEST_F(store, the_first_goes_straight_there_in_its_order)
{
	size_t made = ZSTD_compress(self->packed, sizeof(self->packed), self->page, 4 * CP_PAGE, 1);

	ASSERT_EQ(0, describe(self, true, 0, PAGES, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, true, 0, 2, CP_PLAIN, 2 * CP_PAGE));
	ASSERT_EQ(0, describe(self, true, 1, 1, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, true, 10, 4, CP_ZSTD, (uint32_t)made));
	ASSERT_EQ(0, describe(self, true, 12, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, contents(self, self->page, 2 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 0), 0x22, 2 * CP_PAGE));
	for (size_t i = 0; i < made; i++)
		ASSERT_EQ(0, contents(self, self->packed + i, 1));
	memset(self->page, 0x66, CP_PAGE);
	EXPECT_EQ(-EPROTO, cp_store_verify(self->store, true, &self->err));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 10), 0x22, 2 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 12), 0x66, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 13), 0x22, CP_PAGE));
}

TEST_F(store, of_the_first_the_last_description_counts_too)
{
	struct cp_entry rest = { .block = 1, .content = CP_ZERO, .pages = PAGES };
	size_t made = ZSTD_compress(self->packed, sizeof(self->packed), self->page, 4 * CP_PAGE, 1);

	ASSERT_EQ(0, cp_store_entry(self->store, &rest, true, &self->err));
	ASSERT_EQ(0, describe(self, true, 0, PAGES, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, true, 0, 2, CP_PLAIN, 2 * CP_PAGE));
	ASSERT_EQ(0, describe(self, true, 1, 1, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, true, 10, 4, CP_ZSTD, (uint32_t)made));
	ASSERT_EQ(0, contents(self, self->page, 2 * CP_PAGE));
	ASSERT_EQ(0, contents(self, self->packed, made));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	EXPECT_TRUE(is_all(at(self, 0), 0x22, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 1), 0, 9 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 10), 0x22, 4 * CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 14), 0, (PAGES - 14) * CP_PAGE));
	EXPECT_TRUE(is_all(self->memory[0], 0, sizeof(self->memory[0])));
	/* and then there is one to take differences to */
	keep_and_apply(self);
	ASSERT_EQ(0, describe(self, false, 0, 1, CP_ZERO, 0));
	ASSERT_EQ(0, verify(self));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(at(self, 0), 0, CP_PAGE));
}

/* Fresh memory is not touched for zeros, unless something was there in between */
TEST_F(store, zeros_are_not_made_where_they_are)
{
	const struct cp_store_settings settings = { .zeroed = true, .contents_max = CP_PAGE };
	struct cp_entry rest = { .block = 1, .content = CP_ZERO, .pages = PAGES };

	make(self, &settings);
	ASSERT_EQ(0, cp_store_entry(self->store, &rest, true, &self->err));
	ASSERT_EQ(0, describe(self, true, 0, PAGES, CP_ZERO, 0));
	ASSERT_EQ(0, describe(self, true, 5, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	ASSERT_EQ(0, describe(self, true, 5, 1, CP_ZERO, 0));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	/* what this test has put there to see it */
	EXPECT_TRUE(is_all(at(self, 4), 0x11, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 5), 0, CP_PAGE));
	EXPECT_TRUE(is_all(at(self, 6), 0x11, CP_PAGE));
}

/* After a first one that did not come to its end nothing is as the kernel gave it */
TEST_F(store, zeros_are_made_after_one_that_was_dropped)
{
	const struct cp_store_settings settings = { .zeroed = true, .contents_max = CP_PAGE };

	make(self, &settings);
	ASSERT_EQ(0, describe(self, true, 5, 1, CP_PLAIN, CP_PAGE));
	ASSERT_EQ(0, contents(self, self->page, CP_PAGE));
	cp_store_drop(self->store);
	ASSERT_EQ(0, all_but(self, 0));
	EXPECT_TRUE(is_all(self->memory[0], 0, sizeof(self->memory)));
}

TEST_HARNESS_MAIN
