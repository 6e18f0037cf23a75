/* SPDX-License-Identifier: MIT */
/*
 * Joining: the other end of netplug/holder.c. What is held here is driven by others.
 *
 * Whoever arms it over his connection has it: nobody else turns, releases or disarms it, and if
 * the connection ends it is an orphan, since which of its epochs were acknowledged nobody knows
 * any more. What was armed without one (wherry netplug arm) is anybody's whom we trust. Everybody
 * may look, and everybody may fence it.
 *
 * What is asked for by somebody who is gone is not done. So one who has waited for too long, and
 * has gone, knows that what waits to be read here comes to nothing: it is read when this process
 * goes on, perhaps long after the guest was taken over elsewhere.
 */
#include "netplug/serve.h"

#include "base/err.h"
#include "netplug/netplug.h"
#include "netplug/talk.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEERS 16
#define AT_LISTENER PEERS /* in an event; below it is a peer's place */
#define AT_EDGE (PEERS + 1)
#define NOBODY (-1)

struct serve {
	int fd; /* epoll */
	int listener;
	struct {
		int fd; /* -1: the place is free */
		pid_t pid;
	} peer[PEERS];
	int owner;    /* its place, or NOBODY */
	bool edge_on; /* the edge's descriptor is waited for */
	bool waits;   /* the owner was told so */
};

socklen_t serve_address(const char *name, struct sockaddr_un *at)
{
	int length;

	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	length =
		snprintf(at->sun_path + 1, sizeof(at->sun_path) - 1, "wherry/netplug/%s/ask", name);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

pid_t serve_trusts(int fd)
{
	struct ucred who;
	socklen_t length = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ||
	    (who.uid != geteuid() && who.uid != 0))
		return 0;
	return who.pid;
}

static int watch(struct serve *serve, int fd, uint64_t at)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.u64 = at };

	return epoll_ctl(serve->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* In any other state it is left where it is, and would be readable for ever */
static void watch_edge(struct wh_netplug *plug)
{
	struct serve *serve = plug->serve;
	bool wanted = plug->fd >= 0 && plug->gate.state == WH_NETPLUG_HELD;

	if (wanted == serve->edge_on)
		return;
	serve->edge_on = wanted;
	if (wanted)
		watch(serve, plug->fd, AT_EDGE);
	else
		epoll_ctl(serve->fd, EPOLL_CTL_DEL, plug->fd, NULL);
}

int serve_open(struct wh_netplug *plug, struct wh_err *err)
{
	struct serve *serve = calloc(1, sizeof(*serve));
	struct sockaddr_un at;
	socklen_t length = serve_address(plug->name, &at);
	int ret;

	if (!serve)
		return err_set(err, -ENOMEM, "no memory");
	serve->owner = NOBODY;
	for (unsigned i = 0; i < PEERS; i++)
		serve->peer[i].fd = -1;
	serve->fd = epoll_create1(EPOLL_CLOEXEC);
	serve->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (serve->fd < 0 || serve->listener < 0 ||
	    bind(serve->listener, (const struct sockaddr *)&at, length) < 0 ||
	    listen(serve->listener, PEERS) < 0)
		ret = -errno;
	else
		ret = watch(serve, serve->listener, AT_LISTENER);
	if (ret < 0) {
		serve_close(serve);
		return ret == -EADDRINUSE ?
			       err_set(err, -EBUSY, "'%s' is listened for already", plug->name) :
			       err_sys(err, ret, "listen for '%s'", plug->name);
	}
	plug->serve = serve;
	watch_edge(plug);
	return 0;
}

void serve_close(struct serve *serve)
{
	if (!serve)
		return;
	for (unsigned i = 0; i < PEERS; i++)
		if (serve->peer[i].fd >= 0)
			close(serve->peer[i].fd);
	if (serve->listener >= 0)
		close(serve->listener);
	if (serve->fd >= 0)
		close(serve->fd);
	free(serve);
}

int serve_fd(const struct serve *serve)
{
	return serve->fd;
}

static void drop(struct wh_netplug *plug, int place)
{
	struct serve *serve = plug->serve;

	close(serve->peer[place].fd);
	serve->peer[place].fd = -1;
	if (serve->owner != place)
		return;
	serve->owner = NOBODY;
	if (plug->gate.state == WH_NETPLUG_HELD)
		gate_move(&plug->gate, WH_NETPLUG_ORPHAN);
}

static void take_in(struct serve *serve)
{
	int fd = accept4(serve->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	pid_t pid = fd >= 0 ? serve_trusts(fd) : 0;

	for (int i = 0; pid && i < PEERS; i++) {
		if (serve->peer[i].fd >= 0)
			continue;
		if (watch(serve, fd, (uint64_t)i) < 0)
			break;
		serve->peer[i].fd = fd;
		serve->peer[i].pid = pid;
		return;
	}
	if (fd >= 0)
		close(fd);
}

static int act(struct wh_netplug *plug, int place, const struct talk_request *request,
	       struct wh_netplug_status *status, struct wh_err *err)
{
	struct serve *serve = plug->serve;
	int ret = 0;

	switch (request->action) {
	case TALK_STATUS:
		/* what has come and was not looked at yet is counted, too */
		if (plug->gate.state == WH_NETPLUG_HELD && plug->ops->process)
			(void)plug->ops->process(plug, NULL);
		return wh_netplug_status(plug, status, err);
	case TALK_FENCE:
		return wh_netplug_fence(plug, err);
	case TALK_ARM:
	case TALK_TURN:
	case TALK_RELEASE:
	case TALK_DISARM:
		break;
	case TALK_ACTION_COUNT:
		return -EPROTO;
	}
	if (serve->owner != NOBODY && serve->owner != place)
		return err_set(err, -EBUSY, "process %d has it, and may %s it",
			       (int)serve->peer[serve->owner].pid, talk_name(request->action));
	if (request->action == TALK_TURN)
		return wh_netplug_turn(plug, request->epoch, err);
	if (request->action == TALK_RELEASE)
		return wh_netplug_release(plug, request->epoch, err);
	if (request->action == TALK_ARM)
		ret = wh_netplug_arm(plug, err);
	else
		ret = wh_netplug_disarm(plug, err);
	if (ret == 0)
		serve->owner = request->action == TALK_ARM ? place : NOBODY;
	serve->waits = false;
	return ret;
}

/* Return: false if he does not take it */
static bool say(int fd, const struct talk_answer *answer)
{
	uint8_t bytes[TALK_ANSWER_MAX];
	size_t length = talk_put_answer(bytes, answer);

	return send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)length;
}

/* Where it stands, without asking the kernel what waits */
static struct wh_netplug_status state_of(const struct wh_netplug *plug)
{
	bool held = plug->gate.state == WH_NETPLUG_HELD;

	return (struct wh_netplug_status){
		.state = plug->gate.state,
		.edge = plug->edge,
		.epoch = held ? plug->gate.open : 0,
		.released = plug->gate.released,
	};
}

/* Return: false: nothing more comes from him, or nothing of use */
static bool hear(struct wh_netplug *plug, int place)
{
	struct serve *serve = plug->serve;
	struct talk_answer answer = { .kind = TALK_ANSWERS };
	struct wh_netplug_status counted = { 0 };
	uint8_t bytes[TALK_REQUEST + 1];
	struct talk_request request;
	ssize_t n;
	int ret;

	n = recv(serve->peer[place].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	if (talk_get_request(bytes, (size_t)n, &request, NULL) < 0)
		return false;
	ret = act(plug, place, &request, &counted, &answer.err);
	if (ret < 0 && (!answer.err.code || !answer.err.text[0]))
		err_sys(&answer.err, ret, "%s", talk_name(request.action));
	answer.status = state_of(plug);
	if (request.action == TALK_STATUS && ret == 0)
		answer.status = counted;
	return say(serve->peer[place].fd, &answer);
}

/* The first packet that waits: who has it may be waiting for that. What he does not take is lost */
static void tell(struct wh_netplug *plug)
{
	struct serve *serve = plug->serve;
	struct talk_answer news = { .kind = TALK_NEWS };
	bool waits =
		plug->gate.state == WH_NETPLUG_HELD && plug->ops->waits && plug->ops->waits(plug);

	if (waits && !serve->waits && serve->owner != NOBODY) {
		news.status = state_of(plug);
		say(serve->peer[serve->owner].fd, &news);
	}
	serve->waits = waits;
}

int serve_process(struct wh_netplug *plug, struct wh_err *err)
{
	const uint32_t gone = EPOLLHUP | EPOLLRDHUP | EPOLLERR;
	struct serve *serve = plug->serve;
	struct epoll_event ready[PEERS + 2];
	int count = epoll_wait(serve->fd, ready, PEERS + 2, 0);
	int ret = 0;

	for (int i = 0; i < count; i++) {
		int place = (int)ready[i].data.u64;

		if (place == AT_EDGE)
			ret = plug->ops->process(plug, err);
		else if (place == AT_LISTENER)
			take_in(serve);
		else if (ready[i].events & gone || !hear(plug, place))
			drop(plug, place);
	}
	tell(plug);
	watch_edge(plug);
	return ret;
}
