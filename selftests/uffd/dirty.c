/* SPDX-License-Identifier: GPL-2.0 */
#include "base/bits.h"
#include "selftests/lib/memory.h"
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(8) << 20)
#define PAGES (BYTES / TARGET_PAGE)
#define WORDS (PAGES / 64)
#define WRITERS 3
#define WRITES 20000
#define NOBODY 65534

FIXTURE(dirty)
{
	struct memory memory;
	struct dirty_log log;
	struct wh_err err;
	uint64_t map[WORDS];
	uint8_t *at;
	uint64_t each; /* target pages a page */
};

FIXTURE_VARIANT(dirty)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(dirty, anon)            { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(dirty, thp)             { .kind = MEMORY_THP };
FIXTURE_VARIANT_ADD(dirty, memfd)           { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(dirty, private)         { .kind = MEMORY_MEMFD_PRIVATE };
FIXTURE_VARIANT_ADD(dirty, hugetlb)         { .kind = MEMORY_HUGETLB };
FIXTURE_VARIANT_ADD(dirty, hugetlb_private) { .kind = MEMORY_HUGETLB_PRIVATE };
/* clang-format on */

FIXTURE_SETUP(dirty)
{
	int ret;

	memset(self, 0, sizeof(*self));
	self->each = memory_traits[variant->kind].page_size / TARGET_PAGE;
	ret = memory_new(&self->memory, variant->kind, BYTES, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	self->at = self->memory.region.addr;
	/* The first half has been written before, nobody has touched the second */
	memset(self->at, 1, BYTES / 2);
	ret = dirty_log_open(&self->log, &self->memory.region, 1, &self->err);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(dirty)
{
	dirty_log_close(&self->log);
	memory_free(&self->memory);
}

static int64_t scan(struct _test_data_dirty *self)
{
	self->err = (struct wh_err){ 0 };
	return dirty_log_scan(&self->log, 0, self->map, &self->err);
}

/* Set in @map, with the whole of the page it is in */
static void note(const struct _test_data_dirty *self, uint64_t *map, uint64_t page)
{
	bits_range_set(map, page / self->each * self->each, self->each);
}

TEST_F(dirty, nothing_at_first)
{
	ASSERT_EQ(0, scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, bits_count(self->map, PAGES));
}

TEST_F(dirty, each_write_once)
{
	static const uint64_t pages[] = { 0, 1, 63, 64, 700, PAGES / 2 - 1, PAGES / 2, PAGES - 1 };
	uint64_t expected[WORDS] = { 0 };
	unsigned i;

	for (i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		self->at[pages[i] * TARGET_PAGE + i] = 7;
		note(self, expected, pages[i]);
	}
	ASSERT_EQ((int64_t)bits_count(expected, PAGES), scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, memcmp(expected, self->map, sizeof(expected)));
	/* They are protected again, and nobody has written */
	memset(self->map, 0, sizeof(self->map));
	ASSERT_EQ(0, scan(self));
	ASSERT_EQ(0, bits_count(self->map, PAGES));
	/* But now */
	self->at[700 * TARGET_PAGE] = 8;
	ASSERT_EQ((int64_t)self->each, scan(self));
	ASSERT_TRUE(bits_test(self->map, 700));
	ASSERT_EQ(self->each, bits_count(self->map, PAGES));
}

TEST_F(dirty, reading_is_not_writing)
{
	volatile uint8_t *at = self->at;
	uint64_t i;

	for (i = 0; i < BYTES; i += TARGET_PAGE)
		(void)at[i];
	ASSERT_EQ(0, scan(self))
	TH_LOG("%s", self->err.text);
}

TEST_F(dirty, the_kernels_writes_are_seen)
{
	int zero = open("/dev/zero", O_RDONLY);

	ASSERT_EQ(10, read(zero, self->at + 5 * TARGET_PAGE - 5, 10));
	ASSERT_EQ(10, read(zero, self->at + BYTES - 10, 10));
	close(zero);
	ASSERT_EQ(self->each == 1 ? 3 : 2 * (int64_t)self->each, scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_TRUE(bits_test(self->map, 4) && bits_test(self->map, 5));
	ASSERT_TRUE(bits_test(self->map, PAGES - 1));
}

/* Bits are added to those that are there, and only new ones count. */
TEST_F(dirty, none_is_cleared)
{
	uint64_t first = self->each;

	bits_set(self->map, first);
	bits_set(self->map, PAGES - 1);
	self->at[first * TARGET_PAGE] = 1;
	ASSERT_EQ((int64_t)self->each - 1, scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(self->each + 1, bits_count(self->map, PAGES));
	ASSERT_TRUE(bits_test(self->map, PAGES - 1));
}

/* More regions than fit in one answer of the kernel */
TEST_F(dirty, a_checkerboard)
{
	uint64_t expected[WORDS] = { 0 };
	uint64_t i;

	for (i = 0; i < PAGES; i += 2) {
		self->at[i * TARGET_PAGE] = 9;
		note(self, expected, i);
	}
	ASSERT_EQ((int64_t)bits_count(expected, PAGES), scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, memcmp(expected, self->map, sizeof(expected)));
	ASSERT_EQ(0, scan(self));
}

/* What the VMM does to a part of its memory cuts the mapping in pieces. */
TEST_F(dirty, in_several_pieces)
{
	uint64_t expected[WORDS] = { 0 };
	uint64_t i;

	ASSERT_EQ(0, madvise(self->at + BYTES / 4, BYTES / 4, MADV_DONTFORK));
	ASSERT_EQ(0, mprotect(self->at + BYTES / 2, BYTES / 4, PROT_READ));
	for (i = 5; i < PAGES; i += 97) {
		if (i >= PAGES / 2 && i < PAGES / 4 * 3)
			continue;
		self->at[i * TARGET_PAGE] = 9;
		note(self, expected, i);
	}
	ASSERT_EQ((int64_t)bits_count(expected, PAGES), scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, memcmp(expected, self->map, sizeof(expected)));
}

/* Its contents change without a write; in a file's memory that alone is not seen. */
TEST_F(dirty, a_dropped_page)
{
	bool file = memory_traits[variant->kind].fd || self->each > 1;
	bool shared = memory_traits[variant->kind].shared;
	uint64_t bytes = self->each * TARGET_PAGE;
	int advice = shared ? MADV_REMOVE : MADV_DONTNEED;

	ASSERT_EQ(1, self->at[bytes]);
	ASSERT_EQ(0, madvise(self->at + bytes, bytes, advice));
	ASSERT_EQ(0, self->at[bytes]);
	if (!file) {
		ASSERT_EQ(1, scan(self))
		TH_LOG("%s", self->err.text);
	}
	/* Whoever writes there is */
	ASSERT_LE(0, scan(self));
	ASSERT_EQ(0, madvise(self->at + bytes, bytes, advice));
	self->at[bytes] = 2;
	memset(self->map, 0, sizeof(self->map));
	ASSERT_EQ((int64_t)self->each, scan(self))
	TH_LOG("%s", self->err.text);
	ASSERT_TRUE(bits_test(self->map, self->each));
}

struct writer {
	struct _test_data_dirty *self;
	unsigned number;
	uint64_t *map; /* of one thread, for the model */
	pthread_t thread;
};

/* A word of its own in each page, which only ever grows */
static void *writer_main(void *opaque)
{
	struct writer *writer = opaque;
	uint64_t random = 0x1234567 + writer->number;
	unsigned i;

	for (i = 0; i < WRITES; i++) {
		uint64_t *word;

		random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		word = (uint64_t *)(writer->self->at + (random >> 33) % PAGES * TARGET_PAGE);
		__atomic_fetch_add(word + 1 + writer->number, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/*
 * As a migration does: what a scan reports is copied after it. When the last scan has
 * been, the copy is the memory.
 */
static int64_t copy_dirty(struct _test_data_dirty *self, uint8_t *copy)
{
	int64_t added = scan(self);
	uint64_t page, word;

	if (added < 0)
		return added;
	for (page = bits_next_set(self->map, 0, PAGES); page < PAGES;
	     page = bits_next_set(self->map, page + 1, PAGES)) {
		bits_clear(self->map, page);
		for (word = 0; word < TARGET_PAGE; word += sizeof(word)) {
			uint64_t offset = page * TARGET_PAGE + word;
			uint64_t seen =
				__atomic_load_n((uint64_t *)(self->at + offset), __ATOMIC_RELAXED);

			memcpy(copy + offset, &seen, sizeof(seen));
		}
	}
	return added;
}

TEST_F(dirty, no_write_is_lost)
{
	struct writer writer[WRITERS] = { 0 };
	uint8_t *copy = malloc(BYTES);
	unsigned i, scans = 0;

	ASSERT_NE(NULL, copy);
	memcpy(copy, self->at, BYTES);
	ASSERT_EQ(0, scan(self));
	for (i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){ .self = self, .number = i };
		ASSERT_EQ(0, pthread_create(&writer[i].thread, NULL, writer_main, &writer[i]));
	}
	for (i = 0; i < WRITERS; scans++) {
		ASSERT_LE(0, copy_dirty(self, copy))
		TH_LOG("%s", self->err.text);
		while (i < WRITERS && pthread_tryjoin_np(writer[i].thread, NULL) == 0)
			i++;
	}
	ASSERT_LE(0, copy_dirty(self, copy));
	ASSERT_EQ(0, memcmp(copy, self->at, BYTES));
	ASSERT_EQ(0, scan(self));
	free(copy);
}

TEST_F(dirty, another_mapping_is_not_watched)
{
	uint64_t page = self->each * TARGET_PAGE;
	int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;

	ASSERT_NE(MAP_FAILED,
		  mmap(self->at + BYTES / 2, page, PROT_READ | PROT_WRITE, flags, -1, 0));
	ASSERT_EQ(-EPERM, scan(self));
	ASSERT_NE(NULL, strstr(self->err.text, "block '"))
	TH_LOG("%s", self->err.text);
	ASSERT_NE(NULL, strstr(self->err.text, "mapped anew"));
}

static void *write_there(void *at)
{
	__atomic_store_n((uint8_t *)at, 9, __ATOMIC_RELAXED);
	return NULL;
}

TEST_F(dirty, whoever_writes_waits)
{
	uint64_t bytes = self->each * TARGET_PAGE;
	/* one that was there, one that nobody has touched */
	uint8_t *place[] = { self->at + bytes, self->at + BYTES - bytes };
	struct uffd_event events[UFFD_BATCH];
	struct pollfd poll_fd = { .events = POLLIN };
	pthread_t thread;
	int ret;

	dirty_log_close(&self->log);
	ret = dirty_log_open_waiting(&self->log, &self->memory.region, 1, &self->err);
	if (ret == -EPERM)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	poll_fd.fd = self->log.uffd.fd;
	for (unsigned i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, write_there, place[i]));
		ASSERT_EQ(1, poll(&poll_fd, 1, 10000));
		ASSERT_EQ(1, uffd_read(&self->log.uffd, events, &self->err));
		EXPECT_TRUE(events[0].wp && events[0].write);
		/* it is neither told nor done before */
		EXPECT_EQ(0, scan(self));
		EXPECT_EQ(!i, __atomic_load_n(place[i], __ATOMIC_RELAXED));
		ASSERT_EQ(0, dirty_log_let(&self->log, place[i], bytes, &self->err));
		ASSERT_EQ(0, pthread_join(thread, NULL));
		memset(self->map, 0, sizeof(self->map));
		ASSERT_EQ((int64_t)self->each, scan(self));
		EXPECT_TRUE(bits_test(self->map, (uint64_t)(place[i] - self->at) / TARGET_PAGE));
		EXPECT_EQ(9, *place[i]);
	}
	/* and the next time, until nobody watches */
	ASSERT_EQ(0, pthread_create(&thread, NULL, write_there, place[0]));
	ASSERT_EQ(1, poll(&poll_fd, 1, 10000));
	dirty_log_close(&self->log);
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

TEST_F(dirty, closed_it_is_free)
{
	struct wh_err err = { 0 };
	struct dirty_log other;
	int ends[2];
	pid_t child;

	ASSERT_EQ(-EBUSY, dirty_log_open(&other, &self->memory.region, 1, &err));
	ASSERT_NE(NULL, strstr(err.text, "another userfaultfd"))
	TH_LOG("%s", err.text);
	ASSERT_EQ(-1, other.uffd.fd);
	ASSERT_EQ(-1, other.pagemap);
	/* Also while a child that was forked meanwhile has the descriptor open */
	ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
	child = fork();
	if (child == 0) {
		close(ends[1]);
		_exit((int)read(ends[0], ends, 1));
	}
	ASSERT_LT(0, child);
	dirty_log_close(&self->log);
	ASSERT_EQ(-1, self->log.uffd.fd);
	self->at[0] = 3;
	ASSERT_EQ(0, dirty_log_open(&self->log, &self->memory.region, 1, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, scan(self));
	ASSERT_EQ(3, self->at[0]);
	close(ends[1]);
	ASSERT_EQ(child, waitpid(child, NULL, 0));
}

TEST(several_blocks)
{
	uint64_t map[WORDS] = { 0 };
	struct region regions[3];
	struct memory memory[3];
	struct wh_err err = { 0 };
	struct dirty_log log;
	unsigned i;
	int ret;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, memory_new(&memory[i], i ? MEMORY_MEMFD : MEMORY_ANON, BYTES, &err));
		regions[i] = memory[i].region;
	}
	ret = dirty_log_open(&log, regions, 3, &err);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "%s", err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", err.text);
	regions[1].addr[2 * TARGET_PAGE] = 1;
	ASSERT_EQ(0, dirty_log_scan(&log, 0, map, &err));
	ASSERT_EQ(0, dirty_log_scan(&log, 2, map, &err));
	ASSERT_EQ(1, dirty_log_scan(&log, 1, map, &err));
	ASSERT_TRUE(bits_test(map, 2));
	dirty_log_close(&log);
	/* The second cannot be watched: the first is not kept either */
	ASSERT_EQ(0, munmap(regions[1].addr, BYTES));
	ASSERT_EQ(-EINVAL, dirty_log_open(&log, regions, 3, &err));
	ASSERT_EQ(0, strncmp(err.text, "dirty log of block 'memfd'", 26))
	TH_LOG("%s", err.text);
	ASSERT_EQ(0, dirty_log_open(&log, regions, 1, &err));
	dirty_log_close(&log);
}

/* The kernel resolves its own faults here: no right is needed, unlike for MISSING. */
TEST(for_everybody)
{
	uint64_t map[WORDS] = { 0 };
	struct wh_err err = { 0 };
	struct memory memory;
	struct dirty_log log;
	int ret, zero;

	if (geteuid() == 0)
		ASSERT_EQ(0, setresuid(NOBODY, NOBODY, NOBODY));
	/* Its own /proc was root's after that */
	ASSERT_EQ(0, prctl(PR_SET_DUMPABLE, 1));
	ASSERT_EQ(0, memory_new(&memory, MEMORY_ANON, BYTES, &err));
	ret = dirty_log_open(&log, &memory.region, 1, &err);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "%s", err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", err.text);
	zero = open("/dev/zero", O_RDONLY);
	ASSERT_EQ(1, read(zero, memory.region.addr + TARGET_PAGE, 1));
	memory.region.addr[3 * TARGET_PAGE] = 1;
	ASSERT_EQ(2, dirty_log_scan(&log, 0, map, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(0xa, map[0]);
	dirty_log_close(&log);
}

TEST_HARNESS_MAIN
