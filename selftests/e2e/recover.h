/* SPDX-License-Identifier: GPL-2.0 */
#ifndef E2E_RECOVER_H
#define E2E_RECOVER_H

/*
 * Both ends of a migration in one process, each driven by the library's threads or by a
 * loop of its own, and an operator of both.
 */
#include "kselftest_harness.h"

#include "base/clock.h"
#include "selftests/lib/proxy.h"
#include "selftests/lib/workload.h"

#include <linux/memfd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <time.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define PAGE_BYTES 4096u
#define BLOCKS 2u
#define BLOCK_PAGES 1024u
#define BLOCK_BYTES (BLOCK_PAGES * PAGE_BYTES)
#define LARGE_BYTES (UINT64_C(1) << 30) /* and nothing in it */
#define SECONDS 20
#define WAIT_NS ((int64_t)SECONDS * 1000000000)

/* What is told to an end that turns itself in a loop */
enum wish {
	WISH_NONE,
	WISH_PAUSE,
	WISH_AGAIN,
};

/* A block of private memory, one of a memfd, a thread that writes each */
struct end {
	enum wh_role role;
	struct wh_migration *migration;
	struct workload workload[BLOCKS];
	struct wh_block block[BLOCKS];
	uint64_t auto_recover_ns;
	uint64_t bandwidth;    /* in precopy; 0: all there is */
	uint64_t dead_peer_ns; /* 0: as it is */
	unsigned pace_us;      /* the guest's; 0: 100 */
	bool huge;	       /* pages of 2 MiB, both blocks */
	void *large;	       /* NULL: no */
	const struct wh_tls *tls;
	unsigned pauses;  /* atomic: events of it */
	bool pause_again; /* atomic: as soon as it goes on, in the event itself */
	bool own_loop;
	pthread_t thread;
	enum wish wish; /* atomic, and what follows is of whoever it lets */
	const char *uri;
	int result;
	struct wh_err err;
	bool hasty; /* somebody connects in front of the next turn */
	int hasty_fd;
	bool stop; /* atomic */
};

struct pair {
	struct end source;
	struct end dest;
};

static inline int end_pause(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	for (unsigned i = 0; i < BLOCKS; i++)
		workload_park(&end->workload[i]);
	return 0;
}

static inline int end_run(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	for (unsigned i = 0; i < BLOCKS; i++)
		workload_run(&end->workload[i]);
	return 0;
}

/* It must not run at both ends, whatever breaks. */
static inline int end_resume(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	abort();
}

/* Device state: where each thread is */
static inline int end_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct end *end = opaque;
	uint64_t *state = calloc(2 * BLOCKS, sizeof(*state));

	(void)err;
	if (!state)
		return -ENOMEM;
	for (unsigned i = 0; i < BLOCKS; i++) {
		state[2 * i] = end->workload[i].passes;
		state[2 * i + 1] = end->workload[i].position;
	}
	*data = state;
	*length = 2 * BLOCKS * sizeof(*state);
	return 0;
}

static inline int end_load(void *opaque, const void *data, size_t length,
			   enum wh_device_format format, struct wh_err *err)
{
	struct end *end = opaque;
	uint64_t state[2 * BLOCKS];

	(void)err;
	if (length != sizeof(state) || format != WH_DEVICE_OWN)
		return -EPROTO;
	memcpy(state, data, sizeof(state));
	for (unsigned i = 0; i < BLOCKS; i++) {
		end->workload[i].passes = state[2 * i];
		end->workload[i].position = state[2 * i + 1];
	}
	return 0;
}

static inline void end_event(void *opaque, const struct wh_event *event)
{
	struct end *end = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_POSTCOPY &&
	    __atomic_exchange_n(&end->pause_again, false, __ATOMIC_ACQ_REL) &&
	    wh_pause(end->migration, NULL))
		abort();
	if (event->phase == WH_PHASE_PAUSED)
		__atomic_fetch_add(&end->pauses, 1, __ATOMIC_RELEASE);
	if (getenv("RECOVER_VERBOSE"))
		printf("# %llu us %s: %s %s\n", (unsigned long long)clock_now_ns() / 1000,
		       end->role == WH_DEST ? "dest" : "source", wh_phase_name(event->phase),
		       event->err ? event->err->text : "");
}

/* Its bitmap is larger than what is read of the return path at once otherwise. */
static inline int end_add_large(struct end *end, struct wh_err *err)
{
	struct wh_block block = {
		.name = "large", .length = LARGE_BYTES, .page_size = PAGE_BYTES, .fd = -1
	};

	end->large = mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	block.addr = end->large;
	return wh_add_block(end->migration, &block, err);
}

static inline int end_block(struct end *end, unsigned i, bool file)
{
	unsigned more = end->huge ? MFD_HUGETLB | 21u << MFD_HUGE_SHIFT : 0;
	int fd = file || end->huge ? memfd_create("recover", MFD_CLOEXEC | more) : -1;
	int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	if (fd >= 0 && ftruncate(fd, BLOCK_BYTES) < 0)
		return -errno;
	end->block[i] = (struct wh_block){
		.name = i ? "second" : "first",
		.addr = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0),
		.length = BLOCK_BYTES,
		.page_size = end->huge ? 2u << 20 : PAGE_BYTES,
		.fd = fd,
	};
	if (end->block[i].addr == MAP_FAILED)
		return -errno;
	workload_init(&end->workload[i], end->block[i].addr, BLOCK_PAGES, 5 + i);
	end->workload[i].pace_us = end->pace_us ? end->pace_us : 100;
	return 0;
}

static inline int end_new(struct end *end, enum wh_role role, enum wh_urgent urgent, bool large,
			  struct wh_err *err)
{
	const struct wh_callbacks callbacks = {
		.event = end_event,
		.pause = end_pause,
		.resume = end_resume,
		.device_save = end_save,
		.device_load = end_load,
		.start = end_run,
	};
	struct wh_config config;
	int ret;

	end->role = role;
	for (unsigned i = 0; i < BLOCKS; i++) {
		ret = end_block(end, i, i > 0);
		if (ret)
			return ret;
		if (role == WH_SOURCE)
			workload_fill(&end->workload[i]);
	}
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = end;
	config.urgent = urgent;
	config.downtime_ns = 0;
	config.bandwidth = end->bandwidth;
	config.postcopy_bandwidth = 10u << 20;
	config.connect_timeout_ns = 5000 * NS_PER_MS;
	config.auto_recover_ns = end->auto_recover_ns;
	config.dead_peer_ns = end->dead_peer_ns ? end->dead_peer_ns : config.dead_peer_ns;
	config.tls = end->tls;
	ret = wh_new(&end->migration, role, &config, err);
	for (unsigned i = 0; i < BLOCKS && !ret; i++)
		ret = wh_add_block(end->migration, &end->block[i], err);
	return ret || !large ? ret : end_add_large(end, err);
}

static inline int end_do(struct end *end, enum wish wish, const char *uri, struct wh_err *err)
{
	if (wish == WISH_PAUSE)
		return wh_pause(end->migration, err);
	return end->role == WH_DEST ? wh_recover(end->migration, uri, err) :
				      wh_resume(end->migration, uri, err);
}

/* Somebody, at where it listens. Return: a socket */
static inline int end_stranger(const struct end *end)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unsigned port;

	if (sscanf(wh_listen_uri(end->migration), "tcp:127.0.0.1:%u", &port) != 1)
		port = 0;
	to.sin_port = htons((uint16_t)port);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return fd;
	close(fd);
	return -1;
}

/* A VMM with a loop of its own */
static inline void *end_loop(void *arg)
{
	struct end *end = arg;
	struct pollfd fd = { .fd = wh_fd(end->migration), .events = POLLIN };
	struct wh_err err;

	while (!__atomic_load_n(&end->stop, __ATOMIC_ACQUIRE)) {
		enum wish wish = __atomic_load_n(&end->wish, __ATOMIC_ACQUIRE);

		if (wish != WISH_NONE) {
			end->result = end_do(end, wish, end->uri, &end->err);
			if (end->hasty && wish == WISH_AGAIN && !end->result)
				end->hasty_fd = end_stranger(end);
			__atomic_store_n(&end->wish, WISH_NONE, __ATOMIC_RELEASE);
		}
		if (wh_process(end->migration, &err) != 1)
			break;
		poll(&fd, 1, 5);
	}
	return NULL;
}

static inline int end_start(struct end *end, bool own_loop, struct wh_err *err)
{
	end->own_loop = own_loop;
	if (!own_loop)
		return wh_start(end->migration, err);
	/* before any thread turns it: the loop is made anew for this */
	if (wh_fd(end->migration) < 0)
		return -EMFILE;
	return -pthread_create(&end->thread, NULL, end_loop, end);
}

static inline int end_tell(struct end *end, enum wish wish, const char *uri, struct wh_err *err)
{
	if (!end->own_loop)
		return end_do(end, wish, uri, err);
	end->uri = uri;
	__atomic_store_n(&end->wish, wish, __ATOMIC_RELEASE);
	while (__atomic_load_n(&end->wish, __ATOMIC_ACQUIRE) != WISH_NONE)
		usleep(500);
	*err = end->err;
	return end->result;
}

/* -EBUSY is for a moment only: until what was has come back */
static inline int end_again(struct end *end, const char *uri, struct wh_err *err)
{
	int ret = -EBUSY;

	for (unsigned i = 0; ret == -EBUSY && i < SECONDS * 1000; i++) {
		ret = end_tell(end, WISH_AGAIN, uri, err);
		if (ret == -EBUSY)
			usleep(1000);
	}
	return ret;
}

static inline bool end_phase(struct end *end, enum wh_phase phase)
{
	for (unsigned i = 0; i < SECONDS * 2000; i++) {
		if (wh_get_phase(end->migration) == phase)
			return true;
		usleep(500);
	}
	return false;
}

static inline bool end_pauses(struct end *end, unsigned pauses)
{
	for (unsigned i = 0; i < SECONDS * 2000; i++) {
		if (__atomic_load_n(&end->pauses, __ATOMIC_ACQUIRE) >= pauses)
			return end_phase(end, WH_PHASE_PAUSED);
		usleep(500);
	}
	return false;
}

static inline uint64_t wrong_byte(struct pair *pair)
{
	uint64_t wrong = 0;

	end_pause(&pair->dest, NULL);
	for (unsigned i = 0; i < BLOCKS && !wrong; i++)
		wrong = workload_verify(&pair->dest.workload[i]);
	return wrong;
}

static inline void end_free(struct end *end)
{
	__atomic_store_n(&end->stop, true, __ATOMIC_RELEASE);
	if (end->thread)
		pthread_join(end->thread, NULL);
	wh_free(end->migration);
	if (end->large)
		munmap(end->large, LARGE_BYTES);
	for (unsigned i = 0; i < BLOCKS; i++) {
		workload_fini(&end->workload[i]);
		munmap(end->block[i].addr, BLOCK_BYTES);
		if (end->block[i].fd >= 0)
			close(end->block[i].fd);
	}
}

#endif /* E2E_RECOVER_H */
