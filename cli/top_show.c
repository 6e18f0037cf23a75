/* SPDX-License-Identifier: MIT */
/*
 * wherry top: how it looks. What a monitor does not tell is a "-".
 */
#include "cli/top.h"

#include "cli/qmpcall.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <wherry/migration.h>

#define PAGE_BYTES 4096
#define WIDTH 16
#define BAR 40u

/* What a figure is a number of */
enum unit {
	UNIT_COUNT,
	UNIT_BYTES,
	UNIT_PAGES, /* shown as bytes */
	UNIT_NS,
};

struct text {
	char text[72];
};

static struct text print(const char *format, ...) __attribute__((format(printf, 1, 2)));

static struct text print(const char *format, ...)
{
	struct text text;
	va_list args;

	va_start(args, format);
	vsnprintf(text.text, sizeof(text.text), format, args);
	va_end(args);
	return text;
}

static struct text scaled(double value, const double *steps, const char *const *names)
{
	unsigned i = 0;

	while (names[i + 1] && value >= steps[i]) {
		value /= steps[i];
		i++;
	}
	return print(i ? "%.1f %s" : "%.0f %s", value, names[i]);
}

static struct text shown(double value, enum unit unit)
{
	static const double times[] = { 1000, 1000, 1000 };
	static const char *const time_names[] = { "ns", "us", "ms", "s", NULL };
	static const double sizes[] = { 1024, 1024, 1024, 1024 };
	static const char *const size_names[] = { "B", "KiB", "MiB", "GiB", "TiB", NULL };

	switch (unit) {
	case UNIT_COUNT:
		break;
	case UNIT_BYTES:
		return scaled(value, sizes, size_names);
	case UNIT_PAGES:
		return scaled(value * PAGE_BYTES, sizes, size_names);
	case UNIT_NS:
		return scaled(value, times, time_names);
	}
	return print("%.0f", value);
}

static struct text member(struct json_object *object, const char *name, enum unit unit)
{
	struct json_object *value;

	if (!json_object_is_type(object, json_type_object) ||
	    !json_object_object_get_ex(object, name, &value))
		return print("-");
	return shown(json_object_get_double(value), unit);
}

/* A stranger's text on a terminal: no control characters */
static struct text word(struct json_object *object, const char *name)
{
	struct text text = print("%s", qmpcall_text(object, name));

	if (!*text.text)
		return print("-");
	for (char *c = text.text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = '?';
	return text;
}

static struct json_object *stats_of(struct json_object *info)
{
	struct json_object *stats = NULL;

	json_object_object_get_ex(info, "stats", &stats);
	return stats;
}

static struct json_object *checkpoint_of(struct json_object *info)
{
	struct json_object *checkpoint = NULL;

	json_object_object_get_ex(info, "checkpoint", &checkpoint);
	return checkpoint;
}

static void checkpoint_line(FILE *out, struct json_object *at, bool with_head)
{
	if (with_head)
		fprintf(out, "%-11s%12s%12s%12s%12s%12s%12s%12s%12s\n", "STATE", "EPOCH",
			"INTERVAL", "STOP", "ANSWER", "DIRTY", "WIRE", "HELD", "ACK AGE");
	fprintf(out, "%-11s%12s%12s%12s%12s%12s%12s%12s%12s\n", word(at, "state").text,
		member(at, "epoch", UNIT_COUNT).text, member(at, "interval_ns", UNIT_NS).text,
		member(at, "stop_ns", UNIT_NS).text, member(at, "ack_ns", UNIT_NS).text,
		member(at, "dirty_bytes", UNIT_BYTES).text,
		member(at, "wire_bytes", UNIT_BYTES).text,
		member(at, "held_bytes", UNIT_BYTES).text, member(at, "ack_age_ns", UNIT_NS).text);
}

void top_line(FILE *out, struct json_object *info, bool with_head)
{
	struct json_object *stats = stats_of(info);

	if (checkpoint_of(info)) {
		checkpoint_line(out, checkpoint_of(info), with_head);
		return;
	}

	if (with_head)
		fprintf(out, "%-17s%10s%12s%14s%12s%12s%12s%12s\n", "STATUS", "TIME", "LEFT",
			"RATE/S", "DIRTY/S", "FAULTS", "P50", "P99");
	fprintf(out, "%-17s%10s%12s%14s%12s%12s%12s%12s\n", word(info, "status").text,
		member(stats, "now_ns", UNIT_NS).text, member(stats, "pages_left", UNIT_PAGES).text,
		member(stats, "bandwidth", UNIT_BYTES).text,
		member(stats, "dirty_rate", UNIT_PAGES).text,
		member(stats, "faults", UNIT_COUNT).text,
		member(stats, "fault_p50_ns", UNIT_NS).text,
		member(stats, "fault_p99_ns", UNIT_NS).text);
}

/* To the end of the line: what an earlier view left there goes */
static void row(FILE *out, const char *name, const char *text)
{
	fprintf(out, "%-*s%s\033[K\n", WIDTH, name, text);
}

static void figure_row(FILE *out, struct json_object *stats, const char *name, const char *figure,
		       enum unit unit)
{
	row(out, name, member(stats, figure, unit).text);
}

static void bar_row(FILE *out, struct json_object *stats)
{
	struct json_object *left, *total;
	char bar[BAR + 1];
	double part;

	if (!json_object_is_type(stats, json_type_object) ||
	    !json_object_object_get_ex(stats, "pages_left", &left) ||
	    !json_object_object_get_ex(stats, "pages_total", &total) ||
	    !(json_object_get_double(total) > 0))
		return;
	part = 1 - json_object_get_double(left) / json_object_get_double(total);
	part = part < 0 ? 0 : part > 1 ? 1 : part;
	for (unsigned i = 0; i < sizeof(bar) - 1; i++)
		bar[i] = i < (unsigned)(part * (sizeof(bar) - 1)) ? '#' : '.';
	bar[sizeof(bar) - 1] = '\0';
	fprintf(out, "%-*s%s %.1f %%\033[K\n", WIDTH, "there", bar, part * 100);
}

/* How many faults took how long, from the shortest to the longest that there were */
static void latency_rows(FILE *out, struct json_object *info)
{
	uint64_t count[WH_LATENCIES] = { 0 }, most = 0;
	struct json_object *counts;
	unsigned first = WH_LATENCIES, last = 0;

	if (!json_object_object_get_ex(info, "latencies", &counts) ||
	    !json_object_is_type(counts, json_type_array))
		return;
	for (unsigned i = 0; i < WH_LATENCIES; i++) {
		count[i] = json_object_get_uint64(json_object_array_get_idx(counts, i));
		if (!count[i])
			continue;
		first = first < i ? first : i;
		last = i;
		most = most > count[i] ? most : count[i];
	}
	for (unsigned i = first; i <= last; i++) {
		bool others = i == WH_LATENCIES - 1; /* no less than the one before */
		double edge = (double)(UINT64_C(1) << (i + 10 - others));
		char bar[BAR + 1];

		memset(bar, '#', BAR);
		bar[(uint64_t)((double)count[i] / (double)most * BAR)] = '\0';
		row(out,
		    print("%s %s", others ? "  longer than" : "  below", shown(edge, UNIT_NS).text)
			    .text,
		    print("%-*s %" PRIu64, (int)BAR, bar, count[i]).text);
	}
}

static void thread_rows(FILE *out, struct json_object *info)
{
	struct json_object *threads;

	if (!json_object_object_get_ex(info, "threads", &threads) ||
	    !json_object_is_type(threads, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(threads) && i < 16; i++) {
		struct json_object *thread = json_object_array_get_idx(threads, i);
		bool is_vcpu = json_object_is_type(thread, json_type_object) &&
			       json_object_object_get_ex(thread, "vcpu", NULL);

		row(out,
		    print(is_vcpu ? "vCPU %s" : "thread %s",
			  member(thread, is_vcpu ? "vcpu" : "tid", UNIT_COUNT).text)
			    .text,
		    print("waited %s, %s faults", member(thread, "waited_ns", UNIT_NS).text,
			  member(thread, "faults", UNIT_COUNT).text)
			    .text);
	}
}

/* Where it is so */
static void flag_row(FILE *out, struct json_object *at, const char *label, const char *name)
{
	struct json_object *flag = NULL;

	if (json_object_object_get_ex(at, name, &flag) && json_object_get_boolean(flag))
		row(out, label, "yes");
}

static void checkpoint_view(FILE *out, struct json_object *at)
{
	row(out, "protection", word(at, "state").text);
	row(out, "role", word(at, "role").text);
	if (json_object_object_get_ex(at, "reason", NULL))
		row(out, "reason", word(at, "reason").text);
	flag_row(out, at, "stalled", "stalled");
	flag_row(out, at, "degraded", "degraded");
	figure_row(out, at, "generation", "generation", UNIT_COUNT);
	figure_row(out, at, "epoch", "epoch", UNIT_COUNT);
	figure_row(out, at, "checkpoints", "checkpoints", UNIT_COUNT);
	figure_row(out, at, "refused", "refused", UNIT_COUNT);
	figure_row(out, at, "interval", "interval_ns", UNIT_NS);
	figure_row(out, at, "stop", "stop_ns", UNIT_NS);
	figure_row(out, at, "longest stop", "stop_max_ns", UNIT_NS);
	figure_row(out, at, "answer", "ack_ns", UNIT_NS);
	figure_row(out, at, "last answer", "ack_age_ns", UNIT_NS);
	figure_row(out, at, "last heard", "heard_age_ns", UNIT_NS);
	figure_row(out, at, "dirty", "dirty_bytes", UNIT_BYTES);
	figure_row(out, at, "last on the wire", "wire_bytes", UNIT_BYTES);
	figure_row(out, at, "on the wire", "bytes", UNIT_BYTES);
	figure_row(out, at, "held packets", "held_packets", UNIT_COUNT);
	figure_row(out, at, "held", "held_bytes", UNIT_BYTES);
	figure_row(out, at, "held since", "held_age_ns", UNIT_NS);
	figure_row(out, at, "dropped", "dropped", UNIT_COUNT);
	fputs("\033[J", out);
}

void top_view(FILE *out, struct json_object *info)
{
	struct json_object *stats = stats_of(info);

	fputs("\033[H", out);
	if (checkpoint_of(info)) {
		checkpoint_view(out, checkpoint_of(info));
		return;
	}
	row(out, "status", word(info, "status").text);
	row(out, "role", word(info, "role").text);
	if (json_object_object_get_ex(info, "error", NULL))
		row(out, "error", word(info, "error").text);
	figure_row(out, stats, "time", "now_ns", UNIT_NS);
	bar_row(out, stats);
	figure_row(out, stats, "left", "pages_left", UNIT_PAGES);
	figure_row(out, stats, "of", "pages_total", UNIT_PAGES);
	figure_row(out, stats, "until the end", "left_ns", UNIT_NS);
	figure_row(out, stats, "on the wire", "bytes", UNIT_BYTES);
	figure_row(out, stats, "rate, a second", "bandwidth", UNIT_BYTES);
	figure_row(out, stats, "dirty, a second", "dirty_rate", UNIT_PAGES);
	figure_row(out, stats, "rounds", "rounds", UNIT_COUNT);
	figure_row(out, stats, "downtime", "downtime_ns", UNIT_NS);
	figure_row(out, stats, "requests", "requests", UNIT_COUNT);
	figure_row(out, stats, "faults", "faults", UNIT_COUNT);
	figure_row(out, stats, "latency p50", "fault_p50_ns", UNIT_NS);
	figure_row(out, stats, "latency p99", "fault_p99_ns", UNIT_NS);
	figure_row(out, stats, "latency max", "fault_max_ns", UNIT_NS);
	latency_rows(out, info);
	figure_row(out, stats, "recoveries", "recoveries", UNIT_COUNT);
	thread_rows(out, info);
	fputs("\033[J", out);
}

/* What QEMU has under another name, and how many of ours one of its own is */
static void copy(struct json_object *to, const char *name, struct json_object *from,
		 const char *qemu_name, double times)
{
	struct json_object *value;

	if (json_object_is_type(from, json_type_object) &&
	    json_object_object_get_ex(from, qemu_name, &value))
		json_object_object_add(to, name,
				       json_object_new_uint64(
					       (uint64_t)(json_object_get_double(value) * times)));
}

struct json_object *top_of_qemu(struct json_object *info)
{
	static const char *const kept[] = { "status", "error-desc" };
	static const char *const as[] = { "status", "error" };
	struct json_object *result = json_object_new_object();
	struct json_object *stats = json_object_new_object();
	struct json_object *ram = NULL;

	json_object_object_add(result, "status", json_object_new_string("none"));
	for (unsigned i = 0; i < 2; i++) {
		struct json_object *value;

		if (json_object_object_get_ex(info, kept[i], &value))
			json_object_object_add(result, as[i], json_object_get(value));
	}
	copy(stats, "now_ns", info, "total-time", 1e6);
	copy(stats, "downtime_ns", info, "downtime", 1e6);
	if (json_object_object_get_ex(info, "ram", &ram)) {
		copy(stats, "bytes", ram, "transferred", 1);
		copy(stats, "pages_total", ram, "total", 1.0 / PAGE_BYTES);
		copy(stats, "pages_left", ram, "remaining", 1.0 / PAGE_BYTES);
		copy(stats, "pages_normal", ram, "normal", 1);
		copy(stats, "pages_zero", ram, "duplicate", 1);
		copy(stats, "rounds", ram, "dirty-sync-count", 1);
		copy(stats, "bandwidth", ram, "mbps", 1e6 / 8);
		copy(stats, "dirty_rate", ram, "dirty-pages-rate", 1);
		copy(stats, "requests", ram, "postcopy-requests", 1);
	}
	json_object_object_add(result, "stats", stats);
	return result;
}
