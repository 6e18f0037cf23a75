/* SPDX-License-Identifier: GPL-2.0 */
/* Pages, from arriving to being marked: postcopy/dest_page.c */
#include "selftests/postcopy/dest_guest.h"
#include "wire/xbzrle.h"

#include "kselftest_harness.h"

FIXTURE(page)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(page)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_TRUE(run(self->w));
}

FIXTURE_TEARDOWN(page)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

TEST_F(page, neighbours_are_placed_together)
{
	struct world *w = self->w;

	bytes_pages(&self->main, RAM, 0, 3);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	/* They lie in the run: neither placed nor marked. */
	EXPECT_EQ(0, w->calls);
	EXPECT_TRUE(arrived(w, RAM, 0));
	EXPECT_FALSE(received(w, RAM, 0));
	ASSERT_EQ(0, idle(w));
	ASSERT_EQ(1, w->calls);
	EXPECT_TRUE(called(w, 0, 'p', RAM, 0, PAGES(3)));
	EXPECT_TRUE(w->call[0].wake);
	EXPECT_EQ(CHANNEL_MAIN, w->call[0].channel);
	for (unsigned i = 0; i < 3; i++)
		EXPECT_TRUE(page_came(w, RAM, PAGES(i)));
	EXPECT_FALSE(received(w, RAM, PAGES(3)));
	ASSERT_EQ(0, idle(w));
	EXPECT_EQ(1, w->calls);
}

TEST_F(page, what_breaks_a_run)
{
	struct world *w = self->w;

	bytes_pages(&self->main, RAM, 0, 2);
	bytes_pages(&self->main, RAM, PAGES(3), 2); /* a gap */
	bytes_zero(&self->main, RAM, PAGES(5));	    /* another kind */
	bytes_zero(&self->main, RAM, PAGES(6));
	bytes_pages(&self->main, RAM, PAGES(510), 4); /* a gap, and a stage's end */
	bytes_page(&self->main, RAM, PAGES(509));     /* backwards */
	bytes_pages(&self->main, ROM, 0, 4);	      /* another block */
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, idle(w));
	EXPECT_TRUE(called(w, 0, 'p', RAM, 0, PAGES(2)));
	EXPECT_TRUE(called(w, 1, 'p', RAM, PAGES(3), PAGES(2)));
	EXPECT_TRUE(called(w, 2, 'z', RAM, PAGES(5), PAGES(2)));
	EXPECT_TRUE(called(w, 3, 'p', RAM, PAGES(510), PAGES(2)));
	EXPECT_TRUE(called(w, 4, 'p', RAM, PAGES(512), PAGES(2)));
	EXPECT_TRUE(called(w, 5, 'p', RAM, PAGES(509), PAGES(1)));
	EXPECT_TRUE(called(w, 6, 'p', ROM, 0, PAGES(4)));
	EXPECT_EQ(7, w->calls);
	for (unsigned i = 0; i < w->calls; i++)
		EXPECT_TRUE(w->call[i].wake);
	EXPECT_TRUE(page_came(w, RAM, PAGES(513)));
	EXPECT_TRUE(page_came(w, ROM, PAGES(3)));
	EXPECT_TRUE(page_is(w, RAM, PAGES(6), 0) && received(w, RAM, PAGES(6)));
}

/* A full stage goes at once, and does not wait for the link to pause. */
TEST_F(page, a_whole_stage_goes)
{
	bytes_pages(&self->main, RAM, PAGES(512), 512);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(1, self->w->calls);
	EXPECT_TRUE(called(self->w, 0, 'p', RAM, PAGES(512), WORLD_STAGE));
}

/* So does a piece, where pieces are smaller */
TEST_F(page, a_whole_piece_goes)
{
	self->d->block[RAM].piece = PAGES(64);
	bytes_pages(&self->main, RAM, PAGES(60), 10);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(1, self->w->calls);
	EXPECT_TRUE(called(self->w, 0, 'p', RAM, PAGES(60), PAGES(4)));
	ASSERT_EQ(0, idle(self->w));
	ASSERT_EQ(2, self->w->calls);
	EXPECT_TRUE(called(self->w, 1, 'p', RAM, PAGES(64), PAGES(6)));
}

TEST_F(page, urgent_pages_go_at_once)
{
	struct world *w = self->w;

	bytes_pages(&self->urgent, RAM, 0, 2);
	bytes_zero(&self->urgent, RAM, PAGES(2));
	bytes_pages(&self->urgent, ROM, 0, 4);
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_TRUE(called(w, 0, 'p', RAM, 0, PAGES(1)));
	EXPECT_TRUE(called(w, 1, 'p', RAM, PAGES(1), PAGES(1)));
	EXPECT_TRUE(called(w, 2, 'z', RAM, PAGES(2), PAGES(1)));
	EXPECT_TRUE(called(w, 3, 'p', ROM, 0, PAGES(4)));
	EXPECT_EQ(4, w->calls);
	EXPECT_EQ(CHANNEL_URGENT, w->call[0].channel);
	EXPECT_EQ(7, self->d->counters.pages_urgent);
	EXPECT_EQ(6, self->d->counters.pages_normal);
	EXPECT_EQ(1, self->d->counters.pages_zero);
}

/* Who comes first places, on whichever channel; the other copy is dropped. */
TEST_F(page, copies)
{
	struct world *w = self->w;

	bytes_pages(&self->main, RAM, 0, 2); /* lies in the run */
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	bytes_pages(&self->urgent, RAM, PAGES(1), 2);
	self->urgent.at[self->urgent.length - 1] = 0xcc; /* of page 2, which is taken */
	memset(self->urgent.at + 20, 0xdd, 100);	 /* of page 1, which is not */
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, &self->err));
	bytes_zero(&self->main, RAM, PAGES(2));
	bytes_page(&self->main, RAM, PAGES(0));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(w));
	EXPECT_EQ(2, w->calls);
	EXPECT_TRUE(page_came(w, RAM, 0));
	EXPECT_TRUE(page_came(w, RAM, PAGES(1)));
	EXPECT_EQ(0xcc, w->region[RAM].addr[PAGES(3) - 1]);
	EXPECT_EQ(3, self->d->counters.pages_before);
}

TEST_F(page, missing_and_last)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		all += world_blocks[i].used / TARGET_PAGE;
	EXPECT_EQ(all, self->d->counters.pages_missing);
	for (uint64_t at = 0; at < world_blocks[RAM].used; at += TARGET_PAGE)
		bytes_zero(&self->main, RAM, at);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_EQ(3, self->w->calls); /* a stage each */
	EXPECT_EQ(all - world_blocks[RAM].used / TARGET_PAGE, self->d->counters.pages_missing);
	for (uint64_t at = 0; at < world_blocks[HUGE].used; at += TARGET_PAGE)
		bytes_zero(&self->main, HUGE, at);
	for (uint64_t at = 0; at < world_blocks[ROM].used; at += TARGET_PAGE)
		bytes_zero(&self->main, ROM, at);
	EXPECT_EQ(0, self->w->last_pages);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(self->w));
	EXPECT_EQ(0, self->d->counters.pages_missing);
	EXPECT_EQ(1, self->w->last_pages);
}

/* Host pages of 2 MiB */

TEST_F(page, huge_whole)
{
	struct world *w = self->w;

	bytes_pages(&self->main, HUGE, 0, 511);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(w));
	EXPECT_EQ(0, w->calls); /* not by halves */
	bytes_page(&self->main, HUGE, PAGES(511));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(called(w, 0, 'p', HUGE, 0, HUGE_PAGE));
	EXPECT_TRUE(page_came(w, HUGE, 0));
	EXPECT_TRUE(page_came(w, HUGE, PAGES(511)));
	EXPECT_EQ(512, bits_count(self->d->block[HUGE].received, 1024));
}

TEST_F(page, huge_of_zeros)
{
	for (unsigned i = 0; i < 512; i++)
		bytes_zero(&self->urgent, HUGE, HUGE_PAGE + PAGES(i));
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	ASSERT_EQ(1, self->w->calls);
	EXPECT_TRUE(called(self->w, 0, 'z', HUGE, HUGE_PAGE, HUGE_PAGE));
}

/* Zeros within contents, contents behind zeros; the stage holds something else before. */
TEST_F(page, huge_mixed)
{
	struct world *w = self->w;

	memset(w->stage[CHANNEL_MAIN], 0xee, WORLD_STAGE);
	for (unsigned i = 0; i < 512; i++) {
		if (i < 100 || i % 3 == 0)
			bytes_zero(&self->main, HUGE, PAGES(i));
		else
			bytes_page(&self->main, HUGE, PAGES(i));
	}
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(1, w->calls);
	EXPECT_TRUE(called(w, 0, 'p', HUGE, 0, HUGE_PAGE));
	for (unsigned i = 0; i < 512; i++) {
		EXPECT_TRUE(page_is(w, HUGE, PAGES(i),
				    i < 100 || i % 3 == 0 ? 0 : page_byte(HUGE, PAGES(i))))
		TH_LOG("page %u", i);
	}
}

static const struct {
	unsigned block[2];
	unsigned page[2];
	const char *word;
} bad_orders[] = {
	{ { HUGE, HUGE }, { 0, 2 }, "page 0x2000, expected 0x1000" },
	{ { HUGE, HUGE }, { 0, 0 }, "page 0x0, expected 0x1000" },
	{ { HUGE, HUGE }, { 0, 512 }, "expected 0x1000" },
	{ { HUGE, RAM }, { 0, 1 }, "page 0x1000, expected 0x1000 of 'huge'" },
	{ { RAM, HUGE }, { 0, 1 }, "that has not begun" },
	{ { RAM, ROM }, { 0, 3 }, "that has not begun" },
};

TEST_F(page, huge_out_of_order)
{
	for (unsigned channel = 0; channel < CHANNEL_COUNT; channel++) {
		for (unsigned i = 0; i < sizeof(bad_orders) / sizeof(bad_orders[0]); i++) {
			struct bytes b = { .bare = true, .block = -1 };

			world_reset(self->w, true);
			ASSERT_TRUE(run(self->w));
			for (unsigned n = 0; n < 2; n++)
				bytes_page(&b, bad_orders[i].block[n],
					   PAGES(bad_orders[i].page[n]));
			EXPECT_EQ(-EPROTO, feed(self->w, channel, &b, &self->err));
			EXPECT_NE(NULL, strstr(self->err.text, bad_orders[i].word))
			TH_LOG("%s", self->err.text);
			(void)dest_step(self->d, 0, &self->wake_ns, NULL);
			EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
			/* the begun one may come anew */
			EXPECT_FALSE(arrived(self->w, HUGE, 0));
			bytes_free(&b);
		}
	}
}

/* Each channel puts its own together, whatever the other does meanwhile. */
TEST_F(page, huge_on_both_channels)
{
	struct world *w = self->w;

	bytes_pages(&self->main, HUGE, 0, 300);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	bytes_pages(&self->urgent, HUGE, 0, 512); /* the same: dropped, all of it */
	bytes_pages(&self->urgent, HUGE, HUGE_PAGE, 512);
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, &self->err));
	ASSERT_EQ(1, w->calls);
	EXPECT_TRUE(called(w, 0, 'p', HUGE, HUGE_PAGE, HUGE_PAGE));
	EXPECT_EQ(512, self->d->counters.pages_before);
	bytes_pages(&self->main, HUGE, PAGES(300), 212);
	bytes_pages(&self->main, RAM, 0, 1);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(called(w, 1, 'p', HUGE, 0, HUGE_PAGE));
	EXPECT_TRUE(page_came(w, HUGE, PAGES(511)));
	EXPECT_TRUE(page_came(w, HUGE, PAGES(512)));
}

TEST_F(page, huge_interrupted)
{
	bytes_pages(&self->main, RAM, 0, 1);
	bytes_pages(&self->main, HUGE, 0, 300);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(arrived(self->w, HUGE, 0));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_FALSE(arrived(self->w, HUGE, 0));
	EXPECT_EQ(0, bits_count(self->d->block[HUGE].received, 1024));
	/* what was placed before stays */
	EXPECT_TRUE(arrived(self->w, RAM, 0));
	EXPECT_TRUE(received(self->w, RAM, 0));

	world_reset(self->w, true);
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->urgent, HUGE, 0, 300);
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_FALSE(arrived(self->w, HUGE, 0));
	EXPECT_FALSE(self->d->channel[CHANNEL_URGENT].inside);
}

/* Of what lay in the run, or was to get into it, nothing is left to confuse another link. */
TEST_F(page, run_interrupted)
{
	struct dest_channel *c = &self->d->channel[CHANNEL_MAIN];

	bytes_page(&self->main, RAM, 0);
	bytes_page(&self->main, RAM, PAGES(9));
	world_script(self->w, PLACED_CHANGING, 0, 1);
	EXPECT_EQ(DEST_RETRY,
		  feed_pieces(self->w, CHANNEL_MAIN, &self->main, SIZE_MAX, 1, 0, &self->err));
	EXPECT_TRUE(c->holding);
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_FALSE(c->holding);
	EXPECT_EQ(0, c->retry_ns);
	EXPECT_FALSE(arrived(self->w, RAM, 0));
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(9)));
	EXPECT_EQ(0, idle(self->w));
	EXPECT_EQ(1, self->w->calls);
	EXPECT_FALSE(received(self->w, RAM, 0));
}

TEST_F(page, huge_at_the_end)
{
	bytes_pages(&self->main, HUGE, 0, 300);
	bytes_eos(&self->main);
	self->main.length += stream_put_footer(bytes_room(&self->main, STREAM_PUT_MAX), RAM_ID);
	self->main.bare = false;
	bytes_end(&self->main);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "within a host page, at 0x12c000"));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));

	world_reset(self->w, true);
	ASSERT_TRUE(run(self->w));
	bytes_pages(&self->urgent, HUGE, 0, 1);
	bytes_eos(&self->urgent);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "within a host page, at 0x1000"));
}

/* Theirs are larger than ours: whole ones of zeros, then one that begins with zeros */
TEST_F(page, zeros_then_mixed)
{
	struct world *w = self->w;

	for (unsigned i = 0; i < 10; i++)
		bytes_zero(&self->main, ROM, PAGES(i));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_EQ(0, w->calls);
	bytes_page(&self->main, ROM, PAGES(10));
	bytes_zero(&self->main, ROM, PAGES(11));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(called(w, 0, 'z', ROM, 0, PAGES(8)));
	ASSERT_EQ(0, idle(w));
	EXPECT_TRUE(called(w, 1, 'p', ROM, PAGES(8), PAGES(4)));
	EXPECT_TRUE(page_is(w, ROM, PAGES(9), 0));
	EXPECT_TRUE(page_came(w, ROM, PAGES(10)));
	EXPECT_TRUE(page_is(w, ROM, PAGES(11), 0));
}

TEST_F(page, delta_in_postcopy)
{
	struct wire_name name;

	wire_name_set(&name, "pc.ram");
	self->main.length += ram_put_xbzrle(bytes_room(&self->main, RAM_RECORD_MAX), 0, &name, 3);
	bytes_add(&self->main, "\0\1x", 3);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "delta for page 0x0 in phase 'running'"));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

/* Precopy: straight into memory, the last copy wins. */
TEST_F(page, precopy)
{
	struct world *w = self->w;
	uint8_t before[TARGET_PAGE], after[TARGET_PAGE], delta[TARGET_PAGE];
	struct wire_name name;
	int length;

	for (unsigned advised = 0; advised < 2; advised++) {
		world_reset(w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
		self->main = (struct bytes){ .at = self->main.at, .room = self->main.room };
		bytes_begin(&self->main, true, advised, ALL);
		ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
		memset(w->region[RAM].addr, 0xee, PAGES(8));
		bytes_part(&self->main, SECTION_PART);
		bytes_pages(&self->main, RAM, 0, 3);
		bytes_zero(&self->main, RAM, PAGES(3));
		bytes_zero(&self->main, RAM, PAGES(1));
		bytes_eos(&self->main);
		bytes_part(&self->main, SECTION_PART);
		memset(before, page_byte(RAM, PAGES(2)), TARGET_PAGE);
		memcpy(after, before, TARGET_PAGE);
		memset(after + 77, 0x11, 20);
		length = xbzrle_put(delta, sizeof(delta), before, after);
		ASSERT_LT(0, length);
		wire_name_set(&name, "pc.ram");
		self->main.length += ram_put_xbzrle(bytes_room(&self->main, RAM_RECORD_MAX),
						    PAGES(2), &name, (uint16_t)length);
		bytes_add(&self->main, delta, (size_t)length);
		ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
		EXPECT_TRUE(page_came(w, RAM, 0));
		EXPECT_TRUE(page_is(w, RAM, PAGES(1), 0) && received(w, RAM, PAGES(1)));
		EXPECT_EQ(0, memcmp(w->region[RAM].addr + PAGES(2), after, TARGET_PAGE));
		/* Known to be absent it is not touched (here it holds something, to show that),
		 * else it is made zero. */
		EXPECT_TRUE(page_is(w, RAM, PAGES(3), advised ? 0xee : 0));
		EXPECT_TRUE(received(w, RAM, PAGES(3)) && arrived(w, RAM, PAGES(3)));
		EXPECT_TRUE(page_is(w, RAM, PAGES(4), 0xee));
		EXPECT_EQ(3, self->d->counters.pages_normal);
		EXPECT_EQ(2, self->d->counters.pages_zero);
		EXPECT_EQ(1, self->d->counters.pages_xbzrle);
		/* a delta that is broken */
		self->main.length +=
			ram_put_xbzrle(bytes_room(&self->main, RAM_RECORD_MAX), PAGES(2), &name, 3);
		bytes_add(&self->main, "\0\2x", 3);
		EXPECT_EQ(-EPROTO, feed(w, CHANNEL_MAIN, &self->main, &self->err));
		EXPECT_EQ(0, memcmp(w->region[RAM].addr + PAGES(2), after, TARGET_PAGE));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	}
}

TEST_HARNESS_MAIN
