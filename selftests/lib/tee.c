/* SPDX-License-Identifier: MIT */
#include "selftests/lib/tee.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"

#define PIECE_BYTES 65536u
#define RECORD_BYTES_MAX (64u << 20)

enum direction {
	THERE,
	BACK,
	DIRECTION_COUNT
};

/* One way of one connection; what cannot be sent yet is all of the rest of the record */
struct flow {
	int from;
	int to;
	uint8_t *bytes;
	size_t have;
	size_t sent;
	bool ended; /* nothing more comes */
	bool done;  /* and all of it has gone on */
};

struct tee {
	pthread_t thread;
	int listener;
	int stop;
	char path[108];
	char to[108];
	struct flow flow[TEE_CONNECTIONS_MAX * DIRECTION_COUNT]; /* those of a connection in a row */
	struct tee_record record[TEE_CONNECTIONS_MAX];
	unsigned connections;
};

static int open_unix(const char *path, bool listening, struct wh_err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int ret;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd >= 0 && listening)
		ret = bind(fd, (const struct sockaddr *)&address, sizeof(address)) ||
		      listen(fd, TEE_CONNECTIONS_MAX);
	else
		ret = fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address));
	if (!ret)
		return fd;
	ret = err_sys(err, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return ret;
}

static void take_connection(struct tee *tee)
{
	int from = accept4(tee->listener, NULL, NULL, SOCK_CLOEXEC);
	int to = tee->connections < TEE_CONNECTIONS_MAX ? open_unix(tee->to, false, NULL) : -1;
	struct flow *flow;

	if (from < 0 || to < 0) {
		if (from >= 0)
			close(from);
		if (to >= 0)
			close(to);
		return;
	}
	flow = &tee->flow[(size_t)tee->connections++ * DIRECTION_COUNT];
	flow[THERE] = (struct flow){ .from = from, .to = to };
	flow[BACK] = (struct flow){ .from = to, .to = from };
}

static void flow_take(struct flow *flow)
{
	uint8_t *bytes = realloc(flow->bytes, flow->have + PIECE_BYTES);
	ssize_t n = -1;

	if (bytes) {
		flow->bytes = bytes;
		n = recv(flow->from, bytes + flow->have, PIECE_BYTES, MSG_DONTWAIT);
	}
	if (n > 0 && flow->have + (size_t)n < RECORD_BYTES_MAX)
		flow->have += (size_t)n;
	else if (n >= 0 || !bytes || errno != EAGAIN)
		flow->ended = true;
}

static void flow_give(struct flow *flow)
{
	ssize_t n = send(flow->to, flow->bytes + flow->sent, flow->have - flow->sent,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0)
		flow->sent += (size_t)n;
	else if (errno != EAGAIN)
		flow->done = flow->ended = true;
}

static void flow_turn(struct flow *flow, short from, short to)
{
	if (from)
		flow_take(flow);
	if (to)
		flow_give(flow);
	if (flow->ended && !flow->done && flow->sent == flow->have) {
		shutdown(flow->to, SHUT_WR);
		flow->done = true;
	}
}

/* What those who have closed already had sent */
static void flow_drain(struct flow *flow)
{
	size_t before;

	do {
		before = flow->have;
		if (!flow->ended)
			flow_take(flow);
	} while (flow->have != before);
}

static void *tee_main(void *arg)
{
	struct tee *tee = arg;

	for (;;) {
		struct pollfd ready[2 + 2 * TEE_CONNECTIONS_MAX * DIRECTION_COUNT] = {
			{ .fd = tee->listener, .events = POLLIN },
			{ .fd = tee->stop, .events = POLLIN },
		};
		struct flow *flows = tee->flow;
		unsigned count = tee->connections * DIRECTION_COUNT;

		for (unsigned i = 0; i < count; i++) {
			bool in = !flows[i].ended;
			bool out = !flows[i].done && flows[i].sent < flows[i].have;

			ready[2 + 2 * i] = (struct pollfd){ in ? flows[i].from : -1, POLLIN, 0 };
			ready[3 + 2 * i] = (struct pollfd){ out ? flows[i].to : -1, POLLOUT, 0 };
		}
		if (poll(ready, 2 + 2 * count, -1) < 0 && errno != EINTR)
			return NULL;
		if (ready[1].revents)
			break;
		for (unsigned i = 0; i < count; i++)
			flow_turn(&flows[i], ready[2 + 2 * i].revents, ready[3 + 2 * i].revents);
		if (ready[0].revents)
			take_connection(tee);
	}
	for (unsigned i = 0; i < tee->connections * DIRECTION_COUNT; i++)
		flow_drain(&tee->flow[i]);
	return NULL;
}

int tee_start(struct tee **made, const char *path, const char *to, struct wh_err *err)
{
	struct tee *tee = calloc(1, sizeof(*tee));
	int ret;

	if (!tee)
		return err_set(err, -ENOMEM, "tee: no memory");
	snprintf(tee->path, sizeof(tee->path), "%s", path);
	snprintf(tee->to, sizeof(tee->to), "%s", to);
	ret = tee->listener = open_unix(path, true, err);
	if (ret < 0)
		goto out_free;
	tee->stop = eventfd(0, EFD_CLOEXEC);
	if (tee->stop < 0) {
		ret = err_sys(err, errno, "eventfd");
		goto out_listener;
	}
	ret = pthread_create(&tee->thread, NULL, tee_main, tee);
	if (ret) {
		ret = err_sys(err, ret, "tee: thread");
		goto out_stop;
	}
	*made = tee;
	return 0;

out_stop:
	close(tee->stop);
out_listener:
	close(tee->listener);
out_free:
	free(tee);
	return ret;
}

unsigned tee_stop(struct tee *tee, const struct tee_record **records)
{
	eventfd_write(tee->stop, 1);
	pthread_join(tee->thread, NULL);
	close(tee->listener);
	close(tee->stop);
	unlink(tee->path);
	for (size_t i = 0; i < tee->connections; i++) {
		const struct flow *flow = &tee->flow[i * DIRECTION_COUNT];

		close(flow[THERE].from);
		close(flow[THERE].to);
		tee->record[i] = (struct tee_record){
			.there = flow[THERE].bytes,
			.there_length = flow[THERE].have,
			.back = flow[BACK].bytes,
			.back_length = flow[BACK].have,
		};
	}
	*records = tee->record;
	return tee->connections;
}

void tee_free(struct tee *tee)
{
	for (unsigned i = 0; i < tee->connections; i++) {
		free(tee->record[i].there);
		free(tee->record[i].back);
	}
	free(tee);
}
