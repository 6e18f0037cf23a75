/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_PROXY_H
#define CLI_DRILL_PROXY_H

#include "cli/drill.h"

#include <poll.h>

/*
 * What stands between the two ends: forwards every connection in both directions, and does
 * to them what the plan says, at the byte that it says. Nothing in it waits; whoever has it
 * calls drill_proxy_step() whenever one of its descriptors is ready, or its time has come.
 */

#define DRILL_PAIRS 12u
#define DRILL_PIECE 16384u
#define DRILL_LISTENERS 2u
#define DRILL_FDS (DRILL_LISTENERS + DRILL_WAYS * DRILL_PAIRS)

/* Messages of the return path, as far as it takes to find the bitmaps */
struct drill_bitmaps {
	uint8_t head[8];
	unsigned have; /* bytes of a head, of a message or of a bitmap */
	bool in_bitmap;
	uint64_t skip; /* payload that is left; of a bitmap: bits */
	unsigned mark; /* bytes of the end mark that are left */
	unsigned number;
};

/**
 * struct drill_flow - One direction of one connection
 * @have:	Bytes in @bytes, the first @done of them are written
 * @count:	Bytes that came
 * @base:	Of those, before the switch
 * @corrupt:	A fault: the next message
 * @mute:	What comes is swallowed
 * @ended:	Its speaker has said all; @told: its listener knows
 */
struct drill_flow {
	size_t have;
	size_t done;
	uint64_t count;
	uint64_t base;
	uint64_t not_before_ns;
	unsigned delay_ms;
	unsigned delays;
	int corrupt; /* index of a fault; -1 */
	int lie;
	bool mute;
	bool ended;
	bool told;
	struct wh_dump *dump;
	struct drill_bitmaps bitmaps;
	uint8_t bytes[DRILL_PIECE];
};

/* @fd: of the source, of the destination; -1: closed. */
struct drill_pair {
	int fd[DRILL_WAYS];
	bool known; /* what it is: the source has said something */
	enum drill_channel channel;
	unsigned connection;
	struct drill_flow flow[DRILL_WAYS];
};

/**
 * struct drill_proxy - One run's
 * @uri:	Where the source connects to: a unix one, a TCP one
 * @to:		Where the destination listens
 * @mains:	Main channels that there were
 * @hit:	A fault of the plan happens; what is not of bytes is the callee's to do
 */
struct drill_proxy {
	const struct drill_plan *plan;
	char uri[DRILL_LISTENERS][DRILL_URI];
	char to[DRILL_URI];
	int listen_fd[DRILL_LISTENERS];
	unsigned mains;
	bool switched;
	uint64_t now_ns;
	uint64_t stalled_until_ns;
	bool due[DRILL_FAULTS];	     /* reached */
	bool happened[DRILL_FAULTS]; /* and done */
	void (*hit)(void *opaque, unsigned fault);
	void *opaque;
	struct drill_pair pair[DRILL_PAIRS];
};

/* @folder: for its unix socket. Return: 0 or a negative errno */
int drill_proxy_open(struct drill_proxy *proxy, const struct drill_plan *plan, const char *folder);
void drill_proxy_close(struct drill_proxy *proxy);
/* The guest is at the destination from now on */
void drill_proxy_switched(struct drill_proxy *proxy);
/* All connections, as if the network was gone */
void drill_proxy_drop(struct drill_proxy *proxy);
/* Fills in DRILL_FDS; at most @ms may be waited, less is returned if it is */
int drill_proxy_poll(const struct drill_proxy *proxy, struct pollfd *fds, int ms);
void drill_proxy_step(struct drill_proxy *proxy, uint64_t now_ns);

/* A connected socket that does not block, or a negative errno */
int drill_dial(const char *uri);

/* drill_fault.c: what faults do to connections */
void drill_pair_close(struct drill_pair *pair);
/* Which connection it is has just been seen */
void drill_fault_meet(struct drill_proxy *proxy, struct drill_pair *pair);
/* Of @room bytes, how many may be read before something has to happen */
size_t drill_fault_room(const struct drill_proxy *proxy, const struct drill_pair *pair,
			enum drill_way way, size_t room);
/* Whatever is due at this byte. */
void drill_fault_check(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way);
/* Bytes that have come, before they go on */
void drill_fault_bytes(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way,
		       uint8_t *bytes, size_t length);

#endif /* CLI_DRILL_PROXY_H */
