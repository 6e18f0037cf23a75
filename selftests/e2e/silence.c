/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A network that goes away without a word: nothing is closed, nothing is taken any more. Both
 * ends notice within one and a half times dead_peer_ns, and what is slow is not silent.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"

#define DEAD_NS (400 * NS_PER_MS)
#define BOUND_NS (DEAD_NS + DEAD_NS / 2)
#define REST_NS (50 * NS_PER_MS)
#define LATE_NS (450 * NS_PER_MS) /* a machine with other things to do */

FIXTURE(silence)
{
	struct pair pair;
	struct proxy *proxy;
	struct wh_err err;
	char folder[32];
	char uri[64];
};

FIXTURE_VARIANT(silence)
{
	bool local;
	enum wh_urgent urgent;
	unsigned pace_us;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(silence, tcp) { .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(silence, tcp_urgent) { .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(silence, local) { .local = true, .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(silence, local_urgent) { .local = true, .urgent = WH_URGENT_AT_START };
/* Nobody waits for a page: it has all that it touches */
FIXTURE_VARIANT_ADD(silence, idle) { .local = true, .urgent = WH_URGENT_OFF, .pace_us = 990000 };
/* clang-format on */

FIXTURE_SETUP(silence)
{
	memset(self, 0, sizeof(*self));
	strcpy(self->folder, "/tmp/wherry-silence.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->uri, sizeof(self->uri), variant->local ? "unix:%s/to" : "tcp:127.0.0.1:0",
		 self->folder);
	self->pair.source.dead_peer_ns = self->pair.dest.dead_peer_ns = DEAD_NS;
	self->pair.source.pace_us = self->pair.dest.pace_us = variant->pace_us;
}

FIXTURE_TEARDOWN(silence)
{
	proxy_end(self->proxy);
	rmdir(self->folder);
}

static void begin(FIXTURE_DATA(silence) *self, struct __test_metadata *_metadata,
		  enum wh_urgent urgent, const struct proxy_script *script)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct wh_err *err = &self->err;

	ASSERT_EQ(0, end_new(source, WH_SOURCE, urgent, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_new(dest, WH_DEST, urgent, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_listen(dest->migration, self->uri, err)) TH_LOG("%s", err->text);
	self->proxy = proxy_start(wh_listen_uri(dest->migration), script);
	ASSERT_NE(NULL, self->proxy);
	ASSERT_EQ(0, wh_connect(source->migration, proxy_uri(self->proxy), err))
	TH_LOG("%s", err->text);
	end_run(source, NULL);
	ASSERT_EQ(0, end_start(dest, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(source, false, err)) TH_LOG("%s", err->text);
}

/* Nobody asks for anything: its threads have all they touch, and rest */
static bool rests(const struct end *dest)
{
	uint64_t since_ns = clock_now_ns(), begin_ns = since_ns, requests = 0;
	struct wh_stats stats;

	while (clock_now_ns() < begin_ns + WAIT_NS) {
		wh_get_stats(dest->migration, &stats);
		if (stats.requests != requests)
			since_ns = clock_now_ns();
		requests = stats.requests;
		if (requests && clock_now_ns() - since_ns > REST_NS)
			return true;
		usleep(500);
	}
	return false;
}

/*
 * Return: how long since @since_ns until both have noticed, but for the longest time that this
 * thread was not let run in: then they may not have been either
 */
static uint64_t until_paused(FIXTURE_DATA(silence) *self, struct __test_metadata *_metadata,
			     uint64_t since_ns)
{
	const struct end *ends[] = { &self->pair.source, &self->pair.dest };
	uint64_t took_ns[2] = { 0 }, seen_ns = 0, late_ns = 0;

	while (!took_ns[0] || !took_ns[1]) {
		uint64_t now_ns = clock_now_ns() - since_ns;

		if (now_ns > WAIT_NS)
			return UINT64_MAX;
		late_ns = MAX(late_ns, now_ns - seen_ns);
		seen_ns = now_ns;
		for (unsigned i = 0; i < 2; i++)
			if (!took_ns[i] && wh_get_phase(ends[i]->migration) == WH_PHASE_PAUSED)
				took_ns[i] = now_ns;
		usleep(500);
	}
	TH_LOG("paused after %llu ms and %llu ms, %llu late",
	       (unsigned long long)(took_ns[0] / NS_PER_MS),
	       (unsigned long long)(took_ns[1] / NS_PER_MS),
	       (unsigned long long)(late_ns / NS_PER_MS));
	return MAX(took_ns[0], took_ns[1]) - late_ns;
}

TEST_F(silence, both_pause_in_time)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	uint64_t took_ns, cut_ns;

	begin(self, _metadata, variant->urgent, &(struct proxy_script){ .stall = true });
	ASSERT_EQ(0, wh_start_postcopy(source->migration, &self->err));
	ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
	if (variant->pace_us) {
		ASSERT_TRUE(rests(dest));
	}
	proxy_cut(self->proxy);
	cut_ns = clock_now_ns();
	took_ns = until_paused(self, _metadata, cut_ns);
	EXPECT_LT(DEAD_NS / 2, took_ns);
	EXPECT_GT(BOUND_NS + LATE_NS, took_ns);
	/* and nothing is lost */
	proxy_end(self->proxy);
	self->proxy = NULL;
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err));
	ASSERT_TRUE(end_phase(dest, WH_PHASE_DONE));
	ASSERT_TRUE(end_phase(source, WH_PHASE_DONE));
	EXPECT_EQ(0, wrong_byte(&self->pair));
	end_free(source);
	end_free(dest);
}

/* A peer that stands still before the switch: the guest stays, and has never stood still */
TEST_F(silence, the_source_keeps_it)
{
	struct end *source = &self->pair.source;
	uint64_t took_ns, cut_ns, passes;

	begin(self, _metadata, variant->urgent, &(struct proxy_script){ .stall = true });
	ASSERT_TRUE(end_phase(&self->pair.dest, WH_PHASE_PRECOPY));
	proxy_cut(self->proxy);
	cut_ns = clock_now_ns();
	ASSERT_TRUE(end_phase(source, WH_PHASE_FAILED));
	took_ns = clock_now_ns() - cut_ns;
	TH_LOG("failed after %llu ms", (unsigned long long)(took_ns / NS_PER_MS));
	EXPECT_GT(BOUND_NS + LATE_NS, took_ns);
	passes = __atomic_load_n(&source->workload[0].passes, __ATOMIC_RELAXED);
	end_pause(source, NULL);
	EXPECT_LE(passes, source->workload[0].passes);
	EXPECT_EQ(0, workload_verify(&source->workload[0]));
	proxy_end(self->proxy);
	self->proxy = NULL;
	EXPECT_TRUE(end_phase(&self->pair.dest, WH_PHASE_FAILED));
	end_free(source);
	end_free(&self->pair.dest);
}

/* What is sent is taken in small pieces, each batch for longer than a peer counts as dead */
TEST(slow)
{
	FIXTURE_DATA(silence) *self = calloc(1, sizeof(*self));
	struct wh_stats stats;

	self->pair.source.dead_peer_ns = self->pair.dest.dead_peer_ns = 600 * NS_PER_MS;
	self->pair.source.pace_us = self->pair.dest.pace_us = 990000;
	strcpy(self->folder, "/tmp/wherry-silence.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->uri, sizeof(self->uri), "unix:%s/to", self->folder);
	begin(self, _metadata, WH_URGENT_OFF, &(struct proxy_script){ .slow = 2500 });
	ASSERT_TRUE(end_phase(&self->pair.dest, WH_PHASE_PRECOPY));
	usleep(600000);
	wh_get_stats(self->pair.source.migration, &stats);
	EXPECT_EQ(WH_PHASE_PRECOPY, stats.phase);
	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_TRUE(end_phase(&self->pair.dest, WH_PHASE_DONE));
	ASSERT_TRUE(end_phase(&self->pair.source, WH_PHASE_DONE));
	wh_get_stats(self->pair.source.migration, &stats);
	EXPECT_EQ(0, stats.recoveries);
	EXPECT_EQ(0, wrong_byte(&self->pair));
	proxy_end(self->proxy);
	rmdir(self->folder);
	end_free(&self->pair.source);
	end_free(&self->pair.dest);
	free(self);
}

TEST_HARNESS_MAIN
