/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: two QEMUs with made-up RAM and no guest (-machine none), driven by QMP.
 * Contents are written into the source's RAM through its memfd.
 */
#include "base/clock.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/qemu.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
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
	bool switched;
};

static int start_one(struct qemu *qemu, const struct bench_load *load, bool dest,
		     struct wh_err *err)
{
	const char *caps[4] = { "events", load->postcopy ? "postcopy-ram" : NULL,
				load->postcopy && load->urgent ? "postcopy-preempt" : NULL, NULL };
	const char *argv[16];
	char object[160], size[32];
	unsigned n = 0;
	int ret;

	snprintf(size, sizeof(size), "%" PRIu64 "M", load->bytes >> 20);
	snprintf(object, sizeof(object), "%s,id=ram0,size=%s%s",
		 load->memory == BENCH_ANON ? "memory-backend-ram" : "memory-backend-memfd", size,
		 load->memory == BENCH_HUGETLB ? ",hugetlb=on,hugetlbsize=2M,share=on" :
		 load->memory == BENCH_MEMFD   ? ",share=on" :
						 "");
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
	argv[n] = NULL;
	ret = qemu_start(qemu, argv, err);
	return ret < 0 ? ret : qemu_capabilities(qemu, caps, err);
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
static int fill(pid_t pid, uint64_t base, uint64_t bytes)
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
		for (uint64_t at = 0; at < bytes; at += PIECE)
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

/* As much as -machine none transfers beside RAM is nothing; it is all pages of ram0 */
static int begin(struct bench_side *side, struct qemu_pair *pair, struct wh_err *err)
{
	const struct bench_load *load = side->load;
	uint64_t base;
	int ret;

	ret = start_one(&pair->source, load, false, err);
	if (ret == 0)
		ret = start_one(&pair->dest, load, true, err);
	if (ret < 0)
		return ret;
	base = find_ram(pair->source.child.pid, load->bytes);
	side->base = find_ram(pair->dest.child.pid, load->bytes);
	if (!base || !side->base || fill(pair->source.child.pid, base, load->bytes) < 0) {
		snprintf(err->text, sizeof(err->text), "RAM not found in /proc/PID/maps");
		return -1;
	}
	ret = qemu_parameter(&pair->source, "max-bandwidth",
			     load->postcopy ? SLOW : UINT64_C(1) << 40, err);
	if (ret == 0)
		ret = qemu_parameter(&pair->source, "max-postcopy-bandwidth", 0, err);
	if (ret == 0)
		ret = qemu_migrate_incoming(&pair->dest, pair->uri, err);
	side->shared->begin_ns = clock_now_ns();
	if (ret == 0)
		ret = qemu_migrate(&pair->source, pair->uri, err);
	if (ret < 0 || !load->postcopy)
		return ret;
	ret = qemu_wait_status(&pair->source, "active", 20000, err);
	if (ret == 0)
		ret = qemu_command(&pair->source, NULL, err, "migrate-start-postcopy", NULL);
	side->shared->postcopy_ns = clock_now_ns();
	/* A huge page that is half sent goes on at this rate, not at postcopy's. */
	if (ret == 0)
		ret = qemu_parameter(&pair->source, "max-bandwidth", UINT64_C(1) << 40, err);
	if (ret == 0)
		ret = qemu_wait_status(&pair->dest, "postcopy-active", 20000, err);
	return ret;
}

int qemu_pair_start(struct bench_side *side, const struct bench_load *load)
{
	static unsigned port = 21000;
	struct qemu_pair *pair = calloc(1, sizeof(*pair));
	struct wh_err err = { 0 };

	*side = (struct bench_side){ .load = load, .shared = bench_share(), .own = pair };
	if (!pair || !side->shared)
		return -1;
	if (load->tcp)
		snprintf(pair->uri, sizeof(pair->uri), "tcp:127.0.0.1:%u", port++);
	else
		snprintf(pair->uri, sizeof(pair->uri), "unix:/tmp/wherry-bench-qemu-%d", getpid());
	if (begin(side, pair, &err) == 0) {
		side->dest = pair->dest.child.pid;
		return 0;
	}
	fprintf(stderr, "bench: QEMU: %s\n", err.text);
	qemu_pair_stop(side);
	return -1;
}

int qemu_pair_poll(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;
	struct wh_err err = { 0 };

	if (qemu_wait_status(&pair->source, "completed", 60000, &err) < 0) {
		fprintf(stderr, "bench: QEMU: %s\n", err.text);
		return -1;
	}
	side->shared->done_ns = clock_now_ns();
	return 0;
}

void qemu_pair_stop(struct bench_side *side)
{
	struct qemu_pair *pair = side->own;

	if (pair) {
		qemu_end(&pair->source);
		qemu_end(&pair->dest);
		if (!side->load->tcp && strlen(pair->uri) > 5)
			unlink(pair->uri + 5);
	}
	free(pair);
	bench_unshare(side->shared);
	side->shared = NULL;
	side->own = NULL;
	side->dest = 0;
}
