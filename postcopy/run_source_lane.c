/* SPDX-License-Identifier: MIT */
/*
 * Joining: the lanes of multifd at the source. They are connected one after the other behind
 * the main channel, which a QEMU of 7.2 knows by its being the first, and each says hello at
 * once: whoever waits can tell it from the main one. One packet is under way on each, out of
 * guest memory, or out of what it was compressed to.
 */
#include "base/err.h"
#include "postcopy/run_source.h"
#include "postcopy/zstd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct source_link {
	struct wh_migration *m;
	struct op send;
	struct msghdr msg;
	int fd; /* -1: not connected */
	unsigned at;
	bool greeted;
	bool broken;
	size_t bytes; /* of what is under way, and how many of them are sent */
	size_t sent;
	uint64_t taken_ns; /* as of the main channel, run_source.c */
	uint64_t probed_ns;
	struct source_packet packet;
	struct iovec piece[MULTIFD_PAGES + 1];
	uint8_t head[MULTIFD_HELLO_BYTES + MULTIFD_HEAD_BYTES];
	struct pack *pack;
	uint8_t *packed;
};

static void link_lost(struct source_link *link, const struct wh_err *err)
{
	link->broken = true;
	source_lane_lost(link->m->source->engine, link->at, err);
}

static void link_send(struct source_link *link)
{
	loop_sendmsg(link->m->bulk, &link->send, link->fd, &link->msg, MSG_WAITALL | MSG_NOSIGNAL);
}

static void link_sent(struct op *op, int result)
{
	struct source_link *link =
		(struct source_link *)((char *)op - offsetof(struct source_link, send));
	struct wh_err err = { 0 };

	if (link->broken || link->m->source->closing)
		return;
	if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) {
		if (source_side_silent(link->m, link->taken_ns, &err))
			link_lost(link, &err);
		else
			link_send(link);
		return;
	}
	if (result <= 0) {
		if (run_why(link->m, link->fd, &err) == 0)
			err_sys(&err, result ? result : -EPIPE, "send");
		link_lost(link, &err);
		return;
	}
	link->sent += (size_t)result;
	link->taken_ns = clock_now_ns();
	if (link->sent < link->bytes) {
		msg_advance(&link->msg, (size_t)result);
		link_send(link);
		return;
	}
	source_lane_sent(link->m->source->engine, link->at, link->bytes, clock_now_ns());
}

/* What a peer has taken is known when the send has ended, or was made to */
static void link_probe(struct source_link *link)
{
	struct wh_migration *m = link->m;
	uint64_t due_ns = link->probed_ns + m->config.dead_peer_ns / 4;

	if (!m->config.dead_peer_ns || !op_busy(&link->send))
		return;
	if (clock_now_ns() < due_ns) {
		run_tick(m, due_ns);
		return;
	}
	link->probed_ns = clock_now_ns();
	loop_cancel(m->bulk, &link->send);
}

/* The packet's contents, behind piece[0]. Return: pieces, or a negative errno */
static int link_contents(struct source_link *link, struct wh_err *err)
{
	struct multifd_packet *head = &link->packet.head;
	ssize_t bytes;

	if (!head->normal)
		return 0;
	if (!link->pack) {
		memcpy(link->piece + 1, link->packet.page, head->normal * sizeof(*link->piece));
		return (int)head->normal;
	}
	bytes = pack_pages(link->pack, link->packet.page, head->normal, link->packed,
			   MULTIFD_BYTES_MAX, err);
	if (bytes < 0)
		return (int)bytes;
	head->method = MULTIFD_ZSTD;
	head->bytes = (uint32_t)bytes;
	link->piece[1] = (struct iovec){ link->packed, (size_t)bytes };
	return 1;
}

/* The next packet, if it is idle */
static void link_pump(struct source_link *link)
{
	struct source *engine = link->m->source->engine;
	struct multifd_hello hello = { .channel = (uint8_t)link->at };
	struct wh_err err = { 0 };
	size_t bytes = 0;
	int pieces;

	if (link->fd < 0 || link->broken || op_busy(&link->send) ||
	    !source_lane_next(engine, link->at, clock_now_ns(), &link->packet))
		return;
	pieces = link_contents(link, &err);
	if (pieces < 0) {
		link_lost(link, &err);
		return;
	}
	if (!link->greeted)
		bytes = multifd_put_hello(link->head, &hello);
	link->greeted = true;
	bytes += multifd_put_head(link->head + bytes, &link->packet.head);
	link->piece[0] = (struct iovec){ link->head, bytes };
	link->bytes = bytes + link->packet.head.bytes;
	link->sent = 0;
	link->taken_ns = link->probed_ns = clock_now_ns();
	link->msg = (struct msghdr){ .msg_iov = link->piece, .msg_iovlen = 1 + (size_t)pieces };
	link_send(link);
}

void source_links_pump(struct wh_migration *m)
{
	struct source_side *side = m->source;

	for (unsigned i = 0; i < SOURCE_LANES_MAX; i++) {
		if (!side->link[i])
			continue;
		link_pump(side->link[i]);
		link_probe(side->link[i]);
	}
}

static int link_new(struct wh_migration *m, unsigned at, struct wh_err *err)
{
	struct source_link *link = calloc(1, sizeof(*link));

	if (!link)
		return err_set(err, -ENOMEM, "multifd channel %u: no memory", at);
	*link = (struct source_link){ .m = m, .at = at, .fd = -1, .send.done = link_sent };
	m->source->link[at] = link;
	m->own_bytes += sizeof(*link);
	if (m->config.multifd_method == WH_MULTIFD_PLAIN)
		return 0;
	link->packed = malloc(MULTIFD_BYTES_MAX);
	link->pack = link->packed ? pack_new(m->config.multifd_level) : NULL;
	m->own_bytes += MULTIFD_BYTES_MAX;
	return link->pack ? 0 : err_set(err, -ENOMEM, "multifd channel %u: no memory", at);
}

/*
 * Before the next one connects: a QEMU that cannot look at the first bytes, because they are TLS's,
 * reads the hello of each before it shakes hands with another. There is room for it: nothing was
 * sent yet.
 */
static int link_greet(struct source_link *link, struct wh_err *err)
{
	const struct multifd_hello hello = { .channel = (uint8_t)link->at };
	size_t bytes = multifd_put_hello(link->head, &hello);
	ssize_t sent = send(link->fd, link->head, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent != (ssize_t)bytes)
		return err_sys(err, sent < 0 ? errno : EPIPE, "multifd channel %u: hello",
			       link->at);
	link->greeted = true;
	return 0;
}

static void link_dialed(struct dial *dial, int fd, struct wh_err *err)
{
	struct source_side *side =
		(struct source_side *)((char *)dial - offsetof(struct source_side, link_dial));
	struct wh_migration *m = side->owner;
	struct wh_err failure = { 0 };

	if (side->closing) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		source_links_failed(m, side->links, err);
		return;
	}
	side->link[side->links]->fd = fd;
	if (m->tls && link_greet(side->link[side->links], &failure) < 0) {
		source_links_failed(m, side->links, &failure);
		return;
	}
	side->links++;
	if (source_links_open(m, &failure) < 0)
		source_links_failed(m, side->links, &failure);
}

int source_links_open(struct wh_migration *m, struct wh_err *err)
{
	struct socket_tuning tuning = run_tuning(m);
	struct source_side *side = m->source;
	int ret;

	if (side->links == m->config.multifd) {
		source_side_up(m);
		return 0;
	}
	if (side->uri.kind == URI_FD)
		return err_set(err, -EOPNOTSUPP, "fd: has one connection only");
	ret = link_new(m, side->links, err);
	if (ret < 0)
		return ret;
	memset(&side->link_dial, 0, sizeof(side->link_dial));
	side->link_dial.done = link_dialed;
	return dial_start(&side->link_dial, m->bulk, &side->uri, m->config.connect_timeout_ns,
			  &tuning, err);
}

bool source_links_close(struct wh_migration *m)
{
	struct source_side *side = m->source;
	bool busy = false;

	dial_cancel(&side->link_dial);
	for (unsigned i = 0; i < SOURCE_LANES_MAX; i++) {
		struct source_link *link = side->link[i];

		if (!link || !op_busy(&link->send))
			continue;
		loop_cancel(m->bulk, &link->send);
		busy = true;
	}
	return busy || dial_busy(&side->link_dial);
}

void source_links_free(struct wh_migration *m)
{
	for (unsigned i = 0; i < SOURCE_LANES_MAX; i++) {
		struct source_link *link = m->source->link[i];

		if (!link)
			continue;
		if (link->fd >= 0)
			close(link->fd);
		pack_free(link->pack);
		free(link->packed);
		free(link);
		m->source->link[i] = NULL;
	}
}
