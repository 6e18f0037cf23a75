/* SPDX-License-Identifier: MIT */
#include "selftests/lib/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAIRS_MAX 4
#define PIECE_BYTES 65536
#define STALL_BUFFER 65536

/* One direction: bytes that were read and not written yet */
struct flow {
	size_t have;
	size_t done;
	bool ended; /* the reader's end said so; told on once all is written */
	bool told;
	char bytes[PIECE_BYTES];
};

struct pair {
	int fd[2]; /* 0: the source's, 1: the destination's; -1 */
	struct flow flow[2];
};

union address {
	struct sockaddr any;
	struct sockaddr_in tcp;
	struct sockaddr_un local;
};

struct proxy {
	struct proxy_script script;
	union address to;
	socklen_t to_length;
	char uri[128];
	int listen_fd;
	int wake_fd;
	pthread_t thread;
	uint64_t bytes;	     /* atomic */
	uint64_t back_bytes; /* atomic */
	bool cut;	     /* atomic: asked for */
	bool end;	     /* atomic */
	bool is_cut;
	unsigned cuts; /* atomic */
	unsigned pairs;
	struct pair pair[PAIRS_MAX];
};

static void pair_open(struct proxy *proxy)
{
	int fd = accept4(proxy->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct pair *pair;
	int one = 1;

	if (fd < 0)
		return;
	if (proxy->pairs == PAIRS_MAX || proxy->is_cut) {
		close(fd);
		return;
	}
	pair = &proxy->pair[proxy->pairs++];
	memset(pair, 0, sizeof(*pair));
	pair->fd[0] = fd;
	pair->fd[1] = socket(proxy->to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(pair->fd[1], &proxy->to.any, proxy->to_length) < 0) {
		if (proxy->script.heals) {
			/* not yet: as if nobody were here either */
			close(pair->fd[0]);
			close(pair->fd[1]);
			proxy->pairs--;
			return;
		}
		perror("proxy: connect");
	}
	for (unsigned i = 0; i < 2; i++) {
		setsockopt(pair->fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		fcntl(pair->fd[i], F_SETFL, O_NONBLOCK);
	}
}

static void cut(struct proxy *proxy)
{
	proxy->is_cut = true;
	if (proxy->script.stall)
		return;
	for (unsigned i = 0; i < proxy->pairs; i++)
		for (unsigned d = 0; d < 2; d++) {
			if (proxy->pair[i].fd[d] >= 0)
				close(proxy->pair[i].fd[d]);
			proxy->pair[i].fd[d] = -1;
		}
	if (proxy->script.heals) {
		proxy->pairs = 0;
		proxy->is_cut = false;
		__atomic_store_n(&proxy->cut, false, __ATOMIC_RELEASE);
	}
}

/* Of @room bytes that could be read now, how many before the cut */
static size_t allowed(const struct proxy *proxy, unsigned from, size_t room)
{
	uint64_t at = from ? proxy->script.cut_back_at : proxy->script.cut_at;
	uint64_t left = at - (from ? proxy->back_bytes : proxy->bytes);

	return at && left < room ? (size_t)left : room;
}

static void flow_read(struct proxy *proxy, struct pair *pair, unsigned from)
{
	struct flow *flow = &pair->flow[from];
	size_t piece = proxy->script.slow ? proxy->script.slow : PIECE_BYTES;
	ssize_t n = recv(pair->fd[from], flow->bytes, allowed(proxy, from, piece), 0);

	if (proxy->script.slow)
		usleep(1000);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		flow->ended = true;
		return;
	}
	if (from == 0)
		__atomic_fetch_add(&proxy->bytes, (uint64_t)n, __ATOMIC_RELAXED);
	else
		__atomic_fetch_add(&proxy->back_bytes, (uint64_t)n, __ATOMIC_RELAXED);
	if (from && proxy->script.deaf)
		return;
	flow->have = (size_t)n;
	flow->done = 0;
}

static void flow_write(struct pair *pair, unsigned from)
{
	struct flow *flow = &pair->flow[from];
	ssize_t n = send(pair->fd[!from], flow->bytes + flow->done, flow->have - flow->done,
			 MSG_NOSIGNAL);

	if (n > 0)
		flow->done += (size_t)n;
	else if (n < 0 && errno != EAGAIN)
		flow->have = flow->done = 0, flow->ended = true;
	if (flow->done == flow->have)
		flow->have = flow->done = 0;
}

static void pair_step(struct proxy *proxy, struct pair *pair, const struct pollfd *fds)
{
	for (unsigned from = 0; from < 2; from++) {
		struct flow *flow = &pair->flow[from];

		if (flow->have)
			flow_write(pair, from);
		if (!flow->have && !flow->ended && fds[from].revents)
			flow_read(proxy, pair, from);
		if (flow->have)
			flow_write(pair, from);
		if (flow->ended && !flow->have && !flow->told) {
			flow->told = true;
			shutdown(pair->fd[!from], SHUT_WR);
		}
	}
	if (pair->flow[0].told && pair->flow[1].told)
		for (unsigned d = 0; d < 2; d++) {
			close(pair->fd[d]);
			pair->fd[d] = -1;
		}
}

static void *proxy_main(void *arg)
{
	struct proxy *proxy = arg;

	while (!__atomic_load_n(&proxy->end, __ATOMIC_ACQUIRE)) {
		struct pollfd fds[2 + 2 * PAIRS_MAX];
		unsigned pairs = proxy->pairs;

		fds[0] = (struct pollfd){ .fd = proxy->wake_fd, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = proxy->listen_fd, .events = POLLIN };
		for (unsigned i = 0; i < 2 * pairs; i++) {
			struct pair *pair = &proxy->pair[i / 2];
			unsigned d = i % 2;
			int events = 0;

			if (!pair->flow[d].have && !pair->flow[d].ended)
				events |= POLLIN;
			if (pair->flow[!d].have)
				events |= POLLOUT;
			/* Without events a hang-up would be reported for ever */
			fds[2 + i] = (struct pollfd){
				.fd = proxy->is_cut || !events ? -1 : pair->fd[d],
				.events = (short)events,
			};
		}
		if (poll(fds, 2 + 2 * pairs, -1) < 0)
			continue;
		if (fds[1].revents)
			pair_open(proxy);
		for (unsigned i = 0; i < pairs && !proxy->is_cut; i++)
			if (proxy->pair[i].fd[0] >= 0)
				pair_step(proxy, &proxy->pair[i], &fds[2 + 2 * i]);
		if (!proxy->is_cut &&
		    (__atomic_load_n(&proxy->cut, __ATOMIC_ACQUIRE) ||
		     (proxy->script.cut_at && proxy->bytes >= proxy->script.cut_at) ||
		     (proxy->script.cut_back_at &&
		      proxy->back_bytes >= proxy->script.cut_back_at))) {
			cut(proxy);
			__atomic_fetch_add(&proxy->cuts, 1, __ATOMIC_RELEASE);
		}
		if (fds[0].revents) {
			eventfd_t count;

			eventfd_read(proxy->wake_fd, &count);
		}
	}
	proxy->script.stall = false;
	cut(proxy);
	return NULL;
}

static int listen_tcp(struct proxy *proxy, unsigned port)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	socklen_t length = sizeof(here);

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	proxy->to.tcp = here;
	proxy->to.tcp.sin_port = htons((uint16_t)port);
	proxy->to_length = sizeof(here);
	if (bind(proxy->listen_fd, (struct sockaddr *)&here, sizeof(here)) < 0 ||
	    getsockname(proxy->listen_fd, (struct sockaddr *)&here, &length) < 0)
		return -1;
	snprintf(proxy->uri, sizeof(proxy->uri), "tcp:127.0.0.1:%u", ntohs(here.sin_port));
	return listen(proxy->listen_fd, PAIRS_MAX);
}

/* Beside the destination's */
static int listen_local(struct proxy *proxy, const char *path)
{
	struct sockaddr_un here = { .sun_family = AF_UNIX };

	proxy->to.local = here;
	proxy->to_length = sizeof(here);
	snprintf(proxy->to.local.sun_path, sizeof(here.sun_path), "%s", path);
	snprintf(here.sun_path, sizeof(here.sun_path), "%s.proxy", path);
	snprintf(proxy->uri, sizeof(proxy->uri), "unix:%s", here.sun_path);
	unlink(here.sun_path);
	if (bind(proxy->listen_fd, (struct sockaddr *)&here, sizeof(here)) < 0)
		return -1;
	return listen(proxy->listen_fd, PAIRS_MAX);
}

struct proxy *proxy_start(const char *to, const struct proxy_script *script)
{
	struct proxy *proxy = calloc(1, sizeof(*proxy));
	bool local = !strncmp(to, "unix:", 5);
	unsigned port = 0;

	if (!proxy || (!local && sscanf(to, "tcp:127.0.0.1:%u", &port) != 1))
		goto out_free;
	proxy->script = *script;
	proxy->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	proxy->listen_fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* silence is not to be hidden by what lies in buffers */
	if (script->stall)
		setsockopt(proxy->listen_fd, SOL_SOCKET, SO_RCVBUF, &(int){ STALL_BUFFER },
			   sizeof(int));
	if ((local ? listen_local(proxy, to + 5) : listen_tcp(proxy, port)) < 0)
		goto out_close;
	if (pthread_create(&proxy->thread, NULL, proxy_main, proxy))
		goto out_close;
	return proxy;

out_close:
	close(proxy->listen_fd);
	close(proxy->wake_fd);
out_free:
	free(proxy);
	return NULL;
}

const char *proxy_uri(const struct proxy *proxy)
{
	return proxy->uri;
}

uint64_t proxy_bytes(const struct proxy *proxy)
{
	return __atomic_load_n(&proxy->bytes, __ATOMIC_RELAXED);
}

uint64_t proxy_back_bytes(const struct proxy *proxy)
{
	return __atomic_load_n(&proxy->back_bytes, __ATOMIC_RELAXED);
}

void proxy_cut(struct proxy *proxy)
{
	unsigned cuts = __atomic_load_n(&proxy->cuts, __ATOMIC_ACQUIRE);

	__atomic_store_n(&proxy->cut, true, __ATOMIC_RELEASE);
	eventfd_write(proxy->wake_fd, 1);
	while ((!cuts || proxy->script.heals) &&
	       __atomic_load_n(&proxy->cuts, __ATOMIC_ACQUIRE) == cuts)
		sched_yield();
}

void proxy_end(struct proxy *proxy)
{
	if (!proxy)
		return;
	__atomic_store_n(&proxy->end, true, __ATOMIC_RELEASE);
	eventfd_write(proxy->wake_fd, 1);
	pthread_join(proxy->thread, NULL);
	close(proxy->listen_fd);
	close(proxy->wake_fd);
	if (proxy->to.any.sa_family == AF_UNIX)
		unlink(proxy->uri + strlen("unix:"));
	free(proxy);
}
