/* SPDX-License-Identifier: MIT */
/*
 * The world that a seed plays for both engines of a checkpoint: links, a gate, a guest.
 */
#ifndef SELFTESTS_CHECKPOINT_SIM_WORLD_H
#define SELFTESTS_CHECKPOINT_SIM_WORLD_H

#include "base/bytes.h"
#include "checkpoint/dest.h"
#include "checkpoint/source.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 4u
#define PAGE 4096u
#define MS UINT64_C(1000000)
#define QUEUE 64u
#define ENTRIES 200u
#define EPOCHS_MAX 400u

struct packet {
	size_t length;
	uint8_t bytes[CP_HEADER + PAGE];
};

/* One direction of one channel */
struct pipe {
	struct packet packets[QUEUE];
	unsigned first, count;
	bool cut; /* what is sent is lost, and nobody is told */
};

enum {
	TO_DEST,
	TO_SOURCE,
	BEAT_TO_DEST,
	BEAT_TO_SOURCE,
	PIPES
};
enum {
	OFF,
	HOLDING,
	FENCED
};

struct guest {
	uint64_t memory[PAGES];
	uint64_t said; /* packets: numbered from 1 */
};

static struct sim {
	uint64_t rng, now_ns, steps;
	bool trace, failed;
	char why[256];

	struct cp_source source;
	struct cp_dest dest;
	bool source_dead, dest_dead;
	bool source_closed, dest_closed; /* the connection, as this end knows it */
	struct pipe pipes[PIPES];

	struct guest guest, staged, ram, kept;
	bool dirty[PAGES], staged_dirty[PAGES];
	bool synced_due, stopped_due, staged_due, sent_due, verified_due, applied_due;
	bool syncing, in_parts; /* now; and so the epoch under way was begun */
	uint64_t send_epoch;
	struct cp_hash hash;
	struct cp_msg totals;

	/* The other place: what is on its way */
	struct cp_entry entries[ENTRIES];
	unsigned entry_count, entry_at;
	struct guest coming;
	bool coming_full;

	int gate;
	uint64_t gate_epoch;	     /* open */
	uint64_t outside, closed_up; /* packets seen; packets of closed epochs */
	uint64_t closed_epoch, released_epoch;
	struct guest at_copy[EPOCHS_MAX]; /* as it stood still for it the last time */
	uint64_t survivor_said;

	/* What this seed does to it, in thousandths */
	unsigned cut_rate, kill_rate, gate_fails, refuses, flips, decide_rate;
	unsigned too_much, leave_rate;
	bool flipped; /* a bit was, now or earlier */
	bool faulty;  /* something has gone wrong with who is there, or somebody has decided */
	bool slow;    /* to put it in place takes long */
	bool quiet;   /* nothing goes wrong */
} sim;

static struct {
	uint64_t checkpoints, took_over, released, fenced, held, refused, flipped, left, on_own,
		again, dead, degraded, back, left_degraded;
} tally;

static uint64_t draw(void)
{
	sim.rng ^= sim.rng << 13;
	sim.rng ^= sim.rng >> 7;
	sim.rng ^= sim.rng << 17;
	return sim.rng * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}

static bool chance(unsigned thousandths)
{
	return draw() % 1000 < thousandths;
}

__attribute__((format(printf, 1, 2))) static void tell(const char *format, ...)
{
	va_list args;

	if (!sim.trace)
		return;
	printf("# %8llu us ", (unsigned long long)sim.now_ns / 1000);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	va_list args;

	if (sim.failed)
		return;
	sim.failed = true;
	va_start(args, format);
	vsnprintf(sim.why, sizeof(sim.why), format, args);
	va_end(args);
	tell("WRONG: %s", sim.why);
}

static int fails(struct wh_err *err, const char *what)
{
	if (err) {
		err->code = -EIO;
		snprintf(err->text, sizeof(err->text), "%s: as the seed has it", what);
	}
	tell("%s fails", what);
	return -EIO;
}

/* ---- The links ---------------------------------------------------------------- */

static bool pipe_put(unsigned which, const uint8_t *bytes, size_t length)
{
	struct pipe *pipe = &sim.pipes[which];
	struct packet *packet = &pipe->packets[(pipe->first + pipe->count) % QUEUE];

	if (pipe->cut)
		return true;
	if (pipe->count == QUEUE) {
		wrong("pipe %u is full", which);
		return false;
	}
	memcpy(packet->bytes, bytes, length);
	packet->length = length;
	pipe->count++;
	return true;
}

static int source_say(void *world, struct cp_header *header, const struct cp_msg *msg,
		      struct wh_err *err)
{
	uint8_t buf[CP_MSG_MAX];
	size_t length = cp_put(buf, header, msg);

	(void)world;
	if (sim.source_closed)
		return fails(err, "saying it");
	tell("source: %s %llu", cp_name(header->kind), (unsigned long long)header->epoch);
	pipe_put(header->kind == CP_HEARTBEAT ? BEAT_TO_DEST : TO_DEST, buf, length);
	return 0;
}

static int dest_say(void *world, struct cp_header *header, const struct cp_msg *msg,
		    struct wh_err *err)
{
	uint8_t buf[CP_MSG_MAX];
	size_t length = cp_put(buf, header, msg);

	(void)world;
	if (sim.dest_closed)
		return fails(err, "answering");
	tell("dest: %s %llu", cp_name(header->kind), (unsigned long long)header->epoch);
	pipe_put(header->kind == CP_HEARTBEAT ? BEAT_TO_SOURCE : TO_SOURCE, buf, length);
	return 0;
}

/* Contents, which the engine leaves to whoever has them */
static void send_bytes(enum cp_kind kind, const void *payload, uint32_t length)
{
	static uint8_t buf[CP_HEADER + PAGE];
	struct cp_header header = {
		.kind = kind,
		.generation = sim.source.set.generation,
		.epoch = sim.send_epoch,
		.length = length,
	};

	if (sim.source_closed)
		return;
	cp_put(buf, &header, NULL);
	memcpy(buf + CP_HEADER, payload, length);
	cp_hash_add(&sim.hash, buf, CP_HEADER + length);
	pipe_put(TO_DEST, buf, CP_HEADER + length);
}

static void send_begin(bool full)
{
	struct cp_header header = {
		.kind = CP_BEGIN,
		.generation = sim.source.set.generation,
		.epoch = sim.send_epoch,
	};
	struct cp_msg msg = { .begin = { .full = full } };
	uint8_t buf[CP_MSG_MAX];
	size_t length = cp_put(buf, &header, &msg);

	cp_hash_begin(&sim.hash);
	cp_hash_add(&sim.hash, buf, length);
	sim.totals = (struct cp_msg){ .commit = { 0 } };
	if (!sim.source_closed)
		pipe_put(TO_DEST, buf, length);
}

static void send_page(unsigned page, uint64_t value)
{
	uint8_t raw[CP_ENTRY], contents[PAGE] = { 0 };
	struct cp_entry entry = {
		.content = value ? CP_PLAIN : CP_ZERO,
		.pages = 1,
		.first = page,
		.bytes = value ? PAGE : 0,
	};

	cp_entry_put(raw, &entry);
	send_bytes(CP_META, raw, sizeof(raw));
	sim.totals.commit.entries++;
	if (!value)
		return;
	put_be64(contents, value);
	send_bytes(CP_PAGES, contents, PAGE);
	sim.totals.commit.contents += PAGE;
}

/* ---- The gate and the guest --------------------------------------------------- */

static void seen(uint64_t up_to, const char *why)
{
	if (up_to <= sim.outside)
		return;
	if (sim.dest.state == CP_DEST_TAKEOVER)
		wrong("%s: packet %llu of the source is seen, the guest runs over there", why,
		      (unsigned long long)up_to);
	sim.outside = up_to;
	tell("outside: up to %llu (%s)", (unsigned long long)up_to, why);
}

static int gate_hold(void *world, struct wh_err *err)
{
	(void)world;
	if (chance(sim.gate_fails))
		return fails(err, "hold");
	sim.gate = HOLDING;
	sim.gate_epoch = 1;
	return 0;
}

static int gate_turn(void *world, uint64_t epoch, struct wh_err *err)
{
	(void)world;
	if (sim.source.guest != CP_GUEST_STANDS)
		wrong("turn %llu: the guest does not stand still", (unsigned long long)epoch);
	if (chance(sim.gate_fails))
		return fails(err, "turn");
	if (epoch != sim.gate_epoch)
		wrong("turn %llu, open is %llu", (unsigned long long)epoch,
		      (unsigned long long)sim.gate_epoch);
	if (sim.closed_epoch != sim.released_epoch)
		wrong("turn %llu: %llu is closed and not released", (unsigned long long)epoch,
		      (unsigned long long)sim.closed_epoch);
	sim.closed_epoch = epoch;
	sim.closed_up = sim.guest.said;
	sim.gate_epoch = epoch + 1;
	return 0;
}

static int gate_release(void *world, uint64_t epoch, struct wh_err *err)
{
	(void)world;
	if (chance(sim.gate_fails))
		return fails(err, "release");
	if (epoch != sim.closed_epoch)
		wrong("release %llu, closed is %llu", (unsigned long long)epoch,
		      (unsigned long long)sim.closed_epoch);
	sim.released_epoch = epoch;
	seen(sim.closed_up, "release");
	return 0;
}

static int gate_fence(void *world, struct wh_err *err)
{
	(void)world;
	if (chance(sim.gate_fails))
		return fails(err, "fence");
	sim.gate = FENCED;
	return 0;
}

static int gate_open(void *world, struct wh_err *err)
{
	(void)world;
	if (chance(sim.gate_fails))
		return fails(err, "open");
	sim.gate = OFF;
	seen(sim.guest.said, "open");
	return 0;
}

static void guest_step(void)
{
	unsigned page = draw() % PAGES;

	if (sim.source_dead || sim.source.guest == CP_GUEST_STANDS)
		return;
	if (chance(500)) {
		sim.guest.memory[page] = chance(200) ? 0 : draw();
		sim.dirty[page] = true;
		return;
	}
	sim.guest.said++;
	if (sim.gate == OFF)
		seen(sim.guest.said, "unprotected");
}

static void tell_held(void)
{
	if (!sim.source_dead && sim.gate == HOLDING)
		cp_source_held(&sim.source, sim.guest.said - sim.outside);
}

#endif
