/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pages beside the stream: announced before they are handed over, none of them in the stream, and
 * all there before it goes on.
 */
#include "postcopy/source_internal.h"
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "ram", 600, TARGET_PAGE },
	{ "rom", 64, TARGET_PAGE },
};

FIXTURE(beside)
{
	struct world w;
	struct source_ops ops;
	unsigned opened, pages, room, slow;
	bool open, wrong; /* it was handed over when nobody had said so, or twice */
	bool stuck;
};

static void beside_open(void *ctx)
{
	FIXTURE_DATA(beside) *self = ctx;

	self->opened++;
	self->wrong |= self->open || self->w.model.hooks != self->opened;
	self->open = true;
}

static bool beside_page(void *ctx, unsigned block, uint64_t page)
{
	FIXTURE_DATA(beside) *self = ctx;

	self->wrong |= !self->open;
	if (!self->room)
		return false;
	self->room--;
	self->pages++;
	memcpy(self->w.model.copy[block] + page * TARGET_PAGE, world_page(&self->w, block, page),
	       TARGET_PAGE);
	return true;
}

/* It takes a while */
static bool beside_close(void *ctx)
{
	FIXTURE_DATA(beside) *self = ctx;

	self->wrong |= !self->open;
	if (self->stuck || self->slow++ % 3)
		return false;
	self->open = false;
	return true;
}

static void begin(FIXTURE_DATA(beside) *self)
{
	const struct source_config config = { .downtime_ns = 1, .beside = true };

	memset(self, 0, sizeof(*self));
	world_init(&self->w, &config, blocks, 2);
	self->ops = *self->w.source->ops;
	self->ops.beside_open = beside_open;
	self->ops.beside_page = beside_page;
	self->ops.beside_close = beside_close;
	self->w.source->ops = &self->ops;
	world_scribble(&self->w);
	source_connected(self->w.source, self->w.now_ns);
}

FIXTURE_SETUP(beside)
{
	begin(self);
}

FIXTURE_TEARDOWN(beside)
{
	world_fini(&self->w);
}

/* The ctx of the world is the world, which is the fixture's first member */
_Static_assert(offsetof(FIXTURE_DATA(beside), w) == 0, "one address");

/* Until it is over or in this phase, or for too long */
static int run(FIXTURE_DATA(beside) *self, enum source_phase until)
{
	int todo = SOURCE_WAIT;

	for (unsigned turn = 0; turn < 2000; turn++) {
		self->w.now_ns += WORLD_MS;
		self->room = 50;
		todo = world_ask(&self->w);
		if (todo == SOURCE_SEND)
			world_deliver(&self->w);
		if (todo < 0 || todo == SOURCE_ENDED || source_get_phase(self->w.source) == until)
			break;
	}
	return todo;
}

TEST_F(beside, every_page_once_and_none_in_the_stream)
{
	ASSERT_EQ(SOURCE_ENDED, run(self, SOURCE_PHASE_COUNT));
	EXPECT_EQ(SOURCE_DONE, source_get_phase(self->w.source));
	EXPECT_FALSE(self->wrong);
	EXPECT_FALSE(self->open);
	EXPECT_EQ(664, self->pages);
	EXPECT_EQ(0, self->w.model.pages);
	/* for the list, and for the round */
	EXPECT_EQ(2, self->opened);
	EXPECT_EQ(2, self->w.model.hooks);
	EXPECT_TRUE(world_equal(&self->w));
	EXPECT_TRUE(self->w.model.ended);
}

static void write_some(struct world *w)
{
	if (source_get_counters(w->source)->rounds > 3)
		return;
	for (uint64_t page = 3; page < 600; page += 7)
		world_write(w, 0, page, (uint8_t)(page + source_get_counters(w->source)->rounds));
}

/* What is written meanwhile comes in brackets of its own; also what is left when the guest stops */
TEST_F(beside, rounds)
{
	self->w.on_round = write_some;
	ASSERT_EQ(SOURCE_ENDED, run(self, SOURCE_PHASE_COUNT)) TH_LOG("%s", self->w.err.text);
	EXPECT_FALSE(self->wrong);
	EXPECT_LT(2, self->opened);
	EXPECT_EQ(self->opened, self->w.model.hooks);
	EXPECT_TRUE(world_equal(&self->w));
}

/* Nothing goes on the stream while a bracket is not over */
TEST_F(beside, it_waits_for_the_last)
{
	self->stuck = true;
	run(self, SOURCE_DONE);
	EXPECT_EQ(SOURCE_PRECOPY, source_get_phase(self->w.source));
	EXPECT_EQ(1, self->opened);
	EXPECT_EQ(0, self->pages);
	self->stuck = false;
	EXPECT_EQ(SOURCE_ENDED, run(self, SOURCE_PHASE_COUNT));
	EXPECT_TRUE(world_equal(&self->w));
}

/* 664 pages at 100 a 100 ms, minus what the limit lets through at once */
TEST_F(beside, a_limit)
{
	uint64_t begin_ns = self->w.now_ns;

	bucket_set(&self->w.source->bucket, 1000 * TARGET_PAGE, begin_ns);
	ASSERT_EQ(SOURCE_ENDED, run(self, SOURCE_PHASE_COUNT));
	EXPECT_LT(550 * WORLD_MS, self->w.now_ns - begin_ns);
	EXPECT_GT(800 * WORLD_MS, self->w.now_ns - begin_ns);
	EXPECT_TRUE(world_equal(&self->w));
}

/* The last word of who has got all of it: the guest goes on here */
TEST_F(beside, the_destination_gives_up)
{
	run(self, SOURCE_HANDOVER);
	ASSERT_EQ(SOURCE_HANDOVER, source_get_phase(self->w.source));
	source_gave_up(self->w.source);
	EXPECT_GT(0, world_ask(&self->w));
	EXPECT_EQ(SOURCE_FAILED, source_get_phase(self->w.source));
	EXPECT_FALSE(self->w.paused);
}

/* What was not handed over is discarded and comes on the stream, once, and nothing else does */
static bool only_discarded(const struct world *w)
{
	for (unsigned i = 0; i < w->blocks; i++)
		for (uint64_t page = 0; page < world_pages(w, i); page++)
			if (w->model.came[i][page] != bits_test(w->model.discarded[i], page))
				return false;
	return true;
}

/* Postcopy breaks a round off, wherever it is: announced, begun, or in front of a page with no room */
TEST_F(beside, postcopy)
{
	for (unsigned asks = 0; asks < 12; asks++) {
		self->w.source->config.postcopy = self->w.source->return_path = true;
		for (unsigned ask = 0; ask < asks; ask++) {
			self->room = 50;
			if (world_ask(&self->w) == SOURCE_SEND)
				world_deliver(&self->w);
		}
		source_want_postcopy(self->w.source);
		run(self, SOURCE_ENDING);
		ASSERT_EQ(SOURCE_ENDING, source_get_phase(self->w.source)) TH_LOG("%u", asks);
		EXPECT_FALSE(self->wrong);
		EXPECT_FALSE(self->open);
		EXPECT_EQ(self->opened, self->w.model.hooks);
		EXPECT_EQ(664, self->pages + self->w.model.pages);
		EXPECT_TRUE(only_discarded(&self->w));
		EXPECT_TRUE(world_equal(&self->w));
		ASSERT_EQ(0, world_shut(&self->w, 0));
		EXPECT_EQ(SOURCE_ENDED, world_ask(&self->w));
		EXPECT_EQ(SOURCE_DONE, source_get_phase(self->w.source));
		world_fini(&self->w);
		begin(self);
	}
}

TEST_F(beside, counters)
{
	source_beside_done(self->w.source, 5 * TARGET_PAGE, 3 * TARGET_PAGE);
	EXPECT_EQ(5, source_get_counters(self->w.source)->pages_normal);
	EXPECT_EQ(3, source_get_counters(self->w.source)->pages_zero);
	EXPECT_EQ(5 * TARGET_PAGE, source_get_counters(self->w.source)->bytes[CHANNEL_MAIN]);
}

TEST_HARNESS_MAIN
