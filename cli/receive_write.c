/* SPDX-License-Identifier: MIT */
/*
 * wherry receive: the capture. A folder is one if and only if it has a manifest, which comes by
 * rename, when all it speaks of is safe on disk. What becomes of an old one: receive_old.c.
 */
#include "cli/receive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MANIFEST_PART MANIFEST_NAME ".part"
#define RESERVED_SUFFIX ".new"		  /* no block's own file ends so */
#define RESERVED_MORE (UINT64_C(4) << 20) /* beside the first block, for all that is small */
#define RUN_BYTES (256u << 10)		  /* hashed and written while it is in the cache */

static bool holds(const struct receive_out *out, const char *name)
{
	return !faccessat(out->fd, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static int check_empty(const struct receive_out *out, struct wh_err *err)
{
	DIR *dir = fdopendir(openat(out->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	const struct dirent *entry;
	int ret = 0;

	if (!dir)
		return receive_fail(err, -errno, "%s: %m", out->path);
	while (!ret && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			ret = receive_fail(err, -ENOTEMPTY,
					   "%s is not empty and holds no %s: it is no capture, and "
					   "nothing is written there (there is %.100s)",
					   out->path, MANIFEST_NAME, entry->d_name);
	closedir(dir);
	return ret;
}

int receive_out_open(struct receive *receive, struct wh_err *err)
{
	struct receive_out *out = &receive->out;

	if (!mkdir(out->path, 0700))
		out->made = true;
	else if (errno != EEXIST)
		return receive_fail(err, -errno, "%s: %m", out->path);
	out->fd = open(out->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (out->fd < 0)
		return receive_fail(err, -errno, "%s: %m", out->path);
	if (flock(out->fd, LOCK_EX | LOCK_NB) < 0)
		return receive_fail(err, -errno, "%s: another wherry receive writes there",
				    out->path);
	if (faccessat(out->fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return receive_fail(err, -errno, "%s: %m", out->path);
	if (!holds(out, MANIFEST_NAME)) {
		int ret = check_empty(out, err);

		out->ours = !ret;
		return ret;
	}
	if (!out->force)
		return receive_fail(err, -EEXIST, "%s holds a capture; --force gives it up",
				    out->path);
	receive_old_open(out);
	out->ours = true;
	return 0;
}

void receive_out_room(struct receive *receive)
{
	struct receive_out *out = &receive->out;
	struct statvfs fs;
	uint64_t room;

	if (out->warned || fstatvfs(out->fd, &fs) < 0)
		return;
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (receive->bytes <= room)
		return;
	out->warned = true;
	receive_say(receive, "note",
		    "%.100s has room for %" PRIu64 " MiB; unless enough of the guest's memory is "
		    "zero that will not do",
		    out->path, room >> 20);
}

static int open_new(const struct receive_out *out, const char *name, struct wh_err *err)
{
	int fd;

	/* Not of the capture that is there, so of one that was to replace it and never did */
	if (out->replaces)
		unlinkat(out->fd, name, 0);
	fd = openat(out->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return receive_fail(err, -errno, "%s/%s: %m", out->path, name);
	return fd;
}

static void reserved_name(const struct receive_block *block, char name[RECEIVE_FILE_MAX + 8])
{
	snprintf(name, RECEIVE_FILE_MAX + 8, "%s" RESERVED_SUFFIX, block->file);
}

/* Its page digests too; they are given back when they are written. */
int receive_out_reserve(struct receive *receive, struct wh_err *err)
{
	struct receive_block *block = &receive->block[receive->blocks - 1];
	uint64_t length = block->length + (receive->blocks == 1 ? RESERVED_MORE : 0);
	const struct receive_out *out = &receive->out;
	char name[RECEIVE_FILE_MAX + 8];
	int ret;

	if (receive->verify)
		length += block->length / RECEIVE_PAGE * sizeof(uint64_t);
	reserved_name(block, name);
	block->reserved = open_new(out, name, err);
	if (block->reserved < 0)
		return block->reserved;
	do
		ret = fallocate(block->reserved, 0, 0, (off_t)length) < 0 ? errno : 0;
	while (ret == EINTR);
	if (!ret)
		return 0;
	if (ret == EOPNOTSUPP) {
		receive_say(receive, "note", "%.200s: no room can be reserved there", out->path);
		receive_out_room(receive);
		return 0;
	}
	errno = ret;
	return receive_fail(err, -ret,
			    "%s: room for block '%.100s', %" PRIu64
			    " bytes, before it may come by postcopy: %m (--reserve off if most of it "
			    "is zero)",
			    out->path, block->name, length);
}

/* Return: 0 or a negative errno */
static int write_all(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
	while (length) {
		ssize_t n = pwrite(fd, data, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		length -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static bool page_is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, RECEIVE_PAGE - 1);
}

/* Zero pages are left out of the file, its length says that they are there. */
static int write_run(struct receive_block *block, int fd, uint64_t from, uint64_t to)
{
	uint64_t at = from;
	int ret = 0;

	while (at < to && !ret) {
		uint64_t begin = at;

		while (at < to && page_is_zero(block->at + at))
			at += RECEIVE_PAGE;
		/* what was reserved for it and is not needed: if it stays, it reads as zeros too */
		if (block->reserved >= 0 && at > begin)
			(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)begin, (off_t)(at - begin));
		begin = at;
		while (at < to && !page_is_zero(block->at + at))
			at += RECEIVE_PAGE;
		ret = write_all(fd, block->at + begin, at - begin, begin);
		block->stored += at - begin;
	}
	return ret;
}

/* Of all pages, behind each other. Nothing depends on them but where damage is found */
static int write_pages(const struct receive *receive, const struct receive_block *block,
		       const uint64_t *digests, struct wh_err *err)
{
	int fd = open_new(&receive->out, block->pages, err);
	int ret;

	if (fd < 0)
		return fd;
	ret = write_all(fd, (const uint8_t *)digests,
			block->length / RECEIVE_PAGE * sizeof(*digests), 0);
	close(fd);
	errno = -ret;
	return ret ? receive_fail(err, ret, "%s/%s: %m", receive->out.path, block->pages) : 0;
}

/* Hash and write a run of a block, with its page digests if there is room for them */
static int take_run(struct receive_block *block, int fd, uint64_t from, uint64_t to,
		    XXH3_state_t *hash, uint64_t *digests)
{
	XXH3_128bits_update(hash, block->at + from, to - from);
	for (uint64_t at = from; digests && at < to; at += RECEIVE_PAGE)
		digests[at / RECEIVE_PAGE] = receive_page_digest(block->at + at);
	return write_run(block, fd, from, to);
}

/* A new file, or that which was reserved, brought to its place. Return: descriptor or -errno */
static int open_block(const struct receive_out *out, const struct receive_block *block,
		      struct wh_err *err)
{
	char name[RECEIVE_FILE_MAX + 8];
	int fd;

	if (block->reserved < 0)
		return open_new(out, block->file, err);
	reserved_name(block, name);
	fd = fcntl(block->reserved, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || renameat(out->fd, name, out->fd, block->file) < 0) {
		receive_fail(err, -errno, "%s/%s: %m", out->path, name);
		if (fd >= 0)
			close(fd);
		return err->code;
	}
	return fd;
}

static int write_block(struct receive *receive, struct receive_block *block, XXH3_state_t *hash,
		       struct wh_err *err)
{
	uint64_t *digests = NULL;
	struct receive_out *out = &receive->out;
	int fd = open_block(out, block, err);
	int ret = 0;

	if (fd < 0)
		return fd;
	out->wrote++;
	if (receive->verify)
		digests = malloc(block->length / RECEIVE_PAGE * sizeof(*digests));
	ret = receive->verify && !digests ? -ENOMEM : 0;
	XXH3_128bits_reset(hash);
	for (uint64_t at = 0; at < block->length && !ret; at += RUN_BYTES) {
		uint64_t end = block->length - at < RUN_BYTES ? block->length : at + RUN_BYTES;

		if (__atomic_load_n(&receive->write_stop, __ATOMIC_ACQUIRE)) {
			ret = -ECANCELED;
			break;
		}
		ret = take_run(block, fd, at, end, hash, digests);
	}
	receive_digest_text(XXH3_128bits_digest(hash), block->digest);
	if (!ret && ftruncate(fd, (off_t)block->length) < 0)
		ret = -errno;
	close(fd);
	errno = -ret;
	if (ret)
		receive_fail(err, ret, "%s/%s: writing block '%.100s': %m", out->path, block->file,
			     block->name);
	else if (digests)
		ret = write_pages(receive, block, digests, err);
	free(digests);
	return ret;
}

static int write_device(struct receive *receive, struct wh_err *err)
{
	const char *name =
		receive_old_has(&receive->out, DEVICE_NAME) ? DEVICE_NAME_2 : DEVICE_NAME;
	int fd = open_new(&receive->out, name, err);
	int ret;

	if (fd < 0)
		return fd;
	receive->out.device = name;
	ret = write_all(fd, receive->device, receive->device_length, 0);
	close(fd);
	receive_digest_text(XXH3_128bits(receive->device, receive->device_length),
			    receive->device_digest);
	if (ret) {
		errno = -ret;
		return receive_fail(err, ret, "%s/%s: %m", receive->out.path, name);
	}
	return 0;
}

static int sync_file(const struct receive_out *out, const char *name, struct wh_err *err)
{
	int fd = openat(out->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int ret = 0;

	if (fd < 0 || fsync(fd) < 0)
		ret = receive_fail(err, -errno, "%s/%s: %m", out->path, name);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int sync_files(const struct receive *receive, struct wh_err *err)
{
	const struct receive_out *out = &receive->out;
	int ret = sync_file(out, out->device, err);

	for (unsigned i = 0; i < receive->blocks && !ret; i++) {
		ret = sync_file(out, receive->block[i].file, err);
		if (!ret && receive->verify)
			ret = sync_file(out, receive->block[i].pages, err);
	}
	return ret;
}

int receive_out_write(struct receive *receive, struct wh_err *err)
{
	struct receive_out *out = &receive->out;
	XXH3_state_t *hash = XXH3_createState();
	int ret = 0;

	if (!hash)
		ret = receive_fail(err, -ENOMEM, "no memory for a digest");
	while (!ret && out->wrote < receive->blocks)
		ret = write_block(receive, &receive->block[out->wrote], hash, err);
	XXH3_freeState(hash);
	if (!ret)
		ret = write_device(receive, err);
	return ret ? ret : sync_files(receive, err);
}

static void add_string(json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static void add_number(json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static json_object *manifest_block(const struct receive_block *block, bool pages)
{
	json_object *object = json_object_new_object();

	add_string(object, "name", block->name);
	add_string(object, "file", block->file);
	add_number(object, "length", block->length);
	add_number(object, "page_size", block->page_size);
	add_number(object, "stored", block->stored);
	add_string(object, "xxh3_128", block->digest);
	if (pages)
		add_string(object, "pages", block->pages);
	return object;
}

static json_object *manifest_device(const struct receive *receive)
{
	json_object *object = json_object_new_object();

	add_string(object, "file", receive->out.device);
	add_string(object, "format", receive->device_format == WH_DEVICE_QEMU ? "qemu" : "own");
	add_number(object, "length", receive->device_length);
	add_string(object, "xxh3_128", receive->device_digest);
	return object;
}

/* A stranger's bytes: what JSON could not take is a question mark */
static void add_machine(json_object *manifest, const char *machine)
{
	char text[256];
	size_t n;

	for (n = 0; n < sizeof(text) - 1 && machine[n]; n++)
		text[n] = (char)(machine[n] >= 0x20 && machine[n] <= 0x7e ? machine[n] : '?');
	text[n] = '\0';
	add_string(manifest, "machine", text);
}

static json_object *manifest_new(const struct receive *receive)
{
	json_object *manifest = json_object_new_object();
	json_object *blocks = json_object_new_array();

	add_string(manifest, "kind", MANIFEST_KIND);
	add_number(manifest, "version", MANIFEST_VERSION);
	add_string(manifest, "made_by", wh_version());
	for (unsigned i = 0; i < receive->blocks; i++)
		json_object_array_add(blocks, manifest_block(&receive->block[i], receive->verify));
	add_machine(manifest, receive_machine(receive));
	json_object_object_add(manifest, "blocks", blocks);
	json_object_object_add(manifest, "device_state", manifest_device(receive));
	json_object_object_add(manifest, "migration", receive_figures(receive));
	return manifest;
}

static int write_manifest(const struct receive *receive, struct wh_err *err)
{
	const struct receive_out *out = &receive->out;
	json_object *manifest = manifest_new(receive);
	const char *text =
		json_object_to_json_string_ext(manifest, JSON_C_TO_STRING_PRETTY |
								 JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE);
	int fd = open_new(out, MANIFEST_PART, err);
	int ret = fd;

	if (fd >= 0) {
		ret = write_all(fd, (const uint8_t *)text, strlen(text), 0);
		if (!ret)
			ret = write_all(fd, (const uint8_t *)"\n", 1, strlen(text));
		if (!ret && fsync(fd) < 0)
			ret = -errno;
		close(fd);
		if (ret) {
			errno = -ret;
			receive_fail(err, ret, "%s/" MANIFEST_PART ": %m", out->path);
		}
	}
	json_object_put(manifest);
	return ret;
}

int receive_out_finish(struct receive *receive, struct wh_err *err)
{
	struct receive_out *out = &receive->out;
	int ret = write_manifest(receive, err);

	if (ret)
		return ret;
	if (fsync(out->fd) < 0 || renameat(out->fd, MANIFEST_PART, out->fd, MANIFEST_NAME) < 0)
		return receive_fail(err, -errno, "%s/" MANIFEST_NAME ": %m", out->path);
	out->placed = true;
	if (fsync(out->fd) < 0)
		return receive_fail(err, -errno, "%s: it is there, but safe on disk? %m",
				    out->path);
	receive_old_drop(out);
	return 0;
}

/* Not in its place: it was not needed */
static void drop_reserved(const struct receive_out *out, struct receive_block *block)
{
	char name[RECEIVE_FILE_MAX + 8];

	if (block->reserved < 0)
		return;
	reserved_name(block, name);
	unlinkat(out->fd, name, 0);
	close(block->reserved);
	block->reserved = -1;
}

/* Whatever was written for a capture that is none */
static void drop_new(struct receive *receive)
{
	const struct receive_out *out = &receive->out;

	unlinkat(out->fd, MANIFEST_PART, 0);
	for (unsigned i = 0; i < out->wrote; i++) {
		unlinkat(out->fd, receive->block[i].file, 0);
		unlinkat(out->fd, receive->block[i].pages, 0);
	}
	if (out->device)
		unlinkat(out->fd, out->device, 0);
}

void receive_out_close(struct receive *receive, bool complete)
{
	struct receive_out *out = &receive->out;

	if (out->fd < 0) {
		if (out->made)
			rmdir(out->path);
		return;
	}
	if (!complete && out->ours && !out->placed)
		drop_new(receive);
	for (unsigned i = 0; i < receive->blocks; i++)
		drop_reserved(out, &receive->block[i]);
	json_object_put(out->old);
	out->old = NULL;
	close(out->fd);
	out->fd = -1;
	if (!complete && out->made)
		rmdir(out->path);
}
