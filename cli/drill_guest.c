/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: the guest, and whether its memory is right.
 */
#include "cli/drill_guest.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PACE_PAGES 64u
#define REMOVE_EVERY 37u
#define REMOVE_PAGES 32u

enum page_kind {
	PAGE_STEPPED,
	PAGE_STILL,
	PAGE_ZERO,
};

static uint64_t mix(uint64_t seed, uint64_t page)
{
	struct drill_random random = { .state = seed ^ (page * 0xd6e8feb86659fd93u) };

	return drill_random(&random);
}

static enum page_kind page_kind(const struct drill_guest *g, uint64_t page)
{
	uint64_t x = mix(g->seed, page) & 15;

	if (x == 0)
		return PAGE_ZERO;
	return x < 4 ? PAGE_STILL : PAGE_STEPPED;
}

static uint64_t page_word(uint64_t from, unsigned at)
{
	uint64_t x = from + (uint64_t)at * 0x9e3779b97f4a7c15u;

	return (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
}

/* As it is when it was stepped @steps times */
static void make_page(const struct drill_guest *g, uint64_t page, uint8_t steps, uint8_t *to)
{
	enum page_kind kind = page_kind(g, page);
	uint64_t from = mix(g->seed, page);

	if (kind == PAGE_ZERO) {
		memset(to, 0, DRILL_PAGE);
		return;
	}
	for (unsigned i = 0; i < DRILL_PAGE / sizeof(uint64_t); i++) {
		uint64_t word = page_word(from, i);

		memcpy(to + i * sizeof(word), &word, sizeof(word));
	}
	if (kind == PAGE_STEPPED)
		to[0] = steps;
}

static uint64_t page_at(const struct drill_guest *g, uint64_t position)
{
	return (uint64_t)((unsigned __int128)position * g->stride % g->pages);
}

/* One word, another one each time, and the first byte */
static bool looks_right(struct drill_guest *g, uint64_t page)
{
	const uint8_t *at = g->memory + page * DRILL_PAGE;
	enum page_kind kind = page_kind(g, page);
	unsigned which = 1 + (unsigned)drill_pick(&g->random, DRILL_PAGE / sizeof(uint64_t) - 1);
	uint64_t want = page_word(mix(g->seed, page), which), word;
	uint8_t first = (uint8_t)g->state.passes;

	memcpy(&word, at + which * sizeof(word), sizeof(word));
	if (kind == PAGE_ZERO || (g->removed && g->removed[page]))
		want = first = 0;
	else if (kind == PAGE_STILL)
		first = (uint8_t)page_word(mix(g->seed, page), 0);
	return word == want && *(const volatile uint8_t *)at == first;
}

static void step(struct drill_guest *g)
{
	uint64_t page = page_at(g, g->state.position);
	uint8_t *at = g->memory + page * DRILL_PAGE;
	uint8_t steps = (uint8_t)g->state.passes;

	if (!looks_right(g, page))
		__atomic_fetch_add(g->wrong, 1, __ATOMIC_RELAXED);
	if (g->removed && g->removed[page] && drill_one_in(&g->random, 2)) {
		make_page(g, page, steps, at);
		g->removed[page] = 0;
	}
	if (page_kind(g, page) == PAGE_STEPPED && !(g->removed && g->removed[page]))
		*(volatile uint8_t *)at = (uint8_t)(steps + 1);
	if (++g->state.position == g->pages) {
		g->state.position = 0;
		g->state.passes++;
	}
}

/* As a balloon does: whole pages of the host */
static void drop_some(struct drill_guest *g)
{
	uint64_t group = g->page_size / DRILL_PAGE, groups = g->pages / group;
	uint64_t from = drill_pick(&g->random, groups), many;

	many = 1 + drill_pick(&g->random, group > 1 ? 1 : REMOVE_PAGES);
	if (many > groups - from)
		many = groups - from;
	if (madvise(g->memory + from * g->page_size, many * g->page_size,
		    g->shared_memory ? MADV_REMOVE : MADV_DONTNEED) < 0) {
		__atomic_fetch_add(g->wrong, 1, __ATOMIC_RELAXED);
		return;
	}
	memset(g->removed + from * group, 1, many * group);
	for (uint64_t i = from * group; i < (from + many) * group; i++)
		g->drops[i] += g->drops[i] < UINT8_MAX;
	__atomic_fetch_add(g->removed_counts, 1, __ATOMIC_RELAXED);
}

static void go(struct drill_guest *g)
{
	const struct timespec pace = { .tv_nsec = (long)g->pace_us * 1000 };

	for (unsigned since = 1; !__atomic_load_n(&g->parking, __ATOMIC_ACQUIRE); since++) {
		step(g);
		if (g->removes && since % REMOVE_EVERY == 0)
			drop_some(g);
		if (since % PACE_PAGES == 0)
			nanosleep(&pace, NULL);
	}
}

static __thread bool is_guest;

/*
 * As a hypervisor does whose guest's page there is no space for: it stands still, and tries again.
 * Nobody else may come here.
 */
static void on_bus_error(int number)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	if (!is_guest)
		signal(number, SIG_DFL);
	else
		nanosleep(&pause, NULL);
}

void drill_guest_waits_for_room(void)
{
	struct sigaction action = { .sa_handler = on_bus_error };

	sigaction(SIGBUS, &action, NULL);
}

static void *guest_main(void *arg)
{
	struct drill_guest *g = arg;

	is_guest = true;
	for (;;) {
		pthread_mutex_lock(&g->lock);
		g->parked = true;
		pthread_cond_broadcast(&g->changed);
		while (g->parking)
			pthread_cond_wait(&g->changed, &g->lock);
		g->parked = false;
		pthread_mutex_unlock(&g->lock);
		go(g);
	}
	return NULL;
}

static uint64_t divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

void drill_guest_shape(struct drill_guest *g)
{
	g->random = (struct drill_random){ .state = g->seed };
	g->stride = 1 + drill_pick(&g->random, g->pages);
	while (divisor(g->stride, g->pages) != 1)
		g->stride++;
}

int drill_guest_init(struct drill_guest *g)
{
	drill_guest_shape(g);
	g->parking = true;
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	if (g->removes &&
	    (!(g->removed = calloc(g->pages, 1)) || !(g->drops = calloc(g->pages, 1))))
		return -ENOMEM;
	return -pthread_create(&g->thread, NULL, guest_main, g);
}

void drill_guest_fill(struct drill_guest *g)
{
	for (uint64_t page = 0; page < g->pages; page++)
		if (page_kind(g, page) != PAGE_ZERO)
			make_page(g, page, 0, g->memory + page * DRILL_PAGE);
}

void drill_guest_run(struct drill_guest *g)
{
	pthread_mutex_lock(&g->lock);
	__atomic_store_n(&g->parking, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

void drill_guest_park(struct drill_guest *g)
{
	pthread_mutex_lock(&g->lock);
	__atomic_store_n(&g->parking, true, __ATOMIC_RELEASE);
	while (!g->parked)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

/* As it has to be when the thread stands at @position of its order, which is this page's @at */
static void make_right(const struct drill_guest *g, uint64_t page, uint64_t at, uint8_t *right)
{
	if (g->removed && g->removed[page])
		memset(right, 0, DRILL_PAGE);
	else
		make_page(g, page, (uint8_t)(g->state.passes + (at < g->state.position)), right);
}

uint64_t drill_guest_verify(const struct drill_guest *g, uint64_t *first)
{
	uint8_t right[DRILL_PAGE];
	uint64_t bad = 0;

	*first = UINT64_MAX;
	for (uint64_t i = 0; i < g->pages; i++) {
		uint64_t page = page_at(g, i);
		const uint8_t *at = g->memory + page * DRILL_PAGE;

		make_right(g, page, i, right);
		if (!memcmp(at, right, DRILL_PAGE))
			continue;
		bad++;
		for (unsigned b = 0; b < DRILL_PAGE; b++)
			if (at[b] != right[b] && page * DRILL_PAGE + b < *first)
				*first = page * DRILL_PAGE + b;
	}
	return bad;
}

void drill_guest_explain(const struct drill_guest *g, uint64_t offset, char *text, size_t room)
{
	uint64_t page = offset / DRILL_PAGE, at = 0;
	const uint8_t *is = g->memory + page * DRILL_PAGE;
	unsigned differ = 0, set = 0;
	uint8_t right[DRILL_PAGE];
	uint64_t visits;

	while (page_at(g, at) != page)
		at++;
	make_right(g, page, at, right);
	visits = g->state.passes + (at < g->state.position) - g->began.passes -
		 (at < g->began.position);
	for (unsigned b = 0; b < DRILL_PAGE; b++) {
		differ += is[b] != right[b];
		set += is[b] != 0;
	}
	snprintf(text, room,
		 "0x%02x at 0x%llx, not 0x%02x; %u bytes of the page differ, %u are not zero; "
		 "visited %llu times there, dropped %u times%s",
		 g->memory[offset], (unsigned long long)offset, right[offset % DRILL_PAGE], differ,
		 set, (unsigned long long)visits, g->drops ? (unsigned)g->drops[page] : 0u,
		 g->removed && g->removed[page] ? ", and is so now" : "");
}
