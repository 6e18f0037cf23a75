/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where wherry receive puts a guest: a folder that is a capture when it has a manifest, and
 * only then. What cannot be kept stays where it came from.
 */
#include "kselftest_harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/replay.h"

#define QEMU_MS 60000
#define TEST_SECONDS 150

static const char *const touch[] = { "--touch=2", "--timeout", "2", NULL };

FIXTURE(folder)
{
	struct replay replay;
	struct qemu qemu;
	char rom[96];
	char serial[96];
};

FIXTURE_SETUP(folder)
{
	struct wh_err err = { 0 };

	DO(replay_open(&self->replay, &err));
	snprintf(self->rom, sizeof(self->rom), "%s/rom", self->replay.dir);
	snprintf(self->serial, sizeof(self->serial), "%s/serial", self->replay.dir);
}

FIXTURE_TEARDOWN(folder)
{
	qemu_end(&self->qemu);
	replay_close(&self->replay);
}

/* Mount namespaces are root's */
static int small_disk(const char *path, const char *size, struct wh_err *err)
{
	char options[32];

	snprintf(options, sizeof(options), "size=%s", size);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, errno, "a mount namespace");
	if (mkdir(path, 0700) < 0 || mount("wherry", path, "tmpfs", 0, options) < 0)
		return err_sys(err, errno, "a tmpfs at %s", path);
	return 0;
}

static bool is_empty(const char *path)
{
	struct dirent **entry;
	int count = scandir(path, &entry, NULL, NULL);

	for (int i = 0; i < count; i++)
		free(entry[i]);
	if (count >= 0)
		free(entry);
	return count == 2; /* itself and the one above */
}

TEST_F(folder, full_disk)
{
	struct wh_err err = { 0 };

	if (geteuid())
		SKIP(return, "a small file system can be mounted by root only");
	DO(small_disk(self->replay.out, "64k", &err));
	ASSERT_NE(0, replay_all(&self->replay, "q35-return-path", touch, &err));
	EXPECT_STREQ("it says SHUT 1", err.text);
	DO(replay_check_refused(&self->replay, "No space left", &err));
	EXPECT_TRUE(is_empty(self->replay.out));
	umount2(self->replay.out, MNT_DETACH);
}

/* Killed in the middle of a file. A memfd of this size would be too large a file as well */
TEST_F(folder, crash)
{
	static const char *const options[] = { "--touch",   "--memory", "private",
					       "--reserve", "off",	NULL };
	struct rlimit limit = { .rlim_cur = 20480, .rlim_max = 20480 };
	struct wh_err err = { 0 };
	struct image stream;
	char path[128];
	int fd;

	DO(replay_read("isapc-postcopy.stream", &stream, &err));
	DO(replay_start(&self->replay, options, &err));
	ASSERT_EQ(0, prlimit(self->replay.receiver.child.pid, RLIMIT_FSIZE, &limit, NULL));
	fd = replay_dial(&self->replay, &err);
	ASSERT_LE(0, fd);
	replay_say(fd, stream.at, stream.length);
	image_close(&stream);
	EXPECT_EQ(-EINTR, receiver_wait(&self->replay.receiver, REPLAY_WAIT_MS, &err));
	receiver_end(&self->replay.receiver);
	close(fd);
	snprintf(path, sizeof(path), "%s/pc.ram.ram", self->replay.out);
	EXPECT_EQ(0, access(path, F_OK));
	snprintf(path, sizeof(path), "%s/manifest.json", self->replay.out);
	EXPECT_NE(0, access(path, F_OK));
	/* Nobody knows what that is: it stays */
	ASSERT_NE(0, replay_start(&self->replay, touch, &err));
	EXPECT_NE(NULL, strstr(err.text, "is no capture"));
}

TEST_F(folder, folder_is_taken)
{
	static const char *const force[] = { "--force", "--timeout", "2", NULL };
	struct guest_range range = { .first = 0x200000, .end = 0x208000 };
	struct wh_err err = { 0 };
	struct image ram;
	char path[128];
	int fd;

	DO(replay_all(&self->replay, "none-precopy", touch, &err));
	receiver_end(&self->replay.receiver);
	ASSERT_NE(0, replay_start(&self->replay, touch, &err));
	EXPECT_NE(NULL, strstr(err.text, "--force"));

	/* It is given up for a whole one only */
	DO(replay_start(&self->replay, force, &err));
	fd = replay_dial(&self->replay, &err);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(1, receiver_wait(&self->replay.receiver, REPLAY_WAIT_MS, &err));
	receiver_end(&self->replay.receiver);
	ASSERT_NE(0, replay_start(&self->replay, touch, &err));
	EXPECT_NE(NULL, strstr(err.text, "--force"));

	DO(replay_all(&self->replay, "isapc-xbzrle", force, &err));
	DO(receiver_open(&self->replay.receiver, "pc.ram", &ram, &err));
	DO(guest_check(ram.at, &range, &err));
	image_close(&ram);
	/* And nothing of the old one is left */
	ASSERT_EQ(-ENOENT, receiver_open(&self->replay.receiver, "ram", &ram, &err));
	snprintf(path, sizeof(path), "%s/ram.ram", self->replay.out);
	EXPECT_NE(0, access(path, F_OK));
}

TEST_F(folder, somebody_elses_folder)
{
	static const char *const force[] = { "--force", NULL };
	struct wh_err err = { 0 };
	char path[128];
	int fd;

	ASSERT_EQ(0, mkdir(self->replay.out, 0700));
	snprintf(path, sizeof(path), "%s/letter", self->replay.out);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	close(fd);
	ASSERT_NE(0, replay_start(&self->replay, force, &err));
	EXPECT_NE(NULL, strstr(err.text, "not empty"));
	EXPECT_EQ(0, access(path, F_OK));
}

/* A QEMU whose guest runs */
static int start_qemu(FIXTURE_DATA(folder) *self, const char *capability, struct wh_err *err)
{
	const char *const capabilities[] = { capability, NULL };
	struct guest_range range = { .first = 0x200000, .end = 0x400000 };
	char serial[128];
	const char *argv[] = { "-M",	  "pc-q35-7.2", "-accel", "tcg,thread=single",
			       "-m",	  "16",		"-bios",  self->rom,
			       "-serial", serial,	NULL };
	int ret = guest_write_rom(self->rom, &range, err);

	snprintf(serial, sizeof(serial), "file:%s", self->serial);
	if (!ret)
		ret = qemu_start(&self->qemu, argv, err);
	if (!ret)
		ret = guest_wait(self->serial, QEMU_MS, err);
	return ret ? ret : qemu_capabilities(&self->qemu, capabilities, err);
}

/* It says that the migration failed, and its guest goes through all its pages again */
static int check_stays(FIXTURE_DATA(folder) *self, struct wh_err *err)
{
	int ret = qemu_wait_status(&self->qemu, "failed", QEMU_MS, err);

	if (ret)
		return ret;
	if (truncate(self->serial, 0) < 0)
		return err_sys(err, errno, "%s", self->serial);
	ret = guest_wait(self->serial, QEMU_MS, err);
	return ret ? ret : guest_check_serial(self->serial, err);
}

TEST_F_TIMEOUT(folder, full_disk_and_the_guest_stays, TEST_SECONDS)
{
	struct wh_err err = { 0 };

	if (geteuid())
		SKIP(return, "a small file system can be mounted by root only");
	DO(small_disk(self->replay.out, "64k", &err));
	DO(replay_start(&self->replay, touch, &err));
	DO(start_qemu(self, "return-path", &err));
	DO(qemu_migrate(&self->qemu, self->replay.listen, &err));
	DO(replay_check_refused(&self->replay, "No space left", &err));
	DO(check_stays(self, &err));
	EXPECT_TRUE(is_empty(self->replay.out));
	umount2(self->replay.out, MNT_DETACH);
}

/* By postcopy it would be found too late: so it is before there is any. */
TEST_F_TIMEOUT(folder, full_disk_before_postcopy, TEST_SECONDS)
{
	struct wh_err err = { 0 };

	if (geteuid())
		SKIP(return, "a small file system can be mounted by root only");
	DO(small_disk(self->replay.out, "18m", &err));
	DO(replay_start(&self->replay, touch, &err));
	DO(start_qemu(self, "postcopy-ram", &err));
	DO(qemu_migrate(&self->qemu, self->replay.listen, &err));
	DO(replay_check_refused(&self->replay, "before it may come by postcopy: No space", &err));
	DO(check_stays(self, &err));
	EXPECT_TRUE(is_empty(self->replay.out));
	umount2(self->replay.out, MNT_DETACH);
}

/* What was reserved and is not needed is given back, and nothing else is there. */
TEST_F(folder, reserved_and_sparse)
{
	struct wh_err err = { 0 };
	struct stat st;
	char path[128];

	DO(replay_all(&self->replay, "isapc-postcopy", touch, &err));
	snprintf(path, sizeof(path), "%s/pc.ram.ram", self->replay.out);
	ASSERT_EQ(0, stat(path, &st));
	EXPECT_EQ(4 << 20, st.st_size);
	EXPECT_GT(1 << 20, st.st_blocks * 512);
	snprintf(path, sizeof(path), "%s/pc.ram.ram.new", self->replay.out);
	EXPECT_NE(0, access(path, F_OK));
}

FIXTURE(ended)
{
	FIXTURE_DATA(folder) folder;
};

FIXTURE_VARIANT(ended)
{
	int signal;
	int status;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(ended, interrupted) { .signal = SIGINT, .status = 1 };
FIXTURE_VARIANT_ADD(ended, asked_to_end) { .signal = SIGTERM, .status = 1 };
FIXTURE_VARIANT_ADD(ended, killed) { .signal = SIGKILL, .status = -EINTR };
/* clang-format on */

FIXTURE_SETUP(ended)
{
	(void)variant;
	folder_setup(_metadata, &self->folder, NULL);
}

FIXTURE_TEARDOWN(ended)
{
	(void)variant;
	folder_teardown(_metadata, &self->folder, NULL);
}

TEST_F_TIMEOUT(ended, and_the_guest_stays, TEST_SECONDS)
{
	struct replay *replay = &self->folder.replay;
	struct qemu *qemu = &self->folder.qemu;
	struct wh_err err = { 0 };
	char path[128];

	DO(replay_start(replay, touch, &err));
	DO(start_qemu(&self->folder, "return-path", &err));
	/* It takes seconds, so that this is in the middle of it */
	DO(qemu_parameter(qemu, "max-bandwidth", 200000, &err));
	DO(qemu_migrate(qemu, replay->listen, &err));
	DO(qemu_wait_figure(qemu, "ram/transferred", 100000, QEMU_MS, &err));
	ASSERT_EQ(0, kill(replay->receiver.child.pid, variant->signal));
	EXPECT_EQ(variant->status, receiver_wait(&replay->receiver, REPLAY_WAIT_MS, &err));
	if (variant->status == 1) {
		DO(replay_check_sentence(replay, "interrupted", &err));
		EXPECT_NE(0, access(replay->out, F_OK));
		EXPECT_NE(0, access(replay->socket, F_OK));
	}
	snprintf(path, sizeof(path), "%s/manifest.json", replay->out);
	EXPECT_NE(0, access(path, F_OK));
	DO(check_stays(&self->folder, &err));
}

TEST_HARNESS_MAIN
