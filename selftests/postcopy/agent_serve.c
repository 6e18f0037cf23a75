/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An agent, and a stranger in the place of its VMM: what is said out of turn, half, or not at
 * all, and a state that another one has left.
 */
#include "postcopy/agent.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wherry/agent.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(64) * 4096)

struct stranger {
	int socket[2];
	int state;
	int memfd;
	struct region region;
};

static void *serve(void *arg)
{
	struct stranger *s = arg;
	struct wh_err *err = calloc(1, sizeof(*err));

	wh_agent_serve(s->socket[1], NULL, NULL, err);
	shutdown(s->socket[1], SHUT_RDWR);
	return err;
}

/* Everything as it should be, but for what a test changes */
static struct agent_msg hello(void)
{
	return (struct agent_msg){
		.kind = AGENT_HELLO,
		.hello = { .version = AGENT_VERSION, .blocks = 1, .device_state_max = 1 << 20 },
	};
}

static struct agent_msg block(void)
{
	struct agent_msg msg = {
		.kind = AGENT_BLOCK,
		.block = { .guest = 1 << 20, .length = BYTES, .page_size = 4096 },
	};

	agent_text(&msg.block.name, "ram");
	return msg;
}

static struct agent_msg where(enum agent_kind kind, const char *uri)
{
	struct agent_msg msg = { .kind = kind };

	agent_text(kind == AGENT_LISTEN ? &msg.listen.uri : &msg.recover.uri, uri);
	return msg;
}

/* What the agent says to these, in the end */
static struct wh_err tell(struct stranger *s, const struct agent_msg *msgs, unsigned count)
{
	struct wh_err *why, ret;
	pthread_t thread;
	char buf[600];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->socket))
		abort();
	pthread_create(&thread, NULL, serve, s);
	for (unsigned i = 0; i < count; i++) {
		int fds[2] = { msgs[i].kind == AGENT_HELLO ? s->socket[0] : s->memfd, s->state };

		if (agent_send(s->socket[0], &msgs[i], fds, NULL))
			break;
	}
	/* until it has ended; it may have an answer first */
	while (recv(s->socket[0], buf, sizeof(buf), 0) > 0)
		;
	pthread_join(thread, (void **)&why);
	ret = *why;
	free(why);
	close(s->socket[0]);
	close(s->socket[1]);
	return ret;
}

static void stranger_init(struct stranger *s)
{
	struct agent_state state;

	s->region = (struct region){ .length = BYTES };
	if (agent_state_new(&state, &s->region, 1, NULL))
		abort();
	s->state = dup(state.fd);
	agent_state_close(&state);
	s->memfd = memfd_create("ram", MFD_CLOEXEC);
	if (ftruncate(s->memfd, BYTES))
		abort();
}

TEST(a_stranger_for_a_vmm)
{
	struct agent_msg good[] = { hello(), block(), where(AGENT_LISTEN, "tcp:127.0.0.1:0") };
	struct agent_msg msgs[4];
	struct stranger s;
	struct wh_err err;

	stranger_init(&s);
#define TELL(count, code_, says)                                                \
	do {                                                                    \
		err = tell(&s, msgs, count);                                    \
		EXPECT_EQ(code_, err.code);                                     \
		EXPECT_NE(NULL, strstr(err.text, says)) TH_LOG("%s", err.text); \
		memcpy(msgs, good, sizeof(good));                               \
	} while (0)
	memcpy(msgs, good, sizeof(good));
	msgs[0].hello.version = 7;
	TELL(1, -EPROTO, "version 7");
	msgs[0].hello.blocks = 0;
	TELL(1, -EPROTO, "0 blocks");
	msgs[0].hello.blocks = RAM_BLOCKS_MAX + 1;
	TELL(1, -EPROTO, "257 blocks");
	msgs[1] = msgs[0];
	TELL(2, -EPROTO, "HELLO out of turn");
	msgs[0] = msgs[1];
	TELL(1, -EPROTO, "BLOCK out of turn");
	msgs[1] = msgs[2];
	TELL(2, -EPROTO, "LISTEN out of turn");
	msgs[2] = msgs[1];
	TELL(3, -EPROTO, "BLOCK out of turn");
	msgs[1] = (struct agent_msg){ .kind = AGENT_STARTED };
	TELL(2, -EPROTO, "STARTED out of turn");
	msgs[1] = (struct agent_msg){ .kind = AGENT_START };
	TELL(2, -EPROTO, "START out of turn");
	/* its file is shorter than that, and would be SIGBUS */
	msgs[1].block.length = BYTES + 4096;
	TELL(2, -EPROTO, "of a file of");
	msgs[1].block.fd_offset = -UINT64_C(4096);
	TELL(2, -EPROTO, "of a file of");
	msgs[1].block.guest = 17;
	TELL(2, -EPROTO, "of a file of");
	msgs[1].block.page_size = 0;
	TELL(2, -EPROTO, "of a file of");
	msgs[1].block.page_size = 12288;
	msgs[1].block.guest = 12288;
	TELL(2, -EINVAL, "page size 12288");
	msgs[2] = where(AGENT_LISTEN, "nowhere");
	TELL(3, -EINVAL, "nowhere");
	/* there is nothing in the state */
	msgs[2] = where(AGENT_RECOVER, "tcp:127.0.0.1:0");
	TELL(3, -EPROTO, "no guest to be taken up");
}

TEST(the_state_is_looked_at)
{
	struct agent_msg msgs[] = { hello(), block(), where(AGENT_RECOVER, "tcp:127.0.0.1:0") };
	struct ram_block line = { .used = BYTES };
	struct agent_state state;
	struct identity identity = { .known = true, .id = { 5, 6 } };
	struct dest_past *past = calloc(1, sizeof(*past));
	struct stranger s;
	struct wh_err err;

	stranger_init(&s);
	strcpy(s.region.name, "ram");
	ASSERT_EQ(0, agent_state_open(&state, dup(s.state), &s.region, 1, &err));
	agent_state_note(&state, 0, 0, &line);
	agent_state_keep(&state, 3, &identity);
	agent_state_set(&state, AGENT_STAGE_ARMED);
	EXPECT_EQ(0, agent_state_past(&state, &s.region, past, &err));
	EXPECT_EQ(1, past->blocks.count);
	EXPECT_EQ(3, past->ram_id);
	EXPECT_TRUE(past->has_id && past->id.high == 5 && past->id.low == 6);
	EXPECT_EQ(BYTES, past->blocks.block[0].used);
	EXPECT_STREQ("ram", past->blocks.block[0].name.text);
	EXPECT_EQ(64, agent_state_missing(&state, &s.region));
	/* all of it is right, but that the "userfaultfd" is a socket */
	err = tell(&s, msgs, 3);
	EXPECT_EQ(-ENOTTY, err.code) TH_LOG("%s", err.text);

	line.used = BYTES + 4096;
	agent_state_note(&state, 0, 0, &line);
	EXPECT_EQ(-EPROTO, agent_state_past(&state, &s.region, past, &err));
	EXPECT_EQ(64, agent_state_missing(&state, &s.region));
	line.used = BYTES;
	line.page_size = 12345;
	agent_state_note(&state, 0, 0, &line);
	err = tell(&s, msgs, 3);
	EXPECT_EQ(-EPROTO, err.code) TH_LOG("%s", err.text);
	agent_state_note(&state, 0, 7, &line);
	EXPECT_EQ(-EPROTO, agent_state_past(&state, &s.region, past, &err));
	state.words[0]++;
	err = tell(&s, msgs, 2);
	EXPECT_NE(NULL, strstr(err.text, "another version"));
	/* who could make it shorter would end us by SIGBUS */
	s.state = memfd_create("state", MFD_CLOEXEC);
	ASSERT_EQ(0, ftruncate(s.state, (off_t)state.bytes));
	err = tell(&s, msgs, 2);
	EXPECT_NE(NULL, strstr(err.text, "no sealed memfd")) TH_LOG("%s", err.text);
	free(past);
}

/* A descriptor too few, a packet of nothing, and the VMM goes */
TEST(packets)
{
	struct agent_packet packet;
	struct wh_err err = { 0 };
	char junk[2000] = { 0 };
	int pair[2], pipe_fd[2];
	uint8_t buf[AGENT_MSG_MAX];
	struct agent_msg msg = block();
	size_t length = agent_put(buf, &msg);

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	ASSERT_EQ((ssize_t)length, send(pair[0], buf, length, 0));
	EXPECT_EQ(-EPROTO, agent_receive(pair[1], &packet, &err));
	EXPECT_NE(NULL, strstr(err.text, "0 descriptors, expected 1"));
	ASSERT_EQ((ssize_t)sizeof(junk), send(pair[0], junk, sizeof(junk), 0));
	EXPECT_EQ(-EPROTO, agent_receive(pair[1], &packet, &err));
	EXPECT_NE(NULL, strstr(err.text, "too large"));
	ASSERT_EQ(0, pipe(pipe_fd));
	ASSERT_EQ(0, agent_send(pair[0], &msg, &pipe_fd[1], &err));
	close(pipe_fd[1]);
	ASSERT_EQ(1, agent_receive(pair[1], &packet, &err)) TH_LOG("%s", err.text);
	EXPECT_EQ(1, write(packet.fd[0], "x", 1));
	agent_packet_close(&packet);
	/* nobody has it any more */
	EXPECT_EQ(1, read(pipe_fd[0], junk, 2));
	EXPECT_EQ(0, read(pipe_fd[0], junk, 2));
	/* Unread words of the other end do not hide its own last ones */
	msg = where(AGENT_LISTEN, "x");
	ASSERT_EQ(0, agent_send(pair[0], &msg, NULL, &err));
	ASSERT_EQ(0, agent_send(pair[1], &msg, NULL, &err));
	close(pair[0]);
	EXPECT_EQ(1, agent_receive(pair[1], &packet, &err));
	EXPECT_EQ(0, agent_receive(pair[1], &packet, &err));
}

TEST_HARNESS_MAIN
