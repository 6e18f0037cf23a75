/* SPDX-License-Identifier: MIT */
/*
 * Joining: the destination's turns, its pauses and its end. How it gets its connections is
 * in run_accept.c.
 */
#include "base/bytes.h"
#include "postcopy/run_dest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int dest_side_new(struct wh_migration *m, struct wh_err *err)
{
	struct dest_side *side = calloc(1, sizeof(*side));
	struct dest_config config = {
		.postcopy = m->config.postcopy,
		.switchover_ack = m->config.switchover_ack,
		.device_state_max = m->config.device_state_max,
		.urgent_wait_ns = m->config.dead_peer_ns,
		.lanes = m->config.multifd,
		.gather = true,
		/* who says nothing is sent away before that */
		.gather_wait_ns = m->config.connect_timeout_ns + m->config.connect_timeout_ns / 2,
		.lane_wait_ns = m->config.dead_peer_ns,
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
	int ret;

	ret = run_place_open(m, err);
	return ret < 0 ? ret : accept_at(m, uri, err);
}

int dest_side_adopt(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct dest_past *past = calloc(1, sizeof(*past));
	int ret;

	if (!past)
		return err_set(err, -ENOMEM, "destination: no memory");
	ret = agent_state_past(&m->handover->state, m->region, past, err);
	if (ret == 0)
		ret = run_place_open(m, err);
	if (ret == 0)
		ret = dest_adopt(&m->dest->engine, past, err);
	free(past);
	return ret < 0 ? ret : accept_at(m, uri, err);
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
	m->post.bridge_failed = false;
	pthread_mutex_unlock(&m->post_lock);

	if (post.device_loaded)
		(void)dest_device_loaded(&side->engine, post.device_result, clock_now_ns(), &err);
	/* closing, the fault loop itself lets go of what was on its channel */
	if (post.urgent_lost && !side->closing)
		dest_link_lost(&side->engine, CHANNEL_URGENT,
			       post.urgent_err.code ? &post.urgent_err : NULL);
	if (post.bridge_failed && !side->closing && !side->main_up &&
	    wh_get_phase(m) == WH_PHASE_PAUSED)
		bridge_refuse(m, &post.bridge_err);
	else if (post.bridge_failed && !side->closing)
		dest_link_lost(&side->engine, CHANNEL_MAIN, &post.bridge_err);
	if (post.fault_failed) {
		run_log(m, WH_LOG_ERROR, "faults are not served any more: %s", post.fault_err.text);
		dest_link_lost(&side->engine, CHANNEL_MAIN, &post.fault_err);
	}
}

/*
 * All that belongs to the connection. Return: nothing of it is under way any more, and
 * the fault loop is in none of the engine's functions
 */
static bool dest_unlink(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	struct inlet *inlet = &side->inlet[CHANNEL_MAIN];
	bool busy;

	side->closing = true;
	busy = accept_close(m);
	busy |= lanes_close(m);
	busy |= bridge_close(m);
	inlet_close(inlet);
	if (op_busy(&side->reply.poll))
		loop_cancel(m->bulk, &side->reply.poll);
	busy |= run_tick_end(m);
	if (!run_fault_closed(m) || busy || inlet_busy(inlet) || op_busy(&side->reply.poll))
		return false;
	reply_reset(m, -1);
	inlet_fini(inlet);
	lanes_free(m);
	bridge_free(m);
	reads_free(m);
	return true;
}

/* Channels first; memory goes back to the VMM when nobody can touch it any more. */
static bool dest_close(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	if (!dest_unlink(m))
		return false;
	if (dest_get_phase(&side->engine) == DEST_DONE && !side->finished) {
		run_place_end(m);
		side->finished = true;
	}
	return true;
}

int dest_side_pause(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	enum wh_phase phase = wh_get_phase(m);
	struct wh_err reason;

	(void)uri;
	if (phase == WH_PHASE_PAUSED && m->again.on) {
		/* it looks for its source no longer, and is settled in a moment */
		again_by_hand(m);
		m->dest->closing = true;
		return 0;
	}
	if (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER)
		return err_set(err, -EBUSY, "pause: it is %s", wh_phase_name(phase));
	again_by_hand(m);
	err_set(&reason, -ECANCELED, "paused here");
	dest_link_lost(&m->dest->engine, CHANNEL_MAIN, &reason);
	return 0;
}

int dest_side_again(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct dest_side *side = m->dest;
	int ret;

	ret = accept_at(m, uri, err);
	if (ret < 0 || !side->closing)
		return ret;
	side->main_up = side->urgent_up = side->all_told = side->closing = false;
	run_unsettled(m);
	run_fault_open(m);
	return 0;
}

int dest_side_recover(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct dest_side *side = m->dest;
	enum wh_phase phase = wh_get_phase(m);
	int ret;

	if (phase != WH_PHASE_PAUSED || m->ended)
		return err_set(err, -EBUSY, "recover: it is %s", wh_phase_name(phase));
	/* not settled, and without a connection: it listens for one already */
	if (!run_is_settled(m) && (side->closing || side->main_up) && !again_waits(m))
		return err_set(err, -EBUSY, "recover: the old connection is not closed yet");
	ret = dest_side_again(m, uri, err);
	if (ret == 0)
		again_by_hand(m);
	return ret;
}

void dest_side_deaf(struct wh_migration *m, const struct wh_err *err)
{
	if (wh_get_phase(m) != WH_PHASE_PAUSED || m->dest->main_up) {
		dest_link_lost(&m->dest->engine, CHANNEL_MAIN, err);
		return;
	}
	m->dest->closing = true;
	if (m->again.on) {
		again_failed(m, err);
		return;
	}
	run_forget_result(m);
	run_moved(m, WH_PHASE_PAUSED, err);
}

static uint64_t counter(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

/*
 * A link that is silent without being closed: the kernel notices one whose packets are
 * not acknowledged, but not a source that has stopped, nor a middlebox that swallows.
 * As long as there is anything to come the source sends, whether a thread waits for it or not.
 */
static void check_silence(struct wh_migration *m, uint64_t now_ns)
{
	struct dest_side *side = m->dest;
	const struct dest_counters *c = &side->engine.counters;
	uint64_t bytes = counter(&c->bytes[CHANNEL_MAIN]) + counter(&c->bytes[CHANNEL_URGENT]);
	uint64_t silent_ns = m->config.dead_peer_ns;
	enum wh_phase phase = wh_get_phase(m);
	struct wh_err err = { 0 };

	if (!silent_ns || (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER))
		return;
	if (bytes != side->heard_bytes || !side->heard_ns) {
		side->heard_bytes = bytes;
		side->heard_ns = now_ns;
	}
	if (now_ns - side->heard_ns >= silent_ns) {
		err_set(&err, -ETIMEDOUT, "the source has sent nothing for %llu ms",
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
	(void)bridge_reap(m);
	if (!side->closing) {
		lanes_turn(m);
		(void)dest_step(&side->engine, clock_now_ns(), &wake_ns, &err);
		check_silence(m, clock_now_ns());
	}
	if (wh_phase_ended(wh_get_phase(m))) {
		/* SHUT has to leave before the descriptor goes. */
		if (side->closing || reply_flushed(m))
			return dest_close(m);
		return false;
	}
	if (wh_get_phase(m) == WH_PHASE_PAUSED) {
		/* not behind wh_recover(): it waits for the source then */
		if (!side->main_up && !side->closing && again_late(m))
			side->closing = true;
		if ((side->main_up || side->closing) && !run_is_settled(m) && dest_unlink(m) &&
		    !again_turn(m))
			run_settled(m);
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
	if (m->post.armed && m->post.reads) {
		side->reads = m->post.reads;
		m->post.reads = NULL;
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
	if (!close_asked)
		reads_turn(m);
	if (!close_asked || __atomic_load_n(&m->fault_closed, __ATOMIC_ACQUIRE))
		return;
	inlet_close(inlet);
	/* The uffd is read on unless every page is in: zero pages still need it. */
	if (dest_get_phase(&side->engine) == DEST_DONE)
		fault_close(m);
	if (reads_close(m) || inlet_busy(inlet) ||
	    (dest_get_phase(&side->engine) == DEST_DONE && op_busy(&side->fault_watch)) ||
	    (dest_get_phase(&side->engine) == DEST_DONE && op_busy(&side->fault_timer)))
		return;
	inlet_fini(inlet);
	if (dest_get_phase(&side->engine) == DEST_PAUSED)
		dest_parked(&side->engine);
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

	if (m->post.urgent_fd >= 0)
		close(m->post.urgent_fd);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		inlet_fini(&side->inlet[i]);
	lanes_free(m);
	run_place_close(m);
	for (unsigned i = 0; i < side->engine.blocks; i++) {
		free(side->engine.block[i].arrived);
		if (!m->handover)
			free(side->engine.block[i].received);
		free(side->engine.block[i].asked);
	}
	bridge_free(m);
	reads_free(m);
	accept_free(m);
	reply_reset(m, -1);
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

	if (m->agent)
		return agent_vmm_waits(m, waits, room);
	if (!m->dest)
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
