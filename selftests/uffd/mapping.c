/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/lib/memory.h"
#include "selftests/uffd/setting.h"
#include "uffd/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES 8

FIXTURE(mapping)
{
	struct memory memory;
	struct mapping found;
	struct region region; /* a copy to play with */
	struct wh_err err;
};

FIXTURE_VARIANT(mapping)
{
	enum memory_kind kind;
	struct mapping is;
};

/* clang-format off */
#define VARIANT(name, kind_, ...) \
	FIXTURE_VARIANT_ADD(mapping, name) { .kind = MEMORY_##kind_, .is = { __VA_ARGS__ } }
VARIANT(anon, ANON, .advice = -1);
VARIANT(thp, THP, .advice = MADV_HUGEPAGE);
VARIANT(memfd, MEMFD, .advice = -1, .file = true, .shared = true);
VARIANT(private, MEMFD_PRIVATE, .advice = -1, .file = true);
VARIANT(hugetlb, HUGETLB, .advice = -1, .file = true, .shared = true, .hugetlb = true);
VARIANT(hugetlb_private, HUGETLB_PRIVATE, .advice = -1, .file = true, .hugetlb = true);
/* clang-format on */

FIXTURE_SETUP(mapping)
{
	int ret;

	memset(self, 0, sizeof(*self));
	ret = memory_new(&self->memory, variant->kind,
			 PAGES * memory_traits[variant->kind].page_size, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	self->region = self->memory.region;
}

FIXTURE_TEARDOWN(mapping)
{
	memory_free(&self->memory);
}

TEST_F(mapping, is_known)
{
	ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(variant->is.shared, self->found.shared);
	ASSERT_EQ(variant->is.file, self->found.file);
	ASSERT_EQ(variant->is.hugetlb, self->found.hugetlb);
	ASSERT_EQ(variant->is.advice, self->found.advice);
	/* A block may be a part of it */
	self->region.addr += self->region.page_size;
	self->region.fd_offset += self->region.page_size;
	self->region.length -= 2 * self->region.page_size;
	ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(variant->is.shared, self->found.shared);
}

TEST_F(mapping, of_other_pages)
{
	uint64_t page = self->region.page_size;
	char expected[64];

	self->region.page_size = page == TARGET_PAGE ? 2 << 20 : TARGET_PAGE;
	ASSERT_EQ(-EINVAL, mapping_find(&self->found, &self->region, &self->err));
	snprintf(expected, sizeof(expected), "has pages of %lu bytes", (unsigned long)page);
	ASSERT_NE(NULL, strstr(self->err.text, expected))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, strncmp(self->err.text, "block '", 7));
}

TEST_F(mapping, with_a_hole)
{
	uint64_t page = self->region.page_size;
	char expected[64];

	ASSERT_EQ(0, munmap(self->region.addr + 3 * page, page));
	ASSERT_EQ(-EFAULT, mapping_find(&self->found, &self->region, &self->err));
	snprintf(expected, sizeof(expected), "nothing is mapped at %#lx",
		 (unsigned long)(uintptr_t)self->region.addr + 3 * page);
	ASSERT_NE(NULL, strstr(self->err.text, expected))
	TH_LOG("%s", self->err.text);
	/* Nor where nothing at all is */
	self->region.addr += 3 * page;
	self->region.length = page;
	ASSERT_EQ(-EFAULT, mapping_find(&self->found, &self->region, &self->err));
}

TEST_F(mapping, in_several_pieces)
{
	uint64_t page = self->region.page_size;

	ASSERT_EQ(0, mprotect(self->region.addr + 2 * page, page, PROT_READ));
	ASSERT_EQ(0, madvise(self->region.addr + 5 * page, page, MADV_DONTFORK));
	ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(variant->is.shared, self->found.shared);
}

TEST_F(mapping, of_two_kinds)
{
	bool shared = memory_traits[variant->kind].shared;
	uint64_t page = self->region.page_size;
	int flags = shared ? MAP_PRIVATE : MAP_SHARED;

	/* No file of ours: only the difference is to be seen */
	self->region.fd = -1;
	if (page != TARGET_PAGE)
		flags |= MAP_HUGETLB | MAP_NORESERVE;
	ASSERT_NE(MAP_FAILED, mmap(self->region.addr + 4 * page, page, PROT_READ | PROT_WRITE,
				   MAP_FIXED | MAP_ANONYMOUS | flags, -1, 0));
	ASSERT_EQ(-EINVAL, mapping_find(&self->found, &self->region, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "two kinds"))
	TH_LOG("%s", self->err.text);
}

TEST_F(mapping, of_another_file)
{
	int fd = memfd_create("another", MFD_CLOEXEC);

	self->region.fd = fd;
	ASSERT_EQ(-EINVAL, mapping_find(&self->found, &self->region, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "is of inode"))
	TH_LOG("%s", self->err.text);
	close(fd);
	self->region.fd = 1000;
	ASSERT_EQ(-EBADF, mapping_find(&self->found, &self->region, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "Bad file descriptor"))
	TH_LOG("%s", self->err.text);
}

TEST_F(mapping, at_another_place)
{
	if (!memory_traits[variant->kind].fd) {
		/* Without a file there is no place in it */
		self->region.fd_offset = self->region.page_size;
		ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err));
		return;
	}
	self->region.fd_offset = self->region.page_size;
	ASSERT_EQ(-EINVAL, mapping_find(&self->found, &self->region, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "offset 0 of its file is mapped"))
	TH_LOG("%s", self->err.text);
}

/* Two mappings of one file that lie beside each other, but not in the file */
TEST_F(mapping, in_the_wrong_order)
{
	uint64_t page = self->region.page_size;
	int flags = memory_traits[variant->kind].shared ? MAP_SHARED : MAP_PRIVATE;

	if (self->region.fd < 0) {
		ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err));
		return;
	}
	ASSERT_NE(MAP_FAILED, mmap(self->region.addr + 4 * page, page, PROT_READ | PROT_WRITE,
				   MAP_FIXED | MAP_NORESERVE | flags, self->region.fd, 0));
	ASSERT_EQ(-EINVAL, mapping_find(&self->found, &self->region, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "offset 0 of its file is mapped"))
	TH_LOG("%s", self->err.text);
}

/* What the owner's advice and the system's setting make of each other */
TEST_F(mapping, huge_pages)
{
	enum {
		MADE,
		TOUCHED
	};
	static const struct {
		const char *anon, *file;
		int advice;
		int huge[2][2]; /* of anonymous memory, of a file's: is it, by touch? */
	} table[] = {
		{ "always madvise [never]", "always [never] deny", -1, { { 0, 0 }, { 0, 0 } } },
		{ "always madvise [never]",
		  "always [never] deny",
		  MADV_HUGEPAGE,
		  { { 0, 0 }, { 1, 0 } } },
		{ "always [madvise] never", "[advise] never deny", -1, { { 0, 0 }, { 0, 0 } } },
		{ "always [madvise] never",
		  "[advise] never deny",
		  MADV_HUGEPAGE,
		  { { 1, 1 }, { 1, 1 } } },
		{ "[always] madvise never", "[always] never deny", -1, { { 1, 1 }, { 1, 1 } } },
		{ "[always] madvise never", "[within_size] never", -1, { { 1, 1 }, { 1, 1 } } },
		{ "[always] madvise never",
		  "[always] never deny",
		  MADV_NOHUGEPAGE,
		  { { 0, 0 }, { 0, 0 } } },
		{ "always madvise [never]",
		  "always never [deny]",
		  MADV_HUGEPAGE,
		  { { 0, 0 }, { 0, 0 } } },
	};
	bool file = variant->is.shared, never = variant->is.hugetlb || variant->is.file != file;
	unsigned i;

	if (geteuid() != 0 || !own_mounts())
		SKIP(return, "to pretend a setting takes root");
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int advice = table[i].advice;

		if (variant->is.hugetlb)
			advice = -1;
		if (advice < 0 && variant->kind == MEMORY_THP)
			continue;
		if (!pretend(SETTING_ANON, table[i].anon) || !pretend(SETTING_FILE, table[i].file))
			SKIP(return, "no huge pages in this kernel");
		/* A new mapping has no advice */
		if (variant->kind != MEMORY_THP && !variant->is.hugetlb)
			ASSERT_NE(MAP_FAILED,
				  mmap(self->region.addr, self->region.length,
				       PROT_READ | PROT_WRITE,
				       MAP_FIXED | (file ? MAP_SHARED : MAP_PRIVATE) |
					       (self->region.fd < 0 ? MAP_ANONYMOUS : 0),
				       self->region.fd, 0));
		if (advice >= 0)
			ASSERT_EQ(0, madvise(self->region.addr, self->region.length, advice));
		ASSERT_EQ(0, mapping_find(&self->found, &self->region, &self->err))
		TH_LOG("%s", self->err.text);
		ASSERT_EQ(!never && table[i].huge[file][MADE], self->found.huge)
		TH_LOG("line %u", i);
		ASSERT_EQ(!never && table[i].huge[file][TOUCHED], self->found.huge_by_touch)
		TH_LOG("line %u", i);
	}
}

TEST_HARNESS_MAIN
