/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: forwarding.
 */
#include "cli/drill_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define SOCKET_BYTES 65536 /* little: what was counted is to be near what arrived */
#define BACKLOG 16

union address {
	struct sockaddr any;
	struct sockaddr_un path;
	struct sockaddr_in in;
};

/* unix:PATH, tcp:127.0.0.1:PORT. Return: its length, 0 if it is none of these */
static socklen_t address_read(union address *address, const char *uri)
{
	unsigned port;

	memset(address, 0, sizeof(*address));
	if (!strncmp(uri, "unix:", 5)) {
		address->path.sun_family = AF_UNIX;
		snprintf(address->path.sun_path, sizeof(address->path.sun_path), "%s", uri + 5);
		return sizeof(address->path);
	}
	if (sscanf(uri, "tcp:127.0.0.1:%u", &port) != 1)
		return 0;
	address->in.sin_family = AF_INET;
	address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address->in.sin_port = htons((uint16_t)port);
	return sizeof(address->in);
}

static void tune(int fd)
{
	int one = 1, bytes = SOCKET_BYTES;

	/* of a unix socket there is none */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
}

int drill_dial(const char *uri)
{
	union address address;
	socklen_t length = address_read(&address, uri);
	int fd, ret;

	if (!length)
		return -EINVAL;
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, &address.any, length) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	tune(fd);
	return fd;
}

static int listen_at(char *uri, int *to)
{
	union address address;
	socklen_t length = address_read(&address, uri);
	int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	*to = fd;
	if (bind(fd, &address.any, length) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	if (address.any.sa_family != AF_INET)
		return 0;
	if (getsockname(fd, &address.any, &length) < 0)
		return -errno;
	snprintf(uri, DRILL_URI, "tcp:127.0.0.1:%u", ntohs(address.in.sin_port));
	return 0;
}

int drill_proxy_open(struct drill_proxy *proxy, const struct drill_plan *plan, const char *folder)
{
	int ret = 0;

	*proxy = (struct drill_proxy){ .plan = plan, .listen_fd = { -1, -1 } };
	for (unsigned i = 0; i < DRILL_PAIRS; i++)
		proxy->pair[i].fd[DRILL_THERE] = proxy->pair[i].fd[DRILL_BACK] = -1;
	snprintf(proxy->uri[0], DRILL_URI, "unix:%s/proxy", folder);
	snprintf(proxy->uri[1], DRILL_URI, "tcp:127.0.0.1:0");
	unlink(proxy->uri[0] + strlen("unix:"));
	for (unsigned i = 0; i < DRILL_LISTENERS && ret == 0; i++)
		ret = listen_at(proxy->uri[i], &proxy->listen_fd[i]);
	return ret;
}

void drill_proxy_drop(struct drill_proxy *proxy)
{
	for (unsigned i = 0; i < DRILL_PAIRS; i++)
		drill_pair_close(&proxy->pair[i]);
}

void drill_proxy_close(struct drill_proxy *proxy)
{
	drill_proxy_drop(proxy);
	for (unsigned i = 0; i < DRILL_LISTENERS; i++)
		if (proxy->listen_fd[i] >= 0)
			close(proxy->listen_fd[i]);
	unlink(proxy->uri[0] + strlen("unix:"));
}

void drill_proxy_switched(struct drill_proxy *proxy)
{
	if (proxy->switched)
		return;
	proxy->switched = true;
	for (unsigned i = 0; i < DRILL_PAIRS; i++)
		for (unsigned way = 0; way < DRILL_WAYS; way++)
			proxy->pair[i].flow[way].base = proxy->pair[i].flow[way].count;
}

static bool is_open(const struct drill_pair *pair)
{
	return pair->fd[DRILL_THERE] >= 0 || pair->fd[DRILL_BACK] >= 0;
}

static void accept_one(struct drill_proxy *proxy, unsigned listener)
{
	int fd = accept4(proxy->listen_fd[listener], NULL, NULL, SOCK_CLOEXEC), to;
	struct drill_pair *pair = proxy->pair;

	if (fd < 0)
		return;
	while (pair < proxy->pair + DRILL_PAIRS && is_open(pair))
		pair++;
	to = pair < proxy->pair + DRILL_PAIRS ? drill_dial(proxy->to) : -EMFILE;
	if (to < 0) {
		close(fd); /* as if nobody had been there */
		return;
	}
	tune(fd);
	*pair = (struct drill_pair){ .fd = { fd, to } };
	for (unsigned way = 0; way < DRILL_WAYS; way++)
		pair->flow[way].corrupt = pair->flow[way].lie = -1;
}

/* A main channel begins with QEMU's magic, or with a command where it resumes. */
static void meet(struct drill_proxy *proxy, struct drill_pair *pair)
{
	uint8_t first;

	if (recv(pair->fd[DRILL_THERE], &first, 1, MSG_PEEK) != 1)
		return;
	pair->known = true;
	pair->channel = first == 'Q' || first == 8 ? DRILL_MAIN : DRILL_URGENT;
	proxy->mains += pair->channel == DRILL_MAIN;
	pair->connection = proxy->mains ? proxy->mains - 1 : 0;
	drill_fault_meet(proxy, pair);
}

/* false: the connection is gone */
static bool flow_write(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way)
{
	struct drill_flow *flow = &pair->flow[way];
	ssize_t n;

	if (flow->have == flow->done || proxy->now_ns < flow->not_before_ns)
		return true;
	n = send(pair->fd[!way], flow->bytes + flow->done, flow->have - flow->done, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN) {
		drill_pair_close(pair);
		return false;
	}
	if (n > 0)
		flow->done += (size_t)n;
	if (flow->done == flow->have)
		flow->have = flow->done = 0;
	return true;
}

static void flow_read(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way)
{
	struct drill_flow *flow = &pair->flow[way];
	size_t room = drill_fault_room(proxy, pair, way, DRILL_PIECE);
	ssize_t n = recv(pair->fd[way], flow->bytes, room, 0);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		flow->ended = true;
		return;
	}
	drill_fault_bytes(proxy, pair, way, flow->bytes, (size_t)n);
	flow->count += (uint64_t)n;
	if (flow->mute)
		return;
	flow->have = (size_t)n;
	flow->done = 0;
	if (flow->delays) {
		flow->delays--;
		flow->not_before_ns = proxy->now_ns + flow->delay_ms * NS_PER_MS;
	}
}

static void flow_step(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way)
{
	struct drill_flow *flow = &pair->flow[way];

	if (!flow_write(proxy, pair, way) || flow->have)
		return;
	if (pair->known)
		drill_fault_check(proxy, pair, way);
	if (!is_open(pair) || proxy->now_ns < proxy->stalled_until_ns)
		return;
	if (!flow->ended)
		flow_read(proxy, pair, way);
	if (!flow_write(proxy, pair, way) || flow->have)
		return;
	if (flow->ended && !flow->told) {
		flow->told = true;
		if (!flow->mute)
			shutdown(pair->fd[!way], SHUT_WR);
	}
}

static void pair_step(struct drill_proxy *proxy, struct drill_pair *pair)
{
	if (!pair->known)
		meet(proxy, pair);
	for (unsigned way = 0; way < DRILL_WAYS && is_open(pair); way++)
		flow_step(proxy, pair, (enum drill_way)way);
	if (is_open(pair) && pair->flow[DRILL_THERE].told && pair->flow[DRILL_BACK].told)
		drill_pair_close(pair);
}

void drill_proxy_step(struct drill_proxy *proxy, uint64_t now_ns)
{
	proxy->now_ns = now_ns;
	for (unsigned i = 0; i < DRILL_LISTENERS; i++)
		accept_one(proxy, i);
	for (unsigned i = 0; i < DRILL_PAIRS && now_ns >= proxy->stalled_until_ns; i++)
		if (is_open(&proxy->pair[i]))
			pair_step(proxy, &proxy->pair[i]);
}

static int sooner(const struct drill_proxy *proxy, uint64_t at_ns, int ms)
{
	uint64_t left = at_ns > proxy->now_ns ? (at_ns - proxy->now_ns) / NS_PER_MS + 1 : 0;

	return left ? MIN(ms, (int)left) : ms;
}

int drill_proxy_poll(const struct drill_proxy *proxy, struct pollfd *fds, int ms)
{
	bool stalled = proxy->now_ns < proxy->stalled_until_ns;

	ms = sooner(proxy, proxy->stalled_until_ns, ms);
	for (unsigned i = 0; i < DRILL_LISTENERS; i++)
		*fds++ = (struct pollfd){ .fd = proxy->listen_fd[i], .events = POLLIN };
	for (unsigned i = 0; i < DRILL_WAYS * DRILL_PAIRS; i++) {
		const struct drill_pair *pair = &proxy->pair[i / DRILL_WAYS];
		unsigned way = i % DRILL_WAYS;
		const struct drill_flow *in = &pair->flow[way], *out = &pair->flow[!way];
		short events = 0;

		if (is_open(pair) && !stalled) {
			if (!in->have && !in->ended)
				events |= POLLIN;
			if (out->have && proxy->now_ns >= out->not_before_ns)
				events |= POLLOUT;
			if (out->have)
				ms = sooner(proxy, out->not_before_ns, ms);
		}
		/* without events a hang-up would be reported for ever */
		fds[i] = (struct pollfd){ .fd = events ? pair->fd[way] : -1, .events = events };
	}
	return ms;
}
