/* SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "postcopy/source_internal.h"

/*
 * A limit is a bucket that fills with time. Its owner sends while anything is in it
 * and then waits until a slice of 10 ms is, so that it neither wakes for every page
 * nor sends for a whole second at once. It holds 50 ms at most: who was late for
 * longer does not make up for it. Batches are no larger than what is in it, and so
 * what it owes is never more than one page.
 */
#define SLICE_US UINT64_C(10000)
#define HOLD_US UINT64_C(50000)
#define US_PER_S UINT64_C(1000000)

/* From 1 TiB/s on it is none, and products below fit into 64 bits */
#define RATE_MAX (UINT64_C(1) << 40)

static uint64_t bytes_in(const struct source_bucket *bucket, uint64_t us)
{
	return bucket->rate * us / US_PER_S;
}

void bucket_set(struct source_bucket *bucket, uint64_t rate, uint64_t now_ns)
{
	*bucket = (struct source_bucket){ .rate = rate < RATE_MAX ? rate : 0, .at_ns = now_ns };
	bucket->bytes = (int64_t)bytes_in(bucket, SLICE_US);
}

static void bucket_fill(struct source_bucket *bucket, uint64_t now_ns)
{
	uint64_t us = now_ns > bucket->at_ns ? (now_ns - bucket->at_ns) / NS_PER_US : 0;
	int64_t most = (int64_t)bytes_in(bucket, HOLD_US) + 1;
	uint64_t missing, more;

	if (bucket->bytes >= most) {
		bucket->at_ns = now_ns;
		return;
	}
	missing = (uint64_t)(most - bucket->bytes);
	if (us > missing * US_PER_S / bucket->rate) {
		bucket->bytes = most;
		bucket->at_ns = now_ns;
		return;
	}
	more = bytes_in(bucket, us);
	bucket->bytes += (int64_t)more;
	/* at a low rate the time that has not made a whole byte yet counts next time */
	us -= (bucket->rate * us - more * US_PER_S) / bucket->rate;
	bucket->at_ns += us * NS_PER_US;
}

uint64_t bucket_wait(struct source_bucket *bucket, uint64_t now_ns, size_t *bytes)
{
	*bytes = BATCH_BYTES;
	if (!bucket->rate)
		return 0;
	if (now_ns < bucket->until_ns)
		return bucket->until_ns;
	bucket_fill(bucket, now_ns);
	if (bucket->bytes <= 0) {
		uint64_t missing = bytes_in(bucket, SLICE_US) + (uint64_t)-bucket->bytes + 1;

		bucket->until_ns =
			now_ns + missing * US_PER_S / bucket->rate * NS_PER_US + NS_PER_US;
		return bucket->until_ns;
	}
	if (bucket->bytes < (int64_t)BATCH_BYTES)
		*bytes = (size_t)bucket->bytes;
	return 0;
}

void bucket_take(struct source_bucket *bucket, size_t bytes)
{
	if (bucket->rate)
		bucket->bytes -= (int64_t)bytes;
}

void meter_start(struct source_meter *meter, uint64_t now_ns)
{
	*meter = (struct source_meter){ .mark_ns = now_ns };
}

void meter_mark(struct source_meter *meter, uint64_t now_ns, bool waits_from_here)
{
	uint64_t past_ns = now_ns > meter->mark_ns ? now_ns - meter->mark_ns : 0;

	if (meter->waiting)
		meter->wait_ns += past_ns;
	else
		meter->busy_ns += past_ns;
	meter->waits += waits_from_here && !meter->waiting;
	meter->waiting = waits_from_here;
	meter->mark_ns = now_ns;
}

/*
 * How fast is the link, when a limit makes us pause? Not bytes / busy: during a pause
 * the link empties the socket's buffer, and what comes next goes into that buffer as
 * fast as memory is. Not bytes / (busy + wait) either: that is the limit, and a limit
 * does not apply at the switch. But no buffer takes more than this for each pause,
 * and what was sent beyond that went at the link's speed. The larger of both lower
 * bounds is taken.
 */
#define BUFFER_BYTES (UINT64_C(4) << 20)

uint64_t meter_estimate(struct source_meter *meter, uint64_t estimate, uint64_t min_ns)
{
	uint64_t all_ns = meter->busy_ns + meter->wait_ns;
	uint64_t buffered = meter->waits * BUFFER_BYTES;
	double rate;

	if (!all_ns || all_ns < min_ns || !meter->bytes)
		return estimate;
	rate = (double)meter->bytes / (double)all_ns;
	if (meter->waits && meter->busy_ns && meter->bytes > buffered) {
		double fast = (double)(meter->bytes - buffered) / (double)meter->busy_ns;

		if (fast > rate)
			rate = fast;
	}
	rate *= (double)NS_PER_S;
	if (rate > (double)RATE_MAX)
		rate = (double)RATE_MAX;
	if (estimate)
		rate = ((double)estimate * 3 + rate) / 4;
	*meter = (struct source_meter){ .mark_ns = meter->mark_ns, .waiting = meter->waiting };
	return (uint64_t)rate > 0 ? (uint64_t)rate : 1;
}
