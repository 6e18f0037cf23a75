/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_AGENT_H
#define WHERRY_AGENT_H

#include <stdint.h>
#include <wherry/err.h>
#include <wherry/migration.h>

/*
 * A destination whose migration is driven by another process, which may die: the agent
 * (wherry agent, or whoever calls wh_agent_serve()). Documentation/agent.rst has the theory.
 */

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct wh_agent - The VMM's end: its memory, and whoever serves it at the moment
 *
 * Its functions are for any thread, but not for callbacks.
 */
struct wh_agent;

/**
 * wh_agent_new() - Make one
 * @config:	As for a destination. Of the callbacks event, log, device_load and start are
 *		used, on a thread of the library. Postcopy has to be on, removes off
 *
 * Return: 0 and *@agent, for wh_agent_free(); or a negative errno and a sentence
 */
int wh_agent_new(struct wh_agent **agent, const struct wh_config *config, struct wh_err *err);

/**
 * wh_agent_free() - End it in any state and give everything back
 *
 * The agent finds itself without a VMM and ends too. While pages are missing the
 * userfaultfd stays open, on purpose: threads that touch missing pages sleep until the
 * process ends.
 */
void wh_agent_free(struct wh_agent *agent);

/* Of a memfd or hugetlb file that is mapped shared; before the first wh_agent_listen() */
int wh_agent_add_block(struct wh_agent *agent, const struct wh_block *block, struct wh_err *err);

/**
 * wh_agent_listen() - Hand over to an agent, and have it wait for the source
 * @path:	Unix socket that the agent waits at
 * @uri:	As for wh_listen()
 *
 * At first, for the migration; and whenever it is paused, for it to be recovered: then the
 * agent there is may go on (@path is not looked at), and if it has died the memory is handed
 * to the one at @path. Listens when it returns.
 *
 * Return: 0, or a negative errno and a sentence: -EBUSY in another phase
 */
int wh_agent_listen(struct wh_agent *agent, const char *path, const char *uri, struct wh_err *err);

/* Where it really listens. Valid until the next wh_agent_listen() */
const char *wh_agent_listen_uri(const struct wh_agent *agent);

/* As wh_pause(), wh_device_loaded(), wh_get_phase() */
int wh_agent_pause(struct wh_agent *agent, struct wh_err *err);
int wh_agent_device_loaded(struct wh_agent *agent, int result);
enum wh_phase wh_agent_get_phase(const struct wh_agent *agent);

/* Of 4096 bytes; before the switch all that have not come once */
uint64_t wh_agent_pages_left(const struct wh_agent *agent);

/**
 * wh_agent_wait() - Until it has ended or paused, or the agent has died
 * @timeout_ns:	Negative: for ever
 *
 * The death of an agent is a pause too if the guest is here, or is about to be started here;
 * else the migration has failed.
 *
 * Return: as wh_wait()
 */
int wh_agent_wait(struct wh_agent *agent, int64_t timeout_ns, struct wh_err *err);

/**
 * struct wh_agent_hooks - For who wants to see what an agent does; unused ones are NULL
 * @log:	A line for the operator
 * @migration:	It is this one from here on, not driven yet; NULL: it is about to be freed
 * @event:	Of the migration, as in struct wh_callbacks
 */
struct wh_agent_hooks {
	void (*log)(void *opaque, enum wh_log_level level, const char *line);
	void (*migration)(void *opaque, struct wh_migration *migration);
	void (*event)(void *opaque, const struct wh_event *event);
};

/**
 * wh_agent_serve() - The agent's end: serve one VMM until its migration has ended
 * @fd:		Connected unix socket, SOCK_SEQPACKET. Not taken over
 * @hooks:	May be NULL
 * @opaque:	First argument of each
 *
 * Return: 0 the guest is at the VMM, all of it; or a negative errno and a sentence:
 * -ECONNRESET if the VMM has gone
 */
int wh_agent_serve(int fd, const struct wh_agent_hooks *hooks, void *opaque, struct wh_err *err);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_AGENT_H */
