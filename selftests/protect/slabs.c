/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Contents that are sent from slabs which the ring knows.
 */
#include "checkpoint/run_source.h"
#include "ring/fixed.h"
#include "selftests/lib/protected.h"
#include "selftests/ring/waiting.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGES 3072u /* more than a slab */
#define S UINT64_C(1000000000)

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)

/* As much may be locked from here on, root or not: less than a slab, and enough for a ring */
static int keep_to_limit(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct rlimit limit = { UINT64_C(3) << 20, UINT64_C(3) << 20 };
	struct __user_cap_data_struct data[2];

	/* what counts is locked by all of a user's: of one who has nothing else */
	if (geteuid() == 0 && setresuid(0x40000000u + (unsigned)getpid(), 0, 0) < 0)
		errno = 0; /* none of ours: with the others, then */
	if (syscall(SYS_capget, &head, data) < 0)
		return -1;
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	return syscall(SYS_capset, &head, data) < 0 ? -1 : setrlimit(RLIMIT_MEMLOCK, &limit);
}

static unsigned refusals; /* atomic */

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	(void)opaque;
	(void)level;
	if (strstr(line, "slabs are sent as other memory is"))
		__atomic_fetch_add(&refusals, 1, __ATOMIC_RELAXED);
}

/* ---- A protection ---- */

FIXTURE(slabs)
{
	struct protected pair;
	struct wh_err err;
};

FIXTURE_SETUP(slabs)
{
	protected_init(&self->pair, PAGES, NULL);
	/* as they are, so that pieces are large */
	self->pair.source_config.pack = 0;
	self->pair.source_calls.log = on_log;
	__atomic_store_n(&refusals, 0, __ATOMIC_RELAXED);
}

FIXTURE_TEARDOWN(slabs)
{
	protected_fini(&self->pair);
}

static int start_over_tcp(struct protected *pair, struct wh_err *err)
{
	int ret;

	snprintf(pair->uri, sizeof(pair->uri), "tcp:127.0.0.1:0");
	ret = protected_start_dest(pair, err);
	if (ret < 0)
		return ret;
	pair->to = wh_protect_listen_uri(pair->dest);
	return protected_start_source(pair, err);
}

static uint64_t sent_fixed(const struct protected *pair)
{
	return __atomic_load_n(&pair->source->source->slots.bytes, __ATOMIC_RELAXED);
}

static unsigned registered(const struct protected *pair)
{
	return __atomic_load_n(&pair->source->source->slots.there, __ATOMIC_RELAXED);
}

/* The source dies, and what the replica has is a moment of it */
static bool survives(struct protected *pair)
{
	wh_protect_free(pair->source);
	pair->source = NULL;
	return protected_comes_to(pair->dest, WH_PROTECT_SUSPECT) &&
	       wh_protect_takeover(pair->dest, 0, NULL) == 0 &&
	       wh_protect_wait(pair->dest, -1, NULL) == 0 && pair->ran && !pair->mismatch &&
	       speaker_verify(&pair->replica) == 0 &&
	       speaker_seen(pair->world) <= *(uint64_t *)pair->replica.memory;
}

/* Does this kernel want all of it at once? Then nothing is registered, and that is said */
static bool no_table(void)
{
	struct loop *loop;
	int ret = loop_open(&loop, 8, NULL);

	if (ret == 0)
		ret = loop_fixed_open(loop, 1, NULL);
	loop_close(loop);
	return ret == -EINVAL;
}

TEST_F(slabs, over_tcp_they_are_registered_and_used)
{
	struct protected *pair = &self->pair;

	if (no_table())
		SKIP(return, "no table of buffers that is filled piece by piece (Linux 5.19)");
	ASSERT_OK(start_over_tcp(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	/* all of memory, at the least: it is one run */
	EXPECT_LE(PAGES * TARGET_PAGE, sent_fixed(pair));
	EXPECT_LT(0, registered(pair));
	EXPECT_EQ(0, refusals);
	EXPECT_TRUE(survives(pair));
}

TEST_F(slabs, over_a_unix_socket_they_are_not)
{
	struct protected *pair = &self->pair;

	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	EXPECT_EQ(0, sent_fixed(pair));
	EXPECT_EQ(0, registered(pair));
}

TEST_F(slabs, it_goes_on_where_no_memory_may_be_locked)
{
	struct protected *pair = &self->pair;

	ASSERT_EQ(0, keep_to_limit());
	ASSERT_OK(start_over_tcp(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	EXPECT_EQ(0, sent_fixed(pair));
	EXPECT_EQ(0, registered(pair));
	EXPECT_EQ(1, __atomic_load_n(&refusals, __ATOMIC_RELAXED));
	EXPECT_TRUE(survives(pair));
}

/* ---- Slabs that come and go ---- */

FIXTURE(pool)
{
	struct wh_protect p;
	struct slab_pool pool;
	struct wh_err err;
	int from, to;
};

FIXTURE_SETUP(pool)
{
	struct sockaddr_in address;
	int listener = listening(&address, 1);

	memset(self, 0, sizeof(*self));
	if (no_table())
		SKIP(return, "no table of buffers that is filled piece by piece (Linux 5.19)");
	ASSERT_LE(0, listener);
	self->from = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_EQ(0, connect(self->from, (struct sockaddr *)&address, sizeof(address)));
	self->to = accept(listener, NULL, NULL);
	close(listener);
	self->p.cb.log = on_log;
	self->p.source = calloc(1, sizeof(*self->p.source));
	self->p.source->p = &self->p;
	ASSERT_OK(loop_open(&self->p.loop, 8, &self->err));
	source_slots_begin(self->p.source, self->from);
	slab_pool_init(&self->pool, 8 * SLAB_BYTES, false);
	self->pool.watch = source_slots_watch(self->p.source);
	slab_pool_step(&self->pool, 1 * S);
}

FIXTURE_TEARDOWN(pool)
{
	loop_close(self->p.loop);
	self->p.loop = NULL;
	slab_pool_fini(&self->pool);
	if (self->p.source)
		EXPECT_EQ(0, self->p.source->slots.there);
	free(self->p.source);
	close(self->from);
	close(self->to);
}

/* Is it written, as what the ring knows it by? */
static bool is_known(FIXTURE_DATA(pool) *self, const struct slab *slab)
{
	struct iovec piece = { slab->at, SLAB_BYTES };
	struct told told = told_new();
	int slot = source_slot(&self->p, &piece), n;
	uint8_t seen[16];

	if (slot < 0)
		return false;
	memset(slab->at, slot + 1, sizeof(seen));
	loop_write_fixed(self->p.loop, &told.op, self->from, slab->at, sizeof(seen),
			 (unsigned)slot);
	n = finish(self->p.loop, &told);
	return n == sizeof(seen) && recv(self->to, seen, sizeof(seen), MSG_WAITALL) == n &&
	       !memcmp(seen, slab->at, sizeof(seen));
}

static unsigned known(FIXTURE_DATA(pool) *self)
{
	unsigned count = 0;

	for (const struct slab *slab = self->pool.free; slab; slab = slab->next)
		count += is_known(self, slab);
	return count;
}

TEST_F(pool, known_as_long_as_they_are_there)
{
	ASSERT_OK(slab_reserve(&self->pool, 3 * SLAB_BYTES, &self->err));
	EXPECT_EQ(3, known(self));
	ASSERT_OK(slab_reserve(&self->pool, 8 * SLAB_BYTES, &self->err));
	EXPECT_EQ(8, known(self));
	EXPECT_EQ(8, self->p.source->slots.there);
	/* fewer, and as many again, which lie somewhere else or not */
	slab_pool_step(&self->pool, 11 * S);
	EXPECT_EQ(4, self->pool.total);
	EXPECT_EQ(4, self->p.source->slots.there);
	EXPECT_EQ(4, known(self));
	ASSERT_OK(slab_reserve(&self->pool, 8 * SLAB_BYTES, &self->err));
	EXPECT_EQ(8, known(self));
	EXPECT_EQ(8, self->p.source->slots.used);
}

TEST_F(pool, a_small_piece_and_one_of_something_else)
{
	struct iovec piece;

	ASSERT_OK(slab_reserve(&self->pool, SLAB_BYTES, &self->err));
	piece = (struct iovec){ self->pool.free->at + SLAB_BYTES / 2, SLAB_BYTES / 2 };
	EXPECT_EQ(0, source_slot(&self->p, &piece));
	piece.iov_len++;
	EXPECT_EQ(-1, source_slot(&self->p, &piece));
	piece.iov_len = 4096;
	EXPECT_EQ(-1, source_slot(&self->p, &piece));
	piece = (struct iovec){ self->pool.free->at - 1, SLAB_BYTES };
	EXPECT_EQ(-1, source_slot(&self->p, &piece));
}

TEST_HARNESS_MAIN
