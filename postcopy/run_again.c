/* SPDX-License-Identifier: MIT */
/*
 * Joining: a postcopy whose link broke, brought back by itself (auto_recover_ns).
 *
 * The destination listens again where it did, as soon as nothing is left of the old
 * connection, or 50 ms after one came that was nothing. The source connects again where it did, after
 * 50 ms, and if that was nothing twice as long each time, to a second at most: the other end may
 * not have noticed yet that the link is gone, and listens when it has. A link that breaks as soon
 * as it runs was nothing, too. Both go on until it runs again, or until the
 * time is over: then it is paused as any other, and whoever waits is told.
 *
 * All of it is done in the turns of the bulk loop, as what wh_recover() and wh_resume() do;
 * the timer is for having one. Who pauses, recovers or resumes by hand ends it.
 *
 * The source looks for nobody who cannot prove that he is the destination: it does so in
 * migrations with an id only (recover/identity.h). To the destination of a QEMU's migration
 * anybody may come, as with wh_recover().
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <errno.h>

#define AGAIN_FIRST_NS (50 * NS_PER_MS)
#define AGAIN_MOST_NS NS_PER_S
#define PROVEN_NS \
	(2 * NS_PER_S) /* whoever runs so long is no longer what it was brought back from */
#define FOR_EVER_NS ((uint64_t)INT64_MAX / 2)

static bool has_way_back(const struct wh_migration *m)
{
	if (m->role == WH_DEST)
		return m->dest->listener[m->dest->listening].at.uri.kind != URI_FD;
	return m->source->uri.kind != URI_FD && source_has_id(m->source->engine);
}

/* Bulk loop, each time that it pauses */
void again_paused(struct wh_migration *m, const struct wh_err *err)
{
	struct again *again = &m->again;
	uint64_t now_ns = clock_now_ns();

	if (err)
		again->reason = *err;
	/* whoever it was this time: the source shall not find it closed for long */
	if (m->role == WH_DEST)
		again->next_ns = again->on ? now_ns + AGAIN_FIRST_NS : 0;
	if (again->on || again->off || !m->config.auto_recover_ns || !has_way_back(m))
		return;
	again->on = true;
	again->until_ns =
		now_ns +
		(m->config.auto_recover_ns < FOR_EVER_NS ? m->config.auto_recover_ns : FOR_EVER_NS);
	if (!again->runs_ns || now_ns - again->runs_ns >= PROVEN_NS)
		again->wait_ns = AGAIN_FIRST_NS;
	if (m->role == WH_SOURCE)
		again->next_ns = now_ns + again->wait_ns;
	run_log(m, WH_LOG_INFO, "it is brought back by itself, for %llu ms",
		(unsigned long long)(m->config.auto_recover_ns / NS_PER_MS));
}

void again_runs(struct wh_migration *m)
{
	m->again.runs_ns = m->again.on ? clock_now_ns() : 0;
	m->again.on = m->again.off = false;
	if (op_busy(&m->again.timer))
		loop_cancel(m->bulk, &m->again.timer);
}

void again_by_hand(struct wh_migration *m)
{
	again_runs(m);
	m->again.off = true;
}

static void timer_done(struct op *op, int result)
{
	(void)op;
	(void)result; /* the turn behind every step is what it was for */
}

/* A turn at that time, or earlier: then it is set again */
static void turn_at(struct wh_migration *m, uint64_t at_ns)
{
	struct again *again = &m->again;

	if (op_busy(&again->timer)) {
		if (at_ns < again->timer_ns)
			loop_cancel(m->bulk, &again->timer);
		return;
	}
	again->timer.done = timer_done;
	again->timer_ns = at_ns;
	loop_timer(m->bulk, &again->timer, at_ns);
}

bool again_waits(const struct wh_migration *m)
{
	return m->again.on && m->again.resting;
}

void again_failed(struct wh_migration *m, const struct wh_err *err)
{
	m->again.reason = *err;
	run_log(m, WH_LOG_DEBUG, "not brought back yet: %s", err->text);
}

static bool is_late(struct wh_migration *m)
{
	return clock_now_ns() >= m->again.until_ns;
}

/* The time is over: what it failed by the last time is the reason */
static void give_up(struct wh_migration *m)
{
	struct wh_err err = m->again.reason;

	again_by_hand(m);
	err_wrap(&err, "not brought back within %llu ms",
		 (unsigned long long)(m->config.auto_recover_ns / NS_PER_MS));
	run_forget_result(m);
	run_moved(m, WH_PHASE_PAUSED, &err);
}

static void try_again(struct wh_migration *m)
{
	struct again *again = &m->again;
	struct wh_err err = { 0 };
	struct uri uri;
	int ret;

	again->next_ns = clock_now_ns() + again->wait_ns;
	again->wait_ns = again->wait_ns * 2 < AGAIN_MOST_NS ? again->wait_ns * 2 : AGAIN_MOST_NS;
	if (m->role == WH_DEST) {
		uri = m->dest->listener[m->dest->listening].at.uri;
		ret = dest_side_again(m, &uri, &err);
	} else {
		uri = m->source->uri;
		ret = source_side_again(m, &uri, &err);
	}
	if (ret < 0)
		again_failed(m, &err);
	else
		again->resting = false;
}

bool again_turn(struct wh_migration *m)
{
	struct again *again = &m->again;

	again->resting = again->on;
	if (!again->on)
		return false;
	if (is_late(m)) {
		give_up(m);
		return false;
	}
	if (clock_now_ns() >= again->next_ns)
		try_again(m);
	turn_at(m, again->resting && again->next_ns < again->until_ns ? again->next_ns :
									again->until_ns);
	return true;
}

bool again_late(struct wh_migration *m)
{
	if (!m->again.on)
		return false;
	if (is_late(m))
		return true;
	turn_at(m, m->again.until_ns);
	return false;
}
