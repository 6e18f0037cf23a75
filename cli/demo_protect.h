/* SPDX-License-Identifier: MIT */
#ifndef CLI_DEMO_PROTECT_H
#define CLI_DEMO_PROTECT_H

#include "cli/demo.h"
#include "cli/witness.h"

/*
 * wherry demo --protect: a guest that survives its machine. demo_protect.c does it,
 * demo_break.c breaks it, demo_survive.c shows it, demo_net.c has the network.
 */
#define DEMO_NET_OUTSIDE "wh-outside" /* the bridge */
#define DEMO_SOON_MS 10000u

/* Enter namespaces with those taps. Return: 0, or a negative errno and a sentence */
int demo_net_open(const char *const *taps, unsigned count, struct wh_err *err);
/* Nothing goes from one VMM to the other any more */
int demo_net_cut(struct wh_err *err);

enum demo_kill {
	DEMO_KILL_SOURCE,
	DEMO_KILL_DESTINATION,
	DEMO_KILL_LINK, /* nobody dies, and chance decides who goes on */
	DEMO_KILL_COUNT
};

struct demo_protect {
	struct demo demo; /* its source is the primary, its destination the replica */
	const char *program;
	char folder[256];
	enum demo_kill kill;
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

/* demo_break.c: a number that nobody knows */
uint32_t demo_chance(uint32_t below);
/* What is to be broken is, and somebody has decided. Return: as demo_until(), and a sentence */
int demo_break(struct demo_protect *p, struct wh_err *err);

/* demo_survive.c */
void demo_survive_progress(struct demo_protect *p);
/* Return: true if nothing is missing, and memory is right */
bool demo_survive_summary(struct demo_protect *p, int ret);

int demo_protect(int argc, char **argv);

#endif /* CLI_DEMO_PROTECT_H */
