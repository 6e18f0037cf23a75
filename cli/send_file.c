/* SPDX-License-Identifier: MIT */
/*
 * wherry send --from DIR file:PATH: a parked VM as a file that a QEMU takes with -incoming file:.
 */
#include "cli/send.h"

int send_file(struct send *send, const char *machine, bool (*stop)(void *opaque),
	      struct wh_err *err)
{
	static struct wh_block block[RECEIVE_BLOCKS_MAX];
	static struct wh_stats written;
	const struct parked *parked = &send->parked;
	struct wh_file_save save = {
		.block = block,
		.blocks = parked->blocks,
		.machine = machine,
		.device = parked->device,
		.device_length = parked->device_length,
		.device_format = parked->device_format,
		.mapped_ram = send->mapped_ram,
		.replace = send->force,
		.stop = stop,
	};
	int ret;

	for (unsigned i = 0; i < parked->blocks; i++)
		block[i] = (struct wh_block){
			.name = parked->block[i].name,
			.addr = parked->block[i].at,
			.length = parked->block[i].length,
			.fd = -1,
		};
	ret = wh_file_save(send->uri, &save, err);
	written = (struct wh_stats){
		.now_ns = receive_now_ns() - send->begin_ns,
		.bytes = save.bytes,
		.pages_normal = save.pages_normal,
		.pages_zero = save.pages_zero,
	};
	send->written = &written;
	return ret;
}
