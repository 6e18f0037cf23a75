/* SPDX-License-Identifier: GPL-2.0 */
/* Pages on channels of their own, and what they wait for: postcopy/dest_multifd.c */
#include "base/bytes.h"
#include "selftests/postcopy/dest_bytes.h"

#include "kselftest_harness.h"

#define RAM_PAGES (world_blocks[RAM].used / TARGET_PAGE)
#define SECOND_NS UINT64_C(1000000000)

FIXTURE(multifd)
{
	struct world *w;
	struct dest *d;
	struct bytes b;
	struct wh_err err;
	uint64_t number; /* of the next packet */
};

static int anew(FIXTURE_DATA(multifd) *self)
{
	if (self->w)
		world_free(self->w);
	bytes_free(&self->b);
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->d->multifd.gathered = false;
	self->d->config.gather_wait_ns = 3 * SECOND_NS;
	self->d->config.lane_wait_ns = 2 * SECOND_NS;
	return dest_connected(self->d, CHANNEL_MAIN, &self->err);
}

FIXTURE_SETUP(multifd)
{
	memset(self, 0, sizeof(*self));
	ASSERT_EQ(0, anew(self));
}

FIXTURE_TEARDOWN(multifd)
{
	world_free(self->w);
	bytes_free(&self->b);
}

static int lane_open(FIXTURE_DATA(multifd) *self, uint8_t channel)
{
	struct multifd_hello hello = { .channel = channel };

	return dest_lane_open(self->d, &hello, 0, &self->err);
}

/* Return: as dest_lane_head() */
static int say(FIXTURE_DATA(multifd) *self, unsigned lane, struct multifd_packet *packet)
{
	uint8_t head[MULTIFD_HEAD_BYTES];

	packet->number = self->number++;
	packet->bytes = packet->normal * (uint32_t)TARGET_PAGE;
	if (packet->normal + packet->zero && !packet->block.length)
		wire_name_set(&packet->block, world_blocks[RAM].name);
	multifd_put_head(head, packet);
	return dest_lane_head(self->d, lane, head, 0, &self->err);
}

static int say_sync(FIXTURE_DATA(multifd) *self, unsigned lane)
{
	struct multifd_packet packet = { .sync = true };

	return say(self, lane, &packet);
}

/* A page of these bytes */
static int say_page_and(FIXTURE_DATA(multifd) *self, unsigned lane, uint64_t page, uint8_t byte,
			bool sync)
{
	struct multifd_packet packet = { .normal = 1,
					 .offset = { page * TARGET_PAGE },
					 .sync = sync };
	struct iovec room[MULTIFD_PAGES];
	int ret = say(self, lane, &packet);

	if (ret < 0)
		return ret;
	if (dest_lane_state(self->d, lane) != LANE_CONTENTS ||
	    dest_lane_room(self->d, lane, room) != 1 || room[0].iov_len != TARGET_PAGE)
		return -EINVAL;
	memset(room[0].iov_base, byte, TARGET_PAGE);
	return dest_lane_contents(self->d, lane, 0, &self->err);
}

static int say_page(FIXTURE_DATA(multifd) *self, unsigned lane, uint64_t page, uint8_t byte)
{
	return say_page_and(self, lane, page, byte, false);
}

static void put_flush(struct bytes *b)
{
	put_be64(bytes_room(b, 8), RAM_MULTIFD_FLUSH);
	b->length += 8;
}

/* Header and block list; a QEMU of 8.1 has a flush in it */
static void put_start(struct bytes *b, bool flush)
{
	uint8_t end[8 + 5];

	bytes_begin(b, true, false, ALL);
	if (!flush)
		return;
	b->length -= sizeof(end);
	memcpy(end, b->at + b->length, sizeof(end));
	put_flush(b);
	bytes_add(b, end, sizeof(end));
}

/* What is not taken, at a mark, comes again in front of what is said next */
static int main_says(FIXTURE_DATA(multifd) *self)
{
	size_t used;
	int ret =
		dest_input(self->d, CHANNEL_MAIN, self->b.at, self->b.length, &used, 0, &self->err);

	self->b.length -= used;
	memmove(self->b.at, self->b.at + used, self->b.length);
	return ret;
}

/* Two lanes, and the main channel at the first mark; all have come to it */
static int begin(FIXTURE_DATA(multifd) *self, bool flush)
{
	int ret;

	lane_open(self, 0);
	lane_open(self, 1);
	say_sync(self, 0);
	say_sync(self, 1);
	put_start(&self->b, flush);
	ret = main_says(self);
	dest_multifd_gathered(self->d);
	return ret == DEST_MARK && !dest_multifd_waits(self->d) && dest_multifd_begun(self->d) ?
		       main_says(self) :
		       -EINVAL;
}

static uint8_t ram_byte(FIXTURE_DATA(multifd) *self, uint64_t page)
{
	return self->w->region[RAM].addr[page * TARGET_PAGE];
}

TEST_F(multifd, pages_and_zero_pages_arrive)
{
	struct multifd_packet zero = { .zero = 2, .offset = { 5 * TARGET_PAGE, TARGET_PAGE } };

	ASSERT_EQ(0, begin(self, true));
	self->w->region[RAM].addr[TARGET_PAGE] = 9;
	ASSERT_EQ(0, say_page(self, 1, 3, 0x33));
	ASSERT_EQ(0, say(self, 0, &zero));
	ASSERT_EQ(0x33, ram_byte(self, 3));
	ASSERT_EQ(0, ram_byte(self, 1));
	for (unsigned page = 0; page < 7; page++)
		ASSERT_EQ(page == 1 || page == 3 || page == 5,
			  bits_test(self->d->block[0].received, page));
	ASSERT_EQ(1, self->d->counters.pages_normal);
	ASSERT_EQ(2, self->d->counters.pages_zero);
}

/* In whatever order they come to it, nobody goes on from a mark before all have */
TEST_F(multifd, nobody_is_overtaken)
{
	for (unsigned last = 0; last < 3; last++) {
		ASSERT_EQ(0, anew(self));
		ASSERT_EQ(0, begin(self, true));
		for (unsigned i = 0; i < 3; i++) {
			unsigned who = (last + 1 + i) % 3;

			if (who < 2) {
				ASSERT_EQ(0, say_sync(self, who));
			} else {
				bytes_part(&self->b, SECTION_PART);
				put_flush(&self->b);
				ASSERT_EQ(i == 2 ? 0 : DEST_MARK, main_says(self));
			}
			for (unsigned lane = 0; lane < 2 && i < 2; lane++)
				ASSERT_EQ(self->d->multifd.lane[lane].syncs == 2 ? LANE_HELD :
										   LANE_HEAD,
					  dest_lane_state(self->d, lane));
		}
		ASSERT_FALSE(dest_multifd_waits(self->d));
		ASSERT_EQ(LANE_HEAD, dest_lane_state(self->d, 0));
		ASSERT_EQ(LANE_HEAD, dest_lane_state(self->d, 1));
	}
}

/* The mark of machine types up to 8.0 is the end of each section */
TEST_F(multifd, the_first_section_shows_what_is_a_mark)
{
	ASSERT_EQ(0, begin(self, false));
	bytes_part(&self->b, SECTION_PART);
	bytes_eos(&self->b);
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_EQ(0, say_sync(self, 0));
	ASSERT_EQ(0, say_sync(self, 1));
	ASSERT_FALSE(dest_multifd_waits(self->d));

	ASSERT_EQ(0, anew(self));
	ASSERT_EQ(0, begin(self, true));
	bytes_part(&self->b, SECTION_PART);
	bytes_eos(&self->b);
	ASSERT_EQ(0, main_says(self));
	ASSERT_FALSE(dest_multifd_waits(self->d));
}

TEST_F(multifd, without_channels_nobody_waits)
{
	put_start(&self->b, false);
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_TRUE(dest_multifd_gathers(self->d));
	dest_multifd_gathered(self->d);
	ASSERT_FALSE(dest_multifd_waits(self->d));
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, RAM, 0, 4);
	bytes_eos(&self->b);
	ASSERT_EQ(0, main_says(self));
	/* and a stranger who would be one is sent away */
	ASSERT_EQ(-EPROTO, lane_open(self, 0));
	ASSERT_EQ(DEST_PRECOPY, dest_get_phase(self->d));
}

/* Return: of dest_step() at this time */
static int step(FIXTURE_DATA(multifd) *self, uint64_t now_ns)
{
	uint64_t wake_ns;

	self->err = (struct wh_err){ 0 };
	return dest_step(self->d, now_ns, &wake_ns, &self->err);
}

TEST_F(multifd, a_channel_that_never_comes)
{
	lane_open(self, 0);
	lane_open(self, 2);
	say_sync(self, 0);
	say_sync(self, 2);
	put_start(&self->b, true);
	ASSERT_EQ(DEST_MARK, main_says(self));
	dest_multifd_gathered(self->d);
	ASSERT_TRUE(dest_multifd_waits(self->d));
	ASSERT_EQ(0, step(self, 3 * SECOND_NS - 1));
	ASSERT_EQ(-ETIMEDOUT, step(self, 3 * SECOND_NS));
	ASSERT_STREQ("multifd: 2 channels have come, and others not within 3000 ms",
		     self->err.text);
	ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
}

TEST_F(multifd, fewer_than_were_to_come)
{
	self->d->config.lanes = 3;
	ASSERT_EQ(-EINVAL, begin(self, true));
	ASSERT_EQ(2, self->d->multifd.lanes);
	ASSERT_EQ(0, lane_open(self, 2) - 2);
	ASSERT_EQ(0, say_sync(self, 2));
	ASSERT_FALSE(dest_multifd_waits(self->d));
}

TEST_F(multifd, one_that_says_nothing_at_a_mark)
{
	ASSERT_EQ(0, begin(self, true));
	bytes_part(&self->b, SECTION_PART);
	put_flush(&self->b);
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_EQ(0, say_sync(self, 0));
	ASSERT_EQ(0, step(self, SECOND_NS));
	ASSERT_EQ(-ETIMEDOUT, step(self, 2 * SECOND_NS));
	ASSERT_STREQ("multifd channel 1: nothing has come for 2000 ms", self->err.text);
}

TEST_F(multifd, one_too_many_and_one_twice)
{
	static const char *const sentences[] = {
		"multifd channel 2: one too many, at most 2 are taken",
		"multifd channel 1: there is one of that number already",
	};

	for (unsigned i = 0; i < 2; i++) {
		ASSERT_EQ(0, anew(self));
		self->d->config.lanes = 2;
		ASSERT_EQ(0, lane_open(self, 0));
		ASSERT_EQ(1, lane_open(self, 1));
		ASSERT_EQ(-EPROTO, lane_open(self, i ? 1 : 2));
		ASSERT_STREQ(sentences[i], self->err.text);
		ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
	}
}

TEST_F(multifd, one_of_another_guest)
{
	struct multifd_hello other = { .channel = 1, .uuid = "another guest's" };

	ASSERT_EQ(0, lane_open(self, 0));
	ASSERT_EQ(-EPROTO, dest_lane_open(self->d, &other, 0, &self->err));
	ASSERT_STREQ("multifd channel 1: it is of another guest than those before", self->err.text);
}

TEST_F(multifd, one_that_comes_late)
{
	ASSERT_EQ(0, begin(self, true));
	ASSERT_EQ(-EPROTO, lane_open(self, 2));
	ASSERT_STREQ("multifd channel 2: it comes when the pages have begun", self->err.text);
	ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
}

/* What it would have brought is missing in the numbers of those that came */
TEST_F(multifd, one_that_nobody_has_heard_of)
{
	struct multifd_packet end = { .sync = true };

	ASSERT_EQ(0, begin(self, true));
	self->number += 2;
	ASSERT_EQ(0, say(self, 0, &end));
	ASSERT_EQ(0, say_sync(self, 1));
	bytes_part(&self->b, SECTION_END);
	put_flush(&self->b);
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_EQ(-ETIMEDOUT, step(self, 2 * SECOND_NS));
	ASSERT_STREQ("multifd: 2 packets are missing at the end", self->err.text);
	ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
	ASSERT_EQ(0, self->w->starts);
}

/*
 * 7.2: a packet with pages and SYNC, under the SYNC's number, and an empty one of that number behind it,
 * or not
 */
static void ends_with_both_in_one(FIXTURE_DATA(multifd) *self, struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, anew(self));
	ASSERT_EQ(0, begin(self, false));
	self->number++;
	ASSERT_EQ(0, say_page_and(self, 0, 3, 0x33, true));
	self->number++;
	ASSERT_EQ(0, say_page_and(self, 1, 4, 0x44, true));
	bytes_part(&self->b, SECTION_END);
	bytes_eos(&self->b);
}

TEST_F(multifd, the_last_packet_is_behind_its_sync)
{
	struct multifd_packet empty = { 0 };

	ends_with_both_in_one(self, _metadata);
	ASSERT_EQ(0, main_says(self));
	ASSERT_FALSE(dest_multifd_waits(self->d));
	ASSERT_EQ(LANE_HEAD, dest_lane_state(self->d, 0));
	self->number = 3;
	ASSERT_EQ(0, say(self, 0, &empty));
	ASSERT_EQ(0x33, ram_byte(self, 3));
	ASSERT_EQ(0x44, ram_byte(self, 4));
	dest_lane_lost(self->d, 1, false, NULL);
	ASSERT_EQ(DEST_PRECOPY, dest_get_phase(self->d));
}

/* Which is no excuse for anything else that is missing */
TEST_F(multifd, behind_a_sync_nothing_else_is_missing)
{
	struct multifd_packet empty = { 0 };

	ends_with_both_in_one(self, _metadata);
	self->d->multifd.numbers++;
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_TRUE(dest_multifd_waits(self->d));

	/* it has come: it is owed no more */
	ends_with_both_in_one(self, _metadata);
	self->number--;
	ASSERT_EQ(0, say(self, 1, &empty));
	self->d->multifd.numbers++;
	ASSERT_EQ(DEST_MARK, main_says(self));
	ASSERT_TRUE(dest_multifd_waits(self->d));
}

TEST_F(multifd, one_that_dies)
{
	ASSERT_EQ(0, begin(self, true));
	dest_lane_lost(self->d, 1, false, NULL);
	ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
	ASSERT_STREQ("multifd channel 1: the source closed it in phase 'precopy'",
		     self->w->reason.text);
	/* the source has the guest, and hears so */
	ASSERT_EQ(RP_SHUT, self->w->sent[self->w->sents - 1].kind);
	ASSERT_EQ(1, self->w->sent[self->w->sents - 1].shut.value);
}

struct lie {
	struct multifd_packet packet;
	const char *block;
	const char *sentence;
};

TEST_F(multifd, lies)
{
	static const struct lie lies[] = {
		{ { .normal = 1, .offset = { UINT64_C(6) << 20 } },
		  "pc.ram",
		  "multifd channel 0: page at 0x600000 of block pc.ram, which has 0x600000 bytes" },
		{ { .normal = 1, .zero = 1, .offset = { 0, UINT64_C(1) << 40 } },
		  "pc.ram",
		  "multifd channel 0: page at 0x10000000000 of block pc.ram, which has 0x600000 bytes" },
		{ { .zero = 1 }, "pc.rom", "multifd channel 0: pages of unknown block pc.rom" },
		{ { .normal = 1, .method = MULTIFD_ZLIB },
		  "pc.ram",
		  "multifd channel 0: pages compressed by zlib, which is not supported: none and zstd are" },
		{ { .normal = 1, .method = MULTIFD_QATZIP },
		  "pc.ram",
		  "multifd channel 0: pages compressed by qatzip, which is not supported: none and zstd are" },
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct multifd_packet packet = lies[i].packet;

		ASSERT_EQ(0, anew(self));
		ASSERT_EQ(0, begin(self, true));
		wire_name_set(&packet.block, lies[i].block);
		ASSERT_EQ(-EPROTO, say(self, 0, &packet));
		ASSERT_STREQ(lies[i].sentence, self->err.text);
		ASSERT_EQ(DEST_FAILED, dest_get_phase(self->d));
	}
}

TEST_F(multifd, pages_in_front_of_the_first_mark)
{
	struct multifd_packet packet = { .zero = 1 };

	lane_open(self, 0);
	ASSERT_EQ(-EPROTO, say(self, 0, &packet));
	ASSERT_STREQ("multifd channel 0: pages in front of the first mark", self->err.text);
}

TEST_F(multifd, pages_when_postcopy_has_begun)
{
	struct multifd_packet packet = { .zero = 1 };

	lane_open(self, 0);
	say_sync(self, 0);
	bytes_begin(&self->b, true, true, ALL);
	dest_multifd_gathered(self->d);
	ASSERT_EQ(0, main_says(self));
	bytes_switch(&self->b);
	ASSERT_EQ(0, main_says(self));
	ASSERT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	ASSERT_EQ(-EPROTO, say(self, 0, &packet));
	ASSERT_STREQ("multifd channel 0: pages in phase 'running'", self->err.text);
}

TEST_HARNESS_MAIN
