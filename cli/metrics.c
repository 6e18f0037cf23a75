/* SPDX-License-Identifier: MIT */
/*
 * Codec: figures as OpenMetrics text, for whoever collects them. A family whose name has a unit
 * at its end says so, times are in seconds, and the end is marked.
 */
#include "cli/metrics.h"

#include "cli/qmpcall.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <wherry/migration.h>
#include <wherry/protect.h>

#define NS_PER_S 1e9

/* One figure of struct wh_stats, one family */
static const struct family {
	const char *figure;
	const char *name;
	const char *unit; /* NULL: none */
	bool counter;
	const char *help;
} families[] = {
	{ "now_ns", "wherry_elapsed_seconds", "seconds", false, "Since the migration began" },
	{ "bytes", "wherry_sent_bytes", "bytes", true, "On the wire, all channels" },
	{ "bytes_return", "wherry_return_bytes", "bytes", true, "The other direction" },
	{ "pages_total", "wherry_memory_pages", "pages", false, "Guest memory, of 4096 bytes" },
	{ "pages_left", "wherry_left_pages", "pages", false, "To be sent, or missing" },
	{ "pages_normal", "wherry_normal_pages", "pages", true, "Sent with their contents" },
	{ "pages_zero", "wherry_zero_pages", "pages", true, "Sent as all zero" },
	{ "pages_xbzrle", "wherry_xbzrle_pages", "pages", true, "Sent as differences" },
	{ "pages_urgent", "wherry_urgent_pages", "pages", true, "Over the urgent channel" },
	{ "pages_before", "wherry_before_pages", "pages", true, "Came though they were there" },
	{ "pages_again", "wherry_again_pages", "pages", true, "Sent twice" },
	{ "rounds", "wherry_rounds", NULL, true, "Rounds of precopy" },
	{ "bandwidth", "wherry_bandwidth_bytes_per_second", "bytes_per_second", false, "Estimate" },
	{ "dirty_rate", "wherry_dirty_pages_per_second", "pages_per_second", false,
	  "In the last round" },
	{ "left_ns", "wherry_left_seconds", "seconds", false, "Until the end, 0 is unknown" },
	{ "downtime_ns", "wherry_downtime_seconds", "seconds", false, "The guest ran nowhere" },
	{ "requests", "wherry_requests", NULL, true, "For pages" },
	{ "faults", "wherry_faults", NULL, true, "Of the guest, for missing pages" },
	{ "fault_p50_ns", "wherry_fault_latency_p50_seconds", "seconds", false,
	  "Half of them were served in that time" },
	{ "fault_p99_ns", "wherry_fault_latency_p99_seconds", "seconds", false,
	  "And 99 of 100 in that" },
	{ "fault_max_ns", "wherry_fault_latency_max_seconds", "seconds", false,
	  "The longest of them" },
	{ "recoveries", "wherry_recoveries", NULL, true, "Resumed after a broken link" },
	{ "paused_ns", "wherry_paused_seconds", "seconds", false, "Without a link in postcopy" },
	{ "collapsed", "wherry_collapsed", NULL, true, "Huge pages made of small ones" },
	{ "own_bytes", "wherry_own_bytes", "bytes", false, "Memory of this end for itself" },
};

/* And of a protection */
static const struct family protection[] = {
	{ "generation", "wherry_protect_generation", NULL, false, "Of the session" },
	{ "epoch", "wherry_protect_epoch", NULL, false, "Open, or last complete at a replica" },
	{ "checkpoints", "wherry_protect_checkpoints", NULL, true, "Acknowledged" },
	{ "refused", "wherry_protect_refused", NULL, true, "Checkpoints that had to be repeated" },
	{ "interval_ns", "wherry_protect_interval_seconds", "seconds", false,
	  "From one stop of the guest to the next" },
	{ "stop_ns", "wherry_protect_stop_seconds", "seconds", false,
	  "The guest stood still for the last checkpoint" },
	{ "stop_max_ns", "wherry_protect_stop_max_seconds", "seconds", false,
	  "And for the longest of them" },
	{ "stop_sum_ns", "wherry_protect_stopped_seconds", "seconds", true, "And for all" },
	{ "ack_ns", "wherry_protect_ack_seconds", "seconds", false, "From resuming to the answer" },
	{ "ack_age_ns", "wherry_protect_ack_age_seconds", "seconds", false,
	  "Since the last checkpoint was acknowledged" },
	{ "heard_age_ns", "wherry_protect_heard_age_seconds", "seconds", false,
	  "Since the other side was heard" },
	{ "dirty_bytes", "wherry_protect_dirty_bytes", "bytes", false,
	  "Written between the last two checkpoints" },
	{ "wire_bytes", "wherry_protect_wire_bytes", "bytes", false, "Of the last checkpoint" },
	{ "bytes", "wherry_protect_sent_bytes", "bytes", true, "On the wire, all together" },
	{ "held_packets", "wherry_protect_held_packets", "packets", false, "That wait" },
	{ "held_bytes", "wherry_protect_held_bytes", "bytes", false, "Of packets that wait" },
	{ "held_age_ns", "wherry_protect_held_age_seconds", "seconds", false,
	  "For which the first of them waits, at most" },
	{ "stalled", "wherry_protect_stalled", NULL, false,
	  "1: the guest stands still, too much waits or is written" },
	{ "degraded", "wherry_protect_degraded", NULL, false,
	  "1: more is written than a checkpoint has room for" },
	{ "dropped", "wherry_protect_dropped_packets", "packets", true, "Above the limit" },
};

static const char *const statuses[] = {
	"none",
	"setup",
	"active",
	"device",
	"postcopy-active",
	"postcopy-paused",
	"postcopy-recover",
	"completed",
	"failed",
	"cancelled",
};

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static void describe(FILE *out, const char *name, const char *type, const char *unit,
		     const char *help)
{
	fprintf(out, "# TYPE %s %s\n", name, type);
	if (unit)
		fprintf(out, "# UNIT %s %s\n", name, unit);
	fprintf(out, "# HELP %s %s.\n", name, help);
}

static bool figure(struct json_object *object, const char *name, uint64_t *value)
{
	struct json_object *member;

	if (!json_object_is_type(object, json_type_object) ||
	    !json_object_object_get_ex(object, name, &member))
		return false;
	*value = json_object_get_uint64(member);
	return true;
}

/* A figure's own unit is in its name */
static void print_value(FILE *out, const char *figure, uint64_t value)
{
	size_t length = strlen(figure);

	if (length > 3 && !strcmp(figure + length - 3, "_ns"))
		fprintf(out, " %.9f\n", (double)value / NS_PER_S);
	else
		fprintf(out, " %" PRIu64 "\n", value);
}

static void print_family(FILE *out, const struct family *family, struct json_object *stats)
{
	uint64_t value;

	if (!figure(stats, family->figure, &value))
		return;
	describe(out, family->name, family->counter ? "counter" : "gauge", family->unit,
		 family->help);
	fprintf(out, "%s%s", family->name, family->counter ? "_total" : "");
	print_value(out, family->figure, value);
}

static void print_protection(FILE *out, struct json_object *checkpoint)
{
	const char *text = qmpcall_text(checkpoint, "state");
	unsigned state = 0;

	describe(out, "wherry_protect_state", "stateset", NULL, "Of the protection");
	for (; state < WH_PROTECT_STATE_COUNT; state++) {
		const char *name = wh_protect_state_name((enum wh_protect_state)state);

		fprintf(out, "wherry_protect_state{wherry_protect_state=\"%s\"} %d\n", name,
			!strcmp(text, name));
	}
	for (size_t i = 0; i < COUNT_OF(protection); i++)
		print_family(out, &protection[i], checkpoint);
}

static void print_status(FILE *out, struct json_object *info)
{
	const char *text = qmpcall_text(info, "status");

	describe(out, "wherry_status", "stateset", NULL, "Of the migration, in QEMU's words");
	for (size_t i = 0; i < COUNT_OF(statuses); i++)
		fprintf(out, "wherry_status{wherry_status=\"%s\"} %d\n", statuses[i],
			!strcmp(text, statuses[i]));
}

/* From the fault's message to the wake; the source tells of requests. Of a QEMU there is none */
static void print_latencies(FILE *out, struct json_object *info)
{
	static const char name[] = "wherry_fault_latency_seconds";
	struct json_object *counts, *stats = NULL;
	uint64_t seen = 0, sum = 0;

	json_object_object_get_ex(info, "stats", &stats);
	if (!json_object_object_get_ex(info, "latencies", &counts) ||
	    !json_object_is_type(counts, json_type_array) || !figure(stats, "fault_sum_ns", &sum))
		return;
	describe(out, name, "histogram", "seconds", "From a fault to its page");
	for (size_t i = 0; i < WH_LATENCIES; i++) {
		/* all that are below a power of two, and whole nanoseconds */
		double edge = (double)((UINT64_C(1) << (i + 10)) - 1) / NS_PER_S;

		seen += json_object_get_uint64(json_object_array_get_idx(counts, i));
		if (i < WH_LATENCIES - 1)
			fprintf(out, "%s_bucket{le=\"%.11g\"} %" PRIu64 "\n", name, edge, seen);
	}
	fprintf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, seen);
	fprintf(out, "%s_count %" PRIu64 "\n", name, seen);
	fprintf(out, "%s_sum", name);
	print_value(out, "fault_sum_ns", sum);
}

static void print_threads(FILE *out, struct json_object *threads, const struct family *family)
{
	if (!json_object_array_length(threads))
		return;
	describe(out, family->name, "counter", family->unit, family->help);
	for (size_t i = 0; i < json_object_array_length(threads); i++) {
		struct json_object *thread = json_object_array_get_idx(threads, i);
		uint64_t tid = 0, vcpu = 0, value = 0;

		figure(thread, "tid", &tid);
		figure(thread, family->figure, &value);
		fprintf(out, "%s_total{tid=\"%" PRIu64 "\"", family->name, tid);
		if (figure(thread, "vcpu", &vcpu))
			fprintf(out, ",vcpu=\"%" PRIu64 "\"", vcpu);
		fprintf(out, "}");
		print_value(out, family->figure, value);
	}
}

void metrics_print(FILE *out, struct json_object *info)
{
	static const struct family waited = { "waited_ns", "wherry_thread_wait_seconds", "seconds",
					      true, "A thread stood still for missing pages" };
	static const struct family faults = { "faults", "wherry_thread_faults", NULL, true,
					      "Of a thread, for missing pages" };
	struct json_object *stats = NULL;
	struct json_object *threads = NULL;
	struct json_object *checkpoint = NULL;

	print_status(out, info);
	if (json_object_object_get_ex(info, "checkpoint", &checkpoint))
		print_protection(out, checkpoint);
	if (json_object_object_get_ex(info, "stats", &stats)) {
		for (size_t i = 0; i < COUNT_OF(families); i++)
			print_family(out, &families[i], stats);
		print_latencies(out, info);
	}
	if (json_object_object_get_ex(info, "threads", &threads) &&
	    json_object_is_type(threads, json_type_array)) {
		print_threads(out, threads, &waited);
		print_threads(out, threads, &faults);
	}
	fprintf(out, "# EOF\n");
}
