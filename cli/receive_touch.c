/* SPDX-License-Identifier: MIT */
/*
 * wherry receive --touch: what a guest's processors would do to missing pages. Each
 * thread reads one byte of every page, in an order of its own that meets each page
 * once and has no pattern.
 */
#include "cli/receive.h"

#include <string.h>

#define MULTIPLIER 6364136223846793005ull /* odd */

/* Page number @page of all blocks in a row; NULL behind the last one */
static const uint8_t *page_at(const struct receive *receive, uint64_t page)
{
	for (unsigned i = 0; i < receive->blocks; i++) {
		uint64_t pages = receive->block[i].length / RECEIVE_PAGE;

		if (page < pages)
			return receive->block[i].at + page * RECEIVE_PAGE;
		page -= pages;
	}
	return NULL;
}

/*
 * A number of @bits bits for each @i below their period, and each only once: every step
 * can be undone.
 */
static uint64_t shuffle(uint64_t i, uint64_t seed, unsigned bits)
{
	uint64_t mask = (UINT64_C(1) << bits) - 1;
	unsigned half = (bits + 1) / 2;
	uint64_t x = (i ^ seed) & mask;

	for (unsigned round = 0; round < 3; round++) {
		x = x * MULTIPLIER & mask;
		x ^= x >> half;
		x = (x + seed) & mask;
	}
	return x;
}

static void *touch_main(void *arg)
{
	struct receive_toucher *toucher = arg;
	struct receive *receive = toucher->receive;
	uint64_t pages = receive->bytes / RECEIVE_PAGE;
	unsigned bits = 0;

	while (UINT64_C(1) << bits < pages)
		bits++;
	for (uint64_t i = 0; i >> bits == 0; i++) {
		const volatile uint8_t *page = page_at(receive, shuffle(i, toucher->seed, bits));

		if (__atomic_load_n(&receive->touch_stop, __ATOMIC_ACQUIRE))
			break;
		if (!page)
			continue;
		(void)*page;
		__atomic_fetch_add(&toucher->pages, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

void receive_touch_start(struct receive *receive)
{
	for (unsigned i = 0; i < receive->touchers; i++) {
		struct receive_toucher *toucher = &receive->toucher[i];
		int ret;

		toucher->receive = receive;
		toucher->seed = 0x9e3779b97f4a7c15ull * (i + 1);
		ret = pthread_create(&toucher->thread, NULL, touch_main, toucher);
		if (ret) {
			/* The guest is here by now: all the worse if that failed because of us */
			receive_say(receive, "note", "only %u touch threads: %s", i,
				    strerrorname_np(ret));
			receive->touchers = i;
		}
	}
	receive->touching = receive->touchers != 0;
}

void receive_touch_stop(struct receive *receive, bool join)
{
	__atomic_store_n(&receive->touch_stop, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; receive->touching && join && i < receive->touchers; i++)
		pthread_join(receive->toucher[i].thread, NULL);
	receive->touching = false;
}

uint64_t receive_touched(const struct receive *receive)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < receive->touchers; i++)
		pages += __atomic_load_n(&receive->toucher[i].pages, __ATOMIC_RELAXED);
	return pages;
}
