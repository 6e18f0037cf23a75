/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The figures of wherry top: as JSON, as OpenMetrics text, as a view and as a line they are
 * the same.
 */
#include "cli/metrics.h"
#include "cli/qmp_json.h"
#include "cli/qmp_view.h"
#include "cli/top.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define MEMBERS (sizeof(struct wh_stats) / sizeof(uint64_t))
#define BASE UINT64_C(1234000000) /* 1.234 s */

FIXTURE(figures)
{
	struct qmp_view view;
	struct json_object *info;
	struct json_object *stats;
	char *text;
	size_t length;
};

/* No two figures alike, in whatever unit */
FIXTURE_SETUP(figures)
{
	struct qmp_view *view = &self->view;
	uint64_t words[MEMBERS];

	memset(self, 0, sizeof(*self));
	for (size_t i = 0; i < MEMBERS; i++)
		words[i] = BASE + i * 1000000;
	memcpy(&view->stats, words, sizeof(words));
	view->attached = true;
	view->role = WH_DEST;
	view->stats.phase = WH_PHASE_POSTCOPY;
	view->status = qmp_status(WH_DEST, WH_PHASE_POSTCOPY);
	/* below 1.0, 2.0 and 262.1 us, and longer than 68.7 s */
	view->latency[0] = 3;
	view->latency[1] = 20;
	view->latency[8] = 10;
	view->latency[WH_LATENCIES - 1] = 1;
	view->vcpus = view->threads = 2;
	view->thread[1] = (struct wh_thread_wait){ 77, 5, 9000000 };
	self->info = qmp_view_stats(view);
	ASSERT_TRUE(json_object_object_get_ex(self->info, "stats", &self->stats));
}

FIXTURE_TEARDOWN(figures)
{
	json_object_put(self->info);
	free(self->text);
}

static void show(FIXTURE_DATA(figures) *self, void (*how)(FILE *out, struct json_object *info))
{
	FILE *out = open_memstream(&self->text, &self->length);

	how(out, self->info);
	fclose(out);
}

static void show_line(FILE *out, struct json_object *info)
{
	top_line(out, info, true);
}

/* How many lines end in it, with a space before it */
static unsigned ends(const char *text, const char *end)
{
	size_t length = strlen(end);
	unsigned count = 0;

	for (const char *at = text; (at = strstr(at, end)); at += length)
		count += at > text && at[-1] == ' ' && at[length] == '\n';
	return count;
}

/* Whatever it is called there: its value, once */
TEST_F(figures, every_one_is_a_metric)
{
	show(self, metrics_print);
	json_object_object_foreach(self->stats, name, value)
	{
		size_t length = strlen(name);
		char end[32];

		if (!strcmp(name, "phase"))
			continue;
		if (length > 3 && !strcmp(name + length - 3, "_ns"))
			snprintf(end, sizeof(end), "%.9f",
				 (double)json_object_get_uint64(value) / 1e9);
		else
			snprintf(end, sizeof(end), "%" PRIu64, json_object_get_uint64(value));
		EXPECT_EQ(1, ends(self->text, end)) TH_LOG("%s: %s in %s", name, end, self->text);
	}
}

TEST_F(figures, histogram)
{
	static const char *const lines[] = {
		"# TYPE wherry_fault_latency_seconds histogram\n",
		"# UNIT wherry_fault_latency_seconds seconds\n",
		"wherry_fault_latency_seconds_bucket{le=\"1.023e-06\"} 3\n",
		"wherry_fault_latency_seconds_bucket{le=\"2.047e-06\"} 23\n",
		"wherry_fault_latency_seconds_bucket{le=\"4.095e-06\"} 23\n",
		"wherry_fault_latency_seconds_bucket{le=\"0.000262143\"} 33\n",
		"wherry_fault_latency_seconds_bucket{le=\"68.719476735\"} 33\n",
		"wherry_fault_latency_seconds_bucket{le=\"+Inf\"} 34\n",
		"wherry_fault_latency_seconds_count 34\n",
		"wherry_thread_wait_seconds_total{tid=\"77\",vcpu=\"1\"} 0.009000000\n",
		"wherry_thread_faults_total{tid=\"77\",vcpu=\"1\"} 5\n",
		"wherry_status{wherry_status=\"postcopy-active\"} 1\n",
		"\n# EOF\n",
	};

	show(self, metrics_print);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		EXPECT_NE(NULL, strstr(self->text, lines[i])) TH_LOG("%s%s", lines[i], self->text);
	}
	EXPECT_STREQ("# EOF\n", self->text + self->length - 6);
}

/* Rows of the view, in its units */
TEST_F(figures, view)
{
	const struct wh_stats *s = &self->view.stats;
	const struct {
		const char *row;
		double value;
		const char *unit; /* of the value divided by its size */
	} rows[] = {
		{ "time", (double)s->now_ns / 1e9, "%.1f s" },
		{ "left", (double)s->pages_left * 4096 / (1ull << 40), "%.1f TiB" },
		{ "on the wire", (double)s->bytes / (1 << 30), "%.1f GiB" },
		{ "rate, a second", (double)s->bandwidth / (1 << 30), "%.1f GiB" },
		{ "faults", (double)s->faults, "%.0f" },
		{ "requests", (double)s->requests, "%.0f" },
		{ "latency p50", (double)s->fault_p50_ns / 1e9, "%.1f s" },
		{ "latency p99", (double)s->fault_p99_ns / 1e9, "%.1f s" },
		{ "recoveries", (double)s->recoveries, "%.0f" },
	};
	static const char *const others[] = {
		"status          postcopy-active\033",
		"  below 1.0 us  ######                                   3\033",
		"  below 2.0 us  ######################################## 20\033",
		"  below 262.1 us####################                     10\033",
		"  longer than 68.7 s",
		"vCPU 1          waited 9.0 ms, 5 faults\033",
	};
	char text[32], line[80];

	show(self, top_view);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(text, sizeof(text), rows[i].unit, rows[i].value);
#pragma GCC diagnostic pop
		snprintf(line, sizeof(line), "%-16s%s\033", rows[i].row, text);
		EXPECT_NE(NULL, strstr(self->text, line)) TH_LOG("'%s' in %s", line, self->text);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		EXPECT_NE(NULL, strstr(self->text, others[i]))
		TH_LOG("'%s' in %s", others[i], self->text);
	}
}

/* The line has those of the view that fit */
TEST_F(figures, line)
{
	char text[32];

	show(self, show_line);
	snprintf(text, sizeof(text), " %" PRIu64 " ", self->view.stats.faults);
	EXPECT_NE(NULL, strstr(self->text, "postcopy-active")) TH_LOG("%s", self->text);
	EXPECT_NE(NULL, strstr(self->text, text)) TH_LOG("%s", self->text);
}

/* Nobody has faulted yet, and a QEMU tells of no latencies */
TEST_F(figures, none)
{
	memset(self->view.latency, 0, sizeof(self->view.latency));
	json_object_put(self->info);
	self->info = qmp_view_stats(&self->view);
	show(self, top_view);
	EXPECT_EQ(NULL, strstr(self->text, "below")) TH_LOG("%s", self->text);
	json_object_object_del(self->info, "latencies");
	free(self->text);
	show(self, metrics_print);
	EXPECT_EQ(NULL, strstr(self->text, "latency_seconds_bucket"));
}

/* A protection is told of beside a migration, in all forms */
FIXTURE(protection)
{
	struct qmp_view view;
	struct json_object *info;
	struct json_object *checkpoint;
	char *text;
	size_t length;
};

FIXTURE_SETUP(protection)
{
	struct wh_protect_status *status = &self->view.protect;

	memset(self, 0, sizeof(*self));
	*status = (struct wh_protect_status){
		.state = WH_PROTECT_HOLD,
		.generation = 3,
		.epoch = 77,
		.checkpoints = 76,
		.refused = 2,
		.interval_ns = 50000000,
		.stop_ns = 1234567,
		.stop_max_ns = 2234567,
		.stop_sum_ns = 93827092,
		.ack_ns = 4567000,
		.ack_age_ns = 345678901,
		.heard_age_ns = UINT64_MAX,
		.dirty_bytes = 5 << 20,
		.wire_bytes = 4 << 20,
		.bytes = 123456789,
		.held_packets = 19,
		.held_bytes = 1140,
		.held_age_ns = 12345678,
		.dropped = 7,
		.stalled = true,
		.degraded = true,
		.err = { .code = -EPIPE, .text = "lost \xff" },
	};
	self->view.protection = true;
	self->view.protect_role = WH_SOURCE;
	strcpy(self->view.protect_address, "unix:/run/a");
	self->info = qmp_view_stats(&self->view);
	ASSERT_TRUE(json_object_object_get_ex(self->info, "checkpoint", &self->checkpoint));
}

FIXTURE_TEARDOWN(protection)
{
	json_object_put(self->info);
	free(self->text);
}

static void tell(FIXTURE_DATA(protection) *self, void (*how)(FILE *out, struct json_object *info))
{
	FILE *out = open_memstream(&self->text, &self->length);

	how(out, self->info);
	fclose(out);
}

TEST_F(protection, query)
{
	struct json_object *none;

	EXPECT_STREQ("hold", qmp_member(self->checkpoint, "state"));
	EXPECT_STREQ("source", qmp_member(self->checkpoint, "role"));
	EXPECT_STREQ("unix:/run/a", qmp_member(self->checkpoint, "address"));
	EXPECT_STREQ("lost ?", qmp_member(self->checkpoint, "reason"));
	EXPECT_EQ(77, qmp_figure(self->checkpoint, "epoch"));
	EXPECT_EQ(345678901, qmp_figure(self->checkpoint, "ack_age_ns"));
	/* what never was has no figure */
	EXPECT_FALSE(json_object_object_get_ex(self->checkpoint, "heard_age_ns", NULL));

	self->view.protection = false;
	none = qmp_view_checkpoint(&self->view);
	EXPECT_STREQ("none", qmp_member(none, "state"));
	EXPECT_EQ(1, json_object_object_length(none));
	json_object_put(none);
}

TEST_F(protection, every_figure_is_a_metric)
{
	static const char *const lines[] = {
		"\nwherry_protect_state{wherry_protect_state=\"hold\"} 1\n",
		"\nwherry_protect_state{wherry_protect_state=\"run\"} 0\n",
		"\nwherry_protect_generation 3\n",
		"\nwherry_protect_epoch 77\n",
		"\nwherry_protect_checkpoints_total 76\n",
		"\nwherry_protect_refused_total 2\n",
		"\nwherry_protect_interval_seconds 0.050000000\n",
		"\nwherry_protect_stop_seconds 0.001234567\n",
		"\nwherry_protect_stop_max_seconds 0.002234567\n",
		"\nwherry_protect_stopped_seconds_total 0.093827092\n",
		"\nwherry_protect_ack_seconds 0.004567000\n",
		"\nwherry_protect_ack_age_seconds 0.345678901\n",
		"\nwherry_protect_dirty_bytes 5242880\n",
		"\nwherry_protect_wire_bytes 4194304\n",
		"\nwherry_protect_sent_bytes_total 123456789\n",
		"\nwherry_protect_held_packets 19\n",
		"\nwherry_protect_held_bytes 1140\n",
		"\nwherry_protect_stalled 1\n",
		"\nwherry_protect_degraded 1\n",
		"\nwherry_protect_held_age_seconds 0.012345678\n",
		"\nwherry_protect_dropped_packets_total 7\n",
	};

	tell(self, metrics_print);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		EXPECT_NE(NULL, strstr(self->text, lines[i])) TH_LOG("%s%s", lines[i], self->text);
	}
	EXPECT_EQ(NULL, strstr(self->text, "heard_age"));
}

TEST_F(protection, view_and_line)
{
	static const char *const rows[] = {
		"protection      hold\033",    "role            source\033",
		"reason          lost ?\033",  "epoch           77\033",
		"stop            1.2 ms\033",  "longest stop    2.2 ms\033",
		"dirty           5.0 MiB\033", "held packets    19\033",
		"last heard      -\033",
	};

	tell(self, top_view);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		EXPECT_NE(NULL, strstr(self->text, rows[i]))
		TH_LOG("%s in %s", rows[i], self->text);
	}
	free(self->text);
	tell(self, show_line);
	EXPECT_EQ(self->text, strstr(self->text, "STATE ")) TH_LOG("%s", self->text);
	EXPECT_NE(NULL, strstr(self->text, "\nhold ")) TH_LOG("%s", self->text);
	EXPECT_NE(NULL, strstr(self->text, " 5.0 MiB ")) TH_LOG("%s", self->text);
}

TEST_HARNESS_MAIN
