/* SPDX-License-Identifier: MIT */
/*
 * Joining: the source's request loop: return path in, requested pages out over the
 * urgent channel. A send that blocks never stops the reading of requests, and a
 * full queue of requests stops the reading until there is room.
 *
 * The return path is watched, and what has come is fetched by a call; so is a page sent, and
 * only what the socket does not take at once is left to the ring.
 */
#include "postcopy/run_source.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct source_side *of_op(struct op *op, size_t offset)
{
	return (struct source_side *)((char *)op - offset);
}

static void post_lost(struct wh_migration *m, enum channel channel, const struct wh_err *err)
{
	pthread_mutex_lock(&m->post_lock);
	if (channel == CHANNEL_URGENT) {
		m->post.urgent_lost = true;
		m->post.urgent_err = *err;
	} else {
		m->post.reply_lost = true;
		m->post.reply_err = *err;
	}
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->bulk);
}

/* As of the main channel: what is taken is known when the send has ended, or was made to */
static void probe_urgent(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, probe));
	struct wh_migration *m = side->owner;

	if (result == -ECANCELED || side->urgent_ended || !op_busy(&side->urgent_send))
		return;
	loop_timer(m->fault, &side->probe, clock_now_ns() + m->config.dead_peer_ns / 4);
	loop_cancel(m->fault, &side->urgent_send);
}

/* Return: the batch is sent, or the channel is lost */
static bool urgent_took(struct wh_migration *m, ssize_t result)
{
	struct source_side *side = m->source;
	struct wh_err err = { 0 };
	uint64_t now_ns;

	if ((result == -EINTR || result == -EAGAIN || result == -ECANCELED) &&
	    !source_side_silent(m, side->urgent_taken_ns, &err))
		return false;
	if (result <= 0) {
		if (!err.code && run_why(m, side->urgent_fd, &err) == 0)
			err_sys(&err, result ? (int)result : -EPIPE, "urgent channel: send");
		post_lost(m, CHANNEL_URGENT, &err);
		side->urgent_ended = true;
		return true;
	}
	side->urgent_sent += (size_t)result;
	now_ns = clock_now_ns();
	side->urgent_taken_ns = now_ns;
	if (side->urgent_sent < side->urgent_batch->bytes) {
		msg_advance(&side->urgent_msg, (size_t)result);
		return false;
	}
	source_urgent_sent(side->engine, side->urgent_batch->bytes, now_ns);
	return true;
}

/* What is left of the batch: the ring waits for the socket to take it */
static void urgent_send(struct wh_migration *m)
{
	struct source_side *side = m->source;

	side->probe.done = probe_urgent;
	if (m->config.dead_peer_ns && !op_busy(&side->probe))
		loop_timer(m->fault, &side->probe, clock_now_ns() + m->config.dead_peer_ns / 4);
	loop_sendmsg(m->fault, &side->urgent_send, side->urgent_fd, &side->urgent_msg,
		     MSG_WAITALL | MSG_NOSIGNAL);
}

/* As many batches as there are, as long as the socket takes them; there are no new ones meanwhile */
static void urgent_pump(struct wh_migration *m)
{
	struct source_side *side = m->source;

	while (side->urgent_fd >= 0 && !op_busy(&side->urgent_send) && !side->urgent_ended &&
	       source_urgent(side->engine, side->urgent_batch)) {
		ssize_t sent;

		side->urgent_sent = 0;
		side->urgent_taken_ns = clock_now_ns();
		side->urgent_msg = (struct msghdr){
			.msg_iov = side->urgent_batch->iov,
			.msg_iovlen = side->urgent_batch->count,
		};
		sent = sendmsg(side->urgent_fd, &side->urgent_msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (!urgent_took(m, sent < 0 ? -errno : sent))
			urgent_send(m);
	}
}

static void urgent_send_done(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, urgent_send));
	struct wh_migration *m = side->owner;

	if (side->urgent_ended)
		return;
	if (urgent_took(m, result))
		urgent_pump(m);
	else
		urgent_send(m);
}

int source_side_reply_room(struct wh_migration *m, size_t room, struct wh_err *err)
{
	struct source_side *side = m->source;
	uint8_t *buf;

	if (room < REPLY_ROOM)
		room = REPLY_ROOM;
	if (room == side->reply_room)
		return 0;
	buf = realloc(side->reply_buf, room);
	if (!buf)
		return err_set(err, -ENOMEM, "return path: no memory for a bitmap of %zu bytes",
			       room);
	__atomic_fetch_add(&m->own_bytes, room - side->reply_room, __ATOMIC_RELAXED);
	side->reply_buf = buf;
	side->reply_room = room;
	return 0;
}

/* Behind the last bitmap there are small messages only. */
static void reply_shrink(struct wh_migration *m)
{
	struct source_side *side = m->source;

	if (side->reply_room > REPLY_ROOM && side->reply_have <= REPLY_ROOM &&
	    source_get_phase(side->engine) == SOURCE_POSTCOPY)
		(void)source_side_reply_room(m, REPLY_ROOM, NULL);
}

static void reply_watch(struct wh_migration *m)
{
	loop_watch(m->fault, &m->source->recv, m->source->fd, POLLIN);
}

static void reply_take(struct wh_migration *m)
{
	struct source_side *side = m->source;
	struct wh_err err = { 0 };
	size_t used = 0;
	int ret;

	ret = source_input(side->engine, side->reply_buf, side->reply_have, &used, clock_now_ns(),
			   &err);
	side->reply_have -= used;
	if (used)
		memmove(side->reply_buf, side->reply_buf + used, side->reply_have);
	if (ret < 0) {
		side->request_ended = true;
		post_lost(m, CHANNEL_MAIN, &err);
		return;
	}
	urgent_pump(m);
	reply_shrink(m);
	if (side->reply_unread && side->reply_have < side->reply_room)
		loop_again(&side->recv);
	if (side->reply_have == side->reply_room && !op_busy(&side->reply_timer))
		loop_timer(m->fault, &side->reply_timer, clock_now_ns() + NS_PER_MS);
}

static void reply_lost(struct wh_migration *m, int result)
{
	struct source_side *side = m->source;
	struct wh_err err = { 0 };

	side->request_ended = true;
	if (run_why(m, side->fd, &err) < 0)
		err_wrap(&err, "return path");
	else if (result == 0)
		err_set(&err, -EPIPE, "return path: the destination closed it");
	else
		err_sys(&err, result, "return path: receive");
	post_lost(m, CHANNEL_MAIN, &err);
}

/* One receive, without waiting; where there is no room the queue of requests is full */
static void reply_fetch(struct wh_migration *m, bool ends)
{
	struct source_side *side = m->source;
	size_t room = side->reply_room - side->reply_have;
	ssize_t got;

	side->reply_unread = true; /* as long as there is no room */
	if (!room)
		return;
	do {
		got = recv(side->fd, side->reply_buf + side->reply_have, room, MSG_DONTWAIT);
	} while (got < 0 && errno == EINTR);
	if (got <= 0 && (got == 0 || errno != EAGAIN)) {
		reply_lost(m, got < 0 ? -errno : 0);
		return;
	}
	/* an end comes behind the last bytes, and is not told of again */
	side->reply_unread = got > 0 && ((size_t)got == room || ends);
	if (got <= 0)
		return;
	side->reply_have += (size_t)got;
	reply_take(m);
}

static void reply_readable(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, recv));
	struct wh_migration *m = side->owner;

	if (side->request_ended)
		return;
	if (result < 0 && result != -EAGAIN && result != -EINTR) {
		reply_lost(m, result);
		return;
	}
	if (!op_busy(op))
		reply_watch(m);
	if (result < 0)
		return; /* it is told of what is there when it watches again */
	reply_fetch(m, result & (POLLRDHUP | POLLHUP | POLLERR));
}

static void reply_look_again(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, reply_timer));

	if (result != -ECANCELED && !side->request_ended)
		reply_take(side->owner);
}

static void request_close(struct wh_migration *m)
{
	struct source_side *side = m->source;

	side->request_ended = true;
	side->urgent_ended = true;
	if (op_busy(&side->recv))
		loop_cancel(m->fault, &side->recv);
	if (op_busy(&side->urgent_send))
		loop_cancel(m->fault, &side->urgent_send);
	if (op_busy(&side->reply_timer))
		loop_cancel(m->fault, &side->reply_timer);
	if (op_busy(&side->probe))
		loop_cancel(m->fault, &side->probe);
	if (op_busy(&side->recv) || op_busy(&side->urgent_send) || op_busy(&side->reply_timer) ||
	    op_busy(&side->probe))
		return;
	if (side->urgent_fd >= 0)
		close(side->urgent_fd);
	side->urgent_fd = -1;
	__atomic_store_n(&m->fault_closed, true, __ATOMIC_RELEASE);
	loop_wake(m->bulk);
}

void source_side_request_turn(struct wh_migration *m)
{
	struct source_side *side = m->source;
	bool begin, close_asked;
	int fd;

	if (__atomic_load_n(&m->fault_closed, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&m->post_lock);
	fd = m->post.urgent_fd;
	m->post.urgent_fd = -1;
	begin = m->post.armed;
	m->post.armed = false;
	close_asked = m->post.close;
	pthread_mutex_unlock(&m->post_lock);

	if (fd >= 0) {
		side->urgent_fd = fd;
		side->urgent_send.done = urgent_send_done;
	}
	if (begin && m->config.return_path) {
		side->recv.done = reply_readable;
		side->reply_timer.done = reply_look_again;
		reply_watch(m);
	}
	if (close_asked) {
		request_close(m);
		return;
	}
	urgent_pump(m);
	/* The queue may have room again: what was received and not taken is not told of again. */
	if (side->reply_have && !side->request_ended)
		reply_take(m);
}
