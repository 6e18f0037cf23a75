/* SPDX-License-Identifier: GPL-2.0 */
/* A break, and another connection: postcopy/dest_recover.c */
#include "postcopy/dest_engine.h"
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(again)
{
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
};

FIXTURE_SETUP(again)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->main = (struct bytes){ .bare = true, .block = -1 };
	self->urgent = (struct bytes){ .bare = true, .block = -1 };
	ASSERT_TRUE(run(self->w));
}

FIXTURE_TEARDOWN(again)
{
	world_free(self->w);
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

static void lose(struct world *w)
{
	dest_link_lost(&w->dest, CHANNEL_MAIN, NULL);
	dest_parked(&w->dest);
	w->sents = 0;
}

static int ask_bitmap(struct world *w, const char *name, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_RECV_BITMAP };
	struct bytes b = { .bare = true };
	int ret;

	wire_name_set(&msg.recv_bitmap.block, name);
	bytes_msg(&b, &msg, NULL);
	ret = feed(w, CHANNEL_MAIN, &b, err);
	bytes_free(&b);
	return ret;
}

static int say_resume(struct world *w, struct wh_err *err)
{
	struct bytes b = { .bare = true };
	int ret;

	bytes_command(&b, CMD_POSTCOPY_RESUME);
	ret = feed(w, CHANNEL_MAIN, &b, err);
	bytes_free(&b);
	return ret;
}

static int handshake(struct world *w)
{
	int ret = dest_connected(&w->dest, CHANNEL_MAIN, NULL);

	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		ret |= ask_bitmap(w, world_blocks[i].name, NULL);
	return ret | say_resume(w, NULL);
}

static int fault(struct world *w, unsigned block, uint64_t offset)
{
	return dest_fault(&w->dest, block, offset, 1, 0, NULL);
}

static bool is_request(const struct rp_msg *msg, bool id, unsigned block, uint64_t start)
{
	if (!id)
		return msg->kind == RP_REQ_PAGES && msg->req_pages.start == start;
	return msg->kind == RP_REQ_PAGES_ID && msg->req_pages_id.start == start &&
	       !strcmp(msg->req_pages_id.block.text, world_blocks[block].name);
}

/* In the order of the source's commands, and the answer to RESUME in front of any request */
TEST_F(again, handshake)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(w, RAM, PAGES(9)));
	lose(w);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(0, fault(w, RAM, PAGES(3)));
	EXPECT_EQ(0, w->sents);
	EXPECT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	EXPECT_EQ(DEST_RECOVER, dest_get_phase(self->d));
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		ASSERT_EQ(0, ask_bitmap(w, world_blocks[i].name, &self->err));
		EXPECT_EQ(0, fault(w, HUGE, 5));
		ASSERT_EQ(i + 1, w->sents);
		EXPECT_EQ(RP_RECV_BITMAP, w->sent[i].kind);
		EXPECT_STREQ(world_blocks[i].name, w->sent[i].recv_bitmap.block.text);
	}
	EXPECT_EQ(WORLD_BLOCKS, w->told);
	EXPECT_EQ(0, w->resumes);
	ASSERT_EQ(0, say_resume(w, &self->err));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(1, w->resumes);
	ASSERT_EQ(WORLD_BLOCKS + 1, w->sents);
	EXPECT_EQ(RP_RESUME_ACK, w->sent[WORLD_BLOCKS].kind);
	EXPECT_EQ(1, w->sent[WORLD_BLOCKS].resume_ack.value);
}

/* All that threads wait for, once each, bounded, and none that is in place. */
TEST_F(again, asks_for_what_is_waited_for)
{
	struct world *w = self->w;

	ASSERT_EQ(0, fault(w, RAM, PAGES(9)));
	ASSERT_EQ(0, fault(w, ROM, PAGES(5)));
	ASSERT_EQ(0, fault(w, RAM, PAGES(70)));
	bytes_page(&self->urgent, RAM, PAGES(70));
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, NULL));
	lose(w);
	ASSERT_EQ(0, fault(w, HUGE, HUGE_PAGE + 77));
	ASSERT_EQ(0, fault(w, RAM, PAGES(3)));
	ASSERT_EQ(0, handshake(w));
	w->sents = 0;
	EXPECT_EQ(1, dest_announce(self->d, 1, NULL));
	ASSERT_EQ(1, w->sents);
	EXPECT_TRUE(is_request(&w->sent[0], true, RAM, PAGES(3)));
	/* in front of the walk: found by it; behind it: at once */
	EXPECT_EQ(0, fault(w, RAM, PAGES(80)));
	EXPECT_EQ(1, w->sents);
	EXPECT_EQ(0, fault(w, RAM, PAGES(1)));
	EXPECT_EQ(2, w->sents);
	EXPECT_EQ(0, dest_announce(self->d, 100, NULL));
	ASSERT_EQ(6, w->sents);
	EXPECT_TRUE(is_request(&w->sent[1], false, RAM, PAGES(1)));
	EXPECT_TRUE(is_request(&w->sent[2], false, RAM, PAGES(9)));
	EXPECT_TRUE(is_request(&w->sent[3], false, RAM, PAGES(80)));
	EXPECT_TRUE(is_request(&w->sent[4], true, HUGE, HUGE_PAGE));
	EXPECT_TRUE(is_request(&w->sent[5], true, ROM, PAGES(4)));
	EXPECT_EQ(0, dest_announce(self->d, 100, NULL));
	EXPECT_EQ(6, w->sents);
	EXPECT_EQ(0, fault(w, HUGE, 0));
	EXPECT_EQ(7, w->sents);
}

TEST_F(again, return_path_that_fails_is_remembered)
{
	uint64_t wake_ns;

	ASSERT_EQ(0, fault(self->w, RAM, PAGES(9)));
	lose(self->w);
	ASSERT_EQ(0, handshake(self->w));
	self->w->fail_send = -EPIPE;
	EXPECT_EQ(-EPIPE, dest_announce(self->d, 100, &self->err));
	EXPECT_NE(0, self->err.text[0]);
	EXPECT_EQ(-EPIPE, dest_step(self->d, 0, &wake_ns, NULL));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	/* and the next connection knows nothing of it */
	self->w->fail_send = 0;
	dest_parked(self->d);
	ASSERT_EQ(0, handshake(self->w));
	EXPECT_EQ(0, dest_step(self->d, 0, &wake_ns, NULL));
	self->w->sents = 0;
	EXPECT_EQ(0, dest_announce(self->d, 100, NULL));
	EXPECT_TRUE(is_request(&self->w->sent[0], true, RAM, PAGES(9)));
}

/* What lay in runs may come again, on whichever channel. */
TEST_F(again, runs_are_dropped)
{
	struct world *w = self->w;

	self->main.block = -1;
	bytes_pages(&self->main, RAM, 0, 3);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	bytes_pages(&self->urgent, HUGE, 0, 100);
	ASSERT_EQ(0, feed(w, CHANNEL_URGENT, &self->urgent, NULL));
	EXPECT_TRUE(arrived(w, RAM, 0));
	EXPECT_TRUE(arrived(w, HUGE, 0));
	lose(w);
	for (unsigned i = 0; i < 3; i++)
		EXPECT_EQ(received(w, RAM, PAGES(i)), arrived(w, RAM, PAGES(i)));
	EXPECT_FALSE(arrived(w, HUGE, 0));
	EXPECT_FALSE(received(w, HUGE, 0));
	ASSERT_EQ(0, handshake(w));
	bytes_part(&self->main, SECTION_PART);
	self->main.block = -1;
	bytes_pages(&self->main, HUGE, 0, 512);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err))
	TH_LOG("%s", self->err.text);
	idle(w);
	EXPECT_TRUE(received(w, HUGE, 0));
	EXPECT_EQ(0, self->d->counters.pages_before);
}

/* It may have ended on the connection before, and does so anew on this one. */
TEST_F(again, urgent_channel)
{
	bytes_eos(&self->urgent);
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_TRUE(self->d->channel[CHANNEL_URGENT].eos);
	lose(self->w);
	EXPECT_EQ(-EPROTO, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EPROTO, dest_connected(self->d, CHANNEL_URGENT, NULL));
	/* half a record of the old one is not the beginning of the new one */
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
}

TEST_F(again, half_a_record_is_forgotten)
{
	struct bytes *u = &self->urgent, *m = &self->main;

	bytes_page(u, RAM, PAGES(4));
	u->length -= 100;
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, u, NULL));
	bytes_page(m, RAM, PAGES(5));
	m->length -= 4000;
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, m, NULL));
	lose(self->w);
	ASSERT_EQ(0, handshake(self->w));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, NULL));
	u->block = m->block = -1;
	bytes_page(u, RAM, PAGES(4));
	ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, u, NULL));
	bytes_part(m, SECTION_PART);
	bytes_page(m, RAM, PAGES(5));
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, m, NULL));
	idle(self->w);
	EXPECT_TRUE(received(self->w, RAM, PAGES(4)));
	EXPECT_TRUE(received(self->w, RAM, PAGES(5)));
}

TEST_F(again, refused)
{
	static const char *const says[] = { "second time", "unknown block", "2 bitmaps of 3",
					    "bitmaps of 3", "page" };
	struct world *w = self->w;

	for (unsigned i = 0; i < 5; i++) {
		struct bytes b = { .bare = true, .block = -1 };
		int ret = 0;

		lose(w);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
		if (i < 3) {
			ASSERT_EQ(0, ask_bitmap(w, "rom", NULL));
			ASSERT_EQ(0, ask_bitmap(w, "huge", NULL));
		}
		if (i == 0)
			ret = ask_bitmap(w, "rom", &self->err);
		else if (i == 1)
			ret = ask_bitmap(w, "romulus", &self->err);
		else if (i < 4)
			ret = say_resume(w, &self->err);
		if (i == 4) {
			bytes_part(&b, SECTION_PART);
			bytes_page(&b, RAM, 0);
			ret = feed(w, CHANNEL_MAIN, &b, &self->err);
		}
		EXPECT_EQ(-EPROTO, ret);
		EXPECT_NE(NULL, strstr(self->err.text, says[i]))
		TH_LOG("%u: %s", i, self->err.text);
		EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
		EXPECT_EQ(0, world_count(w, RP_SHUT));
		bytes_free(&b);
	}
	EXPECT_EQ(0, w->resumes);
}

/* The end was said already, and is said again. */
TEST_F(again, ends)
{
	uint64_t wake_ns;

	ASSERT_EQ(0, end(self->w));
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	lose(self->w);
	ASSERT_EQ(0, handshake(self->w));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	self->main.bare = false;
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		bytes_part(&self->main, SECTION_PART);
		bytes_all_zero(&self->main, i);
		bytes_eos(&self->main);
	}
	bytes_end(&self->main);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, dest_step(self->d, 0, &wake_ns, NULL));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_EQ(-EPROTO, dest_connected(self->d, CHANNEL_MAIN, NULL));
}

/* All that is left of an engine: received bits, the list of blocks, what is in place */
static int adopt(struct world *w, struct wh_err *err)
{
	struct dest_past past = {
		.blocks = w->dest.stream.blocks,
		.ram_id = w->dest.stream.ram_id,
		.has_id = w->dest.identity.known,
		.id = w->dest.identity.id,
	};

	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		const struct dest_block *b = &w->dest.block[i];
		size_t words = bits_words(b->used / TARGET_PAGE);

		memset(b->arrived, 0, words * sizeof(uint64_t));
		memset(b->asked, 0, words * sizeof(uint64_t));
	}
	w->known = w->calls = w->sents = 0;
	world_init_dest(w, true);
	return dest_adopt(&w->dest, &past, err);
}

TEST_F(again, adopted)
{
	struct world *w = self->w;
	uint64_t wake_ns;

	bytes_pages(&self->main, RAM, PAGES(2), 3);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	idle(w);
	/* of a host page of four only one, and a page in a run that is not placed */
	dest_mark(self->d, ROM, PAGES(4), TARGET_PAGE);
	/* of one of ours, which is in place, no more than a part was marked in time */
	bits_range_set(w->present[HUGE], 0, HUGE_PAGE / TARGET_PAGE);
	dest_mark(self->d, HUGE, 0, PAGES(128));
	self->main.block = -1;
	bytes_page(&self->main, RAM, PAGES(9));
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, NULL));
	ASSERT_EQ(0, fault(w, RAM, PAGES(70)));
	w->armed = false;
	ASSERT_EQ(0, adopt(w, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_TRUE(w->armed);
	EXPECT_EQ((6u << 8) - 3 + 1024 + 15, self->d->counters.pages_missing);
	/* with zeros behind the part that migrates */
	ASSERT_EQ(3, w->calls);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		EXPECT_TRUE(called(w, i, 'w', i, 0, world_blocks[i].length));
	EXPECT_TRUE(arrived(w, RAM, PAGES(3)));
	EXPECT_FALSE(arrived(w, RAM, PAGES(9)));
	EXPECT_FALSE(arrived(w, ROM, PAGES(4)));
	/* it announces itself again */
	ASSERT_EQ(0, fault(w, RAM, PAGES(70)));
	ASSERT_EQ(0, w->sents);
	ASSERT_EQ(0, handshake(w));
	w->sents = 0;
	EXPECT_EQ(0, dest_announce(self->d, 100, NULL));
	ASSERT_EQ(1, w->sents);
	EXPECT_TRUE(is_request(&w->sent[0], true, RAM, PAGES(70)));
	/* of before */
	EXPECT_EQ(1, w->starts);
	EXPECT_EQ(1, w->devices);

	bytes_free(&self->main);
	self->main = (struct bytes){ .block = -1 };
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		bytes_part(&self->main, SECTION_PART);
		bytes_all_zero(&self->main, i);
		bytes_eos(&self->main);
	}
	bytes_end(&self->main);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &self->main, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, dest_step(self->d, 0, &wake_ns, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_TRUE(page_came(w, RAM, PAGES(3)));
	EXPECT_TRUE(page_is(w, RAM, PAGES(9), 0));
}

TEST_F(again, not_adopted)
{
	self->w->fail_arm = -EINVAL;
	EXPECT_EQ(-EINVAL, adopt(self->w, &self->err));
	EXPECT_NE(0, self->err.text[0]);
	EXPECT_EQ(DEST_SETUP, dest_get_phase(self->d));
	self->w->fail_arm = 0;
	self->w->block_result = -ENOENT;
	EXPECT_EQ(-ENOENT, adopt(self->w, &self->err));
	EXPECT_EQ(DEST_SETUP, dest_get_phase(self->d));
}

TEST_HARNESS_MAIN
