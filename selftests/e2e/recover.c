/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A postcopy whose link breaks, and that is recovered: whenever it breaks, however often,
 * whoever drives it, and over another link. Every byte is looked at in the end.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"

FIXTURE(recover)
{
	struct pair pair;
	struct proxy *proxy;
	unsigned pauses; /* of each end, that were waited for */
	char folder[32];
	struct wh_err err;
};

FIXTURE_VARIANT(recover)
{
	enum wh_urgent urgent;
	bool own_loop;
	bool large;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(recover, off) { .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(recover, at_start) { .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(recover, at_switch) { .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(recover, large) { .urgent = WH_URGENT_AT_SWITCH, .large = true };
FIXTURE_VARIANT_ADD(recover, off_own) { .urgent = WH_URGENT_OFF, .own_loop = true };
FIXTURE_VARIANT_ADD(recover, at_start_own) { .urgent = WH_URGENT_AT_START, .own_loop = true };
FIXTURE_VARIANT_ADD(recover, at_switch_own) { .urgent = WH_URGENT_AT_SWITCH, .own_loop = true };
/* clang-format on */

/* In postcopy, with a proxy between */
FIXTURE_SETUP(recover)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct wh_err *err = &self->err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(self, 0, sizeof(*self));
	strcpy(self->folder, "/tmp/wherry-again.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	ASSERT_EQ(0, end_new(source, WH_SOURCE, variant->urgent, variant->large, err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_new(dest, WH_DEST, variant->urgent, variant->large, err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_listen(dest->migration, "tcp:127.0.0.1:0", err)) TH_LOG("%s", err->text);
	self->proxy = proxy_start(wh_listen_uri(dest->migration), &(struct proxy_script){ 0 });
	ASSERT_NE(NULL, self->proxy);
	ASSERT_EQ(0, wh_connect(source->migration, proxy_uri(self->proxy), err))
	TH_LOG("%s", err->text);
	end_run(source, NULL);
	ASSERT_EQ(0, end_start(dest, variant->own_loop, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(source, variant->own_loop, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start_postcopy(source->migration, err)) TH_LOG("%s", err->text);
	ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
}

FIXTURE_TEARDOWN(recover)
{
	proxy_end(self->proxy);
	rmdir(self->folder);
}

static bool both_pause(FIXTURE_DATA(recover) *self)
{
	self->pauses++;
	return end_pauses(&self->pair.source, self->pauses) &&
	       end_pauses(&self->pair.dest, self->pauses);
}

/* A new proxy in front of where the destination listens then */
static int again(FIXTURE_DATA(recover) *self, const struct proxy_script *script)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	int ret;

	proxy_end(self->proxy);
	self->proxy = NULL;
	ret = end_again(dest, "tcp:127.0.0.1:0", &self->err);
	if (ret)
		return ret;
	self->proxy = proxy_start(wh_listen_uri(dest->migration), script);
	return self->proxy ? end_again(source, proxy_uri(self->proxy), &self->err) : -EIO;
}

static void ends_well(FIXTURE_DATA(recover) *self, struct __test_metadata *_metadata)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	EXPECT_TRUE(end_phase(dest, WH_PHASE_DONE));
	EXPECT_TRUE(end_phase(source, WH_PHASE_DONE));
	ASSERT_EQ(WH_PHASE_DONE, wh_get_phase(dest->migration));
	if (!dest->own_loop) {
		EXPECT_EQ(0, wh_wait(dest->migration, WAIT_NS, &self->err))
		TH_LOG("%s", self->err.text);
		EXPECT_EQ(0, wh_wait(source->migration, WAIT_NS, &self->err));
	}
	EXPECT_EQ(0, wrong_byte(&self->pair));
	end_free(source);
	end_free(dest);
}

/* Where in the stream it breaks, again and again */
TEST_F(recover, cut_in_the_middle)
{
	static const uint64_t at[] = { 1, 5000, 40000, 4097, 300000, 100000 };
	struct wh_stats stats;

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		/* behind the handshake */
		ASSERT_EQ(0, again(self, &(struct proxy_script){ .cut_at = 62 + at[i] }))
		TH_LOG("%u: %s", i, self->err.text);
		ASSERT_TRUE(both_pause(self)) TH_LOG("%u", i);
	}
	wh_get_stats(self->pair.dest.migration, &stats);
	EXPECT_LT(0, stats.pages_left);
	EXPECT_LE(4, stats.recoveries);
	EXPECT_LT(0, stats.paused_ns);
	ASSERT_EQ(0, again(self, &(struct proxy_script){ 0 })) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/*
 * The handshake breaks behind and within each of its messages, in both directions: hello
 * of 21 bytes, a proof of 13, two commands of 11 and 12, RESUME; the answer to hello of 28,
 * two bitmaps of 128 bytes with 16 around them, messages of 10 and 11 bytes, RESUME_ACK.
 */
TEST_F(recover, cut_in_the_handshake)
{
	static const struct proxy_script at[] = {
		{ .cut_at = 1 },	{ .cut_at = 21 },	{ .cut_at = 30 },
		{ .cut_at = 34 },	{ .cut_at = 45 },	{ .cut_at = 51 },
		{ .cut_at = 57 },	{ .cut_at = 60 },	{ .cut_at = 62 },
		{ .cut_back_at = 1 },	{ .cut_back_at = 28 },	{ .cut_back_at = 38 },
		{ .cut_back_at = 128 }, { .cut_back_at = 182 }, { .cut_back_at = 193 },
		{ .cut_back_at = 228 }, { .cut_back_at = 337 }, { .cut_back_at = 340 },
		{ .cut_back_at = 345 }, { .cut_back_at = 358 },
	};

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		ASSERT_EQ(0, again(self, &at[i])) TH_LOG("%u: %s", i, self->err.text);
		if (at[i].cut_at && at[i].cut_at < 4) {
			/* too little to be taken for a source: the destination waits on */
			self->pauses++;
			ASSERT_TRUE(end_pauses(&self->pair.source, self->pauses));
			self->pair.dest.pauses++;
			continue;
		}
		ASSERT_TRUE(both_pause(self)) TH_LOG("%u", i);
	}
	ASSERT_EQ(0, again(self, &(struct proxy_script){ 0 })) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* Twenty times, by whoever wants to, over links of both kinds */
TEST_F(recover, paused_on_purpose)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	char unix_uri[64];

	snprintf(unix_uri, sizeof(unix_uri), "unix:%s/socket", self->folder);
	for (unsigned i = 0; i < 20; i++) {
		/* Behind RESUME_ACK; one end may be there a little earlier. */
		ASSERT_TRUE(end_phase(source, WH_PHASE_POSTCOPY));
		ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
		ASSERT_EQ(0, end_tell(i % 2 ? source : dest, WISH_PAUSE, NULL, &self->err))
		TH_LOG("%u: %s", i, self->err.text);
		ASSERT_TRUE(both_pause(self)) TH_LOG("%u", i);
		ASSERT_EQ(0, end_again(dest, i % 3 ? unix_uri : "tcp:127.0.0.1:0", &self->err))
		TH_LOG("%u: %s", i, self->err.text);
		ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err))
		TH_LOG("%u: %s", i, self->err.text);
	}
	ends_well(self, _metadata);
}

/* In the middle of what the library is about to do */
TEST_F(recover, paused_in_a_callback)
{
	struct end *ends[] = { &self->pair.source, &self->pair.dest };

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	for (unsigned i = 0; i < 4; i++) {
		__atomic_store_n(&ends[i % 2]->pause_again, true, __ATOMIC_RELEASE);
		ASSERT_EQ(0, again(self, &(struct proxy_script){ 0 }))
		TH_LOG("%s", self->err.text);
		ASSERT_TRUE(both_pause(self)) TH_LOG("%u", i);
	}
	ASSERT_EQ(0, again(self, &(struct proxy_script){ 0 })) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* The source is told first: nobody is there, it says so, and is told again. */
TEST_F(recover, source_first)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	char uri[64];

	snprintf(uri, sizeof(uri), "unix:%s/socket", self->folder);
	EXPECT_EQ(-EBUSY, end_tell(source, WISH_AGAIN, uri, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "postcopy-active"));
	EXPECT_EQ(-EBUSY, end_tell(dest, WISH_AGAIN, uri, &self->err));
	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	EXPECT_EQ(-EBUSY, end_tell(dest, WISH_PAUSE, NULL, &self->err));
	EXPECT_EQ(-EBUSY, end_tell(source, WISH_PAUSE, NULL, &self->err));
	EXPECT_EQ(-EINVAL, end_tell(source, WISH_AGAIN, "nowhere", &self->err));
	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQ(0, end_again(source, uri, &self->err)) TH_LOG("%s", self->err.text);
		ASSERT_TRUE(end_pauses(source, self->pauses + i + 1));
	}
	if (!source->own_loop) {
		EXPECT_EQ(-ENOENT, wh_wait(source->migration, WAIT_NS, &self->err))
		TH_LOG("%s", self->err.text);
	}
	/* somewhere, and then somewhere else */
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err));
	ASSERT_EQ(0, end_again(dest, uri, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_STREQ(uri, wh_listen_uri(dest->migration));
	ASSERT_EQ(0, end_again(source, uri, &self->err)) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/*
 * Who connects before a loop of the VMM's own has come round again could be the source, and has
 * not come to speak yet.
 */
TEST_F(recover, connected_at_once)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct pollfd gone = { .events = POLLIN };

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	dest->hasty = true;
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err));
	gone.fd = dest->own_loop ? dest->hasty_fd : end_stranger(dest);
	ASSERT_LE(0, gone.fd);
	EXPECT_EQ(0, poll(&gone, 1, 50));
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err));
	ends_well(self, _metadata);
	close(gone.fd);
}

/* Who connects, and is not the source, or says nothing, changes nothing. */
TEST_F(recover, strangers)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	static const char *const says[] = { "", "GET / HTTP/1.0\r\n\r\n", "QEVM", "\10" };
	int fd[4];

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err));
	for (unsigned i = 0; i < 4; i++) {
		fd[i] = end_stranger(dest);
		ASSERT_LE(0, fd[i]);
		ASSERT_EQ((ssize_t)strlen(says[i]),
			  send(fd[i], says[i], strlen(says[i]), MSG_NOSIGNAL));
		usleep(20000);
		if (i % 2 == 0)
			shutdown(fd[i], SHUT_WR);
	}
	EXPECT_EQ(WH_PHASE_PAUSED, wh_get_phase(dest->migration));
	EXPECT_EQ(self->pauses, dest->pauses);
	for (unsigned i = 0; i < 4; i++)
		close(fd[i]);
	usleep(20000);
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err))
	TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* One who is there first and says nothing is not taken for the urgent channel. */
TEST_F(recover, silent_strangers)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	int fd[2];

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err));
	for (unsigned i = 0; i < 2; i++) {
		fd[i] = end_stranger(dest);
		ASSERT_LE(0, fd[i]);
	}
	usleep(20000);
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err));
	ends_well(self, _metadata);
	EXPECT_EQ(self->pauses, source->pauses);
	EXPECT_EQ(self->pauses, dest->pauses);
	close(fd[0]);
	close(fd[1]);
}

/* Nobody recovers it: both are freed all the same, whatever they are about to do. */
TEST_F(recover, given_up)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self));
	ASSERT_EQ(0, end_again(dest, "tcp:127.0.0.1:0", &self->err));
	ASSERT_EQ(0, end_again(source, wh_listen_uri(dest->migration), &self->err));
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
