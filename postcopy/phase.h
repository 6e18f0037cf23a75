/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_PHASE_H
#define POSTCOPY_PHASE_H

#include "wire/command.h"
#include "wire/return_path.h"

#include <wherry/migration.h>

/*
 * One table for each end: where it can go from where, and what the peer may say
 * there. A wrong move is our own bug and asserts; a wrong message is -EPROTO.
 * Documentation/phases.rst is printed from these tables by a test.
 */

enum source_phase {
	SOURCE_SETUP, /* not connected */
	SOURCE_PRECOPY,
	SOURCE_SWITCHOVER, /* guest paused, last pages or discards and package under way */
	SOURCE_HANDOVER,   /* precopy: from the first byte of the end mark on; SHUT decides */
	SOURCE_POSTCOPY,   /* from the first byte of the package on: no way back */
	SOURCE_ENDING,	   /* postcopy: all is handed out, waiting for SHUT */
	SOURCE_PAUSED,
	SOURCE_RECOVER, /* connected again: which pages are missing? */
	SOURCE_DONE,
	SOURCE_FAILED,
	SOURCE_UNKNOWN,
	SOURCE_CANCELLED,
	SOURCE_PHASE_COUNT
};

enum dest_phase {
	DEST_SETUP, /* nobody has connected */
	DEST_PRECOPY,
	DEST_ADVISED, /* postcopy may come: RAM was dropped, no huge pages */
	DEST_DISCARD,
	DEST_LISTENING, /* userfaultfd armed, device state being loaded */
	DEST_LOADING,	/* precopy: device state being loaded */
	DEST_RUNNING,	/* postcopy, the guest runs */
	DEST_ENDING,	/* EOF is in, last pages on the urgent channel */
	DEST_PAUSED,
	DEST_RECOVER, /* connected again, the source is told what is missing */
	DEST_DONE,
	DEST_FAILED,
	DEST_PHASE_COUNT
};

bool source_phase_may(enum source_phase from, enum source_phase to);
bool dest_phase_may(enum dest_phase from, enum dest_phase to);
/* Asserts that it may; release for readers on other threads */
void source_phase_move(enum source_phase *phase, enum source_phase to);
void dest_phase_move(enum dest_phase *phase, enum dest_phase to);

/* May the peer say this now? */
bool source_phase_accepts(enum source_phase phase, enum rp_kind kind);
bool dest_phase_accepts(enum dest_phase phase, enum cmd_kind kind);
/* May pages come? */
bool dest_phase_accepts_pages(enum dest_phase phase);

/* Nothing leads out of it */
bool source_phase_ended(enum source_phase phase);
bool dest_phase_ended(enum dest_phase phase);

const char *source_phase_name(enum source_phase phase);
const char *dest_phase_name(enum dest_phase phase);
enum wh_phase source_phase_public(enum source_phase phase);
enum wh_phase dest_phase_public(enum dest_phase phase);

#endif /* POSTCOPY_PHASE_H */
