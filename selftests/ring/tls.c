/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TLS on connections: both kinds of credentials, whom they refuse and with which sentence,
 * what an end of the connection looks like, and bytes that a stranger has changed.
 */
#include "selftests/ring/tls_pair.h"

#include <sys/ioctl.h>
#include <sys/resource.h>

#include "kselftest_harness.h"

#define MANY ((size_t)3 << 20)

FIXTURE(tls)
{
	char top[64];
	const char *dir;
	struct tls *server;
	struct tls *client;
	int fd[2]; /* client, server */
	struct wh_err err;
	struct wh_err other;
};

FIXTURE_SETUP(tls)
{
	*self = (FIXTURE_DATA(tls)){ .fd = { -1, -1 } };
	strcpy(self->top, "/tmp/wherry-tls-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->top));
	self->dir = creds_folder(self->top, "ours", NULL);
	ASSERT_NE(NULL, self->dir);
}

FIXTURE_TEARDOWN(tls)
{
	for (int i = 0; i < 2; i++)
		if (self->fd[i] >= 0)
			close(self->fd[i]);
	tls_close(self->client, false);
	tls_close(self->server, false);
	run("rm -rf %s", self->top);
}

/* Both ends, shaking hands; @host was dialled */
static bool two(FIXTURE_DATA(tls) *self, const char *host)
{
	int net[2];

	if (!tcp_pair(net))
		return false;
	self->fd[0] = tls_wrap(self->client, net[0], host, soon(), &self->err);
	self->fd[1] = tls_wrap(self->server, net[1], "", soon(), &self->other);
	return self->fd[0] >= 0 && self->fd[1] >= 0;
}

static bool two_of(FIXTURE_DATA(tls) *self, const char *client, const char *server, bool psk)
{
	self->client = tls_of(client, false, psk);
	self->server = tls_of(server, true, psk);
	return self->client && self->server && two(self, "127.0.0.1");
}

static bool both_shaken(FIXTURE_DATA(tls) *self)
{
	return shaken(self->client, self->fd[0], &self->err) == 0 &&
	       shaken(self->server, self->fd[1], &self->other) == 0;
}

static void *give_many(void *arg)
{
	uint8_t *bytes = malloc(MANY);
	int fd = *(int *)arg;

	for (size_t i = 0; bytes && i < MANY; i++)
		bytes[i] = (uint8_t)(i * 7 >> 3);
	if (bytes && give(fd, bytes, MANY))
		shutdown(fd, SHUT_WR);
	free(bytes);
	return NULL;
}

static bool took_many(int fd)
{
	uint8_t *bytes = malloc(MANY + 1);
	bool good = bytes && take(fd, bytes, MANY + 1) == (ssize_t)MANY;

	for (size_t i = 0; good && i < MANY; i++)
		good = bytes[i] == (uint8_t)(i * 7 >> 3);
	free(bytes);
	return good;
}

FIXTURE_VARIANT(tls)
{
	bool psk;
};

FIXTURE_VARIANT_ADD(tls, x509){};
FIXTURE_VARIANT_ADD(tls, psk){ .psk = true };

/* Megabytes both ways at once, each direction with an end of its own */
TEST_F(tls, both_ways)
{
	pthread_t thread[2];

	ASSERT_TRUE(two_of(self, self->dir, self->dir, variant->psk));
	ASSERT_TRUE(both_shaken(self))
	{
		TH_LOG("%s; %s", self->err.text, self->other.text);
	}
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, give_many, &self->fd[i]));
	/* one behind the other: what nobody takes yet holds up its sender alone */
	EXPECT_TRUE(took_many(self->fd[1]));
	EXPECT_TRUE(took_many(self->fd[0]));
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, tls_why(self->client, self->fd[0], &self->err));
	EXPECT_EQ(0, tls_why(self->server, self->fd[1], &self->other));
}

/* The other side goes on when one has said all */
TEST_F(tls, half_closed)
{
	char byte;

	ASSERT_TRUE(two_of(self, self->dir, self->dir, variant->psk));
	ASSERT_TRUE(both_shaken(self));
	ASSERT_EQ(0, shutdown(self->fd[0], SHUT_WR));
	EXPECT_EQ(0, take(self->fd[1], &byte, 1));
	for (int i = 0; i < 3; i++) {
		ASSERT_TRUE(give(self->fd[1], "?", 1));
		EXPECT_EQ(1, take(self->fd[0], &byte, 1));
	}
	close(self->fd[1]);
	self->fd[1] = -1;
	EXPECT_EQ(0, take(self->fd[0], &byte, 1));
	EXPECT_EQ(0, tls_why(self->client, self->fd[0], &self->err))
	{
		TH_LOG("%s", self->err.text);
	}
}

static size_t fill(int fd)
{
	static const uint8_t bytes[65536];
	int quiet = 0;
	size_t sum = 0;

	while (quiet < 50) {
		ssize_t n = send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			sum += (size_t)n;
			quiet = 0;
		} else {
			quiet++;
			usleep(2000);
		}
	}
	return sum;
}

static void *close_flushed(void *arg)
{
	tls_close(arg, true);
	return NULL;
}

/* Written until nobody takes any more, and closed: all of it arrives, and its end too */
TEST_F(tls, flushed)
{
	static uint8_t bytes[65536];
	size_t sum, got = 0;
	pthread_t thread;
	ssize_t n;

	ASSERT_TRUE(two_of(self, self->dir, self->dir, variant->psk));
	ASSERT_TRUE(both_shaken(self));
	sum = fill(self->fd[0]);
	close(self->fd[0]);
	self->fd[0] = -1;
	ASSERT_EQ(0, pthread_create(&thread, NULL, close_flushed, self->client));
	usleep(100000);
	while ((n = take(self->fd[1], bytes, sizeof(bytes))) > 0)
		got += (size_t)n;
	EXPECT_EQ(0, n);
	EXPECT_EQ(sum, got);
	EXPECT_EQ(0, tls_why(self->server, self->fd[1], &self->other));
	pthread_join(thread, NULL);
	self->client = NULL;
}

/* Who reads nothing stops the writer, and can be given up at once */
TEST_F(tls, stalled)
{
	uint64_t begin_ns;
	size_t sum;

	ASSERT_TRUE(two_of(self, self->dir, self->dir, variant->psk));
	ASSERT_TRUE(both_shaken(self));
	sum = fill(self->fd[0]);
	TH_LOG("%zu KiB on the way", sum >> 10);
	EXPECT_LT(0, sum);
	EXPECT_GT((size_t)64 << 20, sum);
	close(self->fd[0]);
	self->fd[0] = -1;
	begin_ns = clock_now_ns();
	tls_close(self->client, false);
	self->client = NULL;
	EXPECT_GT(NS_PER_S, clock_now_ns() - begin_ns);
}

/* Another CA, another key: each end has a sentence, and nobody a connection */
TEST_F(tls, stranger)
{
	const char *theirs = creds_folder(self->top, "theirs", NULL);

	ASSERT_NE(NULL, theirs);
	ASSERT_TRUE(two_of(self, self->dir, theirs, variant->psk));
	if (variant->psk) {
		char byte;

		EXPECT_GT(0, shaken(self->server, self->fd[1], &self->other));
		/* a client may have nothing to wait for in the handshake */
		if (shaken(self->client, self->fd[0], &self->err) == 0) {
			EXPECT_GE(0, take(self->fd[0], &byte, 1));
			EXPECT_GT(0, tls_why(self->client, self->fd[0], &self->err));
		}
		EXPECT_NE(NULL, strstr(self->other.text, "same key"));
	} else {
		EXPECT_EQ(-EACCES, shaken(self->client, self->fd[0], &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, "server's certificate is of another CA"));
		EXPECT_GT(0, shaken(self->server, self->fd[1], &self->other));
		EXPECT_NE(NULL, strstr(self->other.text, "the peer refuses: Certificate is bad"));
	}
	TH_LOG("client: %s", self->err.text);
	TH_LOG("server: %s", self->other.text);
}

/* ---- Certificates ---- */

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

struct middle {
	int fd[2];
	bool cut;	/* there, instead of changing it */
	size_t at;	/* byte */
	int from;	/* of whom */
	size_t seen[2]; /* bytes of each */
};

/* Between both ends, until neither says anything more */
static void *middle_main(void *arg)
{
	struct middle *m = arg;
	bool open[2] = { true, true };
	uint8_t buf[4096];

	while (open[0] || open[1]) {
		struct pollfd fds[2] = { { open[0] ? m->fd[0] : -1, POLLIN, 0 },
					 { open[1] ? m->fd[1] : -1, POLLIN, 0 } };

		if (poll(fds, 2, WAIT_MS) <= 0)
			break;
		for (int i = 0; i < 2; i++) {
			ssize_t n = fds[i].revents ? recv(m->fd[i], buf, sizeof(buf), 0) : -1;

			if (!fds[i].revents)
				continue;
			if (n > 0 && i == m->from && m->at >= m->seen[i] &&
			    m->at < m->seen[i] + (size_t)n) {
				if (m->cut)
					n = (ssize_t)(m->at - m->seen[i]);
				else
					buf[m->at - m->seen[i]] ^= 0x21;
			}
			m->seen[i] += n > 0 ? (size_t)n : 0;
			if (n > 0)
				(void)send(m->fd[!i], buf, (size_t)n, MSG_NOSIGNAL);
			if (n <= 0 || (m->cut && i == m->from && m->seen[i] == m->at)) {
				shutdown(m->fd[!i], SHUT_WR);
				open[i] = false;
			}
		}
	}
	close(m->fd[0]);
	close(m->fd[1]);
	return NULL;
}

/*
 * A connection through somebody who meddles, with a few bytes each way and an end. Return:
 * did both ends see all of it, and an end that was meant?
 */
static bool meddled(FIXTURE_DATA(tls) *self, struct middle *m)
{
	char said[2][16] = { "", "" };
	int there[2], back[2];
	pthread_t thread;
	bool good = true;

	if (!tcp_pair(there) || !tcp_pair(back))
		return true;
	m->fd[0] = there[1];
	m->fd[1] = back[1];
	fcntl(m->fd[0], F_SETFL, 0);
	fcntl(m->fd[1], F_SETFL, 0);
	self->fd[0] = tls_wrap(self->client, there[0], "127.0.0.1", soon(), &self->err);
	self->fd[1] = tls_wrap(self->server, back[0], "", soon(), &self->other);
	if (pthread_create(&thread, NULL, middle_main, m) != 0)
		return true;
	for (int i = 0; i < 2; i++) {
		(void)send(self->fd[i], "hello, you", 10, MSG_NOSIGNAL);
		shutdown(self->fd[i], SHUT_WR);
	}
	for (int i = 0; i < 2; i++) {
		struct tls *tls = i ? self->server : self->client;

		good &= take(self->fd[i], said[i], sizeof(said[i])) == 11 &&
			strcmp(said[i] + 1, "hello, you") == 0 &&
			tls_why(tls, self->fd[i], NULL) == 0;
	}
	for (int i = 0; i < 2; i++) {
		close(self->fd[i]);
		self->fd[i] = -1;
	}
	pthread_join(thread, NULL);
	return good;
}

#define EVERY 13 /* bytes; a handshake has some 2000 and takes a few milliseconds */

/* Any byte of the handshake, or of what comes behind: changed, or the last there is */
TEST_F(tls, meddled_with)
{
	struct middle whole = { .from = -1 };
	unsigned tries = 0;

	self->client = tls_of(self->dir, false, variant->psk);
	self->server = tls_of(self->dir, true, variant->psk);
	ASSERT_TRUE(meddled(self, &whole));
	for (int from = 0; from < 2; from++) {
		for (size_t at = 0; at < whole.seen[from]; at += EVERY) {
			struct middle m = { .at = at, .from = from, .cut = tries++ & 1 };

			EXPECT_FALSE(meddled(self, &m))
			{
				TH_LOG("byte %zu of %zu, of %d, %s", at, whole.seen[from], from,
				       m.cut ? "cut" : "changed");
			}
		}
	}
	TH_LOG("%u bytes of %zu and %zu", tries, whole.seen[0], whole.seen[1]);
}

/* ---- Dials and listeners: what they give away has shaken hands ---- */

static void note_refused(struct listener *listener, const struct wh_err *why)
{
	(void)listener;
	fprintf(stderr, "# refused: %s\n", why->text);
}

/* Connections that say nothing, more than may shake hands at once; then one that does */
TEST_F(tls, silent_ones)
{
	struct socket_tuning serve = { .shake_ns = 500 * NS_PER_MS }, dial = { 0 };
	struct dialled dialled;
	struct heard heard;
	struct loop *loop;
	int silent[GREETINGS_MAX + 4];
	char text[URI_TEXT];
	struct uri uri;

	serve.tls = self->server = tls_of(self->dir, true, variant->psk);
	dial.tls = self->client = tls_of(self->dir, false, variant->psk);
	ASSERT_EQ(0, loop_open(&loop, 64, &self->err));
	ASSERT_EQ(0, heard_open(&heard, loop, "tcp:127.0.0.1:0", &serve, &self->err));
	heard.listener.refused = note_refused;
	listener_uri(&heard.listener, text, sizeof(text));
	ASSERT_EQ(0, uri_parse(&uri, text, &self->err));
	for (unsigned i = 0; i < GREETINGS_MAX + 4; i++) {
		struct sockaddr_in at = { .sin_family = AF_INET,
					  .sin_port = htons((uint16_t)uri.port),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

		silent[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(silent[i], (struct sockaddr *)&at, sizeof(at));
		loop_step(loop, (int64_t)NS_PER_MS, NULL);
	}
	ASSERT_EQ(0, dialled_start(&dialled, loop, text, LIMIT_NS, &dial, &self->err));
	EXPECT_LE(0, dialled_finish(&dialled, loop))
	{
		TH_LOG("%s", dialled.err.text);
	}
	EXPECT_TRUE(heard_wait(&heard, loop, 1));
	if (heard.count && dialled.fd >= 0)
		EXPECT_TRUE(give(dialled.fd, "?", 1) && take(heard.fds[0], text, 1) == 1);
	close(dialled.fd);
	EXPECT_TRUE(heard_close(&heard, loop));
	for (unsigned i = 0; i < GREETINGS_MAX + 4; i++)
		close(silent[i]);
	loop_close(loop);
}

/* One silent connection does not hold up the next for a moment */
TEST_F(tls, beside_a_silent_one)
{
	struct socket_tuning serve = { .shake_ns = LIMIT_NS }, dial = { 0 };
	struct dialled silent, dialled;
	uint64_t begin_ns;
	struct heard heard;
	struct loop *loop;
	char text[URI_TEXT];

	serve.tls = self->server = tls_of(self->dir, true, variant->psk);
	dial.tls = self->client = tls_of(self->dir, false, variant->psk);
	ASSERT_EQ(0, loop_open(&loop, 64, &self->err));
	ASSERT_EQ(0, heard_open(&heard, loop, "tcp:127.0.0.1:0", &serve, &self->err));
	listener_uri(&heard.listener, text, sizeof(text));
	ASSERT_EQ(0, dialled_start(&silent, loop, text, LIMIT_NS, NULL, &self->err));
	EXPECT_LE(0, dialled_finish(&silent, loop));
	begin_ns = clock_now_ns();
	ASSERT_EQ(0, dialled_start(&dialled, loop, text, LIMIT_NS, &dial, &self->err));
	EXPECT_LE(0, dialled_finish(&dialled, loop));
	EXPECT_TRUE(heard_wait(&heard, loop, 1));
	EXPECT_GT(5 * NS_PER_S, clock_now_ns() - begin_ns);
	close(dialled.fd);
	close(silent.fd);
	EXPECT_TRUE(heard_close(&heard, loop));
	loop_close(loop);
}

/* A dial that shakes hands with nobody: given up, too late, or the loop is closed on it */
TEST_F(tls, dial_ends)
{
	struct socket_tuning dial = { 0 };
	struct dialled dialled;
	struct heard heard;
	struct loop *loop;
	char text[URI_TEXT];

	dial.tls = self->client = tls_of(self->dir, false, variant->psk);
	ASSERT_EQ(0, loop_open(&loop, 64, &self->err));
	ASSERT_EQ(0, heard_open(&heard, loop, "tcp:127.0.0.1:0", NULL, &self->err));
	listener_uri(&heard.listener, text, sizeof(text));

	ASSERT_EQ(0, dialled_start(&dialled, loop, text, LIMIT_NS, &dial, &self->err));
	EXPECT_TRUE(heard_wait(&heard, loop, 1));
	while (!dialled.dial.shaking)
		loop_step(loop, (int64_t)NS_PER_MS, NULL);
	dial_cancel(&dialled.dial);
	EXPECT_EQ(-ECANCELED, dialled_finish(&dialled, loop));

	ASSERT_EQ(0, dialled_start(&dialled, loop, text, 200 * NS_PER_MS, &dial, &self->err));
	EXPECT_EQ(-ETIMEDOUT, dialled_finish(&dialled, loop));
	EXPECT_NE(NULL, strstr(dialled.err.text, "connect to tcp:127.0.0.1"))
	{
		TH_LOG("%s", dialled.err.text);
	}

	ASSERT_EQ(0, dialled_start(&dialled, loop, text, LIMIT_NS, &dial, &self->err));
	while (!dialled.dial.shaking)
		loop_step(loop, (int64_t)NS_PER_MS, NULL);
	EXPECT_TRUE(heard_close(&heard, loop));
	loop_close(loop);
	EXPECT_GT(0, dialled.fd);
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
