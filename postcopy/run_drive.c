/* SPDX-License-Identifier: MIT */
/*
 * Joining: who turns a migration: two threads of the library, or the caller's in
 * wh_process(); and how it ends.
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROCESS_STEPS 64 /* of one wh_process(): the caller has other things to do */
#define SPIN_LEAST_NS NS_PER_US
#define HOLD_NS NS_PER_MS /* neighbours of a run come sooner, or not soon */

void run_paused(struct wh_migration *m, enum wh_phase to)
{
	uint64_t since_ns = __atomic_load_n(&m->paused_since_ns, __ATOMIC_RELAXED);
	uint64_t now_ns = clock_now_ns();

	if (to == WH_PHASE_PAUSED && !since_ns) {
		__atomic_store_n(&m->paused_since_ns, now_ns, __ATOMIC_RELAXED);
	} else if (to == WH_PHASE_POSTCOPY && since_ns) {
		__atomic_store_n(&m->paused_since_ns, 0, __ATOMIC_RELAXED);
		__atomic_fetch_add(&m->paused_ns, now_ns - since_ns, __ATOMIC_RELAXED);
		__atomic_fetch_add(&m->recoveries, 1, __ATOMIC_RELAXED);
	}
}

void run_moved(struct wh_migration *m, enum wh_phase phase, const struct wh_err *err)
{
	struct wh_event event = { .kind = WH_EVENT_PHASE, .phase = phase, .err = err };

	run_paused(m, phase);
	if (phase == WH_PHASE_PAUSED)
		again_paused(m, err);
	else if (phase == WH_PHASE_POSTCOPY)
		again_runs(m);
	pthread_mutex_lock(&m->wait_lock);
	/* the reason of a pause that is over is nobody's result */
	if (phase == WH_PHASE_RECOVER)
		m->result = (struct wh_err){ 0 };
	if (err && err->code && !m->result.code)
		m->result = *err;
	__atomic_store_n(&m->phase, phase, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&m->wait_lock);
	if (m->cb.event)
		m->cb.event(m->config.opaque, &event);
}

static void tick_done(struct op *op, int result)
{
	struct wh_migration *m =
		(struct wh_migration *)((char *)op - offsetof(struct wh_migration, tick));

	(void)result; /* the turn behind every step is what it was for */
	if (m->tick_sooner)
		loop_timer(m->bulk, &m->tick, m->tick_ns);
	m->tick_sooner = false;
}

void run_tick(struct wh_migration *m, uint64_t at_ns)
{
	if (at_ns == UINT64_MAX)
		return;
	if (op_busy(&m->tick)) {
		if (at_ns >= m->tick_ns)
			return; /* an early one does no harm */
		m->tick_ns = at_ns;
		/*
		 * Set by its completion, not by the turn behind that: several things are waited for
		 * in a turn, and if the first was the later one each turn would bring the next.
		 */
		if (!m->tick_sooner)
			loop_cancel(m->bulk, &m->tick);
		m->tick_sooner = true;
		return;
	}
	m->tick.done = tick_done;
	m->tick_ns = at_ns;
	loop_timer(m->bulk, &m->tick, at_ns);
}

bool run_tick_end(struct wh_migration *m)
{
	m->tick_sooner = false;
	if (op_busy(&m->tick))
		loop_cancel(m->bulk, &m->tick);
	return op_busy(&m->tick);
}

bool run_fault_closed(struct wh_migration *m)
{
	bool asked;

	if (__atomic_load_n(&m->fault_closed, __ATOMIC_ACQUIRE))
		return true;
	pthread_mutex_lock(&m->post_lock);
	asked = m->post.close;
	m->post.close = true;
	pthread_mutex_unlock(&m->post_lock);
	if (!asked)
		loop_wake(m->fault);
	return false;
}

/*
 * In this order: a fault loop that sees that it is not closed does not find the old wish
 * that it be so.
 */
void run_fault_open(struct wh_migration *m)
{
	pthread_mutex_lock(&m->post_lock);
	m->post.close = false;
	m->post.announce = false;
	m->post.urgent_lost = false;
	m->post.urgent_err = (struct wh_err){ 0 };
	m->post.reply_lost = false;
	pthread_mutex_unlock(&m->post_lock);
	__atomic_store_n(&m->fault_closed, false, __ATOMIC_RELEASE);
}

static void set_settled(struct wh_migration *m, bool settled)
{
	pthread_mutex_lock(&m->wait_lock);
	m->settled = settled;
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
}

void run_settled(struct wh_migration *m)
{
	set_settled(m, true);
}

void run_unsettled(struct wh_migration *m)
{
	set_settled(m, false);
}

bool run_is_settled(struct wh_migration *m)
{
	bool settled;

	pthread_mutex_lock(&m->wait_lock);
	settled = m->settled;
	pthread_mutex_unlock(&m->wait_lock);
	return settled;
}

void run_forget_result(struct wh_migration *m)
{
	pthread_mutex_lock(&m->wait_lock);
	m->result = (struct wh_err){ 0 };
	pthread_mutex_unlock(&m->wait_lock);
}

/* The bulk loop has nothing more to do: whoever waits may look at the result. */
static void run_ended(struct wh_migration *m)
{
	pthread_mutex_lock(&m->wait_lock);
	m->end_ns = clock_now_ns();
	__atomic_store_n(&m->ended, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
}

static bool side_turn(struct wh_migration *m)
{
	run_calls(m);
	return m->role == WH_DEST ? dest_side_turn(m) : source_side_turn(m);
}

static void side_fault_turn(struct wh_migration *m)
{
	if (m->role == WH_DEST)
		dest_side_fault_turn(m);
	else
		source_side_request_turn(m);
}

static void side_idle(struct wh_migration *m, enum channel channel)
{
	if (m->role == WH_DEST)
		inlet_idle(&m->dest->inlet[channel]);
}

/* A ring that fails can do nothing more: report it as the migration's end. */
static void loop_failed(struct wh_migration *m, const struct wh_err *err)
{
	enum wh_phase phase = __atomic_load_n(&m->phase, __ATOMIC_ACQUIRE);

	if (phase == WH_PHASE_POSTCOPY || phase == WH_PHASE_PAUSED || phase == WH_PHASE_RECOVER)
		run_moved(m, WH_PHASE_PAUSED, err);
	else if (!wh_phase_ended(phase))
		run_moved(m,
			  m->role == WH_SOURCE && phase == WH_PHASE_SWITCHOVER ? WH_PHASE_UNKNOWN :
										 WH_PHASE_FAILED,
			  err);
}

/*
 * Nothing may lie in a run while the bulk thread sleeps, but for a moment: 2 MiB that were
 * placed at once are a huge page. Return: the time to sleep, -1 no limit
 */
static int64_t bulk_rest(struct wh_migration *m, bool waited)
{
	if (!waited && m->role == WH_DEST && dest_may_wait(&m->dest->engine))
		return HOLD_NS;
	side_idle(m, CHANNEL_MAIN);
	return -1;
}

static void *bulk_main(void *arg)
{
	struct wh_migration *m = arg;
	struct wh_err err = { 0 };
	bool waited = false, yields = false;

	pthread_setname_np(pthread_self(), m->role == WH_DEST ? "wherry-dest" : "wherry-source");
	run_here(m);
	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
		int done = loop_step(m->bulk, 0, &err);

		if (!yields)
			yields = priority_bulk(m);
		if (done == 0) {
			/*
			 * A loop_wake() that the step above has seen is not seen again: what it
			 * was for is looked at before sleeping.
			 */
			int64_t rest_ns;

			if (__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE))
				break;
			rest_ns = bulk_rest(m, waited);
			if (side_turn(m))
				break;
			done = loop_step(m->bulk, rest_ns, &err);
			waited = rest_ns >= 0 && done == 0;
		}
		if (done < 0) {
			loop_failed(m, &err);
			break;
		}
		if (side_turn(m))
			break;
	}
	run_ended(m);
	if (m->role == WH_DEST)
		ahead_collapse(m);
	return NULL;
}

/*
 * Polling before sleeping saves the wake of a sleeping thread on another core,
 * most of what a fault costs. It pays only while faults come close together, so
 * the time halves each time that nothing came, and doubles when something did.
 */
static int fault_spin(struct wh_migration *m, uint64_t *spin_ns, struct wh_err *err)
{
	uint64_t until = clock_now_ns() + *spin_ns;
	int done;

	do {
		done = loop_step(m->fault, 0, err);
		if (done)
			break;
	} while (clock_now_ns() < until);
	if (done)
		*spin_ns = *spin_ns * 2 > m->config.fault_spin_ns ? m->config.fault_spin_ns :
								    *spin_ns * 2;
	else
		*spin_ns = *spin_ns / 2 < SPIN_LEAST_NS ? SPIN_LEAST_NS : *spin_ns / 2;
	return done;
}

static void *fault_main(void *arg)
{
	uint64_t spin_ns;
	struct wh_migration *m = arg;
	struct wh_err err = { 0 };

	pthread_setname_np(pthread_self(), m->role == WH_DEST ? "wherry-fault" : "wherry-request");
	if (m->role == WH_DEST)
		follow_begin(m);
	priority_urgent();
	spin_ns = m->config.fault_spin_ns;
	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
		int done = 0;

		/*
		 * A loop_wake() that was seen while polling is not seen again: what it was for
		 * is looked at before sleeping.
		 */
		if (m->config.fault_spin_ns)
			done = fault_spin(m, &spin_ns, &err);
		if (__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE))
			break;
		/* No run waits for neighbours here: urgent pages are placed one by one */
		side_idle(m, CHANNEL_URGENT);
		side_fault_turn(m);
		if (done == 0)
			done = loop_step(m->fault, -1, &err);
		if (done < 0) {
			pthread_mutex_lock(&m->post_lock);
			m->post.fault_failed = true;
			m->post.fault_err = err;
			pthread_mutex_unlock(&m->post_lock);
			__atomic_store_n(&m->fault_closed, true, __ATOMIC_RELEASE);
			loop_wake(m->bulk);
			break;
		}
	}
	return NULL;
}

int wh_start(struct wh_migration *m, struct wh_err *err)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int ret;

	if (!m->set_up || m->started)
		return err_set(err, -EINVAL, "start: %s",
			       m->started ? "it is started already" : "no address was given");
	if (m->agent)
		return agent_vmm_start(m);
	ret = loop_open(&m->fault, RUN_LOOP_ENTRIES, err);
	if (ret < 0) {
		m->fault = m->bulk;
		return ret;
	}
	m->started = true;
	pthread_attr_init(&attr);
	/*
	 * The VMM's signals are for the VMM's threads. But memory that cannot be read, of a file that
	 * has become shorter, is found by whoever touches it: blocked, it would be the end at once.
	 */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = priority_attributes(m, &attr, err);
	if (ret < 0)
		goto out;
	ret = pthread_create(&m->fault_thread, &attr, fault_main, m);
	if (ret) {
		ret = err_sys(err, ret, "start: fault thread");
		goto out;
	}
	m->fault_running = true;
	ret = pthread_create(&m->bulk_thread, NULL, bulk_main, m);
	if (ret) {
		ret = err_sys(err, ret, "start: bulk thread");
		goto out;
	}
	m->threaded = true;
	loop_wake(m->bulk); /* the first turn */
out:
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return ret;
}

int wh_fd(struct wh_migration *m)
{
	return m->agent ? -EOPNOTSUPP : loop_fd(m->bulk);
}

int wh_process(struct wh_migration *m, struct wh_err *err)
{
	const struct wh_migration *before;
	struct wh_err failure = { 0 };
	int done;

	if (m->agent)
		return err_set(err, -EOPNOTSUPP, "process: an agent drives it, from wh_start() on");
	if (m->threaded || !m->set_up)
		return err_set(err, -EINVAL, "process: %s",
			       m->threaded ? "it has threads" : "no address was given");
	/* The first loop_step() settles how the ring tells a poller: let it be at once. */
	if (!m->started && loop_fd(m->bulk) < 0)
		return err_set(err, -EMFILE, "process: no descriptor to poll");
	m->started = true;
	before = run_here(m);
	for (unsigned step = 0; step < PROCESS_STEPS; step++) {
		done = loop_step(m->bulk, 0, &failure);
		if (done < 0) {
			loop_failed(m, &failure);
			run_ended(m);
			break;
		}
		side_fault_turn(m);
		if (!m->ended && side_turn(m))
			run_ended(m);
		if (done == 0) {
			side_idle(m, CHANNEL_URGENT);
			side_idle(m, CHANNEL_MAIN);
			break;
		}
	}
	run_here(before);
	if (!m->ended)
		return 1;
	if (m->result.code)
		return err_set(err, m->result.code, "%s", m->result.text);
	return 0;
}

int wh_wait(struct wh_migration *m, int64_t timeout_ns, struct wh_err *err)
{
	struct timespec until;
	int ret = 0;

	if (!m->threaded)
		return err_set(err, -EINVAL, "wait: it was not started");
	clock_gettime(CLOCK_REALTIME, &until);
	if (timeout_ns >= 0) {
		until.tv_sec += timeout_ns / (int64_t)NS_PER_S;
		until.tv_nsec += timeout_ns % (int64_t)NS_PER_S;
		if (until.tv_nsec >= (long)NS_PER_S) {
			until.tv_nsec -= (long)NS_PER_S;
			until.tv_sec++;
		}
	}
	pthread_mutex_lock(&m->wait_lock);
	while (!m->ended && !m->settled && ret == 0)
		ret = timeout_ns < 0 ? pthread_cond_wait(&m->wait_cond, &m->wait_lock) :
				       pthread_cond_timedwait(&m->wait_cond, &m->wait_lock, &until);
	if (!m->ended && !m->settled)
		ret = err_set(err, -EAGAIN, "wait: it goes on");
	else if (m->result.code)
		ret = err_set(err, m->result.code, "%s", m->result.text);
	else
		ret = 0;
	pthread_mutex_unlock(&m->wait_lock);
	return ret;
}
