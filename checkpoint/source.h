/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_SOURCE_H
#define CHECKPOINT_SOURCE_H

#include "checkpoint/pace.h"
#include "checkpoint/state.h"

/*
 * The protected guest's side. An engine: no descriptor, clock, thread or allocation; it meets
 * the world through struct cp_source_ops, and one thread is in it at a time.
 *
 * Epochs are numbered from 1. One is open while the guest runs; it is closed while the guest
 * stands still (turn), copied, sent, and acknowledged, and only then what the guest said in it
 * is let go (release). The next one is not closed before: whoever holds the output may be able
 * to tell two epochs apart and no more.
 *
 * What lets output go is an acknowledgement of that epoch, or that the destination provably
 * has nothing to run from, or somebody's decision: cp_source_release(). A lost peer is none
 * of these.
 *
 * What was written since the last acknowledged checkpoint only grows. So once there is no room for
 * it, it never fits again, and the engine is in DEGRADED: the epoch that is open, or closed
 * already, goes over in parts, as the first did, while the guest runs on and what it says is held;
 * the destination, which is told, keeps the last complete one beside it. When little is left
 * the guest is stopped as ever. An epoch that was closed stays so, since it is not released: what
 * is copied then knows more than the guest said in it, and only that is let go.
 */

struct cp_source;

/* What is to go over in parts */
enum cp_parts {
	CP_PARTS_NONE,	  /* no more, and those that went are given up */
	CP_PARTS_ALL,	  /* all of memory: nothing of it is known to be there */
	CP_PARTS_WRITTEN, /* what was written since the last acknowledged checkpoint */
	CP_PARTS_MORE,	  /* what is left: the stop came to nothing */
};

/**
 * struct cp_source_ops - The world, as the engine sees it
 * @say:	A message for the destination; heartbeats take their own channel
 * @hold:	From now on output is held; it is all of epoch 1
 * @turn:	The epoch ends here. The guest stands still. All interfaces or none: on an
 *		error none is turned
 * @release:	What belongs to this epoch and to those before may leave
 * @fence:	What is held is thrown away, and nothing leaves any more
 * @open:	What is held leaves, and nothing is held any more
 * @sync:	Send these parts while the guest runs, in place of what it was asked for before;
 *		BEGIN first, unless it is CP_PARTS_MORE. When what is left is small enough for
 *		a stop, cp_source_synced()
 * @stop:	The guest stands still, its devices as well; then cp_source_stopped()
 * @stage:	Copy what has changed since the last time, and the device state; then
 *		cp_source_staged(). The guest stands still
 * @resume:	The guest goes on
 * @send:	Send what was staged (behind parts: and no BEGIN), all but COMMIT; then
 *		cp_source_sent(). May be asked again for the same epoch, if that had no parts
 * @moved:	In another state now; for events and logs. NULL: nobody listens
 *
 * @hold to @open return 0 or a negative errno with a sentence. The others have no result:
 * what they start ends in the call that is named, at once or later.
 */
struct cp_source_ops {
	int (*say)(void *world, struct cp_header *header, const struct cp_msg *msg,
		   struct wh_err *err);
	int (*hold)(void *world, struct wh_err *err);
	int (*turn)(void *world, uint64_t epoch, struct wh_err *err);
	int (*release)(void *world, uint64_t epoch, struct wh_err *err);
	int (*fence)(void *world, struct wh_err *err);
	int (*open)(void *world, struct wh_err *err);
	void (*sync)(void *world, enum cp_parts parts);
	void (*stop)(void *world);
	void (*stage)(void *world, uint64_t epoch);
	void (*resume)(void *world);
	void (*send)(void *world, uint64_t epoch);
	void (*moved)(void *world, enum cp_source_state from, enum cp_source_state to);
};

struct cp_block {
	uint64_t length, page_size; /* bytes */
	struct wire_name name;
};

struct cp_source_settings {
	uint64_t generation; /* of this session, made lasting by the caller; over 0 */
	uint64_t heartbeat_ns;
	uint64_t lease_ns;  /* silent for longer: lost */
	uint64_t answer_ns; /* READY, ACK and BYE_ACK are not waited for longer; over 0 */
	uint64_t contents_max, device_max; /* bytes, of one checkpoint */
	uint64_t held_max; /* bytes of output that may wait; the guest stands still above it */
	bool held_told;	   /* by cp_source_held(): where none waits the next stop has time */
	bool full_stalls;  /* ... and where it has written too much; else it runs on */
	uint32_t features;
	struct cp_pace_settings pace;
};

/* What the engine has seen; written by it only. */
struct cp_source_figures {
	uint64_t checkpoints;	  /* acknowledged */
	uint64_t refused;	  /* by NACK, or since the epoch could not be closed */
	uint64_t stop_ns, ack_ns; /* of the last one */
	uint64_t acked_at_ns;
};

struct cp_source {
	const struct cp_source_ops *ops;
	void *world;
	struct cp_source_settings set;
	const struct cp_block *blocks;
	uint32_t block_count;
	enum cp_source_state state;
	enum {
		CP_GUEST_RUNS,
		CP_GUEST_STOPPING,
		CP_GUEST_STANDS
	} guest;
	bool stalled;	/* more is held than may be */
	bool full;	/* most of what there is room for is written, and that is to wait */
	bool degraded;	/* from DEGRADED on until one is acknowledged */
	bool closed;	/* the epoch is */
	bool leave;	/* asked to end in order */
	bool committed; /* COMMIT of epoch 1 was said: it may run over there from now on */
	bool refused;	/* NACK came while it was being sent */
	bool fence_due, open_due; /* could not be done yet */
	unsigned tries;		  /* of this epoch */
	uint64_t epoch;		  /* open, or being closed */
	uint64_t release_due;	  /* acknowledged and not let go yet; 0: none */
	uint64_t now_ns, heard_ns, said_ns;
	uint64_t stop_due_ns, stopped_ns, resumed_ns;
	uint64_t ran_ns;	/* from the stop before to the last one */
	uint64_t idle_ns;	/* the stop is due so much later while nothing waits */
	bool waits;		/* output does, */
	uint64_t since_ns;	/* not longer than from here on */
	uint64_t answer_due_ns; /* UINT64_MAX: nothing is waited for */
	uint64_t parts_due_ns;	/* all is sent again; UINT64_MAX: not */
	struct cp_pace pace;
	struct cp_source_figures figures;
	struct wh_err why; /* it is in DEGRADED, HOLD, FENCED or RELEASED */
};

/* In IDLE, the guest running. Blocks (at most CP_BLOCKS_MAX) and ops outlive it. */
void cp_source_init(struct cp_source *source, const struct cp_source_ops *ops, void *world,
		    const struct cp_source_settings *settings, const struct cp_block *blocks,
		    uint32_t block_count);

/* There is a connection: begin. */
void cp_source_start(struct cp_source *source, uint64_t now_ns);

/* Ends of what the ops began. @why: it could not be; -ENOSPC: it is too much for one; or NULL */
void cp_source_synced(struct cp_source *source, uint64_t now_ns);
void cp_source_stopped(struct cp_source *source, uint64_t now_ns);
void cp_source_staged(struct cp_source *source, const struct wh_err *why, uint64_t now_ns);
/* @totals: of all the messages from BEGIN on */
void cp_source_sent(struct cp_source *source, const struct cp_msg *totals, uint64_t now_ns);

/**
 * cp_source_message() - A message from the destination, off either channel
 *
 * Return: 0, or -EPROTO with a sentence; the connection is to be given up then, and
 * cp_source_lost() said, as after any error of the link
 */
int cp_source_message(struct cp_source *source, const struct cp_header *header,
		      const struct cp_msg *msg, uint64_t now_ns, struct wh_err *err);

/* The connection is gone, or given up. */
void cp_source_lost(struct cp_source *source, const struct wh_err *why, uint64_t now_ns);

/* As much output is held now: before and after each release, and when it grows. */
void cp_source_held(struct cp_source *source, uint64_t bytes);

/* A stop now would have as many bytes of pages: while it runs, now and then */
void cp_source_written(struct cp_source *source, uint64_t bytes, uint64_t now_ns);

/* The guest stands still since too much waits or is written */
bool cp_source_stalls(const struct cp_source *source);

/* A new pace, from the next checkpoint on */
void cp_source_pace(struct cp_source *source, const struct cp_pace_settings *pace);

/**
 * cp_source_step() - What time brings
 *
 * Return: when it wants to be called again at the latest, UINT64_MAX: never
 */
uint64_t cp_source_step(struct cp_source *source, uint64_t now_ns);

/* Decisions. End in order: the destination forgets the guest, then it goes on unprotected. */
int cp_source_leave(struct cp_source *source, uint64_t now_ns, struct wh_err *err);
/* The other side does not run and never will: it goes on here. In HOLD only. */
int cp_source_release(struct cp_source *source, struct wh_err *err);
/* The other side runs, or will. In HOLD and wherever output is held. */
int cp_source_fence(struct cp_source *source, struct wh_err *err);

#endif /* CHECKPOINT_SOURCE_H */
