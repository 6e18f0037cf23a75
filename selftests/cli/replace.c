/* SPDX-License-Identifier: GPL-2.0 */
/*
 * wherry receive --out DIR, killed at every call that changes the folder, or on a disk that is full at
 * every page: there is a whole capture or none, and with --force the old one or the new one.
 */
#include "kselftest_harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/child.h"
#include "selftests/lib/receiver.h"

/* After what sys/ptrace.h has of its own */
#include <linux/ptrace.h>

#define PAGE 4096u
#define PAGES 19u	/* of which the last three are another block */
#define FILES 6u	/* of a capture of two blocks */
#define CALLS_LEAST 15u /* that change the folder, of one run */
#define WAIT_MS 30000
#define TEST_SECONDS 150

FIXTURE(replace)
{
	char dir[64];
	char out[80];
	char file[2][96]; /* guests, as files */
	char again[96];
	char program[PATH_MAX];
};

static int save(const char *path, uint8_t letter, struct wh_err *err)
{
	static uint8_t ram[PAGES * PAGE] __attribute__((aligned(PAGE)));
	const struct wh_block block[] = {
		{ .name = "pc.ram", .addr = ram, .length = (PAGES - 3) * PAGE, .fd = -1 },
		{ .name = "rom", .addr = ram + (PAGES - 3) * PAGE, .length = 3 * PAGE, .fd = -1 },
	};
	struct wh_file_save how = {
		.block = block,
		.blocks = 2,
		.machine = "pc",
		.device = &letter,
		.device_length = 1,
		.device_format = WH_DEVICE_OWN,
	};
	char uri[128];

	for (unsigned i = 0; i < PAGES; i++)
		memset(ram + i * PAGE, letter + (int)i, PAGE);
	snprintf(uri, sizeof(uri), "file:%s", path);
	return wh_file_save(uri, &how, err);
}

FIXTURE_SETUP(replace)
{
	struct wh_err err = { 0 };

	strcpy(self->dir, "/dev/shm/wherry-replace-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
	snprintf(self->again, sizeof(self->again), "%s/again", self->dir);
	DO(built_path(self->program, sizeof(self->program), "wherry", &err));
	for (unsigned i = 0; i < 2; i++) {
		snprintf(self->file[i], sizeof(self->file[i]), "%s/%c", self->dir, 'a' + i);
		DO(save(self->file[i], (uint8_t)('a' + i), &err));
	}
}

static void drop(const char *path)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", path);
	if (system(command))
		abort();
}

FIXTURE_TEARDOWN(replace)
{
	drop(self->dir);
}

/* Return: exit status of "wherry ..." */
static int wherry(const char *argv[], char *said, size_t size, struct wh_err *err)
{
	struct child child = { 0 };
	int ret = child_start(&child, argv, -1, err);

	if (!ret)
		ret = child_wait(&child, WAIT_MS, err);
	child_said(&child, said, size);
	child_end(&child);
	return ret;
}

static void receive_words(const FIXTURE_DATA(replace) *self, unsigned which, bool force,
			  const char *argv[8], char uri[128])
{
	snprintf(uri, 128, "file:%s", self->file[which]);
	argv[0] = self->program;
	argv[1] = "receive";
	argv[2] = "--quiet";
	argv[3] = uri;
	argv[4] = "--out";
	argv[5] = self->out;
	argv[6] = force ? "--force" : NULL;
	argv[7] = NULL;
}

static int receive(const FIXTURE_DATA(replace) *self, unsigned which, bool force, char said[400],
		   struct wh_err *err)
{
	const char *argv[8];
	char uri[128];

	receive_words(self, which, force, argv, uri);
	return wherry(argv, said, 400, err);
}

static bool same_file(const char *one, const char *other)
{
	char command[256];

	snprintf(command, sizeof(command), "cmp -s %s %s", one, other);
	return !system(command);
}

/*
 * What wherry send makes of the folder, all of which it compares with its digests.
 * Return: 'a' or 'b', which guest that is; 0: nothing looks like a capture; a negative errno
 */
static int which_is_there(const FIXTURE_DATA(replace) *self, struct wh_err *err)
{
	char uri[128], said[400], manifest[128];
	const char *argv[] = { self->program, "send", "--quiet", "--from",
			       self->out,     uri,    "--force", NULL };
	int ret;

	snprintf(manifest, sizeof(manifest), "%s/manifest.json", self->out);
	if (access(manifest, F_OK))
		return 0;
	snprintf(uri, sizeof(uri), "file:%s", self->again);
	ret = wherry(argv, said, sizeof(said), err);
	if (ret)
		return err_set(err, -EILSEQ, "it looks complete: %.300s", said);
	for (unsigned i = 0; i < 2; i++)
		if (same_file(self->again, self->file[i]))
			return 'a' + (int)i;
	return err_set(err, -EILSEQ, "it is neither of the two");
}

static unsigned files(const char *path)
{
	struct dirent **entry = NULL;
	int count = scandir(path, &entry, NULL, NULL);

	for (int i = 0; i < count; i++)
		free(entry[i]);
	free(entry);
	return count < 2 ? 0 : (unsigned)count - 2;
}

static bool changes_something(const struct ptrace_syscall_info *info)
{
	switch (info->entry.nr) {
	case SYS_openat:
		return info->entry.args[2] & O_CREAT;
	case SYS_mkdir:
	case SYS_pwrite64:
	case SYS_ftruncate:
	case SYS_fallocate:
	case SYS_fsync:
	case SYS_renameat:
	case SYS_renameat2:
	case SYS_unlinkat:
	case SYS_unlink:
	case SYS_rmdir:
		return true;
	}
	return false;
}

/* Return: 1 killed in front of its @at-th call that changes something; 0 it came to its end */
static int killed_at(const char *const argv[], unsigned at, struct wh_err *err)
{
	struct ptrace_syscall_info info;
	char *words[8];
	int status;
	pid_t pid;

	memcpy(words, argv, sizeof(words));
	pid = fork();
	if (pid == 0) {
		/* LeakSanitizer is a tracer itself */
		setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execv(words[0], words);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return err_set(err, -EPERM, "a program is not to be traced here");
	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (;;) {
		ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
		if (waitpid(pid, &status, 0) != pid)
			return err_sys(err, errno, "waiting for it");
		if (WIFEXITED(status) && WEXITSTATUS(status))
			return err_set(err, -EIO, "exit status %d", WEXITSTATUS(status));
		if (WIFEXITED(status))
			return 0;
		if (WIFSIGNALED(status))
			return err_set(err, -EINTR, "signal %d", WTERMSIG(status));
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(info), &info) <= 0)
			return err_sys(err, errno, "its system call");
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY && changes_something(&info) && !--at)
			break;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 1;
}

/* What is left is taken for what it is the next time, too. */
static int check_again(const FIXTURE_DATA(replace) *self, struct wh_err *err)
{
	char said[400];

	if (receive(self, 1, true, said, err))
		return err_set(err, -EIO, "and again: %.300s", said);
	if (which_is_there(self, err) != 'b')
		return err_set(err, -EILSEQ, "and again: it is not the new one");
	if (files(self->out) != FILES)
		return err_set(err, -EILSEQ, "and again: %u files", files(self->out));
	return 0;
}

/* Return: 1: it was killed; 0: it came to its end */
static int kill_once(const FIXTURE_DATA(replace) *self, bool force, unsigned at, struct wh_err *err)
{
	const char *argv[8];
	char uri[128], said[400];
	int ret, there;

	drop(self->out);
	if (force && receive(self, 0, false, said, err))
		return err_set(err, -EIO, "the first one: %.300s", said);
	receive_words(self, 1, force, argv, uri);
	ret = killed_at(argv, at, err);
	if (ret < 0)
		return ret;
	there = which_is_there(self, err);
	if (there < 0)
		return there;
	if (!ret && (there != 'b' || files(self->out) != FILES))
		return err_set(err, -EILSEQ, "not killed, and it is not there");
	if (there != 'b' && there != (force ? 'a' : 0))
		return err_set(err, -EILSEQ, "killed, and '%c' is there", there ? there : '0');
	if (ret && force && check_again(self, err))
		return err->code;
	return ret;
}

static void killed_everywhere(struct __test_metadata *_metadata, FIXTURE_DATA(replace) *self,
			      bool force)
{
	struct wh_err err = { 0 };
	unsigned at = 0;
	int ret;

	do {
		ret = kill_once(self, force, ++at, &err);
		if (ret == -EPERM)
			SKIP(return, "%s", err.text);
		EXPECT_LE(0, ret)
		{
			TH_LOG("killed at call %u: %s", at, err.text);
		}
	} while (ret == 1);
	EXPECT_LT(CALLS_LEAST, at);
}

TEST_F_TIMEOUT(replace, killed_new, TEST_SECONDS)
{
	killed_everywhere(_metadata, self, false);
}

TEST_F_TIMEOUT(replace, killed_instead, TEST_SECONDS)
{
	killed_everywhere(_metadata, self, true);
}

/* Room for so many pages more than there is now; mount namespaces are root's */
static int small_disk(const char *path, bool begin, unsigned more, struct wh_err *err)
{
	struct statvfs fs = { 0 };
	char options[32];

	if (begin &&
	    (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	     mkdir(path, 0700) < 0 || mount("wherry", path, "tmpfs", 0, "size=1M") < 0))
		return err_sys(err, errno, "a tmpfs at %s", path);
	if (statvfs(path, &fs) < 0)
		return err_sys(err, errno, "%s", path);
	snprintf(options, sizeof(options), "size=%lu",
		 (fs.f_blocks - fs.f_bfree + more) * fs.f_frsize);
	if (mount("wherry", path, "tmpfs", MS_REMOUNT, options) < 0)
		return err_sys(err, errno, "%s of %s", path, options);
	return 0;
}

/* Page by page there is more room, until there is enough for both */
TEST_F_TIMEOUT(replace, full_disk, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	unsigned more = 0;
	char said[400];
	int ret;

	if (geteuid())
		SKIP(return, "a small file system can be mounted by root only");
	DO(small_disk(self->out, true, 200, &err));
	ASSERT_EQ(0, receive(self, 0, false, said, &err))
	{
		TH_LOG("%s", said);
	}
	do {
		DO(small_disk(self->out, false, more++, &err));
		ret = receive(self, 1, true, said, &err);
		ASSERT_EQ(ret ? 'a' : 'b', which_is_there(self, &err))
		{
			TH_LOG("room for %u pages: %s", more - 1, err.text);
		}
		ASSERT_EQ(FILES, files(self->out));
		if (ret)
			ASSERT_NE(NULL, strstr(said, "No space left on device"))
			{
				TH_LOG("%s", said);
			}
	} while (ret == 1);
	EXPECT_EQ(0, ret);
	EXPECT_LT(PAGES, more);
	umount2(self->out, MNT_DETACH);
}

TEST_HARNESS_MAIN
