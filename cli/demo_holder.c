/* SPDX-License-Identifier: MIT */
/*
 * wherry demo --protect --kill agent: a process of its own holds what the guest sends, and it is
 * that one that dies, or is silent.
 */
#include "cli/demo_protect.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The only line that it says is that it is there */
static void line(void *arg, struct demo_child *child, const char *text)
{
	struct demo_protect *p = arg;

	demo_say(&p->demo, "%s", text);
	child->guest_ns = demo_now_ns();
}

void demo_holder_read(struct demo_protect *p)
{
	demo_child_read(&p->holder, line, p);
}

static bool is_there(const struct demo_protect *p)
{
	return p->holder.guest_ns;
}

int demo_holder_start(struct demo_protect *p)
{
	static char self[PATH_MAX];
	const char *args[] = { self,	 "netplug", "hold",	      DEMO_HOLDER, "--foreground",
			       "--edge", p->edge,   DEMO_PRIMARY_TAP, NULL };
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	p->holder = (struct demo_child){ .in = -1, .out = -1 };
	if (n < 0 || demo_child_start(&p->holder, self, args))
		return -EIO;
	return demo_until(p, "somebody holds", is_there, DEMO_SOON_MS);
}

void demo_holder_break(struct demo_protect *p)
{
	siginfo_t stopped;

	p->silent = demo_chance(p, 2);
	kill(p->holder.pid, p->silent ? SIGSTOP : SIGKILL);
	if (p->silent)
		waitid(P_PID, (id_t)p->holder.pid, &stopped, WSTOPPED | WEXITED | WNOWAIT);
	else
		demo_holder_end(p);
	demo_say(&p->demo, "holder: %s", p->silent ? "silent" : "killed");
}

int demo_holder_next(struct demo_protect *p)
{
	if (!p->silent)
		return demo_holder_start(p);
	kill(p->holder.pid, SIGCONT);
	demo_say(&p->demo, "holder: goes on");
	return 0;
}

void demo_holder_end(struct demo_protect *p)
{
	if (p->holder.pid > 0 && !p->holder.reaped)
		kill(p->holder.pid, SIGKILL);
	demo_children_end(&p->holder, 1);
	p->holder = (struct demo_child){ .in = -1, .out = -1 };
}
