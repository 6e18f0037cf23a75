/* SPDX-License-Identifier: MIT */
/*
 * Edge: listening and accepting, on one socket or on one for each address of a name.
 */
#include "ring/socket.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 16
#define PORT_TRIES 32
#define ACCEPT_AGAIN_NS (100 * NS_PER_MS)

static struct listener_socket *socket_of(struct op *op)
{
	return (struct listener_socket *)(void *)((char *)op -
						  offsetof(struct listener_socket, op));
}

static void accept_done(struct op *op, int result);
static void greeting_done(struct op *op, int result);

static void socket_close(struct listener_socket *socket)
{
	if (socket->fd >= 0)
		close(socket->fd);
	socket->fd = -1;
}

static void accept_again(struct op *op, int result)
{
	struct listener_socket *socket = socket_of(op);

	op->done = accept_done;
	if (socket->listener->closing)
		socket_close(socket);
	else if (result == 0)
		loop_accept(socket->listener->loop, op, socket->fd);
}

/*
 * What failed was one connection, or there is no room for one at the moment
 * (descriptors, memory). Only the latter lasts, and would spin without a pause; a
 * pause is right for anything unforeseen too.
 */
static void accept_failed(struct listener_socket *socket, int code)
{
	struct loop *loop = socket->listener->loop;

	if (code == -ECONNABORTED || code == -EINTR || code == -EPROTO) {
		loop_accept(loop, &socket->op, socket->fd);
		return;
	}
	socket->op.done = accept_again;
	loop_timer(loop, &socket->op, clock_now_ns() + ACCEPT_AGAIN_NS);
}

static struct listener_greeting *greeting_of(struct op *op)
{
	return (struct listener_greeting *)(void *)((char *)op -
						    offsetof(struct listener_greeting, op));
}

static struct listener_greeting *greeting_free(struct listener *listener)
{
	for (unsigned i = 0; i < GREETINGS_MAX; i++)
		if (!op_busy(&listener->greeting[i].op))
			return &listener->greeting[i];
	return NULL;
}

/* Each socket that accepts may bring one more */
static bool greetings_full(const struct listener *listener)
{
	unsigned busy = 0;

	for (unsigned i = 0; i < GREETINGS_MAX; i++)
		busy += op_busy(&listener->greeting[i].op);
	return busy >= GREETINGS_MAX - LISTENERS_MAX;
}

/* A connection: the caller's, or first to shake hands. There is a free greeting for it */
static void listener_greet(struct listener *listener, int fd)
{
	struct listener_greeting *greeting = greeting_free(listener);
	uint64_t now_ns = clock_now_ns();
	uint64_t shake_ns = listener->tuning.shake_ns;
	struct wh_err err = { 0 };

	if (!listener->tuning.tls) {
		listener->accepted(listener, fd);
		return;
	}
	fd = tls_wrap(listener->tuning.tls, fd, "",
		      shake_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + shake_ns, &err);
	if (fd < 0) {
		if (listener->refused)
			listener->refused(listener, &err);
		return;
	}
	greeting->listener = listener;
	greeting->fd = fd;
	greeting->op.done = greeting_done;
	loop_recv(listener->loop, &greeting->op, fd, &greeting->shaken, 1, 0);
}

/* Those that shake hands are as many as may be: others wait in the kernel's queue */
static void accept_next(struct listener_socket *socket)
{
	struct listener *listener = socket->listener;

	socket->full = greetings_full(listener);
	if (!socket->full)
		loop_accept(listener->loop, &socket->op, socket->fd);
}

static void accept_room(struct listener *listener)
{
	for (unsigned i = 0; i < listener->count; i++)
		if (listener->socket[i].full && !op_busy(&listener->socket[i].op))
			accept_next(&listener->socket[i]);
}

static void greeting_done(struct op *op, int result)
{
	struct listener_greeting *greeting = greeting_of(op);
	struct listener *listener = greeting->listener;
	struct wh_err err = { 0 };
	int fd = greeting->fd;

	if (listener->closing || result == -ECANCELED) {
		close(fd);
		return;
	}
	accept_room(listener);
	if (result == 1) {
		listener->accepted(listener, fd);
		return;
	}
	if (tls_why(listener->tuning.tls, fd, &err) == 0)
		err_set(&err, -ECONNRESET, "TLS: handshake: it was broken off");
	close(fd);
	if (listener->refused)
		listener->refused(listener, &err);
}

static void accept_done(struct op *op, int result)
{
	struct listener_socket *socket = socket_of(op);
	struct listener *listener = socket->listener;

	if (listener->closing) {
		if (result >= 0)
			close(result);
		socket_close(socket);
		return;
	}
	if (result == -ECANCELED)
		return; /* the loop closes */
	if (result < 0) {
		accept_failed(socket, result);
		return;
	}
	if (!listener->tuning.tls) {
		/* First, so that the listener is busy in accepted(), which may close it. */
		loop_accept(listener->loop, op, socket->fd);
	}
	if (socket_tune(result, &listener->tuning, NULL) < 0)
		close(result); /* as good as aborted before it was accepted */
	else
		listener_greet(listener, result);
	if (listener->tuning.tls && !listener->closing)
		accept_next(socket);
}

/* An fd: URI whose socket is connected: it is the one connection there will be. */
static void connected_done(struct op *op, int result)
{
	struct listener_socket *socket = socket_of(op);
	int fd = socket->fd;

	if (socket->listener->closing) {
		socket_close(socket);
	} else if (result == 0) {
		socket->fd = -1;
		listener_greet(socket->listener, fd);
	}
}

static int listen_refused(const struct uri *uri, const struct address *address, int code,
			  const char *what, struct wh_err *err)
{
	char text[URI_TEXT];
	char where[ADDRESS_TEXT];

	uri_format(uri, text, sizeof(text));
	if (uri->kind != URI_TCP)
		return err_sys(err, code, "%s %.150s", what, text);
	address_format(address, where);
	return err_sys(err, code, "%s %.150s (%s)", what, text, where);
}

/*
 * Is the file that is in the way a socket that nobody has bound? Connecting another
 * type of socket asks without making a connection: EPROTOTYPE says that there is one
 * behind it, ECONNREFUSED that there is none.
 */
static bool file_abandoned(const struct address *address, const char *path)
{
	bool abandoned = false;
	struct stat status;
	int fd;

	if (lstat(path, &status) < 0 || !S_ISSOCK(status.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *)&address->at, address->length) < 0)
		abandoned = errno == ECONNREFUSED;
	close(fd);
	return abandoned;
}

static int listener_bind(int fd, const struct uri *uri, const struct address *address)
{
	const struct sockaddr *at = (const struct sockaddr *)&address->at;
	int ret = bind(fd, at, address->length) < 0 ? -errno : 0;

	if (ret != -EADDRINUSE || uri->kind != URI_UNIX || !file_abandoned(address, uri->path))
		return ret;
	if (unlink(uri->path) < 0 && errno != ENOENT)
		return -errno;
	return bind(fd, at, address->length) < 0 ? -errno : 0;
}

/* A listening socket; *port, if 0, becomes the one that the kernel chose. */
static int listener_socket(const struct uri *uri, const struct address *wanted, uint32_t *port,
			   struct wh_err *err)
{
	struct address address = *wanted;
	int on = 1;
	int ret;
	int fd;

	if (*port)
		address_set_port(&address, *port);
	fd = socket(address.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return listen_refused(uri, &address, errno, "socket for", err);
	if (uri->kind == URI_TCP &&
	    (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	     (address.at.ss_family == AF_INET6 &&
	      setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0))) {
		ret = listen_refused(uri, &address, errno, "socket options for", err);
		goto out_close;
	}
	ret = listener_bind(fd, uri, &address);
	if (ret == 0 && listen(fd, BACKLOG) < 0)
		ret = -errno;
	if (ret < 0) {
		listen_refused(uri, &address, ret, "listen on", err);
		goto out_close;
	}
	address.length = sizeof(address.at);
	if (getsockname(fd, (struct sockaddr *)&address.at, &address.length) == 0)
		*port = address_port(&address);
	return fd;

out_close:
	close(fd);
	return ret;
}

/* The machine has no such family or address, though a name (localhost) has. */
static bool address_absent(int code)
{
	return code == -EAFNOSUPPORT || code == -EADDRNOTAVAIL;
}

static void listener_close_sockets(struct listener *listener)
{
	while (listener->count)
		socket_close(&listener->socket[--listener->count]);
}

/* All addresses, with one port. */
static int listener_sockets(struct listener *listener, const struct address *addresses,
			    unsigned count, struct wh_err *err)
{
	uint32_t port = listener->uri.port;
	int last = 0;

	for (unsigned i = 0; i < count; i++) {
		int fd = listener_socket(&listener->uri, &addresses[i], &port, err);

		if (fd < 0 && !address_absent(fd)) {
			listener_close_sockets(listener);
			return fd;
		}
		if (fd < 0)
			last = fd;
		else
			listener->socket[listener->count++].fd = fd;
	}
	if (listener->count == 0)
		return last;
	listener->uri.port = port;
	return 0;
}

/* The kernel's choice for the first address may be taken on the second. */
static int listener_every(struct listener *listener, const struct address *addresses,
			  unsigned count, struct wh_err *err)
{
	int tries = listener->uri.port ? 1 : PORT_TRIES;
	int ret;

	do {
		ret = listener_sockets(listener, addresses, count, err);
	} while (ret == -EADDRINUSE && --tries > 0);
	return ret;
}

/* A socket that somebody else has made: listening, or connected already. */
static int listener_fd(struct listener *listener, bool *connected, struct wh_err *err)
{
	struct address peer = { .length = sizeof(peer.at) };
	socklen_t length = sizeof(int);
	int fd = listener->uri.fd;
	int listening = 0;
	int flags;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0)
		return err_sys(err, errno, "fd:%d: expected a socket", fd);
	*connected = !listening;
	if (!listening && getpeername(fd, (struct sockaddr *)&peer.at, &peer.length) < 0)
		return err_sys(err, errno, "fd:%d: expected a listening or a connected socket", fd);
	if (!listening && socket_tune(fd, &listener->tuning, err) < 0)
		return err_wrap(err, "fd:%d", fd);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, errno, "fd:%d: set its flags", fd);
	listener->socket[0].fd = fd;
	listener->count = 1;
	return 0;
}

static void listener_own_file(struct listener *listener)
{
	struct stat status;

	if (listener->uri.kind != URI_UNIX || lstat(listener->uri.path, &status) < 0)
		return;
	listener->file_device = status.st_dev;
	listener->file_inode = status.st_ino;
	listener->file_ours = true;
}

static void listener_remove_file(struct listener *listener)
{
	struct stat status;

	if (listener->file_ours && lstat(listener->uri.path, &status) == 0 &&
	    status.st_dev == listener->file_device && status.st_ino == listener->file_inode)
		unlink(listener->uri.path);
	listener->file_ours = false;
}

int listener_open(struct listener *listener, struct loop *loop, const struct uri *uri,
		  const struct socket_tuning *tuning, struct wh_err *err)
{
	struct address addresses[LISTENERS_MAX + 1];
	bool connected = false;
	int ret;

	listener->loop = loop;
	listener->uri = *uri;
	listener->tuning = tuning ? *tuning : (struct socket_tuning){ 0 };
	listener->count = 0;
	listener->closing = false;
	if (uri->kind == URI_FD) {
		ret = listener_fd(listener, &connected, err);
	} else {
		ret = address_resolve(uri, true, addresses, LISTENERS_MAX + 1, err);
		if (ret > LISTENERS_MAX)
			ret = err_set(err, -E2BIG, "host '%.200s' has more than %d addresses",
				      uri->host, LISTENERS_MAX);
		if (ret > 0)
			ret = listener_every(listener, addresses, (unsigned)ret, err);
	}
	if (ret < 0)
		return ret;
	listener_own_file(listener);
	for (unsigned i = 0; i < listener->count; i++) {
		struct listener_socket *socket = &listener->socket[i];

		socket->listener = listener;
		socket->full = false;
		socket->op.done = connected ? connected_done : accept_done;
		if (connected)
			loop_timer(loop, &socket->op, 0);
		else
			loop_accept(loop, &socket->op, socket->fd);
	}
	return 0;
}

void listener_uri(const struct listener *listener, char *text, size_t room)
{
	uri_format(&listener->uri, text, room);
}

bool listener_quiet(const struct listener *listener)
{
	for (unsigned i = 0; i < listener->count; i++) {
		struct pollfd poll_fd = { .fd = listener->socket[i].fd, .events = POLLIN };

		if (listener->uri.kind != URI_FD && poll_fd.fd >= 0 && poll(&poll_fd, 1, 0) > 0)
			return false;
	}
	return true;
}

bool listener_busy(const struct listener *listener)
{
	for (unsigned i = 0; i < listener->count; i++)
		if (op_busy(&listener->socket[i].op))
			return true;
	for (unsigned i = 0; i < GREETINGS_MAX; i++)
		if (op_busy(&listener->greeting[i].op))
			return true;
	return false;
}

void listener_close(struct listener *listener)
{
	listener->closing = true;
	listener_remove_file(listener);
	for (unsigned i = 0; i < listener->count; i++) {
		struct listener_socket *socket = &listener->socket[i];

		/* Its descriptor goes when the accept has let go of it. */
		if (op_busy(&socket->op))
			loop_cancel(listener->loop, &socket->op);
		else
			socket_close(socket);
	}
	for (unsigned i = 0; i < GREETINGS_MAX; i++)
		if (op_busy(&listener->greeting[i].op))
			loop_cancel(listener->loop, &listener->greeting[i].op);
}
