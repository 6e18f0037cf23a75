/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where something is slow, too little or in the way: the guest waits, what it sends waits, and
 * nothing is let go for it.
 */
#include "selftests/lib/protected.h"
#include "uffd/abi.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define ASSERT_OK(call) ASSERT_EQ(0, call) TH_LOG("%s", self->err.text)

FIXTURE(limits)
{
	struct protected pair;
	struct wh_err err;
};

FIXTURE_SETUP(limits)
{
	protected_init(&self->pair, 4096, NULL);
	/* who looks at a checkpoint for a second says nothing meanwhile */
	self->pair.source_config.lease_ns = 30000000000;
}

FIXTURE_TEARDOWN(limits)
{
	protected_fini(&self->pair);
}

static bool survives(struct protected *pair)
{
	struct wh_err err = { 0 };

	wh_protect_free(pair->source);
	pair->source = NULL;
	return protected_comes_to(pair->dest, WH_PROTECT_SUSPECT) &&
	       wh_protect_takeover(pair->dest, 0, &err) == 0 &&
	       wh_protect_wait(pair->dest, -1, &err) == 0 && pair->ran && !pair->mismatch &&
	       !speaker_verify(&pair->replica) && !pair->world->wrong &&
	       speaker_seen(pair->world) <= *(uint64_t *)(void *)pair->replica.memory;
}

/* It takes 50 ms for each: nothing of an epoch is seen before */
TEST_F(limits, a_slow_destination)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	pair->check_ms = 50;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_protect_get_status(pair->source, &status);
	EXPECT_LE(50000000, status.ack_ns);
	EXPECT_LT(0, status.held_packets);
	EXPECT_EQ(0, status.refused);
	EXPECT_TRUE(survives(pair));
}

/* It is not protected, since this machine does not let writers wait. @err: why it is not */
static bool has_no_cow(const struct protected *pair, struct wh_err *err)
{
	struct wh_protect_status status;

	wh_protect_get_status(pair->source, &status);
	*err = status.err;
	return pair->source_config.copy_on_write &&
	       (err->code == -EPERM || err->code == -EOPNOTSUPP);
}

static int never_asked(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
		       struct wh_err *err)
{
	(void)opaque;
	(void)block;
	(void)map;
	(void)pages;
	(void)err;
	return -EIO;
}

/* It writes all it can while it is copied: what survives is of the stop all the same */
TEST_F(limits, a_guest_that_is_copied_after_its_stop)
{
	struct protected *pair = &self->pair;

	pair->guest.rest_us = 0;
	pair->source_config.copy_on_write = true;
	pair->source_config.pace.min_ns = pair->source_config.pace.max_ns = 40000000;
	pair->source_calls.dirty_sync = never_asked;
	ASSERT_OK(protected_start(pair, &self->err));
	if (!protected_goes_on(pair->source, 5)) {
		if (has_no_cow(pair, &self->err))
			SKIP(return, "%s", self->err.text);
		ASSERT_TRUE(false) TH_LOG("%s", self->err.text);
	}
	EXPECT_TRUE(survives(pair));
}

/* More waits than may be: the guest stands still until it is let go, and then goes on */
TEST_F(limits, too_much_is_held)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status = { 0 };
	uint64_t step;

	pair->guest.rest_us = 1000;
	pair->source_config.held_max = 5000; /* 50 packets */
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	__atomic_store_n(&pair->check_ms, 500, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 2000 && !status.stalled; i++) {
		usleep(1000);
		wh_protect_get_status(pair->source, &status);
	}
	ASSERT_TRUE(status.stalled);
	usleep(20000);
	step = speaker_step(&pair->guest);
	usleep(20000);
	wh_protect_get_status(pair->source, &status);
	if (status.stalled)
		EXPECT_EQ(step, speaker_step(&pair->guest));
	EXPECT_GT(200, status.held_packets);
	__atomic_store_n(&pair->check_ms, 0, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_protect_get_status(pair->source, &status);
	EXPECT_FALSE(status.stalled);
	EXPECT_LT(step, speaker_step(&pair->guest));
	EXPECT_TRUE(survives(pair));
}

/* The last one is slow to be acknowledged: the guest waits before it has written too much */
TEST_F(limits, a_guest_that_writes_much_waits)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status = { 0 };

	pair->guest.rest_us = 200;
	pair->source_config.contents_max = pair->dest_config.contents_max = 8 << 20;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	__atomic_store_n(&pair->check_ms, 1000, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 5000 && !status.stalled; i++) {
		usleep(1000);
		wh_protect_get_status(pair->source, &status);
	}
	EXPECT_TRUE(status.stalled);
	__atomic_store_n(&pair->check_ms, 0, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_goes_on(pair->source, 5));
	wh_protect_get_status(pair->source, &status);
	EXPECT_FALSE(status.stalled);
	EXPECT_FALSE(status.degraded);
	EXPECT_TRUE(survives(pair));
}

/* From here on no userfaultfd is to be had, in either way */
static bool refuse_userfaultfd(unsigned code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, USERFAULTFD_IOC_NEW, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/*
 * Its writes cannot be waited for. There is no protection then, and no other kind of it in its
 * place: the guest goes on, nothing of it is held, and the sentence says what is missing.
 */
static void without_userfaultfd(struct protected *pair, int code, const char *sentence,
				struct __test_metadata *_metadata)
{
	struct wh_protect_status status;
	struct wh_err err = { 0 };
	uint64_t seen;

	pair->source_config.copy_on_write = true;
	ASSERT_TRUE(refuse_userfaultfd((unsigned)code));
	ASSERT_EQ(0, protected_start(pair, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, wh_protect_wait(pair->source, 20 * INT64_C(1000000000), &err));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(WH_PROTECT_RELEASED, status.state);
	EXPECT_EQ(-code, status.err.code);
	EXPECT_NE(NULL, strstr(status.err.text, sentence)) TH_LOG("%s", status.err.text);
	EXPECT_EQ(0, status.checkpoints);
	seen = speaker_seen(pair->world);
	for (unsigned i = 0; i < 20000 && speaker_seen(pair->world) < seen + 10; i++)
		usleep(1000);
	EXPECT_LE(seen + 10, speaker_seen(pair->world));
	EXPECT_FALSE(pair->ran);
}

TEST_F(limits, copied_after_its_stop_without_the_right_to)
{
	without_userfaultfd(&self->pair, EPERM, "userfaultfd", _metadata);
}

TEST_F(limits, copied_after_its_stop_by_a_kernel_that_cannot)
{
	without_userfaultfd(&self->pair, ENOSYS, "CONFIG_USERFAULTFD", _metadata);
}

/* It cannot be stopped at once, several times */
TEST_F(limits, a_guest_that_does_not_want_to_stop)
{
	struct protected *pair = &self->pair;

	pair->fails = 5;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	__atomic_store_n(&pair->fails, 5, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_EQ(0, pair->fails);
	EXPECT_TRUE(survives(pair));
}

static bool device_gone;

static int no_device(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct protected *pair = opaque;

	(void)err;
	if (__atomic_load_n(&device_gone, __ATOMIC_RELAXED))
		return -EIO;
	*length = sizeof(uint64_t);
	*data = malloc(*length);
	*(uint64_t *)*data = speaker_step(&pair->guest);
	return 0;
}

/* What was copied without it is no checkpoint: the one before counts */
TEST_F(limits, device_state_that_cannot_be_had)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	pair->source_calls.device_save = no_device;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	__atomic_store_n(&device_gone, true, __ATOMIC_RELAXED);
	ASSERT_TRUE(protected_comes_to(pair->source, WH_PROTECT_HOLD));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(-EIO, status.err.code) TH_LOG("%s", status.err.text);
	EXPECT_TRUE(survives(pair));
}

static unsigned logs;

static int log_start(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	__atomic_fetch_add(&logs, 1, __ATOMIC_RELAXED);
	return 0;
}

/* A log that is none too sharp: everything, always */
static int log_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
		    struct wh_err *err)
{
	(void)opaque;
	(void)err;
	if (strcmp(block->name, "ram") != 0 || block->length != pages * 4096)
		return -EINVAL;
	memset(map, 0xff, pages / 8);
	return 0;
}

static void log_stop(void *opaque)
{
	(void)opaque;
	__atomic_fetch_sub(&logs, 1, __ATOMIC_RELAXED);
}

TEST_F(limits, the_vmm_has_a_log_of_its_own)
{
	struct protected *pair = &self->pair;
	struct wh_protect_status status;

	pair->source_calls.dirty_start = log_start;
	pair->source_calls.dirty_sync = log_sync;
	pair->source_calls.dirty_stop = log_stop;
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_EQ(1, __atomic_load_n(&logs, __ATOMIC_RELAXED));
	wh_protect_get_status(pair->source, &status);
	EXPECT_EQ(4096 * 4096, status.dirty_bytes);
	EXPECT_GT(1 << 20, status.wire_bytes);
	EXPECT_TRUE(survives(pair));
	EXPECT_EQ(0, __atomic_load_n(&logs, __ATOMIC_RELAXED));
}

TEST_F(limits, two_in_one_process)
{
	struct protected *pair = &self->pair, other;

	protected_init(&other, 512, NULL);
	ASSERT_OK(protected_start(pair, &self->err));
	ASSERT_OK(protected_start(&other, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 10));
	ASSERT_TRUE(protected_goes_on(other.source, 10));
	EXPECT_TRUE(survives(pair));
	ASSERT_TRUE(protected_goes_on(other.source, 10));
	EXPECT_TRUE(survives(&other));
	protected_fini(&other);
}

/* What cannot be is refused with a sentence, and changes nothing */
TEST_F(limits, what_is_refused)
{
	struct protected *pair = &self->pair;
	struct wh_protect *none;
	struct wh_block block = {
		.name = "ram",
		.addr = pair->guest.memory,
		.length = 4096,
		.page_size = 4096,
		.fd = -1,
	};

	pair->source_config.lease_ns = pair->source_config.heartbeat_ns;
	EXPECT_EQ(-EINVAL, wh_protect_new(&none, WH_SOURCE, &pair->source_config, &self->err));
	pair->source_config.lease_ns = 10 * pair->source_config.heartbeat_ns;
	pair->source_calls.pause = NULL;
	EXPECT_EQ(-EINVAL, wh_protect_new(&none, WH_SOURCE, &pair->source_config, &self->err));
	EXPECT_EQ(NULL, none);
	protected_fini(pair);
	protected_init(pair, 1024, NULL);
	block.addr = pair->guest.memory;

	ASSERT_OK(protected_start(pair, &self->err));
	EXPECT_EQ(-EINVAL, wh_protect_takeover(pair->source, 0, &self->err));
	EXPECT_EQ(-EINVAL, wh_protect_stop(pair->dest, &self->err));
	ASSERT_TRUE(protected_goes_on(pair->source, 3));
	EXPECT_EQ(-EINVAL, wh_protect_release(pair->source, &self->err));
	EXPECT_EQ(-ESTALE, wh_protect_takeover(pair->dest, 1, &self->err));
	EXPECT_EQ(-EBUSY, wh_protect_add_block(pair->source, &block, &self->err));
	EXPECT_EQ(-EINVAL, wh_protect_start(pair->source, &self->err));
	EXPECT_EQ(-EAGAIN, wh_protect_wait(pair->source, 0, &self->err));
}

TEST_HARNESS_MAIN
