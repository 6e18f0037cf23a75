/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_RUN_DEST_H
#define CHECKPOINT_RUN_DEST_H

#include "checkpoint/run_rdma.h"
#include "checkpoint/store.h"

#define DEST_IN_BYTES ((size_t)2 << 20) /* a message and what comes behind it */
#define DEST_PULSE_BYTES ((size_t)4096)

/* run_dest.c and run_admit.c */
struct protect_dest {
	struct wh_protect *p;
	struct cp_dest engine;
	struct cp_store *store;
	struct dest_listener {
		struct wh_protect *p;
		struct listener at;
		struct pier_listener pier;
	} listener[LINK_COUNT];
	unsigned listeners;
	struct protect_pending pending[PENDING_MAX];

	/* what the engine asks for */
	bool verify_due, apply_due, run_due, running;
	bool full;
	uint64_t fence_at_ns; /* fence_peer is asked; UINT64_MAX: not again */
	uint64_t hello_ns;
	uint64_t bytes, checkpoints, refused;
	uint64_t kept_at_ns;
	uint64_t coming_bytes, coming_wire, dirty_bytes, wire_bytes;
};

/* run_admit.c */
int admit_listen(struct protect_dest *side, const struct uri *uri, unsigned count,
		 struct wh_err *err);
/* HELLO was taken: whose pulse has come already? */
void admit_session(struct protect_dest *side);
/* The guest runs here: those who wait for that are told */
void admit_notice(struct protect_dest *side);
/* Who has said nothing for too long. Return: when to look again */
uint64_t admit_turn(struct protect_dest *side, uint64_t now_ns);
void admit_stop(struct protect_dest *side);
/* The loop is closed */
void admit_free(struct protect_dest *side);

#endif /* CHECKPOINT_RUN_DEST_H */
