/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A protection from its beginning to each of its ends.
 */
#include "selftests/lib/protected.h"
#include "selftests/lib/proxy.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES 1024u

FIXTURE(pair)
{
	struct protected pair;
	struct proxy *proxy;
	struct wh_err err;
};

FIXTURE_SETUP(pair)
{
	protected_init(&self->pair, PAGES, NULL);
}

FIXTURE_TEARDOWN(pair)
{
	protected_fini(&self->pair);
	if (self->proxy)
		proxy_end(self->proxy);
}

/* The survivor's memory is that of a moment, and nobody has seen anything later */
#define EXPECT_SURVIVES(pair)                                                                \
	do {                                                                                 \
		EXPECT_TRUE((pair)->ran);                                                    \
		EXPECT_FALSE((pair)->mismatch);                                              \
		EXPECT_EQ(0, speaker_verify(&(pair)->replica));                              \
		EXPECT_LE(speaker_seen((pair)->world), *(uint64_t *)(pair)->replica.memory); \
		EXPECT_EQ(0, (pair)->world->wrong);                                          \
	} while (0)

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)

static bool saw(const struct protected *pair, unsigned end, enum wh_protect_state state)
{
	return __atomic_load_n(&pair->states[end], __ATOMIC_RELAXED) >> state & 1;
}

/* The source's process dies: nothing of it says anything any more */
static void source_dies(struct protected *pair)
{
	wh_protect_free(pair->source);
	pair->source = NULL;
}

/* As short as a machine that has other things to do lets it be */
static void short_lease(struct protected *pair)
{
	pair->source_config.heartbeat_ns = 20000000;
	pair->source_config.lease_ns = 500000000;
}

static void through_proxy(struct protected *pair, struct proxy **proxy,
			  const struct proxy_script *script)
{
	*proxy = proxy_start(pair->uri, script);
	pair->to = proxy_uri(*proxy);
}

/* Over all of its memory, about twice */
static bool steps_on(struct speaker *guest)
{
	uint64_t until = speaker_step(guest) + 2 * (uint64_t)PAGES;

	for (unsigned i = 0; i < 10000 && speaker_step(guest) < until; i++)
		usleep(1000);
	return speaker_step(guest) >= until;
}

TEST_F(pair, the_source_dies_and_the_guest_goes_on)
{
	struct protected *pair = &self->pair;
	uint64_t seen;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 20));
	EXPECT_LT(0, speaker_seen(pair->world));
	source_dies(pair);
	seen = speaker_seen(pair->world);
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	EXPECT_FALSE(pair->ran);
	ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_TAKEOVER, protected_state(pair->dest));
	EXPECT_SURVIVES(pair);
	EXPECT_EQ(seen, speaker_seen(pair->world));
	EXPECT_TRUE(saw(pair, PROTECTED_SOURCE, WH_PROTECT_WAIT_ACK));
	EXPECT_TRUE(saw(pair, PROTECTED_DEST, WH_PROTECT_RECEIVING));
	EXPECT_TRUE(saw(pair, PROTECTED_DEST, WH_PROTECT_APPLYING));
}

/* Nobody has to answer its writes when it is not protected any more */
TEST_F(pair, copied_after_the_stop_to_the_end)
{
	struct protected *pair = &self->pair;

	pair->source_config.copy_on_write = true;
	ASSERT_OK(protected_start(pair, &self->err));
	if (!protected_goes_on(pair->source, 5))
		SKIP(return, "no checkpoints: protect/limits says why");
	ASSERT_OK(wh_protect_stop(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	EXPECT_TRUE(steps_on(&pair->guest));
}

/* In order: the destination forgets it, and everything leaves */
TEST_F(pair, it_ends_in_order)
{
	struct protected *pair = &self->pair;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	ASSERT_OK(wh_protect_stop(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_FENCED, protected_state(pair->dest));
	EXPECT_EQ(-EINVAL, wh_protect_takeover(pair->dest, 0, &self->err));
	speaker_park(&pair->guest);
	EXPECT_EQ(pair->guest.step, speaker_seen(pair->world));
	EXPECT_EQ(0, pair->world->wrong);
	EXPECT_FALSE(pair->ran);
}

/* The connection breaks: both wait for somebody, and nothing leaves */
TEST_F(pair, a_cut_decides_nothing)
{
	struct protected *pair = &self->pair;
	struct proxy_script script = { 0 };
	uint64_t seen;

	/* long: it is the end of the connection that is noticed, not silence */
	pair->source_config.lease_ns = 60000000000;
	through_proxy(pair, &self->proxy, &script);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	proxy_cut(self->proxy);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	seen = speaker_seen(pair->world);
	usleep(50000);
	EXPECT_EQ(seen, speaker_seen(pair->world));
	EXPECT_FALSE(pair->ran);
	/* the destination never will: the guest goes on here */
	ASSERT_OK(wh_protect_abandon(pair->dest, &self->err));
	EXPECT_EQ(-EINVAL, wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_release(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	speaker_park(&pair->guest);
	EXPECT_EQ(pair->guest.step, speaker_seen(pair->world));
	EXPECT_LT(seen, speaker_seen(pair->world));
	EXPECT_EQ(0, pair->world->wrong);
}

/* The other one runs: who has lost his guest asks, hears it, and fences himself */
TEST_F(pair, the_source_hears_of_the_takeover)
{
	struct protected *pair = &self->pair;
	struct proxy_script script = { .heals = true };
	uint64_t step;

	short_lease(pair);
	/* in the middle of what no buffer takes */
	pair->guest.rest_us = 0;
	pair->source_config.pack = 0;
	through_proxy(pair, &self->proxy, &script);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	while (protected_state(pair->source) != WH_PROTECT_SEND)
		;
	proxy_cut(self->proxy);
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	EXPECT_EQ(WH_PROTECT_FENCED, protected_state(pair->source));
	EXPECT_TRUE(saw(pair, PROTECTED_SOURCE, WH_PROTECT_HOLD));
	step = speaker_step(&pair->guest);
	EXPECT_SURVIVES(pair);
	usleep(20000);
	EXPECT_EQ(step, speaker_step(&pair->guest));
	EXPECT_EQ(-EINVAL, wh_protect_release(pair->source, &self->err));
}

/* A decision against a source that is there: it is told at once */
TEST_F(pair, taken_over_while_it_runs)
{
	struct protected *pair = &self->pair;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	EXPECT_EQ(WH_PROTECT_FENCED, protected_state(pair->source));
	EXPECT_SURVIVES(pair);
}

TEST_F(pair, a_destination_that_decides_alone)
{
	struct protected *pair = &self->pair;

	short_lease(pair);
	pair->dest_config.authority = WH_PROTECT_ALONE;
	EXPECT_EQ(-EINVAL, protected_start_dest(pair, &self->err));
	pair->dest_config.output_held = true;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	source_dies(pair);
	ASSERT_OK(wh_protect_wait(pair->dest, 10000000000, &self->err));
	EXPECT_EQ(WH_PROTECT_TAKEOVER, protected_state(pair->dest));
	EXPECT_SURVIVES(pair);
}

static unsigned asked;

static int fence_at_third(void *opaque, uint64_t generation, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	(void)generation;
	return __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED) < 3 ? -EAGAIN : 0;
}

/* Nobody knows at first: then nothing is run */
TEST_F(pair, a_witness_is_asked_until_he_knows)
{
	struct protected *pair = &self->pair;

	short_lease(pair);
	pair->dest_config.authority = WH_PROTECT_FENCE;
	pair->dest_calls.fence_peer = fence_at_third;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	EXPECT_EQ(0, __atomic_load_n(&asked, __ATOMIC_RELAXED));
	source_dies(pair);
	ASSERT_OK(wh_protect_wait(pair->dest, 10000000000, &self->err));
	EXPECT_EQ(3, asked);
	EXPECT_SURVIVES(pair);
}

/* The one that was taken over cannot come back, nor one as old as it */
TEST_F(pair, an_old_generation_is_refused)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;
	FILE *file = fopen(pair->generation[PROTECTED_DEST], "w");

	fprintf(file, "1\n");
	fclose(file);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(WH_PROTECT_RELEASED, status.state);
	EXPECT_NE(0, status.err.code);
	EXPECT_EQ(1, status.generation);
	EXPECT_EQ(WH_PROTECT_SETUP, protected_state(pair->dest));
	/* nothing was ever held, and the next one is new enough */
	source_dies(pair);
	wh_netplug_free(pair->plug);
	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(2, status.generation);
	ASSERT_OK(wh_protect_takeover(pair->dest, 7, &self->err));
	wh_protect_get_status(pair->dest, &status);
	EXPECT_EQ(7, status.generation);
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	EXPECT_SURVIVES(pair);
	file = fopen(pair->generation[PROTECTED_DEST], "r");
	EXPECT_EQ('7', fgetc(file));
	fclose(file);
}

/* Nothing comes, and nobody says why: after the lease each end is alone */
TEST_F(pair, silence)
{
	struct protected *pair = &self->pair;
	struct proxy_script script = { .stall = true };
	uint64_t seen;

	short_lease(pair);
	through_proxy(pair, &self->proxy, &script);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	proxy_cut(self->proxy);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	seen = speaker_seen(pair->world);
	ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	EXPECT_SURVIVES(pair);
	ASSERT_OK(wh_protect_fence(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, -1, &self->err));
	EXPECT_EQ(WH_PROTECT_FENCED, protected_state(pair->source));
	EXPECT_EQ(seen, speaker_seen(pair->world));
}

/* Heartbeats go another way, and it is that one that breaks */
TEST_F(pair, two_ways)
{
	struct protected *pair = &self->pair;
	struct proxy_script script = { 0 };
	char pulse[128];

	snprintf(pulse, sizeof(pulse), "unix:%s/pulse", pair->folder);
	pair->pulse_at = pulse;
	self->proxy = proxy_start(pulse, &script);
	pair->pulse_to = proxy_uri(self->proxy);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	EXPECT_LT(0, proxy_bytes(self->proxy));
	EXPECT_GT(10000, proxy_bytes(self->proxy));
	proxy_cut(self->proxy);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
	EXPECT_SURVIVES(pair);
}

/* The guest goes on as if nothing had been asked for */
TEST_F(pair, nobody_listens)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(WH_PROTECT_RELEASED, status.state);
	EXPECT_EQ(-ENOENT, status.err.code) TH_LOG("%s", status.err.text);
	speaker_park(&pair->guest);
	EXPECT_EQ(pair->guest.step, speaker_seen(pair->world));
}

static int in_callback;

static void decide_in_callback(void *opaque, const struct wh_protect_event *event)
{
	struct protected *pair = opaque;

	if (event->to == WH_PROTECT_RUN)
		__atomic_store_n(&in_callback, wh_protect_stop(pair->source, NULL),
				 __ATOMIC_RELAXED);
}

TEST_F(pair, another_pace)
{
	struct protected *pair = &self->pair;
	struct wh_protect_pace pace = { .min_ns = 40000000, .max_ns = 40000000 };
	struct wh_protect_status status;

	pair->source_calls.event = decide_in_callback;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(5000000, status.interval_ns);
	ASSERT_OK(wh_protect_set_pace(pair->source, &pace, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(40000000, status.interval_ns);
	/* who would wait for himself is told so, and nothing is decided */
	EXPECT_EQ(-EDEADLK, __atomic_load_n(&in_callback, __ATOMIC_RELAXED));
}

TEST_HARNESS_MAIN
