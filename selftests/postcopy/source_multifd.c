/* SPDX-License-Identifier: GPL-2.0 */
/* Pages on lanes, and what the main channel has of them: postcopy/source_multifd.c */
#include "selftests/postcopy/source_world.h"

#include "kselftest_harness.h"

#define LANES 3

static const struct world_block blocks[] = {
	{ "pc.ram", 600, 4096 },
	{ "pc.bios", 64, 4096 },
};

FIXTURE(lanes)
{
	struct world w;
	struct source_packet packet[LANES];
	bool sending[LANES];
	uint64_t syncs[LANES];
	uint64_t packets;
	unsigned normal;
	bool broken; /* a packet is not what it should be */
};

FIXTURE_VARIANT(lanes)
{
	bool by_section;
};

FIXTURE_VARIANT_ADD(lanes, by_round){};

FIXTURE_VARIANT_ADD(lanes, by_section){
	.by_section = true,
};

FIXTURE_SETUP(lanes)
{
	const struct source_config config = {
		.downtime_ns = 1,
		.return_path = true,
		.dead_peer_ns = 5 * WORLD_S,
		.lanes = LANES,
		.lanes_by_section = variant->by_section,
	};

	memset(self, 0, sizeof(*self));
	world_init(&self->w, &config, blocks, 2);
	world_scribble(&self->w);
	for (uint64_t page = 100; page < 300; page++)
		memset(world_page(&self->w, 0, page), 0, TARGET_PAGE);
	source_connected(self->w.source, self->w.now_ns);
}

FIXTURE_TEARDOWN(lanes)
{
	world_fini(&self->w);
}

/* As the destination does: into the model's memory, straight away */
static void take(FIXTURE_DATA(lanes) *self, unsigned lane)
{
	const struct source_packet *packet = &self->packet[lane];
	const struct multifd_packet *head = &packet->head;

	self->broken |= head->number != self->packets || head->zero || (head->sync && head->normal);
	self->packets++;
	self->syncs[lane] += head->sync;
	self->normal += head->normal;
	for (unsigned i = 0; i < head->normal; i++) {
		uint8_t *at = world_page(&self->w, packet->block, head->offset[i] / TARGET_PAGE);

		self->broken |= packet->page[i].iov_base != at;
		memcpy(self->w.model.copy[packet->block] + head->offset[i], at, TARGET_PAGE);
	}
	self->broken |= head->normal && strcmp(head->block.text, blocks[packet->block].name) != 0;
}

static bool pump(FIXTURE_DATA(lanes) *self)
{
	bool any = false;

	for (unsigned i = 0; i < LANES; i++) {
		if (!source_lane_next(self->w.source, i, self->w.now_ns, &self->packet[i]))
			continue;
		take(self, i);
		source_lane_sent(self->w.source, i, 64 + self->packet[i].head.bytes,
				 self->w.now_ns);
		any = true;
	}
	return any;
}

/* Until it has said the end, or for too long */
static bool run(FIXTURE_DATA(lanes) *self)
{
	for (unsigned turn = 0; turn < 1000; turn++) {
		int todo;

		self->w.now_ns += WORLD_MS;
		pump(self);
		todo = source_next(self->w.source, self->w.now_ns, self->w.batch, &self->w.err);
		if (todo == SOURCE_SEND)
			world_deliver(&self->w);
		else if (todo != SOURCE_WAIT)
			return false;
		if (source_get_phase(self->w.source) == SOURCE_HANDOVER && !pump(self))
			return true;
	}
	return false;
}

/* One page out of five, and those of 100 to 299 */
#define ZEROS (200u + 400u / 5 + 13u)

TEST_F(lanes, every_page_once_and_as_many_syncs_as_marks)
{
	ASSERT_TRUE(run(self));
	EXPECT_FALSE(self->broken);
	EXPECT_EQ(664u - ZEROS, self->normal);
	EXPECT_EQ(ZEROS, source_get_counters(self->w.source)->pages_zero);
	EXPECT_EQ(ZEROS, self->w.model.zeros);
	EXPECT_TRUE(world_equal(&self->w));
	EXPECT_TRUE(source_lanes_idle(self->w.source));
	/* START, the round, END */
	for (unsigned i = 0; i < LANES; i++)
		EXPECT_EQ(3u, self->syncs[i]);
	EXPECT_EQ(variant->by_section ? 0u : 3u, self->w.model.flushes);
}

static void write_some(struct world *w)
{
	for (uint64_t page = 0; w->rounds < 4 && page < 150; page += 50)
		world_write(w, 0, page, (uint8_t)(0x70 + w->rounds));
	if (w->rounds < 4)
		memset(world_page(w, 0, 50), 0, TARGET_PAGE);
}

/* What is seen at the end of a round comes in the next one, behind its mark */
TEST_F(lanes, what_is_written_comes_again)
{
	world_write(&self->w, 0, 7, 0x77);
	self->w.on_round = write_some;
	ASSERT_TRUE(run(self));
	EXPECT_FALSE(self->broken);
	EXPECT_TRUE(world_equal(&self->w));
	EXPECT_LT(2u, self->w.rounds);
	for (unsigned i = 0; i < LANES; i++)
		EXPECT_EQ(self->w.rounds + 2u, self->syncs[i]);
}

TEST_F(lanes, a_destination_that_does_not_begin)
{
	int todo = 0;

	/* all that can be sent without an answer, and the lanes take nothing */
	for (unsigned turn = 0; turn < 100 && todo >= 0; turn++) {
		self->w.now_ns += WORLD_S;
		for (unsigned i = 0; i < LANES; i++)
			source_lane_next(self->w.source, i, self->w.now_ns, &self->packet[i]);
		todo = source_next(self->w.source, self->w.now_ns, self->w.batch, &self->w.err);
		if (todo == SOURCE_SEND)
			source_sent(self->w.source, self->w.batch->bytes, self->w.now_ns);
	}
	EXPECT_EQ(-ETIMEDOUT, todo);
	EXPECT_STREQ("the destination has not begun for 5000 ms: is it to have 3 multifd channels?",
		     self->w.err.text);
	EXPECT_EQ(SOURCE_FAILED, source_get_phase(self->w.source));
}

TEST_F(lanes, one_that_breaks)
{
	struct wh_err err = { 0 };

	pump(self);
	err_set(&err, -EPIPE, "send: broken");
	source_lane_lost(self->w.source, 2, &err);
	EXPECT_EQ(SOURCE_FAILED, source_get_phase(self->w.source));
	EXPECT_STREQ("multifd channel 2: send: broken", self->w.reason.text);
}

TEST_HARNESS_MAIN
