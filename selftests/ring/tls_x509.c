/* SPDX-License-Identifier: GPL-2.0 */
/* Certificates of TLS: whom they refuse and with which sentence, and peers that are not as agreed */
#include "selftests/ring/tls_pair.h"

#include "kselftest_harness.h"

FIXTURE(x509)
{
	char top[64];
	const char *dir;
	struct tls *tls;
	struct raw raw;
	int fd;
	struct wh_err err;
};

FIXTURE_SETUP(x509)
{
	*self = (FIXTURE_DATA(x509)){ .fd = -1 };
	strcpy(self->top, "/tmp/wherry-tls-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->top));
	self->dir = creds_folder(self->top, "ours", NULL);
	ASSERT_NE(NULL, self->dir);
}

FIXTURE_TEARDOWN(x509)
{
	if (self->fd >= 0)
		close(self->fd);
	tls_close(self->tls, false);
	run("rm -rf %s", self->top);
}

/* Our end and a raw one that shows what is in @dir; 0 or why our end has no connection */
static int meet(FIXTURE_DATA(x509) *self, bool we_serve, const char *dir, const char *priority,
		enum raw_deed deed)
{
	int net[2];

	self->tls = tls_of(self->dir, we_serve, false);
	if (!self->tls || !tcp_pair(net))
		return -EBADF;
	self->raw = (struct raw){
		.fd = net[1],
		.server = !we_serve,
		.dir = dir,
		.priority = priority,
		.deed = deed,
	};
	if (!raw_start(&self->raw))
		return -EBADF;
	self->fd = tls_wrap(self->tls, net[0], "localhost", soon(), &self->err);
	return self->fd < 0 ? self->fd : shaken(self->tls, self->fd, &self->err);
}

static bool told(FIXTURE_DATA(x509) *self, const char *what)
{
	fprintf(stderr, "# %s\n", self->err.text);
	return strstr(self->err.text, what) != NULL;
}

TEST_F(x509, expired_server)
{
	const struct certs certs = { .ca_of = self->dir, .server_expired = true };

	EXPECT_EQ(-EACCES, meet(self, false, creds_folder(self->top, "old", &certs), NULL, 0));
	EXPECT_TRUE(told(self, "the server's certificate has expired"));
	raw_end(&self->raw);
}

TEST_F(x509, expired_client)
{
	const struct certs certs = { .ca_of = self->dir, .client_expired = true };

	EXPECT_EQ(-EACCES, meet(self, true, creds_folder(self->top, "old", &certs), NULL, 0));
	EXPECT_TRUE(told(self, "the client's certificate has expired"));
	raw_end(&self->raw);
}

TEST_F(x509, client_without)
{
	EXPECT_EQ(-EACCES, meet(self, true, NULL, NULL, 0));
	EXPECT_TRUE(told(self, "the client shows no certificate"));
	raw_end(&self->raw);
}

TEST_F(x509, client_of_another_ca)
{
	EXPECT_EQ(-EACCES, meet(self, true, creds_folder(self->top, "theirs", NULL), NULL, 0));
	EXPECT_TRUE(told(self, "the client's certificate is of another CA"));
	raw_end(&self->raw);
}

TEST_F(x509, other_host)
{
	const struct certs certs = { .ca_of = self->dir, .host = "elsewhere.test" };
	const char *theirs = creds_folder(self->top, "theirs", &certs);
	struct tls_config config = { .dir = self->dir, .verify = true };
	int net[2];

	EXPECT_EQ(-EACCES, meet(self, false, theirs, NULL, 0));
	EXPECT_TRUE(told(self, "is not of host 'localhost'"));
	raw_end(&self->raw);

	/* ... but of the one that was asked for */
	close(self->fd);
	tls_close(self->tls, false);
	config.hostname = "elsewhere.test";
	ASSERT_EQ(0, tls_open(&self->tls, &config, &self->err));
	ASSERT_TRUE(tcp_pair(net));
	self->raw = (struct raw){ .fd = net[1], .server = true, .dir = theirs };
	ASSERT_TRUE(raw_start(&self->raw));
	self->fd = tls_wrap(self->tls, net[0], "localhost", soon(), &self->err);
	EXPECT_EQ(0, shaken(self->tls, self->fd, &self->err));
	close(self->fd);
	self->fd = -1;
	raw_end(&self->raw);
}

static const char *const old_tls[] = { "NORMAL:-VERS-ALL:+VERS-TLS1.0",
				       "NORMAL:-VERS-ALL:+VERS-TLS1.1" };

TEST_F(x509, old_tls)
{
	for (int i = 0; i < 2; i++) {
		for (int serve = 0; serve < 2; serve++) {
			EXPECT_GT(0, meet(self, serve, self->dir, old_tls[i], 0));
			EXPECT_TRUE(told(self, "no version of it that is allowed here"));
			raw_end(&self->raw);
			EXPECT_GT(0, self->raw.code);
			close(self->fd);
			tls_close(self->tls, false);
			self->tls = NULL;
			self->fd = -1;
		}
	}
}

TEST_F(x509, tls_1_2)
{
	EXPECT_EQ(0, meet(self, true, self->dir, "NORMAL:-VERS-ALL:+VERS-TLS1.2", 0));
	close(self->fd);
	self->fd = -1;
	raw_end(&self->raw);
	EXPECT_EQ(0, self->raw.code);
}

static const struct {
	enum raw_deed deed;
	int why;
	const char *what;
} ends[] = {
	{ RAW_SAYS_BYE, 0, "" },
	{ RAW_CUTS, -ECONNABORTED, "hung up without saying that it was the end" },
	{ RAW_RESETS, -ECONNRESET, "Connection reset" },
};

/* What came before the end is here in any case; only one of them is an end that was meant */
TEST_F(x509, ends)
{
	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		char some[8];

		self->err = (struct wh_err){ 0 };
		ASSERT_EQ(0, meet(self, i & 1, self->dir, NULL, ends[i].deed));
		EXPECT_EQ(4, take(self->fd, some, sizeof(some)));
		EXPECT_EQ(ends[i].why, tls_why(self->tls, self->fd, &self->err));
		EXPECT_TRUE(told(self, ends[i].what));
		if (ends[i].why)
			EXPECT_EQ(-1, send(self->fd, "?", 1, MSG_NOSIGNAL));
		close(self->fd);
		self->fd = -1;
		raw_end(&self->raw);
		tls_close(self->tls, false);
		self->tls = NULL;
	}
}

/* Without a certificate the client is taken where nobody asks for one */
TEST_F(x509, unverified)
{
	struct tls_config config = { .dir = self->dir, .server = true };
	int net[2];

	run("rm %s/ca-cert.pem", self->dir);
	ASSERT_EQ(0, tls_open(&self->tls, &config, &self->err));
	ASSERT_TRUE(tcp_pair(net));
	self->raw = (struct raw){ .fd = net[1] };
	ASSERT_TRUE(raw_start(&self->raw));
	self->fd = tls_wrap(self->tls, net[0], "", soon(), &self->err);
	EXPECT_EQ(0, shaken(self->tls, self->fd, &self->err));
	close(self->fd);
	self->fd = -1;
	raw_end(&self->raw);
}

/* ---- What is in the folder, and what is not ---- */

static const struct {
	bool server, psk;
	const char *command; /* in the folder */
	const char *what;
} folders[] = {
	{ true, false, "rm ca-cert.pem", "ca-cert.pem: No such file" },
	{ false, false, "rm ca-cert.pem", "ca-cert.pem: No such file" },
	{ false, false, "echo > ca-cert.pem", "ca-cert.pem" },
	{ true, false, "rm server-cert.pem", "server-cert.pem: No such file" },
	{ true, false, "rm server-key.pem", "server-key.pem: No such file" },
	{ false, false, "rm client-key.pem", "client-key.pem: No such file" },
	{ true, false, "cp client-key.pem server-key.pem", "server-key.pem" },
	{ true, false, "echo x > server-cert.pem", "server-cert.pem" },
	{ true, false, "echo x > ca-crl.pem", "ca-crl.pem" },
	{ true, true, "rm keys.psk", "keys.psk: No such file" },
	{ false, true, "rm keys.psk", "keys.psk: No such file" },
	{ false, true, "sed -i s/qemu/other/ keys.psk", "no line of user 'qemu'" },
	{ false, true, "echo qemu:secret-word > keys.psk", "keys.psk" },
	{ false, false, "rm client-*.pem", NULL }, /* a client may go without */
};

TEST_F(x509, folders)
{
	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		const struct tls_config config = {
			.server = folders[i].server,
			.psk = folders[i].psk,
			.verify = true,
			.dir = self->dir,
		};

		run("rm -rf %s; mkdir %s", self->dir, self->dir);
		ASSERT_TRUE(certs_make(self->dir, NULL));
		run("cd %s && %s", self->dir, folders[i].command);
		self->err = (struct wh_err){ 0 };
		if (!folders[i].what) {
			EXPECT_EQ(0, tls_open(&self->tls, &config, &self->err));
			continue;
		}
		EXPECT_GT(0, tls_open(&self->tls, &config, &self->err));
		EXPECT_TRUE(told(self, folders[i].what));
		EXPECT_EQ(NULL, strstr(self->err.text, "secret"));
	}
}

TEST_F(x509, own_expired)
{
	const struct certs certs = { .server_expired = true };
	const struct tls_config config = {
		.server = true,
		.verify = true,
		.dir = creds_folder(self->top, "old", &certs),
	};

	EXPECT_EQ(-EKEYEXPIRED, tls_open(&self->tls, &config, &self->err));
	EXPECT_TRUE(told(self, "server-cert.pem: the certificate has expired"));
}

TEST_F(x509, priority)
{
	const struct tls_config config = { .dir = self->dir, .priority = "NORMAL:+NONSENSE" };

	EXPECT_EQ(-EINVAL, tls_open(&self->tls, &config, &self->err));
	EXPECT_TRUE(told(self, "NONSENSE"));
}

/* ---- Strangers' bytes ---- */

/* Plain bytes are told from a broken handshake */
TEST_F(x509, plain_peer)
{
	int net[2];

	self->tls = tls_of(self->dir, true, false);
	ASSERT_TRUE(tcp_pair(net));
	self->fd = tls_wrap(self->tls, net[0], "", soon(), &self->err);
	ASSERT_TRUE(give(net[1], "QEVM\0\0\0\3", 8));
	EXPECT_EQ(-EPROTO, shaken(self->tls, self->fd, &self->err));
	EXPECT_TRUE(told(self, "does not speak TLS: it begins with 0x5145564d"));
	close(net[1]);
}

TEST_F(x509, peer_hangs_up)
{
	int net[2];

	self->tls = tls_of(self->dir, false, false);
	ASSERT_TRUE(tcp_pair(net));
	self->fd = tls_wrap(self->tls, net[0], "", soon(), &self->err);
	shutdown(net[1], SHUT_WR);
	EXPECT_EQ(-ECONNABORTED, shaken(self->tls, self->fd, &self->err));
	EXPECT_TRUE(told(self, "does it speak TLS?"));
	close(net[1]);
}

/* It says nothing, or a byte now and then: the time counts for all of it */
TEST_F(x509, slow_peer)
{
	uint64_t begin_ns = clock_now_ns();
	int net[2];

	self->tls = tls_of(self->dir, true, false);
	ASSERT_TRUE(tcp_pair(net));
	self->fd = tls_wrap(self->tls, net[0], "", begin_ns + 300 * NS_PER_MS, &self->err);
	for (int i = 0; i < 8; i++) {
		const uint8_t bytes[] = { 0x16, 3, 1, 2, 0, 1, 0, 1 };

		(void)send(net[1], &bytes[i], 1, MSG_NOSIGNAL);
		usleep(30000);
	}
	EXPECT_EQ(-ETIMEDOUT, shaken(self->tls, self->fd, &self->err));
	EXPECT_TRUE(told(self, "too slow"));
	EXPECT_LE(300 * NS_PER_MS, clock_now_ns() - begin_ns);
	EXPECT_GT(5 * NS_PER_S, clock_now_ns() - begin_ns);
	close(net[1]);
}

/* Closed in the middle of a handshake: the thread ends, and nothing stays */
TEST_F(x509, given_up)
{
	char byte;
	int net[2];

	self->tls = tls_of(self->dir, true, false);
	ASSERT_TRUE(tcp_pair(net));
	self->fd = tls_wrap(self->tls, net[0], "", soon(), &self->err);
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(0, take(net[1], &byte, 1));
	close(net[1]);
}

/* No host is named by a path: it has to be told which one the certificate is of */
TEST_F(x509, host_is_needed)
{
	struct socket_tuning dial = { 0 };
	struct dialled dialled;
	struct loop *loop;

	dial.tls = self->tls = tls_of(self->dir, false, false);
	ASSERT_EQ(0, loop_open(&loop, 16, &self->err));
	EXPECT_EQ(-EINVAL,
		  dialled_start(&dialled, loop, "unix:/nowhere", LIMIT_NS, &dial, &self->err));
	EXPECT_TRUE(told(self, "names no host"));
	loop_close(loop);
}

TEST_HARNESS_MAIN
