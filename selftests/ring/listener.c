/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Listening: several addresses and one port, socket files, taken-over descriptors,
 * errors of accept(), closing at any moment.
 */
#include "selftests/ring/net.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "kselftest_harness.h"

FIXTURE(listening)
{
	struct loop *loop;
	struct wh_err err;
	struct heard heard;
	char folder[64];
	char path[96];
	char uri[128];
};

FIXTURE_SETUP(listening)
{
	self->err = (struct wh_err){ 0 };
	strcpy(self->folder, "/tmp/wherry-listen-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->folder);
	snprintf(self->uri, sizeof(self->uri), "unix:%s", self->path);
	ASSERT_EQ(0, loop_open(&self->loop, 16, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

FIXTURE_TEARDOWN(listening)
{
	EXPECT_TRUE(heard_close(&self->heard, self->loop));
	loop_close(self->loop);
	run("rm -rf %s", self->folder);
}

static int try_connect(struct loop *loop, const char *host, uint32_t port, struct wh_err *err)
{
	char text[URI_TEXT];

	snprintf(text, sizeof(text), "tcp:%s:%u", host, port);
	return dial_now(loop, text, LIMIT_NS, err);
}

/* tcp::0 is one port of both families, and the URI names it */
TEST_F(listening, every_address)
{
	char text[URI_TEXT], want[URI_TEXT];
	uint32_t port;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp::0", NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	port = self->heard.listener.uri.port;
	EXPECT_NE(0, port);
	listener_uri(&self->heard.listener, text, sizeof(text));
	snprintf(want, sizeof(want), "tcp::%u", port);
	EXPECT_STREQ(want, text);
	EXPECT_LE(0, try_connect(self->loop, "127.0.0.1", port, &self->err));
	EXPECT_LE(0, try_connect(self->loop, "[::1]", port, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 2));
}

/* All addresses of a name, and several connections on each */
TEST_F(listening, name_with_two_addresses)
{
	uint32_t port;

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("127.0.0.1 two.test\n::1 two.test\n"));
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:two.test:0", NULL, &self->err));
	port = self->heard.listener.uri.port;
	for (int i = 0; i < 2; i++) {
		EXPECT_LE(0, try_connect(self->loop, "127.0.0.1", port, &self->err));
		EXPECT_LE(0, try_connect(self->loop, "[::1]", port, &self->err));
	}
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 4));
	EXPECT_EQ(-ECONNREFUSED, try_connect(self->loop, "127.0.0.2", port, &self->err));
}

/* A name has an address that this machine has not got: the others do */
TEST_F(listening, absent_address)
{
	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("192.0.2.7 absent.test both.test\n127.0.0.1 both.test\n"));
	EXPECT_EQ(-EADDRNOTAVAIL,
		  heard_open(&self->heard, self->loop, "tcp:absent.test:0", NULL, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "192.0.2.7"))
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:both.test:0", NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_LE(0,
		  try_connect(self->loop, "127.0.0.1", self->heard.listener.uri.port, &self->err));
}

TEST_F(listening, too_many_addresses)
{
	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("127.0.0.1 five.test\n127.0.0.2 five.test\n127.0.0.3 five.test\n"
			       "127.0.0.4 five.test\n127.0.0.5 five.test\n"));
	EXPECT_EQ(-E2BIG,
		  heard_open(&self->heard, self->loop, "tcp:five.test:0", NULL, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "more than 4"))
	{
		TH_LOG("%s", self->err.text);
	}
}

/* In use on the second address only: nothing stays open on the first */
TEST_F(listening, port_in_use)
{
	struct heard other, again;
	char text[URI_TEXT];
	uint32_t port;

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	port = self->heard.listener.uri.port;
	snprintf(text, sizeof(text), "tcp::%u", port);
	EXPECT_EQ(-EADDRINUSE, heard_open(&other, self->loop, text, NULL, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, text))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_NE(NULL, strstr(self->err.text, "Address already in use"));
	snprintf(text, sizeof(text), "tcp:[::]:%u", port);
	EXPECT_EQ(0, heard_open(&again, self->loop, text, NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_TRUE(heard_close(&again, self->loop));
}

/*
 * The kernel chooses the port for the first address; where the second has it in use,
 * another is taken.
 */
TEST_F(listening, chosen_port_in_use_elsewhere)
{
	struct heard taken[2];

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	/* the kernel chooses out of the lower half, here 40000 to 40003 */
	ASSERT_EQ(0, run("echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range"));
	for (int i = 0; i < 2; i++) {
		char text[URI_TEXT];

		snprintf(text, sizeof(text), "tcp:127.0.0.1:%d", 40000 + i);
		ASSERT_EQ(0, heard_open(&taken[i], self->loop, text, NULL, &self->err));
	}
	for (int i = 0; i < 12; i++) {
		EXPECT_EQ(0, heard_open(&self->heard, self->loop, "tcp::0", NULL, &self->err))
		{
			TH_LOG("%s", self->err.text);
		}
		EXPECT_LE(40002, self->heard.listener.uri.port);
		EXPECT_EQ(2, self->heard.listener.count);
		EXPECT_TRUE(heard_close(&self->heard, self->loop));
	}
	for (int i = 0; i < 2; i++) {
		EXPECT_TRUE(heard_close(&taken[i], self->loop));
	}
}

TEST_F(listening, port_is_free_after_closing)
{
	char text[URI_TEXT];

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	listener_uri(&self->heard.listener, text, sizeof(text));
	for (int i = 0; i < 3; i++) {
		int fd = dial_now(self->loop, text, LIMIT_NS, &self->err);

		EXPECT_LE(0, fd);
		EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
		ASSERT_TRUE(heard_close(&self->heard, self->loop));
		close(fd);
		ASSERT_EQ(0, heard_open(&self->heard, self->loop, text, NULL, &self->err))
		{
			TH_LOG("%s", self->err.text);
		}
	}
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* As a process that was killed leaves it */
static int abandoned_file(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, path, strlen(path));
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	close(fd);
	return 0;
}

TEST_F(listening, unix_file)
{
	int fd;

	ASSERT_EQ(0, abandoned_file(self->path));
	EXPECT_TRUE(exists(self->path));
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, self->uri, NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	fd = dial_now(self->loop, self->uri, LIMIT_NS, &self->err);
	EXPECT_LE(0, fd)
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
	EXPECT_TRUE(connected(fd, self->heard.fds[0]));
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_FALSE(exists(self->path));
	close(fd);
}

/* Somebody listens there: refused, and not even noticed by them */
TEST_F(listening, unix_file_in_use)
{
	struct heard other;
	int fd;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, self->uri, NULL, &self->err));
	EXPECT_EQ(-EADDRINUSE, heard_open(&other, self->loop, self->uri, NULL, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, self->path))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_EQ(0, loop_step(self->loop, 0, NULL));
	EXPECT_EQ(0, self->heard.count);
	fd = dial_now(self->loop, self->uri, LIMIT_NS, &self->err);
	EXPECT_LE(0, fd);
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
	close(fd);
}

/* Something else than a socket is not removed for it */
TEST_F(listening, unix_other_file)
{
	ASSERT_EQ(0, run("echo precious > %s", self->path));
	EXPECT_EQ(-EADDRINUSE, heard_open(&self->heard, self->loop, self->uri, NULL, &self->err));
	EXPECT_EQ(0, run("grep -q precious %s", self->path));
	EXPECT_EQ(-ENOENT,
		  heard_open(&self->heard, self->loop, "unix:/nowhere/socket", NULL, &self->err));
}

/* Another's file has taken its place meanwhile: that one stays */
TEST_F(listening, unix_file_of_another)
{
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, self->uri, NULL, &self->err));
	ASSERT_EQ(0, unlink(self->path));
	ASSERT_EQ(0, abandoned_file(self->path));
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_TRUE(exists(self->path));
}

TEST_F(listening, vsock)
{
	char text[URI_TEXT], want[URI_TEXT];
	int ret = heard_open(&self->heard, self->loop, "vsock:4294967295:0", NULL, &self->err);

	if (ret == -EAFNOSUPPORT)
		SKIP(return, "no vsock sockets (modprobe vsock)");
	ASSERT_EQ(0, ret)
	{
		TH_LOG("%s", self->err.text);
	}
	listener_uri(&self->heard.listener, text, sizeof(text));
	EXPECT_NE(0, self->heard.listener.uri.port);
	EXPECT_NE(UINT32_MAX, self->heard.listener.uri.port);
	snprintf(want, sizeof(want), "vsock:4294967295:%u", self->heard.listener.uri.port);
	EXPECT_STREQ(want, text);
}

TEST_F(listening, fd_that_listens)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char text[URI_TEXT], back[URI_TEXT];

	ASSERT_EQ(0, bind(fd, (struct sockaddr *)&address, length));
	ASSERT_EQ(0, listen(fd, 4));
	ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&address, &length));
	snprintf(text, sizeof(text), "fd:%d", fd);
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, text, NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	listener_uri(&self->heard.listener, back, sizeof(back));
	EXPECT_STREQ(text, back);
	for (int i = 0; i < 2; i++) {
		EXPECT_LE(0, try_connect(self->loop, "127.0.0.1", ntohs(address.sin_port),
					 &self->err));
	}
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 2));
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_EQ(-1, fcntl(fd, F_GETFD)); /* it was taken over */
}

TEST_F(listening, fd_that_is_connected)
{
	char text[URI_TEXT];
	int pair[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	snprintf(text, sizeof(text), "fd:%d", pair[0]);
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, text, NULL, &self->err));
	EXPECT_EQ(0, self->heard.count);
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
	EXPECT_EQ(pair[0], self->heard.fds[0]);
	EXPECT_EQ(FD_CLOEXEC, fcntl(pair[0], F_GETFD));
	EXPECT_TRUE(connected(pair[1], pair[0]));
	EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, NULL));
	EXPECT_EQ(1, self->heard.count);
	EXPECT_FALSE(listener_busy(&self->heard.listener));
	self->heard.count = 0;
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_LE(0, fcntl(pair[0], F_GETFD)); /* whoever accepted it has it */

	/* closed before it was given away: it goes */
	ASSERT_EQ(0, heard_open(&self->heard, self->loop, text, NULL, &self->err));
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_EQ(-1, fcntl(pair[0], F_GETFD));
	close(pair[1]);
}

TEST_F(listening, fd_that_is_neither)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[URI_TEXT];

	snprintf(text, sizeof(text), "fd:%d", fd);
	EXPECT_EQ(-ENOTCONN, heard_open(&self->heard, self->loop, text, NULL, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "listening or a connected"))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_LE(0, fcntl(fd, F_GETFD));
	EXPECT_EQ(-ENOTSOCK, heard_open(&self->heard, self->loop, "fd:0", NULL, &self->err));
	EXPECT_EQ(-EBADF, heard_open(&self->heard, self->loop, "fd:9999", NULL, &self->err));
	close(fd);
}

/* No descriptor is free: the connection waits, and nothing spins meanwhile */
TEST_F(listening, out_of_descriptors)
{
	struct rlimit limit, low;
	char text[URI_TEXT];
	uint64_t begin_ns;
	int steps = 0;
	int fd;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	listener_uri(&self->heard.listener, text, sizeof(text));
	/* an accept fails that finds none when it begins, and holds one while it waits */
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	low = (struct rlimit){ .rlim_cur = (rlim_t)fd + 1, .rlim_max = limit.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &low));
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				       .sin_port = htons((uint16_t)self->heard.listener.uri.port) };
	ASSERT_EQ(0, connect(fd, (struct sockaddr *)&address, sizeof(address)));
	begin_ns = clock_now_ns();
	while (clock_now_ns() - begin_ns < 250 * NS_PER_MS) {
		ASSERT_LE(0, loop_step(self->loop, 250 * (int64_t)NS_PER_MS, &self->err));
		steps++;
	}
	EXPECT_LT(steps, 20);
	EXPECT_EQ(0, self->heard.count);
	EXPECT_TRUE(listener_busy(&self->heard.listener));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
	close(fd);
}

static void close_at_once(struct listener *listener, int fd)
{
	struct heard *heard = (struct heard *)(void *)listener;

	heard->fds[heard->count++] = fd;
	listener_close(listener);
}

/* accepted() closes the listener, as a migration does that wants no more */
TEST_F(listening, closed_by_accepted)
{
	char text[URI_TEXT];
	int first;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	self->heard.listener.accepted = close_at_once;
	listener_uri(&self->heard.listener, text, sizeof(text));
	first = dial_now(self->loop, text, LIMIT_NS, &self->err);
	EXPECT_LE(0, first);
	EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
	while (listener_busy(&self->heard.listener)) {
		ASSERT_LE(0, loop_step(self->loop, (int64_t)LIMIT_NS, &self->err));
	}
	EXPECT_EQ(-ECONNREFUSED, dial_now(self->loop, text, LIMIT_NS, &self->err));
	EXPECT_TRUE(connected(first, self->heard.fds[0]));
	close(first);
}

/* Before anything was submitted, and after the loop has gone */
TEST_F(listening, closed_early_and_late)
{
	struct loop *loop;
	struct heard heard;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp::0", NULL, &self->err));
	EXPECT_TRUE(listener_busy(&self->heard.listener));
	EXPECT_TRUE(heard_close(&self->heard, self->loop));

	ASSERT_EQ(0, loop_open(&loop, 8, &self->err));
	ASSERT_EQ(0, heard_open(&heard, loop, self->uri, NULL, &self->err));
	ASSERT_EQ(0, loop_step(loop, 0, &self->err));
	loop_close(loop);
	EXPECT_FALSE(listener_busy(&heard.listener));
	listener_close(&heard.listener);
	EXPECT_FALSE(exists(self->path));
	EXPECT_EQ(-1, fcntl(heard.listener.socket[0].fd, F_GETFD));
	listener_close(&heard.listener); /* twice does no harm */
}

TEST_HARNESS_MAIN
