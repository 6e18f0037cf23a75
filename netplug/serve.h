/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_SERVE_H
#define NETPLUG_SERVE_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <wherry/netplug.h>

/* netplug/serve.c: others drive it, over a socket of the network namespace */
struct serve;

/* Where the holder of @name listens. Return: the address's length */
socklen_t serve_address(const char *name, struct sockaddr_un *at);
/* Of whom the other end is: ours, or root's. Return: its process, or 0 */
pid_t serve_trusts(int fd);

int serve_open(struct wh_netplug *plug, struct wh_err *err);
void serve_close(struct serve *serve);
/* Readable when there is something to do, of the edge's as well */
int serve_fd(const struct serve *serve);
int serve_process(struct wh_netplug *plug, struct wh_err *err);

#endif /* NETPLUG_SERVE_H */
