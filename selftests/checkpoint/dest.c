/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A source that is a stranger: every number in what it says, and every message out of its turn.
 * What it may say in the ordinary way is the simulator's (sim.c).
 */
#include "checkpoint/dest.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define GENERATION 9u
#define PAGE 4096u
#define PAGES 8u

FIXTURE(dest)
{
	struct cp_dest dest;
	struct wh_err err;
	struct cp_hash hash;
	struct cp_msg totals;
	uint8_t bytes[CP_HEADER + 4096 * CP_ENTRY];
	unsigned said[CP_KIND_COUNT];
	char reason[256]; /* of the last NACK */
	unsigned entries, verify, drop, keep, run, persist;
	int entry_ret, persist_ret;
};

static int say(void *world, struct cp_header *header, const struct cp_msg *msg, struct wh_err *err)
{
	FIXTURE_DATA(dest) *self = world;

	(void)err;
	self->said[header->kind]++;
	if (header->kind == CP_NACK)
		strcpy(self->reason, msg->nack.reason.text);
	return 0;
}

static int block(void *world, uint32_t index, const struct cp_block *block, struct wh_err *err)
{
	(void)world;
	(void)index;
	return strcmp(block->name.text, "none") ? 0 : err_set(err, -ENOENT, "no such block");
}

static int entry(void *world, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	FIXTURE_DATA(dest) *self = world;

	(void)entry;
	(void)full;
	self->entries++;
	return self->entry_ret ? err_set(err, self->entry_ret, "no\troom") : 0;
}

static void verify(void *world, uint64_t epoch, bool full)
{
	(void)epoch;
	(void)full;
	((FIXTURE_DATA(dest) *)world)->verify++;
}

static void drop(void *world)
{
	((FIXTURE_DATA(dest) *)world)->drop++;
}

static void keep(void *world, uint64_t epoch)
{
	(void)epoch;
	((FIXTURE_DATA(dest) *)world)->keep++;
}

static int persist(void *world, uint64_t generation, struct wh_err *err)
{
	FIXTURE_DATA(dest) *self = world;

	(void)generation;
	self->persist++;
	return self->persist_ret ? err_set(err, self->persist_ret, "a full disk") : 0;
}

static void run(void *world)
{
	((FIXTURE_DATA(dest) *)world)->run++;
}

static const struct cp_dest_ops ops = {
	.say = say,
	.block = block,
	.entry = entry,
	.verify = verify,
	.drop = drop,
	.keep = keep,
	.persist = persist,
	.run = run,
};

FIXTURE_SETUP(dest)
{
	const struct cp_dest_settings settings = {
		.generation = GENERATION - 1,
		.contents_max = 64 * PAGE,
		.device_max = 100,
		.features = CP_FEATURES,
	};

	memset(self, 0, sizeof(*self));
	cp_dest_init(&self->dest, &ops, self, &settings, 0);
}

FIXTURE_TEARDOWN(dest)
{
}

/* A message as it would come; @length: of the payload, of kinds that have bytes */
static int heard(FIXTURE_DATA(dest) *self, enum cp_kind kind, uint64_t epoch,
		 const struct cp_msg *msg, uint32_t length)
{
	struct cp_header header = {
		.kind = kind,
		.generation = GENERATION,
		.epoch = epoch,
		.length = length,
	};
	static const struct cp_msg nothing;
	size_t put = cp_put(self->bytes, &header, msg ? msg : &nothing);
	int ret;

	if (cp_has_bytes(kind))
		put = CP_HEADER + length;
	if (kind == CP_BEGIN)
		cp_hash_begin(&self->hash);
	if (kind == CP_BEGIN || cp_has_bytes(kind))
		cp_hash_add(&self->hash, self->bytes, put);
	memset(&self->err, 0, sizeof(self->err));
	ret = cp_header_get(self->bytes, CP_FROM_SOURCE, &header, &self->err);
	if (!ret)
		ret = cp_dest_message(&self->dest, &header, self->bytes, 1, &self->err);
	return ret;
}

static int hello(FIXTURE_DATA(dest) *self)
{
	struct cp_msg msg = { .hello = {
				      .features = CP_FEATURE(CP_ZERO) | CP_FEATURE(CP_ZSTD),
				      .blocks = 1,
				      .contents_max = 16 * PAGE,
				      .device_max = 50,
				      .heartbeat_ns = 1000,
				      .lease_ns = 10000,
			      } };
	int ret = heard(self, CP_HELLO, 0, &msg, 0);

	if (ret < 0)
		return ret;
	msg.block.length = PAGES * PAGE;
	msg.block.page_size = PAGE;
	wire_name_set(&msg.block.name, "ram");
	return heard(self, CP_BLOCK, 0, &msg, 0);
}

static int begin(FIXTURE_DATA(dest) *self, uint64_t epoch)
{
	struct cp_msg msg = { .begin = { .full = epoch == 1 } };

	self->totals = (struct cp_msg){ .commit = { 0 } };
	return heard(self, CP_BEGIN, epoch, &msg, 0);
}

static int described(FIXTURE_DATA(dest) *self, uint64_t epoch, const struct cp_entry *entry)
{
	cp_entry_put(self->bytes + CP_HEADER, entry);
	self->totals.commit.entries++;
	self->totals.commit.contents += entry->bytes;
	return heard(self, CP_META, epoch, NULL, CP_ENTRY);
}

static int commit(FIXTURE_DATA(dest) *self, uint64_t epoch)
{
	self->totals.commit.hash = cp_hash_end(&self->hash);
	return heard(self, CP_COMMIT, epoch, &self->totals, 0);
}

/* The first, of nothing but a page of zeros */
static int first(FIXTURE_DATA(dest) *self)
{
	const struct cp_entry zero = { .content = CP_ZERO, .pages = 1 };
	int ret = hello(self);

	if (!ret)
		ret = begin(self, 1);
	if (!ret)
		ret = described(self, 1, &zero);
	if (!ret)
		ret = commit(self, 1);
	if (!ret)
		cp_dest_verified(&self->dest, NULL, 1);
	cp_dest_applied(&self->dest, 1);
	return ret;
}

#define REFUSED(call, words)                                                                 \
	do {                                                                                 \
		EXPECT_EQ(-EPROTO, call);                                                    \
		EXPECT_NE(NULL, strstr(self->err.text, words)) TH_LOG("%s", self->err.text); \
	} while (0)

TEST_F(dest, hello_of_strangers)
{
	const struct cp_msg good = { .hello = { .blocks = 1, .heartbeat_ns = 1, .lease_ns = 1 } };
	struct cp_msg msg = good;

	msg.hello.blocks = 0;
	REFUSED(heard(self, CP_HELLO, 0, &msg, 0), "0 blocks");
	msg.hello.blocks = CP_BLOCKS_MAX + 1;
	REFUSED(heard(self, CP_HELLO, 0, &msg, 0), "65 blocks");
	msg = good;
	msg.hello.heartbeat_ns = 0;
	REFUSED(heard(self, CP_HELLO, 0, &msg, 0), "heartbeat");
	msg = good;
	msg.hello.lease_ns = UINT64_MAX;
	REFUSED(heard(self, CP_HELLO, 0, &msg, 0), "lease");
	msg = good;
	msg.hello.contents_max = 64 * PAGE + 1;
	EXPECT_EQ(-ENOSPC, heard(self, CP_HELLO, 0, &msg, 0));
	msg = good;
	msg.hello.device_max = 101;
	EXPECT_EQ(-ENOSPC, heard(self, CP_HELLO, 0, &msg, 0));
	/* an old session, or one that was taken over */
	self->dest.set.generation = GENERATION;
	EXPECT_EQ(-ESTALE, heard(self, CP_HELLO, 0, &good, 0));
	EXPECT_EQ(0, self->said[CP_READY]);
}

TEST_F(dest, blocks_of_strangers)
{
	struct cp_msg msg = { .hello = { .blocks = 2, .heartbeat_ns = 1, .lease_ns = 1 } };
	static const uint64_t wrong[][2] = {
		{ PAGE, 0 },
		{ PAGE, 2048 },
		{ 3 * PAGE, 3 * PAGE },
		{ 0, PAGE },
		{ PAGE + 1, PAGE },
		{ PAGE, 2 * PAGE },
		{ UINT64_C(1) << 62, UINT64_C(1) << 62 },
	};

	ASSERT_EQ(0, heard(self, CP_HELLO, 0, &msg, 0));
	REFUSED(heard(self, CP_HELLO, 0, &msg, 0), "second HELLO");
	REFUSED(begin(self, 1), "before all blocks");
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		msg.block.length = wrong[i][0];
		msg.block.page_size = wrong[i][1];
		wire_name_set(&msg.block.name, "ram");
		REFUSED(heard(self, CP_BLOCK, 0, &msg, 0), "block ram");
	}
	msg.block.length = msg.block.page_size = PAGE;
	wire_name_set(&msg.block.name, "none");
	EXPECT_EQ(-ENOENT, heard(self, CP_BLOCK, 0, &msg, 0));
	wire_name_set(&msg.block.name, "ram");
	EXPECT_EQ(0, heard(self, CP_BLOCK, 0, &msg, 0));
	EXPECT_EQ(0, self->said[CP_READY]);
	EXPECT_EQ(0, heard(self, CP_BLOCK, 0, &msg, 0));
	EXPECT_EQ(1, self->said[CP_READY]);
	REFUSED(heard(self, CP_BLOCK, 0, &msg, 0), "too many");
}

TEST_F(dest, runs_of_strangers)
{
	static const struct cp_entry wrong[] = {
		{ .block = 1, .pages = 1, .bytes = PAGE },
		{ .pages = PAGES + 1, .bytes = (PAGES + 1) * PAGE },
		{ .pages = 1, .first = PAGES, .bytes = PAGE },
		{ .pages = 2, .first = PAGES - 1, .bytes = 2 * PAGE },
		{ .pages = 2, .first = UINT64_MAX, .bytes = 2 * PAGE },
		{ .pages = 1, .bytes = PAGE - 1 },
		{ .pages = 1, .bytes = 0 },
		{ .content = CP_ZERO, .pages = 1, .bytes = 1 },
		{ .content = CP_XBZRLE, .pages = 1, .bytes = 10 }, /* not agreed on */
		{ .content = CP_ZSTD, .pages = 1, .bytes = 0 },
		{ .content = CP_ZSTD, .pages = 1, .bytes = PAGE },
	};

	ASSERT_EQ(0, first(self));
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct cp_dest before = self->dest;

		ASSERT_EQ(0, begin(self, 2));
		EXPECT_EQ(-EPROTO, described(self, 2, &wrong[i])) TH_LOG("run %u", i);
		EXPECT_EQ(1, self->entries);
		self->dest = before;
	}
}

/* No more than was agreed on, however often it is said */
TEST_F(dest, too_much)
{
	const struct cp_entry plain = { .pages = PAGES, .bytes = PAGES * PAGE };
	const struct cp_entry zero = { .content = CP_ZERO, .pages = PAGES };

	ASSERT_EQ(0, first(self));
	ASSERT_EQ(0, begin(self, 2));
	EXPECT_EQ(0, described(self, 2, &plain));
	EXPECT_EQ(0, described(self, 2, &plain));
	REFUSED(heard(self, CP_PAGES, 2, NULL, 17 * PAGE), "are described");
	REFUSED(described(self, 2, &plain), "bytes of contents");
	EXPECT_EQ(0, heard(self, CP_DEVICE, 2, NULL, 50));
	REFUSED(heard(self, CP_DEVICE, 2, NULL, 1), "over 50 bytes");
	cp_dest_lost(&self->dest, NULL, 1);
	EXPECT_EQ(1, self->drop);
	self->dest.state = CP_DEST_READY;
	ASSERT_EQ(0, begin(self, 2));
	for (unsigned i = 0; i < 4; i++)
		EXPECT_EQ(0, described(self, 2, &zero));
	REFUSED(described(self, 2, &zero), "four times");
}

TEST_F(dest, commits_that_lie)
{
	const struct cp_entry plain = { .pages = 1, .bytes = PAGE };
	struct cp_dest before;

	ASSERT_EQ(0, first(self));
	ASSERT_EQ(0, begin(self, 2));
	ASSERT_EQ(0, described(self, 2, &plain));
	/* a page is described and was not sent */
	before = self->dest;
	REFUSED(commit(self, 2), "are here");
	self->dest = before;
	ASSERT_EQ(0, heard(self, CP_PAGES, 2, NULL, PAGE));
	before = self->dest;
	for (unsigned i = 0; i < 3; i++) {
		uint64_t *total = i == 0 ? &self->totals.commit.entries :
				  i == 1 ? &self->totals.commit.contents :
					   &self->totals.commit.device;

		++*total;
		REFUSED(commit(self, 2), "are here");
		--*total;
	}
	self->hash.state[8] ^= 1;
	REFUSED(commit(self, 2), "hash");
	self->hash.state[8] ^= 1;
	EXPECT_EQ(1, self->verify);
	EXPECT_EQ(0, commit(self, 2));
	EXPECT_EQ(2, self->verify);
}

TEST_F(dest, epochs_out_of_turn)
{
	struct cp_msg full = { .begin = { .full = 1 } };
	struct cp_hash hash;

	ASSERT_EQ(0, hello(self));
	REFUSED(begin(self, 2), "behind 0");
	REFUSED(commit(self, 1), "outside of it");
	ASSERT_EQ(0, begin(self, 1));
	hash = self->hash;
	REFUSED(begin(self, 1), "in another");
	REFUSED(heard(self, CP_DEVICE, 2, NULL, 1), "outside of it");
	self->hash = hash;
	ASSERT_EQ(0, commit(self, 1));
	cp_dest_verified(&self->dest, NULL, 1);
	EXPECT_EQ(1, self->said[CP_ACK]);
	REFUSED(begin(self, 1), "behind 1");
	REFUSED(begin(self, 3), "behind 1");
	REFUSED(heard(self, CP_BEGIN, 2, &full, 0), "full: 1");
}

/* Refused for want of room: the rest is passed over, and the same epoch may come again */
TEST_F(dest, no_room)
{
	const struct cp_entry plain = { .pages = 1, .bytes = PAGE };

	ASSERT_EQ(0, first(self));
	ASSERT_EQ(0, begin(self, 2));
	self->entry_ret = -ENOSPC;
	EXPECT_EQ(0, described(self, 2, &plain));
	EXPECT_EQ(1, self->said[CP_NACK]);
	EXPECT_EQ(1, self->drop);
	EXPECT_EQ(0, heard(self, CP_PAGES, 2, NULL, PAGE));
	EXPECT_EQ(0, commit(self, 2));
	EXPECT_EQ(1, self->said[CP_ACK]);
	self->entry_ret = 0;
	EXPECT_EQ(0, begin(self, 2));
	EXPECT_EQ(0, described(self, 2, &plain));
	EXPECT_EQ(0, heard(self, CP_PAGES, 2, NULL, PAGE));
	EXPECT_EQ(0, commit(self, 2));
	cp_dest_verified(&self->dest, NULL, 1);
	EXPECT_EQ(2, self->said[CP_ACK]);
	EXPECT_EQ(2, self->dest.complete);
}

TEST_F(dest, decisions)
{
	struct wh_err err = { 0 };

	/* nothing to run from */
	ASSERT_EQ(0, hello(self));
	EXPECT_EQ(-EINVAL, cp_dest_takeover(&self->dest, GENERATION + 1, &err));
	self->dest.block_count = self->dest.blocks_seen = 0;
	self->dest.generation = 0;
	ASSERT_EQ(0, first(self));
	/* no higher generation, or one that would not outlive us */
	EXPECT_EQ(-ESTALE, cp_dest_takeover(&self->dest, GENERATION, &err));
	self->persist_ret = -ENOSPC;
	EXPECT_EQ(-ENOSPC, cp_dest_takeover(&self->dest, GENERATION + 1, &err));
	EXPECT_EQ(CP_DEST_READY, self->dest.state);
	self->persist_ret = 0;
	EXPECT_EQ(0, cp_dest_takeover(&self->dest, GENERATION + 1, &err));
	EXPECT_EQ(1, self->run);
	/* who does not know yet is told */
	EXPECT_EQ(1, self->said[CP_TAKEOVER_NOTICE]);
	EXPECT_EQ(-ESTALE, begin(self, 2));
	EXPECT_EQ(2, self->said[CP_TAKEOVER_NOTICE]);
	EXPECT_EQ(-EINVAL, cp_dest_abandon(&self->dest, &err));
	EXPECT_EQ(1, self->said[CP_ACK]);
}

/* On its own only if that was agreed on, and only behind the lease */
TEST_F(dest, the_lease)
{
	ASSERT_EQ(0, first(self));
	cp_dest_step(&self->dest, 10001);
	EXPECT_EQ(CP_DEST_READY, self->dest.state);
	cp_dest_step(&self->dest, 10002);
	EXPECT_EQ(CP_DEST_SUSPECT, self->dest.state);
	EXPECT_EQ(UINT64_MAX, cp_dest_step(&self->dest, 1000000));
	EXPECT_EQ(0, self->run);
	self->dest.set.authority = CP_ON_OUR_OWN;
	self->persist_ret = -EROFS;
	EXPECT_NE(UINT64_MAX, cp_dest_step(&self->dest, 1000001));
	EXPECT_EQ(0, self->run);
	self->persist_ret = 0;
	cp_dest_step(&self->dest, 1000002);
	EXPECT_EQ(1, self->run);
}

/* Who was told so waits for one in parts, and takes no other; and what it has, it can run from */
TEST_F(dest, degraded)
{
	struct cp_msg msg = { .begin = { .full = 1 } };
	const struct cp_entry run = { .pages = 6, .bytes = 6 * PAGE };
	const struct wh_err why = { -EIO, "not like this" };

	ASSERT_EQ(0, hello(self));
	wire_name_set(&msg.degrade.reason, "too much");
	EXPECT_EQ(-EPROTO, heard(self, CP_DEGRADE, 1, &msg, 0));
	self->dest.block_count = self->dest.blocks_seen = 0;
	self->dest.generation = 0;
	ASSERT_EQ(0, first(self));
	msg.begin.full = 1;
	EXPECT_EQ(-EPROTO, heard(self, CP_BEGIN, 2, &msg, 0));
	wire_name_set(&msg.degrade.reason, "too much");
	ASSERT_EQ(0, heard(self, CP_DEGRADE, 2, &msg, 0));
	EXPECT_EQ(CP_DEST_READY, self->dest.state);
	EXPECT_EQ(1, self->said[CP_ACK]);
	EXPECT_EQ(-EPROTO, begin(self, 2));
	EXPECT_NE(NULL, strstr(self->err.text, "degraded"));
	msg.begin.full = 1;
	self->totals = (struct cp_msg){ .commit = { 0 } };
	ASSERT_EQ(0, heard(self, CP_BEGIN, 2, &msg, 0));
	/* more than one of the others may have */
	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQ(0, described(self, 2, &run));
		ASSERT_EQ(0, heard(self, CP_PAGES, 2, NULL, 6 * PAGE));
	}
	EXPECT_TRUE(self->dest.degraded);
	cp_dest_applied(&self->dest, 1);
	ASSERT_EQ(0, commit(self, 2));
	/* refused, it is still so */
	cp_dest_verified(&self->dest, &why, 1);
	EXPECT_EQ(1, self->said[CP_NACK]);
	EXPECT_STREQ("not like this", self->reason);
	EXPECT_TRUE(self->dest.degraded);
	EXPECT_EQ(1, self->dest.complete);
	self->totals = (struct cp_msg){ .commit = { 0 } };
	msg.begin.full = 1;
	ASSERT_EQ(0, heard(self, CP_BEGIN, 2, &msg, 0));
	ASSERT_EQ(0, commit(self, 2));
	cp_dest_verified(&self->dest, NULL, 1);
	EXPECT_FALSE(self->dest.degraded);
	EXPECT_EQ(2, self->said[CP_ACK]);
	cp_dest_applied(&self->dest, 1);
	ASSERT_EQ(0, begin(self, 3));
}

TEST_HARNESS_MAIN
