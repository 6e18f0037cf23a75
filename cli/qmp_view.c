/* SPDX-License-Identifier: MIT */
/*
 * Codec: figures of a migration in the shapes that QEMU 7.2 gives them, status by status;
 * and all of them, for wherry top.
 *
 * The destination tells no figures there, and not even a status before somebody has
 * connected. postcopy-blocktime, the time in which no processor ran at all, is not
 * measured, so it is not told; postcopy-vcpu-blocktime is.
 */
#include "cli/qmp_view.h"

#include "cli/qmp_json.h"

#include <json-c/json.h>
#include <string.h>

#define PAGE_BYTES 4096u
#define NS_PER_MS 1000000u

const char *qmp_status(enum wh_role role, enum wh_phase phase)
{
	if (phase == WH_PHASE_UNKNOWN)
		return wh_phase_name(WH_PHASE_FAILED);
	/* A destination is active until its guest runs */
	if (role == WH_DEST && phase == WH_PHASE_SWITCHOVER)
		return wh_phase_name(WH_PHASE_PRECOPY);
	return wh_phase_name(phase);
}

/* Before the switch, or back from it: the source has the guest. */
static bool is_at_source(enum wh_phase phase)
{
	return phase == WH_PHASE_SETUP || phase == WH_PHASE_PRECOPY || phase == WH_PHASE_FAILED ||
	       phase == WH_PHASE_CANCELLED;
}

bool qmp_guest_is_away(enum wh_role role, enum wh_phase phase)
{
	if (phase == WH_PHASE_SWITCHOVER)
		return true;
	return is_at_source(phase) == (role == WH_DEST);
}

bool qmp_is_moving(enum wh_phase phase)
{
	return phase != WH_PHASE_DONE && phase != WH_PHASE_FAILED && phase != WH_PHASE_UNKNOWN &&
	       phase != WH_PHASE_CANCELLED;
}

static struct json_object *ram_of(const struct qmp_view *view)
{
	const struct wh_stats *s = &view->stats;
	struct json_object *ram = json_object_new_object();
	uint64_t before = view->precopy_bytes + view->downtime_bytes;
	bool ended = s->phase == WH_PHASE_DONE;

	qmp_add_number(ram, "transferred", s->bytes);
	qmp_add_number(ram, "remaining", ended ? 0 : s->pages_left * PAGE_BYTES);
	qmp_add_number(ram, "total", s->pages_total * PAGE_BYTES);
	qmp_add_number(ram, "duplicate", s->pages_zero);
	qmp_add_number(ram, "skipped", 0);
	qmp_add_number(ram, "normal", s->pages_normal);
	qmp_add_number(ram, "normal-bytes", s->pages_normal * PAGE_BYTES);
	qmp_add_number(ram, "dirty-pages-rate", ended ? 0 : s->dirty_rate);
	json_object_object_add(ram, "mbps",
			       json_object_new_double((double)s->bandwidth * 8 / 1000000));
	qmp_add_number(ram, "dirty-sync-count", s->rounds);
	qmp_add_number(ram, "dirty-sync-missed-zero-copy", 0);
	qmp_add_number(ram, "postcopy-requests", s->requests);
	qmp_add_number(ram, "page-size", PAGE_BYTES);
	qmp_add_number(ram, "multifd-bytes", 0);
	qmp_add_number(ram, "pages-per-second", s->bandwidth / PAGE_BYTES);
	qmp_add_number(ram, "precopy-bytes", view->precopy_bytes);
	qmp_add_number(ram, "downtime-bytes", view->downtime_bytes);
	qmp_add_number(ram, "postcopy-bytes", s->bytes > before ? s->bytes - before : 0);
	return ram;
}

static void add_source(struct json_object *info, const struct qmp_view *view)
{
	const struct wh_stats *s = &view->stats;
	uint64_t left_ms = s->bandwidth ? s->pages_left * PAGE_BYTES * 1000 / s->bandwidth :
					  view->downtime_limit_ns / NS_PER_MS;

	qmp_add_text(info, "status", view->status);
	if (s->phase == WH_PHASE_FAILED || s->phase == WH_PHASE_UNKNOWN) {
		if (*view->error)
			qmp_add_text(info, "error-desc", view->error);
		return;
	}
	if (s->phase == WH_PHASE_SETUP || s->phase == WH_PHASE_CANCELLED)
		return;
	qmp_add_number(info, "total-time", s->now_ns / NS_PER_MS);
	qmp_add_number(info, "setup-time", view->setup_ns / NS_PER_MS);
	if (s->phase == WH_PHASE_DONE)
		qmp_add_number(info, "downtime", s->downtime_ns / NS_PER_MS);
	else
		qmp_add_number(info, "expected-downtime", left_ms);
	json_object_object_add(info, "ram", ram_of(view));
}

static void add_dest(struct json_object *info, const struct qmp_view *view)
{
	bool listens = *view->address && view->stats.phase != WH_PHASE_DONE;
	struct json_object *address = listens ? qmp_address(view->address) : NULL;
	struct json_object *array;

	if (address) {
		array = json_object_new_array();
		json_object_array_add(array, address);
		json_object_object_add(info, "socket-address", array);
	}
	if (view->stats.phase == WH_PHASE_SETUP)
		return;
	qmp_add_text(info, "status", view->status);
	if (view->stats.phase != WH_PHASE_DONE || !view->blocktime)
		return;
	array = json_object_new_array();
	for (unsigned i = 0; i < (view->vcpus ? view->vcpus : view->threads); i++)
		json_object_array_add(array, json_object_new_uint64(view->thread[i].waited_ns /
								    NS_PER_MS));
	json_object_object_add(info, "postcopy-vcpu-blocktime", array);
}

struct json_object *qmp_view_migrate(const struct qmp_view *view)
{
	struct json_object *info = json_object_new_object();

	if (view->attached && view->role == WH_SOURCE) {
		add_source(info, view);
	} else if (view->attached) {
		add_dest(info, view);
	} else if (*view->error) {
		qmp_add_text(info, "status", wh_phase_name(WH_PHASE_FAILED));
		qmp_add_text(info, "error-desc", view->error);
	}
	return info;
}

static const char *guest_status(const struct qmp_view *view)
{
	if (view->running)
		return "running";
	if (!view->attached)
		return "paused";
	if (view->role == WH_DEST)
		return qmp_guest_is_away(WH_DEST, view->stats.phase) ? "inmigrate" : "paused";
	if (view->stats.phase == WH_PHASE_DONE)
		return "postmigrate";
	return qmp_guest_is_away(WH_SOURCE, view->stats.phase) ? "finish-migrate" : "paused";
}

struct json_object *qmp_view_status(const struct qmp_view *view)
{
	struct json_object *info = json_object_new_object();

	qmp_add_text(info, "status", guest_status(view));
	qmp_add_flag(info, "singlestep", false);
	qmp_add_flag(info, "running", view->running);
	return info;
}

static struct json_object *thread_of(const struct qmp_view *view, unsigned i)
{
	struct json_object *row = json_object_new_object();

	qmp_add_number(row, "tid", view->thread[i].tid);
	if (i < view->vcpus)
		qmp_add_number(row, "vcpu", i);
	qmp_add_number(row, "faults", view->thread[i].faults);
	qmp_add_number(row, "waited_ns", view->thread[i].waited_ns);
	return row;
}

static struct json_object *latencies_of(const struct qmp_view *view)
{
	struct json_object *counts = json_object_new_array();

	for (unsigned i = 0; i < WH_LATENCIES; i++)
		json_object_array_add(counts, json_object_new_uint64(view->latency[i]));
	return counts;
}

struct json_object *qmp_view_stats(const struct qmp_view *view)
{
	struct json_object *info = json_object_new_object();
	struct json_object *threads = json_object_new_array();
	char text[4096];

	qmp_add_flag(info, "running", view->running);
	qmp_add_text(info, "status", view->attached ? view->status : "none");
	if (*view->error)
		qmp_add_text(info, "error", view->error);
	if (view->attached) {
		qmp_add_text(info, "role", view->role == WH_SOURCE ? "source" : "destination");
		if (wh_stats_json(&view->stats, text, sizeof(text)) < sizeof(text))
			json_object_object_add(info, "stats", json_tokener_parse(text));
		json_object_object_add(info, "latencies", latencies_of(view));
	}
	if (view->protection)
		json_object_object_add(info, "checkpoint", qmp_view_checkpoint(view));
	for (unsigned i = 0; i < view->threads; i++)
		json_object_array_add(threads, thread_of(view, i));
	json_object_object_add(info, "threads", threads);
	return info;
}
