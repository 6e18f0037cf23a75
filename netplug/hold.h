/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_HOLD_H
#define NETPLUG_HOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Packets that wait, in the order in which they came, each with its epoch: so a release is
 * exact however many epochs wait, and there is no count that could go wrong.
 *
 * A ring in memory of the caller's. A packet lies in one piece, so that it is read from one
 * descriptor and written to another where it lies. hold_size() says how large the ring has
 * to be for the limits to be what is met first.
 */
#define HOLD_PACKET_MAX (65536 + 256) /* a segment of 64 KiB, its headers and ours */

struct hold_packet {
	uint64_t epoch;
	uint32_t nic;
	uint32_t length;  /* of what lies there */
	uint32_t counted; /* of these, what counts as the packet's: not a header of ours */
};

struct hold {
	uint8_t *ring;
	size_t size;
	size_t head; /* the oldest packet */
	size_t tail; /* where the next one goes */
	uint64_t limit_bytes;
	uint64_t limit_packets;
	uint64_t bytes;
	uint64_t packets;
};

/* Return: bytes of ring for these limits, or 0 if no ring can be that large */
size_t hold_size(uint64_t limit_bytes, uint64_t limit_packets);
void hold_init(struct hold *hold, void *ring, uint64_t limit_bytes, uint64_t limit_packets);
/* Where the next packet may be read to: HOLD_PACKET_MAX bytes */
void *hold_room(struct hold *hold);
/* What lies in the room is a packet. Return: false if the limits drop it */
bool hold_add(struct hold *hold, const struct hold_packet *packet);
/* The oldest one. Return: false if there is none */
bool hold_first(const struct hold *hold, struct hold_packet *packet, const void **bytes);
void hold_drop_first(struct hold *hold);
void hold_drop_all(struct hold *hold);

#endif /* NETPLUG_HOLD_H */
