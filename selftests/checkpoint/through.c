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
#include "selftests/checkpoint/through_world.h"

#define EPOCHS 7u
#define TRIES 3u
#define PARTS_MAX 200u

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
