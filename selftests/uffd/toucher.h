/* SPDX-License-Identifier: MIT */
#ifndef UFFD_TOUCHER_H
#define UFFD_TOUCHER_H

#include "uffd/uffd.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A thread that touches one byte, and may have to wait for it */
struct toucher {
	pthread_t thread;
	volatile uint8_t *at;
	bool write;
	uint8_t value; /* to write, or what was read */
	int done;
	uint32_t tid;
};

static inline void *toucher_main(void *opaque)
{
	struct toucher *toucher = opaque;

	__atomic_store_n(&toucher->tid, (uint32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	if (toucher->write)
		*toucher->at = toucher->value;
	else
		toucher->value = *toucher->at;
	__atomic_store_n(&toucher->done, 1, __ATOMIC_RELEASE);
	return NULL;
}

static inline bool toucher_start(struct toucher *toucher, void *at)
{
	toucher->at = at;
	return pthread_create(&toucher->thread, NULL, toucher_main, toucher) == 0;
}

static inline bool toucher_done(struct toucher *toucher)
{
	return __atomic_load_n(&toucher->done, __ATOMIC_ACQUIRE);
}

/* What it read. A test that waits here for ever is ended by its time limit */
static inline uint8_t toucher_end(struct toucher *toucher)
{
	pthread_join(toucher->thread, NULL);
	return toucher->value;
}

/* Read until there are @wanted messages in all; how many there are in the end */
static inline int read_events(const struct uffd *uffd, struct uffd_event *events, int wanted)
{
	struct uffd_event batch[UFFD_BATCH];
	int have = 0;

	while (have < wanted) {
		struct pollfd poll_fd = { .fd = uffd->fd, .events = POLLIN };
		int n;

		if (poll(&poll_fd, 1, 20000) <= 0)
			break;
		n = uffd_read(uffd, batch, NULL);
		if (n < 0 || have + n > wanted)
			break;
		memcpy(events + have, batch, (size_t)n * sizeof(*batch));
		have += n;
	}
	return have;
}

/* Threads that wait for the kernel to be told something, as it counts them itself */
static inline int waiting(const struct uffd *uffd)
{
	char path[64], line[128];
	int total = -1;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", uffd->fd);
	info = fopen(path, "re");
	while (info && fgets(line, sizeof(line), info))
		(void)sscanf(line, "total: %d", &total);
	if (info)
		fclose(info);
	return total;
}

#endif /* UFFD_TOUCHER_H */
