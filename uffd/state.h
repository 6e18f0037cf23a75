/* SPDX-License-Identifier: MIT */
#ifndef UFFD_STATE_H
#define UFFD_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What is known of each page of a block with a second mapping. ahead.c says who may lead
 * from one to another, and why nothing is lost on the way.
 */
enum page_state {
	PAGE_ABSENT, /* not in the file, as far as known, or of no concern */
	PAGE_AHEAD,  /* being populated ahead: it may be in the file, as zeros */
	PAGE_HIDDEN, /* in the file, not mapped to the guest: contents go over it */
	PAGE_TAKEN,  /* placed */
	PAGE_STATE_COUNT
};

/* Two bits a page, 32 pages a word; all are atomic, page by page */
static inline size_t state_words(uint64_t pages)
{
	return (size_t)((pages + 31) / 32);
}

/* An acquire: who sees a state sees what was done before it was entered */
enum page_state state_get(const uint64_t *map, uint64_t page);
/* First page of [first, end) that is (is not) in state @state, or @end */
uint64_t state_next(const uint64_t *map, uint64_t first, uint64_t end, enum page_state state);
uint64_t state_next_other(const uint64_t *map, uint64_t first, uint64_t end, enum page_state state);
/* Whatever they were before */
void state_set(uint64_t *map, uint64_t first, uint64_t end, enum page_state to);
/* Those that are in @from and no others. Return: how many */
uint64_t state_move(uint64_t *map, uint64_t first, uint64_t end, enum page_state from,
		    enum page_state to);

#endif /* UFFD_STATE_H */
