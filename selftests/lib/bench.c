/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void bench_begin(struct bench *bench, const char *program, int argc, char **argv)
{
	*bench = (struct bench){ .program = program };
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick")) {
			bench->quick = true;
		} else if (!strcmp(argv[i], "--json") && i + 1 < argc) {
			bench->json = argv[++i];
		} else {
			fprintf(stderr, "usage: %s [--quick] [--json FILE]\n", argv[0]);
			exit(2);
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
}

void bench_warm(size_t bytes)
{
	uint8_t *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return;
	for (size_t i = 0; i < bytes; i += 4096)
		memory[i] = 1;
	munmap(memory, bytes);
}

void bench_add(struct bench_row *row, double value)
{
	if (row->count < BENCH_SAMPLES)
		row->sample[row->count++] = value;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t count, double quantile)
{
	size_t at = (size_t)((double)count * quantile);

	if (!count)
		return 0;
	qsort(values, count, sizeof(*values), ascending);
	return values[at < count ? at : count - 1];
}

double bench_median(const struct bench_row *row)
{
	double sorted[BENCH_SAMPLES];

	memcpy(sorted, row->sample, row->count * sizeof(*sorted));
	return bench_quantile(sorted, row->count, 0.5);
}

static void spread(const struct bench_row *row, double *low, double *high)
{
	double sorted[BENCH_SAMPLES];

	memcpy(sorted, row->sample, row->count * sizeof(*sorted));
	*low = bench_quantile(sorted, row->count, 0);
	*high = sorted[row->count - 1];
}

static void append_json(const struct bench *bench, const char *measure, const struct bench_row *row,
			double ratio)
{
	FILE *file = fopen(bench->json, "a");
	double low, high;

	if (!file) {
		fprintf(stderr, "%s: %s\n", bench->json, strerrordesc_np(errno));
		exit(1);
	}
	spread(row, &low, &high);
	fprintf(file,
		"{\"program\":\"%s\",\"measure\":\"%s\",\"side\":\"%s\",\"unit\":\"%s\",\"median\":%.6g,"
		"\"low\":%.6g,\"high\":%.6g,\"samples\":%u,\"ratio_to_floor\":%.4g}\n",
		bench->program, measure, row->side, row->unit, bench_median(row), low, high,
		row->count, ratio);
	fclose(file);
}

void bench_print(const struct bench *bench, const char *measure, const struct bench_row *rows,
		 unsigned count)
{
	double floor = rows[0].count ? bench_median(&rows[0]) : 0;

	printf("\n%s\n", measure);
	printf("  %-26s %12s %25s %10s\n", "", "median", "low .. high", "of floor");
	for (unsigned i = 0; i < count; i++) {
		const struct bench_row *row = &rows[i];
		double low, high, median, ratio;

		if (!row->count) {
			printf("  %-26s %12s\n", row->side, "not measured");
			continue;
		}
		median = bench_median(row);
		ratio = floor > 0 ? median / floor : 0;
		spread(row, &low, &high);
		printf("  %-26s %9.4g %-5s %11.4g .. %-9.4g %9.2fx\n", row->side, median, row->unit,
		       low, high, ratio);
		if (bench->json)
			append_json(bench, measure, row, ratio);
	}
}
