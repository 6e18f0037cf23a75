/* SPDX-License-Identifier: MIT */
#ifndef LIB_WORKLOAD_H
#define LIB_WORKLOAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A thread that steps byte 0 of every page of its memory, in order, for ever; the other
 * bytes of a page are made from its number. Any consistent copy of the memory shows at
 * most one edge, and it is where the thread was.
 */

struct workload {
	uint8_t *memory;
	uint64_t pages;
	uint64_t seed; /* of the pattern */
	uint64_t passes;
	uint64_t position; /* page to be stepped next */
	unsigned pace_us;  /* it sleeps so long behind every 64 pages; 0: never */

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool pausing; /* atomic */
	bool parked;
	bool end;
};

/* Parked, at page 0. @memory is not touched: workload_fill() does that at the source */
void workload_init(struct workload *workload, void *memory, uint64_t pages, uint64_t seed);
void workload_fill(struct workload *workload);
void workload_run(struct workload *workload);
/* When it returns the thread writes no more, and passes and position are right. */
void workload_park(struct workload *workload);
/* It must not wait for a page that never comes. */
void workload_fini(struct workload *workload);

/**
 * workload_verify() - Is every byte right? It is parked
 *
 * Return: 0, or the address in @memory of the first wrong byte, plus one
 */
uint64_t workload_verify(const struct workload *workload);

#endif /* LIB_WORKLOAD_H */
