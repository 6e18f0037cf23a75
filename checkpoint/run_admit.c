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
	if (pending->fd >= 0 && !pending->pier)
		close(pending->fd);
	pending->fd = -1;
	pending->pier = NULL;
	pending->leaving = false;
	pending->parked = false;
}

static void drop(struct protect_pending *pending)
{
	if (pending->fd < 0)
		return;
	pending->leaving = true;
	if (pending->pier)
		pier_close(pending->pier);
	else
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

	if (pending->header.generation < engine->generation && pending->pier)
		pier_say(pending->pier, buf, length);
	else if (pending->header.generation < engine->generation)
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

	if (link_open(&p->link[kind], p, pending->fd, pending->pier,
		      kind == LINK_PULSE ? DEST_PULSE_BYTES : DEST_IN_BYTES, pending->head,
		      sizeof(pending->head), &err) < 0) {
		refuse(pending, err.text);
		return;
	}
	/* without, contents come in messages */
	if (kind == LINK_CONTENTS && pending->pier && pier_lend(pending->pier, &err) < 0)
		protect_log_peer(p, "pages come in messages, which is slower: %s", err.text);
	pending->fd = -1;
	pending->pier = NULL;
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

static void receive(struct protect_pending *pending)
{
	uint8_t *to = pending->head + pending->have;
	size_t room = sizeof(pending->head) - pending->have;

	if (pending->pier)
		pier_receive(pending->pier, &pending->recv, to, room);
	else
		loop_recv(pending->p->loop, &pending->recv, pending->fd, to, room, 0);
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
			receive(pending);
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

/* Return: false: there is no room for one */
static bool begin(struct wh_protect *p, int fd, struct pier *pier)
{
	struct protect_pending *pending = slot(p->dest);

	if (!pending || protect_stops(p))
		return false;
	*pending = (struct protect_pending){
		.p = p,
		.fd = fd,
		.pier = pier,
		.until_ns = clock_now_ns() + TOLD_NS,
		.recv.done = recv_done,
	};
	receive(pending);
	return true;
}

static void accepted(struct listener *listener, int fd)
{
	struct dest_listener *of = (void *)((char *)listener - offsetof(struct dest_listener, at));

	if (!begin(of->p, fd, NULL))
		close(fd);
}

static void accepted_pier(struct pier_listener *listener, struct pier *pier)
{
	if (!begin(listener->p, pier_fd(pier), pier))
		pier_close(pier);
}

static void not_shaken(struct listener *listener, const struct wh_err *why)
{
	struct dest_listener *of = (void *)((char *)listener - offsetof(struct dest_listener, at));

	if (!protect_stops(of->p))
		protect_log_peer(of->p, "a connection was refused: %s", why->text);
}

static int listen_at(struct dest_listener *listener, const struct uri *uri, char text[URI_TEXT],
		     struct wh_err *err)
{
	struct wh_protect *p = listener->p;
	const struct socket_tuning tuning = { .tls = p->tls, .shake_ns = TOLD_NS };
	struct uri at = *uri;
	int ret;

	listener->at.accepted = accepted;
	listener->at.refused = not_shaken;
	listener->pier.accepted = accepted_pier;
	if (uri->kind == URI_RDMA) {
		ret = pier_listen(&listener->pier, p, &at, err);
		uri_format(&at, text, URI_TEXT);
	} else {
		ret = listener_open(&listener->at, p->loop, uri, &tuning, err);
		if (ret == 0)
			listener_uri(&listener->at, text, URI_TEXT);
	}
	return ret;
}

int admit_listen(struct protect_dest *side, const struct uri *uri, unsigned count,
		 struct wh_err *err)
{
	char text[URI_TEXT] = "";
	int ret = 0;

	for (unsigned i = 0; i < PENDING_MAX; i++)
		side->pending[i] = (struct protect_pending){ .p = side->p, .fd = -1 };
	for (unsigned i = 0; ret == 0 && i < count; i++) {
		struct dest_listener *listener = &side->listener[i];

		listener->p = side->p;
		ret = listen_at(listener, &uri[i], i == LINK_CONTENTS ? side->p->uri : text, err);
		side->listeners += ret == 0;
	}
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
		if (side->pending[i].p && side->pending[i].fd >= 0 && !side->pending[i].pier)
			close(side->pending[i].fd);
	for (unsigned i = 0; i < LINK_COUNT; i++)
		pier_listen_end(&side->listener[i].pier);
}
