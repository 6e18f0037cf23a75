/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_AGENT_VMM_H
#define POSTCOPY_AGENT_VMM_H

#include "postcopy/agent.h"
#include "postcopy/run.h"
#include "uffd/mapping.h"

#include <pthread.h>
#include <sys/un.h>

/*
 * What stands in the place of loops and engine where an agent drives the migration
 * (struct wh_config.agent). One thread for each agent there has been reads what it says and
 * calls back; it ends when the agent does.
 */
struct agent_vmm {
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	struct mapping mapping[RAM_BLOCKS_MAX]; /* as found: the advice that is given back */
	struct uffd uffd;			/* the agents have duplicates */
	struct agent_state state;		/* .words NULL: nothing was handed over yet */
	pthread_t thread;
	bool running; /* of whoever holds listen_lock */

	/* one handover at a time; outside of the migration's wait_lock */
	pthread_mutex_t listen_lock;

	/* Under wait_lock, which is held across no callback */
	int socket;   /* -1: there is no agent */
	bool listens; /* it has, and what else it says is heard from wh_start() on */
	bool answered;
	struct wh_err answer; /* to LISTEN and RECOVER; code 0: the text is the URI */
	bool device;	      /* all of its state was handed to device_load() */
	bool loaded;	      /* and that has ended well */
	bool failed;	      /* or not */
	bool guest_runs;      /* start() was called, and said yes */
	bool orphan;	      /* the agent died while it was loading: who loads it starts it */
	bool freeing;
};

/* Thread: reads until the agent ends */
void *agent_vmm_main(void *arg);

#endif /* POSTCOPY_AGENT_VMM_H */
