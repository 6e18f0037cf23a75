/* SPDX-License-Identifier: MIT */
/*
 * What a broken link costs: until both ends have noticed, and from the order to recover until a
 * thread of the guest has the page that it waits for. Both ends are in this process; the link
 * is a pair of sockets, which is broken by shutdown(). And what the processor does with the
 * bitmaps that are said meanwhile.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "recover/received.h"
#include "selftests/lib/bench.h"
#include "wire/bitmap.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define MIB (UINT64_C(1) << 20)
#define FILLED (64 * MIB) /* of the source's memory: pages with contents are asked for there */
#define WAIT_NS (20 * NS_PER_S)
#define HANDSHAKE_MS 5.0
#define TRIPS 3

static void die(const char *what, const struct wh_err *err)
{
	fprintf(stderr, "recover: %s: %s\n", what, err ? err->text : "failed");
	exit(1);
}

/* Two connected sockets */
static void link_open(bool tcp, int fds[2])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int one = 1, fd;

	if (!tcp) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
			die("socketpair", NULL);
		return;
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || fds[0] < 0 || bind(fd, (struct sockaddr *)&at, length) < 0 ||
	    listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)&at, &length) < 0 ||
	    connect(fds[0], (struct sockaddr *)&at, length) < 0 ||
	    (fds[1] = accept(fd, NULL, NULL)) < 0)
		die("loopback", NULL);
	for (unsigned i = 0; i < 2; i++)
		setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	close(fd);
}

enum {
	SOURCE,
	DEST,
	ENDS
};

/**
 * struct pair - A migration in postcopy, nearly all of whose pages are missing
 * @cut:	One end of the link: both hear when it is shut down
 * @paused_ns:	When each end said so
 */
struct pair {
	bool tcp;
	uint64_t bytes;
	uint8_t *memory[ENDS];
	struct wh_migration *end[ENDS];
	int cut;
	uint64_t paused_ns[ENDS];
	uint64_t page; /* the next to be touched */
};

struct end {
	struct pair *pair;
	unsigned side;
};

static void on_event(void *opaque, const struct wh_event *event)
{
	struct end *end = opaque;

	if (event->kind == WH_EVENT_PHASE && event->phase == WH_PHASE_PAUSED)
		__atomic_store_n(&end->pair->paused_ns[end->side], clock_now_ns(),
				 __ATOMIC_RELEASE);
}

static const struct wh_callbacks callbacks = { .event = on_event };

static void nap(void)
{
	static const struct timespec some = { .tv_nsec = 200000 };

	nanosleep(&some, NULL);
}

static void wait_phase(struct pair *pair, enum wh_phase phase)
{
	uint64_t until = clock_now_ns() + WAIT_NS;

	for (unsigned side = 0; side < ENDS; side++)
		while (wh_get_phase(pair->end[side]) != phase) {
			if (clock_now_ns() > until)
				die(wh_phase_name(phase), NULL);
			nap();
		}
}

static void end_open(struct pair *pair, struct end *end, int fd)
{
	struct wh_block block = {
		.name = "ram",
		.length = pair->bytes,
		.page_size = 4096,
		.fd = -1,
	};
	bool source = end->side == SOURCE;
	struct wh_err err = { 0 };
	struct wh_config config;
	char uri[32];
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = end;
	config.urgent = WH_URGENT_OFF;
	config.bandwidth = config.postcopy_bandwidth = MIB; /* what is touched is missing */
	config.downtime_ns = 1;
	block.addr = mmap(NULL, pair->bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (block.addr == MAP_FAILED)
		die("memory", NULL);
	pair->memory[end->side] = block.addr;
	for (uint64_t at = 0; source && at < FILLED; at += sizeof(at))
		memcpy(pair->memory[SOURCE] + at, &(uint64_t){ at + 1 }, sizeof(at));
	snprintf(uri, sizeof(uri), "fd:%d", fd);
	ret = wh_new(&pair->end[end->side], source ? WH_SOURCE : WH_DEST, &config, &err);
	if (!ret)
		ret = wh_add_block(pair->end[end->side], &block, &err);
	if (!ret)
		ret = source ? wh_connect(pair->end[SOURCE], uri, &err) :
			       wh_listen(pair->end[DEST], uri, &err);
	if (!ret)
		ret = wh_start(pair->end[end->side], &err);
	if (!ret && source)
		ret = wh_start_postcopy(pair->end[SOURCE], &err);
	if (ret)
		die("starting", &err);
}

static int keep(struct pair *pair, int fds[2])
{
	pair->cut = dup(fds[SOURCE]);
	return pair->cut < 0 ? -1 : 0;
}

static void *touch(void *arg)
{
	struct pair *pair = arg;
	uint64_t word;

	memcpy(&word, pair->memory[DEST] + pair->page, sizeof(word));
	if (word != pair->page + 1)
		die("a page is wrong", NULL);
	return (void *)(uintptr_t)clock_now_ns();
}

/* ms until both ends have noticed */
static double break_link(struct pair *pair)
{
	struct wh_err err = { 0 };
	uint64_t begin_ns, end_ns;

	pair->paused_ns[SOURCE] = pair->paused_ns[DEST] = 0;
	begin_ns = clock_now_ns();
	shutdown(pair->cut, SHUT_RDWR);
	wait_phase(pair, WH_PHASE_PAUSED);
	for (unsigned side = 0; side < ENDS; side++)
		(void)wh_wait(pair->end[side], (int64_t)WAIT_NS, &err);
	close(pair->cut);
	end_ns = pair->paused_ns[SOURCE] > pair->paused_ns[DEST] ? pair->paused_ns[SOURCE] :
								   pair->paused_ns[DEST];
	return (double)(end_ns - begin_ns) / 1e6;
}

/* ms from the order to the destination until a thread that waits has its page */
static double mend_link(struct pair *pair)
{
	struct wh_err err = { 0 };
	uint64_t begin_ns;
	char uri[ENDS][32];
	pthread_t thread;
	void *end_ns;
	int fds[2];

	pair->page += 97 * 4096;
	if (pthread_create(&thread, NULL, touch, pair))
		die("a thread", NULL);
	nap();
	nap();
	link_open(pair->tcp, fds);
	if (keep(pair, fds) < 0)
		die("dup", NULL);
	for (unsigned side = 0; side < ENDS; side++)
		snprintf(uri[side], sizeof(uri[side]), "fd:%d", fds[side]);
	begin_ns = clock_now_ns();
	if (wh_recover(pair->end[DEST], uri[DEST], &err) ||
	    wh_resume(pair->end[SOURCE], uri[SOURCE], &err))
		die("recovering", &err);
	pthread_join(thread, &end_ns);
	wait_phase(pair, WH_PHASE_POSTCOPY);
	return (double)((uint64_t)(uintptr_t)end_ns - begin_ns) / 1e6;
}

/* The least there is to a break: a thread that reads hears of it */
static void *hear(void *arg)
{
	char byte;

	while (read(*(int *)arg, &byte, 1) > 0)
		if (write(*(int *)arg, &byte, 1) != 1)
			break;
	return (void *)(uintptr_t)clock_now_ns();
}

/* @break_ms: until the other thread has heard; @trip_ms: there and back */
static void floor_link(bool tcp, double *break_ms, double *trip_ms)
{
	uint64_t begin_ns;
	pthread_t thread;
	void *end_ns;
	char byte = 0;
	int fds[2];

	link_open(tcp, fds);
	if (pthread_create(&thread, NULL, hear, &fds[1]))
		die("a thread", NULL);
	for (unsigned i = 0; i < 8; i++) {
		nap();
		begin_ns = clock_now_ns();
		if (write(fds[0], &byte, 1) != 1 || read(fds[0], &byte, 1) != 1)
			die("a round trip", NULL);
		*trip_ms = (double)(clock_now_ns() - begin_ns) / 1e6;
	}
	nap();
	begin_ns = clock_now_ns();
	shutdown(fds[0], SHUT_RDWR);
	pthread_join(thread, &end_ns);
	*break_ms = (double)((uint64_t)(uintptr_t)end_ns - begin_ns) / 1e6;
	close(fds[0]);
	close(fds[1]);
}

static void measure_link(const struct bench *bench, bool tcp)
{
	struct bench_row paused[] = { { .side = "floor" }, { .side = "wherry" } };
	struct bench_row served[] = { { .side = "5 ms + 3 round trips" }, { .side = "wherry" } };
	struct pair pair = { .tcp = tcp };
	struct end ends[ENDS] = { { &pair, SOURCE }, { &pair, DEST } };
	double break_ms = 0, trip_ms = 0;
	char variant[64];
	int fds[2];

	pair.bytes = bench->bytes;
	link_open(tcp, fds);
	if (keep(&pair, fds) < 0)
		die("dup", NULL);
	end_open(&pair, &ends[DEST], fds[DEST]);
	end_open(&pair, &ends[SOURCE], fds[SOURCE]);
	wait_phase(&pair, WH_PHASE_POSTCOPY);
	for (unsigned round = 0; bench_again(round); round++) {
		floor_link(tcp, &break_ms, &trip_ms);
		bench_add(&paused[0], break_ms);
		bench_add(&served[0], HANDSHAKE_MS + TRIPS * trip_ms);
		bench_add(&paused[1], break_link(&pair));
		bench_add(&served[1], mend_link(&pair));
	}
	snprintf(variant, sizeof(variant), "%s, %.3g GiB", tcp ? "tcp" : "unix",
		 (double)pair.bytes / (double)(1024 * MIB));
	bench_print(bench, BENCH_BREAK, variant, paused, 2);
	bench_print(bench, BENCH_RECOVERY, variant, served, 2);
	/* in the middle of it: pages are missing, and what waits for them is in no thread */
	for (unsigned side = 0; side < ENDS; side++) {
		wh_free(pair.end[side]);
		munmap(pair.memory[side], pair.bytes);
	}
	close(pair.cut);
}

static double rate(uint64_t bytes, unsigned times, uint64_t begin_ns)
{
	return (double)(bytes * times) / (double)(clock_now_ns() - begin_ns);
}

static void measure_bitmap(const struct bench *bench, uint64_t ram)
{
	struct bench_row rows[] = { { .side = "floor" },
				    { .side = "bitmap_put()" },
				    { .side = "inversion" },
				    { .side = "bitmap_get(), inverted" } };
	uint64_t pages = ram / 4096, bytes = bitmap_bytes(pages);
	unsigned times = (unsigned)(256 * MIB / bytes);
	uint64_t *map = malloc(bytes), *other = malloc(bytes);
	uint8_t *frame = malloc(bytes + BITMAP_FRAME);
	struct wh_err err = { 0 };
	char variant[64];
	size_t used;

	if (!map || !other || !frame)
		die("memory", NULL);
	memset(map, 0xa5, bytes);
	memset(other, 0, bytes);
	for (unsigned round = 0; bench_again(round); round++) {
		uint64_t begin_ns = clock_now_ns();

		for (unsigned i = 0; i < times; i++) {
			memcpy(frame, map, bytes);
			__asm__ volatile("" ::"r"(frame) : "memory");
		}
		bench_add(&rows[0], rate(bytes, times, begin_ns));
		begin_ns = clock_now_ns();
		for (unsigned i = 0; i < times; i++)
			(void)bitmap_put(frame, map, pages);
		bench_add(&rows[1], rate(bytes, times, begin_ns));
		begin_ns = clock_now_ns();
		for (unsigned i = 0; i < times; i++)
			received_invert(other, other, pages, 1);
		bench_add(&rows[2], rate(bytes, times, begin_ns));
		begin_ns = clock_now_ns();
		for (unsigned i = 0; i < times; i++) {
			if (bitmap_get(frame, bytes + BITMAP_FRAME, &used, other, pages, &err) != 1)
				die("a bitmap", &err);
			received_invert(other, other, pages, 1);
		}
		bench_add(&rows[3], rate(bytes, times, begin_ns));
		if (other[0] != ~map[0] || other[pages / 64 - 1] != ~map[pages / 64 - 1])
			die("the inversion is wrong", NULL);
	}
	snprintf(variant, sizeof(variant), "of %.3g GiB", (double)ram / (double)(1024 * MIB));
	bench_print(bench, BENCH_BITMAP_RATE, variant, rows, 4);
	free(map);
	free(other);
	free(frame);
}

int main(int argc, char **argv)
{
	struct bench bench;

	bench_begin(&bench, "recover", argc, argv);
	for (unsigned i = 0; i < 4; i++) {
		bench_part(1, 4 - i);
		if (i >= 2)
			measure_bitmap(&bench, i == 2 ? 4096 * MIB : 1024 * 1024 * MIB);
		else if (bench_chosen(bench.link, i ? "tcp" : "unix"))
			measure_link(&bench, i);
	}
	return 0;
}
