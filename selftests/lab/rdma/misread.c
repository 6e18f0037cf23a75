/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reading pages goes wrong in the middle of a postcopy over RDMA: a read that the source's device refuses,
 * an answer that is none, and a destination that asks for what is not there. The first two are asked
 * for from there on; the last one is a pause.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
#include "rdma/link.h"
#include "rdma/vread.h"
#include "selftests/lab/rdma/ends.h"

#define MIB (UINT64_C(1) << 20)
#define BYTES (3 * MIB + 4096)
#define PAGES (BYTES / 4096)
#define LIMIT_NS (60 * NS_PER_S)
#define AT_READ 5u /* goes wrong, if one does */

enum wrong {
	WRONG_KEY,
	WRONG_ANSWER,
	WRONG_BLOCK,
};

/* What the ends tell */
static struct run {
	enum wrong wrong;
	char uri[160];
	unsigned answers;	  /* the source's, to requests for keys */
	unsigned reads, requests; /* the destination's */
	bool ended[2];		  /* WH_SOURCE, WH_DEST */
	enum wh_phase phase[2];
	char text[2][200];
} * run;

/* ---- What goes wrong, in whichever process it is --------------------------------------- */

int __real_vlink_read(struct vlink *link, size_t at, uint32_t length, uint64_t from, uint32_t rkey,
		      struct wh_err *err);
int __wrap_vlink_read(struct vlink *link, size_t at, uint32_t length, uint64_t from, uint32_t rkey,
		      struct wh_err *err);
int __real_vlend_take(struct vlend *lend, const uint8_t *message, size_t bytes, uint8_t *answer,
		      size_t *length, struct wh_err *err);
int __wrap_vlend_take(struct vlend *lend, const uint8_t *message, size_t bytes, uint8_t *answer,
		      size_t *length, struct wh_err *err);
enum vread_next __real_vread_next(struct vread *read, uint8_t *message, size_t *bytes,
				  struct vread_job *job);
enum vread_next __wrap_vread_next(struct vread *read, uint8_t *message, size_t *bytes,
				  struct vread_job *job);

int __wrap_vlink_read(struct vlink *link, size_t at, uint32_t length, uint64_t from, uint32_t rkey,
		      struct wh_err *err)
{
	if (++run->reads == AT_READ && run->wrong == WRONG_KEY)
		rkey ^= 0x5500;
	return __real_vlink_read(link, at, length, from, rkey, err);
}

int __wrap_vlend_take(struct vlend *lend, const uint8_t *message, size_t bytes, uint8_t *answer,
		      size_t *length, struct wh_err *err)
{
	int ret = __real_vlend_take(lend, message, bytes, answer, length, err);

	run->answers++;
	if (run->wrong == WRONG_ANSWER)
		*length = 1;
	return ret;
}

enum vread_next __wrap_vread_next(struct vread *read, uint8_t *message, size_t *bytes,
				  struct vread_job *job)
{
	enum vread_next next = __real_vread_next(read, message, bytes, job);

	if (next == VREAD_SAY && run->wrong == WRONG_BLOCK)
		put_be32(message + CONTROL_HEADER + 8, 77);
	return next;
}

/* ---- The ends ---------------------------------------------------------------------------- */

static uint8_t *guest; /* the destination's */

/* All of it, here and there: a guest that waits for most of it */
static void *touch(void *arg)
{
	const volatile uint8_t *at = guest;

	(void)arg;
	for (uint64_t page = 0; page < PAGES; page++)
		(void)at[page * 509 % PAGES * 4096];
	return NULL;
}

static int on_start(void *opaque, struct wh_err *err)
{
	pthread_t thread;

	(void)opaque, (void)err;
	return -pthread_create(&thread, NULL, touch, NULL);
}

static const struct wh_callbacks callbacks = {
	.start = on_start,
	ENDS_WRITE_NOTHING,
};

/* Until it has ended, or is paused. Nobody gives it up: pages may be missing */
static void be_end(enum wh_role role, void *memory, int fd)
{
	struct wh_block block = {
		.name = "ram", .addr = memory, .length = BYTES, .page_size = 4096, .fd = fd
	};
	struct wh_migration *m;
	struct wh_config config;
	struct wh_stats stats;
	struct wh_err err = { 0 };
	int ret;

	guest = memory;
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.bandwidth = 4096;
	config.postcopy_bandwidth = MIB;
	config.dead_peer_ns = LIMIT_NS;
	ret = wh_new(&m, role, &config, &err);
	if (ret == 0)
		ret = wh_add_block(m, &block, &err);
	if (ret == 0)
		ret = ends_begin(m, role, run->uri, sizeof(run->uri), &err);
	if (ret == 0 && role == WH_SOURCE)
		ret = wh_start_postcopy(m, &err);
	while (ret == 0 && (ret = wh_wait(m, 50 * (int64_t)NS_PER_MS, &err)) == -EAGAIN)
		ret = 0;
	run->phase[role] = wh_get_phase(m);
	snprintf(run->text[role], sizeof(run->text[role]), "%s", ret < 0 ? err.text : "");
	wh_get_stats(m, &stats);
	if (role == WH_DEST)
		run->requests = (unsigned)stats.requests;
	__atomic_store_n(&run->ended[role], true, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

/* ---- The suite ---------------------------------------------------------------------------- */

FIXTURE(misread)
{
	uint8_t *memory[2]; /* WH_SOURCE's, WH_DEST's */
	int fd[2];
	pid_t pid[2];
};

FIXTURE_SETUP(misread)
{
	memset(self, 0, sizeof(*self));
	run = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, run);
	for (unsigned i = 0; i < 2; i++) {
		self->memory[i] = ends_ram(BYTES, &self->fd[i]);
		ASSERT_NE(NULL, self->memory[i]);
	}
	for (uint64_t at = 0; at < BYTES; at++)
		self->memory[WH_SOURCE][at] = (uint8_t)(1 + (at >> 12) % 255);
}

FIXTURE_TEARDOWN(misread)
{
	ends_kill(self->pid);
}

static bool until(const void *byte)
{
	return ends_until(byte, NULL, clock_now_ns() + LIMIT_NS);
}

static bool be(FIXTURE_DATA(misread) *self, enum wh_role role)
{
	self->pid[role] = fork();
	if (self->pid[role] == 0)
		be_end(role, self->memory[role], self->fd[role]);
	return until(role == WH_DEST ? (const void *)run->uri : &run->ended[WH_SOURCE]);
}

static bool play(FIXTURE_DATA(misread) *self, enum wrong wrong)
{
	run->wrong = wrong;
	return be(self, WH_DEST) && be(self, WH_SOURCE) && until(&run->ended[WH_DEST]);
}

TEST_F_TIMEOUT(misread, a_read_is_refused, 110)
{
	ASSERT_TRUE(play(self, WRONG_KEY));
	EXPECT_EQ(WH_PHASE_DONE, run->phase[WH_SOURCE]) TH_LOG("%s", run->text[WH_SOURCE]);
	EXPECT_EQ(WH_PHASE_DONE, run->phase[WH_DEST]) TH_LOG("%s", run->text[WH_DEST]);
	EXPECT_EQ(AT_READ, run->reads);
	EXPECT_LT(0, run->requests);
	EXPECT_EQ(0, memcmp(self->memory[0], self->memory[1], BYTES));
}

TEST_F_TIMEOUT(misread, an_answer_is_none, 110)
{
	ASSERT_TRUE(play(self, WRONG_ANSWER));
	EXPECT_EQ(WH_PHASE_DONE, run->phase[WH_SOURCE]) TH_LOG("%s", run->text[WH_SOURCE]);
	EXPECT_EQ(WH_PHASE_DONE, run->phase[WH_DEST]) TH_LOG("%s", run->text[WH_DEST]);
	EXPECT_EQ(1, run->answers);
	EXPECT_EQ(0, run->reads);
	EXPECT_LT(0, run->requests);
	EXPECT_EQ(0, memcmp(self->memory[0], self->memory[1], BYTES));
}

TEST_F_TIMEOUT(misread, a_stranger_asks, 110)
{
	ASSERT_TRUE(play(self, WRONG_BLOCK));
	EXPECT_EQ(WH_PHASE_PAUSED, run->phase[WH_SOURCE]);
	EXPECT_EQ(WH_PHASE_PAUSED, run->phase[WH_DEST]);
	EXPECT_NE(NULL, strstr(run->text[WH_SOURCE], "KEY_REQUEST of chunk 0x"))
	TH_LOG("%s", run->text[WH_SOURCE]);
	EXPECT_EQ(0, run->reads);
}

TEST_HARNESS_MAIN
