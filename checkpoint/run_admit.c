/* SPDX-License-Identifier: MIT */
/*
 * Joining: who connects to the destination. The first header says what a connection is: HELLO
 * begins that for contents, HEARTBEAT of the same session the other one, which may be there
 * first. Whoever is neither, says nothing, or is of no session, is a stranger and is sent away;
 * what there is goes on as it was.
 */
#include "checkpoint/run_dest.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOLD_NS (10 * NS_PER_S) /* in that time one says what one is */

static void settle(struct protect_pending *pending)
{
	if (op_busy(&pending->recv))
		return;
	if (pending->fd >= 0)
		close(pending->fd);
	pending->fd = -1;
	pending->leaving = false;
	pending->parked = false;
}

static void drop(struct protect_pending *pending)
{
	if (pending->fd < 0)
		return;
	pending->leaving = true;
	shutdown(pending->fd, SHUT_RDWR);
	loop_cancel(pending->p->loop, &pending->recv);
	settle(pending);
}

static void refuse(struct protect_pending *pending, const char *why)
{
	protect_log_peer(pending->p, "a connection was refused: %s", why);
	drop(pending);
}

/* Whoever still speaks for a guest that runs here. What does not go at once is asked for again */
static void notice(struct protect_pending *pending)
{
	const struct cp_dest *engine = &pending->p->dest->engine;
	static const struct cp_msg nothing;
	struct cp_header header = {
		.kind = CP_TAKEOVER_NOTICE,
		.generation = engine->generation,
		.epoch = engine->complete,
	};
	uint8_t buf[CP_MSG_MAX];
	size_t length = cp_put(buf, &header, &nothing);

	if (pending->header.generation < engine->generation)
		(void)!send(pending->fd, buf, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	pending->parked = false;
}

static bool free_link(const struct protect_link *link)
{
	return link->fd < 0 && !op_busy(&link->send) && !op_busy(&link->recv);
}

/* It is a link from here on, and its first header is read there */
static void adopt(struct protect_pending *pending, enum link_kind kind)
{
	struct wh_protect *p = pending->p;
	struct wh_err err = { 0 };
	int fd = pending->fd;

	if (link_open(&p->link[kind], p, fd, kind == LINK_PULSE ? DEST_PULSE_BYTES : DEST_IN_BYTES,
		      pending->head, sizeof(pending->head), &err) < 0) {
		refuse(pending, err.text);
		return;
	}
	pending->fd = -1;
	pending->parked = false;
}

static void told_pulse(struct protect_pending *pending)
{
	struct protect_dest *side = pending->p->dest;

	if (side->engine.generation && pending->header.generation != side->engine.generation) {
		refuse(pending, "heartbeats of another session");
	} else if (side->engine.generation && side->engine.state != CP_DEST_SUSPECT) {
		if (free_link(&side->p->link[LINK_PULSE]))
			adopt(pending, LINK_PULSE);
		else
			refuse(pending, "heartbeats come on another one");
	} else {
		/* its HELLO comes yet; or it waits for what is decided here */
		pending->parked = true;
	}
}

static void told(struct protect_pending *pending)
{
	struct protect_dest *side = pending->p->dest;
	struct wh_err err = { 0 };

	if (cp_header_get(pending->head, CP_FROM_SOURCE, &pending->header, &err) < 0) {
		refuse(pending, err.text);
	} else if (side->engine.state == CP_DEST_TAKEOVER ||
		   side->engine.state == CP_DEST_APPLYING) {
		notice(pending);
		refuse(pending, "the guest runs here");
	} else if (side->engine.state == CP_DEST_FENCED) {
		refuse(pending, "the guest is not to be run here");
	} else if (pending->header.kind == CP_HEARTBEAT) {
		told_pulse(pending);
	} else if (pending->header.kind != CP_HELLO) {
		refuse(pending, "it does not begin with HELLO");
	} else if (side->engine.generation || !free_link(&side->p->link[LINK_CONTENTS])) {
		refuse(pending, "there is a session already");
	} else {
		adopt(pending, LINK_CONTENTS);
	}
}

static void recv_done(struct op *op, int result)
{
	struct protect_pending *pending =
		(void *)((char *)op - offsetof(struct protect_pending, recv));

	if (pending->leaving || protect_stops(pending->p)) {
		settle(pending);
	} else if (result <= 0) {
		if (result != -ECANCELED)
			drop(pending);
	} else {
		pending->have += (size_t)result;
		if (pending->have == sizeof(pending->head))
			told(pending);
		else
			loop_recv(pending->p->loop, op, pending->fd, pending->head + pending->have,
				  sizeof(pending->head) - pending->have, 0);
	}
}

/*
 * A free one. It takes a turn until one that is given up is free, so who has been here longest
 * goes while there are some left: nobody can fill them up for good
 */
static struct protect_pending *slot(struct protect_dest *side)
{
	struct protect_pending *oldest = NULL, *made = NULL;
	unsigned stay = 0;

	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct protect_pending *pending = &side->pending[i];

		if (pending->fd < 0 && !op_busy(&pending->recv)) {
			made = made ? made : pending;
			continue;
		}
		if (pending->leaving)
			continue;
		stay++;
		if (!oldest || pending->until_ns < oldest->until_ns)
			oldest = pending;
	}
	if (oldest && stay >= PENDING_STAY)
		refuse(oldest, "others want to be heard");
	return made;
}

static void accepted(struct listener *listener, int fd)
{
	struct dest_listener *of = (void *)((char *)listener - offsetof(struct dest_listener, at));
	struct protect_dest *side = of->p->dest;
	struct protect_pending *pending = slot(side);

	if (!pending || protect_stops(of->p)) {
		close(fd);
		return;
	}
	*pending = (struct protect_pending){
		.p = of->p,
		.fd = fd,
		.until_ns = clock_now_ns() + TOLD_NS,
		.recv.done = recv_done,
	};
	loop_recv(of->p->loop, &pending->recv, fd, pending->head, sizeof(pending->head), 0);
}

static void not_shaken(struct listener *listener, const struct wh_err *why)
{
	struct dest_listener *of = (void *)((char *)listener - offsetof(struct dest_listener, at));

	if (!protect_stops(of->p))
		protect_log_peer(of->p, "a connection was refused: %s", why->text);
}

int admit_listen(struct protect_dest *side, const struct uri *uri, unsigned count,
		 struct wh_err *err)
{
	const struct socket_tuning tuning = { .tls = side->p->tls, .shake_ns = TOLD_NS };
	int ret = 0;

	for (unsigned i = 0; i < PENDING_MAX; i++)
		side->pending[i] = (struct protect_pending){ .p = side->p, .fd = -1 };
	for (unsigned i = 0; ret == 0 && i < count; i++) {
		struct dest_listener *listener = &side->listener[i];

		listener->p = side->p;
		listener->at.accepted = accepted;
		listener->at.refused = not_shaken;
		ret = listener_open(&listener->at, side->p->loop, &uri[i], &tuning, err);
		side->listeners += ret == 0;
	}
	if (ret == 0)
		listener_uri(&side->listener[LINK_CONTENTS].at, side->p->uri, sizeof(side->p->uri));
	return ret;
}

void admit_session(struct protect_dest *side)
{
	for (unsigned i = 0; i < PENDING_MAX; i++)
		if (side->pending[i].parked)
			told_pulse(&side->pending[i]);
}

void admit_notice(struct protect_dest *side)
{
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		if (!side->pending[i].parked)
			continue;
		notice(&side->pending[i]);
		drop(&side->pending[i]);
	}
}

uint64_t admit_turn(struct protect_dest *side, uint64_t now_ns)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct protect_pending *pending = &side->pending[i];

		/* who waits for a decision may wait */
		if (pending->fd < 0 || pending->leaving ||
		    (pending->parked && side->engine.generation))
			continue;
		if (now_ns >= pending->until_ns)
			refuse(pending, "it said nothing");
		else if (pending->until_ns < next)
			next = pending->until_ns;
	}
	return next;
}

void admit_stop(struct protect_dest *side)
{
	for (unsigned i = 0; i < side->listeners; i++)
		listener_close(&side->listener[i].at);
}

void admit_free(struct protect_dest *side)
{
	for (unsigned i = 0; i < PENDING_MAX; i++)
		if (side->pending[i].p && side->pending[i].fd >= 0)
			close(side->pending[i].fd);
}
