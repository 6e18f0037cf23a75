/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_LIB_NETRIG_H
#define SELFTESTS_LIB_NETRIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A network namespace with a guest's taps, a bridge, and a tap for the world outside:
 *
 *	tap0 tap1 ...  --  br0  --  out
 *
 * Frames are marked in their source address, so that even one without contents is known again
 * outside. The namespace is owned by a user namespace of our own: no right of the machine's.
 */
#define NETRIG_NICS 8

enum netrig_kind {
	NETRIG_IPV4,
	NETRIG_ARP,
	NETRIG_IPV6,
	NETRIG_VLAN,
	NETRIG_OTHER,
	NETRIG_RUNT, /* a header and nothing behind it */
	NETRIG_KIND_COUNT
};

struct netrig_mark {
	uint8_t nic;
	uint8_t epoch;
	uint16_t number;
};

struct netrig {
	int taps[NETRIG_NICS];
	int outside;
	unsigned nics;
};

/* Enters the namespaces. Return: NULL, or what is missing */
const char *netrig_open(struct netrig *rig, unsigned nics);
/* What the guest sends. Return: 0, or a negative errno (-EIO: its tap is not up) */
int netrig_send(struct netrig *rig, unsigned nic, unsigned epoch, unsigned number,
		enum netrig_kind kind);
/* What comes from outside to the guest; what of it reaches its NIC is read there */
int netrig_send_in(struct netrig *rig, unsigned number);
bool netrig_hears(struct netrig *rig, unsigned nic, unsigned number, int wait_ms);
/*
 * What is seen outside: until there are @expected marks and then for a moment longer, or for
 * two seconds. Return: how many there are, at most @room
 */
size_t netrig_seen(struct netrig *rig, struct netrig_mark *marks, size_t room, size_t expected);
/* Run a command line (ip, tc). Return: its exit status */
int netrig_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* All devices, qdiscs and filters as text, for comparing. Must be freed */
char *netrig_state(void);

#endif /* SELFTESTS_LIB_NETRIG_H */
