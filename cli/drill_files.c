/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: files that the guest's memory lies in, where they are not simply memory. Huge
 * pages for both ends; and for the destination a file system of its own, that can be full. It is
 * mounted nowhere (fsmount), so nothing of it is left when all its descriptors are closed.
 */
#include "cli/drill_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A shared mapping reserves for the file, and that stays when the mapping goes */
static bool huge_reserve(int fd, uint64_t bytes)
{
	void *at;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return false;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return false;
	munmap(at, bytes);
	return true;
}

static int *file_of(struct drill_files *files, unsigned i)
{
	return &files->fd[i % DRILL_SIDES][i / DRILL_SIDES];
}

static void huge_open(struct drill_files *files, const struct drill_plan *plan)
{
	files->huge = plan->memory[DRILL_DEST] == DRILL_HUGETLB;
	for (unsigned i = 0; i < DRILL_SIDES * plan->blocks && files->huge; i++) {
		int *fd = file_of(files, i);

		*fd = memfd_create("drill", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
		files->huge = huge_reserve(*fd, plan->pages[i / DRILL_SIDES] * DRILL_PAGE);
	}
	for (unsigned i = 0; i < DRILL_SIDES * DRILL_BLOCKS && !files->huge; i++) {
		int *fd = file_of(files, i);

		if (*fd >= 0)
			close(*fd);
		*fd = -1;
	}
}

static int mount_room(const char *type, const char *const options[][2], unsigned count)
{
	int fs = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	int room = -1;

	if (fs < 0)
		return -1;
	for (unsigned i = 0; i < count; i++)
		if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, options[i][0], options[i][1],
			    0) < 0)
			goto out;
	if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		room = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
out:
	close(fs);
	return room;
}

/* Just so much as the blocks need; pages of the pool are reserved for nobody then */
static void room_open(struct drill_files *files, const struct drill_plan *plan)
{
	char size[32];
	const char *const options[][2] = { { "size", size }, { "pagesize", "2M" } };
	uint64_t bytes = 0;

	for (unsigned i = 0; i < plan->blocks; i++)
		bytes += plan->pages[i] * DRILL_PAGE;
	snprintf(size, sizeof(size), "%" PRIu64, bytes);
	files->room = mount_room(files->huge ? "hugetlbfs" : "tmpfs", options, files->huge ? 2 : 1);
	for (unsigned i = 0; i < plan->blocks && files->room >= 0; i++) {
		int *fd = &files->fd[DRILL_DEST][i];
		char name[16];

		if (*fd >= 0)
			close(*fd);
		snprintf(name, sizeof(name), "ram%u", i);
		*fd = openat(files->room, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	}
	if (files->room >= 0)
		files->ballast = openat(files->room, "ballast", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

void drill_files_open(struct drill_files *files, const struct drill_plan *plan)
{
	memset(files->fd, -1, sizeof(files->fd));
	files->room = files->ballast = -1;
	huge_open(files, plan);
	if (plan->no_space)
		room_open(files, plan);
}

void drill_files_close(struct drill_files *files)
{
	for (unsigned i = 0; i < DRILL_SIDES * DRILL_BLOCKS; i++) {
		int *fd = file_of(files, i);

		if (*fd >= 0)
			close(*fd);
		*fd = -1;
	}
	if (files->room >= 0)
		close(files->room);
	files->room = -1;
}

/* Until there is none: pages come and go meanwhile */
bool drill_files_fill(struct drill_files *files)
{
	struct statfs fs;
	off_t have = 0;

	if (files->ballast < 0 || fstatfs(files->ballast, &fs) < 0)
		return false;
	while (fallocate(files->ballast, 0, have, fs.f_bsize) == 0)
		have += fs.f_bsize;
	return errno == ENOSPC && have > 0;
}

void drill_files_empty(struct drill_files *files)
{
	if (files->ballast >= 0 && ftruncate(files->ballast, 0) < 0)
		abort(); /* nobody has a reason to refuse it */
}

void drill_files_end(struct drill_files *files)
{
	if (files->ballast >= 0)
		close(files->ballast);
	files->ballast = -1;
}
