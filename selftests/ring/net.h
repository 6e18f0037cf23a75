/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_RING_NET_H
#define SELFTESTS_RING_NET_H

/*
 * For tests of sockets: namespaces of their own, a host's names of their own, and
 * dials and listeners that note what they are told.
 */
#include "ring/socket.h"
#include "selftests/ring/told.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static inline __attribute__((format(printf, 1, 2))) int run(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* This thread in a network of its own, with nothing but lo; a descriptor of it, or -1 */
static inline int net_new(void)
{
	if (unshare(CLONE_NEWNET) < 0 || run("ip link set lo up") != 0)
		return -1;
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* And with an /etc/hosts of its own */
static inline int hosts_new(const char *text)
{
	char name[] = "/tmp/wherry-hosts-XXXXXX";
	int ret = -1;
	int fd;

	/* where /etc/host.conf does not say so, a name has one address only */
	setenv("RESOLV_MULTI", "on", 1);
	fd = mkstemp(name);
	if (fd < 0)
		return -1;
	if (write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, 0644) == 0 &&
	    unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		ret = mount(name, "/etc/hosts", NULL, MS_BIND, NULL);
	close(fd);
	unlink(name);
	return ret;
}

struct dialled {
	struct dial dial;
	struct wh_err err;
	int calls;
	int fd;
};

static inline void dialled_done(struct dial *dial, int fd, struct wh_err *err)
{
	struct dialled *dialled = (struct dialled *)(void *)dial;

	dialled->calls++;
	dialled->fd = fd;
	dialled->err = *err;
}

#define ACCEPTED_MAX 8

struct heard {
	struct listener listener;
	int fds[ACCEPTED_MAX];
	int count;
};

static inline void heard_accepted(struct listener *listener, int fd)
{
	struct heard *heard = (struct heard *)(void *)listener;

	if (heard->count < ACCEPTED_MAX)
		heard->fds[heard->count++] = fd;
	else
		close(fd);
}

/* 0 and listening, or a negative errno */
static inline int heard_open(struct heard *heard, struct loop *loop, const char *text,
			     const struct socket_tuning *tuning, struct wh_err *err)
{
	struct uri uri;
	int ret = uri_parse(&uri, text, err);

	*heard = (struct heard){ .listener.accepted = heard_accepted };
	return ret < 0 ? ret : listener_open(&heard->listener, loop, &uri, tuning, err);
}

static inline int dialled_start(struct dialled *dialled, struct loop *loop, const char *text,
				uint64_t timeout_ns, const struct socket_tuning *tuning,
				struct wh_err *err)
{
	struct uri uri;
	int ret = uri_parse(&uri, text, err);

	*dialled = (struct dialled){ .dial.done = dialled_done, .fd = UNTOLD };
	return ret < 0 ? ret : dial_start(&dialled->dial, loop, &uri, timeout_ns, tuning, err);
}

/* Steps until it is told; the descriptor or error, UNTOLD if it takes too long */
static inline int dialled_finish(struct dialled *dialled, struct loop *loop)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	while (!dialled->calls && clock_now_ns() < limit_ns)
		if (loop_step(loop, (int64_t)LIMIT_NS, NULL) < 0)
			break;
	return dialled->fd;
}

/* Both: start, finish; @err holds the sentence either way */
static inline int dial_now(struct loop *loop, const char *text, uint64_t timeout_ns,
			   struct wh_err *err)
{
	struct dialled dialled;
	int ret = dialled_start(&dialled, loop, text, timeout_ns, NULL, err);

	if (ret < 0)
		return ret;
	ret = dialled_finish(&dialled, loop);
	*err = dialled.err;
	return ret;
}

/* Steps until @count were accepted; false if that takes too long */
static inline bool heard_wait(struct heard *heard, struct loop *loop, int count)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	while (heard->count < count && clock_now_ns() < limit_ns)
		if (loop_step(loop, 100 * (int64_t)NS_PER_MS, NULL) < 0)
			break;
	return heard->count >= count;
}

/* Closes it and what it has accepted; false if it stays busy */
static inline bool heard_close(struct heard *heard, struct loop *loop)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	while (heard->count)
		close(heard->fds[--heard->count]);
	listener_close(&heard->listener);
	while (listener_busy(&heard->listener) && clock_now_ns() < limit_ns)
		if (loop_step(loop, 100 * (int64_t)NS_PER_MS, NULL) < 0)
			break;
	return !listener_busy(&heard->listener);
}

/* Do bytes cross from one to the other? */
static inline bool connected(int from, int to)
{
	char byte = 0;
	int tries = 100;

	if (send(from, "?", 1, MSG_NOSIGNAL) != 1)
		return false;
	while (tries-- && recv(to, &byte, 1, MSG_DONTWAIT) != 1)
		sched_yield();
	return byte == '?';
}

static inline int option(int fd, int level, int name)
{
	socklen_t length = sizeof(int);
	int value = -1;

	getsockopt(fd, level, name, &value, &length);
	return value;
}

#endif /* SELFTESTS_RING_NET_H */
