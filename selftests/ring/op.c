/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Each operation, its cancellation, the order of timers.
 */
#include "selftests/ring/waiting.h"

#include <fcntl.h>

#include "kselftest_harness.h"

FIXTURE(ring)
{
	struct loop *loop;
	struct wh_err err;
	int pair[2];
};

FIXTURE_SETUP(ring)
{
	self->err = (struct wh_err){ 0 };
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, self->pair));
}

FIXTURE_TEARDOWN(ring)
{
	loop_close(self->loop);
	close(self->pair[0]);
	close(self->pair[1]);
}

static void set_nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Whether something is there already or not */
TEST_F(ring, receive_that_waits_first)
{
	struct told told = told_new();
	char buf[16] = "";
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	told.op.poll_first = true;
	for (int i = 0; i < 4; i++) {
		if (i & 1)
			ASSERT_EQ(5, write(self->pair[1], "hello", 5));
		if (i & 2)
			loop_recv(self->loop, &told.op, self->pair[0], buf, sizeof(buf), 0);
		else
			loop_recvmsg(self->loop, &told.op, self->pair[0], &msg, 0);
		if (!(i & 1)) {
			EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
			ASSERT_EQ(5, write(self->pair[1], "hello", 5));
		}
		EXPECT_EQ(5, finish(self->loop, &told));
		EXPECT_EQ(0, memcmp(buf, "hello", 5));
		memset(buf, 0, sizeof(buf));
	}
}

TEST_F(ring, recv)
{
	struct told told = told_new();
	char buf[16] = "";

	for (int nonblock = 0; nonblock < 2; nonblock++) {
		if (nonblock)
			set_nonblock(self->pair[0]);
		loop_recv(self->loop, &told.op, self->pair[0], buf, sizeof(buf), MSG_PEEK);
		EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
		ASSERT_EQ(3, write(self->pair[1], "abc", 3));
		EXPECT_EQ(3, finish(self->loop, &told));
		memset(buf, 0, sizeof(buf));
		/* still there: the flags were passed on */
		loop_recv(self->loop, &told.op, self->pair[0], buf, sizeof(buf), 0);
		EXPECT_EQ(3, finish(self->loop, &told));
		EXPECT_EQ(0, memcmp(buf, "abc", 3));
	}
	shutdown(self->pair[1], SHUT_WR);
	loop_recv(self->loop, &told.op, self->pair[0], buf, sizeof(buf), 0);
	EXPECT_EQ(0, finish(self->loop, &told));
}

TEST_F(ring, bad_descriptor)
{
	struct told told = told_new();
	char buf[4];

	loop_recv(self->loop, &told.op, 9999, buf, sizeof(buf), 0);
	EXPECT_EQ(-EBADF, finish(self->loop, &told));
	loop_poll(self->loop, &told.op, 9999, POLLIN);
	EXPECT_EQ(-EBADF, finish(self->loop, &told));
}

TEST_F(ring, sendmsg)
{
	struct told told = told_new();
	struct iovec iov[2] = { { .iov_base = (char[]){ "one" }, .iov_len = 3 },
				{ .iov_base = (char[]){ "two" }, .iov_len = 3 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	char buf[16];

	loop_sendmsg(self->loop, &told.op, self->pair[0], &msg, MSG_WAITALL | MSG_NOSIGNAL);
	EXPECT_EQ(6, finish(self->loop, &told));
	ASSERT_EQ(6, read(self->pair[1], buf, sizeof(buf)));
	EXPECT_EQ(0, memcmp(buf, "onetwo", 6));

	/* would end this process if it raised SIGPIPE, even without MSG_NOSIGNAL */
	close(self->pair[1]);
	self->pair[1] = -1;
	loop_sendmsg(self->loop, &told.op, self->pair[0], &msg, 0);
	EXPECT_EQ(-EPIPE, finish(self->loop, &told));
}

TEST_F(ring, accept_and_connect)
{
	struct told accept = told_new();
	struct told connect = told_new();
	struct sockaddr_in address;
	int listener = listening(&address, 4);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char buf[4];

	ASSERT_LE(0, listener);
	ASSERT_LE(0, client);
	loop_accept(self->loop, &accept.op, listener);
	EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
	loop_connect(self->loop, &connect.op, client, (struct sockaddr *)&address, sizeof(address));
	EXPECT_EQ(0, finish(self->loop, &connect));
	ASSERT_LE(0, finish(self->loop, &accept));
	EXPECT_EQ(FD_CLOEXEC, fcntl(accept.result, F_GETFD));
	EXPECT_EQ(O_NONBLOCK, fcntl(accept.result, F_GETFL) & O_NONBLOCK);
	ASSERT_EQ(2, write(client, "hi", 2));
	set_nonblock(accept.result);
	EXPECT_EQ(2, recv(accept.result, buf, sizeof(buf), 0));
	close(accept.result);
	close(client);
	close(listener);

	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	loop_connect(self->loop, &connect.op, client, (struct sockaddr *)&address, sizeof(address));
	EXPECT_EQ(-ECONNREFUSED, finish(self->loop, &connect));
	close(client);
}

TEST_F(ring, poll)
{
	struct told told = told_new();

	loop_poll(self->loop, &told.op, self->pair[0], POLLIN | POLLOUT);
	EXPECT_EQ(POLLOUT, finish(self->loop, &told));
	loop_poll(self->loop, &told.op, self->pair[0], POLLIN);
	EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
	ASSERT_EQ(1, write(self->pair[1], "x", 1));
	EXPECT_EQ(POLLIN, finish(self->loop, &told));
}

TEST_F(ring, timer)
{
	struct told told = told_new();
	uint64_t at_ns = clock_now_ns() + 10 * NS_PER_MS;

	loop_timer(self->loop, &told.op, at_ns);
	EXPECT_EQ(0, finish(self->loop, &told));
	EXPECT_GE(clock_now_ns(), at_ns);
	loop_timer(self->loop, &told.op, 0); /* long ago */
	EXPECT_EQ(0, finish(self->loop, &told));
	loop_timer(self->loop, &told.op, UINT64_MAX);
	EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
	EXPECT_TRUE(op_busy(&told.op));
	loop_cancel(self->loop, &told.op);
	EXPECT_EQ(-ECANCELED, finish(self->loop, &told));
}

TEST_F(ring, timers_in_order)
{
	const int after_ms[] = { 30, 10, 50, 20, 40 };
	uint64_t begin_ns = clock_now_ns();
	struct told told[5];
	int counter = 0;

	for (int i = 0; i < 5; i++) {
		told[i] = told_new();
		told[i].counter = &counter;
		loop_timer(self->loop, &told[i].op, begin_ns + (uint64_t)after_ms[i] * NS_PER_MS);
	}
	for (int i = 0; i < 5; i++) {
		EXPECT_EQ(0, finish(self->loop, &told[i]));
	}
	for (int i = 0; i < 5; i++) {
		EXPECT_EQ(after_ms[i] / 10 - 1, told[i].order);
	}
}

TEST_F(ring, cancel)
{
	static struct waiting w;

	ASSERT_EQ(0, waiting_start(&w, self->loop, self->pair[0]));
	EXPECT_EQ(0, loop_step(self->loop, 5 * (int64_t)NS_PER_MS, &self->err));
	ASSERT_EQ(WAITING_COUNT, waiting_busy(&w));
	for (int i = 0; i < WAITING_COUNT; i++) {
		loop_cancel(self->loop, &w.all[i]->op);
		if (i % 2)
			loop_cancel(self->loop, &w.all[i]->op); /* twice does no harm */
	}
	for (int i = 0; i < WAITING_COUNT; i++) {
		int result = finish(self->loop, w.all[i]);

		EXPECT_EQ(1, w.all[i]->calls);
		if (w.all[i] == &w.send) { /* what it had reached */
			EXPECT_TRUE(result > 0 && result < (int)sizeof(w.big));
		} else {
			EXPECT_EQ(-ECANCELED, result)
			{
				TH_LOG("operation %d", i);
			}
		}
	}
	loop_cancel(self->loop, &w.recv.op); /* not busy */
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	waiting_stop(&w);
}

static void again_done(struct op *op, int result)
{
	struct told *told = (struct told *)(void *)op;

	told_done(op, result);
	if (told->calls == 1)
		loop_timer(op->loop, op, clock_now_ns());
}

/* Cancelled before it was submitted, and submitted again at once by its done() */
TEST_F(ring, cancel_is_for_one_submission)
{
	struct told told = told_new();

	told.op.done = again_done;
	loop_timer(self->loop, &told.op, UINT64_MAX);
	loop_cancel(self->loop, &told.op);
	EXPECT_EQ(0, finish(self->loop, &told));
	EXPECT_EQ(2, told.calls);
}

TEST_HARNESS_MAIN
