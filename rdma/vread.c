/* SPDX-License-Identifier: MIT */
/*
 * Engine: see vread.h.
 *
 * One request is under way at a time, of all chunks that are known to be needed; so there is always
 * room for it, and for its answer. Reads are complete in the order in which they were begun.
 */
#include "rdma/vread.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>

static unsigned long long ull(uint64_t value)
{
	return value;
}

/* ---- The destination ------------------------------------------------------------ */

void vread_init(struct vread *read)
{
	memset(read, 0, sizeof(*read));
}

void vread_add_block(struct vread *read, uint64_t length, struct vread_chunk *chunk)
{
	read->block[read->blocks].chunk = chunk;
	read->block[read->blocks++].length = length;
}

static struct vread_chunk *chunk_of(struct vread *read, const struct vread_slot *slot)
{
	return &read->block[slot->block].chunk[slot->offset >> CONTROL_CHUNK_BITS];
}

bool vread_page(struct vread *read, unsigned block, uint64_t offset)
{
	unsigned at = vread_find(read, VREAD_FREE);
	struct vread_slot slot = { VREAD_WAITS, block, offset - offset % VREAD_PAGE };

	if (at == VREAD_SLOTS || block >= read->blocks ||
	    slot.offset >= read->block[block].length ||
	    VREAD_PAGE > read->block[block].length - slot.offset ||
	    chunk_of(read, &slot)->key == VREAD_KEY_NONE)
		return false;
	read->slot[at] = slot;
	return true;
}

bool vread_begin(struct vread *read, struct vread_job *job)
{
	for (unsigned i = 0; i < VREAD_SLOTS; i++) {
		struct vread_slot *slot = &read->slot[i];

		if (slot->state != VREAD_WAITS || chunk_of(read, slot)->key != VREAD_KEY_HELD)
			continue;
		slot->state = VREAD_UNDER_WAY;
		read->queue[(read->first + read->reading++) % VREAD_SLOTS] = i;
		*job = (struct vread_job){
			.slot = i,
			.address = read->block[slot->block].host + slot->offset,
			.rkey = chunk_of(read, slot)->rkey,
		};
		return true;
	}
	return false;
}

/* Return: length of the request, 0 if there is none */
static size_t next_request(struct vread *read, uint8_t *message)
{
	/* one at a time */
	if (read->asked)
		return 0;
	for (unsigned i = 0; i < VREAD_SLOTS; i++) {
		const struct vread_slot *slot = &read->slot[i];
		struct control_ask ask = { .block = slot->block,
					   .address = slot->offset >> CONTROL_CHUNK_BITS };

		if (slot->state != VREAD_WAITS || chunk_of(read, slot)->key != VREAD_KEY_UNKNOWN)
			continue;
		chunk_of(read, slot)->key = VREAD_KEY_ASKED;
		read->ask[read->asked].block = ask.block;
		read->ask[read->asked].chunk = ask.address;
		control_put_ask(message, read->asked++, &ask);
	}
	return read->asked ? control_put(message, CONTROL_KEY_REQUEST, read->asked, 0) : 0;
}

enum vread_next vread_next(struct vread *read, uint8_t *message, size_t *bytes,
			   struct vread_job *job)
{
	if (vread_begin(read, job))
		return VREAD_READ;
	*bytes = next_request(read, message);
	return *bytes ? VREAD_SAY : VREAD_WAIT;
}

void vread_done(struct vread *read, unsigned count)
{
	for (; count && read->reading; count--, read->reading--) {
		read->slot[read->queue[read->first]].state = VREAD_HERE;
		read->first = (read->first + 1) % VREAD_SLOTS;
	}
}

unsigned vread_find(const struct vread *read, enum vread_state state)
{
	unsigned at = 0;

	while (at < VREAD_SLOTS && read->slot[at].state != state)
		at++;
	return at;
}

void vread_free(struct vread *read, unsigned slot)
{
	read->slot[slot].state = VREAD_FREE;
}

void vread_lost(struct vread *read)
{
	read->reading = read->asked = 0;
	for (unsigned i = 0; i < VREAD_SLOTS; i++)
		if (read->slot[i].state == VREAD_WAITS || read->slot[i].state == VREAD_UNDER_WAY)
			read->slot[i].state = VREAD_VAIN;
}

/* A key is of one chunk, and where its block is does not change */
static int take_key(struct vread *read, unsigned at, const struct control_grant *grant,
		    struct wh_err *err)
{
	unsigned block = read->ask[at].block;
	struct vread_chunk *chunk = &read->block[block].chunk[read->ask[at].chunk];

	if (!grant->rkey) {
		chunk->key = VREAD_KEY_NONE;
		return 0;
	}
	if (grant->host > UINT64_MAX - read->block[block].length)
		return err_set(err, -EPROTO, "rdma: KEY_RESULT: block %u is at 0x%llx", block,
			       ull(grant->host));
	if (read->block[block].placed && read->block[block].host != grant->host)
		return err_set(err, -EPROTO,
			       "rdma: KEY_RESULT: block %u is at 0x%llx, and was at 0x%llx", block,
			       ull(grant->host), ull(read->block[block].host));
	read->block[block].host = grant->host;
	read->block[block].placed = true;
	*chunk = (struct vread_chunk){ grant->rkey, VREAD_KEY_HELD };
	return 0;
}

int vread_take(struct vread *read, const uint8_t *message, size_t bytes, struct wh_err *err)
{
	struct control control;
	int ret = control_get(message, bytes, &control, err);

	if (ret < 0)
		return ret;
	if (control.kind != CONTROL_KEY_RESULT || !read->asked)
		return err_set(err, -EPROTO, "rdma: %s, where pages are read",
			       control_name(control.kind));
	if (control.count != read->asked)
		return err_set(err, -EPROTO, "rdma: KEY_RESULT of %u keys, asked was for %u",
			       control.count, read->asked);
	for (unsigned i = 0; i < control.count && ret == 0; i++) {
		struct control_grant grant = { 0 };

		control_get_grant(&control, i, &grant);
		ret = take_key(read, i, &grant, err);
	}
	read->asked = 0;
	for (unsigned i = 0; i < VREAD_SLOTS; i++) {
		struct vread_slot *slot = &read->slot[i];

		if (slot->state == VREAD_WAITS && chunk_of(read, slot)->key == VREAD_KEY_NONE)
			slot->state = VREAD_VAIN;
	}
	return ret;
}

/* ---- The source ----------------------------------------------------------------- */

void vlend_init(struct vlend *lend, const struct vlend_ops *ops, void *ctx)
{
	memset(lend, 0, sizeof(*lend));
	lend->ops = ops;
	lend->ctx = ctx;
}

void vlend_add_block(struct vlend *lend, uint64_t host, uint64_t length)
{
	lend->block[lend->blocks].host = host;
	lend->block[lend->blocks++].length = length;
}

/* All are looked at before the first one is lent */
static int check_request(const struct vlend *lend, const struct control *control,
			 struct wh_err *err)
{
	if (control->kind != CONTROL_KEY_REQUEST)
		return err_set(err, -EPROTO, "rdma: %s, where pages are read",
			       control_name(control->kind));
	if (control->count > VREAD_SLOTS)
		return err_set(err, -EPROTO, "rdma: KEY_REQUEST of %u chunks", control->count);
	for (uint32_t i = 0; i < control->count; i++) {
		struct control_ask ask = { 0 };

		control_get_ask(control, i, &ask);
		if (ask.block >= lend->blocks || ask.chunks ||
		    ask.address >= vread_chunks(lend->block[ask.block].length))
			return err_set(err, -EPROTO,
				       "rdma: KEY_REQUEST of chunk 0x%llx and %llu more of block %u",
				       ull(ask.address), ull(ask.chunks), ask.block);
	}
	return 0;
}

int vlend_take(struct vlend *lend, const uint8_t *message, size_t bytes, uint8_t *answer,
	       size_t *length, struct wh_err *err)
{
	struct control control;
	int ret = control_get(message, bytes, &control, err);

	*length = 0;
	if (ret == 0)
		ret = check_request(lend, &control, err);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < control.count; i++) {
		struct control_grant grant = { 0 };
		struct control_ask ask = { 0 };

		control_get_ask(&control, i, &ask);
		grant.rkey = lend->ops->key(lend->ctx, ask.block, ask.address);
		grant.host = grant.rkey ? lend->block[ask.block].host : 0;
		control_put_grant(answer, i, &grant);
	}
	*length = control_put(answer, CONTROL_KEY_RESULT, control.count, 0);
	return 0;
}
