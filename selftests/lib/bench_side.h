/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_SIDE_H
#define LIB_BENCH_SIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum bench_memory {
	BENCH_ANON,
	BENCH_MEMFD,
	BENCH_HUGETLB,
	BENCH_MEMORY_COUNT
};

const char *bench_memory_name(enum bench_memory memory);

/**
 * struct bench_load - What is to be moved, and how
 * @tcp:	Over loopback TCP, else over a unix socket
 * @postcopy:	Switch at once, so that next to all pages are missing
 * @bulk:	Background pages stream as fast as they can; else next to none come
 * @urgent:	With an urgent channel (QEMU: postcopy-preempt)
 * @spin_ns:	Ours: the fault thread polls so long before it sleeps
 */
struct bench_load {
	bool tcp;
	bool postcopy;
	bool bulk;
	bool urgent;
	uint64_t spin_ns;
	enum bench_memory memory;
	uint64_t bytes;
};

/**
 * struct bench_side - A migration under way between two processes
 * @dest:	Process whose memory has missing pages; @base in it
 * @shared:	What the processes tell
 *
 * Contents are zero nowhere.
 */
struct bench_side {
	const struct bench_load *load;
	pid_t dest;
	pid_t source;
	uint64_t base;
	struct bench_shared *shared;
	void *own;
};

/* Times on CLOCK_MONOTONIC, 0: not yet */
struct bench_shared {
	char uri[320];
	uint64_t ready_ns;
	uint64_t begin_ns;
	uint64_t postcopy_ns;
	uint64_t done_ns;
	uint64_t bulk_bytes;
	uint64_t own_bytes;
	bool failed;
	char why[320];
};

/*
 * The floor's, ours, and two QEMUs'. start() returns when pages are missing and faults
 * are served (postcopy), or when it has begun (precopy); 0, or -1 with a line on
 * stderr. stop() ends it in any state.
 */
int floor_start(struct bench_side *side, const struct bench_load *load);
void floor_stop(struct bench_side *side);
int wherry_start(struct bench_side *side, const struct bench_load *load);
void wherry_stop(struct bench_side *side);
int qemu_pair_start(struct bench_side *side, const struct bench_load *load);
void qemu_pair_stop(struct bench_side *side);
/* Fills in shared->done_ns when the pair has ended; QEMU has to be asked. */
int qemu_pair_poll(struct bench_side *side);

struct bench_shared *bench_share(void);
void bench_unshare(struct bench_shared *shared);
/* Until *at is not 0. Return: 0, -1 after a minute or if it failed */
int bench_wait(struct bench_side *side, const uint64_t *at);
void bench_kill(pid_t *pid);

/* Memory of the kind, with a descriptor or -1; MAP_FAILED */
void *bench_map(enum bench_memory memory, uint64_t bytes, int *fd);
void bench_fill(void *memory, uint64_t bytes);
uint64_t bench_page(enum bench_memory memory);

#endif /* LIB_BENCH_SIDE_H */
