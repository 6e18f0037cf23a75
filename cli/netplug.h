/* SPDX-License-Identifier: MIT */
#ifndef CLI_NETPLUG_H
#define CLI_NETPLUG_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <wherry/netplug.h>

/*
 * Between wherry netplug and the process that holds: a request is one packet, "turn 5", and so is
 * its answer, "0 " or "-22 " and a text behind it. A socket of the network namespace.
 */
#define NETPLUG_TEXT 512

/* Keep CAP_NET_ADMIN and nothing else, for good. Return: 0, or a negative errno */
int netplug_drop_rights(void);

/* Return: the exit status, when it is over; or in a child's stead whether it is held */
int netplug_hold(const struct wh_netplug_config *config, bool foreground);
/* Return: 1 if nobody holds it; 0, an answer and whose it is; or a negative errno */
int netplug_ask(const char *name, const char *request, char answer[NETPLUG_TEXT], pid_t *holder);
/* What a holder does, also for what nobody holds. Return: 0 or a negative errno; with a text */
int netplug_do(struct wh_netplug *plug, const char *request, char *text, size_t room);

#endif /* CLI_NETPLUG_H */
