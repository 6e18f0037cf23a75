/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A postcopy that is brought back by itself, until somebody takes it in hand or its time
 * is over. Every byte is looked at in the end.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"

FIXTURE(again)
{
	struct pair pair;
	struct proxy *proxy;
	struct wh_err err;
};

FIXTURE_VARIANT(again)
{
	enum wh_urgent urgent;
	bool own_loop;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(again, off) { .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(again, at_start) { .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(again, at_switch) { .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(again, at_switch_own) { .urgent = WH_URGENT_AT_SWITCH, .own_loop = true };
/* clang-format on */

FIXTURE_SETUP(again)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(again)
{
	proxy_end(self->proxy);
}

/* In postcopy, with a proxy between that forwards again behind a cut */
static void begin(FIXTURE_DATA(again) *self, struct __test_metadata *_metadata,
		  const FIXTURE_VARIANT(again) * variant, uint64_t auto_recover_ns)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct wh_err *err = &self->err;

	source->auto_recover_ns = dest->auto_recover_ns = auto_recover_ns;
	ASSERT_EQ(0, end_new(source, WH_SOURCE, variant->urgent, false, err));
	ASSERT_EQ(0, end_new(dest, WH_DEST, variant->urgent, false, err));
	ASSERT_EQ(0, wh_listen(dest->migration, "tcp:127.0.0.1:0", err)) TH_LOG("%s", err->text);
	self->proxy = proxy_start(wh_listen_uri(dest->migration),
				  &(struct proxy_script){ .heals = true });
	ASSERT_NE(NULL, self->proxy);
	ASSERT_EQ(0, wh_connect(source->migration, proxy_uri(self->proxy), err));
	end_run(source, NULL);
	ASSERT_EQ(0, end_start(dest, variant->own_loop, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(source, variant->own_loop, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start_postcopy(source->migration, err)) TH_LOG("%s", err->text);
	ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
	ASSERT_TRUE(end_phase(source, WH_PHASE_POSTCOPY));
}

static void ends_well(FIXTURE_DATA(again) *self, struct __test_metadata *_metadata)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	EXPECT_TRUE(end_phase(dest, WH_PHASE_DONE));
	EXPECT_TRUE(end_phase(source, WH_PHASE_DONE));
	ASSERT_EQ(WH_PHASE_DONE, wh_get_phase(dest->migration));
	if (!dest->own_loop) {
		EXPECT_EQ(0, wh_wait(dest->migration, WAIT_NS, &self->err));
		EXPECT_EQ(0, wh_wait(source->migration, WAIT_NS, &self->err));
	}
	EXPECT_EQ(0, wrong_byte(&self->pair));
	end_free(source);
	end_free(dest);
}

/* Nobody lifts a finger. */
TEST_F(again, comes_back_each_time)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	begin(self, _metadata, variant, 20 * NS_PER_S);
	for (unsigned i = 1; i <= 4; i++) {
		ASSERT_TRUE(end_phase(source, WH_PHASE_POSTCOPY)) TH_LOG("%u", i);
		ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY)) TH_LOG("%u", i);
		usleep(20000);
		proxy_cut(self->proxy);
		while (__atomic_load_n(&dest->pauses, __ATOMIC_ACQUIRE) < i ||
		       __atomic_load_n(&source->pauses, __ATOMIC_ACQUIRE) < i)
			usleep(200);
		/* who waits goes on waiting */
		if (!dest->own_loop)
			EXPECT_EQ(-EAGAIN, wh_wait(dest->migration, 0, &self->err));
	}
	ends_well(self, _metadata);
}

/* Nobody is there: both say so when the time is over, and are brought back by hand. */
TEST_F(again, until_the_time_is_over)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	uint64_t begun_ns;

	begin(self, _metadata, variant, 400 * NS_PER_MS);
	proxy_end(self->proxy);
	self->proxy = NULL;
	begun_ns = clock_now_ns();
	/* once for the break, and once because nothing came of it */
	ASSERT_TRUE(end_pauses(source, 2));
	ASSERT_TRUE(end_pauses(dest, 2));
	EXPECT_LE(350 * NS_PER_MS, clock_now_ns() - begun_ns);
	EXPECT_GT(3 * NS_PER_S, clock_now_ns() - begun_ns);
	if (!dest->own_loop) {
		EXPECT_GT(0, wh_wait(source->migration, WAIT_NS, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, "within 400 ms"))
		TH_LOG("%s", self->err.text);
		EXPECT_GT(0, wh_wait(dest->migration, WAIT_NS, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, "within 400 ms"))
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err))
	TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* Who pauses wants it paused; and he who does not want it brought back pauses it, too. */
TEST_F(again, not_when_it_is_paused_by_hand)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	begin(self, _metadata, variant, 20 * NS_PER_S);
	ASSERT_EQ(0, end_tell(source, WISH_PAUSE, NULL, &self->err));
	ASSERT_TRUE(end_pauses(source, 1));
	ASSERT_TRUE(end_pauses(dest, 1));
	usleep(200000);
	EXPECT_EQ(WH_PHASE_PAUSED, wh_get_phase(source->migration));
	if (!dest->own_loop) {
		EXPECT_EQ(-ECANCELED, wh_wait(source->migration, WAIT_NS, &self->err));
		EXPECT_EQ(-EAGAIN, wh_wait(dest->migration, 0, &self->err));
	}
	EXPECT_EQ(-EBUSY, end_tell(source, WISH_PAUSE, NULL, &self->err));
	ASSERT_EQ(0, end_tell(dest, WISH_PAUSE, NULL, &self->err)) TH_LOG("%s", self->err.text);
	if (!dest->own_loop)
		EXPECT_GT(0, wh_wait(dest->migration, WAIT_NS, &self->err));
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err));
	ends_well(self, _metadata);
}

static int connect_to(const char *uri)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct timeval patience = { .tv_sec = 5 };
	unsigned port;
	int fd;

	if (sscanf(uri, "tcp:127.0.0.1:%u", &port) != 1)
		return -1;
	to.sin_port = htons((uint16_t)port);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (unsigned i = 0; i < 100; i++) {
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
			return fd;
		usleep(10000);
	}
	close(fd);
	return -1;
}

/* Begins as the source does, and is answered; who comes to what is being closed yet comes again */
static int answered(const char *uri)
{
	static const uint8_t hello[21] = { 8, 0, 29, 0, 16 };
	char answer[28];

	for (unsigned i = 0; i < 20; i++, usleep(10000)) {
		int fd = connect_to(uri);

		if (fd < 0)
			return -1;
		if (send(fd, hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello) &&
		    recv(fd, answer, sizeof(answer), MSG_WAITALL) == sizeof(answer))
			return fd;
		close(fd);
	}
	return -1;
}

/*
 * One who knows how it goes, and not the id: he gets no bitmap, and it is listened again
 * where it was. The source comes back to it by hand, somewhere between two of its own tries.
 */
TEST_F(again, strangers_learn_nothing)
{
	static const uint8_t more[13 + 11] = { 8, 0, 30, 0,   8,   [13] = 8, 0,	  10,
					       0, 6, 5,	 'f', 'i', 'r',	     's', 't' };
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	char uri[64] = "", answer[100];

	begin(self, _metadata, variant, 20 * NS_PER_S);
	strncpy(uri, wh_listen_uri(dest->migration), sizeof(uri) - 1);
	proxy_end(self->proxy);
	self->proxy = NULL;
	ASSERT_TRUE(end_pauses(dest, 1));
	for (unsigned i = 0; i < 3; i++) {
		int fd = answered(uri);
		ssize_t got;

		ASSERT_LE(0, fd);
		ASSERT_EQ((ssize_t)sizeof(more), send(fd, more, sizeof(more), MSG_NOSIGNAL));
		got = recv(fd, answer, sizeof(answer), 0);
		EXPECT_GE(0, got) TH_LOG("%zd bytes", got);
		close(fd);
		ASSERT_TRUE(end_pauses(dest, 2 + i));
	}
	/* it listens */
	close(connect_to(uri));
	ASSERT_EQ(0, end_again(source, uri, &self->err)) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

static const FIXTURE_VARIANT(again) plainly = { .urgent = WH_URGENT_OFF };

/* Whoever begins as the source does and goes cannot make it pause as often as he likes. */
TEST(strangers_make_no_haste)
{
	static const uint8_t hello[21] = { 8, 0, 29, 0, 16 };
	FIXTURE_DATA(again) data = { 0 }, *self = &data;
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	uint64_t begun_ns;
	char uri[64] = "";
	unsigned pauses;

	begin(self, _metadata, &plainly, 60 * NS_PER_S);
	strncpy(uri, wh_listen_uri(dest->migration), sizeof(uri) - 1);
	proxy_end(self->proxy);
	ASSERT_TRUE(end_pauses(dest, 1));
	begun_ns = clock_now_ns();
	while ((pauses = __atomic_load_n(&dest->pauses, __ATOMIC_ACQUIRE)) < 11) {
		int fd = connect_to(uri);

		ASSERT_LE(0, fd);
		(void)!send(fd, hello, sizeof(hello), MSG_NOSIGNAL);
		close(fd);
		/* it may have been about to close when he came: then it does not pause for him */
		for (unsigned i = 0; i < 300; i++, usleep(1000))
			if (__atomic_load_n(&dest->pauses, __ATOMIC_ACQUIRE) > pauses)
				break;
		ASSERT_GT(SECONDS * NS_PER_S, clock_now_ns() - begun_ns);
	}
	EXPECT_LE(9 * 50 * NS_PER_MS, clock_now_ns() - begun_ns);
	/* nor does it listen yet, behind the last of them */
	while (wh_get_phase(dest->migration) != WH_PHASE_DONE &&
	       clock_now_ns() - begun_ns < SECONDS * NS_PER_S) {
		(void)end_tell(source, WISH_AGAIN, uri, &self->err);
		usleep(100000);
	}
	ends_well(self, _metadata);
}

/* Each time that it runs it is cut: it is tried again after 50 ms, 100, 200, 400, 800 */
TEST(slower_where_it_breaks_at_once)
{
	FIXTURE_DATA(again) data = { 0 }, *self = &data;
	struct end *source = &self->pair.source;
	uint64_t begun_ns = 0;

	begin(self, _metadata, &plainly, 60 * NS_PER_S);
	for (unsigned i = 1; i <= 6; i++) {
		ASSERT_TRUE(end_phase(source, WH_PHASE_POSTCOPY)) TH_LOG("%u", i);
		proxy_cut(self->proxy);
		while (__atomic_load_n(&source->pauses, __ATOMIC_ACQUIRE) < i)
			usleep(200);
		if (!begun_ns)
			begun_ns = clock_now_ns();
	}
	EXPECT_LE(1500 * NS_PER_MS, clock_now_ns() - begun_ns);
	ends_well(self, _metadata);
	proxy_end(self->proxy);
}

/* Both are freed all the same, whatever they are about to do. */
TEST_F(again, freed_while_it_looks)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	begin(self, _metadata, variant, 20 * NS_PER_S);
	proxy_end(self->proxy);
	self->proxy = NULL;
	ASSERT_TRUE(end_pauses(source, 1));
	ASSERT_TRUE(end_pauses(dest, 1));
	usleep(70000);
	__atomic_store_n(&source->stop, true, __ATOMIC_RELEASE);
	__atomic_store_n(&dest->stop, true, __ATOMIC_RELEASE);
	if (source->thread)
		pthread_join(source->thread, NULL);
	if (dest->thread)
		pthread_join(dest->thread, NULL);
	wh_free(source->migration);
	wh_free(dest->migration);
}

TEST_HARNESS_MAIN
