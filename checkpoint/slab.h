/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_SLAB_H
#define CHECKPOINT_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Memory for what is on its way: slabs of 4 MiB, each a memfd of huge pages where there are
 * any, of such as the kernel may make huge otherwise. All of a slab is there when it is made,
 * so that no write to it can fail later, and none waits for a page in the guest's stop. What
 * describes the contents is elsewhere: a slab has nothing in it but them.
 *
 * A pool grows when it is asked for more than it has, up to its cap, and gives back half of what it
 * has after ten seconds in which the most that was needed at once was less than that.
 *
 * A pool belongs to one thread; the contents of slabs to whoever was given them.
 */
#define SLAB_BYTES (UINT64_C(4) << 20)

struct slab {
	struct slab *next;
	uint8_t *at; /* SLAB_BYTES, page-aligned */
};

/*
 * Somebody who has to know of each slab that there is, before it is used, and when it is not used
 * any more and is about to go; on the thread that the pool belongs to. No made(): nobody.
 */
struct slab_watch {
	void (*made)(void *world, uint8_t *at);
	void (*unmade)(void *world, const uint8_t *at);
	void *world;
};

struct slab_pool {
	struct slab *free;
	uint64_t total, total_max; /* slabs: there are, there may be */
	uint64_t used, peak;	   /* of them taken: now, the most since_ns */
	uint64_t since_ns;
	bool huge;		 /* try huge pages: off after the first time that there were none */
	struct slab_watch watch; /* to be set behind slab_pool_init(), if at all */
};

/* @cap_bytes: rounded up to slabs. @huge: try hugetlb pages of 2 MiB */
void slab_pool_init(struct slab_pool *pool, uint64_t cap_bytes, bool huge);
/* Everything has been given back. */
void slab_pool_fini(struct slab_pool *pool);

/**
 * slab_reserve() - Have as many bytes free, so that taking them later costs nothing
 *
 * Return: 0, or a negative errno with a sentence: -ENOSPC at the cap. What could be made stays
 */
int slab_reserve(struct slab_pool *pool, uint64_t bytes, struct wh_err *err);

/* Half is given back when it was not needed for long enough. To be called about once a second. */
void slab_pool_step(struct slab_pool *pool, uint64_t now_ns);

/* What is taken is taken as a chain, filled from its beginning. All zero: an empty one. */
struct slab_chain {
	struct slab *first, *last;
	uint64_t slabs, used; /* bytes, of the last one */
};

/**
 * slab_room() - The next bytes of a chain
 * @want:	That many at most
 * @least:	1 to SLAB_BYTES: what is left of a slab is passed over if it is less
 * @got:	Contiguous bytes, from @least to @want; @want is not less than @least
 *
 * Return: where, or NULL with a sentence: at the cap (-ENOSPC), or there is no memory
 */
uint8_t *slab_room(struct slab_pool *pool, struct slab_chain *chain, uint64_t want, uint64_t least,
		   uint64_t *got, struct wh_err *err);

/* The last @bytes of what slab_room() gave last were not needed */
void slab_room_trim(struct slab_chain *chain, uint64_t bytes);

/* Back to the pool, and an empty one again */
void slab_chain_give(struct slab_pool *pool, struct slab_chain *chain);

#endif /* CHECKPOINT_SLAB_H */
