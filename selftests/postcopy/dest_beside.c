/* SPDX-License-Identifier: GPL-2.0 */
/* Pages that came beside the stream, and postcopy behind them: postcopy/dest_stream.c */
#include "selftests/postcopy/dest_bytes.h"

#include "kselftest_harness.h"

FIXTURE(beside)
{
	struct world *w;
	struct dest *d;
	struct dest_ops ops;
	struct bytes b;
	struct wh_err err;
};

static int hook(void *ctx, struct wh_err *err)
{
	(void)err;
	world_say(ctx, 'h');
	return 0;
}

static void unhook(void *ctx)
{
	struct world *w = ctx;

	world_say(w, 'u');
	/* with it the peer could still write to what is being dropped */
	if (dest_get_phase(&w->dest) != DEST_ADVISED)
		abort();
}

FIXTURE_SETUP(beside)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->ops = *self->d->ops;
	self->ops.hook = hook;
	self->ops.unhook = unhook;
	self->d->ops = &self->ops;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
}

FIXTURE_TEARDOWN(beside)
{
	world_free(self->w);
	bytes_free(&self->b);
}

static void bytes_hook(struct bytes *b)
{
	bytes_part(b, SECTION_PART);
	b->length += ram_put_hook(bytes_room(b, RAM_RECORD_MAX));
	bytes_eos(b);
}

/* All that is not dropped has come, and only what is dropped is missing */
TEST_F(beside, what_is_not_discarded_is_there)
{
	bytes_begin(&self->b, true, true, ALL);
	bytes_hook(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	memset(self->w->region[RAM].addr, 0x55, 16 * TARGET_PAGE);
	self->b.length = 0;
	bytes_discard(&self->b, "pc.ram", 4 * TARGET_PAGE, 2 * TARGET_PAGE);
	bytes_discard(&self->b, "huge", HUGE_PAGE, HUGE_PAGE);
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(2 + HUGE_PAGE / TARGET_PAGE, self->d->counters.pages_missing);
	EXPECT_STREQ("PhuPALPSP", self->w->order);
	EXPECT_EQ(0x55, self->w->region[RAM].addr[3 * TARGET_PAGE]);
	EXPECT_EQ(0, self->w->region[RAM].addr[4 * TARGET_PAGE]);

	self->b.length = 0;
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, RAM, 4 * TARGET_PAGE, 2);
	bytes_pages(&self->b, HUGE, HUGE_PAGE, HUGE_PAGE / TARGET_PAGE);
	bytes_eos(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	ASSERT_EQ(0, dest_idle(self->d, CHANNEL_MAIN, 1, &self->err));
	EXPECT_EQ(0, self->d->counters.pages_missing);
	EXPECT_EQ(page_byte(RAM, 4 * TARGET_PAGE), self->w->region[RAM].addr[4 * TARGET_PAGE]);
}

/* Nothing was dirty at the switch */
TEST_F(beside, nothing_is_missing)
{
	bytes_begin(&self->b, true, true, ALL);
	bytes_hook(&self->b);
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, self->d->counters.pages_missing);
	EXPECT_EQ(1, self->w->last_pages);
	EXPECT_STREQ("PhPuALPSP", self->w->order);
}

TEST_F(beside, not_behind_the_switch)
{
	bytes_begin(&self->b, true, true, ALL);
	bytes_hook(&self->b);
	bytes_discard(&self->b, "pc.ram", 0, TARGET_PAGE);
	bytes_hook(&self->b);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "flag HOOK in phase")) TH_LOG("%s", self->err.text);
}

/* It would drop memory that is written to */
TEST_F(beside, advice_comes_first)
{
	bytes_begin(&self->b, true, false, ALL);
	bytes_hook(&self->b);
	bytes_advise(&self->b, ALL_SIZES, TARGET_PAGE);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "behind flag HOOK")) TH_LOG("%s", self->err.text);
}

/* Zeros of the stream are made where nobody knows what is there */
TEST_F(beside, zeros_behind_it)
{
	bytes_begin(&self->b, true, true, ALL);
	bytes_hook(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	memset(self->w->region[RAM].addr, 0x55, 2 * TARGET_PAGE);
	self->b.length = 0;
	self->b.block = -1;
	bytes_part(&self->b, SECTION_PART);
	bytes_zero(&self->b, RAM, TARGET_PAGE);
	bytes_eos(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(0x55, self->w->region[RAM].addr[0]);
	EXPECT_EQ(0, self->w->region[RAM].addr[TARGET_PAGE]);
}

TEST_HARNESS_MAIN
