/* SPDX-License-Identifier: MIT */
/*
 * Edge: TLS on connections. Each has a thread (tls_link.c), so that whoever uses it need not
 * know: not the ring, not the engines, and not those who send from one thread what another one
 * receives. What it costs, and what else was thought of, is in Documentation/tls.rst.
 *
 * A caller closes his end as he would close a socket, and the thread goes on until the rest
 * has left; so the connections are known here until then, and ended ones are joined by the
 * next that begins. Why a link broke is kept by the cookie of the caller's socket, which the
 * kernel gives to no other one; a few are enough, since each is asked for at once.
 */
#include "ring/tls.h"

#include "base/clock.h"
#include "base/err.h"
#include "ring/tls_link.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BROKEN_MAX 64u
#define PAIR_BUFFER (256 << 10)
#define LINGER_NS (10 * NS_PER_S)

struct tls {
	struct tls_creds creds;
	uint64_t linger_ns;
	int stop;
	pthread_mutex_t lock;
	struct tls_link *links; /* @lock, and what follows */
	unsigned broken_next;
	struct tls_broken {
		uint64_t cookie;
		struct wh_err why;
	} broken[BROKEN_MAX];
};

int tls_open(struct tls **tls, const struct tls_config *config, struct wh_err *err)
{
	struct tls *made = calloc(1, sizeof(*made));
	int ret;

	*tls = NULL;
	if (!made)
		return err_set(err, -ENOMEM, "TLS: no memory");
	ret = tls_creds_load(&made->creds, config, err);
	if (ret < 0)
		goto out_free;
	made->linger_ns = config->linger_ns ? config->linger_ns : LINGER_NS;
	made->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (made->stop < 0) {
		ret = err_sys(err, errno, "TLS: eventfd");
		goto out_free;
	}
	pthread_mutex_init(&made->lock, NULL);
	*tls = made;
	return 0;

out_free:
	tls_creds_free(&made->creds);
	free(made);
	return ret;
}

int tls_open_as(struct tls **tls, const struct wh_tls *as, bool server, uint64_t linger_ns,
		struct wh_err *err)
{
	const struct tls_config config = {
		.server = server,
		.psk = as->kind == WH_TLS_PSK,
		.verify = !as->unverified,
		.dir = as->dir,
		.username = as->username,
		.hostname = as->hostname,
		.priority = as->priority,
		.linger_ns = linger_ns,
	};

	*tls = NULL;
	if (as->kind != WH_TLS_X509 && as->kind != WH_TLS_PSK)
		return err_set(err, -EINVAL, "config: tls: kind %d", as->kind);
	return tls_open(tls, &config, err);
}

/* Its thread has ended, or never began */
static void link_free(struct tls_link *link)
{
	gnutls_deinit(link->session);
	close(link->fd);
	close(link->pair);
	free(link);
}

/* What is over, out of the list; with @all what is not as well */
static struct tls_link *take_links(struct tls *tls, bool all)
{
	struct tls_link **at = &tls->links;
	struct tls_link *taken = NULL;

	pthread_mutex_lock(&tls->lock);
	while (*at) {
		struct tls_link *link = *at;

		if (!link->over && !all) {
			at = &link->next;
			continue;
		}
		*at = link->next;
		link->next = taken;
		taken = link;
	}
	pthread_mutex_unlock(&tls->lock);
	return taken;
}

static void join(struct tls_link *links)
{
	while (links) {
		struct tls_link *next = links->next;

		pthread_join(links->thread, NULL);
		free(links);
		links = next;
	}
}

void tls_close(struct tls *tls, bool flush)
{
	const uint64_t one = 1;
	ssize_t n = 0;

	if (!tls)
		return;
	if (!flush)
		n = write(tls->stop, &one, sizeof(one));
	(void)n; /* cannot fail: the counter is not full */
	join(take_links(tls, true));
	tls_creds_free(&tls->creds);
	close(tls->stop);
	pthread_mutex_destroy(&tls->lock);
	free(tls);
}

/* The reason first: who sees the end of the pair asks for it. The memory is the joiner's */
static void link_ended(struct tls_link *link)
{
	struct tls *tls = link->tls;

	pthread_mutex_lock(&tls->lock);
	if (link->why.code) {
		tls->broken[tls->broken_next] = (struct tls_broken){ link->cookie, link->why };
		tls->broken_next = (tls->broken_next + 1) % BROKEN_MAX;
	}
	pthread_mutex_unlock(&tls->lock);
	gnutls_deinit(link->session);
	close(link->fd);
	close(link->pair);
	pthread_mutex_lock(&tls->lock);
	link->over = true;
	pthread_mutex_unlock(&tls->lock);
}

static void *link_main(void *arg)
{
	struct tls_link *link = arg;

	pthread_setname_np(pthread_self(), "wherry-tls");
	tls_link_run(link);
	link_ended(link);
	return NULL;
}

static int link_start(struct tls *tls, struct tls_link *link, struct wh_err *err)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&tls->lock);
	ret = pthread_create(&link->thread, NULL, link_main, link);
	if (ret == 0) {
		link->next = tls->links;
		tls->links = link;
	}
	pthread_mutex_unlock(&tls->lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? err_sys(err, ret, "TLS: a thread") : 0;
}

/* @fd's twin in the clear; both ends of the pair know what is under way */
static int link_pair(struct tls_link *link, struct wh_err *err)
{
	socklen_t length = sizeof(link->cookie);
	const int room = PAIR_BUFFER;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(err, errno, "TLS: socketpair");
	link->pair = pair[1];
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	(void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (getsockopt(pair[0], SOL_SOCKET, SO_COOKIE, &link->cookie, &length) < 0) {
		err_sys(err, errno, "TLS: socket's cookie");
		close(pair[0]);
		close(pair[1]);
		return -errno;
	}
	return pair[0];
}

int tls_wrap(struct tls *tls, int fd, const char *host, uint64_t deadline_ns, struct wh_err *err)
{
	struct tls_link *link = calloc(1, sizeof(*link));
	int plain, ret;

	join(take_links(tls, false));
	if (!link) {
		close(fd);
		return err_set(err, -ENOMEM, "TLS: no memory for a connection");
	}
	link->tls = tls;
	link->creds = &tls->creds;
	link->fd = fd;
	link->stop = tls->stop;
	link->linger_ns = tls->linger_ns;
	link->deadline_ns = deadline_ns;
	host = tls->creds.hostname[0] ? tls->creds.hostname : host;
	memcpy(link->host, host, strnlen(host, sizeof(link->host) - 1));
	ret = tls_session_new(&link->session, &tls->creds, err);
	if (ret < 0)
		goto out_free;
	plain = link_pair(link, err);
	if (plain < 0) {
		ret = plain;
		goto out_session;
	}
	ret = link_start(tls, link, err);
	if (ret == 0)
		return plain;
	close(plain);
	link_free(link);
	return ret;

out_session:
	gnutls_deinit(link->session);
out_free:
	close(fd);
	free(link);
	return ret;
}

int tls_check_host(const struct tls *tls, const char *host, struct wh_err *err)
{
	if (tls->creds.psk || !tls->creds.verify || tls->creds.hostname[0] || host[0])
		return 0;
	return err_set(err, -EINVAL,
		       "TLS: the address names no host, and the certificate is to be of one: which?");
}

int tls_why(struct tls *tls, int fd, struct wh_err *err)
{
	socklen_t length = sizeof(uint64_t);
	uint64_t cookie;
	int ret = 0;

	if (!tls || getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0)
		return 0;
	pthread_mutex_lock(&tls->lock);
	for (unsigned i = 0; i < BROKEN_MAX && ret == 0; i++) {
		if (tls->broken[i].cookie != cookie)
			continue;
		ret = tls->broken[i].why.code;
		if (ret && err)
			*err = tls->broken[i].why;
	}
	pthread_mutex_unlock(&tls->lock);
	return ret;
}
