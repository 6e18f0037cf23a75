/* SPDX-License-Identifier: MIT */
/*
 * What is going on: lines for people, or one JSON object a line for programs.
 */
#include "vmm.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S 1000000000ull
#define LINE_BYTES 8192
#define PLAIN_SPAN_NS NS_PER_S

struct line {
	size_t length;
	char text[LINE_BYTES];
};

static const char *side_name(enum side side)
{
	return side == SIDE_SOURCE ? "source" : "dest";
}

static void add(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct line *line, const char *format, ...)
{
	size_t room = sizeof(line->text) - line->length;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line->text + line->length, room, format, args);
	va_end(args);
	if (n > 0)
		line->length += (size_t)n < room ? (size_t)n : room - 1;
}

static void add_string(struct line *line, const char *name, const char *value)
{
	add(line, ",\"%s\":\"", name);
	for (const char *c = value; *c; c++) {
		if (*c == '"' || *c == '\\')
			add(line, "\\%c", *c);
		else if ((unsigned char)*c < 0x20)
			add(line, "\\u%04x", (unsigned char)*c);
		else
			add(line, "%c", *c);
	}
	add(line, "\"");
}

static void add_number(struct line *line, const char *name, uint64_t value)
{
	add(line, ",\"%s\":%" PRIu64, name, value);
}

static void begin(const struct report *report, struct line *line, const char *kind)
{
	uint64_t ms = (now_ns() - report->begin_ns) / 1000000;

	line->length = 0;
	if (report->json)
		add(line, "{\"kind\":\"%s\",\"side\":\"%s\",\"t_ms\":%" PRIu64, kind,
		    side_name(report->side), ms);
	else
		add(line, "%s: ", side_name(report->side));
}

static void end(const struct report *report, struct line *line)
{
	add(line, "%s\n", report->json ? "}" : "");
	fwrite(line->text, 1, line->length, stdout);
	fflush(stdout);
}

void report_open(struct report *report, const struct options *options)
{
	*report = (struct report){
		.json = options->json,
		.side = options->side,
		.begin_ns = now_ns(),
	};
}

void report_guest(struct report *report, const struct guest *guest, const char *what)
{
	struct line line;

	begin(report, &line, "guest");
	if (report->json) {
		add_string(&line, "what", what);
		add_string(&line, "cpus_by", guest->ops->name);
		add_number(&line, "vcpus", guest->cpus);
		add_number(&line, "ram_bytes", guest->ram.bytes);
		add_number(&line, "page_bytes", guest->ram.page_bytes);
	} else {
		add(&line, "guest %s: %u vCPUs (%s), %" PRIu64 " MiB in pages of %" PRIu64 " KiB",
		    what, guest->cpus, guest->ops->name, guest->ram.bytes >> 20,
		    guest->ram.page_bytes >> 10);
	}
	end(report, &line);
}

void report_listening(struct report *report, const char *uri)
{
	struct line line;

	begin(report, &line, "listening");
	if (report->json)
		add_string(&line, "uri", uri);
	else
		add(&line, "listening at %s", uri);
	end(report, &line);
}

void report_phase(struct report *report, enum wh_phase phase, const char *error)
{
	struct line line;

	begin(report, &line, "phase");
	if (report->json) {
		add_string(&line, "phase", wh_phase_name(phase));
		if (*error)
			add_string(&line, "error", error);
	} else {
		add(&line, "%s%s%s", wh_phase_name(phase), *error ? ": " : "", error);
	}
	end(report, &line);
}

void report_round(struct report *report, uint64_t round)
{
	struct line line;

	begin(report, &line, "round");
	if (report->json)
		add_number(&line, "round", round);
	else
		add(&line, "round %" PRIu64 " ended", round);
	end(report, &line);
}

void report_log(struct report *report, enum wh_log_level level, const char *text)
{
	static const char *const levels[] = {
		[WH_LOG_ERROR] = "error",
		[WH_LOG_WARNING] = "warning",
		[WH_LOG_INFO] = "info",
		[WH_LOG_DEBUG] = "debug",
	};
	struct line line;

	begin(report, &line, "log");
	if (report->json) {
		add_string(&line, "level", levels[level]);
		add_string(&line, "text", text);
	} else {
		add(&line, "%s: %s", levels[level], text);
	}
	end(report, &line);
}

/* Each figure under the name it has in struct wh_stats. */
static void add_stats(struct line *line, const struct wh_stats *stats)
{
	static const struct {
		const char *name;
		size_t at;
	} figures[] = {
#define FIGURE(name) { #name, offsetof(struct wh_stats, name) }
		FIGURE(now_ns),	      FIGURE(bytes),	    FIGURE(bytes_return),
		FIGURE(pages_total),  FIGURE(pages_left),   FIGURE(pages_normal),
		FIGURE(pages_zero),   FIGURE(pages_xbzrle), FIGURE(pages_urgent),
		FIGURE(pages_before), FIGURE(rounds),	    FIGURE(bandwidth),
		FIGURE(dirty_rate),   FIGURE(left_ns),	    FIGURE(downtime_ns),
		FIGURE(requests),     FIGURE(faults),	    FIGURE(fault_p50_ns),
		FIGURE(fault_p99_ns), FIGURE(fault_max_ns), FIGURE(fault_sum_ns),
		FIGURE(own_bytes),
#undef FIGURE
	};

	add_string(line, "phase", wh_phase_name(stats->phase));
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		uint64_t value;

		memcpy(&value, (const char *)stats + figures[i].at, sizeof(value));
		add_number(line, figures[i].name, value);
	}
}

static void add_guest(struct line *line, struct guest *guest)
{
	add_string(line, "guest", guest_parked(guest) ? "paused" : "running");
	add_number(line, "serial_chars", __atomic_load_n(&guest->serial_chars, __ATOMIC_RELAXED));
}

static void add_plain(struct line *line, const struct wh_stats *stats)
{
	add(line,
	    "%s, round %" PRIu64 ", %" PRIu64 " MiB, %" PRIu64 " MB/s, %" PRIu64
	    " pages left, %" PRIu64 " requests, %" PRIu64 " faults",
	    wh_phase_name(stats->phase), stats->rounds, stats->bytes >> 20,
	    stats->bandwidth / 1000000, stats->pages_left, stats->requests, stats->faults);
}

void report_status(struct report *report, struct guest *guest, const struct wh_migration *migration)
{
	struct wh_stats stats;
	struct line line;

	if (!report->json && (!migration || now_ns() < report->plain_ns + PLAIN_SPAN_NS))
		return;
	report->plain_ns = now_ns();
	begin(report, &line, "status");
	if (report->json)
		add_guest(&line, guest);
	if (migration) {
		wh_get_stats(migration, &stats);
		if (report->json)
			add_stats(&line, &stats);
		else
			add_plain(&line, &stats);
	}
	end(report, &line);
}

/* How long each processor stood still for missing pages. */
static void add_waits(const struct report *report, struct line *line, const struct guest *guest,
		      const struct wh_migration *migration)
{
	struct wh_thread_wait waits[2 * CPUS_MAX];
	unsigned count = wh_get_thread_waits(migration, waits, 2 * CPUS_MAX);

	if (count > 2 * CPUS_MAX)
		count = 2 * CPUS_MAX;
	if (report->json)
		add(line, ",\"vcpus\":[");
	for (unsigned i = 0; i < guest->cpus; i++) {
		struct wh_thread_wait wait = { 0 };

		for (unsigned w = 0; w < count; w++)
			if (waits[w].tid == (uint32_t)guest->cpu[i].tid)
				wait = waits[w];
		if (report->json)
			add(line, "%s{\"tid\":%d,\"faults\":%" PRIu64 ",\"waited_ns\":%" PRIu64 "}",
			    i ? "," : "", (int)guest->cpu[i].tid, wait.faults, wait.waited_ns);
		else
			add(line, ", vCPU %u stood still %" PRIu64 " ms in %" PRIu64 " faults", i,
			    wait.waited_ns / 1000000, wait.faults);
	}
	if (report->json)
		add(line, "]");
}

void report_summary(struct report *report, struct guest *guest,
		    const struct wh_migration *migration, const struct verdict *verdict)
{
	struct wh_stats stats = { 0 };
	struct line line;

	begin(report, &line, "summary");
	if (migration)
		wh_get_stats(migration, &stats);
	if (report->json) {
		add_string(&line, "result", verdict->code ? "failed" : "ok");
		add(&line, ",\"verified\":%s", verdict->verified ? "true" : "false");
		if (verdict->err.code)
			add_string(&line, "error", verdict->err.text);
		add(&line, ",\"verify_ms\":%.1f", verdict->verify_ms);
		add_guest(&line, guest);
		add_stats(&line, &stats);
	} else {
		add(&line, "%s%s%s; ", verdict->code ? "FAILED" : "ok",
		    verdict->err.code ? ": " : "", verdict->err.code ? verdict->err.text : "");
		if (verdict->verified)
			add(&line, "every byte of memory is right (%.0f ms to look); ",
			    verdict->verify_ms);
		add_plain(&line, &stats);
	}
	if (migration && report->side == SIDE_DEST)
		add_waits(report, &line, guest, migration);
	end(report, &line);
}
