/* SPDX-License-Identifier: MIT */
/*
 * Joining: figures and names for the outside.
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const phase_names[] = {
	[WH_PHASE_SETUP] = "setup",
	[WH_PHASE_PRECOPY] = "active",
	[WH_PHASE_SWITCHOVER] = "device",
	[WH_PHASE_POSTCOPY] = "postcopy-active",
	[WH_PHASE_PAUSED] = "postcopy-paused",
	[WH_PHASE_RECOVER] = "postcopy-recover",
	[WH_PHASE_DONE] = "completed",
	[WH_PHASE_FAILED] = "failed",
	[WH_PHASE_UNKNOWN] = "unknown",
	[WH_PHASE_CANCELLED] = "cancelled",
};
_Static_assert(sizeof(phase_names) / sizeof(phase_names[0]) == WH_PHASE_COUNT, "a name a phase");

const char *wh_phase_name(enum wh_phase phase)
{
	return (unsigned)phase < WH_PHASE_COUNT ? phase_names[phase] : "?";
}

bool wh_phase_ended(enum wh_phase phase)
{
	switch (phase) {
	case WH_PHASE_SETUP:
	case WH_PHASE_PRECOPY:
	case WH_PHASE_SWITCHOVER:
	case WH_PHASE_POSTCOPY:
	case WH_PHASE_PAUSED:
	case WH_PHASE_RECOVER:
		return false;
	case WH_PHASE_DONE:
	case WH_PHASE_FAILED:
	case WH_PHASE_UNKNOWN:
	case WH_PHASE_CANCELLED:
	case WH_PHASE_COUNT:
		break;
	}
	return true;
}

#define RATE_SPAN_NS (100 * NS_PER_MS)

/* Bytes a second over the time since the last look, but not over less than a span. */
static uint64_t rate_update(struct wh_migration *m, uint64_t bytes)
{
	uint64_t now = clock_now_ns();
	uint64_t rate;

	pthread_mutex_lock(&m->rate_lock);
	if (!m->rate_at_ns)
		m->rate_at_ns = m->begin_ns;
	if (now - m->rate_at_ns >= RATE_SPAN_NS && bytes >= m->rate_bytes) {
		m->rate = (uint64_t)((double)(bytes - m->rate_bytes) * (double)NS_PER_S /
				     (double)(now - m->rate_at_ns));
		m->rate_at_ns = now;
		m->rate_bytes = bytes;
	}
	rate = m->rate;
	pthread_mutex_unlock(&m->rate_lock);
	return rate;
}

static uint64_t paused_ns(const struct wh_migration *m)
{
	uint64_t since_ns = __atomic_load_n(&m->paused_since_ns, __ATOMIC_RELAXED);
	uint64_t before_ns = __atomic_load_n(&m->paused_ns, __ATOMIC_RELAXED);

	return before_ns + (since_ns ? clock_now_ns() - since_ns : 0);
}

void wh_get_stats(const struct wh_migration *migration, struct wh_stats *stats)
{
	/* Only the rate's own memory is written, under its lock. */
	struct wh_migration *m = (struct wh_migration *)(uintptr_t)migration;
	uint64_t rate;

	*stats = (struct wh_stats){ .phase = wh_get_phase(m) };
	stats->now_ns =
		(__atomic_load_n(&m->ended, __ATOMIC_ACQUIRE) ? m->end_ns : clock_now_ns()) -
		m->begin_ns;
	stats->pages_total = __atomic_load_n(&m->pages_total, __ATOMIC_RELAXED);
	stats->own_bytes = __atomic_load_n(&m->own_bytes, __ATOMIC_RELAXED);
	stats->recoveries = __atomic_load_n(&m->recoveries, __ATOMIC_RELAXED);
	stats->paused_ns = paused_ns(m);
	if (m->agent)
		agent_vmm_stats(m, stats);
	else if (m->role == WH_DEST)
		dest_side_stats(m, stats);
	else
		source_side_stats(m, stats);
	rate = rate_update(m, stats->bytes);
	if (!stats->bandwidth)
		stats->bandwidth = rate;
	if (rate && stats->pages_left && !wh_phase_ended(stats->phase))
		stats->left_ns = (uint64_t)((double)stats->pages_left * (double)TARGET_PAGE *
					    (double)NS_PER_S / (double)rate);
}

void wh_get_latencies(const struct wh_migration *m, uint64_t counts[WH_LATENCIES])
{
	const struct hist *hist = NULL;
	struct hist agents = { 0 };

	if (m->agent)
		agent_vmm_hist(m, &agents);
	else if (m->role == WH_DEST)
		hist = &m->dest->engine.counters.fault_hist;
	else
		hist = &source_get_counters(m->source->engine)->serve_hist;
	memset(counts, 0, WH_LATENCIES * sizeof(counts[0]));
	for (unsigned bits = 0; bits <= 64; bits++) {
		unsigned i = bits < 10 ? 0 : bits - 10;

		counts[i < WH_LATENCIES ? i : WH_LATENCIES - 1] +=
			hist_octave(hist ? hist : &agents, bits);
	}
}

/* All but the phase, which comes first */
static const struct figure {
	const char *name;
	size_t at;
} figures[] = {
#define FIGURE(name)                                   \
	{                                              \
#name, offsetof(struct wh_stats, name) \
	}
	FIGURE(now_ns),	      FIGURE(bytes),	    FIGURE(bytes_return), FIGURE(pages_total),
	FIGURE(pages_left),   FIGURE(pages_normal), FIGURE(pages_zero),	  FIGURE(pages_xbzrle),
	FIGURE(pages_urgent), FIGURE(pages_before), FIGURE(pages_again),  FIGURE(rounds),
	FIGURE(bandwidth),    FIGURE(dirty_rate),   FIGURE(left_ns),	  FIGURE(downtime_ns),
	FIGURE(requests),     FIGURE(faults),	    FIGURE(fault_p50_ns), FIGURE(fault_p99_ns),
	FIGURE(fault_max_ns), FIGURE(fault_sum_ns), FIGURE(own_bytes),	  FIGURE(collapsed),
	FIGURE(recoveries),   FIGURE(paused_ns),
#undef FIGURE
};
#define FIGURE_COUNT (sizeof(figures) / sizeof(figures[0]))
_Static_assert(sizeof(struct wh_stats) == (1 + FIGURE_COUNT) * sizeof(uint64_t),
	       "every member has its line");

size_t wh_stats_json(const struct wh_stats *stats, char *text, size_t room)
{
	size_t length =
		(size_t)snprintf(text, room, "{\"phase\":\"%s\"", wh_phase_name(stats->phase));

	for (size_t i = 0; i < FIGURE_COUNT; i++) {
		uint64_t value;

		memcpy(&value, (const char *)stats + figures[i].at, sizeof(value));
		length +=
			(size_t)snprintf(length < room ? text + length : NULL,
					 length < room ? room - length : 0, ",\"%s\":%" PRIu64 "%s",
					 figures[i].name, value, i + 1 < FIGURE_COUNT ? "" : "}");
	}
	return length;
}
