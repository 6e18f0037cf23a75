/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: threads of the destination's that touch its pages, each page once by one of
 * them, in an order that nobody can guess.
 */
#include "base/clock.h"
#include "base/hist.h"
#include "selftests/lib/bench_side.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct toucher {
	const struct bench_side *side;
	const volatile uint8_t *memory;
	uint64_t first;
};

static struct hist waited;
static unsigned left;

/* One page for one number: each step can be undone, so no two come out alike */
static uint64_t shuffled(uint64_t i, uint64_t pages)
{
	unsigned bits = (unsigned)__builtin_ctzll(pages);

	for (int round = 0; round < 3; round++) {
		i = i * UINT64_C(0x9e3779b97f4a7c15) + 0x7f4a7c15;
		i &= pages - 1;
		i ^= i >> (bits / 2 + 1);
	}
	return i;
}

static void *touch_main(void *arg)
{
	const struct timespec nap = { .tv_nsec = 50000 };
	const struct toucher *toucher = arg;
	const struct bench_load *load = toucher->side->load;
	struct bench_shared *shared = toucher->side->shared;
	uint64_t pages = load->bytes / 4096;
	uint64_t most = load->touches ? load->touches : pages;

	while (!__atomic_load_n(&shared->postcopy_ns, __ATOMIC_ACQUIRE))
		nanosleep(&nap, NULL);
	for (uint64_t i = toucher->first; i < most; i += load->touchers) {
		uint64_t begin = clock_now_ns(), took;

		(void)toucher->memory[shuffled(i, pages) * 4096];
		took = clock_now_ns() - begin;
		if (took >= TOUCH_WAITED_NS)
			hist_add(&waited, took);
	}
	if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL))
		return NULL;
	shared->touches_waited = waited.count;
	shared->touch_p50_ns = hist_quantile(&waited, 500);
	shared->touch_p99_ns = hist_quantile(&waited, 990);
	bench_stamp(&shared->touched_ns);
	return NULL;
}

int bench_touch(const struct bench_side *side, const void *memory)
{
	unsigned count = side->load->touchers;
	struct toucher *touchers;
	pthread_attr_t small;

	if (!count)
		return 0;
	touchers = calloc(count, sizeof(*touchers));
	if (!touchers)
		return -1;
	left = count;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (unsigned i = 0; i < count; i++) {
		pthread_t thread;

		touchers[i] = (struct toucher){ .side = side, .memory = memory, .first = i };
		if (pthread_create(&thread, &small, touch_main, &touchers[i]) != 0)
			return -1;
	}
	pthread_attr_destroy(&small);
	return 0; /* the touchers' for good: the process ends with them */
}
