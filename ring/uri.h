/* SPDX-License-Identifier: MIT */
#ifndef RING_URI_H
#define RING_URI_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

enum uri_kind {
	URI_TCP,   /* tcp:HOST:PORT, tcp:[V6]:PORT, tcp::PORT (every address) */
	URI_UNIX,  /* unix:PATH */
	URI_FD,	   /* fd:N, a connected or (listening side) listening socket */
	URI_VSOCK, /* vsock:CID:PORT */
	URI_RDMA,  /* rdma:HOST:PORT, otherwise as tcp: */
	URI_KIND_COUNT
};

struct uri {
	enum uri_kind kind;
	char host[256]; /* TCP, RDMA; "" is every address */
	char path[108]; /* UNIX */
	uint32_t cid;
	uint32_t port; /* TCP, RDMA, VSOCK; 0 lets the kernel choose (listening side) */
	int fd;
};

#define URI_TEXT 320

/* Pure. A sentence that says what was expected where, and -EINVAL. */
int uri_parse(struct uri *uri, const char *text, struct wh_err *err);
/* The canonical text; room for URI_TEXT */
void uri_format(const struct uri *uri, char *text, size_t room);

#endif /* RING_URI_H */
