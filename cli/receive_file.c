/* SPDX-License-Identifier: MIT */
/*
 * wherry receive file:PATH: what a QEMU has migrated to a file becomes a capture. The file stays
 * what it is, so nothing is lost whatever happens here.
 */
#include "cli/receive.h"

#include <stdio.h>
#include <string.h>

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	return receive_block(opaque, name, length, page_size, block, err);
}

int receive_file(struct receive *receive, const char *uri, bool (*stop)(void *opaque),
		 uint64_t device_max, struct wh_err *err)
{
	struct wh_file_load *load = &receive->file;
	int ret;

	*load = (struct wh_file_load){
		.opaque = receive,
		.block = on_block,
		.stop = stop,
		.device_state_max = device_max,
	};
	receive->from_file = true;
	receive_say(receive, "reading", "reading %s", uri);
	ret = wh_file_load(uri, load, err);
	receive->device = load->device;
	receive->device_length = load->device_length;
	receive->device_format = load->device_format;
	if (!ret && load->mapped_ram)
		receive_say(receive, "note", "pages have their places in the file (mapped-ram)");
	return ret;
}

void receive_stats(const struct receive *receive, struct wh_stats *stats)
{
	const struct wh_file_load *file = &receive->file;

	if (!receive->from_file) {
		wh_get_stats(receive->migration, stats);
		return;
	}
	*stats = (struct wh_stats){
		.phase = WH_PHASE_DONE,
		.now_ns = receive_now_ns() - receive->begin_ns,
		.bytes = file->bytes,
		.pages_total = receive->bytes / RECEIVE_PAGE,
		.pages_normal = file->pages_normal,
		.pages_zero = file->pages_zero,
		.pages_xbzrle = file->pages_xbzrle,
	};
}

const char *receive_machine(const struct receive *receive)
{
	return receive->from_file ? receive->file.machine : wh_get_machine(receive->migration);
}
