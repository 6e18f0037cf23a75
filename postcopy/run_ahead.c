/* SPDX-License-Identifier: MIT */
/*
 * Joining: the helper thread of a destination. It has pages allocated and zeroed which the
 * bulk thread is about to fill: that costs as much as all the rest of a page, and another
 * processor may be idle. Whether it is of use is tried (dest_trial.h). When the migration has
 * ended the bulk thread, which has nothing else to do by then, makes huge pages of the small ones
 * that came.
 *
 * Both are hints. Where the helper is late, has no memory, or could not be started, pages are
 * placed as if there were none. It works between arming and disarming, with threads of the
 * library's own only, and not where the guest removes memory: what it allocated behind a
 * removal would stay.
 *
 * Before arming it works where pages come in a long row. It is over when precopy is: a page that is
 * dropped then is to be missing, and what it allocated would be a page of zeros instead.
 */
#include "postcopy/run_dest.h"

#include <string.h>
#include <time.h>

#define AHEAD_STAGES 4u /* of 2 MiB: what is allocated and then not filled is no more than that */
/* Before arming that stays: so it is no more than a quarter of the row that it lies behind */
#define ROW_PER_AHEAD 4u

/* When it has ended: what cannot be made huge at once is tried again, for 6 s in all */
#define COLLAPSE_PASSES 7u
#define COLLAPSE_AGAIN_NS (50 * NS_PER_MS)
#define REST_NS (20 * NS_PER_MS)

/* Has the stream gone on to another stage? Then the helper looks, if it is of use */
static void go_on(struct ahead *ahead, const struct ahead_at *at)
{
	if (ahead->block == at->block && ahead->part == at->part)
		return;
	/* Memory of another kind, for all that is known */
	if (ahead->block != at->block)
		ahead->trial = (struct dest_trial){ 0 };
	ahead->block = at->block;
	ahead->part = at->part;
	ahead->helps = dest_trial_part(&ahead->trial, clock_now_ns());
	if (!ahead->helps)
		return;
	pthread_mutex_lock(&ahead->lock);
	ahead->at = *at;
	ahead->moved = true;
	pthread_cond_signal(&ahead->cond);
	pthread_mutex_unlock(&ahead->lock);
}

void ahead_follow(struct wh_migration *m, unsigned block, uint64_t offset)
{
	const struct ahead_at at = {
		.block = block,
		.part = offset / STAGE_BYTES,
		.reach = AHEAD_STAGES,
		.end = m->dest->engine.block[block].used,
	};

	if (m->dest->ahead.running)
		go_on(&m->dest->ahead, &at);
}

/* Sleeps until the stream has moved. False: stop */
static bool next_position(struct ahead *ahead, struct ahead_at *at, bool sleep)
{
	bool stop;

	pthread_mutex_lock(&ahead->lock);
	while (sleep && !ahead->moved && !ahead->stop)
		pthread_cond_wait(&ahead->cond, &ahead->lock);
	ahead->moved = false;
	*at = ahead->at;
	stop = ahead->stop;
	pthread_mutex_unlock(&ahead->lock);
	return !stop;
}

/* One stage of the block */
static int populate(struct wh_migration *m, const struct ahead_at *at, uint64_t part)
{
	struct dest_side *side = m->dest;
	uint64_t offset = part * STAGE_BYTES;
	struct region *region = &m->region[at->block];
	struct wh_err err = { 0 };
	uint64_t length;
	int ret;

	if (offset >= at->end)
		return 0;
	length = at->end - offset < STAGE_BYTES ? at->end - offset : STAGE_BYTES;
	if (side->ahead.early)
		ret = mapping_populate(region, region->addr, offset, length, &err);
	else
		ret = placer_ahead(&side->placer[at->block], side->engine.block[at->block].received,
				   offset, length, &err);
	if (ret < 0)
		run_log(m, WH_LOG_WARNING, "pages are not allocated ahead any more: %s", err.text);
	return ret;
}

static bool goes_ahead(const struct dest_side *side, unsigned block)
{
	if (side->ahead.early)
		return block < RAM_BLOCKS_MAX;
	return block < side->engine.blocks && placer_goes_ahead(&side->placer[block]);
}

static void *ahead_main(void *arg)
{
	struct wh_migration *m = arg;
	struct dest_side *side = m->dest;
	struct ahead *ahead = &side->ahead;
	bool given_up[RAM_BLOCKS_MAX] = { false };
	unsigned last = RAM_BLOCKS_MAX;
	struct ahead_at at;
	uint64_t next = 0;
	bool busy = false;

	if (!ahead->early)
		priority_yield(m);
	while (next_position(ahead, &at, !busy)) {
		busy = !ahead->early && stage_ahead(&side->stage[CHANNEL_MAIN]);
		if (!goes_ahead(side, at.block) || given_up[at.block])
			continue;
		/* Not again what was done, nor far behind a stream that has jumped */
		if (at.block != last || next <= at.part || next > at.part + 1 + AHEAD_STAGES)
			next = at.part + 1;
		last = at.block;
		if (next > at.part + at.reach)
			continue;
		given_up[at.block] = populate(m, &at, next++) < 0;
		if (ahead->early && given_up[at.block])
			__atomic_store_n(&ahead->refused, true, __ATOMIC_RELEASE);
		busy = true;
	}
	return NULL;
}

static bool helper_new(struct wh_migration *m, bool early)
{
	struct ahead *ahead = &m->dest->ahead;
	int ret;

	if (m->fault == m->bulk || m->config.removes)
		return false;
	ahead->at = (struct ahead_at){ .block = RAM_BLOCKS_MAX };
	ahead->block = RAM_BLOCKS_MAX;
	ahead->stop = ahead->moved = false;
	ahead->early = early;
	ret = pthread_create(&ahead->thread, NULL, ahead_main, m);
	if (ret)
		run_log(m, WH_LOG_WARNING, "pages are not allocated ahead: no thread: %s",
			strerror(ret));
	else
		/* from here: it is there, under its name, when the guest is started */
		pthread_setname_np(ahead->thread, "wherry-ahead");
	ahead->running = ret == 0;
	return ahead->running;
}

void ahead_start(struct wh_migration *m)
{
	(void)helper_new(m, false);
}

bool ahead_early(struct wh_migration *m, unsigned region, uint64_t offset, uint64_t used,
		 uint64_t row)
{
	struct ahead *ahead = &m->dest->ahead;
	uint64_t behind = (offset + row / ROW_PER_AHEAD) / STAGE_BYTES;
	struct ahead_at at = {
		.block = region,
		.part = offset / STAGE_BYTES,
		.end = used,
	};

	if (behind <= at.part + 1 || __atomic_load_n(&ahead->refused, __ATOMIC_ACQUIRE))
		return false;
	if (!ahead->running && !helper_new(m, true)) {
		__atomic_store_n(&ahead->refused, true, __ATOMIC_RELEASE);
		return false;
	}
	at.reach = behind - at.part - 1;
	if (at.reach > AHEAD_STAGES)
		at.reach = AHEAD_STAGES;
	go_on(ahead, &at);
	return ahead->helps;
}

void ahead_stop(struct wh_migration *m)
{
	struct ahead *ahead = &m->dest->ahead;

	if (!ahead->running)
		return;
	pthread_mutex_lock(&ahead->lock);
	ahead->stop = true;
	pthread_cond_signal(&ahead->cond);
	pthread_mutex_unlock(&ahead->lock);
	pthread_join(ahead->thread, NULL);
	ahead->running = false;
}

/* In pieces, since whoever frees the migration waits for it. False: it is to stop */
static bool rest(struct wh_migration *m, uint64_t ns)
{
	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
		struct timespec time = { .tv_nsec = (long)(ns < REST_NS ? ns : REST_NS) };

		if (!ns)
			return true;
		nanosleep(&time, NULL);
		ns -= (uint64_t)time.tv_nsec;
	}
	return false;
}

/* What was refused is added to @refused. False: it is to stop */
static bool collapse_block(struct wh_migration *m, unsigned block, uint64_t *refused)
{
	struct dest_side *side = m->dest;
	uint64_t used = side->engine.block[block].used;
	struct placer_collapse count = { 0 };
	int ret = 0;

	for (uint64_t at = 0; ret == 0 && at < used; at += STAGE_BYTES) {
		uint64_t left = used - at, made = count.made;
		uint64_t begin_ns = clock_now_ns();

		ret = placer_collapse(&side->placer[block], at,
				      left < STAGE_BYTES ? left : STAGE_BYTES, &count, NULL);
		if (count.made > made)
			__atomic_fetch_add(&side->collapsed, count.made - made, __ATOMIC_RELAXED);
		/* As long to others as to itself: a guest that has the memory mapped waits for each */
		if (!rest(m, count.made > made ? clock_now_ns() - begin_ns : 0))
			return false;
	}
	*refused += count.refused;
	return true;
}

/*
 * The kernel refuses one of which a page is in somebody's hands just then, be it a processor's
 * own list of those that it has placed; or for which it has no huge page. Both pass.
 */
void ahead_collapse(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	uint64_t pause_ns = COLLAPSE_AGAIN_NS;
	uint64_t refused = side->finished;

	for (unsigned pass = 0; refused && pass < COLLAPSE_PASSES; pass++, pause_ns *= 2) {
		if (pass && !rest(m, pause_ns))
			return;
		refused = 0;
		for (unsigned i = 0; i < side->engine.blocks; i++)
			if (side->placer_up[i] && !collapse_block(m, i, &refused))
				return;
	}
}
