/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_CLI_QMP_TALK_H
#define SELFTESTS_CLI_QMP_TALK_H

/*
 * A client of a QMP monitor that can say anything, for tests.
 */
#include <json-c/json.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define TALK_MS 20000 /* a loaded machine is slow */

struct talk {
	int fd;
	bool ended;
	unsigned events; /* that came before an answer that was waited for */
	size_t have;
	char text[1 << 17];
};

static inline uint64_t talk_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void talk_nap(void)
{
	nanosleep(&(const struct timespec){ .tv_nsec = 2000000 }, NULL);
}

/* Without waiting for it to be there. Return: whether somebody listens */
static inline bool talk_connect(struct talk *talk, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memset(talk, 0, sizeof(*talk));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	talk->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(talk->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return true;
	close(talk->fd);
	talk->fd = -1;
	return false;
}

static inline void talk_close(struct talk *talk)
{
	if (talk->fd >= 0)
		close(talk->fd);
	talk->fd = -1;
}

static inline bool talk_send(const struct talk *talk, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = send(talk->fd, bytes, length, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		bytes += n;
		length -= (size_t)n;
	}
	return true;
}

static inline bool talk_say(const struct talk *talk, const char *text)
{
	return talk_send(talk, text, strlen(text));
}

/* The next line as an object, for json_object_put(); NULL at the end or when the time is up */
static inline json_object *talk_next(struct talk *talk, int timeout_ms)
{
	uint64_t until = talk_now_ms() + (uint64_t)timeout_ms;

	for (;;) {
		struct pollfd ready = { .fd = talk->fd, .events = POLLIN };
		char *newline = memchr(talk->text, '\n', talk->have);
		uint64_t now = talk_now_ms();
		json_object *object;
		ssize_t n;

		if (newline) {
			*newline = '\0';
			object = json_tokener_parse(talk->text);
			talk->have -= (size_t)(newline + 1 - talk->text);
			memmove(talk->text, newline + 1, talk->have);
			return object;
		}
		if (poll(&ready, 1, now < until ? (int)(until - now) : 0) == 0)
			return NULL;
		n = read(talk->fd, talk->text + talk->have, sizeof(talk->text) - talk->have);
		if (n <= 0) {
			talk->ended = true;
			return NULL;
		}
		talk->have += (size_t)n;
	}
}

/* The same, but for events, which are only counted */
static inline json_object *talk_answer(struct talk *talk, int timeout_ms)
{
	for (;;) {
		json_object *object = talk_next(talk, timeout_ms);

		if (!object || !json_object_object_get_ex(object, "event", NULL))
			return object;
		talk->events++;
		json_object_put(object);
	}
}

static inline json_object *talk_ask(struct talk *talk, const char *text)
{
	return talk_say(talk, text) ? talk_answer(talk, TALK_MS) : NULL;
}

static inline json_object *talk_part(json_object *object, const char *name)
{
	json_object *part = NULL;

	json_object_object_get_ex(object, name, &part);
	return part;
}

static inline const char *talk_text(json_object *object, const char *name)
{
	json_object *part = talk_part(object, name);

	return part ? json_object_get_string(part) : "";
}

/* "return", or the class of the error, or "nothing" */
static inline const char *talk_kind(json_object *answer)
{
	if (!answer)
		return "nothing";
	return talk_part(answer, "return") ? "return" :
					     talk_text(talk_part(answer, "error"), "class");
}

/* One request and what came of it, put away */
static inline bool talk_is(struct talk *talk, const char *text, const char *kind)
{
	json_object *answer = talk_ask(talk, text);
	bool is = !strcmp(talk_kind(answer), kind);

	if (!is)
		fprintf(stderr, "# %s\n# -> %s, not %s\n", text, json_object_get_string(answer),
			kind);
	json_object_put(answer);
	return is;
}

/* Connected, and past the greeting and qmp_capabilities, within the time */
static inline bool talk_open(struct talk *talk, const char *path)
{
	uint64_t until = talk_now_ms() + TALK_MS;
	json_object *greeting;
	bool greeted;

	while (!talk_connect(talk, path)) {
		if (talk_now_ms() > until)
			return false;
		talk_nap();
	}
	greeting = talk_next(talk, TALK_MS);
	greeted = talk_part(greeting, "QMP");
	if (!greeted)
		fprintf(stderr, "# %s: no greeting%s: %s\n", path, talk->ended ? ", the end" : "",
			json_object_get_string(greeting));
	json_object_put(greeting);
	return greeted && talk_is(talk, "{\"execute\":\"qmp_capabilities\"}\n", "return");
}

/* What it returned, for json_object_put(); NULL if it did not */
static inline json_object *talk_result(struct talk *talk, const char *command,
				       const char *arguments)
{
	char text[1024];
	json_object *answer, *result;

	snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"arguments\":%s}\n", command,
		 arguments ? arguments : "{}");
	answer = talk_ask(talk, text);
	result = json_object_get(talk_part(answer, "return"));
	if (!result)
		fprintf(stderr, "# %s# -> %s\n", text, json_object_get_string(answer));
	json_object_put(answer);
	return result;
}

static inline bool talk_does(struct talk *talk, const char *command, const char *arguments)
{
	json_object *result = talk_result(talk, command, arguments);
	bool did = result;

	json_object_put(result);
	return did;
}

/* The status of query-migrate, until it is the one that is wanted; then all of it */
static inline json_object *talk_until(struct talk *talk, const char *status)
{
	uint64_t until = talk_now_ms() + TALK_MS;
	json_object *info = NULL;

	do {
		json_object_put(info);
		info = talk_result(talk, "query-migrate", NULL);
		if (!info || !strcmp(talk_text(info, "status"), status))
			return info;
		talk_nap();
	} while (talk_now_ms() < until);
	fprintf(stderr, "# never %s: %s\n", status, json_object_get_string(info));
	json_object_put(info);
	return NULL;
}

#endif /* SELFTESTS_CLI_QMP_TALK_H */
