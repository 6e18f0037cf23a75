/* SPDX-License-Identifier: MIT */
/*
 * Joining: the destination's connections, its turns, and its end.
 *
 * The first connection that begins with QEMU's magic is the main channel. Another one
 * is the urgent channel: one that is silent while there is no main channel yet waits
 * until there is, one that comes later is taken at once, since it has nothing to say
 * before the first urgent page.
 */
#include "base/bytes.h"
#include "postcopy/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void accept_more(struct listener *listener, int fd);

int dest_side_new(struct wh_migration *m, struct wh_err *err)
{
	struct dest_side *side = calloc(1, sizeof(*side));
	struct dest_config config = {
		.postcopy = m->config.postcopy,
		.device_state_max = m->config.device_state_max,
		.urgent_wait_ns = m->config.dead_peer_ns,
	};

	if (!side)
		return err_set(err, -ENOMEM, "destination: no memory");
	m->own_bytes += sizeof(*side);
	dest_init(&side->engine, &run_dest_ops, m, &config);
	pthread_mutex_init(&side->reply.lock, NULL);
	pthread_mutex_init(&side->gate, NULL);
	pthread_mutex_init(&side->ahead.lock, NULL);
	pthread_cond_init(&side->ahead.cond, NULL);
	side->reply.fd = -1;
	for (unsigned i = 0; i < PENDING_MAX; i++)
		side->pending[i].fd = -1;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		side->inlet[i].fd = -1;
	m->dest = side;
	return 0;
}

int dest_side_listen(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct dest_side *side = m->dest;
	struct socket_tuning tuning = { .dead_peer_ns = m->config.dead_peer_ns };
	int ret;

	ret = run_place_open(m, err);
	if (ret < 0)
		return ret;
	side->listener.accepted = accept_more;
	ret = listener_open(&side->listener, m->bulk, uri, &tuning, err);
	if (ret < 0)
		return ret;
	listener_uri(&side->listener, m->uri, sizeof(m->uri));
	return 0;
}

/* Sets phase FAILED for reasons the engine does not know, while there is no connection. */
static void dest_give_up(struct wh_migration *m, const struct wh_err *err)
{
	dest_link_lost(&m->dest->engine, CHANNEL_MAIN, err);
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
	pthread_mutex_lock(&side->reply.lock);
	side->reply.fd = fd;
	pthread_mutex_unlock(&side->reply.lock);
	ret = dest_connected(&side->engine, CHANNEL_MAIN, &err);
	if (ret == 0)
		ret = inlet_open(&side->inlet[CHANNEL_MAIN], m, CHANNEL_MAIN, m->bulk, fd, &err);
	if (ret < 0) {
		dest_give_up(m, &err);
		return;
	}
	/* A silent connection that was there before is the urgent channel (QEMU 7.x). */
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		struct pending *pending = &side->pending[i];

		if (pending->fd < 0 || pending->fd == fd)
			continue;
		if (urgent_wanted(m)) {
			adopt_urgent(m, pending->fd);
			pending->fd = -1;
		}
		pending_drop(pending);
	}
}

static void pending_peeked(struct op *op, int result)
{
	struct pending *pending = (struct pending *)((char *)op - offsetof(struct pending, peek));
	struct wh_migration *m = pending->m;
	struct wh_err err = { 0 };
	int fd = pending->fd;

	if (fd >= 0 && !m->dest->main_up && !m->dest->closing && result != -ECANCELED) {
		if (result == sizeof(pending->magic)) {
			/* Also if it is no migration: the engine says so, with the bytes. */
			pending->fd = -1;
			adopt_main(m, fd);
		} else if (result >= 0) {
			err_set(&err, -EPROTO,
				"main channel: closed after %d bytes, before the header", result);
			dest_give_up(m, &err);
		} else {
			err_sys(&err, result, "main channel: receive");
			dest_give_up(m, &err);
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
		dest_give_up(m, &err);
	}
	pending_drop(pending);
	pending_settle(pending);
}

static void accept_more(struct listener *listener, int fd)
{
	struct dest_side *side =
		(struct dest_side *)((char *)listener - offsetof(struct dest_side, listener));
	struct wh_migration *m = side->engine.ctx;

	if (side->main_up || side->closing) {
		if (!side->closing && urgent_wanted(m))
			adopt_urgent(m, fd);
		else
			close(fd);
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
			  MSG_PEEK | MSG_WAITALL);
		loop_timer(m->bulk, &pending->timer, clock_now_ns() + m->config.connect_timeout_ns);
		return;
	}
	run_log(m, WH_LOG_WARNING,
		"a connection was refused: %u others have not said what they are", PENDING_MAX);
	close(fd);
}

/* What the fault loop has for this one. */
static void dest_mail(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	struct wh_err err = { 0 };
	struct mailbox post;

	pthread_mutex_lock(&m->post_lock);
	post = m->post;
	m->post.urgent_lost = false;
	m->post.device_loaded = false;
	m->post.fault_failed = false;
	pthread_mutex_unlock(&m->post_lock);

	if (post.device_loaded)
		(void)dest_device_loaded(&side->engine, post.device_result, clock_now_ns(), &err);
	if (post.urgent_lost)
		dest_link_lost(&side->engine, CHANNEL_URGENT,
			       post.urgent_err.code ? &post.urgent_err : NULL);
	if (post.fault_failed) {
		run_log(m, WH_LOG_ERROR, "faults are not served any more: %s", post.fault_err.text);
		dest_link_lost(&side->engine, CHANNEL_MAIN, &post.fault_err);
	}
}

/* Channels first; memory goes back to the VMM when nobody can touch it any more. */
static bool dest_close(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	struct inlet *inlet = &side->inlet[CHANNEL_MAIN];
	bool busy = false;

	side->closing = true;
	listener_close(&side->listener);
	inlet_close(inlet);
	if (op_busy(&side->reply.poll))
		loop_cancel(m->bulk, &side->reply.poll);
	if (op_busy(&m->tick))
		loop_cancel(m->bulk, &m->tick);
	for (unsigned i = 0; i < PENDING_MAX; i++) {
		if (!side->pending[i].m)
			continue;
		pending_drop(&side->pending[i]);
		busy = true;
	}
	if (!run_fault_closed(m) || busy || inlet_busy(inlet) || op_busy(&side->reply.poll) ||
	    op_busy(&m->tick) || listener_busy(&side->listener))
		return false;
	pthread_mutex_lock(&side->reply.lock);
	side->reply.fd = -1;
	pthread_mutex_unlock(&side->reply.lock);
	inlet_fini(inlet);
	if (dest_get_phase(&side->engine) == DEST_DONE && !side->finished) {
		run_place_restore(m);
		side->finished = true;
	}
	return true;
}

static uint64_t counter(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

/*
 * A link that is silent without being closed: the kernel notices one whose packets are
 * not acknowledged, but not a source that has stopped, nor a middlebox that swallows.
 * While a thread of the guest waits, bytes are owed.
 */
static void check_silence(struct wh_migration *m, uint64_t now_ns)
{
	struct dest_side *side = m->dest;
	const struct dest_counters *c = &side->engine.counters;
	uint64_t bytes = counter(&c->bytes[CHANNEL_MAIN]) + counter(&c->bytes[CHANNEL_URGENT]);
	uint64_t silent_ns = m->config.dead_peer_ns;
	struct wh_err err = { 0 };

	if (!silent_ns || wh_get_phase(m) != WH_PHASE_POSTCOPY)
		return;
	if (bytes != side->heard_bytes || !side->heard_ns ||
	    !__atomic_load_n(&side->engine.waiting, __ATOMIC_RELAXED)) {
		side->heard_bytes = bytes;
		side->heard_ns = now_ns;
	}
	if (now_ns - side->heard_ns >= silent_ns) {
		err_set(&err, -ETIMEDOUT,
			"the source has sent nothing for %llu ms, and pages are waited for",
			(unsigned long long)(silent_ns / NS_PER_MS));
		dest_link_lost(&side->engine, CHANNEL_MAIN, &err);
		return;
	}
	run_tick(m, now_ns + silent_ns / 4);
}

bool dest_side_turn(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	uint64_t wake_ns = UINT64_MAX;
	struct wh_err err = { 0 };

	dest_mail(m);
	reply_turn(m);
	if (!side->closing) {
		(void)dest_step(&side->engine, clock_now_ns(), &wake_ns, &err);
		check_silence(m, clock_now_ns());
	}
	if (wh_phase_ended(wh_get_phase(m))) {
		/* SHUT has to leave before the descriptor goes. */
		if (side->closing || reply_flushed(m))
			return dest_close(m);
		return false;
	}
	run_tick(m, wake_ns);
	return false;
}

void dest_side_fault_turn(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	struct inlet *inlet = &side->inlet[CHANNEL_URGENT];
	struct wh_err err = { 0 };
	bool close_asked;
	int fd = -1;

	/*
	 * The urgent channel is read from LISTEN on. What comes earlier has overtaken the
	 * main channel (the end mark, where next to no page is left) and is kept in the socket.
	 */
	pthread_mutex_lock(&m->post_lock);
	close_asked = m->post.close;
	if (m->post.armed || close_asked) {
		fd = m->post.urgent_fd;
		m->post.urgent_fd = -1;
	}
	pthread_mutex_unlock(&m->post_lock);

	if (fd >= 0 && close_asked) {
		close(fd);
	} else if (fd >= 0 && inlet_open(inlet, m, CHANNEL_URGENT, m->fault, fd, &err) < 0) {
		close(fd);
		pthread_mutex_lock(&m->post_lock);
		m->post.urgent_lost = true;
		m->post.urgent_err = err;
		pthread_mutex_unlock(&m->post_lock);
		loop_wake(m->bulk);
	}
	fault_turn(m);
	if (!close_asked || __atomic_load_n(&m->fault_closed, __ATOMIC_ACQUIRE))
		return;
	inlet_close(inlet);
	/* The uffd is read on unless every page is in: zero pages still need it. */
	if (dest_get_phase(&side->engine) == DEST_DONE)
		fault_close(m);
	if (inlet_busy(inlet) ||
	    (dest_get_phase(&side->engine) == DEST_DONE && op_busy(&side->fault_read)) ||
	    (dest_get_phase(&side->engine) == DEST_DONE && op_busy(&side->fault_timer)))
		return;
	inlet_fini(inlet);
	__atomic_store_n(&m->fault_closed, true, __ATOMIC_RELEASE);
	loop_wake(m->bulk);
}

void dest_side_stop(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	side->closing = true;
	side->stopped = true;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		side->inlet[i].ended = true;
}

/* Loops are closed and threads gone. */
void dest_side_free(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	for (unsigned i = 0; i < PENDING_MAX; i++)
		if (side->pending[i].fd >= 0)
			close(side->pending[i].fd);
	if (m->post.urgent_fd >= 0)
		close(m->post.urgent_fd);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		inlet_fini(&side->inlet[i]);
	run_place_close(m);
	for (unsigned i = 0; i < side->engine.blocks; i++) {
		free(side->engine.block[i].arrived);
		free(side->engine.block[i].received);
		free(side->engine.block[i].asked);
	}
	listener_close(&side->listener);
	free(side->device);
	pthread_mutex_destroy(&side->gate);
	pthread_cond_destroy(&side->ahead.cond);
	pthread_mutex_destroy(&side->ahead.lock);
	pthread_mutex_destroy(&side->reply.lock);
	free(side);
}

void dest_side_stats(const struct wh_migration *m, struct wh_stats *stats)
{
	const struct dest_counters *c = &m->dest->engine.counters;

	stats->bytes = counter(&c->bytes[CHANNEL_MAIN]) + counter(&c->bytes[CHANNEL_URGENT]);
	stats->bytes_return = counter(&c->bytes_return);
	stats->pages_normal = counter(&c->pages_normal);
	stats->pages_zero = counter(&c->pages_zero);
	stats->pages_xbzrle = counter(&c->pages_xbzrle);
	stats->pages_urgent = counter(&c->pages_urgent);
	stats->pages_before = counter(&c->pages_before);
	stats->pages_left = counter(&c->pages_missing);
	stats->collapsed = counter(&m->dest->collapsed);
	stats->requests = counter(&c->requests);
	stats->faults = counter(&c->faults);
	stats->fault_p50_ns = hist_quantile(&c->fault_hist, 500);
	stats->fault_p99_ns = hist_quantile(&c->fault_hist, 990);
	stats->fault_max_ns = counter(&c->fault_hist.max_ns);
	stats->fault_sum_ns = counter(&c->fault_hist.sum_ns);
}

unsigned wh_get_thread_waits(const struct wh_migration *m, struct wh_thread_wait *waits,
			     unsigned room)
{
	unsigned count = 0;

	if (m->role != WH_DEST)
		return 0;
	for (unsigned i = 0; i < DEST_THREADS; i++) {
		const struct dest_thread *thread = &m->dest->engine.thread[i];
		uint32_t tid = __atomic_load_n(&thread->tid, __ATOMIC_ACQUIRE);

		if (!tid)
			continue;
		if (count < room)
			waits[count] = (struct wh_thread_wait){
				.tid = tid,
				.faults = counter(&thread->faults),
				.waited_ns = counter(&thread->waited_ns),
			};
		count++;
	}
	return count;
}
