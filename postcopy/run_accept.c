/* SPDX-License-Identifier: MIT */
/*
 * Joining: how the destination gets its connections.
 *
 * The first connection that begins with QEMU's magic is the main channel. One that begins
 * with multifd's is one of its channels, in front of or behind the main one. Another one is
 * the urgent channel: one that is silent waits until the pages begin, when whoever belongs
 * to multifd has spoken; one that comes later is taken at once, since it has nothing to say
 * before the first urgent page. On a connection that resumes there is no magic: the main
 * channel begins by asking for a bitmap, or, where the migration has an id, with a hello.
 */
#include "base/bytes.h"
#include "postcopy/run_dest.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEEK_AGAIN_NS (5 * NS_PER_MS)
#define MAGIC_BYTES 4u
#define PROOF_BYTES 8

/* Sets phase FAILED for reasons the engine does not know, while there is no connection. */
static void dest_give_up(struct wh_migration *m, const struct wh_err *err)
{
	dest_link_lost(&m->dest->engine, CHANNEL_MAIN, err);
}

/*
 * A connection that is not what was waited for. The first one is the migration; of a
 * migration that waits for its source it may be anybody, and the source comes yet. With TLS
 * one that says nothing has not liked our certificate, and the next one may.
 */
static void refuse(struct wh_migration *m, bool spoke, const struct wh_err *err)
{
	if (wh_get_phase(m) == WH_PHASE_PAUSED || (m->tls && !spoke))
		run_log(m, WH_LOG_WARNING, "a connection was refused: %s", err->text);
	else
		dest_give_up(m, err);
}

static void pending_drop(struct pending *pending)
{
	if (op_busy(&pending->peek))
		loop_cancel(pending->m->bulk, &pending->peek);
	if (op_busy(&pending->timer))
		loop_cancel(pending->m->bulk, &pending->timer);
	if (pending->fd >= 0)
		shutdown(pending->fd, SHUT_RDWR);
}

/* The slot is free again when both operations have come back. */
static void pending_settle(struct pending *pending)
{
	if (op_busy(&pending->peek) || op_busy(&pending->timer))
		return;
	if (pending->fd >= 0)
		close(pending->fd);
	pending->fd = -1;
	pending->m = NULL;
}

static void adopt_urgent(struct wh_migration *m, int fd)
{
	struct dest_side *side = m->dest;
	struct wh_err err = { 0 };
	int ret;

	ret = dest_connected(&side->engine, CHANNEL_URGENT, &err);
	if (ret < 0) {
		run_log(m, WH_LOG_WARNING, "a second connection was refused: %s", err.text);
		close(fd);
		return;
	}
	side->urgent_up = true;
	pthread_mutex_lock(&m->post_lock);
	m->post.urgent_fd = fd;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->fault);
}

static bool urgent_wanted(const struct wh_migration *m)
{
	return m->config.postcopy && m->config.urgent != WH_URGENT_OFF && !m->dest->urgent_up;
}

static void adopt_main(struct wh_migration *m, int fd)
{
	struct dest_side *side = m->dest;
	struct wh_err err = { 0 };
	int ret;

	side->main_up = true;
	side->heard_ns = 0;
	reply_reset(m, fd);
	ret = dest_connected(&side->engine, CHANNEL_MAIN, &err);
	if (ret == 0)
		ret = inlet_open(&side->inlet[CHANNEL_MAIN], m, CHANNEL_MAIN, m->bulk, fd, &err);
	if (ret < 0) {
		dest_give_up(m, &err);
		reply_reset(m, -1);
		close(fd);
		return;
	}
	/* one that resumes has no lanes: who is silent is the urgent channel */
	if (dest_multifd_begun(&side->engine))
		accept_told(m);
}

void accept_told(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	side->all_told = true;
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct pending *pending = &side->pending[i];

		/* ... unless it has to prove that it is: then it speaks */
		if (!pending->m || pending->fd < 0 || dest_urgent_proves(&side->engine))
			continue;
		if (urgent_wanted(m)) {
			adopt_urgent(m, pending->fd);
			pending->fd = -1;
		}
		pending_drop(pending);
	}
}

/*
 * A lane says hello in front of the first mark, and who is silent at it is none; but not if it
 * is to come over a network: then only the urgent channel is silent, and only where there may be
 * postcopy. Twice in a row, since what the ring has just accepted it tells in the next turn.
 */
bool accept_gathered(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	bool advised = dest_get_phase(&side->engine) != DEST_PRECOPY;
	bool quiet = listener_quiet(&side->listener[side->listening].at);

	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct pollfd poll_fd = { .fd = side->pending[i].fd, .events = POLLIN };

		if (side->pending[i].m && (!advised || poll(&poll_fd, 1, 0) > 0))
			quiet = false;
	}
	side->quiet = quiet ? side->quiet + 1 : 0;
	if (side->quiet == 1)
		loop_wake(m->bulk);
	return side->quiet > 1;
}

/* Does it begin as the main channel does? At the start the engine looks itself. */
static bool is_main(struct wh_migration *m, const uint8_t *magic)
{
	if (wh_get_phase(m) != WH_PHASE_PAUSED)
		return true;
	return magic[0] == SECTION_COMMAND &&
	       get_be16(magic + 1) ==
		       (m->dest->engine.identity.known ? CMD_WHERRY_HELLO : CMD_RECV_BITMAP);
}

/* It has said something or is gone. Return: false, too little to know */
static bool pending_known(struct pending *pending, ssize_t have, bool closed, struct wh_err *err)
{
	if (have <= 0 && run_why(pending->m, pending->fd, err) < 0)
		return true;
	if (have < 0)
		err_sys(err, (int)have, "main channel: receive");
	else if (have >= (ssize_t)MAGIC_BYTES && !is_main(pending->m, pending->magic))
		err_set(err, -EPROTO, "it begins with 0x%08x, as no source does that resumes this",
			get_be32(pending->magic));
	else if (have < (ssize_t)MAGIC_BYTES && (!have || closed))
		err_set(err, -EPROTO, "main channel: closed after %zd bytes, before the header",
			have);
	return err->code || have >= (ssize_t)MAGIC_BYTES;
}

/*
 * Beside a main channel that resumes: whoever connects may be anybody, and would keep the
 * source from its urgent channel. Return: as pending_known()
 */
static bool pending_proves(struct pending *pending, ssize_t have, bool closed, struct wh_err *err)
{
	if (!dest_urgent_proves(&pending->m->dest->engine)) {
		if (have <= 0)
			err_set(err, -ECONNRESET, "it is closed, and has said nothing");
		return true;
	}
	if (have >= PROOF_BYTES && dest_urgent_proof_is(&pending->m->dest->engine, pending->magic))
		return true;
	if (have > 0 && have < PROOF_BYTES && !closed)
		return false;
	err_set(err, -EPROTO, "it does not prove to be the urgent channel");
	return true;
}

/* Is it one of multifd's? Only with the first connection: a proof may begin with anything */
static bool is_lane(const struct pending *pending, ssize_t have)
{
	return have >= (ssize_t)MAGIC_BYTES && get_be32(pending->magic) == MULTIFD_MAGIC &&
	       !pending->m->dest->engine.resumes && wh_get_phase(pending->m) != WH_PHASE_PAUSED;
}

static bool pending_greets(struct pending *pending, ssize_t have, bool closed, struct wh_err *err)
{
	(void)pending;
	if (have >= (ssize_t)MULTIFD_HELLO_BYTES)
		return true;
	if (closed)
		err_set(err, -EPROTO, "multifd channel: closed after %zd bytes of its hello", have);
	return closed;
}

/*
 * The bytes are looked at, and stay for whoever reads the channel. The ring waits for the
 * first one only: it has no way to look at the same bytes again when there are more.
 */
static void pending_peeked(struct op *op, int result)
{
	struct pending *pending = (struct pending *)((char *)op - offsetof(struct pending, peek));
	struct wh_migration *m = pending->m;
	struct wh_err err = { 0 };
	bool second = m->dest->main_up;
	int fd = pending->fd;

	if (fd >= 0 && !m->dest->closing && result != -ECANCELED) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLRDHUP };
		bool closed = poll(&poll_fd, 1, 0) > 0;
		ssize_t have = result;
		bool lane, known;

		/* behind that look: what is closed says no more than this */
		if (result >= 0)
			have = recv(fd, pending->magic, sizeof(pending->magic),
				    MSG_PEEK | MSG_DONTWAIT);
		if (have < 0 && result >= 0)
			have = -errno;
		lane = is_lane(pending, have);
		known = lane   ? pending_greets(pending, have, closed, &err) :
			second ? pending_proves(pending, have, closed, &err) :
				 pending_known(pending, have, closed, &err);
		if (!known) {
			loop_timer(m->bulk, op, clock_now_ns() + PEEK_AGAIN_NS);
			return;
		}
		if (err.code && (second || lane)) {
			run_log(m, WH_LOG_WARNING, "a second connection was refused: %s", err.text);
		} else if (err.code) {
			refuse(m, have > 0, &err);
		} else if (lane) {
			pending->fd = -1;
			lane_adopt(m, fd, pending->magic);
		} else if (second && urgent_wanted(m)) {
			pending->fd = -1;
			adopt_urgent(m, fd);
		} else if (!second) {
			/* Also if it is no migration: the engine says so, with the bytes. */
			pending->fd = -1;
			adopt_main(m, fd);
		}
	}
	if (op_busy(&pending->timer))
		loop_cancel(m->bulk, &pending->timer);
	pending_settle(pending);
}

static void pending_timeout(struct op *op, int result)
{
	struct pending *pending = (struct pending *)((char *)op - offsetof(struct pending, timer));
	struct wh_migration *m = pending->m;
	struct wh_err err = { 0 };

	if (result != -ECANCELED && pending->fd >= 0 && !m->dest->main_up && !m->dest->closing) {
		err_set(&err, -ETIMEDOUT, "main channel: connected, and said nothing for %llu ms",
			(unsigned long long)(m->config.connect_timeout_ns / NS_PER_MS));
		refuse(m, false, &err);
	}
	pending_drop(pending);
	pending_settle(pending);
}

void accept_connection(struct wh_migration *m, int fd)
{
	struct dest_side *side = m->dest;

	bool begun = side->main_up && dest_multifd_begun(&side->engine);

	if (side->closing) {
		close(fd);
		return;
	}
	/* it has nothing to say before the first urgent page */
	if (begun && urgent_wanted(m) && dest_get_phase(&side->engine) != DEST_PRECOPY &&
	    !dest_urgent_proves(&side->engine)) {
		adopt_urgent(m, fd);
		return;
	}
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct pending *pending = &side->pending[i];

		if (pending->m)
			continue;
		*pending = (struct pending){
			.m = m,
			.fd = fd,
			.peek.done = pending_peeked,
			.timer.done = pending_timeout,
		};
		loop_recv(m->bulk, &pending->peek, fd, pending->magic, sizeof(pending->magic),
			  MSG_PEEK);
		loop_timer(m->bulk, &pending->timer, clock_now_ns() + m->config.connect_timeout_ns);
		return;
	}
	run_log(m, WH_LOG_WARNING,
		"a connection was refused: %u others have not said what they are", PENDING_MAX);
	close(fd);
}

static void accept_more(struct listener *listener, int fd)
{
	accept_connection(((struct dest_listener *)((char *)listener -
						    offsetof(struct dest_listener, at)))
				  ->m,
			  fd);
}

/* A handshake that failed: whoever it was, others may come, but for a socket that is the only one */
static void accept_refused(struct listener *listener, const struct wh_err *why)
{
	struct wh_migration *m =
		((struct dest_listener *)((char *)listener - offsetof(struct dest_listener, at)))->m;

	if (m->dest->closing)
		return;
	if (listener->uri.kind == URI_FD)
		refuse(m, true, why);
	else
		run_log(m, WH_LOG_WARNING, "a connection was refused: %s", why->text);
}

int accept_at(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct dest_side *side = m->dest;
	struct listener *now = &side->listener[side->listening].at;
	struct dest_listener *next = &side->listener[!side->listening];
	struct socket_tuning tuning = run_tuning(m);
	int ret;

	if (uri->kind == URI_RDMA && m->tls)
		return err_set(err, -EOPNOTSUPP, "rdma: there is no TLS over it");
	if (uri->kind == URI_RDMA) {
		struct uri where = *uri;

		ret = bridge_listen(m, &where, err);
		if (ret < 0)
			return ret;
		listener_close(now);
		/* for listening there again */
		now->uri = where;
		return 0;
	}
	if (listener_busy(&next->at) || m->dest->bridge_before)
		return err_set(err, -EBUSY, "listen: the address before is not given up yet");
	*next = (struct dest_listener){
		.m = m,
		.at.accepted = accept_more,
		.at.refused = accept_refused,
	};
	ret = listener_open(&next->at, m->bulk, uri, &tuning, err);
	if (ret < 0)
		return ret;
	(void)bridge_leave(m, NULL); /* which was looked at above */
	listener_close(now);
	side->listening = !side->listening;
	listener_uri(&next->at, m->uri, sizeof(m->uri));
	return 0;
}

bool accept_close(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	bool busy = false;

	for (unsigned i = 0; i < 2; i++) {
		listener_close(&side->listener[i].at);
		busy |= listener_busy(&side->listener[i].at);
	}
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		if (!side->pending[i].m)
			continue;
		pending_drop(&side->pending[i]);
		busy = true;
	}
	return busy;
}

void accept_free(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	for (unsigned i = 0; i < PENDING_MAX; i++)
		if (side->pending[i].fd >= 0)
			close(side->pending[i].fd);
	for (unsigned i = 0; i < 2; i++)
		listener_close(&side->listener[i].at);
}
