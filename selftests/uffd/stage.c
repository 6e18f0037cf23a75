/* SPDX-License-Identifier: GPL-2.0 */
/* Private anonymous memory by whole stages: when they move, and what if they do not. */
#include "selftests/uffd/block.h"
#include "uffd/abi.h"

#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

#define EACH (STAGE_BYTES / TARGET_PAGE) /* pages of a stage */
#define ROUNDS 20

FIXTURE(stage)
{
	struct block block;
	struct stage *stage;
};

static bool huge_pages_are_made(void)
{
	FILE *mode = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[128] = "";

	if (mode && !fgets(line, sizeof(line), mode))
		line[0] = '\0';
	if (mode)
		fclose(mode);
	return strstr(line, "[always]") || strstr(line, "[madvise]");
}

FIXTURE_SETUP(stage)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, block_open(b, MEMORY_THP, 0))
	TH_LOG("%s", b->err.text);
	self->stage = &b->stage[0];
	if (~b->uffd.offered & UFFD_FEATURE_MOVE)
		SKIP(return, "userfaultfd has no MOVE");
	if (!huge_pages_are_made())
		SKIP(return, "transparent_hugepage/enabled is never");
	ASSERT_EQ(0, placer_advise(&b->placer, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
}

FIXTURE_TEARDOWN(stage)
{
	block_close(&self->block);
}

/* AnonHugePages of the block, in stages */
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
		if (inside && sscanf(line, "AnonHugePages: %u kB", &found) == 1)
			kb += found;
	}
	if (smaps)
		fclose(smaps);
	return kb / 2048;
}

/* All of it comes again; the block is armed with pages of nothing anew */
static void again(struct _test_data_stage *self)
{
	(void)placer_discard(&self->block.placer, 0, BLOCK_BYTES, &self->block.err);
}

TEST_F(stage, whole_ones_move)
{
	struct block *b = &self->block;
	unsigned i;

	for (i = 0; i < BLOCK_STAGES; i++)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i * EACH, EACH, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	/* The guest has its huge pages, though no huge page may be made there */
	ASSERT_EQ(BLOCK_STAGES, huge_stages(b));
	ASSERT_EQ(PLACER_MOVE, b->placer.way);
	/* And the stage does not show what was in it */
	ASSERT_EQ(0, self->stage->memory[0]);
}

TEST_F(stage, parts_are_copied)
{
	struct block *b = &self->block;

	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH - 1, 1, true, NULL));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, EACH - 1, 1, 1, true, NULL));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 1));
	ASSERT_EQ(0, huge_stages(b));
	/* A page stays where it was put until another comes */
	ASSERT_TRUE(page_is(self->stage->memory, TARGET_PAGE, 0, 1));
}

/* Page by page through a stage that holds one, whole ones by the other at the same time */
TEST_F(stage, of_one_page)
{
	struct block *b = &self->block;
	struct stage page;

	ASSERT_EQ(0, stage_init(&page, TARGET_PAGE, &b->err));
	for (uint64_t i = 1; i < EACH; i += 2) {
		uint64_t at = i * TARGET_PAGE;

		ASSERT_EQ(page.memory, placer_room(&b->placer, &page, at));
		page_fill(page.memory, TARGET_PAGE, i, 1);
		ASSERT_EQ(PLACED_OK,
			  placer_place(&b->placer, &page, at, TARGET_PAGE, true, NULL, &b->err));
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i - 1, 1, 1, true, NULL));
	}
	ASSERT_EQ(PLACED_FAILED, placer_place(&b->placer, &page, STAGE_BYTES, 2 * TARGET_PAGE, true,
					      NULL, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, EACH, EACH, 1, true, NULL));
	ASSERT_EQ(2 * EACH, block_wrong(b, 0, 2 * EACH, 1));
	ASSERT_EQ(1, huge_stages(b));
	stage_fini(&page);
}

TEST_F(stage, what_is_not_offered_is_not_used)
{
	struct block *b = &self->block;

	ASSERT_NE(0, b->placer.ioctls & UINT64_C(1) << _UFFDIO_MOVE);
	b->placer.ioctls &= ~(UINT64_C(1) << _UFFDIO_MOVE);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 1));
	ASSERT_EQ(0, huge_stages(b));
}

TEST_F(stage, a_waiting_thread_is_woken)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;
	uint8_t first[8];

	ASSERT_TRUE(toucher_start(&toucher, b->at + 5 * TARGET_PAGE));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	page_fill(first, sizeof(first), 5, 1);
	ASSERT_EQ(first[0], toucher_end(&toucher));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 1));
}

/* Where a page is there already nothing is lost of the others. */
TEST_F(stage, up_to_a_page_that_is_there)
{
	struct block *b = &self->block;
	uint64_t done = 0;

	ASSERT_EQ(PLACED_OK, block_place(b, 1, 77, 1, 1, true, NULL));
	ASSERT_EQ(PLACED_BEFORE, block_place(b, 0, 0, EACH, 2, true, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(77 * TARGET_PAGE, done);
	ASSERT_EQ(PLACED_OK, placer_place(&b->placer, self->stage, 78 * TARGET_PAGE,
					  (EACH - 78) * TARGET_PAGE, true, &done, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(77, block_wrong(b, 0, 77, 2));
	ASSERT_EQ(78, block_wrong(b, 77, 78, 1));
	ASSERT_EQ(EACH, block_wrong(b, 78, EACH, 2));
}

/*
 * The guest has a page table there, though an empty one: the huge page is split, and the
 * stage is small from then on. It becomes huge again after a while.
 */
TEST_F(stage, a_split_one_recovers)
{
	struct block *b = &self->block;
	unsigned round, huge = 0;

	for (round = 0; round < ROUNDS; round++) {
		if (round < 3) {
			/* With a hole in it afterwards, and nothing else */
			ASSERT_EQ(PLACED_OK, block_zero(b, 5, 1, NULL));
			ASSERT_EQ(0, madvise(b->at + 5 * TARGET_PAGE, TARGET_PAGE, MADV_DONTNEED));
		}
		ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, round, true, NULL))
		TH_LOG("%s", b->err.text);
		ASSERT_EQ(EACH, block_wrong(b, 0, EACH, (int)round));
		huge += huge_stages(b);
		/* All of it, page table and all: a mapping anew */
		ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
		ASSERT_EQ(b->at, mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
				      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	}
	ASSERT_LT(ROUNDS / 2, huge)
	TH_LOG("%u of %u moved", huge, ROUNDS);
	ASSERT_EQ(0, self->stage->skips);
}

TEST_F(stage, a_pinned_one_is_copied)
{
	struct iovec iov = { self->stage->memory, STAGE_BYTES };
	struct block *b = &self->block;
	struct io_uring ring;
	int ret = io_uring_queue_init(1, &ring, 0);

	if (ret < 0)
		SKIP(return, "io_uring: %s", strerror(-ret));
	memset(self->stage->memory, 1, STAGE_BYTES);
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, huge_stages(b));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 1));
	/* For this time only */
	ASSERT_EQ(PLACER_MOVE, b->placer.way);
	ASSERT_LT(0, self->stage->skips);
	io_uring_queue_exit(&ring);
}

TEST_F(stage, locked_memory_is_copied_for_good)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, syscall(SYS_mlock2, b->at, BLOCK_BYTES, MLOCK_ONFAULT));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACER_COPY, b->placer.way);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, EACH, EACH, 1, true, NULL));
	ASSERT_EQ(2 * EACH, block_wrong(b, 0, 2 * EACH, 1));
	ASSERT_EQ(0, huge_stages(b));
}

/* A block that does not begin at a multiple of 2 MiB cannot take a huge page. */
TEST_F(stage, an_unaligned_block_is_copied)
{
	struct block *b = &self->block;
	struct region shifted = b->memory.region;

	placer_disarm(&b->placer, &b->err);
	placer_fini(&b->placer);
	shifted.addr += TARGET_PAGE;
	shifted.length -= STAGE_BYTES;
	ASSERT_EQ(0, placer_init(&b->placer, &shifted, &b->uffd, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	b->at += TARGET_PAGE;
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 1));
	/* Not even in pieces */
	ASSERT_TRUE(page_is(self->stage->memory, TARGET_PAGE, 0, 1));
	placer_disarm(&b->placer, &b->err);
	placer_fini(&b->placer);
	b->at -= TARGET_PAGE;
}

/* Neither one that may not be looked at, nor one that never is huge */
TEST_F(stage, small_pages_are_copied)
{
	struct block *b = &self->block;
	unsigned i;

	ASSERT_EQ(0, madvise(self->stage->memory, STAGE_BYTES, MADV_NOHUGEPAGE));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	ASSERT_EQ(0, huge_stages(b));
	close(self->stage->pagemap);
	self->stage->pagemap = -1;
	for (i = 1; i < BLOCK_STAGES; i++)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i * EACH, EACH, 1, true, NULL));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_EQ(0, huge_stages(b));
	again(self);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 2, true, NULL));
	ASSERT_EQ(EACH, block_wrong(b, 0, EACH, 2));
}

/* Said by the block's owner: not even such as come for nothing */
TEST_F(stage, who_wants_no_huge_pages_gets_none)
{
	struct block *b = &self->block;
	unsigned i;

	placer_disarm(&b->placer, &b->err);
	placer_fini(&b->placer);
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < BLOCK_STAGES; i++)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i * EACH, EACH, 1, true, NULL));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_EQ(0, huge_stages(b));
}

/* The owner has said nothing: what comes huge stays so, whatever touching would make. */
TEST_F(stage, who_has_said_nothing_gets_them)
{
	struct block *b = &self->block;

	placer_disarm(&b->placer, &b->err);
	placer_fini(&b->placer);
	ASSERT_EQ(b->at, mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
			      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	ASSERT_EQ(-1, b->placer.mapping.advice);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	ASSERT_EQ(1, huge_stages(b));
}

static bool there(const uint8_t *at)
{
	unsigned char vec = 0;

	return mincore((void *)(uintptr_t)at, 1, &vec) == 0 && vec & 1;
}

TEST_F(stage, the_next_one_comes_ahead)
{
	struct block *b = &self->block;
	uint8_t *memory = self->stage->memory, *spare = self->stage->spare;

	/* Nothing before it is known that they move */
	ASSERT_FALSE(stage_ahead(self->stage));
	ASSERT_FALSE(there(spare));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, EACH, 1, true, NULL));
	ASSERT_EQ(memory, self->stage->memory);
	ASSERT_TRUE(stage_ahead(self->stage));
	ASSERT_TRUE(there(spare));
	/* One is enough */
	ASSERT_FALSE(stage_ahead(self->stage));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, EACH, EACH, 1, true, NULL));
	ASSERT_EQ(spare, self->stage->memory);
	ASSERT_EQ(memory, self->stage->spare);
	/* And that one was zeroed: it is not when it is touched for the first time */
	ASSERT_TRUE(there(self->stage->memory));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 2 * EACH, EACH, 1, true, NULL));
	ASSERT_EQ(spare, self->stage->memory);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_EQ(BLOCK_STAGES, huge_stages(b));
}

struct helper {
	pthread_t thread;
	struct stage *stage;
	int stop;
	unsigned pages;
};

static void *helper_main(void *opaque)
{
	struct helper *helper = opaque;

	while (!__atomic_load_n(&helper->stop, __ATOMIC_ACQUIRE))
		helper->pages += stage_ahead(helper->stage);
	return NULL;
}

/* Two threads, and every page is what it is to be. */
TEST_F(stage, filled_and_zeroed_at_once)
{
	struct helper helper = { .stage = self->stage };
	struct block *b = &self->block;
	unsigned round;

	ASSERT_EQ(0, pthread_create(&helper.thread, NULL, helper_main, &helper));
	for (round = 0; round < 50; round++) {
		uint64_t first = round % BLOCK_STAGES * EACH;

		ASSERT_EQ(PLACED_OK, block_place(b, 0, first, EACH, round, true, NULL))
		TH_LOG("%s", b->err.text);
		ASSERT_EQ(first + EACH, block_wrong(b, first, first + EACH, (int)round));
		if (first + EACH < b->pages)
			continue;
		ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
		ASSERT_EQ(b->at, mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
				      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	}
	__atomic_store_n(&helper.stop, 1, __ATOMIC_RELEASE);
	pthread_join(helper.thread, NULL);
	ASSERT_LT(0, helper.pages);
	ASSERT_EQ(0, self->stage->skips);
}

/* Split, since the guest has a page table there, and one of the pages is pinned: the rest */
TEST_F(stage, up_to_a_pinned_page)
{
	struct block *b = &self->block;
	struct iovec iov = { self->stage->memory + 100 * TARGET_PAGE, TARGET_PAGE };
	struct io_uring ring;
	uint64_t done = 0;
	int ret = io_uring_queue_init(1, &ring, 0);

	if (ret < 0)
		SKIP(return, "io_uring: %s", strerror(-ret));
	/* Small pages, which move one by one; of the huge one a pin is on all */
	ASSERT_EQ(0, madvise(self->stage->memory, STAGE_BYTES, MADV_NOHUGEPAGE));
	memset(self->stage->memory, 'm', STAGE_BYTES);
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(PLACED_PINNED, uffd_move(&b->uffd, b->at, self->stage->memory, STAGE_BYTES, true,
					   &done, &b->err));
	ASSERT_EQ(100 * TARGET_PAGE, done);
	/* What was not moved is still there, to be copied */
	ASSERT_EQ('m', self->stage->memory[done]);
	ASSERT_EQ('m', self->stage->memory[STAGE_BYTES - 1]);
	ASSERT_EQ(PLACED_OK, placer_place(&b->placer, self->stage, done, STAGE_BYTES - done, true,
					  &done, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, memcmp(b->at, b->at + 1, STAGE_BYTES - 1));
	ASSERT_EQ('m', b->at[0]);
	io_uring_queue_exit(&ring);
}

TEST_F(stage, is_not_given_to_children)
{
	int status = 0;
	pid_t child;

	self->stage->memory[0] = 1;
	child = fork();
	if (child == 0) {
		unsigned char vec;

		_exit(mincore(self->stage->memory, TARGET_PAGE, &vec) < 0 && errno == ENOMEM ? 0 :
											       1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
}

TEST(sizes)
{
	struct wh_err err = { 0 };
	struct stage stage;

	ASSERT_EQ(0, stage_init(&stage, 2 * STAGE_BYTES, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(0, (uintptr_t)stage.memory % (2 * STAGE_BYTES));
	memset(stage.memory, 1, 2 * STAGE_BYTES);
	stage_fini(&stage);
	ASSERT_EQ(NULL, stage.memory);
	ASSERT_EQ(-EINVAL, stage_init(&stage, TARGET_PAGE / 2, &err));
	ASSERT_EQ(-EINVAL, stage_init(&stage, 3 * STAGE_BYTES, &err));
	ASSERT_NE(NULL, strstr(err.text, "6291456 bytes"))
	TH_LOG("%s", err.text);
	ASSERT_EQ(-ENOMEM, stage_init(&stage, UINT64_C(1) << 62, &err));
}

TEST_HARNESS_MAIN
