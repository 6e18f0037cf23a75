/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a step costs: system calls and memory.
 */
#include "selftests/ring/told.h"

#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "kselftest_harness.h"

FIXTURE(ring)
{
	struct loop *loop;
	struct wh_err err;
	struct told told;
	int pair[2];
	char buf[16];
};

FIXTURE_SETUP(ring)
{
	self->err = (struct wh_err){ 0 };
	self->told = told_new();
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

/*
 * Counts this thread's io_uring_enter(): a seccomp filter hands each to another
 * thread, which counts it and lets it go on.
 */
struct meter {
	pthread_t thread;
	int fd;
	int enters; /* atomic */
};

static void *meter_main(void *arg)
{
	struct meter *meter = arg;
	struct seccomp_notif_resp answer;
	struct seccomp_notif notice;

	for (;;) {
		memset(&notice, 0, sizeof(notice));
		if (ioctl(meter->fd, SECCOMP_IOCTL_NOTIF_RECV, &notice) < 0) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			return NULL;
		}
		__atomic_fetch_add(&meter->enters, 1, __ATOMIC_RELAXED);
		answer = (struct seccomp_notif_resp){
			.id = notice.id,
			.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE,
		};
		ioctl(meter->fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

static int meter_start(struct meter *meter)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	meter->enters = 0;
	meter->fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				 SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (meter->fd < 0)
		return -errno;
	return -pthread_create(&meter->thread, NULL, meter_main, meter);
}

static int metered(struct meter *meter)
{
	return __atomic_exchange_n(&meter->enters, 0, __ATOMIC_RELAXED);
}

TEST_F(ring, system_calls_of_a_step)
{
	struct told other = told_new();
	static struct meter meter; /* its thread outlives the test */

	ASSERT_EQ(0, meter_start(&meter));

	/* the first one submits the eventfd's poll */
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	EXPECT_EQ(1, metered(&meter));
	for (int i = 0; i < 100; i++) {
		EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	}
	EXPECT_EQ(0, metered(&meter));

	/* submits two, and waits for the one that comes: one call */
	loop_recv(self->loop, &self->told.op, self->pair[0], self->buf, sizeof(self->buf), 0);
	loop_timer(self->loop, &other.op, clock_now_ns() + NS_PER_MS);
	EXPECT_EQ(1, loop_step(self->loop, -1, &self->err));
	EXPECT_EQ(1, metered(&meter));
	loop_timer(self->loop, &other.op, clock_now_ns() + NS_PER_MS);
	EXPECT_EQ(1, loop_step(self->loop, (int64_t)LIMIT_NS, &self->err));
	EXPECT_EQ(1, metered(&meter));

	/* fetching what came meanwhile: one call */
	ASSERT_EQ(2, write(self->pair[1], "hi", 2));
	EXPECT_EQ(1, loop_step(self->loop, 0, &self->err));
	EXPECT_EQ(1, metered(&meter));

	/* a wake is fetched with one, and arms itself again */
	loop_wake(self->loop);
	EXPECT_EQ(0, loop_step(self->loop, -1, &self->err));
	EXPECT_EQ(1, metered(&meter));
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	EXPECT_EQ(0, metered(&meter));
}

TEST_F(ring, nothing_is_allocated_for_an_operation)
{
	struct told told = told_new();
	size_t before;

	loop_timer(self->loop, &told.op, 0);
	EXPECT_EQ(0, finish(self->loop, &told));
	before = mallinfo2().uordblks;
	for (int i = 0; i < 100; i++) {
		loop_timer(self->loop, &told.op, 0);
		EXPECT_EQ(0, finish(self->loop, &told));
	}
	EXPECT_EQ(before, mallinfo2().uordblks);
}

TEST_HARNESS_MAIN
