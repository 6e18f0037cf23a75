/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Both ends of a stream, with a queue pair between them that keeps its order and breaks when nobody
 * has room for a message; and a stranger.
 */
#include "rdma/vflow.h"

#include "selftests/wire/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define ROOM 4u
#define MESSAGE 256u
#define AREA 1000u
#define QUEUE 64u
#define KEY 77u

struct thing {
	bool write;
	uint64_t to;
	size_t bytes;
	uint8_t data[MESSAGE + PARCEL_HEADER_MAX];
};

struct end {
	struct vflow flow;
	uint8_t area[AREA], slot[ROOM][MESSAGE + PARCEL_HEADER_MAX];
	size_t length[ROOM];
	unsigned posted, arrived, read; /* receives */
	struct thing queue[QUEUE];	/* to the other one */
	unsigned in, out;
	uint64_t said, heard, want;
	/* a message that is being put together */
	bool building;
	uint32_t bytes, landed;
	uint8_t message[MESSAGE + PARCEL_HEADER_MAX];
	unsigned bare, writes;
};

FIXTURE(vflow)
{
	struct random random;
	struct end end[2];
	bool broken; /* no room for a message, or a write to where nobody may */
	struct wh_err err;
};

FIXTURE_SETUP(vflow)
{
	memset(self, 0, sizeof(*self));
	for (unsigned i = 0; i < 2; i++) {
		vflow_init(&self->end[i].flow, ROOM);
		self->end[i].posted = ROOM;
	}
}

FIXTURE_TEARDOWN(vflow)
{
}

/* Of the stream that this end says */
static uint8_t byte(const FIXTURE_DATA(vflow) *self, const struct end *end, uint64_t at)
{
	return (uint8_t)(at * 31 + (at >> 8) + (end == &self->end[1] ? 128 : 0));
}

static struct thing *post(struct end *end, size_t bytes)
{
	struct thing *thing = &end->queue[end->in++ % QUEUE];

	*thing = (struct thing){ .bytes = bytes };
	return thing;
}

static void post_message(struct end *end, const uint8_t *message, size_t bytes)
{
	memcpy(post(end, bytes)->data, message, bytes);
}

static void finish(struct end *end)
{
	if (end->building)
		post_message(end, end->message,
			     vflow_put(&end->flow, end->message, end->bytes, end->landed));
	end->building = false;
}

static bool begin(struct end *end)
{
	if (end->building)
		return true;
	if (!vflow_may_send(&end->flow))
		return false;
	end->building = true;
	end->bytes = end->landed = 0;
	return true;
}

/* One step of what run_rdma_send.c does */
static void say_some(FIXTURE_DATA(vflow) *self, struct end *end)
{
	uint64_t bytes = 1 + random_below(&self->random, 100), space, to;
	size_t header = parcel_header(PARCEL_STREAM);

	if (end->in - end->out > QUEUE - 3)
		return;
	if (bytes > end->want - end->said)
		bytes = end->want - end->said;
	if (!bytes) {
		finish(end);
	} else if (end->flow.area && random_below(&self->random, 3)) {
		space = vflow_space(&end->flow, &to);
		if (!space)
			finish(end);
		if (!space || !begin(end))
			return;
		bytes = bytes < space ? bytes : space;
		*post(end, bytes) = (struct thing){ .write = true, .to = to, .bytes = bytes };
		for (uint64_t i = 0; i < bytes; i++)
			end->queue[(end->in - 1) % QUEUE].data[i] = byte(self, end, end->said++);
		vflow_wrote(&end->flow, bytes);
		end->landed += (uint32_t)bytes;
		end->writes++;
	} else {
		if (end->landed)
			finish(end);
		end->landed = end->building ? end->landed : 0;
		if (!begin(end))
			return;
		if (bytes > MESSAGE - end->bytes)
			bytes = MESSAGE - end->bytes;
		for (uint64_t i = 0; i < bytes; i++)
			end->message[header + end->bytes++] = byte(self, end, end->said++);
		if (end->bytes == MESSAGE)
			finish(end);
	}
	if (!random_below(&self->random, 8))
		finish(end);
}

/* What is due to be given back, whatever the other end does */
static void give_back(struct end *end)
{
	uint8_t buf[PARCEL_HEADER_MAX];

	if (end->building || !vflow_owes(&end->flow))
		return;
	post_message(end, buf, vflow_put(&end->flow, buf, 0, 0));
	end->bare++;
}

/* The next of what was posted is done */
static void carry(FIXTURE_DATA(vflow) *self, unsigned from)
{
	struct end *end = &self->end[from], *other = &self->end[!from];
	struct thing *thing = &end->queue[end->out % QUEUE];
	uint64_t at;

	if (end->out == end->in)
		return;
	end->out++;
	if (thing->write) {
		at = thing->to - (uintptr_t)other->area;
		if (at >= AREA || thing->bytes > AREA - at || end->flow.key != KEY)
			self->broken = true;
		else
			memcpy(other->area + at, thing->data, thing->bytes);
		return;
	}
	if (other->arrived == other->posted) {
		self->broken = true;
		return;
	}
	memcpy(other->slot[other->arrived % ROOM], thing->data, thing->bytes);
	other->length[other->arrived++ % ROOM] = thing->bytes;
}

/* Return: false: what came is not what was said */
static bool hear_some(FIXTURE_DATA(vflow) *self, unsigned to)
{
	struct end *end = &self->end[to];
	uint8_t buf[64];
	size_t got;

	if (vflow_reading(&end->flow) && !vflow_left(&end->flow)) {
		vflow_gone(&end->flow);
		end->posted++;
	}
	if (!vflow_reading(&end->flow)) {
		if (end->read == end->arrived)
			return true;
		if (vflow_get(&end->flow, end->slot[end->read % ROOM],
			      end->length[end->read % ROOM], &self->err) < 0)
			return false;
		end->read++;
		return true;
	}
	got = vflow_take(&end->flow, buf, 1 + random_below(&self->random, sizeof(buf)));
	for (size_t i = 0; i < got; i++)
		if (buf[i] != byte(self, &self->end[!to], end->heard++))
			return false;
	return true;
}

static bool heard_all(const FIXTURE_DATA(vflow) *self)
{
	return self->end[0].heard == self->end[1].want && self->end[1].heard == self->end[0].want;
}

static void lend(struct end *end)
{
	uint8_t buf[PARCEL_HEADER_MAX];

	post_message(end, buf, vflow_lend(&end->flow, buf, end->area, AREA, KEY));
}

/* Everything happens whenever it likes. Return: all came, as it was said */
static bool play(FIXTURE_DATA(vflow) *self, uint64_t first, uint64_t second, bool lent)
{
	self->end[0].want = first;
	self->end[1].want = second;
	if (lent)
		lend(&self->end[1]);
	for (unsigned step = 0; step < 4000000 && !heard_all(self); step++) {
		unsigned who = (unsigned)random_below(&self->random, 2);

		switch (random_below(&self->random, 4)) {
		case 0:
			say_some(self, &self->end[who]);
			break;
		case 1:
			give_back(&self->end[who]);
			break;
		case 2:
			carry(self, who);
			break;
		case 3:
			if (!hear_some(self, who))
				return false;
		}
		if (self->broken)
			return false;
	}
	return heard_all(self);
}

TEST_F(vflow, what_is_said_is_heard)
{
	for (self->random.state = 0; self->random.state < 20;) {
		uint64_t seed = self->random.state;

		ASSERT_TRUE(play(self, 50000, seed % 3 * 20000, true))
		TH_LOG("seed %llu: %s%s, heard %llu and %llu", (unsigned long long)seed,
		       self->broken ? "broken " : "", self->err.text,
		       (unsigned long long)self->end[0].heard,
		       (unsigned long long)self->end[1].heard);
		EXPECT_LT(100, self->end[0].writes);
		EXPECT_LT(0, self->end[1].bare);
		memset(self->end, 0, sizeof(self->end));
		for (unsigned i = 0; i < 2; i++) {
			vflow_init(&self->end[i].flow, ROOM);
			self->end[i].posted = ROOM;
		}
		self->random.state = seed + 1;
	}
}

TEST_F(vflow, without_an_area_all_goes_in_messages)
{
	ASSERT_TRUE(play(self, 30000, 30000, false));
	EXPECT_EQ(0, self->end[0].writes + self->end[1].writes);
}

/* An end that has nothing to say gives back, and does not do so for ever */
TEST_F(vflow, giving_back_comes_to_an_end)
{
	unsigned said;

	ASSERT_TRUE(play(self, 5000, 0, true));
	for (unsigned round = 0; round < 2; round++) {
		said = self->end[0].bare + self->end[1].bare;
		for (unsigned step = 0; step < 100; step++)
			for (unsigned who = 0; who < 2; who++) {
				give_back(&self->end[who]);
				carry(self, who);
				ASSERT_TRUE(hear_some(self, who));
			}
	}
	EXPECT_EQ(said, self->end[0].bare + self->end[1].bare);
	EXPECT_FALSE(self->broken);
}

/* One message is little, but what came with it may be all that there is to write to */
TEST_F(vflow, an_area_is_given_back_in_time)
{
	struct end *end = &self->end[0], *other = &self->end[1];
	uint64_t to;

	lend(other);
	carry(self, 1);
	ASSERT_TRUE(hear_some(self, 0));
	ASSERT_EQ(AREA, vflow_space(&end->flow, &to));
	end->want = end->said = AREA;
	ASSERT_TRUE(begin(end));
	for (uint64_t i = 0; i < AREA; i++)
		other->area[i] = byte(self, end, i);
	vflow_wrote(&end->flow, AREA);
	end->landed = AREA;
	EXPECT_EQ(0, vflow_space(&end->flow, &to));
	finish(end);
	carry(self, 0);
	while (other->heard < AREA) {
		ASSERT_TRUE(hear_some(self, 1));
	}
	EXPECT_TRUE(vflow_owes(&other->flow));
	give_back(other);
	carry(self, 1);
	while (!vflow_space(&end->flow, &to)) {
		ASSERT_TRUE(hear_some(self, 0));
	}
	EXPECT_EQ(AREA, vflow_space(&end->flow, &to));
}

/* ---- Strangers ---------------------------------------------------------------------- */

static int hear(FIXTURE_DATA(vflow) *self, struct parcel parcel)
{
	static uint8_t buf[MESSAGE + PARCEL_HEADER_MAX];
	size_t length = parcel_put(buf, &parcel);

	self->err = (struct wh_err){ 0 };
	if (parcel.kind == PARCEL_STREAM)
		length += parcel.stream.bytes;
	return vflow_get(&self->end[0].flow, buf, length, &self->err);
}

TEST_F(vflow, nobody_gives_back_what_he_was_not_given)
{
	struct vflow *flow = &self->end[0].flow;
	uint8_t buf[PARCEL_HEADER_MAX];

	(void)vflow_put(flow, buf, 0, 0);
	EXPECT_EQ(0, hear(self, (struct parcel){ .kind = PARCEL_STREAM, .taken = 1 }));
	EXPECT_EQ(-EPROTO, hear(self, (struct parcel){ .kind = PARCEL_STREAM, .taken = 2 }));
	EXPECT_STREQ("rdma: 2 messages taken, of 1", self->err.text);
	/* nor takes back what he has given */
	EXPECT_EQ(-EPROTO, hear(self, (struct parcel){ .kind = PARCEL_STREAM, .taken = 0 }));
	EXPECT_EQ(-EPROTO,
		  hear(self, (struct parcel){ .kind = PARCEL_STREAM, .taken = 1, .emptied = 1 }));
	EXPECT_STREQ("rdma: 1 bytes taken out, of 0", self->err.text);
}

TEST_F(vflow, nobody_has_written_what_he_was_not_lent)
{
	struct vflow *flow = &self->end[0].flow;
	uint8_t buf[PARCEL_HEADER_MAX];
	struct parcel said = { .kind = PARCEL_STREAM, .stream.landed = 1 };
	uint8_t *out = malloc(AREA);

	EXPECT_EQ(-EPROTO, hear(self, said));
	EXPECT_STREQ("rdma: 1 bytes written, 0 of 0 are free", self->err.text);
	(void)vflow_lend(flow, buf, self->end[0].area, AREA, KEY);
	said.stream.landed = AREA + 1;
	EXPECT_EQ(-EPROTO, hear(self, said));
	said.stream.landed = 600;
	said.stream.at = 1;
	EXPECT_EQ(-EPROTO, hear(self, said));
	EXPECT_STREQ("rdma: bytes written at 1, not at 0", self->err.text);
	said.stream.at = 0;
	EXPECT_EQ(0, hear(self, said));
	/* as long as they are in there, there is room for so many fewer */
	said.stream.at = 600;
	EXPECT_EQ(-EPROTO, hear(self, said));
	EXPECT_STREQ("rdma: 600 bytes written, 400 of 1000 are free", self->err.text);
	flow->in_area = 600; /* of the first one */
	EXPECT_EQ(600, vflow_take(flow, out, AREA));
	EXPECT_EQ(0, hear(self, said));
	/* around the end of it */
	memset(self->end[0].area, 1, AREA);
	EXPECT_EQ(600, vflow_take(flow, out, AREA));
	free(out);
}

TEST_F(vflow, one_area_and_no_other)
{
	struct parcel area = { .kind = PARCEL_AREA, .area = { 0x1000, 0, KEY } };

	EXPECT_EQ(-EPROTO, hear(self, area));
	area.area.length = UINT64_MAX;
	EXPECT_EQ(-EPROTO, hear(self, area));
	area.area.length = 0x1000;
	EXPECT_EQ(0, hear(self, area));
	EXPECT_EQ(-EPROTO, hear(self, area));
	EXPECT_STREQ("rdma: 4096 bytes at 0x1000 to write to, again", self->err.text);
}

/* It is looked at in the copy: what is changed in the area afterwards changes nothing */
TEST_F(vflow, what_was_taken_is_a_copy)
{
	struct vflow *flow = &self->end[0].flow;
	uint8_t buf[PARCEL_HEADER_MAX], out[8] = { 0 };

	(void)vflow_lend(flow, buf, self->end[0].area, AREA, KEY);
	memset(self->end[0].area, 5, AREA);
	ASSERT_EQ(0, hear(self, (struct parcel){ .kind = PARCEL_STREAM, .stream.landed = 8 }));
	ASSERT_EQ(8, vflow_take(flow, out, 8));
	memset(self->end[0].area, 6, AREA);
	for (unsigned i = 0; i < 8; i++)
		EXPECT_EQ(5, out[i]);
	EXPECT_EQ(0, vflow_left(flow));
}

TEST_HARNESS_MAIN
