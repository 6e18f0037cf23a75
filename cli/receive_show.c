/* SPDX-License-Identifier: MIT */
/*
 * wherry receive: what is shown. Lines go to standard error; with --json everything but
 * the sentence of a failure is objects on standard output, one a line.
 */
#include "cli/receive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define SPAN_NS (400 * NS_PER_MS)

uint64_t receive_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

int receive_fail(struct wh_err *err, int code, const char *format, ...)
{
	char text[sizeof(err->text)]; /* what was said before may be an argument */
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	memcpy(err->text, text, sizeof(text));
	err->code = code;
	return code;
}

static void add_number(json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_string(json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static json_object *object_of(const struct receive *receive, const char *kind)
{
	json_object *object = json_object_new_object();

	add_string(object, "kind", kind);
	add_number(object, "t_ms", (receive_now_ns() - receive->begin_ns) / NS_PER_MS);
	return object;
}

static void print_object(struct receive *receive, json_object *object)
{
	pthread_mutex_lock(&receive->show_lock);
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
	pthread_mutex_unlock(&receive->show_lock);
	json_object_put(object);
}

static void print_line(const struct receive *receive, const char *text)
{
	fprintf(stderr, "%6.2f s  %s\n",
		(double)(receive_now_ns() - receive->begin_ns) / (double)NS_PER_S, text);
}

void receive_say(struct receive *receive, const char *kind, const char *format, ...)
{
	json_object *object;
	char text[512];
	va_list args;

	if (receive->quiet && !receive->json)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (!receive->json) {
		print_line(receive, text);
		return;
	}
	object = object_of(receive, kind);
	add_string(object, "text", text);
	print_object(receive, object);
}

void receive_listening(struct receive *receive)
{
	const char *uri = wh_listen_uri(receive->migration);
	json_object *object;

	if (!receive->json) {
		receive_say(receive, "listening", "listening at %s", uri);
		return;
	}
	object = object_of(receive, "listening");
	add_string(object, "uri", uri);
	print_object(receive, object);
}

/* In words that somebody who waits can use */
static const char *phase_shown(enum wh_phase phase)
{
	switch (phase) {
	case WH_PHASE_SETUP:
		return "waiting";
	case WH_PHASE_PRECOPY:
		return "precopy";
	case WH_PHASE_SWITCHOVER:
		return "switch-over";
	case WH_PHASE_POSTCOPY:
		return "postcopy";
	case WH_PHASE_DONE:
		return "done";
	case WH_PHASE_PAUSED:
	case WH_PHASE_RECOVER:
	case WH_PHASE_FAILED:
	case WH_PHASE_UNKNOWN:
	case WH_PHASE_CANCELLED:
	case WH_PHASE_COUNT:
		break;
	}
	return wh_phase_name(phase);
}

json_object *receive_figures(const struct receive *receive)
{
	json_object *object = json_object_new_object();
	struct wh_stats stats;

	receive_stats(receive, &stats);
	json_object_object_add(object, "postcopy", json_object_new_boolean(receive->postcopy));
	add_number(object, "total_ms", stats.now_ns / NS_PER_MS);
	add_number(object, "bytes", stats.bytes);
	add_number(object, "bytes_return", stats.bytes_return);
	add_number(object, "pages_total", stats.pages_total);
	add_number(object, "pages_normal", stats.pages_normal);
	add_number(object, "pages_zero", stats.pages_zero);
	add_number(object, "pages_xbzrle", stats.pages_xbzrle);
	add_number(object, "pages_urgent", stats.pages_urgent);
	add_number(object, "pages_before", stats.pages_before);
	add_number(object, "pages_touched", receive_touched(receive));
	add_number(object, "requests", stats.requests);
	add_number(object, "faults", stats.faults);
	add_number(object, "fault_p50_ns", stats.fault_p50_ns);
	add_number(object, "fault_p99_ns", stats.fault_p99_ns);
	add_number(object, "fault_max_ns", stats.fault_max_ns);
	add_number(object, "recoveries", stats.recoveries);
	add_number(object, "paused_ms", stats.paused_ns / NS_PER_MS);
	return object;
}

static void progress_object(struct receive *receive, const struct wh_stats *stats)
{
	json_object *object = object_of(receive, "progress");

	add_string(object, "phase", phase_shown(stats->phase));
	add_number(object, "bytes", stats->bytes);
	add_number(object, "bandwidth", stats->bandwidth);
	add_number(object, "pages_left", stats->pages_left);
	add_number(object, "faults", stats->faults);
	print_object(receive, object);
}

void receive_progress(struct receive *receive)
{
	uint64_t now = receive_now_ns();
	struct wh_stats stats;

	if (now < receive->shown_ns + SPAN_NS)
		return;
	wh_get_stats(receive->migration, &stats);
	if (stats.phase == WH_PHASE_SETUP)
		return;
	receive->shown_ns = now;
	if (receive->json)
		progress_object(receive, &stats);
	else
		receive_say(receive, "progress",
			    "%-11s %5" PRIu64 " MiB  %5" PRIu64 " MB/s  %7" PRIu64
			    " pages left  %6" PRIu64 " faults",
			    phase_shown(stats.phase), stats.bytes >> 20, stats.bandwidth / 1000000,
			    stats.pages_left, stats.faults);
}

static void summary_lines(struct receive *receive)
{
	uint64_t stored = 0;
	struct wh_stats stats;

	for (unsigned i = 0; i < receive->blocks; i++)
		stored += receive->block[i].stored;
	receive_stats(receive, &stats);
	receive_say(receive, "summary",
		    "%s in %.2f s: %" PRIu64 " pages, %" PRIu64 " zero, %" PRIu64
		    " urgent; %.1f MiB%s",
		    receive->from_file ? "read" :
		    receive->postcopy  ? "received by postcopy" :
					 "received by precopy",
		    (double)stats.now_ns / (double)NS_PER_S, stats.pages_normal, stats.pages_zero,
		    stats.pages_urgent, (double)stats.bytes / (1 << 20),
		    receive->from_file ? "" : " on the wire");
	if (stats.faults)
		receive_say(receive, "summary",
			    "faults %" PRIu64 ": p50 %.0f us, p99 %.0f us, max %.0f us",
			    stats.faults, (double)stats.fault_p50_ns / 1e3,
			    (double)stats.fault_p99_ns / 1e3, (double)stats.fault_max_ns / 1e3);
	receive_say(receive, "summary",
		    "%s: %u blocks of %" PRIu64 " MiB, %" PRIu64
		    " MiB of them stored, %zu bytes of "
		    "device state",
		    receive->out.path, receive->blocks, receive->bytes >> 20, stored >> 20,
		    receive->device_length);
}

void receive_summary(struct receive *receive, int result, const struct wh_err *err)
{
	json_object *object;

	if (result)
		fprintf(stderr, "wherry receive: %s\n", err->text);
	if (!receive->json) {
		if (!result)
			summary_lines(receive);
		return;
	}
	object = object_of(receive, "summary");
	add_string(object, "result", result ? "failed" : "ok");
	if (result)
		add_string(object, "error", err->text);
	if (receive->migration || receive->from_file)
		json_object_object_add(object, "migration", receive_figures(receive));
	print_object(receive, object);
}
