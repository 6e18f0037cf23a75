/* SPDX-License-Identifier: MIT */
/*
 * Joining: the monitor as a whole, its loop and its thread.
 *
 * One epoll descriptor stands for everything there is to wait for: the listening socket,
 * clients, and an eventfd for notes of other threads. So it can be driven by a thread of
 * its own or lie in somebody else's loop, and the turn is the same.
 */
#include "cli/qmp_commands.h"
#include "cli/qmp_json.h"
#include "cli/qmp_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_A_TURN 32

void wh_qmp_config_init(struct wh_qmp_config *config)
{
	*config = (struct wh_qmp_config){ .size = sizeof(*config) };
}

static int watch(struct wh_qmp *qmp, int operation, int fd, uint32_t events, void *what)
{
	struct epoll_event event = { .events = events, .data.ptr = what };

	return epoll_ctl(qmp->epoll, operation, fd, &event) < 0 ? -errno : 0;
}

static int open_all(struct wh_qmp *qmp, struct wh_err *err)
{
	qmp->epoll = epoll_create1(EPOLL_CLOEXEC);
	qmp->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	qmp->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (qmp->epoll < 0 || qmp->wake < 0 || qmp->spare < 0)
		return qmp_fail(err, -errno, "monitor: %s", strerrordesc_np(errno));
	qmp->listener = qmp_socket_listen(qmp->path, &qmp->device, &qmp->inode, err);
	if (qmp->listener < 0)
		return qmp->listener;
	qmp->listening = true;
	if (watch(qmp, EPOLL_CTL_ADD, qmp->listener, EPOLLIN, &qmp->listener) ||
	    watch(qmp, EPOLL_CTL_ADD, qmp->wake, EPOLLIN, &qmp->wake))
		return qmp_fail(err, -ENOMEM, "monitor: no room in epoll");
	return 0;
}

int wh_qmp_new(struct wh_qmp **qmp, const struct wh_qmp_config *config, struct wh_err *err)
{
	struct wh_qmp *q;
	int ret;

	*qmp = NULL;
	if (config->size != sizeof(*config) || !config->callbacks)
		return qmp_fail(err, -EINVAL,
				"struct wh_qmp_config is not made by "
				"wh_qmp_config_init(), or has no callbacks");
	if (!config->path || !*config->path || strlen(config->path) >= sizeof(q->path))
		return qmp_fail(err, -EINVAL, "a socket's path has 1 to %zu bytes",
				sizeof(q->path) - 1);
	q = calloc(1, sizeof(*q));
	if (!q)
		return qmp_fail(err, -ENOMEM, "no memory for a monitor");
	q->epoll = q->listener = q->wake = q->spare = -1;
	q->callbacks = *config->callbacks;
	q->opaque = config->opaque;
	q->running = config->running;
	snprintf(q->path, sizeof(q->path), "%s", config->path);
	qmp_settings_init(&q->settings, config->defaults);
	pthread_mutex_init(&q->migration_lock, NULL);
	pthread_mutex_init(&q->note_lock, NULL);
	ret = open_all(q, err);
	if (ret)
		wh_qmp_free(q);
	else
		*qmp = q;
	return ret;
}

void wh_qmp_free(struct wh_qmp *qmp)
{
	if (!qmp)
		return;
	if (qmp->threaded) {
		__atomic_store_n(&qmp->stopping, true, __ATOMIC_RELEASE);
		eventfd_write(qmp->wake, 1);
		pthread_join(qmp->thread, NULL);
	}
	qmp_notes_tell(qmp); /* "completed" may be one of them */
	for (unsigned i = 0; i < qmp->clients; i++) {
		qmp_client_send(qmp->client[i]);
		qmp_client_free(qmp->client[i]);
	}
	if (qmp->listener >= 0)
		qmp_socket_close(qmp->listener, qmp->path, qmp->device, qmp->inode);
	if (qmp->epoll >= 0)
		close(qmp->epoll);
	if (qmp->wake >= 0)
		close(qmp->wake);
	if (qmp->spare >= 0)
		close(qmp->spare);
	pthread_mutex_destroy(&qmp->migration_lock);
	pthread_mutex_destroy(&qmp->note_lock);
	free(qmp);
}

/* Whoever comes while everybody's place is taken waits in the socket's queue. */
static void listen_or_not(struct wh_qmp *qmp)
{
	bool wanted = qmp->clients < QMP_CLIENTS_MAX;

	if (wanted == qmp->listening)
		return;
	watch(qmp, EPOLL_CTL_MOD, qmp->listener, wanted ? (uint32_t)EPOLLIN : 0, &qmp->listener);
	qmp->listening = wanted;
}

/*
 * Without a descriptor for whoever came the listener would be readable for ever: the spare
 * one is given up for a moment, to hang up on him.
 */
static void hang_up(struct wh_qmp *qmp)
{
	close(qmp->spare);
	close(accept4(qmp->listener, NULL, NULL, SOCK_CLOEXEC));
	qmp->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_one(struct wh_qmp *qmp)
{
	int fd = accept4(qmp->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct json_object *greeting;
	struct qmp_client *client;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			hang_up(qmp);
		return;
	}
	client = qmp_client_new(fd);
	if (!client || watch(qmp, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT, client)) {
		free(client);
		close(fd);
		return;
	}
	client->waits_for = EPOLLIN | EPOLLOUT;
	qmp->client[qmp->clients++] = client;
	greeting = qmp_greeting();
	qmp_client_say(client, greeting);
	json_object_put(greeting);
}

/* After everybody had his turn: send what others' turns brought, part with who is gone. */
static void settle(struct wh_qmp *qmp)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < qmp->clients; i++) {
		struct qmp_client *client = qmp->client[i];
		uint32_t waits_for = qmp_client_waits_for(client);

		if (client->gone) {
			qmp_client_free(client); /* epoll forgets it with its descriptor */
			continue;
		}
		if (waits_for != client->waits_for)
			watch(qmp, EPOLL_CTL_MOD, client->fd, waits_for, client);
		client->waits_for = waits_for;
		qmp->client[kept++] = client;
	}
	qmp->clients = kept;
	listen_or_not(qmp);
	if (!qmp->quitting)
		return;
	qmp->quitting = false;
	qmp->callbacks.quit(qmp->opaque);
}

/* Return: 0, or a negative errno */
static int turn(struct wh_qmp *qmp, int timeout_ms)
{
	struct epoll_event event[EVENTS_A_TURN];
	int count = epoll_wait(qmp->epoll, event, EVENTS_A_TURN, timeout_ms);
	eventfd_t notes;

	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < count; i++) {
		void *what = event[i].data.ptr;

		if (what == &qmp->listener)
			accept_one(qmp);
		else if (what == &qmp->wake)
			eventfd_read(qmp->wake, &notes);
		else
			qmp_client_turn(qmp, what);
	}
	qmp_notes_tell(qmp);
	settle(qmp);
	return 0;
}

static void *thread_main(void *arg)
{
	struct wh_qmp *qmp = arg;

	int ret = 0;

	while (!ret && !__atomic_load_n(&qmp->stopping, __ATOMIC_ACQUIRE))
		ret = turn(qmp, -1);
	return NULL;
}

int wh_qmp_start(struct wh_qmp *qmp, struct wh_err *err)
{
	sigset_t all, before;
	int ret;

	sigfillset(&all); /* signals are for the process's own threads */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(&qmp->thread, NULL, thread_main, qmp);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret)
		return qmp_fail(err, -ret, "no thread for the monitor: %s", strerrordesc_np(ret));
	qmp->threaded = true;
	return 0;
}

int wh_qmp_fd(const struct wh_qmp *qmp)
{
	return qmp->epoll;
}

int wh_qmp_process(struct wh_qmp *qmp, struct wh_err *err)
{
	int ret = turn(qmp, 0);

	return ret ? qmp_fail(err, ret, "monitor: epoll_wait: %s", strerrordesc_np(-ret)) : 0;
}
