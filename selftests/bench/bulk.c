/* SPDX-License-Identifier: MIT */
/*
 * How fast a whole guest's RAM crosses, from the first byte (precopy) or the switch
 * (postcopy) to the end, with no page zero and no guest running; what processor time both
 * ends take for it; what becomes of huge pages; and what memory the library needs for
 * itself. The floor's ways are in selftests/lib/bench_floor_place.c.
 */
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/certs.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/memory.h"

#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define CURVE 400
#define CURVE_STEP_MS 10
#define COMMON (1024 * MIB) /* with more of it only what is aimed at */

struct way {
	const char *name;
	const struct bench_kind *kind;
	bool one_channel;
	bool postcopy_only;
	unsigned channels; /* of multifd: precopy only */
	bool qemu_10;
	bool tls;   /* certificates, GnuTLS's default cipher; precopy only */
	bool aimed; /* at, with much memory as well */
};

static const struct way ways[] = {
	{ .name = "floor", .kind = &bench_floor, .aimed = true },
	{ .name = "wherry", .kind = &bench_wherry, .aimed = true },
	{ .name = "QEMU 7.2", .kind = &bench_qemu, .one_channel = true, .aimed = true },
	{ .name = "QEMU 7.2, preempt", .kind = &bench_qemu, .postcopy_only = true },
	{ .name = "wherry, multifd", .kind = &bench_wherry, .channels = 4 },
	{ .name = "QEMU 7.2, multifd", .kind = &bench_qemu, .channels = 4 },
	{ .name = "wherry, TLS", .kind = &bench_wherry, .tls = true },
	{ .name = "QEMU 7.2, TLS", .kind = &bench_qemu, .one_channel = true, .tls = true },
	{ .name = "QEMU 10.0", .kind = &bench_qemu, .one_channel = true, .qemu_10 = true },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* Is it one for this phase? */
static bool way_takes(const struct way *way, bool postcopy)
{
	return postcopy ? !way->channels && !way->tls : !way->postcopy_only;
}

/* What --quick leaves out: it is compared where everything is */
static bool way_is_extra(const struct way *way, const struct bench_load *load)
{
	return (way->qemu_10 && load->memory != BENCH_ANON) ||
	       ((way->channels || way->tls) && (load->memory != BENCH_ANON || load->tcp));
}

struct results {
	struct bench_row rate[WAYS];
	struct bench_row cpu[WAYS];
	struct bench_row huge[WAYS + 1]; /* behind the ways, the source's */
	struct bench_row own[WAYS];
	bool quick;
	bool sized;
	char creds[32]; /* a folder, for TLS */
	double curve[WAYS][CURVE][2];
	size_t points[WAYS];
};

/*
 * What the destination has in memory from one moment to the next: it is the same to look
 * at for all sides. Until it is complete or does not grow any more.
 */
static void follow(struct results *results, unsigned way, const struct bench_side *side)
{
	uint64_t begin = clock_now_ns(), before = bench_resident(side->dest);
	uint64_t last = before, last_ns = begin;
	size_t idle = 0, n = 0;

	while (n < CURVE && idle < 10) {
		uint64_t resident, now;

		poll(NULL, 0, CURVE_STEP_MS);
		resident = bench_resident(side->dest);
		now = clock_now_ns();
		results->curve[way][n][0] = (double)(now - begin) / 1e6;
		results->curve[way][n][1] =
			resident > last ? (double)(resident - last) / (double)(now - last_ns) : 0;
		idle = resident > last ? 0 : idle + 1;
		if (!idle || n)
			n++;
		if (resident - before >= side->load->bytes - (side->load->bytes >> 6))
			break;
		last = resident;
		last_ns = now;
	}
	results->points[way] = n;
}

/*
 * Ours counts what it allocates. QEMU's is what its process has had at most beyond the
 * guest's RAM and what it began with, which it may have had other uses for.
 */
static void add_own(struct results *results, unsigned way, const struct bench_side *side)
{
	uint64_t most = bench_status(side->dest, "VmHWM");
	/* Pages of a pool are not counted there */
	uint64_t ram = side->load->memory == BENCH_HUGETLB ? 0 : side->load->bytes;
	uint64_t less = side->resident + ram;

	if (ways[way].kind == &bench_wherry)
		bench_add(&results->own[way], (double)side->shared->own_bytes / MIB);
	else if (ways[way].kind == &bench_qemu && most)
		bench_add(&results->own[way], most > less ? (double)(most - less) / MIB : 0);
}

static int run(struct results *results, unsigned way, struct bench_side *side, bool draw)
{
	const struct bench_load *load = side->load;
	const char *huge = load->memory == BENCH_MEMFD ? "ShmemPmdMapped" : "AnonHugePages";
	double gib = (double)load->bytes / (1 << 30);

	if (way == 1 && !draw)
		bench_add(&results->huge[WAYS], (double)bench_smaps(side->source, huge) / MIB);
	if (bench_go(side) < 0)
		return -1;
	if (draw)
		follow(results, way, side);
	if (bench_done(side) < 0)
		return -1;
	if (draw)
		return 0;
	bench_add(&results->rate[way], bench_rate(side));
	bench_add(&results->cpu[way], bench_cpu_s(side) / gib);
	bench_add(&results->huge[way], (double)bench_smaps(side->dest, huge) / MIB);
	add_own(results, way, side);
	return 0;
}

static void attempt(struct results *results, unsigned way, const struct bench_load *load, bool draw)
{
	struct bench_row *row = &results->rate[way];
	struct bench_load own = *load;
	struct bench_side side;

	own.urgent = !ways[way].one_channel;
	own.channels = ways[way].channels;
	own.tls = ways[way].tls ? results->creds : NULL;
	if (ways[way].kind == &bench_qemu && load->memory == BENCH_SMALL) {
		snprintf(row->why, sizeof(row->why), "QEMU always asks for huge pages");
		return;
	}
	if (!ways[way].aimed && load->bytes > COMMON && !results->sized) {
		snprintf(row->why, sizeof(row->why), "left out with so much memory");
		return;
	}
	if (results->quick && way_is_extra(&ways[way], load)) {
		snprintf(row->why, sizeof(row->why), "left out by --quick");
		return;
	}
	if (ways[way].qemu_10) {
		own.qemu = qemu_program(QEMU_10_0, row->why, sizeof(row->why));
		if (!own.qemu)
			return;
	}
	if (bench_start(&side, ways[way].kind, &own) == 0) {
		run(results, way, &side, draw);
		bench_stop(&side);
	}
	snprintf(row->why, sizeof(row->why), "%s", side.why);
}

static void print_own(const struct bench *bench, const struct bench_load *load,
		      const struct results *results, const char *variant)
{
	struct bench_row rows[WAYS] = { { .side = "16 MiB + 3 bits a page" } };
	unsigned count = 1;

	bench_add(&rows[0], 16 + (double)load->bytes / 4096 * 3 / 8 / MIB);
	for (unsigned i = 1; i < WAYS; i++) {
		if (ways[i].channels)
			continue;
		rows[count] = results->own[i];
		rows[count].side = ways[i].name;
		memcpy(rows[count++].why, results->rate[i].why, sizeof(rows[0].why));
	}
	bench_print(bench, BENCH_OWN_MEMORY, variant, rows, count);
}

static void print(const struct bench *bench, const struct bench_load *load, struct results *results)
{
	unsigned count = 0;
	char variant[128];

	snprintf(variant, sizeof(variant), "%llu MiB of %s, %s",
		 (unsigned long long)(load->bytes / MIB), bench_memory_name(load->memory),
		 load->tcp ? "TCP" : "unix");
	for (unsigned i = 0; i < WAYS; i++) {
		if (!way_takes(&ways[i], load->postcopy))
			continue;
		memcpy(results->cpu[i].why, results->rate[i].why, sizeof(results->cpu[i].why));
		memcpy(results->huge[i].why, results->rate[i].why, sizeof(results->huge[i].why));
		results->rate[count] = results->rate[i];
		results->cpu[count] = results->cpu[i];
		results->huge[count++] = results->huge[i];
	}
	bench_print(bench, load->postcopy ? BENCH_POSTCOPY_RATE : BENCH_PRECOPY_RATE, variant,
		    results->rate, count);
	bench_print(bench, load->postcopy ? BENCH_POSTCOPY_CPU : BENCH_PRECOPY_CPU, variant,
		    results->cpu, count);
	if (load->memory != BENCH_HUGETLB) {
		char phase[160];

		results->huge[count] = results->huge[WAYS];
		snprintf(phase, sizeof(phase), "%s, %s", load->postcopy ? "postcopy" : "precopy",
			 variant);
		bench_print(bench, BENCH_HUGE_PAGES, phase, results->huge, count + 1);
	}
	if (load->postcopy)
		print_own(bench, load, results, variant);
}

/* A round of its own, since it is looked at a hundred times a second */
static void draw(const struct bench *bench, const struct bench_load *load, struct results *results)
{
	char variant[128];

	snprintf(variant, sizeof(variant), "%s, %llu MiB of %s, %s",
		 load->postcopy ? "postcopy" : "precopy", (unsigned long long)(load->bytes / MIB),
		 bench_memory_name(load->memory), load->tcp ? "TCP" : "unix");
	for (unsigned i = 0; i < WAYS; i++) {
		if (!way_takes(&ways[i], load->postcopy) || !bench_wants(bench, ways[i].name))
			continue;
		attempt(results, i, load, true);
		bench_curve(bench, "rate", variant, ways[i].name, results->curve[i],
			    results->points[i]);
	}
}

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	static struct results results;

	memset(&results, 0, sizeof(results));
	results.quick = bench->quick;
	results.sized = bench->sized;
	strcpy(results.creds, "/tmp/wherry-bench-XXXXXX");
	if (!mkdtemp(results.creds) || !certs_make(results.creds, NULL))
		fprintf(stderr, "bulk: no credentials for TLS\n");
	for (unsigned i = 0; i < WAYS; i++)
		results.rate[i].side = results.cpu[i].side = results.huge[i].side = ways[i].name;
	results.huge[WAYS].side = "wherry, source";
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < WAYS; i++)
			if (way_takes(&ways[i], load->postcopy) && bench_wants(bench, ways[i].name))
				attempt(&results, i, load, false);
	if (bench->json && load->memory == BENCH_ANON && load->bytes <= COMMON &&
	    !(bench->quick && load->tcp))
		draw(bench, load, &results);
	print(bench, load, &results);
	nftw(results.creds, drop_file, 4, FTW_DEPTH | FTW_PHYS);
}

static bool wanted(const struct bench *bench, const struct bench_load *load)
{
	/* The link makes the same difference to the other kinds */
	if (!bench->link && load->tcp && load->memory != BENCH_ANON)
		return false;
	return bench_chosen(bench->memory, bench_memory_key(load->memory)) &&
	       bench_chosen(bench->phase, load->postcopy ? "postcopy" : "precopy") &&
	       bench_chosen(bench->link, load->tcp ? "tcp" : "unix");
}

/*
 * About as many as there are GiB to be moved in a round; of the large ones, which aims are about,
 * nearly twice, since there are but a few rounds. A file takes twice as long to be made as well,
 * and pages that QEMU places one by one half as long again
 */
static uint64_t weight(const struct bench_load *load)
{
	uint64_t halves = 2;

	if (load->memory == BENCH_MEMFD)
		halves = 4;
	else if (load->memory == BENCH_ANON && load->postcopy)
		halves = 3;
	return load->bytes / MIB * (load->bytes > COMMON ? 5 : WAYS) * halves / 2;
}

static unsigned choose(const struct bench *bench, struct bench_load *loads)
{
	bool planned = !bench->quick && !bench->sized;
	unsigned count = 0;

	for (int i = 0; i < 4 * BENCH_MEMORY_COUNT; i++) {
		struct bench_load load = bench_load_default;

		load.postcopy = i & 1;
		load.tcp = i & 2;
		load.memory = (enum bench_memory)(i / 4);
		load.bytes = bench->bytes;
		if (!wanted(bench, &load))
			continue;
		/* The link, small pages and further peers are compared with less of it */
		if (!planned || (!load.tcp && load.memory != BENCH_SMALL))
			loads[count++] = load;
		load.bytes = load.bytes < COMMON ? load.bytes : COMMON;
		if (planned && load.memory <= BENCH_SMALL)
			loads[count++] = load;
	}
	return count;
}

int main(int argc, char **argv)
{
	struct bench_load loads[8 * BENCH_MEMORY_COUNT];
	struct huge_pages huge_pages = { .hold = -1 };
	uint64_t left = 0;
	struct bench bench;
	unsigned count;

	bench_begin(&bench, "bulk", argc, argv);
	count = choose(&bench, loads);
	for (unsigned i = 0; i < count; i++)
		left += weight(&loads[i]);
	for (unsigned i = 0; i < count; i++) {
		if (loads[i].memory == BENCH_HUGETLB && huge_pages.hold < 0 &&
		    !bench_pool(&huge_pages, bench.bytes))
			break;
		bench_part(weight(&loads[i]), left);
		measure(&bench, &loads[i]);
		left -= weight(&loads[i]);
	}
	huge_pages_drop(&huge_pages);
	return 0;
}
