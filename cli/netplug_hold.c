/* SPDX-License-Identifier: MIT */
/*
 * wherry netplug: the process that holds, and how the others talk to it.
 */
#include "cli/netplug.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
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

static socklen_t address_of(const char *name, struct sockaddr_un *at)
{
	int length;

	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	length = snprintf(at->sun_path + 1, sizeof(at->sun_path) - 1, "wherry/netplug/%.63s/ask",
			  name);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/* Of whom the other end is: ours, or root's. Return: its process, or 0 */
static pid_t trusted_peer(int fd)
{
	struct ucred who;
	socklen_t length = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ||
	    (who.uid != geteuid() && who.uid != 0))
		return 0;
	return who.pid;
}

static void set_patience(int fd, time_t seconds)
{
	struct timeval time = { .tv_sec = seconds };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

int netplug_ask(const char *name, const char *request, char answer[NETPLUG_TEXT], pid_t *holder)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un at;
	socklen_t length = address_of(name, &at);
	ssize_t n = -1;
	int ret;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&at, length) < 0) {
		ret = errno == ECONNREFUSED ? 1 : -errno;
		close(fd);
		return ret;
	}
	*holder = trusted_peer(fd);
	ret = *holder ? 0 : -EACCES;
	set_patience(fd, 15);
	if (ret == 0 && (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0 ||
			 (n = recv(fd, answer, NETPLUG_TEXT - 1, 0)) < 0))
		ret = errno == EAGAIN ? -ETIMEDOUT : -errno;
	else if (ret == 0 && n == 0)
		ret = -ECONNRESET;
	close(fd);
	answer[n > 0 ? n : 0] = 0;
	return ret;
}

static int put_status(struct wh_netplug *plug, char *text, size_t room, struct wh_err *err)
{
	struct wh_netplug_status status;
	int ret = wh_netplug_status(plug, &status, err);

	if (ret == 0)
		snprintf(text, room,
			 "%d %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
			 " %" PRIu64,
			 (int)status.state, (int)status.edge, status.epoch, status.released,
			 status.held_packets, status.held_bytes, status.dropped, status.sent);
	return ret;
}

int netplug_do(struct wh_netplug *plug, const char *request, char *text, size_t room)
{
	struct wh_err err = { 0 };
	unsigned long long epoch = 0;
	char word[16] = "";
	int ret, words = sscanf(request, "%15s %llu", word, &epoch);

	text[0] = 0;
	if (!strcmp(word, "status"))
		ret = put_status(plug, text, room, &err);
	else if (!strcmp(word, "turn") && words == 2)
		ret = wh_netplug_turn(plug, epoch, &err);
	else if (!strcmp(word, "release") && words == 2)
		ret = wh_netplug_release(plug, epoch, &err);
	else if (!strcmp(word, "fence"))
		ret = wh_netplug_fence(plug, &err);
	else if (!strcmp(word, "disarm"))
		ret = wh_netplug_disarm(plug, &err);
	else
		ret = -EPROTO;
	if (ret < 0)
		snprintf(text, room, "%s", err.text[0] ? err.text : "no such request");
	return ret;
}

/* Return: whether there is still something to hold */
static bool serve(struct wh_netplug *plug, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	char request[64], text[NETPLUG_TEXT - 16], answer[NETPLUG_TEXT];
	bool goes_on = true;
	ssize_t n;
	int ret;

	if (fd < 0)
		return true;
	set_patience(fd, 1);
	n = trusted_peer(fd) ? recv(fd, request, sizeof(request) - 1, 0) : 0;
	if (n > 0) {
		request[n] = 0;
		ret = netplug_do(plug, request, text, sizeof(text));
		goes_on = ret < 0 || strncmp(request, "disarm", 6) != 0;
		snprintf(answer, sizeof(answer), "%d %s", ret, text);
		send(fd, answer, strlen(answer), MSG_NOSIGNAL);
	}
	close(fd);
	return goes_on;
}

static int hold(struct wh_netplug *plug, int listener)
{
	struct pollfd ready[] = {
		{ .fd = listener, .events = POLLIN },
		{ .fd = wh_netplug_fd(plug), .events = POLLIN },
	};

	for (;;) {
		if (poll(ready, 2, -1) < 0)
			continue;
		if (ready[1].revents)
			wh_netplug_process(plug, NULL);
		if (ready[0].revents && !serve(plug, listener))
			return 0;
	}
}

static int listen_at(const char *name)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un at;
	socklen_t length = address_of(name, &at);
	int ret;

	if (fd >= 0 && bind(fd, (const struct sockaddr *)&at, length) == 0 && listen(fd, 8) == 0)
		return fd;
	ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Return: 0 and *@plug armed, or a negative errno and a sentence */
static int arm(const struct wh_netplug_config *config, struct wh_netplug **plug, int *listener,
	       struct wh_err *err)
{
	int ret = wh_netplug_new(plug, config, err);

	if (ret < 0)
		return ret;
	*listener = listen_at(config->name);
	if (*listener < 0) {
		ret = *listener;
		snprintf(err->text, sizeof(err->text), "listen: %s", strerrordesc_np(-ret));
	} else {
		ret = wh_netplug_arm(*plug, err);
	}
	if (ret < 0)
		wh_netplug_free(*plug);
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

static int hold_here(const struct wh_netplug_config *config, int told)
{
	struct wh_err err = { 0 };
	struct wh_netplug *plug;
	int listener = -1, ret;
	ssize_t n;

	ret = arm(config, &plug, &listener, &err);
	if (ret < 0)
		fprintf(stderr, "wherry netplug: %s\n", err.text);
	else
		printf("held: %s\n", config->name);
	fflush(stdout);
	if (told >= 0) {
		leave_terminal();
		n = write(told, ret < 0 ? "1" : "0", 1);
		close(told);
		if (n != 1)
			ret = ret < 0 ? ret : 0;
	}
	if (ret < 0)
		return 1;
	ret = hold(plug, listener);
	wh_netplug_free(plug);
	return ret;
}

int netplug_hold(const struct wh_netplug_config *config, bool foreground)
{
	char held = '1';
	int told[2];
	pid_t pid;

	if (foreground)
		return hold_here(config, -1);
	if (pipe2(told, O_CLOEXEC) < 0)
		return 1;
	pid = fork();
	if (pid == 0) {
		close(told[0]);
		_exit(hold_here(config, told[1]));
	}
	close(told[1]);
	if (pid < 0 || read(told[0], &held, 1) != 1)
		held = '1';
	close(told[0]);
	if (held != '0' && pid > 0)
		waitpid(pid, NULL, 0);
	return held != '0';
}
