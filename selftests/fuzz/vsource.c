/* SPDX-License-Identifier: MIT */
/*
 * The source's end of RDMA's control channel among strangers. An input is a list of what happens:
 * messages of the peer, as they are or as they ought to be; ranges, brackets; writes that are
 * complete; registering that fails. Whatever it is, nothing is written from or to outside of a block or
 * of what is registered, no more is under way or registered than may be, and a bracket that ends has
 * moved all that was handed over.
 */
#include "rdma/vsource.h"

#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define BLOCKS 2u
#define PAGES 517u
#define CHUNKS 4u
#define HOST UINT64_C(0x7f0000000000)

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

/* The first one has a last chunk of five pages, whether chunks are of one MiB or of two */
static const uint64_t lengths[BLOCKS] = { 2 * MIB + 5 * PAGE, PAGE };
static uint8_t memory[BLOCKS][2 * MIB + 5 * 4096] __attribute__((aligned(4096)));

static const uint8_t hint[3] = { VSOURCE_COLD, VSOURCE_HOT };

struct input {
	const uint8_t *at;
	size_t left;
};

struct play {
	struct vsource source;
	struct vsource_chunk chunk[BLOCKS][3];
	uint8_t message[CONTROL_HEADER + VSOURCE_ASK_MAX * 24];
	bool to_move[BLOCKS][PAGES]; /* handed over, neither written nor told to be zero */
	bool handed[BLOCKS][PAGES];  /* in this bracket */
	struct control_ask ask[VSOURCE_ASK_MAX];
	uint32_t asked;
	enum control_kind owed;
	bool credit;
	bool listed;
	unsigned limit; /* chunks, of CHUNKS at most */
	bool there[BLOCKS][3], here[BLOCKS][3];
	unsigned busy[BLOCKS][3]; /* writes under way, and of which chunks */
	unsigned *order[VSOURCE_WRITES_MAX];
	unsigned first;
	unsigned most, under_way;
	bool signalled; /* the last one under way */
};

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static unsigned count(const bool of[BLOCKS][3])
{
	unsigned n = 0;

	for (unsigned i = 0; i < BLOCKS * 3; i++)
		n += of[i / 3][i % 3];
	return n;
}

static void moved(struct play *p, unsigned block, uint64_t offset, uint64_t length, bool zero)
{
	check(block < BLOCKS && length && offset < lengths[block]);
	check(length <= lengths[block] - offset && !((offset | length) % PAGE));
	for (uint64_t page = offset / PAGE; page < (offset + length) / PAGE; page++) {
		check(p->to_move[block][page]);
		check(!zero || !memory[block][page * PAGE]);
		p->to_move[block][page] = false;
	}
}

/* What goes to the peer is a message, and he has room for it */
static void said(struct play *p, size_t bytes)
{
	struct control control;
	struct control_zero zero;

	check(p->credit && !p->owed);
	p->credit = false;
	check(bytes <= sizeof(p->message));
	check(control_get(p->message, bytes, &control, NULL) == 0);
	switch ((int)control.kind) {
	case CONTROL_BLOCKS_REQUEST:
		check(!p->listed);
		p->owed = CONTROL_BLOCKS_RESULT;
		break;
	case CONTROL_ZERO:
		control_get_zero(&control, 0, &zero);
		moved(p, zero.block, zero.address - p->source.block[zero.block].start, zero.length,
		      true);
		break;
	case CONTROL_REGISTER_REQUEST:
		check(!p->source.pin_all && (p->source.several || control.count == 1));
		p->asked = control.count;
		for (uint32_t i = 0; i < control.count; i++)
			control_get_ask(&control, i, &p->ask[i]);
		check(count(p->there) + p->asked <= p->limit);
		p->owed = CONTROL_REGISTER_RESULT;
		break;
	case CONTROL_UNREGISTER_REQUEST:
		p->asked = control.count;
		for (uint32_t i = 0; i < control.count; i++) {
			struct control_ask ask;

			control_get_ask(&control, i, &ask);
			check(ask.block < BLOCKS && ask.address < 3 && !ask.chunks);
			check(p->there[ask.block][ask.address] && !p->busy[ask.block][ask.address]);
			p->there[ask.block][ask.address] = false;
		}
		p->owed = CONTROL_UNREGISTER_FINISHED;
		break;
	default:
		check(control.kind == CONTROL_REGISTER_FINISHED);
		check(!vsource_is_open(&p->source) && !p->under_way);
		for (unsigned i = 0; i < BLOCKS * PAGES; i++)
			check(!p->to_move[i / PAGES][i % PAGES]);
		memset(p->handed, 0, sizeof(p->handed));
		break;
	}
}

static void written(struct play *p, const struct vsource_write *write)
{
	const struct vsource_block *block = &p->source.block[write->block];

	moved(p, write->block, write->offset, write->length, false);
	check(write->offset / MIB == (write->offset + write->length - 1) / MIB);
	if (!p->source.pin_all)
		check(p->there[write->block][write->offset >> p->source.bits] &&
		      p->here[write->block][write->offset >> p->source.bits]);
	p->order[(p->first + p->under_way) % VSOURCE_WRITES_MAX] =
		&p->busy[write->block][write->offset >> p->source.bits];
	p->busy[write->block][write->offset >> p->source.bits]++;
	check(write->rkey && write->address == block->host + write->offset);
	check(write->address <= UINT64_MAX - write->length);
	check(p->listed && ++p->under_way <= p->most);
	p->signalled = write->signal;
}

/* Return: it goes on */
static bool pinned(struct play *p, const struct vsource_write *write, bool works)
{
	bool *here = &p->here[write->block][write->offset >> p->source.bits];
	unsigned before = count(p->here);

	check(!*here && !p->source.pin_all && before < p->limit);
	if (!works) {
		check(vsource_not_pinned(&p->source) == (before > 0));
		return before > 0;
	}
	*here = true;
	return true;
}

static void unpinned(struct play *p, const struct vsource_write *write)
{
	bool *here = &p->here[write->block][write->offset >> p->source.bits];

	check(*here && !p->busy[write->block][write->offset >> p->source.bits]);
	*here = false;
}

/* Return: the connection goes on */
static bool do_next(struct play *p, bool works)
{
	struct vsource_write write = { 0 };
	size_t bytes;

	switch (vsource_next(&p->source, p->message, &bytes, &write)) {
	case VSOURCE_SAY:
		said(p, bytes);
		break;
	case VSOURCE_WRITE:
		written(p, &write);
		break;
	case VSOURCE_PIN:
		return pinned(p, &write, works);
	case VSOURCE_UNPIN:
		unpinned(p, &write);
		break;
	case VSOURCE_WAIT:
		/* else nobody would hear that they are complete */
		check(!p->under_way || p->signalled);
		break;
	}
	return true;
}

/* Pages of a chunk, once in a bracket */
static void do_range(struct play *p, struct input *in)
{
	unsigned block = take(in) % BLOCKS, pages = (unsigned)(lengths[block] / PAGE);
	unsigned from = (take(in) * 3) % pages, count = 1 + take(in) % 9, i;

	if (!vsource_is_open(&p->source) || p->source.closing)
		return;
	for (i = 0; i < count && from + i < pages && !p->handed[block][from + i]; i++)
		if (i && (from + i) % 256 == 0)
			break;
	if (!i || !vsource_range(&p->source, block, from * PAGE, i * PAGE))
		return;
	memset(&p->handed[block][from], 1, i);
	memset(&p->to_move[block][from], 1, i);
}

/* Keys, of which some may be none */
static void given(struct play *p, const uint8_t *message)
{
	for (uint32_t i = 0; i < p->asked; i++) {
		const struct control_ask *ask = &p->ask[i];
		uint64_t chunk =
			(ask->address - p->source.block[ask->block].start) >> p->source.bits;
		bool key = get_be32(message + CONTROL_HEADER + i * 16);

		check(key || p->source.no_room);
		p->there[ask->block][chunk] = key;
	}
	check(count(p->there) && count(p->there) <= p->limit);
}

/* Return: the connection goes on */
static bool hear(struct play *p, const uint8_t *message, size_t bytes)
{
	enum control_kind owed = p->owed;
	struct wh_err err = { 0 };
	int ret = vsource_take(&p->source, message, bytes, &err);

	if (ret < 0) {
		check(err.code == ret && err.text[0]);
		return false;
	}
	check(ret == 0);
	if (message[7] == CONTROL_READY) {
		check(!p->credit && !owed);
		p->credit = true;
	} else {
		check(owed && message[7] == owed);
		if (owed == CONTROL_REGISTER_RESULT)
			given(p, message);
		p->listed |= owed == CONTROL_BLOCKS_RESULT;
		p->owed = (enum control_kind)0;
	}
	return true;
}

/* What ought to be answered, or nearly */
static bool do_answer(struct play *p, struct input *in)
{
	uint8_t answer[CONTROL_HEADER + VSOURCE_ASK_MAX * 16];
	unsigned wrong = take(in);

	if (p->owed == CONTROL_BLOCKS_RESULT) {
		for (unsigned i = 0; i < BLOCKS; i++) {
			struct control_block line = {
				.host = wrong == 1 ? UINT64_MAX - PAGE : HOST + (i << 28),
				.start = wrong == 2 ? UINT64_MAX - PAGE : (uint64_t)i << 40,
				.length = lengths[i] + (wrong == 3),
				.rkey = p->source.pin_all && wrong != 4,
			};

			control_put_block(answer, i, &line);
		}
		return hear(p, answer, control_put(answer, p->owed, wrong == 5 ? 1 : BLOCKS, 0));
	}
	if (p->owed == CONTROL_UNREGISTER_FINISHED)
		return hear(p, answer, control_put(answer, p->owed, p->asked + (wrong == 9), 0));
	if (p->owed != CONTROL_REGISTER_RESULT)
		return true;
	for (uint32_t i = 0; i < p->asked; i++) {
		struct control_grant grant = {
			.rkey = wrong != 6 && wrong != 10 + i,
			.host = wrong == 7 ? UINT64_MAX - PAGE : HOST + (p->ask[i].block << 28),
		};

		control_put_grant(answer, i, &grant);
	}
	if (wrong == 8 && p->asked > 1)
		p->asked--;
	return hear(p, answer, control_put(answer, p->owed, p->asked, 0));
}

static bool do_raw(struct play *p, struct input *in)
{
	size_t size = take(in);
	uint8_t *copy;
	bool up;

	if (size > in->left)
		size = in->left;
	/* just so many bytes, so that one too many is seen */
	copy = malloc(size ? size : 1);
	memcpy(copy, in->at, size);
	in->at += size;
	in->left -= size;
	up = hear(p, copy, size);
	free(copy);
	return up;
}

static void complete(struct play *p, unsigned writes)
{
	vsource_written(&p->source, writes);
	p->under_way -= writes;
	for (; writes; writes--) {
		--*p->order[p->first];
		p->first = (p->first + 1) % VSOURCE_WRITES_MAX;
	}
}

static bool do_one(struct play *p, struct input *in)
{
	uint8_t ready[CONTROL_HEADER];

	switch (take(in) % 10) {
	case 0:
		return do_raw(p, in);
	case 1:
		return hear(p, ready, control_put(ready, CONTROL_READY, 1, 0));
	case 2:
		return do_answer(p, in);
	case 3:
		if (!vsource_is_open(&p->source))
			vsource_open(&p->source);
		break;
	case 4:
		do_range(p, in);
		break;
	case 5:
		if (vsource_is_open(&p->source))
			vsource_close(&p->source);
		break;
	case 6:
		complete(p, take(in) % (p->under_way + 1));
		break;
	case 7:
		if (vsource_may_stream(&p->source)) {
			check(p->credit && !vsource_is_open(&p->source));
			p->credit = false;
		}
		break;
	case 8:
		return do_next(p, true);
	default:
		return do_next(p, false);
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static struct play play;
	struct input in = { bytes, length };
	unsigned how = take(&in);

	memset(&play, 0, sizeof(play));
	for (unsigned page = 0; page < PAGES - 39; page += 5)
		memory[0][page * PAGE] = 1;
	play.most = 1 + (how >> 2 & 3);
	vsource_init(&play.source,
		     (how & 3) == 1 ? CONTROL_PIN_ALL :
		     how & 2	    ? CONTROL_SEVERAL :
				      0,
		     play.most);
	play.source.no_room = how & 64;
	if ((how & 3) == 3)
		play.source.bits = 21;
	play.limit = how >> 4 & 3 ? how >> 4 & 3 : CHUNKS;
	vsource_limit(&play.source, (uint64_t)(how >> 4 & 3) << play.source.bits);
	for (unsigned i = 0; i < BLOCKS; i++) {
		vsource_add_block(&play.source, memory[i], lengths[i], play.chunk[i]);
		play.source.block[i].hint = how & 128 ? hint : NULL;
	}
	for (unsigned n = 0; in.left && n < 2000 && do_one(&play, &in); n++)
		;
	return 0;
}
