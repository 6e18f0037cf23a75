/* SPDX-License-Identifier: MIT */
/*
 * Both ends of pages that are read, each among strangers. An input is a list of what happens: pages that
 * are wanted, messages as they are, reads that are complete, the end of the connection. Whatever it is,
 * the source lends nothing outside of a block, and at the destination a page is in one place, is read
 * inside of its block with a key that was given for its chunk, and is not forgotten.
 */
#include "rdma/vread.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define BLOCKS 3u
#define CHUNKS 4u

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

static const uint64_t lengths[BLOCKS] = { 4 * MIB, MIB + PAGE, PAGE };

struct play {
	struct vread read;
	struct vread_chunk chunk[BLOCKS][CHUNKS];
	struct vlend lend;
	unsigned handed, back, under_way;
};

static uint32_t op_key(void *ctx, unsigned block, uint64_t chunk)
{
	(void)ctx;
	check(block < BLOCKS && chunk < vread_chunks(lengths[block]));
	return (uint32_t)chunk;
}

static const struct vlend_ops ops = { op_key };

static void lend(struct play *p, const uint8_t *message, size_t bytes)
{
	uint8_t answer[VREAD_MESSAGE];
	struct wh_err err = { 0 };
	struct control said;
	size_t length;

	if (vlend_take(&p->lend, message, bytes, answer, &length, &err) < 0) {
		check(!length && err.code < 0 && err.text[0]);
		return;
	}
	check(length <= sizeof(answer) && control_get(answer, length, &said, NULL) == 0);
	check(said.kind == CONTROL_KEY_RESULT);
}

/* All that can be done is, and comes back */
static void go_on(struct play *p)
{
	uint8_t message[VREAD_MESSAGE];
	struct vread_job job;
	enum vread_next next;
	size_t bytes;
	unsigned at;

	while ((next = vread_next(&p->read, message, &bytes, &job)) != VREAD_WAIT) {
		if (next == VREAD_READ) {
			const struct vread_slot *slot = &p->read.slot[job.slot];
			uint64_t host = p->read.block[slot->block].host;

			check(slot->offset % PAGE == 0 && job.rkey);
			check(slot->offset + PAGE <= lengths[slot->block]);
			check(job.address == host + slot->offset && job.address >= host);
			check(job.rkey == p->chunk[slot->block][slot->offset / MIB].rkey);
			p->under_way++;
		} else {
			check(bytes <= sizeof(message));
			lend(p, message, bytes);
		}
	}
	for (unsigned state = VREAD_HERE; state <= VREAD_VAIN; state++)
		while ((at = vread_find(&p->read, (enum vread_state)state)) < VREAD_SLOTS) {
			vread_free(&p->read, at);
			p->back++;
		}
}

static void lose(struct play *p)
{
	vread_lost(&p->read);
	p->under_way = 0;
	go_on(p);
	check(p->handed == p->back);
	check(vread_find(&p->read, VREAD_FREE) == 0);
}

/* Return: the connection goes on */
static bool hear(struct play *p, const uint8_t *message, size_t bytes)
{
	struct wh_err err = { 0 };

	lend(p, message, bytes);
	if (vread_take(&p->read, message, bytes, &err) == 0)
		return true;
	check(err.code < 0 && err.text[0]);
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static struct play play;
	const uint8_t *end = bytes + length;
	bool up = true;

	memset(&play, 0, sizeof(play));
	vread_init(&play.read);
	vlend_init(&play.lend, &ops, &play);
	for (unsigned i = 0; i < BLOCKS; i++) {
		vread_add_block(&play.read, lengths[i], play.chunk[i]);
		vlend_add_block(&play.lend, i << 30, lengths[i]);
	}
	while (up && end - bytes >= 3) {
		unsigned what = bytes[0] % 4, value = (unsigned)bytes[1] << 8 | bytes[2];
		size_t size = value;
		uint8_t *copy;

		bytes += 3;
		if (what == 1)
			play.handed += vread_page(&play.read, value & 3, value / 4 * PAGE);
		if (what == 2 && play.under_way) {
			vread_done(&play.read, 1);
			play.under_way--;
		}
		if (what == 0) {
			/* just so many bytes, so that one too many is seen */
			if (size > (size_t)(end - bytes))
				size = (size_t)(end - bytes);
			copy = malloc(size ? size : 1);
			memcpy(copy, bytes, size);
			bytes += size;
			up = hear(&play, copy, size);
			free(copy);
		}
		go_on(&play);
	}
	lose(&play);
	return 0;
}
