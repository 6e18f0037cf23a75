/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Connecting: every kind of address, several of them, time-outs, refusals, cancelling.
 */
#include "selftests/ring/net.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include "kselftest_harness.h"

FIXTURE(dialling)
{
	struct loop *loop;
	struct wh_err err;
	struct heard heard;
	char folder[64];
};

FIXTURE_SETUP(dialling)
{
	self->err = (struct wh_err){ 0 };
	strcpy(self->folder, "/tmp/wherry-dial-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	ASSERT_EQ(0, loop_open(&self->loop, 16, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

FIXTURE_TEARDOWN(dialling)
{
	heard_close(&self->heard, self->loop);
	loop_close(self->loop);
	run("rm -rf %s", self->folder);
}

static uint32_t heard_port(const struct heard *heard)
{
	return heard->listener.uri.port;
}

/* Listens there; a connection can be made, and bytes cross */
static int try_address(struct loop *loop, struct heard *heard, const char *address,
		       struct wh_err *err)
{
	char text[URI_TEXT];
	int fd;

	if (heard_open(heard, loop, address, NULL, err) < 0)
		return -1;
	listener_uri(&heard->listener, text, sizeof(text));
	fd = dial_now(loop, text, LIMIT_NS, err);
	if (fd < 0 || !heard_wait(heard, loop, 1))
		return -2;
	if (!connected(fd, heard->fds[0]) || !connected(heard->fds[0], fd))
		return -3;
	if (fcntl(fd, F_GETFD) != FD_CLOEXEC || !(fcntl(fd, F_GETFL) & O_NONBLOCK))
		return -4;
	close(fd);
	return heard_close(heard, loop) ? 0 : -5;
}

TEST_F(dialling, addresses)
{
	const char *const address[] = { "tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0" };
	char text[URI_TEXT];

	if (geteuid() == 0) { /* else the machine's own lo, which should have both families */
		ASSERT_LE(0, net_new());
	}
	for (size_t i = 0; i < sizeof(address) / sizeof(address[0]); i++) {
		EXPECT_EQ(0, try_address(self->loop, &self->heard, address[i], &self->err))
		{
			TH_LOG("%s: %s", address[i], self->err.text);
		}
	}
	snprintf(text, sizeof(text), "unix:%s/socket", self->folder);
	EXPECT_EQ(0, try_address(self->loop, &self->heard, text, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(dialling, vsock)
{
	int ret = try_address(self->loop, &self->heard, "vsock:1:0", &self->err);

	if (ret != 0 && (self->err.code == -EADDRNOTAVAIL || self->err.code == -EAFNOSUPPORT ||
			 self->err.code == -ENODEV))
		SKIP(return, "no vsock loopback transport (modprobe vsock_loopback)");
	EXPECT_EQ(0, ret)
	{
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(dialling, is_tuned)
{
	const struct socket_tuning tuning = { .dead_peer_ns = 8 * NS_PER_S, .send_buffer = 100000 };
	struct dialled dialled;
	char text[URI_TEXT];

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", &tuning, &self->err));
	listener_uri(&self->heard.listener, text, sizeof(text));
	ASSERT_EQ(0, dialled_start(&dialled, self->loop, text, LIMIT_NS, &tuning, &self->err));
	ASSERT_LE(0, dialled_finish(&dialled, self->loop));
	ASSERT_TRUE(heard_wait(&self->heard, self->loop, 1));
	for (int side = 0; side < 2; side++) {
		int fd = side ? self->heard.fds[0] : dialled.fd;

		EXPECT_EQ(1, option(fd, IPPROTO_TCP, TCP_NODELAY));
		EXPECT_EQ(8000, option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
		EXPECT_EQ(200000, option(fd, SOL_SOCKET, SO_SNDBUF)); /* the kernel doubles it */
	}
	close(dialled.fd);
}

TEST_F(dialling, refused)
{
	char text[URI_TEXT];

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	listener_uri(&self->heard.listener, text, sizeof(text));
	ASSERT_TRUE(heard_close(&self->heard, self->loop));
	EXPECT_EQ(-ECONNREFUSED, dial_now(self->loop, text, LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, text))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_NE(NULL, strstr(self->err.text, "Connection refused"));

	EXPECT_EQ(-ENOENT, dial_now(self->loop, "unix:/nowhere/socket", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "unix:/nowhere/socket: No such file"))
	{
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(dialling, nothing_to_connect_to)
{
	EXPECT_EQ(-EINVAL, dial_now(self->loop, "tcp::80", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "expected a host"));
	EXPECT_EQ(-EINVAL, dial_now(self->loop, "tcp:127.0.0.1:0", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "port 0"));
	EXPECT_EQ(-EINVAL, dial_now(self->loop, "vsock:2:0", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "port 0"));
}

/* A listening socket that takes no more connections, at @address; its port */
static int full_listener(const struct sockaddr *address, socklen_t length, int filler[2])
{
	struct sockaddr_storage at;
	socklen_t at_length = sizeof(at);
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	if (address->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (fd < 0 || bind(fd, address, length) < 0 || listen(fd, 0) < 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &at_length) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		filler[i] =
			socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(filler[i], (struct sockaddr *)&at, at_length);
	}
	if (address->sa_family == AF_UNIX)
		return 0;
	return ntohs(address->sa_family == AF_INET ?
			     ((struct sockaddr_in *)(void *)&at)->sin_port :
			     ((struct sockaddr_in6 *)(void *)&at)->sin6_port);
}

TEST_F(dialling, time_out)
{
	const struct sockaddr_in address = { .sin_family = AF_INET,
					     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un path = { .sun_family = AF_UNIX };
	uint64_t begin_ns, took_ns;
	char text[URI_TEXT];
	int filler[2];
	int port;

	port = full_listener((const struct sockaddr *)&address, sizeof(address), filler);
	ASSERT_LT(0, port);
	snprintf(text, sizeof(text), "tcp:127.0.0.1:%d", port);
	begin_ns = clock_now_ns();
	EXPECT_EQ(-ETIMEDOUT, dial_now(self->loop, text, 50 * NS_PER_MS, &self->err));
	took_ns = clock_now_ns() - begin_ns;
	EXPECT_GE(took_ns, 50 * NS_PER_MS);
	EXPECT_LT(took_ns, 5 * NS_PER_S);
	EXPECT_NE(NULL, strstr(self->err.text, text))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_NE(NULL, strstr(self->err.text, "no answer in time"));

	snprintf(path.sun_path, sizeof(path.sun_path), "%s/full", self->folder);
	ASSERT_EQ(0, full_listener((const struct sockaddr *)&path, sizeof(path), filler));
	snprintf(text, sizeof(text), "unix:%s", path.sun_path);
	begin_ns = clock_now_ns();
	EXPECT_EQ(-ETIMEDOUT, dial_now(self->loop, text, 50 * NS_PER_MS, &self->err));
	took_ns = clock_now_ns() - begin_ns;
	EXPECT_GE(took_ns, 50 * NS_PER_MS);
	EXPECT_LT(took_ns, 5 * NS_PER_S);
	EXPECT_NE(NULL, strstr(self->err.text, "no answer in time"))
	{
		TH_LOG("%s", self->err.text);
	}
}

/* One name, two addresses, and only one of them answers: whichever it is */
TEST_F(dialling, walks_over_addresses)
{
	static const char *const only[] = { "127.0.0.1", "[::1]" };

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("127.0.0.1 two.test\n::1 two.test\n127.0.0.1 two.test\n"));
	for (int i = 0; i < 2; i++) {
		struct address address[4];
		char text[URI_TEXT];
		struct uri uri;
		int fd;

		snprintf(text, sizeof(text), "tcp:%s:0", only[i]);
		ASSERT_EQ(0, heard_open(&self->heard, self->loop, text, NULL, &self->err))
		{
			TH_LOG("%s", self->err.text);
		}
		snprintf(text, sizeof(text), "tcp:two.test:%u", heard_port(&self->heard));
		ASSERT_EQ(0, uri_parse(&uri, text, &self->err));
		EXPECT_EQ(2, address_resolve(&uri, false, address, 4, &self->err));
		fd = dial_now(self->loop, text, LIMIT_NS, &self->err);
		EXPECT_LE(0, fd)
		{
			TH_LOG("%s", self->err.text);
		}
		EXPECT_TRUE(heard_wait(&self->heard, self->loop, 1));
		close(fd);
		ASSERT_TRUE(heard_close(&self->heard, self->loop));

		EXPECT_EQ(-ECONNREFUSED, dial_now(self->loop, text, LIMIT_NS, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, "address 2 of 2"))
		{
			TH_LOG("%s", self->err.text);
		}
	}
}

/* The first address says nothing; the second has its share of the time. */
TEST_F(dialling, silent_address_does_not_take_all_the_time)
{
	struct address address[4];
	struct heard heard;
	char text[URI_TEXT];
	struct uri uri;
	int filler[2];
	int fd, port;

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("127.0.0.1 two.test\n::1 two.test\n"));
	ASSERT_EQ(0, uri_parse(&uri, "tcp:two.test:1", &self->err));
	ASSERT_EQ(2, address_resolve(&uri, false, address, 4, &self->err));
	address_set_port(&address[0], 0);
	port = full_listener((struct sockaddr *)&address[0].at, address[0].length, filler);
	ASSERT_LT(0, port);
	snprintf(text, sizeof(text), "tcp:%s:%d",
		 address[1].at.ss_family == AF_INET ? "127.0.0.1" : "[::1]", port);
	ASSERT_EQ(0, heard_open(&heard, self->loop, text, NULL, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}

	snprintf(text, sizeof(text), "tcp:two.test:%d", port);
	fd = dial_now(self->loop, text, 200 * NS_PER_MS, &self->err);
	EXPECT_LE(0, fd)
	{
		TH_LOG("%s", self->err.text);
	}
	close(fd);
	ASSERT_TRUE(heard_close(&heard, self->loop));
}

TEST_F(dialling, unknown_name)
{
	int ret;

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	/* no network, so no name server either */
	ASSERT_LE(0, net_new());
	ret = dial_now(self->loop, "tcp:nowhere.invalid:80", LIMIT_NS, &self->err);
	EXPECT_TRUE(ret == -ENOENT || ret == -EAGAIN)
	{
		TH_LOG("%d", ret);
	}
	EXPECT_NE(NULL, strstr(self->err.text, "resolve host 'nowhere.invalid'"))
	{
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(dialling, unreachable)
{
	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	EXPECT_EQ(-ENETUNREACH, dial_now(self->loop, "tcp:192.0.2.1:80", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "192.0.2.1"))
	{
		TH_LOG("%s", self->err.text);
	}
}

/* The only port there is to connect from is the one to connect to */
TEST_F(dialling, not_to_itself)
{
	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, run("echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range"));
	EXPECT_EQ(-ECONNREFUSED, dial_now(self->loop, "tcp:127.0.0.1:40000", LIMIT_NS, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
	EXPECT_EQ(-ECONNREFUSED, dial_now(self->loop, "tcp:[::1]:40000", LIMIT_NS, &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(dialling, fd)
{
	char text[URI_TEXT];
	int pair[2];
	int fd;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	snprintf(text, sizeof(text), "fd:%d", pair[0]);
	fd = dial_now(self->loop, text, LIMIT_NS, &self->err);
	EXPECT_EQ(pair[0], fd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_NE(0, fcntl(fd, F_GETFL) & O_NONBLOCK);
	EXPECT_TRUE(connected(fd, pair[1]));

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(text, sizeof(text), "fd:%d", fd);
	EXPECT_EQ(-ENOTCONN, dial_now(self->loop, text, LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "expected a connected socket"));
	EXPECT_LE(0, fcntl(fd, F_GETFD)); /* still the caller's */
	EXPECT_EQ(-ENOTSOCK, dial_now(self->loop, "fd:0", LIMIT_NS, &self->err));
	EXPECT_EQ(-EBADF, dial_now(self->loop, "fd:9999", LIMIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "fd:9999"));
	close(fd);
}

/* How many descriptors are open */
static int open_count(void)
{
	int count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

TEST_F(dialling, cancel)
{
	const struct sockaddr_in address = { .sin_family = AF_INET,
					     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct dialled dialled;
	char text[URI_TEXT];
	int filler[2];
	int before, port;

	port = full_listener((const struct sockaddr *)&address, sizeof(address), filler);
	ASSERT_LT(0, port);
	snprintf(text, sizeof(text), "tcp:127.0.0.1:%d", port);
	before = open_count();
	/* under way, and before anything was submitted */
	for (int stepped = 1; stepped >= 0; stepped--) {
		ASSERT_EQ(0, dialled_start(&dialled, self->loop, text, LIMIT_NS, NULL, &self->err));
		EXPECT_TRUE(dial_busy(&dialled.dial));
		if (stepped) {
			EXPECT_EQ(0, loop_step(self->loop, (int64_t)NS_PER_MS, &self->err));
		}
		dial_cancel(&dialled.dial);
		EXPECT_EQ(0, dialled.calls);
		EXPECT_EQ(-ECANCELED, dialled_finish(&dialled, self->loop));
		EXPECT_EQ(1, dialled.calls);
		EXPECT_FALSE(dial_busy(&dialled.dial));
		EXPECT_EQ(-ECANCELED, dialled.err.code);
		EXPECT_EQ(before, open_count());
	}
	dial_cancel(&dialled.dial); /* not busy: nothing */
	EXPECT_EQ(0, loop_step(self->loop, 0, &self->err));
	EXPECT_EQ(1, dialled.calls);
}

/* Its success came first, but nobody wants it any more */
TEST_F(dialling, cancel_after_success)
{
	struct dialled dialled;
	char text[URI_TEXT];
	int before;

	ASSERT_EQ(0, heard_open(&self->heard, self->loop, "tcp:127.0.0.1:0", NULL, &self->err));
	listener_uri(&self->heard.listener, text, sizeof(text));
	before = open_count();
	ASSERT_EQ(0, dialled_start(&dialled, self->loop, text, LIMIT_NS, NULL, &self->err));
	dial_cancel(&dialled.dial);
	EXPECT_EQ(-ECANCELED, dialled_finish(&dialled, self->loop));
	while (self->heard.count)
		close(self->heard.fds[--self->heard.count]);
	EXPECT_EQ(before, open_count());
}

/* With a hanging dial: it is told, on the way, and goes on to no other address */
TEST_F(dialling, loop_closes_under_it)
{
	struct dialled dialled;
	char text[URI_TEXT];
	struct loop *loop;
	int filler[2];
	int port, before;

	if (geteuid() != 0)
		SKIP(return, "needs root: namespaces of its own");
	ASSERT_LE(0, net_new());
	ASSERT_EQ(0, hosts_new("127.0.0.1 two.test\n127.0.0.2 two.test\n"));
	port = full_listener((const struct sockaddr *)&(struct sockaddr_in){ .sin_family =
										     AF_INET },
			     sizeof(struct sockaddr_in), filler);
	ASSERT_LT(0, port);
	snprintf(text, sizeof(text), "tcp:two.test:%d", port);
	before = open_count();
	for (int stepped = 0; stepped < 2; stepped++) {
		ASSERT_EQ(0, loop_open(&loop, 4, &self->err));
		ASSERT_EQ(0, dialled_start(&dialled, loop, text, LIMIT_NS, NULL, &self->err));
		if (stepped) {
			EXPECT_EQ(0, loop_step(loop, (int64_t)NS_PER_MS, &self->err));
		}
		loop_close(loop);
		EXPECT_EQ(1, dialled.calls);
		EXPECT_EQ(-ECANCELED, dialled.fd);
		EXPECT_FALSE(dial_busy(&dialled.dial));
		EXPECT_EQ(before, open_count());
	}
}

TEST_HARNESS_MAIN
