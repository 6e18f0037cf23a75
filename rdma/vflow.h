/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VFLOW_H
#define RDMA_VFLOW_H

#include "wire/parcel.h"

#include <stdbool.h>

/*
 * A stream of bytes, either way, over one queue pair. An engine: no verbs, descriptor, clock or
 * thread.
 *
 * Bytes go in messages, or are written into memory that the other end has lent (its area) and then
 * announced by a message. What is written before a message is handed over is there when that
 * arrives: a queue pair keeps their order. The area is used as a ring, from its beginning, and what
 * is announced lies where the announcement before has ended; so it is known where it lies, and
 * the message that says so as well is only compared.
 *
 * Room for messages is as for the area: each end says, in every message, how many it has done
 * with. One message's room is kept for saying that and nothing else, which is done at the latest
 * when half of the room is to be given back (or a quarter of the area): so neither end waits for
 * a word that the other cannot say. Saying it takes room as well, but half as much as it gives.
 *
 * Whoever has been lent an area can write into it at any time, also what was announced. So what is
 * in it is copied once and looked at in the copy.
 */

struct vflow {
	unsigned room; /* messages, at either end */
	/* there */
	uint32_t sent, taken;
	uint64_t area, written, emptied; /* bytes; area 0: there is none */
	uint64_t address;
	uint32_t key;
	/* here */
	uint32_t gone, gone_told;
	const uint8_t *lent;
	uint64_t lent_bytes, landed, left, left_told;
	/* of the message that is being read */
	const uint8_t *at;
	uint32_t bytes, in_area;
	bool reading;
};

/* @room: what both ends have, 3 and more */
void vflow_init(struct vflow *flow, unsigned room);

/* ---- Saying ------------------------------------------------------------------- */

/* There is room for a message with something of the stream */
bool vflow_may_send(const struct vflow *flow);
/* Something is to be given back, and can be: a message with nothing else */
bool vflow_owes(const struct vflow *flow);
/* Return: bytes that may be written from @to on, with vflow->key; 0: none now */
uint64_t vflow_space(const struct vflow *flow, uint64_t *to);
void vflow_wrote(struct vflow *flow, uint64_t bytes);
/*
 * The header of a message with @bytes of the stream behind it, which are there already, and then
 * the last @landed that were written. Return: its length with them
 */
size_t vflow_put(struct vflow *flow, uint8_t *buf, uint32_t bytes, uint32_t landed);
/* Lends memory to the other end: once. Return: as above */
size_t vflow_lend(struct vflow *flow, uint8_t *buf, const uint8_t *area, uint64_t bytes,
		  uint32_t key);

/* ---- Hearing ------------------------------------------------------------------ */

/* @message stays until it is read. Return: 0, or -EPROTO with a sentence */
int vflow_get(struct vflow *flow, const uint8_t *message, size_t bytes, struct wh_err *err);
/* A message was got, and is not read to its end */
static inline bool vflow_reading(const struct vflow *flow)
{
	return flow->reading;
}
/* The next of it. Return: bytes */
size_t vflow_take(struct vflow *flow, uint8_t *to, size_t room);
/* So many are left */
static inline uint64_t vflow_left(const struct vflow *flow)
{
	return (uint64_t)flow->bytes + flow->in_area;
}
/* It has been read to its end, and there is room for another one again */
void vflow_gone(struct vflow *flow);

#endif /* RDMA_VFLOW_H */
