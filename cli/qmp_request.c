/* SPDX-License-Identifier: MIT */
/*
 * Codec: a request, and whether its arguments are what a command takes.
 */
#include "cli/qmp_request.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stddef.h>
#include <string.h>

static int get_member(struct qmp_request *request, const char *name, struct json_object *value,
		      struct wh_err *err)
{
	if (!strcmp(name, "id"))
		return 0;
	if (!strcmp(name, "execute")) {
		if (!json_object_is_type(value, json_type_string))
			return qmp_fail(err, -EINVAL,
					"QMP input member 'execute' must be a string");
		/* No command has a zero in its name */
		request->command = qmp_string(value) ? qmp_string(value) : "";
		return 0;
	}
	if (!strcmp(name, "arguments")) {
		if (!json_object_is_type(value, json_type_object))
			return qmp_fail(err, -EINVAL,
					"QMP input member 'arguments' must be an object");
		request->arguments = value;
		return 0;
	}
	return qmp_fail(err, -EINVAL, "QMP input member '%s' is unexpected", name);
}

int qmp_request_get(struct qmp_request *request, struct json_object *object, struct wh_err *err)
{
	*request = (struct qmp_request){ 0 };
	if (!json_object_is_type(object, json_type_object))
		return qmp_fail(err, -EINVAL, "QMP input must be a JSON object");
	request->has_id = json_object_object_get_ex(object, "id", &request->id);
	json_object_object_foreach(object, name, value)
	{
		if (get_member(request, name, value, err))
			return -EINVAL;
	}
	if (!request->command)
		return qmp_fail(err, -EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

/* The word of @spec that is about @name, NULL if there is none */
static const char *word_of(const char *spec, const char *name)
{
	size_t length = strlen(name);

	for (; *spec; spec += strcspn(spec, " "), spec += *spec == ' ')
		if (strcspn(spec, ":?") == length && !strncmp(spec, name, length))
			return spec + length;
	return NULL;
}

static int check_type(const char *name, char type, struct json_object *value, struct wh_err *err)
{
	bool right = type == 's' ? json_object_is_type(value, json_type_string) :
		     type == 'b' ? json_object_is_type(value, json_type_boolean) :
		     type == 'n' ? json_object_is_type(value, json_type_int) :
				   json_object_is_type(value, json_type_array);

	if (!right)
		return qmp_fail(err, -EINVAL, "Invalid parameter type for '%s', expected: %s", name,
				type == 's' ? "string" :
				type == 'b' ? "boolean" :
				type == 'n' ? "integer" :
					      "array");
	if (type == 's' && !qmp_string(value))
		return qmp_fail(err, -EINVAL, "Parameter '%s' has a zero in it", name);
	return 0;
}

int qmp_request_check(const struct qmp_request *request, const char *spec, struct wh_err *err)
{
	char wanted[64];
	size_t length;

	if (*spec == '*')
		return 0;
	if (request->arguments) {
		json_object_object_foreach(request->arguments, name, value)
		{
			const char *word = word_of(spec, name);

			if (!word)
				return qmp_fail(err, -EINVAL, "Parameter '%s' is unexpected", name);
			if (check_type(name, word[1], value, err))
				return -EINVAL;
		}
	}
	for (; *spec; spec += strcspn(spec, " "), spec += *spec == ' ') {
		length = strcspn(spec, ":?");
		memcpy(wanted, spec, length);
		wanted[length] = '\0';
		if (spec[length] == ':' &&
		    !json_object_object_get_ex(request->arguments, wanted, NULL))
			return qmp_fail(err, -EINVAL, "Parameter '%s' is missing", wanted);
	}
	return 0;
}

struct json_object *qmp_request_argument(const struct qmp_request *request, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(request->arguments, name, &value);
	return value;
}

const char *qmp_request_text(const struct qmp_request *request, const char *name)
{
	return qmp_string(qmp_request_argument(request, name));
}

bool qmp_request_flag(const struct qmp_request *request, const char *name)
{
	return json_object_get_boolean(qmp_request_argument(request, name));
}
