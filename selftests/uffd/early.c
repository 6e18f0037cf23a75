/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/lib/memory.h"
#include "selftests/uffd/setting.h"
#include "uffd/early.h"
#include "uffd/placer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES 16
#define BYTES (PAGES * TARGET_PAGE)

FIXTURE(early)
{
	struct memory memory;
	struct mapping mapping;
	struct early early;
	bool watched;
	struct region *region;
	uint8_t from[BYTES];
	struct wh_err err;
};

FIXTURE_SETUP(early)
{
	memset(self, 0, sizeof(*self));
	for (unsigned i = 0; i < BYTES; i++)
		self->from[i] = (uint8_t)(i / 7 + 1);
}

FIXTURE_TEARDOWN(early)
{
	memory_free(&self->memory);
}

static int begin(FIXTURE_DATA(early) *self, enum memory_kind kind, bool watched)
{
	uint64_t page = memory_traits[kind].page_size;
	int ret = memory_new(&self->memory, kind, PAGES * page, &self->err);

	self->region = &self->memory.region;
	if (ret == 0)
		ret = mapping_find(&self->mapping, self->region, &self->err);
	if (ret == 0)
		early_init(&self->early, self->region, &self->mapping);
	self->watched = watched;
	return ret;
}

static uint64_t mapped(FIXTURE_DATA(early) *self)
{
	return memory_mapped(self->region->addr, BYTES);
}

TEST_F(early, private_memory_is_populated)
{
	ASSERT_EQ(0, begin(self, MEMORY_ANON, false)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(EARLY_POPULATE, early_way(&self->early, false, self->watched));
	early_populate(&self->early, 2 * TARGET_PAGE + 100, 3 * TARGET_PAGE);
	/* Of a begun page all, and no other */
	EXPECT_EQ(4, mapped(self));
	EXPECT_EQ(EARLY_POPULATE, early_way(&self->early, true, self->watched));
}

TEST_F(early, a_file_is_written)
{
	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(EARLY_WRITE, early_way(&self->early, false, self->watched));
	ASSERT_EQ(0, early_write(&self->early, self->from, 100, 5 * TARGET_PAGE, &self->err));
	EXPECT_EQ(0, mapped(self));
	EXPECT_EQ(0, memcmp(self->from, self->region->addr + 100, 5 * TARGET_PAGE));
	EXPECT_EQ(0, self->region->addr[99]);
	EXPECT_EQ(0, self->region->addr[100 + 5 * TARGET_PAGE]);
}

/* The block is the second half of its file */
TEST_F(early, a_file_is_written_where_the_block_is)
{
	uint8_t *at;

	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	at = self->region->addr;
	self->region->addr += BYTES / 2;
	self->region->fd_offset = BYTES / 2;
	self->region->length = BYTES / 2;
	ASSERT_EQ(0, mapping_find(&self->mapping, self->region, &self->err));
	early_init(&self->early, self->region, &self->mapping);
	ASSERT_EQ(EARLY_WRITE, early_way(&self->early, false, self->watched));
	ASSERT_EQ(0, early_write(&self->early, self->from, TARGET_PAGE, 100, &self->err));
	EXPECT_EQ(0, memcmp(self->from, self->region->addr + TARGET_PAGE, 100));
	self->region->addr = at;
	self->region->length = BYTES;
}

/* A page in the file that is not mapped would be a fault */
TEST_F(early, what_is_to_be_watched_is_mapped)
{
	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, true)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(EARLY_POPULATE, early_way(&self->early, false, self->watched));
}

TEST_F(early, a_copy_of_a_file_is_not_written_to_it)
{
	ASSERT_EQ(0, begin(self, MEMORY_MEMFD_PRIVATE, false)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(EARLY_POPULATE, early_way(&self->early, false, self->watched));
}

TEST_F(early, nothing_known)
{
	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	early_init(&self->early, self->region, NULL);
	EXPECT_EQ(EARLY_TOUCH, early_way(&self->early, false, self->watched));
}

TEST_F(early, huge_pages_are_touched)
{
	ASSERT_EQ(0, begin(self, MEMORY_THP, false)) TH_LOG("%s", self->err.text);
	if (!self->mapping.huge_by_touch)
		SKIP(return, "this system makes no huge pages");
	EXPECT_EQ(EARLY_TOUCH, early_way(&self->early, false, self->watched));
	/* Until it is advised otherwise */
	EXPECT_EQ(EARLY_POPULATE, early_way(&self->early, true, self->watched));
}

/* Three huge pages, the first and the last of which are not wholly the block's */
TEST_F(early, a_huge_page_is_there_before_it_is_touched)
{
	uint8_t *room = mmap(NULL, 4 * STAGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *huge = room + (-(uintptr_t)room & (STAGE_BYTES - 1));
	struct region region = { .name = "ram", .page_size = TARGET_PAGE, .fd = -1 };
	const uint64_t pages = STAGE_BYTES / TARGET_PAGE, length = 3 * STAGE_BYTES - 8192;

	ASSERT_NE(MAP_FAILED, (void *)room);
	ASSERT_EQ(0, madvise(huge, 3 * STAGE_BYTES, MADV_HUGEPAGE));
	region.addr = huge + TARGET_PAGE;
	region.length = length;
	ASSERT_EQ(0, mapping_find(&self->mapping, &region, &self->err));
	if (!self->mapping.huge_by_touch)
		SKIP(return, "this system makes no huge pages");
	early_init(&self->early, &region, &self->mapping);
	early_touch(&self->early, 0, STAGE_BYTES - TARGET_PAGE);
	early_touch(&self->early, length - TARGET_PAGE, TARGET_PAGE);
	EXPECT_EQ(0, memory_mapped(huge, 3 * STAGE_BYTES));
	early_touch(&self->early, STAGE_BYTES - 2 * TARGET_PAGE, 2 * TARGET_PAGE);
	EXPECT_EQ(pages, memory_mapped(huge, 3 * STAGE_BYTES));
	EXPECT_EQ(pages, memory_mapped(huge + STAGE_BYTES, STAGE_BYTES));
	/* Not twice: it has no other effect than to take its time */
	ASSERT_EQ(0, madvise(huge + STAGE_BYTES, STAGE_BYTES, MADV_DONTNEED));
	early_touch(&self->early, STAGE_BYTES, TARGET_PAGE);
	EXPECT_EQ(0, memory_mapped(huge, 3 * STAGE_BYTES));
	/* Small pages come one by one */
	self->early.touched = 0;
	self->early.huge = false;
	early_touch(&self->early, STAGE_BYTES, TARGET_PAGE);
	EXPECT_EQ(0, memory_mapped(huge, 3 * STAGE_BYTES));
	munmap(room, 4 * STAGE_BYTES);
}

TEST_F(early, a_pool_is_touched)
{
	int ret = begin(self, MEMORY_HUGETLB, false);

	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret) TH_LOG("%s", self->err.text);
	EXPECT_EQ(EARLY_TOUCH, early_way(&self->early, false, self->watched));
}

static enum early_way way_again(FIXTURE_DATA(early) *self)
{
	early_init(&self->early, self->region, &self->mapping);
	return early_way(&self->early, false, self->watched);
}

TEST_F(early, files_that_are_not_written)
{
	struct rlimit limit, most;
	char path[64];
	int fd;

	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	fd = self->region->fd;
	ASSERT_EQ(0, fcntl(fd, F_SETFL, O_APPEND));
	EXPECT_EQ(EARLY_POPULATE, way_again(self));
	ASSERT_EQ(0, fcntl(fd, F_SETFL, 0));
	EXPECT_EQ(EARLY_WRITE, way_again(self));

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	self->region->fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, self->region->fd);
	EXPECT_EQ(EARLY_POPULATE, way_again(self));
	close(self->region->fd);
	self->region->fd = fd;

	/* It would be SIGXFSZ */
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &most));
	limit = (struct rlimit){ .rlim_cur = BYTES - 1, .rlim_max = most.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	EXPECT_EQ(EARLY_POPULATE, way_again(self));
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &most));

	/* It would grow */
	ASSERT_EQ(0, ftruncate(fd, BYTES - TARGET_PAGE));
	EXPECT_EQ(EARLY_POPULATE, way_again(self));
}

TEST_F(early, a_sealed_file_is_not_written)
{
	int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	close(self->region->fd);
	self->region->fd = fd;
	ASSERT_EQ(0, ftruncate(fd, BYTES));
	ASSERT_EQ(self->region->addr, mmap(self->region->addr, BYTES, PROT_READ | PROT_WRITE,
					   MAP_FIXED | MAP_SHARED, fd, 0));
	EXPECT_EQ(EARLY_WRITE, way_again(self));
	ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	EXPECT_EQ(EARLY_POPULATE, way_again(self));
}

/* Touching it would be SIGBUS */
TEST_F(early, a_full_file_system_is_an_error)
{
	int fd;

	if (geteuid() != 0 || !own_mounts())
		SKIP(return, "no mounts of our own");
	fd = file_in("tmpfs", "size=32k");
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, begin(self, MEMORY_MEMFD, false)) TH_LOG("%s", self->err.text);
	close(self->region->fd);
	self->region->fd = fd;
	ASSERT_EQ(0, ftruncate(fd, BYTES));
	ASSERT_EQ(self->region->addr, mmap(self->region->addr, BYTES, PROT_READ | PROT_WRITE,
					   MAP_FIXED | MAP_SHARED, fd, 0));
	ASSERT_EQ(EARLY_WRITE, way_again(self));
	EXPECT_EQ(-ENOSPC, early_write(&self->early, self->from, 0, BYTES, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, self->region->name)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, memcmp(self->from, self->region->addr, TARGET_PAGE));
}

TEST_HARNESS_MAIN
