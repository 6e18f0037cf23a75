/* SPDX-License-Identifier: MIT */
/*
 * Joining: pages that the destination reads from the source's memory by RDMA, on the fault loop.
 *
 * What dest_fault() would ask the source for it hands over here, and asks only if there is no room
 * for it, or no key. It is read into a stage, and placed from there. Between the fault and the read, and
 * between what is complete and its place, there is no other call: everything else that a turn has to do
 * waits behind that, and is done only where a descriptor says that there is something.
 * When the connection is lost, for whatever reason, all that is on its way is asked for; that of the stream
 * need not be lost with it.
 *
 * It is of the first connection only. Whoever resumes a migration proves to be its source on the
 * stream, which says nothing of whose memory would be read here.
 */
#include "postcopy/run_dest.h"

#ifdef WH_NO_RDMA
bool reads_page(struct wh_migration *m, unsigned block, uint64_t offset)
{
	(void)m, (void)block, (void)offset;
	return false;
}

void reads_turn(struct wh_migration *m)
{
	(void)m;
}

bool reads_close(struct wh_migration *m)
{
	(void)m;
	return false;
}

void reads_free(struct wh_migration *m)
{
	(void)m;
}
#else
#include "postcopy/reads.h"

#include "base/trace.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

static_assert(VREAD_BLOCKS_MAX >= RAM_BLOCKS_MAX, "every block is one of its own");
static_assert(VLINK_READS == VREAD_SLOTS && VLINK_READ_MAX == VREAD_PAGE, "a slot has its stage");
static_assert(VREAD_PAGE == TARGET_PAGE, "and is of one page");
static_assert(VLINK_WRITES >= VLINK_READS, "the queue has room for them");
static_assert(VLINK_SEND_MAX >= VREAD_MESSAGE, "it fits");

static void polled(struct op *op, int result)
{
	(void)op, (void)result; /* reads_turn() looks at everything */
}

static void watch(struct reads *reads, struct op *op, int fd)
{
	if (!op_busy(op))
		loop_poll(reads->m->fault, op, fd, POLLIN);
}

/* ---- The bulk thread ------------------------------------------------------------- */

int reads_accept(struct wh_migration *m, struct rdma_cm_id *id, const struct control_hello *answer,
		 struct wh_err *err)
{
	struct reads *reads = calloc(1, sizeof(*reads));
	int ret;

	if (!reads) {
		vcm_reject(id);
		return err_set(err, -ENOMEM, "rdma: no memory");
	}
	reads->m = m;
	reads->event.done = reads->receive.done = reads->send.done = polled;
	reads->timer.done = reads->again.done = polled;
	vread_init(&reads->engine);
	ret = vlink_accept(&reads->link, id, answer, m->config.dead_peer_ns, err);
	if (ret < 0) {
		free(reads);
		return ret;
	}
	__atomic_fetch_add(&m->own_bytes, sizeof(*reads), __ATOMIC_RELAXED);
	pthread_mutex_lock(&m->post_lock);
	m->post.reads = reads;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->fault);
	return 0;
}

void reads_free(struct wh_migration *m)
{
	struct reads *reads = m->dest->reads;

	pthread_mutex_lock(&m->post_lock);
	if (!reads)
		reads = m->post.reads;
	m->post.reads = NULL;
	pthread_mutex_unlock(&m->post_lock);
	m->dest->reads = NULL;
	if (!reads)
		return;
	vlink_disconnect(&reads->link);
	vlink_close(&reads->link);
	__atomic_fetch_sub(&m->own_bytes, sizeof(*reads) + reads->chunks * sizeof(*reads->chunk),
			   __ATOMIC_RELAXED);
	free(reads->chunk);
	free(reads);
}

/* ---- The fault loop -------------------------------------------------------------- */

/* The list of blocks is known when faults are heard of. Without memory for keys nothing is read */
static void open_blocks(struct reads *reads)
{
	const struct dest *dest = &reads->m->dest->engine;
	struct vread_chunk *chunk;
	uint64_t chunks = 1; /* one too many: for an analyser that cannot know there is a block */

	for (unsigned i = 0; i < dest->blocks; i++)
		chunks += vread_chunks(dest->block[i].used);
	chunk = reads->chunk = calloc(chunks, sizeof(*chunk));
	if (!chunk)
		return;
	reads->chunks = chunks;
	__atomic_fetch_add(&reads->m->own_bytes, reads->chunks * sizeof(*chunk), __ATOMIC_RELAXED);
	for (unsigned i = 0; i < dest->blocks; i++) {
		vread_add_block(&reads->engine, dest->block[i].used, chunk);
		chunk += vread_chunks(dest->block[i].used);
	}
}

static int begin(struct reads *reads, const struct vread_job *job, struct wh_err *err)
{
	const struct vread_slot *slot = &reads->engine.slot[job->slot];

	trace(page_request, slot->block, slot->offset / TARGET_PAGE, 1);
	return vlink_read(&reads->link, (size_t)job->slot * VREAD_PAGE, VREAD_PAGE, job->address,
			  job->rkey, err);
}

static void take_complete(struct reads *reads)
{
	vread_done(&reads->engine, reads->link.written);
	reads->link.written = 0;
}

/*
 * What is complete is so though it broke. The queue pair goes before pages of the stage are asked for:
 * nothing is read into it any more
 */
static void lose(struct reads *reads, const struct wh_err *err)
{
	enum wh_phase phase = wh_get_phase(reads->m);

	reads->over = true;
	reads->asked_ns = 0;
	vlink_disconnect(&reads->link);
	take_complete(reads);
	vread_lost(&reads->engine);
	if (phase == WH_PHASE_SWITCHOVER || phase == WH_PHASE_POSTCOPY)
		run_log(reads->m, WH_LOG_WARNING, "pages are asked for, not read any more: %s",
			err->text);
}

bool reads_page(struct wh_migration *m, unsigned block, uint64_t offset)
{
	struct reads *reads = m->dest->reads;
	struct wh_err err = { 0 };
	struct vread_job job;

	if (!reads || !reads->link.up || reads->over || !vread_page(&reads->engine, block, offset))
		return false;
	while (vread_begin(&reads->engine, &job))
		if (begin(reads, &job, &err) < 0) {
			lose(reads, &err);
			break;
		}
	return true;
}

/* Whatever is in it is asked for: the engine remembers what cannot be, and its next step says so */
static void ask_for_vain(struct reads *reads)
{
	struct dest *dest = &reads->m->dest->engine;
	struct wh_err err = { 0 };
	unsigned at;

	while ((at = vread_find(&reads->engine, VREAD_VAIN)) < VREAD_SLOTS) {
		const struct vread_slot slot = reads->engine.slot[at];

		vread_free(&reads->engine, at);
		if (dest_unread(dest, slot.block, slot.offset, &err) < 0)
			loop_wake(reads->m->bulk);
	}
}

/* In any state of the connection: what is here is good */
static void place(struct reads *reads)
{
	struct dest *dest = &reads->m->dest->engine;
	uint64_t now_ns = clock_now_ns();
	struct wh_err err = { 0 };
	unsigned at;
	int ret;

	take_complete(reads);
	while ((at = vread_find(&reads->engine, VREAD_HERE)) < VREAD_SLOTS) {
		const struct vread_slot *slot = &reads->engine.slot[at];

		ret = dest_read(dest, slot->block, slot->offset,
				vlink_stage(&reads->link) + (size_t)at * VREAD_PAGE, now_ns, &err);
		if (ret == DEST_RETRY)
			break;
		vread_free(&reads->engine, at);
		if (ret < 0)
			loop_wake(reads->m->bulk);
	}
	ret = dest_read_step(dest, now_ns, &err);
	if (ret < 0)
		loop_wake(reads->m->bulk);
	if (ret == DEST_RETRY && !op_busy(&reads->again))
		loop_timer(reads->m->fault, &reads->again,
			   now_ns + dest->channel[CHANNEL_URGENT].retry_ns);
}

/*
 * What is under way is told of when it is complete. The queue is armed while it is, and not when it was:
 * then the guest's thread wants the processor. Return: 0, or a negative errno
 */
static int arm(struct reads *reads, struct wh_err *err)
{
	uint8_t *at;
	int ret;

	if (op_busy(&reads->send) || !reads->link.sending)
		return 0;
	ret = vlink_room(&reads->link, &at, err);
	if (reads->link.sending)
		watch(reads, &reads->send, vlink_send_fd(&reads->link));
	return ret;
}

/* What has come of what was said and begun. Return: 0, or a negative errno */
static int hear(struct reads *reads, struct wh_err *err)
{
	const uint8_t *message;
	size_t bytes;
	int ret = 0;

	if (!op_busy(&reads->send)) {
		ret = vlink_reap(&reads->link, err);
		place(reads);
	}
	if (ret >= 0 && !op_busy(&reads->event))
		while ((ret = vlink_event(&reads->link, err)) > 0)
			;
	if (op_busy(&reads->receive))
		return ret;
	while (ret >= 0 && (ret = vlink_received(&reads->link, &message, &bytes, err)) > 0) {
		reads->asked_ns = 0;
		ret = vread_take(&reads->engine, message, bytes, err);
		if (ret == 0)
			ret = vlink_receive(&reads->link, err);
	}
	return ret;
}

/* For who waits, mostly for a key */
static int do_next(struct reads *reads, struct wh_err *err)
{
	struct vread_job job;
	size_t bytes;
	uint8_t *at;
	int ret;

	if (vread_find(&reads->engine, VREAD_WAITS) == VREAD_SLOTS)
		return 0;
	while ((ret = vlink_room(&reads->link, &at, err)) > 0) {
		switch (vread_next(&reads->engine, at, &bytes, &job)) {
		case VREAD_SAY:
			reads->asked_ns = clock_now_ns();
			ret = vlink_send(&reads->link, bytes, err);
			break;
		case VREAD_READ:
			ret = begin(reads, &job, err);
			break;
		case VREAD_WAIT:
			return 0;
		}
		if (ret < 0)
			break;
	}
	return ret;
}

/* A source that owes an answer for so long may answer a request all the same */
static int look_at_clock(struct reads *reads, struct wh_err *err)
{
	uint64_t limit_ns = reads->m->config.dead_peer_ns;

	if (!reads->asked_ns || !limit_ns)
		return 0;
	if (clock_now_ns() - reads->asked_ns >= limit_ns)
		return err_set(err, -ETIMEDOUT, "rdma: the source answers no request for keys");
	if (!op_busy(&reads->timer))
		loop_timer(reads->m->fault, &reads->timer, reads->asked_ns + limit_ns);
	return 0;
}

static bool cancel(struct reads *reads, struct op *op)
{
	if (op_busy(op))
		loop_cancel(reads->m->fault, op);
	return op_busy(op);
}

void reads_turn(struct wh_migration *m)
{
	struct reads *reads = m->dest->reads;
	struct wh_err err = { 0 };
	int ret;

	if (!reads || reads->closed)
		return;
	if (!reads->chunk)
		open_blocks(reads);
	if (!reads->over) {
		ret = hear(reads, &err);
		if (ret >= 0 && reads->link.up)
			ret = do_next(reads, &err);
		if (ret >= 0)
			ret = arm(reads, &err);
		if (ret >= 0)
			ret = look_at_clock(reads, &err);
		if (ret < 0)
			lose(reads, &err);
	}
	place(reads);
	ask_for_vain(reads);
	if (reads->over)
		return;
	watch(reads, &reads->event, vlink_event_fd(&reads->link));
	watch(reads, &reads->receive, vlink_receive_fd(&reads->link));
}

bool reads_close(struct wh_migration *m)
{
	struct reads *reads = m->dest->reads;
	bool busy;

	if (!reads || reads->closed)
		return false;
	reads->over = true;
	busy = cancel(reads, &reads->event);
	busy |= cancel(reads, &reads->receive);
	busy |= cancel(reads, &reads->send);
	busy |= cancel(reads, &reads->timer);
	busy |= cancel(reads, &reads->again);
	reads->closed = !busy;
	return busy;
}
#endif
