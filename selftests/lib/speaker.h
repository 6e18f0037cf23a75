/* SPDX-License-Identifier: MIT */
#ifndef LIB_SPEAKER_H
#define LIB_SPEAKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <wherry/netplug.h>
#include <wherry/protect.h>

/*
 * A guest for tests of protection, of one thread: in step k it writes somewhere in its memory,
 * notes k at its beginning, and sends packet k. So memory that notes k is right if it is what the
 * first k steps make, whoever runs it; and whoever has seen packet k may be shown nothing that
 * has not noted it. What it sends goes through a filter of its own (WH_NETPLUG_CALLBACK).
 */

/* What the world has seen. May be in memory that outlives the guest's process */
struct speaker_world {
	uint64_t seen;	/* packets 1 to this one; atomic */
	uint64_t wrong; /* packets that came out of order; atomic */
};

struct speaker {
	uint8_t *memory;
	uint64_t pages;
	uint64_t touch;	  /* steps go round in so many pages */
	unsigned rest_us; /* between two steps; 0: none */
	struct speaker_world *world;

	pthread_t thread;
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t cond;
	bool runs; /* there is a thread */
	bool park, parked, end;
	bool armed, fenced;
	uint64_t step;	       /* the last one that was made */
	uint64_t epoch, first; /* open; the first packet that is held */
	uint64_t *ends;	       /* by epoch: the last packet of it */
};

/* Memory of @pages, all zeros; it stands still */
void speaker_init(struct speaker *speaker, uint64_t pages, struct speaker_world *world);
void speaker_fini(struct speaker *speaker);
/* From step @speaker->step + 1 on */
void speaker_run(struct speaker *speaker);
/* It makes no step and sends nothing when this returns. */
void speaker_park(struct speaker *speaker);
uint64_t speaker_step(struct speaker *speaker);
uint64_t speaker_seen(const struct speaker_world *world);
/* Is memory what its steps make? Return: 0, or the address of the first wrong byte, plus one */
uint64_t speaker_verify(const struct speaker *speaker);

/* For struct wh_netplug_config; opaque is the speaker */
extern const struct wh_netplug_filter speaker_filter;

#endif /* LIB_SPEAKER_H */
