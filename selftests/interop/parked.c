/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A running VM out of one QEMU, kept, and put into another: wherry receive, then wherry send.
 * What is damaged meanwhile is named and not sent; when it is whole again, the guest goes on
 * where it was, here without a return path on either way.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/interop/guest_pair.h"
#include "selftests/lib/memory.h"

FIXTURE(parked)
{
	struct guest_pair pair;
	struct receiver receiver;
	struct child sender;
	struct huge_pages huge_pages;
};

FIXTURE_SETUP(parked)
{
	struct wh_err err = { 0 };

	self->huge_pages.hold = -1;
	DO(guest_pair_open(&self->pair, &err));
}

FIXTURE_TEARDOWN(parked)
{
	child_end(&self->sender);
	receiver_end(&self->receiver);
	guest_pair_close(&self->pair);
	huge_pages_drop(&self->huge_pages);
}

static const struct vm_kind q35 = { .board = VM_Q35 };
static const char *const nothing[] = { NULL };

/* Out of the first QEMU */
static int park(FIXTURE_DATA(parked) *self, struct wh_err *err)
{
	const struct guest_leave how = { 0 };
	char link[96];
	int ret;

	snprintf(link, sizeof(link), "unix:%s/in", self->pair.dir);
	ret = receiver_start(&self->receiver, link, self->pair.out, NULL, err);
	if (!ret)
		ret = guest_pair_start(&self->pair, 0, &q35, nothing, NULL, err);
	if (!ret)
		ret = guest_pair_leave(&self->pair, self->receiver.uri, &how, err);
	return ret ? ret : receiver_wait(&self->receiver, WAIT_MS, err);
}

static int start_sender(FIXTURE_DATA(parked) *self, const char *uri, const char *const options[],
			struct wh_err *err)
{
	const char *argv[16] = { "", "send", "--json", "--from", self->pair.out, uri };
	unsigned n = 6;

	while (options && *options && n < 15)
		argv[n++] = *options++;
	return guest_pair_command(&self->sender, argv, err);
}

/* Changes one byte of a file in the folder */
static int damage(FIXTURE_DATA(parked) *self, const char *file, off_t at, struct wh_err *err)
{
	char path[128];
	uint8_t byte = 0;
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s", self->pair.out, file);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, &byte, 1, at) != 1)
		ret = err_sys(err, errno, "%s", path);
	byte ^= 0x10;
	if (!ret && pwrite(fd, &byte, 1, at) != 1)
		ret = err_sys(err, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int refused(FIXTURE_DATA(parked) *self, const char *const options[], const char *sentence,
		   struct wh_err *err)
{
	char uri[96], said[400];
	int ret;

	snprintf(uri, sizeof(uri), "unix:%s/nobody", self->pair.dir);
	ret = start_sender(self, uri, options, err);
	if (ret)
		return ret;
	ret = child_wait(&self->sender, WAIT_MS, err);
	child_said(&self->sender, said, sizeof(said));
	child_end(&self->sender);
	if (ret == 1 && strstr(said, sentence))
		return 0;
	return err_set(err, -EPROTO, "status %d and not '%s': %.150s", ret, sentence, said);
}

/* Nobody is there to be connected to: what is wrong with the folder is said first. */
static int check_damage(FIXTURE_DATA(parked) *self, struct wh_err *err)
{
	static const char *const trusting[] = { "--verify=off", "--timeout", "1", NULL };
	static const struct {
		const char *file;
		off_t at;
		const char *sentence;
	} damages[] = {
		{ "ram0.ram", 0x1345678, "block 'ram0' is not what was received, page 0x1345000" },
		{ "pc.bios.ram", 0xfff, "block 'pc.bios' is not what was received, page 0x0" },
		{ "device-state.bin", 100, "device state is not what was received" },
		{ "manifest.json", 0, "manifest.json" },
	};
	int ret = 0;

	for (unsigned i = 0; i < sizeof(damages) / sizeof(damages[0]) && !ret; i++) {
		ret = damage(self, damages[i].file, damages[i].at, err);
		if (!ret)
			ret = refused(self, NULL, damages[i].sentence, err);
		if (!ret && !i)
			ret = refused(self, trusting, "nobody", err);
		if (!ret) /* and back */
			ret = damage(self, damages[i].file, damages[i].at, err);
	}
	return ret;
}

TEST_F_TIMEOUT(parked, goes_on, TEST_SECONDS)
{
	struct qemu *qemu = &self->pair.vm[1].qemu;
	struct wh_err err = { 0 };
	char uri[96], said[200];

	DO(park(self, &err));
	DO(check_damage(self, &err));
	DO(guest_pair_start(&self->pair, 1, &q35, nothing, NULL, &err));
	snprintf(uri, sizeof(uri), "unix:%s/back", self->pair.dir);
	DO(qemu_migrate_incoming(qemu, uri, &err));
	DO(start_sender(self, uri, NULL, &err));
	EXPECT_EQ(0, child_wait(&self->sender, WAIT_MS, &err))
	{
		TH_LOG("%s", child_said(&self->sender, said, sizeof(said)));
	}
	DO(qemu_wait_status(qemu, "completed", WAIT_MS, &err));
	DO(guest_pair_check(&self->pair, &err));
}

/* Nothing in the folder says so: without postcopy-ram at the source, pages have no size. */
TEST_F_TIMEOUT(parked, huge_pages_there, TEST_SECONDS)
{
	static const char *const capabilities[] = { "postcopy-ram", NULL };
	static const struct vm_kind huge = { .board = VM_Q35, .memory = VM_HUGETLB };
	const char *options[] = { "--postcopy", NULL, NULL, NULL };
	struct qemu *qemu = &self->pair.vm[1].qemu;
	struct wh_err err = { 0 };
	char uri[96], said[600];

	DO(huge_pages_take(&self->huge_pages, VM_RAM_BYTES / (2 * MIB) + 2, &err));
	DO(park(self, &err));
	snprintf(uri, sizeof(uri), "unix:%s/back", self->pair.dir);
	for (unsigned i = 0; i < 2; i++) {
		DO(guest_pair_start(&self->pair, 1, &huge, capabilities, NULL, &err));
		DO(qemu_migrate_incoming(qemu, uri, &err));
		DO(start_sender(self, uri, options, &err));
		EXPECT_EQ(!i, child_wait(&self->sender, WAIT_MS, &err));
		child_said(&self->sender, said, sizeof(said));
		child_end(&self->sender);
		if (i)
			break;
		EXPECT_NE(NULL, strstr(said, "other host pages than are announced (--page-size)"))
		{
			TH_LOG("%s", said);
		}
		vm_end(&self->pair.vm[1]);
		options[1] = "--page-size";
		options[2] = "ram0=2M";
	}
	DO(qemu_wait_status(qemu, "completed", WAIT_MS, &err));
	DO(guest_pair_check(&self->pair, &err));
}

TEST_HARNESS_MAIN
