/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_STATE_H
#define CHECKPOINT_STATE_H

#include "wire/checkpoint.h"

#include <stdbool.h>

/*
 * Where the two ends of a protected guest can be, what leads where, what the peer may say
 * there, and what may happen to output that is held. A wrong move is our own bug and
 * asserts; a wrong message is -EPROTO. Documentation/checkpoint.rst is printed from these
 * tables by a test.
 */

enum cp_source_state {
	CP_SOURCE_IDLE,	    /* not protected, nothing is held */
	CP_SOURCE_SYNC,	    /* all of memory goes over while the guest runs; nothing is held */
	CP_SOURCE_ARMED,    /* held from here on; the first stop is to come */
	CP_SOURCE_RUN,	    /* all that was closed is acknowledged; the next stop is to come */
	CP_SOURCE_STOP,	    /* the guest is asked to stand still */
	CP_SOURCE_STAGE,    /* it does; the epoch is closed, its pages are being copied */
	CP_SOURCE_SEND,	    /* it runs again; the copy goes over */
	CP_SOURCE_WAIT_ACK, /* all of it is on its way, COMMIT is said */
	CP_SOURCE_DEGRADED, /* more is written than one has room for: it goes over in parts */
	CP_SOURCE_LEAVING,  /* BYE is said */
	CP_SOURCE_HOLD,	    /* the peer is lost; somebody has to decide */
	CP_SOURCE_FENCED,   /* the guest is the other side's: nothing leaves from here */
	CP_SOURCE_RELEASED, /* the guest is ours and goes on without protection */
	CP_SOURCE_STATE_COUNT
};

enum cp_dest_state {
	CP_DEST_SYNC,	   /* no complete checkpoint yet: there is nothing to run from */
	CP_DEST_READY,	   /* one is complete, none is on its way */
	CP_DEST_RECEIVING, /* one is complete, the next is on its way */
	CP_DEST_COMPLETE,  /* the next is here as well, and being looked at */
	CP_DEST_SUSPECT,   /* the peer is lost; what was on its way is dropped */
	CP_DEST_APPLYING,  /* to run: the last complete one is being put in place */
	CP_DEST_TAKEOVER,  /* the guest runs here, and nowhere else is it seen */
	CP_DEST_FENCED,	   /* the guest is the other side's: it never runs here */
	CP_DEST_STATE_COUNT
};

bool cp_source_may(enum cp_source_state from, enum cp_source_state to);
bool cp_dest_may(enum cp_dest_state from, enum cp_dest_state to);
/* Assert that it may */
void cp_source_move(enum cp_source_state *state, enum cp_source_state to);
void cp_dest_move(enum cp_dest_state *state, enum cp_dest_state to);

/* May the peer say this now? */
bool cp_source_accepts(enum cp_source_state state, enum cp_kind kind);
bool cp_dest_accepts(enum cp_dest_state state, enum cp_kind kind);

/* Output is held there: it leaves by an acknowledgement or a decision only */
bool cp_source_holds(enum cp_source_state state);
/* Nothing leads out of it */
bool cp_source_ended(enum cp_source_state state);
bool cp_dest_ended(enum cp_dest_state state);

/* Why, as a message has it: not empty, no control characters */
void cp_reason_set(struct wire_name *reason, const char *text);

const char *cp_source_state_name(enum cp_source_state state);
const char *cp_dest_state_name(enum cp_dest_state state);

#endif /* CHECKPOINT_STATE_H */
