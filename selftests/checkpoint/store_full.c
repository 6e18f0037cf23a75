/* SPDX-License-Identifier: GPL-2.0 */
/* One that comes in parts, of any size, while memory is the last complete one */
#include "checkpoint/stage.h" /* CP_PAGE */
#include "checkpoint/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <zstd.h>

#include "kselftest_harness.h"

/* More than is put in place at once */
#define PAGES 5000u

FIXTURE(parts)
{
	struct cp_store *store;
	struct region region;
	struct wh_err err;
	uint8_t *page; /* two of them */
};

static int describe(FIXTURE_DATA(parts) *self, bool full, uint64_t first, uint32_t pages,
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

static int put(FIXTURE_DATA(parts) *self, bool full, uint64_t page, uint8_t value)
{
	int ret = describe(self, full, page, 1, CP_PLAIN, CP_PAGE);

	memset(self->page, value, CP_PAGE);
	return ret ? ret : cp_store_pages(self->store, self->page, CP_PAGE, &self->err);
}

/* Return: calls that it took */
static unsigned keep_and_apply(FIXTURE_DATA(parts) *self)
{
	unsigned calls = 1;

	cp_store_keep(self->store);
	while (!cp_store_apply(self->store))
		calls++;
	cp_store_applied(self->store);
	return calls;
}

/* The first one: zeros */
FIXTURE_SETUP(parts)
{
	const struct cp_store_settings settings = {
		.contents_max = 4 * CP_PAGE,
		.device_max = 16,
	};
	struct cp_block block = { .length = PAGES * CP_PAGE, .page_size = CP_PAGE };

	self->err = (struct wh_err){ 0 };
	self->page = calloc(2, CP_PAGE);
	self->region = (struct region){
		.addr = aligned_alloc(CP_PAGE, PAGES * CP_PAGE),
		.length = PAGES * CP_PAGE,
		.name = "a",
	};
	ASSERT_TRUE(self->page && self->region.addr);
	memset(self->region.addr, 0x11, PAGES * CP_PAGE);
	self->store = cp_store_new(&settings, &self->region, 1, &self->err);
	ASSERT_NE(NULL, self->store);
	wire_name_set(&block.name, "a");
	ASSERT_EQ(0, cp_store_block(self->store, 0, &block, &self->err));
	ASSERT_EQ(0, describe(self, true, 0, PAGES, CP_ZERO, 0));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	ASSERT_EQ(1, keep_and_apply(self));
}

FIXTURE_TEARDOWN(parts)
{
	cp_store_free(self->store);
	free(self->region.addr);
	free(self->page);
}

static bool is_all(FIXTURE_DATA(parts) *self, uint64_t first, uint64_t pages, uint8_t value)
{
	const uint8_t *at = self->region.addr + first * CP_PAGE;

	for (size_t i = 0; i < pages * CP_PAGE; i++)
		if (at[i] != value)
			return false;
	return true;
}

/* More than contents_max, and memory is the one before until it is kept */
TEST_F(parts, memory_is_touched_when_it_is_applied_and_not_before)
{
	size_t packed;

	for (uint64_t page = 0; page < 4500; page++)
		ASSERT_EQ(0, put(self, true, page, 0x22));
	ASSERT_EQ(0, describe(self, true, 10, 5, CP_ZERO, 0));
	ASSERT_EQ(0, put(self, true, 12, 0x33));
	packed = ZSTD_compress(self->page + CP_PAGE, CP_PAGE, self->page, CP_PAGE, 1);
	ASSERT_EQ(0, describe(self, true, 4999, 1, CP_ZSTD, (uint32_t)packed));
	EXPECT_EQ(-EPROTO, cp_store_verify(self->store, true, &self->err));
	ASSERT_EQ(0, cp_store_pages(self->store, self->page + CP_PAGE, packed, &self->err));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	EXPECT_TRUE(is_all(self, 0, PAGES, 0));
	cp_store_keep(self->store);
	EXPECT_TRUE(is_all(self, 0, PAGES, 0));
	/* the next one comes meanwhile */
	EXPECT_FALSE(cp_store_apply(self->store));
	ASSERT_EQ(0, put(self, false, 4700, 0x44));
	EXPECT_TRUE(cp_store_apply(self->store));
	cp_store_applied(self->store);
	EXPECT_TRUE(is_all(self, 0, 10, 0x22));
	EXPECT_TRUE(is_all(self, 10, 2, 0));
	EXPECT_TRUE(is_all(self, 12, 1, 0x33));
	EXPECT_TRUE(is_all(self, 13, 2, 0));
	EXPECT_TRUE(is_all(self, 15, 4485, 0x22));
	EXPECT_TRUE(is_all(self, 4500, 499, 0));
	EXPECT_TRUE(is_all(self, 4999, 1, 0x33));
	ASSERT_EQ(0, cp_store_verify(self->store, false, &self->err));
	EXPECT_EQ(1, keep_and_apply(self));
	EXPECT_TRUE(is_all(self, 4700, 1, 0x44));
}

TEST_F(parts, what_is_dropped_was_never_there)
{
	ASSERT_EQ(0, put(self, true, 3, 0x22));
	ASSERT_EQ(0, describe(self, true, 4, 1, CP_PLAIN, CP_PAGE));
	cp_store_drop(self->store);
	EXPECT_TRUE(is_all(self, 0, PAGES, 0));
	/* and nothing of it is in the next, of either kind */
	ASSERT_EQ(0, put(self, true, 7, 0x33));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(self, 0, 7, 0));
	EXPECT_TRUE(is_all(self, 7, 1, 0x33));
	ASSERT_EQ(0, put(self, true, 8, 0x22));
	cp_store_drop(self->store);
	ASSERT_EQ(0, put(self, false, 9, 0x44));
	ASSERT_EQ(0, cp_store_verify(self->store, false, &self->err));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(self, 8, 1, 0));
	EXPECT_TRUE(is_all(self, 9, 1, 0x44));
	EXPECT_TRUE(is_all(self, 10, PAGES - 10, 0));
}

/* Nothing has changed after all; a difference has nothing that it could be one to */
TEST_F(parts, nothing_and_a_difference)
{
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	keep_and_apply(self);
	EXPECT_TRUE(is_all(self, 0, PAGES, 0));
	EXPECT_EQ(-EPROTO, describe(self, true, 3, 1, CP_XBZRLE, 10));
}

/* It ends in the middle of it */
TEST_F(parts, one_that_is_being_put_in_place)
{
	for (uint64_t page = 0; page < PAGES; page++)
		ASSERT_EQ(0, put(self, true, page, 0x22));
	ASSERT_EQ(0, cp_store_verify(self->store, true, &self->err));
	cp_store_keep(self->store);
	EXPECT_FALSE(cp_store_apply(self->store));
}

/* There is no room for it beside memory: so there is none, and memory stays */
TEST_F(parts, no_room_beside)
{
	FILE *statm = fopen("/proc/self/statm", "r");
	struct rlimit limit;
	long pages = 0;

	ASSERT_NE(NULL, statm);
	ASSERT_EQ(1, fscanf(statm, "%ld", &pages));
	fclose(statm);
	/* for all else there is */
	limit.rlim_cur = limit.rlim_max = ((uint64_t)pages + PAGES / 2) * CP_PAGE;
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &limit));
	EXPECT_EQ(-ENOMEM, put(self, true, 3, 0x22));
	EXPECT_NE(NULL, strstr(self->err.text, "memory"));
	EXPECT_TRUE(is_all(self, 0, PAGES, 0));
}

TEST_HARNESS_MAIN
