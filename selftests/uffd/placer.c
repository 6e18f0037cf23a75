/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/uffd/block.h"
#include "uffd/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

FIXTURE(placer)
{
	struct block block;
};

FIXTURE_VARIANT(placer)
{
	enum memory_kind kind;
	enum placer_way way;
	bool alias;
	uint64_t piece;
};

/* clang-format off */
#define VARIANT(name, kind_, ...) \
	FIXTURE_VARIANT_ADD(placer, name) { .kind = MEMORY_##kind_, __VA_ARGS__ }
VARIANT(anon, ANON, .way = PLACER_MOVE, .piece = STAGE_BYTES);
VARIANT(thp, THP, .way = PLACER_MOVE, .piece = STAGE_BYTES);
VARIANT(memfd, MEMFD, .way = PLACER_CONTINUE, .alias = true, .piece = STAGE_CACHED);
VARIANT(private, MEMFD_PRIVATE, .way = PLACER_COPY, .piece = STAGE_CACHED);
VARIANT(hugetlb, HUGETLB, .way = PLACER_CONTINUE, .alias = true, .piece = STAGE_BYTES);
VARIANT(hugetlb_private, HUGETLB_PRIVATE, .way = PLACER_COPY, .piece = STAGE_BYTES);
/* clang-format on */

FIXTURE_SETUP(placer)
{
	int ret = block_open(&self->block, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", self->block.err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->block.err.text);
}

FIXTURE_TEARDOWN(placer)
{
	block_close(&self->block);
}

TEST_F(placer, knows_the_way)
{
	struct placer *placer = &self->block.placer;
	unsigned char vec;

	if (variant->way == PLACER_MOVE && ~self->block.uffd.offered & UFFD_FEATURE_MOVE)
		SKIP(return, "userfaultfd has no MOVE");
	ASSERT_EQ(variant->way, placer->way);
	ASSERT_EQ(variant->alias, placer->alias != NULL);
	ASSERT_EQ(variant->piece, placer_piece(placer, self->block.page));
	/* A source whose host pages are larger */
	ASSERT_EQ(STAGE_BYTES, placer_piece(placer, STAGE_BYTES));
	ASSERT_EQ(self->block.page == STAGE_BYTES, placer->zeros != NULL);
	/* Mapped already: copied from where it is not it takes one huge page more */
	if (placer->zeros) {
		ASSERT_EQ(0, mincore(placer->zeros + STAGE_BYTES - TARGET_PAGE, 1, &vec));
		ASSERT_EQ(1, vec & 1);
	}
	/* Nothing was touched */
	ASSERT_EQ(0, mincore(self->block.at, 1, &vec));
	ASSERT_EQ(0, vec & 1);
}

TEST_F(placer, before_it_is_armed_room_is_the_guests_own)
{
	struct block *b = &self->block;
	uint64_t done = 0;

	ASSERT_EQ(b->at + 3 * TARGET_PAGE, placer_room(&b->placer, &b->stage[0], 3 * TARGET_PAGE));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 1, true, &done));
	ASSERT_EQ(b->page, done);
	ASSERT_EQ(2, block_wrong(b, 1, 2, 1));
	ASSERT_EQ(PLACED_GONE, block_zero(b, 1, 1, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(2, block_wrong(b, 1, 2, 1));
	ASSERT_EQ(0, placer_wake(&b->placer, 0, b->page, &b->err));
}

TEST_F(placer, armed_room_is_elsewhere)
{
	struct block *b = &self->block;
	uint64_t i;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err))
	TH_LOG("%s", b->err.text);
	for (i = 0; i < b->pages; i++) {
		uint8_t *room = placer_room(&b->placer, &b->stage[0], i * b->page);

		ASSERT_FALSE(room >= b->at && room < b->at + BLOCK_BYTES);
		*room = 1;
	}
	ASSERT_TRUE(block_quiet(b));
	/* Neighbours lie beside each other */
	ASSERT_EQ(placer_room(&b->placer, &b->stage[0], 0) + TARGET_PAGE,
		  placer_room(&b->placer, &b->stage[0], TARGET_PAGE));
}

/* Room is as much as the stage has, also where there is a second mapping */
TEST_F(placer, not_more_than_a_stage_holds)
{
	struct block *b = &self->block;
	struct stage stage;
	uint64_t done = 0;

	/* Pages of a pool are larger than that */
	if (b->page > TARGET_PAGE)
		return;
	ASSERT_EQ(0, stage_init(&stage, 4 * TARGET_PAGE, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (uint64_t at = 0; at < 4 * TARGET_PAGE; at += TARGET_PAGE)
		memset(placer_room(&b->placer, &stage, at), 1, TARGET_PAGE);
	EXPECT_EQ(PLACED_FAILED,
		  placer_place(&b->placer, &stage, 0, 5 * TARGET_PAGE, true, &done, &b->err));
	EXPECT_EQ(PLACED_FAILED, placer_place(&b->placer, &stage, 3 * TARGET_PAGE, 2 * TARGET_PAGE,
					      true, &done, &b->err));
	EXPECT_EQ(0, done);
	EXPECT_EQ(PLACED_OK,
		  placer_place(&b->placer, &stage, 0, 4 * TARGET_PAGE, true, &done, &b->err));
	EXPECT_EQ(4 * TARGET_PAGE, done);
	stage_fini(&stage);
}

static bool is_mapped(const void *at)
{
	uint64_t entry = 0, page = (uint64_t)sysconf(_SC_PAGESIZE);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ssize_t got = pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)at / page * 8));

	close(fd);
	return got == sizeof(entry) && entry >> 63;
}

/* Another thread may be writing there: no room in the second mapping, and not a look at it */
TEST_F(placer, room_apart_from_others)
{
	struct block *b = &self->block;
	uint8_t *room;

	block_fill(b, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->at, placer_room_apart(&b->placer, &b->stage[0], 0));
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	room = placer_room_apart(&b->placer, &b->stage[0], STAGE_BYTES);
	if (!b->placer.alias) {
		ASSERT_EQ(b->stage[0].memory, room);
		return;
	}
	ASSERT_EQ(NULL, room);
	EXPECT_FALSE(is_mapped(b->placer.alias + STAGE_BYTES));
	ASSERT_EQ(b->placer.alias + STAGE_BYTES,
		  placer_room(&b->placer, &b->stage[0], STAGE_BYTES));
	EXPECT_TRUE(is_mapped(b->placer.alias + STAGE_BYTES));
}

TEST_F(placer, a_disarmed_one_can_be_armed_again)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;

	ASSERT_EQ(0, placer_advise(&b->placer, &b->err));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(toucher_start(&toucher, b->at));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, toucher_end(&toucher));
	ASSERT_EQ(b->at, placer_room(&b->placer, &b->stage[0], 0));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_BEFORE, block_place(b, 0, 0, 1, 1, true, NULL));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 1, true, NULL));
}

/* It is the guest's own again, and what it has written stays. */
TEST_F(placer, no_zeros_once_it_is_disarmed)
{
	struct block *b = &self->block;
	uint64_t done = 77;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	block_fill(b, 1);
	ASSERT_EQ(PLACED_GONE, block_zero(b, 0, b->pages, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
}

/* The kernel wakes those of MISSING only when a range is no longer watched. */
TEST_F(placer, disarming_wakes_minor_faults)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;
	bool minor = variant->alias;

	block_fill(b, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(toucher_start(&toucher, b->at));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(minor, event.minor);
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err))
	TH_LOG("%s", b->err.text);
	toucher_end(&toucher);
}

TEST_F(placer, another_watcher_is_in_the_way)
{
	struct block *b = &self->block;
	struct uffd other;

	ASSERT_EQ(0, uffd_open(&other, 0, false, &b->err));
	ASSERT_EQ(0, uffd_register(&other, b->at, BLOCK_BYTES, UFFD_MISSING, NULL, &b->err));
	ASSERT_EQ(-EBUSY, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, strncmp(b->err.text, "block '", 7));
	ASSERT_NE(NULL, strstr(b->err.text, "another userfaultfd"))
	TH_LOG("%s", b->err.text);
	ASSERT_FALSE(b->placer.armed);
	uffd_close(&other);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
}

/* "hg", "nh" or nothing, of the mapping at @at */
static const char *advice(const void *at)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	const char *found = "?";
	char line[512];
	bool inside = false;
	uint64_t start;

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-", &start) == 1 && strchr(line, '-'))
			inside = start == (uintptr_t)at;
		if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, " hg") ? "hg" : strstr(line, " nh") ? "nh" : "";
	}
	if (smaps)
		fclose(smaps);
	return found;
}

static bool huge_is_always(bool file)
{
	FILE *mode = fopen(file ? "/sys/kernel/mm/transparent_hugepage/shmem_enabled" :
				  "/sys/kernel/mm/transparent_hugepage/enabled",
			   "re");
	char line[128] = "";

	if (mode && !fgets(line, sizeof(line), mode))
		line[0] = '\0';
	if (mode)
		fclose(mode);
	return strstr(line, "[always]") || strstr(line, "[within_size]");
}

TEST_F(placer, advice_is_restored)
{
	static const int given[] = { MADV_HUGEPAGE, MADV_NOHUGEPAGE };
	static const char *const name[] = { "hg", "nh" };
	struct block *b = &self->block;
	bool huge = b->page == STAGE_BYTES;
	unsigned i;

	for (i = 0; i < 2 && !huge; i++) {
		placer_fini(&b->placer);
		ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, given[i]));
		ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
		ASSERT_STREQ(name[i], advice(b->at));
		ASSERT_EQ(0, placer_advise(&b->placer, &b->err));
		ASSERT_STREQ("nh", advice(b->at));
		placer_fini(&b->placer);
		ASSERT_STREQ(name[i], advice(b->at));
	}
	if (huge) {
		ASSERT_EQ(0, placer_advise(&b->placer, &b->err));
		ASSERT_STREQ("", advice(b->at));
	}
}

/* It is taken when the first page is dropped to come again, and not before. */
TEST_F(placer, advice_is_kept_as_long_as_it_can_be)
{
	struct block *b = &self->block;

	if (b->page == STAGE_BYTES) {
		ASSERT_EQ(0, placer_hide(&b->placer, 0, b->page, &b->err));
		ASSERT_STREQ("", advice(b->at));
		return;
	}
	placer_fini(&b->placer);
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_HUGEPAGE));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	/* For its second mapping there is no advice to give back: never a larger folio */
	if (b->placer.alias)
		ASSERT_STREQ("nh", advice(b->placer.alias));
	ASSERT_EQ(0, placer_discard(&b->placer, 0, BLOCK_BYTES, &b->err));
	block_fill(b, 1);
	ASSERT_STREQ("hg", advice(b->at));
	ASSERT_EQ(0, placer_hide(&b->placer, b->page, b->page, &b->err));
	ASSERT_STREQ("nh", advice(b->at));
	ASSERT_EQ(0, placer_restore(&b->placer, &b->err));
	ASSERT_STREQ("hg", advice(b->at));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_STREQ("nh", advice(b->at));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_STREQ("nh", advice(b->at));
	ASSERT_EQ(0, placer_restore(&b->placer, &b->err));
	ASSERT_STREQ("hg", advice(b->at));
	/* Once: what it is from then on is its owner's affair */
	ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, placer_restore(&b->placer, &b->err));
	ASSERT_STREQ("nh", advice(b->at));
}

/* There is no way back to no advice; the nearest is what the system does by itself. */
TEST_F(placer, no_advice)
{
	bool always = huge_is_always(memory_traits[variant->kind].fd);
	const char *found = variant->kind == MEMORY_THP ? "hg" : "";
	struct block *b = &self->block;

	ASSERT_STREQ(found, advice(b->at));
	ASSERT_EQ(0, placer_advise(&b->placer, &b->err));
	placer_fini(&b->placer);
	if (!*found && b->page < STAGE_BYTES)
		found = always ? "hg" : "nh";
	ASSERT_STREQ(found, advice(b->at));
}

/* Given back only if it was taken: what it is meanwhile is somebody else's. */
TEST_F(placer, advice_of_others)
{
	struct block *b = &self->block;
	bool huge = b->page == STAGE_BYTES;

	if (!huge)
		ASSERT_EQ(0, madvise(b->at, BLOCK_BYTES, MADV_NOHUGEPAGE));
	placer_fini(&b->placer);
	ASSERT_STREQ(huge ? "" : "nh", advice(b->at));
}

TEST_F(placer, a_block_of_several_mappings)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, mprotect(b->at + STAGE_BYTES, STAGE_BYTES, PROT_READ));
	placer_fini(&b->placer);
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(variant->alias, b->placer.alias != NULL);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, mprotect(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE));
}

TEST(a_kernel_without_minor_faults)
{
	struct block b;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD, 0))
	TH_LOG("%s", b.err.text);
	placer_fini(&b.placer);
	b.uffd.offered &= ~(uint64_t)UFFD_FEATURE_MINOR_SHMEM;
	ASSERT_EQ(0, placer_init(&b.placer, &b.memory.region, &b.uffd, &b.err));
	ASSERT_EQ(NULL, b.placer.alias);
	ASSERT_EQ(PLACER_COPY, b.placer.way);
	block_fill(&b, 1);
	ASSERT_EQ(0, placer_hide(&b.placer, 0, BLOCK_BYTES / 2, &b.err));
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	ASSERT_EQ(PLACED_OK, block_place(&b, 0, 0, 512, 2, true, NULL));
	ASSERT_EQ(PLACED_OK, block_place(&b, 0, 512, 256, 2, true, NULL));
	ASSERT_EQ(b.pages / 2, block_wrong(&b, 0, b.pages / 2, 2));
	ASSERT_EQ(b.pages, block_wrong(&b, b.pages / 2, b.pages, 1));
	block_close(&b);
}

TEST_HARNESS_MAIN
