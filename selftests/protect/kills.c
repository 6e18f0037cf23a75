/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The source's process is killed, the destination's goes, or the connection breaks, at moments that a
 * seed chooses. Whatever was seen outside, the survivor knows; and nobody is seen twice.
 */
#include "selftests/lib/protected.h"
#include "selftests/lib/proxy.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)
#define PAGES 1024u

FIXTURE(kills)
{
	struct protected pair;
	struct speaker_world *world;
	struct wh_err err;
	unsigned seed;
};

/* KILLS_SEED repeats one */
FIXTURE_SETUP(kills)
{
	const char *seed = getenv("KILLS_SEED");

	self->seed = seed ? (unsigned)atoi(seed) : (unsigned)getpid();
	self->world = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->world);
	TH_LOG("seed %u", self->seed);
}

FIXTURE_TEARDOWN(kills)
{
	munmap(self->world, 4096);
}

static unsigned draw(unsigned *seed, unsigned below)
{
	*seed = *seed * 1103515245 + 12345;
	return (*seed >> 8) % below;
}

/* In a process of its own, which nothing ends but a signal */
static pid_t source_process(struct protected *pair)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (protected_start_source(pair, NULL) < 0)
		_exit(1);
	for (;;)
		pause();
}

static void kill_one(struct protected *pair, unsigned *seed, struct __test_metadata *_metadata)
{
	struct wh_err err = { 0 };
	struct wh_protect_status status;
	pid_t pid;

	/* the child has to be alone in its memory: no thread is there yet */
	ASSERT_EQ(0, protected_prepare_dest(pair, &err)) TH_LOG("%s", err.text);
	pid = source_process(pair);
	ASSERT_EQ(0, wh_protect_start(pair->dest, &err)) TH_LOG("%s", err.text);
	/* one of four while nothing is complete yet */
	if (draw(seed, 4))
		EXPECT_TRUE(protected_goes_on(pair->dest, 1));
	usleep(draw(seed, 60000));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (unsigned i = 0; i < 10000; i++) {
		wh_protect_get_status(pair->dest, &status);
		if (status.state == WH_PROTECT_SUSPECT || status.state == WH_PROTECT_FENCED ||
		    status.state == WH_PROTECT_SETUP)
			break;
		usleep(1000);
	}
	EXPECT_EQ(0, pair->world->wrong);
	TH_LOG("%s: %llu checkpoints, %llu packets seen, %llu known",
	       wh_protect_state_name(status.state), (unsigned long long)status.checkpoints,
	       (unsigned long long)speaker_seen(pair->world),
	       (unsigned long long)*(uint64_t *)(void *)pair->replica.memory);
	if (status.state != WH_PROTECT_SUSPECT) {
		/* nothing was complete yet, so nothing was protected */
		EXPECT_NE(0, wh_protect_takeover(pair->dest, 0, &err));
		return;
	}
	ASSERT_EQ(0, wh_protect_takeover(pair->dest, 0, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, wh_protect_wait(pair->dest, -1, &err));
	EXPECT_TRUE(pair->ran && !pair->mismatch);
	EXPECT_EQ(0, speaker_verify(&pair->replica));
	EXPECT_LE(speaker_seen(pair->world), *(uint64_t *)(void *)pair->replica.memory);
}

TEST_F_TIMEOUT(kills, of_the_source, 60)
{
	for (unsigned i = 0; i < 10; i++) {
		*self->world = (struct speaker_world){ 0 };
		protected_init(&self->pair, PAGES, self->world);
		kill_one(&self->pair, &self->seed, _metadata);
		protected_fini(&self->pair);
	}
}

/* The destination goes: the guest goes on here, and what was held leaves, each once */
TEST_F_TIMEOUT(kills, of_the_destination, 60)
{
	for (unsigned i = 0; i < 5; i++) {
		struct protected *pair = &self->pair;
		enum wh_protect_state state;

		*self->world = (struct speaker_world){ 0 };
		protected_init(pair, PAGES, self->world);
		ASSERT_OK(protected_start(pair, &self->err));
		usleep(draw(&self->seed, 150000));
		wh_protect_free(pair->dest);
		pair->dest = NULL;
		do {
			usleep(1000);
			state = protected_state(pair->source);
		} while (state != WH_PROTECT_HOLD && state != WH_PROTECT_RELEASED);
		if (state == WH_PROTECT_HOLD)
			ASSERT_OK(wh_protect_release(pair->source, &self->err));
		ASSERT_OK(wh_protect_wait(pair->source, -1, &self->err));
		speaker_park(&pair->guest);
		EXPECT_EQ(pair->guest.step, speaker_seen(self->world));
		EXPECT_EQ(0, self->world->wrong);
		protected_fini(pair);
	}
}

/* Behind so many bytes of either direction; then one of the two has it */
TEST_F_TIMEOUT(kills, of_the_connection, 60)
{
	for (unsigned i = 0; i < 10; i++) {
		struct protected *pair = &self->pair;
		struct proxy_script script = { .heals = true };
		enum wh_protect_state source, dest;
		struct proxy *proxy;

		unsigned at = draw(&self->seed, i % 2 ? 6 << 20 : 700);

		*self->world = (struct speaker_world){ 0 };
		protected_init(pair, PAGES, self->world);
		pair->source_config.heartbeat_ns = 20000000;
		pair->source_config.lease_ns = 500000000;
		proxy = proxy_start(pair->uri, &script);
		pair->to = proxy_uri(proxy);
		ASSERT_OK(protected_start(pair, &self->err));
		while ((i % 2 ? proxy_bytes(proxy) : proxy_back_bytes(proxy)) < at &&
		       !wh_protect_ended(protected_state(pair->source)))
			usleep(100);
		proxy_cut(proxy);
		do {
			usleep(1000);
			source = protected_state(pair->source);
			dest = protected_state(pair->dest);
		} while ((source != WH_PROTECT_HOLD && source != WH_PROTECT_RELEASED) ||
			 (dest != WH_PROTECT_SUSPECT && dest != WH_PROTECT_FENCED &&
			  dest != WH_PROTECT_SETUP));
		TH_LOG("cut: source in %s, destination in %s", wh_protect_state_name(source),
		       wh_protect_state_name(dest));
		EXPECT_EQ(0, self->world->wrong);
		/* only what was never held goes on by itself */
		if (source == WH_PROTECT_RELEASED)
			EXPECT_NE(WH_PROTECT_SUSPECT, dest);
		if (dest == WH_PROTECT_SUSPECT) {
			ASSERT_OK(wh_protect_takeover(pair->dest, 0, &self->err));
			ASSERT_OK(wh_protect_wait(pair->dest, -1, &self->err));
			ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
			EXPECT_EQ(WH_PROTECT_FENCED, protected_state(pair->source));
			EXPECT_EQ(0, speaker_verify(&pair->replica));
			EXPECT_TRUE(pair->ran && !pair->mismatch);
			EXPECT_LE(speaker_seen(self->world),
				  *(uint64_t *)(void *)pair->replica.memory);
		}
		protected_fini(pair);
		proxy_end(proxy);
	}
}

TEST_HARNESS_MAIN
