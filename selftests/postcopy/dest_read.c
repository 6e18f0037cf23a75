/* SPDX-License-Identifier: GPL-2.0 */
/* Pages that are read instead of asked for: postcopy/dest_read.c */
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(read)
{
	struct world *w;
	struct dest *d;
	struct dest_ops ops;
	struct bytes main;
	struct wh_err err;
	uint64_t wake_ns;
};

/* The last page that was handed over */
static struct {
	unsigned count, block;
	uint64_t offset;
	bool refuses;
} handed;

static bool op_read(void *ctx, unsigned block, uint64_t offset)
{
	(void)ctx;
	handed.count++;
	handed.block = block;
	handed.offset = offset;
	return !handed.refuses;
}

/* There is no urgent channel, and not a page is here */
FIXTURE_SETUP(read)
{
	struct bytes b = { 0 };

	memset(self, 0, sizeof(*self));
	memset(&handed, 0, sizeof(handed));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->ops = world_ops;
	self->ops.read = op_read;
	self->d->ops = &self->ops;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
	bytes_begin(&b, true, true, ALL);
	bytes_switch(&b);
	bytes_part(&b, SECTION_PART);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &b, NULL));
	bytes_free(&b);
	ASSERT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	self->w->calls = self->w->sents = 0;
}

FIXTURE_TEARDOWN(read)
{
	world_free(self->w);
	bytes_free(&self->main);
}

static int fault(struct dest *d, unsigned block, uint64_t offset)
{
	return dest_fault(d, block, offset, 1, 1000, NULL);
}

static int got(FIXTURE_DATA(read) *self, uint64_t offset, uint8_t byte)
{
	_Alignas(64) uint8_t page[TARGET_PAGE];

	memset(page, byte, sizeof(page));
	return dest_read(self->d, RAM, offset, page, 5000, &self->err);
}

static int came(FIXTURE_DATA(read) *self, uint64_t offset)
{
	return got(self, offset, page_byte(RAM, offset));
}

TEST_F(read, instead_of_a_request)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(self->d, RAM, PAGES(5) + 77));
	EXPECT_EQ(1, handed.count);
	EXPECT_EQ(RAM, handed.block);
	EXPECT_EQ(PAGES(5), handed.offset);
	EXPECT_TRUE(asked(w, RAM, PAGES(5)));
	/* asked is asked */
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(5)));
	EXPECT_EQ(1, handed.count);
	ASSERT_EQ(0, came(self, PAGES(5)));
	EXPECT_TRUE(page_came(w, RAM, PAGES(5)));
	EXPECT_TRUE(called(w, 0, 'p', RAM, PAGES(5), PAGES(1)));
	EXPECT_TRUE(w->call[0].wake);
	EXPECT_FALSE(asked(w, RAM, PAGES(5)));
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_EQ(4000, self->d->counters.fault_hist.max_ns);
	EXPECT_EQ(1, self->d->counters.pages_urgent);
	/* that the source is there, is seen by these */
	EXPECT_EQ(PAGES(1), self->d->counters.bytes[CHANNEL_URGENT]);
	EXPECT_EQ(0, self->d->counters.requests);
	EXPECT_EQ(0, w->sents);
	/* of zeros there is a cheaper one */
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(6)));
	ASSERT_EQ(0, got(self, PAGES(6), 0));
	EXPECT_TRUE(called(w, 1, 'z', RAM, PAGES(6), PAGES(1)));
	EXPECT_FALSE(self->d->reading);
}

/* What is larger than a page is asked for, and what cannot be read */
TEST_F(read, or_not)
{
	ASSERT_EQ(0, fault(self->d, HUGE, 0));
	ASSERT_EQ(0, fault(self->d, ROM, 0));
	EXPECT_EQ(0, handed.count);
	EXPECT_EQ(2, self->w->sents);
	handed.refuses = true;
	ASSERT_EQ(0, fault(self->d, RAM, 0));
	EXPECT_EQ(1, handed.count);
	EXPECT_EQ(3, self->w->sents);
}

TEST_F(read, in_vain)
{
	struct world *w = self->w;

	for (unsigned i = 0; i < 4; i++)
		ASSERT_EQ(0, fault(self->d, RAM, PAGES(i)));
	EXPECT_EQ(0, w->sents);
	ASSERT_EQ(0, dest_unread(self->d, RAM, 0, &self->err));
	EXPECT_EQ(1, w->sents);
	EXPECT_EQ(4, handed.count);
	EXPECT_EQ(0, w->sent[0].req_pages_id.start);
	/* it is here, or on its way */
	bytes_page(&self->main, RAM, PAGES(1));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	ASSERT_EQ(0, dest_unread(self->d, RAM, PAGES(1), &self->err));
	bits_set(self->d->block[RAM].arrived, 2);
	ASSERT_EQ(0, dest_unread(self->d, RAM, PAGES(2), &self->err));
	EXPECT_EQ(1, w->hurries);
	EXPECT_EQ(1, w->sents);
	/* nobody to ask: it is remembered */
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	ASSERT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	ASSERT_EQ(0, dest_unread(self->d, RAM, PAGES(3), &self->err));
	EXPECT_EQ(1, w->sents);
	EXPECT_TRUE(asked(w, RAM, PAGES(3)));
	EXPECT_FALSE(self->d->fault_failed);
}

/* The source sends it all the same */
TEST_F(read, whichever_is_first)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(self->d, RAM, PAGES(1)));
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(2)));
	bytes_page(&self->main, RAM, PAGES(1));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	EXPECT_EQ(1, w->calls);
	ASSERT_EQ(0, came(self, PAGES(1)));
	ASSERT_EQ(0, came(self, PAGES(2)));
	EXPECT_EQ(2, w->calls);
	self->main.length = 0;
	bytes_page(&self->main, RAM, PAGES(2));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	ASSERT_EQ(0, idle(w));
	EXPECT_EQ(2, w->calls);
	EXPECT_EQ(2, self->d->counters.pages_before);
	EXPECT_TRUE(page_came(w, RAM, PAGES(1)));
	EXPECT_TRUE(page_came(w, RAM, PAGES(2)));
}

/* It cannot be placed at once, and all others are here: that is not the end, and nothing is missing */
TEST_F(read, while_all_ends)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(self->d, RAM, PAGES(1)));
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(2)));
	world_script(w, PLACED_CHANGING, 0, 2);
	ASSERT_EQ(0, came(self, PAGES(1)));
	EXPECT_TRUE(self->d->reading);
	EXPECT_TRUE(arrived(w, RAM, PAGES(1)));
	EXPECT_FALSE(received(w, RAM, PAGES(1)));
	/* one after the other */
	EXPECT_EQ(DEST_RETRY, came(self, PAGES(2)));
	EXPECT_LT(0, self->d->channel[CHANNEL_URGENT].retry_ns);
	for (unsigned i = 0; i < 3; i++)
		bytes_all_zero(&self->main, i);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, end(w));
	EXPECT_EQ(0, dest_step(self->d, 100, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	EXPECT_LT(100, self->wake_ns);
	EXPECT_GT(UINT64_MAX, self->wake_ns);
	ASSERT_EQ(0, dest_read_step(self->d, 200, &self->err));
	EXPECT_TRUE(page_came(w, RAM, PAGES(1)));
	EXPECT_EQ(0, dest_step(self->d, 300, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_EQ(0, came(self, PAGES(2)));
}

/* What was read and is not placed when the link breaks comes again */
TEST_F(read, while_it_pauses)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(self->d, RAM, PAGES(1)));
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(2)));
	world_script(w, PLACED_CHANGING, 0, 1);
	ASSERT_EQ(0, came(self, PAGES(1)));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	world_script(w, PLACED_CHANGING, 0, 1);
	EXPECT_EQ(DEST_RETRY, came(self, PAGES(2)));
	dest_parked(self->d);
	EXPECT_FALSE(self->d->reading);
	EXPECT_FALSE(arrived(w, RAM, PAGES(1)));
	EXPECT_FALSE(received(w, RAM, PAGES(1)));
	EXPECT_TRUE(asked(w, RAM, PAGES(1)));
	/* a page that comes by then is nobody's any more */
	EXPECT_EQ(0, came(self, PAGES(2)));
	EXPECT_FALSE(arrived(w, RAM, PAGES(2)));
	EXPECT_TRUE(asked(w, RAM, PAGES(2)));
	EXPECT_FALSE(self->d->fault_failed);
}

TEST_F(read, what_cannot_be_placed)
{
	ASSERT_EQ(0, fault(self->d, RAM, PAGES(1)));
	world_script(self->w, PLACED_FAILED, 0, 1);
	EXPECT_EQ(-EIO, came(self, PAGES(1)));
	EXPECT_NE(NULL, strstr(self->err.text, "the memory is broken"));
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(1)));
	EXPECT_FALSE(self->d->reading);
	EXPECT_EQ(-EIO, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

TEST_HARNESS_MAIN
