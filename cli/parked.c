/* SPDX-License-Identifier: MIT */
#include "cli/parked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFEST_MAX (4 << 20)
#define HUGE_MAX (UINT64_C(1) << 30)
#define HUGE_PAGE (UINT64_C(2) << 20)
#define DEVICE_MAX (UINT64_C(1) << 32)

static int wrong(const struct parked *parked, struct wh_err *err, const char *what,
		 const char *where)
{
	return receive_fail(err, -EINVAL, "%s/" MANIFEST_NAME ": %s%s%.200s", parked->path, what,
			    *where ? ": " : "", where);
}

/* Return: false if it is no text of 1 to @size - 1 bytes */
static bool get_text(json_object *object, const char *name, char *text, size_t size)
{
	json_object *part;
	size_t length;

	if (!json_object_object_get_ex(object, name, &part) ||
	    !json_object_is_type(part, json_type_string))
		return false;
	length = (size_t)json_object_get_string_len(part);
	if (!length || length >= size || memchr(json_object_get_string(part), 0, length))
		return false;
	memcpy(text, json_object_get_string(part), length + 1);
	return true;
}

static bool get_number(json_object *object, const char *name, uint64_t *value)
{
	json_object *part;

	if (!json_object_object_get_ex(object, name, &part) ||
	    !json_object_is_type(part, json_type_int) || json_object_get_int64(part) < 0)
		return false;
	*value = json_object_get_uint64(part);
	return true;
}

/* A file of the folder itself */
static bool get_file(json_object *object, const char *name, char *file, size_t size)
{
	return get_text(object, name, file, size) && !strchr(file, '/') && file[0] != '.';
}

static bool get_digest(json_object *object, char digest[33])
{
	return get_text(object, "xxh3_128", digest, 33) && strspn(digest, "0123456789abcdef") == 32;
}

/* Of a file that has to be there, with this length. Return: descriptor or a negative errno */
static int open_part(const struct parked *parked, const char *file, uint64_t length,
		     struct wh_err *err)
{
	int fd = openat(parked->fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int ret = receive_fail(err, -errno, "%s/%s: %m", parked->path, file);

		if (fd >= 0)
			close(fd);
		return ret;
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size == length)
		return fd;
	close(fd);
	return receive_fail(err, -EILSEQ, "%s/%s: %" PRIu64 " bytes, the manifest says %" PRIu64,
			    parked->path, file, (uint64_t)st.st_size, length);
}

int parked_room(struct parked_block *block)
{
	uint64_t align = block->page_size > HUGE_PAGE ? block->page_size : HUGE_PAGE;
	uint64_t room = block->length + align;

	block->map =
		mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (block->map == MAP_FAILED) {
		block->map = NULL;
		return -errno;
	}
	block->map_length = room;
	block->at = (uint8_t *)(((uintptr_t)block->map + align - 1) & -align);
	return 0;
}

static int map(const struct parked *parked, struct parked_block *block, struct wh_err *err)
{
	int fd = open_part(parked, block->file, block->length, err);
	int ret;

	if (fd < 0)
		return fd;
	ret = parked_room(block);
	if (!ret && mmap(block->at, block->length, PROT_READ,
			 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED)
		ret = -errno;
	close(fd);
	errno = -ret;
	return ret ? receive_fail(err, ret, "%s/%s: mapping it: %m", parked->path, block->file) : 0;
}

static int read_block(struct parked *parked, json_object *object, struct wh_err *err)
{
	struct parked_block *block = &parked->block[parked->blocks];
	json_object *pages;

	*block = (struct parked_block){ 0 };
	if (!get_text(object, "name", block->name, sizeof(block->name)))
		return wrong(parked, err, "a block without a name", "");
	if (!get_file(object, "file", block->file, sizeof(block->file)) ||
	    !get_digest(object, block->digest))
		return wrong(parked, err, "no file and digest of block", block->name);
	if (json_object_object_get_ex(object, "pages", &pages) &&
	    !get_file(object, "pages", block->pages, sizeof(block->pages)))
		return wrong(parked, err, "what is the file of page digests of block", block->name);
	if (!get_number(object, "page_size", &block->page_size) ||
	    block->page_size < RECEIVE_PAGE || block->page_size > HUGE_MAX ||
	    block->page_size & (block->page_size - 1))
		return wrong(parked, err, "no page size of block", block->name);
	if (!get_number(object, "length", &block->length) || !block->length ||
	    block->length % block->page_size || block->length > INT64_MAX / 2 - parked->bytes)
		return wrong(parked, err, "no length in host pages of block", block->name);
	for (unsigned i = 0; i < parked->blocks; i++)
		if (!strcmp(parked->block[i].name, block->name))
			return wrong(parked, err, "twice the block", block->name);
	parked->blocks++;
	parked->bytes += block->length;
	return map(parked, block, err);
}

static int read_all(int fd, uint8_t *data, size_t length)
{
	while (length) {
		ssize_t n = read(fd, data, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		data += n;
		length -= (size_t)n;
	}
	return 0;
}

static int read_device(struct parked *parked, json_object *object, struct wh_err *err)
{
	char file[RECEIVE_FILE_MAX + 8], format[8];
	uint64_t length;
	int fd, ret;

	if (!get_file(object, "file", file, sizeof(file)) ||
	    !get_text(object, "format", format, sizeof(format)) ||
	    !get_number(object, "length", &length) || length > DEVICE_MAX ||
	    !get_digest(object, parked->device_digest))
		return wrong(parked, err, "device_state is not complete", "");
	if (strcmp(format, "qemu") && strcmp(format, "own"))
		return wrong(parked, err, "format of device_state", format);
	parked->device_format = strcmp(format, "qemu") ? WH_DEVICE_OWN : WH_DEVICE_QEMU;
	fd = open_part(parked, file, length, err);
	if (fd < 0)
		return fd;
	parked->device = malloc(length ? length : 1);
	parked->device_length = length;
	ret = parked->device ? read_all(fd, parked->device, length) : -ENOMEM;
	close(fd);
	errno = -ret;
	return ret ? receive_fail(err, ret, "%s/%s: %m", parked->path, file) : 0;
}

static int read_manifest(struct parked *parked, json_object *manifest, struct wh_err *err)
{
	json_object *blocks, *device;
	char kind[32] = "";
	uint64_t version;
	int ret = 0;

	if (!get_text(manifest, "kind", kind, sizeof(kind)) || strcmp(kind, MANIFEST_KIND))
		return wrong(parked, err, "it is no parked VM's", kind);
	if (!get_number(manifest, "version", &version) || version != MANIFEST_VERSION)
		return wrong(parked, err, "its version is not known", "");
	/* Not there without a configuration section */
	get_text(manifest, "machine", parked->machine, sizeof(parked->machine));
	if (!json_object_object_get_ex(manifest, "blocks", &blocks) ||
	    !json_object_is_type(blocks, json_type_array) || !json_object_array_length(blocks) ||
	    json_object_array_length(blocks) > RECEIVE_BLOCKS_MAX)
		return wrong(parked, err, "no list of blocks", "");
	for (size_t i = 0; i < json_object_array_length(blocks) && !ret; i++)
		ret = read_block(parked, json_object_array_get_idx(blocks, i), err);
	if (!ret && !json_object_object_get_ex(manifest, "device_state", &device))
		return wrong(parked, err, "no device_state", "");
	return ret ? ret : read_device(parked, device, err);
}

int parked_open(struct parked *parked, const char *path, struct wh_err *err)
{
	json_object *manifest = NULL;
	char uri[4096];
	struct stat st;
	int fd, ret;

	*parked = (struct parked){ .path = path, .fd = -1 };
	parked->in_file = wh_is_file(path) || (stat(path, &st) == 0 && S_ISREG(st.st_mode));
	if (parked->in_file) {
		snprintf(uri, sizeof(uri), "%s%s", wh_is_file(path) ? "" : "file:", path);
		return parked_load(parked, uri, err);
	}
	parked->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parked->fd < 0)
		return receive_fail(err, -errno, "%s: %m", path);
	if (flock(parked->fd, LOCK_SH | LOCK_NB) < 0)
		return receive_fail(err, -errno, "%s: a wherry receive writes there", path);
	fd = openat(parked->fd, MANIFEST_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return receive_fail(err, -errno, "%s/" MANIFEST_NAME ": %m: no parked VM is there",
				    path);
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MANIFEST_MAX)
		manifest = json_object_from_fd(fd);
	close(fd);
	ret = json_object_is_type(manifest, json_type_object) ?
		      read_manifest(parked, manifest, err) :
		      wrong(parked, err, "it is no JSON object", "");
	json_object_put(manifest);
	return ret;
}

int parked_page_size(struct parked *parked, const char *name, uint64_t page_size,
		     struct wh_err *err)
{
	for (unsigned i = 0; i < parked->blocks; i++) {
		struct parked_block *block = &parked->block[i];

		if (strcmp(block->name, name))
			continue;
		if (page_size < RECEIVE_PAGE || page_size > HUGE_PAGE ||
		    page_size & (page_size - 1) || block->length % page_size)
			return receive_fail(err, -EINVAL,
					    "pages of %" PRIu64 " bytes, of block '%.100s' of "
					    "%" PRIu64,
					    page_size, name, block->length);
		block->page_size = page_size;
		return 0;
	}
	return receive_fail(err, -ENOENT, "%s: no block '%.100s' for pages of %" PRIu64 " bytes",
			    parked->path, name, page_size);
}

void parked_close(struct parked *parked)
{
	for (unsigned i = 0; i < parked->blocks; i++)
		if (parked->block[i].map)
			munmap(parked->block[i].map, parked->block[i].map_length);
	free(parked->device);
	if (parked->fd >= 0)
		close(parked->fd);
	*parked = (struct parked){ .fd = -1 };
}
