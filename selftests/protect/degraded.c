/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that writes more than one checkpoint has room for: what it sends is held, the session goes
 * on, and it is protected again when all of it is over there.
 */
#include "selftests/lib/protected.h"

#include <errno.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define MUCH 100u	       /* from this page on, */
#define MUCH_PAGES (4u * 256u) /* four times what there is room for */

/* The guest cannot be stopped while it is degraded, so that it stays so. Atomic */
static bool stays;

FIXTURE(degraded)
{
	struct protected pair;
	struct wh_err err;
};

static int pause_guest(void *opaque, struct wh_err *err)
{
	struct protected *pair = opaque;
	struct wh_protect_status status;

	(void)err;
	wh_protect_get_status(pair->source, &status);
	if (__atomic_load_n(&stays, __ATOMIC_RELAXED) && status.degraded)
		return -EBUSY;
	speaker_park(&pair->guest);
	return 0;
}

FIXTURE_SETUP(degraded)
{
	struct protected *pair = &self->pair;

	protected_init(pair, 4096, NULL);
	pair->guest.touch = pair->replica.touch = 16;
	pair->source_calls.pause = pause_guest;
	pair->source_config.full = WH_PROTECT_FULL_DEGRADE;
	pair->source_config.contents_max = pair->dest_config.contents_max = 1 << 20;
	pair->source_config.pace.min_ns = pair->source_config.pace.max_ns = 20000000;
	/* who is slow is not lost */
	pair->source_config.lease_ns = 30000000000;
	__atomic_store_n(&stays, true, __ATOMIC_RELAXED);
}

FIXTURE_TEARDOWN(degraded)
{
	protected_fini(&self->pair);
}

static void write_much(struct protected *pair, uint8_t value)
{
	pthread_mutex_lock(&pair->guest.lock);
	for (unsigned page = MUCH; page < MUCH + MUCH_PAGES; page++)
		pair->guest.memory[page * 4096] = value;
	pthread_mutex_unlock(&pair->guest.lock);
}

/*
 * While degraded, parts are copied beside the guest (sync_on()), and what it writes meanwhile is
 * copied once more: here, and only here, writes meet that copy on purpose.
 */
__attribute__((no_sanitize_thread)) static void write_beside(struct protected *pair, uint8_t value)
{
	pthread_mutex_lock(&pair->guest.lock);
	for (unsigned page = MUCH; page < MUCH + MUCH_PAGES; page++)
		*(volatile uint8_t *)(pair->guest.memory + page * 4096) = value;
	pthread_mutex_unlock(&pair->guest.lock);
}

static bool came(const struct protected *pair, unsigned end, enum wh_protect_state state)
{
	return __atomic_load_n(&pair->states[end], __ATOMIC_RELAXED) >> state & 1;
}

static bool has_run(const struct protected *pair)
{
	return __atomic_load_n(&pair->ran, __ATOMIC_ACQUIRE);
}

static unsigned pages_of(const struct speaker *speaker, uint8_t value)
{
	unsigned count = 0;

	for (unsigned page = MUCH; page < MUCH + MUCH_PAGES; page++)
		count += speaker->memory[page * 4096] == value;
	return count;
}

static bool comes_to_be(struct wh_protect *protect, bool degraded)
{
	struct wh_protect_status status;

	for (unsigned i = 0; i < 30000; i++) {
		wh_protect_get_status(protect, &status);
		if (status.degraded == degraded)
			return true;
		usleep(1000);
	}
	return false;
}

/* Return: 0, or a sentence */
static const char *degrade(struct protected *pair)
{
	struct wh_err err = { 0 };

	if (protected_start(pair, &err) < 0)
		return "it does not start";
	if (!protected_goes_on(pair->source, 2))
		return "no checkpoints";
	write_much(pair, 1);
	if (!comes_to_be(pair->source, true))
		return "the source is not degraded";
	if (!comes_to_be(pair->dest, true))
		return "the destination does not know it";
	return NULL;
}

/* It runs there, and what was written is @value */
static bool survives(struct protected *pair, uint8_t value)
{
	struct wh_err err = { 0 };

	wh_protect_free(pair->source);
	pair->source = NULL;
	if (!protected_comes_to(pair->dest, WH_PROTECT_SUSPECT) ||
	    wh_protect_takeover(pair->dest, 0, &err) < 0 ||
	    wh_protect_wait(pair->dest, -1, &err) < 0 ||
	    pages_of(&pair->replica, value) != MUCH_PAGES)
		return false;
	/* of the rest of it a speaker knows itself */
	for (unsigned page = MUCH; page < MUCH + MUCH_PAGES; page++)
		pair->replica.memory[page * 4096] = 0;
	return has_run(pair) && !pair->mismatch && !speaker_verify(&pair->replica) &&
	       !pair->world->wrong &&
	       speaker_seen(pair->world) <= *(uint64_t *)(void *)pair->replica.memory;
}

TEST_F(degraded, it_runs_on_and_comes_back)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;
	uint64_t seen, step;

	ASSERT_EQ(NULL, degrade(pair));
	EXPECT_TRUE(came(pair, PROTECTED_SOURCE, WH_PROTECT_DEGRADED));
	EXPECT_TRUE(came(pair, PROTECTED_DEST, WH_PROTECT_DEGRADED));
	wh_protect_get_status(pair->dest, &status);
	EXPECT_EQ(-ENOSPC, status.err.code) TH_LOG("%s", status.err.text);
	seen = speaker_seen(pair->world);
	step = speaker_step(&pair->guest);
	for (unsigned i = 0; i < 30000 && speaker_step(&pair->guest) < step + 10; i++)
		usleep(1000);
	EXPECT_LE(step + 10, speaker_step(&pair->guest));
	usleep(50000);
	EXPECT_EQ(seen, speaker_seen(pair->world));
	wh_protect_get_status(pair->source, &status);
	EXPECT_TRUE(status.degraded);
	EXPECT_FALSE(status.stalled);
	EXPECT_EQ(-ENOSPC, status.err.code) TH_LOG("%s", status.err.text);
	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	ASSERT_TRUE(comes_to_be(pair->source, false));
	ASSERT_TRUE(comes_to_be(pair->dest, false));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(0, status.err.code);
	wh_protect_get_status(pair->dest, &status);
	EXPECT_EQ(0, status.err.code);
	EXPECT_LT(seen, speaker_seen(pair->world));
	EXPECT_TRUE(survives(pair, 1));
}

/* What is run from is the last complete one, however much of the next is there */
TEST_F(degraded, its_machine_dies)
{
	struct protected *pair = &self->pair;

	ASSERT_EQ(NULL, degrade(pair));
	EXPECT_TRUE(survives(pair, 0));
}

/* A destination that decides alone has no reason to while the source is there */
TEST_F(degraded, nobody_takes_over_from_one_that_is_there)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	pair->dest_config.authority = WH_PROTECT_ALONE;
	pair->dest_config.output_held = true;
	ASSERT_EQ(NULL, degrade(pair));
	usleep(200000);
	wh_protect_get_status(pair->source, &status);
	EXPECT_TRUE(status.degraded);
	EXPECT_FALSE(has_run(pair));
	EXPECT_FALSE(came(pair, PROTECTED_DEST, WH_PROTECT_SUSPECT));
	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_goes_on(pair->source, 2));
	EXPECT_FALSE(has_run(pair));
}

/* Again and again, as somebody does who writes all the time */
TEST_F(degraded, several_times)
{
	struct protected *pair = &self->pair;

	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	ASSERT_EQ(0, protected_start(pair, &self->err));
	for (unsigned i = 1; i <= 4; i++) {
		ASSERT_TRUE(protected_goes_on(pair->source, 2));
		write_beside(pair, (uint8_t)i);
	}
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(came(pair, PROTECTED_SOURCE, WH_PROTECT_DEGRADED));
	EXPECT_TRUE(survives(pair, 4));
}

/* What is found to be too much when all is write-protected already may be written all the same */
TEST_F(degraded, a_guest_that_is_copied_after_its_stop)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;
	const char *why;

	pair->source_config.copy_on_write = true;
	why = degrade(pair);
	wh_protect_get_status(pair->source, &status);
	if (why && (status.err.code == -EPERM || status.err.code == -EOPNOTSUPP))
		SKIP(return, "%s", status.err.text);
	ASSERT_EQ(NULL, why) TH_LOG("%s", why);
	write_much(pair, 2);
	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(survives(pair, 2));
}

/* Where it is to wait it stands still for as long as that takes, and no longer */
TEST_F(degraded, a_guest_that_waits_for_it)
{
	struct protected *pair = &self->pair;

	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	pair->source_config.full = WH_PROTECT_FULL_STALL;
	ASSERT_EQ(0, protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 2));
	write_much(pair, 1);
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(came(pair, PROTECTED_SOURCE, WH_PROTECT_DEGRADED));
	EXPECT_TRUE(survives(pair, 1));
}

/* It is ended in order: what is held leaves, and the destination forgets the guest */
TEST_F(degraded, it_is_left)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	ASSERT_EQ(NULL, degrade(pair));
	__atomic_store_n(&stays, false, __ATOMIC_RELAXED);
	ASSERT_EQ(0, wh_protect_stop(pair->source, &self->err));
	ASSERT_EQ(0, wh_protect_wait(pair->source, 30000000000, &self->err));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(WH_PROTECT_RELEASED, status.state);
	EXPECT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_FENCED));
	EXPECT_FALSE(has_run(pair));
}

TEST_HARNESS_MAIN
