/* SPDX-License-Identifier: MIT */
#include "postcopy/phase.h"

#include "base/trace.h"

#include <assert.h>

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))
#define TO(phase) (UINT32_C(1) << PHASE(phase))
#define SAYS(kind) (UINT32_C(1) << KIND(kind))

/*
 * The source. What can still be undone is said beside the move that ends it.
 */
#define PHASE(phase) SOURCE_##phase
#define KIND(kind) RP_##kind

/* clang-format off */
static const uint32_t source_phase_next[] = {
	[SOURCE_SETUP]      = TO(PRECOPY) | TO(FAILED) | TO(CANCELLED),
	/* the guest runs here: whatever happens, it goes on doing so */
	[SOURCE_PRECOPY]    = TO(SWITCHOVER) | TO(FAILED) | TO(CANCELLED),
	/* paused here, and it can be resumed: the destination lacks what makes it start */
	[SOURCE_SWITCHOVER] = TO(HANDOVER) | TO(POSTCOPY) | TO(FAILED) | TO(CANCELLED),
	/* the destination may have the end mark, and start: only its word resumes the guest */
	[SOURCE_HANDOVER]   = TO(DONE) | TO(FAILED) | TO(UNKNOWN),
	/* the destination may have the package, and start: never to be resumed here */
	[SOURCE_POSTCOPY]   = TO(ENDING) | TO(PAUSED),
	[SOURCE_ENDING]     = TO(DONE) | TO(PAUSED),
	[SOURCE_PAUSED]     = TO(RECOVER),
	[SOURCE_RECOVER]    = TO(POSTCOPY) | TO(PAUSED),
	[SOURCE_DONE]       = 0,
	[SOURCE_FAILED]     = 0,
	[SOURCE_UNKNOWN]    = 0,
	[SOURCE_CANCELLED]  = 0,
};
static_assert(COUNT_OF(source_phase_next) == SOURCE_PHASE_COUNT, "a row for each phase");

/*
 * SHUT with an error may come whenever there is a return path; SHUT 0 makes sense in
 * HANDOVER and ENDING only, which is looked at where the value is. SWITCHOVER_ACK is
 * said unasked by a destination set to it, and changes nothing here. RECV_BITMAP and
 * RESUME_ACK answer commands of a connection that resumes; pages are asked for behind
 * RESUME_ACK only.
 */
static const uint32_t source_phase_hears[] = {
	[SOURCE_SETUP]      = 0,
	[SOURCE_PRECOPY]    = SAYS(SHUT) | SAYS(PONG) | SAYS(SWITCHOVER_ACK),
	[SOURCE_SWITCHOVER] = SAYS(SHUT) | SAYS(PONG) | SAYS(SWITCHOVER_ACK),
	[SOURCE_HANDOVER]   = SAYS(SHUT) | SAYS(PONG),
	[SOURCE_POSTCOPY]   = SAYS(SHUT) | SAYS(PONG) | SAYS(REQ_PAGES_ID) | SAYS(REQ_PAGES),
	[SOURCE_ENDING]     = SAYS(SHUT) | SAYS(PONG) | SAYS(REQ_PAGES_ID) | SAYS(REQ_PAGES),
	[SOURCE_PAUSED]     = 0,
	[SOURCE_RECOVER]    = SAYS(RECV_BITMAP) | SAYS(RESUME_ACK) | SAYS(WHERRY_HELLO),
	[SOURCE_DONE]       = 0,
	[SOURCE_FAILED]     = 0,
	[SOURCE_UNKNOWN]    = 0,
	[SOURCE_CANCELLED]  = 0,
};
static_assert(COUNT_OF(source_phase_hears) == SOURCE_PHASE_COUNT, "a row for each phase");

static const char *const source_phase_names[] = {
	[SOURCE_SETUP]      = "setup",
	[SOURCE_PRECOPY]    = "precopy",
	[SOURCE_SWITCHOVER] = "switchover",
	[SOURCE_HANDOVER]   = "handover",
	[SOURCE_POSTCOPY]   = "postcopy",
	[SOURCE_ENDING]     = "ending",
	[SOURCE_PAUSED]     = "paused",
	[SOURCE_RECOVER]    = "recover",
	[SOURCE_DONE]       = "done",
	[SOURCE_FAILED]     = "failed",
	[SOURCE_UNKNOWN]    = "unknown",
	[SOURCE_CANCELLED]  = "cancelled",
};
static_assert(COUNT_OF(source_phase_names) == SOURCE_PHASE_COUNT, "a name for each phase");

static const enum wh_phase source_phase_publics[] = {
	[SOURCE_SETUP]      = WH_PHASE_SETUP,
	[SOURCE_PRECOPY]    = WH_PHASE_PRECOPY,
	[SOURCE_SWITCHOVER] = WH_PHASE_SWITCHOVER,
	[SOURCE_HANDOVER]   = WH_PHASE_SWITCHOVER,
	[SOURCE_POSTCOPY]   = WH_PHASE_POSTCOPY,
	[SOURCE_ENDING]     = WH_PHASE_POSTCOPY,
	[SOURCE_PAUSED]     = WH_PHASE_PAUSED,
	[SOURCE_RECOVER]    = WH_PHASE_RECOVER,
	[SOURCE_DONE]       = WH_PHASE_DONE,
	[SOURCE_FAILED]     = WH_PHASE_FAILED,
	[SOURCE_UNKNOWN]    = WH_PHASE_UNKNOWN,
	[SOURCE_CANCELLED]  = WH_PHASE_CANCELLED,
};
static_assert(COUNT_OF(source_phase_publics) == SOURCE_PHASE_COUNT, "each phase is shown");
/* clang-format on */

#undef KIND
#undef PHASE

/*
 * The destination.
 */
#define PHASE(phase) DEST_##phase
#define KIND(kind) CMD_##kind

/* clang-format off */
static const uint32_t dest_phase_next[] = {
	/* PAUSED: the guest of another engine, which has died */
	[DEST_SETUP]     = TO(PRECOPY) | TO(FAILED) | TO(PAUSED),
	[DEST_PRECOPY]   = TO(ADVISED) | TO(LOADING) | TO(FAILED),
	/* postcopy may come, or the source finishes before it does */
	[DEST_ADVISED]   = TO(DISCARD) | TO(LISTENING) | TO(LOADING) | TO(FAILED),
	[DEST_DISCARD]   = TO(LISTENING) | TO(FAILED),
	/* nothing has run yet: a failure loses nothing that was not at the source */
	[DEST_LISTENING] = TO(RUNNING) | TO(FAILED),
	[DEST_LOADING]   = TO(DONE) | TO(FAILED),
	/* the guest runs here and nowhere else: never failed from here on, only paused */
	[DEST_RUNNING]   = TO(ENDING) | TO(PAUSED),
	[DEST_ENDING]    = TO(DONE) | TO(PAUSED),
	[DEST_PAUSED]    = TO(RECOVER),
	[DEST_RECOVER]   = TO(RUNNING) | TO(PAUSED),
	[DEST_DONE]      = 0,
	[DEST_FAILED]    = 0,
};
static_assert(COUNT_OF(dest_phase_next) == DEST_PHASE_COUNT, "a row for each phase");

/*
 * LISTEN and RUN come inside of a package only; the phase they are said in is that
 * before they take effect. ENABLE_COLO is not spoken here, and POSTCOPY_RESUME and
 * RECV_BITMAP belong to a connection that resumes.
 */
static const uint32_t dest_phase_hears[] = {
	[DEST_SETUP]     = 0,
	[DEST_PRECOPY]   = SAYS(OPEN_RETURN_PATH) | SAYS(PING) | SAYS(POSTCOPY_ADVISE) |
			   SAYS(SWITCHOVER_START),
	[DEST_ADVISED]   = SAYS(OPEN_RETURN_PATH) | SAYS(PING) | SAYS(POSTCOPY_RAM_DISCARD) |
			   SAYS(PACKAGED) | SAYS(POSTCOPY_LISTEN) | SAYS(SWITCHOVER_START) |
			   SAYS(WHERRY_ID),
	[DEST_DISCARD]   = SAYS(PING) | SAYS(POSTCOPY_RAM_DISCARD) | SAYS(PACKAGED) |
			   SAYS(POSTCOPY_LISTEN) | SAYS(WHERRY_ID),
	[DEST_LISTENING] = SAYS(PING) | SAYS(POSTCOPY_RUN),
	[DEST_LOADING]   = 0,
	[DEST_RUNNING]   = SAYS(PING),
	[DEST_ENDING]    = 0,
	[DEST_PAUSED]    = 0,
	[DEST_RECOVER]   = SAYS(RECV_BITMAP) | SAYS(POSTCOPY_RESUME) | SAYS(WHERRY_HELLO) |
			   SAYS(WHERRY_PROOF),
	[DEST_DONE]      = 0,
	[DEST_FAILED]    = 0,
};
static_assert(COUNT_OF(dest_phase_hears) == DEST_PHASE_COUNT, "a row for each phase");

/* In ENDING they come on the urgent channel: the main one has had its EOF. */
static const bool dest_phase_pages[] = {
	[DEST_SETUP]     = false,
	[DEST_PRECOPY]   = true,
	[DEST_ADVISED]   = true,
	[DEST_DISCARD]   = false,
	[DEST_LISTENING] = true,
	[DEST_LOADING]   = false,
	[DEST_RUNNING]   = true,
	[DEST_ENDING]    = true,
	[DEST_PAUSED]    = false,
	[DEST_RECOVER]   = false,
	[DEST_DONE]      = false,
	[DEST_FAILED]    = false,
};
static_assert(COUNT_OF(dest_phase_pages) == DEST_PHASE_COUNT, "yes or no for each phase");

static const char *const dest_phase_names[] = {
	[DEST_SETUP]     = "setup",
	[DEST_PRECOPY]   = "precopy",
	[DEST_ADVISED]   = "advised",
	[DEST_DISCARD]   = "discard",
	[DEST_LISTENING] = "listening",
	[DEST_LOADING]   = "loading",
	[DEST_RUNNING]   = "running",
	[DEST_ENDING]    = "ending",
	[DEST_PAUSED]    = "paused",
	[DEST_RECOVER]   = "recover",
	[DEST_DONE]      = "done",
	[DEST_FAILED]    = "failed",
};
static_assert(COUNT_OF(dest_phase_names) == DEST_PHASE_COUNT, "a name for each phase");

static const enum wh_phase dest_phase_publics[] = {
	[DEST_SETUP]     = WH_PHASE_SETUP,
	[DEST_PRECOPY]   = WH_PHASE_PRECOPY,
	[DEST_ADVISED]   = WH_PHASE_PRECOPY,
	[DEST_DISCARD]   = WH_PHASE_SWITCHOVER,
	[DEST_LISTENING] = WH_PHASE_SWITCHOVER,
	[DEST_LOADING]   = WH_PHASE_SWITCHOVER,
	[DEST_RUNNING]   = WH_PHASE_POSTCOPY,
	[DEST_ENDING]    = WH_PHASE_POSTCOPY,
	[DEST_PAUSED]    = WH_PHASE_PAUSED,
	[DEST_RECOVER]   = WH_PHASE_RECOVER,
	[DEST_DONE]      = WH_PHASE_DONE,
	[DEST_FAILED]    = WH_PHASE_FAILED,
};
static_assert(COUNT_OF(dest_phase_publics) == DEST_PHASE_COUNT, "each phase is shown");
/* clang-format on */

#undef KIND
#undef PHASE

bool source_phase_may(enum source_phase from, enum source_phase to)
{
	return source_phase_next[from] >> to & 1;
}

bool dest_phase_may(enum dest_phase from, enum dest_phase to)
{
	return dest_phase_next[from] >> to & 1;
}

bool source_phase_ended(enum source_phase phase)
{
	return !source_phase_next[phase];
}

bool dest_phase_ended(enum dest_phase phase)
{
	return !dest_phase_next[phase];
}

void source_phase_move(enum source_phase *phase, enum source_phase to)
{
	enum source_phase from = __atomic_load_n(phase, __ATOMIC_RELAXED);

	assert(source_phase_may(from, to));
	trace(phase_move, WH_SOURCE, from, to);
	__atomic_store_n(phase, to, __ATOMIC_RELEASE);
}

void dest_phase_move(enum dest_phase *phase, enum dest_phase to)
{
	enum dest_phase from = __atomic_load_n(phase, __ATOMIC_RELAXED);

	assert(dest_phase_may(from, to));
	trace(phase_move, WH_DEST, from, to);
	__atomic_store_n(phase, to, __ATOMIC_RELEASE);
}

bool source_phase_accepts(enum source_phase phase, enum rp_kind kind)
{
	return source_phase_hears[phase] >> kind & 1;
}

bool dest_phase_accepts(enum dest_phase phase, enum cmd_kind kind)
{
	return dest_phase_hears[phase] >> kind & 1;
}

bool dest_phase_accepts_pages(enum dest_phase phase)
{
	return dest_phase_pages[phase];
}

const char *source_phase_name(enum source_phase phase)
{
	return source_phase_names[phase];
}

const char *dest_phase_name(enum dest_phase phase)
{
	return dest_phase_names[phase];
}

enum wh_phase source_phase_public(enum source_phase phase)
{
	return source_phase_publics[phase];
}

enum wh_phase dest_phase_public(enum dest_phase phase)
{
	return dest_phase_publics[phase];
}
