/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loop_fd() in somebody else's poll().
 */
#include "selftests/ring/told.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "kselftest_harness.h"

#define LIMIT_MS 10000

static bool is_readable(int fd, int wait_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, wait_ms) == 1 && (poll_fd.revents & POLLIN);
}

/*
 * Asked for before the first step, when the ring can still be changed, or later
 */
FIXTURE(fd)
{
	struct loop *loop;
	struct wh_err err;
	struct told told;
	int pair[2];
	int fd;
	char buf[16];
};

FIXTURE_VARIANT(fd)
{
	bool late;
};

FIXTURE_VARIANT_ADD(fd, early){};
FIXTURE_VARIANT_ADD(fd, late){ .late = true };

FIXTURE_SETUP(fd)
{
	struct loop_caps caps;

	self->err = (struct wh_err){ 0 };
	self->told = told_new();
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, self->pair));
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err));
	if (variant->late) {
		ASSERT_EQ(0, loop_step(self->loop, 0, &self->err));
	}
	self->fd = loop_fd(self->loop);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(self->fd, loop_fd(self->loop));
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->fd, F_GETFD));
	loop_get_caps(self->loop, &caps);
	EXPECT_EQ(variant->late, caps.defer_taskrun);
}

FIXTURE_TEARDOWN(fd)
{
	loop_close(self->loop);
	EXPECT_EQ(-1, fcntl(self->fd, F_GETFD));
	close(self->pair[0]);
	close(self->pair[1]);
}

/* As its contract says: step until there is nothing. Returns completions, or an error */
static int drain(struct loop *loop)
{
	int handled = 0;

	for (;;) {
		int n = loop_step(loop, 0, NULL);

		if (n <= 0)
			return n < 0 ? n : handled;
		handled += n;
	}
}

/* Readable for nothing, it is that once: then it is quiet. */
static bool goes_quiet(struct loop *loop, int fd)
{
	for (int i = 0; i < 5; i++) {
		if (!is_readable(fd, 20))
			return true;
		drain(loop);
	}
	return false;
}

/* What another thread does as soon as the main one sleeps */
struct later {
	pthread_t thread;
	pid_t sleeper;
	struct loop *wake; /* or NULL */
	int write_fd;
};

static bool is_asleep(pid_t tid)
{
	char path[64], text[512] = "";
	const char *state;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	file = fopen(path, "re");
	if (!file)
		return false;
	state = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
	fclose(file);
	return state && state[1] == ' ' && state[2] == 'S';
}

static void *later_main(void *arg)
{
	struct later *later = arg;

	while (!is_asleep(later->sleeper))
		sched_yield();
	if (later->wake)
		loop_wake(later->wake);
	else if (write(later->write_fd, "hi", 2) != 2)
		return (void *)1;
	return NULL;
}

static int later_start(struct later *later, struct loop *wake, int write_fd)
{
	*later = (struct later){ .sleeper = gettid(), .wake = wake, .write_fd = write_fd };
	return pthread_create(&later->thread, NULL, later_main, later);
}

/*
 * Everything that is to make it readable happens while the thread sleeps in poll():
 * DEFER_TASKRUN leaves the ring's own descriptor silent then.
 */
TEST_F(fd, wakes_a_sleeper)
{
	int fd = self->fd;
	struct later later;
	uint64_t begin_ns;

	for (int i = 0; i < 3; i++) {
		loop_recv(self->loop, &self->told.op, self->pair[0], self->buf, sizeof(self->buf),
			  0);
		ASSERT_EQ(0, drain(self->loop));
		EXPECT_TRUE(goes_quiet(self->loop, fd));
		ASSERT_EQ(0, later_start(&later, NULL, self->pair[1]));
		begin_ns = clock_now_ns();
		EXPECT_TRUE(is_readable(fd, LIMIT_MS));
		EXPECT_LT(clock_now_ns() - begin_ns, NS_PER_S);
		pthread_join(later.thread, NULL);
		EXPECT_EQ(1, drain(self->loop));
		EXPECT_EQ(2, self->told.result);
	}
	for (int i = 0; i < 3; i++) {
		loop_timer(self->loop, &self->told.op, clock_now_ns() + 200 * NS_PER_MS);
		ASSERT_EQ(0, drain(self->loop));
		EXPECT_TRUE(goes_quiet(self->loop, fd));
		EXPECT_TRUE(op_busy(&self->told.op));
		begin_ns = clock_now_ns();
		EXPECT_TRUE(is_readable(fd, LIMIT_MS));
		EXPECT_LT(clock_now_ns() - begin_ns, NS_PER_S);
		EXPECT_EQ(1, drain(self->loop));
	}
	for (int i = 0; i < 3; i++) {
		EXPECT_TRUE(goes_quiet(self->loop, fd));
		ASSERT_EQ(0, later_start(&later, self->loop, -1));
		begin_ns = clock_now_ns();
		EXPECT_TRUE(is_readable(fd, LIMIT_MS));
		EXPECT_LT(clock_now_ns() - begin_ns, NS_PER_S);
		pthread_join(later.thread, NULL);
		EXPECT_EQ(0, drain(self->loop));
	}
}

/* Work that comes about interrupts the call, which then finds it */
static int epoll_readable(int epoll, int wait_ms)
{
	struct epoll_event event;
	int n;

	do {
		n = epoll_wait(epoll, &event, 1, wait_ms);
	} while (n < 0 && errno == EINTR);
	return n;
}

/* Watched by epoll, from the beginning */
TEST_F(fd, in_epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct later later;

	ASSERT_LE(0, epoll);
	ASSERT_EQ(0, epoll_ctl(epoll, EPOLL_CTL_ADD, self->fd, &event));
	EXPECT_EQ(1, epoll_readable(epoll, LIMIT_MS)); /* for the first step */
	loop_recv(self->loop, &self->told.op, self->pair[0], self->buf, sizeof(self->buf), 0);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, drain(self->loop));
		EXPECT_TRUE(goes_quiet(self->loop, self->fd));
		EXPECT_EQ(0, epoll_readable(epoll, 0));
		ASSERT_EQ(0, later_start(&later, i % 2 ? self->loop : NULL, self->pair[1]));
		EXPECT_EQ(1, epoll_readable(epoll, LIMIT_MS));
		pthread_join(later.thread, NULL);
		EXPECT_EQ(i % 2 ? 0 : 1, drain(self->loop));
		if (!op_busy(&self->told.op)) {
			loop_recv(self->loop, &self->told.op, self->pair[0], self->buf,
				  sizeof(self->buf), 0);
		}
	}
	close(epoll);
}

/*
 * Stands in front of libc's: what happens on the way to sleep, between the last look at
 * the ring and the taking back of the descriptor, happens just before this read.
 */
static int late_fd = -1;

ssize_t read(int fd, void *buf, size_t length)
{
	if (length == sizeof(uint64_t) && late_fd >= 0) { /* as of an eventfd */
		if (write(late_fd, "x", 1) != 1)
			abort();
		late_fd = -1;
	}
	return syscall(SYS_read, fd, buf, length);
}

TEST_F(fd, tells_what_comes_on_the_way_to_sleep)
{
	for (int i = 0; i < 3; i++) {
		loop_recv(self->loop, &self->told.op, self->pair[0], self->buf, 1, 0);
		late_fd = self->pair[1];
		EXPECT_LE(0, drain(self->loop));
		EXPECT_EQ(-1, late_fd);
		if (self->told.calls == i) { /* not taken: then it must be told */
			EXPECT_TRUE(is_readable(self->fd, 0));
			EXPECT_EQ(1, drain(self->loop));
		}
		EXPECT_EQ(i + 1, self->told.calls);
	}
}

/* Whoever stops stepping while there is work is called again. */
TEST_F(fd, stays_readable_while_there_is_work)
{
	struct told told[3];
	int fd = self->fd;

	for (int i = 0; i < 3; i++) {
		told[i] = told_new();
		loop_poll(self->loop, &told[i].op, self->pair[0], POLLOUT);
	}
	EXPECT_LT(0, loop_step(self->loop, 0, &self->err));
	loop_poll(self->loop, &told[0].op, self->pair[0], POLLOUT); /* not submitted */
	EXPECT_TRUE(is_readable(fd, 0));
	EXPECT_LT(0, drain(self->loop));
	EXPECT_EQ(2, told[0].calls);
	EXPECT_TRUE(goes_quiet(self->loop, fd));
}

/* What is queued when the caller was told that it may sleep is not forgotten */
TEST_F(fd, tells_of_what_was_queued_late)
{
	ASSERT_EQ(0, drain(self->loop));
	EXPECT_TRUE(goes_quiet(self->loop, self->fd));
	loop_poll(self->loop, &self->told.op, self->pair[0], POLLOUT);
	EXPECT_TRUE(is_readable(self->fd, 0));
	EXPECT_EQ(1, drain(self->loop));

	loop_timer(self->loop, &self->told.op, UINT64_MAX);
	ASSERT_EQ(0, drain(self->loop));
	EXPECT_TRUE(goes_quiet(self->loop, self->fd));
	loop_cancel(self->loop, &self->told.op);
	EXPECT_TRUE(is_readable(self->fd, 0));
	EXPECT_EQ(1, drain(self->loop));
	EXPECT_EQ(-ECANCELED, self->told.result);
}

/* What was queued before the ring was changed is taken along, and can be cancelled */
TEST(asked_for_with_operations_queued)
{
	struct wh_err err = { 0 };
	struct told told[10];
	struct loop *loop;

	ASSERT_EQ(0, loop_open(&loop, 8, &err));
	for (int i = 0; i < 10; i++) {
		told[i] = told_new();
		loop_timer(loop, &told[i].op, i % 2 ? UINT64_MAX : 0);
	}
	ASSERT_LE(0, loop_fd(loop));
	for (int i = 0; i < 10; i += 2) {
		EXPECT_EQ(0, finish(loop, &told[i]));
	}
	for (int i = 1; i < 10; i += 2) {
		EXPECT_TRUE(op_busy(&told[i].op));
		loop_cancel(loop, &told[i].op);
		EXPECT_EQ(-ECANCELED, finish(loop, &told[i]));
	}
	loop_wake(loop);
	EXPECT_EQ(0, loop_step(loop, -1, &err));
	loop_close(loop);
}

TEST_HARNESS_MAIN
