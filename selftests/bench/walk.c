/* SPDX-License-Identifier: MIT */
/*
 * What the processor does with bytes: looking for zero pages, walking bitmaps, digests, XBZRLE.
 * Each beside a plain read of the same memory, or a copy where bytes are written.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/zero.h"
#include "cli/digest.h"
#include "recover/received.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "wire/xbzrle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define GUEST_PAGES (UINT64_C(16) * 1024 * MIB / 4096)
#define MAP_BYTES (GUEST_PAGES / 8)
#define MAP_TURNS 64u
#define DIGEST_STEP (MIB / 4) /* as wherry receive does it */
#define DIGEST_TURNS 5

/* So that the compiler cannot leave out what nobody looks at */
static volatile uint64_t sink;

typedef uint64_t lanes __attribute__((vector_size(32)));

#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default")))
#endif
static uint64_t
plain_read(const void *memory, uint64_t bytes)
{
	const lanes *at = memory;
	lanes a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };

	for (uint64_t i = 0; i < bytes / sizeof(*at); i += 4) {
		a |= at[i];
		b |= at[i + 1];
		c |= at[i + 2];
		d |= at[i + 3];
	}
	a |= b | c | d;
	return a[0] | a[1] | a[2] | a[3];
}

/*
 * More than caches hold: what memory itself gives. A guest's bitmap stays in a cache, so what it
 * is compared with is a read from there, and that is several times as fast
 */
#define FAR_BYTES (128 * MIB)
static const uint8_t *far;

static uint64_t read_zero_pages(const void *memory, uint64_t bytes)
{
	const uint8_t *at = memory;
	uint64_t zeros = 0;

	for (uint64_t i = 0; i < bytes; i += 4096)
		zeros += zero_page(at + i, 4096);
	return zeros;
}

static uint64_t walk_set(const void *memory, uint64_t bytes)
{
	uint64_t count = 0, bits = bytes * 8;

	for (uint64_t i = bits_next_set(memory, 0, bits); i < bits;
	     i = bits_next_set(memory, i + 1, bits))
		count++;
	return count;
}

static uint64_t walk_clear(const void *memory, uint64_t bytes)
{
	uint64_t count = 0, bits = bytes * 8;

	for (uint64_t i = bits_next_clear(memory, 0, bits); i < bits;
	     i = bits_next_clear(memory, i + 1, bits))
		count++;
	return count;
}

static uint64_t count_bits(const void *memory, uint64_t bytes)
{
	return bits_count(memory, bytes * 8);
}

static uint64_t *inverted;

static uint64_t invert(const void *memory, uint64_t bytes)
{
	received_invert(inverted, memory, bytes * 8, 1);
	return inverted[0];
}

/* A plain read and a write of what it read: what any inversion does at the least */
static uint64_t copy(const void *memory, uint64_t bytes)
{
	memcpy(inverted, memory, bytes);
	return inverted[0];
}

typedef uint64_t (*work_on)(const void *memory, uint64_t bytes);

static uint64_t time_of(work_on work, const void *memory, uint64_t bytes)
{
	uint64_t begin = clock_now_ns();

	sink += work(memory, bytes);
	return clock_now_ns() - begin;
}

static double rate(work_on work, const void *memory, uint64_t bytes)
{
	return (double)bytes / (double)time_of(work, memory, bytes);
}

/*
 * What memory gives to a virtual machine changes by the half from one moment to the next, so the
 * two take turns over pieces: one has the even ones and the other the odd ones, then the other way
 * round. A piece is the other's when all the others have been read meanwhile, unless there is but
 * one, which both have in the cache.
 */
#define PIECE (4 * MIB)

static void take_turns(const work_on work[2], const uint8_t *memory, uint64_t bytes, unsigned turns,
		       double rates[2])
{
	uint64_t ns[2] = { 0 };

	for (unsigned turn = 0; turn < 2 * turns; turn++)
		for (uint64_t at = 0; at < bytes; at += PIECE) {
			uint64_t length = bytes - at < PIECE ? bytes - at : PIECE;
			unsigned whose = (unsigned)(turn + at / PIECE) % 2;

			ns[whose] += time_of(work[whose], memory + at, length);
		}
	for (unsigned i = 0; i < 2; i++)
		rates[i] = (double)(bytes * turns) / (double)ns[i];
}

static void compare(const struct bench *bench, const char *variant, work_on floor, work_on ours,
		    const char *name, const void *memory, uint64_t bytes, unsigned turns)
{
	const work_on work[2] = { floor, ours };
	struct bench_row rows[3] = { { .side = "floor" },
				     { .side = name },
				     { .side = "read, of no cache" } };
	double rates[2];

	if (!bench_wants(bench, name))
		return;
	bench_part(1, 2);
	for (unsigned round = 0; bench_again(round); round++) {
		take_turns(work, memory, bytes, turns, rates);
		bench_add(&rows[0], rates[0]);
		bench_add(&rows[1], rates[1]);
		bench_add(&rows[2], rate(plain_read, far, FAR_BYTES));
	}
	bench_print(bench, BENCH_READ_RATE, variant, rows, 3);
}

/* Every n-th bit, 0: none */
static void set_every(uint64_t *map, unsigned n)
{
	memset(map, 0, MAP_BYTES);
	for (uint64_t i = 0; n && i < GUEST_PAGES; i += n)
		bits_set(map, i);
}

static void bitmaps(const struct bench *bench)
{
	uint64_t *map = aligned_alloc(4096, MAP_BYTES);

	inverted = aligned_alloc(4096, MAP_BYTES);
	if (!map || !inverted) {
		fprintf(stderr, "walk: no memory\n");
		exit(1);
	}
	memset(inverted, 1, MAP_BYTES);
	set_every(map, 0);
	compare(bench, "bitmap of 16 GiB, nothing set", plain_read, walk_set, "bits_next_set()",
		map, MAP_BYTES, MAP_TURNS);
	set_every(map, 100);
	compare(bench, "bitmap of 16 GiB, 1 % set", plain_read, walk_set, "bits_next_set()", map,
		MAP_BYTES, MAP_TURNS / 8);
	compare(bench, "bitmap of 16 GiB, inversion", copy, invert, "inversion", map, MAP_BYTES,
		MAP_TURNS);
	compare(bench, "bitmap of 16 GiB, counted", plain_read, count_bits, "bits_count()", map,
		MAP_BYTES, MAP_TURNS);
	set_every(map, 2);
	compare(bench, "bitmap of 16 GiB, half of it set", plain_read, walk_set, "bits_next_set()",
		map, MAP_BYTES, MAP_TURNS / 16);
	set_every(map, 1);
	compare(bench, "bitmap of 16 GiB, all set", plain_read, walk_clear, "bits_next_clear()",
		map, MAP_BYTES, MAP_TURNS);
	free(map);
	free(inverted);
}

static uint64_t digest_steps(const void *memory, uint64_t bytes, bool read)
{
	const uint8_t *at = memory;
	XXH3_state_t *hash = XXH3_createState();
	uint64_t low;

	if (!hash)
		return 0;
	XXH3_128bits_reset(hash);
	for (uint64_t i = 0; i < bytes; i += DIGEST_STEP) {
		XXH3_128bits_update(hash, at + i, DIGEST_STEP);
		if (read)
			sink += plain_read(at + i, DIGEST_STEP);
	}
	low = XXH3_128bits_digest(hash).low64;
	XXH3_freeState(hash);
	return low;
}

static uint64_t xxh3(const void *memory, uint64_t bytes)
{
	return digest_steps(memory, bytes, false);
}

/* By somebody who reads it all in any case, to write it out */
static uint64_t xxh3_and_read(const void *memory, uint64_t bytes)
{
	return digest_steps(memory, bytes, true);
}

/* A delta, and pages that it is for; what it would be without deltas: pages, copied */
static struct {
	const uint8_t *from;
	uint8_t *pages;
	uint8_t delta[4096];
	size_t length;
} xbzrle;

static uint64_t apply_deltas(const void *memory, uint64_t bytes)
{
	uint8_t *to = xbzrle.pages + ((const uint8_t *)memory - xbzrle.from);
	uint64_t failed = 0;

	for (uint64_t i = 0; i < bytes; i += 4096)
		failed += xbzrle_get(to + i, xbzrle.delta, xbzrle.length, NULL) < 0;
	return failed;
}

static uint64_t copy_pages(const void *memory, uint64_t bytes)
{
	const uint8_t *at = memory;
	uint8_t *to = xbzrle.pages + (at - xbzrle.from);

	for (uint64_t i = 0; i < bytes; i += 4096)
		memcpy(to + i, at + i, 4096);
	return xbzrle.pages[0];
}

static void deltas(const struct bench *bench, uint8_t *memory, uint64_t bytes)
{
	static uint8_t before[4096], after[4096];
	int length;

	for (unsigned i = 0; i < 4096; i += 64)
		memset(after + i, 1, 8);
	length = xbzrle_put(xbzrle.delta, sizeof(xbzrle.delta), before, after);
	if (length <= 0) {
		fprintf(stderr, "walk: no delta\n");
		exit(1);
	}
	xbzrle.length = (size_t)length;
	xbzrle.from = memory;
	xbzrle.pages = memory + bytes / 2;
	compare(bench, "XBZRLE, 8 bytes of 64 changed", copy_pages, apply_deltas, "xbzrle_get()",
		memory, bytes / 2, 1);
}

/* A GiB, in seconds. The best of some: what a migration used is still being given back */
static double gib(work_on work, const void *memory, uint64_t bytes)
{
	double best = 0, now;

	for (unsigned i = 0; i < DIGEST_TURNS; i++) {
		now = rate(work, memory, bytes);
		best = now > best ? now : best;
	}
	return (double)(1 << 30) / 1e9 / best;
}

/*
 * Beside what a GiB takes to come in. What reads and digests reads a piece that the digest has
 * brought into the cache, and what only reads does not: the difference is what a digest adds to a
 * pass that there is anyway
 */
static void digest(const struct bench *bench, const uint8_t *memory, uint64_t bytes)
{
	struct bench_row rows[] = { { .side = "plain read" },
				    { .side = "XXH3, alone" },
				    { .side = "XXH3, added to a read" },
				    { .side = "wherry, precopy" } };
	struct bench_load load = bench_load_default;

	if (!bench_wants(bench, "XXH3"))
		return;
	load.postcopy = false;
	load.bytes = bytes;
	bench_part(1, 1);
	for (unsigned round = 0; bench_again(round); round++) {
		double read = gib(plain_read, memory, bytes);
		struct bench_side side;

		bench_add(&rows[0], read);
		bench_add(&rows[1], gib(xxh3, memory, bytes));
		bench_add(&rows[2], gib(xxh3_and_read, memory, bytes) - read);
		if (bench_start(&side, &bench_wherry, &load) == 0) {
			if (bench_go(&side) == 0 && bench_done(&side) == 0)
				bench_add(&rows[3], (double)(1 << 30) / 1e9 / bench_rate(&side));
			bench_stop(&side);
		}
		snprintf(rows[3].why, sizeof(rows[3].why), "%s", side.why);
	}
	bench_print(bench, BENCH_DIGEST_COST, "unix", rows, 4);
}

int main(int argc, char **argv)
{
	struct bench bench;
	uint8_t *memory;
	uint64_t bytes;

	bench_begin(&bench, "walk", argc, argv);
	bytes = bench.bytes;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || bytes < 2 * FAR_BYTES) {
		fprintf(stderr, "walk: no memory, or less than 256 MiB asked for\n");
		return 1;
	}
	/* Pages of its own, not the one page of zeros that the kernel has */
	memset(memory, 1, bytes);
	memset(memory, 0, bytes);
	far = memory;
	compare(&bench, "pages of zeros", plain_read, read_zero_pages, "zero_page()", memory, bytes,
		1);
	compare(&bench, "bitmap of 4 TiB, nothing set", plain_read, walk_set, "bits_next_set()",
		memory + FAR_BYTES, FAR_BYTES, 1);
	compare(&bench, "bitmap of 4 TiB, counted", plain_read, count_bits, "bits_count()",
		memory + FAR_BYTES, FAR_BYTES, 1);
	bitmaps(&bench);
	bench_fill(memory, bytes);
	compare(&bench, "digest", plain_read, xxh3, "XXH3", memory, bytes, 1);
	deltas(&bench, memory, bytes);
	digest(&bench, memory, bytes);
	return 0;
}
