/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: our own pair, two processes of a few lines each on the public API.
 */
#include "base/clock.h"
#include "selftests/lib/bench_side.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define SLOW 4096		 /* bytes a second, in front of the switch */
#define NONE 1			 /* the same behind it: a page in an hour */
#define LOOK_NS (20 * NS_PER_MS) /* how often figures are told */

static void fail(struct bench_shared *shared, const char *who, const struct wh_err *err)
{
	snprintf(shared->why, sizeof(shared->why), "%s: %s", who, err->text);
	__atomic_store_n(&shared->failed, true, __ATOMIC_RELEASE);
	_exit(1);
}

static void on_event(void *opaque, const struct wh_event *event)
{
	struct bench_shared *shared = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_PRECOPY)
		bench_stamp(&shared->begin_ns);
	else if (event->phase == WH_PHASE_POSTCOPY)
		bench_stamp(&shared->postcopy_ns);
	else if (event->phase == WH_PHASE_DONE)
		bench_stamp(&shared->done_ns);
}

/* Nobody writes: but the first time every page counts as written */
static int dirty_start(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

static int dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
		      struct wh_err *err)
{
	(void)opaque;
	(void)block;
	(void)map;
	(void)pages;
	(void)err;
	return 0;
}

static struct wh_migration *make(const struct bench_side *side, enum wh_role role, void *memory,
				 int fd)
{
	static const struct wh_callbacks dest = { .event = on_event };
	static const struct wh_callbacks source = { 0 };
	/* Mapped again and again it cannot be watched for writes as one block */
	static const struct wh_callbacks still = {
		.dirty_start = dirty_start,
		.dirty_sync = dirty_sync,
	};
	const struct bench_load *load = side->load;
	struct wh_block block = {
		.name = side->kind == &bench_from_qemu ? "ram0" : "ram",
		.addr = memory,
		.length = load->bytes,
		.page_size = bench_page(load->memory),
		.fd = fd,
	};
	struct wh_migration *migration;
	struct wh_config config;
	struct wh_err err = { 0 };
	const struct wh_tls tls = { .dir = load->tls, .hostname = "localhost" };

	wh_config_init(&config);
	if (load->tls)
		config.tls = &tls;
	config.callbacks = role == WH_DEST ? &dest : load->piece ? &still : &source;
	config.opaque = side->shared;
	config.postcopy = load->postcopy;
	config.return_path &= !load->rdma;
	config.rdma_pin_all = load->pin_all;
	if (load->asked)
		config.rdma_read_max = 0;
	config.multifd = load->channels;
	config.multifd_marks = WH_MULTIFD_BY_ROUND;
	config.urgent = load->urgent ? WH_URGENT_AT_SWITCH : WH_URGENT_OFF;
	if (role == WH_DEST) {
		config.fault_spin_ns = load->spin_ns;
		config.fault_cpu = load->fault_cpu;
	}
	if (load->postcopy) {
		config.bandwidth = SLOW;
		config.downtime_ns = 0;
		config.postcopy_bandwidth = load->bulk ? 0 : NONE;
	}
	if (wh_new(&migration, role, &config, &err) < 0 ||
	    wh_add_block(migration, &block, &err) < 0)
		fail(side->shared, role == WH_DEST ? "destination" : "source", &err);
	return migration;
}

/* Until it has ended, telling figures meanwhile */
static void watch(struct wh_migration *migration, struct bench_shared *shared, bool dest)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;
	int ret;

	do {
		ret = wh_wait(migration, (int64_t)LOOK_NS, &err);
		if (ret < 0 && ret != -EAGAIN)
			fail(shared, dest ? "destination" : "source", &err);
		wh_get_stats(migration, &stats);
		if (dest) {
			__atomic_store_n(&shared->own_bytes, stats.own_bytes, __ATOMIC_RELEASE);
			continue;
		}
		shared->source_p50_ns = stats.fault_p50_ns;
		shared->source_p99_ns = stats.fault_p99_ns;
	} while (ret);
	if (dest)
		bench_stamp(&shared->ended);
	for (;;)
		pause();
}

static void dest_main(const struct bench_side *side, void *memory, int fd)
{
	struct bench_shared *shared = side->shared;
	struct wh_migration *migration = make(side, WH_DEST, memory, fd);
	struct wh_err err = { 0 };
	char uri[128];

	snprintf(uri, sizeof(uri),
		 side->load->tcp ? "tcp:127.0.0.1:0" : "unix:/tmp/wherry-bench-%d", getpid());
	if (side->load->rdma) {
		snprintf(uri, sizeof(uri), "%s:%.64s:0", side->load->tcp ? "tcp" : "rdma",
			 side->load->rdma);
		memset(memory, 1, side->load->bytes);
	}
	if (bench_touch(side, memory) < 0 || wh_listen(migration, uri, &err) < 0 ||
	    wh_start(migration, &err) < 0)
		fail(shared, "destination", &err);
	snprintf(shared->uri, sizeof(shared->uri), "%s", wh_listen_uri(migration));
	bench_stamp(&shared->ready_ns);
	watch(migration, shared, true);
}

static void source_main(const struct bench_side *side, void *memory, int fd)
{
	const struct timespec nap = { .tv_nsec = 50000 };
	struct wh_migration *migration;
	struct wh_err err = { 0 };

	bench_fill(memory, side->load->piece ? side->load->piece : side->load->bytes);
	if (side->load->zeros)
		bench_clear(memory, side->load->bytes);
	migration = make(side, WH_SOURCE, memory, fd);
	bench_stamp(&side->shared->ready_ns);
	while (!__atomic_load_n(&side->shared->go, __ATOMIC_ACQUIRE))
		nanosleep(&nap, NULL);
	if (wh_connect(migration, side->shared->uri, &err) < 0 || wh_start(migration, &err) < 0)
		fail(side->shared, "source", &err);
	if (side->load->postcopy && wh_start_postcopy(migration, &err) < 0)
		fail(side->shared, "source", &err);
	watch(migration, side->shared, false);
}

static int run(struct bench_side *side, bool source)
{
	pid_t *pid = source ? &side->source : &side->dest;
	void *memory;
	int fd;

	side->shared->ready_ns = 0;
	memory = bench_map(side->load, source, &fd);
	if (memory == MAP_FAILED) {
		snprintf(side->why, sizeof(side->why), "no memory");
		return -1;
	}
	if (!source)
		side->base = (uintptr_t)memory;
	*pid = bench_fork();
	if (*pid == 0) {
		if (source)
			source_main(side, memory, fd);
		else
			dest_main(side, memory, fd);
		_exit(1);
	}
	munmap(memory, side->load->bytes);
	if (fd >= 0)
		close(fd);
	return bench_wait(side, &side->shared->ready_ns);
}

int bench_wherry_dest(struct bench_side *side)
{
	return run(side, false);
}

static int wherry_start(struct bench_side *side)
{
	int ret = run(side, false);

	return ret < 0 ? ret : run(side, true);
}

static int wherry_go(struct bench_side *side)
{
	bench_stamp(&side->shared->go);
	return bench_wait(side, side->load->postcopy ? &side->shared->postcopy_ns :
						       &side->shared->begin_ns);
}

static int wherry_done(struct bench_side *side)
{
	return bench_wait(side, &side->shared->ended);
}

static void wherry_stop(struct bench_side *side)
{
	const char *uri = side->shared->uri;

	bench_kill(&side->source);
	bench_kill(&side->dest);
	if (!strncmp(uri, "unix:", 5))
		unlink(uri + 5);
}

const struct bench_kind bench_wherry = {
	.start = wherry_start,
	.go = wherry_go,
	.done = wherry_done,
	.stop = wherry_stop,
};
