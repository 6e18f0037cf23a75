/* SPDX-License-Identifier: MIT */
/*
 * Joining: one connection of a protection. What is said goes out in the order in which it is said;
 * contents, of which there is more than memory for copies, are asked for where nothing else waits.
 */
#include "checkpoint/run_rdma.h"
#include "ring/fixed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINK_OF(op, member) \
	((struct protect_link *)(void *)((char *)(op)-offsetof(struct protect_link, member)))

static void receive(struct protect_link *link);

/* The descriptor is closed when the kernel has let go of everything */
static void link_settle(struct protect_link *link)
{
	if (!link->closing || op_busy(&link->send) || op_busy(&link->recv))
		return;
	if (link->fd >= 0 && !link->pier)
		close(link->fd);
	link->fd = -1;
	link->pier = NULL;
	link->closing = false;
}

void link_close(struct protect_link *link)
{
	if (link->fd < 0 || link->closing)
		return;
	link->closing = true;
	if (link->pier)
		pier_close(link->pier);
	else
		shutdown(link->fd, SHUT_RDWR);
	loop_cancel(link->p->loop, &link->send);
	loop_cancel(link->p->loop, &link->recv);
	link_settle(link);
}

void link_break(struct protect_link *link, const struct wh_err *why)
{
	if (link->broken || link->closing || link->fd < 0)
		return;
	link->broken = true;
	link->why = *why;
}

bool link_lost(struct protect_link *link, struct wh_err *why)
{
	if (!link->broken)
		return false;
	*why = link->why;
	link->broken = false;
	link_close(link);
	return true;
}

static void link_failed(struct protect_link *link, int code, const char *what)
{
	struct wh_err err = { 0 };

	if (link->pier ? pier_why(link->pier, &err) : tls_why(link->p->tls, link->fd, &err) < 0)
		err_wrap(&err, "%s",
			 link == &link->p->link[LINK_PULSE] ? "heartbeats" : "contents");
	else if (code)
		err_sys(&err, code, "%s: %s",
			link == &link->p->link[LINK_PULSE] ? "heartbeats" : "contents", what);
	else
		err_set(&err, -ECONNRESET, "%s: the other side has closed the connection",
			link == &link->p->link[LINK_PULSE] ? "heartbeats" : "contents");
	link_break(link, &err);
}

/* Whole messages are told; what is left is moved to the front */
static void deliver(struct protect_link *link)
{
	enum cp_from from = link->p->role == WH_SOURCE ? CP_FROM_DEST : CP_FROM_SOURCE;
	struct cp_header header;
	struct wh_err err = { 0 };
	size_t at = 0;

	while (!link->broken && !link->closing && link->in_have - at >= CP_HEADER) {
		int ret = cp_header_get(link->in + at, from, &header, &err);

		if (ret == 0 && CP_HEADER + header.length > link->in_room)
			ret = err_set(&err, -EPROTO, "checkpoint: %s of %u bytes",
				      cp_name(header.kind), header.length);
		if (ret == 0 && link->in_have - at < CP_HEADER + header.length)
			break;
		if (ret == 0)
			ret = protect_heard(link, &header, link->in + at, &err);
		if (ret < 0) {
			link_break(link, &err);
			return;
		}
		at += CP_HEADER + header.length;
	}
	memmove(link->in, link->in + at, link->in_have - at);
	link->in_have -= at;
}

static void recv_done(struct op *op, int result)
{
	struct protect_link *link = LINK_OF(op, recv);

	if (link->closing || protect_stops(link->p)) {
		link_settle(link);
		return;
	}
	if (result <= 0) {
		if (result != -ECANCELED)
			link_failed(link, result, "receiving");
		return;
	}
	link->in_have += (size_t)result;
	deliver(link);
	if (!link->broken && !link->closing)
		receive(link);
	else
		link_settle(link);
}

static void receive(struct protect_link *link)
{
	link->recv.done = recv_done;
	link->recv.poll_first = true;
	if (link->pier) {
		pier_receive(link->pier, &link->recv, link->in + link->in_have,
			     link->in_room - link->in_have);
		return;
	}
	loop_recv(link->p->loop, &link->recv, link->fd, link->in + link->in_have,
		  link->in_room - link->in_have, 0);
}

int link_open(struct protect_link *link, struct wh_protect *p, int fd, struct pier *pier,
	      size_t in_room, const void *begun, size_t length, struct wh_err *err)
{
	uint8_t *in = link->in;

	/* as large as ever, at this end */
	if (!in)
		in = malloc(in_room);
	if (!in)
		return err_set(err, -ENOMEM, "checkpoint: no memory for a connection");
	*link = (struct protect_link){
		.p = p, .fd = fd, .pier = pier, .in = in, .in_room = in_room
	};
	memcpy(in, begun, length);
	link->in_have = length;
	receive(link);
	return 0;
}

bool link_up(const struct protect_link *link)
{
	return link->fd >= 0 && !link->closing && !link->broken;
}

bool link_sending(const struct protect_link *link)
{
	return link->pier ? pier_sending(link->pier) : op_busy(&link->send);
}

int link_say(struct protect_link *link, struct cp_header *header, const struct cp_msg *msg,
	     struct wh_err *err)
{
	size_t *have = &link->out_have[link->filling];

	if (!link_up(link))
		return err_set(err, -ENOTCONN, "checkpoint: %s: there is no connection",
			       cp_name(header->kind));
	if (LINK_OUT_BYTES - *have < CP_MSG_MAX)
		return err_set(err, -EAGAIN, "checkpoint: %s: the other side takes nothing",
			       cp_name(header->kind));
	*have += cp_put(link->out[link->filling] + *have, header, msg);
	return 0;
}

/* Behind a partial send. Return: something is left */
static bool advance(struct msghdr *msg, size_t sent)
{
	while (msg->msg_iovlen && sent >= msg->msg_iov->iov_len) {
		sent -= msg->msg_iov->iov_len;
		msg->msg_iov++;
		msg->msg_iovlen--;
	}
	if (!msg->msg_iovlen)
		return false;
	msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + sent;
	msg->msg_iov->iov_len -= sent;
	return true;
}

/* What is left: a piece that the ring knows by itself, those in front of it together */
static void send_left(struct protect_link *link)
{
	struct loop *loop = link->p->loop;
	struct msghdr *msg = &link->msg;
	size_t count = 0;
	int slot = -1;

	if (link->pier) {
		pier_send(link->pier, &link->send, msg);
		return;
	}
	while (link->more && count < msg->msg_iovlen) {
		slot = source_slot(link->p, &msg->msg_iov[count]);
		if (slot >= 0)
			break;
		count++;
	}
	link->fixed = slot >= 0 && !count;
	if (link->fixed) {
		loop_write_fixed(loop, &link->send, link->fd, msg->msg_iov->iov_base,
				 msg->msg_iov->iov_len, (unsigned)slot);
		return;
	}
	link->part = *msg;
	if (slot >= 0)
		link->part.msg_iovlen = count;
	loop_sendmsg(loop, &link->send, link->fd, &link->part,
		     MSG_WAITALL | (slot >= 0 ? MSG_MORE : 0));
}

static void send_done(struct op *op, int result)
{
	struct protect_link *link = LINK_OF(op, send);

	if (link->closing) {
		link_settle(link);
		return;
	}
	if (result < 0) {
		if (result != -ECANCELED)
			link_failed(link, result, "sending");
		return;
	}
	if (link->broken)
		return;
	if (link->fixed)
		source_slot_sent(link->p, (size_t)result);
	if (advance(&link->msg, (size_t)result)) {
		send_left(link);
		return;
	}
	if (!link->more)
		link->out_have[!link->filling] = 0;
	link->msg.msg_iovlen = 0;
}

void link_turn(struct protect_link *link)
{
	unsigned pieces = 0;

	if (!link_up(link) || link_sending(link))
		return;
	link->more = !link->out_have[link->filling];
	if (!link->more) {
		link->piece[0].iov_base = link->out[link->filling];
		link->piece[0].iov_len = link->out_have[link->filling];
		link->filling = !link->filling;
		pieces = 1;
	} else if (link == &link->p->link[LINK_CONTENTS] && link->p->role == WH_SOURCE) {
		pieces = source_pieces(link->p, link->piece, LINK_PIECES);
	}
	if (!pieces)
		return;
	link->msg = (struct msghdr){ .msg_iov = link->piece, .msg_iovlen = pieces };
	link->send.done = send_done;
	send_left(link);
}

bool link_flushed(const struct protect_link *link)
{
	return !link_up(link) || (!link_sending(link) && !link->out_have[link->filling] &&
				  (!link->pier || pier_flushed(link->pier)));
}

void link_fini(struct protect_link *link)
{
	if (link->fd >= 0 && !link->pier)
		close(link->fd);
	free(link->in);
}
