/* SPDX-License-Identifier: MIT */
/*
 * Joining: packets with descriptors between a VMM and its agent. SOCK_SEQPACKET keeps them
 * apart, and its end is the death of the other one, of which the kernel tells at once.
 */
#include "postcopy/agent.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(AGENT_FDS * sizeof(int))];
};

int agent_send(int socket, const struct agent_msg *msg, const int *fds, struct wh_err *err)
{
	size_t fd_bytes = agent_fds(msg->kind) * sizeof(int);
	union control control = { 0 };
	uint8_t buf[AGENT_MSG_MAX];
	struct iovec iov = { .iov_base = buf, .iov_len = agent_put(buf, msg) };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	if (fd_bytes) {
		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE(fd_bytes);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(fd_bytes);
		memcpy(CMSG_DATA(&control.head), fds, fd_bytes);
	}
	do {
		sent = sendmsg(socket, &head, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return err_sys(err, errno, "agent: sending %s", agent_name(msg->kind));
	return 0;
}

/* All there are; of those that are too many nobody knows what they are for */
static unsigned take_fds(struct msghdr *head, struct agent_packet *packet)
{
	unsigned count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c; c = CMSG_NXTHDR(head, c)) {
		size_t fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < fds; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (count < AGENT_FDS)
				packet->fd[count] = fd;
			else
				close(fd);
			count++;
		}
	}
	return count;
}

int agent_receive(int socket, struct agent_packet *packet, struct wh_err *err)
{
	uint8_t buf[AGENT_MSG_MAX];
	union control control;
	struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };
	struct msghdr head = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control),
	};
	unsigned fds;
	ssize_t have;
	int ret;

	for (unsigned i = 0; i < AGENT_FDS; i++)
		packet->fd[i] = -1;
	do {
		have = recvmsg(socket, &head, MSG_CMSG_CLOEXEC);
		/* It has died with packets of ours unread. Once; its own last ones follow */
	} while (have < 0 && (errno == EINTR || errno == ECONNRESET));
	if (have == 0)
		return 0;
	if (have < 0)
		return err_sys(err, errno, "agent: receiving");
	fds = take_fds(&head, packet);
	if (head.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		ret = err_set(err, -EPROTO, "agent: a packet that is too large");
	else
		ret = agent_get(buf, (size_t)have, &packet->msg, err);
	if (ret == 0 && fds != agent_fds(packet->msg.kind))
		ret = err_set(err, -EPROTO, "agent: %s with %u descriptors, expected %u",
			      agent_name(packet->msg.kind), fds, agent_fds(packet->msg.kind));
	if (ret == 0)
		return 1;
	agent_packet_close(packet);
	return ret;
}

void agent_packet_close(struct agent_packet *packet)
{
	for (unsigned i = 0; i < AGENT_FDS; i++) {
		if (packet->fd[i] >= 0)
			close(packet->fd[i]);
		packet->fd[i] = -1;
	}
}

int agent_connect(const char *path, struct wh_err *err)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd, ret;

	if (!path || !path[0] || strlen(path) >= sizeof(to.sun_path))
		return err_set(err, -EINVAL, "agent: no path of a socket: '%s'", path ? path : "");
	memcpy(to.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, errno, "agent: socket");
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		ret = err_sys(err, errno, "agent: %s", path);
		close(fd);
		return ret;
	}
	return fd;
}
