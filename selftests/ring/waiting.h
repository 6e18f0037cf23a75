/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_RING_WAITING_H
#define SELFTESTS_RING_WAITING_H

#include "selftests/ring/told.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* 127.0.0.1; listening, with the kernel's choice of port */
static inline int listening(struct sockaddr_in *address, int backlog)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	if (fd < 0 || bind(fd, (struct sockaddr *)address, length) < 0 || listen(fd, backlog) < 0 ||
	    getsockname(fd, (struct sockaddr *)address, &length) < 0)
		return -1;
	return fd;
}

/* Every kind of operation that waits, under way at once */
struct waiting {
	struct told watch, recv, send, accept, connect, poll, timer;
	struct told *all[7];
	struct sockaddr_in address;
	struct sockaddr_in full_address;
	struct iovec iov;
	struct msghdr msg;
	int listener;
	int full;
	int filler[2];
	int client;
	int event;
	int quiet[2];
	char buf[64];
	char big[1 << 20];
};

#define WAITING_COUNT 7

static inline int waiting_start(struct waiting *w, struct loop *loop, int sender)
{
	struct told *all[] = { &w->watch,   &w->recv, &w->send, &w->accept,
			       &w->connect, &w->poll, &w->timer };

	memcpy(w->all, all, sizeof(all));
	for (int i = 0; i < WAITING_COUNT; i++)
		*w->all[i] = told_new();
	w->iov = (struct iovec){ .iov_base = w->big, .iov_len = sizeof(w->big) };
	w->msg = (struct msghdr){ .msg_iov = &w->iov, .msg_iovlen = 1 };
	w->listener = listening(&w->address, 4);
	/* a queue of one that is full: nothing answers the next one's SYN */
	w->full = listening(&w->full_address, 0);
	w->event = eventfd(0, EFD_CLOEXEC);
	w->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (w->listener < 0 || w->full < 0 || w->event < 0 || w->client < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->quiet) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		w->filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(w->filler[i], (struct sockaddr *)&w->full_address, sizeof(w->full_address));
	}
	loop_watch(loop, &w->watch.op, w->event, POLLIN);
	loop_recv(loop, &w->recv.op, w->quiet[0], w->buf + 8, 8, 0);
	loop_sendmsg(loop, &w->send.op, sender, &w->msg, MSG_WAITALL);
	loop_accept(loop, &w->accept.op, w->listener);
	loop_connect(loop, &w->connect.op, w->client, (struct sockaddr *)&w->full_address,
		     sizeof(w->full_address));
	loop_poll(loop, &w->poll.op, w->event, POLLIN);
	loop_timer(loop, &w->timer.op, UINT64_MAX);
	return 0;
}

static inline void waiting_stop(struct waiting *w)
{
	close(w->listener);
	close(w->full);
	close(w->filler[0]);
	close(w->filler[1]);
	close(w->client);
	close(w->event);
	close(w->quiet[0]);
	close(w->quiet[1]);
}

static inline int waiting_busy(const struct waiting *w)
{
	int busy = 0;

	for (int i = 0; i < WAITING_COUNT; i++)
		busy += op_busy(&w->all[i]->op);
	return busy;
}

#endif /* SELFTESTS_RING_WAITING_H */
