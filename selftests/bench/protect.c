/* SPDX-License-Identifier: MIT */
/*
 * What a checkpoint costs. The guest's stop: cp_stage_stop(), beside a bare PAGEMAP_SCAN whose
 * pages are copied to memory that is there; and with copy-on-write. And what its packing saves on the wire, and takes of
 * a processor while the guest runs.
 */
#include "base/clock.h"
#include "checkpoint/stage.h"
#include "selftests/lib/bench.h"
#include "selftests/wire/random.h"
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define MIXED_MIB 16u

static struct guest {
	struct region region;
	struct dirty_log log;
	int pagemap;
	uint8_t *copy; /* the floor's */
	struct random random;
	struct cp_stage *stage;
	struct cow *cow; /* NULL: the log is open */
	uint64_t epoch;
} guest;

static void die(const char *what, const struct wh_err *err)
{
	fprintf(stderr, "protect: %s: %s\n", what, err ? err->text : "failed");
	exit(1);
}

static void *pages(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("memory", NULL);
	madvise(at, bytes, MADV_NOHUGEPAGE);
	return at;
}

static void prepare(uint64_t bytes)
{
	struct region *region = &guest.region;
	struct wh_err err = { 0 };

	bench_warm_end(bench_warm(2 * bytes, 0));
	region->length = bytes;
	region->addr = pages(bytes);
	memset(region->addr, 1, bytes);
	guest.copy = pages(bytes / 4);
	memset(guest.copy, 1, bytes / 4);
	guest.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (guest.pagemap < 0 || dirty_log_open(&guest.log, region, 1, &err) < 0)
		die("log", &err);
}

/* As many bytes of memory, in runs all over it */
static void write_pages(uint64_t bytes, unsigned run)
{
	uint64_t runs = bytes / CP_PAGE / run, step = guest.region.length / CP_PAGE / runs;

	for (uint64_t i = 0; i < runs; i++)
		for (unsigned j = 0; j < run; j++)
			guest.region.addr[(i * step + j) * CP_PAGE]++;
}

/* The least: what was written, to a place that is there */
static double bare_stop(void)
{
	static struct page_region out[8192];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)guest.region.addr,
		.end = (uintptr_t)guest.region.addr + guest.region.length,
		.vec = (uintptr_t)out,
		.vec_len = sizeof(out) / sizeof(out[0]),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	uint64_t begin_ns = clock_now_ns(), end = arg.end;
	uint8_t *to = guest.copy;

	do {
		int n = ioctl(guest.pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			die("PAGEMAP_SCAN", NULL);
		for (int i = 0; i < n; i++) {
			uint64_t first = out[i].start - (uintptr_t)guest.region.addr;

			memcpy(to, guest.region.addr + first, out[i].end - out[i].start);
			to += out[i].end - out[i].start;
		}
		arg.start = arg.walk_end;
	} while (arg.start < end);
	return (double)(clock_now_ns() - begin_ns) / 1e6;
}

static void send_all(void)
{
	static struct cp_out out;

	while (cp_stage_next(guest.stage, &out))
		;
}

/* Return: milliseconds that it stood still */
static double stop(void)
{
	uint64_t begin_ns = clock_now_ns();
	struct wh_err err = { 0 };

	if (cp_stage_stop(guest.stage, NULL, 0, &err) < 0)
		die("stop", &err);
	return (double)(clock_now_ns() - begin_ns) / 1e6;
}

/* Return: milliseconds of packing */
static double pack(void)
{
	uint64_t begin_ns = clock_now_ns();
	struct wh_err err = { 0 };

	if (cp_stage_pack(guest.stage, ++guest.epoch, &err) < 0)
		die("pack", &err);
	return (double)(clock_now_ns() - begin_ns) / 1e6;
}

static void acked(void)
{
	struct wh_err err = { 0 };

	send_all();
	cp_stage_acked(guest.stage);
	if (cp_stage_ready(guest.stage, &err) < 0)
		die("slabs", &err);
}

/* A stage whose first checkpoint is acknowledged */
static void begin(uint32_t features, bool hash, bool cache)
{
	const struct cp_stage_settings settings = {
		.generation = 1,
		.contents_max = guest.region.length,
		.slab_cap = 2 * guest.region.length,
		.cache_bytes = cache ? guest.region.length : 0,
		.hash = hash,
		.seed = 1,
		.cow = guest.cow,
	};
	const struct cp_dirty dirty = guest.cow ? cow_dirty(guest.cow) : cp_dirty_uffd(&guest.log);
	struct wh_err err = { 0 };

	guest.epoch = 0;
	guest.stage = cp_stage_new(&settings, &guest.region, 1, &dirty, &err);
	if (!guest.stage)
		die("stage", &err);
	cp_stage_begin(guest.stage, features);
	if (cp_stage_look(guest.stage, &err) < 0)
		die("look", &err);
	while (cp_stage_copy(guest.stage, 4 * MIB, &err) > 0) {
		pack();
		send_all();
		cp_stage_forget(guest.stage);
		guest.epoch--;
	}
	stop();
	pack();
	acked();
}

static void measure_stop(const struct bench *bench, unsigned mib, unsigned run)
{
	struct bench_row rows[] = { { .side = "floor" },
				    { .side = "wherry" },
				    { .side = "wherry, 7/8 ahead" } };
	struct wh_err err = { 0 };
	char variant[96];

	/* so that it has as much as the last time: growing is not of the stop */
	write_pages(mib * MIB, run);
	stop();
	pack();
	acked();
	for (unsigned round = 0; bench_again(round); round++) {
		write_pages(mib * MIB, run);
		bench_add(&rows[0], bare_stop());
		write_pages(mib * MIB, run);
		bench_add(&rows[1], stop());
		pack();
		acked();
		/* copied while the guest runs, which then writes an eighth of it again */
		write_pages(mib * MIB, run);
		if (cp_stage_look(guest.stage, &err) < 0 ||
		    cp_stage_copy(guest.stage, guest.region.length, &err) < 0)
			die("ahead", &err);
		write_pages(mib * MIB / 8, run);
		bench_add(&rows[2], stop());
		pack();
		acked();
	}
	snprintf(variant, sizeof(variant), "%u MiB dirty, %s, of %.3g GiB", mib,
		 run == 1 ? "single pages" : "runs of 16 pages",
		 (double)guest.region.length / (1 << 30));
	bench_print(bench, BENCH_CP_STOP, variant, rows, 3);
}

/* As much, with everything written and protected in the stop; and as it is done: see below */
static void measure_cow_stop(const struct bench *bench, unsigned mib, unsigned run)
{
	struct bench_row rows[] = { { .side = "copy-on-write" },
				    { .side = "copy-on-write, 7/8 ahead" } };
	struct wh_err err = { 0 };
	char variant[96];

	write_pages(mib * MIB, run);
	stop();
	pack();
	acked();
	for (unsigned round = 0; bench_again(round); round++) {
		write_pages(mib * MIB, run);
		bench_add(&rows[0], stop());
		pack();
		acked();
		/* protected while the guest runs, which then writes an eighth of it again */
		write_pages(mib * MIB, run);
		if (cp_stage_look(guest.stage, &err) < 0)
			die("ahead", &err);
		write_pages(mib * MIB / 8, run);
		bench_add(&rows[1], stop());
		pack();
		acked();
	}
	snprintf(variant, sizeof(variant), "%u MiB dirty, %s, of %.3g GiB, copied after it", mib,
		 run == 1 ? "single pages" : "runs of 16 pages",
		 (double)guest.region.length / (1 << 30));
	bench_print(bench, BENCH_CP_STOP, variant, rows, 2);
}

/* Another tracker, so behind everything else */
static void measure_cow(const struct bench *bench, const unsigned *sizes, unsigned count)
{
	struct wh_err err = { 0 };
	unsigned left = count + 1;

	dirty_log_close(&guest.log);
	guest.region.page_size = CP_PAGE;
	guest.cow = cow_new(&guest.region, 1, &err);
	if (!guest.cow || cow_open(guest.cow, &err) < 0)
		die("copy-on-write", &err);
	begin(0, false, false);
	for (unsigned i = 0; i < count; i++) {
		if (sizes[i] * MIB > bench->bytes / 4)
			continue;
		bench_part(1, left--);
		measure_cow_stop(bench, sizes[i], 1);
	}
	bench_part(1, left--);
	measure_cow_stop(bench, bench->bytes >= 256 * MIB ? 64 : 1, 16);
	cow_close(guest.cow);
	cow_free(guest.cow);
	cp_stage_free(guest.stage);
}

/*
 * A guest's pages, of five kinds in equal parts: zeros; written and as they were; a few words
 * changed; text, which packs well; and what does not pack at all
 */
static void write_mixed(void)
{
	for (unsigned i = 0; i < MIXED_MIB * MIB / CP_PAGE; i++) {
		uint8_t *at = guest.region.addr + i * CP_PAGE;
		uint64_t value;

		switch (i / 8 % 5) {
		case 0:
			memset(at, 0, CP_PAGE);
			break;
		case 1:
			at[0] += 0;
			*(volatile uint8_t *)at = at[0];
			break;
		case 2:
			for (unsigned j = 0; j < 8; j++)
				at[random_below(&guest.random, CP_PAGE)]++;
			break;
		case 3:
			for (unsigned j = 0; j + 16 <= CP_PAGE; j += 16)
				snprintf((char *)at + j, 16, "record %8u",
					 (unsigned)random_below(&guest.random, 1000));
			break;
		default:
			for (unsigned j = 0; j < CP_PAGE; j += 8) {
				value = random_u64(&guest.random);
				memcpy(at + j, &value, 8);
			}
			break;
		}
	}
}

static const struct packing {
	const char *side;
	uint32_t features;
	bool hash, cache;
} packings[] = {
	{ "as they are", 0, false, false },
	{ "zero pages", CP_FEATURE(CP_ZERO), false, false },
	{ "unchanged pages", 0, true, false },
	{ "XBZRLE", CP_FEATURE(CP_XBZRLE), false, true },
	{ "zstd", CP_FEATURE(CP_ZSTD), false, false },
	{ "all of them", CP_FEATURES, true, true },
};
#define PACKINGS (sizeof(packings) / sizeof(packings[0]))

static void measure_packings(const struct bench *bench)
{
	struct bench_row wire[PACKINGS], time[PACKINGS];
	char variant[96];

	memset(wire, 0, sizeof(wire));
	memset(time, 0, sizeof(time));
	for (size_t i = 0; i < PACKINGS; i++) {
		const struct packing *packing = &packings[i];

		wire[i].side = time[i].side = packing->side;
		begin(packing->features, packing->hash, packing->cache);
		/* what the pages of that kind are different from */
		write_mixed();
		stop();
		pack();
		acked();
		for (unsigned round = 0; round < 3; round++) {
			write_mixed();
			stop();
			bench_add(&time[i], pack());
			acked();
			bench_add(&wire[i], (double)cp_stage_last(guest.stage)->wire / (double)MIB);
		}
		cp_stage_free(guest.stage);
	}
	snprintf(variant, sizeof(variant), "%u MiB dirty, of five kinds", MIXED_MIB);
	bench_print(bench, BENCH_CP_WIRE, variant, wire, PACKINGS);
	bench_print(bench, BENCH_CP_PACK, variant, time, PACKINGS);
}

int main(int argc, char **argv)
{
	static const unsigned sizes[] = { 1, 5, 16, 64, 256 };
	struct bench bench;
	unsigned left = 14;

	bench_begin(&bench, "protect", argc, argv);
	prepare(bench.bytes);
	begin(0, false, false);
	for (unsigned i = 0; i < 5; i++) {
		if (sizes[i] * MIB > bench.bytes / 4)
			continue;
		bench_part(1, left--);
		measure_stop(&bench, sizes[i], 1);
	}
	bench_part(1, left--);
	measure_stop(&bench, bench.bytes >= 256 * MIB ? 64 : 1, 16);
	cp_stage_free(guest.stage);
	bench_part(2, left);
	measure_packings(&bench);
	measure_cow(&bench, sizes, 5);
	return 0;
}
