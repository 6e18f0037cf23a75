/* SPDX-License-Identifier: MIT */
/*
 * Joining: pausing and recovering, for the VMM. All of it is done on the bulk loop, where
 * the descriptors are; any thread may ask for it and waits until it is done, which takes
 * no longer than a turn. In a callback that would be for ever, and the engine is in the
 * middle of something: a pause comes behind that.
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <sys/random.h>

/* Whose bulk loop this thread turns at the moment */
static __thread const struct wh_migration *here;

const struct wh_migration *run_here(const struct wh_migration *m)
{
	const struct wh_migration *before = here;

	here = m;
	return before;
}

bool run_is_here(const struct wh_migration *m)
{
	return here == m;
}

static int side_pause(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	return m->role == WH_DEST ? dest_side_pause(m, uri, err) : source_side_pause(m, uri, err);
}

/* One at a time, since it may lead to callbacks */
static struct call *take_call(struct wh_migration *m)
{
	struct call *call;

	pthread_mutex_lock(&m->wait_lock);
	call = m->calls;
	if (call)
		__atomic_store_n(&m->calls, call->next, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&m->wait_lock);
	return call;
}

void run_calls(struct wh_migration *m)
{
	struct call *call;

	if (m->pause_soon) {
		m->pause_soon = false;
		(void)side_pause(m, NULL, NULL);
	}
	if (!__atomic_load_n(&m->calls, __ATOMIC_RELAXED))
		return;
	while ((call = take_call(m))) {
		call->result = call->run(m, call->uri, &call->err);
		pthread_mutex_lock(&m->wait_lock);
		call->done = true;
		pthread_cond_broadcast(&m->wait_cond);
		pthread_mutex_unlock(&m->wait_lock);
	}
}

/* Nobody will take it any more. With the lock held */
static void drop_call(struct wh_migration *m, const struct call *call)
{
	struct call **at = &m->calls;

	while (*at && *at != call)
		at = &(*at)->next;
	if (*at)
		__atomic_store_n(at, call->next, __ATOMIC_RELAXED);
}

static int run_call(struct wh_migration *m, struct call *call, struct wh_err *err)
{
	struct call **last = &m->calls;

	/* with wh_process() it is the caller who drives it, and nobody to wait for */
	if (!m->threaded || here == m)
		return call->run(m, call->uri, err);
	pthread_mutex_lock(&m->wait_lock);
	while (*last)
		last = &(*last)->next;
	__atomic_store_n(last, call, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&m->wait_lock);
	loop_wake(m->bulk);
	pthread_mutex_lock(&m->wait_lock);
	while (!call->done && !m->ended)
		pthread_cond_wait(&m->wait_cond, &m->wait_lock);
	if (!call->done) {
		drop_call(m, call);
		call->result = err_set(&call->err, -EBUSY, "it has ended: %s",
				       wh_phase_name(wh_get_phase(m)));
	}
	pthread_mutex_unlock(&m->wait_lock);
	if (call->result < 0)
		return err_set(err, call->err.code, "%s", call->err.text);
	return 0;
}

int wh_pause(struct wh_migration *m, struct wh_err *err)
{
	struct call call = { .run = side_pause };
	enum wh_phase phase = wh_get_phase(m);

	if (m->agent)
		return agent_vmm_pause(m, err);
	if (here != m)
		return run_call(m, &call, err);
	if (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER && !m->again.on)
		return err_set(err, -EBUSY, "pause: it is %s", wh_phase_name(phase));
	m->pause_soon = true;
	loop_wake(m->bulk);
	return 0;
}

static int again(struct wh_migration *m, enum wh_role role, const char *text, struct wh_err *err)
{
	struct uri uri;
	struct call call = {
		.run = role == WH_DEST ? dest_side_recover : source_side_resume,
		.uri = &uri,
	};
	int ret;

	if (m->role != role)
		return err_set(err, -EINVAL, "%s: this end is the %s", text,
			       m->role == WH_DEST ? "destination" : "source");
	ret = uri_parse(&uri, text, err);
	if (ret == 0 && m->agent)
		return agent_vmm_listen(m, true, &uri, text, err);
	return ret < 0 ? ret : run_call(m, &call, err);
}

int wh_recover(struct wh_migration *m, const char *uri, struct wh_err *err)
{
	return again(m, WH_DEST, uri, err);
}

int wh_resume(struct wh_migration *m, const char *uri, struct wh_err *err)
{
	return again(m, WH_SOURCE, uri, err);
}

/* The engines' random(): of the kernel, who has good ones */
int run_random(void *ctx, struct identity_number *number, struct wh_err *err)
{
	(void)ctx;
	if (getrandom(number, sizeof(*number), 0) != (ssize_t)sizeof(*number))
		return err_sys(err, errno, "a random number");
	return 0;
}
