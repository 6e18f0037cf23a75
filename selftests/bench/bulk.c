/* SPDX-License-Identifier: MIT */
/*
 * How fast a whole guest's RAM crosses, from the first byte (precopy) or the switch
 * (postcopy) to the end, with no page zero and no guest running; and what the library
 * needs for itself. The floor is a socket received into memory of that kind: straight
 * into place for precopy, and for postcopy through the placing that selftests/bench/placing
 * shows to be the best for it.
 */
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/memory.h"
#include "uffd/abi.h"
#include "uffd/placer.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (UINT64_C(2) << 20)

/* Sends all of some memory, as fast as it goes */
static pid_t sender(int fd, uint64_t bytes)
{
	pid_t pid = fork();
	uint8_t *memory;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memory = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		_exit(1);
	bench_fill(memory, PIECE);
	for (uint64_t at = 0; at < bytes; at += PIECE)
		for (uint64_t sent = 0; sent < PIECE;) {
			ssize_t n = send(fd, memory + sent, PIECE - sent, MSG_NOSIGNAL);

			if (n < 0)
				_exit(1);
			sent += (uint64_t)n;
		}
	_exit(0);
}

static int receive(int fd, const struct bench_load *load, struct region *region)
{
	struct placer placer = { 0 };
	struct stage stage = { 0 };
	struct uffd uffd = { .fd = -1 };
	struct wh_err err = { 0 };
	int ret = 0;

	if (load->postcopy) {
		ret = uffd_open(&uffd, UFFD_FEATURE_MOVE, true, &err);
		if (ret == 0)
			ret = placer_init(&placer, region, &uffd, &err);
		if (ret == 0)
			ret = stage_init(&stage, STAGE_BYTES, &err);
		if (ret == 0)
			ret = placer_advise(&placer, &err);
		if (ret == 0)
			ret = placer_arm(&placer, &err);
	}
	for (uint64_t at = 0; ret == 0 && at < load->bytes; at += PIECE) {
		uint8_t *room =
			load->postcopy ? placer_room(&placer, &stage, at) : region->addr + at;

		if (recv(fd, room, PIECE, MSG_WAITALL) != (ssize_t)PIECE)
			ret = -EPIPE;
		else if (load->postcopy &&
			 placer_place(&placer, &stage, at, PIECE, true, NULL, &err) != PLACED_OK)
			ret = -EIO;
	}
	if (ret < 0)
		fprintf(stderr, "bulk: floor: %s\n", err.text);
	if (load->postcopy) {
		placer_disarm(&placer, NULL);
		placer_fini(&placer);
		stage_fini(&stage);
		uffd_close(&uffd);
	}
	return ret;
}

/* GB/s, or 0 */
static double floor_run(const struct bench_load *load)
{
	struct region region = { .name = "ram", .length = load->bytes };
	uint64_t begin;
	double rate = 0;
	int fds[2];
	pid_t pid;

	region.page_size = bench_page(load->memory);
	region.addr = bench_map(load->memory, load->bytes, &region.fd);
	if (region.addr == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		return 0;
	pid = sender(fds[1], load->bytes);
	close(fds[1]);
	begin = clock_now_ns();
	if (receive(fds[0], load, &region) == 0)
		rate = (double)load->bytes / (double)(clock_now_ns() - begin);
	close(fds[0]);
	bench_kill(&pid);
	munmap(region.addr, region.length);
	if (region.fd >= 0)
		close(region.fd);
	return rate;
}

static double rate_of(const struct bench_side *side)
{
	const struct bench_shared *shared = side->shared;
	uint64_t from = side->load->postcopy ? shared->postcopy_ns : shared->begin_ns;

	return (double)side->load->bytes / (double)(shared->done_ns - from);
}

static double wherry_run(const struct bench_load *load, double *own)
{
	struct bench_side side;
	double rate = 0;

	if (wherry_start(&side, load) < 0)
		return 0;
	if (bench_wait(&side, &side.shared->own_bytes) == 0) {
		rate = rate_of(&side);
		*own = (double)side.shared->own_bytes / (1 << 20);
	}
	wherry_stop(&side);
	return rate;
}

static double qemu_run(const struct bench_load *load)
{
	struct bench_side side;
	double rate = 0;

	if (qemu_pair_start(&side, load) < 0)
		return 0;
	if (qemu_pair_poll(&side) == 0)
		rate = rate_of(&side);
	qemu_pair_stop(&side);
	return rate;
}

static void add(struct bench_row *row, double value)
{
	if (value > 0)
		bench_add(row, value);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	struct bench_row rows[3] = { { .side = "floor", .unit = "GB/s" },
				     { .side = "wherry", .unit = "GB/s" },
				     { .side = "QEMU 7.2", .unit = "GB/s" } };
	struct bench_row memory[2] = { { .side = "floor: 3 bits a page", .unit = "MiB" },
				       { .side = "wherry, destination", .unit = "MiB" } };
	int rounds = bench->quick ? 3 : 7;
	double own = 0;
	char title[128];

	for (int round = 0; round < rounds; round++) {
		bench_warm(2 * load->bytes);
		add(&rows[0], floor_run(load));
		bench_warm(2 * load->bytes);
		add(&rows[1], wherry_run(load, &own));
		add(&memory[1], own);
		bench_warm(2 * load->bytes);
		add(&rows[2], qemu_run(load));
	}
	snprintf(title, sizeof(title), "bulk, %llu MiB, %s, %s, %s",
		 (unsigned long long)(load->bytes >> 20), load->postcopy ? "postcopy" : "precopy",
		 bench_memory_name(load->memory), load->tcp ? "TCP" : "unix");
	bench_print(bench, title, rows, 3);
	if (!load->postcopy || load->memory != BENCH_ANON)
		return;
	bench_add(&memory[0], (double)load->bytes / 4096 * 3 / 8 / (1 << 20));
	bench_print(bench, "own memory of the destination", memory, 2);
}

int main(int argc, char **argv)
{
	struct huge_pages huge_pages = { .hold = -1 };
	struct wh_err err = { 0 };
	struct bench bench;
	uint64_t bytes;

	bench_begin(&bench, "bulk", argc, argv);
	bytes = bench.quick ? UINT64_C(512) << 20 : UINT64_C(2) << 30;
	/* Both ends' */
	if (huge_pages_take(&huge_pages, (unsigned)(bytes / PIECE) * 2 + 8, &err) < 0)
		fprintf(stderr, "bulk: hugetlb is not measured: %s\n", err.text);
	for (int memory = 0; memory < BENCH_MEMORY_COUNT; memory++) {
		for (int postcopy = 0; postcopy < 2; postcopy++) {
			struct bench_load load = {
				.postcopy = postcopy,
				.bulk = true,
				.urgent = true,
				.memory = (enum bench_memory)memory,
				.bytes = bytes,
				.tcp = false,
			};

			measure(&bench, &load);
			if (!bench.quick && memory == BENCH_ANON) {
				load.tcp = true;
				measure(&bench, &load);
			}
		}
	}
	huge_pages_drop(&huge_pages);
	return 0;
}
