/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_FLOOR_H
#define LIB_BENCH_FLOOR_H

#include "selftests/lib/bench_side.h"
#include "uffd/abi.h"

#define FLOOR_HUGE (UINT64_C(2) << 20)
#define FLOOR_WORKERS 4

/**
 * struct floor_dest - The floor's destination
 * @alias:	Second mapping of the RAM's file
 * @stage:	A huge page, where contents lie until they are moved, copied or written
 * @page:	The same for one page that is waited for
 * @touched:	A byte for each 2 MiB: a page in it was placed alone
 * @asks:	Where requests go, and @urgent: what they ask for comes
 * @cpu:	Where the thread is that reads faults, or -1; @others: faults from elsewhere
 *
 * Of several threads that read faults each has a copy, with a @page of its own.
 */
struct floor_dest {
	const struct bench_load *load;
	struct bench_shared *shared;
	uint8_t *memory;
	uint8_t *alias;
	uint8_t *stage;
	uint8_t *page;
	uint8_t *touched;
	int fd;
	int uffd;
	int asks;
	int urgent;
	int bulk;
	int cpu;
	unsigned others;
};

/* What it receives into. 0 or -1 */
int floor_prepare(struct floor_dest *dest);
/* Pages are missing from here on, for postcopy. 0 or -1 */
int floor_arm(struct floor_dest *dest);

/* Bytes that the bulk thread receives and places at once */
uint64_t floor_piece(const struct floor_dest *dest);
/* Where the next piece goes, and it is there: the guest may have it. Bulk thread */
uint8_t *floor_room(struct floor_dest *dest, uint64_t offset);
void floor_place(struct floor_dest *dest, uint64_t offset);

/* The same for one page that is waited for. Thread that reads faults */
uint8_t *floor_page_room(struct floor_dest *dest, uint64_t offset);
void floor_place_page(struct floor_dest *dest, uint64_t offset);

/* ---- bench_floor_follow.c ---------------------------------------------------------- */

/* This thread serves pages: woken, it is to run at once */
void floor_hurry(void);
/* That one has faulted: this thread goes where it is */
void floor_follow(struct floor_dest *dest, uint32_t tid);

#endif /* LIB_BENCH_FLOOR_H */
