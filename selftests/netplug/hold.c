/* SPDX-License-Identifier: GPL-2.0 */
#include "netplug/hold.h"

#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

static uint64_t seed;

static uint32_t below(uint32_t count)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % count;
}

FIXTURE(hold)
{
	struct hold hold;
	void *ring;
};

FIXTURE_SETUP(hold)
{
	self->ring = NULL;
}

FIXTURE_TEARDOWN(hold)
{
	free(self->ring);
}

static void hold_make(struct hold *hold, void **ring, uint64_t bytes, uint64_t packets)
{
	free(*ring);
	*ring = malloc(hold_size(bytes, packets));
	hold_init(hold, *ring, bytes, packets);
}

static bool hold_put(struct hold *hold, uint64_t number, uint32_t length)
{
	struct hold_packet packet = { .epoch = number, .length = length, .counted = length };

	memset(hold_room(hold), (int)number, length);
	return hold_add(hold, &packet);
}

TEST_F(hold, limits_are_met_exactly)
{
	hold_make(&self->hold, &self->ring, 300, 4);
	ASSERT_TRUE(hold_put(&self->hold, 1, 100));
	ASSERT_TRUE(hold_put(&self->hold, 2, 200));
	ASSERT_FALSE(hold_put(&self->hold, 3, 1));
	hold_drop_first(&self->hold);
	ASSERT_FALSE(hold_put(&self->hold, 3, 101));
	for (unsigned i = 0; i < 3; i++)
		ASSERT_TRUE(hold_put(&self->hold, 4, 10));
	ASSERT_FALSE(hold_put(&self->hold, 5, 1));
	ASSERT_EQ(230, self->hold.bytes);
	ASSERT_EQ(4, self->hold.packets);
	hold_drop_all(&self->hold);
	ASSERT_TRUE(hold_put(&self->hold, 6, 300));
}

TEST(a_ring_that_cannot_be_is_none)
{
	ASSERT_EQ(0, hold_size(UINT64_MAX, 1));
	ASSERT_EQ(0, hold_size(1, UINT64_MAX));
	ASSERT_NE(0, hold_size(1, 1));
}

#define NUMBERS 1000

/* What comes out is what went in, in order, whatever the sizes and wherever the ring ends */
TEST_F(hold, it_is_a_queue)
{
	static uint32_t lengths[NUMBERS];
	struct hold_packet packet;
	const uint8_t *bytes;
	const void *at;

	for (unsigned run = 0; run < 60; run++) {
		unsigned in = 0, out = 0;

		seed = run;
		hold_make(&self->hold, &self->ring, 1000 + below(300000), 2 + below(40));
		while (out < NUMBERS) {
			if (in < NUMBERS && below(5) > 1) {
				lengths[in] = 1 + below(below(8) ? 2000 : HOLD_PACKET_MAX);
				if (hold_put(&self->hold, in, lengths[in]))
					in++;
				else if (!self->hold.packets)
					lengths[in] = 0;
			} else if (hold_first(&self->hold, &packet, &at)) {
				bytes = at;
				ASSERT_EQ(out, packet.epoch);
				ASSERT_EQ(lengths[out], packet.length);
				ASSERT_EQ((uint8_t)out, bytes[0]);
				ASSERT_EQ((uint8_t)out, bytes[packet.length / 2]);
				ASSERT_EQ((uint8_t)out, bytes[packet.length - 1]);
				ASSERT_GE((const uint8_t *)self->ring + self->hold.size,
					  bytes + packet.length);
				hold_drop_first(&self->hold);
				out++;
			}
		}
		ASSERT_EQ(0, self->hold.bytes);
	}
}

TEST_HARNESS_MAIN
