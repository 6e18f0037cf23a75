/* SPDX-License-Identifier: MIT */
/*
 * Engine: which chunks are registered at the source, and which have a key of the peer's. Either list
 * has the least lately used in front, and a limit, which was given or is found out: if there is no
 * room for one more, the limit is what there is.
 *
 * There: some keys are given back in one message, when there are enough that nobody needs. A key is
 * needed if a write with it is under way, or a range that was found to have one waits. So while some
 * chunks are given back and others asked for, the rest is being written.
 *
 * Here: no message is needed, and so only writes that are under way keep a chunk.
 */
#include "base/err.h"
#include "rdma/vsource_internal.h"

#include <assert.h>
#include <errno.h>

#define LOOK_MAX 4096u /* chunks, for one message */

static_assert(VSOURCE_RANGES <= UINT16_MAX && VSOURCE_WRITES_MAX <= UINT16_MAX, "they are counted");
static_assert(VSOURCE_BLOCKS_MAX <= UINT16_MAX, "a chunk knows its block");

static struct vsource_chunk *of_there(struct vlru_node *node)
{
	return (struct vsource_chunk *)((char *)node - offsetof(struct vsource_chunk, there));
}

static struct vsource_chunk *of_here(struct vlru_node *node)
{
	return (struct vsource_chunk *)((char *)node - offsetof(struct vsource_chunk, here));
}

static uint64_t number_of(const struct vsource *source, const struct vsource_chunk *chunk)
{
	return (uint64_t)(chunk - source->block[chunk->block].chunk);
}

void vsource_limit(struct vsource *source, uint64_t bytes_max)
{
	uint64_t chunks = bytes_max >> source->bits;

	if (!bytes_max)
		chunks = UINT64_MAX;
	if (!chunks)
		chunks = 1;
	vlru_init(&source->there, chunks);
	vlru_init(&source->hot, chunks);
	vlru_init(&source->here, chunks);
}

/* ---- There ------------------------------------------------------------------------------ */

/* Of all its MiBs: one that is hot makes it hot, and one that is not cold keeps it from being so */
static enum vsource_hint hint_of(const struct vsource *source, unsigned at, uint64_t chunk)
{
	const struct vsource_block *block = &source->block[at];
	uint64_t begin = chunk << source->bits, end = begin + (UINT64_C(1) << source->bits);
	enum vsource_hint all = VSOURCE_COLD;

	if (!block->hint)
		return VSOURCE_PLAIN;
	for (; begin < end && begin < block->length; begin += CONTROL_CHUNK) {
		uint8_t hint = __atomic_load_n(&block->hint[begin >> CONTROL_CHUNK_BITS],
					       __ATOMIC_RELAXED);

		if (hint == VSOURCE_HOT)
			return VSOURCE_HOT;
		if (hint != VSOURCE_COLD)
			all = VSOURCE_PLAIN;
	}
	return all;
}

static void forget(struct vsource *source, struct vsource_chunk *chunk)
{
	if (vlru_has(&chunk->there))
		vlru_drop(chunk->hot ? &source->hot : &source->there, &chunk->there);
}

void keep_use(struct vsource *source, struct vsource_chunk *chunk)
{
	enum vsource_hint hint = hint_of(source, chunk->block, number_of(source, chunk));

	forget(source, chunk);
	chunk->hot = hint == VSOURCE_HOT;
	if (hint == VSOURCE_COLD)
		vlru_spare(&source->there, &chunk->there);
	else
		vlru_use(chunk->hot ? &source->hot : &source->there, &chunk->there);
}

static uint64_t room_there(const struct vsource *source)
{
	uint64_t count = source->there.count + source->hot.count;

	return count < source->there.max ? source->there.max - count : 0;
}

/* Return: how many there are behind @found of them that nobody needs, @most at most */
static unsigned find_in(struct vsource *source, const struct vlru *lru, unsigned found,
			unsigned most)
{
	struct vlru_node *node = vlru_first(lru);

	for (; node && found < most; node = vlru_next(lru, node)) {
		struct vsource_chunk *chunk = of_there(node);

		if (!chunk->waiting && !chunk->writes)
			source->ask[found++] = chunk;
	}
	return found;
}

static unsigned find_idle(struct vsource *source, unsigned most)
{
	return find_in(source, &source->hot, find_in(source, &source->there, 0, most), most);
}

static size_t say_unregister(struct vsource *source, uint8_t *message, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct vsource_chunk *chunk = source->ask[i];
		struct control_ask ask = {
			.address = number_of(source, chunk),
			.block = chunk->block,
		};

		chunk->rkey = 0;
		forget(source, chunk);
		control_put_ask(message, i, &ask);
	}
	source->asked = source->to_unpin = count;
	source->unregisters += count;
	source->owed = CONTROL_UNREGISTER_FINISHED;
	return vsource_say(source, message, CONTROL_UNREGISTER_REQUEST, count);
}

static void ask_for(struct vsource *source, uint8_t *message, unsigned block, uint64_t offset)
{
	struct vsource_chunk *chunk = &source->block[block].chunk[offset >> source->bits];
	struct control_ask ask = {
		.block = block,
		.address = source->block[block].start + offset,
	};

	if (chunk->rkey || chunk->asked)
		return;
	chunk->asked = true;
	chunk->block = (uint16_t)block;
	source->ask[source->asked] = chunk;
	control_put_ask(message, source->asked++, &ask);
}

/* Of hot chunks too, where there is room in the message and more than enough for the chunks */
static void ask_ahead(struct vsource *source, uint8_t *message, unsigned most, uint64_t room)
{
	for (unsigned looked = 0; looked < LOOK_MAX && source->asked < most &&
				  source->asked < room / 2 && source->ahead.block < source->blocks;
	     looked++) {
		const struct vsource_block *block = &source->block[source->ahead.block];
		uint64_t chunk = source->ahead.chunk++;

		if (hint_of(source, source->ahead.block, chunk) == VSOURCE_HOT)
			ask_for(source, message, source->ahead.block, chunk << source->bits);
		if (!block->hint || source->ahead.chunk >= vsource_chunks(source, block->length)) {
			source->ahead.block++;
			source->ahead.chunk = 0;
		}
	}
}

/* Keys for this range and, where they can be asked for together, for what comes behind it */
static size_t say_register(struct vsource *source, uint8_t *message, uint64_t room)
{
	/* what is pinned for one message is no more than with chunks of QEMU's: that takes its time */
	unsigned most =
		source->several ? VSOURCE_ASK_MAX >> (source->bits - CONTROL_CHUNK_BITS) : 1;

	source->asked = 0;
	for (unsigned i = source->looked;
	     i < source->ranges && source->asked < most && source->asked < room; i++) {
		struct vsource_range *range = vsource_range_at(source, i);
		const struct vsource_chunk *chunk = vsource_chunk_of(source, range);

		if (!chunk->rkey && !chunk->asked && !vsource_is_zero(source, range))
			ask_for(source, message, range->block, range->offset);
	}
	if (source->several)
		ask_ahead(source, message, most, room);
	source->registers += source->asked;
	source->owed = CONTROL_REGISTER_RESULT;
	return vsource_say(source, message, CONTROL_REGISTER_REQUEST, source->asked);
}

size_t keep_say(struct vsource *source, uint8_t *message)
{
	unsigned wanted = source->ranges - source->looked, some = wanted, found = 0;
	uint64_t room = room_there(source), quarter = source->there.max / 4;

	if (some > quarter)
		some = quarter ? (unsigned)quarter : 1;
	if (room < wanted && room <= quarter)
		found = find_idle(source, some);
	/* and if nothing is under way or waits, nobody needs any of them: there are enough */
	if (found == some)
		return say_unregister(source, message, found);
	return room ? say_register(source, message, room) : 0;
}

static int refused(struct vsource *source, struct wh_err *err)
{
	source->there.max = source->there.count + source->hot.count;
	if (!source->there.max)
		return err_set(err, -ENOMEM, "rdma: the destination has no room for any memory");
	return 0;
}

int keep_take_grants(struct vsource *source, const struct control *control, struct wh_err *err)
{
	bool short_of = false;

	if (control->count != source->asked)
		return err_set(err, -EPROTO, "rdma: REGISTER_RESULT of %u chunks, %u were wanted",
			       control->count, source->asked);
	for (unsigned i = 0; i < source->asked; i++) {
		struct vsource_chunk *chunk = source->ask[i];
		struct vsource_block *block = &source->block[chunk->block];
		struct control_grant grant = { 0 };

		control_get_grant(control, i, &grant);
		chunk->asked = false;
		if (!grant.rkey && source->no_room) {
			short_of = true;
			continue;
		}
		if (!grant.rkey || grant.host > UINT64_MAX - block->length)
			return err_set(err, -EPROTO,
				       "rdma: REGISTER_RESULT: key 0x%x of block %u at 0x%llx",
				       grant.rkey, chunk->block, (unsigned long long)grant.host);
		chunk->rkey = grant.rkey;
		block->host = grant.host;
		keep_use(source, chunk);
	}
	source->asked = 0;
	return short_of ? refused(source, err) : 0;
}

int keep_take_finished(struct vsource *source, const struct control *control, struct wh_err *err)
{
	if (control->count != source->asked)
		return err_set(err, -EPROTO, "rdma: UNREGISTER_FINISHED of %u chunks, not of %u",
			       control->count, source->asked);
	source->asked = 0;
	return 0;
}

/* ---- Here ------------------------------------------------------------------------------- */

static void describe(const struct vsource *source, const struct vsource_chunk *chunk,
		     struct vsource_write *write)
{
	*write = (struct vsource_write){
		.block = chunk->block,
		.offset = number_of(source, chunk) << source->bits,
	};
}

bool keep_has(const struct vsource *source, const struct vsource_chunk *chunk)
{
	return source->pin_all || vlru_has(&chunk->here);
}

enum vsource_next keep_pin(struct vsource *source, struct vsource_chunk *chunk,
			   struct vsource_write *write)
{
	struct vlru_node *node = vlru_first(&source->here);

	if (vlru_room(&source->here)) {
		vlru_use(&source->here, &chunk->here);
		source->pin = chunk;
		describe(source, chunk, write);
		return VSOURCE_PIN;
	}
	while (node && of_here(node)->writes)
		node = vlru_next(&source->here, node);
	/* the last of the writes says when it is complete: the next one's chunk was not here */
	if (!node)
		return VSOURCE_WAIT;
	vlru_drop(&source->here, node);
	describe(source, of_here(node), write);
	return VSOURCE_UNPIN;
}

bool vsource_not_pinned(struct vsource *source)
{
	vlru_drop(&source->here, &source->pin->here);
	source->here.max = source->here.count;
	return source->here.max;
}

bool keep_unpin(struct vsource *source, struct vsource_write *write)
{
	while (source->to_unpin) {
		struct vsource_chunk *chunk = source->ask[--source->to_unpin];

		if (!vlru_has(&chunk->here))
			continue;
		vlru_drop(&source->here, &chunk->here);
		describe(source, chunk, write);
		return true;
	}
	return false;
}
