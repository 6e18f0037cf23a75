/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a link's socket is set to, a peer that dies without a word, and sends that the
 * kernel takes in pieces.
 */
#include "selftests/ring/net.h"
#include "selftests/ring/told.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "kselftest_harness.h"

TEST(tuning)
{
	static const struct {
		uint64_t dead_peer_ns;
		int idle_s, interval_s, user_ms;
	} rows[] = {
		{ 1, 1, 1, 1 },
		{ 1500 * NS_PER_MS, 1, 1, 1500 },
		{ 10 * NS_PER_S, 5, 1, 10000 },
		{ 60 * NS_PER_S, 30, 7, 60000 },
		{ UINT64_MAX, 32767, 32767, INT32_MAX },
	};
	struct wh_err err = { 0 };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct socket_tuning tuning = { .dead_peer_ns = rows[i].dead_peer_ns };
		int fd = socket(i % 2 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

		ASSERT_LE(0, fd);
		EXPECT_EQ(0, socket_tune(fd, &tuning, &err))
		{
			TH_LOG("%s", err.text);
		}
		EXPECT_EQ(1, option(fd, IPPROTO_TCP, TCP_NODELAY));
		EXPECT_EQ(1, option(fd, SOL_SOCKET, SO_KEEPALIVE));
		EXPECT_EQ(rows[i].idle_s, option(fd, IPPROTO_TCP, TCP_KEEPIDLE));
		EXPECT_EQ(rows[i].interval_s, option(fd, IPPROTO_TCP, TCP_KEEPINTVL));
		EXPECT_EQ(4, option(fd, IPPROTO_TCP, TCP_KEEPCNT));
		EXPECT_EQ(rows[i].user_ms, option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
		close(fd);
	}
}

TEST(tuning_where_little_applies)
{
	struct socket_tuning tuning = { .dead_peer_ns = NS_PER_S, .send_buffer = 50000 };
	struct socket_tuning none = { 0 };
	struct wh_err err = { 0 };
	int pair[2], fd, before;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	EXPECT_EQ(0, socket_tune(pair[0], &tuning, &err))
	{
		TH_LOG("%s", err.text);
	}
	EXPECT_EQ(100000, option(pair[0], SOL_SOCKET, SO_SNDBUF));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	before = option(fd, SOL_SOCKET, SO_SNDBUF);
	EXPECT_EQ(0, socket_tune(fd, &none, &err));
	EXPECT_EQ(0, option(fd, SOL_SOCKET, SO_KEEPALIVE));
	EXPECT_EQ(0, option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
	EXPECT_EQ(before, option(fd, SOL_SOCKET, SO_SNDBUF));
	EXPECT_EQ(0, socket_tune(fd, NULL, &err));
	EXPECT_EQ(1, option(fd, IPPROTO_TCP, TCP_NODELAY));
	EXPECT_EQ(-ENOTSOCK, socket_tune(0, &tuning, &err));
	EXPECT_EQ(-EBADF, socket_tune(9999, &tuning, &err));
	EXPECT_NE(NULL, strstr(err.text, "9999"));
	close(fd);
}

/*
 * Two networks and a cable between them. A listener in the one, a dial from the other,
 * and then the cable is cut: nobody says anything any more.
 */
FIXTURE(cable)
{
	struct loop *loop;
	struct wh_err err;
	struct heard heard;
	struct dialled dialled;
	int near;
	int far;
};

static int cable_new(int *near, int *far)
{
	*near = net_new();
	if (*near < 0 || run("ip link add name near type veth peer name far &&"
			     "ip addr add 10.99.0.1/24 dev near && ip link set near up") != 0)
		return -1;
	*far = net_new();
	if (*far < 0 || setns(*near, CLONE_NEWNET) < 0 ||
	    run("ip link set far netns /proc/%d/fd/%d", getpid(), *far) != 0 ||
	    setns(*far, CLONE_NEWNET) < 0)
		return -1;
	return run("ip addr add 10.99.0.2/24 dev far && ip link set far up");
}

FIXTURE_SETUP(cable)
{
	const struct socket_tuning tuning = { .dead_peer_ns = 1200 * NS_PER_MS };
	char text[URI_TEXT];

	self->err = (struct wh_err){ 0 };
	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_EQ(0, loop_open(&self->loop, 16, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, cable_new(&self->near, &self->far));
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:10.99.0.2:0", NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	listener_uri(&self->heard.listener, text, sizeof(text));
	ASSERT_EQ(0, setns(self->near, CLONE_NEWNET));
	ASSERT_EQ(0,
		  dialled_start(&self->dialled, self->loop, text, LIMIT_NS, &tuning, &self->err));
	ASSERT_LE(0, dialled_finish(&self->dialled, self->loop))
	{
		TH_LOG("%s", self->dialled.err.text);
	}
	ASSERT_TRUE(heard_wait(&self->heard, self->loop, 1));
}

FIXTURE_TEARDOWN(cable)
{
	if (geteuid() != 0)
		return;
	close(self->dialled.fd);
	heard_close(&self->heard, self->loop);
	loop_close(self->loop);
}

static bool is_dead(int code)
{
	return code == -ETIMEDOUT || code == -EHOSTUNREACH;
}

/* Nothing was under way: keep-alive finds out */
TEST_F(cable, cut_while_idle)
{
	struct told recv = told_new();
	uint64_t begin_ns;
	char buf[16];

	/* alive, though idle for longer than that: its kernel answers the probes */
	loop_recv(self->loop, &recv.op, self->dialled.fd, buf, sizeof(buf), 0);
	begin_ns = clock_now_ns();
	while (clock_now_ns() - begin_ns < 2500 * NS_PER_MS) {
		ASSERT_EQ(0, loop_step(self->loop, 2500 * (int64_t)NS_PER_MS, &self->err));
	}
	ASSERT_EQ(0, recv.calls);

	ASSERT_EQ(0, setns(self->far, CLONE_NEWNET));
	ASSERT_EQ(0, run("ip link set far down"));
	EXPECT_TRUE(is_dead(finish(self->loop, &recv)))
	{
		TH_LOG("%d", recv.result);
	}
}

/* Data was under way: the user time-out finds out */
TEST_F(cable, cut_while_sending)
{
	static char data[8 << 20];
	struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct told send = told_new();
	struct told recv = told_new();
	char buf[16];

	ASSERT_EQ(0, setns(self->far, CLONE_NEWNET));
	ASSERT_EQ(0, run("ip link set far down"));
	loop_recv(self->loop, &recv.op, self->dialled.fd, buf, sizeof(buf), 0);
	loop_sendmsg(self->loop, &send.op, self->dialled.fd, &msg, MSG_WAITALL);
	EXPECT_NE(UNTOLD, finish(self->loop, &send));
	EXPECT_LT(send.result, (int)sizeof(data));
	/*
	 * The reason is told once, and a send that had gone half-way swallows it: what is
	 * certain is that the link has ended, for both directions.
	 */
	EXPECT_NE(UNTOLD, finish(self->loop, &recv));
	EXPECT_TRUE(recv.result == 0 || is_dead(recv.result))
	{
		TH_LOG("%d", recv.result);
	}
	loop_sendmsg(self->loop, &send.op, self->dialled.fd, &msg, MSG_WAITALL);
	EXPECT_EQ(-EPIPE, finish(self->loop, &send));
}

/*
 * A batch as a migration sends it: 1024 pieces, 1 MiB, through a send buffer of a few
 * KiB. MSG_WAITALL has the kernel go on by itself until all of it is gone.
 */
#define PIECES 1024
#define PIECE_BYTES 1024
#define BATCH_BYTES (PIECES * PIECE_BYTES)

struct reader {
	pthread_t thread;
	int fd;
	size_t bytes;
	size_t wrong;
};

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + at / 251);
}

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	static uint8_t buf[3000]; /* not a multiple of anything */

	for (;;) {
		struct pollfd poll_fd = { .fd = reader->fd, .events = POLLIN };
		ssize_t n;

		poll(&poll_fd, 1, -1);
		n = recv(reader->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			continue;
		if (n <= 0)
			return NULL;
		for (ssize_t i = 0; i < n; i++)
			reader->wrong += buf[i] != pattern(reader->bytes + (size_t)i);
		reader->bytes += (size_t)n;
	}
}

FIXTURE(batch)
{
	struct loop *loop;
	struct wh_err err;
	int out;
	int in;
	struct iovec iov[PIECES];
	struct msghdr msg;
	uint8_t *data;
};

FIXTURE_VARIANT(batch)
{
	const char *address; /* or NULL: a pair of unix sockets */
	int send_buffer;
	bool nonblock;
};

FIXTURE_VARIANT_ADD(batch, unix_blocking){ .send_buffer = 4096 };
FIXTURE_VARIANT_ADD(batch, unix_nonblocking){ .send_buffer = 32768, .nonblock = true };
FIXTURE_VARIANT_ADD(batch, tcp){
	.address = "tcp:127.0.0.1:0",
	.send_buffer = 65536,
	.nonblock = true,
};

FIXTURE_SETUP(batch)
{
	const struct socket_tuning tuning = { .send_buffer = variant->send_buffer };
	struct dialled dialled;
	char text[URI_TEXT];
	struct heard heard;
	int pair[2];

	self->err = (struct wh_err){ 0 };
	self->data = malloc(BATCH_BYTES);
	ASSERT_NE(NULL, self->data);
	for (size_t i = 0; i < BATCH_BYTES; i++)
		self->data[i] = pattern(i);
	for (size_t i = 0; i < PIECES; i++)
		self->iov[i] = (struct iovec){ self->data + i * PIECE_BYTES, PIECE_BYTES };
	self->msg = (struct msghdr){ .msg_iov = self->iov, .msg_iovlen = PIECES };
	ASSERT_EQ(0, loop_open(&self->loop, 8, &self->err));
	if (variant->address) {
		ASSERT_EQ(0, heard_open(&heard, self->loop, variant->address, NULL, &self->err));
		listener_uri(&heard.listener, text, sizeof(text));
		ASSERT_EQ(0,
			  dialled_start(&dialled, self->loop, text, LIMIT_NS, &tuning, &self->err));
		self->out = dialled_finish(&dialled, self->loop);
		ASSERT_TRUE(heard_wait(&heard, self->loop, 1));
		self->in = heard.fds[0];
		heard.count = 0;
		ASSERT_TRUE(heard_close(&heard, self->loop));
	} else {
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
		self->out = pair[0];
		self->in = pair[1];
		ASSERT_EQ(0, socket_tune(self->out, &tuning, &self->err));
		if (variant->nonblock)
			fcntl(self->out, F_SETFL, fcntl(self->out, F_GETFL) | O_NONBLOCK);
	}
	ASSERT_LE(0, self->out);
}

FIXTURE_TEARDOWN(batch)
{
	loop_close(self->loop);
	free(self->data);
}

TEST_F(batch, goes_whole)
{
	struct told send = told_new();
	struct reader reader = { .fd = self->in };

	ASSERT_EQ(0, pthread_create(&reader.thread, NULL, reader_main, &reader));
	for (int i = 0; i < 3; i++) {
		size_t begin = (size_t)i * BATCH_BYTES;

		for (size_t at = 0; at < BATCH_BYTES; at++)
			self->data[at] = pattern(begin + at);
		loop_sendmsg(self->loop, &send.op, self->out, &self->msg,
			     MSG_WAITALL | MSG_NOSIGNAL);
		EXPECT_EQ(BATCH_BYTES, finish(self->loop, &send));
		EXPECT_EQ(i + 1, send.calls);
	}
	shutdown(self->out, SHUT_WR);
	pthread_join(reader.thread, NULL);
	EXPECT_EQ(3 * BATCH_BYTES, reader.bytes);
	EXPECT_EQ(0, reader.wrong);
	close(self->out);
	close(self->in);
}

/* It does go in pieces: without the flag there is only the first one */
TEST_F(batch, is_short_without_waitall)
{
	struct told send = told_new();

	fcntl(self->out, F_SETFL, fcntl(self->out, F_GETFL) | O_NONBLOCK);
	loop_sendmsg(self->loop, &send.op, self->out, &self->msg, MSG_NOSIGNAL);
	EXPECT_LT(0, finish(self->loop, &send));
	EXPECT_LT(send.result, BATCH_BYTES);
	close(self->out);
	close(self->in);
}

/* The peer goes away half-way: a short result, then -EPIPE, and no SIGPIPE */
TEST_F(batch, breaks_on_the_way)
{
	struct told send = told_new();
	char some[10000];

	signal(SIGPIPE, SIG_DFL);
	loop_sendmsg(self->loop, &send.op, self->out, &self->msg, MSG_WAITALL);
	for (int n = 0; n <= 0;) {
		ASSERT_LE(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
		n = (int)recv(self->in, some, sizeof(some), MSG_DONTWAIT);
	}
	close(self->in);
	EXPECT_NE(UNTOLD, finish(self->loop, &send));
	EXPECT_LT(send.result, BATCH_BYTES);
	loop_sendmsg(self->loop, &send.op, self->out, &self->msg, MSG_WAITALL);
	EXPECT_GT(0, finish(self->loop, &send));
	EXPECT_TRUE(send.result == -EPIPE || send.result == -ECONNRESET)
	{
		TH_LOG("%d", send.result);
	}
	close(self->out);
}

/*
 * More rounds than the kernel polls by itself. A blocking socket still goes whole; with
 * O_NONBLOCK it may be short, and what is left goes after it.
 */
TEST(tiny_buffer)
{
	const struct socket_tuning tuning = { .send_buffer = 4096 };
	static uint8_t data[BATCH_BYTES];
	struct wh_err err = { 0 };
	struct loop *loop;

	ASSERT_EQ(0, loop_open(&loop, 8, &err));
	for (size_t i = 0; i < BATCH_BYTES; i++)
		data[i] = pattern(i);
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		struct told send = told_new();
		struct reader reader = { 0 };
		struct iovec rest;
		struct msghdr msg = { .msg_iov = &rest, .msg_iovlen = 1 };
		size_t sent = 0;
		int pair[2];

		ASSERT_EQ(0, socketpair(AF_UNIX,
					SOCK_STREAM | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0),
					0, pair));
		ASSERT_EQ(0, socket_tune(pair[0], &tuning, &err));
		reader.fd = pair[1];
		ASSERT_EQ(0, pthread_create(&reader.thread, NULL, reader_main, &reader));
		while (sent < BATCH_BYTES) {
			rest = (struct iovec){ data + sent, BATCH_BYTES - sent };
			loop_sendmsg(loop, &send.op, pair[0], &msg, MSG_WAITALL);
			ASSERT_LT(0, finish(loop, &send));
			sent += (size_t)send.result;
		}
		if (!nonblock) {
			EXPECT_EQ(1, send.calls);
		}
		shutdown(pair[0], SHUT_WR);
		pthread_join(reader.thread, NULL);
		EXPECT_EQ(BATCH_BYTES, reader.bytes);
		EXPECT_EQ(0, reader.wrong);
		close(pair[0]);
		close(pair[1]);
	}
	loop_close(loop);
}

TEST_HARNESS_MAIN
