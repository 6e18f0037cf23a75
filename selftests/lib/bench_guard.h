/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_GUARD_H
#define LIB_BENCH_GUARD_H

#include "selftests/lib/bench.h"

/*
 * Checkpoints over a cable, by TCP and by RDMA, both ends in this process: how long the guest stands
 * still, the answer takes, and what all processors do for it. @address: of this machine's end
 */
void bench_guard(const struct bench *bench, const char *address);

#endif /* LIB_BENCH_GUARD_H */
