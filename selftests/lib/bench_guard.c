/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench_guard.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wherry/protect.h>

#define MIB (UINT64_C(1) << 20)
#define RAM_BYTES (32 * MIB)
#define INTERVAL_NS (200 * NS_PER_MS)
#define WARM 3u /* checkpoints that are not looked at */
#define PATIENCE_NS (30 * NS_PER_S)

enum side {
	TCP,
	RDMA,
	SIDES
};

static const struct {
	const char *name, *scheme;
} sides[SIDES] = { { "TCP", "tcp" }, { "RDMA", "rdma" } };

static struct {
	uint8_t *memory, *replica;
	uint64_t dirty; /* bytes that it writes after each stop */
	uint8_t step;
} guest;

static int on_pause(void *unused, struct wh_err *err)
{
	(void)unused, (void)err;
	return 0;
}

static int on_resume(void *unused, struct wh_err *err)
{
	(void)unused, (void)err;
	memset(guest.memory, ++guest.step, guest.dirty);
	return 0;
}

static int on_run(void *unused, const void *data, size_t length, struct wh_err *err)
{
	(void)unused, (void)data, (void)length, (void)err;
	return -1;
}

/* Seconds that all processors of the machine have worked */
static double worked(void)
{
	unsigned long long user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, soft = 0;
	FILE *file = fopen("/proc/stat", "re");

	if (file) {
		if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system,
			   &idle, &iowait, &irq, &soft) != 7)
			user = 0;
		fclose(file);
	}
	return (double)(user + nice + system + irq + soft) / (double)sysconf(_SC_CLK_TCK);
}

static struct wh_protect *end_new(enum wh_role role, const char *uri, struct wh_err *err)
{
	const struct wh_protect_callbacks callbacks = {
		.pause = on_pause,
		.resume = on_resume,
		.run = on_run,
	};
	const struct wh_block block = {
		.name = "ram",
		.addr = role == WH_SOURCE ? guest.memory : guest.replica,
		.length = RAM_BYTES,
		.page_size = 4096,
		.fd = -1,
	};
	struct wh_protect_config config;
	struct wh_protect *protect;

	wh_protect_config_init(&config);
	config.callbacks = &callbacks;
	config.generation_file = role == WH_SOURCE ? "/tmp/guard-a" : "/tmp/guard-b";
	config.pace.min_ns = config.pace.max_ns = INTERVAL_NS;
	config.pack = 0; /* as many bytes go over as were written */
	unlink(config.generation_file);
	if (wh_protect_new(&protect, role, &config, err))
		return NULL;
	if (wh_protect_add_block(protect, &block, err) ||
	    (role == WH_SOURCE ? wh_protect_connect : wh_protect_listen)(protect, uri, NULL, err) ||
	    wh_protect_start(protect, err)) {
		wh_protect_free(protect);
		return NULL;
	}
	return protect;
}

struct rows {
	struct bench_row stop[SIDES], ack[SIDES], cpu[SIDES];
};

/* Until there are so many. Return: false: it has ended */
static bool next(struct wh_protect *source, uint64_t checkpoints, struct wh_protect_status *status)
{
	uint64_t begin_ns = clock_now_ns();

	do {
		usleep(500);
		wh_protect_get_status(source, status);
	} while (status->checkpoints < checkpoints && !wh_protect_ended(status->state) &&
		 status->state != WH_PROTECT_HOLD && clock_now_ns() - begin_ns < PATIENCE_NS);
	return status->checkpoints >= checkpoints;
}

static bool look(struct wh_protect *source, unsigned count, enum side side, struct rows *rows)
{
	struct wh_protect_status status;
	uint64_t first, bytes;
	double before;

	if (!next(source, WARM, &status))
		return false;
	before = worked();
	first = status.checkpoints;
	bytes = status.bytes;
	for (unsigned i = 1; i <= count; i++) {
		if (!next(source, first + i, &status))
			return false;
		bench_add(&rows->stop[side], (double)status.stop_ns / 1e6);
		bench_add(&rows->ack[side], (double)status.ack_ns / 1e6);
	}
	bench_add(&rows->cpu[side],
		  (worked() - before) * (double)(1 << 30) / (double)(status.bytes - bytes));
	return true;
}

static void attempt(enum side side, const char *address, unsigned count, struct rows *rows)
{
	struct wh_protect *dest, *source = NULL;
	struct wh_err err = { 0 };
	char uri[80];

	snprintf(uri, sizeof(uri), "%s:%.60s:0", sides[side].scheme, address);
	dest = end_new(WH_DEST, uri, &err);
	if (dest)
		source = end_new(WH_SOURCE, wh_protect_listen_uri(dest), &err);
	if (source && !look(source, count, side, rows))
		snprintf(err.text, sizeof(err.text), "no checkpoint for too long");
	snprintf(rows->ack[side].why, sizeof(rows->ack[side].why), "%.150s", err.text);
	wh_protect_free(source);
	wh_protect_free(dest);
}

static uint8_t *pages(void)
{
	uint8_t *at =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("guard: memory");
		exit(1);
	}
	madvise(at, RAM_BYTES, MADV_NOHUGEPAGE);
	memset(at, 1, RAM_BYTES);
	return at;
}

void bench_guard(const struct bench *bench, const char *address)
{
	static const unsigned mib[] = { 1, 5 };

	guest.memory = pages();
	guest.replica = pages();
	for (unsigned i = 0; i < 2; i++) {
		static struct rows rows;
		char variant[64];

		rows = (struct rows){ 0 };
		guest.dirty = mib[i] * MIB;
		for (enum side side = TCP; side < SIDES; side++) {
			rows.stop[side].side = rows.ack[side].side = rows.cpu[side].side =
				sides[side].name;
			if (bench_wants(bench, sides[side].name))
				attempt(side, address, bench->quick ? 5 : 20, &rows);
		}
		snprintf(variant, sizeof(variant), "%u MiB written, over a cable", mib[i]);
		bench_print(bench, BENCH_CP_STOP, variant, rows.stop, SIDES);
		bench_print(bench, BENCH_CP_ACK, variant, rows.ack, SIDES);
		bench_print(bench, BENCH_CP_CPU, variant, rows.cpu, SIDES);
	}
	munmap(guest.memory, RAM_BYTES);
	munmap(guest.replica, RAM_BYTES);
}
