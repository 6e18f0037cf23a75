/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_H
#define CLI_DRILL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <wherry/wherry.h>

/*
 * wherry drill: a seed becomes a plan (drill_plan.c, pure), the plan is carried out by two
 * processes (drill_end.c, drill_guest.c), a proxy between them (drill_proxy.c,
 * drill_fault.c) and an operator (drill_run.c, drill_recover.c), and what came of it is
 * shown (drill_show.c).
 */

#define DRILL_PAGE 4096u
#define DRILL_HUGE (2u << 20)
#define DRILL_BLOCKS 3u
#define DRILL_FAULTS 6u
#define DRILL_AGAIN 8u
#define DRILL_URI 256u
#define DRILL_PATH (DRILL_URI - 8)

enum drill_side {
	DRILL_SOURCE,
	DRILL_DEST,
	DRILL_SIDES
};

enum drill_kind {
	DRILL_CUT,
	DRILL_RESET,
	DRILL_HALF_CLOSE,
	DRILL_ONE_WAY,
	DRILL_TRUNCATE,
	DRILL_DELAY,
	DRILL_STALL,
	DRILL_STRANGER,
	DRILL_CORRUPT,
	DRILL_BITMAP,
	DRILL_HANDSHAKE,
	DRILL_PAUSE,
	DRILL_CANCEL,
	DRILL_STOP,
	DRILL_KILL,
	DRILL_REMOVES,
	DRILL_NO_MEMORY,
	DRILL_NO_SPACE,
	DRILL_AGENT,
	DRILL_KINDS
};

#define DRILL_ALL_KINDS ((1u << DRILL_KINDS) - 1)

enum drill_memory {
	DRILL_PRIVATE,
	DRILL_MEMFD,
	DRILL_HUGETLB,
	DRILL_MEMORIES
};

enum drill_channel {
	DRILL_MAIN,
	DRILL_URGENT,
	DRILL_CHANNELS
};

/* Who speaks */
enum drill_way {
	DRILL_THERE,
	DRILL_BACK,
	DRILL_WAYS
};

/* What placing fails with */
enum drill_refusal {
	DRILL_REFUSED_MEMORY,
	DRILL_REFUSED_AGAIN,
	DRILL_REFUSED_SPACE,
	DRILL_REFUSALS
};

enum drill_lie {
	DRILL_LIE_SIZE,
	DRILL_LIE_MARK,
	DRILL_LIE_BEYOND,
	DRILL_LIES
};

/* What a stranger does, a bit each */
#define DRILL_STRANGER_TALKS 1u
#define DRILL_STRANGER_LEAVES 2u
#define DRILL_STRANGER_IMITATES 4u

/**
 * struct drill_fault - One thing that goes wrong, and when
 * @connection:	0: the first one, n: that of the nth recovery
 * @postcopy:	On the first one: @at counts from the switch, not from the beginning
 * @early:	Before the source connects
 * @all:	Every channel, not only @channel
 * @both:	Both directions, not only @way
 * @at:		After so many bytes of @channel in direction @way
 * @ms:		How long: of each piece, of silence, of standing still
 * @side:	Whom it is done to, or who does it
 * @variant:	enum drill_lie, DRILL_STRANGER_*; of DRILL_NO_MEMORY: which errno
 */
struct drill_fault {
	enum drill_kind kind;
	unsigned connection;
	bool postcopy;
	bool early;
	bool all;
	bool both;
	enum drill_channel channel;
	enum drill_way way;
	uint64_t at;
	unsigned ms;
	enum drill_side side;
	unsigned variant;
};

/**
 * struct drill_again - How one recovery is gone about
 * @source_first: The source is told before the destination is
 * @same:	The destination waits where it waited before
 * @tcp:	Otherwise: of what kind its new address is
 * @proxy_tcp:	The source's link
 * @wait_ms:	The operator's leisure
 */
struct drill_again {
	bool source_first;
	bool same;
	bool tcp;
	bool proxy_tcp;
	unsigned wait_ms;
};

/**
 * struct drill_peer - A QEMU at one end
 * @side:	Where; DRILL_SIDES: as the seed says
 * @urgent:	When it opens a second channel
 */
struct drill_peer {
	const char *binary;
	enum drill_side side;
	enum wh_urgent urgent;
};

/**
 * struct drill_plan - All that a seed decides
 * @bandwidth:	Bytes a second, in precopy and of the background in postcopy
 * @pages:	Of 4096 bytes, of each block
 * @switch_ms:	In precopy until then
 * @by_command:	wh_start_postcopy() says so, not the configuration
 * @pace_us:	Each guest thread sleeps so long behind 64 pages: it asks for all, or for few
 * @device_bytes: Of device state, beside what the guest needs
 * @again:	Recovery by recovery, then over again
 * @qemu:	Where a QEMU is; DRILL_SIDES: nowhere
 * @agent:	The destination is driven by another process
 * @no_space:	Its memory lies in a file system that is full at times
 */
struct drill_plan {
	uint64_t seed;
	enum drill_side qemu;
	uint64_t pages[DRILL_BLOCKS];
	unsigned blocks;
	enum drill_memory memory[DRILL_SIDES];
	bool own_loop[DRILL_SIDES];
	bool tcp;
	bool proxy_tcp;
	bool postcopy;
	bool by_command;
	bool removes;
	bool agent;
	bool no_space;
	enum wh_urgent urgent;
	unsigned switch_ms;
	unsigned pace_us;
	unsigned device_bytes;
	unsigned connect_ms;
	unsigned dead_peer_ms;
	uint64_t bandwidth;
	uint64_t postcopy_bandwidth;
	unsigned faults;
	struct drill_fault fault[DRILL_FAULTS];
	struct drill_again again[DRILL_AGAIN];
};

enum drill_outcome {
	DRILL_COMPLETED, /* the destination has all of it */
	DRILL_AT_SOURCE, /* the source has it: failed or cancelled before the switch */
	DRILL_STOPPED,	 /* nowhere, as Documentation/errors.rst says */
	DRILL_QEMU,	 /* the QEMU cannot go on, by a fault of its own that is known */
	DRILL_WRONG,
	DRILL_OUTCOMES
};

/**
 * struct drill_result - What came of one run
 * @happened:	Of each fault of the plan
 * @recoveries:	Connections that went on, as the source counts them
 * @attempts:	Orders to resume that were taken
 * @why:	A sentence, of what is wrong; or how it ended where that is not plain
 * @log:	What happened, line by line; free()
 */
struct drill_result {
	enum drill_outcome outcome;
	bool happened[DRILL_FAULTS];
	bool small_pages; /* there was no pool for huge ones */
	unsigned attempts;
	uint64_t recoveries;
	uint64_t faults;
	uint64_t ns;
	enum wh_phase phase[DRILL_SIDES];
	bool killed[DRILL_SIDES];
	char why[512];
	char *log;
};

/* drill_plan.c: pure */
struct drill_random {
	uint64_t state;
};

uint64_t drill_random(struct drill_random *random);
/* 0 to @below - 1 */
uint64_t drill_pick(struct drill_random *random, uint64_t below);
bool drill_one_in(struct drill_random *random, uint64_t many);
/* The seed of run @number (from 0) of those that begin with @first */
uint64_t drill_seed(uint64_t first, uint64_t number);
/*
 * @from: a bit for each kind that may be picked, at least one; @memory_bytes: of the guest, at
 * most; @peer: NULL: none
 */
void drill_plan_make(struct drill_plan *plan, uint64_t seed, uint64_t memory_bytes, unsigned from,
		     const struct drill_peer *peer);
/* Of these, the kinds that make sense with a QEMU there; it may be DRILL_SIDES */
unsigned drill_kinds_with(unsigned from, enum drill_side qemu);
const char *drill_kind_name(enum drill_kind kind);
const char *drill_kind_what(enum drill_kind kind);
/* "cut,reset". Return: bits, 0 if one of them is none, which is then in @unknown */
unsigned drill_kinds_read(const char *text, char *unknown, size_t room);

/*
 * drill_run.c. @folder: for sockets; @binary: a QEMU, if one is planned; @live: each line of
 * the log at once, may be NULL.
 * Ended by drill_signal it has no outcome, DRILL_OUTCOMES
 */
void drill_run(const struct drill_plan *plan, const char *folder, const char *binary, FILE *live,
	       struct drill_result *result);

/* The signal that ends the drill; 0 */
extern volatile sig_atomic_t drill_signal;

/* drill_show.c */
struct drill_row {
	unsigned runs;
	unsigned happened;
	uint64_t recoveries;
	unsigned ended[DRILL_OUTCOMES];
};

struct drill_table {
	struct drill_row row[DRILL_KINDS];
	struct drill_row all;
};

const char *drill_outcome_name(enum drill_outcome outcome);
void drill_table_add(struct drill_table *table, const struct drill_plan *plan,
		     const struct drill_result *result);
void drill_show_plan(const struct drill_plan *plan, FILE *to);
void drill_show_fault(const struct drill_fault *fault, char *text, size_t room);
void drill_show_run(unsigned number, const struct drill_plan *plan,
		    const struct drill_result *result, bool json);
/* @qemu: with a column for its own ends */
void drill_show_table(const struct drill_table *table, const uint64_t *wrong, bool qemu, bool json);
void drill_show_list(bool json);

#endif /* CLI_DRILL_H */
