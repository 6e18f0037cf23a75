/* SPDX-License-Identifier: GPL-2.0 */
/* Bytes received where they are to lie: postcopy/intake.c, postcopy/dest_ahead.c */
#include "postcopy/intake.h"
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

#define ROW 8 /* pages in a row that tell of more */

FIXTURE(intake)
{
	struct world *w;
	struct bytes main;
	struct intake in;
	struct iovec piece[INTAKE_PIECES];
	uint8_t *buf;
	struct wh_err err;
	unsigned in_place; /* pages whose contents were received where they lie */
	unsigned retries;
};

FIXTURE_SETUP(intake)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->buf = malloc(INTAKE_BYTES);
	ASSERT_NE(NULL, self->buf);
	intake_init(&self->in, &self->w->dest, CHANNEL_MAIN, self->buf);
}

FIXTURE_TEARDOWN(intake)
{
	world_free(self->w);
	bytes_free(&self->main);
	free(self->buf);
}

typedef struct _test_data_intake test;

static bool in_buffer(const test *t, const void *at)
{
	return (const uint8_t *)at >= t->buf && (const uint8_t *)at < t->buf + INTAKE_BYTES;
}

/* All of t->main, in pieces as a link has them, and forget it. Return: as intake_took() */
static int take_pieces(test *t, size_t piece)
{
	const uint8_t *from = t->main.at;
	size_t left = t->main.length;
	int ret = 0;

	while (left && ret == 0) {
		unsigned pieces = intake_room(&t->in, t->piece);
		size_t most = left < piece ? left : piece, took = 0;

		for (unsigned i = 0; i < pieces && took < most; i++) {
			size_t bytes = t->piece[i].iov_len;

			if (!bytes)
				abort();
			if (bytes > most - took)
				bytes = most - took;
			memcpy(t->piece[i].iov_base, from + took, bytes);
			took += bytes;
			if (t->piece[i].iov_len == TARGET_PAGE && bytes == TARGET_PAGE &&
			    !in_buffer(t, t->piece[i].iov_base))
				t->in_place++;
		}
		from += took;
		left -= took;
		ret = intake_took(&t->in, took, 0, &t->err);
		for (; ret == DEST_RETRY; t->retries++)
			ret = intake_took(&t->in, 0, 0, &t->err);
	}
	t->main.length = 0;
	return ret;
}

static int take(test *t)
{
	return take_pieces(t, INTAKE_BYTES);
}

/* Precopy with a block list, within a PART */
static bool precopy(test *t)
{
	struct bytes b = { .block = -1 };
	int ret = dest_connected(&t->w->dest, CHANNEL_MAIN, NULL);

	bytes_begin(&b, true, true, ALL);
	bytes_part(&b, SECTION_PART);
	ret |= feed(t->w, CHANNEL_MAIN, &b, NULL);
	bytes_free(&b);
	return ret == 0;
}

static bool came(const test *t, unsigned block, uint64_t first, uint64_t end)
{
	for (; first < end; first++)
		if (!page_came(t->w, block, PAGES(first)))
			return false;
	return true;
}

TEST_F(intake, a_row_is_received_in_place)
{
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, ROW);
	ASSERT_EQ(0, take(self));
	ASSERT_EQ(2 * ROW, intake_room(&self->in, self->piece));
	EXPECT_EQ(DEST_HEAD_BYTES, self->piece[0].iov_len);
	EXPECT_EQ(self->w->stage[CHANNEL_MAIN] + PAGES(ROW), self->piece[1].iov_base);
	EXPECT_EQ(TARGET_PAGE, self->piece[1].iov_len);
	bytes_pages(&self->main, RAM, PAGES(ROW), 120);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(120, self->in_place);
	/* twice as many each time, but no more than there is room for pieces */
	EXPECT_EQ(INTAKE_PIECES, intake_room(&self->in, self->piece));
	EXPECT_EQ(0, idle(self->w));
	EXPECT_TRUE(came(self, RAM, 0, ROW + 120));
}

TEST_F(intake, too_few_tell_nothing)
{
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, ROW - 1);
	ASSERT_EQ(0, take(self));
	ASSERT_EQ(1, intake_room(&self->in, self->piece));
	EXPECT_TRUE(in_buffer(self, self->piece[0].iov_base));
}

/* Whatever the link makes of it, also in the middle of a head or of contents */
TEST_F(intake, any_pieces)
{
	static const size_t sizes[] = { 1, 7, 8, 9, 100, 4095, 4096, 4097, 4104, 5000, 12312 };

	ASSERT_TRUE(run(self->w));
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		self->in_place = 0;
		bytes_pages(&self->main, RAM, PAGES(100 * i), 50);
		bytes_zero(&self->main, RAM, PAGES(100 * i + 50));
		bytes_pages(&self->main, RAM, PAGES(100 * i + 51), 40);
		ASSERT_EQ(0, take_pieces(self, sizes[i])) TH_LOG("%s", self->err.text);
		ASSERT_EQ(0, idle(self->w));
		EXPECT_TRUE(came(self, RAM, 100 * i, 100 * i + 50)) TH_LOG("%zu", sizes[i]);
		EXPECT_TRUE(page_is(self->w, RAM, PAGES(100 * i + 50), 0));
		EXPECT_TRUE(came(self, RAM, 100 * i + 51, 100 * i + 91));
		if (sizes[i] > 2 * TARGET_PAGE)
			EXPECT_LT(30, self->in_place);
	}
}

/* The row ends in the middle of what was received for it. */
TEST_F(intake, what_ends_a_row)
{
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	bytes_pages(&self->main, RAM, PAGES(20), 5);
	bytes_pages(&self->main, RAM, PAGES(600), 5); /* a gap */
	bytes_pages(&self->main, ROM, 0, 4);	      /* another block */
	bytes_pages(&self->main, RAM, PAGES(605), 20);
	bytes_zero(&self->main, RAM, PAGES(625)); /* another kind */
	bytes_pages(&self->main, RAM, PAGES(626), 20);
	bytes_eos(&self->main); /* another section */
	self->main.length += stream_put_footer(bytes_room(&self->main, STREAM_PUT_MAX), RAM_ID);
	bytes_part(&self->main, SECTION_PART);
	bytes_pages(&self->main, RAM, PAGES(646), 20);
	ASSERT_EQ(0, take(self)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, idle(self->w));
	EXPECT_TRUE(came(self, RAM, 0, 25));
	EXPECT_FALSE(received(self->w, RAM, PAGES(25)));
	EXPECT_TRUE(came(self, RAM, 600, 625));
	EXPECT_TRUE(came(self, RAM, 626, 666));
	EXPECT_TRUE(came(self, ROM, 0, 4));
}

/* A stage's end: what lies at its front may not have been placed yet. */
TEST_F(intake, nothing_is_expected_behind_a_stage)
{
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, PAGES(490), 12);
	ASSERT_EQ(0, take(self));
	/* heads and contents of pages 502 to 511 */
	ASSERT_EQ(20, intake_room(&self->in, self->piece));
	EXPECT_EQ(self->w->stage[CHANNEL_MAIN] + PAGES(511), self->piece[19].iov_base);
	/* and the run there waits: its contents stay where they are until it has gone */
	world_script(self->w, PLACED_CHANGING, 0, 3);
	bytes_pages(&self->main, RAM, PAGES(502), 30);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(3, self->retries);
	ASSERT_EQ(0, idle(self->w));
	EXPECT_TRUE(came(self, RAM, 490, 532));
}

/*
 * A small page that is urgent goes by itself: no row is expected, and there is room for more than one,
 * so that whoever receives one knows that it is all
 */
TEST_F(intake, urgent_pages_lie_alone)
{
	intake_init(&self->in, &self->w->dest, CHANNEL_URGENT, self->buf);
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	ASSERT_EQ(1, intake_room(&self->in, self->piece));
	EXPECT_LT(TARGET_PAGE + DEST_HEAD_BYTES, self->piece[0].iov_len);
	/* nor over one that waits to be placed */
	world_script(self->w, PLACED_CHANGING, 0, 3);
	bytes_pages(&self->main, RAM, PAGES(20), 30);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(3, self->retries);
	EXPECT_TRUE(came(self, RAM, 0, 50));
	/* a large one lies together */
	bytes_pages(&self->main, HUGE, 0, 20);
	ASSERT_EQ(0, take(self));
	EXPECT_LT(2, intake_room(&self->in, self->piece));
	bytes_pages(&self->main, HUGE, PAGES(20), 492);
	ASSERT_EQ(0, take(self));
	EXPECT_TRUE(came(self, HUGE, 0, 512));
}

/* A page that cannot be taken yet is given again from where it lies. */
TEST_F(intake, held_up_in_a_row)
{
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, 30);
	ASSERT_EQ(0, take(self));
	ASSERT_TRUE(bits_test(self->w->dest.block[RAM].received, 0) == false);
	bits_set(self->w->dest.block[RAM].asked, 35);
	world_script(self->w, PLACED_CHANGING, 0, 2);
	bytes_pages(&self->main, RAM, PAGES(30), 30);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(2, self->retries);
	EXPECT_LT(20, self->in_place);
	ASSERT_EQ(0, idle(self->w));
	EXPECT_TRUE(came(self, RAM, 0, 60));
}

/* In memory that both channels place in, only what this one has begun */
TEST_F(intake, shared_room_is_not_written_ahead)
{
	self->w->alias = true;
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(1, intake_room(&self->in, self->piece));
	bytes_pages(&self->main, HUGE, 0, 20);
	ASSERT_EQ(0, take(self));
	ASSERT_LT(1, intake_room(&self->in, self->piece));
	EXPECT_EQ(self->w->region[HUGE].addr + PAGES(20), self->piece[1].iov_base);
	bytes_pages(&self->main, HUGE, PAGES(20), 492);
	bytes_pages(&self->main, HUGE, PAGES(512), 1);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(492, self->in_place);
	EXPECT_TRUE(came(self, HUGE, 0, 512));
}

/* One that the urgent channel has brought is not in the row. */
TEST_F(intake, arrived_pages_are_not_expected)
{
	ASSERT_TRUE(run(self->w));
	bits_set(self->w->dest.block[RAM].arrived, 30);
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(20, intake_room(&self->in, self->piece));
}

TEST_F(intake, precopy_goes_into_guest_memory)
{
	ASSERT_TRUE(precopy(self));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	ASSERT_EQ(40, intake_room(&self->in, self->piece));
	EXPECT_EQ(self->w->region[RAM].addr + PAGES(20), self->piece[1].iov_base);
	bytes_pages(&self->main, RAM, PAGES(20), 100);
	ASSERT_EQ(0, take(self));
	EXPECT_EQ(100, self->in_place);
	EXPECT_TRUE(came(self, RAM, 0, 120));
}

/* Written in vain, a page reads as zeros again: it may be one that is never sent. */
TEST_F(intake, precopy_cleans_up)
{
	ASSERT_TRUE(precopy(self));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	bytes_pages(&self->main, RAM, PAGES(20), 2);
	bytes_pages(&self->main, RAM, PAGES(300), 8);
	ASSERT_EQ(0, take(self));
	EXPECT_TRUE(came(self, RAM, 0, 22));
	EXPECT_TRUE(came(self, RAM, 300, 308));
	for (unsigned i = 22; i < 40; i++)
		EXPECT_TRUE(page_is(self->w, RAM, PAGES(i), 0));
}

/* What has come once is not risked for a guess; when it is announced it may be. */
TEST_F(intake, precopy_keeps_what_it_has)
{
	ASSERT_TRUE(precopy(self));
	bytes_pages(&self->main, RAM, PAGES(20), 10);
	bytes_pages(&self->main, RAM, 0, 12);
	ASSERT_EQ(0, take(self));
	/* pages 12 to 19 */
	EXPECT_EQ(16, intake_room(&self->in, self->piece));
	bytes_pages(&self->main, RAM, PAGES(12), 8);
	bytes_pages(&self->main, RAM, PAGES(500), 1);
	ASSERT_EQ(0, take(self));
	EXPECT_TRUE(came(self, RAM, 0, 30));
}

/* Behind a head the page is no guess any more. */
TEST_F(intake, contents_follow_their_head)
{
	ASSERT_TRUE(precopy(self));
	bytes_pages(&self->main, RAM, 0, 21);
	self->main.length -= TARGET_PAGE - 100;
	ASSERT_EQ(0, take(self));
	ASSERT_EQ(39, intake_room(&self->in, self->piece));
	EXPECT_EQ(self->w->region[RAM].addr + PAGES(20) + 100, self->piece[0].iov_base);
	EXPECT_EQ(TARGET_PAGE - 100, self->piece[0].iov_len);
	bytes_room(&self->main, TARGET_PAGE);
	memset(self->main.at, page_byte(RAM, PAGES(20)), TARGET_PAGE - 100);
	self->main.length = TARGET_PAGE - 100;
	ASSERT_EQ(0, take(self));
	EXPECT_TRUE(came(self, RAM, 0, 21));
}

TEST_F(intake, a_wrong_head_is_refused)
{
	ASSERT_TRUE(precopy(self));
	bytes_pages(&self->main, RAM, 0, 20);
	ASSERT_EQ(0, take(self));
	memset(bytes_room(&self->main, 16), 0xff, 16);
	self->main.length = 16;
	EXPECT_EQ(-EPROTO, take(self));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(&self->w->dest));
}

TEST_HARNESS_MAIN
