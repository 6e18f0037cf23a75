/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A postcopy that is paused, and waits for its source over RDMA: others who come, and are nobody
 * or go at once, keep nobody out.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"
#include "selftests/lab/rdma/peer.h"

#define HERE "10.9.1.2"
#define PORT "4466"
#define URI "rdma:" HERE ":" PORT

FIXTURE(paused)
{
	struct pair pair;
	struct peer stranger;
	struct wh_err err;
};

FIXTURE_SETUP(paused)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct wh_err *err = &self->err;
	int ret;

	memset(self, 0, sizeof(*self));
	ASSERT_EQ(0, end_new(source, WH_SOURCE, WH_URGENT_OFF, false, err));
	ASSERT_EQ(0, end_new(dest, WH_DEST, WH_URGENT_OFF, false, err));
	ASSERT_EQ(0, wh_listen(dest->migration, "tcp:127.0.0.1:0", err)) TH_LOG("%s", err->text);
	ret = wh_connect(source->migration, wh_listen_uri(dest->migration), err);
	/* a kernel that does not tell what its guest has written */
	if (ret == -EOPNOTSUPP)
		SKIP(return, "%s", err->text);
	ASSERT_EQ(0, ret) TH_LOG("%s", err->text);
	end_run(source, NULL);
	ASSERT_EQ(0, end_start(dest, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(source, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_start_postcopy(source->migration, err)) TH_LOG("%s", err->text);
	ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
	ASSERT_EQ(0, end_tell(source, WISH_PAUSE, NULL, err));
	ASSERT_TRUE(end_pauses(source, 1));
	ASSERT_TRUE(end_pauses(dest, 1));
	ASSERT_EQ(0, end_again(dest, URI, err)) TH_LOG("%s", err->text);
}

/* The source comes back there: until the one before is away it is refused, too */
FIXTURE_TEARDOWN(paused)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	uint64_t until_ns = clock_now_ns() + SECONDS * NS_PER_S;

	while (wh_get_phase(dest->migration) != WH_PHASE_DONE && clock_now_ns() < until_ns) {
		(void)wh_resume(source->migration, URI, &self->err);
		usleep(50000);
	}
	EXPECT_EQ(WH_PHASE_DONE, wh_get_phase(dest->migration)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(end_phase(source, WH_PHASE_DONE));
	EXPECT_EQ(0, wrong_byte(&self->pair));
	peer_close(&self->stranger);
	wh_free(source->migration);
	wh_free(dest->migration);
}

static const uint8_t plain[] = { 0, 0, 0, 1, 0, 0, 0, 0 };

/* Until nobody is there before him */
static bool comes(struct peer *stranger)
{
	for (unsigned i = 0; i < 100; i++, usleep(100000)) {
		if (peer_connect(stranger, HERE, PORT, plain, sizeof(plain)) == 0)
			return peer_hear(stranger) == CONTROL_READY;
		peer_close(stranger);
	}
	return false;
}

TEST_F(paused, who_speaks_no_sense)
{
	struct peer *stranger = &self->stranger;

	ASSERT_TRUE(comes(stranger));
	(void)peer_send(stranger, 3);
}

TEST_F(paused, who_says_error)
{
	struct peer *stranger = &self->stranger;

	ASSERT_TRUE(comes(stranger));
	(void)peer_say(stranger, CONTROL_ERROR, 1, 0);
}

/* A stream that announces it does not come: he is given up for that */
TEST_F(paused, who_asks_for_memory)
{
	struct peer *stranger = &self->stranger;

	ASSERT_TRUE(comes(stranger));
	(void)peer_say(stranger, CONTROL_BLOCKS_REQUEST, 1, 0);
}

TEST_F(paused, who_goes)
{
	ASSERT_TRUE(comes(&self->stranger));
	peer_close(&self->stranger);
}

TEST_HARNESS_MAIN
