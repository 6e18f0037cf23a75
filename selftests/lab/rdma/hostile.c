/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A source that says what none would, to wherry receive: each is refused with a sentence here
 * and an ERROR there. It uses librdmacm as simply as that goes, and nothing of ours but the
 * codec.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "wire/control.h"

#define HERE "10.9.1.2"
#define PORT "4444"
#define OUTPUT "/tmp/hostile.out"
#define MIB (UINT64_C(1) << 20)
#define BUFFER 65536u

/* What the receiver has on its side is one block of 2 MiB and a page */
#define BLOCK (2 * MIB + 4096)

struct source {
	struct rdma_cm_id *id;
	struct ibv_mr *mr;
	uint8_t *buffer; /* sent from, then two that are received into */
	bool connected;
	struct control got;
};

FIXTURE(hostile)
{
	struct source source;
	pid_t receiver;
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

/* Return: 0, or what kept it from connecting */
static int source_connect(struct source *source, const void *hello, uint8_t length)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP }, *list;
	struct ibv_qp_init_attr attr = {
		.cap = { .max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1, .max_recv_sge = 1 },
		.sq_sig_all = 1,
	};
	struct rdma_conn_param param = {
		.private_data = hello,
		.private_data_len = length,
		.retry_count = 5,
		.rnr_retry_count = 7,
	};
	int ret = -1;

	*source = (struct source){ 0 };
	if (rdma_getaddrinfo(HERE, PORT, &hints, &list))
		return -1;
	if (rdma_create_ep(&source->id, list, NULL, &attr) == 0) {
		source->buffer = calloc(3, BUFFER);
		source->mr = rdma_reg_msgs(source->id, source->buffer, 3 * BUFFER);
		/* the answer, and READY behind it */
		for (unsigned i = 1; i < 3; i++)
			(void)rdma_post_recv(source->id, (void *)(uintptr_t)i,
					     source->buffer + i * BUFFER, BUFFER, source->mr);
		ret = rdma_connect(source->id, &param) ? -errno : 0;
		source->connected = ret == 0;
	}
	rdma_freeaddrinfo(list);
	return ret;
}

static void source_close(struct source *source)
{
	if (!source->id)
		return;
	if (source->connected)
		rdma_disconnect(source->id);
	if (source->mr)
		rdma_dereg_mr(source->mr);
	rdma_destroy_ep(source->id);
	free(source->buffer);
	source->id = NULL;
}

/* The next message's kind; 0: there is none any more */
static unsigned source_hear(struct source *source)
{
	struct ibv_wc wc;
	uint8_t *at;

	if (rdma_get_recv_comp(source->id, &wc) <= 0 || wc.status != IBV_WC_SUCCESS)
		return 0;
	at = source->buffer + wc.wr_id * BUFFER;
	if (control_get(at, wc.byte_len, &source->got, NULL) < 0)
		return 0;
	/* good until two more have come */
	(void)rdma_post_recv(source->id, (void *)(uintptr_t)wc.wr_id, at, BUFFER, source->mr);
	return source->got.kind;
}

static bool source_send(struct source *source, size_t bytes)
{
	struct ibv_wc wc;

	return rdma_post_send(source->id, NULL, source->buffer, bytes, source->mr, 0) == 0 &&
	       rdma_get_send_comp(source->id, &wc) > 0 && wc.status == IBV_WC_SUCCESS;
}

static bool source_say(struct source *source, enum control_kind kind, uint32_t count, size_t bytes)
{
	return source_send(source, control_put(source->buffer, kind, count, bytes));
}

static bool source_ask(struct source *source, enum control_kind kind, uint32_t block,
		       uint64_t address, uint32_t count)
{
	struct control_ask ask = { .block = block, .address = address };

	for (uint32_t i = 0; i < count && (i + 1) * 24 + CONTROL_HEADER <= BUFFER; i++)
		control_put_ask(source->buffer, i, &ask);
	return source_say(source, kind, count, 0);
}

static bool source_zero(struct source *source, uint64_t address, uint64_t length, uint32_t value)
{
	struct control_zero zero = { .value = value, .address = address, .length = length };

	control_put_zero(source->buffer, 0, &zero);
	return source_say(source, CONTROL_ZERO, 1, 0);
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
	static const uint8_t hello[] = { 0, 0, 0, 1, 0, 0, 0, 0 };
	struct source *source = &self->source;
	struct control_block block;

	if (source_connect(source, hello, sizeof(hello)) || source_hear(source) != CONTROL_READY)
		return false;
	if (!source_say(source, CONTROL_STREAM, 1,
			put_stream(source->buffer + CONTROL_HEADER, true)) ||
	    source_hear(source) != CONTROL_READY ||
	    !source_say(source, CONTROL_BLOCKS_REQUEST, 1, 0) ||
	    source_hear(source) != CONTROL_BLOCKS_RESULT || source->got.count != 1)
		return false;
	control_get_block(&source->got, 0, &block);
	self->start = block.start;
	return block.length == BLOCK && !block.rkey && source_hear(source) == CONTROL_READY;
}

static bool ends_with_error(FIXTURE_DATA(hostile) *self)
{
	unsigned kind;

	while ((kind = source_hear(&self->source)) && kind != CONTROL_ERROR)
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
			/* a sanitizer's own status is 1 as well */
			return WIFEXITED(status) && WEXITSTATUS(status) == 1 &&
			       output_has(sentence) && !output_has("Sanitizer") &&
			       !output_has("runtime error");
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
	source_close(&self->source);
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
		struct source *source = &self->source;               \
                                                                     \
		ASSERT_TRUE(set_up(self)) show_output();             \
		(void)(say);                                         \
		EXPECT_TRUE(ends_with_error(self));                  \
		EXPECT_TRUE(gives_up(self, sentence)) show_output(); \
	}

REFUSED(another_length, "that says it has 100",
	(control_put(source->buffer, CONTROL_STREAM, 1, 100), source_send(source, 20)))
REFUSED(no_header, "a message of 3 bytes", source_send(source, 3))
REFUSED(an_unknown_kind, "unknown kind 77",
	(control_put(source->buffer, CONTROL_READY, 1, 0), put_be32(source->buffer + 4, 77),
	 source_send(source, CONTROL_HEADER)))
REFUSED(a_destinations_kind, "which a source does not say", source_say(source, CONTROL_READY, 1, 0))
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
REFUSED(the_stream_too_early, "before REGISTER_FINISHED", source_say(source, CONTROL_STREAM, 1, 8))
REFUSED(the_list_again, "for the second time", source_say(source, CONTROL_BLOCKS_REQUEST, 1, 0))

/* Its own ERROR is not answered with one */
TEST_F(hostile, it_gives_up)
{
	ASSERT_TRUE(set_up(self)) show_output();
	EXPECT_TRUE(source_say(&self->source, CONTROL_ERROR, 1, 0));
	EXPECT_TRUE(gives_up(self, "the source has given up")) show_output();
	/* what has come by now lies in front of what is flushed */
	rdma_disconnect(self->source.id);
	self->source.connected = false;
	EXPECT_FALSE(ends_with_error(self));
}

TEST_F(hostile, it_goes)
{
	ASSERT_TRUE(set_up(self)) show_output();
	source_close(&self->source);
	EXPECT_TRUE(gives_up(self, "the source closed")) show_output();
}

TEST_F(hostile, memory_without_a_word_of_the_stream)
{
	static const uint8_t hello[] = { 0, 0, 0, 1, 0, 0, 0, 0 };
	struct source *source = &self->source;

	ASSERT_EQ(0, source_connect(source, hello, sizeof(hello)));
	ASSERT_EQ(CONTROL_READY, source_hear(source));
	ASSERT_TRUE(source_say(source, CONTROL_STREAM, 1,
			       put_stream(source->buffer + CONTROL_HEADER, false)));
	ASSERT_EQ(CONTROL_READY, source_hear(source));
	EXPECT_TRUE(source_say(source, CONTROL_BLOCKS_REQUEST, 1, 0));
	EXPECT_TRUE(ends_with_error(self));
	EXPECT_TRUE(gives_up(self, "which the stream does not announce")) show_output();
}

/* Who is refused at the door leaves it open for the next */
TEST_F(hostile, other_versions)
{
	static const uint8_t hello[][8] = { { 0 }, { 0, 0, 0, 2 }, { 1, 0, 0, 1 } };

	for (unsigned i = 0; i < 3; i++) {
		EXPECT_NE(0, source_connect(&self->source, hello[i], sizeof(hello[i])));
		source_close(&self->source);
	}
	EXPECT_NE(0, source_connect(&self->source, NULL, 0));
	source_close(&self->source);
	EXPECT_TRUE(output_will_have("speaks version 2")) show_output();
	EXPECT_TRUE(set_up(self)) show_output();
}

static const uint8_t plain[] = { 0, 0, 0, 1, 0, 0, 0, 0 };

/* The second is for the return path, and there is no third */
TEST_F(hostile, a_third_connection)
{
	struct source second, third;

	ASSERT_TRUE(set_up(self)) show_output();
	EXPECT_EQ(0, source_connect(&second, plain, sizeof(plain)));
	EXPECT_NE(0, source_connect(&third, plain, sizeof(plain)));
	source_close(&third);
	EXPECT_TRUE(source_ask(&self->source, CONTROL_REGISTER_REQUEST, 0, self->start, 1));
	EXPECT_EQ(CONTROL_REGISTER_RESULT, source_hear(&self->source));
	source_close(&second);
}

/* On the return path it may ask for more, and for nothing else */
TEST_F(hostile, memory_on_the_return_path)
{
	struct source second;

	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_EQ(0, source_connect(&second, plain, sizeof(plain)));
	EXPECT_TRUE(source_say(&second, CONTROL_BLOCKS_REQUEST, 1, 0));
	EXPECT_TRUE(gives_up(self, "BLOCKS_REQUEST on the return path")) show_output();
	source_close(&second);
}

TEST_F(hostile, two_requests_on_the_return_path)
{
	struct source second;

	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_EQ(0, source_connect(&second, plain, sizeof(plain)));
	EXPECT_TRUE(source_say(&second, CONTROL_READY, 1, 0));
	EXPECT_TRUE(source_say(&second, CONTROL_READY, 1, 0));
	EXPECT_TRUE(gives_up(self, "READY on the return path for the second time")) show_output();
	source_close(&second);
}

/* It writes where it may, and with the same key nowhere else */
static enum ibv_wc_status write_to(struct source *source, uint64_t at, uint32_t rkey, size_t bytes)
{
	struct ibv_wc wc = { .status = IBV_WC_GENERAL_ERR };

	if (rdma_post_write(source->id, NULL, source->buffer, bytes, source->mr, 0, at, rkey) == 0)
		(void)rdma_get_send_comp(source->id, &wc);
	return wc.status;
}

static bool grant(FIXTURE_DATA(hostile) *self, uint64_t address)
{
	if (!source_ask(&self->source, CONTROL_REGISTER_REQUEST, 0, address, 1) ||
	    source_hear(&self->source) != CONTROL_REGISTER_RESULT)
		return false;
	control_get_grant(&self->source.got, 0, &self->grant);
	return self->grant.rkey && source_hear(&self->source) == CONTROL_READY;
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

TEST_F(hostile, after_it_was_unregistered)
{
	ASSERT_TRUE(set_up(self)) show_output();
	ASSERT_TRUE(grant(self, self->start));
	EXPECT_EQ(IBV_WC_SUCCESS,
		  write_to(&self->source, self->grant.host, self->grant.rkey, 4096));
	ASSERT_TRUE(source_ask(&self->source, CONTROL_UNREGISTER_REQUEST, 0, 0, 1));
	EXPECT_EQ(CONTROL_UNREGISTER_FINISHED, source_hear(&self->source));
	EXPECT_EQ(CONTROL_READY, source_hear(&self->source));
	EXPECT_EQ(IBV_WC_REM_ACCESS_ERR,
		  write_to(&self->source, self->grant.host, self->grant.rkey, 4096));
}

TEST_HARNESS_MAIN
