/* SPDX-License-Identifier: MIT */
#include "selftests/lib/qemu.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

#define ARGV_MAX 64

static uint64_t end_ns(int timeout_ms)
{
	return clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
}

/* What QEMU itself has to say is the best of sentences. */
static int gone(struct qemu *qemu, struct wh_err *err)
{
	char text[160];

	return err_set(err, -ECONNRESET, QEMU_PROGRAM " is gone; it said: %s",
		       child_said(&qemu->child, text, sizeof(text)));
}

/* Return: 1 and *@message, 0 when time is up, or a negative errno */
static int next_message(struct qemu *qemu, struct json_object **message, uint64_t end,
			struct wh_err *err)
{
	for (;;) {
		struct pollfd ready = { .fd = qemu->qmp, .events = POLLIN };
		uint64_t now = clock_now_ns();
		ssize_t n;

		while (qemu->used < qemu->have) {
			struct json_object *object =
				json_tokener_parse_ex(qemu->parser, qemu->input + qemu->used,
						      (int)(qemu->have - qemu->used));

			qemu->used += json_tokener_get_parse_end(qemu->parser);
			if (object) {
				*message = object;
				return 1;
			}
			if (json_tokener_get_error(qemu->parser) != json_tokener_continue)
				return err_set(err, -EPROTO, "QMP: %s",
					       json_tokener_error_desc(
						       json_tokener_get_error(qemu->parser)));
		}
		if (now >= end || poll(&ready, 1, (int)((end - now) / NS_PER_MS) + 1) == 0)
			return 0;
		n = read(qemu->qmp, qemu->input, sizeof(qemu->input));
		if (n == 0 || (n < 0 && errno != EINTR))
			return gone(qemu, err);
		qemu->used = 0;
		qemu->have = n > 0 ? (size_t)n : 0;
	}
}

static int keep_event(struct qemu *qemu, struct json_object *event, struct wh_err *err)
{
	if (qemu->events == QEMU_EVENTS_MAX) {
		json_object_put(event);
		return err_set(err, -ENOBUFS, "more than %d QMP events that nobody waited for",
			       QEMU_EVENTS_MAX);
	}
	qemu->event[qemu->events++] = event;
	return 0;
}

static int take_answer(struct json_object *message, const char *command, struct json_object **reply,
		       struct wh_err *err)
{
	struct json_object *part;
	int ret = 0;

	if (json_object_object_get_ex(message, "error", &part)) {
		json_object_object_get_ex(part, "desc", &part);
		ret = err_set(err, -EREMOTEIO, "QMP %s: %s", command, json_object_get_string(part));
	} else if (json_object_object_get_ex(message, "return", &part)) {
		if (reply)
			*reply = json_object_get(part);
	} else {
		ret = err_set(err, -EPROTO, "QMP %s: neither answer nor error", command);
	}
	json_object_put(message);
	return ret;
}

static int send_text(struct qemu *qemu, const char *text, size_t length, struct wh_err *err)
{
	while (length) {
		ssize_t n = send(qemu->qmp, text, length, MSG_NOSIGNAL);

		if (n < 0)
			return gone(qemu, err);
		text += n;
		length -= (size_t)n;
	}
	return 0;
}

static int send_command(struct qemu *qemu, const char *command, const char *arguments,
			struct wh_err *err)
{
	char *text;
	int n = asprintf(&text, "{\"execute\":\"%s\",\"arguments\":%s}\n", command, arguments);
	int ret;

	if (n < 0)
		return err_set(err, -ENOMEM, "no memory for QMP %s", command);
	ret = send_text(qemu, text, (size_t)n, err);
	free(text);
	return ret;
}

static int wait_answer(struct qemu *qemu, const char *command, struct json_object **reply,
		       struct wh_err *err)
{
	int answer_ms = qemu->answer_ms ? qemu->answer_ms : QEMU_ANSWER_MS;
	uint64_t end = end_ns(answer_ms);
	struct json_object *message = NULL;
	char text[160];
	int ret;

	for (;;) {
		ret = next_message(qemu, &message, end, err);
		if (ret < 0)
			return ret;
		if (ret == 0)
			return err_set(err, -ETIMEDOUT,
				       "QMP %s: no answer within %d ms; it said: %s", command,
				       answer_ms, child_said(&qemu->child, text, sizeof(text)));
		if (!json_object_object_get_ex(message, "event", NULL))
			return take_answer(message, command, reply, err);
		ret = keep_event(qemu, message, err);
		if (ret)
			return ret;
	}
}

int qemu_command(struct qemu *qemu, struct json_object **reply, struct wh_err *err,
		 const char *command, const char *arguments, ...)
{
	char *text = NULL;
	va_list args;
	int n = 0;
	int ret;

	if (arguments) {
		va_start(args, arguments);
		n = vasprintf(&text, arguments, args);
		va_end(args);
	}
	if (n < 0)
		return err_set(err, -ENOMEM, "no memory for QMP %s", command);
	ret = send_command(qemu, command, text ? text : "{}", err);
	free(text);
	return ret ? ret : wait_answer(qemu, command, reply, err);
}

/* NULL if there is none of this name */
static struct json_object *drop_event(struct qemu *qemu, const char *name)
{
	for (unsigned i = 0; i < qemu->events; i++) {
		struct json_object *event = qemu->event[i];
		struct json_object *its_name;

		json_object_object_get_ex(event, "event", &its_name);
		if (strcmp(json_object_get_string(its_name), name))
			continue;
		qemu->events--;
		memmove(&qemu->event[i], &qemu->event[i + 1],
			(qemu->events - i) * sizeof(struct json_object *));
		return event;
	}
	return NULL;
}

int qemu_wait_event(struct qemu *qemu, const char *name, struct json_object **data, int timeout_ms,
		    struct wh_err *err)
{
	uint64_t end = end_ns(timeout_ms);
	struct json_object *message;
	struct json_object *part = NULL;
	int ret;

	for (;;) {
		struct json_object *event = drop_event(qemu, name);

		if (event) {
			json_object_object_get_ex(event, "data", &part);
			if (data)
				*data = json_object_get(part);
			json_object_put(event);
			return 0;
		}
		ret = next_message(qemu, &message, end, err);
		if (ret < 0)
			return ret;
		if (ret == 0)
			return err_set(err, -ETIMEDOUT, "no event %s within %d ms", name,
				       timeout_ms);
		ret = keep_event(qemu, message, err);
		if (ret)
			return ret;
	}
}

/* The greeting comes by itself. */
static int greet(struct qemu *qemu, struct wh_err *err)
{
	struct json_object *greeting = NULL;
	int ret = next_message(qemu, &greeting, end_ns(QEMU_ANSWER_MS), err);

	if (ret < 0)
		return ret;
	if (ret == 0)
		return err_set(err, -ETIMEDOUT, "no QMP greeting within %d ms", QEMU_ANSWER_MS);
	json_object_put(greeting);
	return qemu_command(qemu, NULL, err, "qmp_capabilities", NULL);
}

int qemu_start_program(struct qemu *qemu, const char *program, const char *const argv[],
		       struct wh_err *err)
{
	const char *all[ARGV_MAX] = { program, "-nodefaults", "-display", "none" };
	char chardev[64];
	unsigned n = 4;
	int pair[2];
	int ret;

	memset(qemu, 0, sizeof(*qemu));
	qemu->qmp = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, errno, "socketpair");
	snprintf(chardev, sizeof(chardev), "socket,id=qmp,fd=%d", pair[1]);
	all[n++] = "-chardev";
	all[n++] = chardev;
	all[n++] = "-mon";
	all[n++] = "chardev=qmp,mode=control";
	while (*argv && n < ARGV_MAX - 1)
		all[n++] = *argv++;
	qemu->qmp = pair[0];
	qemu->parser = json_tokener_new();
	ret = child_start(&qemu->child, all, pair[1], err);
	close(pair[1]);
	if (!ret)
		ret = greet(qemu, err);
	if (ret)
		qemu_end(qemu);
	return ret;
}

int qemu_start(struct qemu *qemu, const char *const argv[], struct wh_err *err)
{
	return qemu_start_program(qemu, QEMU_PROGRAM, argv, err);
}

void qemu_end(struct qemu *qemu)
{
	if (!qemu->parser)
		return;
	child_end(&qemu->child);
	for (unsigned i = 0; i < qemu->events; i++)
		json_object_put(qemu->event[i]);
	json_tokener_free(qemu->parser);
	close(qemu->qmp);
	memset(qemu, 0, sizeof(*qemu));
	qemu->qmp = -1;
}

int qemu_capabilities(struct qemu *qemu, const char *const names[], struct wh_err *err)
{
	int ret = 0;

	for (; *names && !ret; names++)
		ret = qemu_command(qemu, NULL, err, "migrate-set-capabilities",
				   "{\"capabilities\":[{\"capability\":\"%s\",\"state\":true}]}",
				   *names);
	return ret;
}

int qemu_parameter(struct qemu *qemu, const char *name, uint64_t value, struct wh_err *err)
{
	return qemu_command(qemu, NULL, err, "migrate-set-parameters", "{\"%s\":%llu}", name,
			    (unsigned long long)value);
}

int qemu_migrate(struct qemu *qemu, const char *uri, struct wh_err *err)
{
	return qemu_command(qemu, NULL, err, "migrate", "{\"uri\":\"%s\"}", uri);
}

int qemu_migrate_incoming(struct qemu *qemu, const char *uri, struct wh_err *err)
{
	return qemu_command(qemu, NULL, err, "migrate-incoming", "{\"uri\":\"%s\"}", uri);
}

static void status_of(struct json_object *info, char status[32])
{
	struct json_object *part;

	snprintf(status, 32, "none");
	if (json_object_object_get_ex(info, "status", &part))
		snprintf(status, 32, "%s", json_object_get_string(part));
}

int qemu_status(struct qemu *qemu, char status[32], struct wh_err *err)
{
	struct json_object *info;
	int ret = qemu_command(qemu, &info, err, "query-migrate", NULL);

	if (ret)
		return ret;
	status_of(info, status);
	json_object_put(info);
	return 0;
}

static int ended_otherwise(struct json_object *info, const char *wanted, struct wh_err *err)
{
	static const char *const ends[] = { "completed", "failed", "cancelled" };
	struct json_object *why;
	char status[32];

	status_of(info, status);
	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		if (strcmp(status, ends[i]) || !strcmp(status, wanted))
			continue;
		return err_set(err, -EREMOTEIO, "the migration is %s, not %s: %s", status, wanted,
			       json_object_object_get_ex(info, "error-desc", &why) ?
				       json_object_get_string(why) :
				       "no reason given");
	}
	return 0;
}

static void nap(void)
{
	static const struct timespec ms = { .tv_nsec = (long)NS_PER_MS };

	nanosleep(&ms, NULL);
}

int qemu_wait_status(struct qemu *qemu, const char *wanted, int timeout_ms, struct wh_err *err)
{
	uint64_t end = end_ns(timeout_ms);
	struct json_object *info;
	char status[32];
	int ret;

	for (;; nap()) {
		ret = qemu_command(qemu, &info, err, "query-migrate", NULL);
		if (ret)
			return ret;
		status_of(info, status);
		ret = ended_otherwise(info, wanted, err);
		json_object_put(info);
		if (ret || !strcmp(status, wanted))
			return ret;
		if (clock_now_ns() >= end)
			return err_set(err, -ETIMEDOUT, "after %d ms the migration is %s, not %s",
				       timeout_ms, status, wanted);
	}
}

static uint64_t figure_of(struct json_object *info, const char *path)
{
	struct json_object *part = info;
	char copy[128];
	char *save;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save))
		if (!json_object_object_get_ex(part, name, &part))
			return 0;
	return json_object_get_uint64(part);
}

int qemu_figure(struct qemu *qemu, const char *path, uint64_t *value, struct wh_err *err)
{
	struct json_object *info;
	int ret = qemu_command(qemu, &info, err, "query-migrate", NULL);

	if (ret)
		return ret;
	*value = figure_of(info, path);
	json_object_put(info);
	return 0;
}

int qemu_wait_figure(struct qemu *qemu, const char *path, uint64_t value, int timeout_ms,
		     struct wh_err *err)
{
	uint64_t end = end_ns(timeout_ms);
	struct json_object *info;
	uint64_t now;
	int ret;

	for (;; nap()) {
		ret = qemu_command(qemu, &info, err, "query-migrate", NULL);
		if (ret)
			return ret;
		now = figure_of(info, path);
		ret = now >= value ? 0 : ended_otherwise(info, "active", err);
		json_object_put(info);
		if (ret || now >= value)
			return ret;
		if (clock_now_ns() >= end)
			return err_set(err, -ETIMEDOUT, "after %d ms %s is %llu, not %llu",
				       timeout_ms, path, (unsigned long long)now,
				       (unsigned long long)value);
	}
}
