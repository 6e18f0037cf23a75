/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LAB_RDMA_ENDS_H
#define LAB_RDMA_ENDS_H

/* Two ends over the cable, each in a process of its own, with a guest that writes nothing */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/clock.h"

/* The first time every page counts as written, all the same */
static inline int ends_dirty_start(void *opaque, struct wh_err *err)
{
	(void)opaque, (void)err;
	return 0;
}

static inline int ends_dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map,
				  size_t pages, struct wh_err *err)
{
	(void)opaque, (void)block, (void)map, (void)pages, (void)err;
	return 0;
}

/* For struct wh_callbacks */
#define ENDS_WRITE_NOTHING .dirty_start = ends_dirty_start, .dirty_sync = ends_dirty_sync

/* Which a process that is forked has, too. Return: NULL, there is none */
static inline uint8_t *ends_ram(size_t bytes, int *fd)
{
	void *at;

	*fd = memfd_create("ram", MFD_CLOEXEC);
	if (*fd < 0 || ftruncate(*fd, (off_t)bytes) < 0)
		return NULL;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

/* @uri: the destination says where it listens, and the source connects to that */
static inline int ends_begin(struct wh_migration *m, enum wh_role role, char *uri, size_t size,
			     struct wh_err *err)
{
	int ret =
		role == WH_SOURCE ? wh_connect(m, uri, err) : wh_listen(m, "rdma:10.9.1.2:0", err);

	if (ret == 0)
		ret = wh_start(m, err);
	if (ret == 0 && role == WH_DEST)
		snprintf(uri, size, "%s", wh_listen_uri(m));
	return ret;
}

/* One of these bytes, of which the other process writes one, is not zero; @other may be NULL */
static inline bool ends_until(const void *byte, const void *other, uint64_t until_ns)
{
	while (!__atomic_load_n((const char *)byte, __ATOMIC_ACQUIRE) &&
	       !(other && __atomic_load_n((const char *)other, __ATOMIC_ACQUIRE))) {
		if (clock_now_ns() > until_ns)
			return false;
		usleep(2000);
	}
	return true;
}

/* Whoever is there */
static inline void ends_kill(pid_t pid[2])
{
	for (unsigned i = 0; i < 2; i++) {
		if (pid[i] > 0) {
			kill(pid[i], SIGKILL);
			waitpid(pid[i], NULL, 0);
		}
		pid[i] = 0;
	}
}

#endif /* LAB_RDMA_ENDS_H */
