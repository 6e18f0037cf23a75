/* SPDX-License-Identifier: MIT */
#ifndef RDMA_MEMORY_H
#define RDMA_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>

struct ibv_mr;
struct ibv_pd;

/*
 * Which memory a peer may write to or read, or the device may read: chunks of blocks, or whole ones. What
 * is registered is pinned, or there when the device touches it (on-demand paging). Neither is for memory
 * whose pages are missing: pinning fails on some kernels, on others it waits for each of them; and while a
 * device waits for one its peer gives up.
 */
struct vmem {
	struct ibv_pd *pd;
	bool local; /* it is read here, and no peer gets at it */
	bool lent;  /* a peer may read it, and not write; set behind vmem_open() */
	unsigned bits; /* a chunk has 1 << bits bytes: CONTROL_CHUNK_BITS, if it is not set there, too */
	bool on_demand;	       /* what is registered from now on is not pinned */
	struct wh_err refused; /* it was to be, and why it is not any more */
	struct vmem_block {
		uint8_t *addr;
		uint64_t length;
		struct vmem_chunk {
			struct ibv_mr *mr;
			bool pinned;
		} whole, *chunk;
	} * block;
	unsigned blocks;
	uint64_t bytes;	 /* registered now */
	uint64_t pinned; /* of them */
	uint64_t max;	 /* no more than so many are pinned; 0: as many as the kernel lets */
};

/* How many bytes can be registered for certain. @max: what is allowed to be; 0: all */
uint64_t vmem_room(uint64_t max);
/* @pd outlives it: first vlink_disconnect(), then vmem_close(), then vlink_close() */
int vmem_open(struct vmem *vmem, struct ibv_pd *pd, bool local, unsigned blocks,
	      struct wh_err *err);
/*
 * Behind vmem_open(), and what is local or lent: nothing is pinned, if the device can do without. If it
 * is refused when memory is registered, that and what follows is pinned
 */
void vmem_on_demand(struct vmem *vmem);
int vmem_add(struct vmem *vmem, uint8_t *addr, uint64_t length, struct wh_err *err);
/* Zeroed is fine */
void vmem_close(struct vmem *vmem);

/*
 * The peer may write to a chunk, or the block; no-op if it may. @key: the peer's, never 0; of what
 * is local, ours. Return: -ENOMEM: there is a limit, whosever it is, and no room
 */
int vmem_grant(struct vmem *vmem, unsigned block, uint64_t chunk, uint32_t *key,
	       struct wh_err *err);
int vmem_grant_whole(struct vmem *vmem, unsigned block, uint32_t *key, struct wh_err *err);
/* It may not any more; no-op if it may not */
int vmem_revoke(struct vmem *vmem, unsigned block, uint64_t chunk, struct wh_err *err);

#endif /* RDMA_MEMORY_H */
