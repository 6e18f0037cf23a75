/* SPDX-License-Identifier: MIT */
#ifndef CLI_DEMO_PROTECT_H
#define CLI_DEMO_PROTECT_H

#include "cli/demo.h"
#include "cli/witness.h"

/*
 * wherry demo --protect: a guest that survives its machine. demo_protect.c does it,
 * demo_survive.c shows it, demo_net.c has the network.
 */
#define DEMO_NET_OUTSIDE "wh-outside" /* the bridge */

/* Enter namespaces with those taps. Return: 0, or a negative errno and a sentence */
int demo_net_open(const char *const *taps, unsigned count, struct wh_err *err);
/* Nothing goes from one VMM to the other any more */
int demo_net_cut(struct wh_err *err);

struct demo_protect {
	struct demo demo; /* its source is the primary, its destination the replica */
	const char *program;
	char folder[32];
	bool quick; /* no line of progress */
	int signal_fd;
	struct witness witness;
	uint64_t protected_ns; /* when the first checkpoint was complete */
	uint64_t kill_ns;
	uint64_t taken_ns; /* when the guest ran at the replica */
	const char *doing; /* what is waited for */
};

/* demo_survive.c */
void demo_survive_progress(struct demo_protect *p);
/* Return: true if nothing is missing, and memory is right */
bool demo_survive_summary(struct demo_protect *p, int ret);

int demo_protect(int argc, char **argv);

#endif /* CLI_DEMO_PROTECT_H */
