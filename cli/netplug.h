/* SPDX-License-Identifier: MIT */
#ifndef CLI_NETPLUG_H
#define CLI_NETPLUG_H

#include <stdbool.h>
#include <wherry/netplug.h>

/* Keep CAP_NET_ADMIN and nothing else, for good. Return: 0, or a negative errno */
int netplug_drop_rights(void);

/*
 * Be who holds: armed at once, until it is disarmed; or not before a VMM does, and for ever.
 * Return: the exit status, when it is over; or in a child's stead whether it is held
 */
int netplug_hold(const struct wh_netplug_config *config, bool arm, bool foreground);

#endif /* CLI_NETPLUG_H */
