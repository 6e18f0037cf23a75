/* SPDX-License-Identifier: MIT */
/*
 * Joining: the return path's way out. Small messages from two threads; each is sent
 * at once and whole, or waits in a bounded buffer for the socket to take more.
 */
#include "base/bytes.h"
#include "postcopy/run.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* With the lock held. 0, or a negative errno that stays */
static int reply_push(struct reply *reply)
{
	ssize_t sent;

	while (reply->have) {
		sent = send(reply->fd, reply->buf, reply->have, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return 0;
			reply->error = -errno;
			return reply->error;
		}
		reply->have -= (size_t)sent;
		memmove(reply->buf, reply->buf + sent, reply->have);
	}
	return 0;
}

int reply_send(struct wh_migration *m, const void *message, size_t length, struct wh_err *err)
{
	struct reply *reply = &m->dest->reply;
	bool full = false;
	bool wait = false;
	int ret;

	pthread_mutex_lock(&reply->lock);
	ret = reply->fd < 0 ? -ENOTCONN : reply->error;
	if (reply->shut) {
		/* A request whose page came while it was being made: nobody listens. */
		pthread_mutex_unlock(&reply->lock);
		return 0;
	}
	reply->shut = get_be16(message) == RP_SHUT;
	if (ret == 0 && length > sizeof(reply->buf) - reply->have) {
		/* A peer that asks and asks and reads no answer. */
		full = true;
		ret = -ENOBUFS;
	}
	if (ret == 0) {
		memcpy(reply->buf + reply->have, message, length);
		reply->have += length;
		__atomic_fetch_add(&m->dest->engine.counters.bytes_return, length,
				   __ATOMIC_RELAXED);
		ret = reply_push(reply);
		wait = reply->have != 0;
	}
	pthread_mutex_unlock(&reply->lock);
	if (wait)
		loop_wake(m->bulk);
	if (full)
		return err_set(err, ret, "return path: the source has not read %u KiB of messages",
			       REPLY_BYTES >> 10);
	if (ret < 0)
		return err_sys(err, ret, "return path: send");
	return 0;
}

static void reply_writable(struct op *op, int result)
{
	(void)op;
	(void)result; /* the turn pushes */
}

/* Bulk loop: goes on where a send could not. */
void reply_turn(struct wh_migration *m)
{
	struct reply *reply = &m->dest->reply;
	bool wait;

	pthread_mutex_lock(&reply->lock);
	wait = reply->fd >= 0 && !reply->error && reply->have && reply_push(reply) == 0 &&
	       reply->have;
	if (wait && !op_busy(&reply->poll)) {
		reply->poll.done = reply_writable;
		loop_poll(m->bulk, &reply->poll, reply->fd, POLLOUT);
	}
	pthread_mutex_unlock(&reply->lock);
}

bool reply_flushed(struct wh_migration *m)
{
	struct reply *reply = &m->dest->reply;
	bool flushed;

	pthread_mutex_lock(&reply->lock);
	flushed = reply->fd < 0 || reply->error || reply->have == 0;
	pthread_mutex_unlock(&reply->lock);
	return flushed;
}
