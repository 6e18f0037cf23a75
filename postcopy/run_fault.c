/* SPDX-License-Identifier: MIT */
/*
 * Joining: the userfaultfd on the fault loop. Fault messages are read in batches and
 * handed to the engine, which asks the source; what the engine cannot do while the
 * memory map changes is tried again on a timer, since nothing announces the end of
 * the change.
 */
#include "postcopy/run_dest.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

static void fault_later(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	if (!op_busy(&side->fault_timer))
		loop_timer(m->fault, &side->fault_timer, clock_now_ns() + side->retry_ns);
}

static void fault_keep(struct wh_migration *m, unsigned block, uint64_t offset, uint32_t tid,
		       uint64_t since_ns)
{
	struct dest_side *side = m->dest;
	struct wh_err err = { 0 };

	if (side->retries == RETRY_FAULTS) {
		/* No room to remember it: a wake makes the thread fault, and ask, again. */
		(void)placer_wake(&side->placer[block], offset & ~(TARGET_PAGE - 1), TARGET_PAGE,
				  &err);
		return;
	}
	side->retry[side->retries++] = (struct retry_fault){
		.block = block,
		.tid = tid,
		.offset = offset,
		.since_ns = since_ns,
	};
	fault_later(m);
}

static void fault_serve(struct wh_migration *m, unsigned block, uint64_t offset, uint32_t tid,
			uint64_t now_ns)
{
	struct wh_err err = { 0 };
	int ret;

	ret = dest_fault(&m->dest->engine, block, offset, tid, now_ns, &err);
	if (ret == DEST_RETRY)
		fault_keep(m, block, offset, tid, now_ns);
	else if (ret < 0)
		loop_wake(m->bulk); /* the engine remembers both; its next step says so */
}

static void fault_retry(struct op *op, int result)
{
	struct dest_side *side =
		(struct dest_side *)((char *)op - offsetof(struct dest_side, fault_timer));
	struct wh_migration *m = side->engine.ctx;
	struct retry_fault again[RETRY_FAULTS];
	unsigned count = side->retries;

	if (result == -ECANCELED || side->stopped)
		return;
	side->retry_ns = side->retry_ns * 2 > NS_PER_MS ? NS_PER_MS : side->retry_ns * 2;
	for (unsigned i = 0; i < count; i++)
		again[i] = side->retry[i];
	side->retries = 0;
	for (unsigned i = 0; i < count; i++)
		fault_serve(m, again[i].block, again[i].offset, again[i].tid, again[i].since_ns);
	if (side->retries == 0)
		side->retry_ns = FAULT_RETRY_NS;
}

static int block_of(struct wh_migration *m, uint64_t addr, uint64_t *offset)
{
	struct dest *engine = &m->dest->engine;
	int region = region_find(m->region, m->regions, (void *)(uintptr_t)addr, offset);

	if (region < 0)
		return -1;
	for (unsigned i = 0; i < engine->blocks; i++)
		if (engine->block[i].region == &m->region[region])
			return (int)i;
	return -1;
}

static void fault_removed(struct wh_migration *m, uint64_t start, uint64_t end)
{
	uint64_t offset;
	int block;

	/* A range may span neighbouring blocks of one mapping. */
	while (start < end) {
		uint64_t length = TARGET_PAGE;

		block = block_of(m, start, &offset);
		if (block >= 0) {
			length = m->dest->engine.block[block].used - offset;
			if (length > end - start)
				length = end - start;
			dest_removed(&m->dest->engine, (unsigned)block, offset, length);
		}
		start += length;
	}
}

static void fault_event(struct wh_migration *m, const struct uffd_event *event, uint64_t now_ns)
{
	uint64_t offset;
	int block;

	switch (event->kind) {
	case UFFD_FAULT:
		block = block_of(m, event->addr, &offset);
		if (block >= 0)
			fault_serve(m, (unsigned)block, offset, event->tid, now_ns);
		break;
	case UFFD_REMOVE:
	case UFFD_UNMAP:
		break; /* done, as it was read */
	case UFFD_REMAP:
		run_log(m, WH_LOG_ERROR, "guest memory was moved (mremap) while pages are missing");
		break;
	case UFFD_FORK:
		close(event->fork_fd);
		break;
	}
}

static void fault_follow(struct wh_migration *m, const struct uffd_event *events, int count,
			 uint64_t now_ns)
{
	for (int i = 0; i < count; i++)
		if (events[i].kind == UFFD_FAULT)
			follow_fault(m, events[i].tid, now_ns);
}

/*
 * With removes, the event and its bits are one step for whoever places: the read and
 * what it leads to happen under the gate that every placing takes. The kernel refuses
 * to place from the event until it was read, and the gate from the read until the
 * range is marked. So the descriptor is not read by the ring.
 */
static int fault_read(struct wh_migration *m, struct uffd_event events[UFFD_BATCH],
		      struct wh_err *err)
{
	struct dest_side *side = m->dest;
	int count;

	if (!m->config.removes)
		return uffd_read(&side->uffd, events, err);
	pthread_mutex_lock(&side->gate);
	count = uffd_read(&side->uffd, events, err);
	for (int i = 0; i < count; i++)
		if (events[i].kind == UFFD_REMOVE || events[i].kind == UFFD_UNMAP)
			fault_removed(m, events[i].addr, events[i].end);
	pthread_mutex_unlock(&side->gate);
	return count;
}

static void fault_failed(struct wh_migration *m, const struct wh_err *err)
{
	pthread_mutex_lock(&m->post_lock);
	m->post.fault_failed = true;
	m->post.fault_err = *err;
	pthread_mutex_unlock(&m->post_lock);
	loop_wake(m->bulk);
}

static void fault_watch(struct wh_migration *m)
{
	loop_watch(m->fault, &m->dest->fault_watch, m->dest->uffd.fd, POLLIN);
}

static void fault_readable(struct op *op, int result)
{
	struct dest_side *side =
		(struct dest_side *)((char *)op - offsetof(struct dest_side, fault_watch));
	struct wh_migration *m = side->engine.ctx;
	struct uffd_event events[UFFD_BATCH];
	struct wh_err err = { 0 };
	uint64_t now_ns;
	int count;

	if (result == -ECANCELED || side->stopped)
		return;
	if (result < 0 && result != -EAGAIN && result != -EINTR) {
		err_sys(&err, result, "userfaultfd: poll");
		fault_failed(m, &err);
		return;
	}
	if (!op_busy(op))
		fault_watch(m);
	if (result < 0)
		return; /* it is told of what is there when it watches again */
	count = fault_read(m, events, &err);
	if (count < 0) {
		fault_failed(m, &err);
		return;
	}
	now_ns = clock_now_ns();
	for (int i = 0; i < count; i++)
		fault_event(m, &events[i], now_ns);
	fault_follow(m, events, count, now_ns);
	if (count == UFFD_BATCH)
		loop_again(op);
}

/* As much as there is room for; reply_turn() wakes this loop when there is more. */
static void fault_announce(struct wh_migration *m)
{
	struct wh_err err = { 0 };
	unsigned room;
	int ret = 1;

	while (ret == 1) {
		room = reply_room(m);
		if (!room)
			return;
		ret = dest_announce(&m->dest->engine, room, &err);
	}
	pthread_mutex_lock(&m->post_lock);
	m->post.announce = false;
	pthread_mutex_unlock(&m->post_lock);
	if (ret < 0)
		loop_wake(m->bulk); /* the engine's next step says so */
}

void fault_turn(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	bool armed, announce;

	pthread_mutex_lock(&m->post_lock);
	armed = m->post.armed;
	announce = m->post.announce;
	pthread_mutex_unlock(&m->post_lock);
	if (announce)
		fault_announce(m);
	if (!armed || side->fault_watch.done)
		return;
	side->retry_ns = FAULT_RETRY_NS;
	side->fault_timer.done = fault_retry;
	side->fault_watch.done = fault_readable;
	fault_watch(m);
}

void fault_close(struct wh_migration *m)
{
	struct dest_side *side = m->dest;

	if (op_busy(&side->fault_watch))
		loop_cancel(m->fault, &side->fault_watch);
	if (op_busy(&side->fault_timer))
		loop_cancel(m->fault, &side->fault_timer);
}
