/* SPDX-License-Identifier: MIT */
/*
 * Joining: the return path over RDMA at the source. It is a second connection, on which the ends have
 * changed places (run_bridge_back.c): what comes goes through a pair of sockets to the request loop,
 * which reads its other end as any connection. A message is asked for when the one before is in the
 * socket.
 *
 * Whoever takes over says so, and hangs up. So when the peer has gone, the request loop sees all that
 * he has said, and then the end of it; and that end is what the engine hears of.
 */
#ifndef WH_NO_RDMA
#include "postcopy/ferry.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

int ferry_back_begin(struct ferry *ferry, struct wh_err *err)
{
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) < 0)
		return err_sys(err, errno, "rdma: a pair of sockets");
	ferry->reply_fd = fd[0];
	ferry->m->source->fd = fd[1];
	/*
	 * A QEMU says its first message without being asked, and takes whatever comes for what asks
	 * for the second. A READY that comes while it has not looked at the one before lies in the
	 * same memory, where it is then taken for nonsense. Asked only for what follows it has one at
	 * a time.
	 */
	ferry->owes_ready = ferry->link.hello.flags & CONTROL_SEVERAL;
	return 0;
}

/* Return: all of the message is in the socket */
static bool pass_on(struct ferry *ferry)
{
	while (ferry->left_bytes) {
		ssize_t sent = send(ferry->reply_fd, ferry->left, ferry->left_bytes,
				    MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN) {
			ferry_watch(ferry, &ferry->room, ferry->reply_fd, POLLOUT);
			return false;
		}
		/* nobody reads any more, and whoever did knows why */
		if (sent < 0)
			sent = (ssize_t)ferry->left_bytes;
		ferry->left += sent;
		ferry->left_bytes -= (size_t)sent;
	}
	return true;
}

/* Room for the next message first, then the peer is told of it */
static int say_ready(struct ferry *ferry, struct wh_err *err)
{
	uint8_t *at;
	int ret = vlink_room(&ferry->back, &at, err);

	if (ret <= 0 || !ferry->owes_ready || ferry->hung)
		return ret;
	/* for the first ones there was room before the connection was there */
	if (ferry->left)
		ret = vlink_receive(&ferry->back, err);
	if (ret < 0)
		return ret;
	ferry->owes_ready = false;
	return vlink_send(&ferry->back, control_put(at, CONTROL_READY, 1, 0), err);
}

/* Return: 1 a message of the stream, 0 none, or a negative errno */
static int take_message(struct ferry *ferry, struct wh_err *err)
{
	const uint8_t *message;
	struct control control;
	size_t bytes;
	int ret = vlink_received(&ferry->back, &message, &bytes, err);

	if (ret <= 0)
		return ret;
	ret = control_get(message, bytes, &control, err);
	if (ret < 0)
		return ret;
	if (control.kind == CONTROL_ERROR)
		return err_set(err, -ECONNABORTED, "rdma: the destination has given up");
	if (control.kind != CONTROL_STREAM)
		return err_set(err, -EPROTO, "rdma: %s on the return path",
			       control_name(control.kind));
	ferry->left = control.payload;
	ferry->left_bytes = control.length;
	ferry->owes_ready = true;
	return 1;
}

/* Return: 0 nothing more for now, or a negative errno */
static int back_turn(struct ferry *ferry, struct wh_err *err)
{
	struct wh_err sent = { 0 };
	int ret;

	do {
		if (!pass_on(ferry))
			return 0;
		(void)say_ready(ferry, &sent);
		ret = take_message(ferry, err);
	} while (ret > 0);
	/* what waits for a message only sees that it has ended; what was sent may know more */
	if ((ret == 0 || ret == -ENOTCONN) && sent.code) {
		*err = sent;
		ret = sent.code;
	}
	if (ret == 0)
		while ((ret = vlink_event(&ferry->back, err)) > 0)
			;
	return ret;
}

int ferry_back_turn(struct ferry *ferry, int ret, struct wh_err *err)
{
	int back = back_turn(ferry, err);

	if (back < 0 && back != -ENOTCONN)
		return back;
	if (back == -ENOTCONN || ret == -ENOTCONN)
		ferry->hung = true;
	if (!ferry->hung) {
		ferry_watch(ferry, &ferry->back_event, vlink_event_fd(&ferry->back), POLLIN);
		ferry_watch(ferry, &ferry->back_receive, vlink_receive_fd(&ferry->back), POLLIN);
		ferry_watch(ferry, &ferry->back_send, vlink_send_fd(&ferry->back), POLLIN);
	} else if (!ferry->left_bytes) {
		shutdown(ferry->reply_fd, SHUT_WR);
	}
	return 0;
}
#endif
