/* SPDX-License-Identifier: MIT */
/*
 * A source that says anything to a destination of checkpoints. Headers are what the input has,
 * with magic, version and checksum made right, or nothing would get past them; each eighth is
 * left as it is. A byte in front of each says what else happens then.
 */
#include "base/bytes.h"
#include "checkpoint/dest.h"
#include "selftests/wire/feed.h"

#include <errno.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGES 16u
#define PAGE 4096u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

struct world {
	struct cp_dest dest;
	uint64_t acked, described;
	bool verifies, applies, ran;
	uint8_t fails;
};

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
	(void)ctx;
	(void)index;
	(void)err;
	return block->length / block->page_size <= PAGES ? 0 : -ENOENT;
}

static int entry(void *ctx, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	struct world *world = ctx;
	const struct cp_block *block;

	(void)err;
	promised(entry->block < world->dest.block_count, "a block that there is");
	block = &world->dest.blocks[entry->block];
	promised(entry->pages && entry->first < block->length / block->page_size &&
			 entry->pages <= block->length / block->page_size - entry->first,
		 "pages that there are");
	promised(full == (world->dest.epoch == 1), "the first is all");
	return world->fails & 2 ? -ENOSPC : 0;
}

static void verify(void *ctx, uint64_t epoch, bool full)
{
	struct world *world = ctx;

	(void)full;
	promised(epoch == world->dest.complete + 1, "the next");
	promised(!world->applies, "not beside another");
	world->verifies = true;
}

static void drop(void *ctx)
{
	((struct world *)ctx)->verifies = false;
}

static void keep(void *ctx, uint64_t epoch)
{
	struct world *world = ctx;

	(void)epoch;
	promised(!world->applies, "one after the other");
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
	world->fails = what & 7;
	if (what & 8 && world->verifies) {
		world->verifies = false;
		cp_dest_verified(&world->dest, what & 16 ? -EILSEQ : 0, now_ns);
	}
	if (what & 32 && world->applies) {
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
	ret = cp_dest_message(&world->dest, &header, message, now_ns, &err);
	free(message);
	if (ret < 0)
		cp_dest_lost(&world->dest, &err, now_ns);
	return CP_HEADER + header.length;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	const struct cp_dest_settings settings = {
		.contents_max = 64 * PAGE,
		.device_max = 64,
		.features = CP_FEATURES,
		.authority = length & 1 ? CP_ON_OUR_OWN : CP_ASK,
	};
	static struct world world;
	uint64_t now_ns = 0;

	memset(&world, 0, sizeof(world));
	cp_dest_init(&world.dest, &ops, &world, &settings, 0);
	while (length > CP_HEADER) {
		size_t taken;

		now_ns += (uint64_t)1 << (bytes[0] & 31);
		happen(&world, bytes[0], now_ns);
		taken = 1 + hear(&world, bytes + 1, length - 1, now_ns);
		bytes += taken;
		length -= taken;
	}
	return 0;
}
