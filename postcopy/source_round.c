/* SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "base/trace.h"
#include "postcopy/source_internal.h"

/*
 * Precopy: rounds over the dirty map while the guest runs. After each the estimate
 * decides whether what is left can be sent within the downtime.
 */
#define ESTIMATE_NS (100 * NS_PER_MS)
#define UNREADY_NS (50 * NS_PER_MS)
#define PAGE_ON_WIRE (TARGET_PAGE + 8)

void source_round_begin(struct source *source, uint64_t now_ns)
{
	source_rewind(source);
	source->round_ns = now_ns;
	source->round_bytes = 0;
}

static bool postcopy_wanted(struct source *source, uint64_t now_ns)
{
	const struct source_config *config = &source->config;

	if (!config->postcopy)
		return false;
	if (__atomic_load_n(&source->want_postcopy, __ATOMIC_ACQUIRE) ||
	    (config->postcopy_after_ns && now_ns - source->begun_ns >= config->postcopy_after_ns)) {
		if (source->wanted_ns == UINT64_MAX)
			source->wanted_ns = now_ns;
		return true;
	}
	return false;
}

static uint64_t expected_downtime_ns(const struct source *source)
{
	uint64_t pages = source_pages_left(source);
	double ns;

	if (!pages)
		return 0;
	if (!source->counters.bandwidth)
		return UINT64_MAX;
	ns = (double)pages * (double)PAGE_ON_WIRE * (double)NS_PER_S /
	     (double)source->counters.bandwidth;
	return ns < 1e18 ? (uint64_t)ns : UINT64_MAX;
}

static void set(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static bool may_switch(const struct source *source)
{
	return !source->config.switchover_ack || __atomic_load_n(&source->acked, __ATOMIC_ACQUIRE);
}

/* Every dirty page has been sent once: what has the guest written meanwhile? */
static int round_end(struct source *source, uint64_t now_ns, struct wh_err *err)
{
	struct source_counters *counters = &source->counters;
	uint64_t took_ns = now_ns - source->round_ns;
	uint64_t dirty;
	int ret;

	ret = source_sync(source, err);
	if (ret < 0)
		return source_break(source, err);
	dirty = source_pages_left(source);
	set(&counters->bandwidth, meter_estimate(&source->meter, counters->bandwidth,
						 counters->bandwidth ? NS_PER_MS : 0));
	if (took_ns)
		set(&counters->dirty_rate,
		    (uint64_t)((double)dirty * (double)NS_PER_S / (double)took_ns));
	source_count(&counters->rounds, 1);
	trace(round_end, counters->rounds, source->round_bytes, dirty);
	if (source->ops->round)
		source->ops->round(source->ctx, counters->rounds, source->round_bytes, dirty);
	if (expected_downtime_ns(source) <= source->config.downtime_ns) {
		if (may_switch(source))
			return source_switch(source, false, now_ns, err);
		/* it might be now; what it says wakes us, and meanwhile little is written */
		source_round_begin(source, now_ns);
		return source_wait(source, now_ns + UNREADY_NS);
	}
	source_round_begin(source, now_ns);
	return SOURCE_AGAIN;
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

/* When the limit makes it wait: until then, or until something else is due */
static int wait_for_limit(struct source *source, uint64_t until_ns)
{
	const struct source_config *config = &source->config;

	if (source->wanted_ns != UINT64_MAX && config->dead_peer_ns)
		until_ns = earlier(until_ns, source->wanted_ns + config->dead_peer_ns);
	else if (config->postcopy && config->postcopy_after_ns)
		until_ns = earlier(until_ns, source->begun_ns + config->postcopy_after_ns);
	return source_wait(source, until_ns);
}

int source_round(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err)
{
	struct source_fill fill = { .pages_max = UINT64_MAX };
	uint64_t until_ns;

	/* a round may take longer than anybody wants to wait: it is broken off */
	if (postcopy_wanted(source, now_ns) && source_peer_settled(source, now_ns) &&
	    source_urgent_settled(source, now_ns) && may_switch(source)) {
		int ret = source_beside_stop(source, batch);

		return ret == SOURCE_AGAIN ? source_switch(source, true, now_ns, err) : ret;
	}

	until_ns = bucket_wait(&source->bucket, now_ns, &fill.bytes_max);
	meter_mark(&source->meter, now_ns, until_ns);
	if (until_ns)
		return wait_for_limit(source, until_ns);
	set(&source->counters.bandwidth,
	    meter_estimate(&source->meter, source->counters.bandwidth, ESTIMATE_NS));

	if (source->multifd.lanes) {
		int ret = source_lanes_pages(source, now_ns, batch, err);

		return ret == SOURCE_AGAIN ? round_end(source, now_ns, err) : ret;
	}
	if (source->config.beside) {
		size_t most = source->bucket.rate ? fill.bytes_max : SIZE_MAX;
		int ret = source_beside_pages(source, now_ns, most, batch);

		return ret == SOURCE_AGAIN ? round_end(source, now_ns, err) : ret;
	}
	batch_part(batch, SECTION_PART);
	if (!source_fill(source, batch, &fill))
		return round_end(source, now_ns, err);
	batch_part_end(batch);
	source->round_bytes += batch->bytes;
	return source_send(source, batch, true);
}
