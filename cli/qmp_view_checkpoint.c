/* SPDX-License-Identifier: MIT */
/*
 * Codec: figures of a protection. QEMU has no words for them; names with a unit say it.
 */
#include "cli/qmp_view.h"

#include "cli/qmp_json.h"

#include <json-c/json.h>
#include <stddef.h>
#include <string.h>

#define FIGURE(name, member)                                     \
	{                                                        \
		name, offsetof(struct wh_protect_status, member) \
	}

/* What is UINT64_MAX has not been yet, and is not told */
static const struct {
	const char *name;
	size_t at;
} figures[] = {
	FIGURE("generation", generation),
	FIGURE("epoch", epoch),
	FIGURE("checkpoints", checkpoints),
	FIGURE("refused", refused),
	FIGURE("interval_ns", interval_ns),
	FIGURE("stop_ns", stop_ns),
	FIGURE("stop_max_ns", stop_max_ns),
	FIGURE("stop_sum_ns", stop_sum_ns),
	FIGURE("ack_ns", ack_ns),
	FIGURE("ack_age_ns", ack_age_ns),
	FIGURE("heard_age_ns", heard_age_ns),
	FIGURE("dirty_bytes", dirty_bytes),
	FIGURE("wire_bytes", wire_bytes),
	FIGURE("bytes", bytes),
	FIGURE("held_packets", held_packets),
	FIGURE("held_bytes", held_bytes),
	FIGURE("held_age_ns", held_age_ns),
	FIGURE("dropped", dropped),
};

struct json_object *qmp_view_checkpoint(const struct qmp_view *view)
{
	struct json_object *info = json_object_new_object();
	const struct wh_protect_status *status = &view->protect;
	char reason[WH_ERR_TEXT];

	qmp_add_text(info, "state",
		     view->protection ? wh_protect_state_name(status->state) : "none");
	if (!view->protection)
		return info;
	qmp_add_text(info, "role", view->protect_role == WH_SOURCE ? "source" : "destination");
	if (*view->protect_address)
		qmp_add_text(info, "address", view->protect_address);
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		uint64_t value;

		memcpy(&value, (const char *)status + figures[i].at, sizeof(value));
		if (value != UINT64_MAX)
			qmp_add_number(info, figures[i].name, value);
	}
	qmp_add_flag(info, "stalled", status->stalled);
	qmp_add_flag(info, "degraded", status->degraded);
	if (status->err.code) {
		memcpy(reason, status->err.text, sizeof(reason));
		qmp_make_utf8(reason);
		qmp_add_text(info, "reason", reason);
	}
	return info;
}
