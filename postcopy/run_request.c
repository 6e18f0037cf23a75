/* SPDX-License-Identifier: MIT */
/*
 * Joining: the source's request loop: return path in, requested pages out over the
 * urgent channel. A send that blocks never stops the reading of requests, and a
 * full queue of requests stops the reading until there is room.
 */
#include "postcopy/run_source.h"

#include <errno.h>
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

static void urgent_send(struct wh_migration *m)
{
	struct source_side *side = m->source;

	side->probe.done = probe_urgent;
	if (m->config.dead_peer_ns && !op_busy(&side->probe))
		loop_timer(m->fault, &side->probe, clock_now_ns() + m->config.dead_peer_ns / 4);
	loop_sendmsg(m->fault, &side->urgent_send, side->urgent_fd, &side->urgent_msg,
		     MSG_WAITALL | MSG_NOSIGNAL);
}

static void urgent_pump(struct wh_migration *m)
{
	struct source_side *side = m->source;

	if (side->urgent_fd < 0 || op_busy(&side->urgent_send) || side->urgent_ended)
		return;
	if (!source_urgent(side->engine, side->urgent_batch))
		return;
	side->urgent_sent = 0;
	side->urgent_taken_ns = clock_now_ns();
	side->urgent_msg = (struct msghdr){
		.msg_iov = side->urgent_batch->iov,
		.msg_iovlen = side->urgent_batch->count,
	};
	urgent_send(m);
}

static void urgent_send_done(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, urgent_send));
	struct wh_migration *m = side->owner;
	struct wh_err err = { 0 };
	uint64_t now_ns;

	if (side->urgent_ended)
		return;
	if ((result == -EINTR || result == -EAGAIN || result == -ECANCELED) &&
	    !source_side_silent(m, side->urgent_taken_ns, &err)) {
		urgent_send(m);
		return;
	}
	if (result <= 0) {
		if (!err.code && run_why(m, side->urgent_fd, &err) == 0)
			err_sys(&err, result ? result : -EPIPE, "urgent channel: send");
		post_lost(m, CHANNEL_URGENT, &err);
		side->urgent_ended = true;
		return;
	}
	side->urgent_sent += (size_t)result;
	now_ns = clock_now_ns();
	side->urgent_taken_ns = now_ns;
	if (side->urgent_sent < side->urgent_batch->bytes) {
		msg_advance(&side->urgent_msg, (size_t)result);
		urgent_send(m);
		return;
	}
	source_urgent_sent(side->engine, side->urgent_batch->bytes, now_ns);
	urgent_pump(m);
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

static void reply_receive(struct wh_migration *m)
{
	struct source_side *side = m->source;

	if (side->request_ended || op_busy(&side->recv))
		return;
	reply_shrink(m);
	if (side->reply_have < side->reply_room) {
		loop_recv(m->fault, &side->recv, side->fd, side->reply_buf + side->reply_have,
			  side->reply_room - side->reply_have, 0);
		return;
	}
	if (!op_busy(&side->reply_timer))
		loop_timer(m->fault, &side->reply_timer, clock_now_ns() + NS_PER_MS);
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
	memmove(side->reply_buf, side->reply_buf + used, side->reply_have);
	if (ret < 0) {
		side->request_ended = true;
		post_lost(m, CHANNEL_MAIN, &err);
		return;
	}
	urgent_pump(m);
	reply_receive(m);
}

static void reply_received(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, recv));
	struct wh_migration *m = side->owner;
	struct wh_err err = { 0 };

	if (side->request_ended)
		return;
	if (result == -EINTR || result == -EAGAIN) {
		reply_receive(m);
		return;
	}
	if (result <= 0) {
		side->request_ended = true;
		if (run_why(m, side->fd, &err) < 0)
			err_wrap(&err, "return path");
		else if (result == 0)
			err_set(&err, -EPIPE, "return path: the destination closed it");
		else
			err_sys(&err, result, "return path: receive");
		post_lost(m, CHANNEL_MAIN, &err);
		return;
	}
	side->reply_have += (size_t)result;
	reply_take(m);
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
		side->recv.done = reply_received;
		side->recv.poll_first = true;
		side->reply_timer.done = reply_look_again;
		reply_receive(m);
	}
	if (close_asked) {
		request_close(m);
		return;
	}
	urgent_pump(m);
	/* The queue has room again: what was received and not taken is not lost. */
	if (side->reply_have == side->reply_room && !op_busy(&side->recv))
		reply_take(m);
}
