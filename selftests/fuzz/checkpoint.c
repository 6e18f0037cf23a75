/* SPDX-License-Identifier: MIT */
/*
 * A source that says anything to a destination of checkpoints: the engine, and the store
 * behind it. Headers are what the input has, with magic, version and checksum made right, or
 * nothing would get past them; each eighth is left as it is. A byte in front of each says what
 * else happens then.
 */
#include "base/bytes.h"
#include "base/err.h"
#include "checkpoint/stage.h" /* CP_PAGE */
#include "checkpoint/store.h"
#include "selftests/wire/feed.h"

#include <errno.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGES 16u
#define BLOCKS 3u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

struct world {
	struct cp_dest dest;
	uint64_t acked, described;
	bool verifies, verifies_full, applies, ran;
	uint8_t fails;
	struct cp_store *store;
	struct region regions[BLOCKS];
	uint64_t sum; /* of memory, when it may not change */
};

#define CONTENTS_MAX (24 * CP_PAGE)
#define DEVICE_MAX 64u
static uint8_t memory[BLOCKS][PAGES * CP_PAGE] __attribute__((aligned(64)));

static uint64_t memory_sum(void)
{
	return XXH3_64bits(memory, sizeof(memory));
}

static int say(void *ctx, struct cp_header *header, const struct cp_msg *msg, struct wh_err *err)
{
	struct world *world = ctx;

	(void)msg;
	(void)err;
	if (header->kind == CP_ACK) {
		promised(!world->ran && world->dest.state != CP_DEST_APPLYING,
			 "no acknowledgement behind the decision");
		promised(header->epoch == world->acked + 1, "epochs in their order");
		world->acked = header->epoch;
	}
	return world->fails & 1 ? -EPIPE : 0;
}

static int block(void *ctx, uint32_t index, const struct cp_block *block, struct wh_err *err)
{
	const struct cp_store_settings settings = {
		.contents_max = CONTENTS_MAX,
		.device_max = DEVICE_MAX,
	};
	struct world *world = ctx;
	struct region *region;
	int ret = 0;

	if (index >= BLOCKS || block->length > PAGES * CP_PAGE)
		return -ENOENT;
	/* as if it had been here all the time */
	region = &world->regions[index];
	region->addr = memory[index];
	region->length = block->length;
	memcpy(region->name, block->name.text, block->name.length);
	cp_store_free(world->store);
	world->store = cp_store_new(&settings, world->regions, index + 1, err);
	for (uint32_t i = 0; i <= index && !ret; i++)
		ret = cp_store_block(world->store, i, i < index ? &world->dest.blocks[i] : block,
				     err);
	return ret;
}

static int entry(void *ctx, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	struct world *world = ctx;
	const struct cp_block *block;

	promised(entry->block < world->dest.block_count, "a block that there is");
	block = &world->dest.blocks[entry->block];
	promised(entry->pages && entry->first < block->length / block->page_size &&
			 entry->pages <= block->length / block->page_size - entry->first,
		 "pages that there are");
	promised(full == (world->dest.epoch == 1), "the first is all");
	return world->fails & 2 ? -ENOSPC : cp_store_entry(world->store, entry, full, err);
}

static void verify(void *ctx, uint64_t epoch, bool full)
{
	struct world *world = ctx;

	promised(epoch == world->dest.complete + 1, "the next");
	promised(!world->applies, "not beside another");
	world->verifies = true;
	world->verifies_full = full;
}

static void drop(void *ctx)
{
	struct world *world = ctx;

	world->verifies = false;
	cp_store_drop(world->store);
}

static void keep(void *ctx, uint64_t epoch)
{
	struct world *world = ctx;

	(void)epoch;
	promised(!world->applies, "one after the other");
	cp_store_keep(world->store);
	world->applies = true;
}

static int persist(void *ctx, uint64_t generation, struct wh_err *err)
{
	(void)generation;
	(void)err;
	return ((struct world *)ctx)->fails & 4 ? -ENOSPC : 0;
}

static void run(void *ctx)
{
	struct world *world = ctx;

	promised(world->dest.complete && !world->applies && !world->ran,
		 "from what is complete and in place, once");
	world->ran = true;
}

static const struct cp_dest_ops ops = {
	.say = say,
	.block = block,
	.entry = entry,
	.verify = verify,
	.drop = drop,
	.keep = keep,
	.persist = persist,
	.run = run,
};

/* What goes on beside the messages */
static void happen(struct world *world, uint8_t what, uint64_t now_ns)
{
	struct wh_err err = { 0 };
	int ret;

	world->fails = what & 7;
	if (what & 8 && world->verifies) {
		world->verifies = false;
		ret = cp_store_verify(world->store, world->verifies_full, &err);
		promised(ret == 0 || err.text[0], "0, or a sentence");
		promised((world->verifies_full && !world->dest.complete) ||
				 world->sum == memory_sum(),
			 "beside memory");
		world->sum = memory_sum();
		if (!ret && what & 16)
			ret = err_set(&err, -EILSEQ, "as the input has it");
		cp_dest_verified(&world->dest, ret < 0 ? &err : NULL, now_ns);
	}
	if (what & 32 && world->applies) {
		while (!cp_store_apply(world->store))
			;
		cp_store_applied(world->store);
		world->sum = memory_sum();
		world->applies = false;
		cp_dest_applied(&world->dest, now_ns);
	}
	if (what == 0xc0)
		cp_dest_takeover(&world->dest, world->dest.generation + 1, NULL);
	else if (what == 0xc1)
		cp_dest_abandon(&world->dest, NULL);
	else if (what == 0xc2)
		cp_dest_lost(&world->dest, NULL, now_ns);
	cp_dest_step(&world->dest, now_ns);
}

/* A message into just so much memory, its header made right. Return: bytes taken */
static size_t hear(struct world *world, const uint8_t *bytes, size_t length, uint64_t now_ns)
{
	struct wh_err err = { 0 };
	struct cp_header header;
	uint8_t head[CP_HEADER], *message;
	int ret;

	memcpy(head, bytes, CP_HEADER);
	if (head[7] & 7) {
		put_be32(head, 0x57484350);
		head[4] = CP_VERSION;
		put_be16(head + 6, 0);
		put_be64(head + 8, head[15] & 3);
		put_be64(head + 16, head[23] & 3);
		put_be32(head + 28, XXH32(head, 28, 0));
	}
	ret = cp_header_get(head, CP_FROM_SOURCE, &header, &err);
	promised(ret == 0 || (ret == -EPROTO && err.text[0]), "0, or -EPROTO and a sentence");
	if (ret < 0 || header.length > length - CP_HEADER)
		return CP_HEADER;
	message = malloc(CP_HEADER + header.length);
	memcpy(message, head, CP_HEADER);
	memcpy(message + CP_HEADER, bytes + CP_HEADER, header.length);
	/* the hash that is right, or nothing would be complete */
	if (header.kind == CP_COMMIT && message[CP_HEADER + 31] & 1)
		put_be64(message + CP_HEADER + 24, cp_hash_end(&world->dest.hash));
	ret = cp_dest_expects(&world->dest, &header, &err);
	if (!ret && header.kind == CP_PAGES)
		ret = cp_store_pages(world->store, message + CP_HEADER, header.length, &err);
	if (!ret && header.kind == CP_DEVICE)
		ret = cp_store_device(world->store, message + CP_HEADER, header.length, &err);
	if (ret >= 0)
		ret = cp_dest_message(&world->dest, &header, message, now_ns, &err);
	promised(!world->dest.complete || world->sum == memory_sum(),
		 "memory is the last complete one");
	free(message);
	if (ret < 0)
		cp_dest_lost(&world->dest, &err, now_ns);
	return CP_HEADER + header.length;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	const struct cp_dest_settings settings = {
		.contents_max = CONTENTS_MAX,
		.device_max = DEVICE_MAX,
		.features = CP_FEATURES,
		.authority = length & 1 ? CP_ON_OUR_OWN : CP_ASK,
	};
	static struct world world;
	uint64_t now_ns = 0;

	memset(&world, 0, sizeof(world));
	memset(memory, 0x5a, sizeof(memory));
	cp_dest_init(&world.dest, &ops, &world, &settings, 0);
	while (length > CP_HEADER) {
		size_t taken;

		now_ns += (uint64_t)1 << (bytes[0] & 31);
		happen(&world, bytes[0], now_ns);
		taken = 1 + hear(&world, bytes + 1, length - 1, now_ns);
		bytes += taken;
		length -= taken;
	}
	cp_store_free(world.store);
	return 0;
}
