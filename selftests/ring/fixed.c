/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Writes from memory that the ring knows.
 */
#include "ring/fixed.h"
#include "selftests/ring/waiting.h"

#include <fcntl.h>
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PIECE (UINT64_C(1) << 20)

FIXTURE(fixed)
{
	struct loop *loop;
	struct wh_err err;
	int from, to; /* a TCP connection; neither blocks */
	uint8_t *at, *seen;
};

static uint8_t *piece_new(void)
{
	uint8_t *at = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t i = 0; i < PIECE; i++)
		at[i] = (uint8_t)(i * 7 + i / 4096);
	return at;
}

FIXTURE_SETUP(fixed)
{
	struct sockaddr_in address;
	int listener = listening(&address, 1);

	memset(self, 0, sizeof(*self));
	/* as in any thread of the library's */
	signal(SIGPIPE, SIG_IGN);
	ASSERT_LE(0, listener);
	self->from = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_EQ(0, connect(self->from, (struct sockaddr *)&address, sizeof(address)));
	self->to = accept(listener, NULL, NULL);
	ASSERT_LE(0, self->to);
	close(listener);
	fcntl(self->from, F_SETFL, O_NONBLOCK);
	fcntl(self->to, F_SETFL, O_NONBLOCK);
	self->at = piece_new();
	self->seen = malloc(PIECE);
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err));
	if (loop_fixed_open(self->loop, 2, &self->err) == -EINVAL)
		SKIP(return, "%s", self->err.text);
}

FIXTURE_TEARDOWN(fixed)
{
	loop_close(self->loop);
	close(self->from);
	close(self->to);
	munmap(self->at, PIECE);
	free(self->seen);
}

/* Up to @length bytes that come within the time there is; how many did */
static size_t receive(FIXTURE_DATA(fixed) *self, size_t length)
{
	struct pollfd poll_fd = { .fd = self->to, .events = POLLIN };
	size_t have = 0;

	while (have < length && poll(&poll_fd, 1, (int)(LIMIT_NS / NS_PER_MS)) == 1) {
		ssize_t n = recv(self->to, self->seen + have, length - have, 0);

		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

/* All of a piece, as it says how much went. Return: false: an error */
static bool write_piece(FIXTURE_DATA(fixed) *self, const uint8_t *at, unsigned slot)
{
	struct told told = told_new();
	size_t sent = 0;

	while (sent < PIECE) {
		int n;

		loop_write_fixed(self->loop, &told.op, self->from, at + sent, PIECE - sent, slot);
		n = finish(self->loop, &told);
		if (n <= 0 || receive(self, (size_t)n) != (size_t)n)
			return false;
		if (memcmp(self->seen, at + sent, (size_t)n))
			return false;
		sent += (size_t)n;
	}
	return true;
}

TEST_F(fixed, what_is_known_is_written)
{
	uint8_t *other = piece_new();

	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, self->at, PIECE, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_TRUE(write_piece(self, self->at, 0));
	/* and after it has changed; and another, in another place, and in the place of the first */
	memset(self->at, 3, PIECE);
	EXPECT_TRUE(write_piece(self, self->at, 0));
	ASSERT_EQ(0, loop_fixed_set(self->loop, 1, other, PIECE, &self->err));
	EXPECT_TRUE(write_piece(self, other, 1));
	EXPECT_TRUE(write_piece(self, self->at, 0));
	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, other, PIECE, &self->err));
	EXPECT_TRUE(write_piece(self, other, 0));
	munmap(other, PIECE);
}

/* Only that */
TEST_F(fixed, what_is_not_known_is_refused)
{
	struct told told = told_new();

	loop_write_fixed(self->loop, &told.op, self->from, self->at, PIECE, 0);
	EXPECT_EQ(-EFAULT, finish(self->loop, &told));
	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, self->at, PIECE / 2, &self->err));
	loop_write_fixed(self->loop, &told.op, self->from, self->at + 1, PIECE / 2, 0);
	EXPECT_EQ(-EFAULT, finish(self->loop, &told));
	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, NULL, 0, &self->err));
	loop_write_fixed(self->loop, &told.op, self->from, self->at, 1, 0);
	EXPECT_EQ(-EFAULT, finish(self->loop, &told));
	EXPECT_GT(0, loop_fixed_set(self->loop, 2, self->at, PIECE, &self->err));
	EXPECT_NE('\0', self->err.text[0]);
}

/* Nobody reads: it waits. What it is to write is known no more, and not even mapped: it is written */
TEST_F(fixed, one_that_is_under_way_has_its_memory)
{
	struct told told = told_new();
	uint8_t *other = piece_new();
	static uint8_t fill[65536];
	size_t filled = 0;
	ssize_t n;

	while ((n = send(self->from, fill, sizeof(fill), MSG_DONTWAIT)) > 0)
		filled += (size_t)n;
	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, other, PIECE, &self->err));
	loop_write_fixed(self->loop, &told.op, self->from, other, PIECE, 0);
	EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
	EXPECT_TRUE(op_busy(&told.op));
	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, NULL, 0, &self->err));
	munmap(other, PIECE);
	while (filled) {
		size_t part = receive(self, filled < PIECE ? filled : PIECE);

		ASSERT_LT(0, part);
		filled -= part;
	}
	ASSERT_LT(0, finish(self->loop, &told));
	ASSERT_EQ((size_t)told.result, receive(self, (size_t)told.result));
	EXPECT_EQ(0, memcmp(self->seen, self->at, (size_t)told.result));
}

TEST_F(fixed, a_broken_stream)
{
	struct told told = told_new();

	ASSERT_EQ(0, loop_fixed_set(self->loop, 0, self->at, PIECE, &self->err));
	shutdown(self->from, SHUT_RDWR);
	loop_write_fixed(self->loop, &told.op, self->from, self->at, PIECE, 0);
	EXPECT_EQ(-EPIPE, finish(self->loop, &told));
}

/* Kept to the limit from here on, root or not */
static void keep_to_limit(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	/* what counts is locked by all of a user's: of one who has nothing else */
	if (geteuid() == 0 && setresuid(0x40000000u + (unsigned)getpid(), 0, 0) < 0)
		errno = 0; /* none of ours: with the others, then */
	if (syscall(SYS_capget, &head, data) < 0)
		return;
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	syscall(SYS_capset, &head, data);
}

TEST(no_memory_may_be_locked)
{
	const struct rlimit limit = { 0, 0 };
	struct wh_err err = { 0 };
	uint8_t *at = piece_new();
	struct loop *loop;

	keep_to_limit();
	ASSERT_EQ(0, loop_open(&loop, 8, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	if (loop_fixed_open(loop, 2, &err) == -EINVAL)
		SKIP(return, "%s", err.text);
	EXPECT_EQ(-ENOMEM, loop_fixed_set(loop, 0, at, PIECE, &err));
	EXPECT_NE(NULL, strstr(err.text, "ulimit -l"));
	/* it goes on without */
	EXPECT_EQ(0, loop_step(loop, 0, &err));
	loop_close(loop);
	munmap(at, PIECE);
}

TEST_HARNESS_MAIN
