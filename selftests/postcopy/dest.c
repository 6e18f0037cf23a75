/* SPDX-License-Identifier: GPL-2.0 */
/* Whole migrations, the two links, phases and failures: postcopy/dest.c */
#include "selftests/postcopy/dest_bytes.h"

#include "kselftest_harness.h"

FIXTURE(dest)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(dest)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main.block = -1;
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
}

FIXTURE_TEARDOWN(dest)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

/* Pages of the first PART: contents, zero, contents */
static void first_pass(struct bytes *b)
{
	bytes_part(b, SECTION_PART);
	bytes_pages(b, RAM, 0, 3);
	bytes_zero(b, RAM, 3 * TARGET_PAGE);
	bytes_page(b, ROM, 0);
	bytes_eos(b);
}

static void precopy(struct bytes *b, bool return_path, bool vmdesc)
{
	bytes_begin(b, return_path, false, ALL);
	first_pass(b);
	bytes_part(b, SECTION_END);
	bytes_page(b, RAM, 4 * TARGET_PAGE);
	bytes_eos(b);
	bytes_state(b);
	if (vmdesc)
		bytes_vmdesc(b);
	else
		b->length += stream_put_eof(bytes_room(b, STREAM_PUT_MAX));
}

/* All there is, of small blocks: discards, package, the pages that were discarded */
static void postcopy(struct bytes *b)
{
	bytes_begin(b, true, true, ALL);
	bytes_part(b, SECTION_PART);
	for (uint64_t at = 0; at < world_blocks[RAM].used; at += TARGET_PAGE)
		bytes_zero(b, RAM, at);
	for (uint64_t at = 0; at < world_blocks[HUGE].used; at += TARGET_PAGE)
		bytes_zero(b, HUGE, at);
	bytes_pages(b, ROM, 0, 16);
	bytes_eos(b);
	bytes_discard(b, "pc.ram", 0, 4 * TARGET_PAGE);
	bytes_discard(b, "rom", 4 * TARGET_PAGE, 4 * TARGET_PAGE);
	bytes_switch(b);
	bytes_part(b, SECTION_PART);
	bytes_pages(b, RAM, 0, 2);
	bytes_zero(b, RAM, 2 * TARGET_PAGE);
	bytes_page(b, RAM, 3 * TARGET_PAGE);
	bytes_eos(b);
	bytes_part(b, SECTION_PART);
	bytes_pages(b, ROM, 4 * TARGET_PAGE, 4);
	bytes_eos(b);
	bytes_end(b);
}

/* The same of one small block in host pages of four, to be cut at any byte */
static void postcopy_small(struct bytes *b)
{
	bytes_begin(b, true, true, 1u << ROM);
	bytes_part(b, SECTION_PART);
	bytes_pages(b, ROM, 0, 2);
	for (uint64_t at = 2 * TARGET_PAGE; at < world_blocks[ROM].used; at += TARGET_PAGE)
		bytes_zero(b, ROM, at);
	bytes_eos(b);
	bytes_discard(b, "rom", 4 * TARGET_PAGE, 8 * TARGET_PAGE);
	bytes_switch(b);
	bytes_part(b, SECTION_PART);
	bytes_zero(b, ROM, 4 * TARGET_PAGE);
	bytes_pages(b, ROM, 5 * TARGET_PAGE, 2);
	for (uint64_t at = 7; at < 12; at++)
		bytes_zero(b, ROM, at * TARGET_PAGE);
	bytes_eos(b);
	bytes_end(b);
}

static bool page_is(const struct world *w, unsigned block, uint64_t offset, uint8_t byte)
{
	const uint8_t *page = w->region[block].addr + offset;

	for (unsigned i = 0; i < TARGET_PAGE; i++)
		if (page[i] != byte)
			return false;
	return true;
}

/* As it came over the wire */
static bool page_came(const struct world *w, unsigned block, uint64_t offset)
{
	return page_is(w, block, offset, page_byte(block, offset));
}

TEST_F(dest, precopy)
{
	struct world *w = self->w;

	precopy(&self->main, false, true);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_STREQ("LS", w->order);
	EXPECT_STREQ("pc-q35-7.2", self->d->machine.text);
	EXPECT_EQ(0, w->sents);
	EXPECT_TRUE(page_came(w, RAM, 0));
	EXPECT_TRUE(page_came(w, RAM, 4 * TARGET_PAGE));
	EXPECT_TRUE(page_came(w, ROM, 0));
	EXPECT_TRUE(page_is(w, RAM, 3 * TARGET_PAGE, 0));
	EXPECT_EQ(5, self->d->counters.pages_normal);
	EXPECT_EQ(1, self->d->counters.pages_zero);
	EXPECT_EQ(WH_DEVICE_QEMU, w->device_format);
	EXPECT_EQ(SECTION_FULL, w->device[0]);
	EXPECT_EQ(SECTION_FOOTER, w->device[w->device_length - 5]);
	/* what follows the end is taken and ignored */
	bytes_add(&self->main, "\1\2\3", 3);
	EXPECT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

TEST_F(dest, precopy_with_return_path)
{
	struct world *w = self->w;

	precopy(&self->main, true, true);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	/* PONG, load, SHUT 0, and only then start */
	EXPECT_STREQ("PL0S", w->order);
	EXPECT_EQ(1, w->sent[0].pong.value);
}

/* A source that asks who we are is told; any other number comes back as it is. */
TEST_F(dest, who_is_it)
{
	struct bytes b = { .block = -1 };

	bytes_begin(&b, true, true, ALL);
	bytes_ping(&b, PING_WHO);
	bytes_ping(&b, PING_WHO + 1);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &b, &self->err));
	ASSERT_EQ(3, self->w->sents);
	EXPECT_EQ(PONG_OURS, self->w->sent[1].pong.value);
	EXPECT_EQ(PING_WHO + 1, self->w->sent[2].pong.value);
	bytes_free(&b);
}

TEST_F(dest, postcopy)
{
	struct world *w = self->w;
	static const enum dest_phase moves[] = { DEST_PRECOPY,	 DEST_ADVISED, DEST_DISCARD,
						 DEST_LISTENING, DEST_RUNNING, DEST_ENDING,
						 DEST_DONE };

	postcopy(&self->main);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	EXPECT_EQ(0, self->d->counters.pages_missing);
	EXPECT_EQ(1, w->last_pages);
	ASSERT_EQ(0, dest_step(self->d, 1, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_EQ(UINT64_MAX, self->wake_ns);
	/* PING 1, PING 2, arm, load, PING 3, start, PING 4, SHUT, disarm */
	EXPECT_STREQ("PPALPSP0D", w->order);
	ASSERT_EQ(5, w->sents);
	for (uint32_t i = 0; i < 4; i++)
		EXPECT_EQ(i + 1, w->sent[i].pong.value);
	ASSERT_EQ(7, w->moves);
	EXPECT_EQ(0, memcmp(moves, w->move, sizeof(moves)));
	EXPECT_TRUE(page_came(w, RAM, 0));
	EXPECT_TRUE(page_came(w, RAM, 3 * TARGET_PAGE));
	EXPECT_TRUE(page_is(w, RAM, 2 * TARGET_PAGE, 0));
	for (uint64_t at = 0; at < world_blocks[ROM].used; at += TARGET_PAGE)
		EXPECT_TRUE(page_came(w, ROM, at));
	EXPECT_EQ(1, w->starts);
	EXPECT_EQ(1, w->disarms);
}

/* Byte by byte, and in odd pieces, comes the same of it. */
TEST_F(dest, pieces)
{
	static const size_t pieces[] = { 1, 7, 4095, 4097, 65536 };

	for (unsigned i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		self->main.length = 0;
		postcopy(&self->main);
		ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &self->main, pieces[i], 100, 0,
					 &self->err))
		TH_LOG("%s", self->err.text);
		ASSERT_EQ(0, dest_step(self->d, 1, &self->wake_ns, &self->err));
		EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
		EXPECT_EQ(self->main.length, self->d->counters.bytes[CHANNEL_MAIN]);
		EXPECT_TRUE(page_came(self->w, RAM, 3 * TARGET_PAGE));
		EXPECT_TRUE(page_came(self->w, ROM, 7 * TARGET_PAGE));
	}
}

/* Nothing is said twice, nothing of it after the guest may run, and never without a reason. */
static bool ended_well(const struct world *w, bool running)
{
	enum dest_phase phase = dest_get_phase(&w->dest);
	unsigned shuts = world_count(w, RP_SHUT);

	if (shuts > 1 || (running && shuts))
		return false;
	if (phase == DEST_PAUSED || phase == DEST_FAILED)
		return w->reason.code < 0 && w->reason.text[0] && !w->disarms;
	return false;
}

/* A stream that breaks off at any byte, with the link lost there */
TEST_F(dest, postcopy_cut_anywhere)
{
	struct wh_err reason = { -ECONNRESET, "cut" };
	struct bytes whole = { 0 }, part;

	postcopy_small(&whole);
	for (size_t cut = 0; cut < whole.length; cut++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		part = (struct bytes){ .at = malloc(cut + 1), .length = cut };
		memcpy(part.at, whole.at, cut);
		ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &part, 100000, 10, 0, &self->err))
		TH_LOG("cut at %zu: %s", cut, self->err.text);
		dest_link_lost(self->d, CHANNEL_MAIN, cut % 2 ? &reason : NULL);
		free(part.at);
		EXPECT_TRUE(ended_well(self->w, self->w->starts))
		TH_LOG("cut at %zu: %s", cut, self->w->order);
		EXPECT_EQ(self->w->starts ? DEST_PAUSED : DEST_FAILED, dest_get_phase(self->d));
	}
	bytes_free(&whole);
}

TEST_F(dest, precopy_cut_anywhere)
{
	struct bytes whole = { 0 }, part;
	unsigned done = 0;

	precopy(&whole, false, true);
	for (size_t cut = 0; cut < whole.length; cut++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		part = (struct bytes){ .at = malloc(cut + 1), .length = cut };
		memcpy(part.at, whole.at, cut);
		ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &part, 5000, 10, 0, &self->err));
		dest_link_lost(self->d, CHANNEL_MAIN, NULL);
		free(part.at);
		/* Right behind the EOF byte it is whole: one without a description. */
		if (dest_get_phase(self->d) == DEST_DONE) {
			EXPECT_EQ(sizeof(VMDESC) - 1 + 5, whole.length - cut);
			done++;
			continue;
		}
		EXPECT_TRUE(ended_well(self->w, false)) TH_LOG("cut at %zu", cut);
		EXPECT_EQ(0, self->w->starts);
	}
	EXPECT_EQ(1, done);
	bytes_free(&whole);
}

/* With a reason it is no end, and with a return path a close is none. */
TEST_F(dest, precopy_cut_is_no_end)
{
	struct wh_err reason = { -ETIMEDOUT, "the peer is gone" };

	precopy(&self->main, false, false);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_EQ(DEST_PRECOPY, dest_get_phase(self->d));
	dest_link_lost(self->d, CHANNEL_MAIN, &reason);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(-ETIMEDOUT, self->w->reason.code);

	world_reset(self->w, true);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	precopy(&self->main, true, false);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->starts);
	/* nobody is there to be told */
	EXPECT_EQ(0, world_count(self->w, RP_SHUT));
}

TEST_F(dest, connections)
{
	struct dest *d = self->d;

	EXPECT_EQ(-EPROTO, dest_connected(d, CHANNEL_MAIN, &self->err));
	EXPECT_EQ(0, dest_connected(d, CHANNEL_URGENT, &self->err));
	EXPECT_EQ(-EPROTO, dest_connected(d, CHANNEL_URGENT, NULL));
	EXPECT_EQ(DEST_PRECOPY, dest_get_phase(d));
	dest_link_lost(d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(d));
	EXPECT_NE(NULL, strstr(self->w->reason.text, "urgent"));
	EXPECT_EQ(-EPROTO, dest_connected(d, CHANNEL_URGENT, &self->err));

	world_reset(self->w, true);
	EXPECT_EQ(-EPROTO, dest_connected(d, CHANNEL_URGENT, &self->err));
	EXPECT_EQ(DEST_SETUP, dest_get_phase(d));
	bytes_header(&self->main);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "not connected"));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(d));

	/* A listener that gives up, before anybody was there */
	world_reset(self->w, true);
	dest_link_lost(d, CHANNEL_MAIN, &self->err);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(d));
	/* and what is told of an urgent channel that never was is nothing */
	world_reset(self->w, true);
	ASSERT_EQ(0, dest_connected(d, CHANNEL_MAIN, &self->err));
	dest_link_lost(d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_PRECOPY, dest_get_phase(d));
}

static int run(struct world *w, struct bytes *b, struct wh_err *err)
{
	bytes_begin(b, true, true, ALL);
	bytes_switch(b);
	return feed(w, CHANNEL_MAIN, b, err);
}

TEST_F(dest, either_link_lost_pauses)
{
	for (unsigned channel = 0; channel < CHANNEL_COUNT; channel++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
		ASSERT_EQ(0, run(self->w, &self->main, &self->err));
		dest_link_lost(self->d, channel, NULL);
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
		EXPECT_EQ(0, world_count(self->w, RP_SHUT));
		EXPECT_EQ(0, self->w->disarms);
		/* The other channel has nothing to say any more, and changes nothing. */
		bytes_ping(&self->main, 4);
		EXPECT_EQ(-ECANCELED, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
		dest_link_lost(self->d, !channel, &self->err);
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
		EXPECT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
		EXPECT_EQ(0, dest_idle(self->d, CHANNEL_MAIN, 0, &self->err));
	}
}

/* What the urgent channel says that is wrong pauses too, in the next step. */
TEST_F(dest, urgent_nonsense)
{
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	bytes_page(&self->urgent, RAM, 0);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "phase 'precopy'"));
	EXPECT_EQ(DEST_PRECOPY, dest_get_phase(self->d));
	EXPECT_EQ(-EPROTO, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));

	world_reset(self->w, true);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	ASSERT_EQ(0, run(self->w, &self->main, &self->err));
	bytes_add(&self->urgent, "\0\0\0\0\0\0\0\4", 8);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(-EPROTO, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_NE(NULL, strstr(self->w->reason.text, "urgent channel"));
	EXPECT_EQ(0, world_count(self->w, RP_SHUT));
}

TEST_F(dest, urgent_end_mark)
{
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	ASSERT_EQ(0, run(self->w, &self->main, &self->err));
	bytes_page(&self->urgent, RAM, 0);
	bytes_eos(&self->urgent);
	EXPECT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_TRUE(page_came(self->w, RAM, 0));
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(-EPROTO, dest_connected(self->d, CHANNEL_URGENT, &self->err));
}

TEST_F(dest, bytes_behind_the_end_mark)
{
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	ASSERT_EQ(0, run(self->w, &self->main, &self->err));
	bytes_eos(&self->urgent);
	bytes_eos(&self->urgent);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "8 bytes behind"));
}

/* Failures of the world: never a second reason, never without a sentence */
TEST_F(dest, shut_that_cannot_be_said)
{
	postcopy(&self->main);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	self->w->fail_send = -EPIPE;
	self->w->mute = true;
	EXPECT_EQ(-EPIPE, dest_step(self->d, 1, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->disarms);
	EXPECT_NE(NULL, strstr(self->w->reason.text, "SHUT"));
}

TEST_F(dest, disarming_fails)
{
	postcopy(&self->main);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err));
	self->w->fail_disarm = -EIO;
	EXPECT_EQ(-EIO, dest_step(self->d, 1, &self->wake_ns, NULL));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(1, world_count(self->w, RP_SHUT));
}

TEST_F(dest, too_long_waits_are_cut)
{
	struct dest_config config = { .postcopy = true,
				      .device_state_max = UINT64_MAX,
				      .urgent_wait_ns = UINT64_MAX };

	dest_init(self->d, &world_ops, self->w, &config);
	EXPECT_LT(self->d->config.device_state_max,
		  self->d->config.device_state_max + DEST_VMDESC_MAX);
	EXPECT_LT(self->d->config.urgent_wait_ns, UINT64_MAX / 2 + 1);
}

TEST_HARNESS_MAIN
