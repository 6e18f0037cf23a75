/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_GUEST_H
#define CLI_DRILL_GUEST_H

#include "cli/drill.h"

#include <pthread.h>
#include <sys/types.h>

/*
 * A block of guest memory and the thread that runs in it. Bytes are made from the page's
 * number; some pages are zero, some are only read, and in all others the thread steps the
 * first byte. It goes round them in an order of its own, so that from its position it is
 * known how often each was stepped, and it looks at what it finds before it steps.
 */

/* What the guest needs where it goes on: the device state */
struct drill_guest_state {
	uint64_t passes;
	uint64_t position; /* in its order */
};

/* What both processes and the operator see; atomic, each */
struct drill_shared {
	struct drill_guest_state state[DRILL_BLOCKS]; /* when the source has stopped it */
	pid_t qemu_pid;
	uint32_t place_error;	    /* what placing fails with at the destination; 0 */
	uint32_t place_refused;	    /* how often it did */
	uint32_t runs[DRILL_SIDES]; /* the guest does, there */
	uint32_t ran_twice;
	uint32_t wrong[DRILL_SIDES]; /* pages that the guest found wrong */
	uint32_t phase[DRILL_SIDES];
	uint32_t removed; /* how often it dropped memory */
};

struct drill_guest {
	uint8_t *memory;
	uint64_t pages;
	uint64_t page_size;
	uint64_t seed;
	uint64_t stride; /* prime to @pages */
	struct drill_guest_state state;
	struct drill_guest_state began; /* where it goes on from, here */
	uint8_t *removed; /* a page each: it was dropped, and is zero; NULL: none is */
	uint8_t *drops;	  /* with @removed: how often */
	bool removes;	  /* and it goes on to drop some */
	bool shared_memory;
	unsigned pace_us;
	uint32_t *wrong;	  /* atomic */
	uint32_t *removed_counts; /* atomic */
	struct drill_random random;

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool parking; /* atomic */
	bool parked;
};

/* In this process a guest whose page finds no space waits for some */
void drill_guest_waits_for_room(void);
/* Without a thread: for drill_guest_fill() and drill_guest_verify() */
void drill_guest_shape(struct drill_guest *guest);
/* @guest: memory, pages and so on filled in by the caller. It is parked at first */
int drill_guest_init(struct drill_guest *guest);
void drill_guest_fill(struct drill_guest *guest);
void drill_guest_run(struct drill_guest *guest);
/* When it returns the thread writes no more; it must not wait for a page that never comes */
void drill_guest_park(struct drill_guest *guest);

/**
 * drill_guest_verify() - Look at every byte; it is parked
 * @first:	Offset of the first wrong byte, if there is one
 *
 * Return: number of pages that are not as they have to be
 */
uint64_t drill_guest_verify(const struct drill_guest *guest, uint64_t *first);

/* What is wrong with the page at @offset, in words */
void drill_guest_explain(const struct drill_guest *guest, uint64_t offset, char *text, size_t room);

#endif /* CLI_DRILL_GUEST_H */
