/* SPDX-License-Identifier: GPL-2.0 */
/* Faults, requests, and who waits how long: postcopy/dest_fault.c */
#include "base/clock.h"
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(fault)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(fault)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_TRUE(run(self->w));
}

FIXTURE_TEARDOWN(fault)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

static int fault(struct world *w, unsigned block, uint64_t offset, uint32_t tid, uint64_t now_ns)
{
	return dest_fault(&w->dest, block, offset, tid, now_ns, NULL);
}

/* Was this the request of that number? */
static bool requested(const struct world *w, unsigned number, bool id, unsigned block,
		      uint64_t start, uint64_t length)
{
	const struct rp_msg *msg = &w->sent[number];

	if (number >= w->sents)
		return false;
	if (!id)
		return msg->kind == RP_REQ_PAGES && msg->req_pages.start == start &&
		       msg->req_pages.length == length;
	return msg->kind == RP_REQ_PAGES_ID && msg->req_pages_id.start == start &&
	       msg->req_pages_id.length == length &&
	       !strcmp(msg->req_pages_id.block.text, world_blocks[block].name);
}

/* One host page each; the block is named where it is not that of the request before. */
TEST_F(fault, requests)
{
	struct world *w = self->w;

	EXPECT_EQ(0, fault(w, RAM, PAGES(5) + 77, 1, 0));
	EXPECT_EQ(0, fault(w, RAM, PAGES(6) + 4095, 1, 0));
	EXPECT_EQ(0, fault(w, HUGE, HUGE_PAGE + PAGES(9), 1, 0));
	EXPECT_EQ(0, fault(w, HUGE, 1, 1, 0));
	EXPECT_EQ(0, fault(w, ROM, PAGES(7), 1, 0));
	EXPECT_EQ(0, fault(w, RAM, PAGES(7), 1, 0));
	EXPECT_TRUE(requested(w, 0, true, RAM, PAGES(5), TARGET_PAGE));
	EXPECT_TRUE(requested(w, 1, false, RAM, PAGES(6), TARGET_PAGE));
	EXPECT_TRUE(requested(w, 2, true, HUGE, HUGE_PAGE, HUGE_PAGE));
	EXPECT_TRUE(requested(w, 3, false, HUGE, 0, HUGE_PAGE));
	EXPECT_TRUE(requested(w, 4, true, ROM, PAGES(4), PAGES(4)));
	EXPECT_TRUE(requested(w, 5, true, RAM, PAGES(7), TARGET_PAGE));
	EXPECT_EQ(6, w->sents);
	EXPECT_EQ(6, self->d->counters.requests);
	EXPECT_TRUE(asked(w, RAM, PAGES(5)));
	EXPECT_TRUE(asked(w, ROM, PAGES(4)));
	/* several threads, any byte of it: asked is asked */
	EXPECT_EQ(0, fault(w, RAM, PAGES(5), 2, 0));
	EXPECT_EQ(0, fault(w, ROM, PAGES(4), 2, 0));
	EXPECT_EQ(6, w->sents);
	EXPECT_EQ(8, self->d->counters.faults);
	EXPECT_EQ(0, w->calls);
}

TEST_F(fault, answers)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(w, RAM, PAGES(5), 11, 1000));
	ASSERT_EQ(0, fault(w, RAM, PAGES(5), 12, 2000));
	ASSERT_EQ(0, fault(w, RAM, PAGES(6), 12, 9000));
	ASSERT_EQ(0, fault(w, ROM, PAGES(3), 0, 3000));
	EXPECT_EQ(4, self->d->waiting);
	bytes_page(&self->urgent, RAM, PAGES(5));
	ASSERT_EQ(0, feed_pieces(w, CHANNEL_URGENT, &self->urgent, 100, 1, 5000, &self->err));
	EXPECT_EQ(2, self->d->waiting);
	EXPECT_FALSE(asked(w, RAM, PAGES(5)));
	EXPECT_TRUE(asked(w, RAM, PAGES(6)));
	EXPECT_TRUE(w->call[0].wake);
	EXPECT_EQ(2, self->d->counters.fault_hist.count);
	EXPECT_EQ(4000 + 3000, self->d->counters.fault_hist.sum_ns);
	EXPECT_EQ(11, self->d->thread[0].tid);
	EXPECT_EQ(4000, self->d->thread[0].waited_ns);
	EXPECT_EQ(1, self->d->thread[0].faults);
	EXPECT_EQ(12, self->d->thread[1].tid);
	EXPECT_EQ(3000, self->d->thread[1].waited_ns);
	EXPECT_EQ(2, self->d->thread[1].faults);
	/* no thread without a number has a line, but it is counted; and a clock of the
	 * other thread that is behind ours makes no wait of centuries */
	self->urgent.length = 0;
	bytes_pages(&self->urgent, ROM, 0, 4);
	bytes_page(&self->urgent, RAM, PAGES(6));
	ASSERT_EQ(0, feed_pieces(w, CHANNEL_URGENT, &self->urgent, 100000, 1, 8000, &self->err));
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_EQ(4, self->d->counters.fault_hist.count);
	EXPECT_EQ(4000 + 3000 + 5000, self->d->counters.fault_hist.sum_ns);
	EXPECT_EQ(3000, self->d->thread[1].waited_ns);
	EXPECT_EQ(0, self->d->thread[2].tid);
}

/* On the main channel too what was asked for does not wait for its neighbours. */
TEST_F(fault, answers_on_the_main_channel)
{
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(2), 1, 0));
	bytes_pages(&self->main, RAM, 0, 5);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(called(self->w, 0, 'p', RAM, 0, PAGES(3)));
	EXPECT_EQ(1, self->w->calls);
	EXPECT_EQ(0, self->d->waiting);
}

/* A page in the other thread's run is not asked for; that thread hurries. */
TEST_F(fault, hurry)
{
	bytes_pages(&self->main, RAM, 0, 2);
	EXPECT_FALSE(dest_may_wait(self->d));
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_TRUE(dest_may_wait(self->d));
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(1), 1, 0));
	EXPECT_EQ(0, self->w->sents);
	EXPECT_TRUE(self->d->hurry);
	EXPECT_EQ(1, self->w->hurries);
	EXPECT_FALSE(dest_may_wait(self->d));
	EXPECT_EQ(0, self->w->calls);
	bytes_pages(&self->main, RAM, PAGES(2), 3);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	/* with the next page, and not with all that follow */
	EXPECT_TRUE(called(self->w, 0, 'p', RAM, 0, PAGES(3)));
	EXPECT_EQ(1, self->w->calls);
	EXPECT_FALSE(self->d->hurry);
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_TRUE(dest_may_wait(self->d));
	/* or when its thread has nothing else to do */
	bytes_pages(&self->main, RAM, PAGES(5), 2);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(5), 1, 0));
	ASSERT_EQ(0, dest_idle(self->d, CHANNEL_MAIN, 0, &self->err));
	EXPECT_TRUE(called(self->w, 1, 'p', RAM, PAGES(3), PAGES(4)));
	EXPECT_FALSE(self->d->hurry);
}

/* A host page that is being put together is on its way; if it is lost it is asked for. */
TEST_F(fault, within_a_host_page)
{
	bytes_pages(&self->main, HUGE, 0, 200);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, fault(self->w, HUGE, PAGES(400), 1, 0));
	EXPECT_EQ(0, self->w->sents);
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	/* what a recovery has to ask for */
	EXPECT_TRUE(asked(self->w, HUGE, 0));
	EXPECT_FALSE(received(self->w, HUGE, 0));
	EXPECT_EQ(1, self->d->waiting);
}

/* Zero since precopy and never filled in, or there already: no request, but no sleep. */
TEST_F(fault, received)
{
	struct world *w = self->w;
	struct bytes b = { 0 };

	world_reset(w, true);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
	bytes_begin(&b, true, true, ALL);
	bytes_part(&b, SECTION_PART);
	bytes_zero(&b, RAM, 0);
	bytes_page(&b, RAM, PAGES(1));
	bytes_all_zero(&b, HUGE);
	bytes_eos(&b);
	bytes_switch(&b);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &b, &self->err));
	w->calls = w->sents = 0;
	EXPECT_EQ(0, fault(w, RAM, 100, 1, 0));
	EXPECT_TRUE(called(w, 0, 'z', RAM, 0, PAGES(1)));
	EXPECT_EQ(CHANNEL_URGENT, w->call[0].channel);
	EXPECT_TRUE(w->call[0].wake);
	EXPECT_EQ(1, w->calls);
	EXPECT_EQ(0, fault(w, RAM, PAGES(1) + 5, 1, 0));
	EXPECT_EQ(PLACED_BEFORE, w->call[1].outcome);
	EXPECT_TRUE(called(w, 2, 'w', RAM, PAGES(1), PAGES(1)));
	EXPECT_EQ(page_byte(RAM, PAGES(1)), w->region[RAM].addr[PAGES(1)]);
	/* in our own host pages, whatever the source's are */
	EXPECT_EQ(0, fault(w, HUGE, HUGE_PAGE + 5, 1, 0));
	EXPECT_TRUE(called(w, 3, 'z', HUGE, HUGE_PAGE, HUGE_PAGE));
	EXPECT_EQ(0, w->sents);
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_EQ(3, self->d->counters.faults);
	EXPECT_EQ(0, self->d->counters.fault_hist.count);
	EXPECT_EQ(3, self->d->thread[0].faults);
	bytes_free(&b);
}

/* Behind the part that migrates there is nothing to ask for; behind the block nothing. */
TEST_F(fault, behind_the_block)
{
	EXPECT_EQ(0, fault(self->w, ROM, world_blocks[ROM].used + 7, 1, 0));
	EXPECT_TRUE(called(self->w, 0, 'z', ROM, world_blocks[ROM].used, PAGES(1)));
	EXPECT_EQ(0, self->w->sents);
	EXPECT_EQ(-EINVAL, fault(self->w, ROM, world_blocks[ROM].length, 1, 0));
	EXPECT_EQ(-EINVAL, fault(self->w, WORLD_BLOCKS, 0, 1, 0));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
}

TEST_F(fault, zero_page_is_tried_again)
{
	struct world *w = self->w;

	dest_removed(self->d, RAM, 0, PAGES(4));
	world_script(w, PLACED_CHANGING, 0, 2);
	EXPECT_EQ(DEST_RETRY, fault(w, RAM, 0, 1, 0));
	EXPECT_EQ(20 * NS_PER_US, self->d->channel[CHANNEL_FAULT].retry_ns);
	EXPECT_EQ(DEST_RETRY, fault(w, RAM, 0, 1, 0));
	EXPECT_EQ(40 * NS_PER_US, self->d->channel[CHANNEL_FAULT].retry_ns);
	EXPECT_EQ(0, fault(w, RAM, 0, 1, 0));
	EXPECT_EQ(0, self->d->channel[CHANNEL_FAULT].retry_ns);
	/* one fault, however often it was tried */
	EXPECT_EQ(1, self->d->counters.faults);
	EXPECT_EQ(1, self->d->thread[0].faults);
	/* unmapped since, or disarmed */
	world_script(w, PLACED_GONE, 0, 1);
	w->calls = 0;
	EXPECT_EQ(0, fault(w, RAM, PAGES(1), 1, 0));
	EXPECT_TRUE(called(w, 1, 'w', RAM, PAGES(1), PAGES(1)));
}

static const struct {
	enum placed outcome;
	int code;
} deaths[] = {
	{ PLACED_NO_MEMORY, -ENOMEM }, { PLACED_DEAD, -ESRCH },	  { PLACED_PINNED, -EIO },
	{ PLACED_FAILED, -EIO },       { PLACED_BEFORE, -ENXIO }, /* and waking fails */
};

/* Moves are the bulk thread's: it hears of it in its next step. */
TEST_F(fault, zero_page_fails)
{
	for (unsigned i = 0; i < 2 * sizeof(deaths) / sizeof(deaths[0]); i++) {
		struct world *w = self->w;
		bool slow = deaths[i / 2].outcome == PLACED_NO_MEMORY;

		world_reset(w, true);
		ASSERT_TRUE(run(w));
		dest_removed(self->d, RAM, 0, PAGES(4));
		w->mute = i % 2;
		w->fail_wake = -ENXIO;
		world_script(w, deaths[i / 2].outcome, 0, 1 + slow);
		if (slow)
			EXPECT_EQ(DEST_RETRY, fault(w, RAM, 0, 1, 5));
		EXPECT_EQ(deaths[i / 2].code, fault(w, RAM, 0, 1, 6 + 10 * NS_PER_S));
		EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
		EXPECT_EQ(deaths[i / 2].code, dest_step(self->d, 0, &self->wake_ns, &self->err));
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
		EXPECT_NE(0, w->reason.text[0]);
	}
}

TEST_F(fault, the_same_thread_again)
{
	ASSERT_EQ(0, fault(self->w, RAM, 0, 1, 100));
	ASSERT_EQ(0, fault(self->w, RAM, 7, 1, 200)); /* a signal: it faults anew */
	EXPECT_EQ(1, self->d->waiting);
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(1), 1, 300)); /* its kernel side, elsewhere */
	ASSERT_EQ(0, fault(self->w, RAM, 0, 2, 300));
	EXPECT_EQ(3, self->d->waiting);
	bytes_pages(&self->urgent, RAM, 0, 1);
	ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_URGENT, &self->urgent, SIZE_MAX, 1, 1000,
				 &self->err));
	EXPECT_EQ(900, self->d->thread[0].waited_ns);
	EXPECT_EQ(700, self->d->thread[1].waited_ns);
	EXPECT_EQ(1, self->d->waiting);
	/* of who has no number nobody knows whether he is the same */
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(2), 0, 0));
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(2), 0, 0));
	EXPECT_EQ(3, self->d->waiting);
}

/* Tables that are full lose figures; nobody is forgotten. */
TEST_F(fault, full_tables)
{
	for (uint32_t i = 0; i < 300; i++)
		ASSERT_EQ(0, fault(self->w, RAM, PAGES(i), 1000 + i, 0));
	EXPECT_EQ(300, self->w->sents);
	EXPECT_EQ(DEST_WAITERS, self->d->waiting);
	EXPECT_EQ(300, self->d->counters.faults);
	EXPECT_EQ(1000 + DEST_THREADS - 1, self->d->thread[DEST_THREADS - 1].tid);
	bytes_pages(&self->urgent, RAM, 0, 300);
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_EQ(0, self->d->waiting);
	EXPECT_EQ(DEST_WAITERS, self->d->counters.fault_hist.count);
	EXPECT_EQ(0, bits_count(self->d->block[RAM].asked, 1536));
	/* and there is room again */
	ASSERT_EQ(0, fault(self->w, RAM, PAGES(400), 1000, 0));
	EXPECT_EQ(1, self->d->waiting);
}

TEST_F(fault, request_that_cannot_be_sent)
{
	ASSERT_EQ(0, fault(self->w, RAM, 0, 1, 0));
	self->w->fail_send = -EPIPE;
	EXPECT_EQ(-EPIPE, dest_fault(self->d, RAM, PAGES(1), 1, 0, &self->err));
	EXPECT_NE(0, self->err.text[0]);
	/* remembered, and for who reads the link to say why */
	EXPECT_TRUE(asked(self->w, RAM, PAGES(1)));
	EXPECT_EQ(2, self->d->waiting);
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(1, self->d->counters.requests);
	/* whatever got through: the next one names its block */
	self->w->fail_send = 0;
	EXPECT_EQ(0, fault(self->w, RAM, PAGES(2), 1, 0));
	EXPECT_TRUE(requested(self->w, 1, true, RAM, PAGES(2), TARGET_PAGE));
}

TEST_F(fault, in_other_phases)
{
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(0, fault(self->w, RAM, 0, 1, 0));
	EXPECT_EQ(0, self->w->sents);
	EXPECT_TRUE(asked(self->w, RAM, 0));
	/* zeros need nobody */
	dest_removed(self->d, RAM, PAGES(1), PAGES(1));
	self->w->calls = 0;
	EXPECT_EQ(0, fault(self->w, RAM, PAGES(1), 1, 0));
	EXPECT_EQ(1, self->w->calls);

	/* Done: a message from before disarming */
	world_reset(self->w, true);
	ASSERT_TRUE(run(self->w));
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		bytes_all_zero(&self->main, i);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	ASSERT_EQ(0, end(self->w));
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	ASSERT_EQ(DEST_DONE, dest_get_phase(self->d));
	self->w->calls = 0;
	EXPECT_EQ(0, fault(self->w, RAM, 0, 1, 0));
	EXPECT_EQ(0, self->w->calls);
}

/* Asked for while device state is being loaded: the source answers before RUN. */
TEST_F(fault, before_the_guest_runs)
{
	struct bytes b = { 0 };

	world_reset(self->w, true);
	self->w->device_result = WH_PENDING;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
	bytes_begin(&b, true, true, ALL);
	bytes_switch(&b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &b, &self->err));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	self->w->sents = 0;
	EXPECT_EQ(0, fault(self->w, RAM, 0, 1, 0));
	EXPECT_TRUE(requested(self->w, 0, true, RAM, 0, TARGET_PAGE));
	bytes_page(&self->urgent, RAM, 0);
	EXPECT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_TRUE(page_came(self->w, RAM, 0));
	/* but a link that breaks now is the end of it */
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(1, world_count(self->w, RP_SHUT));
	EXPECT_EQ(0, self->w->disarms);
	bytes_free(&b);
}

TEST_HARNESS_MAIN
