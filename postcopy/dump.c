/* SPDX-License-Identifier: MIT */
#include "postcopy/dump_internal.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"
#include "wire/bitmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/*
 * A recorded connection, message by message. Bytes wait in a buffer until a decoder can take them;
 * what has no inner structure of ours (package, device state, bitmap) is kept whole, up
 * to a limit, and grows only with bytes that are there, whatever length was announced.
 */
#define KEEP_MAX ((size_t)1 << 30)
#define SLICE ((size_t)1 << 20)

int dump_keep(struct bytes *bytes, const uint8_t *more, size_t length, struct wh_err *err)
{
	size_t room = bytes->room ? bytes->room : 4096;
	uint8_t *at;

	if (length > KEEP_MAX - bytes->length)
		return err_set(err, -ENOMEM, "more than %zu bytes that belong together", KEEP_MAX);
	while (room < bytes->length + length)
		room *= 2;
	if (room != bytes->room) {
		at = realloc(bytes->at, room);
		if (!at)
			return err_set(err, -ENOMEM, "no memory for %zu bytes of a stream", room);
		bytes->at = at;
		bytes->room = room;
	}
	memcpy(bytes->at + bytes->length, more, length);
	bytes->length += length;
	return 0;
}

/* The main channel */

/* What went before a resumed connection was not seen: its names are learned. */
static void stream_begin(struct wh_dump *dump, uint8_t first)
{
	bool resumed = first == SECTION_COMMAND || first == SECTION_PART || first == SECTION_END;

	stream_in_init(&dump->stream, resumed);
	stream_in_file(&dump->stream, dump->offset);
	if (resumed)
		stream_in_learn(&dump->stream);
	dump->begun = true;
}

static int take_package(struct wh_dump *dump, const struct stream_event *event, struct wh_err *err)
{
	struct package package;
	int ret;

	if (!dump->kept.length)
		dump->kept_offset = dump->begin;
	ret = dump_keep(&dump->kept, event->data, event->data_length, err);
	if (ret < 0 || !event->last)
		return ret;
	ret = package_get(dump->kept.at, dump->kept.length, &package, err);
	if (ret < 0) {
		err_wrap(err, "stream at %" PRIu64, dump->kept_offset);
		return ret;
	}
	dump_say_package(dump, &package);
	dump->kept.length = 0;
	return 0;
}

static int behind_the_end(const struct wh_dump *dump, size_t at, struct wh_err *err)
{
	if (at == dump->kept.length)
		return 0;
	return err_set(err, -EPROTO,
		       "stream at %" PRIu64 ": bytes behind the end, the first is 0x%02x",
		       dump->kept_offset + at, dump->kept.at[at]);
}

/* From the first FULL section, or the EOF byte, to the end of the connection */
static int take_device(struct wh_dump *dump, const struct stream_event *event, struct wh_err *err)
{
	size_t state, json, length;
	int ret;

	if (!dump->kept.length)
		dump->kept_offset = dump->begin;
	ret = dump_keep(&dump->kept, event->data, event->data_length, err);
	if (ret < 0)
		return ret;
	if (dump->described)
		return behind_the_end(dump, dump->kept.length - event->data_length, err);
	ret = device_scan(&dump->scan, dump->kept.at, dump->kept.length, &state, &json, &length,
			  err);
	if (ret < 0)
		err_wrap(err, "stream at %" PRIu64, dump->kept_offset);
	if (ret <= 0)
		return ret;
	dump->described = true;
	dump_say_state(dump, dump->kept_offset, "", dump->kept.at, state);
	if (state)
		dump_say_kind(dump, dump->kept_offset + state, "EOF");
	dump_say_description(dump, dump->kept_offset + state + 1, length);
	return behind_the_end(dump, json + length, err);
}

static int take_stream(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		       struct wh_err *err)
{
	struct stream_event event;
	int ret;

	*used = 0;
	/* the end of a list is there without any byte behind it */
	if (!left && !(dump->mapping && dump->mapped.done && !dump->inside))
		return 0;
	if (!dump->begun)
		stream_begin(dump, *at);
	if (dump->mapping)
		return dump_mapped_take(dump, at, left, used, err);
	ret = stream_in_next(&dump->stream, at, left, used, &event, err);
	if (ret <= 0)
		return ret;
	dump_say_event(dump, &event);
	ret = 0;
	if (event.kind == STREAM_SECTION && event.section == SECTION_START &&
	    dump->stream.mapped_ram)
		dump_mapped_begin(dump);
	if (event.kind == STREAM_PACKAGE)
		ret = take_package(dump, &event, err);
	if (event.kind == STREAM_DEVICE || event.kind == STREAM_EOF)
		ret = take_device(dump, &event, err);
	dump->begin = dump->stream.offset;
	return ret < 0 ? ret : 1;
}

/* The others */

static int take_urgent(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		       struct wh_err *err)
{
	struct ram_event event;
	int ret;

	ret = ram_in_next(&dump->urgent, &dump->stream.blocks, at, left, used, &event, err);
	if (ret < 0)
		err_wrap(err, "channel at %" PRIu64, dump->offset + *used);
	if (ret <= 0)
		return ret;
	dump_say_ram(dump, &event);
	dump->begin = dump->offset + *used;
	return 1;
}

/* Of how many pages it is nobody says here, so the padding cannot be told from pages. */
static int take_bitmap(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		       struct wh_err *err)
{
	uint64_t bytes, *map;
	int ret;

	if (left < 8)
		return 0;
	bytes = get_be64(at);
	if (bytes % 8 || bytes > KEEP_MAX - BITMAP_FRAME)
		return err_set(err, -EPROTO,
			       "bitmap of %" PRIu64 " bytes, expected words of 8, up to %zu", bytes,
			       KEEP_MAX - BITMAP_FRAME);
	if (left < bytes + BITMAP_FRAME)
		return 0;
	map = malloc(bytes ? bytes : 1);
	if (!map)
		return err_set(err, -ENOMEM, "no memory for a bitmap of %" PRIu64 " bytes", bytes);
	ret = bitmap_get(at, left, used, map, bytes * 8, err);
	if (ret == 1)
		dump_say_bitmap(dump, bytes, bits_count(map, bytes * 8));
	free(map);
	return ret;
}

static int take_return(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		       struct wh_err *err)
{
	struct rp_msg msg;
	int ret;

	*used = 0;
	if (dump->bitmap)
		ret = take_bitmap(dump, at, left, used, err);
	else
		ret = rp_get(at, left, used, &msg, err);
	if (ret < 0)
		err_wrap(err, "return path at %" PRIu64, dump->begin);
	if (ret <= 0)
		return ret;
	if (!dump->bitmap)
		dump_say_message(dump, &msg);
	dump->bitmap = !dump->bitmap && msg.kind == RP_RECV_BITMAP;
	dump->begin += *used;
	return 1;
}

/* All that there is, until a decoder wants more */
static int take_all(struct wh_dump *dump, struct wh_err *err)
{
	size_t at = 0, used;
	int ret = 1;

	while (ret == 1) {
		const uint8_t *from = dump->buffer.at + at;
		size_t left = dump->buffer.length - at;

		used = 0;
		switch (dump->kind) {
		case WH_DUMP_STREAM:
			ret = take_stream(dump, from, left, &used, err);
			break;
		case WH_DUMP_URGENT:
			ret = take_urgent(dump, from, left, &used, err);
			break;
		case WH_DUMP_RETURN_PATH:
			ret = take_return(dump, from, left, &used, err);
			break;
		case WH_DUMP_MULTIFD:
			ret = dump_multifd_take(dump, from, left, &used, err);
			break;
		case WH_DUMP_MC:
			ret = dump_mc_take(dump, from, left, &used, err);
			break;
		}
		at += used;
		dump->offset += used;
	}
	if (at)
		memmove(dump->buffer.at, dump->buffer.at + at, dump->buffer.length - at);
	dump->buffer.length -= at;
	return ret;
}

/* After damage nothing is printed any more; the sentence stays what it was. */
static int fail(struct wh_dump *dump, int ret, const struct wh_err *said, struct wh_err *err)
{
	dump_run_end(dump);
	dump->failed = *said;
	if (err)
		*err = *said;
	return ret;
}

int wh_dump_new(struct wh_dump **dump, enum wh_dump_kind kind, bool pages,
		void (*message)(void *opaque, const struct wh_dump_message *message), void *opaque,
		struct wh_err *err)
{
	struct wh_dump *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, -ENOMEM, "no memory for a dump");
	d->kind = kind;
	d->pages = pages;
	d->message = message;
	d->opaque = opaque;
	ram_in_init(&d->urgent, true);
	ram_in_learn(&d->urgent);
	*dump = d;
	return 0;
}

void wh_dump_at(struct wh_dump *dump, uint64_t offset)
{
	dump->offset = offset;
	dump->begin = offset;
}

int wh_dump_feed(struct wh_dump *dump, const void *bytes, size_t length, struct wh_err *err)
{
	struct wh_err said = { 0 };
	const uint8_t *at = bytes;
	int ret = 0;

	if (dump->failed.code)
		return fail(dump, dump->failed.code, &dump->failed, err);
	/* by slices, so that a whole file at once is not copied at once */
	while (length && !ret) {
		size_t slice = length < SLICE ? length : SLICE;

		ret = dump_keep(&dump->buffer, at, slice, &said);
		if (!ret)
			ret = take_all(dump, &said);
		at += slice;
		length -= slice;
	}
	return ret < 0 ? fail(dump, ret, &said, err) : 0;
}

/* Without a description the last byte is EOF, and in front of it stands a footer. */
static bool ends_undescribed(const struct wh_dump *dump)
{
	const struct bytes *kept = &dump->kept;

	if (kept->length < 6)
		return kept->length == 1 && kept->at[0] == SECTION_EOF;
	return kept->at[kept->length - 1] == SECTION_EOF &&
	       kept->at[kept->length - 6] == SECTION_FOOTER;
}

static bool complete(struct wh_dump *dump)
{
	if (dump->buffer.length)
		return false;
	switch (dump->kind) {
	case WH_DUMP_STREAM:
		if (dump->described)
			return true;
		if (!ends_undescribed(dump))
			return false;
		dump_say_state(dump, dump->kept_offset, "", dump->kept.at, dump->kept.length - 1);
		if (dump->kept.length > 1)
			dump_say_kind(dump, dump->kept_offset + dump->kept.length - 1, "EOF");
		return true;
	case WH_DUMP_URGENT:
		return dump->begin == dump->offset;
	case WH_DUMP_RETURN_PATH:
		return !dump->bitmap;
	case WH_DUMP_MULTIFD:
		return dump->begun && !dump->contents;
	case WH_DUMP_MC:
		return dump->begun && mc_in_may_end(&dump->mc);
	}
	return false;
}

int wh_dump_end(struct wh_dump *dump, struct wh_err *err)
{
	struct wh_err said = { 0 };
	uint64_t end = dump->offset + dump->buffer.length;

	if (dump->failed.code)
		return fail(dump, dump->failed.code, &dump->failed, err);
	dump_run_end(dump);
	if (complete(dump))
		return 0;
	dump_say_break(dump, end);
	err_set(&said, -EPROTO,
		"stream at %" PRIu64 " breaks off, %" PRIu64 " bytes behind the last whole message",
		end, end - dump->begin);
	return fail(dump, -EPROTO, &said, err);
}

void wh_dump_free(struct wh_dump *dump)
{
	if (!dump)
		return;
	free(dump->buffer.at);
	free(dump->kept.at);
	free(dump);
}
