/* SPDX-License-Identifier: MIT */
#ifndef LIB_PROXY_H
#define LIB_PROXY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A thread between the two ends of a migration, over TCP on the loopback or unix sockets:
 * forwards every connection, counts, and cuts all of them at once, at a byte or when it is
 * told to.
 */

struct proxy;

/**
 * struct proxy_script - What it does to the connections
 * @cut_at:	After so many bytes from the source; 0: only by proxy_cut()
 * @cut_back_at: After so many bytes from the destination; 0: the same
 * @deaf:	Nothing goes from the destination to the source; its end does
 * @stall:	A cut is silence instead: connections stay, nothing is forwarded or taken
 * @slow:	So many bytes at once, a millisecond between two; 0: as fast as it can
 * @heals:	Connections behind a cut are forwarded again
 */
struct proxy_script {
	uint64_t cut_at;
	uint64_t cut_back_at;
	bool deaf;
	bool stall;
	bool heals;
	unsigned slow;
};

/* @to: the destination's URI, tcp:127.0.0.1:PORT or unix:PATH, the same is spoken. NULL: no */
struct proxy *proxy_start(const char *to, const struct proxy_script *script);
/* Where the source connects to */
const char *proxy_uri(const struct proxy *proxy);
/* From the source so far, from the destination; any thread */
uint64_t proxy_bytes(const struct proxy *proxy);
uint64_t proxy_back_bytes(const struct proxy *proxy);
/* Done when it returns */
void proxy_cut(struct proxy *proxy);
void proxy_end(struct proxy *proxy);

#endif /* LIB_PROXY_H */
