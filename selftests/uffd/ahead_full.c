/* SPDX-License-Identifier: GPL-2.0 */
/* Going ahead where there is no room for more, and where there are huge pages. */
#include "base/bits.h"
#include "selftests/uffd/block.h"
#include "selftests/uffd/setting.h"
#include "uffd/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kselftest_harness.h"

#define TARGETS (BLOCK_BYTES / TARGET_PAGE)
#define EACH (STAGE_BYTES / TARGET_PAGE)

static uint64_t in_file(const struct block *b)
{
	struct stat stat = { 0 };

	(void)fstat(b->memory.region.fd, &stat);
	return (uint64_t)stat.st_blocks * 512 / b->page;
}

/* The block's memory is of @fd instead of what it was made of */
static int block_of(struct block *b, int fd)
{
	if (fd < 0)
		return -errno;
	placer_fini(&b->placer);
	close(b->memory.region.fd);
	b->memory.region.fd = fd;
	if (ftruncate(fd, BLOCK_BYTES) < 0 ||
	    mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_NORESERVE | MAP_SHARED,
		 fd, 0) != b->at)
		return -errno;
	return placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err);
}

FIXTURE(full)
{
	struct block block;
	uint64_t received[TARGETS / 64];
};

FIXTURE_VARIANT(full)
{
	enum memory_kind kind;
	const char *type;
	const char *options; /* room for one stage less than the block */
};

/* clang-format off */
FIXTURE_VARIANT_ADD(full, tmpfs)   { .kind = MEMORY_MEMFD, .type = "tmpfs",
				     .options = "size=4m" };
FIXTURE_VARIANT_ADD(full, hugetlb) { .kind = MEMORY_HUGETLB, .type = "hugetlbfs",
				     .options = "pagesize=2M,size=4m" };
/* clang-format on */

FIXTURE_SETUP(full)
{
	struct block *b = &self->block;

	if (geteuid() != 0)
		SKIP(return, "a file system with a limit takes root");
	memset(self->received, 0, sizeof(self->received));
	ASSERT_EQ(0, block_open(b, variant->kind, 0))
	TH_LOG("%s", b->err.text);
	ASSERT_TRUE(own_mounts());
	ASSERT_EQ(0, block_of(b, file_in(variant->type, variant->options)))
	TH_LOG("%s", b->err.text);
}

FIXTURE_TEARDOWN(full)
{
	block_close(&self->block);
}

TEST_F(full, a_sentence_and_no_page_lost)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, room = 2 * each, i, done;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_ahead(&b->placer, self->received, 0, STAGE_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	/* One page by COPY in between: the last stage finds room for all but one of its own */
	ASSERT_EQ(PLACED_OK, block_place(b, 1, b->pages - 1, 1, 1, true, NULL));
	ASSERT_EQ(-ENOSPC,
		  placer_ahead(&b->placer, self->received, STAGE_BYTES, STAGE_BYTES, &b->err))
	TH_LOG("each %lu", each);
	ASSERT_NE(NULL, strstr(b->err.text, "its file has no room for more"))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(room, in_file(b));
	/* Whatever came is used; of what did not come it is said that there is no memory */
	for (i = 0; i < room - 1; i++)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, 1, 1, true, NULL))
	TH_LOG("page %lu: %s", i, b->err.text);
	ASSERT_EQ(PLACED_NO_MEMORY, block_place(b, 0, i, 1, 1, true, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_NO_MEMORY, block_zero(b, i + 1 < b->pages - 1 ? i + 1 : i, 1, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(i, block_wrong(b, 0, i, 1));
	ASSERT_EQ(b->pages, block_wrong(b, b->pages - 1, b->pages, 1));
	/* With a page more it finds its place */
	ASSERT_EQ(0, placer_discard(&b->placer, 0, b->page, &b->err));
	ASSERT_EQ(PLACED_OK, placer_place(&b->placer, &b->stage[0], i * b->page, b->page, true,
					  &done, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(i + 1, block_wrong(b, i, i + 1, 1));
}

static int guest_drops(struct block *b, uint64_t page)
{
	return fallocate(b->memory.region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(page * b->page), (off_t)b->page);
}

/* What it has dropped is hidden as before, and not in the file, which has no room for it now */
TEST_F(full, what_the_guest_has_dropped)
{
	struct block *b = &self->block;
	uint64_t last = 1, done;

	b->uffd.features |= UFFD_FEATURE_EVENT_REMOVE;
	page_fill(b->at, b->page, 0, 1);
	page_fill(b->at + b->page, b->page, 1, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, 0, 2 * b->page, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, guest_drops(b, 1));
	while (last + 1 < b->pages && block_place(b, 0, last + 1, 1, 1, true, &done) == PLACED_OK)
		last++;
	ASSERT_EQ(PLACED_NO_MEMORY, block_zero(b, 1, 1, &done));
	ASSERT_EQ(0, done);
	/* one that is in the file needs none */
	ASSERT_EQ(PLACED_OK, block_zero(b, 0, 1, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(1, block_wrong(b, 0, 1, -1));
	ASSERT_EQ(0, guest_drops(b, last));
	ASSERT_EQ(PLACED_OK, block_zero(b, 1, 1, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(2, block_wrong(b, 1, 2, -1));
}

/* Huge ones, where touching makes them: a file system of its own does, whatever the system */
FIXTURE(huge)
{
	struct block block;
	uint64_t received[TARGETS / 64];
};

FIXTURE_SETUP(huge)
{
	struct block *b = &self->block;
	int fd;

	if (geteuid() != 0)
		SKIP(return, "a file system of its own takes root");
	memset(self->received, 0, sizeof(self->received));
	ASSERT_EQ(0, block_open(b, MEMORY_MEMFD, 0))
	TH_LOG("%s", b->err.text);
	ASSERT_TRUE(own_mounts());
	if (!pretend(SETTING_FILE, "[always] within_size advise never deny force\n"))
		SKIP(return, "no huge pages in this kernel");
	fd = file_in("tmpfs", "huge=always");
	if (fd < 0)
		SKIP(return, "tmpfs with huge=always: %s", strerror(errno));
	ASSERT_EQ(0, block_of(b, fd))
	TH_LOG("%s", b->err.text);
	if (~b->uffd.offered & UFFD_FEATURE_WP_UNPOPULATED)
		SKIP(return, "before Linux 6.4");
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(b->placer.huge_ahead);
}

FIXTURE_TEARDOWN(huge)
{
	block_close(&self->block);
}

/* Is @at mapped by a huge page? */
static bool is_huge(const uint8_t *at)
{
	struct page_region found = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)at,
		.end = (uintptr_t)at + STAGE_BYTES,
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool huge =
		ioctl(pagemap, PAGEMAP_SCAN, &arg) == 1 && found.end - found.start == STAGE_BYTES;

	close(pagemap);
	return huge;
}

TEST_F(huge, whole_ones_come_ahead)
{
	struct block *b = &self->block;
	struct placer_collapse count = { 0 };
	uint64_t i;

	ASSERT_EQ(0, placer_ahead(&b->placer, self->received, 0, BLOCK_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	for (i = 0; i < BLOCK_STAGES; i++)
		ASSERT_TRUE(is_huge(b->placer.alias + i * STAGE_BYTES));
	for (i = 0; i < b->pages; i += EACH)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, EACH, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	/* The guest's are mapped small, one by one; that is mended without copying */
	ASSERT_FALSE(is_huge(b->at));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_collapse(&b->placer, 0, BLOCK_BYTES, &count, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(BLOCK_STAGES, count.made);
	ASSERT_TRUE(is_huge(b->at));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
}

/*
 * A page that was not claimed: a huge one would reach over it, and what the kernel says of it
 * then is that it was there before.
 */
TEST_F(huge, not_over_a_page_that_is_not_to_come)
{
	struct block *b = &self->block;

	bits_set(self->received, 5);
	ASSERT_EQ(0, placer_ahead(&b->placer, self->received, 0, STAGE_BYTES, &b->err));
	ASSERT_EQ(0, in_file(b));
	/* Nor for a part */
	ASSERT_EQ(0,
		  placer_ahead(&b->placer, self->received, STAGE_BYTES, STAGE_BYTES / 2, &b->err));
	ASSERT_EQ(0, in_file(b));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 5, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 6, EACH - 6, 1, true, NULL));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, EACH, EACH, 1, true, NULL));
	ASSERT_EQ(5, block_wrong(b, 0, 5, 1));
	ASSERT_EQ(2 * EACH, block_wrong(b, 6, 2 * EACH, 1));
	ASSERT_EQ(PLACED_OK, block_zero(b, 5, 1, NULL));
}

/* Who is not to have them gets small ones through the second mapping, too. */
TEST_F(huge, not_where_they_are_not_wanted)
{
	struct block *b = &self->block;

	placer_disarm(&b->placer, &b->err);
	placer_fini(&b->placer);
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_FALSE(b->placer.huge_ahead);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 5, 1, 1, true, NULL));
	ASSERT_EQ(0, placer_ahead(&b->placer, self->received, 0, STAGE_BYTES / 2, &b->err));
	ASSERT_EQ(EACH / 2, in_file(b));
	ASSERT_FALSE(is_huge(b->placer.alias));
}

TEST_HARNESS_MAIN
