/* SPDX-License-Identifier: MIT */
#ifndef CLI_DEMO_PROTECT_H
#define CLI_DEMO_PROTECT_H

#include "cli/demo.h"
#include "cli/witness.h"

/*
 * wherry demo --protect: a guest that survives its machine. demo_protect.c does it,
 * demo_break.c breaks it, demo_holder.c has a process that holds, demo_survive.c shows it,
 * demo_net.c has the network.
 */
#define DEMO_NET_OUTSIDE "wh-outside" /* the bridge */
#define DEMO_SOON_MS 10000u
#define DEMO_PRIMARY_TAP "wh-primary"
#define DEMO_HOLDER "wh-guest" /* its name */

/* Enter namespaces with those taps. Return: 0, or a negative errno and a sentence */
int demo_net_open(const char *const *taps, unsigned count, struct wh_err *err);
/* Nothing goes from one VMM to the other any more */
int demo_net_cut(struct wh_err *err);

enum demo_kill {
	DEMO_KILL_SOURCE,
	DEMO_KILL_DESTINATION,
	DEMO_KILL_LINK,	 /* nobody dies, and chance decides who goes on */
	DEMO_KILL_AGENT, /* who holds dies, or is silent; chance decides as well */
	DEMO_KILL_COUNT
};

struct demo_protect {
	struct demo demo; /* its source is the primary, its destination the replica */
	const char *program;
	char folder[256];
	enum demo_kill kill;
	uint64_t seed, chance; /* what it is decided by, and how that goes on */
	const char *edge;      /* of a process that holds; NULL: there is none */
	struct demo_child holder;
	bool silent; /* it is not dead */
	enum demo_end survivor;
	bool gone[DEMO_END_COUNT]; /* killed by us */
	int signal_fd;
	struct witness witness;
	uint64_t protected_ns; /* when the first checkpoint was complete */
	uint64_t told_ns;      /* the primary's figures are of then */
	uint64_t kill_ns;
	uint64_t taken_ns; /* when it was decided who goes on */
	const char *doing; /* what is waited for */
};

/* demo_protect.c. Return: 0; -ETIMEDOUT; -EINTR it is enough; -EIO a process has ended */
int demo_until(struct demo_protect *p, const char *what, bool (*so)(const struct demo_protect *p),
	       unsigned ms);

/* demo_break.c: a number by chance, which is that of the seed */
uint32_t demo_chance(struct demo_protect *p, uint32_t below);
/* What is to be broken is, and somebody has decided. Return: as demo_until(), and a sentence */
int demo_break(struct demo_protect *p, struct wh_err *err);

/* demo_holder.c. Return: as demo_until() */
int demo_holder_start(struct demo_protect *p);
void demo_holder_read(struct demo_protect *p);
void demo_holder_break(struct demo_protect *p);
/* Another one, or the same again */
int demo_holder_next(struct demo_protect *p);
void demo_holder_end(struct demo_protect *p);

/* demo_survive.c */
void demo_survive_progress(struct demo_protect *p);
/* Return: true if nothing is missing, and memory is right */
bool demo_survive_summary(struct demo_protect *p, int ret);

int demo_protect(int argc, char **argv);

#endif /* CLI_DEMO_PROTECT_H */
