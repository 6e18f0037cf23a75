/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TLS on connections: both kinds of credentials, what an end of the connection looks like, bytes
 * that a stranger has changed, and peers that say nothing.
 */
#include "selftests/ring/tls_pair.h"

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

TEST_HARNESS_MAIN
