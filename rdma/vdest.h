/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VDEST_H
#define RDMA_VDEST_H

#include "wire/control.h"

#include <stdbool.h>

/*
 * The destination's end of the control channel: which message may come when, and what is
 * done and answered. An engine: no verbs, descriptor, clock or thread.
 *
 * The stream announces each bracket by a word in its RAM section; between that and
 * REGISTER_FINISHED there are messages about memory and writes into it, and nothing of the
 * stream. Somebody else reads the stream and says when he has seen the word (vdest_hook());
 * until then what belongs into the bracket waits, so that all which the stream said before is
 * done, and the list of blocks is known.
 */

#define VDEST_BLOCKS_MAX 256u

/**
 * struct vdest_block - Memory that the peer may write to
 * @host:	Where it is here
 * @length:	Bytes that are to come
 * @start:	Where it begins in the peer's idea of our addresses; filled in by vdest_blocks()
 */
struct vdest_block {
	uint64_t host;
	uint64_t length;
	uint64_t start;
};

/**
 * struct vdest_ops - What it does to memory
 * @grant:	Register a chunk (it may be), or the whole block (@chunk VDEST_WHOLE); rkey, never 0;
 *		-ENOMEM: there is no room for more
 * @revoke:	A chunk is not to be written any more; it need not be registered
 * @clear:	The range reads as zeros; within the block, of whole pages
 */
struct vdest_ops {
	int (*grant)(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err);
	int (*revoke)(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err);
	void (*clear)(void *ctx, unsigned block, uint64_t offset, uint64_t length);
};

#define VDEST_WHOLE UINT64_MAX
#define VDEST_ANSWER_MAX (CONTROL_HEADER + (size_t)CONTROL_REPEAT_MAX * 16)

struct vdest {
	const struct vdest_ops *ops;
	void *ctx;
	struct vdest_block block[VDEST_BLOCKS_MAX];
	unsigned blocks;
	bool pin_all;
	bool no_room;	  /* agreed: a key of 0 says that there is none until some are given back */
	unsigned bits;	  /* agreed: a chunk has 1 << bits bytes */
	bool listed;	  /* the peer has the list */
	bool bracket;	  /* it is in one */
	uint64_t hooks;	  /* that the stream has announced */
	uint64_t entered; /* that it was in */
	/* counters */
	uint64_t registers, unregisters, zeros, messages;
};

enum vdest_next {
	VDEST_READY,  /* it is dealt with; an answer, if there is one, and READY go out */
	VDEST_STREAM, /* control->payload is of the stream */
	VDEST_WAIT,   /* nothing was done: again when vdest_hook() was called */
};

/* @flags: what was agreed in connecting */
void vdest_init(struct vdest *dest, const struct vdest_ops *ops, void *ctx, uint32_t flags);

/* The stream's list has come; before the first vdest_hook() */
void vdest_blocks(struct vdest *dest, const struct vdest_block *block, unsigned count);
/* The stream has announced a bracket */
void vdest_hook(struct vdest *dest);

/**
 * vdest_take() - Deal with a message
 * @control:	Filled in
 * @answer:	VDEST_ANSWER_MAX bytes
 * @length:	Of the answer, 0 if there is none
 *
 * Return: enum vdest_next, or a negative errno and a sentence: the connection is to be ended.
 * -ECONNABORTED is what the peer has given up with
 */
int vdest_take(struct vdest *dest, const uint8_t *message, size_t bytes, struct control *control,
	       uint8_t *answer, size_t *length, struct wh_err *err);

#endif /* RDMA_VDEST_H */
