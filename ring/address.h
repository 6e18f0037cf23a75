/* SPDX-License-Identifier: MIT */
#ifndef RING_ADDRESS_H
#define RING_ADDRESS_H

#include "ring/uri.h"

#include <stdbool.h>
#include <sys/socket.h>

/**
 * struct address - Where a socket connects to or listens
 */
struct address {
	struct sockaddr_storage at;
	socklen_t length;
};

/**
 * address_resolve() - All addresses of a tcp:, unix: or vsock: URI
 * @listening:	An empty host is every address, and port 0 is one of the kernel's choice
 * @room:	Of @addresses
 *
 * Names may block on the resolver.
 *
 * Return: how many there are, at least 1 (more than @room are left out), or a
 * negative errno and a sentence
 */
int address_resolve(const struct uri *uri, bool listening, struct address *addresses, unsigned room,
		    struct wh_err *err);

#define ADDRESS_TEXT 128
/* For sentences: 127.0.0.1, ::1, a path, a context id */
void address_format(const struct address *address, char text[ADDRESS_TEXT]);

/* Of an internet or vsock address; 0 for others */
uint32_t address_port(const struct address *address);
void address_set_port(struct address *address, uint32_t port);

#endif /* RING_ADDRESS_H */
