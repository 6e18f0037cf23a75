/* SPDX-License-Identifier: MIT */
/*
 * What reading the log of writes costs: dirty_log_scan() beside a bare PAGEMAP_SCAN over the
 * same memory, which makes no bitmap of it, and beside QEMU's migration_bitmap_sync(). QEMU's log
 * is a bitmap that whoever writes keeps (TCG; a device), so its writers pay and its readers do not:
 * compare what is written often with what is written seldom.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_qemu_sync.h"
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define QEMU_EVERY 3
#define NO_CPU "its trace points tell time, not processor time"

static void die(const char *what, const struct wh_err *err)
{
	fprintf(stderr, "dirty: %s: %s\n", what, err ? err->text : "failed");
	exit(1);
}

/* Every n-th page of the memory is written; 0: none */
static void write_pages(uint8_t *memory, size_t bytes, unsigned n)
{
	for (size_t at = 0; n && at < bytes; at += (size_t)n * 4096)
		memory[at]++;
}

static double bare_scan(int pagemap, uint8_t *memory, size_t bytes)
{
	static struct page_region out[4096];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)memory,
		.end = (uintptr_t)memory + bytes,
		.vec = (uintptr_t)out,
		.vec_len = sizeof(out) / sizeof(out[0]),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	uint64_t begin = clock_now_ns();

	do {
		if (ioctl(pagemap, PAGEMAP_SCAN, &arg) < 0)
			die("PAGEMAP_SCAN", NULL);
		arg.start = arg.walk_end;
	} while (arg.start < (uintptr_t)memory + bytes);
	return (double)(clock_now_ns() - begin) / 1e6;
}

static uint64_t cpu_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static const struct load {
	const char *name;
	unsigned every; /* such page is written */
} loads[] = { { "nothing written", 0 },
	      { "1 % scattered", 100 },
	      { "10 % scattered", 10 },
	      { "all written", 1 } };

#define LOADS (sizeof(loads) / sizeof(loads[0]))

/* What both read: the same memory, and the map is the library's */
struct memory_read {
	struct region region;
	struct dirty_log log;
	uint64_t *map;
	int pagemap;
};

static void prepare(struct memory_read *mem)
{
	struct region *region = &mem->region;
	struct wh_err err = { 0 };

	bench_warm_end(bench_warm(region->length, 0));
	region->addr = mmap(NULL, region->length, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mem->map = calloc(bits_words(region->length / 4096), sizeof(*mem->map));
	mem->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (region->addr == MAP_FAILED || !mem->map || mem->pagemap < 0)
		die("memory", NULL);
	madvise(region->addr, region->length, MADV_NOHUGEPAGE);
	write_pages(region->addr, region->length, 1);
	if (dirty_log_open(&mem->log, region, 1, &err) < 0)
		die("log", &err);
	if (dirty_log_scan(&mem->log, 0, mem->map, &err) < 0)
		die("scan", &err);
}

static void measure_qemu(struct bench_row *row, uint64_t bytes, unsigned every)
{
	struct wh_err err = { 0 };
	double ms;

	if (bench_qemu_sync(bytes, every, &ms, &err) < 0)
		snprintf(row->why, sizeof(row->why), "%.150s", err.text);
	else
		bench_add(row, ms);
}

static void measure(const struct bench *bench, struct memory_read *mem, const struct load *load)
{
	struct bench_row rows[3] = { { .side = "floor" },
				     { .side = "wherry" },
				     { .side = "QEMU 7.2" } };
	struct bench_row cpu[3] = { rows[0], rows[1], { .side = "QEMU 7.2", .why = NO_CPU } };
	const struct region *region = &mem->region;
	struct wh_err err = { 0 };
	char variant[96];

	for (unsigned round = 0; bench_again(round); round++) {
		uint64_t cpu_ns, begin_ns;

		write_pages(region->addr, region->length, load->every);
		cpu_ns = cpu_now_ns();
		bench_add(&rows[0], bare_scan(mem->pagemap, region->addr, region->length));
		bench_add(&cpu[0], (double)(cpu_now_ns() - cpu_ns) / 1e6);
		write_pages(region->addr, region->length, load->every);
		memset(mem->map, 0, bits_words(region->length / 4096) * sizeof(*mem->map));
		cpu_ns = cpu_now_ns();
		begin_ns = clock_now_ns();
		if (dirty_log_scan(&mem->log, 0, mem->map, &err) < 0)
			die("scan", &err);
		bench_add(&rows[1], (double)(clock_now_ns() - begin_ns) / 1e6);
		bench_add(&cpu[1], (double)(cpu_now_ns() - cpu_ns) / 1e6);
		/* One start of it takes longer than all of that */
		if (round % QEMU_EVERY == 0 && bench_wants(bench, "QEMU 7.2"))
			measure_qemu(&rows[2], region->length, load->every);
	}
	snprintf(variant, sizeof(variant), "%.3g GiB of 4 KiB pages, %s",
		 (double)region->length / (1 << 30), load->name);
	bench_print(bench, BENCH_DIRTY_SYNC, variant, rows, 3);
	bench_print(bench, BENCH_DIRTY_CPU, variant, cpu, 3);
}

int main(int argc, char **argv)
{
	static struct memory_read mem = { .region = {
						  .name = "ram", .page_size = 4096, .fd = -1 } };
	struct bench bench;

	bench_begin(&bench, "dirty", argc, argv);
	mem.region.length = bench.bytes;
	prepare(&mem);
	for (size_t i = 0; i < LOADS; i++) {
		bench_part(1, LOADS - i);
		measure(&bench, &mem, &loads[i]);
	}
	dirty_log_close(&mem.log);
	return 0;
}
