/* SPDX-License-Identifier: MIT */
/*
 * Joining: bytes of one channel from its socket into the destination's engine.
 *
 * One receive under way, always to where the intake (intake.h) wants the next bytes.
 */
#include "postcopy/run_dest.h"

#include <errno.h>
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

static void inlet_receive(struct inlet *inlet)
{
	if (inlet->ended)
		return;
	inlet->msg = (struct msghdr){
		.msg_iov = inlet->piece,
		.msg_iovlen = intake_room(&inlet->intake, inlet->piece),
	};
	if (inlet->channel == CHANNEL_MAIN)
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
	if (ret == DEST_RETRY)
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

static void inlet_received(struct op *op, int result)
{
	struct inlet *inlet = (struct inlet *)((char *)op - offsetof(struct inlet, recv));
	struct wh_err err = { 0 };

	if (inlet->ended)
		return;
	if (result == -EINTR || result == -EAGAIN) {
		inlet_receive(inlet);
		return;
	}
	if (result <= 0) {
		const char *name = inlet->channel == CHANNEL_MAIN ? "main" : "urgent";

		inlet_idle(inlet);
		if (run_why(inlet->m, inlet->fd, &err) < 0)
			err_wrap(&err, "%s channel", name);
		else if (result < 0)
			err_sys(&err, result, "%s channel: receive", name);
		inlet_lost(inlet, err.code ? &err : NULL);
		return;
	}
	if (early_received(inlet, (size_t)result, &err) < 0) {
		inlet_lost(inlet, &err);
		return;
	}
	inlet_feed(inlet, (size_t)result);
}

static void inlet_retried(struct op *op, int result)
{
	struct inlet *inlet = (struct inlet *)((char *)op - offsetof(struct inlet, retry));

	if (result == -ECANCELED || inlet->ended)
		return;
	if (op_busy(&inlet->recv))
		inlet_idle(inlet); /* it was dest_idle() that has to be tried again */
	else
		inlet_feed(inlet, 0);
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
		/* A page that is waited for is not there yet; the bulk's next one often is */
		.recv.poll_first = channel == CHANNEL_URGENT,
		.retry.done = inlet_retried,
	};
	inlet->buf = malloc(INTAKE_BYTES);
	if (!inlet->buf)
		return err_set(err, -ENOMEM, "channel: no memory for its buffer");
	__atomic_fetch_add(&m->own_bytes, INTAKE_BYTES, __ATOMIC_RELAXED);
	inlet->m = m;
	intake_init(&inlet->intake, &m->dest->engine, channel, inlet->buf);
	inlet_receive(inlet);
	return 0;
}

bool inlet_busy(const struct inlet *inlet)
{
	return op_busy(&inlet->recv) || op_busy(&inlet->retry);
}

void inlet_close(struct inlet *inlet)
{
	if (!inlet->m)
		return;
	inlet->ended = true;
	if (op_busy(&inlet->recv))
		loop_cancel(inlet->loop, &inlet->recv);
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
