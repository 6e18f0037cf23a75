/* SPDX-License-Identifier: MIT */
#ifndef RECOVER_PLAN_H
#define RECOVER_PLAN_H

#include <stdint.h>

/*
 * In which order the missing pages come after a break: first those that threads of the
 * guest wait for, which the destination asks for again, then all others, block by block
 * from the front.
 *
 * It is a walk over the bitmaps and no list, so it is as large for a thousand waiting
 * threads as for one, and nothing can be too many for it. Neighbours are one run: a run
 * of the first part is one request on the return path and one place in the source's
 * queue of requests (struct source_request has the same members).
 *
 * Bits in `received` may be set meanwhile; what came in time is left out. Who sets a bit
 * in `asked` meanwhile sends that request himself: it may be behind the walk.
 */
struct plan_block {
	const uint64_t *asked; /* of a host page the bit of its first page */
	const uint64_t *received;
	uint64_t pages;
	uint64_t group; /* pages of a host page, a power of two */
};

enum plan_part {
	PLAN_ASKED,
	PLAN_REST,
	PLAN_END,
};

/* Whole host pages, each with a page missing; the last one of a block may be cut short */
struct plan_run {
	uint32_t block;
	uint32_t pages;
	uint64_t page;
};

struct plan {
	const struct plan_block *block;
	unsigned blocks;
	uint32_t run_max;
	enum plan_part part;
	unsigned at_block;
	uint64_t at_page;
};

/* The bytes of so many pages are what the length of a request has room for */
#define PLAN_RUN_MAX 0xfffffu

/**
 * plan_init() - Begin a walk
 * @block:	Stays the caller's, until the walk ends
 * @run_max:	Pages of a run, at most PLAN_RUN_MAX; a single host page may be more
 */
void plan_init(struct plan *plan, const struct plan_block *block, unsigned blocks,
	       uint32_t run_max);

/**
 * plan_next() - The next run
 *
 * Return: the part that *@run belongs to. Never back from PLAN_REST to PLAN_ASKED: who
 * announces requests only stops there. PLAN_END: no page is missing any more but those
 * of runs there were, and *@run is as it was
 */
enum plan_part plan_next(struct plan *plan, struct plan_run *run);

#endif /* RECOVER_PLAN_H */
