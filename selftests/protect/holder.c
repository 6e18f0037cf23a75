/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Somebody else holds what a protected guest sends: a thread here, and dead or silent there. The
 * guest is cut off then, and nothing is let go until it is decided who has it.
 */
#include "selftests/lib/protected.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)
#define LONG_NS INT64_C(20000000000)
#define SILENT_NS 1000000000 /* long for one that is there, whatever else the machine does */

struct holder {
	struct wh_netplug *plug;
	pthread_t thread;
	bool runs;
	bool end, silent; /* atomic */
};

FIXTURE(holder)
{
	struct protected pair;
	struct holder holder;
	struct wh_err err;
};

static void *holder_main(void *arg)
{
	struct holder *holder = arg;

	while (!__atomic_load_n(&holder->end, __ATOMIC_ACQUIRE)) {
		struct pollfd fd = { .fd = wh_netplug_fd(holder->plug), .events = POLLIN };

		if (__atomic_load_n(&holder->silent, __ATOMIC_ACQUIRE))
			usleep(1000);
		else if (poll(&fd, 1, 1) > 0)
			wh_netplug_process(holder->plug, NULL);
	}
	return NULL;
}

static int holder_begin(struct holder *holder, struct protected *pair, struct wh_err *err)
{
	struct wh_netplug_config config;
	int ret;

	wh_netplug_config_init(&config);
	config.edge = WH_NETPLUG_CALLBACK;
	config.name = pair->folder;
	config.filter = &speaker_filter;
	config.opaque = &pair->guest;
	*holder = (struct holder){ 0 };
	ret = wh_netplug_new(&holder->plug, &config, err);
	if (ret == 0)
		ret = wh_netplug_listen(holder->plug, err);
	if (ret == 0)
		holder->runs = pthread_create(&holder->thread, NULL, holder_main, holder) == 0;
	return ret;
}

/* Its packets wait in the speaker, as the kernel's plug would have them */
static void holder_dies(struct holder *holder)
{
	__atomic_store_n(&holder->end, true, __ATOMIC_RELEASE);
	if (holder->runs)
		pthread_join(holder->thread, NULL);
	wh_netplug_free(holder->plug);
	*holder = (struct holder){ 0 };
}

FIXTURE_SETUP(holder)
{
	struct protected *pair = &self->pair;

	protected_init(pair, 1024, NULL);
	/* who is lost is not so by silence on the link */
	pair->source_config.lease_ns = 60000000000;
	pair->holder_ns = LONG_NS;
	ASSERT_OK(holder_begin(&self->holder, pair, &self->err));
}

FIXTURE_TEARDOWN(holder)
{
	protected_fini(&self->pair);
	holder_dies(&self->holder);
}

/* Nothing that anybody has seen is unknown to the one who goes on */
static bool survives(struct protected *pair, struct wh_err *err)
{
	return wh_protect_takeover(pair->dest, 0, err) == 0 &&
	       wh_protect_wait(pair->dest, LONG_NS, err) == 0 && pair->ran && !pair->mismatch &&
	       !speaker_verify(&pair->replica) && !pair->world->wrong &&
	       speaker_seen(pair->world) <= *(uint64_t *)(void *)pair->replica.memory;
}

static const char *why(const struct protected *pair)
{
	static struct wh_protect_status status;

	wh_protect_get_status(pair->source, &status);
	return status.err.text;
}

TEST_F(holder, as_if_it_held_itself)
{
	struct protected *pair = &self->pair;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 20));
	EXPECT_LT(0, speaker_seen(pair->world));
	ASSERT_OK(wh_protect_stop(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, LONG_NS, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	EXPECT_EQ(WH_NETPLUG_IDLE, wh_netplug_get_state(pair->plug));
	speaker_park(&pair->guest);
	EXPECT_EQ(pair->guest.step, speaker_seen(pair->world));
	EXPECT_EQ(0, pair->world->wrong);
}

/* The guest's process dies, and the one that holds does not: it lets nothing go */
TEST_F(holder, the_source_dies)
{
	struct protected *pair = &self->pair;
	uint64_t seen;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	wh_protect_free(pair->source);
	pair->source = NULL;
	wh_netplug_free(pair->plug);
	pair->plug = NULL;
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	seen = speaker_seen(pair->world);
	EXPECT_TRUE(survives(pair, &self->err));
	EXPECT_EQ(seen, speaker_seen(pair->world));
}

TEST_F(holder, it_dies_and_the_replica_goes_on)
{
	struct protected *pair = &self->pair;
	uint64_t seen;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	holder_dies(&self->holder);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	EXPECT_NE(NULL, strstr(why(pair), "what the guest sends is not held any more"))
	TH_LOG("%s", why(pair));
	EXPECT_NE(NULL, strstr(why(pair), "has died"));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	seen = speaker_seen(pair->world);
	EXPECT_FALSE(pair->ran);
	EXPECT_TRUE(survives(pair, &self->err));
	/* it hears that it has lost its guest */
	EXPECT_TRUE(protected_comes_to(pair->source, WH_PROTECT_FENCED));
	EXPECT_EQ(seen, speaker_seen(pair->world));
}

/* Nothing that is asked of it comes back, and then it goes on as if nothing had been */
TEST_F(holder, it_is_silent_and_the_guest_stays)
{
	struct protected *pair = &self->pair;
	uint64_t seen;

	pair->holder_ns = SILENT_NS;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	__atomic_store_n(&self->holder.silent, true, __ATOMIC_RELEASE);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	EXPECT_NE(NULL, strstr(why(pair), "does not answer")) TH_LOG("%s", why(pair));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	seen = speaker_seen(pair->world);
	__atomic_store_n(&self->holder.silent, false, __ATOMIC_RELEASE);
	usleep(20000);
	EXPECT_EQ(seen, speaker_seen(pair->world));
	ASSERT_OK(wh_protect_abandon(pair->dest, &self->err));
	ASSERT_OK(wh_protect_release(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, LONG_NS, &self->err));
	speaker_park(&pair->guest);
	EXPECT_EQ(pair->guest.step, speaker_seen(pair->world));
	EXPECT_EQ(0, pair->world->wrong);
	EXPECT_FALSE(pair->ran);
}

/* Decided while nobody holds: it is done as soon as somebody does */
TEST_F(holder, it_is_let_go_by_the_next_one)
{
	struct protected *pair = &self->pair;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	holder_dies(&self->holder);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	ASSERT_OK(wh_protect_abandon(pair->dest, &self->err));
	ASSERT_OK(wh_protect_release(pair->source, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	EXPECT_EQ(-EAGAIN, wh_protect_wait(pair->source, 0, &self->err));
	ASSERT_OK(holder_begin(&self->holder, pair, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, LONG_NS, &self->err));
	EXPECT_EQ(WH_NETPLUG_IDLE, wh_netplug_get_state(pair->plug));
}

/* By somebody who knows that the other side has the guest, and has not told its process */
TEST_F(holder, it_is_fenced_by_hand)
{
	struct protected *pair = &self->pair;
	struct wh_netplug_config config;
	struct wh_netplug *hand = NULL;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_netplug_config_init(&config);
	config.edge = WH_NETPLUG_HOLDER;
	config.name = pair->folder;
	config.answer_ns = LONG_NS;
	ASSERT_OK(wh_netplug_new(&hand, &config, &self->err));
	ASSERT_OK(wh_netplug_fence(hand, &self->err));
	wh_netplug_free(hand);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	EXPECT_NE(NULL, strstr(why(pair), "it is fenced")) TH_LOG("%s", why(pair));
	ASSERT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SUSPECT));
	EXPECT_TRUE(survives(pair, &self->err));
}

TEST_HARNESS_MAIN
