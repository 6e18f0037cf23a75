/* SPDX-License-Identifier: MIT */
/*
 * Joining: the source's main channel on the bulk loop, and its end. A batch is sent
 * by one sendmsg() straight out of guest memory; the next is asked for when the
 * kernel has taken all of it.
 */
#include "base/bits.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What lies in the bulk channel's buffer delays requested pages, on whichever channel. */
#define BULK_SEND_BUFFER (256 << 10)

static struct source_side *of_op(struct op *op, size_t offset)
{
	return (struct source_side *)((char *)op - offset);
}

int source_side_new(struct wh_migration *m, struct wh_err *err)
{
	struct source_side *side = calloc(1, sizeof(*side));

	if (!side)
		return err_set(err, -ENOMEM, "source: no memory");
	m->source = side;
	side->owner = m;
	side->fd = side->urgent_fd = -1;
	side->engine = calloc(1, source_bytes());
	side->block = calloc(RAM_BLOCKS_MAX, sizeof(*side->block));
	side->batch = malloc(sizeof(*side->batch));
	side->urgent_batch = malloc(sizeof(*side->urgent_batch));
	if (!side->engine || !side->block || !side->batch || !side->urgent_batch ||
	    source_side_reply_room(m, REPLY_ROOM, NULL) < 0) {
		source_side_free(m);
		return err_set(err, -ENOMEM, "source: no memory");
	}
	m->own_bytes += sizeof(*side) + source_bytes() + RAM_BLOCKS_MAX * sizeof(*side->block) +
			2 * sizeof(*side->batch);
	return 0;
}

static int source_add(struct wh_migration *m, unsigned i, struct wh_err *err)
{
	struct source_block *block = &m->source->block[i];
	size_t words = bits_words(m->region[i].length / TARGET_PAGE);

	block->region = &m->region[i];
	block->dirty = calloc(words, sizeof(uint64_t));
	if (!block->dirty)
		return err_set(err, -ENOMEM, "block '%s': no memory for its bitmap",
			       m->region[i].name);
	m->own_bytes += words * sizeof(uint64_t);
	wire_name_set(&block->name, m->region[i].name);
	return source_add_block(m->source->engine, block, err);
}

void msg_advance(struct msghdr *msg, size_t sent)
{
	while (sent && sent >= msg->msg_iov->iov_len) {
		sent -= msg->msg_iov->iov_len;
		msg->msg_iov++;
		msg->msg_iovlen--;
	}
	if (sent) {
		msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + sent;
		msg->msg_iov->iov_len -= sent;
	}
}

static void source_send(struct wh_migration *m);

static void source_lost(struct wh_migration *m, enum channel channel, const struct wh_err *err)
{
	source_link_lost(m->source->engine, channel, err, clock_now_ns());
}

/*
 * A peer that has stopped takes nothing, and only TCP notices. How much of a batch it has taken
 * is known when the kernel is done with it; so that is made to stop now and then, and goes on
 * where it was. Of what is taken behind one look the next one tells, and that goes on may be seen
 * once more: with four looks in dead_peer_ns, half of that late at most.
 */
static void probe_send(struct wh_migration *m)
{
	struct source_side *side = m->source;
	uint64_t due_ns = side->probed_ns + m->config.dead_peer_ns / 4;

	if (!m->config.dead_peer_ns || !op_busy(&side->send))
		return;
	if (clock_now_ns() < due_ns) {
		run_tick(m, due_ns);
		return;
	}
	side->probed_ns = clock_now_ns();
	loop_cancel(m->bulk, &side->send);
}

bool source_side_silent(const struct wh_migration *m, uint64_t taken_ns, struct wh_err *err)
{
	uint64_t silent_ns = m->config.dead_peer_ns;

	if (!silent_ns || clock_now_ns() - taken_ns < silent_ns)
		return false;
	err_set(err, -ETIMEDOUT, "the destination has taken nothing for %llu ms",
		(unsigned long long)(silent_ns / NS_PER_MS));
	return true;
}

static void source_send_done(struct op *op, int result)
{
	struct source_side *side = of_op(op, offsetof(struct source_side, send));
	struct wh_migration *m = side->owner;
	struct wh_err err = { 0 };

	if (side->closing)
		return;
	if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) {
		if (source_side_silent(m, side->taken_ns, &err))
			source_lost(m, CHANNEL_MAIN, &err);
		else
			source_send(m);
		return;
	}
	if (result <= 0) {
		if (run_why(m, side->fd, &err) == 0)
			err_sys(&err, result ? result : -EPIPE, "send");
		source_lost(m, CHANNEL_MAIN, &err);
		return;
	}
	side->sent += (size_t)result;
	side->taken_ns = clock_now_ns();
	if (side->sent < side->batch->bytes) {
		msg_advance(&side->msg, (size_t)result);
		source_send(m);
		return;
	}
	source_sent(side->engine, side->batch->bytes, clock_now_ns());
}

static void source_send(struct wh_migration *m)
{
	struct source_side *side = m->source;

	if (side->ferry) {
		ferry_send(m);
		return;
	}
	loop_sendmsg(m->bulk, &side->send, side->fd, &side->msg, MSG_WAITALL | MSG_NOSIGNAL);
}

/*
 * The engine's next batch. It is asked while one is under way as well: cancel and the
 * destination's last word must not wait for a peer that takes no more bytes.
 */
static void source_pump(struct wh_migration *m)
{
	struct source_side *side = m->source;
	struct wh_err err = { 0 };
	int todo;

	/* in front, since zero pages are found there, and behind: a new round has begun */
	source_links_pump(m);
	todo = source_next(side->engine, clock_now_ns(), side->batch, &err);
	if (todo == SOURCE_SEND) {
		side->sent = 0;
		side->taken_ns = side->probed_ns = clock_now_ns();
		side->msg = (struct msghdr){
			.msg_iov = side->batch->iov,
			.msg_iovlen = side->batch->count,
		};
		source_send(m);
	} else if (todo == SOURCE_WAIT) {
		run_tick(m, source_wake_ns(side->engine));
	}
	source_links_pump(m);
	/* An end, good or bad, shows in the phase. */
}

/*
 * No connection for wh_resume(): as paused as before, and whoever waits is told. What
 * there was of it is taken down by the turn.
 */
static void source_refused(struct wh_migration *m, const struct wh_err *err)
{
	m->source->resuming = false;
	m->source->closing = true;
	if (m->again.on) {
		again_failed(m, err);
		return;
	}
	run_forget_result(m);
	run_moved(m, WH_PHASE_PAUSED, err);
}

/* Connecting has failed, for the first time or to resume */
void source_side_not_up(struct wh_migration *m, enum channel channel, struct wh_err *err)
{
	if (source_get_phase(m->source->engine) == SOURCE_PAUSED)
		source_refused(m, err);
	else
		source_lost(m, channel, err);
}

void source_side_up(struct wh_migration *m)
{
	struct source_side *side = m->source;
	struct wh_err err = { 0 };

	side->resuming = false;
	if (source_get_phase(side->engine) == SOURCE_PAUSED) {
		int ret;

		/* the request loop is parked until then */
		source_reconnected(side->engine,
				   side->uri.kind != URI_FD && side->uri.kind != URI_RDMA,
				   clock_now_ns());
		ret = source_side_reply_room(m, source_need(side->engine), &err);
		run_fault_open(m);
		if (ret < 0) {
			source_lost(m, CHANNEL_MAIN, &err);
			return;
		}
	} else {
		source_connected(side->engine, clock_now_ns());
	}
	/* The request loop begins to read the return path. */
	pthread_mutex_lock(&m->post_lock);
	m->post.armed = true;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->fault);
}

void source_links_failed(struct wh_migration *m, unsigned at, struct wh_err *err)
{
	err_wrap(err, "multifd channel %u", at);
	source_side_not_up(m, CHANNEL_MAIN, err);
}

static void urgent_dialed(struct dial *dial, int fd, struct wh_err *err)
{
	struct source_side *side =
		(struct source_side *)((char *)dial - offsetof(struct source_side, urgent_dial));
	struct wh_migration *m = side->owner;
	bool at_start = m->config.urgent == WH_URGENT_AT_START;

	if (side->closing) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd >= 0) {
		side->urgent_up = true;
		pthread_mutex_lock(&m->post_lock);
		m->post.urgent_fd = fd;
		pthread_mutex_unlock(&m->post_lock);
		loop_wake(m->fault);
	} else if (at_start) {
		/* The destination waits for both before it reads anything. */
		err_wrap(err, "urgent channel");
		source_side_not_up(m, CHANNEL_URGENT, err);
		return;
	} else {
		run_log(m, WH_LOG_WARNING, "no urgent channel: %s", err->text);
	}
	source_urgent_opened(side->engine, fd >= 0 ? 0 : fd);
	if (at_start)
		source_side_up(m);
}

/* On the bulk loop, by the engine at the switch, or from here at the start */
int source_side_open_urgent(struct wh_migration *m, struct wh_err *err)
{
	struct source_side *side = m->source;
	struct socket_tuning tuning = run_tuning(m);

	if (side->uri.kind == URI_FD)
		return err_set(err, -EOPNOTSUPP, "fd: has one connection only");
	side->urgent_dial.done = urgent_dialed;
	return dial_start(&side->urgent_dial, m->bulk, &side->uri, m->config.connect_timeout_ns,
			  &tuning, err);
}

static void main_dialed(struct dial *dial, int fd, struct wh_err *err)
{
	struct source_side *side =
		(struct source_side *)((char *)dial - offsetof(struct source_side, dial));
	struct wh_migration *m = side->owner;
	struct wh_err failure = { 0 };
	bool again = source_get_phase(side->engine) == SOURCE_PAUSED;

	if (side->closing) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		source_side_not_up(m, CHANNEL_MAIN, err);
		return;
	}
	side->fd = fd;
	if (m->config.multifd) {
		if (source_links_open(m, &failure) < 0)
			source_links_failed(m, side->links, &failure);
	} else if (m->config.urgent != WH_URGENT_AT_START || !m->config.postcopy ||
		   (again && side->uri.kind == URI_FD)) {
		source_side_up(m);
	} else if (source_side_open_urgent(m, &failure) < 0) {
		err_wrap(&failure, "urgent channel");
		source_side_not_up(m, CHANNEL_URGENT, &failure);
	}
}

static int source_dial(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct source_side *side = m->source;
	struct socket_tuning tuning = run_tuning(m);
	int ret;

	if (uri->kind == URI_RDMA) {
		ret = ferry_connect(m, uri, err);
		if (ret == 0)
			side->uri = *uri;
		return ret;
	}
	if (m->config.postcopy)
		tuning.send_buffer = BULK_SEND_BUFFER;
	side->uri = *uri;
	memset(&side->dial, 0, sizeof(side->dial));
	memset(&side->urgent_dial, 0, sizeof(side->urgent_dial));
	side->dial.done = main_dialed;
	return dial_start(&side->dial, m->bulk, uri, m->config.connect_timeout_ns, &tuning, err);
}

/* Which marks a QEMU goes by is in its machine type: up to 8.0 by sections. Ours goes by either */
static bool by_section(const struct wh_migration *m)
{
	const char *version = strrchr(m->machine, '-');
	unsigned major, minor;

	if (m->config.multifd_marks != WH_MULTIFD_BY_MACHINE)
		return m->config.multifd_marks == WH_MULTIFD_BY_SECTION;
	if (!version || sscanf(version, "-%u.%u", &major, &minor) != 2)
		return false;
	return major < 8 || (major == 8 && minor == 0);
}

int source_side_connect(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct source_side *side = m->source;
	struct source_config config = {
		.postcopy = m->config.postcopy,
		.return_path = m->config.return_path,
		.switchover_ack = m->config.switchover_ack,
		.urgent = m->config.postcopy ? m->config.urgent : WH_URGENT_OFF,
		.bandwidth = m->config.bandwidth,
		.postcopy_bandwidth = m->config.postcopy_bandwidth,
		.downtime_ns = m->config.downtime_ns,
		.postcopy_after_ns = m->config.postcopy_after_ns,
		.dead_peer_ns = m->config.dead_peer_ns,
		.lanes = m->config.multifd,
		.lanes_by_section = by_section(m),
		.beside = uri->kind == URI_RDMA,
	};
	int ret;

	/* there is one connection for pages */
	if (config.beside)
		config.urgent = m->config.urgent = WH_URGENT_OFF;
	wire_name_set(&config.machine, m->machine);
	source_init(side->engine, &run_source_ops, m, &config);
	for (unsigned i = 0; i < m->regions; i++) {
		ret = source_add(m, i, err);
		if (ret < 0)
			return ret;
	}
	ret = run_source_log_start(m, err);
	if (ret < 0)
		return ret;
	side->send.done = source_send_done;
	return source_dial(m, uri, err);
}

int source_side_pause(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	enum wh_phase phase = wh_get_phase(m);
	struct wh_err reason;

	(void)uri;
	if (phase == WH_PHASE_PAUSED && m->again.on) {
		again_by_hand(m);
		m->source->resuming = false;
		m->source->closing = true;
		return 0;
	}
	if (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER)
		return err_set(err, -EBUSY, "pause: it is %s", wh_phase_name(phase));
	again_by_hand(m);
	err_set(&reason, -ECANCELED, "paused here");
	source_lost(m, CHANNEL_MAIN, &reason);
	return 0;
}

int source_side_again(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct source_side *side = m->source;
	int ret;

	ret = source_dial(m, uri, err);
	if (ret < 0)
		return ret;
	side->closing = side->request_ended = side->urgent_ended = false;
	side->reply_have = 0;
	side->reply_unread = false;
	side->resuming = true;
	run_unsettled(m);
	return 0;
}

int source_side_resume(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	struct source_side *side = m->source;
	enum wh_phase phase = wh_get_phase(m);
	int ret;

	if (phase != WH_PHASE_PAUSED || m->ended)
		return err_set(err, -EBUSY, "resume: it is %s", wh_phase_name(phase));
	if (!run_is_settled(m) && !again_waits(m))
		return err_set(err, -EBUSY, "resume: %s",
			       side->resuming ? "it is connecting" :
						"the old connection is not closed yet");
	ret = source_side_again(m, uri, err);
	if (ret == 0)
		again_by_hand(m);
	return ret;
}

/* What the request loop has for this one. */
static void source_mail(struct wh_migration *m)
{
	struct mailbox post;

	pthread_mutex_lock(&m->post_lock);
	post = m->post;
	m->post.urgent_lost = false;
	m->post.reply_lost = false;
	m->post.fault_failed = false;
	pthread_mutex_unlock(&m->post_lock);

	if (post.urgent_lost)
		source_lost(m, CHANNEL_URGENT, &post.urgent_err);
	if (post.reply_lost)
		source_lost(m, CHANNEL_MAIN, &post.reply_err);
	if (post.fault_failed)
		source_lost(m, CHANNEL_MAIN, &post.fault_err);
}

/* All that belongs to the connection. Return: nothing of it is under way any more */
static bool source_unlink(struct wh_migration *m)
{
	struct source_side *side = m->source;
	bool links;

	side->closing = true;
	if (ferry_close(m))
		return false;
	dial_cancel(&side->dial);
	dial_cancel(&side->urgent_dial);
	links = source_links_close(m);
	if (op_busy(&side->send))
		loop_cancel(m->bulk, &side->send);
	links |= run_tick_end(m);
	if (!run_fault_closed(m) || dial_busy(&side->dial) || dial_busy(&side->urgent_dial) ||
	    op_busy(&side->send) || links)
		return false;
	source_links_free(m);
	ferry_free(m);
	if (side->fd >= 0)
		close(side->fd);
	side->fd = -1;
	return true;
}

bool source_side_turn(struct wh_migration *m)
{
	source_mail(m);
	if (!wh_phase_ended(wh_get_phase(m)) && wh_get_phase(m) != WH_PHASE_PAUSED) {
		ferry_turn(m);
		source_pump(m);
		ferry_turn(m);
		probe_send(m);
	}
	if (wh_phase_ended(wh_get_phase(m))) {
		run_source_log_stop(m);
		return source_unlink(m);
	}
	if (wh_get_phase(m) == WH_PHASE_PAUSED && m->source->resuming)
		ferry_turn(m);
	if (wh_get_phase(m) == WH_PHASE_PAUSED && !m->source->resuming && !run_is_settled(m) &&
	    source_unlink(m) && !again_turn(m))
		run_settled(m);
	return false;
}

void source_side_stop(struct wh_migration *m)
{
	m->source->closing = true;
	m->source->request_ended = true;
	m->source->urgent_ended = true;
}

/* Loops are closed and threads gone. */
void source_side_free(struct wh_migration *m)
{
	struct source_side *side = m->source;

	run_source_log_stop(m);
	source_links_free(m);
	ferry_free(m);
	if (side->fd >= 0)
		close(side->fd);
	if (side->urgent_fd >= 0)
		close(side->urgent_fd);
	if (m->post.urgent_fd >= 0)
		close(m->post.urgent_fd);
	if (side->block)
		for (unsigned i = 0; i < m->regions; i++)
			free(side->block[i].dirty);
	free(side->device);
	free(side->reply_buf);
	free(side->urgent_batch);
	free(side->batch);
	free(side->block);
	free(side->engine);
	free(side);
	m->source = NULL;
}

static uint64_t counter(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

void source_side_stats(const struct wh_migration *m, struct wh_stats *stats)
{
	const struct source_counters *c = source_get_counters(m->source->engine);

	stats->bytes = counter(&c->bytes[CHANNEL_MAIN]) + counter(&c->bytes[CHANNEL_URGENT]);
	stats->bytes_return = counter(&c->bytes_return);
	stats->pages_normal = counter(&c->pages_normal);
	stats->pages_zero = counter(&c->pages_zero);
	stats->pages_urgent = counter(&c->pages_urgent);
	stats->pages_again = counter(&c->pages_again);
	stats->rounds = counter(&c->rounds);
	stats->bandwidth = counter(&c->bandwidth);
	stats->dirty_rate = counter(&c->dirty_rate);
	stats->downtime_ns = counter(&c->downtime_ns);
	stats->requests = counter(&c->requests);
	stats->fault_p50_ns = hist_quantile(&c->serve_hist, 500);
	stats->fault_p99_ns = hist_quantile(&c->serve_hist, 990);
	stats->fault_max_ns = counter(&c->serve_hist.max_ns);
	stats->fault_sum_ns = counter(&c->serve_hist.sum_ns);
	if (m->set_up)
		stats->pages_left = source_pages_left(m->source->engine);
}
