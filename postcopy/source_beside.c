/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/trace.h"
#include "postcopy/source_internal.h"

/*
 * RDMA: precopy whose pages go out beside the stream. A word in the RAM section says that they come
 * next; when it is with the destination they are handed over, as fast as somebody takes them; and
 * only when all of them are there the section, and with it the stream, goes on. A bracket is a
 * round, or what of it is left when the guest is stopped. The first one, in the section that has the
 * list of blocks, is for the two ends to tell each other where their memory is.
 *
 * In postcopy there are none: pages go out on the stream, as without RDMA. The switch breaks a
 * round off, and its bracket ends with what was handed over until then.
 */

/* The stream says that pages come beside it, and nothing more until they are there */
void source_beside_begin(struct source *source, struct batch *batch, enum source_beside next)
{
	batch_commit(batch, ram_put_hook(batch_arena(batch)));
	source->beside = next;
}

/* Dirty pages, up to so many bytes. Return: there are none left; else *@full says why */
static bool hand_over(struct source *source, size_t bytes_max, bool *full)
{
	struct source_span *span = &source->channel[CHANNEL_MAIN].span;
	size_t bytes = 0;

	*full = false;
	while (bytes < bytes_max && source_have_page(source)) {
		*full = !source->ops->beside_page(source->ctx, span->block, span->page);
		if (*full)
			break;
		trace(page_send, span->block, span->page, CHANNEL_MAIN);
		span->page++;
		bytes += TARGET_PAGE;
	}
	bucket_take(&source->bucket, bytes);
	source->round_bytes += bytes;
	return !*full && bytes < bytes_max;
}

/* What was announced may begin */
static void open_bracket(struct source *source)
{
	if (source->beside != BESIDE_LIST && source->beside != BESIDE_PAGES)
		return;
	source->ops->beside_open(source->ctx);
	source->beside = source->beside == BESIDE_LIST ? BESIDE_LAST : BESIDE_OPEN;
}

/* Nothing more is handed over. When all of it is there the section ends */
static int close_bracket(struct source *source, struct batch *batch)
{
	source->beside = BESIDE_LAST;
	if (!source->ops->beside_close(source->ctx))
		return source_wait(source, UINT64_MAX);
	batch_part_end(batch);
	source->beside = BESIDE_NONE;
	return source_send(source, batch, false);
}

int source_beside_stop(struct source *source, struct batch *batch)
{
	struct source_span *span = &source->channel[CHANNEL_MAIN].span;

	if (source->beside == BESIDE_NONE)
		return SOURCE_AGAIN;
	open_bracket(source);
	/* taken and not handed over: it is dirty, and counted anew at the switch */
	for (; span->page < span->end; span->page++)
		bits_set(source->block[span->block].dirty, span->page);
	return close_bracket(source, batch);
}

int source_beside_pages(struct source *source, uint64_t now_ns, size_t bytes_max,
			struct batch *batch)
{
	bool full;

	if (source->beside == BESIDE_NONE) {
		if (!source_have_page(source))
			return SOURCE_AGAIN;
		batch_part(batch, SECTION_PART);
		source_beside_begin(source, batch, BESIDE_PAGES);
		return source_send(source, batch, false);
	}
	open_bracket(source);
	if (source->beside == BESIDE_OPEN) {
		if (!hand_over(source, bytes_max, &full))
			/* for room, which wakes it; or the limit is asked again */
			return source_wait(source, full ? UINT64_MAX : now_ns);
	}
	return close_bracket(source, batch);
}

void source_beside_done(struct source *source, uint64_t bytes, uint64_t zero_bytes)
{
	source_count(&source->counters.bytes[CHANNEL_MAIN], bytes);
	source_count(&source->counters.pages_normal, bytes / TARGET_PAGE);
	source_count(&source->counters.pages_zero, zero_bytes / TARGET_PAGE);
	if (source->phase == SOURCE_PRECOPY)
		source->meter.bytes += bytes;
	/* they were taken for bytes when they were handed over */
	if (source->bucket.rate)
		source->bucket.bytes += (int64_t)zero_bytes;
}

void source_gave_up(struct source *source)
{
	__atomic_store_n(&source->shut, SHUT_SAID | 1, __ATOMIC_RELEASE);
}
