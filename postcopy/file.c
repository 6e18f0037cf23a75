/* SPDX-License-Identifier: MIT */
#include "postcopy/file.h"

#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCHEME "file:"
#define OFFSET ",offset="

bool wh_is_file(const char *uri)
{
	return !strncmp(uri, SCHEME, strlen(SCHEME));
}

static bool offset_parse(const char *text, uint64_t *offset)
{
	static const char units[] = "KMG";
	const char *unit;
	char *end;

	/* strtoull() takes signs and spaces, and what is too large */
	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*offset = strtoull(text, &end, strncmp(text, "0x", 2) ? 10 : 16);
	if (errno)
		return false;
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		unsigned shift = 10 * (unsigned)(unit - units + 1);

		if (*offset > (uint64_t)INT64_MAX >> shift)
			return false;
		*offset <<= shift;
		end++;
	}
	return !*end && *offset <= INT64_MAX;
}

int file_address_parse(struct file_address *address, const char *uri, struct wh_err *err)
{
	const char *path = uri + strlen(SCHEME), *next, *at = NULL;
	size_t length;

	if (!wh_is_file(uri))
		return err_set(err, -EINVAL, "%s: file:PATH or file:PATH,offset=N was expected",
			       uri);
	for (next = strstr(path, OFFSET); next; next = strstr(next + 1, OFFSET))
		at = next;
	length = at ? (size_t)(at - path) : strlen(path);
	if (!length || length >= sizeof(address->path))
		return err_set(err, -EINVAL, "%s: a path of 1 to %zu bytes was expected", uri,
			       sizeof(address->path) - 1);
	memcpy(address->path, path, length);
	address->path[length] = '\0';
	address->offset = 0;
	if (at && !offset_parse(at + strlen(OFFSET), &address->offset))
		return err_set(err, -EINVAL, "%s: the offset is no number", uri);
	return 0;
}

int file_read(int fd, void *to, size_t length, uint64_t offset)
{
	uint8_t *at = to;

	while (length) {
		ssize_t n = pread(fd, at, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		at += n;
		length -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int file_write(int fd, const void *from, size_t length, uint64_t offset)
{
	const uint8_t *at = from;

	while (length) {
		ssize_t n = pwrite(fd, at, length, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		length -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}
