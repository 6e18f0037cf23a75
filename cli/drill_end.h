/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_END_H
#define CLI_DRILL_END_H

#include "cli/drill_files.h"
#include "cli/drill_guest.h"

/*
 * One end of the migration: a process that does as it is told over a socket of whole
 * messages, and tells what happens.
 */

enum drill_what {
	DRILL_LISTEN,	/* uri -> where it listens */
	DRILL_CONNECT,	/* uri */
	DRILL_SWITCH,	/* wh_start_postcopy() */
	DRILL_DO_PAUSE, /* wh_pause() */
	DRILL_DO_CANCEL,
	DRILL_RECOVER, /* uri -> where it listens */
	DRILL_RESUME,  /* uri */
	DRILL_VERIFY,  /* -> wrong pages */
	DRILL_QUIT,
	DRILL_GONE, /* no order: the QEMU has ended by itself, how is in the text */
	DRILL_NOTHING
};

struct drill_order {
	enum drill_what what;
	char uri[DRILL_URI];
};

/**
 * struct drill_note - What an end says
 * @what:	The order that this answers; DRILL_NOTHING: a phase
 * @result:	0 or a negative errno; a number, of DRILL_VERIFY
 */
struct drill_note {
	enum drill_what what;
	enum wh_phase phase;
	int64_t result;
	struct wh_stats stats;
	char text[WH_ERR_TEXT];
};

/* In a process of its own; does not return. @agent: where one waits, if one is planned */
void drill_end_main(const struct drill_plan *plan, enum drill_side side,
		    const struct drill_files *files, const char *agent, struct drill_shared *shared,
		    int fd) __attribute__((noreturn));

#endif /* CLI_DRILL_END_H */
