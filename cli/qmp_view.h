/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_VIEW_H
#define CLI_QMP_VIEW_H

#include <stdbool.h>
#include <stdint.h>
#include <wherry/migration.h>
#include <wherry/protect.h>

struct json_object;

#define QMP_THREADS_MAX 256u

/**
 * struct qmp_view - What there is to tell, at one moment
 * @attached:	There is a migration; else only @error may be there
 * @status:	qmp_status() of it
 * @setup_ns:	When it left the setup, 0 if it has not
 * @precopy_bytes: Sent before the switch, and @downtime_bytes in it
 * @error:	Why it failed, "" if it did not
 * @address:	Where the destination listens, "" if nowhere
 * @latency:	wh_get_latencies()
 * @vcpus:	The first so many of @threads are processors, in their order
 * @protection:	There is one; @protect, @protect_role are of it
 * @protect_address: Where its destination listens, "" if nowhere
 */
struct qmp_view {
	bool attached;
	bool running;
	bool blocktime;
	enum wh_role role;
	const char *status;
	struct wh_stats stats;
	uint64_t latency[WH_LATENCIES];
	uint64_t downtime_limit_ns;
	uint64_t setup_ns;
	uint64_t precopy_bytes;
	uint64_t downtime_bytes;
	char error[WH_ERR_TEXT];
	char address[WH_ERR_TEXT];
	unsigned vcpus;
	unsigned threads;
	struct wh_thread_wait thread[QMP_THREADS_MAX];
	bool protection;
	enum wh_role protect_role;
	struct wh_protect_status protect;
	char protect_address[WH_ERR_TEXT];
};

/* QEMU's word for a phase. It has none for WH_PHASE_UNKNOWN: "failed" */
const char *qmp_status(enum wh_role role, enum wh_phase phase);

/* The guest may be running at the other end, or will be: not to be started here */
bool qmp_guest_is_away(enum wh_role role, enum wh_phase phase);
/* It has not ended; paused it has not either */
bool qmp_is_moving(enum wh_phase phase);

/* query-migrate, query-status, x-wherry-stats */
struct json_object *qmp_view_migrate(const struct qmp_view *view);
struct json_object *qmp_view_status(const struct qmp_view *view);
struct json_object *qmp_view_stats(const struct qmp_view *view);

/* qmp_view_checkpoint.c: query-checkpoint, and "checkpoint" of x-wherry-stats */
struct json_object *qmp_view_checkpoint(const struct qmp_view *view);

#endif /* CLI_QMP_VIEW_H */
