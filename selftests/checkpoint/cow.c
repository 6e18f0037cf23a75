/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory that is copied while it is written, and the copies are of the stop.
 */
#include "base/bits.h"
#include "checkpoint/cow.h"
#include "selftests/lib/memory.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(4) << 20)
#define PAGES (BYTES / TARGET_PAGE)
#define WORDS (TARGET_PAGE / sizeof(uint64_t))
#define WRITERS 2u
#define ROUNDS 12u
#define WRITES 50u /* that are made before anybody else copies: each is let in behind its copy */

FIXTURE(cow)
{
	struct memory memory;
	uint8_t *at;
	struct cow *cow;
	struct wh_err err;
	uint64_t map[PAGES / 64];
	struct cow_run runs[PAGES];
	size_t count;
	uint8_t *copies; /* of the runs, where the pages would be */
	uint8_t *replica, *stop;

	/* the writers; atomic */
	bool park, end;
	unsigned parked;
	uint64_t writes;
	pthread_t thread[WRITERS];
};

FIXTURE_VARIANT(cow)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(cow, anon)    { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(cow, thp)     { .kind = MEMORY_THP };
FIXTURE_VARIANT_ADD(cow, memfd)   { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(cow, hugetlb) { .kind = MEMORY_HUGETLB };
/* clang-format on */

FIXTURE_SETUP(cow)
{
	int ret;

	memset(self, 0, sizeof(*self));
	ret = memory_new(&self->memory, variant->kind, BYTES, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	self->at = self->memory.region.addr;
	/* nobody has touched the last quarter */
	memset(self->at, 1, BYTES / 4 * 3);
	self->copies =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->copies);
	madvise(self->copies, BYTES, MADV_NOHUGEPAGE);
	self->replica = malloc(BYTES);
	self->stop = malloc(BYTES);
	memcpy(self->replica, self->at, BYTES);
	self->cow = cow_new(&self->memory.region, 1, &self->err);
	ASSERT_NE(NULL, self->cow);
	ret = cow_open(self->cow, &self->err);
	if (ret == -EPERM || ret == -EOPNOTSUPP)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(cow)
{
	cow_close(self->cow);
	cow_free(self->cow);
	munmap(self->copies, BYTES);
	free(self->replica);
	free(self->stop);
	memory_free(&self->memory);
}

/* It is copied while it is written: that is what is tested */
#define UNWATCHED __attribute__((no_sanitize("thread")))

UNWATCHED static void *write_for_ever(void *arg)
{
	FIXTURE_DATA(cow) *self = arg;
	uint64_t random = (uintptr_t)&random;

	while (!__atomic_load_n(&self->end, __ATOMIC_ACQUIRE)) {
		volatile uint64_t *page;

		if (__atomic_load_n(&self->park, __ATOMIC_ACQUIRE)) {
			__atomic_fetch_add(&self->parked, 1, __ATOMIC_RELEASE);
			while (__atomic_load_n(&self->park, __ATOMIC_ACQUIRE))
				sched_yield();
			__atomic_fetch_sub(&self->parked, 1, __ATOMIC_RELEASE);
		}
		random = random * UINT64_C(6364136223846793005) + 1;
		page = (uint64_t *)(void *)(self->at + (random >> 33) % PAGES * TARGET_PAGE);
		page[(random >> 20) % WORDS] = random;
		__atomic_fetch_add(&self->writes, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void park(FIXTURE_DATA(cow) *self, bool yes)
{
	__atomic_store_n(&self->park, yes, __ATOMIC_RELEASE);
	while (__atomic_load_n(&self->parked, __ATOMIC_ACQUIRE) != (yes ? WRITERS : 0))
		sched_yield();
}

static int look(FIXTURE_DATA(cow) *self)
{
	struct cp_dirty dirty = cow_dirty(self->cow);

	return dirty.written(dirty.world, 0, self->map, &self->err);
}

/* What was written is to be copied. The guest stands still */
static int stop(FIXTURE_DATA(cow) *self)
{
	int ret;

	cow_stop(self->cow);
	ret = look(self);
	self->count = 0;
	for (uint64_t page = 0; page < PAGES;) {
		uint64_t first = bits_next_set(self->map, page, PAGES);

		page = bits_next_clear(self->map, first, PAGES);
		if (first < PAGES)
			self->runs[self->count++] = (struct cow_run){
				.at = self->copies + first * TARGET_PAGE,
				.first = first,
				.pages = (uint32_t)(page - first),
			};
	}
	memset(self->map, 0, sizeof(self->map));
	memset(self->copies, 0xee, BYTES);
	cow_go(self->cow, self->runs, self->count);
	return ret;
}

/* What was copied is put in place */
static void apply(FIXTURE_DATA(cow) *self)
{
	for (size_t i = 0; i < self->count; i++)
		memcpy(self->replica + self->runs[i].first * TARGET_PAGE, self->runs[i].at,
		       self->runs[i].pages * TARGET_PAGE);
}

static void wait_for_writes(FIXTURE_DATA(cow) *self, uint64_t more)
{
	uint64_t until = __atomic_load_n(&self->writes, __ATOMIC_ACQUIRE) + more;

	while (__atomic_load_n(&self->writes, __ATOMIC_ACQUIRE) < until)
		sched_yield();
}

TEST_F(cow, the_copies_are_of_the_stop)
{
	for (unsigned i = 0; i < WRITERS; i++)
		ASSERT_EQ(0, pthread_create(&self->thread[i], NULL, write_for_ever, self));
	for (unsigned i = 0; i < ROUNDS; i++) {
		wait_for_writes(self, 300);
		/* what was told of before may be written again, and is told again */
		if (i % 2)
			ASSERT_EQ(0, look(self));
		park(self, true);
		memcpy(self->stop, self->at, BYTES);
		ASSERT_EQ(0, stop(self))
		TH_LOG("%s", self->err.text);
		park(self, false);
		wait_for_writes(self, i % 4 < 2 ? WRITES : 0);
		ASSERT_EQ(0, cow_copy(self->cow, &self->err))
		TH_LOG("%s", self->err.text);
		apply(self);
		ASSERT_EQ(0, memcmp(self->stop, self->replica, BYTES))
		TH_LOG("round %u", i);
	}
	__atomic_store_n(&self->end, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(self->thread[i], NULL);
}

/* A write that waits through the stop is of what comes after it */
TEST_F(cow, nobody_is_let_in_during_the_stop)
{
	for (unsigned i = 0; i < WRITERS; i++)
		ASSERT_EQ(0, pthread_create(&self->thread[i], NULL, write_for_ever, self));
	for (unsigned i = 0; i < ROUNDS; i++) {
		wait_for_writes(self, 100);
		cow_stop(self->cow);
		/* as a vCPU that was interrupted: all of them wait, or do so at the next page */
		ASSERT_EQ(0, look(self));
		memcpy(self->stop, self->at, BYTES);
		for (unsigned j = 0; j < 100; j++)
			sched_yield();
		EXPECT_EQ(0, memcmp(self->stop, self->at, BYTES));
		cow_go(self->cow, NULL, 0);
	}
	__atomic_store_n(&self->end, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(self->thread[i], NULL);
}

static void *copy_left(void *arg)
{
	FIXTURE_DATA(cow) *self = arg;

	return cow_copy(self->cow, &self->err) < 0 ? self : NULL;
}

/*
 * Not as an atomic store: tsan makes that one with a lock held, in which who waits here would keep
 * everybody who looks at the byte.
 */
UNWATCHED static void *write_first(void *arg)
{
	FIXTURE_DATA(cow) *self = arg;

	*(volatile uint8_t *)self->at = 2;
	return NULL;
}

UNWATCHED static uint8_t first_byte(const FIXTURE_DATA(cow) *self)
{
	return *(const volatile uint8_t *)self->at;
}

/*
 * All of memory is to be copied, and there is none yet where the first page goes to: its copy is
 * in the middle until it is let on. Returns when @begins has come so far.
 */
static void in_the_middle(FIXTURE_DATA(cow) *self, struct __test_metadata *_metadata,
			  struct uffd *uffd, void *(*begins)(void *), pthread_t *thread)
{
	struct uffd_event events[UFFD_BATCH];
	struct pollfd poll_fd = { .events = POLLIN };

	bits_range_set(self->map, 0, PAGES);
	ASSERT_EQ(0, stop(self));
	ASSERT_EQ(0, madvise(self->copies, TARGET_PAGE, MADV_DONTNEED));
	ASSERT_EQ(0, uffd_open(uffd, 0, false, &self->err));
	ASSERT_EQ(0,
		  uffd_register(uffd, self->copies, TARGET_PAGE, UFFD_MISSING, NULL, &self->err));
	poll_fd.fd = uffd->fd;
	ASSERT_EQ(0, pthread_create(thread, NULL, begins, self));
	ASSERT_EQ(1, poll(&poll_fd, 1, 20000));
	ASSERT_EQ(1, uffd_read(uffd, events, &self->err));
}

static void let_on(FIXTURE_DATA(cow) *self, struct __test_metadata *_metadata, struct uffd *uffd)
{
	ASSERT_EQ(PLACED_OK, uffd_zero(uffd, self->copies, TARGET_PAGE, true, NULL, &self->err));
}

/* Who wants to write to a page waits for the rest of its copy */
TEST_F(cow, nobody_is_let_in_during_a_copy)
{
	pthread_t copier, writer;
	struct uffd uffd;
	void *failed;

	in_the_middle(self, _metadata, &uffd, copy_left, &copier);
	ASSERT_EQ(0, pthread_create(&writer, NULL, write_first, self));
	/* who is not kept out is in by then */
	usleep(20000);
	EXPECT_EQ(1, first_byte(self));
	let_on(self, _metadata, &uffd);
	pthread_join(copier, &failed);
	pthread_join(writer, NULL);
	EXPECT_EQ(NULL, failed);
	EXPECT_EQ(2, self->at[0]);
	EXPECT_EQ(1, self->copies[0]);
	uffd_close(&uffd);
}

/* A page is copied for who wants to write there, and what is left is copied meanwhile */
TEST_F(cow, is_not_done_before_the_last_copy_is)
{
	pthread_t copier, writer;
	struct uffd uffd;
	void *failed;

	in_the_middle(self, _metadata, &uffd, write_first, &writer);
	ASSERT_EQ(0, pthread_create(&copier, NULL, copy_left, self));
	/* who does not wait is done by then */
	usleep(20000);
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(copier, &failed));
	let_on(self, _metadata, &uffd);
	pthread_join(copier, &failed);
	EXPECT_EQ(NULL, failed);
	EXPECT_EQ(1, self->copies[0]);
	pthread_join(writer, NULL);
	EXPECT_EQ(2, self->at[0]);
	uffd_close(&uffd);
}

/* read(2) into a page, and a fault of the kernel's */
TEST_F(cow, the_kernels_writes_wait_too)
{
	int zero = open("/dev/zero", O_RDONLY);

	bits_range_set(self->map, 0, PAGES);
	ASSERT_EQ(0, stop(self));
	ASSERT_EQ(100, read(zero, self->at + 2 * TARGET_PAGE - 50, 100));
	close(zero);
	EXPECT_EQ(0, self->at[2 * TARGET_PAGE]);
	EXPECT_EQ(1, self->copies[2 * TARGET_PAGE]);
	ASSERT_EQ(0, cow_copy(self->cow, &self->err));
	EXPECT_EQ(1, self->copies[2 * TARGET_PAGE]);
	EXPECT_EQ(1, self->copies[2 * TARGET_PAGE - 1]);
	EXPECT_EQ(0, self->copies[BYTES - 1]);
	/* the next one has it */
	ASSERT_EQ(0, look(self));
	EXPECT_TRUE(bits_test(self->map, 1));
	EXPECT_TRUE(bits_test(self->map, 2));
}

/* Nobody waits for one that is closed, and it may be so at any time */
TEST_F(cow, closed_with_pages_left)
{
	bits_range_set(self->map, 0, PAGES);
	ASSERT_EQ(0, stop(self));
	self->at[0] = 2;
	cow_close(self->cow);
	memset(self->at, 3, BYTES);
	EXPECT_EQ(1, self->copies[0]);
}

/*
 * A part of its memory is mapped anew, so that who writes beside it cannot be let in: it writes all
 * the same, and what was to be copied is given up.
 */
TEST(what_fails_is_not_the_guest)
{
	struct memory memory;
	struct wh_err err = { 0 };
	struct cp_dirty dirty;
	struct cow_run run;
	uint64_t map[PAGES / 64];
	uint8_t *copy = malloc(BYTES);
	struct cow *cow;
	int ret;

	ASSERT_EQ(0, memory_new(&memory, MEMORY_ANON, BYTES, &err));
	/* let in by so much at once */
	memory.region.page_size = BYTES / 2;
	memset(memory.region.addr, 1, BYTES);
	cow = cow_new(&memory.region, 1, &err);
	ASSERT_NE(NULL, cow);
	ret = cow_open(cow, &err);
	if (ret == -EPERM || ret == -EOPNOTSUPP)
		SKIP(return, "%s", err.text);
	ASSERT_EQ(0, ret);
	dirty = cow_dirty(cow);
	ASSERT_EQ(0, dirty.written(dirty.world, 0, map, &err));
	cow_stop(cow);
	run = (struct cow_run){ .at = copy, .pages = PAGES };
	cow_go(cow, &run, 1);
	ASSERT_NE(MAP_FAILED,
		  mmap(memory.region.addr + 5 * TARGET_PAGE, TARGET_PAGE, PROT_READ | PROT_WRITE,
		       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	memory.region.addr[0] = 2;
	memory.region.addr[BYTES - 1] = 2;
	EXPECT_EQ(-ENOENT, cow_copy(cow, &err)) TH_LOG("%s", err.text);
	err = (struct wh_err){ 0 };
	EXPECT_EQ(-ENOENT, dirty.written(dirty.world, 0, map, &err));
	EXPECT_NE(NULL, strstr(err.text, "dirty log"));
	memset(memory.region.addr, 3, BYTES);
	cow_close(cow);
	cow_free(cow);
	free(copy);
	memory_free(&memory);
}

TEST(pages_of_no_size)
{
	struct region region = { .name = "ram", .length = BYTES, .page_size = 3 * TARGET_PAGE };
	struct wh_err err = { 0 };

	EXPECT_EQ(NULL, cow_new(&region, 1, &err));
	EXPECT_EQ(-EINVAL, err.code);
	region.page_size = 2 * BYTES;
	EXPECT_EQ(NULL, cow_new(&region, 1, &err));
	EXPECT_NE(NULL, strstr(err.text, "'ram'"));
}

TEST_HARNESS_MAIN
