/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_AGENT_H
#define WHERRY_AGENT_H

#include <stdint.h>
#include <wherry/err.h>
#include <wherry/migration.h>

/*
 * The other end of struct wh_config.agent: a process that drives a destination for a VMM, and
 * may die. Documentation/agent.rst has the theory.
 */

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

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
