/* SPDX-License-Identifier: MIT */
#include "recover/plan.h"

#include "base/bits.h"

#include <stdbool.h>

void plan_init(struct plan *plan, const struct plan_block *block, unsigned blocks, uint32_t run_max)
{
	*plan = (struct plan){
		.block = block,
		.blocks = blocks,
		.run_max = run_max < PLAN_RUN_MAX ? run_max : PLAN_RUN_MAX,
	};
}

/* Behind the host page that begins here */
static uint64_t host_end(const struct plan_block *block, uint64_t page)
{
	return block->pages - page < block->group ? block->pages : page + block->group;
}

static bool wanted(const struct plan_block *block, enum plan_part part, uint64_t page)
{
	uint64_t end = host_end(block, page);

	return bits_test(block->asked, page) == (part == PLAN_ASKED) &&
	       bits_next_clear(block->received, page, end) < end;
}

/* The host page to look at from here on: words without what the part is made of are skipped */
static uint64_t next_look(const struct plan_block *block, enum plan_part part, uint64_t page)
{
	if (part == PLAN_ASKED)
		page = bits_next_set(block->asked, page, block->pages);
	else
		page = bits_next_clear(block->received, page, block->pages);
	return page < block->pages ? page - page % block->group : page;
}

/* From a wanted host page on: that one, and its neighbours while they fit. Return: its end */
static uint64_t run_end(const struct plan *plan, uint64_t page)
{
	const struct plan_block *block = &plan->block[plan->at_block];
	uint64_t first = page;

	do
		page = host_end(block, page);
	while (page < block->pages && host_end(block, page) - first <= plan->run_max &&
	       wanted(block, plan->part, page));
	return page;
}

/* In this block and part. Return: is there one? */
static bool next_run(struct plan *plan, struct plan_run *run)
{
	const struct plan_block *block = &plan->block[plan->at_block];
	uint64_t page = plan->at_page;

	for (;;) {
		page = next_look(block, plan->part, page);
		if (page >= block->pages)
			return false;
		if (wanted(block, plan->part, page))
			break;
		page = host_end(block, page);
	}
	plan->at_page = run_end(plan, page);
	*run = (struct plan_run){
		.block = plan->at_block,
		.pages = (uint32_t)(plan->at_page - page),
		.page = page,
	};
	return true;
}

enum plan_part plan_next(struct plan *plan, struct plan_run *run)
{
	while (plan->part != PLAN_END) {
		for (; plan->at_block < plan->blocks; plan->at_block++) {
			if (next_run(plan, run))
				return plan->part;
			plan->at_page = 0;
		}
		plan->at_block = 0;
		plan->part++;
	}
	return PLAN_END;
}
