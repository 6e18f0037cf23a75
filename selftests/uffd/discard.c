/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/uffd/block.h"
#include "uffd/abi.h"

#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

FIXTURE(discard)
{
	struct block block;
};

FIXTURE_VARIANT(discard)
{
	enum memory_kind kind;
	int (*drop)(struct placer * placer, uint64_t offset, uint64_t length, struct wh_err * err);
	bool hidden;
};

/* clang-format off */
#define VARIANT(name, kind_) \
	FIXTURE_VARIANT_ADD(discard, name) { .kind = MEMORY_##kind_, .drop = placer_discard }; \
	FIXTURE_VARIANT_ADD(discard, hide_##name) { \
		.kind = MEMORY_##kind_, .drop = placer_hide, .hidden = true }
VARIANT(anon, ANON);
VARIANT(thp, THP);
VARIANT(memfd, MEMFD);
VARIANT(private, MEMFD_PRIVATE);
VARIANT(hugetlb, HUGETLB);
VARIANT(hugetlb_private, HUGETLB_PRIVATE);
/* clang-format on */

FIXTURE_SETUP(discard)
{
	int ret = block_open(&self->block, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", self->block.err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->block.err.text);
	block_fill(&self->block, 1);
	ASSERT_EQ(0, placer_advise(&self->block.placer, &self->block.err));
}

FIXTURE_TEARDOWN(discard)
{
	block_close(&self->block);
}

/* A page that was dropped faults; its neighbours are there as they were. */
TEST_F(discard, makes_missing_and_nothing_else)
{
	struct block *b = &self->block;
	uint64_t first = b->pages / 3, pages = b->pages > 3 ? 5 : 1;
	struct toucher toucher[2] = { 0 };
	struct uffd_event event[2];

	ASSERT_EQ(0, variant->drop(&b->placer, first * b->page, pages * b->page, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(first, block_wrong(b, 0, first, 1));
	ASSERT_EQ(b->pages, block_wrong(b, first + pages, b->pages, 1));
	ASSERT_TRUE(block_quiet(b));
	ASSERT_TRUE(toucher_start(&toucher[0], b->at + first * b->page));
	ASSERT_TRUE(toucher_start(&toucher[1], b->at + (first + pages) * b->page - 1));
	ASSERT_EQ(2, read_events(&b->uffd, event, 2));
	/* What was hidden is still in the file, if there is one with a second mapping */
	ASSERT_EQ(variant->hidden && b->placer.alias, event[0].minor);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, first, pages, 2, true, NULL))
	TH_LOG("%s", b->err.text);
	toucher_end(&toucher[0]);
	toucher_end(&toucher[1]);
	ASSERT_EQ(first + pages, block_wrong(b, first, first + pages, 2));
}

/* Before it is armed it reads as zeros, and is written as if it had never been. */
TEST_F(discard, reads_as_zeros)
{
	struct block *b = &self->block;
	uint64_t half = b->pages / 2;

	if (variant->hidden && b->placer.alias) {
		/* That is what placer_hide() saves */
		ASSERT_EQ(0, variant->drop(&b->placer, 0, half * b->page, &b->err));
		ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
		ASSERT_EQ(0, placer_discard(&b->placer, 0, half * b->page, &b->err));
	} else {
		ASSERT_EQ(0, variant->drop(&b->placer, 0, half * b->page, &b->err));
	}
	if (b->placer.state)
		ASSERT_EQ(half, state_next_other(b->placer.state, 0, half, PAGE_ABSENT));
	ASSERT_EQ(half, block_wrong(b, 0, half, -1));
	ASSERT_EQ(b->pages, block_wrong(b, half, b->pages, 1));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, half, 2, true, NULL));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(half, block_wrong(b, 0, half, 2));
	ASSERT_TRUE(block_quiet(b));
}

TEST_F(discard, of_all_and_of_nothing)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;

	ASSERT_EQ(0, variant->drop(&b->placer, b->page, 0, &b->err));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_EQ(0, variant->drop(&b->placer, 0, BLOCK_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	/* And again, of what is not there */
	ASSERT_EQ(0, variant->drop(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(toucher_start(&toucher, b->at + BLOCK_BYTES - 1));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, block_zero(b, 0, b->pages, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, toucher_end(&toucher));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, -1));
}

/* Some of it is there and some is not: what is not there is not hidden, but a hole. */
TEST_F(discard, of_a_block_with_holes)
{
	struct block *b = &self->block;
	uint64_t i;

	for (i = 0; i < b->pages; i += 3)
		ASSERT_EQ(0, placer_discard(&b->placer, i * b->page, b->page, &b->err));
	ASSERT_EQ(0, variant->drop(&b->placer, 0, BLOCK_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	if (b->placer.state)
		for (i = 0; i < b->pages; i++)
			ASSERT_EQ(variant->hidden && i % 3 ? PAGE_HIDDEN : PAGE_ABSENT,
				  state_get(b->placer.state, i));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < b->pages; i += STAGE_BYTES / b->page)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, STAGE_BYTES / b->page, 2, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 2));
}

/* Written by somebody else: of huge pages nothing tells that they are in the file. */
TEST_F(discard, of_what_is_not_mapped)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_discard(&b->placer, 0, BLOCK_BYTES, &b->err));
	if (b->placer.alias)
		page_fill(b->placer.alias, b->page, 0, 1);
	ASSERT_EQ(0, variant->drop(&b->placer, 0, b->page, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 2, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(1, block_wrong(b, 0, 1, 2));
}

TEST_F(discard, of_locked_memory)
{
	struct block *b = &self->block;

	if (mlock(b->at, BLOCK_BYTES) < 0)
		SKIP(return, "mlock: %s", strerror(errno));
	ASSERT_EQ(0, variant->drop(&b->placer, b->page, b->page, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 2, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(2, block_wrong(b, 1, 2, 2));
	ASSERT_EQ(b->pages, block_wrong(b, 2, b->pages, 1));
}

/*
 * Huge pages may be made until the first page is dropped, and not afterwards: a hole would be
 * filled with zeros before anybody watches it.
 */
TEST_F(discard, no_huge_page_fills_what_was_hidden)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;
	uint64_t i;

	if (b->page > TARGET_PAGE)
		return; /* They are never anything else */
	placer_fini(&b->placer);
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_HUGEPAGE));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	/* Dropped and filled as by precopy: nothing is in the way */
	ASSERT_EQ(0, placer_discard(&b->placer, 0, BLOCK_BYTES, &b->err));
	block_fill(b, 1);
	ASSERT_FALSE(b->placer.advised);
	if (variant->kind != MEMORY_MEMFD_PRIVATE && madvise(b->at, STAGE_BYTES, MADV_COLLAPSE) < 0)
		SKIP(return, "MADV_COLLAPSE: %s", strerror(errno));
	ASSERT_EQ(0, placer_hide(&b->placer, 3 * b->page, b->page, &b->err))
	TH_LOG("%s", b->err.text);
	for (i = 0; i < BLOCK_BYTES; i += STAGE_BYTES)
		ASSERT_EQ(-1, madvise(b->at + i, STAGE_BYTES, MADV_COLLAPSE));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < BLOCK_BYTES; i += STAGE_BYTES)
		ASSERT_EQ(-1, madvise(b->at + i, STAGE_BYTES, MADV_COLLAPSE));
	if (b->placer.alias) {
		ASSERT_EQ(-1, madvise(b->placer.alias, STAGE_BYTES, MADV_COLLAPSE));
		/* Of a file all of the huge page is unmapped: a fault maps a few of them */
		for (i = 0; i < STAGE_BYTES / b->page; i += i == 4 ? 12 : i == 3 ? 1 : i ? 16 : 3)
			if (i != 3)
				ASSERT_EQ(PLACED_OK, block_zero(b, i, 1, NULL))
		TH_LOG("%s", b->err.text);
	}
	ASSERT_TRUE(toucher_start(&toucher, b->at + 3 * b->page));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 3, 1, 2, true, NULL))
	TH_LOG("%s", b->err.text);
	toucher_end(&toucher);
	ASSERT_EQ(3, block_wrong(b, 0, 3, 1));
	ASSERT_EQ(4, block_wrong(b, 3, 4, 2));
	ASSERT_EQ(b->pages, block_wrong(b, 4, b->pages, 1));
}

TEST_F(discard, wrong_ranges_have_a_sentence)
{
	struct block *b = &self->block;
	const struct {
		uint64_t offset, length;
	} wrong[] = {
		{ 1, b->page },		  { 0, b->page - 1 },
		{ BLOCK_BYTES, b->page }, { BLOCK_BYTES - b->page, 2 * b->page },
		{ -b->page, b->page },	  { b->page, -b->page },
	};
	unsigned i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ASSERT_EQ(-EINVAL,
			  variant->drop(&b->placer, wrong[i].offset, wrong[i].length, &b->err));
		ASSERT_EQ(0, strncmp(b->err.text, "block '", 7));
	}
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
}

/* It would wait for its own message to be read, perhaps by this very thread. */
TEST_F(discard, not_while_removal_is_watched)
{
	struct block *b = &self->block;
	struct uffd_event event[UFFD_BATCH];

	placer_fini(&b->placer);
	uffd_close(&b->uffd);
	ASSERT_EQ(0, uffd_open(&b->uffd, UFFD_FEATURE_EVENT_REMOVE, false, &b->err));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	ASSERT_EQ(0, variant->drop(&b->placer, 0, b->page, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(-EBUSY, variant->drop(&b->placer, b->page, b->page, &b->err));
	ASSERT_NE(NULL, strstr(b->err.text, "wait for itself"))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, uffd_read(&b->uffd, event, &b->err));
	ASSERT_EQ(2, block_wrong(b, 1, 2, 1));
}

/*
 * A huge page of a file that somebody has pinned cannot be split: its bytes are cleared,
 * and nobody would ask for them again.
 */
TEST(a_pinned_huge_page)
{
	struct iovec iov = { .iov_len = TARGET_PAGE };
	struct io_uring ring;
	struct block b;
	int ret;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD, 0))
	TH_LOG("%s", b.err.text);
	block_fill(&b, 1);
	if (madvise(b.at, STAGE_BYTES, MADV_COLLAPSE) < 0)
		SKIP(return, "MADV_COLLAPSE: %s", strerror(errno));
	ret = io_uring_queue_init(1, &ring, 0);
	if (ret < 0)
		SKIP(return, "io_uring: %s", strerror(-ret));
	iov.iov_base = b.at + STAGE_BYTES / 2;
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(-EBUSY, placer_discard(&b.placer, 3 * TARGET_PAGE, TARGET_PAGE, &b.err));
	ASSERT_NE(NULL, strstr(b.err.text, "page at 0x3000 could not be dropped"))
	TH_LOG("%s", b.err.text);
	/* Hiding needs no split */
	ASSERT_EQ(0, placer_hide(&b.placer, 4 * TARGET_PAGE, TARGET_PAGE, &b.err));
	ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
	ASSERT_EQ(0, placer_discard(&b.placer, 3 * TARGET_PAGE, TARGET_PAGE, &b.err))
	TH_LOG("%s", b.err.text);
	ASSERT_EQ(4, block_wrong(&b, 3, 4, -1));
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	ASSERT_EQ(PLACED_OK, block_place(&b, 0, 4, 1, 2, true, NULL));
	ASSERT_EQ(5, block_wrong(&b, 4, 5, 2));
	io_uring_queue_exit(&ring);
	block_close(&b);
}

TEST(a_private_mapping_without_its_descriptor)
{
	struct block b;
	int fd;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD_PRIVATE, 0))
	TH_LOG("%s", b.err.text);
	fd = b.memory.region.fd;
	b.memory.region.fd = -1;
	block_fill(&b, 1);
	/* The file is empty: what was written is not the file's */
	ASSERT_EQ(0, placer_discard(&b.placer, 0, BLOCK_BYTES, &b.err))
	TH_LOG("%s", b.err.text);
	ASSERT_EQ(b.pages, block_wrong(&b, 0, b.pages, -1));
	ASSERT_EQ(1, pwrite(fd, "x", 1, 5 * (off_t)TARGET_PAGE));
	ASSERT_EQ(-EOPNOTSUPP, placer_discard(&b.placer, 0, BLOCK_BYTES, &b.err));
	ASSERT_NE(NULL, strstr(b.err.text, "has contents at 0"))
	TH_LOG("%s", b.err.text);
	b.memory.region.fd = fd;
	ASSERT_EQ(0, placer_discard(&b.placer, 0, BLOCK_BYTES, &b.err));
	ASSERT_EQ(b.pages, block_wrong(&b, 0, b.pages, -1));
	block_close(&b);
}

/* Of a private mapping both go: what the file has, and what was written over it. */
TEST(a_private_mapping_of_a_file_with_contents)
{
	struct toucher toucher[2] = { 0 };
	struct uffd_event event[2];
	struct block b;
	char byte = 'x';
	unsigned i;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD_PRIVATE, 0))
	TH_LOG("%s", b.err.text);
	for (i = 0; i < 4; i++)
		ASSERT_EQ(1, pwrite(b.memory.region.fd, &byte, 1, i * (off_t)TARGET_PAGE));
	b.at[0] = 'y';
	ASSERT_EQ(0, placer_discard(&b.placer, 0, 2 * TARGET_PAGE, &b.err))
	TH_LOG("%s", b.err.text);
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	ASSERT_TRUE(toucher_start(&toucher[0], b.at));
	/* Not touched yet and so not mapped: the file's page is missing, too */
	ASSERT_TRUE(toucher_start(&toucher[1], b.at + 3 * TARGET_PAGE));
	ASSERT_EQ(2, read_events(&b.uffd, event, 2));
	ASSERT_EQ(event[0].addr == (uintptr_t)b.at ? false : true, event[0].minor);
	ASSERT_EQ(PLACED_OK, block_place(&b, 0, 0, 4, 1, true, NULL))
	TH_LOG("%s", b.err.text);
	toucher_end(&toucher[0]);
	toucher_end(&toucher[1]);
	ASSERT_EQ(4, block_wrong(&b, 0, 4, 1));
	/* It is the mapping's: the file has kept its own */
	ASSERT_EQ(1, pread(b.memory.region.fd, &byte, 1, 3 * (off_t)TARGET_PAGE));
	ASSERT_EQ('x', byte);
	block_close(&b);
}

/* Shared, but nobody gave a descriptor: MADV_REMOVE knows the file */
TEST(shared_memory_without_a_descriptor)
{
	struct block b;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD, 0))
	TH_LOG("%s", b.err.text);
	placer_fini(&b.placer);
	close(b.memory.region.fd);
	b.memory.region.fd = -1;
	ASSERT_EQ(0, placer_init(&b.placer, &b.memory.region, &b.uffd, &b.err));
	ASSERT_EQ(PLACER_COPY, b.placer.way);
	block_fill(&b, 1);
	ASSERT_EQ(0, placer_discard(&b.placer, 0, STAGE_BYTES, &b.err))
	TH_LOG("%s", b.err.text);
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	ASSERT_EQ(PLACED_OK, block_place(&b, 0, 0, 512, 2, true, NULL));
	ASSERT_EQ(512, block_wrong(&b, 0, 512, 2));
	ASSERT_EQ(b.pages, block_wrong(&b, 512, b.pages, 1));
	block_close(&b);
}

TEST_HARNESS_MAIN
