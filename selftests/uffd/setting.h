/* SPDX-License-Identifier: MIT */
#ifndef UFFD_SETTING_H
#define UFFD_SETTING_H

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define SETTING_ANON "/sys/kernel/mm/transparent_hugepage/enabled"
#define SETTING_FILE "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* A mount namespace of this process's own: what it mounts goes with it. Takes root */
static inline bool own_mounts(void)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/*
 * What this process reads of a setting from here on; the system's own stays as it is.
 * Behind own_mounts().
 */
static inline bool pretend(const char *setting, const char *text)
{
	char path[] = "/tmp/uffd-setting-XXXXXX";
	int fd = mkstemp(path);
	bool good;

	if (fd < 0)
		return false;
	/* What was pretended before: nothing can be mounted on a file that was unlinked */
	(void)umount2(setting, MNT_DETACH);
	good = write(fd, text, strlen(text)) == (ssize_t)strlen(text) &&
	       mount(path, setting, NULL, MS_BIND, NULL) == 0;
	close(fd);
	unlink(path);
	return good;
}

/* A nameless file in a file system of its own; -1 with errno. Behind own_mounts() */
static inline int file_in(const char *type, const char *options)
{
	char folder[] = "/tmp/uffd-mount-XXXXXX";
	int fd = -1;

	if (!mkdtemp(folder))
		return -1;
	if (mount("none", folder, type, 0, options) == 0) {
		fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		umount2(folder, MNT_DETACH);
	}
	rmdir(folder);
	return fd;
}

#endif /* UFFD_SETTING_H */
