/* SPDX-License-Identifier: MIT */
/*
 * Edge: getting an io_uring, and saying why there is none.
 */
#include "ring/setup.h"

#include "base/err.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

/* The user headers of older distributions lack the newer ones. They are ABI. */
#ifndef IORING_SETUP_R_DISABLED
#define IORING_SETUP_R_DISABLED (1U << 6)
#endif
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_FEAT_EXT_ARG
#define IORING_FEAT_EXT_ARG (1U << 8)
#endif
#ifndef IORING_FEAT_RSRC_TAGS
#define IORING_FEAT_RSRC_TAGS (1U << 10)
#endif

/*
 * From the best to what every supported kernel has. TASKRUN_FLAG makes pending
 * work visible in shared memory, so that an idle loop_step() needs no system call.
 * SUBMIT_ALL keeps one refused operation from holding up those behind it.
 */
static const unsigned setup_flags[] = {
	/* 6.1 */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	/* 6.0 */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
	/* 5.19 */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_COOP_TASKRUN,
	/* 5.10 */
	IORING_SETUP_R_DISABLED,
};

/*
 * EXT_ARG (5.11): waiting with a time-out is one call. RSRC_TAGS came with 5.13,
 * and so did the multishot poll that loop_wake() stands on.
 */
#define SETUP_FEATURES (IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS)

static const struct {
	int opcode;
	const char *name;
} setup_opcodes[] = {
	/* clang-format off */
	{ IORING_OP_RECV, "RECV" },
	{ IORING_OP_SENDMSG, "SENDMSG" },
	{ IORING_OP_RECVMSG, "RECVMSG" },
	{ IORING_OP_ACCEPT, "ACCEPT" },
	{ IORING_OP_CONNECT, "CONNECT" },
	{ IORING_OP_POLL_ADD, "POLL_ADD" },
	{ IORING_OP_TIMEOUT, "TIMEOUT" },
	{ IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL" },
	/* clang-format on */
};

/* The number in a file of /proc/sys, or -1 where there is none (older kernels). */
static int setup_sysctl(const char *path)
{
	char text[16] = "";
	int value = -1;
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n > 0 && text[0] >= '0' && text[0] <= '9')
		value = text[0] - '0';
	return value;
}

static const char disabled_path[] = "/proc/sys/kernel/io_uring_disabled";

bool setup_disabled(void)
{
	return setup_sysctl(disabled_path) > 0;
}

static int setup_refused(struct wh_err *err)
{
	int disabled = setup_sysctl(disabled_path);

	if (disabled == 1)
		return err_set(err, -EPERM,
			       "io_uring: kernel.io_uring_disabled is 1 and this process is not in "
			       "kernel.io_uring_group; sysctl kernel.io_uring_disabled=0 allows it");
	if (disabled > 1)
		return err_set(err, -EPERM,
			       "io_uring: kernel.io_uring_disabled is %d; "
			       "sysctl kernel.io_uring_disabled=0 allows it",
			       disabled);
	return err_set(err, -EPERM,
		       "io_uring: io_uring_setup() is not permitted, and it is not "
		       "kernel.io_uring_disabled: a seccomp filter, as container runtimes set it, "
		       "or a security module");
}

static int setup_explain(int code, unsigned entries, struct wh_err *err)
{
	struct rlimit limit = { 0 };

	switch (-code) {
	case EPERM:
	case EACCES:
		return setup_refused(err);
	case ENOSYS:
		return err_set(err, -ENOSYS,
			       "io_uring: this kernel has none (CONFIG_IO_URING), or a seccomp "
			       "filter hides it");
	case ENOMEM:
		/* cannot fail: the resource exists and the pointer is good */
		getrlimit(RLIMIT_MEMLOCK, &limit);
		return err_set(err, -ENOMEM,
			       "io_uring: no memory for a ring of %u entries; RLIMIT_MEMLOCK is "
			       "%llu KiB, and kernels before 5.12 and from 6.14 on count rings "
			       "against it (ulimit -l)",
			       entries, (unsigned long long)limit.rlim_cur >> 10);
	case EINVAL:
		return err_set(err, -EINVAL,
			       "io_uring: the kernel refuses a ring of %u entries in every mode; "
			       "Linux 5.13 is needed",
			       entries);
	default:
		return err_sys(err, code, "io_uring: ring of %u entries", entries);
	}
}

static int setup_probe(struct io_uring *ring, struct wh_err *err)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	const char *missing = NULL;

	if (!probe)
		return err_set(err, -EOPNOTSUPP,
			       "io_uring: the kernel does not say which operations it has (Linux 5.6)");
	for (size_t i = 0; i < sizeof(setup_opcodes) / sizeof(setup_opcodes[0]); i++)
		if (!missing && !io_uring_opcode_supported(probe, setup_opcodes[i].opcode))
			missing = setup_opcodes[i].name;
	io_uring_free_probe(probe);
	if (missing)
		return err_set(err, -EOPNOTSUPP, "io_uring: the kernel has no IORING_OP_%s",
			       missing);
	return 0;
}

int setup_ring(struct io_uring *ring, unsigned entries, bool defer, struct loop_caps *caps,
	       struct wh_err *err)
{
	struct io_uring_params params;
	int ret = -EINVAL;

	/* -EINVAL is how a kernel says that it does not know a flag. */
	for (size_t i = 0; i < sizeof(setup_flags) / sizeof(setup_flags[0]) && ret == -EINVAL;
	     i++) {
		if (setup_flags[i] & IORING_SETUP_DEFER_TASKRUN && !defer)
			continue;
		params = (struct io_uring_params){ .flags = setup_flags[i] };
		ret = io_uring_queue_init_params(entries, ring, &params);
	}
	if (ret < 0)
		return setup_explain(ret, entries, err);
	if ((params.features & SETUP_FEATURES) != SETUP_FEATURES)
		ret = err_set(err, -EOPNOTSUPP,
			      "io_uring: the kernel's features are 0x%x, and 0x%x is needed "
			      "(Linux 5.13)",
			      params.features, SETUP_FEATURES);
	else
		ret = setup_probe(ring, err);
	if (ret < 0) {
		io_uring_queue_exit(ring);
		return ret;
	}
	caps->single_issuer = params.flags & IORING_SETUP_SINGLE_ISSUER;
	caps->defer_taskrun = params.flags & IORING_SETUP_DEFER_TASKRUN;
	return 0;
}
