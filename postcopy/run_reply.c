/* SPDX-License-Identifier: MIT */
/*
 * Joining: the return path's way out. Small messages from two threads; each is sent
 * at once and whole, or waits in a bounded buffer for the socket to take more. Bitmaps are
 * the first that is said on a connection that resumes, each once, and have memory of their
 * own: so all of them go in front of the buffer.
 */
#include "base/bytes.h"
#include "postcopy/run_dest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REQUEST_BYTES (RP_HEADER + 8u + 4u + 256u) /* with the longest name */

static bool reply_waits(const struct reply *reply)
{
	return reply->frame || reply->have;
}

/*
 * The bulk thread looks here every turn, and would meet the fault thread, which sends with the lock
 * held: one would go to sleep and the other have to wake it, in the midst of a fault.
 */
static void reply_unlock(struct reply *reply)
{
	__atomic_store_n(&reply->due, reply_waits(reply) || reply->hungry, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&reply->lock);
}

static void reply_sent(struct reply *reply, size_t sent)
{
	struct reply_frame *frame = reply->frame;

	if (!frame) {
		reply->have -= sent;
		memmove(reply->buf, reply->buf + sent, reply->have);
		return;
	}
	frame->sent += sent;
	if (frame->sent < frame->length)
		return;
	reply->frame = frame->next;
	free(frame);
}

/* With the lock held. 0, or a negative errno that stays */
static int reply_push(struct reply *reply)
{
	while (reply_waits(reply)) {
		const struct reply_frame *frame = reply->frame;
		ssize_t sent;

		sent = send(reply->fd, frame ? frame->bytes + frame->sent : reply->buf,
			    frame ? frame->length - frame->sent : reply->have,
			    MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent >= 0) {
			reply_sent(reply, (size_t)sent);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		reply->error = -errno;
		return reply->error;
	}
	return 0;
}

/* With the lock held */
static void reply_failed(struct wh_migration *m, int code, struct wh_err *err)
{
	if (run_why(m, m->dest->reply.fd, err) == 0)
		err_sys(err, code, "return path: send");
}

int reply_send_bitmap(struct wh_migration *m, const void *message, size_t length,
		      const struct dest_block *block, struct wh_err *err)
{
	uint64_t pages = block->used / TARGET_PAGE;
	struct reply *reply = &m->dest->reply;
	struct reply_frame *frame, **last;
	bool wait;
	int ret;

	frame = malloc(sizeof(*frame) + length + BITMAP_FRAME + bitmap_bytes(pages));
	if (!frame)
		return err_set(err, -ENOMEM, "bitmap of %llu pages: no memory",
			       (unsigned long long)pages);
	memcpy(frame->bytes, message, length);
	frame->length = length + bitmap_put(frame->bytes + length, block->received, pages);
	frame->sent = 0;
	frame->next = NULL;

	pthread_mutex_lock(&reply->lock);
	ret = reply->fd < 0 || reply->have ? -ENOTCONN : reply->error;
	if (ret == 0) {
		for (last = &reply->frame; *last; last = &(*last)->next)
			;
		*last = frame;
		__atomic_fetch_add(&m->dest->engine.counters.bytes_return, frame->length,
				   __ATOMIC_RELAXED);
		frame = NULL;
		ret = reply_push(reply);
	}
	wait = reply_waits(reply);
	if (ret < 0)
		reply_failed(m, ret, err);
	reply_unlock(reply);
	free(frame);
	if (wait)
		loop_wake(m->bulk);
	return ret;
}

unsigned reply_room(struct wh_migration *m)
{
	struct reply *reply = &m->dest->reply;
	size_t room = 0;

	pthread_mutex_lock(&reply->lock);
	/* half of it is for faults that come meanwhile: of theirs none may fail */
	if (reply->have < REPLY_BYTES / 2)
		room = (REPLY_BYTES / 2 - reply->have) / REQUEST_BYTES;
	reply->hungry = !room;
	reply_unlock(reply);
	return (unsigned)room;
}

void reply_reset(struct wh_migration *m, int fd)
{
	struct reply *reply = &m->dest->reply;

	pthread_mutex_lock(&reply->lock);
	while (reply->frame) {
		struct reply_frame *next = reply->frame->next;

		free(reply->frame);
		reply->frame = next;
	}
	reply->fd = fd;
	reply->have = 0;
	reply->error = 0;
	reply->shut = false;
	reply->hungry = false;
	reply_unlock(reply);
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
		reply_unlock(reply);
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
		wait = reply_waits(reply);
	}
	if (ret < 0)
		reply_failed(m, ret, err);
	reply_unlock(reply);
	if (wait)
		loop_wake(m->bulk);
	if (full)
		return err_set(err, ret, "return path: the source has not read %u KiB of messages",
			       REPLY_BYTES >> 10);
	return ret;
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
	bool wait, fed;

	if (!__atomic_load_n(&reply->due, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&reply->lock);
	wait = reply->fd >= 0 && !reply->error && reply_waits(reply) && reply_push(reply) == 0 &&
	       reply_waits(reply);
	fed = reply->hungry && !wait;
	reply->hungry &= !fed;
	if (wait && !op_busy(&reply->poll)) {
		reply->poll.done = reply_writable;
		loop_poll(m->bulk, &reply->poll, reply->fd, POLLOUT);
	}
	reply_unlock(reply);
	if (fed)
		loop_wake(m->fault);
}

bool reply_flushed(struct wh_migration *m)
{
	struct reply *reply = &m->dest->reply;
	bool flushed;

	pthread_mutex_lock(&reply->lock);
	flushed = reply->fd < 0 || reply->error || !reply_waits(reply);
	pthread_mutex_unlock(&reply->lock);
	return flushed;
}
