/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A running VM from one QEMU to another by way of wherry relay, precopy on one side and postcopy
 * on the other (runs.def has the rest). The guest goes on where it was; if the second QEMU is not
 * there, what there is of it is a parked VM.
 */
#include "kselftest_harness.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/interop/guest_pair.h"

FIXTURE(relay)
{
	struct guest_pair pair;
	struct child relay;
};

/**
 * struct _fixture_variant_relay - One way there and on
 * @taken:	Capabilities of the QEMU that it comes from; postcopy-ram: by postcopy
 * @given:	Of the one that it goes to
 * @options:	Of wherry relay
 * @nobody:	The second QEMU is not there
 */
FIXTURE_VARIANT(relay)
{
	const char *taken[2];
	const char *given[2];
	const char *options[2];
	bool nobody;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(relay, precopy_to_postcopy)
{
	.given = { "postcopy-ram" },
	.options = { "--postcopy" },
};

FIXTURE_VARIANT_ADD(relay, postcopy_to_precopy)
{
	.taken = { "postcopy-ram" },
};

FIXTURE_VARIANT_ADD(relay, precopy_nobody)
{
	.nobody = true,
};

FIXTURE_VARIANT_ADD(relay, postcopy_nobody)
{
	.taken = { "postcopy-ram" },
	.nobody = true,
};
/* clang-format on */

FIXTURE_SETUP(relay)
{
	struct wh_err err = { 0 };

	(void)variant;
	DO(guest_pair_open(&self->pair, &err));
}

FIXTURE_TEARDOWN(relay)
{
	(void)variant;
	child_end(&self->relay);
	guest_pair_close(&self->pair);
}

static int start_relay(FIXTURE_DATA(relay) *self, const char *from, const char *to,
		       const char *const options[], struct wh_err *err)
{
	const char *argv[16] = { "", "relay", "--json", "--out", self->pair.out, from, to };
	unsigned n = 7;

	while (*options && n < 15)
		argv[n++] = *options++;
	return guest_pair_command(&self->relay, argv, err);
}

static const struct vm_kind q35 = { .board = VM_Q35 };

TEST_F_TIMEOUT(relay, goes_on, TEST_SECONDS)
{
	const struct guest_leave how = {
		.postcopy = !!variant->taken[0],
		.bandwidth = variant->taken[0] ? 32 * MIB : 0,
	};
	struct guest_pair *pair = &self->pair;
	struct qemu *to_qemu = &pair->vm[1].qemu;
	struct wh_err err = { 0 };
	char from[96], to[96], said[400];
	struct child sender = { 0 };
	const char *argv[] = { "", "send", "--from", pair->out, to, NULL };

	snprintf(from, sizeof(from), "unix:%s/from", pair->dir);
	snprintf(to, sizeof(to), "unix:%s/to", pair->dir);
	DO(guest_pair_start(pair, 1, &q35, variant->given, NULL, &err));
	if (!variant->nobody)
		DO(qemu_migrate_incoming(to_qemu, to, &err));
	DO(start_relay(self, from, to, variant->options, &err));
	DO(guest_pair_listens(&self->relay, &err));
	DO(guest_pair_start(pair, 0, &q35, variant->taken, NULL, &err));
	DO(guest_pair_leave(pair, from, &how, &err));
	EXPECT_EQ(variant->nobody, child_wait(&self->relay, WAIT_MS, &err))
	{
		TH_LOG("%s", child_said(&self->relay, said, sizeof(said)));
	}
	if (variant->nobody) {
		child_said(&self->relay, said, sizeof(said));
		EXPECT_NE(NULL, strstr(said, "the guest is in"));
		DO(qemu_migrate_incoming(to_qemu, to, &err));
		DO(guest_pair_command(&sender, argv, &err));
		EXPECT_EQ(0, child_wait(&sender, WAIT_MS, &err));
		child_end(&sender);
	}
	DO(qemu_wait_status(to_qemu, "completed", WAIT_MS, &err));
	DO(guest_pair_check(pair, &err));
}

FIXTURE(unkept)
{
	FIXTURE_DATA(relay) relay;
};

FIXTURE_SETUP(unkept)
{
	relay_setup(_metadata, &self->relay, NULL);
}

FIXTURE_TEARDOWN(unkept)
{
	relay_teardown(_metadata, &self->relay, NULL);
}

/* What TO does not take could not be kept: nothing leaves FROM. */
TEST_F_TIMEOUT(unkept, before_postcopy, TEST_SECONDS)
{
	static const char *const capabilities[] = { "postcopy-ram", NULL };
	static const char *const none[] = { NULL };
	struct guest_pair *pair = &self->relay.pair;
	struct qemu *qemu = &pair->vm[0].qemu;
	struct wh_err err = { 0 };
	char from[96], said[400];

	if (geteuid())
		SKIP(return, "a small file system can be mounted by root only");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mkdir(pair->out, 0700));
	ASSERT_EQ(0, mount("wherry", pair->out, "tmpfs", 0, "size=8m"));
	snprintf(from, sizeof(from), "unix:%s/from", pair->dir);
	DO(start_relay(&self->relay, from, "unix:/nobody", none, &err));
	DO(guest_pair_listens(&self->relay.relay, &err));
	DO(guest_pair_start(pair, 0, &q35, capabilities, NULL, &err));
	DO(qemu_migrate(qemu, from, &err));
	EXPECT_EQ(1, child_wait(&self->relay.relay, WAIT_MS, &err));
	child_said(&self->relay.relay, said, sizeof(said));
	EXPECT_NE(NULL, strstr(said, "before it may come by postcopy: No space left"))
	{
		TH_LOG("%s", said);
	}
	DO(qemu_wait_status(qemu, "failed", WAIT_MS, &err));
	umount2(pair->out, MNT_DETACH);
}

TEST_HARNESS_MAIN
