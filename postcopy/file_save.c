/* SPDX-License-Identifier: MIT */
/*
 * A guest into a file. Bytes of the stream are collected and written together; pages with a place
 * of their own (mapped-ram) are written from where they are. The first bytes, without which
 * nobody takes it for a stream, come when all else is on the disk.
 */
#include "base/bits.h"
#include "base/err.h"
#include "base/zero.h"
#include "postcopy/file.h"
#include "wire/bitmap.h"
#include "wire/device.h"
#include "wire/mapped_ram.h"
#include "wire/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_ID 1u
#define DEVICE_ID 2u
#define HEADER 8u
#define LOOK_PAGES 2048u /* written at once, between two looks at whether to stop */
#define PART ".part"

struct saver {
	struct wh_file_save *save;
	const char *uri;
	struct file_address address;
	char part[PATH_MAX + sizeof(PART)];
	bool beside; /* it is written to @part */
	bool made;
	int fd;
	uint64_t at; /* where in the file the buffer goes */
	uint64_t *map;
	size_t length;
	uint8_t buffer[FILE_PIECE];
};

static int failed(const struct saver *s, int ret, const char *what, struct wh_err *err)
{
	return err_sys(err, -ret, "%s: %s", s->uri, what);
}

static int write_at(struct saver *s, const void *from, size_t length, uint64_t offset,
		    struct wh_err *err)
{
	int ret = file_write(s->fd, from, length, offset);

	if (ret < 0)
		return failed(s, ret, "writing it", err);
	s->save->bytes += length;
	return 0;
}

static int flush(struct saver *s, struct wh_err *err)
{
	int ret = write_at(s, s->buffer, s->length, s->at, err);

	s->at += s->length;
	s->length = 0;
	return ret;
}

/* Room for a few bytes. Return: where, or NULL and the sentence; put_done() takes them */
static uint8_t *put(struct saver *s, size_t most, struct wh_err *err)
{
	if (s->length + most > sizeof(s->buffer) && flush(s, err) < 0)
		return NULL;
	return s->buffer + s->length;
}

static int stopped(const struct saver *s, struct wh_err *err)
{
	if (s->save->stop && s->save->stop(s->save->opaque))
		return err_set(err, -EINTR, "%s: interrupted", s->uri);
	return 0;
}

/* In front of RAM */
static int put_head(struct saver *s, struct wh_err *err)
{
	uint8_t *at = put(s, (size_t)4 * STREAM_PUT_MAX, err);
	struct wire_name name;

	if (!at)
		return err->code;
	s->length += stream_put_header(at);
	if (s->save->machine[0]) {
		wire_name_set(&name, s->save->machine);
		s->length += stream_put_config(s->buffer + s->length, &name);
	}
	if (s->save->mapped_ram) {
		wire_name_set(&name, MAPPED_RAM_CAPABILITY);
		s->length += stream_put_capability(s->buffer + s->length, &name);
	}
	wire_name_set(&name, "ram");
	s->length += stream_put_start(s->buffer + s->length, SECTION_START, RAM_ID, &name, 0,
				      STREAM_RAM_VERSION);
	return 0;
}

static int put_end(struct saver *s, struct wh_err *err)
{
	uint8_t *at = put(s, (size_t)2 * STREAM_PUT_MAX, err);

	if (!at)
		return err->code;
	s->length += ram_put_eos(at);
	s->length += stream_put_footer(s->buffer + s->length, RAM_ID);
	return 0;
}

static int put_section(struct saver *s, enum section_type type, struct wh_err *err)
{
	uint8_t *at = put(s, STREAM_PUT_MAX, err);

	if (!at)
		return err->code;
	s->length += stream_put_part(at, type, RAM_ID);
	return 0;
}

/* Pages of the stream, each in a record */
static int put_pages(struct saver *s, const struct wh_block *block, struct wh_err *err)
{
	const uint8_t *from = block->addr;
	struct wire_name name;
	int ret = 0;

	wire_name_set(&name, block->name);
	for (uint64_t offset = 0; offset < block->length && !ret; offset += FILE_PAGE) {
		const struct wire_name *named = offset ? NULL : &name;
		uint8_t *at = put(s, RAM_RECORD_MAX + FILE_PAGE, err);

		if (!at)
			return err->code;
		if (zero_page(from + offset, FILE_PAGE)) {
			s->length += ram_put_zero(at, offset, named);
			s->save->pages_zero++;
		} else {
			s->length += ram_put_page(at, offset, named);
			memcpy(s->buffer + s->length, from + offset, FILE_PAGE);
			s->length += FILE_PAGE;
			s->save->pages_normal++;
		}
		if (offset / FILE_PAGE % LOOK_PAGES == 0)
			ret = stopped(s, err);
	}
	return ret;
}

/* Pages in their places; zero ones are holes without a bit */
static int write_pages(struct saver *s, const struct wh_block *block,
		       const struct mapped_block *mapped, struct wh_err *err)
{
	uint64_t pages = block->length / FILE_PAGE, page = 0;
	const uint8_t *from = block->addr;
	int ret = 0;

	while (page < pages && !ret) {
		uint64_t first = page;

		while (page < pages && page - first < LOOK_PAGES &&
		       !zero_page(from + page * FILE_PAGE, FILE_PAGE))
			page++;
		bits_range_set(s->map, first, page - first);
		ret = write_at(s, from + first * FILE_PAGE, (page - first) * FILE_PAGE,
			       mapped->pages + first * FILE_PAGE, err);
		s->save->pages_normal += page - first;
		for (; page < pages && zero_page(from + page * FILE_PAGE, FILE_PAGE); page++)
			s->save->pages_zero++;
		if (!ret)
			ret = stopped(s, err);
	}
	return ret;
}

static int write_mapped(struct saver *s, const struct wh_block *block, struct wh_err *err)
{
	uint64_t pages = block->length / FILE_PAGE;
	struct mapped_block mapped;
	uint8_t *at = put(s, MAPPED_RAM_HEADER, err);
	uint8_t *bits;
	int ret;

	if (!at)
		return err->code;
	mapped_block_lay(&mapped, s->at + s->length + MAPPED_RAM_HEADER, block->length);
	s->length += mapped_block_put(at, &mapped);
	ret = flush(s, err);
	if (ret < 0)
		return ret;
	s->at = mapped.end;
	s->map = calloc(bits_words(pages), sizeof(*s->map));
	bits = malloc(bitmap_bytes(pages));
	ret = s->map && bits ? write_pages(s, block, &mapped, err) :
			       err_set(err, -ENOMEM, "%s: no memory for a bitmap", s->uri);
	if (!ret)
		ret = write_at(s, bits, bitmap_bits_put(bits, s->map, pages), mapped.bitmap, err);
	free(bits);
	free(s->map);
	s->map = NULL;
	return ret;
}

static int put_ram(struct saver *s, struct wh_err *err)
{
	const struct wh_file_save *save = s->save;
	uint64_t total = 0;
	uint8_t *at = put(s, STREAM_PUT_MAX, err);
	int ret = 0;

	for (unsigned i = 0; i < save->blocks; i++)
		total += save->block[i].length;
	if (!at)
		return err->code;
	s->length += ram_put_total(at, total);
	for (unsigned i = 0; i < save->blocks && !ret; i++) {
		struct ram_block block = { .used = save->block[i].length };

		at = put(s, RAM_RECORD_MAX, err);
		if (!at)
			return err->code;
		wire_name_set(&block.name, save->block[i].name);
		s->length += ram_put_block(at, &block);
		if (save->mapped_ram)
			ret = write_mapped(s, &save->block[i], err);
	}
	if (!ret)
		ret = put_end(s, err);
	if (!ret && !save->mapped_ram) {
		ret = put_section(s, SECTION_PART, err);
		for (unsigned i = 0; i < save->blocks && !ret; i++)
			ret = put_pages(s, &save->block[i], err);
		if (!ret)
			ret = put_end(s, err);
	}
	if (!ret)
		ret = put_section(s, SECTION_END, err);
	return ret ? ret : put_end(s, err);
}

static int put_device(struct saver *s, struct wh_err *err)
{
	bool own = s->save->device_format == WH_DEVICE_OWN;
	uint32_t length = (uint32_t)s->save->device_length;
	uint8_t json[256] = "{}";
	size_t json_length = own ? device_put_own_vmdesc(json, length) : 2;
	uint8_t *at = put(s, DEVICE_OWN_FRAME, err);
	int ret;

	if (!at)
		return err->code;
	if (own)
		s->length += device_put_own_head(at, DEVICE_ID, length);
	ret = flush(s, err);
	if (!ret)
		ret = write_at(s, s->save->device, length, s->at, err);
	s->at += length;
	at = s->buffer;
	if (own)
		s->length += device_put_own_tail(at, DEVICE_ID);
	s->length += stream_put_eof(s->buffer + s->length);
	s->length += stream_put_vmdesc(s->buffer + s->length, (uint32_t)json_length);
	memcpy(s->buffer + s->length, json, json_length);
	s->length += json_length;
	return ret ? ret : flush(s, err);
}

/* Its place in its folder is safe too */
static int sync_folder(const struct saver *s, struct wh_err *err)
{
	char path[PATH_MAX];
	int fd, ret = 0;

	memcpy(path, s->address.path, sizeof(path));
	fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		ret = failed(s, -errno, "its folder", err);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int open_file(struct saver *s, struct wh_err *err)
{
	const char *path = s->address.path;
	struct stat st;
	bool there = stat(path, &st) == 0;

	if (!there && errno != ENOENT)
		return failed(s, -errno, "looking at it", err);
	if (there && S_ISREG(st.st_mode) && !s->save->replace &&
	    (uint64_t)st.st_size > s->address.offset)
		return err_set(err, -EEXIST, "%s: there is something already", s->uri);
	if (there && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL, "%s is neither a file nor a device", path);
	s->beside = !s->address.offset && (!there || S_ISREG(st.st_mode));
	s->made = s->beside || !there;
	snprintf(s->part, sizeof(s->part), "%s%s", path, s->beside ? PART : "");
	s->fd = open(s->part, O_RDWR | O_CREAT | O_CLOEXEC | (s->beside ? O_TRUNC : 0), 0600);
	if (s->fd < 0)
		return failed(s, -errno, "making it", err);
	/* Holes are to be holes; what was there in its first bytes is none any more. */
	if (!there || S_ISREG(st.st_mode)) {
		if (ftruncate(s->fd, (off_t)s->address.offset) < 0)
			return failed(s, -errno, "its length", err);
	} else {
		int ret = file_write(s->fd, "\0\0\0\0\0\0\0", HEADER, s->address.offset);

		if (ret < 0 || fsync(s->fd) < 0)
			return failed(s, ret ? ret : -errno, "its first bytes", err);
	}
	return 0;
}

/* Everything but the first bytes is written; they make a stream of it. */
static int finish(struct saver *s, const uint8_t *header, struct wh_err *err)
{
	int ret;

	if (fsync(s->fd) < 0)
		return failed(s, -errno, "bringing it to the disk", err);
	ret = write_at(s, header, HEADER, s->address.offset, err);
	if (!ret && fsync(s->fd) < 0)
		ret = failed(s, -errno, "bringing it to the disk", err);
	if (!ret && s->beside && rename(s->part, s->address.path) < 0)
		ret = failed(s, -errno, "bringing it to its place", err);
	return ret || !s->made ? ret : sync_folder(s, err);
}

static int write_file(struct saver *s, struct wh_err *err)
{
	uint8_t header[HEADER];
	int ret;

	s->at = s->address.offset;
	ret = put_head(s, err);
	if (ret < 0)
		return ret;
	memcpy(header, s->buffer, HEADER);
	memset(s->buffer, 0, HEADER);
	ret = put_ram(s, err);
	if (!ret)
		ret = put_device(s, err);
	return ret ? ret : finish(s, header, err);
}

static int check(const struct wh_file_save *save, struct wh_err *err)
{
	if (!save->blocks || save->blocks > RAM_BLOCKS_MAX)
		return err_set(err, -EINVAL, "%u blocks, of 1 to %u", save->blocks, RAM_BLOCKS_MAX);
	for (unsigned i = 0; i < save->blocks; i++) {
		const struct wh_block *block = &save->block[i];

		if (!block->name || !block->name[0] || strlen(block->name) > 255 ||
		    !block->length || block->length % FILE_PAGE)
			return err_set(err, -EINVAL,
				       "block %u: its name, or a length of whole pages, is missing",
				       i);
	}
	if (!save->machine || strlen(save->machine) > 255)
		return err_set(err, -EINVAL, "machine type is missing or over 255 bytes");
	if (save->mapped_ram && !save->machine[0])
		return err_set(err, -EINVAL, "mapped-ram without a machine type");
	if (save->device_length > UINT32_MAX)
		return err_set(err, -EINVAL, "%zu bytes of device state", save->device_length);
	return 0;
}

int wh_file_save(const char *uri, struct wh_file_save *save, struct wh_err *err)
{
	struct wh_err said = { 0 }; /* errors are looked up in it, so it is always there */
	struct saver *s;
	int ret;

	save->bytes = save->pages_normal = save->pages_zero = 0;
	ret = check(save, err);
	if (ret < 0)
		return ret;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, -ENOMEM, "no memory to write %s", uri);
	s->save = save;
	s->uri = uri;
	s->fd = -1;
	ret = file_address_parse(&s->address, uri, &said);
	if (!ret)
		ret = open_file(s, &said);
	if (!ret)
		ret = write_file(s, &said);
	if (ret && s->fd >= 0) {
		if (s->made)
			unlink(s->part);
		else
			(void)!ftruncate(s->fd, (off_t)s->address.offset);
	}
	if (s->fd >= 0)
		close(s->fd);
	free(s);
	if (ret && err)
		*err = said;
	return ret;
}
