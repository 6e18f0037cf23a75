/* SPDX-License-Identifier: MIT */
/*
 * A recorded channel of multifd: the hello, and packets. Contents are passed over: compressed
 * ones are of no use without all that came before.
 */
#include "postcopy/dump_internal.h"

#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void say_hello(struct wh_dump *dump, const struct multifd_hello *hello)
{
	struct dump_message m = { .kind = "channel" };
	char uuid[37];

	dump_uuid(uuid, hello->uuid);
	dump_number(&m, "number", WH_DUMP_DECIMAL, hello->channel);
	dump_text(&m, "uuid", uuid);
	dump_say(dump, dump->begin, &m, "channel %u of guest %s", hello->channel, uuid);
}

static void say_packet(struct wh_dump *dump, const struct multifd_packet *packet)
{
	struct dump_message m = { .kind = "packet" };
	const char *sync = packet->sync ? ", SYNC" : "";

	dump_number(&m, "number", WH_DUMP_DECIMAL, packet->number);
	if (packet->sync)
		dump_text(&m, "flags", "SYNC");
	if (!packet->normal && !packet->zero) {
		dump_say(dump, dump->begin, &m, "packet %" PRIu64 "%s", packet->number, sync);
		return;
	}
	dump_text(&m, "block", packet->block.text);
	dump_number(&m, "pages", WH_DUMP_DECIMAL, packet->normal);
	dump_number(&m, "zero", WH_DUMP_DECIMAL, packet->zero);
	dump_number(&m, "bytes", WH_DUMP_DECIMAL, packet->bytes);
	dump_text(&m, "method", multifd_method_name(packet->method));
	dump_say(dump, dump->begin, &m,
		 "packet %" PRIu64 " of %s: %u pages, %u zero; %u bytes, %s%s", packet->number,
		 packet->block.text, packet->normal, packet->zero, packet->bytes,
		 multifd_method_name(packet->method), sync);
}

static void say_pages(struct wh_dump *dump, const struct multifd_packet *packet)
{
	for (uint32_t i = 0; i < packet->normal + packet->zero; i++) {
		const char *record = i < packet->normal ? "page" : "zero";
		struct dump_message m = { .kind = "page" };

		dump_text(&m, "block", packet->block.text);
		dump_number(&m, "start", WH_DUMP_HEX, packet->offset[i]);
		dump_text(&m, "record", record);
		dump_say(dump, dump->begin, &m, "  %s 0x%" PRIx64 " %s", packet->block.text,
			 packet->offset[i], record);
	}
}

int dump_multifd_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		      struct wh_err *err)
{
	struct multifd_packet packet = { 0 };
	struct multifd_hello hello;
	int ret;

	if (dump->contents) {
		*used = left < dump->contents ? left : dump->contents;
		dump->contents -= (uint32_t)*used;
		if (!dump->contents)
			dump->begin = dump->offset + *used;
		return *used != 0;
	}
	ret = dump->begun ? multifd_get_head(at, left, &packet, err) :
			    multifd_get_hello(at, left, &hello, err);
	if (ret < 0)
		err_wrap(err, "channel at %" PRIu64, dump->begin);
	if (ret <= 0)
		return ret;
	if (dump->begun) {
		say_packet(dump, &packet);
		if (dump->pages)
			say_pages(dump, &packet);
	} else {
		say_hello(dump, &hello);
	}
	*used = dump->begun ? MULTIFD_HEAD_BYTES : MULTIFD_HELLO_BYTES;
	dump->begun = true;
	dump->contents = packet.bytes;
	if (!dump->contents)
		dump->begin = dump->offset + *used;
	return 1;
}
