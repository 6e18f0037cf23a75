/* SPDX-License-Identifier: MIT */
/*
 * Joining: the connections of a protection that go over RDMA; run_rdma.h says what they are.
 */
#include "checkpoint/run_rdma.h"

#include "base/err.h"

#include <errno.h>

#ifdef WH_NO_RDMA

uint64_t piers_turn(struct wh_protect *p, uint64_t now_ns)
{
	(void)p, (void)now_ns;
	return UINT64_MAX;
}

void piers_free(struct wh_protect *p)
{
	(void)p;
}

int pier_fd(const struct pier *pier)
{
	(void)pier;
	return -1;
}

void pier_receive(struct pier *pier, struct op *op, uint8_t *to, size_t room)
{
	(void)pier, (void)op, (void)to, (void)room;
}

void pier_send(struct pier *pier, struct op *op, const struct msghdr *msg)
{
	(void)pier, (void)op, (void)msg;
}

bool pier_sending(const struct pier *pier)
{
	(void)pier;
	return false;
}

void pier_say(struct pier *pier, const uint8_t *bytes, size_t length)
{
	(void)pier, (void)bytes, (void)length;
}

bool pier_flushed(const struct pier *pier)
{
	(void)pier;
	return true;
}

int pier_why(const struct pier *pier, struct wh_err *err)
{
	(void)pier, (void)err;
	return 0;
}

int pier_lend(struct pier *pier, struct wh_err *err)
{
	(void)pier, (void)err;
	return 0;
}

struct slab_watch pier_watch(struct wh_protect *p)
{
	(void)p;
	return (struct slab_watch){ .made = NULL };
}

void pier_close(struct pier *pier)
{
	(void)pier;
}
#else
#include "rdma/pin.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define LINGER_NS NS_PER_S
/* What is heard in a turn; others are to have theirs */
#define HEAR_MOST 32u

static void polled(struct op *op, int result)
{
	(void)op, (void)result; /* piers_turn() looks at everything */
}

void pier_poll(struct pier *pier, struct op *op, int fd)
{
	if (!op_busy(op))
		loop_poll(pier->p->loop, op, fd, POLLIN);
}

struct pier *pier_new(struct wh_protect *p, struct wh_err *err)
{
	struct pier *pier = NULL;
	unsigned count = 0;

	for (const struct pier *other = p->piers; other; other = other->next)
		count++;
	if (count < PIERS_MAX)
		pier = calloc(1, sizeof(*pier));
	if (!pier) {
		err_set(err, -ENOMEM, "rdma: no room for another connection");
		return NULL;
	}
	pier->p = p;
	pier->event.done = pier->receive.done = pier->send.done = polled;
	vflow_init(&pier->flow, VLINK_SENDS);
	pier->next = p->piers;
	p->piers = pier;
	return pier;
}

/* The queue pair goes before the memory that it reads or writes */
static void take_down(struct pier *pier)
{
	vlink_disconnect(&pier->link);
	pier_unpin(pier);
	vunpin(pier->mr);
	if (pier->chain.first) {
		slab_chain_give(&pier->pool, &pier->chain);
		slab_pool_fini(&pier->pool);
	}
	vlink_close(&pier->link);
	free(pier);
}

void piers_free(struct wh_protect *p)
{
	while (p->piers) {
		struct pier *pier = p->piers;

		p->piers = pier->next;
		take_down(pier);
	}
}

/* ---- What is asked of it ------------------------------------------------------- */

int pier_fd(const struct pier *pier)
{
	return vlink_event_fd(&pier->link);
}

void pier_receive(struct pier *pier, struct op *op, uint8_t *to, size_t room)
{
	pier->into = op;
	pier->to = to;
	pier->room = room;
	loop_wake(pier->p->loop);
}

void pier_send(struct pier *pier, struct op *op, const struct msghdr *msg)
{
	pier->from = op;
	pier->piece = msg->msg_iov;
	pier->pieces = msg->msg_iovlen;
	pier->piece_at = pier->total = 0;
	loop_wake(pier->p->loop);
}

bool pier_sending(const struct pier *pier)
{
	return pier->from;
}

bool pier_flushed(const struct pier *pier)
{
	return pier->ended || (!pier->from && !pier->link.messages);
}

int pier_why(const struct pier *pier, struct wh_err *err)
{
	if (pier->gone)
		*err = pier->why;
	return pier->gone ? pier->why.code : 0;
}

void pier_say(struct pier *pier, const uint8_t *bytes, size_t length)
{
	size_t header = parcel_header(PARCEL_STREAM);
	struct wh_err err = { 0 };
	uint8_t *at;

	if (!pier->link.up || pier->gone || pier->message || !vflow_may_send(&pier->flow) ||
	    vlink_room(&pier->link, &at, &err) <= 0)
		return;
	memcpy(at + header, bytes, length);
	(void)vlink_send(&pier->link, vflow_put(&pier->flow, at, (uint32_t)length, 0), &err);
}

int pier_lend(struct pier *pier, struct wh_err *err)
{
	uint64_t bytes;
	uint32_t key;
	uint8_t *area, *at;
	int ret = vlink_room(&pier->link, &at, err);

	if (ret <= 0 || !vflow_may_send(&pier->flow))
		return ret < 0 ? ret : err_set(err, -EPROTO, "rdma: there is no room to say so");
	slab_pool_init(&pier->pool, SLAB_BYTES, false);
	area = slab_room(&pier->pool, &pier->chain, SLAB_BYTES, SLAB_BYTES, &bytes, err);
	if (!area)
		return -ENOMEM;
	ret = vpin(pier->link.pd, area, bytes, true, &pier->mr, &key, err);
	if (ret < 0)
		return ret;
	return vlink_send(&pier->link, vflow_lend(&pier->flow, at, area, bytes, key), err);
}

void pier_close(struct pier *pier)
{
	if (!pier || pier->closing)
		return;
	pier->closing = true;
	pier->into = pier->from = NULL;
	pier->called = NULL;
	pier->linger_ns = clock_now_ns() + LINGER_NS;
	loop_wake(pier->p->loop);
}

/* ---- The turn -------------------------------------------------------------------- */

static void leave(struct pier *pier, const struct wh_err *why)
{
	if (pier->gone)
		return;
	pier->gone = true;
	pier->why = *why;
}

/* Somebody waits for it: what he does then may be to close it, or to wait for more */
static void give(struct pier *pier)
{
	struct op *op = pier->into;

	pier->into = NULL;
	op->done(op, (int)vflow_take(&pier->flow, pier->to, pier->room));
}

/* Return: 1 there may be more, 0 nothing, or not now, or a negative errno: it has broken */
static int hear(struct pier *pier, struct wh_err *err)
{
	const uint8_t *message;
	size_t bytes;
	int ret;

	for (unsigned i = 0; i < HEAR_MOST; i++) {
		if (vflow_left(&pier->flow)) {
			if (!pier->into)
				return 0;
			give(pier);
			if (pier->closing)
				return 0;
			continue;
		}
		if (vflow_reading(&pier->flow)) {
			vflow_gone(&pier->flow);
			ret = vlink_receive(&pier->link, err);
			if (ret < 0)
				return ret;
		}
		ret = vlink_received(&pier->link, &message, &bytes, err);
		if (ret > 0)
			ret = vflow_get(&pier->flow, message, bytes, err);
		else
			return ret;
		if (ret < 0)
			return ret;
	}
	return 1;
}

/* All that had come was given away */
static void tell_end(struct pier *pier)
{
	struct op *op = pier->into;

	pier->ended = true;
	pier->into = NULL;
	if (op)
		op->done(op, pier->why.code);
	op = pier->from;
	pier->from = NULL;
	if (op && !pier->closing)
		op->done(op, pier->why.code);
}

static void tell_sent(struct pier *pier)
{
	struct op *op = pier->from;

	pier->from = NULL;
	op->done(op, (int)pier->total);
}

/* What has been sent says why it broke, where it has: what was to be received only that it did */
static int go_on(struct pier *pier, struct wh_err *err)
{
	struct wh_err sent = { 0 };
	int ret, more;

	while ((ret = vlink_event(&pier->link, err)) > 0)
		;
	if (ret < 0)
		leave(pier, err);
	if (!pier->link.up)
		return 0;
	if (!pier->gone && pier_push(pier, &sent) < 0)
		leave(pier, &sent);
	more = hear(pier, err);
	if (more < 0)
		leave(pier, err);
	return more;
}

static uint64_t open_turn(struct pier *pier)
{
	struct wh_err err = { 0 };
	int more;

	if (pier->ended) {
		tell_end(pier);
		return UINT64_MAX;
	}
	more = go_on(pier, &err);
	if (pier->closing || more > 0)
		return 0;
	if (pier->gone) {
		if (!vflow_left(&pier->flow) || !pier->link.up)
			tell_end(pier);
		return UINT64_MAX;
	}
	/* what was heard may have been what sending waits for */
	if (pier->link.up && pier_push(pier, &err) < 0) {
		leave(pier, &err);
		return 0;
	}
	if (pier->from && !pier->pieces && !pier->message && !pier->writes)
		tell_sent(pier);
	if (pier->closing)
		return 0;
	pier_poll(pier, &pier->event, vlink_event_fd(&pier->link));
	if (pier->link.up && !vflow_left(&pier->flow))
		pier_poll(pier, &pier->receive, vlink_receive_fd(&pier->link));
	if (pier->link.up)
		pier_poll(pier, &pier->send, vlink_send_fd(&pier->link));
	return UINT64_MAX;
}

static bool cancel(struct pier *pier, struct op *op)
{
	if (op_busy(op))
		loop_cancel(pier->p->loop, op);
	return op_busy(op);
}

/* Return: it is waited for something yet */
static bool close_turn(struct pier *pier, uint64_t now_ns, uint64_t *next_ns)
{
	struct wh_err err = { 0 };
	uint8_t *at;
	bool busy;

	if (pier->link.up && !pier->gone && now_ns < pier->linger_ns &&
	    vlink_room(&pier->link, &at, &err) >= 0 && pier->link.messages) {
		pier_poll(pier, &pier->send, vlink_send_fd(&pier->link));
		*next_ns = pier->linger_ns;
		return true;
	}
	busy = cancel(pier, &pier->event);
	busy |= cancel(pier, &pier->receive);
	busy |= cancel(pier, &pier->send);
	return busy;
}

uint64_t piers_turn(struct wh_protect *p, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;
	struct pier **at;

	/* others may come meanwhile, in front */
	for (struct pier *pier = p->piers; pier; pier = pier->next) {
		uint64_t then_ns = UINT64_MAX;

		if (!pier->closing && pier->called)
			then_ns = pier_dial_turn(pier, now_ns);
		else if (!pier->closing && (!pier->ended || pier->into || pier->from))
			then_ns = open_turn(pier);
		next_ns = then_ns < next_ns ? then_ns : next_ns;
	}
	for (at = &p->piers; *at;) {
		struct pier *pier = *at;
		uint64_t then_ns = UINT64_MAX;

		if (!pier->closing || close_turn(pier, now_ns, &then_ns)) {
			at = &pier->next;
		} else {
			*at = pier->next;
			take_down(pier);
		}
		next_ns = then_ns < next_ns ? then_ns : next_ns;
	}
	return next_ns;
}
#endif
