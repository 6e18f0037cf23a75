/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_SIM_H
#define SELFTESTS_SIM_SIM_H

/*
 * Both engines in one process: a guest that writes all the time, links that delay and
 * split, a clock, and one random number that decides what happens next. No thread, no
 * descriptor, no real time: a seed is a run, and the same seed the same run.
 *
 *	sim.h		the state of it, random numbers, failing
 *	pipe.h		one direction of a connection
 *	guest.h		memory, vCPUs, what a kernel does with missing pages
 *	source_side.h	the source engine's world, and what a joining does for it
 *	dest_ops.h	the destination engine's world
 *	dest_side.h	and what a joining does for it
 *	plan.h		what a seed decides in advance
 *	break.h		links that die, and come again
 *	death.h		processes that die
 *	burial.h	what becomes of the others then
 *	end.h		what has to be true at the end
 *	seeds.c		the loop, and seeds to go through it
 *
 * Truth is a third copy of memory that the guest writes along, wherever it runs: what
 * a vCPU reads is compared with it at once, and all of memory at the end.
 */
#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"
#include "postcopy/intake.h"
#include "postcopy/source.h"
#include "postcopy/source_internal.h"
#include "wire/bitmap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIM_BLOCKS 4u
#define SIM_VCPUS 4u
#define SIM_BLOCK_MAX (UINT64_C(4) << 20)
#define SIM_PAGES_MAX (SIM_BLOCK_MAX / TARGET_PAGE)
#define SIM_HUGE (UINT64_C(2) << 20)
#define SIM_STAGE SIM_HUGE
#define SIM_EVENTS 64u
#define SIM_DEVICE_MAX 20000u
#define SIM_US UINT64_C(1000)
#define SIM_MS UINT64_C(1000000)
#define SIM_S UINT64_C(1000000000)
#define SIM_NEVER UINT64_MAX

enum pipe_kind {
	PIPE_MAIN,
	PIPE_URGENT,
	PIPE_REPLY,
	PIPE_COUNT
};

struct pipe_segment {
	uint64_t end; /* offset of the byte behind it, from the beginning of the pipe */
	uint64_t at_ns;
};

#define PIPE_SEGMENTS 256u

/* One direction: bytes in order, each readable from a time on */
struct pipe {
	uint8_t *bytes;
	size_t room;
	size_t capacity;
	uint64_t written; /* offsets from the beginning */
	uint64_t read;
	uint64_t base; /* offset of bytes[0] */
	struct pipe_segment segment[PIPE_SEGMENTS];
	unsigned first, segments;
	uint64_t delay_ns;
	bool open;
	bool dialed;	  /* and not accepted yet */
	bool writer_gone; /* nothing is behind what was written */
	bool reader_gone; /* writing fails */
	bool silent;	  /* dead, but nobody is told: what is written is lost */
};

struct sim_block {
	struct region source;
	struct region dest;
	uint8_t *truth;
	uint64_t pages;
	uint64_t *dirty;
	uint64_t *written;
	uint64_t *present; /* at the destination: mapped in the guest's page tables */
	uint64_t *bitmaps; /* the destination's three */
	uint64_t *asked;   /* pages that were requested */
};

enum vcpu_state {
	VCPU_RUNS,
	VCPU_FAULTED,	  /* asleep; its message is in the kernel's queue */
	VCPU_READ,	  /* asleep; somebody has read the message */
	VCPU_ASKED,	  /* asleep; dest_fault() has taken it */
	VCPU_REMOVES,	  /* in madvise(): the event waits to be read */
	VCPU_REMOVE_READ, /* it was */
	VCPU_ZAPS,	  /* about to drop the pages */
};

struct vcpu {
	enum vcpu_state state;
	unsigned block;
	uint64_t page;
	uint64_t pages; /* REMOVES */
	uint32_t tid;
};

/* A fault that was read. Who waited may be awake again by the time it is its turn. */
struct sim_fault {
	unsigned block;
	uint64_t page;
	unsigned vcpu;
	uint64_t at_ns; /* not before */
};

/* What a seed is taken through */
enum sim_mode {
	SIM_LIVE, /* nothing breaks */
	SIM_DIE,  /* once, and that is the end of it */
	SIM_COME, /* in postcopy, again and again, and each time it is recovered */
	SIM_KILL, /* a process; of an agent, again and again, and each time there is another */
	SIM_MODES
};

/* Whose code is running: one thread does one thing at a time */
enum sim_thread {
	SIM_SOURCE,
	SIM_BULK, /* the destination's two */
	SIM_FAULT,
	SIM_THREADS
};

enum sim_victim {
	SIM_THE_SOURCE,
	SIM_THE_DEST,
	SIM_THE_AGENT
};

/* What an agent leaves behind: postcopy/agent_state.c */
enum sim_stage {
	SIM_BEGUN,
	SIM_ARMED,
	SIM_GIVEN_UP
};

#define SIM_WEIGHTS 24u

/* What a seed decides in advance. */
struct sim_plan {
	bool postcopy;
	bool return_path;
	enum wh_urgent urgent;
	bool urgent_fails;
	bool alias; /* the destination has a second mapping */
	bool removes;
	bool pending; /* device state takes its time */
	enum wh_device_format format;
	uint64_t bandwidth, postcopy_bandwidth, downtime_ns, postcopy_after_ns, dead_peer_ns;
	uint64_t urgent_wait_ns;
	uint64_t want_step; /* postcopy is asked for, SIM_NEVER: not */
	uint64_t cancel_step;
	uint64_t death_step;  /* links die */
	unsigned death_pipes; /* 1: main, 2: urgent, 3: both */
	bool death_silent;
	bool device_fails;
	bool pause_fails;
	unsigned chaos;	      /* one in so many placings does not go through, 0: all do */
	unsigned writes_left; /* of the guest at the source, until it only idles */
	unsigned weight[SIM_WEIGHTS];
	uint64_t step_ns;
	size_t bite; /* most bytes taken from a pipe at once */
	enum sim_mode mode;
	bool recovers;	      /* what is paused, again and again */
	unsigned breaks_left; /* of links, if it recovers */
	unsigned kills_left;
	enum sim_victim victim;
};

/* The next death of a process, not before that step */
struct sim_kill {
	bool armed;
	bool inside; /* of a step */
	uint64_t step;
};

/* The next one of them: when so many bytes were written to a pipe, or at a step */
struct sim_break {
	bool armed;
	enum pipe_kind pipe;
	uint64_t byte; /* from its beginning */
	uint64_t step;
	bool urgent_only;
};

struct sending {
	struct batch *batch;
	size_t sent;
	bool under_way;
};

struct sim_source {
	struct source *engine;
	struct sending sending[CHANNEL_COUNT];
	uint8_t *reply;
	size_t reply_have;
	uint64_t dial_ns; /* the urgent channel will be there, or not, then */
	uint64_t wake_ns;
	bool called;		  /* the bulk thread was woken */
	bool urgent_called;	  /* the request thread was */
	bool told[CHANNEL_COUNT]; /* that the link is lost */
	bool broken_input;
	bool closed;
	bool cancel_promised;
	bool dead;
	unsigned recoveries;
	uint8_t device[SIM_DEVICE_MAX];
	size_t device_bytes;
};

struct sim_inlet {
	uint8_t *bytes;
	struct intake intake;
	struct iovec piece[INTAKE_PIECES];
	uint64_t retry_ns; /* 0: no */
	bool idle_due;
	bool ended;
	bool lost; /* which the engine is not told yet */
};

struct sim_dest {
	struct dest engine;
	struct sim_inlet inlet[CHANNEL_COUNT];
	uint8_t *stage[CHANNEL_COUNT];
	uint8_t *buffer;
	size_t buffer_room;
	bool up[CHANNEL_COUNT];
	bool parked;	/* the fault thread has nothing of the old connection */
	bool listening; /* for a source that resumes */
	bool waiting;	/* it has not been accepted yet */
	bool announces; /* dest_announce() is not finished */
	bool shut;	/* it was the last message of the connection */
	unsigned recoveries, handshakes_broken;
	bool armed, disarmed, started, loaded;
	uint64_t loaded_ns; /* device state is to be in, SIM_NEVER: not pending */
	uint64_t wake_ns;
	unsigned last_pages;
	unsigned asked_block; /* of the last REQ_PAGES_ID */
	bool closed;
	bool dead;   /* and its guest with it */
	bool orphan; /* its engine has died, and there is no other yet */
	unsigned deaths, adopted;
	enum sim_stage agent;
	struct dest_past past;
	uint64_t vmm_loaded_ns; /* as loaded_ns, and its agent has died */
	/* the kernel's queue of messages, oldest first */
	struct vcpu *message[SIM_EVENTS];
	unsigned messages;
	struct sim_fault fault[SIM_EVENTS];
	unsigned faults;
	unsigned changing; /* removals under way: nothing can be placed */
};

struct sim {
	uint64_t seed;
	uint64_t random;
	bool trace;
	bool failed;
	char why[512];
	uint64_t now_ns;
	uint64_t step;
	struct sim_plan plan;
	struct sim_block block[SIM_BLOCKS];
	unsigned blocks;
	struct pipe pipe[PIPE_COUNT];
	struct vcpu vcpu[SIM_VCPUS];
	bool source_runs; /* the guest, here or there */
	bool dest_runs;
	bool dead; /* links are */
	struct sim_break breaks;
	struct sim_kill kill;
	jmp_buf at_source, at_dest; /* where a death inside of a step leads to */
	bool busy[SIM_THREADS];
	bool within; /* others() */
	/* in the middle of one thread's doings: let the others go on */
	void (*others)(struct sim *sim);
	struct sim_source source;
	struct sim_dest dest;
	unsigned faults, reads, writes, removals;
};

/* Random numbers: splitmix64 */

static inline uint64_t sim_random(struct sim *sim)
{
	uint64_t z = sim->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* [0, below) */
static inline uint64_t sim_pick(struct sim *sim, uint64_t below)
{
	return sim_random(sim) % below;
}

static inline bool sim_one_in(struct sim *sim, uint64_t n)
{
	return sim_pick(sim, n) == 0;
}

/* The first failure is the one that counts. */
static inline void __attribute__((format(printf, 2, 3)))
sim_fail(struct sim *sim, const char *format, ...)
{
	va_list args;

	if (sim->failed)
		return;
	sim->failed = true;
	va_start(args, format);
	vsnprintf(sim->why, sizeof(sim->why), format, args);
	va_end(args);
}

/* For both engines */
static inline int sim_number(void *ctx, struct identity_number *number, struct wh_err *err)
{
	struct sim *sim = ctx;

	(void)err;
	number->high = sim_random(sim);
	number->low = sim_random(sim);
	return 0;
}

static inline void __attribute__((format(printf, 2, 3)))
sim_trace(struct sim *sim, const char *format, ...)
{
	va_list args;

	if (!sim->trace)
		return;
	printf("# %6llu %10.3f ms  ", (unsigned long long)sim->step, (double)sim->now_ns / 1e6);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

#endif /* SELFTESTS_SIM_SIM_H */
