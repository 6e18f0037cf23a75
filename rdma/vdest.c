/* SPDX-License-Identifier: MIT */
/*
 * Engine: see vdest.h. Whatever is registered here, a stranger can write to: an index, an
 * address and a length are looked at before anything is done with the first of them.
 */
#include "rdma/vdest.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define START_ALIGN (UINT64_C(2) << 20)

static unsigned long long ull(uint64_t value)
{
	return value;
}

void vdest_init(struct vdest *dest, const struct vdest_ops *ops, void *ctx, uint32_t flags)
{
	memset(dest, 0, sizeof(*dest));
	dest->ops = ops;
	dest->ctx = ctx;
	dest->pin_all = flags & CONTROL_PIN_ALL;
	dest->no_room = flags & CONTROL_NO_ROOM;
	dest->bits = control_chunk_bits(flags);
}

/* Its addresses are ours to choose: one block behind the other, each with a hole behind it */
void vdest_blocks(struct vdest *dest, const struct vdest_block *block, unsigned count)
{
	uint64_t start = 0;

	memcpy(dest->block, block, count * sizeof(*block));
	dest->blocks = count;
	for (unsigned i = 0; i < count; i++) {
		dest->block[i].start = start;
		start += (block[i].length / START_ALIGN + 2) * START_ALIGN;
	}
}

void vdest_hook(struct vdest *dest)
{
	dest->hooks++;
}

/* The distance into the block of a range of it, which has at least one byte */
static int find(const struct vdest *dest, const char *what, uint32_t at, uint64_t address,
		uint64_t length, uint64_t *offset, struct wh_err *err)
{
	const struct vdest_block *block;

	if (at >= dest->blocks)
		return err_set(err, -EPROTO, "rdma: %s of block %u of %u", what, at, dest->blocks);
	block = &dest->block[at];
	*offset = address - block->start;
	if (address < block->start || *offset >= block->length || !length ||
	    length > block->length - *offset)
		return err_set(err, -EPROTO,
			       "rdma: %s of 0x%llx bytes at 0x%llx, block %u is 0x%llx at 0x%llx",
			       what, ull(length), ull(address), at, ull(block->length),
			       ull(block->start));
	return 0;
}

static int list_blocks(struct vdest *dest, uint8_t *answer, size_t *length, struct wh_err *err)
{
	if (dest->listed)
		return err_set(err, -EPROTO, "rdma: BLOCKS_REQUEST for the second time");
	dest->listed = true;
	for (unsigned i = 0; i < dest->blocks; i++) {
		struct control_block line = {
			.host = dest->block[i].host,
			.start = dest->block[i].start,
			.length = dest->block[i].length,
		};
		int ret = 0;

		if (dest->pin_all)
			ret = dest->ops->grant(dest->ctx, i, VDEST_WHOLE, &line.rkey, err);
		if (ret < 0)
			return ret;
		control_put_block(answer, i, &line);
	}
	*length = control_put(answer, CONTROL_BLOCKS_RESULT, dest->blocks, 0);
	return 0;
}

static int clear(struct vdest *dest, const struct control *control, struct wh_err *err)
{
	struct control_zero zero = { 0 };
	uint64_t offset = 0;
	int ret;

	control_get_zero(control, 0, &zero);
	if (zero.value)
		return err_set(err, -EPROTO, "rdma: ZERO with the value 0x%x", zero.value);
	ret = find(dest, "ZERO", zero.block, zero.address, zero.length, &offset, err);
	if (ret < 0)
		return ret;
	if ((offset | zero.length) % PAGE)
		return err_set(err, -EPROTO, "rdma: ZERO of 0x%llx bytes at 0x%llx: no whole pages",
			       ull(zero.length), ull(offset));
	dest->ops->clear(dest->ctx, zero.block, offset, zero.length);
	dest->zeros++;
	return 0;
}

/* A peer that knows how, and has keys, can give some back; nobody else can be helped */
static bool may_refuse(const struct vdest *dest, int ret)
{
	return ret == -ENOMEM && dest->no_room && dest->registers > dest->unregisters;
}

static int register_chunks(struct vdest *dest, const struct control *control, uint8_t *answer,
			   size_t *length, struct wh_err *err)
{
	bool full = false;

	for (uint32_t i = 0; i < control->count; i++) {
		struct control_grant grant = { 0 };
		struct control_ask ask = { 0 };
		struct wh_err why = { 0 };
		uint64_t offset = 0;
		int ret;

		control_get_ask(control, i, &ask);
		ret = find(dest, "REGISTER_REQUEST", ask.block, ask.address, 1, &offset, err);
		if (ret < 0)
			return ret;
		if (ask.chunks)
			return err_set(err, -EPROTO,
				       "rdma: REGISTER_REQUEST of %llu further chunks at once",
				       ull(ask.chunks));
		if (!full)
			ret = dest->ops->grant(dest->ctx, ask.block, offset >> dest->bits,
					       &grant.rkey, &why);
		full |= may_refuse(dest, ret);
		if (ret < 0 && !full) {
			*err = why;
			return ret;
		}
		if (full)
			grant.rkey = 0;
		grant.host = dest->block[ask.block].host;
		control_put_grant(answer, i, &grant);
		dest->registers += !full;
	}
	*length = control_put(answer, CONTROL_REGISTER_RESULT, control->count, 0);
	return 0;
}

/* All are looked at before the first one is revoked */
static int unregister_chunks(struct vdest *dest, const struct control *control, uint8_t *answer,
			     size_t *length, struct wh_err *err)
{
	struct control_ask ask = { 0 };
	int ret;

	for (uint32_t i = 0; i < control->count; i++) {
		control_get_ask(control, i, &ask);
		if (ask.block >= dest->blocks || ask.chunks ||
		    ask.address > (dest->block[ask.block].length - 1) >> dest->bits)
			return err_set(err, -EPROTO,
				       "rdma: UNREGISTER_REQUEST of chunk 0x%llx and %llu more of "
				       "block %u",
				       ull(ask.address), ull(ask.chunks), ask.block);
	}
	for (uint32_t i = 0; i < control->count; i++) {
		control_get_ask(control, i, &ask);
		ret = dest->ops->revoke(dest->ctx, ask.block, ask.address, err);
		if (ret < 0)
			return ret;
		dest->unregisters++;
	}
	*length = control_put(answer, CONTROL_UNREGISTER_FINISHED, control->count, 0);
	return 0;
}

/* Return: in a bracket; false, the stream has not announced it yet */
static bool enter(struct vdest *dest)
{
	if (!dest->bracket && dest->entered < dest->hooks) {
		dest->bracket = true;
		dest->entered++;
	}
	return dest->bracket;
}

static bool source_says(enum control_kind kind)
{
	return kind == CONTROL_BLOCKS_REQUEST || kind == CONTROL_ZERO ||
	       kind == CONTROL_REGISTER_REQUEST || kind == CONTROL_REGISTER_FINISHED ||
	       kind == CONTROL_UNREGISTER_REQUEST;
}

static int in_bracket(struct vdest *dest, const struct control *control, uint8_t *answer,
		      size_t *length, struct wh_err *err)
{
	if (control->kind == CONTROL_BLOCKS_REQUEST)
		return list_blocks(dest, answer, length, err);
	if (control->kind == CONTROL_REGISTER_FINISHED) {
		dest->bracket = false;
		return 0;
	}
	/* without the list it cannot know an address of ours */
	if (!dest->listed)
		return err_set(err, -EPROTO, "rdma: %s before BLOCKS_REQUEST",
			       control_name(control->kind));
	if (control->kind == CONTROL_ZERO)
		return clear(dest, control, err);
	if (control->kind == CONTROL_REGISTER_REQUEST)
		return register_chunks(dest, control, answer, length, err);
	return unregister_chunks(dest, control, answer, length, err);
}

int vdest_take(struct vdest *dest, const uint8_t *message, size_t bytes, struct control *control,
	       uint8_t *answer, size_t *length, struct wh_err *err)
{
	int ret = control_get(message, bytes, control, err);

	*length = 0;
	if (ret < 0)
		return ret;
	if (control->kind == CONTROL_ERROR)
		return err_set(err, -ECONNABORTED, "rdma: the source has given up");
	if (control->kind == CONTROL_STREAM) {
		if (dest->bracket)
			return err_set(err, -EPROTO,
				       "rdma: the stream goes on before REGISTER_FINISHED");
		dest->messages++;
		return VDEST_STREAM;
	}
	if (!source_says(control->kind))
		return err_set(err, -EPROTO, "rdma: %s, which a source does not say",
			       control_name(control->kind));
	if (!enter(dest))
		return VDEST_WAIT;
	dest->messages++;
	ret = in_bracket(dest, control, answer, length, err);
	return ret < 0 ? ret : VDEST_READY;
}
