/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cli/qmp_view.c: every phase of both ends, in QEMU's words; and who may run the guest.
 */
#include <json-c/json.h>
#include <string.h>

#include "cli/qmp_json.h"
#include "cli/qmp_view.h"

#include "kselftest_harness.h"

/* clang-format off */
static const struct {
	enum wh_phase phase;
	const char *source;
	const char *dest;
	bool away_from_source;
	bool away_from_dest;
	bool moving;
} phases[] = {
	{ WH_PHASE_SETUP,      "setup",           "setup",           false, true,  true },
	{ WH_PHASE_PRECOPY,    "active",          "active",          false, true,  true },
	{ WH_PHASE_SWITCHOVER, "device",          "active",          true,  true,  true },
	{ WH_PHASE_POSTCOPY,   "postcopy-active", "postcopy-active", true,  false, true },
	{ WH_PHASE_PAUSED,     "postcopy-paused", "postcopy-paused", true,  false, true },
	{ WH_PHASE_RECOVER,    "postcopy-recover", "postcopy-recover", true, false, true },
	{ WH_PHASE_DONE,       "completed",       "completed",       true,  false, false },
	{ WH_PHASE_FAILED,     "failed",          "failed",          false, true,  false },
	{ WH_PHASE_UNKNOWN,    "failed",          "failed",          true,  false, false },
	{ WH_PHASE_CANCELLED,  "cancelled",       "cancelled",       false, true,  false },
};
/* clang-format on */

TEST(phases_in_words)
{
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
		enum wh_phase phase = phases[i].phase;

		EXPECT_STREQ(phases[i].source, qmp_status(WH_SOURCE, phase));
		EXPECT_STREQ(phases[i].dest, qmp_status(WH_DEST, phase));
		EXPECT_EQ(phases[i].away_from_source, qmp_guest_is_away(WH_SOURCE, phase));
		EXPECT_EQ(phases[i].away_from_dest, qmp_guest_is_away(WH_DEST, phase));
		EXPECT_EQ(phases[i].moving, qmp_is_moving(phase));
	}
}

static struct json_object *told(struct qmp_view *view, enum wh_role role, enum wh_phase phase)
{
	view->attached = true;
	view->role = role;
	view->stats.phase = phase;
	view->status = qmp_status(role, phase);
	return qmp_view_migrate(view);
}

static uint64_t ram(struct json_object *info, const char *name)
{
	struct json_object *part = NULL;

	json_object_object_get_ex(info, "ram", &part);
	return qmp_figure(part, name);
}

/* Pages are bytes there, and times are milliseconds */
TEST(figures_in_units)
{
	struct qmp_view *view = calloc(1, sizeof(*view));
	struct json_object *info;

	view->stats = (struct wh_stats){
		.now_ns = 5000000000,
		.bytes = 1000,
		.pages_total = 100,
		.pages_left = 10,
		.pages_zero = 3,
		.pages_normal = 4,
		.bandwidth = 4096000,
		.downtime_ns = 7000000,
		.requests = 9,
	};
	view->setup_ns = 2000000;
	view->precopy_bytes = 600;
	view->downtime_bytes = 100;
	info = told(view, WH_SOURCE, WH_PHASE_POSTCOPY);
	EXPECT_EQ(5000, qmp_figure(info, "total-time"));
	EXPECT_EQ(2, qmp_figure(info, "setup-time"));
	EXPECT_EQ(10, qmp_figure(info, "expected-downtime")); /* 10 pages at 1000 a second */
	EXPECT_EQ(409600, ram(info, "total"));
	EXPECT_EQ(40960, ram(info, "remaining"));
	EXPECT_EQ(16384, ram(info, "normal-bytes"));
	EXPECT_EQ(3, ram(info, "duplicate"));
	EXPECT_EQ(1000, ram(info, "pages-per-second"));
	EXPECT_EQ(9, ram(info, "postcopy-requests"));
	EXPECT_EQ(1000, ram(info, "precopy-bytes") + ram(info, "downtime-bytes") +
				ram(info, "postcopy-bytes"));
	json_object_put(info);

	info = told(view, WH_SOURCE, WH_PHASE_DONE);
	EXPECT_EQ(7, qmp_figure(info, "downtime"));
	EXPECT_FALSE(json_object_object_get_ex(info, "expected-downtime", NULL));
	EXPECT_EQ(0, ram(info, "remaining"));
	json_object_put(info);
	free(view);
}

/* In the order of the processors, whole milliseconds; only when asked for */
TEST(blocktime_of_each_processor)
{
	struct qmp_view *view = calloc(1, sizeof(*view));
	struct json_object *info, *times;

	view->vcpus = 2;
	view->threads = 3;
	view->thread[0].waited_ns = 1999999;
	view->thread[1].waited_ns = 30000000;
	view->thread[2].waited_ns = 99000000;
	info = told(view, WH_DEST, WH_PHASE_DONE);
	EXPECT_FALSE(json_object_object_get_ex(info, "postcopy-vcpu-blocktime", NULL));
	json_object_put(info);
	view->blocktime = true;
	info = told(view, WH_DEST, WH_PHASE_DONE);
	ASSERT_TRUE(json_object_object_get_ex(info, "postcopy-vcpu-blocktime", &times));
	EXPECT_STREQ("[1,30]", json_object_to_json_string_ext(times, JSON_C_TO_STRING_PLAIN));
	json_object_put(info);
	free(view);
}

TEST(errors_where_it_failed)
{
	struct qmp_view *view = calloc(1, sizeof(*view));
	struct json_object *info;

	strcpy(view->error, "no route");
	info = told(view, WH_SOURCE, WH_PHASE_FAILED);
	EXPECT_STREQ("no route", qmp_member(info, "error-desc"));
	json_object_put(info);
	info = told(view, WH_SOURCE, WH_PHASE_UNKNOWN);
	EXPECT_STREQ("no route", qmp_member(info, "error-desc"));
	json_object_put(info);
	info = told(view, WH_SOURCE, WH_PHASE_PRECOPY);
	EXPECT_EQ(NULL, qmp_member(info, "error-desc"));
	json_object_put(info);
	free(view);
}

/* QEMU's SocketAddress */
TEST(addresses)
{
	static const char *const uris[][2] = {
		{ "unix:/run/a:b", "{\"path\":\"\\/run\\/a:b\",\"type\":\"unix\"}" },
		{ "tcp:host:77", "{\"host\":\"host\",\"type\":\"inet\",\"port\":\"77\"}" },
		{ "tcp:[::1]:77", "{\"host\":\"::1\",\"type\":\"inet\",\"port\":\"77\"}" },
		{ "tcp:[]:77", "{\"host\":\"\",\"type\":\"inet\",\"port\":\"77\"}" },
		{ "vsock:2:77", "{\"cid\":\"2\",\"type\":\"vsock\",\"port\":\"77\"}" },
		{ "fd:3", "{\"str\":\"3\",\"type\":\"fd\"}" },
		{ "tcp:77", NULL },
		{ "tcp", NULL },
		{ "nowhere:1:2", NULL },
	};

	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct json_object *address = qmp_address(uris[i][0]);

		if (uris[i][1]) {
			EXPECT_STREQ(uris[i][1],
				     json_object_to_json_string_ext(address,
								    JSON_C_TO_STRING_PLAIN));
		} else {
			EXPECT_EQ(NULL, address);
		}
		json_object_put(address);
	}
}

TEST_HARNESS_MAIN
