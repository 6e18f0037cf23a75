/* SPDX-License-Identifier: GPL-2.0 */
#include "base/bits.h"
#include "selftests/uffd/block.h"
#include "uffd/abi.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kselftest_harness.h"

#define TARGETS (BLOCK_BYTES / TARGET_PAGE)

FIXTURE(ahead)
{
	struct block block;
	uint64_t received[TARGETS / 64];
};

FIXTURE_VARIANT(ahead)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(ahead, memfd)   { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(ahead, hugetlb) { .kind = MEMORY_HUGETLB };
/* clang-format on */

FIXTURE_SETUP(ahead)
{
	struct block *b = &self->block;
	int ret = block_open(b, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", b->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", b->err.text);
	memset(self->received, 0, sizeof(self->received));
}

FIXTURE_TEARDOWN(ahead)
{
	block_close(&self->block);
}

static int go(struct _test_data_ahead *self, uint64_t first, uint64_t pages)
{
	struct block *b = &self->block;

	return placer_ahead(&b->placer, self->received, first * b->page, pages * b->page, &b->err);
}

/* Pages that the file has */
static uint64_t in_file(const struct block *b)
{
	struct stat stat = { 0 };

	(void)fstat(b->memory.region.fd, &stat);
	return (uint64_t)stat.st_blocks * 512 / b->page;
}

TEST_F(ahead, contents_go_over_the_file)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, i;

	ASSERT_TRUE(placer_goes_ahead(&b->placer));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, go(self, 0, 2 * each))
	TH_LOG("%s", b->err.text);
	for (i = 0; i < 2 * each; i++)
		ASSERT_EQ(PAGE_HIDDEN, state_get(b->placer.state, i));
	ASSERT_EQ(2 * each, in_file(b));
	ASSERT_EQ(PAGE_ABSENT, state_get(b->placer.state, 2 * each));
	/* Where they are received, and nothing is copied again */
	ASSERT_EQ(b->placer.alias + STAGE_BYTES,
		  placer_room(&b->placer, &b->stage[0], STAGE_BYTES));
	ASSERT_NE(b->placer.alias + 2 * STAGE_BYTES,
		  placer_room(&b->placer, &b->stage[0], 2 * STAGE_BYTES));
	for (i = 0; i < b->pages; i += each)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, each, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	for (i = 0; i < b->pages; i++)
		ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, i));
	ASSERT_TRUE(block_quiet(b));
}

TEST_F(ahead, a_waiting_thread_goes_on_waiting)
{
	struct block *b = &self->block;
	struct toucher toucher[2] = { 0 };
	struct uffd_event event[2];
	uint8_t first[8];

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(toucher_start(&toucher[0], b->at));
	ASSERT_EQ(1, read_events(&b->uffd, &event[0], 1));
	ASSERT_EQ(0, go(self, 0, b->pages));
	ASSERT_TRUE(toucher_start(&toucher[1], b->at + b->page));
	ASSERT_EQ(1, read_events(&b->uffd, &event[1], 1));
	ASSERT_FALSE(event[0].minor);
	ASSERT_TRUE(event[1].minor);
	ASSERT_FALSE(toucher_done(&toucher[0]));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL));
	page_fill(first, sizeof(first), 0, 1);
	ASSERT_EQ(first[0], toucher_end(&toucher[0]));
	ASSERT_EQ(PLACED_OK, block_zero(b, 1, 1, NULL));
	ASSERT_EQ(0, toucher_end(&toucher[1]));
}

/* There since before it was armed, and the guest's: precopy's pages */
TEST_F(ahead, what_was_received_is_left_alone)
{
	struct block *b = &self->block;
	uint64_t each = b->page / TARGET_PAGE, i;

	page_fill(b->at, b->page, 0, 1);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	/* The last of them makes it received; a page of nothing, too */
	bits_set(self->received, each - 1);
	bits_set(self->received, 2 * each - 1);
	ASSERT_EQ(0, go(self, 0, b->pages))
	TH_LOG("%s", b->err.text);
	for (i = 0; i < b->pages; i++)
		ASSERT_EQ(i < 2 ? PAGE_ABSENT : PAGE_HIDDEN, state_get(b->placer.state, i));
	ASSERT_EQ(b->pages - 1, in_file(b));
	/* It loses its place in the page table, and a fault is answered with zeros */
	ASSERT_EQ(0, madvise(b->at, b->page, MADV_DONTNEED));
	ASSERT_GE(PLACED_BEFORE, block_zero(b, 0, 1, NULL));
	ASSERT_EQ(1, block_wrong(b, 0, 1, 1));
}

/* By COPY, and its received bit is not set yet: the guest has written to it since */
TEST_F(ahead, what_was_placed_is_left_alone)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL));
	ASSERT_EQ(PLACED_OK, block_zero(b, 1, 1, NULL));
	page_fill(b->at, b->page, 0, 7);
	page_fill(b->at + b->page, b->page, 1, 7);
	ASSERT_EQ(0, go(self, 0, b->pages));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, 0));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, 1));
	/* Neither a second copy of it nor zeros come over it */
	ASSERT_EQ(PLACED_BEFORE, block_place(b, 1, 0, 1, 2, true, NULL));
	ASSERT_EQ(PLACED_BEFORE, block_zero(b, 1, 1, NULL));
	ASSERT_EQ(2, block_wrong(b, 0, 2, 7));
}

/* Room was asked for while there were no pages: it lies in the stage, wherever room is now. */
TEST_F(ahead, what_lies_in_the_stage_is_placed_from_there)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, i;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < each; i++) {
		if (i == each / 2)
			ASSERT_EQ(0, go(self, 0, b->pages));
		page_fill(placer_room(&b->placer, &b->stage[0], i * b->page), b->page, i, 1);
	}
	if (each == 1)
		ASSERT_EQ(PAGE_HIDDEN, state_get(b->placer.state, 0));
	ASSERT_EQ(PLACED_OK,
		  placer_place(&b->placer, &b->stage[0], 0, STAGE_BYTES, true, NULL, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(each, block_wrong(b, 0, each, 1));
	/* The other channel has nothing there and sees it at once */
	ASSERT_EQ(b->placer.alias + STAGE_BYTES,
		  placer_room(&b->placer, &b->stage[1], STAGE_BYTES));
}

/* The helper has come between the look and COPY, which finds a page of nothing. */
TEST_F(ahead, copy_meets_a_page_that_came_ahead)
{
	struct block *b = &self->block;
	uint64_t i, first = STAGE_BYTES / b->page;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < 2; i++) {
		state_set(b->placer.state, first + i, first + i + 1, PAGE_AHEAD);
		ASSERT_EQ(0, placer_populate_one(&b->placer, (first + i) * b->page, &b->err))
		TH_LOG("%s", b->err.text);
	}
	ASSERT_EQ(PLACED_OK, block_place(b, 0, first, 1, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACED_OK, block_zero(b, first + 1, 1, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(first + 1, block_wrong(b, first, first + 1, 1));
	ASSERT_EQ(first + 2, block_wrong(b, first + 1, first + 2, -1));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, first));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, first + 1));
}

/* Or it was stopped before there was a page: AHEAD promises nothing. */
TEST_F(ahead, copy_before_the_page_came)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	state_set(b->placer.state, 0, 2, PAGE_AHEAD);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACED_OK, block_zero(b, 1, 1, NULL));
	ASSERT_EQ(1, block_wrong(b, 0, 1, 1));
	ASSERT_EQ(2, block_wrong(b, 1, 2, -1));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, 0));
	ASSERT_EQ(PAGE_TAKEN, state_get(b->placer.state, 1));
}

TEST_F(ahead, not_before_it_is_armed)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, go(self, 0, b->pages));
	ASSERT_EQ(0, in_file(b));
	ASSERT_EQ(PAGE_ABSENT, state_get(b->placer.state, 0));
}

TEST_F(ahead, wrong_ranges_have_a_sentence)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(-EINVAL, placer_ahead(&b->placer, self->received, 1, b->page, &b->err));
	ASSERT_EQ(-EINVAL, placer_ahead(&b->placer, self->received, 0, b->page - 1, &b->err));
	ASSERT_EQ(-EINVAL, go(self, b->pages, 1));
	ASSERT_EQ(-EINVAL, go(self, 1, UINT64_MAX / b->page));
	ASSERT_EQ(0, strncmp(b->err.text, "block '", 7));
	ASSERT_EQ(0, go(self, b->pages, 0));
	ASSERT_EQ(0, in_file(b));
}

static void *remover_main(void *opaque)
{
	struct block *b = opaque;

	madvise(b->at, b->page, MADV_REMOVE);
	return NULL;
}

/*
 * What lies ready to be placed is of a page that the guest drops: nothing is placed while
 * its message is unread, and what lies there stays for its owner to drop.
 */
TEST_F(ahead, removed_while_it_lies_there)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, done = 77;
	struct uffd_event event = { 0 };
	struct pollfd poll_fd;
	pthread_t thread;
	unsigned tries;

	placer_fini(&b->placer);
	uffd_close(&b->uffd);
	ASSERT_EQ(0, uffd_open(&b->uffd, UFFD_FEATURE_EVENT_REMOVE, false, &b->err));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, go(self, 0, each));
	page_fill(placer_room(&b->placer, &b->stage[0], 0), b->page, 0, 1);
	page_fill(placer_room(&b->placer, &b->stage[1], each * b->page), b->page, each, 1);
	ASSERT_EQ(0, pthread_create(&thread, NULL, remover_main, b));
	poll_fd = (struct pollfd){ .fd = b->uffd.fd, .events = POLLIN };
	ASSERT_EQ(1, poll(&poll_fd, 1, 20000));
	ASSERT_EQ(PLACED_CHANGING,
		  placer_place(&b->placer, &b->stage[0], 0, b->page, true, &done, &b->err));
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_CHANGING, placer_place(&b->placer, &b->stage[1], each * b->page, b->page,
						true, &done, &b->err));
	ASSERT_EQ(0, done);
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_EQ(UFFD_REMOVE, event.kind);
	ASSERT_EQ((uintptr_t)b->at, event.addr);
	pthread_join(thread, NULL);
	/* The first is zeros from now on, the other is placed as if nothing had been */
	for (tries = 0; tries < 1000; tries++) {
		enum placed placed =
			placer_zero(&b->placer, &b->stage[0], 0, b->page, true, &done, &b->err);

		if (placed != PLACED_CHANGING)
			break;
		usleep(100);
	}
	ASSERT_EQ(b->page, done);
	ASSERT_EQ(PLACED_OK, placer_place(&b->placer, &b->stage[1], each * b->page, b->page, true,
					  &done, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(1, block_wrong(b, 0, 1, -1));
	ASSERT_EQ(each + 1, block_wrong(b, each, each + 1, 1));
}

struct worker {
	struct _test_data_ahead *self;
	unsigned channel;
	enum placed placed;
	pthread_t thread;
};

/* The urgent channel takes every fifth page, last first; the bulk one what lies between */
static void *channel_main(void *opaque)
{
	struct worker *w = opaque;
	struct block *b = &w->self->block;
	uint64_t each = b->page / TARGET_PAGE, i;

	for (i = 0; i < b->pages && w->placed == PLACED_OK; i++) {
		uint64_t page = w->channel ? b->pages - 1 - i : i;

		if ((page % 5 == 0) != (w->channel == 1))
			continue;
		if (page % 7 == 0)
			w->placed = placer_zero(&b->placer, &b->stage[w->channel], page * b->page,
						b->page, true, NULL, NULL);
		else
			w->placed = block_place(b, w->channel, page, 1, 2, true, NULL);
		/* As late as it may be: the state alone keeps the helper away until then */
		if (page % 3)
			bits_range_set(w->self->received, page * each, each);
	}
	return NULL;
}

static void *helper_main(void *opaque)
{
	struct worker *w = opaque;
	struct block *b = &w->self->block;
	uint64_t i;

	/* A page at a time, to be everywhere at once with the others; then by stages */
	for (i = 0; i < b->pages && w->placed == PLACED_OK; i += 3)
		if (go(w->self, i * 397 % b->pages, 1) < 0)
			w->placed = PLACED_FAILED;
	if (w->placed == PLACED_OK && go(w->self, 0, b->pages) < 0)
		w->placed = PLACED_FAILED;
	return NULL;
}

/* Adds one to each page as soon as it is there: what comes later would take it away */
static void *guest_main(void *opaque)
{
	struct block *b = opaque;
	uint64_t i;

	for (i = 0; i < b->pages; i++)
		b->at[i * 397 % b->pages * b->page + 9]++;
	return NULL;
}

TEST_F(ahead, two_channels_a_helper_and_a_guest)
{
	struct block *b = &self->block;
	unsigned round, rounds = b->page == TARGET_PAGE ? 20 : 60, i;
	uint64_t page, wrong = 0;

	for (round = 0; round < rounds; round++) {
		struct worker w[3] = { { .self = self },
				       { .self = self, .channel = 1 },
				       { .self = self } };
		pthread_t guest;

		memset(self->received, 0, sizeof(self->received));
		ASSERT_EQ(0, placer_discard(&b->placer, 0, BLOCK_BYTES, &b->err));
		ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
		ASSERT_EQ(0, pthread_create(&guest, NULL, guest_main, b));
		for (i = 0; i < 3; i++)
			ASSERT_EQ(0, pthread_create(&w[i].thread, NULL,
						    i < 2 ? channel_main : helper_main, &w[i]));
		for (i = 0; i < 3; i++) {
			pthread_join(w[i].thread, NULL);
			ASSERT_EQ(PLACED_OK, w[i].placed)
			TH_LOG("thread %u: %s %s", i, placed_name(w[i].placed), b->err.text);
		}
		pthread_join(guest, NULL);
		ASSERT_TRUE(block_quiet(b));
		for (page = 0; page < b->pages; page++) {
			b->at[page * b->page + 9]--;
			wrong += block_wrong(b, page, page + 1, page % 7 ? 2 : -1) == page;
		}
		ASSERT_EQ(0, wrong);
		ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	}
}

TEST(memory_of_its_own_has_nothing_ahead)
{
	uint64_t received[TARGETS / 64] = { 0 };
	struct block b;

	ASSERT_EQ(0, block_open(&b, MEMORY_ANON, 0))
	TH_LOG("%s", b.err.text);
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	ASSERT_FALSE(placer_goes_ahead(&b.placer));
	ASSERT_EQ(0, placer_ahead(&b.placer, received, 0, BLOCK_BYTES, &b.err));
	ASSERT_TRUE(block_quiet(&b));
	block_close(&b);
}

TEST_HARNESS_MAIN
