/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The return path's way out: what the other end reads, however little the socket takes at
 * a time. postcopy/run_reply.c
 */
#include "base/bits.h"
#include "base/bytes.h"
#include "postcopy/run_dest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES UINT64_C(4000000)
#define REQUEST_BYTES 272u /* with the longest name */

FIXTURE(way_out)
{
	struct wh_migration m;
	struct dest_block block;
	int fd[2];
	uint8_t *got;
	size_t have;
	struct wh_err err;
};

FIXTURE_SETUP(way_out)
{
	int small = 1;

	self->m.dest = calloc(1, sizeof(*self->m.dest));
	ASSERT_NE(NULL, self->m.dest);
	pthread_mutex_init(&self->m.dest->reply.lock, NULL);
	ASSERT_EQ(0, loop_open(&self->m.bulk, 8, &self->err));
	self->m.fault = self->m.bulk;
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, self->fd));
	setsockopt(self->fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	self->block.received = calloc(bits_words(PAGES), sizeof(uint64_t));
	self->block.used = PAGES * TARGET_PAGE;
	for (uint64_t i = 0; i < PAGES; i += 3)
		bits_set(self->block.received, i);
	self->got = malloc(8 << 20);
	self->m.dest->reply.fd = -1;
	reply_reset(&self->m, self->fd[0]);
}

FIXTURE_TEARDOWN(way_out)
{
	reply_reset(&self->m, -1);
	loop_close(self->m.bulk);
	free(self->block.received);
	free(self->m.dest);
	free(self->got);
	close(self->fd[0]);
	close(self->fd[1]);
}

/* Turns and reads in turn, until so many bytes have come or nothing more does */
static size_t hear(FIXTURE_DATA(way_out) *self, size_t wanted)
{
	unsigned idle = 0;

	while (self->have < wanted && idle < 100) {
		ssize_t n;

		reply_turn(&self->m);
		loop_step(self->m.bulk, 0, &self->err);
		n = recv(self->fd[1], self->got + self->have, 5000, MSG_DONTWAIT);
		idle = n > 0 ? 0 : idle + 1;
		self->have += n > 0 ? (size_t)n : 0;
	}
	return self->have;
}

static int bitmap(FIXTURE_DATA(way_out) *self, const char *name)
{
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };
	uint8_t buf[RP_MSG_MAX];

	wire_name_set(&msg.recv_bitmap.block, name);
	return reply_send_bitmap(&self->m, buf, rp_put(buf, &msg), &self->block, &self->err);
}

static int say(FIXTURE_DATA(way_out) *self, const struct rp_msg *msg)
{
	uint8_t buf[RP_MSG_MAX];

	return reply_send(&self->m, buf, rp_put(buf, msg), &self->err);
}

static int request(FIXTURE_DATA(way_out) *self, uint64_t start)
{
	struct rp_msg msg = { .kind = RP_REQ_PAGES_ID, .req_pages_id = { .start = start } };

	memset(msg.req_pages_id.block.text, 'n', 255);
	msg.req_pages_id.block.length = 255;
	return say(self, &msg);
}

/* In the order that they were said, however slowly */
TEST_F(way_out, bitmaps_and_what_follows)
{
	static const char *const names[] = { "one", "another" };
	uint64_t *map = calloc(bits_words(PAGES), sizeof(uint64_t));
	size_t at = 0, used, all;
	struct rp_msg msg;

	for (unsigned i = 0; i < 2; i++)
		ASSERT_EQ(0, bitmap(self, names[i])) TH_LOG("%s", self->err.text);
	EXPECT_FALSE(reply_flushed(&self->m));
	ASSERT_EQ(0, say(self, &(struct rp_msg){ .kind = RP_RESUME_ACK, .resume_ack = { 1 } }));
	ASSERT_EQ(0, request(self, 4096));
	all = 8 + 12 + 2 * (BITMAP_FRAME + bitmap_bytes(PAGES)) + 8 + REQUEST_BYTES;
	ASSERT_EQ(all, self->m.dest->engine.counters.bytes_return);
	ASSERT_EQ(all, hear(self, all));
	EXPECT_TRUE(reply_flushed(&self->m));
	for (unsigned i = 0; i < 2; i++) {
		ASSERT_EQ(1, rp_get(self->got + at, all - at, &used, &msg, &self->err));
		ASSERT_EQ(RP_RECV_BITMAP, msg.kind);
		EXPECT_STREQ(names[i], msg.recv_bitmap.block.text);
		at += used;
		memset(map, 0, bits_words(PAGES) * sizeof(*map));
		ASSERT_EQ(1, bitmap_get(self->got + at, all - at, &used, map, PAGES, &self->err))
		TH_LOG("%s", self->err.text);
		at += used;
		EXPECT_EQ(0, memcmp(map, self->block.received, bits_words(PAGES) * sizeof(*map)));
	}
	ASSERT_EQ(1, rp_get(self->got + at, all - at, &used, &msg, &self->err));
	EXPECT_EQ(RP_RESUME_ACK, msg.kind);
	at += used;
	ASSERT_EQ(1, rp_get(self->got + at, all - at, &used, &msg, &self->err));
	EXPECT_EQ(RP_REQ_PAGES_ID, msg.kind);
	EXPECT_EQ(all, at + used);
	free(map);
}

/* Those who announce leave room for those who fault; they are called when it is empty. */
TEST_F(way_out, room)
{
	unsigned room = reply_room(&self->m), more = 0;

	EXPECT_EQ(REPLY_BYTES / 2 / REQUEST_BYTES, room);
	/* what the socket itself takes is not in the way */
	while (!self->m.dest->reply.have) {
		ASSERT_EQ(0, request(self, 0));
	}
	while ((room = reply_room(&self->m)))
		for (unsigned i = 0; i < room; i++)
			ASSERT_EQ(0, request(self, i));
	EXPECT_TRUE(self->m.dest->reply.hungry);
	while (request(self, more) == 0)
		more++;
	EXPECT_LE(REPLY_BYTES / 2 / REQUEST_BYTES - 1, more);
	EXPECT_EQ(-ENOBUFS, self->err.code);
	hear(self, 8 << 20);
	EXPECT_TRUE(reply_flushed(&self->m));
	EXPECT_FALSE(self->m.dest->reply.hungry);
	EXPECT_LT(100, reply_room(&self->m));
}

/* Who sends a request holds the lock meanwhile: a turn that has nothing to do is over at once */
TEST_F(way_out, a_turn_in_vain_waits_for_nobody)
{
	struct reply *reply = &self->m.dest->reply;

	pthread_mutex_lock(&reply->lock);
	reply_turn(&self->m);
	pthread_mutex_unlock(&reply->lock);
	while (!reply->have) {
		ASSERT_EQ(0, request(self, 0));
	}
	EXPECT_TRUE(reply->due);
	hear(self, 8 << 20);
	EXPECT_TRUE(reply_flushed(&self->m));
	pthread_mutex_lock(&reply->lock);
	reply_turn(&self->m);
	pthread_mutex_unlock(&reply->lock);
}

/* Of another connection nothing is left, neither bytes nor an error nor the last word. */
TEST_F(way_out, another_connection)
{
	int fd[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd));
	ASSERT_EQ(0, bitmap(self, "one"));
	ASSERT_EQ(0, say(self, &(struct rp_msg){ .kind = RP_SHUT }));
	close(self->fd[1]);
	reply_turn(&self->m);
	EXPECT_TRUE(reply_flushed(&self->m));
	reply_reset(&self->m, fd[0]);
	self->fd[1] = fd[1];
	EXPECT_EQ(0, say(self, &(struct rp_msg){ .kind = RP_RESUME_ACK, .resume_ack = { 1 } }));
	EXPECT_EQ(8, hear(self, 8));
	EXPECT_EQ(RP_RESUME_ACK, get_be16(self->got));
	/* and none of this one behind a pause */
	reply_reset(&self->m, -1);
	EXPECT_EQ(-ENOTCONN, request(self, 0));
	EXPECT_EQ(-ENOTCONN, bitmap(self, "one"));
	close(fd[0]);
}

TEST_HARNESS_MAIN
