/* SPDX-License-Identifier: MIT */
/*
 * wherry netplug: the process that holds. The others talk to it by WH_NETPLUG_HOLDER.
 */
#include "cli/netplug.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int netplug_drop_rights(void)
{
	const cap_value_t kept[] = { CAP_NET_ADMIN };
	cap_t caps = cap_init();
	int ret = 0;

	if (!caps)
		return -errno;
	if (cap_set_flag(caps, CAP_PERMITTED, 1, kept, CAP_SET) < 0 ||
	    cap_set_flag(caps, CAP_EFFECTIVE, 1, kept, CAP_SET) < 0 || cap_set_proc(caps) < 0)
		ret = -errno;
	cap_free(caps);
	if (ret == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		ret = -errno;
	return ret;
}

/* Armed here it ends when it is disarmed, by whomever; else it waits for the next time */
static void hold(struct wh_netplug *plug, bool armed)
{
	struct pollfd ready = { .fd = wh_netplug_fd(plug), .events = POLLIN };

	while (!armed || wh_netplug_get_state(plug) != WH_NETPLUG_IDLE)
		if (poll(&ready, 1, -1) > 0)
			wh_netplug_process(plug, NULL);
}

/* Return: 0 and *@plug, or a negative errno and a sentence */
static int begin(const struct wh_netplug_config *config, bool arm, struct wh_netplug **plug,
		 struct wh_err *err)
{
	int ret = wh_netplug_new(plug, config, err);

	if (ret == 0)
		ret = wh_netplug_listen(*plug, err);
	if (ret == 0 && arm)
		ret = wh_netplug_arm(*plug, err);
	return ret;
}

/* In the background nobody waits for our output to end */
static void leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (chdir("/") < 0)
		return;
}

static int hold_here(const struct wh_netplug_config *config, bool arm, int told)
{
	struct wh_netplug *plug = NULL;
	struct wh_err err = { 0 };
	ssize_t n;
	int ret;

	ret = begin(config, arm, &plug, &err);
	if (ret < 0)
		fprintf(stderr, "wherry netplug: %s\n", err.text);
	else
		printf(arm ? "held: %s\n" : "holder of: %s\n", config->name);
	fflush(stdout);
	if (told >= 0) {
		leave_terminal();
		n = write(told, ret < 0 ? "1" : "0", 1);
		close(told);
		if (n != 1)
			ret = ret < 0 ? ret : 0;
	}
	if (ret == 0)
		hold(plug, arm);
	wh_netplug_free(plug);
	return ret < 0;
}

int netplug_hold(const struct wh_netplug_config *config, bool arm, bool foreground)
{
	char held = '1';
	int told[2];
	pid_t pid;

	if (foreground)
		return hold_here(config, arm, -1);
	if (pipe2(told, O_CLOEXEC) < 0)
		return 1;
	pid = fork();
	if (pid == 0) {
		close(told[0]);
		_exit(hold_here(config, arm, told[1]));
	}
	close(told[1]);
	if (pid < 0 || read(told[0], &held, 1) != 1)
		held = '1';
	close(told[0]);
	if (held != '0' && pid > 0)
		waitpid(pid, NULL, 0);
	return held != '0';
}
