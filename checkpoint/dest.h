/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_DEST_H
#define CHECKPOINT_DEST_H

#include "checkpoint/source.h" /* struct cp_block */

/*
 * The side that would run the guest. An engine, as the source is.
 *
 * There are two places: one has the last complete checkpoint, as memory with it applied or
 * as its contents being put there; the other takes the next. What is complete is only ever
 * replaced by something complete: received to its last byte, of the right hash, unpacked. It
 * is acknowledged then and not before, and after the decision to run nothing is.
 *
 * The first checkpoint is all of memory and goes straight there. Behind DEGRADE the next is of any
 * size, comes in parts, and goes beside the last complete one; until it is complete nothing
 * is acknowledged, and what can be run from is that one, however old. The source's heart beats
 * all the while: it is not lost.
 */

enum cp_authority {
	CP_ASK,	       /* somebody says cp_dest_takeover(): the default */
	CP_ON_OUR_OWN, /* when the lease is over; right only if all output is held over there */
};

/**
 * struct cp_dest_ops - The world, as the engine sees it
 * @say:	A message for the source
 * @block:	A line of its list: memory as large, and of such pages, has to be here. 0 or a
 *		negative errno with a sentence
 * @entry:	These pages are part of what is coming, their contents among what PAGES bring, in
 *		order. 0, or a negative errno: no room for it (the checkpoint is refused). @full:
 *		in parts: the first straight into memory, a later one beside it
 * @verify:	All is here: unpack it, beside the last complete one, and look at the device
 *		state; then cp_dest_verified(). Not called while the last one is being applied
 * @drop:	What was on its way is not to be had
 * @keep:	What was verified is the last complete one now, and is to be put in place; then
 *		cp_dest_applied(). Cannot fail
 * @persist:	This generation has to outlive us. 0 or a negative errno with a sentence
 * @run:	The guest, from the last complete one, which is in place
 * @moved:	In another state now. NULL: nobody listens
 */
struct cp_dest_ops {
	int (*say)(void *world, struct cp_header *header, const struct cp_msg *msg,
		   struct wh_err *err);
	int (*block)(void *world, uint32_t index, const struct cp_block *block, struct wh_err *err);
	int (*entry)(void *world, const struct cp_entry *entry, bool full, struct wh_err *err);
	void (*verify)(void *world, uint64_t epoch, bool full);
	void (*drop)(void *world);
	void (*keep)(void *world, uint64_t epoch);
	int (*persist)(void *world, uint64_t generation, struct wh_err *err);
	void (*run)(void *world);
	void (*moved)(void *world, enum cp_dest_state from, enum cp_dest_state to);
};

struct cp_dest_settings {
	uint64_t generation;		   /* the last that was made lasting here; 0: none yet */
	uint64_t contents_max, device_max; /* bytes that there is room for */
	uint32_t features;
	enum cp_authority authority;
};

struct cp_dest {
	const struct cp_dest_ops *ops;
	void *world;
	struct cp_dest_settings set;
	enum cp_dest_state state;
	uint64_t generation; /* of the session; 0 before HELLO */
	uint64_t complete;   /* epoch that it could run from; 0: none */
	bool applying;	     /* it is not in place yet */
	bool verifying;	     /* the ops have been asked */
	bool refused;	     /* the rest of it is passed over, up to COMMIT or BEGIN */
	bool degraded;	     /* DEGRADE was said: the next comes in parts */
	uint64_t now_ns, heard_ns, said_ns;
	uint64_t heartbeat_ns, lease_ns;
	uint32_t features, block_count, blocks_seen;
	struct cp_block blocks[CP_BLOCKS_MAX];
	/* of the one on its way */
	bool full, begun;
	uint64_t epoch, entries, contents, described, device;
	uint64_t pages, pages_max;
	struct cp_hash hash;
	struct wh_err why; /* it is in SUSPECT or FENCED */
};

void cp_dest_init(struct cp_dest *dest, const struct cp_dest_ops *ops, void *world,
		  const struct cp_dest_settings *settings, uint64_t now_ns);

/**
 * cp_dest_message() - A message from the source, off either channel
 * @bytes:	Header and payload as they came, for the hash
 *
 * Of PAGES and DEVICE the caller has put the payload where it belongs before; it may call
 * cp_dest_expects() with the header alone to learn whether that is wise.
 *
 * Return: 0; -EPROTO or another negative errno with a sentence: the connection is to be given
 * up then, and cp_dest_lost() said; -ESTALE: the same, from a source that is fenced, and was
 * told so
 */
int cp_dest_message(struct cp_dest *dest, const struct cp_header *header, const uint8_t *bytes,
		    uint64_t now_ns, struct wh_err *err);

/* May this message come now, and its payload be taken? Return: as above; 1: take it and drop it */
int cp_dest_expects(struct cp_dest *dest, const struct cp_header *header, struct wh_err *err);

/* Ends of what the ops began. @why: it cannot be run from, and the source is told; or NULL */
void cp_dest_verified(struct cp_dest *dest, const struct wh_err *why, uint64_t now_ns);
void cp_dest_applied(struct cp_dest *dest, uint64_t now_ns);

void cp_dest_lost(struct cp_dest *dest, const struct wh_err *why, uint64_t now_ns);

/* Return: when it wants to be called again at the latest, UINT64_MAX: never */
uint64_t cp_dest_step(struct cp_dest *dest, uint64_t now_ns);

/*
 * Decisions. To run here, under a generation above that of the session; it is asked to be made
 * lasting first. Return: 0, or a negative errno and nothing has changed
 */
int cp_dest_takeover(struct cp_dest *dest, uint64_t generation, struct wh_err *err);
/* Never to run here. */
int cp_dest_abandon(struct cp_dest *dest, struct wh_err *err);

#endif /* CHECKPOINT_DEST_H */
