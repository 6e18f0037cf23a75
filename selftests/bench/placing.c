/* SPDX-License-Identifier: MIT */
/*
 * What it costs to put pages where a userfaultfd watches: each ioctl, on each kind of
 * memory, in runs of several lengths, beside what the placer makes of it; and the latency
 * of a fault that is answered in the same process.
 *
 * A virtual machine's own memory may have to be fetched from its host when it is touched
 * for the first time in a while, which takes ten times as long: as much memory as a run
 * takes is touched and given back immediately before it, and rounds go through all runs in
 * turn. Medians are shown. Only their ratios travel.
 */
#include "base/clock.h"
#include "base/hist.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/memory.h"
#include "uffd/abi.h"
#include "uffd/placer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SOURCE_BYTES (UINT64_C(8) << 20)
#define ROUNDS_MAX 31
#define FAULTS 4000

enum way {
	WAY_COPY,     /* into a stage, then COPY */
	WAY_CONTINUE, /* into the second mapping, then CONTINUE */
	WAY_MOVE,     /* into a huge stage, then MOVE */
	WAY_ZERO,     /* ZEROPAGE */
	WAY_PLACER,   /* whatever the placer does */
	WAY_COUNT
};

/* Of the memory: never used, or used before and given up, its pages still in the file */
enum state {
	STATE_FRESH,
	STATE_AGAIN,
	STATE_COUNT
};

static const char *const way_name[] = { "copy", "continue", "move", "zero", "placer" };
static const char *const state_name[] = { "fresh", "again" };
static const uint64_t run_bytes[] = { 4096, 65536, STAGE_BYTES };
static const char *const run_name[] = { "4K", "64K", "2M" };

#define RUNS (sizeof(run_bytes) / sizeof(run_bytes[0]))

struct result {
	unsigned rounds;
	double gbps[ROUNDS_MAX];
};

struct placing {
	uint64_t bytes;
	unsigned rounds;
	const struct bench *bench;
	uint8_t *source;
	struct uffd uffd;
	struct stage stage;
	struct result result[MEMORY_KIND_COUNT][STATE_COUNT][RUNS][WAY_COUNT];
	struct result drop[MEMORY_KIND_COUNT][2]; /* placer_discard(), placer_hide() */
};

static void fail(const struct wh_err *err, const char *what)
{
	fprintf(stderr, "placing: %s: %s\n", what, err->text);
	exit(1);
}

/* Take as much memory as the run will, and give it back */
static void warm(const struct placing *placing, enum memory_kind kind)
{
	struct memory memory;
	struct wh_err err;

	if (memory_new(&memory, kind, placing->bytes, &err) < 0)
		fail(&err, "warming");
	memset(memory.region.addr, 1, placing->bytes);
	memory_free(&memory);
}

static bool applies(enum memory_kind kind, enum state state, uint64_t run, enum way way)
{
	bool alias = memory_traits[kind].shared;
	bool anon = kind == MEMORY_ANON || kind == MEMORY_THP;

	if (run < memory_traits[kind].page_size || (state == STATE_AGAIN && !alias))
		return false;
	switch (way) {
	case WAY_COPY:
		return state == STATE_FRESH;
	case WAY_CONTINUE:
		return alias;
	case WAY_MOVE:
		return anon && run == STAGE_BYTES;
	case WAY_ZERO:
		return state == STATE_FRESH && memory_traits[kind].page_size == TARGET_PAGE;
	case WAY_PLACER:
	case WAY_COUNT:
		break;
	}
	return true;
}

static enum placed put(struct placing *placing, struct placer *placer, enum way way,
		       uint64_t offset, uint64_t run, struct wh_err *err)
{
	const uint8_t *from = placing->source + offset % SOURCE_BYTES;
	uint8_t *staged = placing->stage.memory + offset % STAGE_BYTES;
	uint8_t *at = placer->region->addr + offset;

	switch (way) {
	case WAY_COPY:
		memcpy(staged, from, run);
		return uffd_copy(&placing->uffd, at, staged, run, true, NULL, err);
	case WAY_CONTINUE:
		memcpy(placer->alias + offset, from, run);
		return uffd_continue(&placing->uffd, at, run, true, NULL, err);
	case WAY_MOVE:
		memcpy(staged, from, run);
		return uffd_move(&placing->uffd, at, staged, run, true, NULL, err);
	case WAY_ZERO:
		return uffd_zero(&placing->uffd, at, run, true, NULL, err);
	case WAY_PLACER:
		/* Page by page, as they come in */
		for (uint64_t at_page = 0; at_page < run; at_page += TARGET_PAGE)
			memcpy(placer_room(placer, &placing->stage, offset + at_page),
			       from + at_page, TARGET_PAGE);
		return placer_place(placer, &placing->stage, offset, run, true, NULL, err);
	case WAY_COUNT:
		break;
	}
	return PLACED_COUNT;
}

static void add(struct result *result, uint64_t bytes, uint64_t begin_ns)
{
	result->gbps[result->rounds++] = (double)bytes / (double)(clock_now_ns() - begin_ns);
}

/* Filled once before, and then given up: the way it is dropped is measured as well */
static void use_before(struct placing *placing, struct placer *placer, enum memory_kind kind)
{
	uint64_t length = placer->region->length, begin_ns;
	bool hide = placing->drop[kind][0].rounds > placing->drop[kind][1].rounds;
	struct wh_err err = { 0 };
	int ret;

	memset(placer->region->addr, 1, length);
	begin_ns = clock_now_ns();
	/* The second half of hiding is done when it is armed */
	ret = hide ? placer_hide(placer, 0, length, &err) : placer_discard(placer, 0, length, &err);
	if (ret == 0 && hide)
		ret = placer_unmap_hidden(placer, &err);
	if (ret < 0)
		fail(&err, placer->region->name);
	if (placing->drop[kind][hide].rounds < placing->rounds)
		add(&placing->drop[kind][hide], length, begin_ns);
	if (hide)
		return;
	memset(placer->region->addr, 1, length);
	if (placer_hide(placer, 0, length, &err) < 0)
		fail(&err, placer->region->name);
}

static void measure(struct placing *placing, enum memory_kind kind, enum state state, unsigned run,
		    enum way way)
{
	struct memory memory;
	struct placer placer;
	struct wh_err err = { 0 };
	enum placed placed = PLACED_OK;
	uint64_t offset, begin_ns;

	warm(placing, kind);
	if (memory_new(&memory, kind, placing->bytes, &err) < 0 ||
	    placer_init(&placer, &memory.region, &placing->uffd, &err) < 0 ||
	    placer_advise(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	if (state == STATE_AGAIN)
		use_before(placing, &placer, kind);
	if (placer_arm(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	begin_ns = clock_now_ns();
	for (offset = 0; offset < placing->bytes && placed == PLACED_OK; offset += run_bytes[run])
		placed = put(placing, &placer, way, offset, run_bytes[run], &err);
	add(&placing->result[kind][state][run][way], placing->bytes, begin_ns);
	if (placed != PLACED_OK) {
		if (placed != PLACED_FAILED)
			snprintf(err.text, sizeof(err.text), "%s", placed_name(placed));
		fail(&err, way_name[way]);
	}
	placer_disarm(&placer, &err);
	placer_fini(&placer);
	memory_free(&memory);
}

static void measure_all(struct placing *placing)
{
	unsigned kind, state, run, way, round;

	bench_part(3, 4); /* and latencies */
	for (round = 0; bench_again(round); round++) {
		placing->rounds = round + 1;
		for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
			for (state = 0; state < STATE_COUNT; state++)
				for (run = 0; run < RUNS; run++)
					for (way = 0; way < WAY_COUNT; way++)
						if (applies(kind, state, run_bytes[run], way))
							measure(placing, kind, state, run, way);
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(struct result *result)
{
	if (!result->rounds)
		return 0;
	qsort(result->gbps, result->rounds, sizeof(result->gbps[0]), compare);
	return result->gbps[result->rounds / 2];
}

static void record(const struct placing *placing, enum bench_measure measure, const char *variant,
		   const char *side, struct result *result)
{
	struct bench_row row = { .side = side };

	for (unsigned i = 0; i < result->rounds; i++)
		bench_add(&row, result->gbps[i]);
	bench_record(placing->bench, measure, variant, &row, 0);
}

static void print_run(struct placing *placing, unsigned kind, unsigned state, unsigned run)
{
	double value, best = 0;
	char variant[96];
	unsigned way;

	if (!applies(kind, state, run_bytes[run], WAY_PLACER))
		return;
	snprintf(variant, sizeof(variant), "%s, %s, %s at once", memory_traits[kind].name,
		 state_name[state], run_name[run]);
	printf("  %-16s %-6s %4s", memory_traits[kind].name, state_name[state], run_name[run]);
	for (way = 0; way < WAY_COUNT; way++) {
		value = median(&placing->result[kind][state][run][way]);
		if (way < WAY_ZERO && value > best)
			best = value;
		if (value <= 0) {
			printf(" %9s", "-");
			continue;
		}
		printf(" %9.2f", value);
		record(placing, BENCH_PLACING, variant, way_name[way],
		       &placing->result[kind][state][run][way]);
	}
	printf(" %8.2f\n", value / best);
}

static void print_drop(struct placing *placing, unsigned kind)
{
	struct result *discard = &placing->drop[kind][0], *hide = &placing->drop[kind][1];

	if (!discard->rounds || !hide->rounds)
		return;
	printf("  %-16s discard %.1f GB/s, hide %.1f GB/s\n", memory_traits[kind].name,
	       median(discard), median(hide));
	record(placing, BENCH_DROPPING, memory_traits[kind].name, "discard", discard);
	record(placing, BENCH_DROPPING, memory_traits[kind].name, "hide", hide);
}

static void print_all(struct placing *placing)
{
	unsigned kind, state, run, way;

	printf("\n%s, GB/s, median of %u\n  %-16s %-6s %4s", bench_traits[BENCH_PLACING].title,
	       placing->rounds, "memory", "state", "run");
	for (way = 0; way < WAY_COUNT; way++)
		printf(" %9s", way_name[way]);
	printf(" %8s\n", "of best");
	for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
		for (state = 0; state < STATE_COUNT; state++)
			for (run = 0; run < RUNS; run++)
				print_run(placing, kind, state, run);
	printf("\n%s\n", bench_traits[BENCH_DROPPING].title);
	for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
		print_drop(placing, kind);
}

/* ---- Latency ---------------------------------------------------------------------- */

struct faulter {
	volatile uint8_t *at;
	uint64_t page;
	unsigned faults;
	int processor;
	struct hist hist;
};

static bool pin(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0;
}

static void *fault_main(void *opaque)
{
	struct faulter *faulter = opaque;
	unsigned i;

	pin(faulter->processor);
	for (i = 0; i < faulter->faults; i++) {
		uint64_t begin_ns = clock_now_ns();

		(void)faulter->at[i * faulter->page];
		hist_add(&faulter->hist, clock_now_ns() - begin_ns);
	}
	return NULL;
}

static void serve(struct placing *placing, struct placer *placer, enum way way, unsigned faults)
{
	struct pollfd poll_fd = { .fd = placing->uffd.fd, .events = POLLIN };
	struct uffd_event events[UFFD_BATCH];
	struct wh_err err = { 0 };
	int n = 0, i;

	while (faults && n >= 0) {
		poll(&poll_fd, 1, -1);
		n = uffd_read(&placing->uffd, events, &err);
		for (i = 0; i < n; i++, faults--) {
			uint64_t offset = events[i].addr - (uintptr_t)placer->region->addr;

			offset -= offset % placer->region->page_size;
			if (put(placing, placer, way, offset, placer->region->page_size, &err) !=
			    PLACED_OK)
				fail(&err, "answering a fault");
		}
	}
	if (n < 0)
		fail(&err, "reading faults");
}

static void print_latency(const struct placing *placing, enum memory_kind kind, enum state state,
			  enum way way, int processor, const struct hist *hist)
{
	struct bench_row p50 = { .side = way_name[way] }, p99 = p50;
	const char *core = processor ? "other" : "same";
	char variant[96];

	bench_add(&p50, (double)hist_quantile(hist, 500) / 1000);
	bench_add(&p99, (double)hist_quantile(hist, 990) / 1000);
	printf("  %-16s %-6s %-9s %-6s %8.1f %8.1f\n", memory_traits[kind].name, state_name[state],
	       way_name[way], core, p50.sample[0], p99.sample[0]);
	snprintf(variant, sizeof(variant), "%s, %s, %s processor", memory_traits[kind].name,
		 state_name[state], core);
	bench_record(placing->bench, BENCH_PLACING_P50, variant, &p50, 0);
	bench_record(placing->bench, BENCH_PLACING_P99, variant, &p99, 0);
}

static void latency(struct placing *placing, enum memory_kind kind, enum state state, enum way way,
		    int processor)
{
	static struct faulter faulter;
	struct memory memory;
	struct placer placer;
	struct wh_err err = { 0 };
	pthread_t thread;

	warm(placing, kind);
	if (memory_new(&memory, kind, placing->bytes, &err) < 0 ||
	    placer_init(&placer, &memory.region, &placing->uffd, &err) < 0 ||
	    placer_advise(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	if (state == STATE_AGAIN)
		use_before(placing, &placer, kind);
	if (placer_arm(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	faulter = (struct faulter){
		.at = memory.region.addr,
		.page = memory.region.page_size,
		.processor = processor,
	};
	faulter.faults = (unsigned)(placing->bytes / faulter.page);
	if (faulter.faults > FAULTS)
		faulter.faults = FAULTS;
	if (pthread_create(&thread, NULL, fault_main, &faulter) != 0)
		exit(1);
	serve(placing, &placer, way, faulter.faults);
	pthread_join(thread, NULL);
	print_latency(placing, kind, state, way, processor, &faulter.hist);
	placer_disarm(&placer, &err);
	placer_fini(&placer);
	memory_free(&memory);
}

static void latency_all(struct placing *placing)
{
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN), processor;
	unsigned kind, state, way;

	printf("\nA fault answered by a thread that sleeps in poll(), in us\n"
	       "  %-16s %-6s %-9s %-6s %8s %8s\n",
	       "memory", "state", "way", "core", "p50", "p99");
	pin(0);
	for (processor = 0; processor < 2 && processor < processors; processor++)
		for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
			for (state = 0; state < STATE_COUNT; state++)
				for (way = 0; way < WAY_COUNT; way++)
					if (way != WAY_MOVE &&
					    applies(kind, state, memory_traits[kind].page_size,
						    way))
						latency(placing, kind, state, way, processor);
}

int main(int argc, char **argv)
{
	static struct placing placing;
	struct wh_err err = { 0 };
	struct bench bench;

	bench_begin(&bench, "placing", argc, argv);
	placing.bench = &bench;
	placing.bytes = bench.bytes;
	placing.source = malloc(SOURCE_BYTES);
	if (!placing.source || bench.rounds > ROUNDS_MAX || placing.bytes < STAGE_BYTES) {
		fprintf(stderr, "placing: --size 2 or more, --rounds %d at most\n", ROUNDS_MAX);
		return 2;
	}
	memset(placing.source, 7, SOURCE_BYTES);
	if (uffd_open(&placing.uffd, 0, false, &err) < 0 ||
	    stage_init(&placing.stage, STAGE_BYTES, &err) < 0)
		fail(&err, "beginning");
	measure_all(&placing);
	print_all(&placing);
	latency_all(&placing);
	stage_fini(&placing.stage);
	uffd_close(&placing.uffd);
	free(placing.source);
	return 0;
}
