/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_RUN_SOURCE_H
#define CHECKPOINT_RUN_SOURCE_H

#include "checkpoint/run_rdma.h"
#include "checkpoint/stage.h"
#include "uffd/dirty.h"

/* Messages that one send takes; a small checkpoint is one send */
#define SOURCE_OUTS 4u

/* Slabs that are registered with the ring, by their places in its table: run_slots.c */
struct source_slots {
	bool on;   /* the connection is one where that is of use */
	bool full; /* no more of them may be registered now */
	bool said;
	unsigned used;	/* places that are or were taken */
	unsigned there; /* atomic */
	uint64_t bytes; /* atomic: sent from there */
	uint8_t *at[1024];
};

/* run_source.c, run_copy.c, run_slots.c and run_plug.c */
struct protect_source {
	struct wh_protect *p;
	struct cp_source engine;
	struct uri uri[LINK_COUNT];
	struct source_dial {
		struct wh_protect *p;
		struct dial dial;
		struct pier *pier; /* over RDMA, not connected perhaps */
		int fd;		   /* connected, and the other is not yet; -1 */
	} dial[LINK_COUNT];
	uint64_t dial_again_ns; /* in HOLD */
	uint64_t linger_ns; /* until then the last word may leave a connection that is given up */
	bool given_up;	    /* before there was a session */

	/* what the engine asks for */
	bool stop_due, stage_due, send_due, acked_due, resume_due;
	uint64_t retry_ns; /* of stop and resume, where the VMM could not */
	uint64_t pause_ns, resume_ns;
	uint64_t stop_ns, stop_max_ns, stop_sum_ns;

	/* run_copy.c */
	struct cp_stage *stage;
	struct dirty_log log;
	struct cow *cow; /* NULL: the guest stands still while it is copied */
	bool logging, own_log;
	enum source_sending {
		SENDING_NOTHING,
		SENDING_PART, /* of the first */
		SENDING_EPOCH,
	} sending;
	bool drained;	 /* the last piece is given to the link */
	bool syncing;	 /* in parts */
	bool again, all; /* they begin anew; with all of memory */
	unsigned rounds;
	uint64_t packed_epoch;
	bool ahead; /* of the next stop it was looked, and much was copied */
	uint64_t looked_ns;
	uint64_t dirty_bytes, wire_bytes, bytes;
	struct cp_out out[SOURCE_OUTS];
	struct source_slots slots;

	/* run_plug.c */
	struct op plug_poll;
	bool plug_ready, plug_look;
	int plug_said; /* why letting go or fencing failed last; 0: it did not */
	uint64_t plug_look_ns;
	struct wh_netplug_status held;
};

/* run_plug.c: as in struct cp_source_ops */
int source_hold(void *world, struct wh_err *err);
int source_turn_epoch(void *world, uint64_t epoch, struct wh_err *err);
int source_release(void *world, uint64_t epoch, struct wh_err *err);
int source_fence(void *world, struct wh_err *err);
int source_open(void *world, struct wh_err *err);
/* Packets that wait, and how many there are. Return: when to look again */
uint64_t source_plug_turn(struct protect_source *side, uint64_t now_ns);

/* run_slots.c */
struct slab_watch source_slots_watch(struct protect_source *side);
/* Contents go there, and no slab has been made */
void source_slots_begin(struct protect_source *side, int fd);

/* run_copy.c */
int source_copy_new(struct protect_source *side, struct wh_err *err);
void source_copy_free(struct protect_source *side);
/* As in struct cp_source_ops */
void source_copy_sync(void *world, enum cp_parts parts);
/* It will soon */
void source_copy_prepare(struct protect_source *side);
/* The guest stands still */
void source_copy_stage(struct protect_source *side);
void source_copy_send(struct protect_source *side);
void source_copy_acked(struct protect_source *side);
/* How much is written by now. Return: when to be called again */
uint64_t source_copy_watch(struct protect_source *side, uint64_t now_ns);
/* What was given to the link is on its way. Return: there is more to be done at once */
bool source_copy_turn(struct protect_source *side);

#endif /* CHECKPOINT_RUN_SOURCE_H */
