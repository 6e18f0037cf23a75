/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Two migrations at once in one process, both ends of both: the library has no globals
 * that could mix them up. One is driven by the library's threads, over TCP and to
 * postcopy; the other, over a unix socket, by one poll loop for its two ends.
 */
#include "kselftest_harness.h"

#include "selftests/lib/workload.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define PAGE_BYTES 4096u
#define BLOCKS 2u
#define BLOCK_PAGES 4096u
#define BLOCK_BYTES (BLOCK_PAGES * PAGE_BYTES)
#define NS_PER_MS 1000000ll
#define SECONDS 20

/* One end: a block of private memory, one of a memfd, a thread that writes each */
struct end {
	struct wh_migration *migration;
	struct workload workload[BLOCKS];
	struct wh_block block[BLOCKS];
	enum wh_phase phase; /* atomic, of the last event */
	bool postcopy;	     /* atomic: it was there */
};

struct pair {
	struct end source;
	struct end dest;
};

static int end_pause(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	for (unsigned i = 0; i < BLOCKS; i++)
		workload_park(&end->workload[i]);
	return 0;
}

static int end_run(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	for (unsigned i = 0; i < BLOCKS; i++)
		workload_run(&end->workload[i]);
	return 0;
}

/* Device state: where each thread is */
static int end_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct end *end = opaque;
	uint64_t *state = calloc(2 * BLOCKS, sizeof(*state));

	(void)err;
	if (!state)
		return -ENOMEM;
	for (unsigned i = 0; i < BLOCKS; i++) {
		state[2 * i] = end->workload[i].passes;
		state[2 * i + 1] = end->workload[i].position;
	}
	*data = state;
	*length = 2 * BLOCKS * sizeof(*state);
	return 0;
}

static int end_load(void *opaque, const void *data, size_t length, enum wh_device_format format,
		    struct wh_err *err)
{
	struct end *end = opaque;
	uint64_t state[2 * BLOCKS];

	(void)err;
	if (length != sizeof(state) || format != WH_DEVICE_OWN)
		return -EPROTO;
	memcpy(state, data, sizeof(state));
	for (unsigned i = 0; i < BLOCKS; i++) {
		end->workload[i].passes = state[2 * i];
		end->workload[i].position = state[2 * i + 1];
	}
	return 0;
}

static void end_event(void *opaque, const struct wh_event *event)
{
	struct end *end = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	__atomic_store_n(&end->phase, event->phase, __ATOMIC_RELEASE);
	if (event->phase == WH_PHASE_POSTCOPY)
		__atomic_store_n(&end->postcopy, true, __ATOMIC_RELEASE);
}

static int end_new(struct end *end, enum wh_role role, uint64_t seed, struct wh_err *err)
{
	const struct wh_callbacks callbacks = {
		.event = end_event,
		.pause = end_pause,
		.resume = end_run,
		.device_save = end_save,
		.device_load = end_load,
		.start = end_run,
	};
	struct wh_config config;
	int ret;

	for (unsigned i = 0; i < BLOCKS; i++) {
		int fd = i ? memfd_create("two", MFD_CLOEXEC) : -1;
		int flags = i ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

		if (i && ftruncate(fd, BLOCK_BYTES) < 0)
			return -errno;
		end->block[i] = (struct wh_block){
			.name = i ? "second" : "first",
			.addr = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0),
			.length = BLOCK_BYTES,
			.page_size = PAGE_BYTES,
			.fd = fd,
		};
		if (end->block[i].addr == MAP_FAILED)
			return -errno;
		workload_init(&end->workload[i], end->block[i].addr, BLOCK_PAGES, seed + i);
		end->workload[i].pace_us = 100;
		if (role == WH_SOURCE)
			workload_fill(&end->workload[i]);
	}
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = end;
	config.downtime_ns = 0; /* never by itself: both go over to postcopy */
	config.bandwidth = 200u << 20;
	config.postcopy_bandwidth = 100u << 20;
	ret = wh_new(&end->migration, role, &config, err);
	for (unsigned i = 0; i < BLOCKS && !ret; i++)
		ret = wh_add_block(end->migration, &end->block[i], err);
	return ret;
}

static int pair_new(struct pair *pair, const char *listen, uint64_t seed, struct wh_err *err)
{
	int ret = end_new(&pair->source, WH_SOURCE, seed, err);

	if (!ret)
		ret = end_new(&pair->dest, WH_DEST, seed, err);
	if (!ret)
		ret = wh_listen(pair->dest.migration, listen, err);
	if (!ret)
		ret = wh_connect(pair->source.migration, wh_listen_uri(pair->dest.migration), err);
	if (!ret)
		end_run(&pair->source, NULL);
	return ret;
}

/* Return: 1 until its end has come */
static int drive(struct pair *pair, bool *running, struct wh_err *err)
{
	struct end *ends[] = { &pair->source, &pair->dest };
	int ret;

	for (unsigned i = 0; i < 2; i++) {
		if (!running[i])
			continue;
		ret = wh_process(ends[i]->migration, err);
		if (ret < 0)
			return ret;
		running[i] = ret == 1;
	}
	return running[0] || running[1];
}

static uint64_t wrong_byte(struct pair *pair)
{
	uint64_t wrong = 0;

	end_pause(&pair->dest, NULL);
	for (unsigned i = 0; i < BLOCKS && !wrong; i++)
		wrong = workload_verify(&pair->dest.workload[i]);
	return wrong;
}

static void end_free(struct end *end)
{
	wh_free(end->migration);
	for (unsigned i = 0; i < BLOCKS; i++) {
		workload_fini(&end->workload[i]);
		munmap(end->block[i].addr, BLOCK_BYTES);
		if (end->block[i].fd >= 0)
			close(end->block[i].fd);
	}
}

FIXTURE(two)
{
	char folder[32];
	char socket[64];
	struct pair threaded;
	struct pair looped;
	struct wh_err err;
};

FIXTURE_SETUP(two)
{
	char uri[80];

	strcpy(self->folder, "/tmp/wherry-two.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->socket, sizeof(self->socket), "%.24s/socket", self->folder);
	snprintf(uri, sizeof(uri), "unix:%s", self->socket);
	ASSERT_EQ(0, pair_new(&self->threaded, "tcp:127.0.0.1:0", 1, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, pair_new(&self->looped, uri, 77, &self->err)) TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(two)
{
	unlink(self->socket);
	rmdir(self->folder);
}

/* Both ends of the second pair, from one loop, until they have ended */
static int loop(struct pair *pair, struct wh_err *err)
{
	struct pollfd fds[2] = {
		{ .fd = wh_fd(pair->source.migration), .events = POLLIN },
		{ .fd = wh_fd(pair->dest.migration), .events = POLLIN },
	};
	bool running[2] = { true, true };
	bool switched = false;
	int ret;

	/* The harness ends what takes too long. */
	while ((ret = drive(pair, running, err)) == 1) {
		struct wh_stats stats;

		wh_get_stats(pair->source.migration, &stats);
		if (!switched && stats.rounds >= 1) {
			switched = true;
			wh_start_postcopy(pair->source.migration, NULL);
		}
		for (unsigned i = 0; i < 2; i++)
			fds[i].fd = running[i] ? fds[i].fd : -1;
		poll(fds, 2, 50);
	}
	return ret;
}

TEST_F(two, at_once)
{
	struct pair *threaded = &self->threaded, *looped = &self->looped;
	struct wh_err *err = &self->err;
	struct wh_stats stats;

	ASSERT_EQ(0, wh_start(threaded->dest.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start(threaded->source.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start_postcopy(threaded->source.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, loop(looped, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_wait(threaded->dest.migration, SECONDS * 1000 * NS_PER_MS, err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_wait(threaded->source.migration, SECONDS * 1000 * NS_PER_MS, err))
	TH_LOG("%s", err->text);
	EXPECT_EQ(WH_PHASE_DONE, threaded->dest.phase);
	EXPECT_EQ(WH_PHASE_DONE, looped->dest.phase);
	EXPECT_TRUE(threaded->dest.postcopy);
	EXPECT_TRUE(looped->dest.postcopy);
	EXPECT_EQ(0, wrong_byte(threaded));
	EXPECT_EQ(0, wrong_byte(looped));

	/* Each has counted its own */
	wh_get_stats(threaded->source.migration, &stats);
	EXPECT_EQ(BLOCKS * BLOCK_PAGES, stats.pages_total);
	EXPECT_EQ(0, stats.rounds);
	wh_get_stats(looped->source.migration, &stats);
	EXPECT_EQ(BLOCKS * BLOCK_PAGES, stats.pages_total);
	EXPECT_LE(1, stats.rounds);
	wh_get_stats(looped->dest.migration, &stats);
	EXPECT_EQ(0, stats.pages_left);
	end_free(&threaded->source);
	end_free(&threaded->dest);
	end_free(&looped->source);
	end_free(&looped->dest);
}

/* One is given up in the middle; the other does not notice. */
TEST_F(two, one_given_up)
{
	struct pair *threaded = &self->threaded, *looped = &self->looped;
	struct wh_err *err = &self->err;

	ASSERT_EQ(0, wh_start(threaded->dest.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start(threaded->source.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_cancel(threaded->source.migration, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, loop(looped, err)) TH_LOG("%s", err->text);
	EXPECT_EQ(-ECANCELED, wh_wait(threaded->source.migration, SECONDS * 1000 * NS_PER_MS, err));
	EXPECT_GT(0, wh_wait(threaded->dest.migration, SECONDS * 1000 * NS_PER_MS, err));
	EXPECT_EQ(WH_PHASE_CANCELLED, wh_get_phase(threaded->source.migration));
	EXPECT_EQ(WH_PHASE_FAILED, wh_get_phase(threaded->dest.migration));
	EXPECT_EQ(WH_PHASE_DONE, looped->dest.phase);
	EXPECT_EQ(0, wrong_byte(looped));
	end_free(&threaded->source);
	end_free(&threaded->dest);
	end_free(&looped->source);
	end_free(&looped->dest);
}

TEST_HARNESS_MAIN
