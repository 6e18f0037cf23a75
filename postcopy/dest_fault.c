/* SPDX-License-Identifier: MIT */
/*
 * Destination: faults. Who waits is written down for the figures and for `asked`, not
 * for waking: the kernel itself wakes whoever sleeps on a page when it is placed. What
 * must not happen is that a fault is taken for answered and is not, so here is all of
 * it that could go wrong.
 *
 *	A fault on a page that is being placed meanwhile. The fault thread writes down
 *	the waiter, then looks at the received bit; the other thread sets the bit, then
 *	looks for waiters. In whatever order, one of them sees the other, and the fault
 *	thread wakes if it was too late to be seen.
 *
 *	A fault on a page that lies in the other channel's run. Its arrived bit is set,
 *	so it is not asked for; the other thread is told to hurry, or sees `asked`.
 *	Should the two just miss each other the page is requested in vain and placed
 *	when the run ends: late, not lost.
 *
 *	A fault nobody can answer now (link lost, table full). `asked` stays set, and
 *	the thread asleep, until dest_announce() asks for all of these. `asked` is set
 *	before the phase is looked at.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/trace.h"

#include <errno.h>

#define NO_THREAD DEST_THREADS
#define KEY(block, page) (((uint64_t)(block) + 1) << 48 | (page))

static uint64_t key_load(const struct dest_waiter *slot)
{
	return __atomic_load_n(&slot->key, __ATOMIC_SEQ_CST);
}

/* Index of this thread's figures. Fault thread: the only one to add. */
static uint32_t thread_find(struct dest *dest, uint32_t tid)
{
	for (uint32_t i = 0; tid && i < DEST_THREADS; i++) {
		uint32_t is = __atomic_load_n(&dest->thread[i].tid, __ATOMIC_RELAXED);

		if (is == tid)
			return i;
		if (!is) {
			__atomic_store_n(&dest->thread[i].tid, tid, __ATOMIC_RELEASE);
			return i;
		}
	}
	return NO_THREAD;
}

/* The same thread's second fault for a page (a signal, a wake too many) is no other wait. */
static bool same_wait(const struct dest_waiter *slot, uint64_t key, uint32_t thread)
{
	return key_load(slot) == key && thread != NO_THREAD &&
	       __atomic_load_n(&slot->thread, __ATOMIC_RELAXED) == thread;
}

/* Fault thread: the only one to add. A full table loses a figure, no more. */
static void waiter_add(struct dest *dest, uint64_t key, uint32_t thread, uint64_t now_ns)
{
	struct dest_waiter *free = NULL;

	for (unsigned i = 0; i < DEST_WAITERS; i++) {
		struct dest_waiter *slot = &dest->waiter[i];

		if (same_wait(slot, key, thread))
			return;
		if (!free && !key_load(slot))
			free = slot;
	}
	if (!free)
		return;
	__atomic_store_n(&free->since_ns, now_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&free->thread, thread, __ATOMIC_RELAXED);
	/* Before the key: who finds no slot in use has come before this one's look at
	 * the received bit. */
	__atomic_fetch_add(&dest->waiting, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&free->key, key, __ATOMIC_SEQ_CST);
}

/* Either thread; of two that find a slot one gets it. */
static void waiter_complete(struct dest *dest, struct dest_waiter *slot, uint64_t key,
			    uint64_t now_ns)
{
	uint64_t since_ns = __atomic_load_n(&slot->since_ns, __ATOMIC_RELAXED);
	uint32_t thread = __atomic_load_n(&slot->thread, __ATOMIC_RELAXED);
	/* The other thread's clock may have been read a little earlier */
	uint64_t waited_ns = now_ns > since_ns ? now_ns - since_ns : 0;

	if (!__atomic_compare_exchange_n(&slot->key, &key, 0, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		return;
	__atomic_fetch_sub(&dest->waiting, 1, __ATOMIC_RELAXED);
	if (now_ns == DEST_NO_TIME)
		return;
	hist_add(&dest->counters.fault_hist, waited_ns);
	if (thread < DEST_THREADS)
		count_add(&dest->thread[thread].waited_ns, waited_ns);
	trace(page_wake, (key >> 48) - 1, key & ((UINT64_C(1) << 48) - 1), waited_ns);
}

void dest_settle(struct dest *dest, unsigned block, uint64_t first, uint64_t end, uint64_t now_ns)
{
	struct dest_block *b = &dest->block[block];
	uint64_t pages = b->page_size / TARGET_PAGE;

	if (bits_next_set(b->asked, first * pages, end * pages) < end * pages)
		bits_range_clear(b->asked, first * pages, (end - first) * pages);
	if (!__atomic_load_n(&dest->waiting, __ATOMIC_SEQ_CST))
		return;
	for (unsigned i = 0; i < DEST_WAITERS; i++) {
		uint64_t key = key_load(&dest->waiter[i]);

		if (key >= KEY(block, first) && key < KEY(block, end))
			waiter_complete(dest, &dest->waiter[i], key, now_ns);
	}
}

/* It is marked and yet it faulted: a page of zeros, or one that has just been placed. */
static int fault_zero(struct dest *dest, unsigned block, uint64_t offset, uint64_t now_ns,
		      struct wh_err *err)
{
	const struct region *region = dest->block[block].region;
	const struct dest_ops *ops = dest->ops;
	uint64_t bytes = region->page_size;
	enum placed outcome;
	uint64_t done = 0;
	int ret;

	offset -= offset % bytes;
	outcome = ops->zero(dest->ctx, CHANNEL_URGENT, block, offset, bytes, true, &done, err);
	trace(page_place, block, offset / TARGET_PAGE, outcome);
	switch (outcome) {
	case PLACED_OK:
		dest_went_on(dest, CHANNEL_FAULT);
		return 0;
	case PLACED_BEFORE:
	case PLACED_GONE: /* unmapped, or complete and disarmed: nothing holds its threads */
		dest_went_on(dest, CHANNEL_FAULT);
		ret = ops->wake(dest->ctx, block, offset, bytes, err);
		if (ret == 0)
			return 0;
		dest_because(err, ret, "waking");
		return dest_fail_later(dest, err);
	case PLACED_CHANGING:
	case PLACED_NO_MEMORY:
		ret = dest_later(dest, CHANNEL_FAULT, outcome, now_ns, err);
		return ret < 0 ? dest_fail_later(dest, err) : ret;
	case PLACED_DEAD:
		err_set(err, -ESRCH, "block '%s': the process of the memory is gone", region->name);
		return dest_fail_later(dest, err);
	case PLACED_PINNED:
	case PLACED_FAILED:
	case PLACED_COUNT:
		break;
	}
	dest_because(err, -EIO, "a zero page");
	return dest_fail_later(dest, err);
}

/* The choice of message and its sending are one: only this thread asks. */
int dest_request(struct dest *dest, unsigned block, uint64_t offset, struct wh_err *err)
{
	uint64_t size = dest->block[block].page_size;
	struct rp_msg msg;
	int ret;

	if (dest->last_asked == (int)block) {
		msg.kind = RP_REQ_PAGES;
		msg.req_pages.start = offset;
		msg.req_pages.length = (uint32_t)size;
	} else {
		msg.kind = RP_REQ_PAGES_ID;
		msg.req_pages_id.start = offset;
		msg.req_pages_id.length = (uint32_t)size;
		msg.req_pages_id.block = dest->stream.blocks.block[block].name;
	}
	trace(page_request, block, offset / TARGET_PAGE, size / TARGET_PAGE);
	ret = dest_send(dest, &msg, err);
	if (ret < 0) {
		dest->last_asked = -1;
		return ret;
	}
	dest->last_asked = (int)block;
	count_add(&dest->counters.requests, 1);
	return 0;
}

int dest_want(struct dest *dest, unsigned block, uint64_t offset, bool read, struct wh_err *err)
{
	const struct dest_block *b = &dest->block[block];
	uint64_t first = offset / TARGET_PAGE;
	enum dest_phase phase;

	if (bits_test(b->arrived, first)) {
		__atomic_store_n(&dest->hurry, true, __ATOMIC_SEQ_CST);
		if (dest->ops->hurry)
			dest->ops->hurry(dest->ctx);
		return 0;
	}
	phase = dest_get_phase(dest);
	if (dest_over(phase) || phase == DEST_RECOVER || dest_to_announce(dest, block, first))
		return 0;
	if (read && dest->ops->read && b->page_size == TARGET_PAGE &&
	    dest->ops->read(dest->ctx, block, offset))
		return 0;
	return dest_request(dest, block, offset, err);
}

/* Neither in place nor zero. Return: as dest_fault() */
static int fault_missing(struct dest *dest, unsigned block, uint64_t offset, uint32_t thread,
			 uint64_t now_ns, struct wh_err *err)
{
	struct dest_block *b = &dest->block[block];
	uint64_t size = b->page_size;
	uint64_t host_page = offset / size;
	uint64_t first = host_page * size / TARGET_PAGE;
	uint64_t page = offset / TARGET_PAGE;
	bool asked;
	int ret;

	waiter_add(dest, KEY(block, host_page), thread, now_ns);
	asked = bits_test_set(b->asked, first);
	if (__atomic_load_n(&b->received[page / 64], __ATOMIC_SEQ_CST) >> page % 64 & 1) {
		dest_settle(dest, block, host_page, host_page + 1, now_ns);
		ret = dest->ops->wake(dest->ctx, block, host_page * size, size, err);
		if (ret == 0)
			return 0;
		dest_because(err, ret, "waking");
		return dest_fail_later(dest, err);
	}
	if (asked && !bits_test(b->arrived, first))
		return 0;
	return dest_want(dest, block, host_page * size, true, err);
}

int dest_fault(struct dest *dest, unsigned block, uint64_t offset, uint32_t tid, uint64_t now_ns,
	       struct wh_err *err)
{
	struct dest_block *b = &dest->block[block];
	uint32_t thread;
	struct wh_err own;
	int ret;

	err = err ? err : &own;
	*err = (struct wh_err){ 0 };
	if (block >= dest->blocks || offset >= b->region->length)
		return err_set(err, -EINVAL, "a fault at 0x%llx of block %u, which is not there",
			       (unsigned long long)offset, block);
	if (dest_get_phase(dest) == DEST_DONE)
		return 0;
	trace(page_fault, block, offset / TARGET_PAGE, tid);
	thread = thread_find(dest, tid);
	/* Behind the part that migrates there are zeros. */
	if (offset >= b->used || bits_test(b->received, offset / TARGET_PAGE))
		ret = fault_zero(dest, block, offset, now_ns, err);
	else
		ret = fault_missing(dest, block, offset, thread, now_ns, err);
	if (ret == DEST_RETRY)
		return ret;
	count_add(&dest->counters.faults, 1);
	if (thread != NO_THREAD)
		count_add(&dest->thread[thread].faults, 1);
	return ret;
}

void dest_removed(struct dest *dest, unsigned block, uint64_t offset, uint64_t length)
{
	struct dest_block *b = &dest->block[block];
	struct wh_err err = { 0 };
	uint64_t size, local, end;
	int ret;

	if (block >= dest->blocks || !dest_armed(dest_get_phase(dest)) || offset >= b->used)
		return;
	/* Host pages that are only touched keep their contents. */
	local = b->region->page_size;
	size = b->page_size;
	end = length < b->used - offset ? offset + length : b->used;
	offset = (offset + local - 1) / local * local;
	end -= end % local;
	if (offset >= end)
		return;
	dest_mark(dest, block, offset, end - offset);
	if ((offset + size - 1) / size < end / size)
		dest_settle(dest, block, (offset + size - 1) / size, end / size, DEST_NO_TIME);
	/* Whoever waits there faults again, and then gets zeros. */
	ret = dest->ops->wake(dest->ctx, block, offset, end - offset, &err);
	if (ret < 0) {
		dest_because(&err, ret, "waking");
		dest_fail_later(dest, &err);
	}
}
