/* SPDX-License-Identifier: MIT */
/*
 * wherry demo: processes of the example VMM, started, listened to, and ended.
 */
#include "cli/demo.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef WH_LIBEXEC
#define WH_LIBEXEC "/usr/local/libexec/wherry"
#endif

#define VMM_NAME "wherry-vmm"

uint64_t demo_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 * NS_PER_MS + (uint64_t)t.tv_nsec;
}

/* Beside this program in a build tree, else where it was installed. */
int demo_find_program(char *path, size_t room)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash &&
		    (size_t)snprintf(path, room, "%.*s/%s", (int)(slash - self), self, VMM_NAME) <
			    room &&
		    !access(path, X_OK))
			return 0;
	}
	if ((size_t)snprintf(path, room, "%s/%s", WH_LIBEXEC, VMM_NAME) < room &&
	    !access(path, X_OK))
		return 0;
	fprintf(stderr, "wherry demo: %s is neither beside this program nor in %s\n", VMM_NAME,
		WH_LIBEXEC);
	return -ENOENT;
}

/* In the child: it ends when we do, however that happens. */
static void child_run(const char *program, const char *const *args, pid_t parent, int in, int out)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	/* exec takes strings that it does not write */
	execv(program, (char *const *)(uintptr_t)args);
	fprintf(stderr, "wherry demo: %s: %s\n", program, strerror(errno));
	_exit(127);
}

/* Its input is ours to write, its output ours to read. */
int demo_child_start(struct demo_child *child, const char *program, const char *const *args)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };
	pid_t parent = getpid();

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || (child->pid = fork()) < 0) {
		perror("wherry demo: a process cannot be started");
		child->pid = 0;
	} else if (!child->pid) {
		child_run(program, args, parent, in[0], out[1]);
	}
	if (in[0] >= 0)
		close(in[0]);
	if (out[1] >= 0)
		close(out[1]);
	child->in = in[1];
	child->out = out[0];
	return child->pid ? 0 : -1;
}

void demo_child_reap(struct demo_child *child, int flags)
{
	if (child->pid > 0 && !child->reaped &&
	    waitpid(child->pid, &child->status, flags) == child->pid)
		child->reaped = true;
}

/* Whatever still runs is asked to end, and made to if it does not. */
void demo_children_end(struct demo_child *children, unsigned count)
{
	uint64_t until = demo_now_ns() + DEMO_END_GRACE_MS * NS_PER_MS;
	struct demo_child *child;

	for (child = children; child < children + count; child++) {
		demo_child_reap(child, WNOHANG);
		if (child->pid > 0 && !child->reaped)
			kill(child->pid, SIGTERM);
	}
	for (child = children; child < children + count; child++) {
		while (child->pid > 0 && !child->reaped && demo_now_ns() < until) {
			poll(NULL, 0, 5);
			demo_child_reap(child, WNOHANG);
		}
		if (child->pid > 0 && !child->reaped) {
			kill(child->pid, SIGKILL);
			demo_child_reap(child, 0);
		}
		if (child->in >= 0)
			close(child->in);
		if (child->out >= 0)
			close(child->out);
		json_object_put(child->latest);
		json_object_put(child->summary);
	}
}

void demo_child_read(struct demo_child *child,
		     void (*line)(void *arg, struct demo_child *child, const char *text), void *arg)
{
	ssize_t n =
		read(child->out, child->line + child->have, sizeof(child->line) - 1 - child->have);
	char *newline;

	if (n <= 0) {
		if (n < 0 && errno == EINTR)
			return;
		close(child->out);
		child->out = -1;
		demo_child_reap(child, 0);
		return;
	}
	child->have += (size_t)n;
	child->line[child->have] = '\0';
	while ((newline = strchr(child->line, '\n'))) {
		*newline = '\0';
		line(arg, child, child->line);
		child->have -= (size_t)(newline + 1 - child->line);
		memmove(child->line, newline + 1, child->have + 1);
	}
	if (child->have == sizeof(child->line) - 1)
		child->have = 0; /* no line of ours is so long */
}

int demo_signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); /* a reader that goes away must not leave children behind */
	return signalfd(-1, &set, SFD_CLOEXEC);
}
