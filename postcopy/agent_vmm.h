/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_AGENT_VMM_H
#define POSTCOPY_AGENT_VMM_H

#include "base/clock.h"
#include "postcopy/agent.h"
#include "ring/uri.h"
#include "uffd/mapping.h"

#include <pthread.h>
#include <wherry/agent.h>

/*
 * The VMM's end of an agent. One thread for each agent there has been reads what it says and
 * calls back; it ends when the agent does. The lock guards all that is below it, and is held
 * across no callback.
 */
struct wh_agent {
	struct wh_config config;
	struct wh_callbacks cb;
	struct region region[RAM_BLOCKS_MAX];
	struct mapping mapping[RAM_BLOCKS_MAX]; /* as found: the advice that is given back */
	unsigned regions;
	struct uffd uffd;	  /* the agents have duplicates */
	struct agent_state state; /* .words NULL: nothing was handed over yet */
	char uri[URI_TEXT];
	pthread_t thread;
	bool running; /* of whoever calls wh_agent_listen() */

	pthread_mutex_t listen_lock; /* one wh_agent_listen() at a time; outside of lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int socket; /* -1: there is no agent */
	bool answered;
	struct wh_err answer; /* to LISTEN and RECOVER; code 0: the text is the URI */
	enum wh_phase phase;  /* atomic */
	struct wh_err result;
	bool settled; /* paused, and nobody has been told to listen since */
	bool device;  /* all of its state was handed to device_load() */
	bool loaded;  /* and that has ended well */
	bool failed;  /* or not */
	bool started; /* start() was called, and said yes */
	bool orphan;  /* the agent died while it was loading: who loads it starts it */
	bool freeing;
};

/* Thread: reads until the agent ends */
void *agent_vmm_main(void *arg);
/* Device state is loaded, or not. Any thread */
void agent_vmm_loaded(struct wh_agent *agent, int result, const struct wh_err *why);

#endif /* POSTCOPY_AGENT_VMM_H */
