/* SPDX-License-Identifier: MIT */
/*
 * Edge: a number in a file. It is written beside its place and safe on disk before it takes it,
 * and the folder is made so before anybody acts on it.
 */
#include "checkpoint/generation.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX 32

static int parse(const char *path, const char *text, uint64_t *generation, struct wh_err *err)
{
	char *end;

	errno = 0;
	*generation = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || errno || strcmp(end, "\n") != 0)
		return err_set(err, -EINVAL,
			       "generation: %.150s has something else in it than a number", path);
	return 0;
}

int generation_read(const char *path, uint64_t *generation, struct wh_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[TEXT_MAX + 1];
	ssize_t n;

	*generation = 0;
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return err_sys(err, errno, "generation: open %.150s", path);
	n = read(fd, text, TEXT_MAX);
	if (n < 0) {
		n = err_sys(err, errno, "generation: read %.150s", path);
		close(fd);
		return (int)n;
	}
	close(fd);
	text[n] = '\0';
	return parse(path, text, generation, err);
}

static int write_file(const char *path, uint64_t generation, struct wh_err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char text[TEXT_MAX];
	ssize_t n, length;
	int ret = 0;

	if (fd < 0)
		return err_sys(err, errno, "generation: open %.150s", path);
	length = snprintf(text, sizeof(text), "%" PRIu64 "\n", generation);
	n = write(fd, text, (size_t)length);
	if (n != length)
		ret = err_sys(err, n < 0 ? errno : ENOSPC, "generation: write %.150s", path);
	else if (fsync(fd) < 0)
		ret = err_sys(err, errno, "generation: fsync %.150s", path);
	close(fd);
	return ret;
}

/* The folder of @path, whose entries are to be safe */
static int sync_folder(const char *path, struct wh_err *err)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX] = ".";
	int ret = 0;
	int fd;

	if (slash)
		snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "generation: open %.150s", folder);
	if (fsync(fd) < 0)
		ret = err_sys(err, errno, "generation: fsync %.150s", folder);
	close(fd);
	return ret;
}

int generation_write(const char *path, uint64_t generation, struct wh_err *err)
{
	char beside[PATH_MAX];
	int ret;

	if (snprintf(beside, sizeof(beside), "%s.new", path) >= (int)sizeof(beside))
		return err_set(err, -ENAMETOOLONG, "generation: %.150s is too long a path", path);
	ret = write_file(beside, generation, err);
	if (ret < 0)
		return ret;
	if (rename(beside, path) < 0)
		return err_sys(err, errno, "generation: rename %.100s to %.100s", beside, path);
	return sync_folder(path, err);
}
