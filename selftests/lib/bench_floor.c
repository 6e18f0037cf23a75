/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: the floor, that is the least code that fetches a missing page from
 * another process: read the fault, send 12 bytes, get 8 + 4096 back, COPY, wake. No
 * checks, no books. Under load a second connection streams pages into the same memory's
 * second half from a thread of its own, in messages of 64 KiB placed by one COPY each.
 */
#include "base/bytes.h"
#include "base/clock.h"
#include "selftests/lib/bench_side.h"
#include "uffd/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BULK_MESSAGE 65536u
#define BULK_BUFFER (256 << 10)

struct floor_end {
	const struct bench_side *side;
	uint8_t *memory;
	int uffd;
	int urgent;
	int bulk;
};

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

static bool get(int fd, void *buf, size_t length)
{
	return recv(fd, buf, length, MSG_WAITALL) == (ssize_t)length;
}

static void place(const struct floor_end *end, uint64_t offset, void *from, uint64_t length)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)end->memory + offset,
		.src = (uintptr_t)from,
		.len = length,
	};
	struct uffdio_range range = { .start = copy.dst, .len = length };

	while (ioctl(end->uffd, UFFDIO_COPY, &copy) < 0 && errno == EAGAIN)
		copy.copy = 0;
	if (copy.copy != (int64_t)length)
		ioctl(end->uffd, UFFDIO_WAKE, &range);
}

static void *bulk_in(void *arg)
{
	static uint8_t message[BULK_MESSAGE];
	struct floor_end *end = arg;
	uint64_t bytes = end->side->load->bytes;

	for (uint64_t at = bytes / 2; at < bytes && get(end->bulk, message, sizeof(message));
	     at += sizeof(message)) {
		place(end, at, message, sizeof(message));
		__atomic_fetch_add(&end->side->shared->bulk_bytes, sizeof(message),
				   __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *bulk_out(void *arg)
{
	struct floor_end *end = arg;
	uint64_t bytes = end->side->load->bytes;

	for (uint64_t at = bytes / 2; at < bytes; at += BULK_MESSAGE)
		if (send(end->bulk, end->memory + at, BULK_MESSAGE, MSG_NOSIGNAL) !=
		    (ssize_t)BULK_MESSAGE)
			break;
	return NULL;
}

static void serve_faults(const struct floor_end *end)
{
	static uint8_t answer[8 + 4096];
	uint8_t request[12] = { 0 };
	struct uffd_msg msg;

	while (read(end->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		uint64_t offset =
			(msg.arg.pagefault.address & ~UINT64_C(4095)) - (uintptr_t)end->memory;

		put_be64(request, offset);
		if (send(end->urgent, request, sizeof(request), MSG_NOSIGNAL) < 0 ||
		    !get(end->urgent, answer, sizeof(answer)))
			break;
		place(end, offset, answer + 8, 4096);
	}
}

static void serve_requests(const struct floor_end *end)
{
	uint8_t request[12], head[8];

	while (get(end->urgent, request, sizeof(request))) {
		uint64_t offset = get_be64(request);
		struct iovec iov[2] = { { head, 8 }, { end->memory + offset, 4096 } };
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

		put_be64(head, offset);
		if (sendmsg(end->urgent, &msg, MSG_NOSIGNAL) < 0)
			break;
	}
}

static void dest_main(struct floor_end *end)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { (uintptr_t)end->memory, end->side->load->bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	pthread_t thread;

	/* Blocking reads: the cheapest way to wait for one thing */
	end->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (end->uffd < 0 || ioctl(end->uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(end->uffd, UFFDIO_REGISTER, &range) < 0)
		_exit(1);
	__atomic_store_n(&end->side->shared->ready_ns, clock_now_ns(), __ATOMIC_RELEASE);
	if (end->side->load->bulk)
		pthread_create(&thread, NULL, bulk_in, end);
	serve_faults(end);
	for (;;)
		pause();
}

static void source_main(struct floor_end *end)
{
	pthread_t thread;

	bench_fill(end->memory, end->side->load->bytes);
	if (end->side->load->bulk)
		pthread_create(&thread, NULL, bulk_out, end);
	serve_requests(end);
	for (;;)
		pause();
}

static pid_t run(struct floor_end *end, void (*body)(struct floor_end *))
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	body(end);
	_exit(1);
}

int floor_start(struct bench_side *side, const struct bench_load *load)
{
	struct floor_end end = { .side = side };
	int urgent[2], bulk[2], fd;

	*side = (struct bench_side){ .load = load, .shared = bench_share() };
	end.memory = bench_map(BENCH_ANON, load->bytes, &fd);
	if (!side->shared || end.memory == MAP_FAILED || pair(load->tcp, urgent) < 0 ||
	    pair(load->tcp, bulk) < 0)
		return -1;
	madvise(end.memory, load->bytes, MADV_NOHUGEPAGE);
	setsockopt(bulk[1], SOL_SOCKET, SO_SNDBUF, &(int){ BULK_BUFFER }, sizeof(int));
	side->base = (uintptr_t)end.memory;
	end.urgent = urgent[0];
	end.bulk = bulk[0];
	side->dest = run(&end, dest_main);
	end.urgent = urgent[1];
	end.bulk = bulk[1];
	side->source = run(&end, source_main);
	for (int i = 0; i < 2; i++) {
		close(urgent[i]);
		close(bulk[i]);
	}
	munmap(end.memory, load->bytes);
	if (bench_wait(side, &side->shared->ready_ns) == 0)
		return 0;
	floor_stop(side);
	return -1;
}

void floor_stop(struct bench_side *side)
{
	bench_kill(&side->source);
	bench_kill(&side->dest);
	bench_unshare(side->shared);
	side->shared = NULL;
}
