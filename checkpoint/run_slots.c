/* SPDX-License-Identifier: MIT */
/*
 * Joining: slabs that are registered with the ring, and contents that are sent from there.
 *
 * Over TCP only, and in large pieces: there the sending alone is up to a quarter faster. Over a
 * unix socket, which is also what TLS has at this end, and in small pieces it is slower than one
 * sendmsg of all of them, so there nothing is registered.
 */
#include "checkpoint/run_source.h"
#include "ring/fixed.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define LEAST_BYTES ((size_t)256 << 10)

_Static_assert(sizeof(((struct source_slots *)0)->at) / sizeof(uint8_t *) == FIXED_MAX,
	       "a place for each");

static void made(void *world, uint8_t *at)
{
	struct protect_source *side = world;
	struct source_slots *slots = &side->slots;
	struct wh_err err = { 0 };
	unsigned slot = 0;

	while (slot < slots->used && slots->at[slot])
		slot++;
	if (!slots->on || slots->full || slot == FIXED_MAX)
		return;
	if (loop_fixed_set(side->p->loop, slot, at, SLAB_BYTES, &err) < 0) {
		slots->full = true;
		if (!slots->said)
			protect_log(side->p, WH_LOG_INFO, "slabs are sent as other memory is: %s",
				    err.text);
		slots->said = true;
		return;
	}
	slots->at[slot] = at;
	if (slot == slots->used)
		slots->used++;
	__atomic_fetch_add(&slots->there, 1, __ATOMIC_RELAXED);
}

/* Nothing that is in no chain is under way */
static void unmade(void *world, const uint8_t *at)
{
	struct protect_source *side = world;
	struct source_slots *slots = &side->slots;

	for (unsigned slot = 0; slot < slots->used; slot++) {
		if (slots->at[slot] != at)
			continue;
		slots->at[slot] = NULL;
		slots->full = false;
		__atomic_fetch_sub(&slots->there, 1, __ATOMIC_RELAXED);
		/* with the loop all of them are gone; and a place that is taken anew is emptied first */
		if (side->p->loop)
			(void)loop_fixed_set(side->p->loop, slot, NULL, 0, NULL);
	}
}

struct slab_watch source_slots_watch(struct protect_source *side)
{
	return (struct slab_watch){ .made = made, .unmade = unmade, .world = side };
}

void source_slots_begin(struct protect_source *side, int fd)
{
	struct wh_err err = { 0 };
	socklen_t length = sizeof(int);
	int protocol = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) < 0 ||
	    protocol != IPPROTO_TCP)
		return;
	side->slots.on = loop_fixed_open(side->p->loop, FIXED_MAX, &err) == 0;
	if (!side->slots.on)
		protect_log(side->p, WH_LOG_INFO, "slabs are sent as other memory is: %s",
			    err.text);
}

int source_slot(const struct wh_protect *p, const struct iovec *piece)
{
	const struct source_slots *slots = &p->source->slots;
	const uint8_t *at = piece->iov_base;

	if (piece->iov_len < LEAST_BYTES)
		return -1;
	for (unsigned slot = 0; slot < slots->used; slot++)
		if (slots->at[slot] && at >= slots->at[slot] &&
		    at + piece->iov_len <= slots->at[slot] + SLAB_BYTES)
			return (int)slot;
	return -1;
}

void source_slot_sent(struct wh_protect *p, size_t bytes)
{
	__atomic_fetch_add(&p->source->slots.bytes, bytes, __ATOMIC_RELAXED);
}
