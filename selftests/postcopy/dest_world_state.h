/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_DEST_WORLD_STATE_H
#define SELFTESTS_POSTCOPY_DEST_WORLD_STATE_H

/* What a world made of arrays knows, and has seen: dest_world.h. */
#include "base/bits.h"
#include "base/err.h"
#include "postcopy/dest.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WORLD_SENT 256u
#define WORLD_MOVES 16u
#define WORLD_STEPS 64u
#define WORLD_CALLS 1024u
#define WORLD_STAGE (UINT64_C(2) << 20)
#define WORLD_DEVICE (UINT64_C(1) << 20)
#define HUGE_PAGE (UINT64_C(2) << 20)

#define UNUSED __attribute__((unused))

enum {
	RAM,
	HUGE,
	ROM,
	WORLD_BLOCKS,
	WORLD_ROOM = 16 /* for those of others */
};

/* What place(), zero() are to answer; after the last they do what they are for */
struct world_step {
	enum placed outcome;
	uint64_t done; /* bytes that are placed all the same */
};

/* One call of place(), zero(), wake() or discard() */
struct world_call {
	char what; /* p z w d */
	enum channel channel;
	unsigned block;
	uint64_t offset;
	uint64_t length;
	bool wake;
	enum placed outcome;
};

struct world {
	struct dest dest;
	struct region region[WORLD_ROOM];
	uint64_t *present[WORLD_ROOM]; /* what is there, once armed */
	uint64_t *bitmaps[WORLD_ROOM];
	unsigned block_of[WORLD_ROOM]; /* engine's block to region */
	unsigned known;
	uint8_t *stage[CHANNEL_COUNT];
	bool alias;   /* room() is guest memory itself, as with a second mapping */
	bool removes; /* with hold() and its lock */
	bool threads; /* several are in here: keep no record of calls */
	bool armed;
	pthread_mutex_t gate;
	pthread_mutex_t lock;

	struct world_step step[WORLD_STEPS];
	unsigned steps, step_at;
	unsigned chaos, chaos_calls; /* every so many calls the map is changing */
	struct world_call call[WORLD_CALLS];
	unsigned calls;
	struct rp_msg sent[WORLD_SENT]; /* the last ones */
	unsigned sents;
	bool shut;
	void (*before_put)(struct world *w); /* once, within place() or zero() */
	void (*hear)(struct world *w, const struct rp_msg *msg);
	void *source; /* of hear() */
	enum dest_phase move[WORLD_MOVES];
	unsigned moves;
	struct wh_err reason; /* of FAILED or PAUSED */
	char order[64];	      /* what happened, a letter each: A arm, S start, ... */
	unsigned orders;

	int fail_send, fail_wake, fail_discard, fail_arm, fail_disarm, fail_start;
	int fail_buffer, device_result, block_result;
	bool bad_page_size, bad_used;
	bool mute;	/* it fails without a sentence */
	bool fail_once; /* sending */
	unsigned resumes, told;
	unsigned last_pages, hurries, devices, starts, arms, disarms;
	uint8_t *buffer;
	size_t buffer_room, buffer_most;
	uint8_t *device;
	size_t device_length;
	enum wh_device_format device_format;
};

static void world_say(struct world *w, char what)
{
	if (w->orders < sizeof(w->order) - 1)
		w->order[w->orders++] = what;
}

static int world_refuse(struct world *w, int code, struct wh_err *err)
{
	return w->mute ? code : err_set(err, code, "the world does not want to");
}

static struct world_call *world_called(struct world *w, char what, unsigned block, uint64_t offset,
				       uint64_t length)
{
	static __thread struct world_call nowhere;
	struct world_call *call;

	nowhere = (struct world_call){ 0 };
	if (w->threads || w->calls == WORLD_CALLS)
		return &nowhere;
	call = &w->call[w->calls++];
	*call = (struct world_call){
		.what = what, .block = block, .offset = offset, .length = length
	};
	return call;
}

static const struct region *world_region(const struct world *w, unsigned block)
{
	return w->dest.block[block].region;
}

static uint64_t *world_present(struct world *w, unsigned block)
{
	return w->present[w->block_of[block]];
}

#endif
