/* SPDX-License-Identifier: MIT */
#include "postcopy/source_internal.h"

void batch_reset(struct batch *batch)
{
	batch->count = 0;
	batch->bytes = 0;
	batch->arena_used = 0;
}

bool batch_room(const struct batch *batch, unsigned iovs, size_t arena_bytes)
{
	return BATCH_IOV - batch->count >= iovs && BATCH_ARENA - batch->arena_used >= arena_bytes;
}

uint8_t *batch_arena(struct batch *batch)
{
	return batch->arena + batch->arena_used;
}

/* What stands behind the last piece of the arena makes that piece longer. */
void batch_commit(struct batch *batch, size_t length)
{
	struct iovec *last = batch->iov + batch->count - 1;
	uint8_t *at = batch_arena(batch);

	if (batch->count && (uint8_t *)last->iov_base + last->iov_len == at)
		last->iov_len += length;
	else
		batch->iov[batch->count++] = (struct iovec){ at, length };
	batch->arena_used += length;
	batch->bytes += length;
}

void batch_point(struct batch *batch, const void *data, size_t length)
{
	if (!length)
		return;
	/* struct iovec serves readers too, hence not const; a batch is only sent */
	batch->iov[batch->count++] = (struct iovec){ (void *)(uintptr_t)data, length };
	batch->bytes += length;
}

void batch_command(struct batch *batch, const struct cmd_msg *msg, const struct wire_range *ranges)
{
	batch_commit(batch, cmd_put(batch_arena(batch), msg, ranges));
}

void batch_bare_command(struct batch *batch, enum cmd_kind kind)
{
	struct cmd_msg msg = { .kind = kind };

	batch_command(batch, &msg, NULL);
}

void batch_ping(struct batch *batch, uint32_t value)
{
	struct cmd_msg msg = { .kind = CMD_PING, .ping = { value } };

	batch_command(batch, &msg, NULL);
}

void batch_part(struct batch *batch, enum section_type part_or_end)
{
	batch_commit(batch, stream_put_part(batch_arena(batch), part_or_end, SECTION_RAM_ID));
}

void batch_part_end(struct batch *batch)
{
	batch_commit(batch, ram_put_eos(batch_arena(batch)));
	batch_commit(batch, stream_put_footer(batch_arena(batch), SECTION_RAM_ID));
}
