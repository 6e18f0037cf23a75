/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_SIDE_H
#define LIB_BENCH_SIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/hist.h"

enum bench_memory {
	BENCH_ANON,  /* private anonymous, MADV_HUGEPAGE */
	BENCH_SMALL, /* private anonymous, no advice */
	BENCH_MEMFD,
	BENCH_HUGETLB,
	BENCH_MEMORY_COUNT
};

/* For the command line, and for titles */
const char *bench_memory_key(enum bench_memory memory);
const char *bench_memory_name(enum bench_memory memory);

#define BENCH_CPU_FOLLOW (-1)
#define BENCH_CPU_ANY (-2)

/**
 * struct bench_load - What is to be moved, and how
 * @tcp:	Over TCP, loopback or where @rdma is, else over a unix socket
 * @rdma:	Address of an RDMA device; over that. The destination's memory was touched before:
 *		pinning it does not fetch it
 * @asked:	Over RDMA in postcopy: pages are asked for, not read
 * @pin_all:	Over RDMA: all of it is registered before the first page
 * @zeros:	Every second MiB of RAM is zeros; over RDMA
 * @postcopy:	Switch at once, so that next to all pages are missing
 * @bulk:	Background pages stream as fast as they can; else none come
 * @urgent:	With an urgent channel (QEMU: postcopy-preempt)
 * @channels:	Of multifd, in precopy; 0: none
 * @cold:	The destination's memory was not used before
 * @spin_ns:	Ours: the fault thread polls so long before it sleeps
 * @fault_cpu:	Processor of the fault thread, or BENCH_CPU_FOLLOW: where who faults is, or
 *		BENCH_CPU_ANY; not with QEMU
 * @cpu:	Processor of all threads of both ends, or BENCH_CPU_ANY
 * @bytes:	RAM, a power of two
 * @piece:	The source's RAM is a memfd of so many bytes, mapped again and again; 0: it
 *		is what it seems
 * @workers:	The floor's: so many threads serve faults at each end, each pair with a channel of
 *		its own for requests and pages; 0: one, requests beside the bulk
 * @touchers:	Threads of the destination that touch all pages from the switch on, at
 *		random; not with QEMU
 * @touches:	Or only so many of them, 0: all
 * @qemu:	Program of the QEMU to run, NULL: that of PATH
 * @tls:	Folder of credentials, by certs_make(); NULL: no TLS
 */
struct bench_load {
	bool tcp;
	const char *rdma;
	bool asked;
	bool pin_all;
	bool zeros;
	bool postcopy;
	bool bulk;
	bool urgent;
	unsigned channels;
	bool cold;
	uint64_t spin_ns;
	int fault_cpu;
	int cpu;
	enum bench_memory memory;
	uint64_t bytes;
	uint64_t piece;
	unsigned workers;
	unsigned touchers;
	uint64_t touches;
	const char *qemu;
	const char *tls;
};

/* As the library's own defaults, a private anonymous GiB */
extern const struct bench_load bench_load_default;

/* Moments on the way of one page, from the touch on */
enum bench_hop {
	BENCH_HOP_FAULT,   /* destination: its message is read */
	BENCH_HOP_REQUEST, /* the request is about to be sent */
	BENCH_HOP_TAKEN,   /* source: it is read */
	BENCH_HOP_SERVED,  /* the page is about to be sent */
	BENCH_HOP_ARRIVED, /* destination: it is there */
	BENCH_HOP_PLACED,  /* in memory */
	BENCH_HOP_COUNT
};

/* What went to a touch that waited (longer than TOUCH_WAITED_NS) */
#define TOUCH_WAITED_NS 2000

/* What the processes tell. Times on CLOCK_MONOTONIC, 0: not yet */
struct bench_shared {
	char uri[320];
	uint64_t ready_ns;    /* both ends: memory is there, contents too */
	uint64_t go;	      /* the source may begin */
	uint64_t begin_ns;    /* the first byte */
	uint64_t postcopy_ns; /* pages are missing and faults are served */
	uint64_t done_ns;
	uint64_t ended; /* and nothing more will be said */
	uint64_t own_bytes;
	uint64_t source_p50_ns; /* ours: request to page handed over */
	uint64_t source_p99_ns;
	struct hist served;  /* the floor's */
	uint64_t touched_ns; /* the last toucher has ended */
	uint64_t touches_waited;
	uint64_t touch_p50_ns;
	uint64_t touch_p99_ns;
	bool hops; /* are asked for */
	uint64_t hop_ns[BENCH_HOP_COUNT];
	bool failed;
	char why[320];
};

static inline void bench_hop(struct bench_shared *shared, enum bench_hop hop)
{
	if (__builtin_expect(shared->hops, 0))
		shared->hop_ns[hop] = clock_now_ns();
}

/**
 * struct bench_side - A migration between two processes
 * @dest:	Process whose memory has missing pages; @base in it
 * @shared:	What the processes tell
 * @cpu_ns:	Processor time of both at bench_go(), dest first
 * @resident:	Of dest, at bench_go()
 * @warm:	See bench_warm.c
 *
 * Contents are zero nowhere, if the load does not say so.
 */
struct bench_side {
	const struct bench_kind *kind;
	const struct bench_load *load;
	pid_t dest;
	pid_t source;
	uint64_t base;
	struct bench_shared *shared;
	uint64_t cpu_ns[2];
	uint64_t resident;
	void *own;
	struct bench_warm *warm;
	char why[160];
};

/**
 * struct bench_kind - Who does it
 * @start:	Processes, memory, contents; 0 or -1 with @why
 * @go:		Let it begin; 0 or -1
 * @done:	Until all pages are there; 0 or -1
 * @stop:	End it in any state
 */
struct bench_kind {
	int (*start)(struct bench_side *side);
	int (*go)(struct bench_side *side);
	int (*done)(struct bench_side *side);
	void (*stop)(struct bench_side *side);
};

extern const struct bench_kind bench_floor;
/* The same over RDMA; pages that are waited for, no bulk. bench_floor_rdma.c */
extern const struct bench_kind bench_floor_rdma;
extern const struct bench_kind bench_wherry;
extern const struct bench_kind bench_qemu;
/* QEMU is the source, ours the destination */
extern const struct bench_kind bench_from_qemu;

/*
 * Until bench_stop() the caller is pinned like both ends. 0; or -1 with side->why, and
 * it is stopped
 */
int bench_start(struct bench_side *side, const struct bench_kind *kind,
		const struct bench_load *load);
/*
 * Returns when pages are missing and faults are served (postcopy), or when it has begun.
 * The destination's memory is warm
 */
int bench_go(struct bench_side *side);
/* Until the last page is there */
int bench_done(struct bench_side *side);
void bench_stop(struct bench_side *side);

/*
 * GB/s from the first byte (precopy; over RDMA, from before the connection) or the switch (postcopy)
 * to the end
 */
double bench_rate(const struct bench_side *side);
/* Processor time since bench_go(), both ends */
double bench_cpu_s(const struct bench_side *side);

/* The destination's alone */
double bench_dest_cpu_s(const struct bench_side *side);

/* ---- For those who do it ---------------------------------------------------------- */

struct bench_shared *bench_share(void);
void bench_stamp(uint64_t *at);
/* Until *at is not 0. Return: 0, -1 after a minute or if it failed */
int bench_wait(struct bench_side *side, const uint64_t *at);
void bench_kill(pid_t *pid);
/* fork(); the child ends with its parent */
pid_t bench_fork(void);

/* Memory of the load's kind, aligned to 2 MiB, with a descriptor or -1; MAP_FAILED */
void *bench_map(const struct bench_load *load, bool source, int *fd);
void bench_fill(void *memory, uint64_t bytes);
/* Every second MiB */
void bench_clear(void *memory, uint64_t bytes);
uint64_t bench_page(enum bench_memory memory);

/* bench_wherry.c: a destination that listens at side->shared->uri. 0 or -1 */
int bench_wherry_dest(struct bench_side *side);

/* ---- bench_touch.c ---------------------------------------------------------------- */

/* In the destination: touchers, if the load has any; they begin at shared->postcopy_ns */
int bench_touch(const struct bench_side *side, const void *memory);

/* ---- bench_touch_remotely.c ------------------------------------------------------- */

/* Whoever touches missing pages of a destination, by process_vm_readv() */
struct bench_toucher {
	const struct bench_side *side;
	int pagemap;
	unsigned seed;
};

void bench_toucher_open(struct bench_toucher *toucher, const struct bench_side *side,
			unsigned seed);
/* A page that is still missing, and a pause. Return: microseconds; < 0: none is found */
double bench_toucher_next(struct bench_toucher *toucher);
void bench_toucher_close(struct bench_toucher *toucher);

/* Until no page is missing. Return: how many were, and what each took */
size_t bench_touch_remotely(const struct bench_side *side, double *us, size_t most, unsigned seed);

#endif /* LIB_BENCH_SIDE_H */
