/* SPDX-License-Identifier: MIT */
/*
 * A recorded direction of QEMU's micro-checkpoints of 2014 (wire/mc.h). What the slabs have is
 * passed over: device state, and pages in the order of a description that only it explains.
 */
#include "postcopy/dump_internal.h"

#include "base/err.h"

#include <inttypes.h>

static void say_message(struct wh_dump *dump, const struct mc_msg *msg)
{
	struct dump_message m = { .kind = mc_name(msg->kind) };

	if (msg->kind != MC_START) {
		dump_say_kind(dump, dump->begin, m.kind);
		return;
	}
	dump_number(&m, "size", WH_DUMP_DECIMAL, msg->size);
	dump_number(&m, "first_page_slab", WH_DUMP_DECIMAL, msg->first_page_slab);
	dump_number(&m, "slabs", WH_DUMP_DECIMAL, msg->slabs);
	dump_say(dump, dump->begin, &m,
		 "%s size %" PRIu64 " first_page_slab %" PRIu64 " slabs %" PRIu64, m.kind,
		 msg->size, msg->first_page_slab, msg->slabs);
}

static void say_slab(struct wh_dump *dump, const struct mc_event *event)
{
	struct dump_message m = { .kind = "slab" };

	dump_number(&m, "number", WH_DUMP_DECIMAL, event->slab);
	dump_number(&m, "bytes", WH_DUMP_DECIMAL, event->length);
	dump_say(dump, dump->begin, &m, "slab %" PRIu64 ", %" PRIu64 " bytes", event->slab,
		 event->length);
}

int dump_mc_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		 struct wh_err *err)
{
	struct mc_event event;
	int ret = mc_in_next(&dump->mc, at, left, used, &event, err);

	if (ret < 0)
		err_wrap(err, "checkpoints at %" PRIu64, dump->begin);
	if (ret <= 0)
		return ret;
	switch (event.kind) {
	case MC_GOT_MESSAGE:
		say_message(dump, &event.msg);
		break;
	case MC_GOT_SLAB:
		say_slab(dump, &event);
		break;
	case MC_GOT_CONTENTS:
		break;
	}
	dump->begun = true;
	if (!dump->mc.contents)
		dump->begin = dump->offset + *used;
	return 1;
}
