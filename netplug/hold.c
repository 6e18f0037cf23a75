/* SPDX-License-Identifier: MIT */
#include "netplug/hold.h"

#include <assert.h>
#include <string.h>

#define ALIGN 16
#define HEADER ((sizeof(struct hold_packet) + ALIGN - 1) / ALIGN * ALIGN)
#define ENTRY_MAX (HEADER + HOLD_PACKET_MAX)

static size_t entry_size(uint32_t length)
{
	return HEADER + (length + (size_t)ALIGN - 1) / ALIGN * ALIGN;
}

/*
 * Each packet costs its header and what aligns it, and the bytes that do not count; where the
 * ring ends, less than one entry is left unused; and one more is to be read before it is
 * known to be too many.
 */
size_t hold_size(uint64_t limit_bytes, uint64_t limit_packets)
{
	const uint64_t each = HEADER + ALIGN + 64, most = UINT64_C(1) << 46;

	if (limit_bytes > most || limit_packets > most / each)
		return 0;
	return (limit_bytes + limit_packets * each + 4 * ENTRY_MAX) / ALIGN * ALIGN;
}

void hold_init(struct hold *hold, void *ring, uint64_t limit_bytes, uint64_t limit_packets)
{
	*hold = (struct hold){
		.ring = ring,
		.size = hold_size(limit_bytes, limit_packets),
		.limit_bytes = limit_bytes,
		.limit_packets = limit_packets,
	};
}

/* Where the end has no room for the largest packet, everything goes on at the front */
static size_t wrapped(const struct hold *hold, size_t at)
{
	return hold->size - at < ENTRY_MAX ? 0 : at;
}

void *hold_room(struct hold *hold)
{
	return hold->ring + hold->tail + HEADER;
}

bool hold_add(struct hold *hold, const struct hold_packet *packet)
{
	assert(packet->length <= HOLD_PACKET_MAX && packet->counted <= packet->length);
	if (hold->packets == hold->limit_packets ||
	    packet->counted > hold->limit_bytes - hold->bytes)
		return false;
	memcpy(hold->ring + hold->tail, packet, sizeof(*packet));
	hold->tail = wrapped(hold, hold->tail + entry_size(packet->length));
	hold->bytes += packet->counted;
	hold->packets++;
	return true;
}

bool hold_first(const struct hold *hold, struct hold_packet *packet, const void **bytes)
{
	if (!hold->packets)
		return false;
	memcpy(packet, hold->ring + hold->head, sizeof(*packet));
	*bytes = hold->ring + hold->head + HEADER;
	return true;
}

void hold_drop_first(struct hold *hold)
{
	struct hold_packet packet;
	const void *bytes;

	if (!hold_first(hold, &packet, &bytes))
		return;
	hold->head = wrapped(hold, hold->head + entry_size(packet.length));
	hold->bytes -= packet.counted;
	hold->packets--;
}

void hold_drop_all(struct hold *hold)
{
	hold->head = hold->tail;
	hold->bytes = 0;
	hold->packets = 0;
}
