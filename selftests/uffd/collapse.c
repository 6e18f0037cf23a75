/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/uffd/block.h"
#include "selftests/uffd/setting.h"
#include "uffd/abi.h"

#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>
#include <time.h>

#include "kselftest_harness.h"

#define EACH (STAGE_BYTES / TARGET_PAGE)
#define TRIES 100

FIXTURE(collapse)
{
	struct block block;
	struct placer_collapse count;
};

FIXTURE_VARIANT(collapse)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(collapse, thp)   { .kind = MEMORY_THP };
FIXTURE_VARIANT_ADD(collapse, memfd) { .kind = MEMORY_MEMFD };
/* clang-format on */

/* Filled page by page by a migration, in memory that wants huge pages; all is in */
FIXTURE_SETUP(collapse)
{
	struct block *b = &self->block;
	uint64_t i;

	memset(&self->count, 0, sizeof(self->count));
	ASSERT_EQ(0, block_open(b, variant->kind, 0))
	TH_LOG("%s", b->err.text);
	placer_fini(&b->placer);
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_HUGEPAGE));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	if (!b->placer.mapping.huge)
		SKIP(return, "the system's setting forbids huge pages");
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < b->pages; i += EACH / 2)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, EACH / 2, 1, true, NULL));
}

FIXTURE_TEARDOWN(collapse)
{
	block_close(&self->block);
}

/* The kernel may have a page in its own hands just then: again, until no more than @refused are */
static int part(struct _test_data_collapse *self, uint64_t offset, uint64_t bytes, uint64_t refused)
{
	const struct timespec nap = { .tv_nsec = 50000000 };
	struct block *b = &self->block;
	uint64_t earlier = 0;

	for (int tries = 0;; tries++) {
		struct placer_collapse count = { 0 };
		int ret = placer_collapse(&b->placer, offset, bytes, &count, &b->err);

		self->count.made += count.made;
		if (ret < 0 || count.refused <= refused || tries == TRIES) {
			self->count.before += count.before - earlier;
			self->count.refused += count.refused;
			self->count.sparse += count.sparse;
			return ret;
		}
		earlier += count.made;
		nanosleep(&nap, NULL);
	}
}

static int all(struct _test_data_collapse *self, uint64_t refused)
{
	self->count = (struct placer_collapse){ 0 };
	return part(self, 0, BLOCK_BYTES, refused);
}

/* AnonHugePages, ShmemPmdMapped and so on of the block, in stages */
static unsigned huge_stages(const struct block *b)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned kb = 0, found;
	bool inside = false;
	char line[512];
	uint64_t start;

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-", &start) == 1 && strchr(line, '-'))
			inside =
				start >= (uintptr_t)b->at && start < (uintptr_t)b->at + BLOCK_BYTES;
		if (inside && (sscanf(line, "AnonHugePages: %u kB", &found) == 1 ||
			       sscanf(line, "ShmemPmdMapped: %u kB", &found) == 1))
			kb += found;
	}
	if (smaps)
		fclose(smaps);
	return kb / 2048;
}

TEST_F(collapse, small_pages_become_huge)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, huge_stages(b));
	ASSERT_EQ(0, all(self, 0))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(BLOCK_STAGES, self->count.made)
	TH_LOG("refused %lu, sparse %lu", self->count.refused, self->count.sparse);
	ASSERT_EQ(BLOCK_STAGES, huge_stages(b));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	/* Once */
	ASSERT_EQ(0, all(self, 0));
	ASSERT_EQ(BLOCK_STAGES, self->count.before);
	ASSERT_EQ(0, self->count.made);
	/* Added to, not set */
	ASSERT_EQ(0, placer_collapse(&b->placer, 0, STAGE_BYTES, &self->count, &b->err));
	ASSERT_EQ(BLOCK_STAGES + 1, self->count.before);
}

TEST_F(collapse, not_while_it_is_watched)
{
	ASSERT_EQ(-EBUSY, all(self, 0));
	ASSERT_NE(NULL, strstr(self->block.err.text, "filled with zeros"))
	TH_LOG("%s", self->block.err.text);
	ASSERT_EQ(0, huge_stages(&self->block));
}

/* What does not hold 2 MiB has none; 2 MiB that begin outside of it are not its own. */
TEST_F(collapse, a_part)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, part(self, TARGET_PAGE, 2 * STAGE_BYTES - TARGET_PAGE, 0));
	ASSERT_EQ(1, self->count.made);
	ASSERT_EQ(0, placer_collapse(&b->placer, TARGET_PAGE, TARGET_PAGE, &self->count, &b->err));
	ASSERT_EQ(0, placer_collapse(&b->placer, 0, STAGE_BYTES - 1, &self->count, &b->err));
	ASSERT_EQ(1, self->count.made);
	ASSERT_EQ(1, huge_stages(b));
	ASSERT_EQ(-EINVAL, placer_collapse(&b->placer, 0, BLOCK_BYTES + 1, &self->count, &b->err));
	ASSERT_EQ(-EINVAL, placer_collapse(&b->placer, BLOCK_BYTES + 1, 0, &self->count, &b->err));
	ASSERT_EQ(0, strncmp(b->err.text, "block '", 7));
}

/* Holes and zeros that nobody wrote stay what they are if there are more than half of them. */
TEST_F(collapse, sparse_ones_are_left_alone)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_discard(&b->placer, 0, STAGE_BYTES / 2 + TARGET_PAGE, &b->err));
	ASSERT_EQ(0, placer_discard(&b->placer, STAGE_BYTES, STAGE_BYTES / 2, &b->err));
	ASSERT_EQ(0, all(self, 0));
	ASSERT_EQ(1, self->count.sparse);
	ASSERT_EQ(2, self->count.made);
	ASSERT_EQ(EACH / 2 + 1, block_wrong(b, 0, EACH / 2 + 1, -1));
	ASSERT_EQ(EACH, block_wrong(b, EACH / 2 + 1, EACH, 1));
}

TEST_F(collapse, a_pinned_page_is_not_now)
{
	struct block *b = &self->block;
	struct iovec iov = { b->at + STAGE_BYTES + 7 * TARGET_PAGE, TARGET_PAGE };
	struct io_uring ring;
	int ret = io_uring_queue_init(1, &ring, 0);

	if (ret < 0)
		SKIP(return, "io_uring: %s", strerror(-ret));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(0, all(self, 1));
	ASSERT_EQ(1, self->count.refused);
	ASSERT_EQ(BLOCK_STAGES - 1, self->count.made);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
	ASSERT_EQ(0, all(self, 0));
	ASSERT_EQ(1, self->count.made);
	io_uring_queue_exit(&ring);
}

/* Before Linux 6.7, or without /proc, nothing tells what is huge: the kernel knows. */
TEST_F(collapse, nothing_is_known)
{
	struct block *b = &self->block;

	if (geteuid() != 0 || !own_mounts() || !pretend("/proc/self/pagemap", ""))
		SKIP(return, "no way to hide /proc/self/pagemap");
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, all(self, 0));
	ASSERT_EQ(BLOCK_STAGES, self->count.made);
	ASSERT_EQ(BLOCK_STAGES, huge_stages(b));
}

FIXTURE(unwanted)
{
	struct block block;
};

FIXTURE_VARIANT(unwanted)
{
	enum memory_kind kind;
	int advice;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(unwanted, anon)            { .kind = MEMORY_ANON, .advice = MADV_NOHUGEPAGE };
FIXTURE_VARIANT_ADD(unwanted, memfd)           { .kind = MEMORY_MEMFD, .advice = MADV_NOHUGEPAGE };
FIXTURE_VARIANT_ADD(unwanted, private)         { .kind = MEMORY_MEMFD_PRIVATE, .advice = MADV_HUGEPAGE };
FIXTURE_VARIANT_ADD(unwanted, hugetlb)         { .kind = MEMORY_HUGETLB };
FIXTURE_VARIANT_ADD(unwanted, hugetlb_private) { .kind = MEMORY_HUGETLB_PRIVATE };
/* clang-format on */

FIXTURE_SETUP(unwanted)
{
	struct block *b = &self->block;
	int ret = block_open(b, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", b->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", b->err.text);
	placer_fini(&b->placer);
	if (variant->advice)
		ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, variant->advice));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
}

FIXTURE_TEARDOWN(unwanted)
{
	block_close(&self->block);
}

TEST_F(unwanted, has_a_sentence)
{
	struct placer_collapse count = { 0 };
	struct block *b = &self->block;

	block_fill(b, 1);
	ASSERT_EQ(-EOPNOTSUPP, placer_collapse(&b->placer, 0, BLOCK_BYTES, &count, &b->err));
	ASSERT_NE(NULL, strstr(b->err.text, "is not to have huge pages"))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, count.made + count.before + count.sparse + count.refused);
}

TEST_HARNESS_MAIN
