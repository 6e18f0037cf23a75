/* SPDX-License-Identifier: MIT */
#include "checkpoint/state.h"

#include <assert.h>

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))
#define SAYS(kind) (UINT32_C(1) << CP_##kind)

/* The source. */
#define TO(state) (UINT32_C(1) << CP_SOURCE_##state)

/* clang-format off */
static const uint32_t source_next[] = {
	[CP_SOURCE_IDLE]     = TO(SYNC),
	/* nothing is held and the destination has nothing to run from: a failure is only that */
	[CP_SOURCE_SYNC]     = TO(ARMED) | TO(RELEASED),
	/* held, and still nothing to run from over there: it may be let go */
	[CP_SOURCE_ARMED]    = TO(STOP) | TO(RELEASED),
	[CP_SOURCE_RUN]      = TO(STOP) | TO(DEGRADED) | TO(LEAVING) | TO(HOLD) | TO(FENCED),
	/* RUN: the epoch could not be closed. RELEASED: before the first COMMIT only */
	[CP_SOURCE_STOP]     = TO(STAGE) | TO(RUN) | TO(ARMED) | TO(DEGRADED) | TO(HOLD) |
			       TO(FENCED) | TO(RELEASED),
	[CP_SOURCE_STAGE]    = TO(SEND) | TO(DEGRADED) | TO(HOLD) | TO(FENCED) | TO(RELEASED),
	/* DEGRADED: what went in parts is refused */
	[CP_SOURCE_SEND]     = TO(WAIT_ACK) | TO(DEGRADED) | TO(HOLD) | TO(FENCED) | TO(RELEASED),
	/* SEND: refused, and sent once more; RELEASED: the first, refused for good */
	[CP_SOURCE_WAIT_ACK] = TO(RUN) | TO(SEND) | TO(DEGRADED) | TO(HOLD) | TO(FENCED) |
			       TO(RELEASED),
	/* the session goes on, and there is no other way to let go than everywhere */
	[CP_SOURCE_DEGRADED] = TO(STOP) | TO(LEAVING) | TO(HOLD) | TO(FENCED),
	/* the destination may have heard BYE, or not and run: only its word lets go */
	[CP_SOURCE_LEAVING]  = TO(RELEASED) | TO(HOLD) | TO(FENCED),
	[CP_SOURCE_HOLD]     = TO(FENCED) | TO(RELEASED),
	[CP_SOURCE_FENCED]   = 0,
	[CP_SOURCE_RELEASED] = 0,
};
static_assert(COUNT_OF(source_next) == CP_SOURCE_STATE_COUNT, "a row for each state");

/* A heartbeat has its own channel, and comes when it comes */
#define ANY_TIME (SAYS(HEARTBEAT) | SAYS(TAKEOVER_NOTICE))
static const uint32_t source_hears[] = {
	[CP_SOURCE_IDLE]     = SAYS(HEARTBEAT),
	[CP_SOURCE_SYNC]     = SAYS(HEARTBEAT) | SAYS(READY) | SAYS(NACK),
	[CP_SOURCE_ARMED]    = SAYS(HEARTBEAT) | SAYS(NACK),
	[CP_SOURCE_RUN]      = ANY_TIME,
	/* NACK: of one that goes in parts, before this; looked at where that is known */
	[CP_SOURCE_STOP]     = ANY_TIME | SAYS(NACK),
	[CP_SOURCE_STAGE]    = ANY_TIME | SAYS(NACK),
	/* NACK: it need not have all of it to refuse it */
	[CP_SOURCE_SEND]     = ANY_TIME | SAYS(NACK),
	[CP_SOURCE_WAIT_ACK] = ANY_TIME | SAYS(NACK) | SAYS(ACK),
	[CP_SOURCE_DEGRADED] = ANY_TIME | SAYS(NACK),
	/* NACK: of parts that were on their way */
	[CP_SOURCE_LEAVING]  = ANY_TIME | SAYS(BYE_ACK) | SAYS(NACK),
	/* of a connection that is given up nothing is read, but that the guest is gone */
	[CP_SOURCE_HOLD]     = ANY_TIME,
	[CP_SOURCE_FENCED]   = ANY_TIME,
	[CP_SOURCE_RELEASED] = SAYS(HEARTBEAT),
};
static_assert(COUNT_OF(source_hears) == CP_SOURCE_STATE_COUNT, "a row for each state");

static const bool source_holds[] = {
	[CP_SOURCE_IDLE]     = false,
	[CP_SOURCE_SYNC]     = false,
	[CP_SOURCE_ARMED]    = true,
	[CP_SOURCE_RUN]      = true,
	[CP_SOURCE_STOP]     = true,
	[CP_SOURCE_STAGE]    = true,
	[CP_SOURCE_SEND]     = true,
	[CP_SOURCE_WAIT_ACK] = true,
	[CP_SOURCE_DEGRADED] = true,
	[CP_SOURCE_LEAVING]  = true,
	[CP_SOURCE_HOLD]     = true,
	[CP_SOURCE_FENCED]   = true,
	[CP_SOURCE_RELEASED] = false,
};
static_assert(COUNT_OF(source_holds) == CP_SOURCE_STATE_COUNT, "yes or no for each state");

static const char *const source_names[] = {
	[CP_SOURCE_IDLE]     = "idle",
	[CP_SOURCE_SYNC]     = "sync",
	[CP_SOURCE_ARMED]    = "armed",
	[CP_SOURCE_RUN]      = "run",
	[CP_SOURCE_STOP]     = "stop",
	[CP_SOURCE_STAGE]    = "stage",
	[CP_SOURCE_SEND]     = "send",
	[CP_SOURCE_WAIT_ACK] = "wait-ack",
	[CP_SOURCE_DEGRADED] = "degraded",
	[CP_SOURCE_LEAVING]  = "leaving",
	[CP_SOURCE_HOLD]     = "hold",
	[CP_SOURCE_FENCED]   = "fenced",
	[CP_SOURCE_RELEASED] = "released",
};
static_assert(COUNT_OF(source_names) == CP_SOURCE_STATE_COUNT, "a name for each state");
/* clang-format on */
#undef TO

/* The destination. */
#define TO(state) (UINT32_C(1) << CP_DEST_##state)

/* clang-format off */
static const uint32_t dest_next[] = {
	/* there is nothing to run from, so nobody can be told to */
	[CP_DEST_SYNC]      = TO(COMPLETE) | TO(FENCED),
	[CP_DEST_READY]     = TO(RECEIVING) | TO(SUSPECT) | TO(APPLYING) | TO(FENCED),
	[CP_DEST_RECEIVING] = TO(COMPLETE) | TO(READY) | TO(SUSPECT) | TO(APPLYING) | TO(FENCED),
	/* SYNC, READY: acknowledged, or refused */
	[CP_DEST_COMPLETE]  = TO(SYNC) | TO(READY) | TO(SUSPECT) | TO(APPLYING) | TO(FENCED),
	[CP_DEST_SUSPECT]   = TO(APPLYING) | TO(FENCED),
	/* decided: from here on nothing is acknowledged, whatever comes */
	[CP_DEST_APPLYING]  = TO(TAKEOVER) | TO(FENCED),
	[CP_DEST_TAKEOVER]  = 0,
	[CP_DEST_FENCED]    = 0,
};
static_assert(COUNT_OF(dest_next) == CP_DEST_STATE_COUNT, "a row for each state");

#define CONTENTS (SAYS(META) | SAYS(PAGES) | SAYS(DEVICE) | SAYS(COMMIT))
#define PULSE (SAYS(HEARTBEAT) | SAYS(BYE))
static const uint32_t dest_hears[] = {
	/* HELLO first, which is looked at where the list of blocks is */
	[CP_DEST_SYNC]      = PULSE | SAYS(HELLO) | SAYS(BLOCK) | SAYS(BEGIN) | CONTENTS,
	/* contents: the rest of what was refused, which is not looked at */
	[CP_DEST_READY]     = PULSE | SAYS(BEGIN) | SAYS(DEGRADE) | CONTENTS,
	[CP_DEST_RECEIVING] = PULSE | CONTENTS,
	[CP_DEST_COMPLETE]  = PULSE,
	[CP_DEST_SUSPECT]   = SAYS(HEARTBEAT),
	[CP_DEST_APPLYING]  = SAYS(HEARTBEAT),
	[CP_DEST_TAKEOVER]  = SAYS(HEARTBEAT),
	[CP_DEST_FENCED]    = SAYS(HEARTBEAT),
};
static_assert(COUNT_OF(dest_hears) == CP_DEST_STATE_COUNT, "a row for each state");

static const char *const dest_names[] = {
	[CP_DEST_SYNC]      = "sync",
	[CP_DEST_READY]     = "ready",
	[CP_DEST_RECEIVING] = "receiving",
	[CP_DEST_COMPLETE]  = "complete",
	[CP_DEST_SUSPECT]   = "suspect",
	[CP_DEST_APPLYING]  = "applying",
	[CP_DEST_TAKEOVER]  = "takeover",
	[CP_DEST_FENCED]    = "fenced",
};
static_assert(COUNT_OF(dest_names) == CP_DEST_STATE_COUNT, "a name for each state");
/* clang-format on */
#undef TO

bool cp_source_may(enum cp_source_state from, enum cp_source_state to)
{
	return source_next[from] >> to & 1;
}

bool cp_dest_may(enum cp_dest_state from, enum cp_dest_state to)
{
	return dest_next[from] >> to & 1;
}

void cp_source_move(enum cp_source_state *state, enum cp_source_state to)
{
	assert(cp_source_may(*state, to));
	__atomic_store_n(state, to, __ATOMIC_RELEASE);
}

void cp_dest_move(enum cp_dest_state *state, enum cp_dest_state to)
{
	assert(cp_dest_may(*state, to));
	__atomic_store_n(state, to, __ATOMIC_RELEASE);
}

bool cp_source_accepts(enum cp_source_state state, enum cp_kind kind)
{
	return source_hears[state] >> kind & 1;
}

bool cp_dest_accepts(enum cp_dest_state state, enum cp_kind kind)
{
	return dest_hears[state] >> kind & 1;
}

bool cp_source_holds(enum cp_source_state state)
{
	return source_holds[state];
}

bool cp_source_ended(enum cp_source_state state)
{
	return !source_next[state];
}

bool cp_dest_ended(enum cp_dest_state state)
{
	return !dest_next[state];
}

void cp_reason_set(struct wire_name *reason, const char *text)
{
	char line[256];
	size_t length = 0;

	for (; length < sizeof(line) - 1 && text[length]; length++)
		line[length] = (char)((unsigned char)text[length] < 0x20 ? '?' : text[length]);
	if (!length)
		line[length++] = '-';
	line[length] = '\0';
	wire_name_set(reason, line);
}

const char *cp_source_state_name(enum cp_source_state state)
{
	return source_names[state];
}

const char *cp_dest_state_name(enum cp_dest_state state)
{
	return dest_names[state];
}
