/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The urgent channel from its socket into the engine: all that is there is fetched, though the
 * kernel tells of it once. postcopy/run_inlet.c
 */
#include "postcopy/run_dest.h"
#include "selftests/postcopy/dest_guest.h"

#include <assert.h>
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define LIMIT_NS (10 * NS_PER_S)

/* The world's engine stands in the place of the one in a struct dest_side */
static_assert(offsetof(struct dest_side, engine) == 0, "so it is found there");

FIXTURE(inlet)
{
	struct world *w;
	struct wh_migration m;
	struct inlet inlet;
	struct bytes bytes;
	int peer;
	struct wh_err err;
};

FIXTURE_SETUP(inlet)
{
	int pair[2];

	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	ASSERT_TRUE(run(self->w));
	self->bytes = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_EQ(0, loop_open(&self->m.bulk, 8, &self->err)) TH_LOG("%s", self->err.text);
	self->m.fault = self->m.bulk;
	self->m.dest = (struct dest_side *)(void *)&self->w->dest;
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	self->peer = pair[1];
	ASSERT_EQ(0, inlet_open(&self->inlet, &self->m, CHANNEL_URGENT, self->m.bulk, pair[0],
				&self->err));
}

FIXTURE_TEARDOWN(inlet)
{
	inlet_close(&self->inlet);
	loop_close(self->m.bulk);
	inlet_fini(&self->inlet);
	if (self->peer >= 0)
		close(self->peer);
	bytes_free(&self->bytes);
	world_free(self->w);
}

/* At once: the socket takes all of it */
static bool say(FIXTURE_DATA(inlet) *self)
{
	ssize_t sent = send(self->peer, self->bytes.at, self->bytes.length, MSG_DONTWAIT);
	bool all = sent == (ssize_t)self->bytes.length;

	self->bytes.length = 0;
	return all;
}

static void hang_up(FIXTURE_DATA(inlet) *self)
{
	close(self->peer);
	self->peer = -1;
}

/* Until it would sleep */
static bool settle(FIXTURE_DATA(inlet) *self)
{
	int done;

	do {
		done = loop_step(self->m.bulk, 0, &self->err);
	} while (done > 0);
	return done == 0;
}

/* It sleeps, and is woken; false: for longer than anything takes */
static bool nap(FIXTURE_DATA(inlet) *self)
{
	return loop_step(self->m.bulk, (int64_t)LIMIT_NS, &self->err) > 0 && settle(self);
}

static int left_in_socket(const FIXTURE_DATA(inlet) *self)
{
	int bytes = -1;

	ioctl(self->inlet.fd, FIONREAD, &bytes);
	return bytes;
}

static bool came(const FIXTURE_DATA(inlet) *self, unsigned block, uint64_t first, uint64_t end)
{
	for (; first < end; first++)
		if (!page_came(self->w, block, PAGES(first)))
			return false;
	return true;
}

TEST_F(inlet, as_it_comes)
{
	size_t half;

	for (unsigned i = 0; i < 20; i++) {
		bytes_page(&self->bytes, RAM, PAGES(3 * i));
		ASSERT_TRUE(say(self));
		ASSERT_TRUE(settle(self));
		ASSERT_TRUE(came(self, RAM, 3 * i, 3 * i + 1));
	}
	bytes_page(&self->bytes, RAM, PAGES(100));
	half = self->bytes.length / 2;
	ASSERT_EQ((ssize_t)half, send(self->peer, self->bytes.at, half, MSG_DONTWAIT));
	ASSERT_TRUE(settle(self));
	EXPECT_FALSE(received(self->w, RAM, PAGES(100)));
	memmove(self->bytes.at, self->bytes.at + half, self->bytes.length -= half);
	ASSERT_TRUE(say(self));
	ASSERT_TRUE(settle(self));
	EXPECT_TRUE(came(self, RAM, 100, 101));
}

/* In a row of a huge page there is room for as many as have come: others come with them */
TEST_F(inlet, more_than_there_is_room_for)
{
	static const unsigned parts[] = { 9, 25, 40, 1, 39, 2, 38 };
	unsigned page = 0;

	for (unsigned i = 0; page < 512; i++) {
		unsigned count = parts[i % (sizeof(parts) / sizeof(parts[0]))];

		if (count > 512 - page)
			count = 512 - page;
		bytes_pages(&self->bytes, HUGE, PAGES(page), count);
		page += count;
		ASSERT_TRUE(say(self));
		ASSERT_TRUE(settle(self));
		ASSERT_EQ(0, left_in_socket(self)) TH_LOG("behind page %u", page);
	}
	EXPECT_TRUE(came(self, HUGE, 0, 512));
}

/* What comes while a page cannot be placed waits for that, and is not forgotten */
TEST_F(inlet, held_up)
{
	world_script(self->w, PLACED_CHANGING, 0, 2);
	bytes_page(&self->bytes, RAM, PAGES(1));
	ASSERT_TRUE(say(self));
	ASSERT_EQ(1, loop_step(self->m.bulk, (int64_t)LIMIT_NS, &self->err));
	ASSERT_FALSE(received(self->w, RAM, PAGES(1)));
	bytes_page(&self->bytes, RAM, PAGES(5));
	ASSERT_TRUE(say(self));
	while (!received(self->w, RAM, PAGES(5))) {
		ASSERT_TRUE(nap(self));
	}
	EXPECT_TRUE(came(self, RAM, 1, 2));
	EXPECT_TRUE(came(self, RAM, 5, 6));
	EXPECT_FALSE(self->inlet.ended);
}

/* Told of together with the last page, before the first look at it */
TEST_F(inlet, an_end_behind_the_last_page)
{
	bytes_page(&self->bytes, RAM, PAGES(1));
	ASSERT_TRUE(say(self));
	hang_up(self);
	while (!self->inlet.ended) {
		ASSERT_TRUE(nap(self));
	}
	EXPECT_TRUE(came(self, RAM, 1, 2));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(&self->w->dest));
}

TEST_F(inlet, an_end_while_it_is_held_up)
{
	world_script(self->w, PLACED_CHANGING, 0, 2);
	bytes_page(&self->bytes, RAM, PAGES(1));
	bytes_page(&self->bytes, RAM, PAGES(5));
	ASSERT_TRUE(say(self));
	ASSERT_EQ(1, loop_step(self->m.bulk, (int64_t)LIMIT_NS, &self->err));
	ASSERT_FALSE(received(self->w, RAM, PAGES(1)));
	hang_up(self);
	while (!self->inlet.ended) {
		ASSERT_TRUE(nap(self));
	}
	EXPECT_TRUE(came(self, RAM, 1, 2));
	EXPECT_TRUE(came(self, RAM, 5, 6));
}

/* The kernel had no memory to watch it just then: what has come meanwhile is not forgotten */
TEST_F(inlet, watching_it_was_refused)
{
	self->inlet.ended = true;
	loop_cancel(self->m.bulk, &self->inlet.watch);
	ASSERT_TRUE(settle(self));
	ASSERT_FALSE(op_busy(&self->inlet.watch));
	self->inlet.ended = false;
	bytes_page(&self->bytes, RAM, PAGES(1));
	ASSERT_TRUE(say(self));
	self->inlet.watch.done(&self->inlet.watch, -EAGAIN);
	ASSERT_TRUE(settle(self));
	EXPECT_TRUE(came(self, RAM, 1, 2));
	EXPECT_FALSE(self->inlet.ended);
}

/* A peer that breaks the rules is not heard any more */
TEST_F(inlet, nonsense)
{
	bytes_page(&self->bytes, RAM, PAGES(1));
	memset(self->bytes.at, 0xff, 8);
	ASSERT_TRUE(say(self));
	ASSERT_TRUE(settle(self));
	EXPECT_TRUE(self->inlet.ended);
	bytes_page(&self->bytes, RAM, PAGES(5));
	ASSERT_TRUE(say(self));
	ASSERT_TRUE(settle(self));
	EXPECT_FALSE(received(self->w, RAM, PAGES(5)));
	EXPECT_LT(0, left_in_socket(self));
}

TEST_HARNESS_MAIN
