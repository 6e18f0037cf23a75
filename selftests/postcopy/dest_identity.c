/* SPDX-License-Identifier: GPL-2.0 */
/* A connection that resumes a migration with an id: postcopy/dest_recover.c */
#include "base/bytes.h"
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

FIXTURE(id)
{
	struct world *w;
	struct dest *d;
	struct identity who; /* as the source knows it */
	struct wh_err err;
};

static int say(struct world *w, const struct cmd_msg *msg, struct wh_err *err)
{
	struct bytes b = { .bare = true };
	int ret;

	bytes_msg(&b, msg, NULL);
	ret = feed(w, CHANNEL_MAIN, &b, err);
	bytes_free(&b);
	return ret;
}

static int say_id(struct world *w, const struct identity *who, struct wh_err *err)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_ID };

	msg.wherry_id.high = who->id.high;
	msg.wherry_id.low = who->id.low;
	return say(w, &msg, err);
}

/* In postcopy, with an id that was said where a source says it, and the link is gone */
FIXTURE_SETUP(id)
{
	struct bytes b = { 0 };
	struct world *w;

	memset(self, 0, sizeof(*self));
	self->w = w = world_new(true);
	self->d = &w->dest;
	self->who.id = (struct identity_number){ .high = 77, .low = 99 };
	self->who.source = (struct identity_number){ .high = 5, .low = 6 };
	ASSERT_EQ(0, dest_connected(&w->dest, CHANNEL_MAIN, NULL));
	bytes_begin(&b, true, true, ALL);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &b, NULL));
	ASSERT_EQ(0, say_id(w, &self->who, &self->err)) TH_LOG("%s", self->err.text);
	bytes_switch(&b);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &b, NULL));
	ASSERT_EQ(0, dest_connected(&w->dest, CHANNEL_URGENT, NULL));
	bytes_free(&b);
	ASSERT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	dest_link_lost(&w->dest, CHANNEL_MAIN, NULL);
	dest_parked(&w->dest);
	w->sents = 0;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
}

FIXTURE_TEARDOWN(id)
{
	world_free(self->w);
}

static int hello(FIXTURE_DATA(id) *self)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_HELLO };
	int ret;

	msg.wherry_hello.high = self->who.source.high;
	msg.wherry_hello.low = self->who.source.low;
	ret = say(self->w, &msg, &self->err);
	if (ret == 0) {
		self->who.dest.high = self->w->sent[0].wherry_hello.high;
		self->who.dest.low = self->w->sent[0].wherry_hello.low;
	}
	return ret;
}

static int proof(FIXTURE_DATA(id) *self, uint64_t wrong)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_PROOF };

	msg.wherry_proof.proof = identity_proof(&self->who, IDENTITY_SOURCE) ^ wrong;
	return say(self->w, &msg, &self->err);
}

static int ask_bitmap(FIXTURE_DATA(id) *self, unsigned block)
{
	struct cmd_msg msg = { .kind = CMD_RECV_BITMAP };

	wire_name_set(&msg.recv_bitmap.block, world_blocks[block].name);
	return say(self->w, &msg, &self->err);
}

static int resume(FIXTURE_DATA(id) *self)
{
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_RESUME };

	return say(self->w, &msg, &self->err);
}

/* Paused again, and nothing was told but what a hello is answered with */
static void refused(FIXTURE_DATA(id) *self, struct __test_metadata *_metadata, int ret,
		    unsigned sents, const char *why)
{
	EXPECT_EQ(-EPROTO, ret);
	EXPECT_NE(NULL, strstr(self->err.text, why)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(sents, self->w->sents);
	EXPECT_EQ(0, self->w->told);
	EXPECT_EQ(0, self->w->resumes);
}

static int whole_handshake(FIXTURE_DATA(id) *self)
{
	int ret = hello(self);

	ret = ret ? ret : proof(self, 0);
	for (unsigned i = 0; i < WORLD_BLOCKS && !ret; i++)
		ret = ask_bitmap(self, i);
	return ret ? ret : resume(self);
}

TEST_F(id, who_proves_it_resumes)
{
	ASSERT_EQ(0, hello(self));
	ASSERT_EQ(1, self->w->sents);
	EXPECT_EQ(RP_WHERRY_HELLO, self->w->sent[0].kind);
	EXPECT_EQ(identity_proof(&self->who, IDENTITY_DEST), self->w->sent[0].wherry_hello.proof);
	ASSERT_EQ(0, proof(self, 0)) TH_LOG("%s", self->err.text);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++)
		ASSERT_EQ(0, ask_bitmap(self, i));
	ASSERT_EQ(0, resume(self));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
}

TEST_F(id, a_bitmap_in_front_of_it_is_refused)
{
	refused(self, _metadata, ask_bitmap(self, RAM), 0, "not proved");
}

TEST_F(id, a_bitmap_behind_hello_is_refused)
{
	ASSERT_EQ(0, hello(self));
	refused(self, _metadata, ask_bitmap(self, RAM), 1, "not proved");
}

TEST_F(id, resume_is_refused)
{
	refused(self, _metadata, resume(self), 0, "not proved");
}

TEST_F(id, a_proof_without_hello_is_refused)
{
	refused(self, _metadata, proof(self, 0), 0, "in front of WHERRY_HELLO");
}

TEST_F(id, a_second_hello_is_refused)
{
	ASSERT_EQ(0, hello(self));
	refused(self, _metadata, hello(self), 1, "second time");
}

TEST_F(id, another_id_is_refused)
{
	ASSERT_EQ(0, hello(self));
	self->who.id.low++;
	refused(self, _metadata, proof(self, 0), 1, "wrong id");
}

/* What it was told, said back */
TEST_F(id, the_destinations_own_proof_is_refused)
{
	uint64_t own;

	ASSERT_EQ(0, hello(self));
	own = self->w->sent[0].wherry_hello.proof;
	refused(self, _metadata, proof(self, own ^ identity_proof(&self->who, IDENTITY_SOURCE)), 1,
		"wrong id");
}

/* A proof is for one connection: the numbers are others on the next */
TEST_F(id, each_connection_proves_it)
{
	ASSERT_EQ(0, whole_handshake(self));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	dest_parked(self->d);
	self->w->sents = self->w->told = self->w->resumes = 0;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, NULL));
	refused(self, _metadata, ask_bitmap(self, RAM), 0, "not proved");
}

static int urgent(FIXTURE_DATA(id) *self, uint64_t first, bool page)
{
	struct bytes b = { .bare = true, .block = -1 };
	uint8_t head[8];
	int ret;

	put_be64(head, first);
	bytes_add(&b, head, sizeof(head));
	if (page)
		bytes_page(&b, RAM, PAGES(3));
	ret = feed(self->w, CHANNEL_URGENT, &b, &self->err);
	bytes_free(&b);
	return ret;
}

TEST_F(id, the_urgent_channel_begins_with_it)
{
	ASSERT_EQ(0, whole_handshake(self));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, NULL));
	EXPECT_EQ(8, dest_need(self->d, CHANNEL_URGENT));
	ASSERT_EQ(0, urgent(self, identity_proof(&self->who, IDENTITY_URGENT), true))
	TH_LOG("%s", self->err.text);
	EXPECT_TRUE(page_came(self->w, RAM, PAGES(3)));
}

/* Nobody else feeds pages. */
TEST_F(id, another_urgent_channel_is_refused)
{
	struct bytes b = { .bare = true, .block = -1 };
	uint64_t wake_ns;

	ASSERT_EQ(0, whole_handshake(self));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, NULL));
	bytes_page(&b, RAM, PAGES(3));
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_URGENT, &b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "wrong id"));
	EXPECT_FALSE(arrived(self->w, RAM, PAGES(3)));
	EXPECT_EQ(-EPROTO, dest_step(self->d, 0, &wake_ns, NULL));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	bytes_free(&b);
}

/* Nor in front of the main channel's */
TEST_F(id, an_urgent_channel_that_is_early_is_refused)
{
	ASSERT_EQ(0, hello(self));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, NULL));
	EXPECT_EQ(-EPROTO, urgent(self, identity_proof(&self->who, IDENTITY_URGENT), false));
}

/* Without an id: a hello is nothing that its source would say */
TEST(hello_without_an_id_is_refused)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_HELLO };
	struct world *w = world_new(true);
	struct wh_err err;

	ASSERT_TRUE(run(w));
	dest_link_lost(&w->dest, CHANNEL_MAIN, NULL);
	dest_parked(&w->dest);
	ASSERT_EQ(0, dest_connected(&w->dest, CHANNEL_MAIN, NULL));
	EXPECT_EQ(-EPROTO, say(w, &msg, &err));
	EXPECT_NE(NULL, strstr(err.text, "has no id"));
	world_free(w);
}

TEST(a_second_id_is_refused)
{
	const struct identity who = { .id = { 1, 2 } };
	struct world *w = world_new(true);
	struct bytes b = { 0 };
	struct wh_err err;

	ASSERT_EQ(0, dest_connected(&w->dest, CHANNEL_MAIN, NULL));
	bytes_begin(&b, true, true, ALL);
	ASSERT_EQ(0, feed(w, CHANNEL_MAIN, &b, NULL));
	EXPECT_EQ(0, say_id(w, &who, &err));
	EXPECT_EQ(-EPROTO, say_id(w, &who, &err));
	EXPECT_NE(NULL, strstr(err.text, "second time"));
	bytes_free(&b);
	world_free(w);
}

TEST_HARNESS_MAIN
