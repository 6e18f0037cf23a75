/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_DEST_MULTIFD_H
#define POSTCOPY_DEST_MULTIFD_H

#include "wire/multifd.h"

#include <sys/uio.h>

/*
 * The destination's part of multifd: pages of precopy that come on lanes, connections
 * beside the main one. All of it is the bulk thread's.
 *
 * The main channel has marks and each lane has SYNCs, in the same number. Whoever comes to
 * his n-th one waits until all have: so nothing that was sent behind it is overtaken by
 * what was sent before. Which of the main channel's records are marks its first section
 * shows: RAM_MULTIFD_FLUSH if there is one in it, else each RAM_EOS.
 *
 * Nothing in the stream says how many lanes there are. A source sends the first mark when
 * they are all connected, so at it the world is asked whether every connection made by then
 * has said what it is; lanes are numbered without a gap; and packets are numbered through, so
 * that at the end none may be missing that a lane we never heard of would have brought.
 *
 * A QEMU before 9.0 that has pages and a SYNC for a lane at the same time may send both as one packet.
 * One without either follows, sooner or later, but it may also end without.
 */
struct dest;

#define DEST_LANES_MAX 32u

enum dest_lane_state {
	LANE_NONE,
	LANE_HEAD,     /* a packet's head is next */
	LANE_CONTENTS, /* packet.bytes of contents are next */
	LANE_HELD,     /* at a SYNC that others have not come to */
	LANE_CLOSED,   /* by the source, between two packets */
};

struct dest_lane {
	enum dest_lane_state state;
	uint64_t syncs;
	bool owes;	/* that packet: nobody waits for it */
	unsigned block; /* of the packet's pages */
	struct multifd_packet packet;
};

struct dest_multifd {
	struct dest_lane lane[DEST_LANES_MAX];
	unsigned lanes;
	uint8_t uuid[MULTIFD_UUID_BYTES];
	uint64_t marks; /* that the main channel has come to */
	bool waiting;	/* and has to wait at */
	bool gathered;	/* no more lanes will come */
	bool begun;	/* the first mark is behind us */
	bool by_flush;
	bool last;	  /* the mark is ram's end */
	uint64_t packets; /* that have come, of all lanes */
	uint64_t numbers; /* the highest, plus 1 */
	uint64_t heard_ns;
};

/* Returned by dest_input() where the main channel has to wait at a mark */
#define DEST_MARK 4

/* The main channel waits: as long as that is so dest_input() takes nothing of it */
bool dest_multifd_waits(const struct dest *dest);
/* It does so at the first mark: dest_multifd_gathered() is to be called, when that is so */
bool dest_multifd_gathers(const struct dest *dest);
/* Every connection that has been made by now has said what it is */
void dest_multifd_gathered(struct dest *dest);
/* The first mark is behind us: nobody who connects now can be a lane */
bool dest_multifd_begun(const struct dest *dest);

/**
 * dest_lane_open() - A connection has begun with MULTIFD_MAGIC
 *
 * Return: the lane, for all functions below; or a negative errno and a sentence: the
 * migration has failed by it, unless its pages come on the main channel anyway
 */
int dest_lane_open(struct dest *dest, const struct multifd_hello *hello, uint64_t now_ns,
		   struct wh_err *err);
enum dest_lane_state dest_lane_state(const struct dest *dest, unsigned lane);

/*
 * LANE_HEAD: the whole of it, MULTIFD_HEAD_BYTES; zero pages are placed before it returns.
 * LANE_CONTENTS: they lie where dest_lane_room() said. Return: 0 or a negative errno and a
 * sentence, the migration has failed
 */
int dest_lane_head(struct dest *dest, unsigned at, const uint8_t *head, uint64_t now_ns,
		   struct wh_err *err);
int dest_lane_contents(struct dest *dest, unsigned at, uint64_t now_ns, struct wh_err *err);

/* LANE_CONTENTS: where the pages are to lie, in order. Return: pieces, MULTIFD_PAGES at most */
unsigned dest_lane_room(struct dest *dest, unsigned at, struct iovec *piece);
/* Bytes have come, if not enough for anything yet */
void dest_lane_heard(struct dest *dest, size_t bytes, uint64_t now_ns);
/* Closed (reason NULL; @inside a packet) or broken; or what came was not good */
void dest_lane_lost(struct dest *dest, unsigned at, bool inside, const struct wh_err *reason);

#endif /* POSTCOPY_DEST_MULTIFD_H */
