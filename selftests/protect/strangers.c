/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who is not the source and connects all the same: before there is a session, and while there
 * is one. Neither is any the worse for it.
 */
#include "selftests/lib/certs.h"
#include "selftests/lib/protected.h"
#include "wire/checkpoint.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)
#define MS UINT64_C(1000000)

FIXTURE(strangers)
{
	struct protected pair;
	struct wh_err err;
};

FIXTURE_SETUP(strangers)
{
	protected_init(&self->pair, 512, NULL);
	ASSERT_OK(protected_start_dest(&self->pair, &self->err));
}

FIXTURE_TEARDOWN(strangers)
{
	protected_fini(&self->pair);
}

static int come(const struct protected *pair)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", pair->uri + strlen("unix:"));
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool say(int fd, enum cp_kind kind, uint64_t generation, const struct cp_msg *msg)
{
	static const struct cp_msg nothing;
	struct cp_header header = { .kind = kind, .generation = generation, .length = 20 };
	uint8_t buf[CP_MSG_MAX];
	size_t length = cp_put(buf, &header, msg ? msg : &nothing);

	return send(fd, buf, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* Within two seconds */
static bool is_sent_away(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char buf[4096];
	ssize_t n;

	do {
		if (poll(&poll_fd, 1, 2000) <= 0)
			return false;
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	} while (n > 0);
	close(fd);
	return n == 0 || errno == ECONNRESET;
}

static const struct cp_msg hello = { .hello = {
					     .features = CP_FEATURES,
					     .blocks = 1,
					     .contents_max = 4096,
					     .device_max = 16,
					     .heartbeat_ns = 100 * MS,
					     .lease_ns = 1000 * MS,
				     } };

static bool survives(struct protected *pair)
{
	struct wh_err err = { 0 };

	wh_protect_free(pair->source);
	pair->source = NULL;
	return protected_comes_to(pair->dest, WH_PROTECT_SUSPECT) &&
	       wh_protect_takeover(pair->dest, 0, &err) == 0 &&
	       wh_protect_wait(pair->dest, -1, &err) == 0 && pair->ran && !pair->mismatch &&
	       !speaker_verify(&pair->replica);
}

static void all_of_them(struct protected *pair, struct __test_metadata *_metadata)
{
	struct cp_msg block = { .block = { .length = 4096, .page_size = 4096 } };
	struct cp_msg bad = hello;
	int fd = come(pair);

	/* noise */
	for (unsigned i = 0; i < 8; i++)
		(void)!send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
	EXPECT_TRUE(is_sent_away(fd));
	/* half of a header */
	fd = come(pair);
	(void)!send(fd, "WHCP", 4, MSG_NOSIGNAL);
	close(fd);
	/* what a source says, but not at first */
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_BEGIN, 1, NULL));
	EXPECT_TRUE(is_sent_away(fd));
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_PAGES, 1, NULL));
	EXPECT_TRUE(is_sent_away(fd));
	/* what only a destination says */
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_ACK, 1, NULL));
	EXPECT_TRUE(is_sent_away(fd));
	/* a guest without memory, too much for here, another guest */
	fd = come(pair);
	bad.hello.blocks = 0;
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &bad));
	EXPECT_TRUE(is_sent_away(fd));
	bad = hello;
	bad.hello.contents_max = UINT64_MAX;
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &bad));
	EXPECT_TRUE(is_sent_away(fd));
	wire_name_set(&block.block.name, "somebody else's");
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &hello));
	(void)say(fd, CP_BLOCK, 9, &block);
	EXPECT_TRUE(is_sent_away(fd));
}

TEST_F(strangers, before_there_is_a_session)
{
	struct protected *pair = &self->pair;
	int fd;

	all_of_them(pair, _metadata);
	EXPECT_EQ(WH_PROTECT_SETUP, protected_state(pair->dest));
	/* he goes when he has begun */
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &hello));
	EXPECT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SYNC));
	close(fd);
	EXPECT_TRUE(protected_comes_to(pair->dest, WH_PROTECT_SETUP));
	/* somebody's heart beats already, in a session that is not the one to come */
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HEARTBEAT, 77, NULL));
	usleep(20000);
	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(is_sent_away(fd));
	EXPECT_TRUE(survives(pair));
}

TEST_F(strangers, while_there_is_one)
{
	struct protected *pair = &self->pair;
	int fd;

	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	all_of_them(pair, _metadata);
	/* a younger session, an older one's heart, and one that is as right as can be */
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 2, &hello));
	EXPECT_TRUE(is_sent_away(fd));
	for (uint64_t generation = 0; generation < 3; generation++) {
		fd = come(pair);
		EXPECT_TRUE(say(fd, CP_HEARTBEAT, generation, NULL));
		EXPECT_TRUE(is_sent_away(fd));
	}
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(survives(pair));
}

/* The same over TLS: who has no key is nobody, whatever he says */
TEST_F(strangers, without_the_key)
{
	struct protected *pair = &self->pair;
	char dir[96], command[128];
	struct wh_tls tls = { .kind = WH_TLS_PSK, .dir = dir };
	int fd;

	protected_fini(pair);
	protected_init(pair, 512, NULL);
	snprintf(dir, sizeof(dir), "%s/tls", pair->folder);
	ASSERT_EQ(0, mkdir(dir, 0700));
	ASSERT_TRUE(certs_make(dir, NULL));
	pair->dest_config.tls = &tls;
	ASSERT_OK(protected_start_dest(pair, &self->err));
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &hello));
	EXPECT_TRUE(is_sent_away(fd));
	/* so is the source */
	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	EXPECT_EQ(WH_PROTECT_SETUP, protected_state(pair->dest));
	wh_protect_free(pair->source);
	wh_netplug_free(pair->plug);
	pair->source_config.tls = &tls;
	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	fd = come(pair);
	EXPECT_TRUE(say(fd, CP_HELLO, 9, &hello));
	EXPECT_TRUE(is_sent_away(fd));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	/* the last word arrives, though who has said it goes at once */
	ASSERT_OK(wh_protect_stop(pair->source, &self->err));
	ASSERT_OK(wh_protect_wait(pair->dest, 10000000000, &self->err));
	wh_protect_free(pair->dest);
	pair->dest = NULL;
	ASSERT_OK(wh_protect_wait(pair->source, 10000000000, &self->err));
	EXPECT_EQ(WH_PROTECT_RELEASED, protected_state(pair->source));
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	EXPECT_EQ(0, system(command));
}

/* Many who say nothing do not keep the source out */
TEST_F(strangers, silent_ones)
{
	struct protected *pair = &self->pair;
	int fds[40];

	for (unsigned i = 0; i < 40; i++) {
		fds[i] = come(pair);
		usleep(2000);
	}
	ASSERT_OK(protected_start_source(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	for (unsigned i = 0; i < 40; i++)
		close(fds[i]);
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_TRUE(survives(pair));
}

TEST_HARNESS_MAIN
