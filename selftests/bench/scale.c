/* SPDX-License-Identifier: MIT */
/*
 * Does it stay as cheap when there is more of it? What a page costs by the size of the RAM,
 * and how many faults a second many threads of the guest have served.
 *
 * The destination's RAM is what it seems. The source's, where sizes are compared, is a
 * memfd of 64 MiB mapped again and again, so that the machine need not have both: it is
 * read from the processor's caches for a part, which makes all sides look a little better.
 */
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define PIECE (64 * MIB)
#define STEP 4
#define TOUCHES 20000
#define FAULTED (512 * MIB)
#define FAULTERS_WEIGHT (2048 * MIB) /* they take as long as that does to come in */

static const struct {
	const char *name;
	const struct bench_kind *kind;
	unsigned workers;
} ways[] = { { "floor", &bench_floor, 0 },
	     { "wherry", &bench_wherry, 0 },
	     /* of the floor, since the library has one; in faults only */
	     { "floor, 2 channels", &bench_floor, 2 },
	     { "floor, 4 channels", &bench_floor, 4 } };

#define WAYS (sizeof(ways) / sizeof(ways[0]))
#define SIZES_WAYS 2

/* What is still to come takes as long as so many bytes */
static uint64_t left;

static void part(uint64_t weight)
{
	bench_part(weight, left);
	left -= weight;
}

/* One figure of a run */
typedef double (*figure_of)(struct bench_side *side);

static double page_ns(struct bench_side *side)
{
	return bench_done(side) == 0 ? 4096 / bench_rate(side) : 0;
}

static double thousand_faults(struct bench_side *side)
{
	const struct bench_shared *shared = side->shared;

	if (bench_wait(side, &shared->touched_ns) < 0)
		return 0;
	return (double)side->load->touches / (double)(shared->touched_ns - shared->postcopy_ns) *
	       1e6;
}

static void measure(const struct bench *bench, const struct bench_load *load,
		    enum bench_measure measure, const char *variant, figure_of figure,
		    double median[WAYS])
{
	size_t sides = load->touchers && !bench->quick ? WAYS : SIZES_WAYS;
	struct bench_row rows[WAYS] = { 0 };

	for (unsigned round = 0; bench_again(round); round++) {
		for (unsigned i = 0; i < WAYS; i++) {
			struct bench_load own = *load;
			struct bench_side side;
			double value = 0;

			rows[i].side = ways[i].name;
			if (i >= sides || !bench_wants(bench, ways[i].name))
				continue;
			own.workers = ways[i].workers;
			if (bench_start(&side, ways[i].kind, &own) == 0) {
				if (bench_go(&side) == 0)
					value = figure(&side);
				bench_stop(&side);
			}
			if (value > 0)
				bench_add(&rows[i], value);
			snprintf(rows[i].why, sizeof(rows[i].why), "%s", side.why);
		}
	}
	bench_print(bench, measure, variant, rows, sides);
	for (unsigned i = 0; i < WAYS; i++)
		median[i] = rows[i].count ? bench_median(&rows[i]) : 0;
}

static void draw(const struct bench *bench, const char *plot, const char *variant,
		 double (*points)[WAYS + 1], size_t count)
{
	for (unsigned i = 0; i < WAYS; i++) {
		double curve[16][2];
		size_t n = 0;

		for (size_t at = 0; at < count; at++) {
			if (points[at][i + 1] <= 0)
				continue;
			curve[n][0] = points[at][0];
			curve[n++][1] = points[at][i + 1];
		}
		bench_curve(bench, plot, variant, ways[i].name, (const double(*)[2])curve, n);
	}
}

static uint64_t smallest(const struct bench *bench)
{
	return bench->quick ? 128 * MIB : 1024 * MIB;
}

static void sizes(const struct bench *bench, bool postcopy)
{
	uint64_t have = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * 4096;
	double points[8][WAYS + 1];
	size_t count = 0;

	for (uint64_t bytes = smallest(bench); bytes <= bench->bytes; bytes *= STEP) {
		struct bench_load load = bench_load_default;
		char variant[64];

		snprintf(variant, sizeof(variant), "%.3g GiB, unix", (double)bytes / (1 << 30));
		if (bytes + 2048 * MIB > have) {
			printf("\n%s is not measured: %.1f GiB are free\n", variant,
			       (double)have / (1 << 30));
			break;
		}
		load.postcopy = postcopy;
		load.bytes = bytes;
		load.piece = PIECE;
		points[count][0] = (double)bytes / (1 << 30);
		part(bytes);
		measure(bench, &load, postcopy ? BENCH_SIZE_POSTCOPY : BENCH_SIZE_PRECOPY, variant,
			page_ns, &points[count][1]);
		count++;
	}
	draw(bench, "size", postcopy ? "postcopy" : "precopy", points, count);
}

static bool left_out(const struct bench *bench, unsigned threads)
{
	return bench->quick && threads != 1 && threads != 8 && threads != 64;
}

static void faulters(const struct bench *bench, bool tcp)
{
	double points[8][WAYS + 1];
	size_t count = 0;

	for (unsigned threads = 1; threads <= 64; threads *= 2) {
		struct bench_load load = bench_load_default;
		char variant[64];

		if (left_out(bench, threads))
			continue;
		load.tcp = tcp;
		load.bulk = false;
		load.bytes = bench->quick ? FAULTED / 4 : FAULTED;
		load.touchers = threads;
		load.touches = bench->quick ? TOUCHES / 4 : TOUCHES;
		snprintf(variant, sizeof(variant), "%u thread%s, %s", threads,
			 threads > 1 ? "s" : "", tcp ? "TCP" : "unix");
		points[count][0] = threads;
		part(FAULTERS_WEIGHT);
		measure(bench, &load, BENCH_FAULTERS, variant, thousand_faults, &points[count][1]);
		count++;
	}
	draw(bench, "faulters", tcp ? "TCP" : "unix", points, count);
}

static bool wants_sizes(const struct bench *bench, int postcopy)
{
	return bench_chosen(bench->load, "bulk") &&
	       bench_chosen(bench->phase, postcopy ? "postcopy" : "precopy");
}

static bool wants_faulters(const struct bench *bench, int tcp)
{
	return bench_chosen(bench->load, "idle") && bench_chosen(bench->link, tcp ? "tcp" : "unix");
}

int main(int argc, char **argv)
{
	struct bench bench;

	bench_begin(&bench, "scale", argc, argv);
	for (int i = 0; i < 2; i++) {
		for (uint64_t bytes = smallest(&bench);
		     wants_sizes(&bench, i) && bytes <= bench.bytes; bytes *= STEP)
			left += bytes;
		for (unsigned threads = 1; wants_faulters(&bench, i) && threads <= 64; threads *= 2)
			left += left_out(&bench, threads) ? 0 : FAULTERS_WEIGHT;
	}
	for (int postcopy = 0; postcopy < 2; postcopy++)
		if (wants_sizes(&bench, postcopy))
			sizes(&bench, postcopy);
	for (int tcp = 0; tcp < 2; tcp++)
		if (wants_faulters(&bench, tcp))
			faulters(&bench, tcp);
	return 0;
}
