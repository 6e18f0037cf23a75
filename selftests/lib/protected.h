/* SPDX-License-Identifier: MIT */
#ifndef LIB_PROTECTED_H
#define LIB_PROTECTED_H

#include "selftests/lib/speaker.h"

/*
 * Both ends of a protection in one process, over unix sockets, for a speaker. Whoever wants
 * something else than the usual changes the configurations between protected_init() and
 * protected_start().
 */
struct protected
{
	struct speaker guest;	/* at the source */
	struct speaker replica; /* at the destination; stands still, also when it is told to run */
	struct speaker_world own, *world;
	struct wh_protect_config source_config, dest_config;
	struct wh_protect_callbacks source_calls, dest_calls;
	struct wh_netplug *plug;
	struct wh_protect *source, *dest;
	char folder[64];
	char uri[128], generation[2][128]; /* of the source, of the destination */
	const char *to;			   /* where the source connects; NULL: to the destination */
	const char *pulse_at; /* the destination listens for heartbeats; NULL: with the rest */
	const char *pulse_to; /* the source connects there; NULL: as for the rest */
	uint64_t holder_ns; /* another holds, of the folder's name, and answers within that; 0: not */

	/* atomic, all of them */
	unsigned check_ms;  /* the destination looks at each checkpoint for so long */
	unsigned fails;	    /* so often the source's guest cannot be stopped */
	bool ran;	    /* the replica was told to */
	bool mismatch;	    /* and its device state is not of its memory */
	uint64_t states[2]; /* that were seen, a bit each */
};

enum {
	PROTECTED_SOURCE,
	PROTECTED_DEST,
};

/* @world: NULL: one of its own */
void protected_init(struct protected *pair, uint64_t pages, struct speaker_world *world);
/* It listens, without a thread. Return: 0, or a negative errno and a sentence, as all of them */
int protected_prepare_dest(struct protected *pair, struct wh_err *err);
int protected_start_dest(struct protected *pair, struct wh_err *err);
int protected_start_source(struct protected *pair, struct wh_err *err);
int protected_start(struct protected *pair, struct wh_err *err);
void protected_fini(struct protected *pair);

/* Is it there within 25 seconds? */
bool protected_comes_to(struct wh_protect *protect, enum wh_protect_state state);
/* So many more checkpoints within that time? */
bool protected_goes_on(struct wh_protect *protect, uint64_t checkpoints);
enum wh_protect_state protected_state(struct wh_protect *protect);

#endif /* LIB_PROTECTED_H */
