/* SPDX-License-Identifier: MIT */
#include "base/bits.h"
#include "base/err.h"
#include "postcopy/source_internal.h"
#include "recover/received.h"
#include "wire/bitmap.h"

#include <errno.h>
#include <string.h>

/*
 * After a break in postcopy, on a new connection. Nobody here knows what of the old one has
 * arrived, so the destination says which pages it has, and all others are dirty:
 *
 *	WHERRY_HELLO		   ->	(if the migration has an id: recover/identity.h)
 *				   <-  WHERRY_HELLO
 *	WHERRY_PROOF		   ->
 *	RECV_BITMAP of each block  ->
 *				   <-  RECV_BITMAP and the bits, in the same order
 *	(urgent channel)
 *	POSTCOPY_RESUME		   ->
 *				   <-  RESUME_ACK, then requests
 *
 * The request thread takes the bits into the dirty bitmaps, one block after the other;
 * nobody sends from them before POSTCOPY. A break in the middle of that leaves some of them
 * new and some old, and the next recovery writes them all.
 */

void source_reconnected(struct source *source, bool urgent, uint64_t now_ns)
{
	const struct source_config *config = &source->config;
	bool at_start = urgent && config->urgent == WH_URGENT_AT_START;

	source->sending = false;
	source->urgent_sending = false;
	source->urgent_pages = 0;
	source->urgent_over = false;
	source->urgent_end = false;
	source->arrived = false;
	source->held_back = false;
	source->shut = 0;
	source->queue.head = source->queue.tail = 0;
	memset(&source->serving, 0, sizeof(source->serving));
	source->reply_offset = 0;
	source->reply_block = -1;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		source->channel[i] = (struct source_channel){ .last_block = -1 };
	source_rewind(source);
	bucket_set(&source->bucket, config->postcopy_bandwidth, now_ns);
	source->heard_ns = source->answer_ns = now_ns;

	source->bitmaps_asked = 0;
	source->bitmaps_told = 0;
	source->bitmap_block = -1;
	source->resuming = source->resumed = false;
	source->pages_left = 0;
	source->urgent = URGENT_GIVEN_UP;
	if (urgent && source->had_urgent)
		source->urgent = at_start ? URGENT_OPEN : URGENT_NONE;
	__atomic_store_n(&source->urgent_open, source->urgent == URGENT_OPEN, __ATOMIC_RELEASE);
	identity_renew(&source->identity);
	source->urgent_prove = source->identity.known;
	source->step = source->identity.known ? STEP_HELLO : STEP_BITMAPS;
	source_move(source, SOURCE_RECOVER, NULL);
}

bool source_has_id(const struct source *source)
{
	return source->identity.known;
}

int source_hello(struct source *source, struct batch *batch, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_HELLO };
	struct identity *identity = &source->identity;
	int ret;

	err->code = 0;
	ret = source->ops->random(source->ctx, &identity->source, err);
	if (ret < 0) {
		source_said(err, ret, "a random number");
		return source_break(source, err);
	}
	msg.wherry_hello.high = identity->source.high;
	msg.wherry_hello.low = identity->source.low;
	batch_command(batch, &msg, NULL);
	/* in front of the bytes: who has the answer finds the number it is for */
	__atomic_store_n(&identity->said, true, __ATOMIC_RELEASE);
	source->step = STEP_PROOF;
	return source_send(source, batch, false);
}

int source_proof(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_PROOF };

	if (!__atomic_load_n(&source->identity.proven, __ATOMIC_ACQUIRE))
		return source_owed(source, now_ns, err);
	msg.wherry_proof.proof = identity_proof(&source->identity, IDENTITY_SOURCE);
	batch_command(batch, &msg, NULL);
	source->step = STEP_BITMAPS;
	return source_send(source, batch, false);
}

/* All at once, nothing is waited for in between */
int source_ask_bitmaps(struct source *source, uint64_t now_ns, struct batch *batch,
		       struct wh_err *err)
{
	while (source->bitmaps_asked < source->blocks) {
		struct cmd_msg msg = { .kind = CMD_RECV_BITMAP };

		if (!batch_room(batch, 1, CMD_PUT_MAX))
			return source_send(source, batch, false);
		msg.recv_bitmap.block = source->block[source->bitmaps_asked++].name;
		batch_command(batch, &msg, NULL);
	}
	if (batch->count)
		return source_send(source, batch, false);
	if (__atomic_load_n(&source->bitmaps_told, __ATOMIC_ACQUIRE) < source->blocks)
		return source_owed(source, now_ns, err);
	source->step = STEP_URGENT;
	return SOURCE_AGAIN;
}

int source_reopen_urgent(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	int ret;

	err->code = 0;
	switch (source->urgent) {
	case URGENT_NONE:
		source->urgent = URGENT_OPENING;
		source->answer_ns = now_ns;
		ret = source->ops->open_urgent(source->ctx, err);
		if (ret >= 0)
			return SOURCE_AGAIN;
		source_said(err, ret, "urgent channel");
		return source_break(source, err);
	case URGENT_OPENING:
		return source_owed(source, now_ns, err);
	case URGENT_REFUSED:
		err_set(err, -ECONNREFUSED, "no urgent channel any more, and there was one");
		return source_break(source, err);
	case URGENT_OPEN:
	case URGENT_GIVEN_UP:
		break;
	}
	source->step = STEP_RESUME;
	return SOURCE_AGAIN;
}

int source_say_resume(struct source *source, struct batch *batch)
{
	batch_bare_command(batch, CMD_POSTCOPY_RESUME);
	/* in front of the bytes: whoever answers has seen them */
	__atomic_store_n(&source->resuming, true, __ATOMIC_RELEASE);
	source->step = STEP_ACK;
	return source_send(source, batch, false);
}

int source_await_ack(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	if (!__atomic_load_n(&source->resumed, __ATOMIC_ACQUIRE))
		return source_owed(source, now_ns, err);
	source_move(source, SOURCE_POSTCOPY, NULL);
	source->step = STEP_BACKGROUND;
	/* requests that came behind RESUME_ACK, while the phase was another */
	if (source->urgent_open && source->ops->serve)
		source->ops->serve(source->ctx);
	return SOURCE_AGAIN;
}

size_t source_need(const struct source *source)
{
	size_t need = RP_MSG_MAX;

	if (source_get_phase(source) != SOURCE_RECOVER)
		return need;
	for (unsigned i = 0; i < source->blocks; i++) {
		uint64_t pages = source_block_pages(&source->block[i]);
		size_t bytes = BITMAP_FRAME + (size_t)bitmap_bytes(pages);

		if (bytes > need)
			need = bytes;
	}
	return need;
}

int source_take_bitmap(struct source *source, const struct wire_name *name, struct wh_err *err)
{
	unsigned next = source->bitmaps_told;
	const struct wire_name *is;

	if (next == source->blocks)
		return err_set(err, -EPROTO, "bitmap of block \"%s\": all have been told",
			       name->text);
	is = &source->block[next].name;
	if (is->length != name->length || memcmp(is->text, name->text, is->length))
		return err_set(err, -EPROTO, "bitmap of block \"%s\", expected that of \"%s\"",
			       name->text, is->text);
	source->bitmap_block = (int)next;
	return 0;
}

/* Return: 1 taken, 0 more bytes are needed, -EPROTO */
int source_take_bits(struct source *source, const uint8_t *buf, size_t length, size_t *used,
		     struct wh_err *err)
{
	const struct source_block *b = &source->block[source->bitmap_block];
	uint64_t pages = source_block_pages(b);
	int ret;

	ret = bitmap_get(buf, length, used, b->dirty, pages, err);
	if (ret < 0)
		err_wrap(err, "block %s", b->name.text);
	if (ret <= 0)
		return ret;
	received_invert(b->dirty, b->dirty, pages, b->region->page_size / TARGET_PAGE);
	__atomic_fetch_add(&source->pages_left, bits_count(b->dirty, pages), __ATOMIC_RELAXED);
	source->bitmap_block = -1;
	/* with the words: who sees the count finds the bits */
	__atomic_store_n(&source->bitmaps_told, source->bitmaps_told + 1, __ATOMIC_RELEASE);
	return 1;
}

int source_take_hello(struct source *source, const struct rp_msg *msg, struct wh_err *err)
{
	struct identity *identity = &source->identity;

	if (!__atomic_load_n(&identity->said, __ATOMIC_ACQUIRE) || identity->proven)
		return err_set(err, -EPROTO, "WHERRY_HELLO, which nothing was said for");
	identity->dest.high = msg->wherry_hello.high;
	identity->dest.low = msg->wherry_hello.low;
	if (msg->wherry_hello.proof != identity_proof(identity, IDENTITY_DEST))
		return err_set(err, -EPROTO,
			       "it is not the destination of this migration: wrong id");
	/* with the number: who sees it proves himself by it */
	__atomic_store_n(&identity->proven, true, __ATOMIC_RELEASE);
	return 1;
}

int source_take_ack(struct source *source, uint32_t value, struct wh_err *err)
{
	if (value != 1)
		return err_set(err, -EPROTO, "RESUME_ACK %u, expected 1", value);
	if (!__atomic_load_n(&source->resuming, __ATOMIC_ACQUIRE) || source->resumed)
		return err_set(err, -EPROTO, "RESUME_ACK, which nothing was said for");
	__atomic_store_n(&source->resumed, true, __ATOMIC_RELEASE);
	return 1;
}
