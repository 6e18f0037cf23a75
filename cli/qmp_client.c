/* SPDX-License-Identifier: MIT */
/*
 * Edge: one connection. Nothing here waits: what cannot be sent is kept, within limits,
 * and epoll says when there is room.
 *
 * Somebody who asks and does not read what he is told is not listened to any more as
 * soon as QMP_OUT_PAUSE of it lie here, so that only events can make it more.
 */
#include "cli/qmp_monitor.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct qmp_client *qmp_client_new(int fd)
{
	struct qmp_client *client = calloc(1, sizeof(*client));

	if (client)
		client->fd = fd;
	return client;
}

void qmp_client_free(struct qmp_client *client)
{
	close(client->fd);
	free(client->out);
	free(client);
}

static bool make_room(struct qmp_client *client, size_t length)
{
	size_t room = client->out_room ? client->out_room : 4096;
	char *out;

	if (client->out_used) {
		client->out_have -= client->out_used;
		memmove(client->out, client->out + client->out_used, client->out_have);
		client->out_used = 0;
	}
	if (client->out_have + length > QMP_OUT_MAX)
		return false;
	while (room < client->out_have + length)
		room *= 2;
	if (room == client->out_room)
		return true;
	out = realloc(client->out, room);
	if (!out)
		return false;
	client->out = out;
	client->out_room = room;
	return true;
}

void qmp_client_say(struct qmp_client *client, struct json_object *object)
{
	size_t length = 0;
	char *line = qmp_line(object, &length);

	if (line && make_room(client, length)) {
		memcpy(client->out + client->out_have, line, length);
		client->out_have += length;
	} else {
		client->gone = true;
	}
	free(line);
}

void qmp_client_send(struct qmp_client *client)
{
	while (client->out_used < client->out_have) {
		ssize_t n = send(client->fd, client->out + client->out_used,
				 client->out_have - client->out_used, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			client->gone = client->gone || (errno != EAGAIN && errno != EWOULDBLOCK);
			return;
		}
		client->out_used += (size_t)n;
	}
	/* What a burst needed is given back */
	free(client->out);
	client->out = NULL;
	client->out_used = client->out_have = client->out_room = 0;
}

static void read_some(struct qmp_client *client)
{
	ssize_t n = recv(client->fd, client->in, sizeof(client->in), MSG_DONTWAIT);

	client->in_used = 0;
	client->in_have = n > 0 ? (size_t)n : 0;
	if (n == 0)
		client->ended = true;
	if (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
		client->gone = true;
}

static bool is_listened_to(const struct qmp_client *client)
{
	return client->out_have - client->out_used < QMP_OUT_PAUSE;
}

static void answer_text(struct wh_qmp *qmp, struct qmp_client *client)
{
	struct json_object *object = NULL;
	struct json_object *answer;
	struct wh_err err = { 0 };

	if (qmp_frame_parse(&client->frames, &object, &err))
		answer = qmp_error(QMP_GENERIC_ERROR, err.text);
	else
		answer = qmp_answer(qmp, client, object);
	/* What the command has brought about stands before its answer, as in QEMU */
	qmp_notes_tell(qmp);
	qmp_client_say(client, answer);
	json_object_put(answer);
	json_object_put(object);
}

static void answer_some(struct wh_qmp *qmp, struct qmp_client *client)
{
	while (client->in_used < client->in_have && is_listened_to(client) && !client->gone) {
		struct json_object *error;
		struct wh_err err = { 0 };
		size_t used = 0;
		enum qmp_frame is = qmp_frame_get(&client->frames, client->in + client->in_used,
						  client->in_have - client->in_used, &used, &err);

		client->in_used += used;
		if (is == QMP_FRAME_TEXT) {
			answer_text(qmp, client);
		} else if (is == QMP_FRAME_WRONG) {
			error = qmp_error(QMP_GENERIC_ERROR, err.text);
			qmp_client_say(client, error);
			json_object_put(error);
		}
	}
}

uint32_t qmp_client_waits_for(const struct qmp_client *client)
{
	bool unread = client->in_used < client->in_have;
	bool unsent = client->out_used < client->out_have;

	/* With both, room to send is what everything waits for */
	return (unsent || unread ? (uint32_t)EPOLLOUT : 0) |
	       (!client->ended && !unread && is_listened_to(client) ? (uint32_t)EPOLLIN : 0);
}

void qmp_client_turn(struct wh_qmp *qmp, struct qmp_client *client)
{
	if (client->in_used == client->in_have && is_listened_to(client) && !client->ended)
		read_some(client);
	answer_some(qmp, client);
	qmp_client_send(client);
	if (client->ended && client->in_used == client->in_have &&
	    client->out_used == client->out_have)
		client->gone = true;
}
