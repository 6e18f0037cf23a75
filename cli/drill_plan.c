/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: a seed becomes a plan. Pure: nothing but the arguments counts, so that a
 * seed is the same plan on every machine and at any time.
 */
#include "cli/drill.h"

#include <string.h>

#define MS 1000u /* a second has so many */
#define MIB (1u << 20)

static const struct {
	const char *name;
	const char *what;
} kinds[] = {
	[DRILL_CUT] = { "cut", "a connection, or all of them, closed at byte N" },
	[DRILL_RESET] = { "reset", "the same, with a reset and whatever was on its way lost" },
	[DRILL_HALF_CLOSE] = { "half-close", "one direction ended, the other one goes on" },
	[DRILL_ONE_WAY] = { "one-way", "from byte N on one direction, or both, is swallowed" },
	[DRILL_TRUNCATE] = { "truncate", "N bytes arrive, then the end of the stream" },
	[DRILL_DELAY] = { "delay", "what is under way takes some milliseconds longer" },
	[DRILL_STALL] = { "stall",
			  "silence, shorter or longer than a peer counts as dead, then on" },
	[DRILL_STRANGER] = { "stranger", "somebody else connects to the destination" },
	[DRILL_CORRUPT] = { "corrupt", "the first byte of a message becomes another" },
	[DRILL_BITMAP] = { "bitmap",
			   "a received bitmap with a wrong size, end mark or bits beyond" },
	[DRILL_HANDSHAKE] = { "handshake", "a cut within the handshake of a recovery" },
	[DRILL_PAUSE] = { "pause", "wh_pause() at either end" },
	[DRILL_CANCEL] = { "cancel", "wh_cancel() before the switch" },
	[DRILL_STOP] = { "stop", "SIGSTOP of one end, and SIGCONT" },
	[DRILL_KILL] = { "kill", "SIGKILL of one end before the switch" },
	[DRILL_REMOVES] = { "removes", "the guest drops memory all the time, and wants zeros" },
	[DRILL_NO_MEMORY] = { "no-memory",
			      "a page cannot be placed for some time: ENOMEM, EAGAIN or ENOSPC" },
	[DRILL_NO_SPACE] = { "no-space", "the file system of the memory is full for some time" },
	[DRILL_AGENT] = { "agent", "SIGKILL of the process that serves faults, and the next one" },
};
_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == DRILL_KINDS, "a line for each kind");

const char *drill_kind_name(enum drill_kind kind)
{
	return kinds[kind].name;
}

const char *drill_kind_what(enum drill_kind kind)
{
	return kinds[kind].what;
}

unsigned drill_kinds_read(const char *text, char *unknown, size_t room)
{
	unsigned found = 0;

	for (;;) {
		size_t length = strcspn(text, ",");
		unsigned kind = 0;

		while (kind < DRILL_KINDS && (strlen(kinds[kind].name) != length ||
					      strncmp(kinds[kind].name, text, length) != 0))
			kind++;
		if (kind == DRILL_KINDS) {
			snprintf(unknown, room, "%.*s", (int)length, text);
			return 0;
		}
		found |= 1u << kind;
		if (!text[length])
			return found;
		text += length + 1;
	}
}

/* splitmix64 */
uint64_t drill_random(struct drill_random *random)
{
	uint64_t x = random->state += 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

uint64_t drill_pick(struct drill_random *random, uint64_t below)
{
	return drill_random(random) % below;
}

bool drill_one_in(struct drill_random *random, uint64_t many)
{
	return drill_pick(random, many) == 0;
}

uint64_t drill_seed(uint64_t first, uint64_t number)
{
	struct drill_random random = { .state = first };

	random.state = drill_random(&random) + number;
	return drill_random(&random);
}

/* As often small as large: the beginning of everything is where most is said. */
static uint64_t pick_size(struct drill_random *random, uint64_t max)
{
	unsigned bits = 0;

	while (max >> bits > 1)
		bits++;
	return drill_pick(random, (max >> drill_pick(random, bits + 1)) + 1);
}

static uint64_t plan_bytes(const struct drill_plan *plan)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < plan->blocks; i++)
		pages += plan->pages[i];
	return pages * DRILL_PAGE;
}

unsigned drill_kinds_with(unsigned from, enum drill_side qemu)
{
	/* its guest is nobody's who could be killed, and nobody who drops memory */
	from &= ~(1u << DRILL_KILL | 1u << DRILL_AGENT);
	return qemu != DRILL_DEST ?
		       from :
		       from & ~(1u << DRILL_REMOVES | 1u << DRILL_NO_MEMORY | 1u << DRILL_NO_SPACE);
}

/*
 * What the QEMU has of all this: one block of whole MiB, private pages, no device state but
 * its own. And who tells a 7.2 to resume before somebody listens has lost it.
 */
static void plan_peer(struct drill_plan *plan, struct drill_random *random,
		      const struct drill_peer *peer)
{
	plan->qemu = peer->side;
	if (peer->side == DRILL_SIDES)
		plan->qemu = drill_one_in(random, 2) ? DRILL_SOURCE : DRILL_DEST;
	plan->blocks = 1;
	plan->pages[0] += -plan->pages[0] % (MIB / DRILL_PAGE);
	plan->memory[plan->qemu] = DRILL_PRIVATE;
	if (plan->memory[!plan->qemu] == DRILL_HUGETLB)
		plan->memory[!plan->qemu] = DRILL_MEMFD;
	plan->own_loop[plan->qemu] = false;
	plan->urgent = plan->urgent == WH_URGENT_OFF ? WH_URGENT_OFF : peer->urgent;
	plan->device_bytes = 0;
	for (unsigned i = 0; i < DRILL_AGAIN; i++)
		plan->again[i].source_first = false;
	if (plan->qemu == DRILL_DEST)
		return;
	/*
	 * Nobody writes its memory, and after one pass it would be over. It counts in slices of
	 * 100 ms, so the pass takes some.
	 */
	plan->bandwidth = plan->pages[0] * DRILL_PAGE * MS / (300 + drill_pick(random, 400));
	plan->switch_ms %= 150;
	plan->by_command = true;
}

static void plan_memory(struct drill_plan *plan, struct drill_random *random, uint64_t bytes)
{
	bool huge = drill_one_in(random, 8) && bytes >= DRILL_BLOCKS * (uint64_t)DRILL_HUGE;
	uint64_t most = bytes / DRILL_PAGE / DRILL_BLOCKS;

	plan->blocks = 1 + (unsigned)drill_pick(random, DRILL_BLOCKS);
	for (unsigned i = 0; i < plan->blocks; i++) {
		plan->pages[i] = most / 4 + drill_pick(random, most - most / 4) + 1;
		if (huge)
			plan->pages[i] += -plan->pages[i] % (DRILL_HUGE / DRILL_PAGE);
		else if (drill_one_in(random, 4))
			plan->pages[i] += -plan->pages[i] % 64; /* no padding in its bitmap */
	}
	for (unsigned side = 0; side < DRILL_SIDES; side++) {
		plan->memory[side] = drill_one_in(random, 2) ? DRILL_PRIVATE : DRILL_MEMFD;
		if (huge)
			plan->memory[side] = DRILL_HUGETLB;
		plan->own_loop[side] = drill_one_in(random, 4);
	}
}

static void plan_link(struct drill_plan *plan, struct drill_random *random)
{
	uint64_t bytes = plan_bytes(plan);

	plan->tcp = drill_one_in(random, 2);
	plan->proxy_tcp = drill_one_in(random, 2);
	plan->postcopy = !drill_one_in(random, 12);
	plan->urgent = plan->postcopy ? (enum wh_urgent)drill_pick(random, 3) : WH_URGENT_OFF;
	plan->by_command = drill_one_in(random, 2);
	plan->switch_ms = 1 + (unsigned)drill_pick(random, 250);
	plan->bandwidth = bytes * MS / (30 + drill_pick(random, 200));
	plan->postcopy_bandwidth = bytes * MS / (60 + drill_pick(random, 400));
	/* a guest that asks for everything hides a source that forgot something */
	plan->pace_us = drill_one_in(random, 2) ? 200 + (unsigned)drill_pick(random, 3000) :
						  5000 + (unsigned)drill_pick(random, 60000);
	plan->device_bytes = (unsigned)pick_size(random, 1u << 18);
	plan->connect_ms = 1000;
	plan->dead_peer_ms = 250 + (unsigned)drill_pick(random, 250);
	for (unsigned i = 0; i < DRILL_AGAIN; i++)
		plan->again[i] = (struct drill_again){
			.source_first = drill_one_in(random, 4),
			.same = drill_one_in(random, 2),
			.tcp = drill_one_in(random, 2),
			.proxy_tcp = drill_one_in(random, 2),
			.wait_ms = (unsigned)pick_size(random, 60),
		};
}

/* Does the link break by it, so that there is a next connection? */
static bool fault_breaks(const struct drill_plan *plan, const struct drill_fault *fault)
{
	switch (fault->kind) {
	case DRILL_CUT:
	case DRILL_RESET:
	case DRILL_HALF_CLOSE:
	case DRILL_ONE_WAY:
	case DRILL_TRUNCATE:
	case DRILL_CORRUPT:
	case DRILL_BITMAP:
	case DRILL_HANDSHAKE:
	case DRILL_PAUSE:
	case DRILL_CANCEL:
	case DRILL_KILL:
	case DRILL_AGENT:
		return true;
	case DRILL_STALL:
	case DRILL_STOP:
	case DRILL_NO_MEMORY:
	case DRILL_NO_SPACE:
		return fault->ms > plan->dead_peer_ms;
	case DRILL_DELAY:
	case DRILL_STRANGER:
	case DRILL_REMOVES:
	case DRILL_KINDS:
		break;
	}
	return false;
}

static void fault_when(const struct drill_plan *plan, struct drill_random *random,
		       struct drill_fault *fault)
{
	uint64_t bytes = plan_bytes(plan);
	bool only_precopy = fault->kind == DRILL_CANCEL || fault->kind == DRILL_KILL;
	bool after_switch = fault->kind == DRILL_PAUSE || fault->kind == DRILL_REMOVES ||
			    fault->kind == DRILL_NO_MEMORY || fault->kind == DRILL_NO_SPACE ||
			    fault->kind == DRILL_AGENT;
	bool handshake =
		fault->kind == DRILL_HANDSHAKE || fault->kind == DRILL_BITMAP ||
		(fault->kind == DRILL_AGENT && fault->connection && drill_one_in(random, 2));

	if (!fault->connection)
		fault->postcopy = plan->postcopy && !only_precopy &&
				  (after_switch || !drill_one_in(random, 4));
	fault->way = drill_one_in(random, 3) ? DRILL_BACK : DRILL_THERE;
	if (plan->urgent != WH_URGENT_OFF && (fault->postcopy || fault->connection) &&
	    drill_one_in(random, 3)) {
		fault->channel = DRILL_URGENT;
		fault->way = DRILL_THERE; /* nothing is said on it in the other one */
	}
	if (!fault->postcopy && !fault->connection)
		fault->way = DRILL_THERE;
	if (fault->way == DRILL_BACK)
		fault->at = pick_size(random, bytes / DRILL_PAGE * 4);
	else
		fault->at =
			pick_size(random, fault->postcopy || fault->connection ? bytes / 2 : bytes);
	if (handshake) {
		fault->channel = DRILL_MAIN;
		fault->way = fault->kind == DRILL_BITMAP ? DRILL_BACK : fault->way;
		fault->at = pick_size(random, fault->way == DRILL_BACK ? 600 : 80);
	}
	/* a QEMU takes a cancel when all is said, and runs its guest though it runs there */
	if (fault->kind == DRILL_CANCEL && plan->qemu == DRILL_SOURCE)
		fault->at %= bytes / 3 + 1;
	if (fault->kind == DRILL_BITMAP)
		fault->at = drill_pick(random, plan->blocks);
}

static void fault_how(const struct drill_plan *plan, struct drill_random *random,
		      struct drill_fault *fault)
{
	fault->all = drill_one_in(random, 2);
	fault->both = drill_one_in(random, 3);
	fault->side = drill_one_in(random, 2) ? DRILL_SOURCE : DRILL_DEST;
	/* a QEMU that is the destination cannot, before 8.1 */
	if (fault->kind == DRILL_PAUSE && plan->qemu == DRILL_DEST)
		fault->side = DRILL_SOURCE;
	if (fault->kind == DRILL_DELAY)
		fault->ms = 1 + (unsigned)drill_pick(random, 15);
	if (fault->kind == DRILL_NO_MEMORY)
		fault->variant = (unsigned)drill_pick(random, DRILL_REFUSALS);
	if (fault->kind == DRILL_STALL || fault->kind == DRILL_STOP ||
	    fault->kind == DRILL_NO_MEMORY || fault->kind == DRILL_NO_SPACE)
		fault->ms = 1 + (unsigned)drill_pick(random, 3 * (uint64_t)plan->dead_peer_ms);
	if (fault->kind == DRILL_BITMAP)
		fault->variant = (unsigned)drill_pick(random, DRILL_LIES);
	if (fault->kind == DRILL_STRANGER) {
		fault->variant = (unsigned)drill_pick(random, 8);
		fault->early = !fault->postcopy && drill_one_in(random, 2);
	}
}

static struct drill_fault *plan_add(struct drill_plan *plan, struct drill_random *random,
				    enum drill_kind kind, unsigned connection)
{
	struct drill_fault *fault = &plan->fault[plan->faults++];

	*fault = (struct drill_fault){ .kind = kind, .connection = connection };
	fault_when(plan, random, fault);
	fault_how(plan, random, fault);
	return fault;
}

/* @from: there may be none left, of a destination that only QEMU is */
static enum drill_kind pick_kind(struct drill_random *random, unsigned from)
{
	unsigned which = (unsigned)drill_pick(random, (uint64_t)__builtin_popcount(from));
	unsigned kind = 0;

	for (; kind < DRILL_KINDS; kind++)
		if (from >> kind & 1 && which-- == 0)
			break;
	return (enum drill_kind)kind;
}

static bool kind_recovers(enum drill_kind kind)
{
	return kind == DRILL_BITMAP || kind == DRILL_HANDSHAKE;
}

static bool only_postcopy(enum drill_kind kind)
{
	return kind_recovers(kind) || kind == DRILL_PAUSE || kind == DRILL_REMOVES ||
	       kind == DRILL_NO_MEMORY || kind == DRILL_NO_SPACE || kind == DRILL_AGENT;
}

/* Memory that it can write, which nobody drops; and the drill's own filter is not in it */
static bool kind_not_with(const struct drill_plan *plan, enum drill_kind kind)
{
	for (unsigned i = 0; i < plan->faults && kind == DRILL_AGENT; i++)
		if (plan->fault[i].kind == DRILL_REMOVES || plan->fault[i].kind == DRILL_NO_MEMORY)
			return true;
	return plan->agent && (kind == DRILL_REMOVES || kind == DRILL_NO_MEMORY);
}

static void plan_file(struct drill_plan *plan)
{
	if (plan->memory[DRILL_DEST] == DRILL_PRIVATE)
		plan->memory[DRILL_DEST] = DRILL_MEMFD;
}

static void plan_agent(struct drill_plan *plan)
{
	plan->agent = true;
	plan->own_loop[DRILL_DEST] = false;
	plan_file(plan);
}

static void plan_no_space(struct drill_plan *plan)
{
	plan->no_space = true;
	plan_file(plan);
}

/*
 * One after the other: what breaks the link in postcopy makes place for faults of the next
 * connection, what breaks it before the switch is the last.
 */
static void plan_faults(struct drill_plan *plan, struct drill_random *random, unsigned from)
{
	unsigned many = 1 + (unsigned)drill_pick(random, 3), connection = 0;

	for (unsigned i = 0; i < many; i++) {
		enum drill_kind kind = pick_kind(random, from);
		const struct drill_fault *fault;

		if (connection && (kind == DRILL_CANCEL || kind == DRILL_KILL))
			continue;
		/* a QEMU cancels in postcopy too, and loses its guest by that */
		if (kind == DRILL_CANCEL && plan->qemu == DRILL_SOURCE && plan->faults)
			continue;
		if (kind == DRILL_CANCEL && plan->qemu == DRILL_SOURCE) {
			plan->postcopy = false;
			plan->urgent = WH_URGENT_OFF;
		}
		/* what is about recoveries, and what is only there in postcopy, has it */
		if (!plan->faults && only_postcopy(kind))
			plan->postcopy = true;
		if (!plan->postcopy && only_postcopy(kind))
			continue;
		if (kind_not_with(plan, kind))
			continue;
		if (kind == DRILL_REMOVES)
			plan->removes = true;
		if (kind == DRILL_AGENT)
			plan_agent(plan);
		if (kind == DRILL_NO_SPACE)
			plan_no_space(plan);
		if (kind_recovers(kind) && !connection) {
			struct drill_fault *cut = plan_add(plan, random, DRILL_CUT, connection++);

			cut->postcopy = true;
			cut->all = true;
		}
		fault = plan_add(plan, random, kind, connection);
		if (!fault_breaks(plan, fault))
			continue;
		if (!fault->connection && !fault->postcopy)
			break;
		connection++;
		/* and its successor */
		if (kind == DRILL_AGENT && drill_one_in(random, 2))
			(void)plan_add(plan, random, kind, connection++);
	}
}

void drill_plan_make(struct drill_plan *plan, uint64_t seed, uint64_t memory_bytes, unsigned from,
		     const struct drill_peer *peer)
{
	struct drill_random random = { .state = seed };

	*plan = (struct drill_plan){ .seed = seed, .qemu = DRILL_SIDES };
	plan_memory(plan, &random, memory_bytes);
	plan_link(plan, &random);
	if (peer) {
		plan_peer(plan, &random, peer);
		from = drill_kinds_with(from, plan->qemu);
	}
	plan_faults(plan, &random, from);
	plan->by_command &= plan->postcopy;
}
