/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VREAD_H
#define RDMA_VREAD_H

#include "wire/control.h"

#include <stdbool.h>

/*
 * Pages that the destination of a postcopy reads from the source's memory by itself, on a connection
 * of their own: both ends of what is said on it. Engines: no verbs, descriptor, clock or thread.
 *
 * To read it needs a key of the page's chunk, for which it asks once. The source may have none to
 * give, and is not asked again.
 */
#define VREAD_BLOCKS_MAX 256u
#define VREAD_PAGE 4096u
#define VREAD_SLOTS 16u /* pages on their way at once */

/* ---- The destination ---------------------------------------------------------- */

struct vread_chunk {
	uint32_t rkey;
	enum vread_key {
		VREAD_KEY_UNKNOWN,
		VREAD_KEY_ASKED,
		VREAD_KEY_HELD,
		VREAD_KEY_NONE,
	} key;
};

static inline uint64_t vread_chunks(uint64_t length)
{
	return (length + CONTROL_CHUNK - 1) >> CONTROL_CHUNK_BITS;
}

/* A page that was handed over is in one slot until it is taken back */
enum vread_state {
	VREAD_FREE,
	VREAD_WAITS,	 /* for a key, or for its turn */
	VREAD_UNDER_WAY, /* it is being read */
	VREAD_HERE,	 /* it was */
	VREAD_VAIN,	 /* it will not be: it is to be asked for some other way */
};

struct vread_slot {
	enum vread_state state;
	unsigned block;
	uint64_t offset;
};

struct vread {
	struct {
		struct vread_chunk *chunk;
		uint64_t length;
		uint64_t host; /* where it is there, from the first key on */
		bool placed;
	} block[VREAD_BLOCKS_MAX];
	unsigned blocks;
	struct vread_slot slot[VREAD_SLOTS];
	/* those under way, in the order in which they were begun */
	unsigned queue[VREAD_SLOTS];
	unsigned first, reading;
	/* chunks of the request that is to be answered */
	struct {
		unsigned block;
		uint64_t chunk;
	} ask[VREAD_SLOTS];
	unsigned asked;
};

void vread_init(struct vread *read);
/* In the order of the stream's list; @chunk: vread_chunks() of them, all zeros */
void vread_add_block(struct vread *read, uint64_t length, struct vread_chunk *chunk);

/* A page, by any byte's offset of it. Return: false, it cannot be read, or not now */
bool vread_page(struct vread *read, unsigned block, uint64_t offset);

/* What is to be read: the page of a slot, from @address with @rkey */
struct vread_job {
	unsigned slot;
	uint64_t address;
	uint32_t rkey;
};

/* Return: one is to be read now; ask again until there is none */
bool vread_begin(struct vread *read, struct vread_job *job);

enum vread_next {
	VREAD_WAIT,
	VREAD_SAY,  /* @message of @bytes */
	VREAD_READ, /* @job */
};

/**
 * vread_next() - What is to be done now; ask again until it is to wait
 * @message:	VREAD_MESSAGE bytes
 */
#define VREAD_MESSAGE (CONTROL_HEADER + (size_t)VREAD_SLOTS * 24)
enum vread_next vread_next(struct vread *read, uint8_t *message, size_t *bytes,
			   struct vread_job *job);
/* So many of those under way are complete, in their order */
void vread_done(struct vread *read, unsigned count);
/* A slot in this state, or VREAD_SLOTS */
unsigned vread_find(const struct vread *read, enum vread_state state);
void vread_free(struct vread *read, unsigned slot);
/* The connection is no more, and nothing is under way: all that is not here was in vain */
void vread_lost(struct vread *read);
/* Return: 0, or a negative errno and a sentence: the connection is to be ended */
int vread_take(struct vread *read, const uint8_t *message, size_t bytes, struct wh_err *err);

/* ---- The source --------------------------------------------------------------- */

/*
 * @key:	Let the peer read a chunk (it may be that it may already). Return: the key, or 0, it
 *		may not
 */
struct vlend_ops {
	uint32_t (*key)(void *ctx, unsigned block, uint64_t chunk);
};

struct vlend {
	const struct vlend_ops *ops;
	void *ctx;
	struct {
		uint64_t host;
		uint64_t length;
	} block[VREAD_BLOCKS_MAX];
	unsigned blocks;
};

void vlend_init(struct vlend *lend, const struct vlend_ops *ops, void *ctx);
void vlend_add_block(struct vlend *lend, uint64_t host, uint64_t length);

/**
 * vlend_take() - A message of the destination's, while it may read
 * @answer:	VREAD_MESSAGE bytes
 * @length:	Of the answer
 *
 * Return: 0, or -EPROTO and a sentence: nothing was lent for it
 */
int vlend_take(struct vlend *lend, const uint8_t *message, size_t bytes, uint8_t *answer,
	       size_t *length, struct wh_err *err);

#endif /* RDMA_VREAD_H */
