/* SPDX-License-Identifier: GPL-2.0 */
/* What becomes of a run: every outcome of placing, and pages removed under way */
#include "base/clock.h"
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(place)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(place)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_TRUE(run(self->w));
}

FIXTURE_TEARDOWN(place)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

/* The map changes: the run is kept, and tried again, later each time. */
TEST_F(place, changing)
{
	uint64_t wait_ns = 20 * NS_PER_US;
	size_t used;

	bytes_pages(&self->main, RAM, 0, 2);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_CHANGING, 0, 12);
	for (unsigned i = 0; i < 12; i++) {
		EXPECT_EQ(DEST_RETRY, idle(self->w));
		EXPECT_EQ(wait_ns, self->d->channel[CHANNEL_MAIN].retry_ns);
		wait_ns = 2 * wait_ns > NS_PER_MS ? NS_PER_MS : 2 * wait_ns;
		EXPECT_FALSE(received(self->w, RAM, 0));
	}
	/* with bytes or without, what was left over comes first */
	EXPECT_EQ(0, dest_input(self->d, CHANNEL_MAIN, self->main.at, 0, &used, 0, &self->err));
	EXPECT_EQ(0, self->d->channel[CHANNEL_MAIN].retry_ns);
	EXPECT_TRUE(page_came(self->w, RAM, 0));
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(1)));
	EXPECT_TRUE(called(self->w, 12, 'p', RAM, 0, PAGES(2)));
}

/* A page there is no room for stays with the link: header taken, contents not. */
TEST_F(place, changing_in_front_of_a_page)
{
	size_t head, used;

	bytes_page(&self->main, RAM, 0);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	bytes_page(&self->main, RAM, PAGES(7));
	head = self->main.length - TARGET_PAGE;
	world_script(self->w, PLACED_CHANGING, 0, 2);
	EXPECT_EQ(DEST_RETRY, dest_input(self->d, CHANNEL_MAIN, self->main.at, self->main.length,
					 &used, 0, &self->err));
	EXPECT_EQ(head, used);
	EXPECT_EQ(TARGET_PAGE, dest_need(self->d, CHANNEL_MAIN));
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(7)));
	EXPECT_EQ(DEST_RETRY, dest_input(self->d, CHANNEL_MAIN, self->main.at + head, 100, &used, 0,
					 &self->err));
	EXPECT_EQ(0, used);
	/* placed, but the contents are not all there */
	EXPECT_EQ(0, dest_input(self->d, CHANNEL_MAIN, self->main.at + head, 100, &used, 0,
				&self->err));
	EXPECT_EQ(0, used);
	EXPECT_EQ(TARGET_PAGE, dest_need(self->d, CHANNEL_MAIN));
	EXPECT_EQ(0, dest_input(self->d, CHANNEL_MAIN, self->main.at + head, TARGET_PAGE, &used, 0,
				&self->err));
	EXPECT_EQ(TARGET_PAGE, used);
	ASSERT_EQ(0, idle(self->w));
	EXPECT_TRUE(page_came(self->w, RAM, 0));
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(7)));
}

/* Everywhere in a mixture of pages, on both channels, one try at a time fails. */
TEST_F(place, changing_everywhere)
{
	for (unsigned fail = 0; fail < 12; fail++) {
		for (unsigned channel = 0; channel < CHANNEL_COUNT; channel++) {
			struct bytes b = { .bare = true, .block = -1 };

			world_reset(self->w, true);
			ASSERT_TRUE(run(self->w));
			world_script(self->w, PLACED_OK, UINT64_MAX, fail);
			world_script(self->w, PLACED_CHANGING, 0, 3);
			bytes_pages(&b, RAM, PAGES(1), 3);
			bytes_zero(&b, RAM, PAGES(4));
			bytes_zero(&b, RAM, PAGES(5));
			for (unsigned i = 0; i < 5; i++)
				bytes_zero(&b, ROM, PAGES(i));
			bytes_page(&b, ROM, PAGES(5)); /* mixed, behind whole ones */
			bytes_zero(&b, ROM, PAGES(6));
			bytes_zero(&b, ROM, PAGES(7));
			bytes_pages(&b, RAM, PAGES(6), 2);
			ASSERT_EQ(0, feed(self->w, channel, &b, &self->err));
			while (dest_idle(self->d, channel, 0, &self->err))
				;
			for (unsigned i = 0; i < 9; i++)
				EXPECT_EQ(i >= 1 && i < 8, received(self->w, RAM, PAGES(i)));
			EXPECT_TRUE(page_came(self->w, RAM, PAGES(3)));
			EXPECT_TRUE(page_came(self->w, RAM, PAGES(7)));
			EXPECT_TRUE(page_came(self->w, ROM, PAGES(5)));
			EXPECT_TRUE(page_is(self->w, ROM, PAGES(4), 0));
			EXPECT_TRUE(page_is(self->w, ROM, PAGES(7), 0));
			EXPECT_EQ(8, bits_count(self->d->block[ROM].received, 16));
			EXPECT_EQ(0, self->d->counters.pages_before);
			bytes_free(&b);
		}
	}
}

/* Part of it is in place and marked; the rest is tried again, from where it was. */
TEST_F(place, changing_in_part)
{
	bytes_pages(&self->main, RAM, 0, 5);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_CHANGING, PAGES(2), 1);
	EXPECT_EQ(DEST_RETRY, idle(self->w));
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(1)));
	EXPECT_FALSE(received(self->w, RAM, PAGES(2)));
	ASSERT_EQ(0, idle(self->w));
	EXPECT_TRUE(called(self->w, 1, 'p', RAM, PAGES(2), PAGES(3)));
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(4)));
}

/* A page that is there stays as it is; its waiters are woken, and the run goes on. */
TEST_F(place, before)
{
	struct world *w = self->w;

	memset(w->region[RAM].addr + PAGES(2), 0x99, TARGET_PAGE);
	bits_set(w->present[RAM], 2);
	bytes_pages(&self->main, RAM, 0, 5);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(w));
	EXPECT_TRUE(called(w, 0, 'p', RAM, 0, PAGES(5)));
	EXPECT_TRUE(called(w, 1, 'w', RAM, PAGES(2), PAGES(1)));
	EXPECT_TRUE(called(w, 2, 'p', RAM, PAGES(3), PAGES(2)));
	EXPECT_EQ(3, w->calls);
	EXPECT_TRUE(page_is(w, RAM, PAGES(2), 0x99));
	EXPECT_TRUE(received(w, RAM, PAGES(2)));
	EXPECT_TRUE(page_came(w, RAM, PAGES(4)));
	EXPECT_EQ(1, self->d->counters.pages_before);
}

/* Whatever the world says behind the last page of a run is not about it. */
TEST_F(place, before_behind_the_run)
{
	world_script(self->w, PLACED_BEFORE, PAGES(2), 1);
	bytes_pages(&self->main, RAM, 0, 2);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, idle(self->w));
	EXPECT_EQ(1, self->w->calls);
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(1)));
	EXPECT_FALSE(received(self->w, RAM, PAGES(2)));
	EXPECT_EQ(0, self->d->channel[CHANNEL_MAIN].run.length);
}

TEST_F(place, before_huge)
{
	struct world *w = self->w;

	bits_range_set(w->present[HUGE], 0, 512);
	for (unsigned i = 0; i < 512; i++)
		bytes_zero(&self->urgent, HUGE, PAGES(i));
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_TRUE(called(w, 1, 'w', HUGE, 0, HUGE_PAGE));
	EXPECT_EQ(512, bits_count(self->d->block[HUGE].received, 1024));
}

TEST_F(place, waking_fails)
{
	self->w->fail_wake = -ENXIO;
	self->w->mute = true;
	world_script(self->w, PLACED_BEFORE, 0, 1);
	bytes_page(&self->main, RAM, 0);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_EQ(-ENXIO, idle(self->w));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	/* whoever was not woken has it come again */
	EXPECT_FALSE(received(self->w, RAM, 0));
	EXPECT_FALSE(arrived(self->w, RAM, 0));
}

/* Of memory there may be more in a while; after ten seconds without it nobody believes it. */
TEST_F(place, no_memory)
{
	uint64_t now_ns = 0;

	bytes_pages(&self->main, RAM, 0, 2);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_NO_MEMORY, 0, 3);
	world_script(self->w, PLACED_NO_MEMORY, PAGES(1), 1); /* one page: it went on */
	world_script(self->w, PLACED_NO_MEMORY, 0, 4);
	for (unsigned i = 0; i < 3; i++, now_ns += 5 * NS_PER_S)
		EXPECT_EQ(DEST_RETRY, dest_idle(self->d, CHANNEL_MAIN, now_ns, &self->err));
	EXPECT_EQ(DEST_RETRY, dest_idle(self->d, CHANNEL_MAIN, now_ns, &self->err));
	for (unsigned i = 0; i < 2; i++, now_ns += 5 * NS_PER_S)
		EXPECT_EQ(DEST_RETRY, dest_idle(self->d, CHANNEL_MAIN, now_ns, &self->err));
	EXPECT_EQ(DEST_RETRY, dest_idle(self->d, CHANNEL_MAIN, now_ns, &self->err));
	EXPECT_EQ(-ENOMEM, dest_idle(self->d, CHANNEL_MAIN, now_ns + 1, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_NE(NULL, strstr(self->err.text, "10 s"));
	/* the page that was in hand may come again */
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(1)));
	EXPECT_TRUE(arrived(self->w, RAM, 0));
}

static const struct {
	enum placed outcome;
	int code;
} deaths[] = {
	{ PLACED_GONE, -EFAULT },
	{ PLACED_DEAD, -ESRCH },
	{ PLACED_PINNED, -EIO },
	{ PLACED_FAILED, -EIO },
};

/* On either channel, with the world's own sentence or without */
TEST_F(place, broken_memory)
{
	for (unsigned i = 0; i < 4 * sizeof(deaths) / sizeof(deaths[0]); i++) {
		unsigned channel = i % 2;
		struct bytes b = { .bare = true, .block = -1 };
		int ret;

		world_reset(self->w, true);
		ASSERT_TRUE(run(self->w));
		self->w->mute = i / 2 % 2;
		world_script(self->w, deaths[i / 4].outcome, 0, 1);
		bytes_page(&b, RAM, 0);
		ret = feed(self->w, channel, &b, &self->err);
		if (channel == CHANNEL_MAIN)
			ret = idle(self->w);
		EXPECT_EQ(deaths[i / 4].code, ret);
		EXPECT_FALSE(received(self->w, RAM, 0));
		if (channel == CHANNEL_URGENT)
			EXPECT_EQ(ret, dest_step(self->d, 0, &self->wake_ns, &self->err));
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
		EXPECT_EQ(0, world_count(self->w, RP_SHUT));
		EXPECT_FALSE(arrived(self->w, RAM, 0));
		bytes_free(&b);
	}
}

/* In front of a page that is no neighbour: what is in hand is dropped too. */
TEST_F(place, broken_memory_on_the_way)
{
	bytes_page(&self->main, RAM, 0);
	bytes_page(&self->main, RAM, PAGES(9));
	world_script(self->w, PLACED_DEAD, 0, 1);
	EXPECT_EQ(-ESRCH, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_FALSE(arrived(self->w, RAM, 0));
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(9)));
}

/* Of an urgent run that is tried again later, by dest_idle() */
TEST_F(place, broken_memory_at_last)
{
	world_script(self->w, PLACED_CHANGING, 0, 1);
	world_script(self->w, PLACED_FAILED, 0, 1);
	bytes_page(&self->urgent, RAM, 0);
	EXPECT_EQ(DEST_RETRY,
		  feed_pieces(self->w, CHANNEL_URGENT, &self->urgent, SIZE_MAX, 1, 0, &self->err));
	EXPECT_EQ(-EIO, dest_idle(self->d, CHANNEL_URGENT, 0, &self->err));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(-EIO, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

/* Removed while it lies in a run: not placed, and marked all the same. */
TEST_F(place, removed_in_a_run)
{
	struct world *w = self->w;

	bytes_pages(&self->main, RAM, 0, 6);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	dest_removed(self->d, RAM, 0, PAGES(1));
	dest_removed(self->d, RAM, PAGES(3), PAGES(2));
	w->calls = 0;
	ASSERT_EQ(0, idle(w));
	EXPECT_TRUE(called(w, 0, 'p', RAM, PAGES(1), PAGES(2)));
	EXPECT_TRUE(called(w, 1, 'p', RAM, PAGES(5), PAGES(1)));
	EXPECT_EQ(2, w->calls);
	for (unsigned i = 0; i < 6; i++)
		EXPECT_TRUE(received(w, RAM, PAGES(i)));
	EXPECT_EQ(0, w->region[RAM].addr[PAGES(3)]);
}

/* Between the look at the bits and the ioctl: the world says so, and it is looked again. */
static void remove_page_2(struct world *w)
{
	pthread_mutex_unlock(&w->gate);
	dest_removed(&w->dest, RAM, PAGES(2), PAGES(1));
	pthread_mutex_lock(&w->gate);
}

TEST_F(place, removed_while_placing)
{
	static const enum placed outcomes[] = { PLACED_CHANGING, PLACED_GONE };

	for (unsigned i = 0; i < 2; i++) {
		struct world *w = self->w;

		world_reset(w, true);
		ASSERT_TRUE(run(w));
		w->removes = true;
		w->before_put = remove_page_2;
		/* as the kernel does: it is all refused, or from the hole on */
		world_script(w, outcomes[i], outcomes[i] == PLACED_GONE ? PAGES(2) : 0, 1);
		self->main.block = -1;
		bytes_pages(&self->main, RAM, 0, 5);
		ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
		EXPECT_EQ(0, idle(w));
		EXPECT_TRUE(page_came(w, RAM, PAGES(1)));
		EXPECT_EQ(0, w->region[RAM].addr[PAGES(2)]);
		EXPECT_TRUE(page_came(w, RAM, PAGES(4)));
		EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	}
}

/* Where room() is guest memory itself, a late copy must not get into it. */
TEST_F(place, removed_before_it_came)
{
	struct world *w = self->w;

	w->alias = w->removes = true;
	dest_removed(self->d, RAM, 0, PAGES(2));
	dest_removed(self->d, ROM, PAGES(1), PAGES(1));
	EXPECT_EQ(0, dest_fault(self->d, RAM, 0, 1, 0, &self->err));
	memset(w->region[RAM].addr, 0x42, PAGES(1)); /* the guest goes on */
	memset(w->region[ROM].addr + PAGES(1), 0x42, PAGES(1));
	bytes_pages(&self->main, RAM, 0, 3);
	bytes_pages(&self->main, ROM, 0, 4);
	bytes_zero(&self->urgent, ROM, PAGES(4));
	bytes_page(&self->urgent, ROM, PAGES(5));
	bytes_zero(&self->urgent, ROM, PAGES(6));
	dest_removed(self->d, ROM, PAGES(4), PAGES(3));
	memset(w->region[ROM].addr + PAGES(4), 0x43, PAGES(3));
	bytes_page(&self->urgent, ROM, PAGES(7));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, &self->err));
	ASSERT_EQ(0, idle(w));
	EXPECT_TRUE(page_is(w, RAM, 0, 0x42));
	EXPECT_TRUE(page_is(w, ROM, PAGES(1), 0x42));
	for (unsigned i = 4; i < 7; i++)
		EXPECT_TRUE(page_is(w, ROM, PAGES(i), 0x43));
	EXPECT_TRUE(page_came(w, RAM, PAGES(2)));
	EXPECT_TRUE(page_came(w, ROM, PAGES(2)));
	EXPECT_TRUE(page_came(w, ROM, PAGES(7)));
	EXPECT_TRUE(received(w, RAM, PAGES(1)));
}

/* The end of the stream, tried once */
static int end_once(struct world *w, struct bytes *b)
{
	b->bare = false;
	bytes_eos(b);
	bytes_end(b);
	return feed_pieces(w, CHANNEL_MAIN, b, SIZE_MAX, 1, 0, NULL);
}

/* At the end: what could not be placed right then is the steps' */
TEST_F(place, changing_at_the_end)
{
	bytes_all_zero(&self->main, RAM);
	bytes_all_zero(&self->main, HUGE);
	bytes_all_zero(&self->main, ROM);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_CHANGING, 0, 3);
	bytes_eos(&self->main);
	self->main.length += stream_put_footer(bytes_room(&self->main, STREAM_PUT_MAX), RAM_ID);
	self->main.bare = false;
	bytes_end(&self->main);
	EXPECT_EQ(DEST_RETRY,
		  feed_pieces(self->w, CHANNEL_MAIN, &self->main, SIZE_MAX, 1, 0, &self->err));
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	EXPECT_EQ(0, dest_step(self->d, 7, &self->wake_ns, &self->err));
	EXPECT_EQ(7 + 40 * NS_PER_US, self->wake_ns);
	EXPECT_EQ(DEST_RETRY, idle(self->w));
	EXPECT_EQ(0, dest_step(self->d, 9, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

TEST_F(place, broken_memory_at_the_end)
{
	bytes_all_zero(&self->main, ROM);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_CHANGING, 0, 1);
	world_script(self->w, PLACED_DEAD, 0, 1);
	EXPECT_EQ(DEST_RETRY, idle(self->w));
	EXPECT_EQ(-ESRCH, end(self->w));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));

	/* and in a step behind it */
	world_reset(self->w, true);
	ASSERT_TRUE(run(self->w));
	self->main.block = -1;
	bytes_all_zero(&self->main, ROM);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	world_script(self->w, PLACED_CHANGING, 0, 1);
	world_script(self->w, PLACED_DEAD, 0, 1);
	EXPECT_EQ(DEST_RETRY, end_once(self->w, &self->main));
	EXPECT_EQ(-ESRCH, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

TEST_HARNESS_MAIN
