/* SPDX-License-Identifier: MIT */
/*
 * Joining: RDMA at the destination.
 *
 * A thread stands between the messages of a connection and a pair of sockets: what they carry
 * of the stream goes into one socket, and the other one is read by the bulk loop as any
 * connection is. So everything above knows streams only. What is beside the stream, the thread
 * does itself: registering memory may take long and must not hold up anything else.
 *
 * One message is under way at a time. The next is asked for (READY) when all of the one before
 * has been done, or is in the socket: a reader who is slow slows the source down.
 *
 * The guest is not started, and no memory dropped for postcopy, before the peer's way into it is
 * closed (bridge_unhook(), bridge_fence()). In postcopy pages are of the stream.
 */
#include "postcopy/run_dest.h"

#ifdef WH_NO_RDMA
#include <errno.h>

int bridge_listen(struct wh_migration *m, struct uri *where, struct wh_err *err)
{
	(void)m, (void)where;
	return err_set(err, -EOPNOTSUPP, "rdma: the library was built without RDMA (RDMA=0)");
}

int bridge_leave(struct wh_migration *m, struct wh_err *err)
{
	(void)m, (void)err;
	return 0;
}

bool bridge_reap(struct wh_migration *m)
{
	(void)m;
	return false;
}

int bridge_hook(struct wh_migration *m, struct wh_err *err)
{
	(void)m;
	return err_set(err, -EPROTO, "flag HOOK, which is for RDMA only");
}

void bridge_unhook(struct wh_migration *m)
{
	(void)m;
}

void bridge_fence(struct wh_migration *m)
{
	(void)m;
}

void bridge_refuse(struct wh_migration *m, const struct wh_err *why)
{
	(void)m, (void)why;
}

bool bridge_close(struct wh_migration *m)
{
	(void)m;
	return false;
}

void bridge_free(struct wh_migration *m)
{
	(void)m;
}
#else
#include "postcopy/bridge.h"
#include "postcopy/reads.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BRIDGE_ENTRIES 32
#define SOCKET_BYTES (1 << 20)

/* Pages are not read from one who resumes: run_read.c. Under a limit of its own it does not pin all */
static struct control_hello answer_to(const struct bridge *bridge,
				      const struct control_hello *hello)
{
	const struct wh_migration *m = bridge->m;
	uint32_t known = CONTROL_SEVERAL | CONTROL_NO_ROOM;

	known |= control_chunk_flags(vmem_room(m->config.rdma_pin_max));
	if (!m->config.rdma_pin_max)
		known |= CONTROL_PIN_ALL;
	if (m->config.postcopy && hello->flags & CONTROL_TICKET &&
	    wh_get_phase(m) != WH_PHASE_PAUSED)
		known |= CONTROL_READS;
	return (struct control_hello){ CONTROL_VERSION, hello->flags & known, { 0 } };
}

/* For the connections that follow this one */
static int draw_ticket(struct control_hello *answer, struct wh_err *err)
{
	struct identity_number number;
	int ret = run_random(NULL, &number, err);

	answer->flags |= CONTROL_TICKET;
	if (ret == 0)
		answer->ticket = (struct control_ticket){ number.high, number.low };
	return ret;
}

static bool has_ticket(const struct control_ticket *ticket)
{
	return ticket->high || ticket->low;
}

/* Of the migration that is here: one of ours shows its ticket, a QEMU is known by its address alone */
static bool belongs(const struct bridge *bridge, struct rdma_cm_id *id,
		    const struct control_hello *hello)
{
	const struct control_ticket *given = &bridge->ticket, *shown = &hello->ticket;

	return bridge->running && !bridge->refusing && vcm_is_peer(id, &bridge->peer) &&
	       !(hello->flags & CONTROL_TICKET) == !has_ticket(given) &&
	       shown->high == given->high && shown->low == given->low;
}

static int start_thread(struct bridge *bridge, struct rdma_cm_id *id,
			const struct control_hello *hello, int fd, struct wh_err *err)
{
	struct control_hello answer = answer_to(bridge, hello);
	struct wh_migration *m = bridge->m;
	int ret = 0;

	if (hello->flags & CONTROL_TICKET)
		ret = draw_ticket(&answer, err);
	if (ret == 0)
		ret = loop_open(&bridge->loop, BRIDGE_ENTRIES, err);
	if (ret < 0) {
		vcm_reject(id);
		return ret;
	}
	ret = vlink_accept(&bridge->link, id, &answer, m->config.dead_peer_ns, err);
	if (ret < 0)
		goto out_loop;
	bridge_thread_init(bridge, answer.flags, fd);
	ret = pthread_create(&bridge->thread, NULL, bridge_thread, bridge);
	if (ret == 0) {
		bridge->running = true;
		bridge->may_read = answer.flags & CONTROL_READS;
		bridge->ticket = answer.ticket;
		return 0;
	}
	ret = err_sys(err, ret, "rdma: a thread");
	vlink_close(&bridge->link);
out_loop:
	loop_close(bridge->loop);
	return ret;
}

static bool has_ended(const struct bridge *bridge)
{
	return __atomic_load_n(&bridge->ended, __ATOMIC_ACQUIRE);
}

static void stop(struct bridge *bridge)
{
	pthread_mutex_lock(&bridge->lock);
	bridge->stop = true;
	pthread_mutex_unlock(&bridge->lock);
	loop_wake(bridge->loop);
}

static void end_thread(struct bridge *bridge)
{
	struct wh_migration *m = bridge->m;

	if (!bridge->running)
		return;
	stop(bridge);
	pthread_join(bridge->thread, NULL);
	/* what it failed by is of no connection any more */
	pthread_mutex_lock(&m->post_lock);
	m->post.bridge_failed = false;
	pthread_mutex_unlock(&m->post_lock);
	loop_close(bridge->loop);
	close(bridge->fd);
	vlink_close(&bridge->back);
	memset(&bridge->running, 0, sizeof(*bridge) - offsetof(struct bridge, running));
}

/* None of its operations is under way */
static void free_bridge(struct bridge *bridge)
{
	end_thread(bridge);
	for (unsigned i = 0; i < bridge->listeners; i++)
		vcm_close(&bridge->cm[i]);
	pthread_cond_destroy(&bridge->cond);
	pthread_mutex_destroy(&bridge->lock);
	free(bridge);
}

/* The source's second connection, for the return path */
static int take_back(struct bridge *bridge, struct rdma_cm_id *id,
		     const struct control_hello *hello, struct wh_err *err)
{
	struct control_hello answer = answer_to(bridge, hello);
	int ret;

	ret = vlink_accept(&bridge->back, id, &answer, bridge->m->config.dead_peer_ns, err);
	if (ret < 0)
		return ret;
	bridge->has_back = true;
	pthread_mutex_lock(&bridge->lock);
	bridge->back_given = true;
	pthread_mutex_unlock(&bridge->lock);
	loop_wake(bridge->loop);
	return 0;
}

/* Its third, which it makes if that was agreed */
static int take_reads(struct bridge *bridge, struct rdma_cm_id *id,
		      const struct control_hello *hello, struct wh_err *err)
{
	const struct control_hello answer = { CONTROL_VERSION, CONTROL_READER, { 0 } };

	if (!belongs(bridge, id, hello) || !bridge->may_read || bridge->has_reads ||
	    has_ended(bridge)) {
		vcm_reject(id);
		return err_set(err, -EPROTO,
			       "rdma: a connection to read pages on, which was not agreed");
	}
	bridge->has_reads = true;
	return reads_accept(bridge->m, id, &answer, err);
}

static int take_connection(struct bridge *bridge, struct rdma_cm_id *id,
			   const struct control_hello *hello, struct wh_err *err)
{
	int bytes = SOCKET_BYTES;
	int fd[2];
	int ret;

	if (hello->flags & CONTROL_CHECKPOINT) {
		vcm_reject(id);
		return err_set(err, -EPROTO, "rdma: it wants to bring checkpoints");
	}
	if (hello->flags & CONTROL_READER)
		return take_reads(bridge, id, hello, err);
	/* it was nobody who resumes: the source comes yet */
	if (bridge->running && has_ended(bridge) && !bridge->m->dest->main_up)
		end_thread(bridge);
	if (!bridge->has_back && belongs(bridge, id, hello))
		return take_back(bridge, id, hello, err);
	if (bridge->running || bridge->refusing || has_ticket(&hello->ticket)) {
		vcm_reject(id);
		return err_set(err, -EBUSY, "rdma: %s",
			       bridge->running ?
				       "there is one already, which this one is no part of" :
				       "the migration that it is a part of is not here");
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) < 0) {
		ret = -errno;
		vcm_reject(id);
		return err_sys(err, ret, "rdma: a pair of sockets");
	}
	(void)setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	vcm_peer(id, &bridge->peer);
	ret = start_thread(bridge, id, hello, fd[0], err);
	if (ret < 0) {
		close(fd[0]);
		close(fd[1]);
		return ret;
	}
	accept_connection(bridge->m, fd[1]);
	return 0;
}

static void requested(struct op *op, int result)
{
	struct bridge_request *request =
		(struct bridge_request *)((char *)op - offsetof(struct bridge_request, op));
	struct bridge *bridge = request->bridge;
	struct vcm *cm = &bridge->cm[request - bridge->request];
	struct control_hello hello;
	struct wh_err err = { 0 };
	struct rdma_cm_id *id;
	int ret;

	if (result == -ECANCELED || bridge->refusing)
		return;
	while ((ret = vcm_next(cm, &id, &hello, &err)) != 0) {
		if (ret > 0)
			ret = take_connection(bridge, id, &hello, &err);
		else if (ret != -EPROTO)
			break;
		if (ret < 0)
			run_log(bridge->m, WH_LOG_WARNING, "a connection was refused: %s",
				err.text);
		err.code = 0;
	}
	if (ret == 0)
		loop_poll(bridge->m->bulk, op, vcm_fd(cm), POLLIN);
	else
		dest_side_deaf(bridge->m, &err);
}

static int listen_at(struct bridge *bridge, struct uri *uri, struct wh_err *err)
{
	struct address addresses[LISTENERS_MAX];
	char text[ADDRESS_TEXT];
	int count, ret = 0;

	count = address_resolve(uri, true, addresses, LISTENERS_MAX, err);
	/* a name may have addresses of other devices, too */
	for (int i = 0; i < count && i < LISTENERS_MAX; i++) {
		address_set_port(&addresses[i], uri->port);
		ret = vcm_listen(&bridge->cm[bridge->listeners],
				 (const struct sockaddr *)&addresses[i].at, &uri->port, err);
		if (ret < 0) {
			address_format(&addresses[i], text);
			err_wrap(err, "listen at %s", text);
		} else {
			bridge->listeners++;
		}
	}
	if (count < 0)
		return count;
	return bridge->listeners ? 0 : ret;
}

static bool requests_busy(struct bridge *bridge)
{
	bool busy = false;

	bridge->refusing = true;
	for (unsigned i = 0; i < bridge->listeners; i++) {
		if (op_busy(&bridge->request[i].op))
			loop_cancel(bridge->m->bulk, &bridge->request[i].op);
		busy |= op_busy(&bridge->request[i].op);
	}
	return busy;
}

/* It listens there no longer, and can be given up with the last of its operations */
int bridge_leave(struct wh_migration *m, struct wh_err *err)
{
	struct dest_side *side = m->dest;

	if (!side->bridge)
		return 0;
	if (side->bridge_before)
		return err_set(err, -EBUSY, "listen: the address before is not given up yet");
	side->bridge_before = side->bridge;
	side->bridge = NULL;
	(void)bridge_reap(m);
	return 0;
}

bool bridge_reap(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	if (!side->bridge_before)
		return false;
	if (requests_busy(side->bridge_before))
		return true;
	free_bridge(side->bridge_before);
	side->bridge_before = NULL;
	return false;
}

int bridge_listen(struct wh_migration *m, struct uri *where, struct wh_err *err)
{
	struct bridge *bridge;
	int ret;

	if (m->handover)
		return err_set(err, -EOPNOTSUPP, "rdma: no agent goes over RDMA yet");
	bridge = calloc(1, sizeof(*bridge));
	if (!bridge)
		return err_set(err, -ENOMEM, "rdma: no memory");
	bridge->m = m;
	pthread_mutex_init(&bridge->lock, NULL);
	pthread_cond_init(&bridge->cond, NULL);
	ret = listen_at(bridge, where, err);
	if (ret == 0)
		ret = bridge_leave(m, err);
	if (ret < 0) {
		free_bridge(bridge);
		return ret;
	}
	m->dest->bridge = bridge;
	for (unsigned i = 0; i < bridge->listeners; i++) {
		bridge->request[i] =
			(struct bridge_request){ .op.done = requested, .bridge = bridge };
		loop_poll(m->bulk, &bridge->request[i].op, vcm_fd(&bridge->cm[i]), POLLIN);
	}
	uri_format(where, m->uri, sizeof(m->uri));
	return 0;
}

int bridge_hook(struct wh_migration *m, struct wh_err *err)
{
	struct bridge *bridge = m->dest->bridge;

	if (!bridge || !bridge->running)
		return err_set(err, -EPROTO, "flag HOOK, which is for RDMA only");
	pthread_mutex_lock(&bridge->lock);
	bridge->hooks++;
	pthread_mutex_unlock(&bridge->lock);
	loop_wake(bridge->loop);
	return 0;
}

void bridge_unhook(struct wh_migration *m)
{
	struct bridge *bridge = m->dest->bridge;

	if (!bridge || !bridge->running)
		return;
	pthread_mutex_lock(&bridge->lock);
	bridge->fence = true;
	pthread_mutex_unlock(&bridge->lock);
	loop_wake(bridge->loop);
	pthread_mutex_lock(&bridge->lock);
	while (!bridge->fenced)
		pthread_cond_wait(&bridge->cond, &bridge->lock);
	pthread_mutex_unlock(&bridge->lock);
}

void bridge_fence(struct wh_migration *m)
{
	if (!m->dest->bridge)
		return;
	/* there may be a last word to say */
	if (m->dest->engine.return_path)
		bridge_unhook(m);
	else
		end_thread(m->dest->bridge);
}

void bridge_refuse(struct wh_migration *m, const struct wh_err *why)
{
	struct bridge *bridge = m->dest->bridge;

	run_log(m, WH_LOG_WARNING, "a connection was refused: %s", why->text);
	if (bridge && bridge->running)
		stop(bridge);
}

bool bridge_close(struct wh_migration *m)
{
	struct bridge *bridge = m->dest->bridge;
	bool busy = bridge_reap(m);

	if (!bridge)
		return busy;
	busy |= requests_busy(bridge);
	/* it sees that its socket is closed, and what has become of the migration */
	if (bridge->running && !has_ended(bridge)) {
		stop(bridge);
		busy = true;
	}
	return busy;
}

void bridge_free(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	if (side->bridge)
		free_bridge(side->bridge);
	if (side->bridge_before)
		free_bridge(side->bridge_before);
	side->bridge = side->bridge_before = NULL;
}
#endif
