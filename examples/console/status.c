/* SPDX-License-Identifier: MIT */
/*
 * What is said: the guest, where its migration is, how it ended.
 */
#include "console.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LAST_WORD_WAIT_MS 5000 /* for somebody who reads */
#define WAITS_MAX (2 * CPUS_MAX)

static struct vmm_status status_of(const struct console *console)
{
	struct vmm_status status = { 0 };

	if (console->vmm)
		vmm_get_status(console->vmm, &status);
	return status;
}

void say_guest(const struct console *console)
{
	struct vmm_status status = status_of(console);

	say("guest", "%s%s,\"vcpus\":%u,\"ram_bytes\":%" PRIu64,
	    member("what", console->guest.incoming ? "is awaited" : "runs").text,
	    member("cpus_by", status.cpus_by).text, console->guest.cpus, console->guest.ram_bytes);
}

void say_listening(const struct wh_migration *migration)
{
	say("listening", "%s", member("uri", wh_listen_uri(migration)).text);
}

/* What the library makes is an object: its members go among ours. */
void say_status(const struct console *console, const char *kind, const char *more)
{
	struct vmm_status status = status_of(console);
	char figures[2048] = "";
	struct wh_stats stats;
	size_t length = 1;

	if (console->migration) {
		wh_get_stats(console->migration, &stats);
		length = wh_stats_json(&stats, figures, sizeof(figures));
		figures[0] = ',';
	}
	say(kind, "%s%s,\"serial_chars\":%" PRIu64 "%s%.*s", more,
	    member("guest", status.running ? "running" : "paused").text, status.serial_chars,
	    guard_figures(console).text, (int)length - 1, figures);
}

/* With how long each processor stood still for missing pages */
void say_summary(const struct console *console, int ret, const struct wh_err *err)
{
	struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
	struct vmm_status status = status_of(console);
	struct wh_thread_wait waits[WAITS_MAX];
	unsigned count = 0;
	char more[3072];
	int n;

	n = snprintf(more, sizeof(more), "%s,\"verified\":%s%s,\"vcpus\":[",
		     member("result", ret ? "failed" : "ok").text,
		     console->verified ? "true" : "false",
		     member("error", ret ? err->text : "").text);
	if (console->listen && console->migration)
		count = wh_get_thread_waits(console->migration, waits, WAITS_MAX);
	for (unsigned i = 0; i < console->guest.cpus && console->listen; i++) {
		struct wh_thread_wait wait = { .tid = status.tids[i] };

		for (unsigned w = 0; w < count && w < WAITS_MAX; w++)
			wait = waits[w].tid == wait.tid ? waits[w] : wait;
		n += snprintf(more + n, sizeof(more) - (size_t)n,
			      "%s{\"tid\":%u,\"faults\":%" PRIu64 ",\"waited_ns\":%" PRIu64 "}",
			      i ? "," : "", wait.tid, wait.faults, wait.waited_ns);
	}
	snprintf(more + n, sizeof(more) - (size_t)n, "]");
	poll(&out, 1, LAST_WORD_WAIT_MS);
	say_status(console, "summary", more);
}

void say_event(const struct wh_event *event)
{
	if (event->kind == WH_EVENT_ROUND)
		say("round", ",\"round\":%" PRIu64, event->round);
	else
		say_phase(event->phase, event->err ? event->err->text : "");
}

void say_phase(enum wh_phase phase, const char *error)
{
	say("phase", "%s%s", member("phase", wh_phase_name(phase)).text,
	    member("error", error).text);
}

void say_log(void *unused, enum wh_log_level level, const char *text)
{
	static const char *const levels[] = { "error", "warning", "info", "debug" };

	(void)unused;
	say("log", "%s%s", member("level", levels[level]).text, member("text", text).text);
}
