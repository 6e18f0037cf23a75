/* SPDX-License-Identifier: MIT */
/*
 * Edge: does this kernel hold back network output (sch_plug)? Tried for real: a packet
 * to ourselves over a plugged lo must wait, and come when it is let go.
 */
#include "netplug/probe.h"

#include "netplug/links.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LO_IFINDEX 1 /* in every new namespace */
#define COME_MS 1000

/* What the probing child works with; the kernel takes all of it back at its end. */
struct trial {
	struct nl_sock *netlink;
	int packets; /* a UDP socket connected to itself */
};

/* Without a right in this one, a user namespace of our own gives it. */
static int trial_namespace(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && unshare(CLONE_NEWNET) < 0)
		return -errno;
	return 0;
}

static int trial_netlink(struct trial *trial)
{
	struct rtnl_link *change, *lo = NULL;
	int ret;

	trial->netlink = nl_socket_alloc();
	change = rtnl_link_alloc();
	if (!trial->netlink || !change)
		return -ENOMEM;
	ret = nl_connect(trial->netlink, NETLINK_ROUTE);
	if (ret == 0)
		ret = rtnl_link_get_kernel(trial->netlink, LO_IFINDEX, NULL, &lo);
	if (ret < 0)
		return nl_code(ret);
	rtnl_link_set_flags(change, IFF_UP);
	ret = rtnl_link_change(trial->netlink, lo, change, 0);
	rtnl_link_put(change);
	rtnl_link_put(lo);
	return nl_code(ret);
}

/* A message about the plug on lo; @set says which */
static int plug_send(struct trial *trial, int (*set)(struct rtnl_qdisc *qdisc), int flags)
{
	struct rtnl_qdisc *qdisc = rtnl_qdisc_alloc();
	int ret;

	if (!qdisc)
		return -ENOMEM;
	rtnl_tc_set_ifindex(TC_CAST(qdisc), LO_IFINDEX);
	rtnl_tc_set_parent(TC_CAST(qdisc), TC_H_ROOT);
	rtnl_tc_set_handle(TC_CAST(qdisc), TC_HANDLE(1, 0));
	ret = rtnl_tc_set_kind(TC_CAST(qdisc), "plug");
	if (ret == 0)
		ret = set(qdisc);
	if (ret == 0)
		ret = rtnl_qdisc_add(trial->netlink, qdisc, flags);
	rtnl_qdisc_put(qdisc);
	return nl_code(ret);
}

static int plug_limit(struct rtnl_qdisc *qdisc)
{
	return rtnl_qdisc_plug_set_limit(qdisc, 1 << 20);
}

static bool packet_came(struct trial *trial, int wait_ms)
{
	struct pollfd poll_fd = { .fd = trial->packets, .events = POLLIN };
	char byte;

	return poll(&poll_fd, 1, wait_ms) == 1 && recv(trial->packets, &byte, 1, MSG_DONTWAIT) == 1;
}

/* A new plug holds. Over a lo without one, a packet is there when send() returns. */
static int trial_hold(struct trial *trial)
{
	struct sockaddr_in self = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(self);
	int ret;

	trial->packets = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (trial->packets < 0 ||
	    bind(trial->packets, (const struct sockaddr *)&self, length) < 0 ||
	    getsockname(trial->packets, (struct sockaddr *)&self, &length) < 0 ||
	    connect(trial->packets, (const struct sockaddr *)&self, length) < 0 ||
	    send(trial->packets, "?", 1, 0) != 1)
		return -errno;
	if (packet_came(trial, 0))
		return -EPROTO;
	ret = plug_send(trial, rtnl_qdisc_plug_release_indefinite, 0);
	if (ret < 0)
		return ret;
	return packet_came(trial, COME_MS) ? 0 : -ETIMEDOUT;
}

static int part_try(struct trial *trial, enum plug_part part)
{
	switch (part) {
	case PLUG_NAMESPACE:
		return trial_namespace();
	case PLUG_NETLINK:
		return trial_netlink(trial);
	case PLUG_QDISC:
		return plug_send(trial, plug_limit, NLM_F_CREATE | NLM_F_REPLACE);
	case PLUG_HOLDS:
		return trial_hold(trial);
	case PLUG_PART_COUNT:
		break;
	}
	return 0;
}

/* In the child: everything it makes goes with it. */
static void try_parts(struct plug_probe *probe)
{
	struct trial trial = { .packets = -1 };

	while (probe->missing < PLUG_PART_COUNT) {
		probe->code = part_try(&trial, probe->missing);
		if (probe->code < 0)
			return;
		probe->missing++;
	}
}

void plug_probe(struct plug_probe *probe)
{
	struct plug_probe found;
	int result[2];
	ssize_t n;
	pid_t pid;

	*probe = (struct plug_probe){ .missing = PLUG_NAMESPACE, .code = -ECHILD };
	if (pipe2(result, O_CLOEXEC) < 0) {
		probe->code = -errno;
		return;
	}
	pid = fork();
	if (pid == 0) {
		try_parts(probe);
		n = write(result[1], probe, sizeof(*probe));
		_exit(n == sizeof(*probe) ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	if (pid < 0)
		probe->code = -errno;
	close(result[1]);
	do {
		n = pid > 0 ? read(result[0], &found, sizeof(found)) : 0;
	} while (n < 0 && errno == EINTR);
	if (n == sizeof(found))
		*probe = found;
	close(result[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
