/* SPDX-License-Identifier: MIT */
#ifndef WIRE_MC_H
#define WIRE_MC_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Micro-checkpoints as QEMU's of 2014 sent them over a socket, so that what was recorded then
 * can be read. Nobody speaks it any more.
 *
 * Behind the migration there are numbers of eight bytes, big endian, in both directions:
 * messages, START with three more. Behind COMMIT come as many slabs as START said, each its
 * length and so many bytes; all together they have the size that START said. Slabs up to
 * the one with the first page are device state and what describes pages; then come the pages.
 */
enum mc_kind {
	MC_NACK = 300, /* this, ABORT and END have a number and were never sent */
	MC_START,
	MC_COMMIT,
	MC_ABORT,
	MC_ACK, /* from the destination; no epoch */
	MC_END,
	MC_ANY, /* a receiver takes any: not a message */
};

#define MC_SLAB_BYTES (UINT64_C(5) << 20)
/* Of a message at most */
#define MC_MSG_MAX 32u

/* @size: of all slabs. The others are of START, too: slabs are counted from 0 */
struct mc_msg {
	enum mc_kind kind;
	uint64_t size;
	uint64_t first_page_slab;
	uint64_t slabs;
};

/* "START" */
const char *mc_name(enum mc_kind kind);

/* Writes a message. Return: bytes written, MC_MSG_MAX at most */
size_t mc_put(uint8_t *buf, const struct mc_msg *msg);

/**
 * mc_get() - Take a message
 *
 * Pure. START is one that can be: at least two slabs, since pages begin in one of their own,
 * and no more bytes than they hold.
 *
 * Return: 1 taken, 0 more bytes are needed, -EPROTO with a sentence
 */
int mc_get(const uint8_t *buf, size_t length, size_t *used, struct mc_msg *msg, struct wh_err *err);

/* In front of a slab's bytes. Return: 8 */
size_t mc_put_slab(uint8_t *buf, uint64_t length);

enum mc_event_kind {
	MC_GOT_MESSAGE,
	MC_GOT_SLAB,	 /* its length; then its bytes */
	MC_GOT_CONTENTS, /* some of them */
};

struct mc_event {
	enum mc_event_kind kind;
	struct mc_msg msg;
	uint64_t slab, length;
	const uint8_t *data;
	size_t data_length;
};

/* A recorded direction of a connection, from its first message. All zero: at its beginning */
struct mc_in {
	struct mc_msg start;
	int committed;	   /* slabs follow */
	uint64_t slab;	   /* the one that follows, or whose bytes do */
	uint64_t contents; /* of it still to come */
	uint64_t size;	   /* of all slabs still to come */
};

/**
 * mc_in_next() - The next event
 * @used:	Bytes taken: also 0 with an error
 *
 * Pure; contents are given as they lie in @buf.
 *
 * Return: 1 an event, 0 more bytes are needed, -EPROTO with a sentence
 */
int mc_in_next(struct mc_in *in, const uint8_t *buf, size_t length, size_t *used,
	       struct mc_event *event, struct wh_err *err);

/* Between two checkpoints: it may end here */
static inline int mc_in_may_end(const struct mc_in *in)
{
	return !in->start.kind;
}

#endif /* WIRE_MC_H */
