/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: the floor, that is the least code that does the same with bare system
 * calls: no checks, no books but of how long a request takes, and nothing of the library.
 *
 * A page that is waited for: read the fault, send 12 bytes, get 8 and the page back, place
 * it, wake. All of the RAM: one thread sends it in order, another places it
 * (bench_floor_place.c). Connections are used as QEMU's wire has it: what is asked for goes
 * back on the one that the bulk comes by, pages that were asked for have one of their own. So
 * over TCP neither way carries the acknowledgements of the other. There are two threads at
 * each end, as there are with the library, and they run where the library's do
 * (bench_floor_follow.c). Of more threads that serve faults each has its own connection, both ways.
 */
#include "base/bytes.h"
#include "base/clock.h"
#include "selftests/lib/bench_floor.h"

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

/* What is urgent does not stand behind more than this in the sender's kernel */
#define BULK_BUFFER (256 << 10)
#define BATCH 32
#define REQUEST_BYTES 12

/* Two connected stream sockets, as two processes would have them */
static int pair(bool tcp, int fds[2])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int one = 1, listener;

	if (!tcp)
		return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&at, length) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &length) < 0 ||
	    connect(fds[0], (struct sockaddr *)&at, length) < 0)
		return -1;
	fds[1] = accept(listener, NULL, NULL);
	close(listener);
	for (int i = 0; i < 2; i++)
		setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fds[1] < 0 ? -1 : 0;
}

static void wait_for(const uint64_t *at)
{
	const struct timespec nap = { .tv_nsec = 50000 };

	while (!__atomic_load_n(at, __ATOMIC_ACQUIRE))
		nanosleep(&nap, NULL);
}

static void *bulk_in(void *arg)
{
	struct floor_dest *dest = arg;
	uint64_t bytes = dest->load->bytes, piece = floor_piece(dest);

	for (uint64_t at = 0; at < bytes; at += piece) {
		if (recv(dest->bulk, floor_room(dest, at), piece, MSG_WAITALL) != (ssize_t)piece)
			return NULL;
		floor_place(dest, at);
	}
	bench_stamp(&dest->shared->done_ns);
	return NULL;
}

static uint64_t offset_of(const struct floor_dest *dest, const struct uffd_msg *msg)
{
	uint64_t page = bench_page(dest->load->memory);

	return (msg->arg.pagefault.address & ~(page - 1)) - (uintptr_t)dest->memory;
}

/* As many as there are at once; they are answered in order */
static void serve_faults(struct floor_dest *dest)
{
	uint64_t page = bench_page(dest->load->memory);
	uint8_t request[BATCH][REQUEST_BYTES] = { 0 }, head[8] = { 0 };
	struct uffd_msg msg[BATCH];
	/* what one takes, the others cannot serve */
	size_t most = dest->load->workers ? sizeof(msg[0]) : sizeof(msg);
	ssize_t n;

	floor_hurry();
	while ((n = read(dest->uffd, msg, most) / (ssize_t)sizeof(msg[0])) > 0) {
		size_t bytes = (size_t)n * REQUEST_BYTES;

		bench_hop(dest->shared, BENCH_HOP_FAULT);
		for (ssize_t i = 0; i < n; i++)
			put_be64(request[i], offset_of(dest, &msg[i]));
		bench_hop(dest->shared, BENCH_HOP_REQUEST);
		if (send(dest->asks, request, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
			return;
		floor_follow(dest, msg[0].arg.pagefault.feat.ptid);
		for (ssize_t i = 0; i < n; i++) {
			uint64_t offset = offset_of(dest, &msg[i]);
			struct iovec iov[2] = { { head, 8 },
						{ floor_page_room(dest, offset), page } };
			struct msghdr answer = { .msg_iov = iov, .msg_iovlen = 2 };

			if (recvmsg(dest->urgent, &answer, MSG_WAITALL) != (ssize_t)(8 + page))
				return;
			bench_hop(dest->shared, BENCH_HOP_ARRIVED);
			floor_place_page(dest, offset);
			bench_hop(dest->shared, BENCH_HOP_PLACED);
		}
	}
}

static void *worker_main(void *arg)
{
	serve_faults(arg);
	return NULL;
}

/* All but the first, which is this thread */
static int start_workers(const struct floor_dest *dest, const int *urgent)
{
	static struct floor_dest own[FLOOR_WORKERS];
	pthread_t thread;

	for (unsigned i = 1; i < dest->load->workers; i++) {
		own[i] = *dest;
		own[i].asks = own[i].urgent = urgent[i];
		own[i].page = aligned_alloc(4096, 4096);
		if (!own[i].page || pthread_create(&thread, NULL, worker_main, &own[i]) != 0)
			return -1;
	}
	return 0;
}

static void dest_main(struct bench_side *side, struct floor_dest *dest, const int *urgent)
{
	pthread_t thread;

	if (floor_prepare(dest) < 0 || (side->load->postcopy && floor_arm(dest) < 0))
		_exit(1);
	if (bench_touch(side, dest->memory) < 0 ||
	    pthread_create(&thread, NULL, bulk_in, dest) != 0 || start_workers(dest, urgent) < 0)
		_exit(1);
	bench_stamp(&side->shared->ready_ns);
	if (side->load->postcopy)
		serve_faults(dest);
	for (;;)
		pause();
}

struct source {
	const struct bench_load *load;
	struct bench_shared *shared;
	uint8_t *memory;
	int asked;
	int urgent;
	int bulk;
};

static void *bulk_out(void *arg)
{
	const struct source *source = arg;
	uint64_t bytes = source->load->bytes;

	for (uint64_t at = 0; at < bytes;) {
		uint64_t rest = bytes - at < FLOOR_HUGE ? bytes - at : FLOOR_HUGE;
		ssize_t sent = send(source->bulk, source->memory + at, rest, MSG_NOSIGNAL);

		if (sent < 0)
			break;
		at += (uint64_t)sent;
	}
	return NULL;
}

static void *serve_requests(void *arg)
{
	const struct source *source = arg;
	uint64_t page = bench_page(source->load->memory);
	uint8_t request[REQUEST_BYTES], head[8] = { 0 };
	uint64_t taken_ns;

	floor_hurry();
	while (recv(source->asked, request, sizeof(request), MSG_WAITALL) == sizeof(request)) {
		uint64_t offset = get_be64(request);
		struct iovec iov[2] = { { head, 8 }, { source->memory + offset, page } };
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

		taken_ns = clock_now_ns();
		bench_hop(source->shared, BENCH_HOP_TAKEN);
		put_be64(head, offset);
		bench_hop(source->shared, BENCH_HOP_SERVED);
		if (sendmsg(source->urgent, &msg, MSG_NOSIGNAL) < 0)
			break;
		hist_add(&source->shared->served, clock_now_ns() - taken_ns);
	}
	return NULL;
}

static void source_main(struct source *source, const int *urgent)
{
	static struct source own[FLOOR_WORKERS];
	pthread_t thread;

	bench_fill(source->memory, source->load->piece ? source->load->piece : source->load->bytes);
	bench_stamp(&source->shared->ready_ns);
	wait_for(&source->shared->go);
	bench_stamp(&source->shared->begin_ns);
	bench_stamp(&source->shared->postcopy_ns);
	if (source->load->bulk)
		pthread_create(&thread, NULL, bulk_out, source);
	for (unsigned i = 1; i < source->load->workers; i++) {
		own[i] = *source;
		own[i].asked = own[i].urgent = urgent[i];
		pthread_create(&thread, NULL, serve_requests, &own[i]);
	}
	serve_requests(source);
	for (;;)
		pause();
}

static int start_dest(struct bench_side *side, const int *urgent, int bulk)
{
	struct floor_dest dest = { .load = side->load, .shared = side->shared, .cpu = -1 };

	dest.memory = bench_map(side->load, false, &dest.fd);
	if (dest.memory == MAP_FAILED)
		return -1;
	dest.urgent = urgent[0];
	dest.bulk = bulk;
	dest.asks = side->load->workers ? urgent[0] : bulk;
	side->base = (uintptr_t)dest.memory;
	side->dest = bench_fork();
	if (side->dest == 0) {
		dest_main(side, &dest, urgent);
		_exit(1);
	}
	munmap(dest.memory, side->load->bytes);
	if (dest.fd >= 0)
		close(dest.fd);
	return bench_wait(side, &side->shared->ready_ns);
}

static int start_source(struct bench_side *side, const int *urgent, int bulk)
{
	struct source source = { .load = side->load, .shared = side->shared };
	int fd;

	source.memory = bench_map(side->load, true, &fd);
	if (source.memory == MAP_FAILED)
		return -1;
	source.urgent = urgent[0];
	source.bulk = bulk;
	source.asked = side->load->workers ? urgent[0] : bulk;
	side->shared->ready_ns = 0;
	side->source = bench_fork();
	if (side->source == 0) {
		source_main(&source, urgent);
		_exit(1);
	}
	munmap(source.memory, side->load->bytes);
	if (fd >= 0)
		close(fd);
	return bench_wait(side, &side->shared->ready_ns);
}

static int floor_start(struct bench_side *side)
{
	unsigned workers = side->load->workers ? side->load->workers : 1;
	int here[FLOOR_WORKERS], there[FLOOR_WORKERS], bulk[2], fds[2], ret = 0;

	if (pair(side->load->tcp, bulk) < 0)
		ret = -1;
	for (unsigned i = 0; ret == 0 && i < workers; i++) {
		ret = pair(side->load->tcp, fds);
		here[i] = fds[0];
		there[i] = fds[1];
	}
	if (ret < 0) {
		snprintf(side->why, sizeof(side->why), "no sockets");
		return -1;
	}
	if (side->load->postcopy)
		setsockopt(bulk[1], SOL_SOCKET, SO_SNDBUF, &(int){ BULK_BUFFER }, sizeof(int));
	ret = start_dest(side, here, bulk[0]);
	if (ret == 0)
		ret = start_source(side, there, bulk[1]);
	if (ret < 0 && !side->why[0])
		snprintf(side->why, sizeof(side->why), "no memory");
	for (unsigned i = 0; i < workers; i++) {
		close(here[i]);
		close(there[i]);
	}
	close(bulk[0]);
	close(bulk[1]);
	return ret;
}

static int floor_go(struct bench_side *side)
{
	bench_stamp(&side->shared->go);
	return bench_wait(side, &side->shared->begin_ns);
}

static int floor_done(struct bench_side *side)
{
	return bench_wait(side, &side->shared->done_ns);
}

static void floor_stop(struct bench_side *side)
{
	bench_kill(&side->source);
	bench_kill(&side->dest);
}

const struct bench_kind bench_floor = {
	.start = floor_start,
	.go = floor_go,
	.done = floor_done,
	.stop = floor_stop,
};
