/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory as the engine of a destination sees it (postcopy/run_place.c), without a source and
 * without threads of the library's: what the fault thread does late, when the bulk thread has
 * given the memory back and the guest goes on with it.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "postcopy/run_dest.h"
#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(4) << 20)
#define LONG_NS (50 * NS_PER_MS)

FIXTURE(place)
{
	struct memory memory;
	struct wh_migration *m;
	struct dest *engine;
	uint8_t *at;
	uint64_t page; /* bytes; the second one is what it is about */
	struct wh_err err;
};

FIXTURE_VARIANT(place)
{
	enum memory_kind kind;
	bool removes;
};

/* clang-format off */
#define VARIANT(name, kind_, removes_) \
	FIXTURE_VARIANT_ADD(place, name) { .kind = MEMORY_##kind_, .removes = removes_ }
VARIANT(anon, ANON, false);
VARIANT(anon_removes, ANON, true);
VARIANT(memfd, MEMFD, false);
VARIANT(memfd_removes, MEMFD, true);
VARIANT(hugetlb, HUGETLB, false);
VARIANT(hugetlb_removes, HUGETLB, true);
/* clang-format on */

static int started(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

FIXTURE_SETUP(place)
{
	static const struct wh_callbacks callbacks = { .start = started };
	struct ram_block line = { .name = { .length = 3, .text = "ram" }, .used = BYTES };
	struct wh_block block = { .name = "ram", .length = BYTES };
	int ret = memory_new(&self->memory, variant->kind, BYTES, &self->err);
	struct wh_config config;

	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret) TH_LOG("%s", self->err.text);
	self->at = self->memory.region.addr;
	self->page = memory_traits[variant->kind].page_size;
	block.addr = self->at;
	block.page_size = line.page_size = self->page;
	block.fd = memory_traits[variant->kind].fd ? self->memory.region.fd : -1;
	wh_config_init(&config);
	config.postcopy = true;
	config.removes = variant->removes;
	config.callbacks = &callbacks;
	ASSERT_EQ(0, wh_new(&self->m, WH_DEST, &config, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_add_block(self->m, &block, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, run_place_open(self->m, &self->err)) TH_LOG("%s", self->err.text);
	self->engine = &self->m->dest->engine;
	ASSERT_EQ(0, run_dest_ops.block(self->m, &line, &self->engine->block[0], &self->err))
	TH_LOG("%s", self->err.text);
	self->engine->blocks = 1;
}

FIXTURE_TEARDOWN(place)
{
	wh_free(self->m);
	if (self->at)
		memory_free(&self->memory);
}

/* The second page was dropped by the guest, or is one that precopy has said to be zero */
static void nothing_there(FIXTURE_DATA(place) *self)
{
	bits_range_set(self->engine->block[0].received, self->page / TARGET_PAGE,
		       self->page / TARGET_PAGE);
}

static void *late_fault(void *arg)
{
	FIXTURE_DATA(place) *self = arg;

	return (void *)(intptr_t)dest_fault(self->engine, 0, self->page, 1, clock_now_ns(), NULL);
}

/* All is in: whoever waited is awake, has a page from the kernel, and writes to it. */
TEST_F(place, a_fault_looked_at_late)
{
	ASSERT_EQ(0, run_dest_ops.arm(self->m, &self->err)) TH_LOG("%s", self->err.text);
	nothing_there(self);
	ASSERT_EQ(0, run_dest_ops.disarm(self->m, &self->err)) TH_LOG("%s", self->err.text);
	memset(self->at + self->page, 7, self->page);
	ASSERT_EQ(NULL, late_fault(self));
	EXPECT_EQ(7, self->at[self->page]);
	EXPECT_EQ(0, memcmp(self->at + self->page, self->at + self->page + 1, self->page - 1));
}

struct end {
	FIXTURE_DATA(place) *self;
	pthread_t thread;
	int ret;
	bool over;
};

static void *end_main(void *arg)
{
	struct end *end = arg;

	end->ret = run_dest_ops.disarm(end->self->m, &end->self->err);
	end->self->at[end->self->page] = 7;
	__atomic_store_n(&end->over, true, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * The guest dropped a page that was hidden. It is cleared through the second mapping, and there
 * the thread that serves the fault is held up, by a userfaultfd of our own.
 */
TEST_F(place, the_end_comes_while_a_page_is_cleared)
{
	const struct timespec step = { .tv_nsec = NS_PER_MS };
	struct placer *placer = &self->m->dest->placer[0];
	struct end end = { .self = self };
	struct uffd_event event;
	pthread_t thread;
	struct uffd ours;
	void *served;

	if (!placer->alias || !variant->removes)
		SKIP(return, "no page is dropped while it is hidden");
	self->at[self->page] = 1;
	ASSERT_EQ(0, placer_hide(placer, self->page, self->page, &self->err));
	ASSERT_EQ(0, run_dest_ops.arm(self->m, &self->err)) TH_LOG("%s", self->err.text);
	nothing_there(self);
	ASSERT_EQ(0, fallocate(self->memory.region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)self->page, (off_t)self->page));
	ASSERT_EQ(0, uffd_open(&ours, 0, false, &self->err));
	ASSERT_EQ(0, uffd_register(&ours, placer->alias + self->page, self->page, UFFD_MISSING,
				   NULL, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, pthread_create(&thread, NULL, late_fault, self));
	ASSERT_EQ(1, read_events(&ours, &event, 1));
	ASSERT_EQ(0, pthread_create(&end.thread, NULL, end_main, &end));
	for (unsigned i = 0; i < LONG_NS / NS_PER_MS; i++)
		if (!__atomic_load_n(&end.over, __ATOMIC_ACQUIRE))
			nanosleep(&step, NULL);
	ASSERT_EQ(0, uffd_unregister(&ours, placer->alias + self->page, self->page, &self->err));
	uffd_close(&ours);
	pthread_join(thread, &served);
	pthread_join(end.thread, NULL);
	EXPECT_EQ(NULL, served);
	EXPECT_EQ(0, end.ret);
	EXPECT_EQ(7, self->at[self->page]);
}

/* What still comes, of a page that the guest has dropped, is not received into its memory. */
TEST_F(place, room_for_what_comes_late)
{
	uint8_t *room;

	if (!variant->removes)
		SKIP(return, "nothing comes late");
	room = run_dest_ops.ahead(self->m, CHANNEL_URGENT, 0, self->page, true);
	ASSERT_EQ(self->at + self->page, room);
	ASSERT_EQ(0, run_dest_ops.arm(self->m, &self->err)) TH_LOG("%s", self->err.text);
	nothing_there(self);
	ASSERT_EQ(NULL, run_dest_ops.ahead(self->m, CHANNEL_URGENT, 0, self->page, true));
	ASSERT_EQ(0, run_dest_ops.disarm(self->m, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(NULL, run_dest_ops.ahead(self->m, CHANNEL_URGENT, 0, self->page, true));
}

TEST_HARNESS_MAIN
