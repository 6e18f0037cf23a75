/* SPDX-License-Identifier: MIT */
/*
 * wherry demo: what is shown. On a terminal progress is one line written over and over,
 * otherwise a line each time; with --json everything is objects.
 */
#include "cli/demo.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define NS_PER_S 1000000000ull
#define LIVE_SPAN_NS (190 * NS_PER_MS) /* the children speak five times a second */
#define PLAIN_SPAN_NS (390 * NS_PER_MS)
#define PAGE_BYTES 4096u
#define COLUMNS_MAX 160

uint64_t demo_number(json_object *line, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(line, name, &value) ? json_object_get_uint64(value) : 0;
}

const char *demo_string(json_object *line, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(line, name, &value) ? json_object_get_string(value) : "";
}

void demo_print(json_object *object)
{
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
	fflush(stdout);
	json_object_put(object);
}

void demo_add(json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_string(json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

json_object *demo_object(const struct demo *demo, const char *kind)
{
	json_object *object = json_object_new_object();

	add_string(object, "kind", kind);
	demo_add(object, "t_ms", (demo_now_ns() - demo->begin_ns) / NS_PER_MS);
	return object;
}

void demo_wipe(struct demo *demo)
{
	if (demo->shown)
		printf("\r%*s\r", (int)demo->shown, "");
	demo->shown = 0;
}

void demo_say(struct demo *demo, const char *format, ...)
{
	json_object *object;
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (demo->json) {
		object = demo_object(demo, "event");
		add_string(object, "text", text);
		demo_print(object);
		return;
	}
	demo_wipe(demo);
	printf("%6.2f s  %s\n", (double)(demo_now_ns() - demo->begin_ns) / (double)NS_PER_S, text);
	fflush(stdout);
}

void demo_live(struct demo *demo, const char *text)
{
	if (!demo->terminal) {
		demo_say(demo, "%s", text);
		return;
	}
	demo_wipe(demo);
	demo->shown = (unsigned)strlen(text);
	printf("\r%s", text);
	fflush(stdout);
}

struct progress {
	const char *phase;
	uint64_t round;
	uint64_t bytes;
	uint64_t bandwidth;
	uint64_t dirty_rate;
	uint64_t pages_left;
	uint64_t faults;
	uint64_t left_ms;
};

static const char *phase_shown(const char *phase)
{
	static const char *const names[][2] = {
		{ "active", "precopy" },
		{ "device", "switch-over" },
		{ "postcopy-active", "postcopy" },
		{ "completed", "done" },
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(phase, names[i][0]))
			return names[i][1];
	return *phase ? phase : "guest runs";
}

/* Bytes a second since the last look */
static uint64_t rate_of(struct demo *demo, uint64_t bytes)
{
	uint64_t now = demo_now_ns();
	double seconds = (double)(now - demo->rate_ns) / (double)NS_PER_S;
	uint64_t rate = 0;

	if (demo->rate_ns && bytes > demo->rate_bytes)
		rate = (uint64_t)((double)(bytes - demo->rate_bytes) / seconds);
	demo->rate_ns = now;
	demo->rate_bytes = bytes;
	return rate;
}

/* The source knows about rounds and what it sent, the destination about what is missing. */
static void progress_from(struct demo *demo, struct progress *progress)
{
	json_object *source = demo->child[DEMO_SOURCE].latest;
	json_object *dest = demo->child[DEMO_DEST].latest;
	const char *phase = demo_string(source, "phase");
	bool postcopy = !strcmp(phase, "postcopy-active");
	json_object *left = postcopy && dest ? dest : source;

	*progress = (struct progress){
		.phase = phase_shown(phase),
		/* The one under way, while there are rounds */
		.round = strcmp(phase, "active") != 0 ? 0 : demo_number(source, "rounds") + 1,
		.bytes = demo_number(source, "bytes"),
		.bandwidth = rate_of(demo, demo_number(source, "bytes")),
		.dirty_rate = demo_number(source, "dirty_rate"),
		.pages_left = demo_number(left, "pages_left"),
		.faults = demo_number(dest, "faults"),
		.left_ms = demo_number(left, "left_ns") / NS_PER_MS,
	};
}

static void progress_object(const struct demo *demo, const struct progress *p)
{
	json_object *object = demo_object(demo, "progress");

	add_string(object, "phase", p->phase);
	demo_add(object, "round", p->round);
	demo_add(object, "bytes", p->bytes);
	demo_add(object, "bandwidth", p->bandwidth);
	demo_add(object, "dirty_pages_per_s", p->dirty_rate);
	demo_add(object, "pages_left", p->pages_left);
	demo_add(object, "faults", p->faults);
	demo_add(object, "left_ms", p->left_ms);
	demo_print(object);
}

/* Rounds, and what the guest writes meanwhile, are of precopy; faults of what comes after it */
static void progress_text(const struct progress *p, char *text, size_t room)
{
	char round[48] = "", left[32] = "";

	if (p->left_ms)
		snprintf(left, sizeof(left), ", %.1f s left", (double)p->left_ms / 1000);
	if (p->round)
		snprintf(round, sizeof(round), "  round %" PRIu64 "  dirty %" PRIu64 " pages/s",
			 p->round, p->dirty_rate);
	if (!p->bytes)
		snprintf(text, room, "%s", p->phase);
	else
		snprintf(text, room,
			 "%-11s %5" PRIu64 " MiB  %5" PRIu64 " MB/s%s  %7" PRIu64
			 " pages left  %6" PRIu64 " faults%s",
			 p->phase, p->bytes >> 20, p->bandwidth / 1000000, round, p->pages_left,
			 p->faults, left);
}

void demo_progress(struct demo *demo)
{
	char text[COLUMNS_MAX];
	struct progress p;

	if (!demo->child[DEMO_SOURCE].latest)
		return;
	if (demo_now_ns() < demo->shown_ns + (demo->terminal ? LIVE_SPAN_NS : PLAIN_SPAN_NS))
		return;
	demo->shown_ns = demo_now_ns();
	progress_from(demo, &p);
	if (demo->json) {
		progress_object(demo, &p);
		return;
	}
	progress_text(&p, text, sizeof(text));
	demo_live(demo, text);
}

static void show_faults(json_object *dest)
{
	json_object *vcpus, *vcpu;

	printf("  faults         %" PRIu64 ": p50 %.0f us, p99 %.0f us, max %.0f us\n",
	       demo_number(dest, "faults"), (double)demo_number(dest, "fault_p50_ns") / 1e3,
	       (double)demo_number(dest, "fault_p99_ns") / 1e3,
	       (double)demo_number(dest, "fault_max_ns") / 1e3);
	if (!json_object_object_get_ex(dest, "vcpus", &vcpus))
		return;
	for (size_t i = 0; i < json_object_array_length(vcpus); i++) {
		vcpu = json_object_array_get_idx(vcpus, i);
		printf("  vCPU %zu         stood still %.1f ms, in %" PRIu64 " faults\n", i,
		       (double)demo_number(vcpu, "waited_ns") / 1e6, demo_number(vcpu, "faults"));
	}
}

static void show_figures(const struct demo *demo)
{
	json_object *source = demo->child[DEMO_SOURCE].summary;
	json_object *dest = demo->child[DEMO_DEST].summary;

	printf("  total time     %.2f s\n", (double)demo_number(source, "now_ns") / 1e9);
	printf("  downtime       %.1f ms\n", (double)demo_number(source, "downtime_ns") / 1e6);
	printf("  pages          %" PRIu64 " of %u bytes: sent %" PRIu64 " normal, %" PRIu64
	       " zero; %" PRIu64 " of them urgent\n",
	       demo_number(source, "pages_total"), PAGE_BYTES, demo_number(source, "pages_normal"),
	       demo_number(source, "pages_zero"), demo_number(source, "pages_urgent"));
	show_faults(dest);
	printf("  on the wire    %.1f MiB there, %.1f KiB back\n",
	       (double)demo_number(source, "bytes") / (1 << 20),
	       (double)demo_number(source, "bytes_return") / 1024);
}

static void summary_object(const struct demo *demo, bool right, const char *reason)
{
	json_object *object = demo_object(demo, "summary");

	add_string(object, "result", right ? "ok" : "failed");
	if (!right)
		add_string(object, "error", reason);
	json_object_object_add(object, "source", json_object_get(demo->child[DEMO_SOURCE].summary));
	json_object_object_add(object, "dest", json_object_get(demo->child[DEMO_DEST].summary));
	demo_print(object);
}

/* Who knows best what went wrong: the verification, else whoever noticed first. */
static const char *reason_of(const struct demo *demo, bool interrupted)
{
	static const enum demo_end order[] = { DEMO_DEST, DEMO_SOURCE };
	const char *reason = "";

	if (interrupted)
		return "interrupted";
	for (unsigned i = 0; i < DEMO_END_COUNT && !*reason; i++)
		reason = demo_string(demo->child[order[i]].summary, "error");
	for (unsigned i = 0; i < DEMO_END_COUNT && !*reason; i++)
		reason = demo->child[order[i]].error;
	return *reason ? reason : "a process ended without a word";
}

bool demo_summary(struct demo *demo, bool interrupted)
{
	json_object *source = demo->child[DEMO_SOURCE].summary;
	json_object *dest = demo->child[DEMO_DEST].summary;
	json_object *verified;
	const char *reason;
	bool right;

	right = !interrupted && !strcmp(demo_string(source, "result"), "ok") &&
		!strcmp(demo_string(dest, "result"), "ok") &&
		json_object_object_get_ex(dest, "verified", &verified) &&
		json_object_get_boolean(verified);
	reason = reason_of(demo, interrupted);
	if (demo->json) {
		summary_object(demo, right, reason);
		return right;
	}
	demo_wipe(demo);
	if (source && dest && !interrupted)
		show_figures(demo);
	if (right)
		printf("  memory         verified: every byte of %" PRIu64 " pages is right\n",
		       demo_number(dest, "pages_total"));
	else
		printf("  FAILED         %s\n", reason);
	fflush(stdout);
	return right;
}
