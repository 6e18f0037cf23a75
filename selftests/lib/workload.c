/* SPDX-License-Identifier: MIT */
#include "selftests/lib/workload.h"

#include <string.h>
#include <time.h>

#define PAGE_BYTES 4096u
#define PACE_PAGES 64u

static void make_page(uint8_t *page, uint64_t number, uint64_t seed)
{
	uint64_t x = (number + 1) * 0x9e3779b97f4a7c15ull ^ seed;

	for (unsigned i = 0; i < PAGE_BYTES; i += sizeof(x)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(page + i, &x, sizeof(x));
	}
	page[0] = 0;
}

static void steps(struct workload *w)
{
	const struct timespec pace = { .tv_nsec = (long)w->pace_us * 1000 };
	unsigned since = 0;

	while (!__atomic_load_n(&w->pausing, __ATOMIC_ACQUIRE)) {
		volatile uint8_t *byte = w->memory + w->position * PAGE_BYTES;

		(*byte)++;
		if (++w->position == w->pages) {
			w->position = 0;
			w->passes++;
		}
		if (w->pace_us && ++since % PACE_PAGES == 0)
			nanosleep(&pace, NULL);
	}
}

static void *workload_main(void *arg)
{
	struct workload *w = arg;
	bool end;

	do {
		pthread_mutex_lock(&w->lock);
		do {
			/* also when it was let go and called back before it noticed */
			w->parked = true;
			pthread_cond_broadcast(&w->changed);
			if (w->pausing && !w->end)
				pthread_cond_wait(&w->changed, &w->lock);
		} while (w->pausing && !w->end);
		end = w->end;
		w->parked = false;
		pthread_mutex_unlock(&w->lock);
		if (!end)
			steps(w);
	} while (!end);
	return NULL;
}

void workload_init(struct workload *w, void *memory, uint64_t pages, uint64_t seed)
{
	*w = (struct workload){
		.memory = memory,
		.pages = pages,
		.seed = seed,
		.pausing = true,
	};
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	pthread_create(&w->thread, NULL, workload_main, w);
}

void workload_fill(struct workload *w)
{
	for (uint64_t page = 0; page < w->pages; page++)
		make_page(w->memory + page * PAGE_BYTES, page, w->seed);
}

void workload_run(struct workload *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->parked)
		pthread_cond_wait(&w->changed, &w->lock);
	__atomic_store_n(&w->pausing, false, __ATOMIC_RELEASE);
	w->parked = false;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

void workload_park(struct workload *w)
{
	pthread_mutex_lock(&w->lock);
	__atomic_store_n(&w->pausing, true, __ATOMIC_RELEASE);
	while (!w->parked)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void workload_fini(struct workload *w)
{
	workload_park(w);
	pthread_mutex_lock(&w->lock);
	w->end = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
}

uint64_t workload_verify(const struct workload *w)
{
	uint8_t right[PAGE_BYTES];

	for (uint64_t page = 0; page < w->pages; page++) {
		const uint8_t *at = w->memory + page * PAGE_BYTES;

		make_page(right, page, w->seed);
		right[0] = (uint8_t)(w->passes + (page < w->position));
		if (!memcmp(at, right, PAGE_BYTES))
			continue;
		for (unsigned i = 0; i < PAGE_BYTES; i++)
			if (at[i] != right[i])
				return page * PAGE_BYTES + i + 1;
	}
	return 0;
}
