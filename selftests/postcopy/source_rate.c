/* SPDX-License-Identifier: GPL-2.0 */
/* Limits and estimates, by a scripted clock. */
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = { { "pc.ram", 4096, 4096 } };

/* Takes what it is given for so long; the link itself takes no time. */
static uint64_t drain(struct source_bucket *bucket, uint64_t *now_ns, uint64_t for_ns)
{
	uint64_t end_ns = *now_ns + for_ns, bytes = 0;

	while (*now_ns < end_ns) {
		size_t may;
		uint64_t until_ns = bucket_wait(bucket, *now_ns, &may);

		if (until_ns) {
			*now_ns = until_ns;
			continue;
		}
		bucket_take(bucket, may);
		bytes += may;
	}
	return bytes;
}

TEST(bucket_gives_its_rate)
{
	static const uint64_t rates[] = {
		1000, 12345, 1 << 20, 125000000, UINT64_C(10) << 30, (UINT64_C(1) << 40) - 1
	};

	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct source_bucket bucket;
		uint64_t now_ns = 77 * WORLD_S, bytes;

		bucket_set(&bucket, rates[i], now_ns);
		bytes = drain(&bucket, &now_ns, 2 * WORLD_S);
		EXPECT_GE(bytes, 2 * rates[i] * 99 / 100);
		EXPECT_LE(bytes, 2 * rates[i] * 103 / 100);
	}
}

TEST(bucket_waits_for_a_slice)
{
	struct source_bucket bucket;
	uint64_t now_ns = WORLD_S, until_ns;
	size_t may;

	bucket_set(&bucket, 100 << 20, now_ns);
	ASSERT_EQ(0u, bucket_wait(&bucket, now_ns, &may));
	EXPECT_EQ(BATCH_BYTES, may);
	/* what was in it at first were 10 ms; a batch may be a page longer than it should */
	bucket_take(&bucket, may + TARGET_PAGE);
	until_ns = bucket_wait(&bucket, now_ns, &may);
	EXPECT_GE(until_ns - now_ns, 10 * WORLD_MS);
	EXPECT_LE(until_ns - now_ns, 11 * WORLD_MS);
	/* asking again does not move it, and too early is too early */
	EXPECT_EQ(until_ns, bucket_wait(&bucket, now_ns + WORLD_MS, &may));
	EXPECT_EQ(until_ns, bucket_wait(&bucket, until_ns - 1, &may));
	EXPECT_EQ(0u, bucket_wait(&bucket, until_ns, &may));
}

TEST(bucket_makes_up_for_no_more_than_it_holds)
{
	struct source_bucket bucket;
	uint64_t now_ns = WORLD_S, bytes = 0;
	size_t may;

	bucket_set(&bucket, 100 << 20, now_ns);
	drain(&bucket, &now_ns, WORLD_S);
	now_ns += 3600 * WORLD_S;
	while (!bucket_wait(&bucket, now_ns, &may)) {
		bucket_take(&bucket, may);
		bytes += may;
	}
	EXPECT_GE(bytes, (100u << 20) / 20);
	EXPECT_LE(bytes, (100u << 20) / 20 + 1);
}

/* Looked at every microsecond, in which not even a byte is due, it fills all the same. */
TEST(bucket_keeps_fractions)
{
	struct source_bucket bucket;
	uint64_t now_ns = WORLD_S;
	size_t may;

	bucket_set(&bucket, 100000, now_ns);
	bucket_take(&bucket, 900);
	for (unsigned i = 0; i < 10000; i++)
		bucket_wait(&bucket, now_ns += 1000, &may);
	EXPECT_GE(bucket.bytes, 1098);
	EXPECT_LE(bucket.bytes, 1100);
}

TEST(bucket_without_a_rate)
{
	static const uint64_t rates[] = { 0, UINT64_C(1) << 40, UINT64_MAX };

	for (unsigned i = 0; i < 3; i++) {
		struct source_bucket bucket;
		size_t may;

		bucket_set(&bucket, rates[i], WORLD_S);
		for (unsigned n = 0; n < 1000; n++) {
			ASSERT_EQ(0u, bucket_wait(&bucket, WORLD_S, &may));
			EXPECT_EQ(BATCH_BYTES, may);
			bucket_take(&bucket, may);
		}
	}
}

/* A clock that stands still or is set back must not make a limit wait for ever. */
TEST(bucket_and_clock)
{
	struct source_bucket bucket;
	uint64_t now_ns = 100 * WORLD_S, until_ns;
	size_t may;

	bucket_set(&bucket, 1, now_ns);
	bucket_take(&bucket, BATCH_BYTES);
	until_ns = bucket_wait(&bucket, now_ns, &may);
	EXPECT_GT(until_ns, now_ns + (UINT64_C(1) << 20) * WORLD_S);
	EXPECT_LT(until_ns, now_ns + (UINT64_C(1) << 20) * WORLD_S + 2 * WORLD_S);
	EXPECT_EQ(until_ns, bucket_wait(&bucket, now_ns - WORLD_S, &may));
	EXPECT_EQ(0u, bucket_wait(&bucket, until_ns, &may));
}

TEST(meter_without_limit_is_bytes_by_time)
{
	struct source_meter meter;

	meter_start(&meter, WORLD_S);
	meter.bytes = 50 << 20;
	meter_mark(&meter, WORLD_S + 500 * WORLD_MS, false);
	/* not yet long enough */
	EXPECT_EQ(7u, meter_estimate(&meter, 7, WORLD_S));
	EXPECT_EQ(100u << 20, meter_estimate(&meter, 0, WORLD_MS));
	/* a new beginning, folded into what was known by a quarter */
	meter.bytes = 200 << 20;
	meter_mark(&meter, WORLD_S + 1500 * WORLD_MS, false);
	EXPECT_EQ(125u << 20, meter_estimate(&meter, 100 << 20, WORLD_MS));
	/* nothing sent says nothing */
	meter_mark(&meter, 3 * WORLD_S, false);
	EXPECT_EQ(9u, meter_estimate(&meter, 9, WORLD_MS));
}

/*
 * A limit of 64 MiB/s on a link of 1 GiB/s. Slices that fit into the socket's buffer
 * say nothing about the link; those of a higher limit do.
 */
TEST(meter_tells_a_limit_from_the_link)
{
	struct source_meter meter;
	uint64_t now_ns = WORLD_S, estimate;

	meter_start(&meter, now_ns);
	for (unsigned i = 0; i < 100; i++) {
		meter.bytes += 671089;			     /* 10 ms worth */
		meter_mark(&meter, now_ns += 100000, false); /* into the buffer, at once */
		meter_mark(&meter, now_ns, true);
		now_ns += 9900000;
		meter_mark(&meter, now_ns, false);
	}
	estimate = meter_estimate(&meter, 0, 0);
	EXPECT_GT(estimate, 60u << 20);
	EXPECT_LT(estimate, 70u << 20);

	meter_start(&meter, now_ns);
	for (unsigned i = 0; i < 100; i++) {
		meter.bytes += 32 << 20;			    /* 50 ms worth of 640 MiB/s */
		meter_mark(&meter, now_ns += 28 * WORLD_MS, false); /* 4 MiB of it buffered */
		meter_mark(&meter, now_ns, true);
		meter_mark(&meter, now_ns += 22 * WORLD_MS, false);
	}
	estimate = meter_estimate(&meter, 0, 0);
	EXPECT_GT(estimate, 950u << 20);
	EXPECT_LT(estimate, 1050u << 20);
}

/* Steps until this phase. Return: the most that went out in any second of it */
static uint64_t fastest_second(struct world *w, enum source_phase phase)
{
	uint64_t at_ns[4096], bytes[4096], most = 0;
	unsigned n = 0;

	while (source_get_phase(w->source) != phase && n < 4096) {
		int todo = world_step(w);

		if (todo == SOURCE_SEND && source_get_phase(w->source) != phase) {
			at_ns[n] = w->now_ns;
			bytes[n++] = w->batch->bytes;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t sum = 0;

		for (unsigned j = i; j < n && at_ns[j] - at_ns[i] < WORLD_S; j++)
			sum += bytes[j];
		if (sum > most)
			most = sum;
	}
	return n < 4096 ? most : UINT64_MAX;
}

TEST(precopy_keeps_its_limit_and_the_switch_has_none)
{
	struct source_config config = { .downtime_ns = WORLD_S, .bandwidth = 4 << 20 };
	uint64_t begun_ns, most;
	struct world w;

	world_init(&w, &config, blocks, 1);
	world_scribble(&w); /* 12.8 MiB */
	source_connected(w.source, w.now_ns);
	begun_ns = w.now_ns;
	/* 900 pages, 3.5 MiB, arrive at the end of the round: 0.9 s at the limit */
	for (unsigned i = 0; i < 900; i++)
		bits_set(w.written[0], i * 4);
	most = fastest_second(&w, SOURCE_SWITCHOVER);
	EXPECT_LE(most, (4u << 20) * 106 / 100);
	EXPECT_GE(w.now_ns - begun_ns, 3 * WORLD_S);
	EXPECT_LE(w.now_ns - begun_ns, 3500 * WORLD_MS);
	begun_ns = w.now_ns;
	ASSERT_TRUE(world_run_to(&w, SOURCE_DONE));
	EXPECT_LE(w.now_ns - begun_ns, 10 * WORLD_MS);
	world_fini(&w);
}

TEST(postcopy_has_a_limit_of_its_own)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.bandwidth = 1,
		.postcopy_bandwidth = 4 << 20,
	};

	for (unsigned urgent = 0; urgent < 2; urgent++) {
		uint64_t begun_ns;
		struct world w;

		config.urgent = urgent ? WH_URGENT_AT_START : WH_URGENT_OFF;
		world_init(&w, &config, blocks, 1);
		world_scribble(&w);
		source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
		begun_ns = w.now_ns;
		EXPECT_LE(fastest_second(&w, SOURCE_ENDING), (4u << 20) * 106 / 100);
		EXPECT_GE(w.now_ns - begun_ns, 3 * WORLD_S);
		EXPECT_LE(w.now_ns - begun_ns, 3500 * WORLD_MS);
		EXPECT_EQ(1u, world_came(&w, true));
		world_fini(&w);
	}
}

/* While the background waits for its limit, requests do not. */
TEST(requests_are_outside_any_limit)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.postcopy_bandwidth = 1 << 20,
	};
	uint64_t wake_ns;
	struct world w;

	world_init(&w, &config, blocks, 1);
	memset(w.region[0].addr, 1, w.region[0].length);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	while (world_ask(&w) == SOURCE_SEND)
		world_deliver(&w);
	wake_ns = source_wake_ns(w.source);
	EXPECT_GT(wake_ns, w.now_ns);
	w.bytes_per_s = 0;
	for (unsigned i = 0; i < 500; i++) {
		ASSERT_EQ(0, world_request(&w, 0, 4095 - i, 1));
		ASSERT_EQ(SOURCE_SEND, world_step(&w));
		EXPECT_EQ(1u, w.model.came[0][4095 - i]);
	}
	/* and they do not use it up: the background goes on when it would have */
	ASSERT_EQ(SOURCE_WAIT, world_ask(&w));
	EXPECT_EQ(wake_ns, source_wake_ns(w.source));
	w.now_ns = wake_ns;
	EXPECT_EQ(SOURCE_SEND, world_ask(&w));
	world_fini(&w);
}

/* A host page asked for is not held up in its middle either, nor does it lift the limit. */
TEST(host_pages_and_limits)
{
	static const struct world_block big[] = { { "huge", 4096, 2 << 20 } };
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.postcopy_bandwidth = 4 << 20,
	};
	struct world w;

	world_init(&w, &config, big, 1);
	memset(w.region[0].addr, 1, w.region[0].length);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_POSTCOPY));
	while (world_ask(&w) == SOURCE_SEND)
		world_deliver(&w);
	EXPECT_LT(w.model.pages, 32u);
	ASSERT_EQ(0, world_request(&w, 0, 2048, 512));
	while (world_ask(&w) == SOURCE_SEND)
		world_deliver(&w);
	EXPECT_EQ(1024u, w.model.pages);
	EXPECT_EQ(1u, w.model.came[0][511]);
	EXPECT_EQ(1u, w.model.came[0][2048 + 511]);
	EXPECT_LE(fastest_second(&w, SOURCE_ENDING), (4u << 20) * 106 / 100);
	EXPECT_FALSE(w.model.interleaved);
	world_fini(&w);
}

/*
 * A few bytes left of a slice are less than a section's head, and yet a page goes:
 * none at all would mean that the round, or the migration, is over.
 */
TEST(scraps_of_a_slice)
{
	for (unsigned post = 0; post < 2; post++) {
		struct source_config config = {
			.downtime_ns = 1,
			.postcopy = true,
			.bandwidth = 1 << 20,
			.postcopy_bandwidth = 1 << 20,
		};
		struct world w;

		world_init(&w, &config, blocks, 1);
		world_scribble(&w);
		if (post)
			source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		world_step(&w);
		ASSERT_TRUE(world_run_to(&w, post ? SOURCE_POSTCOPY : SOURCE_PRECOPY));
		w.bytes_per_s = 0;
		for (int64_t left = 1; left < 10; left++) {
			w.model.pages = 0;
			w.source->bucket.bytes = left;
			w.source->bucket.until_ns = 0;
			w.source->bucket.at_ns = w.now_ns;
			ASSERT_EQ(SOURCE_SEND, world_step(&w));
			EXPECT_EQ(1u, w.model.pages);
		}
		EXPECT_EQ(0u, w.rounds);
		world_fini(&w);
	}
}

/* Waiting for the limit, it wakes in time for the switch to postcopy. */
TEST(limit_does_not_sleep_through_postcopy_after)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.bandwidth = 1000,
		.postcopy_after_ns = 2 * WORLD_S,
	};
	uint64_t begun_ns;
	struct world w;

	world_init(&w, &config, blocks, 1);
	world_scribble(&w);
	source_connected(w.source, w.now_ns);
	begun_ns = w.now_ns;
	ASSERT_TRUE(world_run_to(&w, SOURCE_SWITCHOVER));
	EXPECT_GE(w.now_ns - begun_ns, 2 * WORLD_S);
	EXPECT_LE(w.now_ns - begun_ns, 2 * WORLD_S + 100 * WORLD_MS);
	world_fini(&w);
}

/* Nor while postcopy waits for an urgent channel that does not come. */
TEST(limit_does_not_sleep_through_the_urgent_channel)
{
	struct source_config config = {
		.downtime_ns = 1,
		.postcopy = true,
		.bandwidth = 1000,
		.urgent = WH_URGENT_AT_SWITCH,
		.dead_peer_ns = 3 * WORLD_S,
	};
	uint64_t begun_ns;
	struct world w;

	world_init(&w, &config, blocks, 1);
	world_scribble(&w);
	source_want_postcopy(w.source);
	source_connected(w.source, w.now_ns);
	begun_ns = w.now_ns;
	ASSERT_TRUE(world_run_to(&w, SOURCE_SWITCHOVER));
	EXPECT_GE(w.now_ns - begun_ns, 3 * WORLD_S);
	EXPECT_LE(w.now_ns - begun_ns, 3 * WORLD_S + 100 * WORLD_MS);
	world_fini(&w);
}

/* What a round found dirty and what it took: the rate and the estimate a VMM sees. */
TEST(downtime_is_from_pause_to_the_end_of_device_state)
{
	struct source_config config = { .downtime_ns = WORLD_S, .return_path = true };
	uint64_t paused_ns;
	struct world w;

	world_init(&w, &config, blocks, 1);
	world_scribble(&w);
	w.bytes_per_s = 64 << 20;
	bits_range_set(w.written[0], 0, 1024);
	source_connected(w.source, w.now_ns);
	ASSERT_TRUE(world_run_to(&w, SOURCE_SWITCHOVER));
	paused_ns = source_get_counters(w.source)->paused_ns;
	ASSERT_TRUE(world_run_to(&w, SOURCE_HANDOVER));
	EXPECT_EQ(w.now_ns - paused_ns, source_get_counters(w.source)->downtime_ns);
	w.now_ns += 20 * WORLD_MS;
	ASSERT_EQ(0, world_shut(&w, 0));
	world_ask(&w);
	EXPECT_EQ(w.now_ns - paused_ns, source_get_counters(w.source)->downtime_ns);
	/* 819 pages with contents at 64 MiB/s, and 20 ms */
	EXPECT_GT(w.now_ns - paused_ns, 65 * WORLD_MS);
	EXPECT_LT(w.now_ns - paused_ns, 75 * WORLD_MS);
	world_fini(&w);
}

TEST_HARNESS_MAIN
