/* SPDX-License-Identifier: MIT */
/* Edge: memory in memfds. */
#include "checkpoint/slab.h"

#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHRINK_NS UINT64_C(10000000000)

/* Since Linux 5.14; before, pages come when they are touched */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void slab_pool_init(struct slab_pool *pool, uint64_t cap_bytes, bool huge)
{
	*pool = (struct slab_pool){
		.total_max = cap_bytes / SLAB_BYTES + (cap_bytes % SLAB_BYTES != 0),
		.huge = huge,
	};
}

/*
 * Its pages are there: a huge one that is missing is an error here, and a signal later. Return: NULL
 * and why not, an errno
 */
static uint8_t *map(bool huge, int *why)
{
	int fd = memfd_create("wherry-slab", MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	void *at = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, (off_t)SLAB_BYTES))
		at = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	*why = errno;
	/* the mapping keeps it */
	if (fd >= 0)
		close(fd);
	if (at == MAP_FAILED)
		return NULL;
	if (!huge)
		(void)madvise(at, SLAB_BYTES, MADV_HUGEPAGE);
	if (madvise(at, SLAB_BYTES, MADV_POPULATE_WRITE) < 0 && errno != EINVAL) {
		*why = errno;
		munmap(at, SLAB_BYTES);
		return NULL;
	}
	return at;
}

static struct slab *make(struct slab_pool *pool, struct wh_err *err)
{
	struct slab *slab;
	int why = 0;

	if (pool->total >= pool->total_max) {
		err_set(err, -ENOSPC, "slabs: all %" PRIu64 " MiB that there may be are in use",
			pool->total_max * (SLAB_BYTES >> 20));
		return NULL;
	}
	slab = calloc(1, sizeof(*slab));
	if (!slab) {
		err_sys(err, ENOMEM, "slabs: another one");
		return NULL;
	}
	if (pool->huge)
		slab->at = map(true, &why);
	if (!slab->at) {
		pool->huge = false;
		slab->at = map(false, &why);
	}
	if (!slab->at) {
		err_sys(err, why, "slabs: %" PRIu64 " MiB, and no more",
			pool->total * (SLAB_BYTES >> 20));
		free(slab);
		return NULL;
	}
	pool->total++;
	if (pool->watch.made)
		pool->watch.made(pool->watch.world, slab->at);
	return slab;
}

static void put_free(struct slab_pool *pool, struct slab *slab)
{
	slab->next = pool->free;
	pool->free = slab;
}

static void unmake_free(struct slab_pool *pool)
{
	struct slab *slab = pool->free;

	pool->free = slab->next;
	if (pool->watch.made)
		pool->watch.unmade(pool->watch.world, slab->at);
	munmap(slab->at, SLAB_BYTES);
	free(slab);
	pool->total--;
}

void slab_pool_fini(struct slab_pool *pool)
{
	while (pool->free)
		unmake_free(pool);
}

int slab_reserve(struct slab_pool *pool, uint64_t bytes, struct wh_err *err)
{
	uint64_t wanted = bytes / SLAB_BYTES + (bytes % SLAB_BYTES != 0);

	while (pool->total - pool->used < wanted) {
		struct wh_err why = { 0 };
		struct slab *slab = make(pool, &why);

		if (!slab) {
			if (err)
				*err = why;
			return why.code;
		}
		put_free(pool, slab);
	}
	return 0;
}

void slab_pool_step(struct slab_pool *pool, uint64_t now_ns)
{
	uint64_t half = pool->total / 2;

	if (pool->since_ns && now_ns - pool->since_ns < SHRINK_NS)
		return;
	if (pool->since_ns && pool->peak < pool->total - half)
		for (; half && pool->free; half--)
			unmake_free(pool);
	pool->peak = pool->used;
	pool->since_ns = now_ns;
}

static struct slab *take(struct slab_pool *pool, struct wh_err *err)
{
	struct slab *slab = pool->free;

	if (slab)
		pool->free = slab->next;
	else
		slab = make(pool, err);
	if (!slab)
		return NULL;
	slab->next = NULL;
	if (++pool->used > pool->peak)
		pool->peak = pool->used;
	return slab;
}

uint8_t *slab_room(struct slab_pool *pool, struct slab_chain *chain, uint64_t want, uint64_t least,
		   uint64_t *got, struct wh_err *err)
{
	struct slab *slab = chain->last;
	uint8_t *at;

	if (!slab || SLAB_BYTES - chain->used < least) {
		slab = take(pool, err);
		if (!slab)
			return NULL;
		if (chain->last)
			chain->last->next = slab;
		else
			chain->first = slab;
		chain->last = slab;
		chain->slabs++;
		chain->used = 0;
	}
	at = slab->at + chain->used;
	*got = SLAB_BYTES - chain->used < want ? SLAB_BYTES - chain->used : want;
	chain->used += *got;
	return at;
}

void slab_room_trim(struct slab_chain *chain, uint64_t bytes)
{
	chain->used -= bytes;
}

void slab_chain_give(struct slab_pool *pool, struct slab_chain *chain)
{
	while (chain->first) {
		struct slab *slab = chain->first;

		chain->first = slab->next;
		put_free(pool, slab);
		pool->used--;
	}
	*chain = (struct slab_chain){ 0 };
}
