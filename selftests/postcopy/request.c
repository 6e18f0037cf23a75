/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The return path from its socket into the engine, and requested pages out: all that is there is
 * fetched, though the kernel tells of it once, and all is sent, however little the socket takes.
 * postcopy/run_request.c
 */
#include "postcopy/run_source.h"
#include "selftests/postcopy/source_world.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES 2048u
#define LIMIT_NS (10 * NS_PER_S)

static const struct world_block blocks[] = { { "pc.ram", PAGES, 4096 } };
static const struct source_config config = {
	.downtime_ns = 1,
	.postcopy = true,
	.urgent = WH_URGENT_AT_START,
};

FIXTURE(request)
{
	struct world w;
	struct wh_migration m;
	struct source_side side;
	int back;   /* the destination's ends: of the return path, */
	int urgent; /* and of the urgent channel */
	struct wh_err err;
};

FIXTURE_SETUP(request)
{
	struct source_side *side = &self->side;
	int pair[2], small = 1;

	memset(self, 0, sizeof(*self));
	world_init(&self->w, &config, blocks, 1);
	world_scribble(&self->w);
	source_want_postcopy(self->w.source);
	source_connected(self->w.source, self->w.now_ns);
	ASSERT_TRUE(world_run_to(&self->w, SOURCE_POSTCOPY));

	ASSERT_EQ(0, loop_open(&self->m.bulk, 8, &self->err)) TH_LOG("%s", self->err.text);
	self->m.fault = self->m.bulk;
	self->m.source = side;
	self->m.config.return_path = true;
	self->m.post.armed = true;
	pthread_mutex_init(&self->m.post_lock, NULL);
	side->owner = &self->m;
	side->engine = self->w.source;
	side->urgent_batch = self->w.urgent;
	side->urgent_fd = -1;
	ASSERT_EQ(0, source_side_reply_room(&self->m, REPLY_ROOM, &self->err));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	side->fd = pair[0];
	self->back = pair[1];
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	self->m.post.urgent_fd = pair[0];
	self->urgent = pair[1];
	source_side_request_turn(&self->m);
}

FIXTURE_TEARDOWN(request)
{
	self->m.post.close = true;
	for (int i = 0; i < 100 && !self->m.fault_closed; i++) {
		source_side_request_turn(&self->m);
		loop_step(self->m.bulk, (int64_t)NS_PER_MS, NULL);
	}
	EXPECT_TRUE(self->m.fault_closed);
	loop_close(self->m.bulk);
	free(self->side.reply_buf);
	close(self->side.fd);
	if (self->back >= 0)
		close(self->back);
	if (self->urgent >= 0)
		close(self->urgent);
	world_fini(&self->w);
}

/* Until it would sleep */
static bool settle(FIXTURE_DATA(request) *self)
{
	int done;

	do {
		done = loop_step(self->m.fault, 0, &self->err);
		source_side_request_turn(&self->m);
	} while (done > 0);
	return done == 0;
}

static size_t put(uint8_t *at, unsigned page)
{
	struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };

	msg.req_pages_id.start = (uint64_t)page * TARGET_PAGE;
	msg.req_pages_id.length = TARGET_PAGE;
	wire_name_set(&msg.req_pages_id.block, "pc.ram");
	return rp_put(at, &msg);
}

/* At once: the socket takes all of it */
static bool ask(FIXTURE_DATA(request) *self, unsigned page, unsigned end)
{
	uint8_t *bytes = malloc((size_t)(end - page) * RP_MSG_MAX);
	size_t length = 0;
	bool all;

	for (; page < end; page++)
		length += put(bytes + length, page);
	all = send(self->back, bytes, length, MSG_DONTWAIT) == (ssize_t)length;
	free(bytes);
	return all;
}

/* What the destination has got until now */
static void hear(FIXTURE_DATA(request) *self)
{
	static uint8_t bytes[1 << 16];
	ssize_t got;

	while ((got = recv(self->urgent, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		tape_add(&self->w.tape[CHANNEL_URGENT], bytes, (size_t)got);
	model_take_urgent(&self->w.model, &self->w.tape[CHANNEL_URGENT]);
}

/* Where little is taken at a time, a thread of the kernel's sends and tells nobody of its progress */
static bool turn(FIXTURE_DATA(request) *self)
{
	int done = loop_step(self->m.fault, (int64_t)NS_PER_MS, &self->err);

	source_side_request_turn(&self->m);
	hear(self);
	return done >= 0;
}

static unsigned count_came(const FIXTURE_DATA(request) *self)
{
	unsigned count = 0;

	for (unsigned page = 0; page < PAGES; page++)
		count += self->w.model.came[0][page] == 1;
	return count;
}

static int left_in_socket(const FIXTURE_DATA(request) *self)
{
	int bytes = -1;

	ioctl(self->side.fd, FIONREAD, &bytes);
	return bytes;
}

TEST_F(request, as_it_comes)
{
	uint8_t bytes[RP_MSG_MAX];
	size_t length = put(bytes, 7);

	for (unsigned page = 0; page < 3; page++) {
		ASSERT_TRUE(ask(self, page, page + 1));
		ASSERT_TRUE(settle(self));
		hear(self);
		ASSERT_EQ(page + 1, count_came(self));
	}
	ASSERT_EQ(5, send(self->back, bytes, 5, MSG_DONTWAIT));
	ASSERT_TRUE(settle(self));
	ASSERT_EQ((ssize_t)length - 5, send(self->back, bytes + 5, length - 5, MSG_DONTWAIT));
	ASSERT_TRUE(settle(self));
	hear(self);
	EXPECT_EQ(1u, self->w.model.came[0][7]);
	EXPECT_EQ(0, memcmp(world_page(&self->w, 0, 7), self->w.model.copy[0] + 7 * TARGET_PAGE,
			    TARGET_PAGE));
	EXPECT_EQ(4u, source_get_counters(self->w.source)->serve_hist.count);
}

/*
 * More requests at once than are received in one piece, of more pages than the socket takes, and
 * more than wait in the queue: nobody tells of the rest again.
 */
TEST_F(request, all_at_once)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	ASSERT_TRUE(ask(self, 0, PAGES));
	ASSERT_LT((int)(2 * REPLY_ROOM), left_in_socket(self));
	ASSERT_TRUE(settle(self));
	/* nobody takes a page: the queue is full, and the return path is not read any more */
	EXPECT_TRUE(op_busy(&self->side.urgent_send));
	EXPECT_EQ(self->side.reply_room, self->side.reply_have);
	EXPECT_LT(0, left_in_socket(self));
	while (count_came(self) < PAGES && clock_now_ns() < limit_ns) {
		ASSERT_TRUE(turn(self));
	}
	EXPECT_EQ(PAGES, count_came(self));
	EXPECT_EQ(0, left_in_socket(self));
	EXPECT_TRUE(world_equal(&self->w));
	EXPECT_FALSE(self->w.model.strange);
	EXPECT_FALSE(self->m.post.urgent_lost);
	EXPECT_FALSE(self->m.post.reply_lost);
}

/* The kernel had no memory to watch it just then: what has come meanwhile is not forgotten */
TEST_F(request, watching_it_was_refused)
{
	self->side.request_ended = true;
	loop_cancel(self->m.fault, &self->side.recv);
	ASSERT_TRUE(settle(self));
	ASSERT_FALSE(op_busy(&self->side.recv));
	self->side.request_ended = false;
	ASSERT_TRUE(ask(self, 3, 4));
	self->side.recv.done(&self->side.recv, -EAGAIN);
	ASSERT_TRUE(settle(self));
	hear(self);
	EXPECT_EQ(1u, self->w.model.came[0][3]);
	EXPECT_FALSE(self->m.post.reply_lost);
}

/* Told of together with the last request, before the first look at it */
TEST_F(request, an_end_behind_the_last_request)
{
	ASSERT_TRUE(ask(self, 3, 4));
	close(self->back);
	self->back = -1;
	ASSERT_TRUE(settle(self));
	hear(self);
	EXPECT_EQ(1u, self->w.model.came[0][3]);
	EXPECT_TRUE(self->m.post.reply_lost);
	EXPECT_EQ(-EPIPE, self->m.post.reply_err.code);
}

/* As above, with the queue full in between */
TEST_F(request, an_end_behind_too_many)
{
	uint64_t limit_ns = clock_now_ns() + LIMIT_NS;

	ASSERT_TRUE(ask(self, 0, PAGES));
	ASSERT_TRUE(settle(self));
	close(self->back);
	self->back = -1;
	ASSERT_TRUE(settle(self));
	EXPECT_FALSE(self->m.post.reply_lost);
	while (!self->m.post.reply_lost && clock_now_ns() < limit_ns) {
		ASSERT_TRUE(turn(self));
	}
	EXPECT_TRUE(self->m.post.reply_lost);
}

/* Who takes pages goes, with one on its way: this is said once, and requests are heard yet */
TEST_F(request, the_urgent_channel_breaks)
{
	ASSERT_TRUE(ask(self, 0, 200));
	ASSERT_TRUE(settle(self));
	ASSERT_TRUE(op_busy(&self->side.urgent_send));
	close(self->urgent);
	self->urgent = -1;
	ASSERT_TRUE(settle(self));
	EXPECT_TRUE(self->m.post.urgent_lost);
	EXPECT_FALSE(op_busy(&self->side.urgent_send));
	self->m.post.urgent_lost = false;
	ASSERT_TRUE(ask(self, 200, 201));
	ASSERT_TRUE(settle(self));
	EXPECT_FALSE(self->m.post.urgent_lost);
	EXPECT_EQ(0, left_in_socket(self));
}

TEST_F(request, the_urgent_channel_was_broken_before)
{
	close(self->urgent);
	self->urgent = -1;
	ASSERT_TRUE(ask(self, 0, 1));
	ASSERT_TRUE(settle(self));
	EXPECT_TRUE(self->m.post.urgent_lost);
	EXPECT_EQ(-EPIPE, self->m.post.urgent_err.code);
}

TEST_HARNESS_MAIN
