/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_H
#define LIB_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Figures, sides beside each other. A measure is a group of rows, one a side; the first
 * side is the floor (the least code that does the same), and every other is shown with
 * its ratio to it. Only ratios within one run mean anything.
 */
#define BENCH_SAMPLES 64

struct bench_row {
	const char *side;
	const char *unit;
	bool higher_is_better;
	unsigned count;
	double sample[BENCH_SAMPLES];
};

struct bench {
	bool quick;
	const char *json; /* file to append one object a row to, or NULL */
	const char *program;
};

/* --quick, --json FILE; anything else ends the program with a sentence */
void bench_begin(struct bench *bench, const char *program, int argc, char **argv);

/* Touch and free as much memory as a run will use: the first touch ever is far dearer */
void bench_warm(size_t bytes);

void bench_add(struct bench_row *row, double value);
double bench_median(const struct bench_row *row);

/* The table of one measure; rows without a sample are said to be missing, with why */
void bench_print(const struct bench *bench, const char *measure, const struct bench_row *rows,
		 unsigned count);

/* Latencies: quantile of @count values, which are sorted by it */
double bench_quantile(double *values, size_t count, double quantile);

#endif /* LIB_BENCH_H */
