/* SPDX-License-Identifier: MIT */
/*
 * A checkpoint's bytes all the way, in one process: a guest that writes as a seed has it, the
 * stage, messages as bytes in a pipe, the destination's engine, the store. Refusals, a
 * connection cut at any message, putting in place that takes its time.
 *
 * After every epoch that was acknowledged and is in place, and after every cut, the replica's memory
 * is the guest's of the last one, as are its devices.
 *
 *	through [--from N] [--count N]	so many seeds
 *	through --seed N		one
 */
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
#define EPOCHS 7u
#define TRIES 3u
#define PARTS_MAX 200u

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

/* ---- Both ---- */

/* Return: false: the connection is cut */
static bool send_part(unsigned cuts)
{
	static struct cp_out out;
	struct wh_err err = { 0 };

	while (!t.failed && cp_stage_next(t.stage, &out)) {
		size_t at = 0;

		if (chance(cuts))
			return false;
		if (out.bytes > sizeof(t.message) || out.count > CP_OUT_PIECES) {
			wrong("%s of %zu bytes", cp_name(out.header.kind), out.bytes);
			break;
		}
		for (unsigned i = 0; i < out.count; i++) {
			memcpy(t.message + at, out.iov[i].iov_base, out.iov[i].iov_len);
			at += out.iov[i].iov_len;
		}
		if (at != out.bytes || at != CP_HEADER + out.header.length)
			wrong("%s: %zu bytes, %u", cp_name(out.header.kind), at, out.header.length);
		hear(&err);
		if (!chance(t.slow))
			apply();
		/* what is under way is not the guest's memory any more */
		if (chance(100))
			guest_writes(2);
	}
	return !t.failed;
}

static void compare(const char *when)
{
	size_t length;
	const void *device = cp_store_kept_device(t.store, &length);

	for (unsigned i = 0; i < BLOCKS; i++)
		for (uint64_t page = 0; page < block_pages[i]; page++)
			if (memcmp(t.replica[BLOCKS - 1 - i].addr + page * CP_PAGE,
				   t.acked[i] + page * CP_PAGE, CP_PAGE))
				wrong("%s: page %llu of block %u differs", when,
				      (unsigned long long)page, i);
	if (length != t.acked_device_length || (length && memcmp(device, t.acked_device, length)))
		wrong("%s: device state of %zu bytes, not %zu", when, length,
		      t.acked_device_length);
}

static void remember(void)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		memcpy(t.acked[i], t.stopped[i], t.guest[i].length);
	free(t.acked_device);
	t.acked_device = t.device;
	t.acked_device_length = t.device_length;
	t.device = NULL;
}

/* The guest stands still. A tracker that fails is asked again: nothing may be missing. */
static void stop(void)
{
	size_t length = chance(200) ? 0 : random_below(&t.random, chance(50) ? DEVICE_MAX : 5000);
	struct wh_err err = { 0 };
	uint8_t *device;
	int ret;

	for (unsigned i = 0; i < BLOCKS; i++)
		memcpy(t.stopped[i], t.guest[i].addr, t.guest[i].length);
	do {
		device = malloc(length ? length : 1);
		memset(device, (int)random_u64(&t.random), length);
		free(t.device);
		t.device = malloc(length ? length : 1);
		memcpy(t.device, device, length);
		t.device_length = length;
		ret = cp_stage_stop(t.stage, device, length, &err);
	} while (ret == -EIO);
	if (ret)
		wrong("stop: %s", err.text);
}

/* All of it, up to the destination's answer. Return: false: cut, or refused for good */
static bool send_epoch(uint64_t epoch, unsigned cuts, unsigned tries)
{
	uint64_t acks = t.acks;

	for (unsigned i = 0; i < tries && !t.failed; i++) {
		struct cp_msg totals;

		t.nacked = false;
		if (!send_part(cuts))
			return false;
		cp_stage_totals(t.stage, &totals);
		hear_msg(CP_COMMIT, epoch, &totals);
		finish();
		if (t.acks == acks + 1)
			return true;
		if (!t.nacked)
			wrong("epoch %llu has no answer", (unsigned long long)epoch);
		tally.refused++;
		if (tries > 1)
			cp_stage_rewind(t.stage);
	}
	return false;
}

/* Passes over what there is while the guest runs. Return: false: cut, or refused */
static bool send_parts(uint64_t epoch, unsigned cuts)
{
	struct wh_err err = { 0 };
	int64_t ret;

	t.nacked = false;
	for (unsigned parts = 0; parts < PARTS_MAX && !t.failed; parts++) {
		ret = cp_stage_copy(t.stage, CP_PAGE * (1 + random_below(&t.random, 2000)), &err);
		if (ret < 0)
			wrong("copy: %s", err.text);
		if (!ret) {
			if (chance(300))
				break;
			(void)cp_stage_look(t.stage, &err);
			continue;
		}
		guest_writes(3);
		if (cp_stage_pack(t.stage, epoch, &err) < 0)
			wrong("pack: %s", err.text);
		if (!send_part(cuts) || t.nacked)
			return false;
		cp_stage_forget(t.stage);
	}
	return !t.failed;
}

static void copy_ahead(void)
{
	struct wh_err err = { 0 };
	int64_t ret;

	for (unsigned i = random_below(&t.random, 3); i; i--) {
		(void)cp_stage_look(t.stage, &err);
		ret = cp_stage_copy(t.stage, CP_PAGE * random_below(&t.random, 400), &err);
		if (ret < 0)
			wrong("ahead: %s", err.text);
		tally.ahead += ret > 0;
		guest_writes(20);
	}
}

/* The connection is gone: what was on its way never was. */
static void cut(void)
{
	struct wh_err why = { -EPIPE, "cut" };

	tally.cut++;
	cp_dest_lost(&t.dest, &why, 1);
	apply();
	if (t.acks)
		compare("after a cut");
}

/* The guest stands still, and what is left goes over. Return: false: cut, or refused for good */
static bool checkpoint(uint64_t epoch, unsigned cuts, unsigned tries)
{
	struct wh_err err = { 0 };

	stop();
	guest_writes(10);
	if (cp_stage_pack(t.stage, epoch, &err) < 0)
		wrong("pack: %s", err.text);
	return send_epoch(epoch, cuts, tries);
}

/* It is too much for one. Again with all of memory for as long as it is refused */
static bool checkpoint_in_parts(uint64_t epoch, unsigned cuts)
{
	struct cp_msg msg;
	bool all = false;

	wire_name_set(&msg.degrade.reason, "as the seed has it");
	hear_msg(CP_DEGRADE, epoch, &msg);
	do {
		/* what was refused at last comes through */
		if (all)
			t.refuses /= 2;
		tally.parts++;
		cp_stage_again(t.stage, all);
		all = true;
		if (send_parts(epoch, cuts) && checkpoint(epoch, cuts, 1))
			return true;
	} while (t.nacked && !t.failed);
	return false;
}

static void session(void)
{
	unsigned cuts = chance(300) ? 20 : 0;
	struct wh_err err = { 0 };

	cp_stage_begin(t.stage, t.features);
	if (!send_parts(1, cuts)) {
		cut();
		return;
	}
	for (uint64_t epoch = 1; epoch <= EPOCHS && !t.failed; epoch++) {
		bool too_much = epoch > 1 && chance(200);

		guest_writes(40);
		if (epoch > 1 && chance(400))
			copy_ahead();
		if (chance(500) && cp_stage_ready(t.stage, &err) < 0 && err.code != -ENOSPC)
			wrong("ready: %s", err.text);
		if (too_much ? !checkpoint_in_parts(epoch, cuts) :
			       !checkpoint(epoch, cuts, TRIES)) {
			cut();
			return;
		}
		remember();
		cp_stage_acked(t.stage);
		if (!chance(t.slow)) {
			apply();
			compare("after an epoch");
		}
		tally.epochs++;
	}
	apply();
	compare("at the end");
}

static void *pages_new(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static void begin_seed(uint64_t seed)
{
	uint64_t bytes = 0;
	struct cp_msg msg = { .hello = { 0 } };
	struct cp_stage_settings stage = { .generation = GENERATION, .device_max = DEVICE_MAX };
	struct cp_store_settings store = { .device_max = DEVICE_MAX };
	struct cp_dest_settings dest = { .device_max = DEVICE_MAX, .features = CP_FEATURES };
	const struct cp_dirty dirty = { .written = written };
	struct wh_err err = { 0 };

	memset(&t, 0, offsetof(struct through, message));
	t.random.state = seed * 0x9e3779b97f4a7c15u + 1;
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint64_t length = block_pages[i] * CP_PAGE;

		t.guest[i] = (struct region){ .addr = pages_new(length), .length = length };
		snprintf(t.guest[i].name, sizeof(t.guest[i].name), "block%u", i);
		/* in another order there */
		t.replica[BLOCKS - 1 - i] = t.guest[i];
		t.replica[BLOCKS - 1 - i].addr = pages_new(length);
		t.written[i] = calloc(bits_words(block_pages[i]), 8);
		t.stopped[i] = malloc(length);
		t.acked[i] = malloc(length);
		bytes += length;
	}
	t.features = CP_FEATURES & random_u64(&t.random);
	t.refuses = chance(300) ? 20 : 0;
	t.slow = chance(300) ? 900 : 100;
	store.zeroed = chance(500);
	if (!store.zeroed)
		for (unsigned i = 0; i < BLOCKS; i++)
			memset(t.replica[i].addr, 0x5a, t.replica[i].length);
	store.contents_max = stage.contents_max = dest.contents_max = bytes;
	stage.slab_cap = chance(500) ? 2 * bytes : bytes + 3 * (UINT64_C(4) << 20);
	stage.cache_bytes = chance(300) ? 0 : CP_PAGE * random_below(&t.random, 5000);
	stage.hash = chance(600);
	stage.seed = random_u64(&t.random);
	t.stage = cp_stage_new(&stage, t.guest, BLOCKS, &dirty, &err);
	t.store = cp_store_new(&store, t.replica, BLOCKS, &err);
	cp_dest_init(&t.dest, &dest_ops, NULL, &dest, 0);
	guest_writes(400);

	msg.hello.features = t.features;
	msg.hello.blocks = BLOCKS;
	msg.hello.contents_max = bytes;
	msg.hello.device_max = DEVICE_MAX;
	msg.hello.heartbeat_ns = 1000000;
	msg.hello.lease_ns = 10000000;
	hear_msg(CP_HELLO, 0, &msg);
	for (unsigned i = 0; i < BLOCKS; i++) {
		msg.block.length = t.guest[i].length;
		msg.block.page_size = CP_PAGE;
		wire_name_set(&msg.block.name, t.guest[i].name);
		hear_msg(CP_BLOCK, 0, &msg);
	}
}

static void end_seed(void)
{
	const struct cp_stage_figures *figures = cp_stage_total(t.stage);

	tally.zero += figures->zero;
	tally.same += figures->same;
	tally.delta += figures->delta;
	tally.packed += figures->packed;
	tally.plain += figures->plain;
	cp_stage_free(t.stage);
	cp_store_free(t.store);
	for (unsigned i = 0; i < BLOCKS; i++) {
		munmap(t.guest[i].addr, t.guest[i].length);
		munmap(t.replica[i].addr, t.replica[i].length);
		free(t.written[i]);
		free(t.stopped[i]);
		free(t.acked[i]);
	}
	free(t.device);
	free(t.acked_device);
}

static bool try_seed(uint64_t seed)
{
	begin_seed(seed);
	session();
	end_seed();
	return !t.failed;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, count = 45, bad = 0;
	bool all;

	for (int i = 1; i + 1 < argc; i += 2) {
		uint64_t value = strtoull(argv[i + 1], NULL, 0);

		if (!strcmp(argv[i], "--from"))
			first = value;
		else if (!strcmp(argv[i], "--count"))
			count = value;
		else if (!strcmp(argv[i], "--seed"))
			first = value, count = 1;
	}
	printf("TAP version 13\n1..2\n");
	for (uint64_t seed = first; seed < first + count && bad < 10; seed++) {
		if (try_seed(seed))
			continue;
		bad++;
		printf("# again: build/selftests/checkpoint/through --seed %llu: %s\n",
		       (unsigned long long)seed, t.why);
	}
	printf("%s 1 %llu seeds\n", bad ? "not ok" : "ok", (unsigned long long)count);
	printf("# %llu epochs, %llu refused, %llu cut, %llu times ahead, %llu in parts; pages: %llu zero, %llu the "
	       "same, %llu differences, %llu packed, %llu plain\n",
	       (unsigned long long)tally.epochs, (unsigned long long)tally.refused,
	       (unsigned long long)tally.cut, (unsigned long long)tally.ahead,
	       (unsigned long long)tally.parts, (unsigned long long)tally.zero,
	       (unsigned long long)tally.same, (unsigned long long)tally.delta,
	       (unsigned long long)tally.packed, (unsigned long long)tally.plain);
	all = tally.epochs && tally.refused && tally.cut && tally.ahead && tally.parts &&
	      tally.zero && tally.same && tally.delta && tally.packed && tally.plain;
	printf("%s 2 everything was met\n", all || count == 1 ? "ok" : "not ok");
	return bad || (!all && count > 1);
}
