/* SPDX-License-Identifier: MIT */
/*
 * Edge: the socket that a monitor listens on.
 */
#include "cli/qmp_socket.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define QUEUE 16

/* Left by somebody who is gone: a socket that refuses */
static int is_left_over(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat file;
	int refused;

	if (fd < 0)
		return 0;
	refused = lstat(address->sun_path, &file) == 0 && S_ISSOCK(file.st_mode) &&
		  connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
		  errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int bind_to(int fd, const struct sockaddr_un *address)
{
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	if (errno != EADDRINUSE || !is_left_over(address))
		return -errno;
	unlink(address->sun_path);
	return bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : -errno;
}

int qmp_socket_listen(const char *path, dev_t *device, ino_t *inode, struct wh_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat file;
	int ret = 0;
	int fd;

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return qmp_fail(err, -errno, "socket: %s", strerrordesc_np(errno));
	/* What bind() makes has the socket's own mode: it is never open to others */
	if (fchmod(fd, 0600) < 0)
		ret = -errno;
	if (!ret)
		ret = bind_to(fd, &address);
	if (!ret && (lstat(path, &file) < 0 || listen(fd, QUEUE) < 0))
		ret = -errno;
	if (!ret) {
		*device = file.st_dev;
		*inode = file.st_ino;
		return fd;
	}
	close(fd);
	return qmp_fail(err, ret, "%s: %s", path, strerrordesc_np(-ret));
}

void qmp_socket_close(int fd, const char *path, dev_t device, ino_t inode)
{
	struct stat file;

	if (lstat(path, &file) == 0 && file.st_dev == device && file.st_ino == inode)
		unlink(path);
	close(fd);
}
