/* SPDX-License-Identifier: MIT */
/*
 * What reading the log of writes costs: dirty_log_scan() beside a bare PAGEMAP_SCAN
 * over the same memory, and beside a KVM-sized bitmap walk it has to be merged into.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "uffd/abi.h"
#include "uffd/dirty.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned every;
	} loads[] = { { "nothing written", 0 },
		      { "1 % scattered", 100 },
		      { "10 % scattered", 10 },
		      { "all written", 1 } };
	struct wh_err err = { 0 };
	struct region region = { .name = "ram", .page_size = 4096, .fd = -1 };
	struct dirty_log log;
	struct bench bench;
	uint64_t *map;
	int pagemap;

	bench_begin(&bench, "dirty", argc, argv);
	region.length = bench.quick ? UINT64_C(1) << 30 : UINT64_C(4) << 30;
	bench_warm(region.length);
	region.addr = mmap(NULL, region.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	map = calloc(bits_words(region.length / 4096), sizeof(*map));
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (region.addr == MAP_FAILED || !map || pagemap < 0)
		die("memory", NULL);
	madvise(region.addr, region.length, MADV_NOHUGEPAGE);
	write_pages(region.addr, region.length, 1);
	if (dirty_log_open(&log, &region, 1, &err) < 0)
		die("log", &err);
	if (dirty_log_scan(&log, 0, map, &err) < 0)
		die("scan", &err);

	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		struct bench_row rows[2] = { { .side = "floor: bare PAGEMAP_SCAN", .unit = "ms" },
					     { .side = "wherry: dirty_log_scan()", .unit = "ms" } };
		char title[96];

		for (int round = 0; round < 7; round++) {
			uint64_t begin;

			write_pages(region.addr, region.length, loads[i].every);
			bench_add(&rows[0], bare_scan(pagemap, region.addr, region.length));
			write_pages(region.addr, region.length, loads[i].every);
			memset(map, 0, bits_words(region.length / 4096) * sizeof(*map));
			begin = clock_now_ns();
			if (dirty_log_scan(&log, 0, map, &err) < 0)
				die("scan", &err);
			bench_add(&rows[1], (double)(clock_now_ns() - begin) / 1e6);
		}
		snprintf(title, sizeof(title), "dirty sync, %llu GiB of 4 KiB pages, %s",
			 (unsigned long long)(region.length >> 30), loads[i].name);
		bench_print(&bench, title, rows, 2);
	}
	dirty_log_close(&log);
	return 0;
}
