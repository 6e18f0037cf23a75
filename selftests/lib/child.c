/* SPDX-License-Identifier: MIT */
#include "selftests/lib/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

/* In the child; only what may be called after fork() */
static void __attribute__((noreturn))
child_run(const char *const argv[], int out, int said, int keep, pid_t parent)
{
	int null = open("/dev/null", O_RDWR);

	/* Its own group would outlive the group that the harness kills on a time-out */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	if (dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(said, STDERR_FILENO) < 0)
		_exit(126);
	if (keep >= 0)
		fcntl(keep, F_SETFD, 0);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerrorname_np(errno));
	_exit(127);
}

int child_start(struct child *child, const char *const argv[], int keep, struct wh_err *err)
{
	pid_t parent = getpid();
	int pipe_fd[2];
	int ret;

	memset(child, 0, sizeof(*child));
	child->said = memfd_create("said", MFD_CLOEXEC);
	if (child->said < 0)
		return err_sys(err, errno, "memfd_create");
	fcntl(child->said, F_SETFL, O_APPEND);
	if (pipe2(pipe_fd, O_CLOEXEC) < 0) {
		ret = err_sys(err, errno, "pipe2");
		goto out_said;
	}
	child->pid = fork();
	if (child->pid == 0)
		child_run(argv, pipe_fd[1], child->said, keep, parent);
	ret = errno;
	close(pipe_fd[1]);
	if (child->pid < 0) {
		ret = err_sys(err, ret, "fork");
		goto out_pipe;
	}
	child->out = pipe_fd[0];
	child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	if (child->pidfd < 0) {
		ret = err_sys(err, errno, "pidfd_open");
		kill(child->pid, SIGKILL);
		waitpid(child->pid, NULL, 0);
		goto out_pipe;
	}
	return 0;

out_pipe:
	close(pipe_fd[0]);
out_said:
	close(child->said);
	child->pid = 0;
	return ret;
}

static int left_ms(uint64_t end_ns)
{
	uint64_t now = clock_now_ns();

	return now < end_ns ? (int)((end_ns - now) / NS_PER_MS) + 1 : 0;
}

static uint64_t end_ns(int timeout_ms)
{
	return clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
}

int child_line(struct child *child, const char **line, int timeout_ms, struct wh_err *err)
{
	uint64_t end = end_ns(timeout_ms);

	/* The line of the call before is still there, its end marked by a zero */
	if (child->have && memchr(child->line, '\0', child->have)) {
		size_t used = strlen(child->line) + 1;

		child->have -= used;
		memmove(child->line, child->line + used, child->have);
	}
	for (;;) {
		struct pollfd ready = { .fd = child->out, .events = POLLIN };
		char *newline = memchr(child->line, '\n', child->have);
		ssize_t n;

		if (newline) {
			*newline = '\0';
			*line = child->line;
			return 1;
		}
		if (child->have == sizeof(child->line))
			return err_set(err, -EMSGSIZE, "a line of more than %zu bytes",
				       child->have);
		if (!left_ms(end) || poll(&ready, 1, left_ms(end)) == 0)
			return err_set(err, -ETIMEDOUT, "no line of output within %d ms",
				       timeout_ms);
		n = read(child->out, child->line + child->have, sizeof(child->line) - child->have);
		if (n == 0)
			return 0;
		if (n > 0)
			child->have += (size_t)n;
		else if (errno != EINTR)
			return err_sys(err, errno, "reading its output");
	}
}

int child_wait(struct child *child, int timeout_ms, struct wh_err *err)
{
	uint64_t end = end_ns(timeout_ms);
	bool open = true;
	char text[512];

	for (;;) {
		struct pollfd ready[2] = {
			{ .fd = child->pidfd, .events = POLLIN },
			{ .fd = open ? child->out : -1, .events = POLLIN },
		};
		char waste[4096];

		if (!left_ms(end) || poll(ready, 2, left_ms(end)) == 0)
			return err_set(err, -ETIMEDOUT, "still there after %d ms; it said: %s",
				       timeout_ms, child_said(child, text, sizeof(text)));
		if (ready[1].revents && read(child->out, waste, sizeof(waste)) <= 0)
			open = false;
		if (ready[0].revents)
			break;
	}
	if (waitpid(child->pid, &child->status, 0) < 0)
		return err_sys(err, errno, "waitpid");
	child->pid = 0;
	if (WIFEXITED(child->status))
		return WEXITSTATUS(child->status);
	return err_set(err, -EINTR, "signal %d ended it; it said: %s", WTERMSIG(child->status),
		       child_said(child, text, sizeof(text)));
}

const char *child_said(const struct child *child, char *text, size_t size)
{
	struct stat st;
	ssize_t n = 0;

	if (fstat(child->said, &st) == 0) {
		off_t room = (off_t)size - 1;

		n = pread(child->said, text, size - 1, st.st_size > room ? st.st_size - room : 0);
	}
	if (n < 0)
		n = 0;
	while (n && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	return text;
}

void child_end(struct child *child)
{
	if (child->pid > 0) {
		kill(child->pid, SIGKILL);
		waitpid(child->pid, &child->status, 0);
	}
	if (child->pidfd > 0) {
		close(child->pidfd);
		close(child->out);
		close(child->said);
	}
	memset(child, 0, sizeof(*child));
}
