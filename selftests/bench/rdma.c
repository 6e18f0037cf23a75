/* SPDX-License-Identifier: MIT */
/*
 * All of a guest's RAM by precopy over RDMA, with no guest running, from before the connection to the
 * end; and what was registered and said for it. The floor is perftest's ib_write_bw with writes of
 * 1 MiB, as ours are at most; where every second MiB is zeros it has half of them to write.
 *
 * Then what a missing page costs that is fetched in postcopy, from the touch to the byte, as in fault.c,
 * over the same cable: read, asked for, and over TCP. The floor is ib_read_lat, which polls and has neither a
 * fault nor a place for what it reads; the next rows are the same with events, and with both.
 *
 * WH_RDMA is the address of an RDMA device of this machine. Without it the program runs itself in a VM
 * that has two.
 */
#include "rdma/link.h"
#include "rdma/memory.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_guard.h"
#include "selftests/lib/bench_side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define LAB "selftests/bench/in-lab"
#define NO_LAB 122
#define SIDES 4

static const struct {
	const char *name;
	const struct bench_kind *kind; /* NULL: perftest */
} sides[SIDES] = {
	{ "floor", NULL },
	{ "wherry", &bench_wherry },
	{ "QEMU 7.2", &bench_qemu },
	{ "QEMU 7.2 into wherry", &bench_from_qemu },
};

/* Of a destination of ours; both ends look into the same */
static struct counts {
	uint64_t keys;
	uint64_t messages;
} * counts;

static void count(uint64_t *what)
{
	__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

/* The library's own, and what it calls is counted here (selftests/bench/build.mk) */
int __real_vlink_send(struct vlink *link, size_t bytes, struct wh_err *err);
int __wrap_vlink_send(struct vlink *link, size_t bytes, struct wh_err *err);
int __real_vlink_received(struct vlink *link, const uint8_t **at, size_t *bytes,
			  struct wh_err *err);
int __wrap_vlink_received(struct vlink *link, const uint8_t **at, size_t *bytes,
			  struct wh_err *err);
int __real_vmem_grant(struct vmem *vmem, unsigned block, uint64_t chunk, uint32_t *key,
		      struct wh_err *err);
int __wrap_vmem_grant(struct vmem *vmem, unsigned block, uint64_t chunk, uint32_t *key,
		      struct wh_err *err);
int __real_vmem_grant_whole(struct vmem *vmem, unsigned block, uint32_t *key, struct wh_err *err);
int __wrap_vmem_grant_whole(struct vmem *vmem, unsigned block, uint32_t *key, struct wh_err *err);

int __wrap_vlink_send(struct vlink *link, size_t bytes, struct wh_err *err)
{
	if (!link->calling)
		count(&counts->messages);
	return __real_vlink_send(link, bytes, err);
}

int __wrap_vlink_received(struct vlink *link, const uint8_t **at, size_t *bytes, struct wh_err *err)
{
	int ret = __real_vlink_received(link, at, bytes, err);

	if (ret > 0 && !link->calling)
		count(&counts->messages);
	return ret;
}

int __wrap_vmem_grant(struct vmem *vmem, unsigned block, uint64_t chunk, uint32_t *key,
		      struct wh_err *err)
{
	uint64_t before = vmem->bytes;
	int ret = __real_vmem_grant(vmem, block, chunk, key, err);

	if (!vmem->local && vmem->bytes > before)
		count(&counts->keys);
	return ret;
}

int __wrap_vmem_grant_whole(struct vmem *vmem, unsigned block, uint32_t *key, struct wh_err *err)
{
	if (!vmem->local)
		count(&counts->keys);
	return __real_vmem_grant_whole(vmem, block, key, err);
}

/* ---- perftest --------------------------------------------------------------------- */

/* That column of the line that begins with the length; 0: there is none */
static double read_column(FILE *output, unsigned long length, unsigned column)
{
	char line[256], *at, *end;
	double value = 0;

	while (fgets(line, sizeof(line), output)) {
		if (strtoul(line, &at, 10) != length || at == line)
			continue;
		for (unsigned i = 0; i < column; i++, at = end) {
			value = strtod(at, &end);
			if (at == end)
				return 0;
		}
	}
	return value;
}

/* @words: the program and its options, of both ends */
static double run_perftest(const struct bench_load *load, const char *words, unsigned long length,
			   unsigned column)
{
	char server[160], client[200];
	FILE *pipe[2];
	double value;

	/* whose client finds no way to it waits for ever */
	snprintf(server, sizeof(server), "exec timeout 60 %.100s 2>&1", words);
	snprintf(client, sizeof(client),
		 "exec 2>&1; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; %.100s %.32s && break; done",
		 words, load->rdma);
	pipe[0] = popen(server, "re");
	pipe[1] = popen(client, "re");
	value = pipe[1] ? read_column(pipe[1], length, column) : 0;
	if (pipe[1])
		pclose(pipe[1]);
	if (pipe[0])
		pclose(pipe[0]);
	return value;
}

/* Behind the length: how many, peak, average in MiB/s */
static void perftest(const struct bench_load *load, struct bench_row *row)
{
	char words[80];
	double rate;

	snprintf(words, sizeof(words), "ib_write_bw -R -F -s %llu -n %llu", (unsigned long long)MIB,
		 (unsigned long long)(load->bytes / MIB));
	rate = run_perftest(load, words, MIB, 3) * (double)MIB / 1e9;
	if (rate > 0)
		bench_add(row, load->zeros ? 2 * rate : rate);
	else
		snprintf(row->why, sizeof(row->why), "ib_write_bw gives no figure");
}

/* ---- Ours, and QEMU --------------------------------------------------------------- */

struct rows {
	struct bench_row rate[SIDES], keys[SIDES], messages[SIDES];
};

static void attempt(unsigned which, const struct bench_load *load, struct rows *rows)
{
	double gib = (double)load->bytes / (1 << 30);
	struct bench_side side;

	if (!sides[which].kind) {
		perftest(load, &rows->rate[which]);
		return;
	}
	*counts = (struct counts){ 0 };
	if (bench_start(&side, sides[which].kind, load) == 0) {
		if (bench_go(&side) == 0 && bench_done(&side) == 0) {
			bench_add(&rows->rate[which], bench_rate(&side));
			if (sides[which].kind != &bench_qemu) {
				bench_add(&rows->keys[which], (double)counts->keys / gib);
				bench_add(&rows->messages[which], (double)counts->messages / gib);
			}
		}
		bench_stop(&side);
	}
	snprintf(rows->rate[which].why, sizeof(rows->rate[which].why), "%s", side.why);
}

static void measure(const struct bench *bench, const struct bench_load *load)
{
	struct rows rows = { 0 };
	char variant[128];

	for (unsigned i = 0; i < SIDES; i++)
		rows.rate[i].side = rows.keys[i].side = rows.messages[i].side = sides[i].name;
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < SIDES; i++)
			if (bench_wants(bench, sides[i].name))
				attempt(i, load, &rows);
	snprintf(variant, sizeof(variant), "%llu MiB, %s%s",
		 (unsigned long long)(load->bytes / MIB),
		 load->pin_all ? "pinned as a whole" : "by chunks",
		 load->zeros ? ", half of it zeros" : "");
	bench_print(bench, BENCH_RDMA_RATE, variant, rows.rate, SIDES);
	/* of what is not ours nobody counts them; what an end of ours has to do with is behind that */
	rows.keys[2] = rows.keys[3];
	rows.messages[2] = rows.messages[3];
	bench_print(bench, BENCH_RDMA_KEYS, variant, &rows.keys[1], 2);
	bench_print(bench, BENCH_RDMA_MESSAGES, variant, &rows.messages[1], 2);
}

/* ---- Pages that are waited for ----------------------------------------------------- */

#define TOUCHES 1000
#define POLLING_NS (2 * NS_PER_MS) /* where a processor is emulated a read takes so long */

static const struct {
	const char *name;
	const char *perftest;
	const struct bench_kind *kind;
	uint64_t spin_ns;
	bool asked, tcp;
	bool in_quick;
} fault_sides[] = {
	{ .name = "floor", .perftest = "ib_read_lat -R -F -s 4096 -n 1000", .in_quick = true },
	{ .name = "floor, events", .perftest = "ib_read_lat -e -R -F -s 4096 -n 1000" },
	{ .name = "floor, a fault", .kind = &bench_floor_rdma, .in_quick = true },
	{ .name = "wherry", .kind = &bench_wherry, .in_quick = true },
	{ .name = "wherry, polling", .kind = &bench_wherry, .spin_ns = POLLING_NS },
	{ .name = "wherry, asked for", .kind = &bench_wherry, .asked = true },
	{ .name = "wherry, TCP", .kind = &bench_wherry, .tcp = true },
};

#define FAULT_SIDES (sizeof(fault_sides) / sizeof(fault_sides[0]))

/* Behind the length: how many, least, most, typical in us */
static void read_latency(const struct bench_load *load, const char *words, struct bench_row *row)
{
	double us = run_perftest(load, words, 4096, 4);

	if (us > 0)
		bench_add(row, us);
	else
		snprintf(row->why, sizeof(row->why), "ib_read_lat gives no figure");
}

static void fetch(const struct bench_kind *kind, const struct bench_load *load, size_t touches,
		  unsigned seed, struct bench_row *row)
{
	static double touched[TOUCHES];
	struct bench_side side;
	size_t count = 0;

	if (bench_start(&side, kind, load) == 0) {
		if (bench_go(&side) == 0)
			count = bench_touch_remotely(&side, touched, touches, seed);
		bench_stop(&side);
	}
	snprintf(row->why, sizeof(row->why), "%s", side.why);
	if (count)
		bench_add(row, bench_quantile(touched, count, 0.5));
}

static void measure_faults(const struct bench *bench, const struct bench_load *like)
{
	struct bench_row rows[FAULT_SIDES] = { 0 };
	struct bench_load load = *like;
	char variant[64];

	load.postcopy = load.urgent = true;
	load.bulk = false;
	for (unsigned i = 0; i < FAULT_SIDES; i++)
		rows[i].side = fault_sides[i].name;
	for (unsigned round = 0; bench_again(round); round++)
		for (unsigned i = 0; i < FAULT_SIDES; i++) {
			if (!bench_wants(bench, fault_sides[i].name))
				continue;
			if (bench->quick && !fault_sides[i].in_quick) {
				snprintf(rows[i].why, sizeof(rows[i].why), "left out by --quick");
				continue;
			}
			load.spin_ns = fault_sides[i].spin_ns;
			load.asked = fault_sides[i].asked;
			load.tcp = fault_sides[i].tcp;
			if (fault_sides[i].perftest)
				read_latency(&load, fault_sides[i].perftest, &rows[i]);
			else
				fetch(fault_sides[i].kind, &load,
				      bench->quick ? TOUCHES / 4 : TOUCHES, round + 1, &rows[i]);
		}
	snprintf(variant, sizeof(variant), "%llu MiB, idle",
		 (unsigned long long)(load.bytes / MIB));
	bench_print(bench, BENCH_RDMA_FAULT, variant, rows, FAULT_SIDES);
}

/* What the host has to find for its VM first, memory and code, is not looked at */
static void warm(const struct bench_load *load)
{
	struct bench_load little = *load;
	struct bench_row row = { 0 };
	uint64_t bytes = 4 * load->bytes;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory != MAP_FAILED)
		munmap(memory, bytes);
	little.bytes = 16 * MIB;
	perftest(&little, &row);
}

/* Return: what the program ends with */
static int in_lab(char **argv)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		char **words = calloc(64, sizeof(*words));

		if (!words)
			_exit(1);
		words[0] = strdup(LAB);
		for (unsigned i = 0; i < 62 && argv[i]; i++)
			words[i + 1] = argv[i];
		execv(LAB, words);
		perror(LAB);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_LAB) {
		printf("rdma: not measured, there is no VM for it\n");
		return 0;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
	struct bench_load load = bench_load_default;
	struct bench bench;

	load.rdma = getenv("WH_RDMA");
	if (!load.rdma)
		return in_lab(argv);
	bench_begin(&bench, "rdma", argc, argv);
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (counts == MAP_FAILED)
		return 1;
	load.postcopy = false;
	load.urgent = false;
	load.cold = true;
	load.bytes = bench.bytes;
	warm(&load);
	for (unsigned i = 0; i < 3; i++) {
		if (bench.quick && i == 1)
			continue;
		load.pin_all = i == 2;
		load.zeros = i == 1;
		bench_part(1, 5 - i); /* the last ones are the faults, and the checkpoints */
		measure(&bench, &load);
	}
	bench_part(1, 2);
	load.pin_all = load.zeros = false;
	measure_faults(&bench, &load);
	bench_guard(&bench, load.rdma);
	return 0;
}
