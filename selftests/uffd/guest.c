/* SPDX-License-Identifier: GPL-2.0 */
/* A block that is mapped here, and watched elsewhere: struct region.guest */
#include "selftests/uffd/block.h"
#include "selftests/uffd/setting.h"

#include <errno.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

FIXTURE(guest)
{
	struct block block; /* .at is where the guest has it */
	struct region region;
	uint8_t *ours;
};

FIXTURE_VARIANT(guest)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(guest, memfd) { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(guest, hugetlb) { .kind = MEMORY_HUGETLB };
/* clang-format on */

FIXTURE_SETUP(guest)
{
	struct block *b = &self->block;
	int ret = block_open(b, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", b->err.text);
	ASSERT_EQ(0, ret) TH_LOG("%s", b->err.text);
	placer_fini(&b->placer);
	self->region = b->memory.region;
	self->region.guest = b->at;
	self->ours = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			  self->region.fd, 0);
	ASSERT_NE(MAP_FAILED, self->ours);
	self->region.addr = self->ours;
	ASSERT_EQ(0, placer_init(&b->placer, &self->region, &b->uffd, &b->err))
	TH_LOG("%s", b->err.text);
}

FIXTURE_TEARDOWN(guest)
{
	if (self->block.placer.armed)
		(void)placer_disarm(&self->block.placer, NULL);
	placer_fini(&self->block.placer);
	munmap(self->ours, BLOCK_BYTES);
	block_close(&self->block);
}

/* A page comes into the file by COPY only: nothing there is without its contents */
TEST_F(guest, no_second_mapping)
{
	struct placer *p = &self->block.placer;
	uint64_t offset;

	EXPECT_EQ(PLACER_COPY, p->way);
	EXPECT_EQ(NULL, p->alias);
	EXPECT_EQ(0, region_find(&self->region, 1, self->block.at + 5, &offset));
	EXPECT_EQ(5, offset);
	EXPECT_EQ(-1, region_find(&self->region, 1, self->ours, &offset));
}

TEST_F(guest, what_came_before_is_seen_and_stays)
{
	struct block *b = &self->block;
	uint64_t done = 0;

	ASSERT_EQ(self->ours, placer_room(&b->placer, &b->stage[0], 0));
	page_fill(self->ours, b->page, 0, 1);
	page_fill(self->ours + b->page, b->page, 1, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, b->page, b->page, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err)) TH_LOG("%s", b->err.text);
	/* It was never mapped there, and yet nobody has to be asked for it */
	ASSERT_EQ(1, block_wrong(b, 0, 1, 1));
	EXPECT_EQ(PLACED_BEFORE, block_place(b, 0, 0, 1, 2, true, &done));
	EXPECT_EQ(1, block_wrong(b, 0, 1, 1));
	EXPECT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 2, true, &done));
	EXPECT_EQ(2, block_wrong(b, 1, 2, 2));
	EXPECT_EQ(PLACED_BEFORE, block_place(b, 0, 1, 1, 3, true, &done));
	EXPECT_EQ(2, block_wrong(b, 1, 2, 2));
}

TEST_F(guest, who_waits_there_is_woken)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;
	uint64_t done = 0;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err)) TH_LOG("%s", b->err.text);
	ASSERT_TRUE(toucher_start(&toucher, b->at + b->page));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ((uintptr_t)(b->at + b->page), event.addr & ~(b->page - 1));
	/* The one who has read that died: to the next one it announces itself again */
	ASSERT_EQ(0, placer_wake(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ((uintptr_t)(b->at + b->page), event.addr & ~(b->page - 1));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 7, true, &done));
	toucher_end(&toucher);
	EXPECT_EQ(2, block_wrong(b, 1, 2, 7));
	EXPECT_EQ(PLACED_OK, block_zero(b, 2, 1, &done));
	EXPECT_EQ(3, block_wrong(b, 2, 3, -1));
	EXPECT_EQ(PLACED_BEFORE, block_zero(b, 1, 1, &done));
	EXPECT_EQ(2, block_wrong(b, 1, 2, 7));
}

/* On a file system with a page less than the block has, and all others are in the file */
TEST_F(guest, what_came_before_is_found_in_a_full_file_system)
{
	struct block *b = &self->block;
	bool huge = variant->kind == MEMORY_HUGETLB;
	uint64_t done = 0, last = b->pages - 1;
	char options[64];
	int fd;

	ASSERT_EQ(0, geteuid());
	ASSERT_TRUE(own_mounts());
	snprintf(options, sizeof(options), "%ssize=%llu", huge ? "pagesize=2M," : "",
		 (unsigned long long)(last * b->page));
	fd = file_in(huge ? "hugetlbfs" : "tmpfs", options);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, BLOCK_BYTES));
	placer_fini(&b->placer);
	close(b->memory.region.fd);
	b->memory.region.fd = self->region.fd = fd;
	ASSERT_EQ(b->at, mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
			      MAP_FIXED | MAP_NORESERVE | MAP_SHARED, fd, 0));
	ASSERT_EQ(self->ours, mmap(self->ours, BLOCK_BYTES, PROT_READ | PROT_WRITE,
				   MAP_FIXED | MAP_NORESERVE | MAP_SHARED, fd, 0));
	ASSERT_EQ(0, placer_init(&b->placer, &self->region, &b->uffd, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err)) TH_LOG("%s", b->err.text);
	for (uint64_t i = 0; i < last; i++)
		page_fill(self->ours + i * b->page, b->page, i, 1);
	EXPECT_EQ(PLACED_BEFORE, block_place(b, 0, 0, 1, 2, true, &done));
	EXPECT_EQ(0, done);
	EXPECT_EQ(PLACED_BEFORE, block_zero(b, 1, 1, &done));
	EXPECT_EQ(PLACED_NO_MEMORY, block_place(b, 0, last, 1, 2, true, &done));
	EXPECT_EQ(PLACED_NO_MEMORY, block_zero(b, last, 1, &done));
	EXPECT_EQ(last, block_wrong(b, 0, last, 1));
}

TEST_F(guest, only_of_a_file)
{
	struct placer placer;
	struct region region = self->region;

	region.fd = -1;
	EXPECT_EQ(-EINVAL, placer_init(&placer, &region, &self->block.uffd, &self->block.err));
	EXPECT_NE(NULL, strstr(self->block.err.text, "another process's"));
}

TEST_HARNESS_MAIN
