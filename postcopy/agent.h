/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_AGENT_H
#define POSTCOPY_AGENT_H

#include "postcopy/dest.h"
#include "wire/agent.h"

#include <stdbool.h>
#include <wherry/migration.h>

/*
 * What a VMM and its agent share: packets on a unix socket (agent_link.c), and the part of
 * a migration's state that outlives an agent, in a memfd of the VMM (agent_state.c).
 */

struct agent_packet {
	struct agent_msg msg;
	int fd[AGENT_FDS]; /* as many as its kind has, the receiver's; -1 */
};

/* A packet at once and whole, from any thread. @fds as many as its kind has */
int agent_send(int socket, const struct agent_msg *msg, const int *fds, struct wh_err *err);
/**
 * agent_receive() - Wait for a packet
 *
 * Return: 1; 0 the other end has gone; or a negative errno and a sentence, and no descriptor
 */
int agent_receive(int socket, struct agent_packet *packet, struct wh_err *err);
/* Those that nobody has taken (and set to -1) */
void agent_packet_close(struct agent_packet *packet);
int agent_connect(const char *path, struct wh_err *err);

/**
 * enum agent_stage - How far the agent has come
 * @AGENT_STAGE_GIVEN_UP: Set before the source is told so, and may run the guest again: from
 *			here on it must not be started
 */
enum agent_stage {
	AGENT_STAGE_BEGUN,
	AGENT_STAGE_ARMED, /* missing pages fault, the list of blocks is complete */
	AGENT_STAGE_GIVEN_UP,
};

/**
 * struct agent_state - The memfd that outlives an agent, mapped
 * @words:	A header, three words for each block (its number in the stream's list plus one,
 *		bytes used, page size as in the list), the received bits of each block, figures
 * @at:		Word at which a block's bits begin
 * @figures:	And that at which enum agent_figure does
 */
struct agent_state {
	int fd;
	unsigned blocks;
	size_t bytes;
	uint64_t *words;
	size_t at[RAM_BLOCKS_MAX];
	size_t figures;
};

/* Of all agents there have been; of the dead ones only the memory that they had is not in it */
enum agent_figure {
	AGENT_BYTES,
	AGENT_BYTES_RETURN,
	AGENT_PAGES_NORMAL,
	AGENT_PAGES_ZERO,
	AGENT_PAGES_XBZRLE,
	AGENT_PAGES_URGENT,
	AGENT_PAGES_BEFORE,
	AGENT_REQUESTS,
	AGENT_FAULTS,
	AGENT_OWN_BYTES,
	AGENT_HIST_SUM,
	AGENT_HIST_MAX,
	AGENT_HIST,
	AGENT_THREADS = AGENT_HIST + HIST_BUCKETS,
	AGENT_THREAD_WORDS = 3, /* tid, faults, ns */
	AGENT_FIGURE_WORDS = AGENT_THREADS + DEST_THREADS * AGENT_THREAD_WORDS,
};

struct agent_figures {
	uint64_t word[AGENT_FIGURE_WORDS];
};

/* The VMM's: made anew, and sealed so that nobody can make it shorter */
int agent_state_new(struct agent_state *state, const struct region *regions, unsigned blocks,
		    struct wh_err *err);
/* The agent's: @fd is taken over if it is right */
int agent_state_open(struct agent_state *state, int fd, const struct region *regions,
		     unsigned blocks, struct wh_err *err);
/* Also of one that is all zero */
void agent_state_close(struct agent_state *state);

enum agent_stage agent_state_get(const struct agent_state *state);
void agent_state_set(struct agent_state *state, enum agent_stage stage);
uint64_t *agent_state_received(const struct agent_state *state, unsigned block);
/* Block @block is number @number of the list */
void agent_state_note(struct agent_state *state, unsigned block, unsigned number,
		      const struct ram_block *line);
/* What else its successor needs */
void agent_state_keep(struct agent_state *state, uint32_t ram_id, const struct identity *identity);
/* Return: 0, or -EPROTO and a sentence if it is not of these blocks */
int agent_state_past(const struct agent_state *state, const struct region *regions,
		     struct dest_past *past, struct wh_err *err);
/* Pages that are missing yet */
uint64_t agent_state_missing(const struct agent_state *state, const struct region *regions);

/* agent_figures.c, the agent: what its predecessors have counted ... */
void agent_figures_take(const struct agent_state *state, struct agent_figures *before);
/* ... and that with its own. One thread at a time */
void agent_figures_put(const struct agent_state *state, const struct agent_figures *before,
		       const struct dest *dest, uint64_t own_bytes);
/* The VMM, any thread */
void agent_figures_stats(const struct agent_state *state, struct wh_stats *stats);
void agent_figures_hist(const struct agent_state *state, struct hist *hist);
unsigned agent_figures_waits(const struct agent_state *state, struct wh_thread_wait *waits,
			     unsigned room);

/* What a migration was given by a VMM; struct wh_migration.handover */
struct handover {
	struct uffd uffd;
	struct agent_state state;
};

#endif /* POSTCOPY_AGENT_H */
