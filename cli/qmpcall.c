/* SPDX-License-Identifier: MIT */
/*
 * The client's end of QMP, for those subcommands that talk to a monitor. Whoever answers is a
 * stranger too: a message has a limit, and an answer a time.
 */
#include "cli/qmpcall.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 10000
#define MESSAGE_BYTES_MAX (16u << 20)
#define EVENTS_MAX (sizeof(((struct qmpcall *)NULL)->event) / sizeof(struct json_object *))

static int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

uint64_t qmpcall_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Return: 1 and *@message; 0 if what there is has none; or a negative errno */
static int parse(struct qmpcall *call, struct json_object **message, struct wh_err *err)
{
	enum json_tokener_error error;
	size_t length = call->have - call->used;
	size_t parsed;

	if (!length)
		return 0;
	*message = json_tokener_parse_ex(call->parser, call->input + call->used, (int)length);
	error = json_tokener_get_error(call->parser);
	parsed = json_tokener_get_parse_end(call->parser);
	call->used += parsed;
	call->message_bytes += parsed;
	if (error == json_tokener_continue)
		return call->message_bytes <= MESSAGE_BYTES_MAX ?
			       0 :
			       fail(err, -EMSGSIZE, "a message of more than %u bytes",
				    MESSAGE_BYTES_MAX);
	call->message_bytes = 0;
	if (error != json_tokener_success)
		return fail(err, -EPROTO, "what it says is not JSON: %s",
			    json_tokener_error_desc(error));
	if (json_object_is_type(*message, json_type_object))
		return 1;
	json_object_put(*message);
	return fail(err, -EPROTO, "what it says is not QMP");
}

/* Return: 1 and *@message; 0 if the time is up; or a negative errno */
static int next(struct qmpcall *call, uint64_t until_ms, struct json_object **message,
		struct wh_err *err)
{
	for (;;) {
		struct pollfd ready = { .fd = call->fd, .events = POLLIN };
		uint64_t now = qmpcall_now_ms();
		int ret = parse(call, message, err);
		ssize_t n;

		if (ret)
			return ret;
		ret = poll(&ready, 1, until_ms > now ? (int)(until_ms - now) : 0);
		if (ret < 0)
			return fail(err, -errno, "%s", strerrordesc_np(errno));
		if (ret == 0)
			return 0;
		n = recv(call->fd, call->input, sizeof(call->input), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail(err, -ECONNRESET, "it has hung up");
		call->used = 0;
		call->have = (size_t)n;
	}
}

static int send_all(struct qmpcall *call, struct json_object *request, struct wh_err *err)
{
	const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
	size_t length = strlen(text);
	struct iovec line[] = { { (void *)(uintptr_t)text, length }, { (char[]){ "\n" }, 1 } };
	struct msghdr message = { .msg_iov = line, .msg_iovlen = 2 };

	while (line[1].iov_len) {
		ssize_t n = sendmsg(call->fd, &message, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(err, -errno, "%s", strerrordesc_np(errno));
		for (unsigned i = 0; i < 2; i++) {
			size_t part = (size_t)n < line[i].iov_len ? (size_t)n : line[i].iov_len;

			line[i].iov_base = (char *)line[i].iov_base + part;
			line[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
	return 0;
}

const char *qmpcall_text(struct json_object *object, const char *name)
{
	struct json_object *value;
	bool is_text = json_object_is_type(object, json_type_object) &&
		       json_object_object_get_ex(object, name, &value) &&
		       json_object_is_type(value, json_type_string);

	return is_text ? json_object_get_string(value) : "";
}

/* Whatever it is, it is given back. */
static int take_answer(struct json_object *message, struct json_object **result, struct wh_err *err)
{
	struct json_object *part;
	int ret = 0;

	if (json_object_object_get_ex(message, "error", &part)) {
		ret = fail(err, -EREMOTEIO, "%s: %s", qmpcall_text(part, "class"),
			   qmpcall_text(part, "desc"));
		for (char *c = err->text; *c; c++) /* it goes to a terminal */
			if ((unsigned char)*c < ' ' || *c == 127)
				*c = '?';
	} else if (!json_object_object_get_ex(message, "return", &part)) {
		ret = fail(err, -EPROTO, "neither an answer nor an error");
	} else if (result) {
		*result = json_object_get(part);
	}
	json_object_put(message);
	return ret;
}

/* Nobody waits for the oldest any more if there are so many. */
static void keep_event(struct qmpcall *call, struct json_object *event)
{
	if (call->events == EVENTS_MAX) {
		json_object_put(call->event[0]);
		call->events--;
		memmove(&call->event[0], &call->event[1],
			call->events * sizeof(struct json_object *));
	}
	call->event[call->events++] = event;
}

static int execute(struct qmpcall *call, const char *how, const char *command,
		   struct json_object *arguments, struct json_object **result, struct wh_err *err)
{
	uint64_t until_ms = qmpcall_now_ms() + ANSWER_MS;
	struct json_object *request = json_object_new_object();
	struct json_object *message = NULL;
	int ret;

	json_object_object_add(request, how, json_object_new_string(command));
	if (arguments)
		json_object_object_add(request, "arguments", arguments);
	ret = send_all(call, request, err);
	json_object_put(request);
	while (!ret) {
		ret = next(call, until_ms, &message, err);
		if (ret == 0)
			return fail(err, -ETIMEDOUT, "no answer within %d s", ANSWER_MS / 1000);
		if (ret < 0)
			return ret;
		if (!json_object_object_get_ex(message, "event", NULL))
			return take_answer(message, result, err);
		keep_event(call, message);
		ret = 0;
	}
	return ret;
}

int qmpcall_execute(struct qmpcall *call, const char *command, struct json_object *arguments,
		    struct json_object **result, struct wh_err *err)
{
	return execute(call, "execute", command, arguments, result, err);
}

int qmpcall_execute_oob(struct qmpcall *call, const char *command, struct json_object *arguments,
			struct wh_err *err)
{
	return execute(call, "exec-oob", command, arguments, NULL, err);
}

int qmpcall_event(struct qmpcall *call, int timeout_ms, struct json_object **event,
		  struct wh_err *err)
{
	uint64_t until_ms = qmpcall_now_ms() + (uint64_t)timeout_ms;
	int ret = 1;

	if (!call->events)
		ret = next(call, until_ms, event, err);
	if (ret != 1)
		return ret;
	if (call->events) {
		*event = call->event[0];
		call->events--;
		memmove(&call->event[0], &call->event[1],
			call->events * sizeof(struct json_object *));
	}
	if (json_object_object_get_ex(*event, "event", NULL))
		return 1;
	json_object_put(*event);
	return fail(err, -EPROTO, "an answer that nobody asked for");
}

static int greet(struct qmpcall *call, bool oob, struct wh_err *err)
{
	struct json_object *greeting = NULL, *arguments = NULL, *enable;
	bool is_qmp;
	int ret = next(call, qmpcall_now_ms() + ANSWER_MS, &greeting, err);

	if (ret <= 0)
		return ret ? ret : fail(err, -ETIMEDOUT, "it does not greet");
	is_qmp = json_object_object_get_ex(greeting, "QMP", NULL);
	json_object_put(greeting);
	if (!is_qmp)
		return fail(err, -EPROTO, "it does not greet as QMP does");
	if (oob) {
		arguments = json_object_new_object();
		enable = json_object_new_array();
		json_object_array_add(enable, json_object_new_string("oob"));
		json_object_object_add(arguments, "enable", enable);
	}
	return qmpcall_execute(call, "qmp_capabilities", arguments, NULL, err);
}

int qmpcall_attach(struct qmpcall *call, int fd, bool oob, struct wh_err *err)
{
	int ret;

	memset(call, 0, sizeof(*call));
	call->fd = fd;
	call->parser = json_tokener_new();
	ret = greet(call, oob, err);
	if (ret)
		qmpcall_close(call);
	return ret;
}

int qmpcall_open(struct qmpcall *call, const char *path, struct wh_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return fail(err, -ENAMETOOLONG, "a socket's path has at most %zu bytes",
			    sizeof(address.sun_path) - 1);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(err, -errno, "socket: %s", strerrordesc_np(errno));
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		(void)fail(err, -errno, "%s", strerrordesc_np(errno));
		close(fd);
		return err->code;
	}
	return qmpcall_attach(call, fd, false, err);
}

void qmpcall_close(struct qmpcall *call)
{
	for (unsigned i = 0; i < call->events; i++)
		json_object_put(call->event[i]);
	json_tokener_free(call->parser);
	close(call->fd);
}
