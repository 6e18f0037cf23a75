/* SPDX-License-Identifier: GPL-2.0 */
/* Pages that the guest removes, and how postcopy ends when some are missing */
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(end)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(end)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_TRUE(run(self->w));
}

FIXTURE_TEARDOWN(end)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

static uint64_t missing(const struct world *w)
{
	return w->dest.counters.pages_missing;
}

TEST_F(end, removed)
{
	struct world *w = self->w;
	uint64_t before = missing(w);

	ASSERT_EQ(0, dest_fault(self->d, RAM, PAGES(3), 1, 100, NULL));
	ASSERT_EQ(0, dest_fault(self->d, RAM, PAGES(9), 1, 100, NULL));
	dest_removed(self->d, RAM, PAGES(2), PAGES(3));
	EXPECT_EQ(before - 3, missing(w));
	for (unsigned i = 0; i < 8; i++)
		EXPECT_EQ(i >= 2 && i < 5, received(w, RAM, PAGES(i)));
	/* Who waits there is woken to fault again; that was no answer, and is not counted. */
	EXPECT_TRUE(called(w, 0, 'w', RAM, PAGES(2), PAGES(3)));
	EXPECT_EQ(1, self->d->waiting);
	EXPECT_EQ(0, self->d->counters.fault_hist.count);
	EXPECT_FALSE(asked(w, RAM, PAGES(3)));
	EXPECT_TRUE(asked(w, RAM, PAGES(9)));
	ASSERT_EQ(0, dest_fault(self->d, RAM, PAGES(3), 1, 100, NULL));
	EXPECT_TRUE(called(w, 1, 'z', RAM, PAGES(3), PAGES(1)));
	/* again, and what is there already: nothing is counted twice */
	dest_removed(self->d, RAM, PAGES(2), PAGES(4));
	EXPECT_EQ(before - 4, missing(w));
}

TEST_F(end, removed_by_halves)
{
	uint64_t before = missing(self->w);

	/* Of a host page that was only touched the contents stay. */
	dest_removed(self->d, HUGE, PAGES(1), HUGE_PAGE);
	EXPECT_EQ(before, missing(self->w));
	dest_removed(self->d, HUGE, PAGES(1), 2 * HUGE_PAGE);
	EXPECT_EQ(before - 512, missing(self->w));
	EXPECT_FALSE(received(self->w, HUGE, HUGE_PAGE - 1));
	EXPECT_TRUE(received(self->w, HUGE, HUGE_PAGE));
	dest_removed(self->d, RAM, 1, TARGET_PAGE);
	EXPECT_EQ(before - 512, missing(self->w));
	/* Theirs are larger: of what they send as one a part may be gone here. */
	ASSERT_EQ(0, dest_fault(self->d, ROM, PAGES(5), 1, 0, NULL));
	dest_removed(self->d, ROM, PAGES(4), PAGES(1));
	EXPECT_EQ(before - 513, missing(self->w));
	EXPECT_EQ(1, self->d->waiting);
	EXPECT_TRUE(asked(self->w, ROM, PAGES(4)));
	bytes_pages(&self->urgent, ROM, PAGES(4), 4);
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_EQ(before - 516, missing(self->w));
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_EQ(0, self->w->region[ROM].addr[PAGES(4)]);
	EXPECT_TRUE(page_came(self->w, ROM, PAGES(5)));
}

TEST_F(end, removed_out_of_bounds)
{
	uint64_t before = missing(self->w);

	dest_removed(self->d, WORLD_BLOCKS, 0, PAGES(1));
	dest_removed(self->d, ROM, world_blocks[ROM].used, PAGES(1));
	dest_removed(self->d, ROM, world_blocks[ROM].used + PAGES(2), PAGES(1));
	EXPECT_EQ(0, self->w->calls);
	dest_removed(self->d, ROM, PAGES(15), UINT64_MAX);
	EXPECT_EQ(before - 1, missing(self->w));
	EXPECT_EQ(1, self->w->calls);
	dest_removed(self->d, ROM, PAGES(1), 0);
	dest_removed(self->d, HUGE, PAGES(1), PAGES(1));
	EXPECT_EQ(before - 1, missing(self->w));
	EXPECT_EQ(1, self->w->calls);
	EXPECT_FALSE(received(self->w, ROM, PAGES(14)));

	/* Before anything is armed it is the guest's own affair. */
	world_reset(self->w, true);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
	bytes_begin(&self->main, true, true, ALL);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	dest_removed(self->d, RAM, 0, PAGES(1));
	EXPECT_FALSE(received(self->w, RAM, 0));
}

TEST_F(end, removed_and_waking_fails)
{
	self->w->fail_wake = -ENXIO;
	dest_removed(self->d, RAM, 0, PAGES(1));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(-ENXIO, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

TEST_F(end, the_last_page_is_removed)
{
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		dest_removed(self->d, i, 0, world_blocks[i].used);
	EXPECT_EQ(0, missing(self->w));
	EXPECT_EQ(1, self->w->last_pages);
	ASSERT_EQ(0, end(self->w));
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

/* All but the last two pages of rom's last host page and one at the front of ram */
static void nearly_all(struct world *w)
{
	struct bytes b = { .bare = true, .block = -1 };

	for (unsigned i = PAGES(1) / TARGET_PAGE; i < world_blocks[RAM].used / TARGET_PAGE; i++)
		bytes_zero(&b, RAM, PAGES(i));
	bytes_all_zero(&b, HUGE);
	for (unsigned i = 0; i < 12; i++)
		bytes_zero(&b, ROM, PAGES(i));
	feed(w, CHANNEL_MAIN, &b, NULL);
	end(w);
	bytes_free(&b);
}

/* What was asked for may still be on the urgent channel: for a while. */
TEST_F(end, waits_for_the_urgent_channel)
{
	nearly_all(self->w);
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	ASSERT_EQ(0, dest_step(self->d, 600, &self->wake_ns, &self->err));
	EXPECT_EQ(1000, self->wake_ns);
	bytes_page(&self->urgent, RAM, 0);
	bytes_pages(&self->urgent, ROM, PAGES(12), 4);
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_EQ(1, self->w->last_pages);
	/* closed by who has nothing more to say, before we came to it: no loss */
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	ASSERT_EQ(0, dest_step(self->d, 5000, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_STREQ("0D", self->w->order);
}

static const struct {
	const char *name;
	bool closed, eos;
	uint64_t now_ns;
} ends[] = {
	{ "it says nothing", false, false, 1000 },
	{ "it was closed", true, false, 0 },
	{ "its end mark was seen", false, true, 0 },
};

/* Never disarmed, never SHUT: the source has what is missing. */
TEST_F(end, pages_are_missing)
{
	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		world_reset(self->w, true);
		ASSERT_TRUE(run(self->w));
		if (ends[i].eos)
			bytes_eos(&self->urgent);
		ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
		if (ends[i].closed) /* in running that pauses by itself: as if it had never been */
			self->d->channel[CHANNEL_URGENT].open = false;
		nearly_all(self->w);
		EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d)) TH_LOG("%s", ends[i].name);
		EXPECT_EQ(-EPROTO, dest_step(self->d, ends[i].now_ns, &self->wake_ns, &self->err));
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d)) TH_LOG("%s", ends[i].name);
		EXPECT_NE(NULL, strstr(self->w->reason.text,
				       "5 pages are missing at the end, the first 0x0 of 'pc.ram'"))
		TH_LOG("%s", self->w->reason.text);
		EXPECT_STREQ("", self->w->order);
	}
}

TEST_F(end, urgent_channel_lost_at_the_end)
{
	nearly_all(self->w);
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_NE(NULL, strstr(self->w->reason.text, "closed the urgent channel"));
}

/* The main channel too: without it nobody can be told that all is here. */
TEST_F(end, main_channel_lost_at_the_end)
{
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		bytes_all_zero(&self->main, i);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, end(self->w));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->disarms);
}

/* Marked on the other thread, and not counted yet: no page is named that is there. */
TEST_F(end, between_mark_and_count)
{
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		bytes_all_zero(&self->main, i);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(self->w));
	self->d->counters.pages_missing = 1;
	ASSERT_EQ(0, end(self->w));
	EXPECT_EQ(0, dest_step(self->d, 5000, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	EXPECT_EQ(5000, self->wake_ns);
	self->d->counters.pages_missing = 0;
	EXPECT_EQ(0, dest_step(self->d, 5000, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

/* A fault for what is on its way at the end is asked for as ever. */
TEST_F(end, faults_at_the_end)
{
	nearly_all(self->w);
	EXPECT_EQ(0, dest_fault(self->d, ROM, PAGES(13), 1, 0, NULL));
	EXPECT_EQ(1, world_count(self->w, RP_REQ_PAGES_ID));
}

TEST_HARNESS_MAIN
