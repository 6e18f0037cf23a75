/* SPDX-License-Identifier: GPL-2.0 */
/* MOVE and POISON, which are not like the other ioctls of uffd/place.c. */
#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <liburing.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

#define PAGES 8
#define HUGE_BYTES (UINT64_C(2) << 20)

FIXTURE(move)
{
	struct memory to;
	struct memory from;
	struct uffd uffd;
	struct wh_err err;
	uint64_t done;
};

FIXTURE_SETUP(move)
{
	memset(self, 0, sizeof(*self));
	ASSERT_EQ(0, uffd_open(&self->uffd, 0, false, &self->err))
	TH_LOG("%s", self->err.text);
	if (~self->uffd.offered & UFFD_FEATURE_MOVE)
		SKIP(return, "userfaultfd has no MOVE");
	ASSERT_EQ(0, memory_new(&self->to, MEMORY_ANON, HUGE_BYTES, &self->err));
	ASSERT_EQ(0, memory_new(&self->from, MEMORY_THP, HUGE_BYTES, &self->err));
	ASSERT_EQ(0, uffd_register(&self->uffd, self->to.region.addr, HUGE_BYTES, UFFD_MISSING,
				   NULL, &self->err));
	memset(self->from.region.addr, 'm', HUGE_BYTES);
}

FIXTURE_TEARDOWN(move)
{
	uffd_close(&self->uffd);
	memory_free(&self->to);
	memory_free(&self->from);
}

static enum placed move(struct _test_data_move *self, uint64_t length)
{
	self->err = (struct wh_err){ 0 };
	return uffd_move(&self->uffd, self->to.region.addr, self->from.region.addr, length, true,
			 &self->done, &self->err);
}

/* Of the mapping at @at, in kB */
static unsigned huge_kb(const void *at)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned kb = 0, found;
	bool inside = false;
	char line[512];
	uint64_t start;

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-", &start) == 1 && strchr(line, '-'))
			inside = start == (uintptr_t)at;
		if (inside && sscanf(line, "AnonHugePages: %u kB", &found) == 1)
			kb = found;
	}
	if (smaps)
		fclose(smaps);
	return kb;
}

/* Also where no huge page would be made: the guest gets it in one piece. */
TEST_F(move, a_huge_page_stays_one)
{
	ASSERT_EQ(2048, huge_kb(self->from.region.addr));
	ASSERT_EQ(0, madvise(self->to.region.addr, HUGE_BYTES, MADV_NOHUGEPAGE));
	ASSERT_EQ(PLACED_OK, move(self, HUGE_BYTES))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(HUGE_BYTES, self->done);
	ASSERT_EQ(2048, huge_kb(self->to.region.addr));
	ASSERT_EQ(0, huge_kb(self->from.region.addr));
	ASSERT_EQ('m', self->to.region.addr[0]);
	ASSERT_EQ(0, memcmp(self->to.region.addr, self->to.region.addr + 1, HUGE_BYTES - 1));
	/* A hole, which fills by itself */
	ASSERT_EQ(0, self->from.region.addr[0]);
}

TEST_F(move, a_page_of_a_fixed_buffer_is_pinned)
{
	struct iovec iov = { self->from.region.addr, HUGE_BYTES };
	struct io_uring ring;
	int ret = io_uring_queue_init(1, &ring, 0);

	if (ret < 0)
		SKIP(return, "io_uring: %s", strerror(-ret));
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
	ASSERT_EQ(PLACED_PINNED, move(self, HUGE_BYTES))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->done);
	ASSERT_EQ(PLACED_PINNED, move(self, TARGET_PAGE));
	ASSERT_EQ('m', self->from.region.addr[0]);
	/* Then it is copied */
	ASSERT_EQ(PLACED_OK, uffd_copy(&self->uffd, self->to.region.addr, self->from.region.addr,
				       HUGE_BYTES, true, NULL, &self->err));
	ASSERT_EQ('m', self->to.region.addr[HUGE_BYTES - 1]);
	io_uring_queue_exit(&ring);
}

TEST_F(move, a_page_shared_with_a_child_stays)
{
	int ends[2];
	pid_t child;
	char byte;

	ASSERT_EQ(0, pipe(ends));
	child = fork();
	if (child == 0) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
	}
	ASSERT_LT(0, child);
	ASSERT_EQ(PLACED_PINNED, move(self, HUGE_BYTES))
	TH_LOG("%s", self->err.text);
	close(ends[1]);
	ASSERT_EQ(child, waitpid(child, NULL, 0));
}

TEST_F(move, protection_must_be_the_same)
{
	ASSERT_EQ(0,
		  mprotect(self->from.region.addr, HUGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC));
	ASSERT_EQ(PLACED_FAILED, move(self, HUGE_BYTES));
	ASSERT_EQ(-EINVAL, self->err.code);
	ASSERT_NE(NULL, strstr(self->err.text, "UFFDIO_MOVE"))
	TH_LOG("%s", self->err.text);
}

FIXTURE(poison)
{
	struct memory memory;
	struct uffd uffd;
	struct wh_err err;
	uint8_t *contents;
	uint64_t page;
};

FIXTURE_VARIANT(poison)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(poison, anon)            { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(poison, memfd)           { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(poison, private)         { .kind = MEMORY_MEMFD_PRIVATE };
FIXTURE_VARIANT_ADD(poison, hugetlb)         { .kind = MEMORY_HUGETLB };
FIXTURE_VARIANT_ADD(poison, hugetlb_private) { .kind = MEMORY_HUGETLB_PRIVATE };
/* clang-format on */

FIXTURE_SETUP(poison)
{
	int ret;

	memset(self, 0, sizeof(*self));
	self->page = memory_traits[variant->kind].page_size;
	ret = memory_new(&self->memory, variant->kind, PAGES * self->page, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, uffd_open(&self->uffd, 0, false, &self->err));
	if (~self->uffd.offered & UFFD_FEATURE_POISON)
		SKIP(return, "userfaultfd has no POISON");
	ASSERT_EQ(0, uffd_register(&self->uffd, self->memory.region.addr, PAGES * self->page,
				   UFFD_MISSING, NULL, &self->err));
	self->contents = aligned_alloc(self->page, self->page);
	memset(self->contents, 'p', self->page);
}

FIXTURE_TEARDOWN(poison)
{
	free(self->contents);
	uffd_close(&self->uffd);
	memory_free(&self->memory);
}

/* The kernel reads it: no signal */
static bool readable(const uint8_t *at)
{
	int ends[2];
	bool good;

	if (pipe(ends) < 0)
		return false;
	good = write(ends[1], at, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return good;
}

TEST_F(poison, fails_instead_of_waiting)
{
	uint8_t *at = self->memory.region.addr;
	uint64_t done = 0;

	ASSERT_EQ(PLACED_OK, uffd_copy(&self->uffd, at + 2 * self->page, self->contents, self->page,
				       true, NULL, &self->err));
	ASSERT_EQ(PLACED_BEFORE, uffd_poison(&self->uffd, at, 3 * self->page, &done, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(2 * self->page, done);
	errno = 0;
	ASSERT_FALSE(readable(at));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_FALSE(readable(at + self->page));
	ASSERT_TRUE(readable(at + 2 * self->page));
	/* What comes after all heals it */
	ASSERT_EQ(PLACED_OK,
		  uffd_copy(&self->uffd, at, self->contents, self->page, true, &done, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ('p', at[0]);
	ASSERT_TRUE(readable(at));
	ASSERT_FALSE(readable(at + self->page));
}

static void *read_it(void *at)
{
	return readable(at) ? at : NULL;
}

TEST_F(poison, wakes_who_waits)
{
	uint8_t *at = self->memory.region.addr;
	struct uffd_event event;
	pthread_t thread;
	void *result = at;

	if (self->uffd.route == UFFD_ROUTE_USER)
		SKIP(return, "no right to watch faults of the kernel");
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_it, at));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ(PLACED_OK, uffd_poison(&self->uffd, at, self->page, NULL, &self->err));
	pthread_join(thread, &result);
	ASSERT_EQ(NULL, result);
}

static sigjmp_buf after_signal;
static void *volatile signal_at;

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	signal_at = info->si_addr;
	siglongjmp(after_signal, 1);
}

TEST_F(poison, is_a_bus_error_to_who_touches)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	volatile uint8_t *at = self->memory.region.addr + self->page;

	ASSERT_EQ(PLACED_OK, uffd_poison(&self->uffd, self->memory.region.addr, 2 * self->page,
					 NULL, &self->err));
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));
	if (sigsetjmp(after_signal, 1) == 0) {
		(void)*at;
		ASSERT_TRUE(false)
		TH_LOG("nothing happened");
	}
	ASSERT_EQ((uintptr_t)at, (uintptr_t)signal_at);
}

TEST_HARNESS_MAIN
