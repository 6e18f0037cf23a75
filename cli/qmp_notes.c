/* SPDX-License-Identifier: MIT */
/*
 * Joining: what happened on other threads, told as events; and what is known of a
 * migration at one moment.
 *
 * Who says that something happened is a thread of a migration or of the guest, and must
 * not wait for clients. So it leaves a note, of which there is a fixed number: a pass
 * takes the place of the pass before it, and if there is no room the oldest goes.
 */
#include "cli/qmp_monitor.h"

#include "cli/qmp_json.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

static uint64_t time_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* One of many, and only the last one of them is of interest */
static bool passes(const struct qmp_note *note)
{
	if (note->kind == QMP_NOTE_CHECKPOINT)
		return wh_protect_cycles(note->from) && wh_protect_cycles(note->to);
	return note->kind == QMP_NOTE_PASS;
}

/* note_lock is held. */
static void leave(struct wh_qmp *qmp, struct qmp_note note)
{
	unsigned last = qmp->notes - 1;

	note.time_us = time_us();
	if (qmp->notes && passes(&note) && passes(&qmp->note[last]) &&
	    note.kind == qmp->note[last].kind) {
		qmp->note[last] = note;
		return;
	}
	if (qmp->notes == QMP_NOTES_MAX) {
		qmp->notes--;
		memmove(&qmp->note[0], &qmp->note[1], qmp->notes * sizeof(note));
	}
	qmp->note[qmp->notes++] = note;
	eventfd_write(qmp->wake, 1);
}

void qmp_set_error(struct wh_qmp *qmp, const char *text)
{
	pthread_mutex_lock(&qmp->note_lock);
	snprintf(qmp->error, sizeof(qmp->error), "%s", text);
	qmp_make_utf8(qmp->error);
	pthread_mutex_unlock(&qmp->note_lock);
}

void wh_qmp_event(struct wh_qmp *qmp, const struct wh_event *event)
{
	struct qmp_note note = { .kind = QMP_NOTE_PASS, .pass = event->round };

	if (event->kind == WH_EVENT_PHASE) {
		note = (struct qmp_note){ .kind = QMP_NOTE_PHASE, .phase = event->phase };
		if (event->err)
			qmp_set_error(qmp, event->err->text);
	}
	pthread_mutex_lock(&qmp->note_lock);
	leave(qmp, note);
	pthread_mutex_unlock(&qmp->note_lock);
}

void wh_qmp_set_running(struct wh_qmp *qmp, bool running)
{
	struct qmp_note note = { .kind = running ? QMP_NOTE_RESUME : QMP_NOTE_STOP };

	pthread_mutex_lock(&qmp->note_lock);
	if (qmp->running != running)
		leave(qmp, note);
	qmp->running = running;
	pthread_mutex_unlock(&qmp->note_lock);
}

void wh_qmp_set_migration(struct wh_qmp *qmp, struct wh_migration *migration, enum wh_role role)
{
	const struct qmp_note begins = { .kind = QMP_NOTE_PHASE, .phase = WH_PHASE_SETUP };

	pthread_mutex_lock(&qmp->migration_lock);
	qmp->migration = migration;
	qmp->role = role;
	pthread_mutex_unlock(&qmp->migration_lock);
	if (!migration)
		return;
	/* It begins there, and has no event for it */
	pthread_mutex_lock(&qmp->note_lock);
	qmp->error[0] = '\0';
	leave(qmp, begins);
	pthread_mutex_unlock(&qmp->note_lock);
}

/*
 * A checkpoint that is complete is one of many, and not told as such; but the first is, and the
 * first behind a time without any.
 */
void wh_qmp_protect_event(struct wh_qmp *qmp, const struct wh_protect_event *event)
{
	bool complete = event->to == WH_PROTECT_RUN || event->to == WH_PROTECT_READY;
	struct qmp_note note = {
		.kind = QMP_NOTE_CHECKPOINT,
		.from = event->from,
		.to = event->to,
		.epoch = event->epoch,
		.generation = event->generation,
	};

	if (event->err)
		snprintf(note.reason, sizeof(note.reason), "%s", event->err->text);
	qmp_make_utf8(note.reason);
	pthread_mutex_lock(&qmp->note_lock);
	if (complete && !qmp->complete)
		note.from = qmp->degraded ? WH_PROTECT_DEGRADED : WH_PROTECT_SYNC;
	qmp->degraded = !complete && (qmp->degraded || event->to == WH_PROTECT_DEGRADED);
	qmp->complete = complete || (qmp->complete && event->to != WH_PROTECT_DEGRADED);
	leave(qmp, note);
	pthread_mutex_unlock(&qmp->note_lock);
}

void wh_qmp_set_protect(struct wh_qmp *qmp, struct wh_protect *protect, enum wh_role role)
{
	pthread_mutex_lock(&qmp->migration_lock);
	qmp->protect = protect;
	qmp->protect_role = role;
	pthread_mutex_unlock(&qmp->migration_lock);
	pthread_mutex_lock(&qmp->note_lock);
	qmp->complete = qmp->degraded = false;
	pthread_mutex_unlock(&qmp->note_lock);
}

/* How many bytes were sent in which part of the migration: those at its change of phase. */
static void look_at_bytes(struct wh_qmp *qmp, enum wh_phase phase, const struct wh_stats *stats)
{
	if (phase == WH_PHASE_SETUP)
		qmp->setup_ns = qmp->precopy_bytes = qmp->downtime_bytes = 0;
	else if (phase == WH_PHASE_PRECOPY)
		qmp->setup_ns = stats->now_ns;
	else if (phase == WH_PHASE_SWITCHOVER)
		qmp->precopy_bytes = stats->bytes;
	else if (!qmp->downtime_bytes && stats->bytes > qmp->precopy_bytes)
		qmp->downtime_bytes = stats->bytes - qmp->precopy_bytes;
}

static void tell_all(struct wh_qmp *qmp, const char *name, struct json_object *data,
		     uint64_t happened_us)
{
	struct json_object *event = qmp_event(name, data, happened_us);

	for (unsigned i = 0; i < qmp->clients; i++)
		if (qmp->client[i]->negotiated)
			qmp_client_say(qmp->client[i], event);
	json_object_put(event);
}

static void tell_phase(struct wh_qmp *qmp, const struct qmp_note *note)
{
	struct wh_stats stats = { 0 };
	struct json_object *data;
	const char *status;
	enum wh_role role;

	pthread_mutex_lock(&qmp->migration_lock);
	role = qmp->role;
	if (qmp->migration)
		wh_get_stats(qmp->migration, &stats);
	pthread_mutex_unlock(&qmp->migration_lock);
	look_at_bytes(qmp, note->phase, &stats);
	status = qmp_status(role, note->phase);
	if (!(qmp->settings.on & QMP_EVENTS) ||
	    (qmp->told_status && !strcmp(qmp->told_status, status)))
		return;
	qmp->told_status = status;
	data = json_object_new_object();
	qmp_add_text(data, "status", status);
	tell_all(qmp, "MIGRATION", data, note->time_us);
}

/* Those of each checkpoint for those who asked for passes, the others for everybody */
static void tell_checkpoint(struct wh_qmp *qmp, const struct qmp_note *note)
{
	struct json_object *data;

	if (passes(note) && !(qmp->settings.on & QMP_EVENTS))
		return;
	data = json_object_new_object();
	qmp_add_text(data, "state", wh_protect_state_name(note->to));
	qmp_add_text(data, "from", wh_protect_state_name(note->from));
	qmp_add_number(data, "epoch", note->epoch);
	qmp_add_number(data, "generation", note->generation);
	if (*note->reason)
		qmp_add_text(data, "reason", note->reason);
	tell_all(qmp, "CHECKPOINT", data, note->time_us);
}

static void tell(struct wh_qmp *qmp, const struct qmp_note *note)
{
	struct json_object *data;

	switch (note->kind) {
	case QMP_NOTE_PHASE:
		tell_phase(qmp, note);
		break;
	case QMP_NOTE_PASS:
		if (!(qmp->settings.on & QMP_EVENTS))
			break;
		data = json_object_new_object();
		qmp_add_number(data, "pass", note->pass);
		tell_all(qmp, "MIGRATION_PASS", data, note->time_us);
		break;
	case QMP_NOTE_STOP:
		tell_all(qmp, "STOP", NULL, note->time_us);
		break;
	case QMP_NOTE_RESUME:
		tell_all(qmp, "RESUME", NULL, note->time_us);
		break;
	case QMP_NOTE_CHECKPOINT:
		tell_checkpoint(qmp, note);
		break;
	}
}

void qmp_notes_tell(struct wh_qmp *qmp)
{
	struct qmp_note note[QMP_NOTES_MAX];
	unsigned notes;

	pthread_mutex_lock(&qmp->note_lock);
	notes = qmp->notes;
	memcpy(note, qmp->note, notes * sizeof(note[0]));
	qmp->notes = 0;
	pthread_mutex_unlock(&qmp->note_lock);
	for (unsigned i = 0; i < notes; i++)
		tell(qmp, &note[i]);
}

/* Processors first, in their order, then what else has waited. */
static void look_at_threads(struct wh_qmp *qmp, struct qmp_view *view)
{
	struct wh_thread_wait wait[QMP_THREADS_MAX];
	uint32_t tids[QMP_THREADS_MAX];
	unsigned count = wh_get_thread_waits(qmp->migration, wait, QMP_THREADS_MAX);
	unsigned vcpus = 0;

	if (qmp->callbacks.vcpus)
		vcpus = qmp->callbacks.vcpus(qmp->opaque, tids, QMP_THREADS_MAX);
	if (count > QMP_THREADS_MAX)
		count = QMP_THREADS_MAX;
	if (vcpus > QMP_THREADS_MAX)
		vcpus = QMP_THREADS_MAX;
	for (unsigned i = 0; i < vcpus; i++)
		view->thread[i] = (struct wh_thread_wait){ .tid = tids[i] };
	view->vcpus = view->threads = vcpus;
	for (unsigned i = 0; i < count; i++) {
		unsigned at = 0;

		while (at < view->threads && view->thread[at].tid != wait[i].tid)
			at++;
		if (at == QMP_THREADS_MAX)
			continue;
		view->thread[at] = wait[i];
		view->threads += at == view->threads;
	}
}

void qmp_look(struct wh_qmp *qmp, struct qmp_view *view)
{
	const char *uri = NULL;

	memset(view, 0, sizeof(*view));
	pthread_mutex_lock(&qmp->note_lock);
	view->running = qmp->running;
	memcpy(view->error, qmp->error, sizeof(view->error));
	pthread_mutex_unlock(&qmp->note_lock);

	pthread_mutex_lock(&qmp->migration_lock);
	view->attached = qmp->migration;
	view->role = qmp->role;
	if (view->attached) {
		wh_get_stats(qmp->migration, &view->stats);
		wh_get_latencies(qmp->migration, view->latency);
		if (view->role == WH_DEST) {
			look_at_threads(qmp, view);
			uri = wh_listen_uri(qmp->migration);
		}
	}
	snprintf(view->address, sizeof(view->address), "%s", uri ? uri : "");
	uri = NULL;
	view->protection = qmp->protect;
	view->protect_role = qmp->protect_role;
	if (view->protection) {
		wh_protect_get_status(qmp->protect, &view->protect);
		if (view->protect_role == WH_DEST)
			uri = wh_protect_listen_uri(qmp->protect);
	}
	snprintf(view->protect_address, sizeof(view->protect_address), "%s", uri ? uri : "");
	pthread_mutex_unlock(&qmp->migration_lock);

	qmp_make_utf8(view->address);
	qmp_make_utf8(view->protect_address);
	view->status = view->attached ? qmp_status(view->role, view->stats.phase) : "none";
	view->blocktime = qmp->settings.on & QMP_BLOCKTIME;
	view->downtime_limit_ns = qmp->settings.config.downtime_ns;
	view->setup_ns = qmp->setup_ns;
	view->precopy_bytes = qmp->precopy_bytes ? qmp->precopy_bytes : view->stats.bytes;
	view->downtime_bytes = qmp->downtime_bytes;
}
