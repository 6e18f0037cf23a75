/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VLRU_H
#define RDMA_VLRU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What is registered, the least lately used in front. A node is in the storage of whoever is kept;
 * zeroed it is in no list.
 */
struct vlru_node {
	struct vlru_node *prev, *next;
};

struct vlru {
	struct vlru_node ends; /* next: the first, prev: the last */
	uint64_t count;
	uint64_t max; /* at least 1 */
};

static inline void vlru_init(struct vlru *lru, uint64_t max)
{
	lru->ends.prev = lru->ends.next = &lru->ends;
	lru->count = 0;
	lru->max = max;
}

static inline bool vlru_has(const struct vlru_node *node)
{
	return node->next;
}

static inline uint64_t vlru_room(const struct vlru *lru)
{
	return lru->count < lru->max ? lru->max - lru->count : 0;
}

/* NULL: there are no more */
static inline struct vlru_node *vlru_first(const struct vlru *lru)
{
	return lru->count ? lru->ends.next : NULL;
}

static inline struct vlru_node *vlru_next(const struct vlru *lru, const struct vlru_node *node)
{
	return node->next == &lru->ends ? NULL : node->next;
}

static inline void vlru_drop(struct vlru *lru, struct vlru_node *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node->prev = node->next = NULL;
	lru->count--;
}

/* It is in there, and was used last */
static inline void vlru_use(struct vlru *lru, struct vlru_node *node)
{
	if (vlru_has(node))
		vlru_drop(lru, node);
	node->prev = lru->ends.prev;
	node->next = &lru->ends;
	node->prev->next = node->next->prev = node;
	lru->count++;
}

/* It is in there, and is to go first */
static inline void vlru_spare(struct vlru *lru, struct vlru_node *node)
{
	vlru_use(lru, node);
	vlru_drop(lru, node);
	node->prev = &lru->ends;
	node->next = lru->ends.next;
	node->prev->next = node->next->prev = node;
	lru->count++;
}

#endif /* RDMA_VLRU_H */
