/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernels that are older, or do not want to: what still works, and what is said.
 */
#include "ring/setup.h"
#include "selftests/ring/told.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "kselftest_harness.h"

/*
 * Stands in front of liburing's own: an older kernel is one that refuses flags, lacks
 * features or operations.
 */
static unsigned refused_flags;
static unsigned refused_features;
static int refused_opcode = -1;
static int refused_code;
static unsigned used_flags;

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
			       struct io_uring_params *params)
{
	int (*real)(unsigned entries, struct io_uring *ring, struct io_uring_params *params) =
		dlsym(RTLD_NEXT, "io_uring_queue_init_params");
	int ret;

	if (refused_code)
		return refused_code;
	if (params->flags & refused_flags)
		return -EINVAL;
	used_flags = params->flags;
	ret = real(entries, ring, params);
	params->features &= ~refused_features;
	return ret;
}

struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring)
{
	struct io_uring_probe *(*real)(struct io_uring * ring) =
		dlsym(RTLD_NEXT, "io_uring_get_probe_ring");
	struct io_uring_probe *probe = real(ring);

	if (probe && refused_opcode >= 0)
		probe->ops[refused_opcode].flags = 0;
	return probe;
}

/* A loop in whatever mode it got: waits, wakes, times, cancels, can be polled, closes */
static int try_loop(struct loop *loop)
{
	struct told timer = told_new();
	struct told recv = told_new();
	int pair[2];
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	loop_wake(loop);
	if (loop_step(loop, -1, NULL) != 0)
		return 1;
	loop_timer(loop, &timer.op, clock_now_ns() + NS_PER_MS);
	loop_recv(loop, &recv.op, pair[0], &byte, 1, 0);
	if (loop_step(loop, -1, NULL) != 1 || timer.result != 0)
		return 2;
	if (loop_step(loop, 0, NULL) != 0 || loop_step(loop, 1000, NULL) != 0)
		return 3;
	if (write(pair[1], "x", 1) != 1 || loop_step(loop, -1, NULL) != 1 || recv.result != 1)
		return 4;
	loop_recv(loop, &recv.op, pair[0], &byte, 1, 0);
	loop_cancel(loop, &recv.op);
	if (loop_step(loop, -1, NULL) != 1 || recv.result != -ECANCELED)
		return 5;
	if (loop_fd(loop) < 0)
		return 6;
	loop_recv(loop, &recv.op, pair[0], &byte, 1, 0);
	recv.result = UNTOLD;
	loop_step(loop, 0, NULL);
	loop_close(loop);
	close(pair[0]);
	close(pair[1]);
	return recv.result == -ECANCELED ? 0 : 7;
}

TEST(falls_back)
{
	/* what kernels from the newest to the oldest know */
	static const struct {
		unsigned refused;
		bool single_issuer;
		bool defer_taskrun;
	} kernels[] = {
		{ 0, true, true },
		{ IORING_SETUP_DEFER_TASKRUN, true, false },
		{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, false, false },
		{ ~IORING_SETUP_R_DISABLED, false, false },
	};

	for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
		struct wh_err err = { 0 };
		struct loop_caps caps;
		struct loop *loop;

		refused_flags = kernels[i].refused;
		ASSERT_EQ(0, loop_open(&loop, 4, &err))
		{
			TH_LOG("%s", err.text);
		}
		EXPECT_EQ(0, used_flags & refused_flags);
		EXPECT_NE(0, used_flags & IORING_SETUP_R_DISABLED);
		loop_get_caps(loop, &caps);
		EXPECT_EQ(kernels[i].single_issuer, caps.single_issuer);
		EXPECT_EQ(kernels[i].defer_taskrun, caps.defer_taskrun);
		EXPECT_EQ(0, try_loop(loop));
	}
}

TEST(no_mode_at_all)
{
	struct wh_err err = { 0 };
	struct loop *loop;

	refused_flags = ~0u;
	EXPECT_EQ(-EINVAL, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "Linux 5.13"))
	{
		TH_LOG("%s", err.text);
	}
	refused_flags = 0;
	refused_features = IORING_FEAT_EXT_ARG;
	EXPECT_EQ(-EOPNOTSUPP, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "Linux 5.13"))
	{
		TH_LOG("%s", err.text);
	}
	EXPECT_EQ(NULL, loop);
}

TEST(missing_operation_is_named)
{
	struct wh_err err = { 0 };
	struct loop *loop;

	refused_opcode = IORING_OP_CONNECT;
	EXPECT_EQ(-EOPNOTSUPP, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "IORING_OP_CONNECT"))
	{
		TH_LOG("%s", err.text);
	}
	refused_opcode = IORING_OP_ASYNC_CANCEL;
	EXPECT_EQ(-EOPNOTSUPP, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "IORING_OP_ASYNC_CANCEL"))
	{
		TH_LOG("%s", err.text);
	}
}

TEST(no_memory)
{
	const struct rlimit limit = { .rlim_cur = 65536, .rlim_max = 65536 };
	struct wh_err err = { 0 };
	struct loop *loop;

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	refused_code = -ENOMEM;
	EXPECT_EQ(-ENOMEM, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "RLIMIT_MEMLOCK is 64 KiB"))
	{
		TH_LOG("%s", err.text);
	}
}

/* From here on this process' io_uring_setup() fails with @code. */
static int forbid(int code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return -errno;
	return 0;
}

TEST(seccomp_forbids)
{
	struct wh_err err = { 0 };
	struct loop *loop;

	ASSERT_EQ(0, forbid(EPERM));
	EXPECT_EQ(-EPERM, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "seccomp"))
	{
		TH_LOG("%s", err.text);
	}
	EXPECT_NE(NULL, strstr(err.text, "kernel.io_uring_disabled"))
	{
		TH_LOG("%s", err.text);
	}
}

TEST(no_io_uring)
{
	struct wh_err err = { 0 };
	struct loop *loop;

	ASSERT_EQ(0, forbid(ENOSYS));
	EXPECT_EQ(-ENOSYS, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "CONFIG_IO_URING"))
	{
		TH_LOG("%s", err.text);
	}
}

/* The machine's own setting is not touched: another file lies over it, here only. */
static int pretend_disabled(void)
{
	char name[] = "/tmp/wherry-setup-XXXXXX";
	int fd = mkstemp(name);

	if (fd < 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(name, "/proc/sys/kernel/io_uring_disabled", NULL, MS_BIND, NULL) < 0)
		return -errno;
	unlink(name);
	return fd;
}

TEST(sysctl_forbids)
{
	struct wh_err err = { 0 };
	struct loop *loop;
	int fd;

	if (geteuid() != 0)
		SKIP(return, "needs root: a mount namespace to pretend in");
	if (access("/proc/sys/kernel/io_uring_disabled", F_OK) < 0)
		SKIP(return, "this kernel has no kernel.io_uring_disabled (Linux 6.6)");
	fd = pretend_disabled();
	ASSERT_LE(0, fd);
	refused_code = -EPERM;
	ASSERT_EQ(2, pwrite(fd, "2\n", 2, 0));
	EXPECT_EQ(-EPERM, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "kernel.io_uring_disabled is 2"))
	{
		TH_LOG("%s", err.text);
	}
	EXPECT_NE(NULL, strstr(err.text, "sysctl kernel.io_uring_disabled=0"));
	ASSERT_EQ(2, pwrite(fd, "1\n", 2, 0));
	EXPECT_EQ(-EPERM, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "kernel.io_uring_group"))
	{
		TH_LOG("%s", err.text);
	}
}

TEST(no_descriptor)
{
	const struct rlimit limit = { .rlim_cur = 3, .rlim_max = 3 };
	struct wh_err err = { 0 };
	struct loop *loop;

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_EQ(-EMFILE, loop_open(&loop, 4, &err));
	EXPECT_NE(NULL, strstr(err.text, "Too many open files"))
	{
		TH_LOG("%s", err.text);
	}
}

TEST_HARNESS_MAIN
