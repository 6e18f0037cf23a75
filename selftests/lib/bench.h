/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_H
#define LIB_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "selftests/lib/bench_measure.h"

/*
 * Figures, sides beside each other. A table is one measure in one variant (a link, a
 * kind of memory), a row a side; the first row is the floor (the least code that does
 * the same), and every other is shown with its ratio to it. What is aimed at stands
 * beneath (bench_measure.c). Only ratios within one run mean anything.
 */
#define BENCH_SAMPLES 64
#define BENCH_ROWS 16

/**
 * struct bench_row - One side of a table
 * @side:	Its name, as aims know it
 * @why:	If there is no sample: why not
 */
struct bench_row {
	const char *side;
	char why[160];
	unsigned count;
	double sample[BENCH_SAMPLES];
};

/**
 * struct bench - What was asked for on the command line
 * @only:	Names of the sides to run; none: all
 * @link:	"unix" or "tcp", NULL: both. Likewise the others
 * @bytes:	Size of the RAM: as asked for, or as planned (bench_plan.c)
 * @sized:	It was asked for
 * @rounds:	As asked for; 0: as planned, as far as there is time
 * @seconds:	For all of it, 0: as planned
 */
struct bench {
	const char *program;
	bool quick;
	const char *json; /* file to append one object a row to, or NULL */
	const char *only[BENCH_ROWS];
	unsigned onlys;
	const char *link;
	const char *load;
	const char *cores;
	const char *memory;
	const char *phase;
	uint64_t bytes;
	bool sized;
	unsigned rounds;
	unsigned seconds;
};

/* Anything that is no option ends the program with a sentence. Prints what machine it is */
void bench_begin(struct bench *bench, const char *program, int argc, char **argv);

/* Is a side wanted, and is a value of --link and so on? */
bool bench_wants(const struct bench *bench, const char *side);
bool bench_chosen(const char *option, const char *value);

void bench_add(struct bench_row *row, double value);
/* Not for a row without samples */
double bench_median(const struct bench_row *row);

/*
 * How many times the other row: the median of what each round says, for they are what is beside
 * each other; of medians if one had other rounds. 0: nothing can be said. Both have samples
 */
double bench_ratio(const struct bench_row *row, const struct bench_row *of);

/* The table of one measure, its aims beneath; rows of sides that are not wanted are left out */
void bench_print(const struct bench *bench, enum bench_measure measure, const char *variant,
		 const struct bench_row *rows, unsigned count);

/* A row for the JSON file only, where a program has a table of its own */
void bench_record(const struct bench *bench, enum bench_measure measure, const char *variant,
		  const struct bench_row *row, double ratio);

/* A line of a plot, into the JSON file: @count pairs x, y */
void bench_curve(const struct bench *bench, const char *plot, const char *variant, const char *side,
		 const double (*points)[2], size_t count);

/* Quantile of @count values, which are sorted by it */
double bench_quantile(double *values, size_t count, double quantile);

/* ---- bench_plan.c ----------------------------------------------------------------- */

void bench_plan_print(bool quick);
void bench_plan_begin(struct bench *bench);

/*
 * A comparison begins: of what is left of the program's time, it has @weight of @left, which is
 * of all that are still to come and its own
 */
void bench_part(uint64_t weight, uint64_t left);
/* After so many rounds of it, another? */
bool bench_again(unsigned done);
/* A line beneath its table if there were fewer than planned */
void bench_say_rounds(void);

/* ---- bench_machine.c -------------------------------------------------------------- */

/* What the figures depend on: kernel, processors, memory, huge pages, QEMU */
void bench_machine(const struct bench *bench);

/* This thread on one processor, or on those that it had; for a later fork() too */
void bench_pin(int cpu);
void bench_unpin(void);

/* Processor time that a process has used up to now, all its threads; 0 if it is gone */
uint64_t bench_cpu_ns(pid_t pid);

/* Bytes of a process's memory from /proc/PID/smaps_rollup: "AnonHugePages", "Rss" */
uint64_t bench_smaps(pid_t pid, const char *name);

/* The same from /proc/PID/status: "VmHWM" */
uint64_t bench_status(pid_t pid, const char *name);

/* Bytes in the memory of a process, cheaper than that */
uint64_t bench_resident(pid_t pid);

/* ---- bench_warm.c ----------------------------------------------------------------- */

struct bench_warm;

/* Memory that is warm, bytes of it in small and in huge pages; none if there is not so much */
struct bench_warm *bench_warm(uint64_t small, uint64_t large);
/* It is given back from here on, by a thread, as somebody takes memory */
void bench_warm_follow(struct bench_warm *warm);
/* The rest at once */
void bench_warm_end(struct bench_warm *warm);

struct huge_pages;

/* Pages of 2 MiB for both ends, touched once; false, and a line that says why not */
bool bench_pool(struct huge_pages *pages, uint64_t bytes);

#endif /* LIB_BENCH_H */
