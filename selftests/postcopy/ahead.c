/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads of a destination at work, with a source and a destination of the library's own in
 * this process: the helper and what comes after the end (postcopy/run_ahead.c), a fault thread
 * that polls.
 */
#include "base/bits.h"
#include "postcopy/run_dest.h"
#include "selftests/lib/memory.h"

#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define HUGE (UINT64_C(2) << 20)
#define BYTES (32 * HUGE)
#define WORD(i, v) ((i)*UINT64_C(0x9e3779b97f4a7c15) + (v))
#define SECONDS_NS 20000000000ll

enum kind {
	FILE_SMALL,
	FILE_HUGE,
	ANON_SMALL,
	ANON_HUGE
};

FIXTURE(ahead)
{
	enum kind kind;
	uint64_t *memory[2];
	int fd[2];
	struct wh_migration *end[2];
	struct wh_callbacks callbacks[2];
	struct wh_err err;
	unsigned threads;   /* of the helper's name, when the guest started ... */
	unsigned at_switch; /* ... and when precopy was over */
	uint64_t spin_ns;
};

static unsigned helpers(void)
{
	char command[64], name[32];
	unsigned count = 0;
	FILE *list;

	snprintf(command, sizeof(command), "cat /proc/%d/task/*/comm", getpid());
	list = popen(command, "r");
	while (list && fgets(name, sizeof(name), list))
		count += strcmp(name, "wherry-ahead\n") == 0;
	if (list)
		pclose(list);
	return count;
}

static int started(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(ahead) *self = opaque;

	(void)err;
	self->threads = helpers();
	return 0;
}

static void told(void *opaque, const struct wh_event *event)
{
	FIXTURE_DATA(ahead) *self = opaque;

	if (event->kind == WH_EVENT_PHASE && event->phase == WH_PHASE_SWITCHOVER)
		self->at_switch += helpers();
}

static bool block_new(FIXTURE_DATA(ahead) *self, unsigned end)
{
	bool file = self->kind == FILE_SMALL || self->kind == FILE_HUGE;
	uint8_t *room, *at;

	self->fd[end] = file ? memfd_create("ahead", MFD_CLOEXEC) : -1;
	if (file && ftruncate(self->fd[end], (off_t)BYTES) < 0)
		return false;
	room = mmap(NULL, BYTES + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return false;
	at = room + (-(uintptr_t)room & (HUGE - 1));
	self->memory[end] = mmap(at, BYTES, PROT_READ | PROT_WRITE,
				 MAP_FIXED | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
				 self->fd[end], 0);
	if (self->kind == ANON_HUGE || self->kind == FILE_HUGE)
		return madvise(at, BYTES, MADV_HUGEPAGE) == 0;
	return true;
}

static bool end_new(FIXTURE_DATA(ahead) *self, unsigned end, bool removes)
{
	struct wh_block block = {
		.name = "ram",
		.addr = self->memory[end],
		.length = BYTES,
		.page_size = 4096,
		.fd = self->fd[end],
	};
	struct wh_config config;

	wh_config_init(&config);
	self->callbacks[1] = (struct wh_callbacks){ .start = started, .event = told };
	config.callbacks = &self->callbacks[end];
	config.opaque = self;
	config.removes = removes && end;
	config.fault_spin_ns = self->spin_ns;
	/* So that the helper has time to be ahead */
	config.bandwidth = config.postcopy_bandwidth = UINT64_C(150) << 20;
	return wh_new(&self->end[end], end ? WH_DEST : WH_SOURCE, &config, &self->err) == 0 &&
	       wh_add_block(self->end[end], &block, &self->err) == 0;
}

static bool both_new(FIXTURE_DATA(ahead) *self, enum kind kind, bool removes)
{
	self->kind = kind;
	for (unsigned end = 0; end < 2; end++)
		if (!block_new(self, end) || !end_new(self, end, removes))
			return false;
	for (uint64_t i = 0; i < BYTES / 8; i++)
		self->memory[0][i] = WORD(i, 1);
	return wh_listen(self->end[1], "tcp:127.0.0.1:0", &self->err) == 0 &&
	       wh_connect(self->end[0], wh_listen_uri(self->end[1]), &self->err) == 0;
}

/* By postcopy from the first page on; the guest is there, or it is over, when this returns */
static bool begin_postcopy(FIXTURE_DATA(ahead) *self)
{
	if (wh_start(self->end[1], &self->err) < 0 || wh_start(self->end[0], &self->err) < 0 ||
	    wh_start_postcopy(self->end[0], &self->err) < 0)
		return false;
	while (wh_get_phase(self->end[1]) != WH_PHASE_POSTCOPY &&
	       !wh_phase_ended(wh_get_phase(self->end[1])))
		usleep(100);
	return true;
}

/* To the end */
static bool run(FIXTURE_DATA(ahead) *self)
{
	return begin_postcopy(self) && wh_wait(self->end[1], SECONDS_NS, &self->err) == 0 &&
	       wh_wait(self->end[0], SECONDS_NS, &self->err) == 0;
}

static bool equal(FIXTURE_DATA(ahead) *self)
{
	return memcmp(self->memory[0], self->memory[1], BYTES) == 0;
}

/* Stages that have come to be filled in place */
static unsigned direct(FIXTURE_DATA(ahead) *self)
{
	return (unsigned)bits_count(self->end[1]->dest->placer[0].direct, BYTES / HUGE);
}

/* kB of a line of smaps, of the mapping that begins at @at */
static uint64_t smaps(const void *at, const char *line)
{
	char text[256], begin[32];
	unsigned long long kb = 0;
	bool here = false;
	FILE *file = fopen("/proc/self/smaps", "re");

	snprintf(begin, sizeof(begin), "%lx-", (unsigned long)(uintptr_t)at);
	while (file && fgets(text, sizeof(text), file)) {
		if (strncmp(text, begin, strlen(begin)) == 0)
			here = true;
		else if (here && strncmp(text, line, strlen(line)) == 0)
			break;
	}
	if (file && here)
		(void)sscanf(text + strlen(line), "%llu", &kb);
	if (file)
		fclose(file);
	return kb;
}

FIXTURE_SETUP(ahead)
{
	self->fd[0] = self->fd[1] = -1;
}

FIXTURE_TEARDOWN(ahead)
{
	for (unsigned end = 0; end < 2; end++) {
		wh_free(self->end[end]);
		munmap(self->memory[end], BYTES);
		if (self->fd[end] >= 0)
			close(self->fd[end]);
	}
}

TEST_F(ahead, pages_of_a_file)
{
	ASSERT_TRUE(both_new(self, FILE_SMALL, false)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(run(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
	EXPECT_EQ(1, self->threads);
	EXPECT_EQ(0, helpers());
	/* It may be late, but not always; and to see what it is good for it is let rest once */
	EXPECT_LE(4, direct(self));
	EXPECT_GE(BYTES / HUGE - (TRIAL_STRETCH - TRIAL_UNCOUNTED), direct(self));
}

TEST_F(ahead, huge_pages_of_a_file)
{
	ASSERT_TRUE(both_new(self, FILE_HUGE, false)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(run(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
}

/* Pages that are there before their contents. More than a quarter of those that came: never */
static uint64_t before_contents(FIXTURE_DATA(ahead) *self, bool *too_much)
{
	uint64_t there = memory_mapped(self->memory[1], BYTES), came;
	struct wh_stats stats = { 0 };

	wh_get_stats(self->end[1], &stats);
	/* what is being received just now is not told of */
	came = stats.pages_normal + 256;
	*too_much = *too_much || there > came + came / 4;
	return there > came ? there - came : 0;
}

/* Precopy until so much has come: the most that was ahead meanwhile, and the helpers there were */
static uint64_t precopy(FIXTURE_DATA(ahead) *self, uint64_t bytes, unsigned *threads,
			bool *too_much)
{
	uint64_t until_ns = clock_now_ns() + SECONDS_NS;
	struct wh_stats stats = { 0 };
	uint64_t most = 0, here;

	do {
		here = before_contents(self, too_much);
		most = here > most ? here : most;
		*threads |= helpers();
		wh_get_stats(self->end[1], &stats);
	} while (stats.pages_normal * 4096 < bytes && clock_now_ns() < until_ns);
	return most;
}

static bool starts(FIXTURE_DATA(ahead) *self)
{
	return wh_start(self->end[1], &self->err) == 0 && wh_start(self->end[0], &self->err) == 0;
}

static void row_before_the_switch(struct __test_metadata *_metadata, FIXTURE_DATA(ahead) *self,
				  enum kind kind)
{
	bool too_much = false;
	unsigned threads = 0;

	ASSERT_TRUE(both_new(self, kind, false) && starts(self)) TH_LOG("%s", self->err.text);
	EXPECT_LT(256, precopy(self, BYTES * 3 / 4, &threads, &too_much));
	EXPECT_EQ(1, threads);
	EXPECT_FALSE(too_much);
	ASSERT_EQ(0, wh_start_postcopy(self->end[0], &self->err));
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_wait(self->end[0], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	/* What had been allocated and had not come was missing, and stayed so until it came */
	EXPECT_EQ(0, self->at_switch);
	EXPECT_EQ(1, self->threads);
	EXPECT_TRUE(equal(self));
}

TEST_F(ahead, a_row_before_the_switch)
{
	row_before_the_switch(_metadata, self, ANON_SMALL);
}

TEST_F(ahead, a_row_of_a_file_before_the_switch)
{
	row_before_the_switch(_metadata, self, FILE_SMALL);
}

/* No helper, by whatever reason */
TEST_F(ahead, a_row_without_help)
{
	unsigned threads = 0;
	bool too_much = false;

	ASSERT_TRUE(both_new(self, ANON_SMALL, false)) TH_LOG("%s", self->err.text);
	self->end[1]->dest->ahead.refused = true;
	ASSERT_TRUE(starts(self)) TH_LOG("%s", self->err.text);
	(void)precopy(self, BYTES, &threads, &too_much);
	EXPECT_EQ(0, threads);
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_wait(self->end[0], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
}

/* Rows with holes: little is allocated that does not come */
TEST_F(ahead, a_row_that_ends)
{
	const uint64_t row = 9 * HUGE, hole = 7 * HUGE;
	unsigned threads = 0;
	bool too_much = false;

	ASSERT_TRUE(both_new(self, ANON_SMALL, false)) TH_LOG("%s", self->err.text);
	for (uint64_t at = 0; at < BYTES; at += row + hole)
		memset((uint8_t *)self->memory[0] + at + row, 0, hole);
	ASSERT_TRUE(starts(self)) TH_LOG("%s", self->err.text);
	(void)precopy(self, BYTES / (row + hole) * row, &threads, &too_much);
	EXPECT_EQ(1, threads);
	EXPECT_FALSE(too_much);
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err));
	ASSERT_EQ(0, wh_wait(self->end[0], SECONDS_NS, &self->err));
	EXPECT_EQ(0, self->at_switch);
	EXPECT_EQ(0, helpers());
	EXPECT_TRUE(equal(self));
}

/* What the guest removes must not be allocated behind its back */
TEST_F(ahead, not_with_removals)
{
	uint64_t done = 1;

	ASSERT_TRUE(both_new(self, FILE_SMALL, true)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(run(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
	EXPECT_EQ(0, self->threads);
	EXPECT_EQ(0, direct(self));
	/* A thread of the guest that tells of a removal just now is not left waiting */
	EXPECT_FALSE(self->end[1]->dest->uffd_open);
	/* Zeros that come late do not clear what was written behind a removal */
	EXPECT_EQ(PLACED_CHANGING, run_dest_ops.zero(self->end[1], CHANNEL_MAIN, 0, 0, 4096, false,
						     &done, &self->err));
	EXPECT_EQ(0, done);
	EXPECT_TRUE(equal(self));
}

/* The stage is huge, and the block is not to be */
TEST_F(ahead, small_stays_small)
{
	ASSERT_TRUE(both_new(self, ANON_SMALL, false)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(run(self)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
	EXPECT_EQ(0, self->end[1]->dest->collapsed);
}

/* A page of each 2 MiB comes by a fault: these come in pieces and are put together later */
static void *touch(void *arg)
{
	volatile uint64_t *memory = arg;
	uint64_t sum = 0;

	for (uint64_t at = BYTES - HUGE / 2; at >= HUGE; at -= HUGE)
		sum += memory[at / 8];
	return (void *)(uintptr_t)(sum != 0);
}

/* KiB of it in huge pages, when it is as much as that, or will not be */
static uint64_t all_huge(FIXTURE_DATA(ahead) *self, uint64_t bytes)
{
	uint64_t until_ns = clock_now_ns() + SECONDS_NS;
	uint64_t kib;

	do {
		usleep(1000);
		kib = smaps(self->memory[1], "AnonHugePages:");
	} while (kib < bytes / 1024 && clock_now_ns() < until_ns);
	return kib;
}

TEST_F(ahead, huge_pages_at_the_end)
{
	struct wh_stats stats = { 0 };
	pthread_t toucher;

	ASSERT_TRUE(both_new(self, ANON_HUGE, false)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(begin_postcopy(self)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, pthread_create(&toucher, NULL, touch, self->memory[1]));
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_wait(self->end[0], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	pthread_join(toucher, NULL);
	EXPECT_TRUE(equal(self));
	EXPECT_LT(0, self->end[1]->dest->engine.counters.faults);
	EXPECT_EQ(BYTES / 1024, all_huge(self, BYTES));
	wh_get_stats(self->end[1], &stats);
	EXPECT_LT(0, stats.collapsed);
	EXPECT_TRUE(equal(self));
}

/* One that somebody has pinned meanwhile is made huge when it is free again */
TEST_F(ahead, huge_when_it_is_let_go)
{
	struct iovec pinned = { .iov_len = 4096 };
	struct wh_stats stats = { 0 };
	const volatile uint64_t *last;
	struct io_uring ring;

	ASSERT_TRUE(both_new(self, ANON_HUGE, false)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, io_uring_queue_init(1, &ring, 0));
	ASSERT_TRUE(begin_postcopy(self)) TH_LOG("%s", self->err.text);
	/* Both are missing: whoever pins or reads them has them fetched, and what they lie in is small */
	last = &self->memory[1][(BYTES - 4096) / 8];
	EXPECT_EQ(WORD((BYTES - 4096) / 8, 1), *last);
	pinned.iov_base = self->memory[1] + (BYTES - HUGE - 4096) / 8;
	ASSERT_EQ(0, io_uring_register_buffers(&ring, &pinned, 1));
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	/* That behind it is huge: it was tried */
	EXPECT_EQ((BYTES - HUGE) / 1024, all_huge(self, BYTES - HUGE));
	wh_get_stats(self->end[1], &stats);
	EXPECT_LT(0, stats.collapsed);
	ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
	EXPECT_EQ(BYTES / 1024, all_huge(self, BYTES));
	EXPECT_TRUE(equal(self));
	io_uring_queue_exit(&ring);
}

/* What another thread has for one that polls is not lost when it goes to sleep after all */
TEST_F(ahead, a_fault_thread_that_polls)
{
	const volatile uint64_t *last;
	struct wh_stats stats;

	/* When it is told of the uffd it polls for the first time */
	self->spin_ns = 100000000;
	ASSERT_TRUE(both_new(self, ANON_SMALL, false)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(begin_postcopy(self)) TH_LOG("%s", self->err.text);
	last = &self->memory[1][BYTES / 8 - 1];
	EXPECT_EQ(WORD(BYTES / 8 - 1, 1), *last);
	wh_get_stats(self->end[1], &stats);
	EXPECT_LT(0, stats.faults);
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(equal(self));
}

TEST_HARNESS_MAIN
