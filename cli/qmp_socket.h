/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_SOCKET_H
#define CLI_QMP_SOCKET_H

#include <sys/types.h>
#include <wherry/err.h>

/**
 * qmp_socket_listen() - Listen on a unix socket that only its owner can connect to
 * @path:	At most 107 bytes. A socket that nobody listens on is replaced
 * @device:	With @inode: which file it is
 *
 * Return: a descriptor that does not block, or a negative errno and a sentence
 */
int qmp_socket_listen(const char *path, dev_t *device, ino_t *inode, struct wh_err *err);

/* Remove it, if the file is still the one that was made */
void qmp_socket_close(int fd, const char *path, dev_t device, ino_t inode);

#endif /* CLI_QMP_SOCKET_H */
