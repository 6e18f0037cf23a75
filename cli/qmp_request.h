/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_REQUEST_H
#define CLI_QMP_REQUEST_H

#include <stdbool.h>
#include <wherry/err.h>

struct json_object;

/**
 * struct qmp_request - What a client asks for
 *
 * Everything in it belongs to the object that it was read from.
 *
 * @arguments:	An object, or NULL
 * @has_id:	@id is to be in the answer; NULL is JSON's null
 */
struct qmp_request {
	const char *command;
	struct json_object *arguments;
	struct json_object *id;
	bool has_id;
};

/* Return: 0, or -EINVAL and a sentence; the id is there even then */
int qmp_request_get(struct qmp_request *request, struct json_object *object, struct wh_err *err);

/**
 * qmp_request_check() - Are the arguments those of the command?
 * @spec:	"uri:s resume?b": name, ':' or '?' if it may be missing, and what it
 *		is: s a string, b a flag, a an array, n a whole number; "*": somebody else
 *		looks at them
 */
int qmp_request_check(const struct qmp_request *request, const char *spec, struct wh_err *err);

/* Afterwards: NULL or false if it is not there */
struct json_object *qmp_request_argument(const struct qmp_request *request, const char *name);
const char *qmp_request_text(const struct qmp_request *request, const char *name);
bool qmp_request_flag(const struct qmp_request *request, const char *name);

#endif /* CLI_QMP_REQUEST_H */
