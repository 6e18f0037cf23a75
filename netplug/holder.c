/* SPDX-License-Identifier: MIT */
/*
 * Edge: another process holds (netplug/serve.c), and does what it is asked for over a socket. Who
 * asks needs no right but to be its user.
 *
 * A holder that dies or is silent is lost, and the connection given up: what it held is an orphan
 * from here on, which is neither turned nor released. Somebody decides then, fence or disarm, and
 * that goes to whoever holds under this name by now: the next one, or the one that was silent,
 * which knows by the end of the connection that it is not to do what it had not read.
 */
#include "netplug/netplug.h"

#include "base/clock.h"
#include "base/err.h"
#include "netplug/serve.h"
#include "netplug/talk.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Arming and disarming make and remove devices, and wait for what is to leave */
#define PATIENCE_NS (NS_PER_S * 10)
#define ANSWER_MAX_NS (NS_PER_S * 3600)

struct holder {
	pid_t pid;
	struct wh_err why; /* it is lost */
	uint64_t again_ns; /* one that was silent is left alone until then */
};

/* io_uring may have a poll of it under way, which keeps it open: so both ends are told */
static void hang_up(struct wh_netplug *plug)
{
	if (plug->fd < 0)
		return;
	shutdown(plug->fd, SHUT_RDWR);
	close(plug->fd);
	plug->fd = -1;
}

static int lost(struct wh_netplug *plug, int code, const char *what, struct wh_err *err)
{
	struct holder *own = plug->own;

	hang_up(plug);
	if (code == -ETIMEDOUT)
		own->again_ns = clock_now_ns() + plug->answer_ns;
	err_set(&own->why, code, "the process that holds it (%d) %s", (int)own->pid, what);
	if (plug->gate.state == WH_NETPLUG_HELD)
		gate_move(&plug->gate, WH_NETPLUG_ORPHAN);
	err_set(err, code, "%s", own->why.text);
	return code;
}

static int call_up(struct wh_netplug *plug, struct wh_err *err)
{
	struct holder *own = plug->own;
	struct sockaddr_un at;
	socklen_t length = serve_address(plug->name, &at);
	int ret = 0;

	if (clock_now_ns() < own->again_ns)
		return err_set(err, own->why.code, "%s", own->why.text);
	plug->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (plug->fd < 0)
		return err_sys(err, errno, "socket");
	if (connect(plug->fd, (const struct sockaddr *)&at, length) < 0)
		ret = errno == ECONNREFUSED ? -ENOENT : -errno;
	else
		own->pid = serve_trusts(plug->fd);
	if (ret == 0 && own->pid)
		return 0;
	hang_up(plug);
	if (ret == 0)
		return err_set(err, -EACCES, "'%s' is held by another user", plug->name);
	if (ret == -ENOENT)
		return err_set(err, ret, "nobody holds the output of '%s'", plug->name);
	return err_sys(err, ret, "who holds the output of '%s'", plug->name);
}

/* One packet. Return: 0, -EAGAIN: there is none; or it is lost */
static int take(struct wh_netplug *plug, struct talk_answer *answer, struct wh_err *err)
{
	uint8_t bytes[TALK_ANSWER_MAX + 1];
	struct wh_err why = { 0 };
	ssize_t n = recv(plug->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n <= 0)
		return lost(plug, -ENOTCONN, "has died", err);
	if (talk_get_answer(bytes, (size_t)n, answer, &why) < 0)
		return lost(plug, -EPROTO, why.text, err);
	return 0;
}

static int wait_answer(struct wh_netplug *plug, uint64_t patience_ns, struct talk_answer *answer,
		       struct wh_err *err)
{
	uint64_t now_ns = clock_now_ns(), end_ns = now_ns + patience_ns;
	int ret;

	for (;;) {
		struct pollfd ready = { .fd = plug->fd, .events = POLLIN };

		ret = take(plug, answer, err);
		if (ret == 0 && answer->kind == TALK_ANSWERS)
			return 0;
		if (ret < 0 && ret != -EAGAIN)
			return ret;
		now_ns = clock_now_ns();
		if (now_ns >= end_ns)
			return lost(plug, -ETIMEDOUT, "does not answer", err);
		if (ret == -EAGAIN)
			poll(&ready, 1, (int)((end_ns - now_ns) / NS_PER_MS) + 1);
	}
}

/* Return: what the holder has said, or that it is lost */
static int ask(struct wh_netplug *plug, enum talk_action action, uint64_t epoch,
	       struct talk_answer *answer, struct wh_err *err)
{
	struct talk_request request = { .action = action, .epoch = epoch };
	bool slow = action == TALK_ARM || action == TALK_DISARM;
	uint8_t bytes[TALK_REQUEST];
	size_t length = talk_put_request(bytes, &request);
	int ret;

	*answer = (struct talk_answer){ 0 };
	if (send(plug->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
		return lost(plug, -ENOTCONN, errno == EAGAIN ? "takes no requests" : "has died",
			    err);
	ret = wait_answer(plug, slow ? PATIENCE_NS : plug->answer_ns, answer, err);
	if (ret < 0)
		return ret;
	if (answer->err.code)
		return err_set(err, answer->err.code, "%s", answer->err.text);
	return 0;
}

/* To whoever is there by now */
static int ask_anyone(struct wh_netplug *plug, enum talk_action action, struct talk_answer *answer,
		      struct wh_err *err)
{
	int ret = plug->fd < 0 ? call_up(plug, err) : 0;

	return ret < 0 ? ret : ask(plug, action, 0, answer, err);
}

static int holder_init(struct wh_netplug *plug, struct wh_err *err)
{
	struct talk_answer answer;
	int ret;

	if (plug->nic_count)
		return err_set(err, -EINVAL, "who holds knows the NICs: none is named");
	if (!plug->answer_ns || plug->answer_ns > ANSWER_MAX_NS)
		return err_set(err, -EINVAL, "answer_ns is 1 ns to an hour");
	plug->own = calloc(1, sizeof(struct holder));
	if (!plug->own)
		return err_set(err, -ENOMEM, "no memory");
	ret = ask_anyone(plug, TALK_STATUS, &answer, err);
	if (ret < 0)
		return ret;
	plug->edge = answer.status.edge;
	gate_init(&plug->gate, plug->edge == WH_NETPLUG_PLUG ? plug_ops.closed_most : 0);
	plug->gate.open = answer.status.epoch;
	plug->gate.released = answer.status.released;
	if (answer.status.state != WH_NETPLUG_IDLE)
		gate_move(&plug->gate, answer.status.state);
	return 0;
}

static void holder_fini(struct wh_netplug *plug)
{
	hang_up(plug);
	free(plug->own);
}

static int holder_arm(struct wh_netplug *plug, struct wh_err *err)
{
	struct talk_answer answer;

	return ask_anyone(plug, TALK_ARM, &answer, err);
}

/* Its epochs are ours, or it is none that can be relied on */
static int step(struct wh_netplug *plug, enum talk_action action, uint64_t epoch, uint64_t open,
		struct wh_err *err)
{
	struct talk_answer answer;
	int ret = ask(plug, action, epoch, &answer, err);

	if (ret == 0 && (answer.status.state != WH_NETPLUG_HELD || answer.status.epoch != open))
		return lost(plug, -EPROTO, "is in another epoch", err);
	return ret;
}

static int holder_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	return step(plug, TALK_TURN, epoch, epoch + 1, err);
}

static int holder_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	return step(plug, TALK_RELEASE, epoch, plug->gate.open, err);
}

static int holder_fence(struct wh_netplug *plug, struct wh_err *err)
{
	struct talk_answer answer;

	return ask_anyone(plug, TALK_FENCE, &answer, err);
}

static int holder_disarm(struct wh_netplug *plug, struct wh_err *err)
{
	struct talk_answer answer;

	return ask_anyone(plug, TALK_DISARM, &answer, err);
}

/* Somebody else may have fenced it, which is his to do */
static int holder_count(struct wh_netplug *plug, struct wh_netplug_status *status,
			struct wh_err *err)
{
	const struct holder *own = plug->own;
	struct talk_answer answer;
	int ret;

	if (plug->fd < 0)
		return err_set(err, own->why.code, "%s", own->why.text);
	ret = ask(plug, TALK_STATUS, 0, &answer, err);
	if (ret < 0)
		return ret;
	if (plug->gate.state == WH_NETPLUG_HELD && answer.status.state != WH_NETPLUG_HELD)
		gate_move(&plug->gate, answer.status.state);
	status->holder = (int)own->pid;
	status->held_packets = answer.status.held_packets;
	status->held_bytes = answer.status.held_bytes;
	status->dropped = answer.status.dropped;
	status->sent = answer.status.sent;
	return 0;
}

/* What comes unasked is that something waits, or the end */
static int holder_process(struct wh_netplug *plug, struct wh_err *err)
{
	struct talk_answer news;
	int ret = 0;

	while (plug->fd >= 0 && ret == 0)
		ret = take(plug, &news, err);
	return ret == -EAGAIN ? 0 : ret;
}

const struct netplug_ops holder_ops = {
	.init = holder_init,
	.fini = holder_fini,
	.arm = holder_arm,
	.turn = holder_turn,
	.release = holder_release,
	.fence = holder_fence,
	.disarm = holder_disarm,
	.count = holder_count,
	.process = holder_process,
};
