/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A source that says what none would, to wherry receive: each is refused with a sentence here
 * and an ERROR there.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "selftests/lab/rdma/peer.h"

#define HERE "10.9.1.2"
#define PORT "4444"
#define OUTPUT "/tmp/hostile.out"
#define MIB (UINT64_C(1) << 20)

/* What the receiver has on its side is one block of 2 MiB and a page */
#define BLOCK (2 * MIB + 4096)

FIXTURE(hostile)
{
	struct peer source;
	pid_t receiver;
	uint32_t flags; /* that it says in connecting */
	struct control_grant grant;
	uint64_t start;
};

static void start_receiver(FIXTURE_DATA(hostile) *self)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/wherry", getenv("WH_BUILD") ?: "build");
	unlink(OUTPUT);
	self->receiver = fork();
	if (self->receiver == 0) {
		int fd = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(fd, 1);
		dup2(fd, 2);
		execl(path, path, "receive", "--force", "--timeout", "3", "--out", "/tmp/hostile",
		      "rdma:" HERE ":" PORT, NULL);
		_exit(127);
	}
}

static bool output_has(const char *text)
{
	static char all[16384];
	int fd = open(OUTPUT, O_RDONLY);
	ssize_t have;

	if (fd < 0)
		return false;
	have = read(fd, all, sizeof(all) - 1);
	close(fd);
	all[have > 0 ? have : 0] = '\0';
	return strstr(all, text) != NULL;
}

static bool output_will_have(const char *text)
{
	for (unsigned i = 0; i < 200; i++, usleep(50000))
		if (output_has(text))
			return true;
	return false;
}

static bool source_ask(struct peer *source, enum control_kind kind, uint32_t block,
		       uint64_t address, uint32_t count)
{
	struct control_ask ask = { .block = block, .address = address };

	for (uint32_t i = 0; i < count && (i + 1) * 24 + CONTROL_HEADER <= PEER_BUFFER; i++)
		control_put_ask(source->buffer, i, &ask);
	return peer_say(source, kind, count, 0);
}

static bool source_zero(struct peer *source, uint64_t address, uint64_t length, uint32_t value)
{
	struct control_zero zero = { .value = value, .address = address, .length = length };

	control_put_zero(source->buffer, 0, &zero);
	return peer_say(source, CONTROL_ZERO, 1, 0);
}

/* The stream's begin: header, RAM section, one block, HOOK or not */
static size_t put_stream(uint8_t *at, bool hook)
{
	uint8_t *begin = at;

	memcpy(at, "QEVM\0\0\0\3\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4", 25);
	at += 25;
	put_be64(at, BLOCK | 4);
	memcpy(at + 8, "\3mem", 4);
	put_be64(at + 12, BLOCK);
	put_be64(at + 20, hook ? 0x80 : 0x10);
	return (size_t)(at + 28 - begin);
}

/* Up to the middle of the first bracket: it has the list, and may speak */
static bool set_up(FIXTURE_DATA(hostile) *self)
{
	const struct control_hello said = { CONTROL_VERSION, self->flags, { 0 } };
	struct peer *source = &self->source;
	struct control_block block;
	uint8_t hello[CONTROL_HELLO];

	control_put_hello(hello, &said);
	if (peer_connect(source, HERE, PORT, hello, sizeof(hello)) ||
	    peer_hear(source) != CONTROL_READY)
		return false;
	if (!peer_say(source, CONTROL_STREAM, 1,
		      put_stream(source->buffer + CONTROL_HEADER, true)) ||
	    peer_hear(source) != CONTROL_READY || !peer_say(source, CONTROL_BLOCKS_REQUEST, 1, 0) ||
	    peer_hear(source) != CONTROL_BLOCKS_RESULT || source->got.count != 1)
		return false;
	control_get_block(&source->got, 0, &block);
	self->start = block.start;
	return block.length == BLOCK && !block.rkey && peer_hear(source) == CONTROL_READY;
}

static bool ends_with_error(FIXTURE_DATA(hostile) *self)
{
	unsigned kind;

	while ((kind = peer_hear(&self->source)) && kind != CONTROL_ERROR)
		;
	return kind == CONTROL_ERROR;
}

/* The receiver has given up, and says this */
static int gives_up(FIXTURE_DATA(hostile) *self, const char *sentence)
{
	int status = -1;

	for (unsigned i = 0; i < 200; i++, usleep(50000))
		if (waitpid(self->receiver, &status, WNOHANG) == self->receiver) {
			self->receiver = 0;
			return WIFEXITED(status) && WEXITSTATUS(status) == 1 &&
			       output_has(sentence);
		}
	return false;
}

static void show_output(void)
{
	(void)!system("sed 's/^/# /' " OUTPUT);
}

FIXTURE_SETUP(hostile)
{
	memset(self, 0, sizeof(*self));
	start_receiver(self);
	ASSERT_TRUE(output_will_have("listening")) show_output();
}

FIXTURE_TEARDOWN(hostile)
{
	peer_close(&self->source);
	if (self->receiver > 0) {
		kill(self->receiver, SIGKILL);
		waitpid(self->receiver, NULL, 0);
	}
}

/*
 * What is said in the bracket, and the sentence, which tells that it was heard: the other end may be
 * gone before its device has acknowledged it
 */
#define REFUSED(name, sentence, say)                                 \
	TEST_F(hostile, name)                                        \
	{                                                            \
		struct peer *source = &self->source;                 \
                                                                     \
		ASSERT_TRUE(set_up(self)) show_output();             \
		(void)(say);                                         \
		EXPECT_TRUE(ends_with_error(self));                  \
		EXPECT_TRUE(gives_up(self, sentence)) show_output(); \
	}

REFUSED(another_length, "that says it has 100",
	(control_put(source->buffer, CONTROL_STREAM, 1, 100), peer_send(source, 20)))
REFUSED(no_header, "a message of 3 bytes", peer_send(source, 3))
REFUSED(an_unknown_kind, "unknown kind 77",
	(control_put(source->buffer, CONTROL_READY, 1, 0), put_be32(source->buffer + 4, 77),
	 peer_send(source, CONTROL_HEADER)))
REFUSED(a_destinations_kind, "which a source does not say", peer_say(source, CONTROL_READY, 1, 0))
REFUSED(another_block, "of block 9 of 1",
	source_ask(source, CONTROL_REGISTER_REQUEST, 9, self->start, 1))
REFUSED(behind_the_block, "REGISTER_REQUEST of 0x1 bytes",
	source_ask(source, CONTROL_REGISTER_REQUEST, 0, self->start + BLOCK, 1))
REFUSED(in_front_of_the_block, "REGISTER_REQUEST of 0x1 bytes",
	source_ask(source, CONTROL_REGISTER_REQUEST, 0, self->start - 1, 1))
REFUSED(zeros_that_overrun, "ZERO of 0x2000 bytes",
	source_zero(source, self->start + BLOCK - 4096, 8192, 0))
REFUSED(zeros_that_wrap, "ZERO of 0xfffffffffffff000 bytes",
	source_zero(source, self->start + 4096, -UINT64_C(4096), 0))
REFUSED(zeros_that_are_none, "with the value 0x55", source_zero(source, self->start, 4096, 0x55))
REFUSED(a_chunk_that_is_none, "UNREGISTER_REQUEST of chunk 0x3",
	source_ask(source, CONTROL_UNREGISTER_REQUEST, 0, 3, 1))
REFUSED(the_stream_too_early, "before REGISTER_FINISHED", peer_say(source, CONTROL_STREAM, 1, 8))
REFUSED(the_list_again, "for the second time", peer_say(source, CONTROL_BLOCKS_REQUEST, 1, 0))

/* Its own ERROR is not answered with one */
TEST_F(hostile, it_gives_up)
{
	ASSERT_TRUE(set_up(self)) show_output();
	EXPECT_TRUE(peer_say(&self->source, CONTROL_ERROR, 1, 0));
	EXPECT_TRUE(gives_up(self, "the source has given up")) show_output();
	/* what has come by now lies in front of what is flushed */
	rdma_disconnect(self->source.id);
	self->source.connected = false;
	EXPECT_FALSE(ends_with_error(self));
}

TEST_F(hostile, it_goes)
{
	ASSERT_TRUE(set_up(self)) show_output();
	peer_close(&self->source);
	EXPECT_TRUE(gives_up(self, "the source closed")) show_output();
}

TEST_F(hostile, memory_without_a_word_of_the_stream)
{
	static const uint8_t hello[] = { 0, 0, 0, 1, 0, 0, 0, 0 };
	struct peer *source = &self->source;

	ASSERT_EQ(0, peer_connect(source, HERE, PORT, hello, sizeof(hello)));
	ASSERT_EQ(CONTROL_READY, peer_hear(source));
	ASSERT_TRUE(peer_say(source, CONTROL_STREAM, 1,
			     put_stream(source->buffer + CONTROL_HEADER, false)));
	ASSERT_EQ(CONTROL_READY, peer_hear(source));
	EXPECT_TRUE(peer_say(source, CONTROL_BLOCKS_REQUEST, 1, 0));
	EXPECT_TRUE(ends_with_error(self));
	EXPECT_TRUE(gives_up(self, "which the stream does not announce")) show_output();
}

/* Who is refused at the door leaves it open for the next */
TEST_F(hostile, other_versions)
{
	static const uint8_t hello[][8] = { { 0 }, { 0, 0, 0, 2 }, { 1, 0, 0, 1 } };

	for (unsigned i = 0; i < 3; i++) {
		EXPECT_NE(0, peer_connect(&self->source, HERE, PORT, hello[i], sizeof(hello[i])));
		peer_close(&self->source);
	}
	EXPECT_NE(0, peer_connect(&self->source, HERE, PORT, NULL, 0));
	peer_close(&self->source);
	EXPECT_TRUE(output_will_have("speaks version 2")) show_output();
	EXPECT_TRUE(set_up(self)) show_output();
}

static const uint8_t plain[] = { 0, 0, 0, 1, 0, 0, 0, 0 };

/* The second is for the return path, and there is no third */
TEST_F(hostile, a_third_connection)
{
	struct peer second, third;

	ASSERT_TRUE(set_up(self)) show_output();
	EXPECT_EQ(0, peer_connect(&second, HERE, PORT, plain, sizeof(plain)));
	EXPECT_NE(0, peer_connect(&third, HERE, PORT, plain, sizeof(plain)));
	peer_close(&third);
	EXPECT_TRUE(source_ask(&self->source, CONTROL_REGISTER_REQUEST, 0, self->start, 1));
	EXPECT_EQ(CONTROL_REGISTER_RESULT, peer_hear(&self->source));
	peer_close(&second);
}

static int connect_behind(struct peer *peer, const uint8_t *hello)
{
	int ret = peer_connect(peer, HERE, PORT, hello, CONTROL_HELLO_MAX);

	if (ret)
		peer_close(peer);
	return ret;
}

/* Behind one of ours only who shows the ticket that was in the answer, for the return path or to read */
TEST_F(hostile, others_behind_one_of_ours)
{
	static const uint8_t first[CONTROL_HELLO_MAX] = { 0, 0, 0, 1, 0x14 };
	uint8_t answer[CONTROL_HELLO_MAX], hello[CONTROL_HELLO_MAX];
	struct peer back, reads;

	ASSERT_EQ(0, peer_connect(&self->source, HERE, PORT, first, sizeof(first)));
	memcpy(answer, self->source.id->event->param.conn.private_data, sizeof(answer));
	EXPECT_EQ(0, memcmp(first, answer, CONTROL_HELLO));
	EXPECT_NE(0, memcmp(first, answer, sizeof(first)));
	for (unsigned i = 0; i < 6; i++) {
		memcpy(hello, answer, sizeof(hello));
		hello[4] = i < 3 ? 0x04 : 0x0c;
		if (i % 3 == 0)
			hello[4] &= ~0x04;
		else if (i % 3 == 1)
			memset(hello + CONTROL_HELLO, 0, sizeof(hello) - CONTROL_HELLO);
		else
			hello[sizeof(hello) - 1] ^= 1;
		EXPECT_NE(0, connect_behind(&back, hello)) TH_LOG("%u", i);
	}
	EXPECT_TRUE(output_will_have("already, which this one is no part of")) show_output();
	EXPECT_TRUE(output_will_have("to read pages on, which was not agreed")) show_output();
	hello[sizeof(hello) - 1] ^= 1;
	EXPECT_EQ(0, connect_behind(&reads, hello));
	hello[4] = 0x04;
	EXPECT_EQ(0, connect_behind(&back, hello));
	peer_close(&back);
	peer_close(&reads);
}

/* Whose migration has gone is not taken for a first one */
TEST_F(hostile, behind_nobody)
{
	static const uint8_t hello[CONTROL_HELLO_MAX] = { 0, 0, 0, 1, 0x04, [CONTROL_HELLO] = 5 };

	EXPECT_NE(0, connect_behind(&self->source, hello));
	EXPECT_TRUE(output_will_have("that it is a part of is not here")) show_output();
	EXPECT_TRUE(set_up(self)) show_output();
}

/* On the return path it may ask for more, and for nothing else */
TEST_F(hostile, memory_on_the_return_path)
{
	struct peer second;

	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_EQ(0, peer_connect(&second, HERE, PORT, plain, sizeof(plain)));
	EXPECT_TRUE(peer_say(&second, CONTROL_BLOCKS_REQUEST, 1, 0));
	EXPECT_TRUE(gives_up(self, "BLOCKS_REQUEST on the return path")) show_output();
	peer_close(&second);
}

TEST_F(hostile, two_requests_on_the_return_path)
{
	struct peer second;

	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_EQ(0, peer_connect(&second, HERE, PORT, plain, sizeof(plain)));
	EXPECT_TRUE(peer_say(&second, CONTROL_READY, 1, 0));
	EXPECT_TRUE(peer_say(&second, CONTROL_READY, 1, 0));
	EXPECT_TRUE(gives_up(self, "READY on the return path for the second time")) show_output();
	peer_close(&second);
}

/* It writes where it may, and with the same key nowhere else */
static enum ibv_wc_status write_to(struct peer *source, uint64_t at, uint32_t rkey, size_t bytes)
{
	struct ibv_wc wc = { .status = IBV_WC_GENERAL_ERR };

	if (rdma_post_write(source->id, NULL, source->buffer, bytes, source->mr, 0, at, rkey) == 0)
		(void)rdma_get_send_comp(source->id, &wc);
	return wc.status;
}

static bool grant(FIXTURE_DATA(hostile) *self, uint64_t address)
{
	if (!source_ask(&self->source, CONTROL_REGISTER_REQUEST, 0, address, 1) ||
	    peer_hear(&self->source) != CONTROL_REGISTER_RESULT)
		return false;
	control_get_grant(&self->source.got, 0, &self->grant);
	return self->grant.rkey && peer_hear(&self->source) == CONTROL_READY;
}

TEST_F(hostile, beyond_its_chunk)
{
	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_TRUE(grant(self, self->start + MIB));
	EXPECT_EQ(IBV_WC_SUCCESS, write_to(&self->source, self->grant.host + 2 * MIB - 4096,
					   self->grant.rkey, 4096));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR, write_to(&self->source, self->grant.host + 2 * MIB - 4096,
						  self->grant.rkey, 4097));
	EXPECT_TRUE(gives_up(self, "wherry receive: ")) show_output();
}

/* Which it has agreed to, and the block ends in */
TEST_F(hostile, beyond_a_large_chunk)
{
	self->flags = CONTROL_CHUNK_4M;
	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_TRUE(grant(self, self->start + MIB));
	EXPECT_EQ(IBV_WC_SUCCESS,
		  write_to(&self->source, self->grant.host + BLOCK - 4096, self->grant.rkey, 4096));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR,
		  write_to(&self->source, self->grant.host + BLOCK - 4096, self->grant.rkey, 4097));
	EXPECT_TRUE(gives_up(self, "wherry receive: ")) show_output();
}

TEST_F(hostile, after_it_was_unregistered)
{
	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_TRUE(grant(self, self->start));
	EXPECT_EQ(IBV_WC_SUCCESS,
		  write_to(&self->source, self->grant.host, self->grant.rkey, 4096));
	ASSERT_TRUE(source_ask(&self->source, CONTROL_UNREGISTER_REQUEST, 0, 0, 1));
	EXPECT_EQ(CONTROL_UNREGISTER_FINISHED, peer_hear(&self->source));
	EXPECT_EQ(CONTROL_READY, peer_hear(&self->source));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR,
		  write_to(&self->source, self->grant.host, self->grant.rkey, 4096));
}

TEST_HARNESS_MAIN
