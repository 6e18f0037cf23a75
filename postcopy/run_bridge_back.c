/* SPDX-License-Identifier: MIT */
/*
 * Joining: the return path over RDMA at the destination, on the bridge's thread.
 *
 * As QEMU does it: the source makes a second connection to the same address, behind the first. On
 * it the ends have changed places: messages of the stream go from here to there, one whenever the
 * source has said READY. Whoever has something to say writes it to the socket that he reads the
 * stream from, as on any connection.
 */
#ifndef WH_NO_RDMA
#include "postcopy/bridge.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define GOODBYE_NS (10 * NS_PER_S) /* if dead_peer_ns says nothing */

void bridge_back_init(struct bridge *bridge, void (*polled)(struct op *op, int result))
{
	bridge->answer.done = bridge->patience.done = polled;
	bridge->back_event.done = bridge->back_receive.done = bridge->back_send.done = polled;
}

static bool has_words(const struct bridge *bridge)
{
	char byte;

	return recv(bridge->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0;
}

/* Somebody here speaks, and the source has not made the connection for it, not yet or not at all */
static int wait_for_back(struct bridge *bridge, struct wh_err *err)
{
	uint64_t limit_ns = bridge->m->config.connect_timeout_ns, now_ns = clock_now_ns();

	if (!has_words(bridge)) {
		bridge_watch(bridge, &bridge->answer, bridge->fd, POLLIN);
		return 0;
	}
	if (!bridge->mute_ns)
		bridge->mute_ns = now_ns;
	if (now_ns - bridge->mute_ns >= limit_ns)
		return err_set(err, -EPROTO,
			       "rdma: the source wants answers, and has made no connection for them");
	if (!op_busy(&bridge->patience))
		loop_timer(bridge->loop, &bridge->patience, bridge->mute_ns + limit_ns);
	return 0;
}

static int hear(struct bridge *bridge, struct wh_err *err)
{
	const uint8_t *message;
	struct control control;
	size_t bytes;
	int ret;

	while ((ret = vlink_received(&bridge->back, &message, &bytes, err)) > 0) {
		ret = control_get(message, bytes, &control, err);
		if (ret < 0)
			break;
		if (control.kind == CONTROL_ERROR)
			return err_set(err, -ECONNABORTED, "rdma: the source has given up");
		if (control.kind != CONTROL_READY || bridge->credit)
			return err_set(err, -EPROTO, "rdma: %s on the return path%s",
				       control_name(control.kind),
				       control.kind == CONTROL_READY ? " for the second time" : "");
		bridge->credit = true;
		ret = vlink_receive(&bridge->back, err);
		if (ret < 0)
			break;
	}
	return ret;
}

/* What lies in the socket, as much as there is room for */
static int say(struct bridge *bridge, struct wh_err *err)
{
	uint8_t *at;
	int ret;

	while ((ret = vlink_room(&bridge->back, &at, err)) > 0 && bridge->credit) {
		ssize_t got =
			recv(bridge->fd, at + CONTROL_HEADER, CONTROL_STREAM_MAX, MSG_DONTWAIT);

		if (got <= 0)
			break;
		bridge->credit = false;
		ret = vlink_send(&bridge->back, control_put(at, CONTROL_STREAM, 1, (size_t)got),
				 err);
		if (ret < 0)
			break;
	}
	return ret;
}

int bridge_back_turn(struct bridge *bridge, struct wh_err *err)
{
	int ret;

	if (!bridge->back_open)
		return wait_for_back(bridge, err);
	while ((ret = vlink_event(&bridge->back, err)) > 0)
		;
	if (ret == 0 && bridge->back.up)
		ret = hear(bridge, err);
	if (ret == 0 && bridge->back.up)
		ret = say(bridge, err);
	if (ret < 0)
		return ret;
	bridge_watch(bridge, &bridge->back_event, vlink_event_fd(&bridge->back), POLLIN);
	bridge_watch(bridge, &bridge->back_receive, vlink_receive_fd(&bridge->back), POLLIN);
	bridge_watch(bridge, &bridge->back_send, vlink_send_fd(&bridge->back), POLLIN);
	/* else it is readable for nothing */
	if (bridge->credit)
		bridge_watch(bridge, &bridge->answer, bridge->fd, POLLIN);
	return 0;
}

/* Whether the guest is here is in the last word of all */
void bridge_back_flush(struct bridge *bridge)
{
	uint64_t limit_ns = bridge->m->config.dead_peer_ns, until_ns, now_ns;
	struct wh_err err = { 0 };

	if (!bridge->back_open || !wh_phase_ended(wh_get_phase(bridge->m)))
		return;
	until_ns = clock_now_ns() + (limit_ns ? limit_ns : GOODBYE_NS);
	while (bridge_back_turn(bridge, &err) == 0 &&
	       (has_words(bridge) || bridge->back.messages) && (now_ns = clock_now_ns()) < until_ns)
		if (loop_step(bridge->loop, (int64_t)(until_ns - now_ns), &err) < 0)
			return;
}
#endif
