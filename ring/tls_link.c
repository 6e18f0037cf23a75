/* SPDX-License-Identifier: MIT */
/*
 * Edge: one connection's thread. It has a socket of the network, on which it speaks TLS, and
 * one end of a pair of unix sockets, on which it speaks plainly with whoever has the other
 * end. What one of them does shows on the other:
 *
 *	caller			network
 *	shutdown(SHUT_WR)	close_notify, and the half is closed
 *	close()			the same, when all that was written is delivered; what
 *				still comes is thrown away
 *	end of file		close_notify
 *	end of file, and	anything else: a reset, a record that is wrong, an end without
 *	tls_why() knows		close_notify, which whoever sits on the way can make
 *
 * Nothing is read that there is no room for, so that a side that stalls stalls the other one.
 * The session is this thread's alone: GnuTLS takes no two at a time when keys change.
 */
#include "ring/tls_link.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define RECORD_BYTES ((size_t)16384)
#define RECORD_ROOM (RECORD_BYTES + 512) /* with all that TLS adds */
#define DELIVERED_AGAIN_MS 2

static size_t have(const struct tls_buffer *buffer)
{
	return buffer->end - buffer->begin;
}

static size_t room(const struct tls_buffer *buffer)
{
	return sizeof(buffer->bytes) - buffer->end;
}

static void took(struct tls_buffer *buffer, size_t bytes)
{
	buffer->begin += bytes;
	if (buffer->begin == buffer->end)
		buffer->begin = buffer->end = 0;
}

/* ---- What the session asks of the network ---- */

static ssize_t session_failed(struct tls_link *link, int number)
{
	if (number != EAGAIN && number != EINTR)
		link->number = number;
	gnutls_transport_set_errno(link->session, number);
	return -1;
}

static ssize_t session_pull(gnutls_transport_ptr_t ptr, void *data, size_t size)
{
	struct tls_link *link = ptr;
	struct tls_buffer *in = &link->in;

	if (!have(in)) {
		ssize_t n = recv(link->fd, in->bytes, sizeof(in->bytes), MSG_DONTWAIT);

		if (n < 0)
			return session_failed(link, errno);
		if (n == 0)
			return 0;
		in->end = (size_t)n;
		if (!link->known && n >= (ssize_t)sizeof(link->first)) {
			memcpy(link->first, in->bytes, sizeof(link->first));
			link->known = true;
		}
	}
	if (size > have(in))
		size = have(in);
	memcpy(data, in->bytes + in->begin, size);
	took(in, size);
	return (ssize_t)size;
}

static ssize_t session_push(gnutls_transport_ptr_t ptr, const giovec_t *iov, int count)
{
	struct tls_link *link = ptr;
	struct tls_buffer *out = &link->out;
	size_t taken = 0;

	for (int i = 0; i < count && room(out); i++) {
		size_t bytes = iov[i].iov_len < room(out) ? iov[i].iov_len : room(out);

		memcpy(out->bytes + out->end, iov[i].iov_base, bytes);
		out->end += bytes;
		taken += bytes;
	}
	return taken ? (ssize_t)taken : session_failed(link, EAGAIN);
}

/* There is no such wait: whoever asks is told that there is something to be looked at */
static int session_ready(gnutls_transport_ptr_t ptr, unsigned ms)
{
	(void)ptr;
	(void)ms;
	return 1;
}

/* Return: how much of what is due has left; @link->why says what has broken */
static size_t flush(struct tls_link *link)
{
	struct tls_buffer *out = &link->out;
	size_t sent = 0;

	while (have(out)) {
		ssize_t n = send(link->fd, out->bytes + out->begin, have(out),
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN && !link->why.code)
				err_sys(&link->why, errno, "TLS: send");
			break;
		}
		took(out, (size_t)n);
		sent += (size_t)n;
	}
	return sent;
}

/* ---- The handshake ---- */

/* Until there is something to do. 0, -ECANCELED or -ETIMEDOUT */
static int handshake_wait(struct tls_link *link)
{
	uint64_t now_ns = clock_now_ns();
	struct pollfd fds[] = {
		{ .fd = link->fd, .events = have(&link->out) ? POLLIN | POLLOUT : POLLIN },
		{ .fd = link->pair },
		{ .fd = link->stop, .events = POLLIN },
	};
	uint64_t left_ms;

	if (now_ns >= link->deadline_ns)
		return -ETIMEDOUT;
	left_ms = (link->deadline_ns - now_ns) / NS_PER_MS + 1;
	if (poll(fds, 3, left_ms < INT32_MAX ? (int)left_ms : INT32_MAX) < 0)
		return 0;
	return fds[1].revents || fds[2].revents ? -ECANCELED : 0;
}

static int handshake_failed(struct tls_link *link, int code)
{
	struct wh_err *err = &link->why;

	if (err->code)
		return err->code;
	if (link->known && (link->first[0] < 0x14 || link->first[0] > 0x17))
		return err_set(err, -EPROTO,
			       "TLS: handshake: the peer does not speak TLS: it begins with "
			       "0x%02x%02x%02x%02x",
			       link->first[0], link->first[1], link->first[2], link->first[3]);
	if (code == GNUTLS_E_PREMATURE_TERMINATION)
		return err_set(err, -ECONNABORTED, "TLS: handshake: the peer hung up%s",
			       link->known	? "" :
			       link->creds->psk ? ", and said nothing: has it the same key?" :
						  ", and said nothing: does it speak TLS?");
	tls_session_failed(link->session, code, link->number, "handshake", err);
	return link->creds->psk && !link->number ?
		       err_set(err, err->code, "%.380s (is it the same key?)", err->text) :
		       err->code;
}

/* As much of a sentence as GnuTLS lets the peer have */
static void say_alert(struct tls_link *link, int code)
{
	if (code == GNUTLS_E_CERTIFICATE_ERROR)
		gnutls_alert_send(link->session, GNUTLS_AL_FATAL, GNUTLS_A_BAD_CERTIFICATE);
	else
		gnutls_alert_send_appropriate(link->session, code);
	flush(link);
}

static int shake(struct tls_link *link)
{
	int code = GNUTLS_E_AGAIN;
	int ret;

	for (;;) {
		if (code != 0)
			code = gnutls_handshake(link->session);
		flush(link);
		if (code < 0 && gnutls_error_is_fatal(code)) {
			handshake_failed(link, code);
			say_alert(link, code);
			return link->why.code;
		}
		if (link->why.code)
			return link->why.code;
		if (code == 0 && !have(&link->out))
			break;
		ret = code < 0 && code != GNUTLS_E_AGAIN && code != GNUTLS_E_INTERRUPTED ?
			      clock_now_ns() >= link->deadline_ns ? -ETIMEDOUT : 0 :
			      handshake_wait(link);
		if (ret == -ETIMEDOUT)
			return err_set(&link->why, ret, "TLS: handshake: the peer was too slow");
		if (ret < 0)
			return err_set(&link->why, ret, "TLS: handshake: given up");
	}
	/* Whom was not asked in the handshake: a client that shows nothing */
	ret = tls_session_verify(link->session, link->creds, link->host, &link->why);
	if (ret < 0)
		say_alert(link, GNUTLS_E_CERTIFICATE_ERROR);
	return ret;
}

/* In the handshake, so that the peer is told before he believes that it has succeeded */
static int session_verify(gnutls_session_t session)
{
	struct tls_link *link = gnutls_session_get_ptr(session);
	int ret = tls_session_verify(session, link->creds, link->host, &link->why);

	return ret < 0 ? GNUTLS_E_CERTIFICATE_ERROR : 0;
}

/* ---- Both directions. Each function returns whether it has brought anything on ---- */

static bool read_plain(struct tls_link *link)
{
	struct tls_buffer *plain = &link->plain_out;
	ssize_t n;

	if (link->said_all || have(plain) || link->why.code)
		return false;
	n = recv(link->pair, plain->bytes, sizeof(plain->bytes), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n > 0)
		plain->end = (size_t)n;
	else
		link->said_all = true;
	return true;
}

static bool send_records(struct tls_link *link)
{
	struct tls_buffer *plain = &link->plain_out;
	bool moved = false;

	while (have(plain) && room(&link->out) >= RECORD_ROOM && !link->why.code) {
		size_t bytes = have(plain) < RECORD_BYTES ? have(plain) : RECORD_BYTES;
		ssize_t n = gnutls_record_send(link->session, plain->bytes + plain->begin, bytes);

		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			break;
		if (n < 0)
			tls_session_failed(link->session, (int)n, link->number, "send", &link->why);
		else
			took(plain, (size_t)n);
		moved = true;
	}
	if (link->said_all && !have(plain) && !link->bye && !link->why.code &&
	    room(&link->out) >= RECORD_ROOM) {
		(void)gnutls_bye(link->session, GNUTLS_SHUT_WR);
		link->bye = moved = true;
	}
	return moved;
}

static bool receive_record(struct tls_link *link);

/* A peer that refuses says so and closes: its alert says more than that nothing can be sent */
static void hear_last(struct tls_link *link)
{
	struct wh_err sending = link->why;

	link->why = (struct wh_err){ 0 };
	while (!link->heard_all && room(&link->plain_in) >= RECORD_BYTES && receive_record(link))
		;
	if (link->why.code != -EPROTO)
		link->why = sending;
}

static bool outwards(struct tls_link *link)
{
	bool moved = flush(link) > 0;

	moved |= read_plain(link);
	moved |= send_records(link);
	moved |= flush(link) > 0;
	if (link->why.code && !link->heard_all)
		hear_last(link);
	if (link->bye && !have(&link->out) && !link->ended) {
		shutdown(link->fd, SHUT_WR);
		link->ended = moved = true;
	}
	return moved;
}

/* One record; of a broken link as well, for what came before that */
static bool receive_record(struct tls_link *link)
{
	struct tls_buffer *plain = &link->plain_in;
	ssize_t n = gnutls_record_recv(link->session, plain->bytes + plain->end, room(plain));

	if (n > 0) {
		plain->end += (size_t)n;
		return true;
	}
	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
		return false;
	if (n < 0 && !gnutls_error_is_fatal((int)n) && n != GNUTLS_E_REHANDSHAKE)
		return true;
	link->heard_all = true;
	if (n < 0 && !link->why.code)
		tls_session_failed(link->session, (int)n, link->number, "receive", &link->why);
	return true;
}

static bool inwards(struct tls_link *link)
{
	struct tls_buffer *plain = &link->plain_in;
	bool moved = false;

	while (!link->heard_all && room(plain) >= RECORD_BYTES && receive_record(link))
		moved = true;
	while (have(plain) && !link->left) {
		ssize_t n = send(link->pair, plain->bytes + plain->begin, have(plain),
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			link->left = true;
		if (n <= 0)
			break;
		took(plain, (size_t)n);
		moved = true;
	}
	if (link->left)
		took(plain, have(plain));
	if (link->heard_all && !have(plain) && !link->eof_given && !link->why.code) {
		shutdown(link->pair, SHUT_WR);
		link->eof_given = moved = true;
	}
	return moved;
}

/* A socket that is closed while its peer still says something forgets what it has to send */
static bool is_delivered(const struct tls_link *link)
{
	socklen_t length = sizeof(int);
	int domain = AF_UNIX;
	int waiting = 0;

	if (link->heard_all || getsockopt(link->fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 ||
	    domain == AF_UNIX)
		return true;
	return ioctl(link->fd, SIOCOUTQ, &waiting) < 0 || waiting == 0;
}

static bool is_over(const struct tls_link *link)
{
	if (link->why.code) /* what came before that is the caller's yet */
		return link->left || !have(&link->plain_in);
	if (!link->ended)
		return false;
	return link->left ? is_delivered(link) : link->eof_given;
}

/* Return: false, it is not to go on */
static bool rest(struct tls_link *link, uint64_t moved_ns)
{
	bool receive = !link->heard_all && room(&link->plain_in) >= RECORD_BYTES;
	bool read = !link->said_all && !have(&link->plain_out) && !link->why.code;
	struct pollfd fds[] = {
		{ .fd = link->stop, .events = POLLIN },
		{ .fd = link->fd },
		{ .fd = link->pair },
	};
	int wait_ms = -1;

	if (receive)
		fds[1].events |= POLLIN;
	if (have(&link->out) && !link->why.code)
		fds[1].events |= POLLOUT;
	if (read)
		fds[2].events |= POLLIN;
	if (have(&link->plain_in))
		fds[2].events |= POLLOUT;
	/* poll() tells of a hang-up also whom it does not concern any more */
	if (!fds[1].events)
		fds[1].fd = -1;
	if (link->left && !fds[2].events)
		fds[2].fd = -1;
	if (link->left) {
		uint64_t still_ns = clock_now_ns() - moved_ns;

		if (still_ns >= link->linger_ns)
			return false;
		wait_ms = link->ended ? DELIVERED_AGAIN_MS :
					(int)((link->linger_ns - still_ns) / NS_PER_MS + 1);
	}
	if (poll(fds, 3, wait_ms) < 0)
		return true;
	if (fds[2].revents & (POLLHUP | POLLERR))
		link->left = true;
	return !fds[0].revents;
}

static void pump(struct tls_link *link)
{
	uint64_t moved_ns = clock_now_ns();

	for (;;) {
		bool moved = outwards(link);

		moved |= inwards(link);
		if (is_over(link))
			return;
		if (moved)
			moved_ns = clock_now_ns();
		else if (!rest(link, moved_ns))
			return;
	}
}

void tls_link_run(struct tls_link *link)
{
	const uint8_t done = 0;

	gnutls_session_set_ptr(link->session, link);
	if (!link->creds->psk)
		gnutls_session_set_verify_function(link->session, session_verify);
	gnutls_transport_set_ptr(link->session, link);
	gnutls_transport_set_pull_function(link->session, session_pull);
	gnutls_transport_set_pull_timeout_function(link->session, session_ready);
	gnutls_transport_set_vec_push_function(link->session, session_push);
	if (shake(link) < 0)
		return;
	if (send(link->pair, &done, sizeof(done), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(done))
		return;
	pump(link);
}
