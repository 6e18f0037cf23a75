/* SPDX-License-Identifier: MIT */
/*
 * Joining: bytes of one channel from its socket into the destination's engine.
 *
 * They are received to where the intake (intake.h) wants the next ones: the main channel's by the
 * ring, with one receive under way. The urgent one is watched, and what has come is fetched by a
 * call: a page that is waited for comes alone as a rule, and nothing has to be armed for the next.
 */
#include "postcopy/run_dest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

/* The channel has ended; reason NULL for an orderly close by the peer. */
static void inlet_lost(struct inlet *inlet, const struct wh_err *reason)
{
	struct wh_migration *m = inlet->m;

	inlet->ended = true;
	if (inlet->channel == CHANNEL_MAIN || m->fault == m->bulk) {
		dest_link_lost(&m->dest->engine, inlet->channel, reason);
		return;
	}
	pthread_mutex_lock(&m->post_lock);
	m->post.urgent_lost = true;
	if (reason)
		m->post.urgent_err = *reason;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->bulk);
}

static bool is_watched(const struct inlet *inlet)
{
	return inlet->channel == CHANNEL_URGENT;
}

static void inlet_receive(struct inlet *inlet)
{
	if (inlet->ended)
		return;
	if (is_watched(inlet)) {
		if (inlet->unread)
			loop_again(&inlet->watch);
		return;
	}
	inlet->msg = (struct msghdr){
		.msg_iov = inlet->piece,
		.msg_iovlen = intake_room(&inlet->intake, inlet->piece),
	};
	early_receive(inlet, inlet->piece, (unsigned)inlet->msg.msg_iovlen);
	loop_recvmsg(inlet->loop, &inlet->recv, inlet->fd, &inlet->msg, 0);
}

static void inlet_later(struct inlet *inlet)
{
	uint64_t wait_ns = inlet->m->dest->engine.channel[inlet->channel].retry_ns;

	if (!op_busy(&inlet->retry))
		loop_timer(inlet->loop, &inlet->retry, clock_now_ns() + wait_ns);
}

/* The engine has an error and says so in its next step, which is the bulk loop's. */
static void inlet_failed(struct inlet *inlet)
{
	inlet->ended = true;
	loop_wake(inlet->m->bulk);
}

/* Hand over what has come; go on receiving when all that can be taken was. */
static void inlet_feed(struct inlet *inlet, size_t bytes)
{
	struct wh_err err = { 0 };
	int ret = intake_took(&inlet->intake, bytes, clock_now_ns(), &err);

	inlet->dirty = true;
	inlet->held = ret == DEST_RETRY;
	if (inlet->held)
		inlet_later(inlet);
	else if (ret == DEST_MARK)
		inlet->marked = true;
	else if (ret < 0)
		inlet_failed(inlet);
	else
		inlet_receive(inlet);
}

bool inlet_go_on(struct inlet *inlet)
{
	if (!inlet->marked || inlet->ended || dest_multifd_waits(&inlet->m->dest->engine))
		return false;
	inlet->marked = false;
	inlet_feed(inlet, 0);
	return true;
}

/* What a receive came to. Return: > 0: bytes; -EAGAIN: nothing yet; 0: it has ended */
static int inlet_came(struct inlet *inlet, int result)
{
	const char *name = inlet->channel == CHANNEL_MAIN ? "main" : "urgent";
	struct wh_err err = { 0 };

	if (result == -EINTR || result == -EAGAIN)
		return -EAGAIN;
	if (result > 0)
		return result;
	inlet_idle(inlet);
	if (run_why(inlet->m, inlet->fd, &err) < 0)
		err_wrap(&err, "%s channel", name);
	else if (result < 0)
		err_sys(&err, result, "%s channel: receive", name);
	inlet_lost(inlet, err.code ? &err : NULL);
	return 0;
}

static void inlet_received(struct op *op, int result)
{
	struct inlet *inlet = (struct inlet *)((char *)op - offsetof(struct inlet, recv));
	struct wh_err err = { 0 };

	if (inlet->ended)
		return;
	result = inlet_came(inlet, result);
	if (result < 0)
		inlet_receive(inlet);
	if (result <= 0)
		return;
	if (early_received(inlet, (size_t)result, &err) < 0) {
		inlet_lost(inlet, &err);
		return;
	}
	inlet_feed(inlet, (size_t)result);
}

/* One receive, without waiting: others have their turn before what is left */
static void inlet_fetch(struct inlet *inlet, bool ends)
{
	size_t room = 0;
	ssize_t got;

	inlet->msg = (struct msghdr){
		.msg_iov = inlet->piece,
		.msg_iovlen = intake_room(&inlet->intake, inlet->piece),
	};
	for (size_t i = 0; i < inlet->msg.msg_iovlen; i++)
		room += inlet->piece[i].iov_len;
	do {
		got = recvmsg(inlet->fd, &inlet->msg, MSG_DONTWAIT);
	} while (got < 0 && errno == EINTR);
	got = inlet_came(inlet, got < 0 ? -errno : (int)got);
	/* an end comes behind the last bytes, and is not told of again */
	inlet->unread = got > 0 && ((size_t)got == room || ends);
	if (got > 0)
		inlet_feed(inlet, (size_t)got);
}

static void inlet_readable(struct op *op, int result)
{
	struct inlet *inlet = (struct inlet *)((char *)op - offsetof(struct inlet, watch));

	if (inlet->ended)
		return;
	if (result < 0 && inlet_came(inlet, result) == 0)
		return;
	if (!op_busy(op))
		loop_watch(inlet->loop, op, inlet->fd, POLLIN);
	if (result < 0)
		return; /* it is told of what is there when it watches again */
	if (inlet->held)
		inlet->unread = true;
	else
		inlet_fetch(inlet, result & (POLLRDHUP | POLLHUP | POLLERR));
}

static void inlet_retried(struct op *op, int result)
{
	struct inlet *inlet = (struct inlet *)((char *)op - offsetof(struct inlet, retry));

	if (result == -ECANCELED || inlet->ended)
		return;
	if (inlet->held)
		inlet_feed(inlet, 0);
	else
		inlet_idle(inlet);
}

void inlet_idle(struct inlet *inlet)
{
	struct wh_err err = { 0 };
	int ret;

	if (!inlet->m || !inlet->dirty || op_busy(&inlet->retry))
		return;
	inlet->dirty = false;
	ret = dest_idle(&inlet->m->dest->engine, inlet->channel, clock_now_ns(), &err);
	if (ret == DEST_RETRY) {
		inlet->dirty = true;
		inlet_later(inlet);
	} else if (ret < 0) {
		inlet_failed(inlet);
	}
}

int inlet_open(struct inlet *inlet, struct wh_migration *m, enum channel channel, struct loop *loop,
	       int fd, struct wh_err *err)
{
	*inlet = (struct inlet){
		.channel = channel,
		.loop = loop,
		.fd = fd,
		.recv.done = inlet_received,
		.watch.done = inlet_readable,
		.retry.done = inlet_retried,
	};
	inlet->buf = malloc(INTAKE_BYTES);
	if (!inlet->buf)
		return err_set(err, -ENOMEM, "channel: no memory for its buffer");
	__atomic_fetch_add(&m->own_bytes, INTAKE_BYTES, __ATOMIC_RELAXED);
	inlet->m = m;
	intake_init(&inlet->intake, &m->dest->engine, channel, inlet->buf);
	if (is_watched(inlet))
		loop_watch(loop, &inlet->watch, fd, POLLIN);
	else
		inlet_receive(inlet);
	return 0;
}

bool inlet_busy(const struct inlet *inlet)
{
	return op_busy(&inlet->recv) || op_busy(&inlet->watch) || op_busy(&inlet->retry);
}

void inlet_close(struct inlet *inlet)
{
	if (!inlet->m)
		return;
	inlet->ended = true;
	if (op_busy(&inlet->recv))
		loop_cancel(inlet->loop, &inlet->recv);
	if (op_busy(&inlet->watch))
		loop_cancel(inlet->loop, &inlet->watch);
	if (op_busy(&inlet->retry))
		loop_cancel(inlet->loop, &inlet->retry);
}

/* When no longer busy, or the loop is closed. */
void inlet_fini(struct inlet *inlet)
{
	if (!inlet->m)
		return;
	close(inlet->fd);
	early_fini(inlet);
	free(inlet->buf);
	__atomic_fetch_sub(&inlet->m->own_bytes, INTAKE_BYTES, __ATOMIC_RELAXED);
	*inlet = (struct inlet){ .fd = -1 };
}
