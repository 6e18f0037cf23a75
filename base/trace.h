/* SPDX-License-Identifier: MIT */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include <stdint.h>

enum trace_point {
#define TRACE_POINT(name, a, b, c) TRACE_##name,
#include "base/trace.def"
#undef TRACE_POINT
	TRACE_COUNT
};

struct trace_entry {
	uint64_t sequence;
	enum trace_point point;
	uint64_t number[3];
};

#define TRACE_RING 1024u

/* Append to this thread's ring; overwrites the oldest. Never fails or allocates. */
void trace_record(enum trace_point point, uint64_t a, uint64_t b, uint64_t c);

/* Copy this thread's latest entries, oldest first; returns how many (<= room). */
unsigned trace_read(struct trace_entry *out, unsigned room);
const char *trace_name(enum trace_point point);

/*
 * A point costs one predictable branch while nobody asked for the ring, and a
 * nop for the USDT probe.
 */
extern int trace_enabled;

#if defined(__has_include) && __has_include(<sys/sdt.h>) && !defined(WH_NO_SDT)
#include <sys/sdt.h>
#define trace_probe(name, a, b, c) DTRACE_PROBE3(wherry, name, a, b, c)
#else
#define trace_probe(name, a, b, c) ((void)0)
#endif

#define trace(name, a, b, c)                                                   \
	do {                                                                   \
		uint64_t trace_a = (uint64_t)(a);                              \
		uint64_t trace_b = (uint64_t)(b);                              \
		uint64_t trace_c = (uint64_t)(c);                              \
                                                                               \
		trace_probe(name, trace_a, trace_b, trace_c);                  \
		if (__builtin_expect(trace_enabled, 0))                        \
			trace_record(TRACE_##name, trace_a, trace_b, trace_c); \
	} while (0)

#endif /* BASE_TRACE_H */
