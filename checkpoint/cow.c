/* SPDX-License-Identifier: MIT */
/*
 * Joining: a thread that lets writers in when their page is copied. The theory is in cow.h.
 */
#include "checkpoint/cow.h"

#include "base/bits.h"
#include "base/err.h"
#include "ring/loop.h"
#include "uffd/dirty.h"
#include "wire/checkpoint.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES 4u
/* cow_copy() takes so many at once: how long a writer may wait for somebody else's copy */
#define CHUNK 16u
_Static_assert(64 % CHUNK == 0, "a chunk is in one word of a map");

struct cow {
	const struct region *regions;
	unsigned count;
	uint64_t *pending[CP_BLOCKS_MAX]; /* atomic: not copied yet. Who clears a bit copies */
	/*
	 * What cow_copy() copies, one more than a number; 0: nothing. Stored before the bits are
	 * cleared and after the copy is made: who finds a bit cleared, and then not this, has the
	 * copy behind him.
	 */
	uint64_t busy;
	/* from letting somebody in to the next one; held from cow_stop() to cow_go() */
	pthread_mutex_t gate;
	const struct cow_run *runs; /* written with the gate held, and looked at */
	size_t run_count;
	bool left; /* cow_copy() is still to come */

	struct dirty_log log;
	struct loop *loop;
	struct op poll;
	pthread_t thread;
	bool open;
	bool ends;	   /* atomic */
	bool failed;	   /* atomic; then why */
	struct wh_err why; /* written once, before */
};

static uint64_t unit_of(const struct region *region)
{
	return region->page_size > TARGET_PAGE ? region->page_size : TARGET_PAGE;
}

struct cow *cow_new(const struct region *regions, unsigned count, struct wh_err *err)
{
	struct cow *cow = calloc(1, sizeof(*cow));
	bool whole = cow;

	for (unsigned i = 0; whole && i < count; i++) {
		uint64_t unit = unit_of(&regions[i]);

		if (unit & (unit - 1) || (uintptr_t)regions[i].addr % unit ||
		    regions[i].length % unit) {
			err_set(err, -EINVAL,
				"copy-on-write: block '%.100s' is not of pages of %llu bytes",
				regions[i].name, (unsigned long long)unit);
			cow_free(cow);
			return NULL;
		}
		cow->pending[i] = calloc(bits_words(regions[i].length / TARGET_PAGE),
					 sizeof(*cow->pending[i]));
		whole = cow->pending[i];
		cow->count = i + 1;
	}
	if (!whole) {
		cow_free(cow);
		err_sys(err, ENOMEM, "copy-on-write: maps of memory");
		return NULL;
	}
	cow->regions = regions;
	pthread_mutex_init(&cow->gate, NULL);
	return cow;
}

void cow_free(struct cow *cow)
{
	if (!cow)
		return;
	for (unsigned i = 0; i < cow->count; i++)
		free(cow->pending[i]);
	if (cow->regions)
		pthread_mutex_destroy(&cow->gate);
	free(cow);
}

/*
 * Nobody is to wait for somebody who cannot let him in. It is said first: who has copied a page
 * that was written then sees it afterwards.
 */
static void fail(struct cow *cow, const struct wh_err *why)
{
	if (__atomic_load_n(&cow->failed, __ATOMIC_RELAXED))
		return;
	cow->why = *why;
	__atomic_store_n(&cow->failed, true, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < cow->count; i++)
		(void)uffd_unregister(&cow->log.uffd, cow->regions[i].addr, cow->regions[i].length,
				      NULL);
}

static int has_failed(const struct cow *cow, struct wh_err *err)
{
	/* between the copies of cow_copy() and the look at this: see fail() */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&cow->failed, __ATOMIC_ACQUIRE))
		return 0;
	return err_set(err, cow->why.code, "%s", cow->why.text);
}

/* ---- The thread ---- */

/* Where a page is copied to: it is in one of the runs */
static uint8_t *place_of(const struct cow *cow, uint32_t block, uint64_t page)
{
	size_t low = 0, high = cow->run_count;

	/* the last one that does not begin behind it */
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		const struct cow_run *run = &cow->runs[middle];

		if (run->block > block || (run->block == block && run->first > page))
			high = middle;
		else
			low = middle;
	}
	return cow->runs[low].at + (page - cow->runs[low].first) * TARGET_PAGE;
}

static uint64_t chunk_of(uint32_t block, uint64_t page)
{
	return ((uint64_t)block << 56 | page / CHUNK) + 1;
}

static void copy_page(struct cow *cow, uint32_t block, uint64_t page)
{
	if (bits_test_clear(cow->pending[block], page)) {
		memcpy(place_of(cow, block, page), cow->regions[block].addr + page * TARGET_PAGE,
		       TARGET_PAGE);
		return;
	}
	while (__atomic_load_n(&cow->busy, __ATOMIC_ACQUIRE) == chunk_of(block, page))
		sched_yield();
}

/* Somebody wants to write there */
static int let_in(struct cow *cow, uint64_t addr, struct wh_err *err)
{
	union {
		uint64_t number;
		void *pointer;
	} at = { .number = addr };
	uint64_t offset, unit;
	int block = region_find(cow->regions, cow->count, at.pointer, &offset);
	int ret;

	if (block < 0)
		return err_set(err, -EPROTO, "copy-on-write: a write to %#llx, which is no memory",
			       (unsigned long long)addr);
	unit = unit_of(&cow->regions[block]);
	offset -= offset % unit;
	pthread_mutex_lock(&cow->gate);
	for (uint64_t i = 0; i < unit; i += TARGET_PAGE)
		copy_page(cow, (uint32_t)block, (offset + i) / TARGET_PAGE);
	ret = dirty_log_let(&cow->log, cow->regions[block].addr + offset, unit, err);
	pthread_mutex_unlock(&cow->gate);
	return ret;
}

static int serve(struct cow *cow, struct wh_err *err)
{
	struct uffd_event events[UFFD_BATCH];
	int n = uffd_read(&cow->log.uffd, events, err), ret = n < 0 ? n : 0;

	for (int i = 0; ret == 0 && i < n; i++)
		if (events[i].kind == UFFD_FAULT)
			ret = let_in(cow, events[i].addr, err);
	return ret;
}

static void poll_done(struct op *op, int result)
{
	(void)op;
	(void)result;
}

static void *serve_all(void *arg)
{
	struct cow *cow = arg;
	struct wh_err err = { 0 };
	int ret = 0;

	pthread_setname_np(pthread_self(), "wherry-cow");
	while (ret >= 0 && !__atomic_load_n(&cow->ends, __ATOMIC_ACQUIRE)) {
		if (!op_busy(&cow->poll))
			loop_poll(cow->loop, &cow->poll, cow->log.uffd.fd, POLLIN);
		ret = loop_step(cow->loop, -1, &err);
		if (ret >= 0)
			ret = serve(cow, &err);
	}
	if (ret < 0)
		fail(cow, &err);
	return NULL;
}

int cow_open(struct cow *cow, struct wh_err *err)
{
	int ret;

	cow->poll.done = poll_done;
	ret = loop_open(&cow->loop, ENTRIES, err);
	if (ret < 0)
		return ret;
	ret = dirty_log_open_waiting(&cow->log, cow->regions, cow->count, err);
	if (ret < 0)
		goto out_loop;
	ret = pthread_create(&cow->thread, NULL, serve_all, cow);
	if (ret) {
		ret = err_sys(err, ret, "copy-on-write: a thread");
		goto out_log;
	}
	cow->open = true;
	return 0;

out_log:
	dirty_log_close(&cow->log);
out_loop:
	loop_close(cow->loop);
	cow->loop = NULL;
	return ret;
}

void cow_close(struct cow *cow)
{
	if (!cow || !cow->open)
		return;
	__atomic_store_n(&cow->ends, true, __ATOMIC_RELEASE);
	loop_wake(cow->loop);
	pthread_join(cow->thread, NULL);
	loop_close(cow->loop);
	dirty_log_close(&cow->log);
	cow->open = false;
}

/* ---- Who asks ---- */

static int written(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	struct cow *cow = world;
	int64_t ret = has_failed(cow, err);

	if (ret == 0)
		ret = dirty_log_scan(&cow->log, block, map, err);
	return ret < 0 ? (int)ret : 0;
}

struct cp_dirty cow_dirty(struct cow *cow)
{
	return (struct cp_dirty){ .written = written, .world = cow };
}

void cow_stop(struct cow *cow)
{
	pthread_mutex_lock(&cow->gate);
	cow->log.still = true;
}

void cow_go(struct cow *cow, const struct cow_run *runs, size_t count)
{
	cow->runs = runs;
	cow->run_count = count;
	cow->left = count;
	for (size_t i = 0; i < count; i++)
		bits_range_set(cow->pending[runs[i].block], runs[i].first, runs[i].pages);
	cow->log.still = false;
	pthread_mutex_unlock(&cow->gate);
}

/* Pages [first, end) of one chunk, those that nobody has copied yet */
static void copy_chunk(struct cow *cow, const struct cow_run *run, uint64_t first, uint64_t end)
{
	uint64_t mask = ~UINT64_C(0) >> (64 - (end - first)) << first % 64, mine;
	const uint8_t *from = cow->regions[run->block].addr;

	__atomic_store_n(&cow->busy, chunk_of(run->block, first), __ATOMIC_RELAXED);
	/* a release, so that who finds the bits cleared sees the store above */
	mine = __atomic_fetch_and(&cow->pending[run->block][first / 64], ~mask, __ATOMIC_ACQ_REL);
	for (uint64_t page = first; page < end; page++)
		if (mine >> page % 64 & 1)
			memcpy(run->at + (page - run->first) * TARGET_PAGE,
			       from + page * TARGET_PAGE, TARGET_PAGE);
	__atomic_store_n(&cow->busy, 0, __ATOMIC_RELEASE);
}

int cow_copy(struct cow *cow, struct wh_err *err)
{
	for (size_t i = 0; cow->left && i < cow->run_count; i++) {
		const struct cow_run *run = &cow->runs[i];
		uint64_t page = run->first, last = run->first + run->pages;

		while (page < last) {
			uint64_t end = page - page % CHUNK + CHUNK;

			end = end < last ? end : last;
			copy_chunk(cow, run, page, end);
			page = end;
		}
	}
	/* who lets somebody in may have taken a page that is not copied to its end yet */
	pthread_mutex_lock(&cow->gate);
	cow->left = false;
	pthread_mutex_unlock(&cow->gate);
	return has_failed(cow, err);
}
