/* SPDX-License-Identifier: MIT */
#include "base/trace.h"

/*
 * The ring belongs to its thread, so that no point waits for another thread:
 * only the thread itself reads it. The sequence number counts this thread's
 * entries; its low bits are the slot.
 */
struct ring {
	uint64_t next;
	struct trace_entry entry[TRACE_RING];
};

_Static_assert((TRACE_RING & (TRACE_RING - 1)) == 0, "slots are taken round");

static __thread struct ring ring;

int trace_enabled;

void trace_record(enum trace_point point, uint64_t a, uint64_t b, uint64_t c)
{
	struct trace_entry *entry = &ring.entry[ring.next % TRACE_RING];

	entry->sequence = ring.next++;
	entry->point = point;
	entry->number[0] = a;
	entry->number[1] = b;
	entry->number[2] = c;
}

unsigned trace_read(struct trace_entry *out, unsigned room)
{
	uint64_t held = ring.next < TRACE_RING ? ring.next : TRACE_RING;
	unsigned count = held < room ? (unsigned)held : room;
	unsigned i;

	for (i = 0; i < count; i++)
		out[i] = ring.entry[(ring.next - count + i) % TRACE_RING];
	return count;
}

const char *trace_name(enum trace_point point)
{
	static const char *const names[] = {
#define TRACE_POINT(name, a, b, c) [TRACE_##name] = #name,
#include "base/trace.def"
#undef TRACE_POINT
	};

	_Static_assert(sizeof(names) / sizeof(names[0]) == TRACE_COUNT, "a name a point");
	return (unsigned)point < TRACE_COUNT ? names[point] : "?";
}
