/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: our own pair, two processes of a few lines each on the public API.
 */
#include "base/clock.h"
#include "selftests/lib/bench_side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define NEXT_TO_NONE 4096 /* bytes a second */

static void stamp(uint64_t *at)
{
	uint64_t none = 0;

	__atomic_compare_exchange_n(at, &none, clock_now_ns(), false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
}

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
		stamp(&shared->begin_ns);
	else if (event->phase == WH_PHASE_POSTCOPY)
		stamp(&shared->postcopy_ns);
	else if (event->phase == WH_PHASE_DONE)
		stamp(&shared->done_ns);
}

static struct wh_migration *make(struct bench_side *side, enum wh_role role, void *memory, int fd)
{
	static const struct wh_callbacks dest = { .event = on_event };
	static const struct wh_callbacks source = { 0 };
	const struct bench_load *load = side->load;
	struct wh_block block = {
		.name = "ram",
		.addr = memory,
		.length = load->bytes,
		.page_size = bench_page(load->memory),
		.fd = fd,
	};
	struct wh_migration *migration;
	struct wh_config config;
	struct wh_err err = { 0 };

	wh_config_init(&config);
	config.callbacks = role == WH_DEST ? &dest : &source;
	config.opaque = side->shared;
	config.postcopy = load->postcopy;
	config.urgent = load->urgent ? WH_URGENT_AT_SWITCH : WH_URGENT_OFF;
	config.fault_spin_ns = load->spin_ns;
	if (load->postcopy) {
		config.bandwidth = NEXT_TO_NONE;
		config.downtime_ns = 0;
		config.postcopy_bandwidth = load->bulk ? 0 : NEXT_TO_NONE;
	}
	if (wh_new(&migration, role, &config, &err) < 0 ||
	    wh_add_block(migration, &block, &err) < 0)
		fail(side->shared, role == WH_DEST ? "destination" : "source", &err);
	return migration;
}

static void dest_main(struct bench_side *side, void *memory, int fd)
{
	struct bench_shared *shared = side->shared;
	struct wh_migration *migration = make(side, WH_DEST, memory, fd);
	struct wh_stats stats;
	struct wh_err err = { 0 };
	char uri[64];

	snprintf(uri, sizeof(uri),
		 side->load->tcp ? "tcp:127.0.0.1:0" : "unix:/tmp/wherry-bench-%d", getpid());
	if (wh_listen(migration, uri, &err) < 0 || wh_start(migration, &err) < 0)
		fail(shared, "destination", &err);
	snprintf(shared->uri, sizeof(shared->uri), "%s", wh_listen_uri(migration));
	stamp(&shared->ready_ns);
	if (wh_wait(migration, -1, &err) < 0)
		fail(shared, "destination", &err);
	wh_get_stats(migration, &stats);
	__atomic_store_n(&shared->own_bytes, stats.own_bytes, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static void source_main(struct bench_side *side, void *memory, int fd)
{
	struct wh_migration *migration = make(side, WH_SOURCE, memory, fd);
	struct wh_err err = { 0 };

	if (wh_connect(migration, side->shared->uri, &err) < 0 || wh_start(migration, &err) < 0)
		fail(side->shared, "source", &err);
	if (side->load->postcopy && wh_start_postcopy(migration, &err) < 0)
		fail(side->shared, "source", &err);
	if (wh_wait(migration, -1, &err) < 0)
		fail(side->shared, "source", &err);
	for (;;)
		pause();
}

static pid_t run(struct bench_side *side, void (*body)(struct bench_side *, void *, int),
		 bool filled)
{
	uint64_t bytes = side->load->bytes;
	void *memory;
	pid_t pid;
	int fd;

	memory = bench_map(side->load->memory, bytes, &fd);
	if (memory == MAP_FAILED) {
		perror("bench: memory");
		return -1;
	}
	side->base = (uintptr_t)memory;
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (filled)
			bench_fill(memory, bytes);
		body(side, memory, fd);
		_exit(1);
	}
	munmap(memory, bytes);
	if (fd >= 0)
		close(fd);
	return pid;
}

int wherry_start(struct bench_side *side, const struct bench_load *load)
{
	*side = (struct bench_side){ .load = load, .shared = bench_share() };
	if (!side->shared)
		return -1;
	side->source = -1;
	side->dest = run(side, dest_main, false);
	if (side->dest > 0 && bench_wait(side, &side->shared->ready_ns) == 0) {
		uint64_t base = side->base;

		side->source = run(side, source_main, true);
		side->base = base;
	}
	if (side->source > 0 && bench_wait(side, load->postcopy ? &side->shared->postcopy_ns :
								  &side->shared->begin_ns) == 0)
		return 0;
	wherry_stop(side);
	return -1;
}

void wherry_stop(struct bench_side *side)
{
	char path[64];

	snprintf(path, sizeof(path), "/tmp/wherry-bench-%d", side->dest);
	bench_kill(&side->source);
	bench_kill(&side->dest);
	unlink(path);
	bench_unshare(side->shared);
	side->shared = NULL;
}
