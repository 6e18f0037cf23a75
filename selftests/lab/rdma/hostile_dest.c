/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A destination that says what none would, to a source: each is refused with a sentence, and the
 * source's guest, which was not stopped, goes on.
 */
#include "kselftest_harness.h"

#include <string.h>

#include "base/bytes.h"
#include "selftests/lab/rdma/ends.h"
#include "selftests/lab/rdma/peer.h"

#define HERE "10.9.1.2"
#define PORT "4455"
#define MIB (UINT64_C(1) << 20)
#define BYTES (2 * MIB + 4096)
#define START (UINT64_C(1) << 40)
#define HOST UINT64_C(0x7f0000000000)
#define LIMIT_NS ((int64_t)(20 * NS_PER_S))

static unsigned stops; /* of the guest */

static int on_pause(void *opaque, struct wh_err *err)
{
	(void)opaque, (void)err;
	stops++;
	return 0;
}

static int on_resume(void *opaque, struct wh_err *err)
{
	(void)opaque, (void)err;
	stops--;
	return 0;
}

static const struct wh_callbacks callbacks = {
	.pause = on_pause,
	.resume = on_resume,
	ENDS_WRITE_NOTHING,
};

FIXTURE(hostile_dest)
{
	struct rdma_cm_id *listener;
	struct peer dest;
	struct wh_migration *source;
	struct wh_err err;
	bool return_path;
};

static int start_source(FIXTURE_DATA(hostile_dest) *self, bool pin_all)
{
	struct wh_block block = {
		.name = "mem",
		.length = BYTES,
		.page_size = 4096,
		.fd = -1,
	};
	struct wh_config config;
	int ret;

	block.addr = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(block.addr, 0x55, BYTES);
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.postcopy = false;
	config.return_path = self->return_path;
	config.urgent = WH_URGENT_OFF;
	config.rdma_pin_all = pin_all;
	config.dead_peer_ns = 2 * NS_PER_S;
	ret = wh_new(&self->source, WH_SOURCE, &config, &self->err);
	if (ret == 0)
		ret = wh_add_block(self->source, &block, &self->err);
	if (ret == 0)
		ret = wh_connect(self->source, "rdma:" HERE ":" PORT, &self->err);
	return ret < 0 ? ret : wh_start(self->source, &self->err);
}

/* The source comes, and hears this in front of all */
static bool take_source(FIXTURE_DATA(hostile_dest) *self, const void *hello, uint8_t length)
{
	struct rdma_conn_param param = {
		.private_data = hello,
		.private_data_len = length,
		.rnr_retry_count = 7,
	};

	if (rdma_get_request(self->listener, &self->dest.id))
		return false;
	peer_rooms(&self->dest);
	self->dest.connected = rdma_accept(self->dest.id, &param) == 0;
	return self->dest.connected;
}

FIXTURE_SETUP(hostile_dest)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP, .ai_flags = RAI_PASSIVE };
	struct ibv_qp_init_attr attr = PEER_QUEUES;
	struct rdma_addrinfo *list;

	memset(self, 0, sizeof(*self));
	ASSERT_EQ(0, rdma_getaddrinfo(HERE, PORT, &hints, &list));
	ASSERT_EQ(0, rdma_create_ep(&self->listener, list, NULL, &attr));
	rdma_freeaddrinfo(list);
	ASSERT_EQ(0, rdma_listen(self->listener, 1));
}

FIXTURE_TEARDOWN(hostile_dest)
{
	peer_close(&self->dest);
	if (self->source)
		wh_free(self->source);
	rdma_destroy_ep(self->listener);
}

/* It has failed with this sentence, and its guest runs */
static bool gives_up(FIXTURE_DATA(hostile_dest) *self, const char *sentence)
{
	return wh_wait(self->source, LIMIT_NS, &self->err) < 0 &&
	       wh_get_phase(self->source) == WH_PHASE_FAILED && !stops &&
	       strstr(self->err.text, sentence);
}

static const uint8_t plain[] = { 0, 0, 0, 1, 0, 0, 0, 0 };
static const uint8_t pinned[] = { 0, 0, 0, 1, 0, 0, 0, 1 };

/* Up to where it wants the list of blocks */
static bool is_asked(FIXTURE_DATA(hostile_dest) *self, bool pin_all)
{
	struct peer *dest = &self->dest;

	return start_source(self, pin_all) == 0 &&
	       take_source(self, pin_all ? pinned : plain, sizeof(plain)) &&
	       peer_say(dest, CONTROL_READY, 1, 0) && peer_hear(dest) == CONTROL_STREAM &&
	       peer_say(dest, CONTROL_READY, 1, 0) && peer_hear(dest) == CONTROL_BLOCKS_REQUEST;
}

static bool say_list(struct peer *dest, uint64_t host, uint64_t length, uint32_t count)
{
	struct control_block block = { .host = host, .start = START, .length = length };

	for (uint32_t i = 0; i < count; i++)
		control_put_block(dest->buffer, i, &block);
	return peer_say(dest, CONTROL_BLOCKS_RESULT, count, 0);
}

/* Up to where it wants to write */
static bool is_wanted(FIXTURE_DATA(hostile_dest) *self)
{
	struct peer *dest = &self->dest;

	return is_asked(self, false) && say_list(dest, HOST, BYTES, 1) &&
	       peer_say(dest, CONTROL_READY, 1, 0) && peer_hear(dest) == CONTROL_REGISTER_FINISHED;
}

static bool say_grant(struct peer *dest, uint32_t rkey, uint64_t host, uint32_t count)
{
	struct control_grant grant = { .rkey = rkey, .host = host };

	for (uint32_t i = 0; i < count; i++)
		control_put_grant(dest->buffer, i, &grant);
	return peer_say(dest, CONTROL_REGISTER_RESULT, count, 0);
}

/* The stream goes on until the first round's pages, of which it wants the first */
static bool wants_key(FIXTURE_DATA(hostile_dest) *self)
{
	struct peer *dest = &self->dest;
	unsigned kind = 0;

	if (!is_wanted(self))
		return false;
	do {
		if (!peer_say(dest, CONTROL_READY, 1, 0))
			return false;
		kind = peer_hear(dest);
	} while (kind == CONTROL_STREAM);
	return kind == CONTROL_REGISTER_REQUEST;
}

/* What is said, and the sentence; the connection may be gone before its device has seen it sent */
#define REFUSED(name, when, sentence, say)                                                   \
	TEST_F(hostile_dest, name)                                                           \
	{                                                                                    \
		struct peer *dest = &self->dest;                                             \
                                                                                             \
		ASSERT_TRUE(when);                                                           \
		(void)(say);                                                                 \
		EXPECT_TRUE(gives_up(self, sentence))                                        \
		TH_LOG("%s: %s", wh_phase_name(wh_get_phase(self->source)), self->err.text); \
	}

REFUSED(two_blocks, is_asked(self, false), "BLOCKS_RESULT of 2 blocks, there are 1",
	say_list(dest, HOST, BYTES, 2))
REFUSED(no_blocks, is_asked(self, false), "BLOCKS_RESULT of 0 bytes",
	say_list(dest, HOST, BYTES, 0))
REFUSED(half_a_block, is_asked(self, false), "BLOCKS_RESULT of 16 bytes",
	(control_put(dest->buffer, CONTROL_BLOCKS_RESULT, 1, 0), put_be32(dest->buffer, 16),
	 peer_send(dest, 32)))
REFUSED(another_length_of_a_block, is_asked(self, false), "block 0 has 0x1000 bytes",
	say_list(dest, HOST, 4096, 1))
REFUSED(a_block_that_wraps, is_asked(self, false), "block 0 at 0xfffffffffffff000",
	say_list(dest, -UINT64_C(4096), BYTES, 1))
REFUSED(a_block_that_is_not_pinned, is_asked(self, true), "block 0 is not pinned",
	say_list(dest, HOST, BYTES, 1))
REFUSED(ready_and_no_list, is_asked(self, false), "READY instead of an answer",
	peer_say(dest, CONTROL_READY, 1, 0))
REFUSED(keys_and_no_list, is_asked(self, false), "REGISTER_RESULT, which was not asked for",
	say_grant(dest, 1, HOST, 1))
REFUSED(the_list_again, wants_key(self), "BLOCKS_RESULT, which was not asked for",
	say_list(dest, HOST, BYTES, 1))
REFUSED(a_sources_kind, is_asked(self, false), "REGISTER_REQUEST, which was not asked for",
	(memset(dest->buffer, 0, 64), peer_say(dest, CONTROL_REGISTER_REQUEST, 1, 0)))
REFUSED(an_unknown_kind, is_asked(self, false), "unknown kind 77",
	(control_put(dest->buffer, CONTROL_READY, 1, 0), put_be32(dest->buffer + 4, 77),
	 peer_send(dest, CONTROL_HEADER)))
REFUSED(another_length, is_asked(self, false), "that says it has 100",
	(control_put(dest->buffer, CONTROL_STREAM, 1, 100), peer_send(dest, 20)))
REFUSED(no_header, is_asked(self, false), "a message of 3 bytes", peer_send(dest, 3))
REFUSED(two_keys_for_one, wants_key(self), "of 2 chunks, 1 were wanted",
	say_grant(dest, 1, HOST, 2))
REFUSED(no_key, wants_key(self), "key 0x0 of block 0", say_grant(dest, 0, HOST, 1))
REFUSED(a_grant_that_wraps, wants_key(self), "of block 0 at 0xffffffffffffffff",
	say_grant(dest, 1, UINT64_MAX, 1))
/* What the device of the other end refuses ends the connection */
REFUSED(a_key_of_nothing, wants_key(self), "remote access error",
	say_grant(dest, 0x1234567, HOST, 1))
REFUSED(it_gives_up, wants_key(self), "the destination gave up",
	peer_say(dest, CONTROL_ERROR, 1, 0))
REFUSED(it_goes, wants_key(self), "the peer has disconnected", peer_close(dest))
REFUSED(it_says_nothing, wants_key(self), "has taken nothing for 2000 ms", dest->connected)

TEST_F(hostile_dest, other_versions)
{
	static const uint8_t hello[][8] = { { 0 }, { 0, 0, 0, 2 } };
	static const char *const sentence[] = { "speaks version 0", "speaks version 2",
						"speaks version 0" };

	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQ(0, start_source(self, false)) TH_LOG("%s", self->err.text);
		ASSERT_TRUE(take_source(self, i < 2 ? hello[i] : NULL, i < 2 ? 8 : 0));
		EXPECT_TRUE(gives_up(self, sentence[i])) TH_LOG("%u: %s", i, self->err.text);
		wh_free(self->source);
		self->source = NULL;
		peer_close(&self->dest);
	}
}

/* What the first connection was given, the second one shows; of a QEMU there is nothing to show */
TEST_F(hostile_dest, the_second_is_of_the_first)
{
	static const uint8_t given[][CONTROL_HELLO_MAX] = { { 0, 0, 0, 1, 4, 0, 0, 0, 1, 2, 3, 4 },
							    { 0, 0, 0, 1, 0, 0, 0, 0, 5, 6 } };
	static const uint8_t none[CONTROL_HELLO_MAX - CONTROL_HELLO];

	self->return_path = true;
	for (unsigned i = 0; i < 2; i++) {
		struct rdma_cm_id *second;
		const uint8_t *shown;

		ASSERT_EQ(0, start_source(self, false)) TH_LOG("%s", self->err.text);
		ASSERT_TRUE(take_source(self, given[i], sizeof(given[i])));
		ASSERT_EQ(0, rdma_get_request(self->listener, &second));
		shown = second->event->param.conn.private_data;
		EXPECT_EQ(given[i][4], shown[4] & 4);
		EXPECT_EQ(0, memcmp(i ? none : given[i] + CONTROL_HELLO, shown + CONTROL_HELLO,
				    sizeof(none)));
		rdma_reject(second, NULL, 0);
		rdma_destroy_ep(second);
		EXPECT_TRUE(gives_up(self, "the return path's connection"))
		TH_LOG("%u: %s", i, self->err.text);
		wh_free(self->source);
		self->source = NULL;
		peer_close(&self->dest);
	}
}

TEST_HARNESS_MAIN
