/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: two QEMUs with made-up RAM and no guest (-machine none), driven by QMP.
 * Contents are written into the source's RAM from outside. QEMU asks for huge pages for
 * whatever private memory it has.
 */
#include "base/clock.h"
#include "base/err.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOW 65536 /* bytes a second */

struct qemu_pair {
	struct qemu source;
	struct qemu dest;
	char uri[128];
};

static int start_one(struct qemu *qemu, const struct bench_load *load, bool dest,
		     struct wh_err *err)
{
	const char *caps[4] = { "events",
				load->postcopy ? "postcopy-ram" :
				load->channels ? "multifd" :
				load->pin_all  ? "rdma-pin-all" :
						 NULL,
				load->postcopy && load->urgent ? "postcopy-preempt" : NULL, NULL };
	static const char *const backend[BENCH_MEMORY_COUNT] = {
		[BENCH_ANON] = "ram",
		[BENCH_SMALL] = "ram",
		[BENCH_MEMFD] = "memfd,share=on",
		[BENCH_HUGETLB] = "memfd,share=on,hugetlb=on,hugetlbsize=2M",
	};
	const char *argv[16];
	char object[160], tls[160], size[32];
	unsigned n = 0;
	int ret;

	snprintf(size, sizeof(size), "%" PRIu64 "M", load->bytes >> 20);
	snprintf(object, sizeof(object), "memory-backend-%s,id=ram0,size=%s%s",
		 backend[load->memory], size, load->rdma && dest ? ",prealloc=on" : "");
	argv[n++] = "-machine";
	argv[n++] = "none,memory-backend=ram0";
	argv[n++] = "-object";
	argv[n++] = object;
	argv[n++] = "-m";
	argv[n++] = size;
	if (dest) {
		argv[n++] = "-incoming";
		argv[n++] = "defer";
	}
	if (load->tls) {
		snprintf(tls, sizeof(tls), "tls-creds-x509,id=tls0,dir=%s,endpoint=%s", load->tls,
			 dest ? "server" : "client");
		argv[n++] = "-object";
		argv[n++] = tls;
	}
	argv[n] = NULL;
	ret = qemu_start_program(qemu, load->qemu ? load->qemu : QEMU_PROGRAM, argv, err);
	if (ret == 0)
		ret = qemu_capabilities(qemu, caps, err);
	if (ret == 0 && load->channels)
		ret = qemu_parameter(qemu, "multifd-channels", load->channels, err);
	if (ret == 0 && load->tls)
		ret = qemu_command(qemu, NULL, err, "migrate-set-parameters",
				   "{\"tls-creds\":\"tls0\",\"tls-hostname\":\"localhost\"}");
	return ret;
}

/* The mapping of the RAM: the only one of just its size */
static uint64_t find_ram(pid_t pid, uint64_t bytes)
{
	uint64_t from, to, found = 0;
	char path[64], line[512];
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2 && to - from == bytes)
			found = from;
	if (maps)
		fclose(maps);
	return found;
}

/* Through /proc/PID/mem: works for every kind of memory */
static int fill(pid_t pid, uint64_t base, const struct bench_load *load)
{
	enum {
		PIECE = 4 << 20
	};
	uint8_t *piece = malloc(PIECE);
	char path[64];
	int fd, ret = -1;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && piece) {
		bench_fill(piece, PIECE);
		if (load->zeros)
			bench_clear(piece, PIECE);
		for (uint64_t at = 0; at < load->bytes; at += PIECE)
			if (pwrite(fd, piece, PIECE, (off_t)(base + at)) != PIECE)
				goto out;
		ret = 0;
	}
out:
	if (fd >= 0)
		close(fd);
	free(piece);
	return ret;
}

static int prepare(struct bench_side *side, struct qemu_pair *pair, struct wh_err *err)
{
	const struct bench_load *load = side->load;
	uint64_t base, rate = load->postcopy ? SLOW : UINT64_C(1) << 40;
	int ret;

	ret = start_one(&pair->source, load, false, err);
	if (ret == 0)
		ret = start_one(&pair->dest, load, true, err);
	if (ret < 0)
		return ret;
	side->source = pair->source.child.pid;
	side->dest = pair->dest.child.pid;
	base = find_ram(side->source, load->bytes);
	side->base = find_ram(side->dest, load->bytes);
	if (!base || !side->base || fill(side->source, base, load) < 0)
		return err_set(err, -ENXIO, "RAM not found in /proc/PID/maps");
	ret = qemu_parameter(&pair->source, "max-bandwidth", rate, err);
	if (ret == 0)
		ret = qemu_parameter(&pair->source, "max-postcopy-bandwidth", load->bulk ? 0 : SLOW,
				     err);
	return ret < 0 ? ret : qemu_migrate_incoming(&pair->dest, pair->uri, err);
}

static int say(struct bench_side *side, const struct wh_err *err)
{
	snprintf(side->why, sizeof(side->why), "%.150s", err->text);
	return -1;
}

static int qemu_pair_start(struct bench_side *side)
{
	static unsigned port = 21000;
	struct qemu_pair *pair = calloc(1, sizeof(*pair));
	struct wh_err err = { 0 };

	side->own = pair;
	if (!pair)
		return -1;
	if (side->load->rdma)
		snprintf(pair->uri, sizeof(pair->uri), "rdma:%.64s:%u", side->load->rdma, port++);
	else if (side->load->tcp)
		snprintf(pair->uri, sizeof(pair->uri), "tcp:127.0.0.1:%u", port++);
	else
		snprintf(pair->uri, sizeof(pair->uri), "unix:/tmp/wherry-bench-qemu-%d", getpid());
	return prepare(side, pair, &err) < 0 ? say(side, &err) : 0;
}

static int switch_over(struct bench_side *side, struct qemu_pair *pair, struct wh_err *err)
{
	int ret = qemu_wait_status(&pair->source, "active", 20000, err);

	if (ret == 0)
		ret = qemu_command(&pair->source, NULL, err, "migrate-start-postcopy", NULL);
	side->shared->postcopy_ns = clock_now_ns();
	/* A huge page that is half sent goes on at this rate, not at postcopy's */
	if (ret == 0 && side->load->bulk)
		ret = qemu_parameter(&pair->source, "max-bandwidth", UINT64_C(1) << 40, err);
	return ret < 0 ? ret : qemu_wait_status(&pair->dest, "postcopy-active", 20000, err);
}

static int qemu_pair_go(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;
	struct wh_err err = { 0 };
	int ret;

	side->shared->begin_ns = clock_now_ns();
	ret = qemu_migrate(&pair->source, pair->uri, &err);
	if (ret == 0 && side->load->postcopy)
		ret = switch_over(side, pair, &err);
	return ret < 0 ? say(side, &err) : 0;
}

/* By its events: asked again and again it would have less time for the pages */
static int wait_completed(struct qemu *qemu, struct wh_err *err)
{
	for (;;) {
		struct json_object *data = NULL, *part;
		const char *status = "";
		bool completed, failed;
		int ret = qemu_wait_event(qemu, "MIGRATION", &data, 120000, err);

		if (ret < 0)
			return ret;
		if (json_object_object_get_ex(data, "status", &part))
			status = json_object_get_string(part);
		completed = !strcmp(status, "completed");
		failed = !strcmp(status, "failed");
		json_object_put(data);
		if (completed)
			return 0;
		if (failed)
			return err_set(err, -EREMOTEIO, "QEMU's migration failed");
	}
}

static int qemu_pair_done(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;
	struct wh_err err = { 0 };

	if (wait_completed(&pair->dest, &err) < 0)
		return say(side, &err);
	side->shared->done_ns = clock_now_ns();
	return 0;
}

static void qemu_pair_stop(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;

	if (pair) {
		qemu_end(&pair->source);
		qemu_end(&pair->dest);
		if (!strncmp(pair->uri, "unix:", 5))
			unlink(pair->uri + 5);
	}
	free(pair);
	side->own = NULL;
	side->source = 0;
	side->dest = 0;
}

static int from_qemu_prepare(struct bench_side *side, struct qemu_pair *pair, struct wh_err *err)
{
	const struct bench_load *load = side->load;
	uint64_t base;
	int ret = start_one(&pair->source, load, false, err);

	if (ret < 0)
		return ret;
	side->source = pair->source.child.pid;
	base = find_ram(side->source, load->bytes);
	if (!base || fill(side->source, base, load) < 0)
		return err_set(err, -ENXIO, "RAM not found in /proc/PID/maps");
	return qemu_parameter(&pair->source, "max-bandwidth", UINT64_C(1) << 40, err);
}

static int from_qemu_start(struct bench_side *side)
{
	struct qemu_pair *pair = calloc(1, sizeof(*pair));
	struct wh_err err = { 0 };

	side->own = pair;
	if (!pair || bench_wherry_dest(side) < 0)
		return -1;
	snprintf(pair->uri, sizeof(pair->uri), "%.120s", side->shared->uri);
	return from_qemu_prepare(side, pair, &err) < 0 ? say(side, &err) : 0;
}

static int from_qemu_done(struct bench_side *side)
{
	return bench_wait(side, &side->shared->ended);
}

static void from_qemu_stop(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;

	bench_kill(&side->dest);
	if (pair)
		qemu_end(&pair->source);
	if (pair && !strncmp(pair->uri, "unix:", 5))
		unlink(pair->uri + 5);
	free(pair);
	side->own = NULL;
	side->source = 0;
}

const struct bench_kind bench_from_qemu = {
	.start = from_qemu_start,
	.go = qemu_pair_go,
	.done = from_qemu_done,
	.stop = from_qemu_stop,
};

const struct bench_kind bench_qemu = {
	.start = qemu_pair_start,
	.go = qemu_pair_go,
	.done = qemu_pair_done,
	.stop = qemu_pair_stop,
};
