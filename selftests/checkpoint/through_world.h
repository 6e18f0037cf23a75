/* SPDX-License-Identifier: MIT */
/*
 * A guest, the stage that copies it, and the replica that a checkpoint's bytes come to.
 */
#ifndef SELFTESTS_CHECKPOINT_THROUGH_WORLD_H
#define SELFTESTS_CHECKPOINT_THROUGH_WORLD_H

#include "base/bits.h"
#include "base/err.h"
#include "checkpoint/stage.h"
#include "checkpoint/store.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GENERATION 7u
#define BLOCKS 3u
#define DEVICE_MAX (3u << 20)

/* of each block; the large one makes runs that end where a slab does */
static const uint64_t block_pages[BLOCKS] = { 700, 1, 3000 };

static struct through {
	struct random random;
	bool failed;
	char why[300];

	/* the guest, and what it has written since it was last asked */
	struct region guest[BLOCKS];
	uint64_t *written[BLOCKS];
	struct cp_stage *stage;
	uint32_t features;
	/* as it stood still for the last epoch, and for the last that was acknowledged */
	uint8_t *stopped[BLOCKS], *acked[BLOCKS];
	uint8_t *device, *acked_device;
	size_t device_length, acked_device_length;

	struct region replica[BLOCKS];
	struct cp_store *store;
	struct cp_dest dest;
	bool verify_due, full_due, apply_due;
	unsigned refuses, slow; /* in thousandths */
	uint64_t acks, nacks;
	bool nacked;
	uint8_t message[CP_HEADER + (1u << 20)];
} t;

static struct {
	uint64_t epochs, refused, cut, zero, same, delta, packed, plain, ahead, parts;
} tally;

static bool chance(unsigned thousandths)
{
	return random_below(&t.random, 1000) < thousandths;
}

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	va_list args;

	if (t.failed)
		return;
	t.failed = true;
	va_start(args, format);
	vsnprintf(t.why, sizeof(t.why), format, args);
	va_end(args);
}

/* ---- The guest ---- */

static void write_page(unsigned block, uint64_t page)
{
	uint8_t *at = t.guest[block].addr + page * CP_PAGE;

	switch (random_below(&t.random, 6)) {
	case 0:
		memset(at, 0, CP_PAGE);
		break;
	case 1: /* what it was */
		break;
	case 2: /* a little */
		for (unsigned i = random_below(&t.random, 5); i < 6; i++)
			at[random_below(&t.random, CP_PAGE)] = (uint8_t)i;
		break;
	case 3: /* that nothing makes smaller */
		for (unsigned i = 0; i < CP_PAGE; i += 8) {
			uint64_t value = random_u64(&t.random);

			memcpy(at + i, &value, 8);
		}
		break;
	case 4: /* that zstd makes smaller */
		memset(at, (int)random_below(&t.random, 200) + 1, CP_PAGE);
		at[random_below(&t.random, CP_PAGE)] ^= 1;
		break;
	default: /* what it may have been before, or nearly */
		memset(at, (int)random_below(&t.random, 3), CP_PAGE);
		if (chance(300))
			at[random_below(&t.random, CP_PAGE)] = 1;
		break;
	}
	bits_set(t.written[block], page);
}

static void guest_writes(unsigned runs)
{
	for (unsigned i = random_below(&t.random, runs + 1); i; i--) {
		bool hot = chance(500);
		unsigned block = hot ? 0 : random_below(&t.random, BLOCKS);
		uint64_t page = random_below(&t.random, hot ? 20 : block_pages[block]);
		uint64_t end = page + random_below(&t.random, chance(100) ? 300 : 6) + 1;

		for (; page < end && page < block_pages[block]; page++)
			write_page(block, page);
	}
}

static int written(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	(void)world;
	/* one that fails has forgotten some */
	if (chance(3)) {
		bits_range_clear(t.written[block], 0, block_pages[block]);
		return err_set(err, -EIO, "as the seed has it");
	}
	for (uint64_t page = 0; page < block_pages[block]; page++)
		if (bits_test_clear(t.written[block], page))
			bits_set(map, page);
	return 0;
}

/* ---- The destination ---- */

static int say(void *world, struct cp_header *header, const struct cp_msg *msg, struct wh_err *err)
{
	(void)world;
	(void)msg;
	(void)err;
	if (header->kind == CP_ACK)
		t.acks++;
	if (header->kind == CP_NACK) {
		t.nacks++;
		t.nacked = true;
	}
	return 0;
}

static int block(void *world, uint32_t index, const struct cp_block *block, struct wh_err *err)
{
	(void)world;
	return cp_store_block(t.store, index, block, err);
}

static int entry(void *world, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	(void)world;
	if ((!full || t.dest.complete) && chance(t.refuses))
		return err_set(err, -ENOSPC, "no room, as the seed has it");
	return cp_store_entry(t.store, entry, full, err);
}

static void verify(void *world, uint64_t epoch, bool full)
{
	(void)world;
	(void)epoch;
	t.verify_due = true;
	t.full_due = full;
}

static void drop(void *world)
{
	(void)world;
	t.verify_due = false;
	cp_store_drop(t.store);
}

static void keep(void *world, uint64_t epoch)
{
	(void)world;
	(void)epoch;
	cp_store_keep(t.store);
	t.apply_due = true;
}

static int persist(void *world, uint64_t generation, struct wh_err *err)
{
	(void)world;
	(void)generation;
	(void)err;
	return 0;
}

static void run(void *world)
{
	(void)world;
}

static const struct cp_dest_ops dest_ops = {
	.say = say,
	.block = block,
	.entry = entry,
	.verify = verify,
	.drop = drop,
	.keep = keep,
	.persist = persist,
	.run = run,
};

static void apply(void)
{
	if (!t.apply_due)
		return;
	t.apply_due = false;
	while (!cp_store_apply(t.store))
		;
	cp_store_applied(t.store);
	cp_dest_applied(&t.dest, 1);
}

static void finish(void)
{
	struct wh_err err = { 0 };
	int ret;

	apply();
	if (!t.verify_due)
		return;
	t.verify_due = false;
	ret = cp_store_verify(t.store, t.full_due, &err);
	if (ret < 0)
		wrong("verify: %s", err.text);
	if (!ret && (!t.full_due || t.dest.complete) && chance(10 * t.refuses))
		ret = err_set(&err, -EIO, "as the seed has it");
	cp_dest_verified(&t.dest, ret < 0 ? &err : NULL, 1);
}

/* A message as it lies in t.message. Return: what the engine says */
static int hear(struct wh_err *err)
{
	struct cp_header header;
	int ret = cp_header_get(t.message, CP_FROM_SOURCE, &header, err);

	if (!ret)
		ret = cp_dest_expects(&t.dest, &header, err);
	if (!ret && header.kind == CP_PAGES)
		ret = cp_store_pages(t.store, t.message + CP_HEADER, header.length, err);
	if (!ret && header.kind == CP_DEVICE)
		ret = cp_store_device(t.store, t.message + CP_HEADER, header.length, err);
	if (ret >= 0)
		ret = cp_dest_message(&t.dest, &header, t.message, 1, err);
	if (ret < 0)
		wrong("%s refused: %s", cp_name(header.kind), err->text);
	return ret;
}

static void hear_msg(enum cp_kind kind, uint64_t epoch, const struct cp_msg *msg)
{
	struct cp_header header = { .kind = kind, .generation = GENERATION, .epoch = epoch };
	struct wh_err err = { 0 };

	cp_put(t.message, &header, msg);
	hear(&err);
}

#endif
