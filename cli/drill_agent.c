/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: the agent that drives the destination, a process that is killed. It is the
 * wherry agent itself, so that nothing of ours is open in it.
 */
#include "cli/drill_run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_NS (10000 * DRILL_NS_PER_MS)

static void agent_exec(const char *path)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* what it says of links that break is known here */
	if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
		_exit(1);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl("/proc/self/exe", "wherry", "agent", "--socket", path, NULL);
	_exit(1);
}

int drill_agent_start(struct drill_run *run)
{
	pid_t parent = getpid();

	if (!run->plan->agent)
		return 0;
	snprintf(run->agent_path, sizeof(run->agent_path), "%s/%016" PRIx64 ".agent", run->folder,
		 run->plan->seed);
	fflush(NULL);
	run->agent = fork();
	if (!run->agent) {
		if (getppid() != parent)
			_exit(1);
		agent_exec(run->agent_path);
	}
	return run->agent < 0 ? -errno : 0;
}

bool drill_no_agent_yet(const struct drill_run *run, int64_t result)
{
	return run->agent > 0 && (result == -ENOENT || result == -ECONNREFUSED);
}

/* Return: it has ended, and its status is dealt with */
static bool agent_ended(struct drill_run *run, int options)
{
	int status;

	if (waitpid(run->agent, &status, options) != run->agent)
		return false;
	run->agent = 0;
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		drill_wrong(run, "the agent: %s", strsignal(WTERMSIG(status)));
	return true;
}

static void agent_next(struct drill_run *run)
{
	int ret = drill_agent_start(run);

	if (ret < 0)
		drill_wrong(run, "no other agent: %s", strerrordesc_np(-ret));
}

bool drill_agent_kill(struct drill_run *run)
{
	/* it may be over already */
	if (run->agent <= 0 || agent_ended(run, WNOHANG))
		return false;
	kill(run->agent, SIGKILL);
	(void)agent_ended(run, 0);
	agent_next(run);
	return true;
}

void drill_agent_supervise(struct drill_run *run)
{
	if (run->agent > 0 && !wh_phase_ended(run->end[DRILL_DEST].phase) &&
	    agent_ended(run, WNOHANG))
		agent_next(run);
}

void drill_agent_end(struct drill_run *run)
{
	uint64_t until = drill_now_ns() + END_NS;
	bool waits = false;

	/* it has its socket until somebody comes, who has gone now */
	while (run->agent > 0 && !waits && !drill_signal && !agent_ended(run, WNOHANG)) {
		waits = access(run->agent_path, F_OK) == 0;
		if (drill_now_ns() > until) {
			drill_wrong(run, "the agent does not end");
			break;
		}
		(void)poll(NULL, 0, 1);
	}
	if (run->agent > 0) {
		kill(run->agent, SIGKILL);
		(void)agent_ended(run, 0);
	}
	if (run->plan->agent)
		unlink(run->agent_path);
}
