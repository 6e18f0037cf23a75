/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: memory that is not to be had. The calls by which a page is placed are real, and
 * so is who makes them; a filter of the process's own (seccomp) has them asked for, and a thread
 * that is not filtered lets them pass or answers as the kernel does without memory. Nothing in
 * the library knows.
 */
#include "cli/drill_memory.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFDIO_MOVE /* Linux 6.8 */
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

#define NR offsetof(struct seccomp_data, nr)
#define COMMAND (offsetof(struct seccomp_data, args) + sizeof(__u64)) /* its lower half */

struct guard {
	const uint32_t *error;
	uint32_t *refused;
	int listener[2]; /* a pipe: the descriptor comes when the filter is there */
};

static void *guard_main(void *arg)
{
	struct guard *guard = arg;
	int fd;

	if (read(guard->listener[0], &fd, sizeof(fd)) != sizeof(fd))
		return NULL;
	for (;;) {
		struct seccomp_notif asked;
		struct seccomp_notif_resp answer = { 0 };
		uint32_t error;

		memset(&asked, 0, sizeof(asked));
		if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			return NULL;
		}
		error = __atomic_load_n(guard->error, __ATOMIC_SEQ_CST);
		answer.id = asked.id;
		if (error) {
			answer.error = -(int)error;
			__atomic_fetch_add(guard->refused, 1, __ATOMIC_RELAXED);
		} else {
			answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		}
		(void)ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answer); /* it may be gone */
	}
}

int drill_memory_guard(const uint32_t *error, uint32_t *refused)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NR),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, COMMAND),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)UFFDIO_COPY, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)UFFDIO_ZEROPAGE, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)UFFDIO_CONTINUE, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (__u32)UFFDIO_MOVE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	static const struct sock_fprog program = {
		.len = sizeof(code) / sizeof(code[0]),
		.filter = code,
	};
	static struct guard guard;
	pthread_t thread;
	int fd, ret;

	guard = (struct guard){ .error = error, .refused = refused };
	if (pipe(guard.listener) < 0)
		return -errno;
	/* before the filter, which is for this thread and for those that it makes */
	ret = pthread_create(&thread, NULL, guard_main, &guard);
	if (ret)
		return -ret;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	fd = (int)syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			  &program);
	if (fd < 0)
		return -errno;
	return write(guard.listener[1], &fd, sizeof(fd)) == sizeof(fd) ? 0 : -EPIPE;
}
