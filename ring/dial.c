/* SPDX-License-Identifier: MIT */
/*
 * Edge: connecting, one address after the other.
 *
 * An attempt has two operations, the connect and a timer for its share of the time.
 * Whichever ends first cancels the other, and nothing is decided before both have
 * come back: until then the kernel may still write to this struct. With TLS what is
 * connected is not yet what is given away: the handshake is waited for, with no timer,
 * since tls_wrap() has the deadline.
 */
#include "ring/socket.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct dial *dial_of_connect(struct op *op)
{
	return (struct dial *)(void *)((char *)op - offsetof(struct dial, connect));
}

static struct dial *dial_of_timeout(struct op *op)
{
	return (struct dial *)(void *)((char *)op - offsetof(struct dial, timeout));
}

bool dial_busy(const struct dial *dial)
{
	return op_busy(&dial->connect) || op_busy(&dial->timeout);
}

/* The sentence of the address that failed last is the one that is told. */
static int dial_failed(struct dial *dial, unsigned at, int code, const char *what)
{
	char uri[URI_TEXT];
	char address[ADDRESS_TEXT];
	char which[ADDRESS_TEXT + 64] = "";

	uri_format(&dial->uri, uri, sizeof(uri));
	if (dial->uri.kind == URI_TCP) {
		address_format(&dial->address[at], address);
		snprintf(which, sizeof(which), " (%s, address %u of %u)", address, at + 1,
			 dial->addresses);
	}
	if (code == -ETIMEDOUT)
		return err_set(&dial->err, code, "connect to %.100s%s: no answer in time", uri,
			       which);
	return err_sys(&dial->err, code, "%s %.100s%s", what, uri, which);
}

/* Begin with the next address that can be begun with. 0, or the last one's error */
static int dial_attempt(struct dial *dial)
{
	while (dial->next < dial->addresses) {
		unsigned at = dial->next++;
		const struct address *address = &dial->address[at];
		uint64_t now_ns = clock_now_ns();
		int fd;

		/*
		 * Blocking, until it is connected: the ring waits all the same, and where a
		 * unix listener's queue is full it would not, with O_NONBLOCK.
		 */
		fd = socket(address->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0) {
			dial_failed(dial, at, -errno, "socket to");
			continue;
		}
		if (socket_tune(fd, &dial->tuning, &dial->err) < 0) {
			close(fd);
			continue;
		}
		dial->fd = fd;
		dial->expired = false;
		loop_connect(dial->loop, &dial->connect, fd, (const struct sockaddr *)&address->at,
			     address->length);
		if (dial->deadline_ns > now_ns) /* an equal share for each that is left */
			now_ns += (dial->deadline_ns - now_ns) / (dial->addresses - at);
		loop_timer(dial->loop, &dial->timeout, now_ns);
		return 0;
	}
	return dial->err.code;
}

/* Nothing is touched afterwards: done() may free the dial. */
static void dial_finish(struct dial *dial, int fd)
{
	dial->done(dial, fd, &dial->err);
}

static void dial_cancelled(struct dial *dial)
{
	char uri[URI_TEXT];

	uri_format(&dial->uri, uri, sizeof(uri));
	dial_finish(dial, err_set(&dial->err, -ECANCELED, "connect to %.200s: cancelled", uri));
}

/*
 * On loopback, a connect to a port nobody listens on may be given that very port as
 * its own and then connects to itself: a link that answers with our own bytes.
 */
static bool is_self(int fd)
{
	struct address own = { .length = sizeof(own.at) };
	struct address peer = { .length = sizeof(peer.at) };

	return getsockname(fd, (struct sockaddr *)&own.at, &own.length) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer.at, &peer.length) == 0 &&
	       own.length == peer.length && memcmp(&own.at, &peer.at, own.length) == 0;
}

static int set_flags(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	return 0;
}

static const char *dial_host(const struct dial *dial)
{
	return dial->uri.kind == URI_TCP ? dial->uri.host : "";
}

/* Return: 0, or a negative errno and its sentence in dial->err */
static int dial_shake(struct dial *dial, int fd)
{
	dial->err = (struct wh_err){ 0 };
	dial->fd = tls_wrap(dial->tuning.tls, fd, dial_host(dial), dial->deadline_ns, &dial->err);
	if (dial->fd < 0)
		return dial->fd;
	dial->shaking = true;
	loop_recv(dial->loop, &dial->connect, dial->fd, &dial->shaken, 1, 0);
	return 0;
}

static void dial_shaken(struct dial *dial, int fd)
{
	char uri[URI_TEXT];

	if (dial->result == 1 && !dial->cancelled) {
		dial_finish(dial, fd);
		return;
	}
	if (dial->result == 0 && tls_why(dial->tuning.tls, fd, &dial->err) == 0)
		err_set(&dial->err, -ECONNRESET, "TLS: handshake: it was broken off");
	close(fd);
	if (dial->result < 0 || dial->cancelled) {
		dial_cancelled(dial);
		return;
	}
	uri_format(&dial->uri, uri, sizeof(uri));
	dial_finish(dial, err_wrap(&dial->err, "connect to %.100s", uri));
}

/* Both operations have come back. */
static void dial_settle(struct dial *dial)
{
	/* A connect that blocked in one of the ring's workers comes back as interrupted. */
	bool stopped = dial->result == -ECANCELED || dial->result == -EINTR;
	int result = dial->result;
	int fd = dial->fd;

	dial->fd = -1;
	if (dial->shaking) {
		dial_shaken(dial, fd);
		return;
	}
	if (result == 0)
		result = set_flags(fd);
	if (result == 0 && dial->uri.kind == URI_TCP && is_self(fd))
		result = -ECONNREFUSED;
	if (result == 0 && !dial->cancelled && dial->tuning.tls) {
		result = dial_shake(dial, fd);
		if (result < 0)
			dial_finish(dial, result);
		return;
	}
	if (result == 0 && !dial->cancelled) {
		dial->err = (struct wh_err){ 0 };
		dial_finish(dial, fd);
		return;
	}
	close(fd);
	if (dial->cancelled || (stopped && !dial->expired)) {
		dial_cancelled(dial);
		return;
	}
	dial_failed(dial, dial->next - 1, stopped ? -ETIMEDOUT : result, "connect to");
	result = dial_attempt(dial);
	if (result < 0)
		dial_finish(dial, result);
}

static void connect_done(struct op *op, int result)
{
	struct dial *dial = dial_of_connect(op);

	dial->result = result;
	if (op_busy(&dial->timeout))
		loop_cancel(dial->loop, &dial->timeout);
	else
		dial_settle(dial);
}

static void timeout_done(struct op *op, int result)
{
	struct dial *dial = dial_of_timeout(op);

	if (dial->uri.kind == URI_FD && result < 0)
		dial->result = result;
	if (result == 0 && op_busy(&dial->connect))
		dial->expired = true;
	if (op_busy(&dial->connect))
		loop_cancel(dial->loop, &dial->connect);
	else
		dial_settle(dial);
}

/* A socket that somebody else has connected. */
static int dial_fd(struct dial *dial, struct wh_err *err)
{
	struct address peer = { .length = sizeof(peer.at) };
	int fd = dial->uri.fd;
	int ret;

	if (getpeername(fd, (struct sockaddr *)&peer.at, &peer.length) < 0)
		return err_sys(err, errno, "fd:%d: expected a connected socket", fd);
	ret = socket_tune(fd, &dial->tuning, err);
	if (ret < 0)
		return ret;
	ret = set_flags(fd);
	if (ret < 0)
		return err_sys(err, ret, "fd:%d: set its flags", fd);
	dial->fd = fd;
	dial->result = 0;
	loop_timer(dial->loop, &dial->timeout, 0);
	return 0;
}

int dial_start(struct dial *dial, struct loop *loop, const struct uri *uri, uint64_t timeout_ns,
	       const struct socket_tuning *tuning, struct wh_err *err)
{
	uint64_t now_ns = clock_now_ns();
	int count;
	int ret;

	dial->loop = loop;
	dial->uri = *uri;
	dial->tuning = tuning ? *tuning : (struct socket_tuning){ 0 };
	dial->connect.done = connect_done;
	dial->timeout.done = timeout_done;
	dial->next = 0;
	dial->addresses = 0;
	dial->fd = -1;
	dial->expired = false;
	dial->cancelled = false;
	if (uri->kind == URI_RDMA)
		return err_set(err, -EOPNOTSUPP, "rdma: a source does not connect over RDMA yet");
	dial->shaking = false;
	/* The resolver's time counts too. */
	dial->deadline_ns = timeout_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + timeout_ns;
	if (dial->tuning.tls) {
		ret = tls_check_host(dial->tuning.tls, dial_host(dial), err);
		if (ret < 0)
			return ret;
	}
	if (uri->kind == URI_FD)
		return dial_fd(dial, err);

	count = address_resolve(uri, false, dial->address, ADDRESSES_MAX, err);
	if (count < 0)
		return count;
	dial->addresses = (unsigned)count;
	ret = dial_attempt(dial);
	if (ret < 0 && err)
		*err = dial->err;
	return ret;
}

void dial_cancel(struct dial *dial)
{
	if (!dial_busy(dial))
		return;
	dial->cancelled = true;
	loop_cancel(dial->loop, &dial->connect);
	loop_cancel(dial->loop, &dial->timeout);
}
