/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_JSON_H
#define CLI_QMP_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

struct json_object;

/* @code and a sentence. Return: @code */
int qmp_fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* New ones in @object, which owns them */
void qmp_add_text(struct json_object *object, const char *name, const char *text);
void qmp_add_number(struct json_object *object, const char *name, uint64_t value);
void qmp_add_flag(struct json_object *object, const char *name, bool value);

/* A string without zeros in it, which C would take for its end; else NULL */
const char *qmp_string(struct json_object *value);
/* Member @name as such a string, NULL if there is none */
const char *qmp_member(struct json_object *object, const char *name);
/* The same as a number, 0 if there is none */
uint64_t qmp_figure(struct json_object *object, const char *name);

/* Every character is one, and the shortest form of it */
bool qmp_is_utf8(const char *text);

/*
 * Whatever is not UTF-8 becomes '?': a sentence may have been cut off in the middle of a
 * character, or have a file's name in it
 */
void qmp_make_utf8(char *text);

enum qmp_class {
	QMP_GENERIC_ERROR,
	QMP_COMMAND_NOT_FOUND,
};

/* {"error": {"class": ..., "desc": ...}}; {"event": ...} with the time, @data is taken over */
struct json_object *qmp_error(enum qmp_class class, const char *sentence);
struct json_object *qmp_event(const char *name, struct json_object *data, uint64_t time_us);

/* "unix:/run/a" as QEMU's SocketAddress; NULL if it has none for it */
struct json_object *qmp_address(const char *uri);

/* A line of it, as it is sent. For free(); NULL: no memory */
char *qmp_line(struct json_object *object, size_t *length);

#endif /* CLI_QMP_JSON_H */
