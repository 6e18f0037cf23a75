/* SPDX-License-Identifier: MIT */
/*
 * The destination's end of RDMA's control channel among strangers. An input is a list of what happens:
 * messages as they are, words of the stream, memory that cannot be pinned. Whatever it is, nothing
 * outside of a block is registered, revoked or cleared, and what is answered is a message.
 */
#include "rdma/vdest.h"

#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define BLOCKS 6u
#define CHUNKS 33u

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

/* As the guests have it that the seeds are of; the last one ends within a chunk */
static const uint64_t lengths[BLOCKS] = { 32 * MIB,  128 << 10, 256 << 10,
					  128 << 10, PAGE,	MIB + PAGE };

struct play {
	struct vdest dest;
	uint8_t answer[VDEST_ANSWER_MAX];
	bool granted[BLOCKS][CHUNKS], whole[BLOCKS];
	bool no_memory;
	unsigned calls;
};

static uint64_t host(unsigned block)
{
	return UINT64_C(0x7f0000000000) + ((uint64_t)block << 32);
}

static uint64_t chunks(const struct play *p, unsigned block)
{
	return ((lengths[block] - 1) >> p->dest.bits) + 1;
}

static uint32_t key(unsigned block, uint64_t chunk)
{
	return 1 + block * CHUNKS + (uint32_t)(chunk == VDEST_WHOLE ? 0x10000 : chunk);
}

static int grant(void *ctx, unsigned block, uint64_t chunk, uint32_t *rkey, struct wh_err *err)
{
	struct play *p = ctx;

	p->calls++;
	check(block < BLOCKS && (chunk == VDEST_WHOLE || chunk < chunks(p, block)));
	check(p->dest.listed && p->dest.bracket);
	if (p->no_memory)
		return err_set(err, -ENOMEM, "rdma: no memory");
	*(chunk == VDEST_WHOLE ? &p->whole[block] : &p->granted[block][chunk]) = true;
	*rkey = key(block, chunk);
	return 0;
}

static int take_back(void *ctx, unsigned block, uint64_t chunk, struct wh_err *err)
{
	struct play *p = ctx;

	(void)err;
	p->calls++;
	check(block < BLOCKS && chunk < chunks(p, block));
	p->granted[block][chunk] = false;
	return 0;
}

static void clear(void *ctx, unsigned block, uint64_t offset, uint64_t length)
{
	((struct play *)ctx)->calls++;
	check(block < BLOCKS && length && offset < lengths[block]);
	check(length <= lengths[block] - offset && !((offset | length) % PAGE));
}

static const struct vdest_ops ops = { grant, take_back, clear };

/* Of a key that is told it is known which memory it is for */
static void check_answer(const struct play *p, const struct control *asked, size_t length)
{
	struct control answer;
	struct control_grant got;
	struct control_ask ask;

	if (!length) {
		check(asked->kind == CONTROL_ZERO || asked->kind == CONTROL_REGISTER_FINISHED);
		return;
	}
	check(length <= sizeof(p->answer) && control_get(p->answer, length, &answer, NULL) == 0);
	if (asked->kind == CONTROL_BLOCKS_REQUEST)
		check(answer.kind == CONTROL_BLOCKS_RESULT && answer.count == BLOCKS);
	else if (asked->kind == CONTROL_UNREGISTER_REQUEST)
		check(answer.kind == CONTROL_UNREGISTER_FINISHED && answer.count == asked->count);
	else
		check(asked->kind == CONTROL_REGISTER_REQUEST &&
		      answer.kind == CONTROL_REGISTER_RESULT && answer.count == asked->count);
	for (uint32_t i = 0; answer.kind == CONTROL_REGISTER_RESULT && i < answer.count; i++) {
		control_get_grant(&answer, i, &got);
		control_get_ask(asked, i, &ask);
		check(got.host == host(ask.block));
		if (!got.rkey && p->no_memory && p->dest.no_room)
			continue;
		check(got.rkey == key(ask.block, (ask.address - p->dest.block[ask.block].start) >>
							 p->dest.bits));
	}
}

/* Return: the connection goes on */
static bool hear(struct play *p, const uint8_t *message, size_t bytes)
{
	struct control control;
	struct wh_err err = { 0 };
	unsigned calls = p->calls;
	size_t length = 1;
	int ret = vdest_take(&p->dest, message, bytes, &control, p->answer, &length, &err);

	if (ret == VDEST_WAIT) {
		check(!length && p->calls == calls && !p->dest.bracket);
		vdest_hook(&p->dest);
		ret = vdest_take(&p->dest, message, bytes, &control, p->answer, &length, &err);
		check(ret != VDEST_WAIT);
	}
	if (ret < 0) {
		check(err.code == ret && err.text[0]);
		return false;
	}
	if (ret == VDEST_STREAM)
		check(!length && p->calls == calls && !p->dest.bracket && control.length &&
		      control.payload + control.length == message + bytes);
	else
		check_answer(p, &control, length);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static struct play play;
	struct vdest_block block[BLOCKS];
	const uint8_t *end = bytes + length;
	bool up = true;

	if (!length)
		return 0;
	memset(&play, 0, sizeof(play));
	vdest_init(&play.dest, &ops, &play,
		   (*bytes & 1 ? CONTROL_PIN_ALL : 0) | (*bytes & 2 ? CONTROL_NO_ROOM : 0) |
			   (*bytes & 4 ? CONTROL_CHUNK_4M : 0));
	bytes++;
	for (unsigned i = 0; i < BLOCKS; i++)
		block[i] = (struct vdest_block){ .host = host(i), .length = lengths[i] };
	vdest_blocks(&play.dest, block, BLOCKS);
	while (up && end - bytes >= 3) {
		unsigned what = bytes[0];
		size_t size = (size_t)bytes[1] << 8 | bytes[2];
		uint8_t *copy;

		bytes += 3;
		if (what == 1)
			vdest_hook(&play.dest);
		else if (what == 2)
			play.no_memory = !play.no_memory;
		if (what)
			continue;
		/* just so many bytes, so that one too many is seen */
		if (size > (size_t)(end - bytes))
			size = (size_t)(end - bytes);
		copy = malloc(size ? size : 1);
		memcpy(copy, bytes, size);
		bytes += size;
		up = hear(&play, copy, size);
		free(copy);
	}
	return 0;
}
