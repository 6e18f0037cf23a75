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
#include "selftests/lib/memory.h"
#include "uffd/abi.h"
#include "uffd/placer.h"

#include <errno.h>
#include <getopt.h>
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

struct bench {
	uint64_t bytes;
	unsigned rounds;
	bool json;
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
static void warm(const struct bench *bench, enum memory_kind kind)
{
	struct memory memory;
	struct wh_err err;

	if (memory_new(&memory, kind, bench->bytes, &err) < 0)
		fail(&err, "warming");
	memset(memory.region.addr, 1, bench->bytes);
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

static enum placed put(struct bench *bench, struct placer *placer, enum way way, uint64_t offset,
		       uint64_t run, struct wh_err *err)
{
	const uint8_t *from = bench->source + offset % SOURCE_BYTES;
	uint8_t *staged = bench->stage.memory + offset % STAGE_BYTES;
	uint8_t *at = placer->region->addr + offset;

	switch (way) {
	case WAY_COPY:
		memcpy(staged, from, run);
		return uffd_copy(&bench->uffd, at, staged, run, true, NULL, err);
	case WAY_CONTINUE:
		memcpy(placer->alias + offset, from, run);
		return uffd_continue(&bench->uffd, at, run, true, NULL, err);
	case WAY_MOVE:
		memcpy(staged, from, run);
		return uffd_move(&bench->uffd, at, staged, run, true, NULL, err);
	case WAY_ZERO:
		return uffd_zero(&bench->uffd, at, run, true, NULL, err);
	case WAY_PLACER:
		/* Page by page, as they come in */
		for (uint64_t at_page = 0; at_page < run; at_page += TARGET_PAGE)
			memcpy(placer_room(placer, &bench->stage, offset + at_page), from + at_page,
			       TARGET_PAGE);
		return placer_place(placer, &bench->stage, offset, run, true, NULL, err);
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
static void use_before(struct bench *bench, struct placer *placer, enum memory_kind kind)
{
	uint64_t length = placer->region->length, begin_ns;
	bool hide = bench->drop[kind][0].rounds > bench->drop[kind][1].rounds;
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
	if (bench->drop[kind][hide].rounds < bench->rounds)
		add(&bench->drop[kind][hide], length, begin_ns);
	if (hide)
		return;
	memset(placer->region->addr, 1, length);
	if (placer_hide(placer, 0, length, &err) < 0)
		fail(&err, placer->region->name);
}

static void measure(struct bench *bench, enum memory_kind kind, enum state state, unsigned run,
		    enum way way)
{
	struct memory memory;
	struct placer placer;
	struct wh_err err = { 0 };
	enum placed placed = PLACED_OK;
	uint64_t offset, begin_ns;

	warm(bench, kind);
	if (memory_new(&memory, kind, bench->bytes, &err) < 0 ||
	    placer_init(&placer, &memory.region, &bench->uffd, &err) < 0 ||
	    placer_advise(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	if (state == STATE_AGAIN)
		use_before(bench, &placer, kind);
	if (placer_arm(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	begin_ns = clock_now_ns();
	for (offset = 0; offset < bench->bytes && placed == PLACED_OK; offset += run_bytes[run])
		placed = put(bench, &placer, way, offset, run_bytes[run], &err);
	add(&bench->result[kind][state][run][way], bench->bytes, begin_ns);
	if (placed != PLACED_OK) {
		if (placed != PLACED_FAILED)
			snprintf(err.text, sizeof(err.text), "%s", placed_name(placed));
		fail(&err, way_name[way]);
	}
	placer_disarm(&placer, &err);
	placer_fini(&placer);
	memory_free(&memory);
}

static void measure_all(struct bench *bench)
{
	unsigned kind, state, run, way, round;

	for (round = 0; round < bench->rounds; round++)
		for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
			for (state = 0; state < STATE_COUNT; state++)
				for (run = 0; run < RUNS; run++)
					for (way = 0; way < WAY_COUNT; way++)
						if (applies(kind, state, run_bytes[run], way))
							measure(bench, kind, state, run, way);
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

static void print_run(struct bench *bench, unsigned kind, unsigned state, unsigned run)
{
	double value, best = 0;
	unsigned way;

	if (!applies(kind, state, run_bytes[run], WAY_PLACER))
		return;
	if (!bench->json)
		printf("%-16s %-6s %4s", memory_traits[kind].name, state_name[state],
		       run_name[run]);
	for (way = 0; way < WAY_COUNT; way++) {
		value = median(&bench->result[kind][state][run][way]);
		if (way < WAY_ZERO && value > best)
			best = value;
		if (bench->json && value > 0)
			printf("{\"bench\": \"placing\", \"memory\": \"%s\", \"state\": \"%s\", "
			       "\"run_bytes\": %lu, \"way\": \"%s\", \"gbps\": %.3f}\n",
			       memory_traits[kind].name, state_name[state],
			       (unsigned long)run_bytes[run], way_name[way], value);
		else if (!bench->json && value > 0)
			printf(" %9.2f", value);
		else if (!bench->json)
			printf(" %9s", "-");
	}
	if (!bench->json)
		printf(" %8.2f\n", value / best);
}

static void print_drop(struct bench *bench, unsigned kind)
{
	double discard = median(&bench->drop[kind][0]), hide = median(&bench->drop[kind][1]);

	if (!bench->drop[kind][0].rounds || !bench->drop[kind][1].rounds)
		return;
	if (bench->json)
		printf("{\"bench\": \"dropping\", \"memory\": \"%s\", \"discard_gbps\": %.3f, "
		       "\"hide_gbps\": %.3f}\n",
		       memory_traits[kind].name, discard, hide);
	else
		printf("%-16s discard %.1f GB/s, hide %.1f GB/s\n", memory_traits[kind].name,
		       discard, hide);
}

static void print_all(struct bench *bench)
{
	unsigned kind, state, run, way;

	if (!bench->json) {
		printf("GB/s of contents from a buffer into guest memory, median of %u\n"
		       "%-16s %-6s %4s",
		       bench->rounds, "memory", "state", "run");
		for (way = 0; way < WAY_COUNT; way++)
			printf(" %9s", way_name[way]);
		printf(" %8s\n", "of best");
	}
	for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
		for (state = 0; state < STATE_COUNT; state++)
			for (run = 0; run < RUNS; run++)
				print_run(bench, kind, state, run);
	if (!bench->json)
		printf("\nDropping what was received, to have it again\n");
	for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
		print_drop(bench, kind);
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

static void serve(struct bench *bench, struct placer *placer, enum way way, unsigned faults)
{
	struct pollfd poll_fd = { .fd = bench->uffd.fd, .events = POLLIN };
	struct uffd_event events[UFFD_BATCH];
	struct wh_err err = { 0 };
	int n = 0, i;

	while (faults && n >= 0) {
		poll(&poll_fd, 1, -1);
		n = uffd_read(&bench->uffd, events, &err);
		for (i = 0; i < n; i++, faults--) {
			uint64_t offset = events[i].addr - (uintptr_t)placer->region->addr;

			offset -= offset % placer->region->page_size;
			if (put(bench, placer, way, offset, placer->region->page_size, &err) !=
			    PLACED_OK)
				fail(&err, "answering a fault");
		}
	}
	if (n < 0)
		fail(&err, "reading faults");
}

static void latency(struct bench *bench, enum memory_kind kind, enum state state, enum way way,
		    int processor)
{
	static struct faulter faulter;
	struct memory memory;
	struct placer placer;
	struct wh_err err = { 0 };
	pthread_t thread;

	warm(bench, kind);
	if (memory_new(&memory, kind, bench->bytes, &err) < 0 ||
	    placer_init(&placer, &memory.region, &bench->uffd, &err) < 0 ||
	    placer_advise(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	if (state == STATE_AGAIN)
		use_before(bench, &placer, kind);
	if (placer_arm(&placer, &err) < 0)
		fail(&err, memory_traits[kind].name);
	faulter = (struct faulter){
		.at = memory.region.addr,
		.page = memory.region.page_size,
		.processor = processor,
	};
	faulter.faults = (unsigned)(bench->bytes / faulter.page);
	if (faulter.faults > FAULTS)
		faulter.faults = FAULTS;
	if (pthread_create(&thread, NULL, fault_main, &faulter) != 0)
		exit(1);
	serve(bench, &placer, way, faulter.faults);
	pthread_join(thread, NULL);
	if (bench->json)
		printf("{\"bench\": \"fault\", \"memory\": \"%s\", \"state\": \"%s\", \"way\": \"%s\", "
		       "\"same_processor\": %s, \"p50_ns\": %lu, \"p99_ns\": %lu}\n",
		       memory_traits[kind].name, state_name[state], way_name[way],
		       processor ? "false" : "true",
		       (unsigned long)hist_quantile(&faulter.hist, 500),
		       (unsigned long)hist_quantile(&faulter.hist, 990));
	else
		printf("%-16s %-6s %-9s %-6s %8.1f %8.1f\n", memory_traits[kind].name,
		       state_name[state], way_name[way], processor ? "other" : "same",
		       (double)hist_quantile(&faulter.hist, 500) / 1000,
		       (double)hist_quantile(&faulter.hist, 990) / 1000);
	placer_disarm(&placer, &err);
	placer_fini(&placer);
	memory_free(&memory);
}

static void latency_all(struct bench *bench)
{
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN), processor;
	unsigned kind, state, way;

	if (!bench->json)
		printf("\nA fault answered by a thread that sleeps in poll(), in us\n"
		       "%-16s %-6s %-9s %-6s %8s %8s\n",
		       "memory", "state", "way", "core", "p50", "p99");
	pin(0);
	for (processor = 0; processor < 2 && processor < processors; processor++)
		for (kind = 0; kind < MEMORY_KIND_COUNT; kind++)
			for (state = 0; state < STATE_COUNT; state++)
				for (way = 0; way < WAY_COUNT; way++)
					if (way != WAY_MOVE &&
					    applies(kind, state, memory_traits[kind].page_size,
						    way))
						latency(bench, kind, state, way, processor);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "mib", required_argument, NULL, 'm' },
		{ "rounds", required_argument, NULL, 'r' },
		{ 0 },
	};
	static struct bench bench = { .bytes = UINT64_C(64) << 20, .rounds = 5 };
	struct wh_err err = { 0 };
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'j')
			bench.json = true;
		else if (option == 'm')
			bench.bytes = strtoull(optarg, NULL, 10) << 20;
		else if (option == 'r')
			bench.rounds = (unsigned)strtoul(optarg, NULL, 10);
		else
			return 2;
	}
	if (!bench.bytes || bench.bytes % STAGE_BYTES || !bench.rounds ||
	    bench.rounds > ROUNDS_MAX) {
		fprintf(stderr, "placing: --mib even, --rounds 1 to %d\n", ROUNDS_MAX);
		return 2;
	}
	bench.source = malloc(SOURCE_BYTES);
	if (!bench.source)
		return 1;
	memset(bench.source, 7, SOURCE_BYTES);
	if (uffd_open(&bench.uffd, 0, false, &err) < 0 ||
	    stage_init(&bench.stage, STAGE_BYTES, &err) < 0)
		fail(&err, "beginning");
	measure_all(&bench);
	print_all(&bench);
	latency_all(&bench);
	stage_fini(&bench.stage);
	uffd_close(&bench.uffd);
	free(bench.source);
	return 0;
}
