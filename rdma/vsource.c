/* SPDX-License-Identifier: MIT */
/*
 * Engine: see vsource.h; what is registered is in vsource_keep.c.
 *
 * A message needs the peer's room for it (READY), and there is room for one. So what needs one is
 * looked for ahead of what is to be written: while a chunk's contents are on their way the key of
 * the next one is asked for.
 *
 * There may be any number of writes into one chunk: in a bracket no byte is written twice, and a
 * bracket ends when all writes of it are complete.
 */
#include "base/err.h"
#include "base/zero.h"
#include "rdma/vsource_internal.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define ZEROS_MIN (UINT64_C(64) << 10) /* which are told and not written, though there is a key */

static unsigned long long ull(uint64_t value)
{
	return value;
}

void vsource_init(struct vsource *source, uint32_t flags, unsigned writes_max)
{
	memset(source, 0, sizeof(*source));
	source->pin_all = flags & CONTROL_PIN_ALL;
	source->several = flags & CONTROL_SEVERAL;
	source->no_room = flags & CONTROL_NO_ROOM;
	source->bits = control_chunk_bits(flags);
	source->writes_max = writes_max;
	vsource_limit(source, 0);
}

void vsource_add_block(struct vsource *source, const uint8_t *addr, uint64_t length,
		       struct vsource_chunk *chunk)
{
	source->block[source->blocks++] = (struct vsource_block){
		.addr = addr,
		.length = length,
		.chunk = chunk,
	};
}

void vsource_open(struct vsource *source)
{
	source->step = source->listed ? VSOURCE_MEMORY : VSOURCE_LIST;
	source->closing = false;
	source->ahead.block = 0;
	source->ahead.chunk = 0;
}

void vsource_close(struct vsource *source)
{
	source->closing = true;
}

bool vsource_is_open(const struct vsource *source)
{
	return source->step != VSOURCE_STREAM;
}

bool vsource_range(struct vsource *source, unsigned block, uint64_t offset, uint64_t length)
{
	struct vsource_range *last;

	/* one that was looked at already is what it was then */
	if (source->ranges > source->looked) {
		last = vsource_range_at(source, source->ranges - 1);
		if (last->block == block && last->offset + last->length == offset &&
		    last->content == CONTENT_UNKNOWN &&
		    last->offset >> CONTROL_CHUNK_BITS == offset >> CONTROL_CHUNK_BITS) {
			last->length += length;
			return true;
		}
	}
	if (source->ranges == VSOURCE_RANGES)
		return false;
	*vsource_range_at(source, source->ranges++) = (struct vsource_range){
		.block = block,
		.offset = offset,
		.length = length,
	};
	return true;
}

bool vsource_may_stream(struct vsource *source)
{
	if (source->step != VSOURCE_STREAM || !source->credit)
		return false;
	source->credit = false;
	source->messages++;
	return true;
}

/* ---- What is to be done ----------------------------------------------------------- */

size_t vsource_say(struct vsource *source, uint8_t *message, enum control_kind kind, uint32_t count)
{
	source->credit = false;
	source->messages++;
	return control_put(message, kind, count, 0);
}

static uint32_t key_of(struct vsource *source, const struct vsource_range *range)
{
	return source->pin_all ? source->block[range->block].rkey :
				 vsource_chunk_of(source, range)->rkey;
}

bool vsource_is_zero(const struct vsource *source, struct vsource_range *range)
{
	const uint8_t *at = source->block[range->block].addr + range->offset;

	if (range->content == CONTENT_UNKNOWN) {
		range->content = CONTENT_ZERO;
		for (uint64_t page = 0; page < range->length; page += PAGE)
			if (!zero_page(at + page, PAGE)) {
				range->content = CONTENT_DATA;
				break;
			}
	}
	return range->content == CONTENT_ZERO;
}

static size_t say_zero(struct vsource *source, struct vsource_range *range, uint8_t *message)
{
	struct control_zero zero = {
		.block = range->block,
		.address = vsource_peers_address(source, range),
		.length = range->length,
	};

	control_put_zero(message, 0, &zero);
	source->zero_bytes += range->length;
	range->length = 0;
	return vsource_say(source, message, CONTROL_ZERO, 1);
}

/*
 * It can be written, and nothing is to be said for that. In a chunk of QEMU's what is zero is written
 * if there is a key; a large one may have a key for a single page of it
 */
static bool is_written(struct vsource *source, struct vsource_range *range)
{
	if (!key_of(source, range))
		return false;
	return source->pin_all || source->bits == CONTROL_CHUNK_BITS || range->length < ZEROS_MIN ||
	       !vsource_is_zero(source, range);
}

/* What has to be said before the ranges can be written, the next of it. Return: 0, nothing now */
static size_t say_ahead(struct vsource *source, uint8_t *message)
{
	for (; source->looked < source->ranges; source->looked++) {
		struct vsource_range *range = vsource_range_at(source, source->looked);

		if (is_written(source, range)) {
			vsource_chunk_of(source, range)->waiting++;
			continue;
		}
		if (!source->credit || source->owed)
			return 0;
		if (!vsource_is_zero(source, range))
			return keep_say(source, message);
		source->looked++;
		return say_zero(source, range, message);
	}
	return 0;
}

/* The range in front, if it has a key, or NULL */
static struct vsource_range *writable(struct vsource *source)
{
	struct vsource_range *range;

	for (; source->looked; source->looked--, source->ranges--) {
		range = vsource_range_at(source, 0);
		if (range->length)
			return range;
		source->first = (source->first + 1) % VSOURCE_RANGES;
	}
	return NULL;
}

/* It is under way, until vsource_written() says that it is not */
static void begin_write(struct vsource *source, struct vsource_chunk *chunk)
{
	chunk->waiting--;
	chunk->writes++;
	source->under_way[(source->writes_first + source->writes) % VSOURCE_WRITES_MAX] = chunk;
	source->writes++;
	if (chunk->rkey)
		keep_use(source, chunk);
	if (vlru_has(&chunk->here))
		vlru_use(&source->here, &chunk->here);
}

static void write_front(struct vsource *source, struct vsource_write *write)
{
	struct vsource_range *range = vsource_range_at(source, 0);

	*write = (struct vsource_write){
		.block = range->block,
		.offset = range->offset,
		.length = (uint32_t)range->length,
		.address = source->block[range->block].host + range->offset,
		.rkey = key_of(source, range),
	};
	source->written_bytes += range->length;
	range->length = 0;
	begin_write(source, vsource_chunk_of(source, range));
	/* whoever is the last for now tells of all in front of him */
	range = writable(source);
	write->signal = ++source->quiet == VSOURCE_SIGNAL || source->writes == source->writes_max ||
			!range || !keep_has(source, vsource_chunk_of(source, range));
	if (write->signal)
		source->quiet = 0;
}

/* The range in front is written, if its chunk is registered on this side */
static enum vsource_next next_write(struct vsource *source, struct vsource_write *write)
{
	struct vsource_range *range = writable(source);
	struct vsource_chunk *chunk;

	if (!range)
		return VSOURCE_WAIT;
	chunk = vsource_chunk_of(source, range);
	if (!keep_has(source, chunk))
		return keep_pin(source, chunk, write);
	write_front(source, write);
	return VSOURCE_WRITE;
}

enum vsource_next vsource_next(struct vsource *source, uint8_t *message, size_t *bytes,
			       struct vsource_write *write)
{
	*bytes = 0;
	if (source->step == VSOURCE_LIST && source->credit && !source->owed) {
		source->owed = CONTROL_BLOCKS_RESULT;
		*bytes = vsource_say(source, message, CONTROL_BLOCKS_REQUEST, 1);
	} else if (source->step == VSOURCE_MEMORY) {
		enum vsource_next next;

		if (keep_unpin(source, write))
			return VSOURCE_UNPIN;
		*bytes = say_ahead(source, message);
		if (!*bytes && source->writes < source->writes_max &&
		    (next = next_write(source, write)) != VSOURCE_WAIT)
			return next;
		if (!*bytes && source->closing && !source->ranges && !source->writes &&
		    source->credit && !source->owed) {
			source->step = VSOURCE_STREAM;
			*bytes = vsource_say(source, message, CONTROL_REGISTER_FINISHED, 1);
		}
	}
	return *bytes ? VSOURCE_SAY : VSOURCE_WAIT;
}

void vsource_written(struct vsource *source, unsigned writes)
{
	for (; writes; writes--, source->writes--) {
		source->under_way[source->writes_first]->writes--;
		source->writes_first = (source->writes_first + 1) % VSOURCE_WRITES_MAX;
	}
}

/* ---- What the peer says ------------------------------------------------------------ */

static int take_list(struct vsource *source, const struct control *control, struct wh_err *err)
{
	if (control->count != source->blocks)
		return err_set(err, -EPROTO, "rdma: BLOCKS_RESULT of %u blocks, there are %u",
			       control->count, source->blocks);
	for (unsigned i = 0; i < source->blocks; i++) {
		struct vsource_block *block = &source->block[i];
		struct control_block line = { 0 };

		control_get_block(control, i, &line);
		if (line.length != block->length)
			return err_set(err, -EPROTO,
				       "rdma: BLOCKS_RESULT: block %u has 0x%llx bytes, not 0x%llx",
				       i, ull(line.length), ull(block->length));
		if (line.host > UINT64_MAX - line.length || line.start > UINT64_MAX - line.length)
			return err_set(err, -EPROTO, "rdma: BLOCKS_RESULT: block %u at 0x%llx", i,
				       ull(line.host > line.start ? line.host : line.start));
		if (source->pin_all && !line.rkey)
			return err_set(err, -EPROTO, "rdma: BLOCKS_RESULT: block %u is not pinned",
				       i);
		block->host = line.host;
		block->start = line.start;
		block->rkey = line.rkey;
	}
	source->listed = true;
	source->step = VSOURCE_MEMORY;
	return 0;
}

int vsource_take(struct vsource *source, const uint8_t *message, size_t bytes, struct wh_err *err)
{
	enum control_kind owed = source->owed;
	struct control control;
	int ret = control_get(message, bytes, &control, err);

	if (ret < 0)
		return ret;
	if (control.kind == CONTROL_ERROR)
		return err_set(err, -ECONNABORTED, "rdma: the destination has given up");
	if (control.kind == CONTROL_READY) {
		if (source->credit || owed)
			return err_set(err, -EPROTO, "rdma: READY %s",
				       owed ? "instead of an answer" : "for the second time");
		source->credit = true;
		return 0;
	}
	if (!owed || control.kind != owed)
		return err_set(err, -EPROTO, "rdma: %s, which was not asked for",
			       control_name(control.kind));
	source->owed = (enum control_kind)0;
	if (owed == CONTROL_BLOCKS_RESULT)
		return take_list(source, &control, err);
	if (owed == CONTROL_REGISTER_RESULT)
		return keep_take_grants(source, &control, err);
	return keep_take_finished(source, &control, err);
}
