/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_GATE_H
#define NETPLUG_GATE_H

#include <stdint.h>
#include <wherry/err.h>
#include <wherry/netplug.h>

/*
 * Which epoch may be let go. An engine: whatever holds the packets is asked only for what the
 * gate has allowed, and the gate moves only when it has been done.
 *
 *	1 .. released   outside
 *	.. open - 1     closed: each waits for the acknowledgement of its own checkpoint
 *	open            what the guest sends
 */
struct gate {
	enum wh_netplug_state state;
	uint64_t open;
	uint64_t released;
	uint64_t closed_most; /* epochs that may be closed and not released; 0: any number */
};

/* What becomes of a release that is asked for */
enum gate_answer {
	GATE_YES,
	GATE_BEFORE, /* it is let go already */
	GATE_NO,     /* the sentence says why */
};

void gate_init(struct gate *gate, uint64_t closed_most);
/* Asserts that the move is one of the table */
void gate_move(struct gate *gate, enum wh_netplug_state state);

/* May it be done now? Return: 0, or a negative errno and a sentence */
int gate_may_arm(const struct gate *gate, struct wh_err *err);
int gate_may_turn(const struct gate *gate, uint64_t epoch, struct wh_err *err);
enum gate_answer gate_may_release(const struct gate *gate, uint64_t epoch, struct wh_err *err);

/* It was done */
void gate_armed(struct gate *gate);
void gate_turned(struct gate *gate);
void gate_released(struct gate *gate, uint64_t epoch);

#endif /* NETPLUG_GATE_H */
