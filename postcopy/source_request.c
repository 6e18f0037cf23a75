/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "postcopy/source_internal.h"

#include <errno.h>
#include <string.h>

/*
 * Requests: from the return path into the queue, and from the queue into batches.
 * They are never acknowledged, the page is the answer. What is asked for and clean is on
 * its way already, behind all that lies in the bulk channel's buffers: megabytes, where
 * the link is fast and the other end slower. A destination of ours gets it once more, on
 * the urgent channel, and drops the copy that comes second; any other has to wait. Not
 * so a huge page, which is no sooner there than what lies in front of it.
 *
 * The queue has one producer and one taker. Each end owns its index; slot contents
 * are published by the release of `tail` and given back by the release of `head`.
 */

bool source_queue_empty(const struct source *source)
{
	return __atomic_load_n(&source->queue.tail, __ATOMIC_ACQUIRE) ==
	       __atomic_load_n(&source->queue.head, __ATOMIC_RELAXED);
}

static bool queue_full(const struct source *source)
{
	return __atomic_load_n(&source->queue.tail, __ATOMIC_RELAXED) -
		       __atomic_load_n(&source->queue.head, __ATOMIC_ACQUIRE) ==
	       SOURCE_QUEUE;
}

static void queue_push(struct source *source, const struct source_request *request)
{
	struct source_queue *queue = &source->queue;
	uint32_t tail = __atomic_load_n(&queue->tail, __ATOMIC_RELAXED);

	queue->slot[tail % SOURCE_QUEUE] = *request;
	__atomic_store_n(&queue->tail, tail + 1, __ATOMIC_RELEASE);
}

static bool queue_pop(struct source *source, struct source_request *request)
{
	struct source_queue *queue = &source->queue;
	uint32_t head = __atomic_load_n(&queue->head, __ATOMIC_RELAXED);

	if (source_queue_empty(source))
		return false;
	*request = queue->slot[head % SOURCE_QUEUE];
	/*
	 * Between the taker, which makes room and then looks whether input is held
	 * back, and the request thread, which says that it is and then looks for room
	 * (source_input()): one of the two sees the other, so nobody waits for ever.
	 */
	__atomic_store_n(&queue->head, head + 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&source->held_back, __ATOMIC_SEQ_CST) &&
	    __atomic_exchange_n(&source->held_back, false, __ATOMIC_SEQ_CST) && source->ops->serve)
		source->ops->serve(source->ctx);
	return true;
}

static int find_block(const struct source *source, const struct wire_name *name)
{
	for (unsigned i = 0; i < source->blocks; i++) {
		const struct wire_name *have = &source->block[i].name;

		if (have->length == name->length && !memcmp(have->text, name->text, name->length))
			return (int)i;
	}
	return -1;
}

/* Request thread. Behind the end mark there is nothing more. */
static bool may_go_again(const struct source *source, const struct source_request *request)
{
	const struct source_block *b = &source->block[request->block];

	return source->peer == PEER_OURS && !source->urgent_over && request->pages == 1 &&
	       b->region->page_size == TARGET_PAGE &&
	       __atomic_load_n(&source->urgent_open, __ATOMIC_ACQUIRE);
}

static int take_request(struct source *source, uint64_t start, uint32_t length, uint64_t now_ns,
			struct wh_err *err)
{
	const struct source_block *b = &source->block[source->reply_block];
	const struct region *region = b->region;
	struct source_request request = {
		.block = (uint32_t)source->reply_block,
		.pages = (uint32_t)(length / TARGET_PAGE),
		.page = start / TARGET_PAGE,
		.since_ns = now_ns,
	};

	if (start % region->page_size || length % region->page_size)
		return err_set(err, -EPROTO,
			       "request for 0x%llx+0x%x of %s: not in pages of 0x%llx",
			       (unsigned long long)start, length, b->name.text,
			       (unsigned long long)region->page_size);
	if (start > region->length || length > region->length - start)
		return err_set(err, -EPROTO, "request for 0x%llx+0x%x of %s: it has 0x%llx bytes",
			       (unsigned long long)start, length, b->name.text,
			       (unsigned long long)region->length);
	source_count(&source->counters.requests, 1);
	trace(page_request, request.block, request.page, request.pages);
	if (!may_go_again(source, &request) &&
	    bits_next_set(b->dirty, request.page, request.page + request.pages) ==
		    request.page + request.pages)
		return 0;
	queue_push(source, &request);
	/* the other thread answers it only where there is no urgent channel */
	return !__atomic_load_n(&source->urgent_open, __ATOMIC_ACQUIRE);
}

static int take_shut(struct source *source, uint32_t value, struct wh_err *err)
{
	enum source_phase phase = source_get_phase(source);

	if (!value && phase != SOURCE_HANDOVER && phase != SOURCE_ENDING)
		return err_set(err, -EPROTO, "SHUT 0 in phase %s, before everything was sent",
			       source_phase_name(phase));
	__atomic_store_n(&source->shut, SHUT_SAID | value, __ATOMIC_RELEASE);
	return 1;
}

/* Whoever sends PING_WHO back as it was does not know what it asks. */
static void take_who(struct source *source, uint32_t value)
{
	if (value == PONG_OURS)
		__atomic_store_n(&source->peer, PEER_OURS, __ATOMIC_RELEASE);
	else if (value == PING_WHO && source->peer == PEER_UNKNOWN)
		__atomic_store_n(&source->peer, PEER_OTHER, __ATOMIC_RELEASE);
}

/* Return: 1 the bulk thread wants to know, 0 it does not, -EPROTO */
static int take_message(struct source *source, const struct rp_msg *msg, uint64_t now_ns,
			struct wh_err *err)
{
	enum source_phase phase = source_get_phase(source);
	int block;

	/* behind RESUME_ACK requests may come at once; the bulk thread moves when it sees it */
	if (phase == SOURCE_RECOVER && __atomic_load_n(&source->resumed, __ATOMIC_RELAXED))
		phase = SOURCE_POSTCOPY;
	if (!source_phase_accepts(phase, msg->kind))
		return err_set(err, -EPROTO, "%s in phase %s", rp_name(msg->kind),
			       source_phase_name(phase));
	if (__atomic_load_n(&source->shut, __ATOMIC_RELAXED))
		return err_set(err, -EPROTO, "%s after SHUT", rp_name(msg->kind));
	if (phase == SOURCE_RECOVER && msg->kind != RP_WHERRY_HELLO && source->identity.known &&
	    !source->identity.proven)
		return err_set(err, -EPROTO,
			       "%s, by one who has not proved to be the destination of this "
			       "migration",
			       rp_name(msg->kind));
	__atomic_store_n(&source->heard_ns, now_ns, __ATOMIC_RELEASE);

	switch (msg->kind) {
	case RP_SHUT:
		return take_shut(source, msg->shut.value, err);
	case RP_PONG:
		take_who(source, msg->pong.value);
		__atomic_store_n(&source->pong, true, __ATOMIC_RELEASE);
		if (msg->pong.value == PING_ARRIVED)
			__atomic_store_n(&source->arrived, true, __ATOMIC_RELEASE);
		return 1;
	case RP_REQ_PAGES_ID:
		block = find_block(source, &msg->req_pages_id.block);
		if (block < 0)
			return err_set(err, -EPROTO, "request for pages of unknown block \"%s\"",
				       msg->req_pages_id.block.text);
		source->reply_block = block;
		return take_request(source, msg->req_pages_id.start, msg->req_pages_id.length,
				    now_ns, err);
	case RP_REQ_PAGES:
		if (source->reply_block < 0)
			return err_set(err, -EPROTO, "request for pages of no block at all");
		return take_request(source, msg->req_pages.start, msg->req_pages.length, now_ns,
				    err);
	case RP_RECV_BITMAP:
		return source_take_bitmap(source, &msg->recv_bitmap.block, err);
	case RP_RESUME_ACK:
		return source_take_ack(source, msg->resume_ack.value, err);
	case RP_WHERRY_HELLO:
		return source_take_hello(source, msg, err);
	case RP_SWITCHOVER_ACK:
		__atomic_store_n(&source->acked, true, __ATOMIC_RELEASE);
		return 1;
	case RP_COUNT:
		break;
	}
	return 0;
}

/* Is there no room for one more request? See queue_pop(). */
static bool hold_back(struct source *source)
{
	if (!queue_full(source))
		return false;
	__atomic_store_n(&source->held_back, true, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue_full(source))
		return true;
	__atomic_store_n(&source->held_back, false, __ATOMIC_RELAXED);
	return false;
}

/* A message, or the bitmap behind one. Return: as take_message(), NEED_MORE */
#define NEED_MORE 2
static int take_unit(struct source *source, const uint8_t *buf, size_t length, size_t *took,
		     uint64_t now_ns, struct wh_err *err)
{
	struct rp_msg msg;
	int ret;

	if (source->bitmap_block >= 0) {
		/* it may be long in coming */
		__atomic_store_n(&source->heard_ns, now_ns, __ATOMIC_RELEASE);
		ret = source_take_bits(source, buf, length, took, err);
		return ret ? ret : NEED_MORE;
	}
	ret = rp_get(buf, length, took, &msg, err);
	if (ret <= 0)
		return ret < 0 ? ret : NEED_MORE;
	return take_message(source, &msg, now_ns, err);
}

int source_input(struct source *source, const uint8_t *buf, size_t length, size_t *used,
		 uint64_t now_ns, struct wh_err *err)
{
	bool tell = false;
	int ret;

	*used = 0;
	for (;;) {
		size_t took = 0;

		if (source_over(source_get_phase(source))) {
			*used = length;
			return 0;
		}
		if (hold_back(source))
			break;
		ret = take_unit(source, buf + *used, length - *used, &took, now_ns, err);
		if (ret == NEED_MORE)
			break;
		if (ret < 0) {
			err_wrap(err, "return path, byte %llu",
				 (unsigned long long)source->reply_offset);
			return ret;
		}
		tell |= ret;
		*used += took;
		source->reply_offset += took;
		source_count(&source->counters.bytes_return, took);
	}
	if (tell && source->ops->asked)
		source->ops->asked(source->ctx);
	return 0;
}

/* The page of the request, whether it has gone out or not. Return: is it taken now? */
static bool serve_again(struct source *source)
{
	struct source_request *request = &source->serving.request;
	uint64_t page = request->page;

	request->pages = 0;
	if (source_claim(source, CHANNEL_URGENT, request->block, page))
		return true;
	source->channel[CHANNEL_URGENT].span =
		(struct source_span){ request->block, page, page + 1 };
	source_count(&source->counters.pages_again, 1);
	return false;
}

/* The next dirty host page of the request being served, taken. Return: is there one? */
static bool next_asked(struct source *source, enum channel channel)
{
	struct source_request *request = &source->serving.request;
	struct source_block *b = &source->block[request->block];
	uint64_t group = b->region->page_size / TARGET_PAGE;
	uint64_t end = request->page + request->pages;

	while (request->page < end) {
		uint64_t page = bits_next_set(b->dirty, request->page, end);
		bool mine = page < end && source_claim(source, channel, request->block, page);

		page = page < end ? page - page % group + group : end;
		request->pages = (uint32_t)(end - page);
		request->page = page;
		if (mine)
			return true;
	}
	return false;
}

/* The request is finished; its answer is with the kernel when the batch is. */
static void finish(struct source *source)
{
	struct source_serving *serving = &source->serving;

	if (serving->found)
		serving->since_ns[serving->served++] = serving->request.since_ns;
	serving->active = false;
}

uint64_t source_serve(struct source *source, enum channel channel, struct batch *batch,
		      const struct source_fill *fill)
{
	struct source_serving *serving = &source->serving;
	struct source_span *span = &source->channel[channel].span;
	uint64_t claimed = 0;

	/* what was begun is one host page and nothing may come between */
	while (source_put_span(source, channel, batch)) {
		if (serving->active && !serving->request.pages)
			finish(source);
		if (batch->bytes >= fill->bytes_max || serving->served == SOURCE_SERVED_MAX)
			break;
		if (!serving->active) {
			if (!queue_pop(source, &serving->request))
				break;
			serving->active = true;
			serving->found = false;
		}
		if (channel == CHANNEL_URGENT && may_go_again(source, &serving->request)) {
			claimed += serve_again(source);
		} else {
			if (!next_asked(source, channel))
				continue;
			claimed += span->end - span->page;
		}
		serving->found = true;
		trace(page_serve, span->block, span->page, span->end - span->page);
	}
	return claimed;
}

void source_served(struct source *source, uint64_t now_ns)
{
	struct source_serving *serving = &source->serving;

	for (unsigned i = 0; i < serving->served; i++) {
		uint64_t since_ns = serving->since_ns[i];

		hist_add(&source->counters.serve_hist, now_ns > since_ns ? now_ns - since_ns : 0);
	}
	serving->served = 0;
}

bool source_urgent(struct source *source, struct batch *batch)
{
	const struct source_fill fill = { .bytes_max = SOURCE_URGENT_BYTES,
					  .pages_max = UINT64_MAX };
	enum source_phase phase = source_get_phase(source);

	if (source->urgent_sending || (phase != SOURCE_POSTCOPY && phase != SOURCE_ENDING) ||
	    !__atomic_load_n(&source->urgent_open, __ATOMIC_ACQUIRE))
		return false;
	batch_reset(batch);
	if (source->urgent_prove) {
		put_be64(batch_arena(batch), identity_proof(&source->identity, IDENTITY_URGENT));
		batch_commit(batch, sizeof(uint64_t));
	}
	source->urgent_pages += source_serve(source, CHANNEL_URGENT, batch, &fill);
	/* set when no page is left, hence behind all of them */
	if (__atomic_exchange_n(&source->urgent_end, false, __ATOMIC_ACQUIRE)) {
		source->urgent_over = true;
		batch_commit(batch, ram_put_eos(batch_arena(batch)));
	}
	source->urgent_prove = false;
	source->urgent_sending = batch->count;
	return batch->count;
}

void source_urgent_sent(struct source *source, size_t bytes, uint64_t now_ns)
{
	uint64_t pages = source->urgent_pages;

	source->urgent_sending = false;
	source_count(&source->counters.bytes[CHANNEL_URGENT], bytes);
	source_count(&source->counters.pages_urgent, pages);
	source_served(source, now_ns);
	if (!pages)
		return;
	source->urgent_pages = 0;
	/* the bulk thread finishes when this is 0: nothing of ours is under way then */
	if (!__atomic_sub_fetch(&source->pages_left, pages, __ATOMIC_RELEASE) && source->ops->asked)
		source->ops->asked(source->ctx);
}
