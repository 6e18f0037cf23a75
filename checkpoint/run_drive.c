/* SPDX-License-Identifier: MIT */
/*
 * Joining: the thread that drives a protection, and how others talk to it.
 */
#include "checkpoint/run_rdma.h"

#include <errno.h>

/* Whose thread this is */
static __thread const struct wh_protect *here;

void protect_moved(struct wh_protect *p, enum wh_protect_state to, uint64_t epoch,
		   uint64_t generation, const struct wh_err *why)
{
	struct wh_protect_event event = {
		.from = p->state,
		.to = to,
		.epoch = epoch,
		.generation = generation,
		.err = why && why->code ? why : NULL,
	};

	p->state = to;
	if (event.err)
		p->why = *why;
	if (p->cb.event)
		p->cb.event(p->config.opaque, &event);
}

/* For whoever asks at any time */
static void publish(struct wh_protect *p)
{
	struct wh_protect_status status = { .state = p->state, .err = p->why };
	bool ended;

	if (p->role == WH_SOURCE)
		protect_source_status(p, &status, clock_now_ns());
	else
		protect_dest_status(p, &status, clock_now_ns());
	ended = wh_protect_ended(p->state) &&
		(p->role == WH_SOURCE ? protect_source_ended(p) : protect_dest_ended(p)) &&
		link_flushed(&p->link[LINK_CONTENTS]) && link_flushed(&p->link[LINK_PULSE]);
	pthread_mutex_lock(&p->lock);
	p->status = status;
	if (ended && !p->ended) {
		p->ended = true;
		pthread_cond_broadcast(&p->cond);
	}
	pthread_mutex_unlock(&p->lock);
}

/* One at a time, since it may lead to callbacks. @why: nobody can do it any more */
static void answer_calls(struct wh_protect *p, const struct wh_err *why)
{
	struct protect_call *call;

	while (__atomic_load_n(&p->calls, __ATOMIC_RELAXED)) {
		pthread_mutex_lock(&p->lock);
		call = p->calls;
		__atomic_store_n(&p->calls, call->next, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&p->lock);
		if (why) {
			call->err = *why;
			call->result = why->code;
		} else {
			call->result = call->run(p, call->what, &call->err);
			/* who has decided sees it in the status, too */
			publish(p);
		}
		pthread_mutex_lock(&p->lock);
		call->done = true;
		pthread_cond_broadcast(&p->cond);
		pthread_mutex_unlock(&p->lock);
	}
}

int protect_call(struct wh_protect *p,
		 int (*run)(struct wh_protect *p, const void *what, struct wh_err *err),
		 const void *what, struct wh_err *err)
{
	struct protect_call call = { .run = run, .what = what };
	struct protect_call **last;

	if (here == p)
		return err_set(err, -EDEADLK,
			       "protection: a callback of it cannot wait for its own thread");
	if (!p->threaded)
		return err_set(err, -EINVAL, "protection: it is not started");
	pthread_mutex_lock(&p->lock);
	if (p->dead) {
		pthread_mutex_unlock(&p->lock);
		return err_set(err, -ESHUTDOWN, "protection: its thread has ended: %.150s",
			       p->why.text);
	}
	for (last = &p->calls; *last; last = &(*last)->next)
		;
	__atomic_store_n(last, &call, __ATOMIC_RELAXED);
	loop_wake(p->loop);
	while (!call.done)
		pthread_cond_wait(&p->cond, &p->lock);
	pthread_mutex_unlock(&p->lock);
	if (call.result < 0 && err)
		*err = call.err;
	return call.result;
}

int protect_heard(struct protect_link *link, const struct cp_header *header, const uint8_t *bytes,
		  struct wh_err *err)
{
	return link->p->role == WH_SOURCE ? protect_source_heard(link, header, bytes, err) :
					    protect_dest_heard(link, header, bytes, err);
}

static uint64_t turn(struct wh_protect *p)
{
	uint64_t next, then;

	answer_calls(p, NULL);
	then = piers_turn(p, clock_now_ns());
	next = p->role == WH_SOURCE ? protect_source_turn(p, clock_now_ns()) :
				      protect_dest_turn(p, clock_now_ns());
	for (unsigned i = 0; i < LINK_COUNT; i++)
		link_turn(&p->link[i]);
	publish(p);
	return then < next ? then : next;
}

/* A ring that fails can do nothing more. What is held stays held */
static void die(struct wh_protect *p, const struct wh_err *err)
{
	protect_log(p, WH_LOG_ERROR, "protection: %s", err->text);
	pthread_mutex_lock(&p->lock);
	p->why = *err;
	p->status.err = *err;
	p->dead = true;
	pthread_mutex_unlock(&p->lock);
	answer_calls(p, err);
}

void *protect_main(void *arg)
{
	struct wh_protect *p = arg;
	struct wh_err err = { 0 };

	here = p;
	pthread_setname_np(pthread_self(), "wherry-protect");
	while (!protect_stops(p)) {
		uint64_t next_ns = turn(p), now_ns = clock_now_ns();
		int64_t wait_ns = -1;

		if (next_ns <= now_ns)
			wait_ns = 0;
		else if (next_ns != UINT64_MAX)
			wait_ns = (int64_t)(next_ns - now_ns);
		if (loop_step(p->loop, wait_ns, &err) < 0) {
			die(p, &err);
			return NULL;
		}
	}
	err_set(&err, -ESHUTDOWN, "protection: it is being ended");
	answer_calls(p, &err);
	return NULL;
}
