/* SPDX-License-Identifier: MIT */
/*
 * Destination: pages, from arriving to being marked received.
 *
 * Before arming a page goes straight into the guest's memory. After it, pages are
 * collected in a run (one a channel) and placed together, because an ioctl a page
 * costs more than the page. A run ends where the next page is no neighbour of it, at
 * a multiple of what a stage holds, when nothing more is at hand (dest_idle()), and
 * after a host page that somebody waits for. On the urgent channel all are waited for.
 *
 * Runs are placed with waking, always. Not waking is right only where nobody can be
 * waiting, and that is not to be known here: a fault whose message has not been read
 * yet is in none of our tables, and the thread sleeps all the same. The kernel's own
 * look for waiters costs nothing while there are none.
 *
 * A page of a run whose received bit is set was removed by the guest while it lay
 * there. It is skipped, when it is filled in and again when it is placed: what the
 * guest has there now are zeros, or what it wrote since.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "base/zero.h"
#include "wire/xbzrle.h"

#include <errno.h>
#include <string.h>

#define RETRY_FIRST_NS (20 * NS_PER_US)
#define RETRY_MOST_NS NS_PER_MS
#define NO_MEMORY_NS (10 * NS_PER_S)

static unsigned long long ull(uint64_t value)
{
	return value;
}

static const char *block_name(const struct dest *dest, unsigned block)
{
	return dest->block[block].region->name;
}

void dest_zero_early(struct dest *dest, unsigned block, uint64_t offset)
{
	const struct dest_block *b = &dest->block[block];
	uint8_t *at = dest->ops->room(dest->ctx, CHANNEL_MAIN, block, offset);

	/* Writing zeros over zeros would only take memory. So does reading where
	 * nothing is: known to be absent, it is not even looked at. */
	if ((bits_test(b->received, offset / TARGET_PAGE) || !b->fresh) &&
	    !zero_page(at, TARGET_PAGE))
		memset(at, 0, TARGET_PAGE);
}

static int page_precopy(struct dest *dest, const struct ram_event *event, struct wh_err *err)
{
	struct dest_block *block = &dest->block[event->block];
	uint64_t page = event->offset / TARGET_PAGE;
	bool known = bits_test(block->received, page);
	uint8_t *at = dest->ops->room(dest->ctx, CHANNEL_MAIN, event->block, event->offset);
	int ret;

	switch (event->record) {
	case RAM_GOT_PAGE:
		if (at != event->data) /* it was received in its place */
			memcpy(at, event->data, TARGET_PAGE);
		count_add(&dest->counters.pages_normal, 1);
		break;
	case RAM_GOT_ZERO:
		dest_zero_early(dest, event->block, event->offset);
		count_add(&dest->counters.pages_zero, 1);
		break;
	case RAM_GOT_XBZRLE:
		if (!known)
			return err_set(err, -EPROTO,
				       "block '%s': a delta for page 0x%llx, which has not come yet",
				       block_name(dest, event->block), ull(event->offset));
		ret = xbzrle_get(at, event->data, event->data_length, err);
		if (ret < 0)
			return err_wrap(err, "block '%s': page 0x%llx",
					block_name(dest, event->block), ull(event->offset));
		count_add(&dest->counters.pages_xbzrle, 1);
		break;
	case RAM_GOT_BLOCKS:
	case RAM_GOT_FLUSH:
	case RAM_GOT_HOOK:
	case RAM_GOT_EOS:
		break;
	}
	trace(page_arrive, event->block, page, CHANNEL_MAIN);
	dest_row(&dest->channel[CHANNEL_MAIN], event);
	bits_set(block->arrived, page);
	bits_set(block->received, page);
	return 0;
}

/*
 * Sequentially consistent, as is the table of waiters: either we see the waiter who
 * came, or he sees the bit.
 */
static uint64_t set_new(uint64_t *word, uint64_t mask)
{
	return mask & ~__atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
}

void dest_mark(struct dest *dest, unsigned block, uint64_t offset, uint64_t length)
{
	uint64_t *map = dest->block[block].received;
	uint64_t page = offset / TARGET_PAGE;
	uint64_t end = (offset + length) / TARGET_PAGE;
	uint64_t fresh = 0;

	trace(page_mark, block, page, end - page);
	while (page < end) {
		uint64_t next = (page / 64 + 1) * 64;
		uint64_t mask = ~UINT64_C(0) << page % 64;
		uint64_t set;

		if (next > end) {
			next = end;
			mask &= ~(~UINT64_C(0) << end % 64);
		}
		set = set_new(&map[page / 64], mask);
		if (set == mask)
			fresh += next - page;
		else
			for (; set; set &= set - 1)
				fresh++;
		page = next;
	}
	if (fresh &&
	    __atomic_sub_fetch(&dest->counters.pages_missing, fresh, __ATOMIC_ACQ_REL) == 0)
		dest->ops->last_page(dest->ctx);
}

int dest_later(struct dest *dest, enum channel channel, enum placed outcome, uint64_t now_ns,
	       struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[channel];

	c->retry_ns = c->retry_ns ? c->retry_ns * 2 : RETRY_FIRST_NS;
	if (c->retry_ns > RETRY_MOST_NS)
		c->retry_ns = RETRY_MOST_NS;
	if (outcome != PLACED_NO_MEMORY)
		return DEST_RETRY;
	if (!c->no_memory_since_ns)
		c->no_memory_since_ns = now_ns ? now_ns : 1;
	else if (now_ns > c->no_memory_since_ns && now_ns - c->no_memory_since_ns > NO_MEMORY_NS)
		return err_set(err, -ENOMEM, "no memory for a page of the guest for %llu s",
			       ull(NO_MEMORY_NS / NS_PER_S));
	return DEST_RETRY;
}

void dest_went_on(struct dest *dest, enum channel channel)
{
	dest->channel[channel].retry_ns = 0;
	dest->channel[channel].no_memory_since_ns = 0;
}

/* Bytes of the run in whole host pages */
static uint64_t run_whole(const struct dest *dest, const struct dest_run *run)
{
	uint64_t size = dest->block[run->block].page_size;
	uint64_t end = run->offset + run->length;

	end -= end % size;
	return end > run->offset ? end - run->offset : 0;
}

static void run_advance(struct dest *dest, struct dest_run *run, uint64_t bytes, uint64_t now_ns)
{
	uint64_t size = dest->block[run->block].page_size;
	uint64_t first = run->offset / size;

	run->offset += bytes;
	run->length -= bytes;
	if (run->offset / size > first)
		dest_settle(dest, run->block, first, run->offset / size, now_ns);
}

/* Somebody else's page is there: it stays, and who waits for it is woken by hand. */
static int run_before(struct dest *dest, struct dest_run *run, uint64_t now_ns, struct wh_err *err)
{
	const struct dest_block *block = &dest->block[run->block];
	uint64_t bytes = block->region->page_size;
	uint64_t offset = run->offset;
	int ret;

	count_add(&dest->counters.pages_before, bytes / TARGET_PAGE);
	/* If that fails the page is not marked: it comes again, and so does the wake. */
	ret = dest->ops->wake(dest->ctx, run->block, offset, bytes, err);
	if (ret < 0)
		return dest_because(err, ret, "waking");
	dest_mark(dest, run->block, offset, bytes);
	run_advance(dest, run, bytes, now_ns);
	return 0;
}

/* What became of the page at the front of the run. Return: 0 go on, or as dest_flush() */
static int run_outcome(struct dest *dest, enum channel channel, enum placed outcome, uint64_t end,
		       uint64_t now_ns, struct wh_err *err)
{
	struct dest_run *run = &dest->channel[channel].run;
	const uint64_t *received = dest->block[run->block].received;
	uint64_t page = run->offset / TARGET_PAGE;

	switch (outcome) {
	case PLACED_OK:
		return 0;
	case PLACED_BEFORE:
		return run_before(dest, run, now_ns, err);
	case PLACED_CHANGING:
		/* A page removed meanwhile is looked for at once: there is less to place. */
		if (bits_next_set(received, page, end) < end)
			return 0;
		return dest_later(dest, channel, outcome, now_ns, err);
	case PLACED_NO_MEMORY:
		return dest_later(dest, channel, outcome, now_ns, err);
	case PLACED_GONE:
		if (bits_test(received, page))
			return 0;
		return err_set(err, -EFAULT,
			       "block '%s': page 0x%llx is to be placed, and its memory is not there",
			       block_name(dest, run->block), ull(run->offset));
	case PLACED_DEAD:
		return err_set(err, -ESRCH, "block '%s': the process of the memory is gone",
			       block_name(dest, run->block));
	case PLACED_PINNED:
	case PLACED_FAILED:
	case PLACED_COUNT:
		break;
	}
	return dest_because(err, -EIO, "placing");
}

/* One step of dest_flush(): skip what was removed, or place up to the next of those */
static int run_place(struct dest *dest, enum channel channel, uint64_t whole, uint64_t now_ns,
		     struct wh_err *err)
{
	const struct dest_ops *ops = dest->ops;
	struct dest_run *run = &dest->channel[channel].run;
	const uint64_t *received = dest->block[run->block].received;
	uint64_t first = run->offset / TARGET_PAGE;
	uint64_t end = first + whole / TARGET_PAGE;
	uint64_t from = bits_next_clear(received, first, end);
	uint64_t length, done = 0;
	enum placed outcome;

	if (from > first) {
		run_advance(dest, run, (from - first) * TARGET_PAGE, now_ns);
		return 0;
	}
	end = bits_next_set(received, first, end);
	length = (end - first) * TARGET_PAGE;
	if (run->zero)
		outcome = ops->zero(dest->ctx, channel, run->block, run->offset, length, true,
				    &done, err);
	else
		outcome = ops->place(dest->ctx, channel, run->block, run->offset, length, true,
				     &done, err);
	trace(page_place, run->block, first, outcome);
	if (outcome == PLACED_OK || done > length)
		done = length;
	if (done == length)
		outcome = PLACED_OK;
	if (done) {
		dest_mark(dest, run->block, run->offset, done);
		run_advance(dest, run, done, now_ns);
		dest_went_on(dest, channel);
	}
	return run_outcome(dest, channel, outcome, end, now_ns, err);
}

int dest_flush(struct dest *dest, enum channel channel, uint64_t now_ns, struct wh_err *err)
{
	struct dest_run *run = &dest->channel[channel].run;
	uint64_t whole;
	int ret;

	if (!run->length)
		return 0;
	while ((whole = run_whole(dest, run))) {
		ret = run_place(dest, channel, whole, now_ns, err);
		if (ret)
			return ret;
	}
	dest_went_on(dest, channel);
	return 0;
}

void dest_drop(struct dest *dest, enum channel channel)
{
	struct dest_channel *c = &dest->channel[channel];
	struct dest_run *run = &c->run;
	uint64_t end = run->offset + run->length;

	if (run->length) {
		struct dest_block *block = &dest->block[run->block];
		uint64_t offset = run->offset - run->offset % block->page_size;

		for (; offset < end; offset += block->page_size)
			bits_clear(block->arrived, offset / TARGET_PAGE);
	}
	run->length = 0;
	c->inside = false;
	c->holding = false;
	dest_went_on(dest, channel);
}

/* Is this page where the channel has to go on? Host pages come whole and ascending. */
static int page_order(const struct dest *dest, const struct dest_channel *c,
		      const struct ram_event *event, struct wh_err *err)
{
	uint64_t size = dest->block[event->block].page_size;

	if (!c->inside) {
		if (event->offset % size == 0)
			return 0;
		return err_set(err, -EPROTO,
			       "block '%s': page 0x%llx of a host page of 0x%llx that has not begun",
			       block_name(dest, event->block), ull(event->offset), ull(size));
	}
	if (event->block == c->next_block && event->offset == c->next_offset)
		return 0;
	return err_set(err, -EPROTO,
		       "block '%s': page 0x%llx, expected 0x%llx of '%s', in whose host page we are",
		       block_name(dest, event->block), ull(event->offset), ull(c->next_offset),
		       block_name(dest, c->next_block));
}

/* Does this host page go on with the run? One that fills a stage is placed at once. */
static bool run_takes(const struct dest_run *run, const struct ram_event *event)
{
	if (!run->length)
		return true;
	return run->block == event->block && run->offset + run->length == event->offset &&
	       run->zero == (event->record == RAM_GOT_ZERO);
}

/* Contents into room(); data NULL for zeros */
static void page_fill(struct dest *dest, enum channel channel, unsigned block, uint64_t offset,
		      const uint8_t *data)
{
	const struct dest_ops *ops = dest->ops;

	if (ops->hold)
		ops->hold(dest->ctx, true);
	if (!bits_test(dest->block[block].received, offset / TARGET_PAGE)) {
		uint8_t *at = ops->room(dest->ctx, channel, block, offset);

		if (data && data != at)
			memcpy(at, data, TARGET_PAGE);
		else if (!data)
			memset(at, 0, TARGET_PAGE);
	}
	if (ops->hold)
		ops->hold(dest->ctx, false);
}

/* Zeros so far, contents from here on: the begun host page gets its zeros written out. */
static void run_mix(struct dest *dest, enum channel channel)
{
	struct dest_run *run = &dest->channel[channel].run;

	for (uint64_t at = 0; at < run->length; at += TARGET_PAGE)
		page_fill(dest, channel, run->block, run->offset + at, NULL);
	run->zero = false;
}

static void run_append(struct dest *dest, enum channel channel, const struct ram_event *event)
{
	struct dest_run *run = &dest->channel[channel].run;
	bool zero = event->record == RAM_GOT_ZERO;

	if (!run->length) {
		run->block = event->block;
		run->offset = event->offset;
		run->zero = zero;
	} else if (run->zero && !zero) {
		run_mix(dest, channel);
	}
	if (!run->zero)
		page_fill(dest, channel, event->block, event->offset, zero ? NULL : event->data);
	run->length += TARGET_PAGE;
}

/* What has to be placed before this page can be taken. Return: as dest_flush() */
static int page_make_way(struct dest *dest, enum channel channel, const struct ram_event *event,
			 uint64_t now_ns, struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[channel];

	if (c->inside && (!c->run.zero || event->record == RAM_GOT_ZERO))
		return 0;
	if (!c->inside && run_takes(&c->run, event))
		return 0;
	return dest_flush(dest, channel, now_ns, err);
}

/* Not now: whoever called has to give the contents back to the link. */
static int page_hold(struct dest_channel *c, const struct ram_event *event)
{
	c->held = *event;
	c->held.data_length = event->record == RAM_GOT_PAGE ? TARGET_PAGE : 0;
	c->holding = true;
	return DEST_HELD;
}

static void page_count(struct dest *dest, enum channel channel, const struct ram_event *event)
{
	if (event->record == RAM_GOT_ZERO)
		count_add(&dest->counters.pages_zero, 1);
	else
		count_add(&dest->counters.pages_normal, 1);
	if (channel == CHANNEL_URGENT)
		count_add(&dest->counters.pages_urgent, 1);
	trace(page_arrive, event->block, event->offset / TARGET_PAGE, channel);
}

bool dest_may_wait(const struct dest *dest)
{
	return dest->channel[CHANNEL_MAIN].run.length && dest_get_phase(dest) == DEST_RUNNING &&
	       !__atomic_load_n(&dest->hurry, __ATOMIC_SEQ_CST);
}

/* The host page at `offset` has come: may it wait for its neighbours? */
static bool page_must_go(struct dest *dest, enum channel channel, unsigned block, uint64_t offset)
{
	struct dest_block *b = &dest->block[block];
	uint64_t first = (offset - offset % b->page_size) / TARGET_PAGE;

	if (channel == CHANNEL_URGENT)
		return true;
	/* Taken back before flushing: a fault that sets it later finds its page placed, or
	 * is heeded with the next one. */
	if (__atomic_load_n(&dest->hurry, __ATOMIC_RELAXED)) {
		__atomic_store_n(&dest->hurry, false, __ATOMIC_SEQ_CST);
		return true;
	}
	return bits_test(b->asked, first) || (offset + TARGET_PAGE) % run_bytes(b, channel) == 0;
}

static int page_postcopy(struct dest *dest, enum channel channel, const struct ram_event *event,
			 uint64_t now_ns, struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[channel];
	struct dest_block *block = &dest->block[event->block];
	int ret;

	ret = page_order(dest, c, event, err);
	if (ret < 0)
		return ret;
	ret = page_make_way(dest, channel, event, now_ns, err);
	if (ret == DEST_RETRY)
		return page_hold(c, event);
	if (ret < 0)
		return ret;
	if (!c->inside)
		c->before = bits_test_set(block->arrived, event->offset / TARGET_PAGE);
	page_count(dest, channel, event);
	dest_row(c, event);
	if (c->before)
		count_add(&dest->counters.pages_before, 1);
	else
		run_append(dest, channel, event);
	c->next_block = event->block;
	c->next_offset = event->offset + TARGET_PAGE;
	c->inside = c->next_offset % block->page_size != 0;
	if (c->inside || c->before || !page_must_go(dest, channel, event->block, event->offset))
		return 0;
	return dest_flush(dest, channel, now_ns, err);
}

int dest_page(struct dest *dest, enum channel channel, const struct ram_event *event,
	      uint64_t now_ns, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);

	/* The other thread has finished meanwhile: a copy of what is there. */
	if (phase == DEST_DONE)
		return 0;
	if (!dest_phase_accepts_pages(phase) || (channel == CHANNEL_URGENT && !dest_armed(phase)))
		return err_set(err, -EPROTO, "a page in phase '%s'", dest_phase_name(phase));
	if (!dest_armed(phase))
		return page_precopy(dest, event, err);
	if (event->record == RAM_GOT_XBZRLE)
		return err_set(err, -EPROTO, "block '%s': a delta for page 0x%llx in phase '%s'",
			       block_name(dest, event->block), ull(event->offset),
			       dest_phase_name(phase));
	return page_postcopy(dest, channel, event, now_ns, err);
}
