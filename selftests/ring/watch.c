/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A descriptor that is watched: what is told, how often, and how it ends.
 */
#include "selftests/ring/waiting.h"

#include <poll.h>
#include <sys/eventfd.h>

#include "kselftest_harness.h"

#define EVENTFDS 100

FIXTURE(watch)
{
	struct loop *loop;
	struct told told;
	struct wh_err err;
	int pair[2];
};

FIXTURE_SETUP(watch)
{
	self->err = (struct wh_err){ 0 };
	self->told = told_new();
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, self->pair));
	loop_watch(self->loop, &self->told.op, self->pair[0], POLLIN);
}

FIXTURE_TEARDOWN(watch)
{
	loop_close(self->loop);
	if (self->pair[0] >= 0)
		close(self->pair[0]);
	if (self->pair[1] >= 0)
		close(self->pair[1]);
}

static int step(struct loop *loop)
{
	return loop_step(loop, (int64_t)LIMIT_NS, NULL);
}

/* Nothing comes for a while */
static int rest(struct loop *loop)
{
	return loop_step(loop, (int64_t)NS_PER_MS, NULL);
}

/* Each time, and it stays under way */
TEST_F(watch, what_comes_is_told)
{
	char byte;

	EXPECT_EQ(0, rest(self->loop));
	for (int i = 1; i <= 1000; i++) {
		ASSERT_EQ(1, write(self->pair[1], "x", 1));
		ASSERT_EQ(1, step(self->loop));
		ASSERT_EQ(i, self->told.calls);
		ASSERT_EQ(POLLIN, self->told.result);
		ASSERT_TRUE(op_busy(&self->told.op));
		ASSERT_EQ(1, read(self->pair[0], &byte, 1));
	}
	EXPECT_EQ(0, rest(self->loop));
	EXPECT_EQ(1000, self->told.calls);
}

/* Not again because something is left, but because something comes */
TEST_F(watch, what_is_left_is_not_told_again)
{
	ASSERT_EQ(2, write(self->pair[1], "xx", 2));
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(0, rest(self->loop));
	EXPECT_EQ(1, self->told.calls);
	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(2, self->told.calls);
}

TEST_F(watch, what_was_there_before)
{
	struct told late = told_new();
	char bytes[4];

	ASSERT_EQ(2, write(self->pair[1], "xx", 2));
	ASSERT_EQ(1, step(self->loop));
	loop_watch(self->loop, &late.op, self->pair[0], POLLIN);
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(1, late.calls);
	EXPECT_EQ(POLLIN, late.result);
	EXPECT_TRUE(op_busy(&late.op));
	ASSERT_EQ(2, read(self->pair[0], bytes, sizeof(bytes)));
	loop_cancel(self->loop, &late.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &late));
}

/* The peer's end, with what it has said last, and for as long as it is there */
TEST_F(watch, the_end)
{
	char byte;

	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	close(self->pair[1]);
	self->pair[1] = -1;
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(POLLIN | POLLRDHUP | POLLHUP, self->told.result);
	EXPECT_EQ(1, read(self->pair[0], &byte, 1));
	EXPECT_EQ(0, read(self->pair[0], &byte, 1));
}

TEST_F(watch, half_an_end)
{
	char byte;

	ASSERT_EQ(0, shutdown(self->pair[1], SHUT_WR));
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(POLLIN | POLLRDHUP, self->told.result);
	EXPECT_EQ(0, read(self->pair[0], &byte, 1));
}

TEST_F(watch, cancelled)
{
	EXPECT_EQ(0, rest(self->loop));
	loop_cancel(self->loop, &self->told.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &self->told));
	EXPECT_EQ(1, self->told.calls);
	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	EXPECT_EQ(0, rest(self->loop));
	/* and from the beginning */
	loop_watch(self->loop, &self->told.op, self->pair[0], POLLIN);
	ASSERT_EQ(1, step(self->loop));
	EXPECT_EQ(POLLIN, self->told.result);
}

TEST_F(watch, closed_while_it_is_watched)
{
	EXPECT_EQ(0, rest(self->loop));
	loop_close(self->loop);
	self->loop = NULL;
	EXPECT_EQ(-ECANCELED, self->told.result);
	EXPECT_FALSE(op_busy(&self->told.op));
}

TEST_F(watch, closed_before_the_first_step)
{
	loop_close(self->loop);
	self->loop = NULL;
	EXPECT_EQ(1, self->told.calls);
	EXPECT_EQ(-ECANCELED, self->told.result);
}

/* A byte at a time: others have their turn in between, and there is no waiting */
struct sipper {
	struct told told;
	int fd;
	char bytes[8];
	int have;
};

static void sip(struct op *op, int result)
{
	struct sipper *sipper = (struct sipper *)(void *)op;

	told_done(op, result);
	if (result > 0 && recv(sipper->fd, &sipper->bytes[sipper->have], 1, MSG_DONTWAIT) == 1) {
		sipper->have++;
		loop_again(op);
		loop_again(op);
	}
}

TEST_F(watch, again)
{
	struct sipper sipper = { .told = told_new(), .fd = self->pair[0] };
	int order = 0;

	loop_cancel(self->loop, &self->told.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &self->told));
	sipper.told.op.done = sip;
	loop_watch(self->loop, &sipper.told.op, self->pair[0], POLLIN);
	ASSERT_EQ(3, write(self->pair[1], "abc", 3));
	for (int i = 1; i <= 3; i++) {
		/* for ever, if it did sleep */
		ASSERT_EQ(1, loop_step(self->loop, i & 1 ? -1 : 0, &self->err));
		ASSERT_EQ(i, sipper.have);
		ASSERT_EQ(POLLIN, sipper.told.result);
	}
	/* finds nothing, and waits again */
	EXPECT_EQ(1, loop_step(self->loop, -1, &self->err));
	EXPECT_EQ(0, rest(self->loop));
	EXPECT_EQ(4, sipper.told.calls);
	/* behind what has come meanwhile, once for both */
	sipper.told.counter = self->told.counter = &order;
	ASSERT_EQ(2, write(self->pair[1], "de", 2));
	ASSERT_EQ(1, step(self->loop));
	loop_poll(self->loop, &self->told.op, self->pair[1], POLLOUT);
	while (op_busy(&self->told.op) && order < 4) {
		ASSERT_LE(0, loop_step(self->loop, 0, &self->err));
	}
	EXPECT_EQ(5, sipper.have);
	EXPECT_LT(self->told.order, 3);
	EXPECT_EQ(0, memcmp(sipper.bytes, "abcde", 5));
	loop_cancel(self->loop, &sipper.told.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &sipper.told));
	EXPECT_EQ(0, rest(self->loop));
}

/* Cancelled while it is to be done again: one end, and the loop can sleep */
TEST_F(watch, again_and_cancelled)
{
	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	ASSERT_EQ(1, step(self->loop));
	loop_again(&self->told.op);
	loop_cancel(self->loop, &self->told.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &self->told));
	EXPECT_GE(3, self->told.calls);
	loop_again(&self->told.op);
	EXPECT_EQ(0, rest(self->loop));
}

/* Said between two steps it makes the descriptor readable, as what is queued then does */
TEST_F(watch, again_told_to_a_poller)
{
	struct pollfd pollfd = { .fd = loop_fd(self->loop), .events = POLLIN };
	int done;

	ASSERT_LE(0, pollfd.fd);
	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	do
		done = loop_step(self->loop, 0, &self->err);
	while (done > 0 || !self->told.calls);
	ASSERT_EQ(0, poll(&pollfd, 1, 0));
	loop_again(&self->told.op);
	EXPECT_EQ(1, poll(&pollfd, 1, 0));
	EXPECT_EQ(1, loop_step(self->loop, 0, &self->err));
	EXPECT_EQ(2, self->told.calls);
	EXPECT_EQ(POLLIN, self->told.result);
}

static void keep_watching(struct op *op, int result)
{
	struct sipper *sipper = (struct sipper *)(void *)op;
	uint64_t count;

	told_done(op, result);
	if (result > 0 && read(sipper->fd, &count, sizeof(count)) == sizeof(count))
		sipper->have += (int)count;
	if (result > 0 && !op_busy(op))
		loop_watch(op->loop, op, sipper->fd, POLLIN);
}

/*
 * More completions than the ring has room for, at once: the kernel may end a watch then.
 * Nothing is missed by whoever watches again.
 */
TEST_F(watch, more_than_there_is_room_for)
{
	struct sipper sipper[EVENTFDS];

	/* completions come into being by themselves then, not in step() as many as it takes */
	ASSERT_LE(0, loop_fd(self->loop));
	for (int i = 0; i < EVENTFDS; i++) {
		sipper[i] = (struct sipper){ .told = told_new(),
					     .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
		ASSERT_LE(0, sipper[i].fd);
		sipper[i].told.op.done = keep_watching;
		loop_watch(self->loop, &sipper[i].told.op, sipper[i].fd, POLLIN);
		if (i % 4 == 3) {
			ASSERT_EQ(0, rest(self->loop));
		}
	}
	for (int round = 1; round <= 10; round++) {
		uint64_t limit_ns = clock_now_ns() + LIMIT_NS;
		int all = 0;

		for (int i = 0; i < EVENTFDS; i++) {
			ASSERT_EQ(0, eventfd_write(sipper[i].fd, 1));
		}
		while (all < round * EVENTFDS && clock_now_ns() < limit_ns) {
			ASSERT_LE(0, step(self->loop));
			all = 0;
			for (int i = 0; i < EVENTFDS; i++)
				all += sipper[i].have;
		}
		ASSERT_EQ(round * EVENTFDS, all);
	}
	for (int i = 0; i < EVENTFDS; i++)
		EXPECT_TRUE(op_busy(&sipper[i].told.op));
	loop_close(self->loop);
	self->loop = NULL;
	for (int i = 0; i < EVENTFDS; i++) {
		EXPECT_EQ(-ECANCELED, sipper[i].told.result);
		close(sipper[i].fd);
	}
}

TEST_HARNESS_MAIN
