/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Each row of what the placing ioctls may answer, on each kind of memory, with each ioctl
 * that it has.
 */
#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

#define PAGES 8

enum op {
	OP_COPY,
	OP_ZERO,
	OP_CONTINUE,
	OP_MOVE,
};

FIXTURE(place)
{
	struct memory memory;
	struct uffd uffd;
	struct wh_err err;
	enum op op;
	uint8_t *at;
	uint8_t *from; /* what is to be placed: page i is full of 'a' + i */
	uint64_t page;
	uint64_t length;
	uint64_t done;
};

FIXTURE_VARIANT(place)
{
	enum memory_kind kind;
	enum op op;
};

/* clang-format off */
#define VARIANT(name, kind_, op_) \
	FIXTURE_VARIANT_ADD(place, name) { .kind = MEMORY_##kind_, .op = OP_##op_ }
VARIANT(anon_copy, ANON, COPY);
VARIANT(anon_zero, ANON, ZERO);
VARIANT(anon_move, ANON, MOVE);
VARIANT(thp_copy, THP, COPY);
VARIANT(thp_zero, THP, ZERO);
VARIANT(thp_move, THP, MOVE);
VARIANT(memfd_copy, MEMFD, COPY);
VARIANT(memfd_zero, MEMFD, ZERO);
VARIANT(memfd_continue, MEMFD, CONTINUE);
VARIANT(private_copy, MEMFD_PRIVATE, COPY);
VARIANT(private_zero, MEMFD_PRIVATE, ZERO);
VARIANT(hugetlb_copy, HUGETLB, COPY);
VARIANT(hugetlb_continue, HUGETLB, CONTINUE);
VARIANT(hugetlb_private_copy, HUGETLB_PRIVATE, COPY);
/* clang-format on */

static void *source(const struct memory *memory, enum op op)
{
	uint64_t length = memory->region.length;
	uint64_t page = memory->region.page_size;
	int flags = op == OP_CONTINUE ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	uint8_t *from = mmap(NULL, length, PROT_READ | PROT_WRITE, flags,
			     op == OP_CONTINUE ? memory->region.fd : -1, 0);
	unsigned i;

	for (i = 0; from != MAP_FAILED && i < PAGES; i++)
		memset(from + i * page, 'a' + (int)i, page);
	return from;
}

FIXTURE_SETUP(place)
{
	unsigned modes = UFFD_MISSING | (variant->op == OP_CONTINUE ? UFFD_MINOR : 0);
	int ret;

	memset(self, 0, sizeof(*self));
	self->op = variant->op;
	self->page = memory_traits[variant->kind].page_size;
	self->length = PAGES * self->page;
	ret = memory_new(&self->memory, variant->kind, self->length, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, uffd_open(&self->uffd, UFFD_FEATURE_EVENT_REMOVE, false, &self->err))
	TH_LOG("%s", self->err.text);
	if (variant->op == OP_MOVE && ~self->uffd.offered & UFFD_FEATURE_MOVE)
		SKIP(return, "userfaultfd has no MOVE");
	self->at = self->memory.region.addr;
	ASSERT_EQ(0, uffd_register(&self->uffd, self->at, self->length, modes, NULL, &self->err))
	TH_LOG("%s", self->err.text);
	self->from = source(&self->memory, variant->op);
	ASSERT_NE(MAP_FAILED, self->from);
}

FIXTURE_TEARDOWN(place)
{
	uffd_close(&self->uffd);
	munmap(self->from, self->length);
	memory_free(&self->memory);
}

static enum placed put(struct _test_data_place *self, unsigned page, unsigned pages, bool wake)
{
	uint64_t length = pages * self->page, offset = page * self->page;
	uint8_t *at = self->at + offset, *from = self->from + offset;

	self->done = 77;
	self->err = (struct wh_err){ 0 };
	switch (self->op) {
	case OP_COPY:
		return uffd_copy(&self->uffd, at, from, length, wake, &self->done, &self->err);
	case OP_ZERO:
		return uffd_zero(&self->uffd, at, length, wake, &self->done, &self->err);
	case OP_CONTINUE:
		return uffd_continue(&self->uffd, at, length, wake, &self->done, &self->err);
	case OP_MOVE:
		return uffd_move(&self->uffd, at, from, length, wake, &self->done, &self->err);
	}
	return PLACED_COUNT;
}

static uint8_t expected(const struct _test_data_place *self, unsigned page)
{
	return self->op == OP_ZERO ? 0 : (uint8_t)('a' + page);
}

/* The first page of [first, end) that is not as it should be, or end */
static unsigned wrong_page(const struct _test_data_place *self, unsigned first, unsigned end)
{
	for (; first < end; first++) {
		const uint8_t *at = self->at + first * self->page;

		if (at[0] != expected(self, first) || memcmp(at, at + 1, self->page - 1) != 0)
			break;
	}
	return first;
}

TEST_F(place, all)
{
	ASSERT_EQ(PLACED_OK, put(self, 0, PAGES, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(self->length, self->done);
	ASSERT_EQ(PAGES, wrong_page(self, 0, PAGES));
	ASSERT_EQ(0, self->err.code);
}

/* EAGAIN and 3 pages, which is continued; then EEXIST, which is the answer. */
TEST_F(place, up_to_one_that_is_there)
{
	ASSERT_EQ(PLACED_OK, put(self, 3, 1, true));
	self->at[3 * self->page] = 'X';
	ASSERT_EQ(PLACED_BEFORE, put(self, 0, PAGES, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(3 * self->page, self->done);
	ASSERT_EQ(3, wrong_page(self, 0, 3));
	ASSERT_EQ(PLACED_BEFORE, put(self, 3, PAGES - 3, true));
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(PLACED_OK, put(self, 4, 4, true));
	ASSERT_EQ(4 * self->page, self->done);
	ASSERT_EQ(PAGES, wrong_page(self, 4, PAGES));
	/* Left as it was */
	ASSERT_EQ('X', self->at[3 * self->page]);
}

TEST_F(place, a_page_that_is_there_wakes_nobody)
{
	struct toucher toucher = { 0 };
	struct uffd_event event;

	ASSERT_TRUE(toucher_start(&toucher, self->at));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, put(self, 0, 1, false));
	ASSERT_EQ(1, waiting(&self->uffd));
	ASSERT_EQ(PLACED_BEFORE, put(self, 0, 1, true));
	ASSERT_EQ(1, waiting(&self->uffd));
	ASSERT_FALSE(toucher_done(&toucher));
	ASSERT_EQ(0, uffd_wake(&self->uffd, self->at, self->page, &self->err));
	ASSERT_EQ(expected(self, 0), toucher_end(&toucher));
}

TEST_F(place, two_threads_wait_for_one_page)
{
	struct toucher one = { 0 }, two = { 0 };
	struct uffd_event event[2];

	ASSERT_TRUE(toucher_start(&one, self->at + self->page));
	ASSERT_TRUE(toucher_start(&two, self->at + self->page + 100));
	ASSERT_EQ(2, read_events(&self->uffd, event, 2));
	ASSERT_EQ(PLACED_OK, put(self, 1, 1, true));
	ASSERT_EQ(expected(self, 1), toucher_end(&one));
	ASSERT_EQ(expected(self, 1), toucher_end(&two));
}

TEST_F(place, a_batch_with_one_wake)
{
	struct toucher toucher[PAGES] = { 0 };
	struct uffd_event event[PAGES];
	unsigned i;

	for (i = 0; i < PAGES; i++)
		ASSERT_TRUE(toucher_start(&toucher[i], self->at + i * self->page));
	ASSERT_EQ(PAGES, read_events(&self->uffd, event, PAGES));
	ASSERT_EQ(PLACED_OK, put(self, 0, PAGES, false));
	ASSERT_EQ(PAGES, waiting(&self->uffd));
	ASSERT_EQ(0, uffd_wake(&self->uffd, self->at, self->length, &self->err));
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(expected(self, i), toucher_end(&toucher[i]));
}

/* A wake too many is harmless: the thread asks again, with a message of its own. */
TEST_F(place, a_wake_without_a_page)
{
	struct toucher toucher = { 0 };
	struct uffd_event event;

	ASSERT_TRUE(toucher_start(&toucher, self->at));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ(0, uffd_wake(&self->uffd, self->at, self->length, &self->err));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, put(self, 0, 1, true));
	ASSERT_EQ(expected(self, 0), toucher_end(&toucher));
}

struct remover {
	uint8_t *at;
	uint64_t length;
	int result;
};

static void *remove_range(void *opaque)
{
	struct remover *remover = opaque;

	remover->result = madvise(remover->at, remover->length, MADV_DONTNEED);
	return NULL;
}

/* An event that nobody has read closes the whole of the descriptor, whatever the page. */
TEST_F(place, nothing_while_the_map_changes)
{
	struct remover remover = { self->at + 5 * self->page, self->page, -1 };
	struct pollfd poll_fd = { .fd = self->uffd.fd, .events = POLLIN };
	struct toucher toucher = { 0 };
	struct uffd_event event[2];
	pthread_t thread;

	ASSERT_TRUE(toucher_start(&toucher, self->at));
	ASSERT_EQ(1, read_events(&self->uffd, event, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, remove_range, &remover));
	ASSERT_EQ(1, poll(&poll_fd, 1, 20000));
	ASSERT_EQ(PLACED_CHANGING, put(self, 0, PAGES, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(0, self->err.code);
	/* Nor does it end by asking again; waking is possible all the time */
	ASSERT_EQ(PLACED_CHANGING, put(self, 0, 1, true));
	ASSERT_EQ(0, uffd_wake(&self->uffd, self->at, self->page, &self->err));
	ASSERT_EQ(2, read_events(&self->uffd, event, 2));
	ASSERT_EQ(UFFD_REMOVE, event[0].kind == UFFD_FAULT ? event[1].kind : event[0].kind);
	pthread_join(thread, NULL);
	ASSERT_EQ(0, remover.result);
	ASSERT_EQ(PLACED_OK, put(self, 0, PAGES, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(PAGES, wrong_page(self, 0, PAGES));
	toucher_end(&toucher);
}

/* MOVE says EINVAL where the others say ENOENT, but for what is not mapped at all. */
#define GONE_OR_FAILED (self->op == OP_MOVE ? PLACED_FAILED : PLACED_GONE)

TEST_F(place, gone_if_nobody_watches)
{
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	ASSERT_EQ(GONE_OR_FAILED, put(self, 0, 1, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
}

TEST_F(place, gone_if_unmapped)
{
	ASSERT_EQ(0, munmap(self->at, self->length));
	ASSERT_EQ(PLACED_GONE, put(self, 0, 1, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(0, self->err.code);
}

/* Two mappings of the kernel's, though both are watched */
TEST_F(place, gone_if_across_a_seam)
{
	ASSERT_EQ(0, madvise(self->at + 4 * self->page, 4 * self->page, MADV_DONTFORK));
	ASSERT_EQ(GONE_OR_FAILED, put(self, 2, 4, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(PLACED_OK, put(self, 2, 2, true));
	ASSERT_EQ(PLACED_OK, put(self, 4, 2, true));
	ASSERT_EQ(6, wrong_page(self, 2, 6));
}

TEST_F(place, wrong_arguments_have_a_sentence)
{
	static const char *const name[] = { "UFFDIO_COPY", "UFFDIO_ZEROPAGE", "UFFDIO_CONTINUE",
					    "UFFDIO_MOVE" };

	self->at++;
	ASSERT_EQ(PLACED_FAILED, put(self, 0, 1, true));
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(-EINVAL, self->err.code);
	ASSERT_NE(NULL, strstr(self->err.text, name[self->op]))
	TH_LOG("%s", self->err.text);
	self->at--;
	ASSERT_EQ(PLACED_FAILED, put(self, 0, 0, true));
	ASSERT_EQ(-EINVAL, self->err.code);
	/* And nothing else is the worse for it */
	ASSERT_EQ(PLACED_OK, put(self, 0, PAGES, true));
	ASSERT_EQ(PAGES, wrong_page(self, 0, PAGES));
}

TEST_F(place, without_contents)
{
	switch (self->op) {
	case OP_COPY:
		ASSERT_EQ(0, munmap(self->from + self->page, self->length - self->page));
		ASSERT_EQ(PLACED_FAILED, put(self, 0, PAGES, true));
		ASSERT_EQ(self->page, self->done);
		ASSERT_EQ(-EFAULT, self->err.code);
		ASSERT_NE(NULL, strstr(self->err.text, "cannot be read"))
		TH_LOG("%s", self->err.text);
		break;
	case OP_CONTINUE:
		ASSERT_EQ(0, fallocate(self->memory.region.fd,
				       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				       (off_t)self->page, (off_t)self->page));
		ASSERT_EQ(PLACED_FAILED, put(self, 0, PAGES, true));
		ASSERT_EQ(self->page, self->done);
		ASSERT_EQ(-EFAULT, self->err.code);
		ASSERT_NE(NULL, strstr(self->err.text, "a hole"))
		TH_LOG("%s", self->err.text);
		break;
	case OP_MOVE:
		/* A hole does not count as moved: the page would be lost */
		ASSERT_EQ(0, madvise(self->from + self->page, self->page, MADV_DONTNEED));
		ASSERT_EQ(PLACED_GONE, put(self, 0, PAGES, true));
		ASSERT_EQ(self->page, self->done);
		break;
	case OP_ZERO:
		/* It needs none */
		ASSERT_EQ(0, munmap(self->from, self->length));
		ASSERT_EQ(PLACED_OK, put(self, 0, PAGES, true));
		break;
	}
	ASSERT_EQ(1, wrong_page(self, 0, 1));
}

struct racer {
	struct _test_data_place *self;
	pthread_barrier_t *barrier;
	unsigned count[PLACED_COUNT];
};

static void *race(void *opaque)
{
	struct racer *racer = opaque;
	struct _test_data_place mine = *racer->self;
	unsigned page;

	for (page = 0; page < PAGES; page++) {
		pthread_barrier_wait(racer->barrier);
		racer->count[put(&mine, page, 1, true)]++;
	}
	return NULL;
}

/* One of them places it, the other is told that it was there. */
TEST_F(place, two_threads_place_one_page)
{
	struct racer racer[2] = { { .self = self }, { .self = self } };
	pthread_barrier_t barrier;
	pthread_t thread[2];
	unsigned i;

	pthread_barrier_init(&barrier, NULL, 2);
	for (i = 0; i < 2; i++) {
		racer[i].barrier = &barrier;
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, race, &racer[i]));
	}
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	ASSERT_EQ(PAGES, racer[0].count[PLACED_OK] + racer[1].count[PLACED_OK]);
	/* Whose source has been moved away meets a hole there */
	ASSERT_EQ(PAGES, racer[0].count[PLACED_BEFORE] + racer[1].count[PLACED_BEFORE] +
				 racer[0].count[PLACED_GONE] + racer[1].count[PLACED_GONE]);
	if (self->op != OP_MOVE)
		ASSERT_EQ(0, racer[0].count[PLACED_GONE] + racer[1].count[PLACED_GONE]);
	ASSERT_EQ(PAGES, wrong_page(self, 0, PAGES));
}

/* With our descriptors, but memory of its own */
static pid_t fork_with_files(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
}

TEST_F(place, the_process_is_dead)
{
	struct uffd *uffd =
		mmap(NULL, TARGET_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	pid_t child;

	uffd_close(&self->uffd);
	child = fork_with_files();
	if (child == 0) {
		unsigned modes = UFFD_MISSING | (self->op == OP_CONTINUE ? UFFD_MINOR : 0);
		int ret = uffd_open(uffd, 0, false, NULL);

		if (ret == 0)
			ret = uffd_register(uffd, self->at, self->length, modes, NULL, NULL);
		_exit(ret == 0 ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	self->uffd = *uffd;
	/* MOVE is for one's own memory only and does not get so far */
	ASSERT_EQ(self->op == OP_MOVE ? PLACED_FAILED : PLACED_DEAD, put(self, 0, 1, true))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(0, uffd_wake(&self->uffd, self->at, self->length, &self->err));
}

TEST(no_memory)
{
	uint8_t *from = mmap(NULL, PAGES * TARGET_PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct wh_err err = { 0 };
	uint64_t done = 0;
	struct uffd uffd;
	uint8_t *at;
	int fd;

	if (geteuid() != 0)
		SKIP(return, "a file system of four pages takes root");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", "/tmp", "tmpfs", 0, "size=16k"));
	fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PAGES * TARGET_PAGE));
	at = mmap(NULL, PAGES * TARGET_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, at);
	ASSERT_EQ(0, uffd_open(&uffd, 0, false, &err));
	ASSERT_EQ(0, uffd_register(&uffd, at, PAGES * TARGET_PAGE, UFFD_MISSING, NULL, &err));
	ASSERT_EQ(PLACED_NO_MEMORY,
		  uffd_copy(&uffd, at, from, PAGES * TARGET_PAGE, true, &done, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(4 * TARGET_PAGE, done);
	ASSERT_EQ(0, err.code);
	ASSERT_EQ(PLACED_NO_MEMORY,
		  uffd_zero(&uffd, at + 4 * TARGET_PAGE, TARGET_PAGE, true, &done, &err));
	ASSERT_EQ(0, done);
	/* Once there is room again it goes on */
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, TARGET_PAGE));
	ASSERT_EQ(PLACED_OK,
		  uffd_copy(&uffd, at + 4 * TARGET_PAGE, from, TARGET_PAGE, true, NULL, &err));
	uffd_close(&uffd);
}

TEST(contents_need_no_alignment)
{
	uint8_t buffer[3 * TARGET_PAGE];
	struct memory memory;
	struct uffd uffd;
	unsigned i;

	for (i = 0; i < sizeof(buffer); i++)
		buffer[i] = (uint8_t)(i * 7 + i / 251);
	ASSERT_EQ(0, memory_new(&memory, MEMORY_ANON, 2 * TARGET_PAGE, NULL));
	ASSERT_EQ(0, uffd_open(&uffd, 0, false, NULL));
	ASSERT_EQ(0, uffd_register(&uffd, memory.region.addr, 2 * TARGET_PAGE, UFFD_MISSING, NULL,
				   NULL));
	ASSERT_EQ(PLACED_OK, uffd_copy(&uffd, memory.region.addr, buffer + 13, 2 * TARGET_PAGE,
				       true, NULL, NULL));
	ASSERT_EQ(0, memcmp(memory.region.addr, buffer + 13, 2 * TARGET_PAGE));
	uffd_close(&uffd);
	memory_free(&memory);
}

TEST(names)
{
	unsigned i;

	for (i = 0; i < PLACED_COUNT; i++)
		ASSERT_NE(NULL, placed_name(i));
	ASSERT_STREQ("there before", placed_name(PLACED_BEFORE));
}

TEST_HARNESS_MAIN
