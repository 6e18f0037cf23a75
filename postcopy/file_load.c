/* SPDX-License-Identifier: MIT */
/*
 * A guest out of a file. What was written by a QEMU is a stream as any other, but that nobody can
 * be asked for anything: all of it is there, or it is refused. With mapped-ram the list of blocks
 * says where pages are, and they are read from there straight into memory, or stay there until
 * somebody touches them.
 */
#include "base/bits.h"
#include "base/err.h"
#include "postcopy/file.h"
#include "wire/bitmap.h"
#include "wire/device.h"
#include "wire/mapped_ram.h"
#include "wire/stream.h"
#include "wire/xbzrle.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE_MAX (UINT64_C(256) << 20)
#define DESCRIPTION_MAX (UINT64_C(16) << 20)
#define RUN_MAX ((uint64_t)8 << 20) /* of pages, between two looks at whether to stop */

_Static_assert(FILE_PIECE >= STREAM_NEED_MAX, "a piece has room for every unit");

struct loader {
	struct wh_file_load *load;
	const char *uri;
	int fd;
	uint64_t size; /* of the file */
	uint64_t at;   /* where in it the buffer ends */
	struct stream_in stream;
	struct device_scan scan;

	uint8_t *addr[RAM_BLOCKS_MAX];
	uint64_t *written[RAM_BLOCKS_MAX]; /* pages that may not be zero; NULL with mapped-ram */

	uint8_t *state; /* device state and what is behind it */
	size_t state_length;
	size_t state_room;
	bool complete;

	size_t have;
	size_t used;
	uint8_t buffer[FILE_PIECE];
};

static int stopped(const struct loader *l, struct wh_err *err)
{
	if (l->load->stop && l->load->stop(l->load->opaque))
		return err_set(err, -EINTR, "%s: interrupted", l->uri);
	return 0;
}

static int truncated(const struct loader *l, const char *where, struct wh_err *err)
{
	return err_set(err, -EPROTO, "%s: the file ends at %" PRIu64 ", %s", l->uri, l->size,
		       where);
}

/* Return: 0 or a negative errno, -EPROTO if it is not all there */
static int read_at(const struct loader *l, void *to, size_t length, uint64_t offset,
		   const char *what, struct wh_err *err)
{
	int ret = file_read(l->fd, to, length, offset);

	if (ret == -ENODATA)
		return truncated(l, what, err);
	if (ret < 0)
		return err_sys(err, -ret, "%s: read of %zu bytes at %" PRIu64, l->uri, length,
			       offset);
	l->load->bytes += length;
	return 0;
}

/* More behind what is in the buffer. Return: 1, 0 at the end of the file, a negative errno */
static int refill(struct loader *l, struct wh_err *err)
{
	uint64_t left = l->size > l->at ? l->size - l->at : 0;
	size_t room;
	int ret;

	memmove(l->buffer, l->buffer + l->used, l->have - l->used);
	l->have -= l->used;
	l->used = 0;
	room = FILE_PIECE - l->have;
	if (room > left)
		room = (size_t)left;
	if (!room)
		return 0;
	ret = stopped(l, err);
	if (!ret)
		ret = read_at(l, l->buffer + l->have, room, l->at, "which has become shorter", err);
	if (ret < 0)
		return ret;
	l->have += room;
	l->at += room;
	return 1;
}

static void seek(struct loader *l, uint64_t offset)
{
	l->have = 0;
	l->used = 0;
	l->at = offset;
}

/* Memory */

static int make_block(struct loader *l, unsigned i, struct wh_err *err)
{
	const struct ram_block *block = &l->stream.blocks.block[i];
	struct wh_block made = { .fd = -1 };
	int ret;

	ret = l->load->block(l->load->opaque, block->name.text, block->used,
			     block->page_size ? block->page_size : FILE_PAGE, &made, err);
	if (ret < 0)
		return ret;
	if (made.length != block->used)
		return err_set(err, -EINVAL, "block '%s': %" PRIu64 " bytes, not %" PRIu64,
			       block->name.text, block->used, made.length);
	l->addr[i] = made.addr;
	return 0;
}

static int make_blocks(struct loader *l, struct wh_err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < l->stream.blocks.count && !ret; i++) {
		uint64_t pages = l->stream.blocks.block[i].used / FILE_PAGE;

		ret = make_block(l, i, err);
		if (ret)
			break;
		l->written[i] = calloc(bits_words(pages), sizeof(uint64_t));
		if (!l->written[i])
			ret = err_set(err, -ENOMEM, "no memory for a bitmap of %" PRIu64 " pages",
				      pages);
	}
	return ret;
}

static int take_page(struct loader *l, const struct ram_event *event, struct wh_err *err)
{
	bool contents = event->record <= RAM_GOT_XBZRLE;
	uint8_t *at = contents ? l->addr[event->block] + event->offset : NULL;
	uint64_t page = event->offset / FILE_PAGE;
	uint64_t *written = contents ? l->written[event->block] : NULL;
	int ret = 0;

	if (contents && !written)
		return err_set(err, -EPROTO, "a page beside those that have their places");

	switch (event->record) {
	case RAM_GOT_PAGE:
		memcpy(at, event->data, FILE_PAGE);
		bits_set(written, page);
		l->load->pages_normal++;
		break;
	case RAM_GOT_ZERO:
		/* to write zeros where nothing was would only take memory */
		if (bits_test_clear(written, page))
			memset(at, 0, FILE_PAGE);
		l->load->pages_zero++;
		break;
	case RAM_GOT_XBZRLE:
		ret = xbzrle_get(at, event->data, event->data_length, err);
		if (ret < 0)
			err_wrap(err, "block '%s': page 0x%" PRIx64,
				 l->stream.blocks.block[event->block].name.text, event->offset);
		bits_set(written, page);
		l->load->pages_xbzrle++;
		break;
	case RAM_GOT_BLOCKS:
		ret = make_blocks(l, err);
		break;
	case RAM_GOT_FLUSH:
		ret = err_set(err, -EPROTO,
			      "MULTIFD_FLUSH: the source used multifd without mapped-ram, whose "
			      "pages are in no file");
		break;
	case RAM_GOT_HOOK:
		ret = err_set(err, -EPROTO, "record HOOK: of RDMA, whose pages are in no file");
		break;
	case RAM_GOT_EOS:
		break;
	}
	return ret;
}

/* mapped-ram */

static int map_pages(const struct loader *l, const struct mapped_block *mapped, const uint64_t *map,
		     uint64_t pages, struct wh_err *err)
{
	int ret = file_map(l->fd, l->addr[mapped->block], mapped->pages, map, pages);

	return ret ? err_sys(err, -ret, "%s: mapping %" PRIu64 " pages", l->uri, pages) : 0;
}

static int read_pages(struct loader *l, const struct mapped_block *mapped, const uint64_t *map,
		      uint64_t pages, struct wh_err *err)
{
	uint64_t first = bits_next_set(map, 0, pages);
	int ret = 0;

	if (l->load->map)
		return map_pages(l, mapped, map, pages, err);
	while (first < pages && !ret) {
		uint64_t end = bits_next_clear(map, first, pages);
		uint64_t from = first * FILE_PAGE, length = (end - first) * FILE_PAGE;

		if (length > RUN_MAX)
			length = RUN_MAX;
		ret = stopped(l, err);
		if (!ret)
			ret = read_at(l, l->addr[mapped->block] + from, length,
				      mapped->pages + from, "within the pages of a block", err);
		first = bits_next_set(map, first + length / FILE_PAGE, pages);
	}
	return ret;
}

static int read_block(struct loader *l, const struct mapped_block *mapped, struct wh_err *err)
{
	const struct ram_block *block = &l->stream.blocks.block[mapped->block];
	uint64_t pages = block->used / FILE_PAGE;
	size_t bytes = bitmap_bytes(pages);
	uint64_t *map;
	uint8_t *bits;
	int ret;

	/* before anything is allocated for it */
	if (mapped->end > l->size)
		return err_set(err, -EPROTO,
			       "%s: block '%s' ends at %" PRIu64 " of the file, which has %" PRIu64
			       " bytes",
			       l->uri, block->name.text, mapped->end, l->size);
	ret = make_block(l, mapped->block, err);
	if (ret < 0)
		return ret;
	map = malloc(bytes);
	bits = malloc(bytes);
	if (!map || !bits)
		ret = err_set(err, -ENOMEM, "no memory for a bitmap of %zu bytes", bytes);
	if (!ret)
		ret = read_at(l, bits, bytes, mapped->bitmap, "within a bitmap", err);
	if (!ret) {
		ret = bitmap_bits_get(bits, map, pages, err);
		if (ret < 0)
			err_wrap(err, "%s: block '%s'", l->uri, block->name.text);
	}
	if (!ret) {
		uint64_t there = bits_count(map, pages);

		l->load->pages_normal += there;
		l->load->pages_zero += pages - there;
		ret = read_pages(l, mapped, map, pages, err);
	}
	free(bits);
	free(map);
	return ret;
}

/* The list, and all that is in memory; then the stream goes on behind it. */
static int take_mapped(struct loader *l, struct wh_err *err)
{
	struct mapped_block mapped;
	struct mapped_in in;
	int ret;

	l->load->mapped_ram = true;
	mapped_in_init(&in, l->stream.offset);
	while (!in.done) {
		uint8_t head[8 + MAPPED_IN_NEED_MAX];
		uint64_t left = l->size > in.offset ? l->size - in.offset : 0;
		size_t length = left < sizeof(head) ? (size_t)left : sizeof(head);
		size_t used;

		ret = read_at(l, head, length, in.offset, "within the list of blocks", err);
		if (ret < 0)
			return ret;
		ret = mapped_in_next(&in, &l->stream.blocks, head, length, &used, &mapped, err);
		if (ret < 0) {
			err_wrap(err, "%s: at %" PRIu64, l->uri, in.offset);
			return ret;
		}
		if (!ret)
			return truncated(l, "within the list of blocks", err);
		ret = read_block(l, &mapped, err);
		if (ret < 0)
			return ret;
	}
	stream_in_listed(&l->stream, in.offset);
	seek(l, in.offset);
	return 0;
}

/* Device state */

static int keep_state(struct loader *l, const struct stream_event *event, struct wh_err *err)
{
	uint64_t most = l->load->device_state_max + DESCRIPTION_MAX;
	size_t state, json, length;
	int ret;

	if (event->data_length > most - l->state_length)
		return err_set(err, -EPROTO, "%s: more than %" PRIu64 " bytes of device state",
			       l->uri, most);
	if (l->state_length + event->data_length > l->state_room) {
		size_t room = (l->state_length + event->data_length) * 2;
		uint8_t *more = realloc(l->state, room);

		if (!more)
			return err_set(err, -ENOMEM, "no memory for %zu bytes of device state",
				       room);
		l->state = more;
		l->state_room = room;
	}
	memcpy(l->state + l->state_length, event->data, event->data_length);
	l->state_length += event->data_length;
	ret = device_scan(&l->scan, l->state, l->state_length, &state, &json, &length, err);
	if (ret <= 0)
		return ret;
	l->complete = true;
	l->state_length = state;
	return 0;
}

/* Of its own format the frame is taken off. The caller frees what it gets. */
static int give_state(struct loader *l, struct wh_err *err)
{
	size_t at, length;
	int ret;

	if (l->state_length > l->load->device_state_max)
		return err_set(err, -EPROTO,
			       "%s: device state of %zu bytes, of which at most %" PRIu64
			       " are taken",
			       l->uri, l->state_length, l->load->device_state_max);
	ret = l->state_length ? device_own(l->state, l->state_length, &at, &length, err) : 0;
	if (ret < 0)
		return ret;
	l->load->device_format = ret ? WH_DEVICE_OWN : WH_DEVICE_QEMU;
	if (ret) {
		memmove(l->state, l->state + at, length);
		l->state_length = length;
	}
	l->load->device = l->state;
	l->load->device_length = l->state_length;
	l->state = NULL;
	return 0;
}

/* The stream */

static int take_command(const struct loader *l, const struct cmd_msg *msg, struct wh_err *err)
{
	switch (msg->kind) {
	case CMD_OPEN_RETURN_PATH: /* to nobody: it was said to whoever wrote the file */
	case CMD_PING:
	case CMD_POSTCOPY_ADVISE: /* it might have come to that */
	case CMD_SWITCHOVER_START:
	case CMD_WHERRY_ID:
		return 0;
	case CMD_POSTCOPY_LISTEN:
	case CMD_POSTCOPY_RUN:
	case CMD_POSTCOPY_RAM_DISCARD:
	case CMD_PACKAGED:
	case CMD_ENABLE_COLO:
	case CMD_POSTCOPY_RESUME:
	case CMD_RECV_BITMAP:
	case CMD_WHERRY_HELLO:
	case CMD_WHERRY_PROOF:
	case CMD_COUNT:
		break;
	}
	return err_set(err, -EPROTO, "%s: command %s: what was recorded needs an answer", l->uri,
		       cmd_name(msg->kind));
}

static int take_event(struct loader *l, const struct stream_event *event, struct wh_err *err)
{
	switch (event->kind) {
	case STREAM_MACHINE:
		memcpy(l->load->machine, event->name.text, sizeof(l->load->machine));
		return 0;
	case STREAM_CAPABILITY:
		if (!strcmp(event->name.text, MAPPED_RAM_CAPABILITY))
			return 0;
		return err_set(err, -EPROTO, "%s: capability '%s', which is not supported", l->uri,
			       event->name.text);
	case STREAM_COMMAND:
		return take_command(l, &event->command, err);
	case STREAM_RAM:
		return take_page(l, &event->ram, err);
	case STREAM_SECTION:
		if (event->section == SECTION_START && l->stream.mapped_ram)
			return take_mapped(l, err);
		return 0;
	case STREAM_DEVICE:
	case STREAM_EOF:
		return keep_state(l, event, err);
	case STREAM_HEADER:
	case STREAM_PAGE_BITS:
	case STREAM_UUID:
	case STREAM_FOOTER:
	case STREAM_PACKAGE: /* not behind a command that is refused */
		return 0;
	}
	return 0;
}

/* Behind the last byte: it was all if there is no description, and the end mark is there. */
static int end_of_file(struct loader *l, struct wh_err *err)
{
	size_t state;

	if (!device_undescribed(l->state, l->state_length, &state))
		return truncated(l, "within the stream", err);
	l->state_length = state;
	l->complete = true;
	return 0;
}

static int load_stream(struct loader *l, struct wh_err *err)
{
	struct stream_event event;
	size_t used;
	int ret = 0;

	while (!ret && !l->complete) {
		ret = stream_in_next(&l->stream, l->buffer + l->used, l->have - l->used, &used,
				     &event, err);
		l->used += used;
		if (ret < 0)
			err_wrap(err, "%s", l->uri);
		else if (ret)
			ret = take_event(l, &event, err);
		else {
			ret = refill(l, err);
			if (!ret)
				ret = end_of_file(l, err);
			else if (ret > 0)
				ret = 0;
		}
	}
	return ret ? ret : give_state(l, err);
}

static int open_file(struct loader *l, const struct file_address *address, struct wh_err *err)
{
	off_t size;

	l->fd = open(address->path, O_RDONLY | O_CLOEXEC);
	if (l->fd < 0)
		return err_sys(err, errno, "%s", l->uri);
	/* of a device too */
	size = lseek(l->fd, 0, SEEK_END);
	if (size < 0)
		return err_sys(err, errno, "%s: its length", l->uri);
	l->size = (uint64_t)size;
	if (l->size <= address->offset)
		return err_set(err, -EPROTO, "%s: the file has %" PRIu64 " bytes", l->uri, l->size);
	return 0;
}

int wh_file_load(const char *uri, struct wh_file_load *load, struct wh_err *err)
{
	struct file_address address;
	struct loader *l;
	int ret;

	load->machine[0] = '\0';
	load->mapped_ram = false;
	load->device = NULL;
	load->device_length = 0;
	load->bytes = load->pages_normal = load->pages_zero = load->pages_xbzrle = 0;
	if (!load->device_state_max)
		load->device_state_max = DEVICE_MAX;
	ret = file_address_parse(&address, uri, err);
	if (ret < 0)
		return ret;
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(err, -ENOMEM, "no memory to read %s", uri);
	l->load = load;
	l->uri = uri;
	stream_in_init(&l->stream, false);
	stream_in_file(&l->stream, address.offset);
	seek(l, address.offset);
	ret = open_file(l, &address, err);
	if (!ret)
		ret = load_stream(l, err);
	if (l->fd >= 0)
		close(l->fd);
	for (unsigned i = 0; i < RAM_BLOCKS_MAX; i++)
		free(l->written[i]);
	free(l->state);
	free(l);
	return ret;
}
