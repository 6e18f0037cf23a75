/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loop_wake() from threads and signal handlers.
 */
#include "selftests/ring/told.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "kselftest_harness.h"

FIXTURE(ring)
{
	struct loop *loop;
	struct wh_err err;
};

FIXTURE_SETUP(ring)
{
	self->err = (struct wh_err){ 0 };
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

FIXTURE_TEARDOWN(ring)
{
	loop_close(self->loop);
}

static void *wake_main(void *arg)
{
	loop_wake(arg);
	return NULL;
}

TEST_F(ring, wake_from_another_thread)
{
	pthread_t thread;

	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(0, pthread_create(&thread, NULL, wake_main, self->loop));
		EXPECT_EQ(0, loop_step(self->loop, -1, &self->err));
		ASSERT_EQ(0, pthread_join(thread, NULL));
	}
	/* each was told once: now there is none left */
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	uint64_t begin_ns = clock_now_ns();
	EXPECT_EQ(0, loop_step(self->loop, 10 * (int64_t)NS_PER_MS, &self->err));
	EXPECT_GE(clock_now_ns() - begin_ns, 10 * NS_PER_MS);
}

TEST_F(ring, wake_before_the_first_step)
{
	loop_wake(self->loop);
	loop_wake(self->loop);
	EXPECT_EQ(0, loop_step(self->loop, -1, &self->err));
}

/* Nothing is lost: every message is seen though many wakes become one. */
#define MESSAGES 20000

struct talk {
	struct loop *loop;
	int sent; /* atomic */
};

static void *talk_main(void *arg)
{
	struct talk *talk = arg;

	for (int i = 0; i < MESSAGES; i++) {
		__atomic_fetch_add(&talk->sent, 1, __ATOMIC_RELAXED);
		loop_wake(talk->loop);
	}
	return NULL;
}

TEST_F(ring, no_wake_is_lost)
{
	struct talk talk = { .loop = self->loop };
	pthread_t thread[2];
	int seen = 0;

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, talk_main, &talk));
	}
	/* for ever: a lost wake runs into the harness' time-out */
	while (seen < 2 * MESSAGES) {
		ASSERT_EQ(0, loop_step(self->loop, -1, &self->err));
		seen = __atomic_load_n(&talk.sent, __ATOMIC_RELAXED);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(thread[i], NULL);
	}
}

static struct loop *signal_loop;

static void on_signal(int number)
{
	(void)number;
	loop_wake(signal_loop);
}

/* The signal interrupts the wait, which goes on, and ends by the wake */
TEST_F(ring, wake_from_a_signal_handler)
{
	struct sigaction action = { .sa_handler = on_signal };
	const struct itimerspec after = { .it_value.tv_nsec = 5 * 1000 * 1000 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;

	signal_loop = self->loop;
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &event, &timer));
	ASSERT_EQ(0, timer_settime(timer, 0, &after, NULL));
	EXPECT_EQ(0, loop_step(self->loop, -1, &self->err));
	timer_delete(timer);
}

static void on_nothing(int number)
{
	(void)number;
}

/* A signal neither ends a step early nor has it begin anew */
TEST_F(ring, signals_do_not_change_a_step)
{
	struct sigaction action = { .sa_handler = on_nothing };
	const struct itimerspec once = { .it_value.tv_nsec = 500 * 1000 * 1000 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	uint64_t begin_ns = clock_now_ns();
	timer_t timer;

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &event, &timer));
	ASSERT_EQ(0, timer_settime(timer, 0, &once, NULL));
	EXPECT_EQ(0, loop_step(self->loop, 600 * (int64_t)NS_PER_MS, &self->err));
	EXPECT_GE(clock_now_ns() - begin_ns, 600 * NS_PER_MS);
	EXPECT_LT(clock_now_ns() - begin_ns, 1000 * NS_PER_MS);
	timer_delete(timer);
}

/* Two in one process, each with its thread, that wake each other in turn */
struct player {
	struct loop *own;
	struct loop *peer;
	int *turn; /* atomic: whose it is */
	int me;
};

#define ROUNDS 2000

static void *play(void *arg)
{
	struct player *player = arg;

	for (int i = 0; i < ROUNDS; i++) {
		while (__atomic_load_n(player->turn, __ATOMIC_ACQUIRE) != player->me)
			if (loop_step(player->own, -1, NULL) < 0)
				return (void *)1;
		__atomic_store_n(player->turn, !player->me, __ATOMIC_RELEASE);
		loop_wake(player->peer);
	}
	return NULL;
}

TEST_F(ring, two_loops)
{
	struct player player[2];
	pthread_t thread[2];
	struct loop *other;
	int turn = 0;

	ASSERT_EQ(0, loop_open(&other, 8, &self->err));
	player[0] = (struct player){ self->loop, other, &turn, 0 };
	player[1] = (struct player){ other, self->loop, &turn, 1 };
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, play, &player[i]));
	}
	for (int i = 0; i < 2; i++) {
		void *result = (void *)2;

		pthread_join(thread[i], &result);
		EXPECT_EQ(NULL, result);
	}
	loop_close(other);
}

TEST_HARNESS_MAIN
