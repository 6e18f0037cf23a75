/* SPDX-License-Identifier: MIT */
/*
 * Joining: the thread of an RDMA connection at the destination; run_bridge.c says what for.
 */
#ifndef WH_NO_RDMA
#include "base/zero.h"
#include "postcopy/bridge.h"
#include "postcopy/on_demand.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define FLUSH_NS (500 * NS_PER_MS)
#define BROKEN_NS (200 * NS_PER_MS) /* until the peer's farewell must be there, if it is one */

static_assert(VDEST_BLOCKS_MAX >= RAM_BLOCKS_MAX, "every block is one of its own");
static_assert(VLINK_SEND_MAX >= VDEST_ANSWER_MAX, "an answer is one message");

/* ---- What the engine does to memory --------------------------------------------- */

static int op_grant(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err)
{
	struct bridge *bridge = ctx;
	int ret = chunk == VDEST_WHOLE ? vmem_grant_whole(&bridge->memory, block, rkey, err) :
					 vmem_grant(&bridge->memory, block, chunk, rkey, err);

	on_demand_look(bridge->m, &bridge->memory);
	return ret;
}

static int op_revoke(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err)
{
	return vmem_revoke(&((struct bridge *)ctx)->memory, block, chunk, err);
}

/* In place: dropping the memory would leave the pages behind that are registered */
static void op_clear(void *ctx, unsigned block, uint64_t offset, uint64_t length)
{
	struct bridge *bridge = ctx;
	struct dest *dest = &bridge->m->dest->engine;
	uint8_t *at = bridge->memory.block[block].addr + offset;

	for (uint64_t page = 0; page < length; page += TARGET_PAGE)
		if (!zero_page(at + page, TARGET_PAGE))
			memset(at + page, 0, TARGET_PAGE);
	__atomic_fetch_add(&dest->counters.pages_zero, length / TARGET_PAGE, __ATOMIC_RELAXED);
}

static const struct vdest_ops bridge_ops = { op_grant, op_revoke, op_clear };

/* ---- The thread ------------------------------------------------------------------ */

static void polled(struct op *op, int result)
{
	(void)op, (void)result; /* bridge_turn() looks at everything */
}

void bridge_watch(struct bridge *bridge, struct op *op, int fd, short events)
{
	if (!op_busy(op))
		loop_poll(bridge->loop, op, fd, events);
}

/* The first reason counts */
static void fail(struct bridge *bridge, const struct wh_err *err)
{
	if (!bridge->err.code)
		bridge->err = *err;
	bridge->over = true;
}

/* The list, as the stream gave it: the engine has it before it calls bridge_hook() */
static int open_memory(struct bridge *bridge, struct wh_err *err)
{
	const struct dest *dest = &bridge->m->dest->engine;
	struct vdest_block block[RAM_BLOCKS_MAX];
	int ret;

	ret = vmem_open(&bridge->memory, bridge->link.pd, false, dest->blocks, err);
	bridge->memory.max = bridge->m->config.rdma_pin_max;
	bridge->memory.bits = bridge->engine.bits;
	if (ret == 0)
		on_demand_begin(bridge->m, &bridge->memory);
	for (unsigned i = 0; i < dest->blocks && ret == 0; i++) {
		uint8_t *addr = dest->block[i].region->addr;

		block[i] = (struct vdest_block){ .host = (uintptr_t)addr,
						 .length = dest->block[i].used };
		ret = vmem_add(&bridge->memory, addr, dest->block[i].used, err);
	}
	if (ret == 0)
		vdest_blocks(&bridge->engine, block, dest->blocks);
	return ret;
}

/* The source writes to nothing any more, and whoever waits for that is told */
static void close_memory(struct bridge *bridge)
{
	if (bridge->closed)
		return;
	bridge->closed = true;
	vmem_close(&bridge->memory);
	pthread_mutex_lock(&bridge->lock);
	bridge->fenced = true;
	pthread_cond_broadcast(&bridge->cond);
	pthread_mutex_unlock(&bridge->lock);
}

/* What the bulk loop has said since */
static int take_mail(struct bridge *bridge, struct wh_err *err)
{
	uint64_t hooks;
	int ret = 0;
	bool fence;

	pthread_mutex_lock(&bridge->lock);
	hooks = bridge->hooks;
	fence = bridge->fence;
	bridge->back_open = bridge->back_given;
	if (bridge->stop)
		bridge->over = true;
	pthread_mutex_unlock(&bridge->lock);
	if (fence)
		close_memory(bridge);
	if (bridge->closed)
		return 0;
	if (hooks && !bridge->engine.blocks)
		ret = open_memory(bridge, err);
	while (bridge->engine.hooks < hooks)
		vdest_hook(&bridge->engine);
	return ret;
}

/* Return: 1 go on, 0 wait, or a negative errno */
static int step_take(struct bridge *bridge, struct wh_err *err)
{
	struct control control;
	uint8_t *answer = NULL;
	size_t length;
	int ret;

	/* The stream is not answered: the last of it counts even if the peer has gone since */
	ret = control_get(bridge->message, bridge->message_bytes, &control, err);
	if (ret < 0)
		return ret;
	if (bridge->closed && control.kind != CONTROL_STREAM && control.kind != CONTROL_ERROR)
		return err_set(err, -EPROTO, "rdma: %s, when all of it has come",
			       control_name(control.kind));
	if (control.kind != CONTROL_STREAM) {
		ret = vlink_room(&bridge->link, &answer, err);
		if (ret <= 0)
			return ret;
	}
	ret = vdest_take(&bridge->engine, bridge->message, bridge->message_bytes, &control, answer,
			 &length, err);
	if (ret < 0)
		return ret;
	switch ((enum vdest_next)ret) {
	case VDEST_STREAM:
		bridge->left = control.payload;
		bridge->left_bytes = control.length;
		bridge->step = STEP_STREAM;
		return 1;
	case VDEST_WAIT:
		if (!bridge->since_ns)
			bridge->since_ns = clock_now_ns();
		return 0;
	case VDEST_READY:
		break;
	}
	bridge->since_ns = 0;
	bridge->step = STEP_READY;
	if (length)
		ret = vlink_send(&bridge->link, length, err);
	return ret < 0 ? ret : 1;
}

static int step_stream(struct bridge *bridge, struct wh_err *err)
{
	ssize_t sent =
		send(bridge->fd, bridge->left, bridge->left_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
		bridge_watch(bridge, &bridge->room, bridge->fd, POLLOUT);
		return 0;
	}
	/* whoever reads has ended, and knows why */
	if (sent < 0) {
		bridge->over = true;
		return 0;
	}
	(void)err;
	bridge->left += sent;
	bridge->left_bytes -= (size_t)sent;
	if (!bridge->left_bytes)
		bridge->step = STEP_READY;
	return 1;
}

/* Room for the next message first, then the peer is told of it */
static int step_ready(struct bridge *bridge, struct wh_err *err)
{
	uint8_t *at;
	int ret = vlink_room(&bridge->link, &at, err);

	if (ret <= 0)
		return ret;
	/* the first one was posted before the connection was there */
	if (bridge->message_bytes)
		ret = vlink_receive(&bridge->link, err);
	if (ret >= 0)
		ret = vlink_send(&bridge->link, control_put(at, CONTROL_READY, 1, 0), err);
	if (ret < 0)
		return ret;
	bridge->step = STEP_NONE;
	return 1;
}

static int step_none(struct bridge *bridge, struct wh_err *err)
{
	int ret = vlink_received(&bridge->link, &bridge->message, &bridge->message_bytes, err);

	if (ret > 0) {
		bridge->step = STEP_TAKE;
		bridge->heard_ns = clock_now_ns();
	}
	return ret;
}

static int step(struct bridge *bridge, struct wh_err *err)
{
	switch (bridge->step) {
	case STEP_TAKE:
		return step_take(bridge, err);
	case STEP_STREAM:
		return step_stream(bridge, err);
	case STEP_READY:
		return step_ready(bridge, err);
	case STEP_NONE:
		break;
	}
	return step_none(bridge, err);
}

/* Has whoever reads the stream closed? */
static void look_at_reader(struct bridge *bridge)
{
	struct pollfd poll_fd = { .fd = bridge->fd, .events = POLLRDHUP };

	if (poll(&poll_fd, 1, 0) > 0)
		bridge->over = true;
}

/* Who waits too long */
static void look_at_clock(struct bridge *bridge)
{
	uint64_t limit_ns = bridge->m->config.connect_timeout_ns;
	struct wh_err err = { 0 };

	if (bridge->broken_ns && clock_now_ns() - bridge->broken_ns >= BROKEN_NS) {
		err_set(&err, -ENOTCONN, "rdma: the connection broke");
		fail(bridge, &err);
	}
	if (bridge->broken_ns && !op_busy(&bridge->probe))
		loop_timer(bridge->loop, &bridge->probe, bridge->broken_ns + BROKEN_NS);
	if (!bridge->since_ns)
		return;
	if (clock_now_ns() - bridge->since_ns >= limit_ns) {
		err_set(&err, bridge->link.up ? -EPROTO : -ETIMEDOUT,
			bridge->link.up ?
				"rdma: a message about memory which the stream does not announce" :
				"rdma: the connection was accepted, and not established in time");
		fail(bridge, &err);
	} else if (!op_busy(&bridge->timer)) {
		loop_timer(bridge->loop, &bridge->timer, bridge->since_ns + limit_ns);
	}
}

/*
 * Nothing was heard for a while: is anybody there? A cable that was cut says nothing, and who
 * waits for a message has nothing under way that could fail.
 */
static int look_for_peer(struct bridge *bridge, struct wh_err *err)
{
	uint64_t after_ns = bridge->m->config.dead_peer_ns / 4;
	uint64_t now_ns = clock_now_ns();
	uint8_t *at;
	int ret;

	if (!bridge->link.up || bridge->broken_ns)
		return 0;
	/* What is complete is taken off, or its descriptor would be readable for ever */
	ret = vlink_room(&bridge->link, &at, err);
	if (ret < 0 || !after_ns)
		return ret;
	if (now_ns - bridge->heard_ns >= after_ns) {
		if (!bridge->link.sending)
			ret = vlink_probe(&bridge->link, err);
		bridge->heard_ns = now_ns;
	}
	if (!op_busy(&bridge->probe))
		loop_timer(bridge->loop, &bridge->probe, bridge->heard_ns + after_ns);
	return ret;
}

/* The peer has gone: what it said before is passed on first, then the reader is told */
static void hang_up(struct bridge *bridge)
{
	if (bridge->step == STEP_STREAM)
		return;
	bridge->over = true;
	shutdown(bridge->fd, SHUT_WR);
}

static void look_at_peer(struct bridge *bridge)
{
	struct wh_err err = { 0 };
	int ret;

	while ((ret = vlink_event(&bridge->link, &err)) > 0)
		bridge->since_ns = 0;
	if (ret == -ENOTCONN && bridge->link.up)
		bridge->gone = true;
	else if (ret < 0)
		fail(bridge, &err);
}

/*
 * What waits for a message only sees that the link has ended. Why, is with what was sent, or the
 * peer's farewell is about to come, or nobody knows. Return: 0 wait for that, or the reason
 */
static int broke(struct bridge *bridge, struct wh_err *err)
{
	struct wh_err sent = { 0 };
	uint8_t *at;

	if (vlink_room(&bridge->link, &at, &sent) < 0 && sent.code != -ENOTCONN) {
		*err = sent;
		return sent.code;
	}
	bridge->broken_ns = clock_now_ns();
	return 0;
}

static void bridge_turn(struct bridge *bridge)
{
	struct wh_err err = { 0 };
	int ret;

	look_at_peer(bridge);
	ret = take_mail(bridge, &err);
	if (bridge->link.up && !bridge->broken_ns)
		while (ret >= 0 && !bridge->over && (ret = step(bridge, &err)) > 0)
			;
	if (ret >= 0 && !bridge->over && !bridge->broken_ns)
		ret = bridge_back_turn(bridge, &err);
	if (ret >= 0 && !bridge->over)
		ret = look_for_peer(bridge, &err);
	if (ret == -ENOTCONN && !bridge->gone)
		ret = broke(bridge, &err);
	if (bridge->gone && (ret == -ENOTCONN || ret >= 0))
		hang_up(bridge);
	else if (ret < 0)
		fail(bridge, &err);
	if (bridge->over)
		return;
	look_at_reader(bridge);
	look_at_clock(bridge);
	bridge_watch(bridge, &bridge->event, vlink_event_fd(&bridge->link), POLLIN);
	/* otherwise nothing can come, and what came is not taken off */
	if (bridge->step == STEP_NONE && !bridge->broken_ns)
		bridge_watch(bridge, &bridge->receive, vlink_receive_fd(&bridge->link), POLLIN);
	if (!bridge->broken_ns)
		bridge_watch(bridge, &bridge->send, vlink_send_fd(&bridge->link), POLLIN);
	bridge_watch(bridge, &bridge->reader, bridge->fd, POLLRDHUP);
}

/*
 * What was handed over leaves before the connection goes. That it has arrived says also that
 * what came before it was acknowledged: the source does not take its last message for lost.
 */
static void flush(struct bridge *bridge)
{
	uint64_t until_ns = clock_now_ns() + FLUSH_NS, now_ns;
	struct wh_err err = { 0 };
	uint8_t *at;

	while (vlink_room(&bridge->link, &at, &err) >= 0 && bridge->link.sending &&
	       (now_ns = clock_now_ns()) < until_ns) {
		bridge_watch(bridge, &bridge->send, vlink_send_fd(&bridge->link), POLLIN);
		if (loop_step(bridge->loop, (int64_t)(until_ns - now_ns), &err) < 0)
			return;
	}
}

/* The source hears that it was no orderly end, if it can be told */
static void say_error(struct bridge *bridge)
{
	struct wh_err err = { 0 };
	uint8_t *at;

	if (bridge->gone || !bridge->link.up || vlink_room(&bridge->link, &at, &err) <= 0)
		return;
	(void)vlink_send(&bridge->link, control_put(at, CONTROL_ERROR, 1, 0), &err);
}

/* Return: the bulk loop knows what becomes of the migration */
static bool is_decided(struct bridge *bridge)
{
	bool stop, fence;

	pthread_mutex_lock(&bridge->lock);
	stop = bridge->stop;
	fence = bridge->fence;
	pthread_mutex_unlock(&bridge->lock);
	if (fence)
		close_memory(bridge);
	return stop;
}

/*
 * Who has read all of the stream starts the guest, whatever becomes of the connection: an ERROR
 * of this thread would start it at the source too. So the bulk loop hears of a failure first, and the
 * source only if that is one of the migration.
 */
static void tell_failure(struct bridge *bridge)
{
	struct wh_migration *m = bridge->m;
	struct wh_err err = { 0 };

	pthread_mutex_lock(&m->post_lock);
	m->post.bridge_failed = true;
	m->post.bridge_err = bridge->err;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->bulk);
	while (!is_decided(bridge) && loop_step(bridge->loop, -1, &err) >= 0)
		;
	/* and if it was none, whoever waits for what the stream begins with waits no longer */
	shutdown(bridge->fd, SHUT_WR);
}

/*
 * The loop and the socket stay until the thread is joined: the bulk loop wakes the one, and an
 * end of the other would tell less than what bridge->err says.
 */
static void bridge_end(struct bridge *bridge)
{
	struct wh_migration *m = bridge->m;

	if (bridge->err.code)
		tell_failure(bridge);
	if (bridge->err.code != -ECONNABORTED && wh_get_phase(m) == WH_PHASE_FAILED)
		say_error(bridge);
	bridge_back_flush(bridge);
	flush(bridge);
	vlink_disconnect(&bridge->link);
	if (bridge->back_open)
		vlink_disconnect(&bridge->back);
	close_memory(bridge);
	vlink_close(&bridge->link);
	__atomic_store_n(&bridge->ended, true, __ATOMIC_RELEASE);
	loop_wake(m->bulk);
}

void *bridge_thread(void *arg)
{
	struct bridge *bridge = arg;
	struct wh_err err = { 0 };

	while (!bridge->over) {
		bridge_turn(bridge);
		if (!bridge->over && loop_step(bridge->loop, -1, &err) < 0)
			fail(bridge, &err);
	}
	bridge_end(bridge);
	return NULL;
}

void bridge_thread_init(struct bridge *bridge, uint32_t flags, int fd)
{
	vdest_init(&bridge->engine, &bridge_ops, bridge, flags);
	bridge->event.done = bridge->receive.done = bridge->send.done = polled;
	bridge->reader.done = bridge->room.done = bridge->timer.done = polled;
	bridge->probe.done = polled;
	bridge_back_init(bridge, polled);
	bridge->step = STEP_READY;
	bridge->since_ns = bridge->heard_ns = clock_now_ns();
	bridge->fd = fd;
}
#endif
