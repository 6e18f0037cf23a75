/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/uffd/block.h"
#include "uffd/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "kselftest_harness.h"

FIXTURE(fill)
{
	struct block block;
};

FIXTURE_VARIANT(fill)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(fill, anon)            { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(fill, thp)             { .kind = MEMORY_THP };
FIXTURE_VARIANT_ADD(fill, memfd)           { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(fill, private)         { .kind = MEMORY_MEMFD_PRIVATE };
FIXTURE_VARIANT_ADD(fill, hugetlb)         { .kind = MEMORY_HUGETLB };
FIXTURE_VARIANT_ADD(fill, hugetlb_private) { .kind = MEMORY_HUGETLB_PRIVATE };
/* clang-format on */

FIXTURE_SETUP(fill)
{
	int ret = block_open(&self->block, variant->kind, 0);

	if (ret == -EACCES)
		SKIP(return, "%s", self->block.err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->block.err.text);
	ASSERT_EQ(0, placer_advise(&self->block.placer, &self->block.err));
}

FIXTURE_TEARDOWN(fill)
{
	block_close(&self->block);
}

/* Runs of each length there may be, in whatever order; a whole stage among them */
static bool place_all(struct block *b, unsigned v)
{
	static const unsigned lengths[] = { 1, 16, 3, 64, 200, 7 };
	uint64_t each = STAGE_BYTES / b->page, first;
	unsigned i = 0;

	for (first = b->pages; first > each;) {
		uint64_t run = lengths[i++ % 6];
		uint64_t room = first % each ? first % each : each;

		if (run > room)
			run = room;
		first -= run;
		if (block_place(b, 0, first, run, v, true, NULL) != PLACED_OK)
			return false;
	}
	return block_place(b, 0, 0, each, v, true, NULL) == PLACED_OK;
}

TEST_F(fill, a_fresh_block)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_TRUE(place_all(b, 1))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
	ASSERT_TRUE(block_quiet(b));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 1));
}

/* All of it comes for a second time, as after precopy of a guest that writes everywhere. */
TEST_F(fill, a_hidden_block)
{
	struct block *b = &self->block;

	block_fill(b, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	if (b->placer.alias)
		ASSERT_EQ(b->placer.alias + STAGE_BYTES,
			  placer_room(&b->placer, &b->stage[0], STAGE_BYTES));
	ASSERT_TRUE(place_all(b, 2))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 2));
	/* It is the guest's own memory: what it writes stays */
	block_fill(b, 3);
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 3));
}

/* Every other page was there before, every third is hidden, the rest holes: one run */
TEST_F(fill, a_mixed_block)
{
	struct block *b = &self->block;
	uint64_t i, first, each = STAGE_BYTES / b->page;

	for (i = 0; i < b->pages; i++)
		if (i % 3 != 1)
			page_fill(b->at + i * b->page, b->page, i, 1);
	for (i = 0; i < b->pages; i += 3)
		ASSERT_EQ(0, placer_hide(&b->placer, i * b->page, b->page, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (first = 0; first < b->pages; first += each) {
		for (i = first; i < first + each;) {
			uint64_t end = first + each, done = 0;
			enum placed placed = block_place(b, 0, i, end - i, 2, true, &done);

			i += done / b->page;
			ASSERT_EQ(i < end ? PLACED_BEFORE : PLACED_OK, placed)
			TH_LOG("%s", b->err.text);
			if (i < end)
				ASSERT_EQ(2, i++ % 3);
		}
	}
	for (i = 0; i < b->pages; i++)
		ASSERT_EQ(i + 1, block_wrong(b, i, i + 1, i % 3 == 2 ? 1 : 2));
}

/* Written after it was hidden: precopy went on. What is there from then on stays. */
TEST_F(fill, written_after_it_was_hidden)
{
	struct block *b = &self->block;

	block_fill(b, 1);
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 2, true, NULL));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_BEFORE, block_zero(b, 0, 1, NULL));
	ASSERT_EQ(1, block_wrong(b, 0, 1, 2));
}

TEST_F(fill, zeros)
{
	struct block *b = &self->block;
	uint64_t third = b->pages / 3, done = 0;

	/* Of the first third hidden, of the second there, of the last nothing */
	block_fill(b, 1);
	ASSERT_EQ(0, placer_discard(&b->placer, 2 * third * b->page, third * b->page, &b->err));
	ASSERT_EQ(0, placer_hide(&b->placer, 0, third * b->page, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_BEFORE, block_zero(b, 0, b->pages, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(third * b->page, done);
	ASSERT_EQ(PLACED_BEFORE, block_zero(b, third, b->pages - third, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_OK, block_zero(b, 2 * third, third, &done));
	ASSERT_EQ(third * b->page, done);
	ASSERT_EQ(third, block_wrong(b, 0, third, -1));
	ASSERT_EQ(2 * third, block_wrong(b, third, 2 * third, 1));
	ASSERT_EQ(b->pages, block_wrong(b, 2 * third, b->pages, -1));
	/* And they are the guest's to write */
	block_fill(b, 2);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, 2));
	ASSERT_TRUE(block_quiet(b));
}

/* Pages wait in the stage while a fault is answered with zeros. */
TEST_F(fill, zeros_leave_the_stage_alone)
{
	struct block *b = &self->block;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	page_fill(placer_room(&b->placer, &b->stage[0], 0), b->page, 0, 1);
	ASSERT_EQ(PLACED_OK, block_zero(b, b->pages - 1, 1, NULL));
	ASSERT_EQ(PLACED_OK,
		  placer_place(&b->placer, &b->stage[0], 0, b->page, true, NULL, &b->err));
	ASSERT_EQ(1, block_wrong(b, 0, 1, 1));
	ASSERT_EQ(b->pages, block_wrong(b, b->pages - 1, b->pages, -1));
}

/*
 * A received page of a file may lose its place in the page table (memory was short, or
 * the guest said MADV_DONTNEED) and faults as MINOR. Its contents are not lost.
 */
TEST_F(fill, zeros_do_not_cover_what_was_unmapped)
{
	struct block *b = &self->block;
	struct toucher toucher = { 0 };
	struct uffd_event event;

	if (!memory_traits[variant->kind].shared) {
		/* There it is the page itself that goes, and zeros are right */
		ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
		ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL));
		ASSERT_EQ(0, madvise(b->at, b->page, MADV_DONTNEED));
		ASSERT_EQ(PLACED_OK, block_zero(b, 0, 1, NULL));
		ASSERT_EQ(1, block_wrong(b, 0, 1, -1));
		return;
	}
	/* The second has been hidden in between */
	page_fill(b->at + b->page, b->page, 1, 0);
	ASSERT_EQ(0, placer_hide(&b->placer, b->page, b->page, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 1, true, NULL));
	ASSERT_EQ(0, madvise(b->at, 2 * b->page, MADV_DONTNEED));
	ASSERT_TRUE(toucher_start(&toucher, b->at));
	ASSERT_EQ(1, read_events(&b->uffd, &event, 1));
	ASSERT_TRUE(event.minor);
	/* A huge one is mapped by finding out that it is there */
	ASSERT_EQ(b->page == TARGET_PAGE ? PLACED_OK : PLACED_BEFORE, block_zero(b, 0, 1, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, placer_wake(&b->placer, 0, b->page, &b->err));
	toucher_end(&toucher);
	ASSERT_GE(PLACED_BEFORE, block_zero(b, 1, 1, NULL));
	ASSERT_EQ(2, block_wrong(b, 0, 2, 1));
	ASSERT_EQ(PLACED_BEFORE, block_zero(b, 0, 1, NULL));
}

TEST_F(fill, many_with_one_wake)
{
	struct toucher toucher[3] = { 0 };
	struct block *b = &self->block;
	struct uffd_event event[3];
	uint8_t first[8];
	unsigned i;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < 3; i++)
		ASSERT_TRUE(toucher_start(&toucher[i], b->at + i * b->page));
	ASSERT_EQ(3, read_events(&b->uffd, event, 3));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, i, 1, 1, false, NULL));
	ASSERT_EQ(3, waiting(&b->uffd));
	ASSERT_EQ(0, placer_wake(&b->placer, 0, 3 * b->page, &b->err));
	for (i = 0; i < 3; i++) {
		page_fill(first, sizeof(first), i, 1);
		ASSERT_EQ(first[0], toucher_end(&toucher[i]));
	}
}

/* The VMM has cut its memory in pieces; the kernel wants a call for each. */
TEST_F(fill, across_the_kernels_seams)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, seam = each > 1 ? 37 * b->page : b->page;
	uint64_t first;

	ASSERT_EQ(0, madvise(b->at + seam, b->page, MADV_DONTFORK));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (first = 0; first < b->pages / 3 * 2; first += each)
		ASSERT_EQ(PLACED_OK, block_place(b, 0, first, each, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(first, block_wrong(b, 0, first, 1));
	ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	ASSERT_EQ(0, placer_discard(&b->placer, 0, BLOCK_BYTES, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(PLACED_OK, block_zero(b, 0, b->pages, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(b->pages, block_wrong(b, 0, b->pages, -1));
}

/* A part of the block has gone: said of that part, and the others are placed as ever. */
TEST_F(fill, an_error_ends_nothing_else)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, done = 77;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, munmap(b->at + STAGE_BYTES, STAGE_BYTES));
	ASSERT_EQ(PLACED_GONE, block_place(b, 0, each, each, 1, true, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, each, 1, true, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(STAGE_BYTES, done);
	ASSERT_EQ(PLACED_GONE, block_zero(b, each, 2 * each, &done));
	ASSERT_EQ(PLACED_OK, block_zero(b, 2 * each, each, &done));
	ASSERT_EQ(each, block_wrong(b, 0, each, 1));
	ASSERT_EQ(b->pages, block_wrong(b, 2 * each, b->pages, -1));
}

TEST_F(fill, wrong_ranges_have_a_sentence)
{
	struct block *b = &self->block;
	const struct {
		uint64_t offset, length;
	} wrong[] = {
		{ 0, 0 },
		{ 1, b->page },
		{ 0, b->page + 1 },
		{ 0, STAGE_BYTES + b->page },
		{ STAGE_BYTES / 2, STAGE_BYTES },
		{ BLOCK_BYTES, b->page },
		{ BLOCK_BYTES - b->page, 2 * b->page },
		{ -b->page, b->page },
		{ b->page, -b->page },
	};
	uint64_t done;
	unsigned i;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		done = 77;
		ASSERT_EQ(PLACED_FAILED, placer_place(&b->placer, &b->stage[0], wrong[i].offset,
						      wrong[i].length, true, &done, &b->err));
		ASSERT_EQ(0, done);
		ASSERT_EQ(-EINVAL, b->err.code);
		ASSERT_EQ(0, strncmp(b->err.text, "block '", 7));
	}
	ASSERT_EQ(PLACED_FAILED, placer_zero(&b->placer, &b->stage[0], BLOCK_BYTES, b->page, true,
					     &done, &b->err));
	ASSERT_TRUE(block_quiet(b));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL));
}

struct channel_thread {
	struct block *block;
	unsigned channel;
	enum placed placed;
	pthread_t thread;
};

/* The urgent one takes every fifth page, last first; the bulk one what lies between */
static void *channel_main(void *opaque)
{
	struct channel_thread *t = opaque;
	struct block *b = t->block;
	uint64_t i;

	for (i = 0; i < b->pages && t->placed == PLACED_OK; i++) {
		uint64_t page = t->channel ? b->pages - 1 - i : i;

		if ((page % 5 == 0) != (t->channel == 1))
			continue;
		if (page % 7 == 0)
			t->placed = placer_zero(&b->placer, &b->stage[t->channel], page * b->page,
						b->page, true, NULL, NULL);
		else
			t->placed = block_place(b, t->channel, page, 1, 2, true, NULL);
	}
	return NULL;
}

static void *guest_main(void *opaque)
{
	struct block *b = opaque;
	uint64_t i, wrong = 0;

	for (i = 0; i < b->pages; i++) {
		uint64_t page = i * 397 % b->pages;

		if (block_wrong(b, page, page + 1, page % 7 ? 2 : -1) == page)
			wrong++;
	}
	return (void *)(uintptr_t)wrong;
}

TEST_F(fill, two_channels_and_a_guest)
{
	struct block *b = &self->block;
	struct channel_thread t[2] = { { .block = b }, { .block = b, .channel = 1 } };
	pthread_t guest;
	void *wrong;
	unsigned i;

	block_fill(b, 1);
	/* The last third as if it had never come */
	ASSERT_EQ(0, placer_hide(&b->placer, 0, BLOCK_BYTES / 3 * 2, &b->err));
	ASSERT_EQ(0, placer_discard(&b->placer, BLOCK_BYTES / 3 * 2, BLOCK_BYTES / 3, &b->err));
	ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
	ASSERT_EQ(0, pthread_create(&guest, NULL, guest_main, b));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&t[i].thread, NULL, channel_main, &t[i]));
	for (i = 0; i < 2; i++) {
		pthread_join(t[i].thread, NULL);
		ASSERT_EQ(PLACED_OK, t[i].placed)
		TH_LOG("channel %u: %s", i, placed_name(t[i].placed));
	}
	pthread_join(guest, &wrong);
	ASSERT_EQ(NULL, wrong);
}

struct dropper {
	pthread_t thread;
	struct block *block;
	int stop;
};

/* What lies behind the part that is placed: announced, dropped, and again */
static void *dropper_main(void *opaque)
{
	struct dropper *dropper = opaque;
	struct block *b = dropper->block;

	while (!__atomic_load_n(&dropper->stop, __ATOMIC_ACQUIRE))
		(void)madvise(b->at + 2 * STAGE_BYTES, STAGE_BYTES,
			      memory_traits[b->memory.kind].shared ? MADV_REMOVE : MADV_DONTNEED);
	return NULL;
}

/* All of it, while the map changes in the middle of batches: where each stops it goes on. */
TEST_F(fill, while_the_map_changes)
{
	struct block *b = &self->block;
	uint64_t each = STAGE_BYTES / b->page, first = 0, changing = 0, done, end;
	struct dropper dropper = { .block = b };
	struct uffd_event event[UFFD_BATCH];
	struct pollfd poll_fd = { .events = POLLIN };
	unsigned round, rounds = 4;

	placer_fini(&b->placer);
	uffd_close(&b->uffd);
	ASSERT_EQ(0, uffd_open(&b->uffd, UFFD_FEATURE_EVENT_REMOVE, false, &b->err));
	poll_fd.fd = b->uffd.fd;
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err));
	for (round = 0; round < rounds; round++) {
		ASSERT_EQ(0, placer_discard(&b->placer, 0, 2 * STAGE_BYTES, &b->err));
		ASSERT_EQ(0, placer_arm(&b->placer, &b->err));
		dropper.stop = 0;
		ASSERT_EQ(0, pthread_create(&dropper.thread, NULL, dropper_main, &dropper));
		for (first = 0; first < 2 * each; first = end) {
			enum placed placed = PLACED_CHANGING;
			uint64_t at = first, i;

			end = first + each;
			for (i = first; i < end; i++)
				page_fill(placer_room(&b->placer, &b->stage[0], i * b->page),
					  b->page, i, round);
			/* For certain now and then, else by chance: then in the middle, too */
			if (round % 2)
				poll(&poll_fd, 1, 20000);
			while (placed == PLACED_CHANGING) {
				placed = placer_place(&b->placer, &b->stage[0], at * b->page,
						      (end - at) * b->page, true, &done, &b->err);
				at += done / b->page;
				changing += placed == PLACED_CHANGING;
				if (placed == PLACED_CHANGING)
					ASSERT_LE(0, uffd_read(&b->uffd, event, &b->err));
			}
			ASSERT_EQ(PLACED_OK, placed)
			TH_LOG("%s %s", placed_name(placed), b->err.text);
			ASSERT_EQ(end, at);
		}
		__atomic_store_n(&dropper.stop, 1, __ATOMIC_RELEASE);
		/* It may wait for one more of its messages to be read */
		while (pthread_tryjoin_np(dropper.thread, NULL) != 0)
			ASSERT_LE(0, uffd_read(&b->uffd, event, &b->err));
		ASSERT_EQ(2 * each, block_wrong(b, 0, 2 * each, (int)round));
		ASSERT_EQ(0, placer_disarm(&b->placer, &b->err));
	}
	ASSERT_LT(0, changing);
}

/* After CONTINUE it is one page with two addresses. */
TEST(second_mapping)
{
	struct block b;
	uint8_t *room;

	ASSERT_EQ(0, block_open(&b, MEMORY_MEMFD, 0))
	TH_LOG("%s", b.err.text);
	block_fill(&b, 1);
	ASSERT_EQ(0, placer_hide(&b.placer, 0, STAGE_BYTES, &b.err));
	ASSERT_EQ(0, placer_arm(&b.placer, &b.err));
	room = placer_room(&b.placer, &b.stage[0], TARGET_PAGE);
	ASSERT_EQ(b.placer.alias + TARGET_PAGE, room);
	room[0] = 'r';
	ASSERT_EQ(PLACED_OK, placer_place(&b.placer, &b.stage[0], TARGET_PAGE, TARGET_PAGE, true,
					  NULL, &b.err));
	ASSERT_EQ('r', b.at[TARGET_PAGE]);
	room[0] = 's';
	ASSERT_EQ('s', b.at[TARGET_PAGE]);
	b.at[TARGET_PAGE] = 't';
	ASSERT_EQ('t', room[0]);
	block_close(&b);
}

FIXTURE(full)
{
	struct block block;
	char folder[32];
};

FIXTURE_VARIANT(full)
{
	int flags;
};

FIXTURE_VARIANT_ADD(full, shared){ .flags = MAP_SHARED };
FIXTURE_VARIANT_ADD(full, private){ .flags = MAP_PRIVATE };

/* Huge pages of a file system that has one less than the block */
FIXTURE_SETUP(full)
{
	struct block *b = &self->block;
	char options[64];
	int ret;

	if (geteuid() != 0)
		SKIP(return, "a hugetlbfs with a limit takes root");
	ret = block_open(b, MEMORY_HUGETLB, 0);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", b->err.text);
	placer_fini(&b->placer);
	strcpy(self->folder, "/tmp/uffd-fill-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(options, sizeof(options), "pagesize=2M,size=%u", (BLOCK_STAGES - 1) * 2 << 20);
	ASSERT_EQ(0, mount("hugetlbfs", self->folder, "hugetlbfs", 0, options));
	close(b->memory.region.fd);
	b->memory.region.fd = openat(AT_FDCWD, self->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_LE(0, b->memory.region.fd);
	ASSERT_EQ(0, ftruncate(b->memory.region.fd, BLOCK_BYTES));
	ASSERT_EQ(b->at, mmap(b->at, BLOCK_BYTES, PROT_READ | PROT_WRITE,
			      MAP_FIXED | MAP_NORESERVE | variant->flags, b->memory.region.fd, 0));
	ASSERT_EQ(0, placer_init(&b->placer, &b->memory.region, &b->uffd, &b->err))
	TH_LOG("%s", b->err.text);
}

FIXTURE_TEARDOWN(full)
{
	block_close(&self->block);
	umount(self->folder);
	rmdir(self->folder);
}

/* The kernel may call it EEXIST: the page must not be taken for one that is there. */
TEST_F(full, no_huge_page_left)
{
	struct block *b = &self->block;
	uint64_t done = 77;

	ASSERT_EQ(0, placer_arm(&b->placer, &b->err))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 0, 1, 1, true, NULL))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 1, 1, 1, true, NULL));
	ASSERT_EQ(PLACED_NO_MEMORY, block_place(b, 0, 2, 1, 1, true, &done))
	TH_LOG("%s", b->err.text);
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_NO_MEMORY, block_zero(b, 2, 1, &done));
	ASSERT_EQ(0, done);
	ASSERT_EQ(PLACED_BEFORE, block_place(b, 0, 1, 1, 2, true, &done));
	/* What lay in the stage was not lost; with a page more it finds its place */
	ASSERT_EQ(0, placer_discard(&b->placer, 0, b->page, &b->err));
	ASSERT_EQ(PLACED_OK, block_place(b, 0, 2, 1, 1, true, &done));
	ASSERT_EQ(3, block_wrong(b, 1, 3, 1));
}

TEST_HARNESS_MAIN
