/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_RING_TOLD_H
#define SELFTESTS_RING_TOLD_H

/*
 * An operation that notes what it was told.
 */
#include "base/clock.h"
#include "ring/loop.h"

#define LIMIT_NS (10 * NS_PER_S)
#define UNTOLD (-12345)

struct told {
	struct op op;
	int result;
	int calls;
	int order; /* among those with the same counter */
	int *counter;
};

static inline void told_done(struct op *op, int result)
{
	struct told *told = (struct told *)(void *)op;

	told->result = result;
	told->calls++;
	if (told->counter)
		told->order = (*told->counter)++;
}

static inline struct told told_new(void)
{
	return (struct told){ .op.done = told_done, .result = UNTOLD };
}

/* Steps until it is done; its result, or UNTOLD if that takes too long */
static inline int finish(struct loop *loop, struct told *told)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	while (op_busy(&told->op) && clock_now_ns() < limit_ns)
		if (loop_step(loop, (int64_t)LIMIT_NS, NULL) < 0)
			break;
	return op_busy(&told->op) ? UNTOLD : told->result;
}

#endif /* SELFTESTS_RING_TOLD_H */
