/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The loop: its modes, time-outs, full queues, and closing at any moment.
 */
#include "selftests/ring/waiting.h"

#include <pthread.h>

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

TEST_F(ring, modes_of_this_kernel)
{
	struct loop_caps caps;

	loop_get_caps(self->loop, &caps);
	EXPECT_TRUE(caps.single_issuer);
	EXPECT_TRUE(caps.defer_taskrun);
}

TEST_F(ring, entries_are_checked)
{
	const unsigned wrong[] = { 0, 3, 100, 16384, 0x80000000u };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct loop *loop;

		EXPECT_EQ(-EINVAL, loop_open(&loop, wrong[i], &self->err));
		EXPECT_EQ(NULL, loop);
		EXPECT_NE(NULL, strstr(self->err.text, "power of two"));
	}
}

TEST_F(ring, time_out)
{
	uint64_t begin_ns = clock_now_ns();

	EXPECT_EQ(0, loop_step(self->loop, 20 * (int64_t)NS_PER_MS, &self->err));
	EXPECT_GE(clock_now_ns() - begin_ns, 20 * NS_PER_MS);
	begin_ns = clock_now_ns();
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	EXPECT_LT(clock_now_ns() - begin_ns, NS_PER_S);
}

static void again_done(struct op *op, int result)
{
	struct told *told = (struct told *)(void *)op;

	told_done(op, result);
	if (told->calls == 1)
		loop_timer(op->loop, op, clock_now_ns());
}

TEST_F(ring, close_with_all_under_way)
{
	static struct waiting w;

	for (int stepped = 0; stepped < 2; stepped++) {
		struct loop *loop;

		ASSERT_EQ(0, loop_open(&loop, 8, &self->err));
		ASSERT_EQ(0, waiting_start(&w, loop, self->pair[0]));
		if (stepped) { /* else nothing was submitted */
			EXPECT_EQ(0, loop_step(loop, 5 * (int64_t)NS_PER_MS, &self->err));
		}
		ASSERT_EQ(WAITING_COUNT, waiting_busy(&w));
		loop_close(loop);
		for (int i = 0; i < WAITING_COUNT; i++) {
			EXPECT_FALSE(op_busy(&w.all[i]->op));
			EXPECT_EQ(1, w.all[i]->calls);
			if (w.all[i] != &w.send || !stepped) {
				EXPECT_EQ(-ECANCELED, w.all[i]->result)
				{
					TH_LOG("operation %d", i);
				}
			}
		}
		/* nothing writes there any more */
		ASSERT_EQ(1, write(w.quiet[1], "x", 1));
		EXPECT_EQ(1, recv(w.quiet[0], w.buf, 8, MSG_DONTWAIT));
		waiting_stop(&w);
	}
}

/* The kernel has let go of everything when it returns: the port is free at once */
TEST_F(ring, close_waits)
{
	for (int i = 0; i < 50; i++) {
		struct told accept = told_new();
		struct sockaddr_in address;
		struct loop *loop;
		int fd, again;

		ASSERT_EQ(0, loop_open(&loop, 8, &self->err));
		fd = listening(&address, 4);
		ASSERT_LE(0, fd);
		loop_accept(loop, &accept.op, fd);
		ASSERT_EQ(0, loop_step(loop, 0, &self->err));
		loop_close(loop);
		EXPECT_EQ(-ECANCELED, accept.result);
		close(fd);
		again = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ASSERT_EQ(0, bind(again, (struct sockaddr *)&address, sizeof(address)))
		{
			TH_LOG("%d: %s", i, strerror(errno));
		}
		close(again);
	}
}

static void *step_once(void *arg)
{
	return (void *)(intptr_t)loop_step(arg, (int64_t)NS_PER_MS, NULL);
}

/* Its thread has ended, as in wh_free() */
TEST_F(ring, close_by_another_thread)
{
	static struct waiting w;
	pthread_t thread;
	struct loop *loop;
	void *result;

	ASSERT_EQ(0, loop_open(&loop, 8, &self->err));
	ASSERT_EQ(0, waiting_start(&w, loop, self->pair[0]));
	ASSERT_EQ(0, pthread_create(&thread, NULL, step_once, loop));
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(0, (intptr_t)result);
	ASSERT_EQ(WAITING_COUNT, waiting_busy(&w));

	/* and it cannot be driven on by another */
	EXPECT_EQ(-EEXIST, loop_step(loop, (int64_t)NS_PER_MS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "another thread"));

	loop_close(loop);
	for (int i = 0; i < WAITING_COUNT; i++) {
		EXPECT_EQ(1, w.all[i]->calls);
		EXPECT_EQ(-ECANCELED, w.all[i]->result);
	}
	/* whatever still holds the socket takes nothing from it */
	memset(w.buf, 0, sizeof(w.buf));
	ASSERT_EQ(1, write(w.quiet[1], "x", 1));
	EXPECT_EQ(1, recv(w.quiet[0], w.buf + 32, 8, MSG_DONTWAIT));
	EXPECT_EQ(0, w.buf[8]);
	waiting_stop(&w);
}

/* done() of one that closing ends asks for another: it is refused, not forgotten */
TEST_F(ring, submit_while_closing)
{
	struct told told = told_new();
	struct loop *loop;

	told.op.done = again_done;
	ASSERT_EQ(0, loop_open(&loop, 8, &self->err));
	loop_timer(loop, &told.op, UINT64_MAX);
	ASSERT_EQ(0, loop_step(loop, 0, &self->err));
	loop_close(loop);
	EXPECT_EQ(2, told.calls);
	EXPECT_EQ(-ECANCELED, told.result);
	EXPECT_FALSE(op_busy(&told.op));
}

#define MANY 300

/* Far more than the queues hold: submitted on the way, completions kept by the kernel */
TEST_F(ring, many_at_once)
{
	static struct told told[MANY];
	uint64_t limit_ns = clock_now_ns() + (uint64_t)LIMIT_NS;
	int handled = 0;

	ASSERT_EQ(0, loop_step(self->loop, 0, &self->err));
	for (int i = 0; i < MANY; i++) {
		told[i] = told_new();
		if (i % 2)
			loop_poll(self->loop, &told[i].op, self->pair[0], POLLOUT);
		else
			loop_timer(self->loop, &told[i].op, 0);
	}
	while (handled < MANY && clock_now_ns() < limit_ns) {
		int n = loop_step(self->loop, LIMIT_NS, &self->err);

		ASSERT_LT(0, n);
		handled += n;
	}
	EXPECT_EQ(MANY, handled);
	for (int i = 0; i < MANY; i++) {
		EXPECT_EQ(i % 2 ? POLLOUT : 0, told[i].result);
		EXPECT_EQ(1, told[i].calls);
	}
}

/* Before the first step nothing can be submitted on the way: they are told, not lost */
TEST_F(ring, too_many_before_the_first_step)
{
	static struct told told[MANY];
	int refused = 0;

	for (int i = 0; i < MANY; i++) {
		told[i] = told_new();
		loop_timer(self->loop, &told[i].op, 0);
		loop_cancel(self->loop, &told[MANY - 1].op);
	}
	for (int i = 0; i < MANY; i++) {
		int result = finish(self->loop, &told[i]);

		EXPECT_EQ(1, told[i].calls);
		EXPECT_TRUE(result == 0 || result == -EBUSY);
		refused += result == -EBUSY;
		if (i < 8) {
			EXPECT_EQ(0, result);
		}
	}
	EXPECT_LT(0, refused);
	EXPECT_LT(refused, MANY);
}

/* Cancellations that find the submission queue full */
TEST_F(ring, many_cancelled_before_the_first_step)
{
	struct told told[12];

	for (int i = 0; i < 12; i++) {
		told[i] = told_new();
		loop_timer(self->loop, &told[i].op, UINT64_MAX);
	}
	for (int i = 0; i < 12; i++)
		loop_cancel(self->loop, &told[i].op);
	for (int i = 0; i < 12; i++) {
		EXPECT_EQ(-ECANCELED, finish(self->loop, &told[i]))
		{
			TH_LOG("timer %d", i);
		}
	}
}

TEST_HARNESS_MAIN
