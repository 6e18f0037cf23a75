/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/err.h"
#include "postcopy/source_internal.h"

#include <errno.h>

/*
 * Postcopy: the guest runs at the other end. Everything dirty goes out once, requests
 * first: on the urgent channel (source_request.c, the other thread), or here, in front
 * of the next background batch.
 */

/* Without an urgent channel: requested pages, and nothing behind them in this batch. */
static bool serve_here(struct source *source, struct batch *batch)
{
	const struct source_fill fill = { .bytes_max = SOURCE_URGENT_BYTES,
					  .pages_max = UINT64_MAX };
	uint64_t claimed;

	if (source_queue_empty(source) && !source->serving.active)
		return false;
	batch_part(batch, SECTION_PART);
	claimed = source_serve(source, CHANNEL_MAIN, batch, &fill);
	__atomic_fetch_sub(&source->pages_left, claimed, __ATOMIC_RELEASE);
	if (batch->bytes == PART_HEAD) {
		/* all of them were clean */
		batch_reset(batch);
		return false;
	}
	batch_part_end(batch);
	return true;
}

/*
 * QEMU 7.2 reads its urgent channel until an end mark and then never again, after a recovery
 * neither: what is asked for in one would be sent in vain, and it would not notice. So there is none
 * before all that is on the main channel is known to have arrived.
 */
static bool ends_urgent(const struct source *source)
{
	return source->urgent_open && source->config.urgent == WH_URGENT_AT_START;
}

int source_background(struct source *source, uint64_t now_ns, struct batch *batch)
{
	const struct source_span *span = &source->channel[CHANNEL_MAIN].span;
	struct source_fill fill = { .pages_max = UINT64_MAX };
	uint64_t until_ns;

	if (!source->urgent_open && serve_here(source, batch))
		return source_send(source, batch, false);

	until_ns = bucket_wait(&source->bucket, now_ns, &fill.bytes_max);
	if (until_ns && (source_pages_left(source) || span->page < span->end))
		return source_wait(source, until_ns);
	if (!source->urgent_open) {
		fill.pages_max = SOURCE_BEHIND_PAGES;
		if (fill.bytes_max > SOURCE_BEHIND_BYTES)
			fill.bytes_max = SOURCE_BEHIND_BYTES;
	}
	batch_part(batch, SECTION_PART);
	if (source_fill(source, batch, &fill)) {
		batch_part_end(batch);
		return source_send(source, batch, true);
	}
	batch_reset(batch);
	/* The other thread has taken the last ones, and says so when they are sent. */
	if (source_pages_left(source))
		return source_wait(source, UINT64_MAX);
	source->step = STEP_END;
	if (!ends_urgent(source))
		return SOURCE_AGAIN;
	batch_ping(batch, PING_ARRIVED);
	source->step = STEP_ARRIVED;
	return source_send(source, batch, false);
}

int source_arrived(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	if (!__atomic_load_n(&source->arrived, __ATOMIC_ACQUIRE))
		return source_owed(source, now_ns, err);
	source->step = STEP_END;
	return SOURCE_AGAIN;
}

int source_end(struct source *source, struct batch *batch)
{
	bool mark = ends_urgent(source);

	batch_part(batch, SECTION_END);
	batch_part_end(batch);
	batch_commit(batch, stream_put_eof(batch_arena(batch)));
	/* in front of the phase: who sees that it is ending finds the mark */
	__atomic_store_n(&source->urgent_end, mark, __ATOMIC_RELEASE);
	source_move(source, SOURCE_ENDING, NULL);
	source->step = STEP_ANSWER;
	if (mark && source->ops->serve)
		source->ops->serve(source->ctx);
	return source_send(source, batch, false);
}

/* Everything is written. SHUT was looked at already; a peer that says nothing is gone. */
int source_answer(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	if (!source->return_path && !source_lanes_idle(source))
		return source_wait(source, UINT64_MAX);
	if (!source->return_path) {
		source_move(source, SOURCE_DONE, NULL);
		return SOURCE_ENDED;
	}
	return source_owed(source, now_ns, err);
}

int source_owed(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	uint64_t silent_ns = source->config.dead_peer_ns;
	uint64_t since_ns = __atomic_load_n(&source->heard_ns, __ATOMIC_ACQUIRE);

	if (!silent_ns)
		return source_wait(source, UINT64_MAX);
	if (since_ns < source->answer_ns)
		since_ns = source->answer_ns;
	/* the other thread's clock may have been read a little later */
	if (now_ns < since_ns || now_ns - since_ns < silent_ns)
		return source_wait(source, since_ns + silent_ns);
	err_set(err, -ETIMEDOUT, "the destination has said nothing for %llu ms",
		(unsigned long long)(silent_ns / 1000000));
	return source_break(source, err);
}
