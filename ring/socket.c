/* SPDX-License-Identifier: MIT */
/*
 * Edge: what a link's socket is set to. Connecting is in dial.c, accepting in
 * listener.c.
 *
 * A dead peer is noticed in two ways. TCP_USER_TIMEOUT ends a connection whose data
 * is not acknowledged for so long. An idle connection has no such data: keep-alive
 * probes it, and the user time-out, where set, also decides when unanswered probes
 * are enough. The kernel counts a peer that keeps its window closed as unresponsive
 * too, though it answers: a destination that stops reading for dead_peer_ns loses
 * the link, which is what is wanted of one that hangs.
 */
#include "ring/socket.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define PROBES 4
#define KEEPALIVE_MAX_S 32767 /* the kernel's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL */

static int socket_set(int fd, int level, int name, int value, const char *what, struct wh_err *err)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		return err_sys(err, errno, "socket: set %s to %d", what, value);
	return 0;
}

static int clamp_s(uint64_t seconds)
{
	if (seconds < 1)
		return 1;
	return seconds > KEEPALIVE_MAX_S ? KEEPALIVE_MAX_S : (int)seconds;
}

/* Half of the time to wait before the first probe, the other half for the probes. */
static int socket_keep_alive(int fd, uint64_t dead_peer_ns, struct wh_err *err)
{
	uint64_t timeout_ms = dead_peer_ns / NS_PER_MS + (dead_peer_ns % NS_PER_MS != 0);
	int idle_s = clamp_s(dead_peer_ns / 2 / NS_PER_S);
	int interval_s = clamp_s(dead_peer_ns / 2 / PROBES / NS_PER_S);
	int ret;

	if (timeout_ms > INT32_MAX)
		timeout_ms = INT32_MAX;
	ret = socket_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE", err);
	if (ret == 0)
		ret = socket_set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s, "TCP_KEEPIDLE", err);
	if (ret == 0)
		ret = socket_set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s, "TCP_KEEPINTVL", err);
	if (ret == 0)
		ret = socket_set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES, "TCP_KEEPCNT", err);
	if (ret == 0)
		ret = socket_set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)timeout_ms,
				 "TCP_USER_TIMEOUT", err);
	return ret;
}

int socket_tune(int fd, const struct socket_tuning *tuning, struct wh_err *err)
{
	socklen_t length = sizeof(int);
	int protocol = 0;
	int ret = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) < 0)
		return err_sys(err, errno, "socket: descriptor %d", fd);
	if (protocol == IPPROTO_TCP) {
		ret = socket_set(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY", err);
		if (ret == 0 && tuning && tuning->dead_peer_ns)
			ret = socket_keep_alive(fd, tuning->dead_peer_ns, err);
	}
	if (ret == 0 && tuning && tuning->send_buffer > 0)
		ret = socket_set(fd, SOL_SOCKET, SO_SNDBUF, tuning->send_buffer, "SO_SNDBUF", err);
	return ret;
}
