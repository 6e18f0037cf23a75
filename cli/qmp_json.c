/* SPDX-License-Identifier: MIT */
/*
 * Codec: JSON as QMP has it, with json-c.
 */
#include "cli/qmp_json.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int qmp_fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	if (!err)
		return code;
	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

void qmp_add_text(struct json_object *object, const char *name, const char *text)
{
	json_object_object_add(object, name, json_object_new_string(text));
}

void qmp_add_number(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

void qmp_add_flag(struct json_object *object, const char *name, bool value)
{
	json_object_object_add(object, name, json_object_new_boolean(value));
}

const char *qmp_string(struct json_object *value)
{
	const char *text;

	if (!json_object_is_type(value, json_type_string))
		return NULL;
	text = json_object_get_string(value);
	return strlen(text) == (size_t)json_object_get_string_len(value) ? text : NULL;
}

const char *qmp_member(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? qmp_string(value) : NULL;
}

uint64_t qmp_figure(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

/* Bytes of the character at @text, 0 if it is none */
static size_t character(const unsigned char *text)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = *text < 0x80 ? 1 :
			*text < 0xc0 ? 0 :
			*text < 0xe0 ? 2 :
			*text < 0xf0 ? 3 :
				       4;
	uint32_t value;

	if (length < 2)
		return length;
	if (*text > 0xf4)
		return 0;
	value = *text & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80) /* the final zero too */
			return 0;
		value = value << 6 | (text[i] & 0x3f);
	}
	return value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ?
		       0 :
		       length;
}

bool qmp_is_utf8(const char *text)
{
	while (*text) {
		size_t length = character((const unsigned char *)text);

		if (!length)
			return false;
		text += length;
	}
	return true;
}

void qmp_make_utf8(char *text)
{
	while (*text) {
		size_t length = character((const unsigned char *)text);

		if (!length)
			*text = '?';
		text += length ? length : 1;
	}
}

struct json_object *qmp_error(enum qmp_class class, const char *sentence)
{
	static const char *const names[] = {
		[QMP_GENERIC_ERROR] = "GenericError",
		[QMP_COMMAND_NOT_FOUND] = "CommandNotFound",
	};
	struct json_object *reply = json_object_new_object();
	struct json_object *error = json_object_new_object();
	char text[WH_ERR_TEXT];

	snprintf(text, sizeof(text), "%s", sentence);
	qmp_make_utf8(text);
	qmp_add_text(error, "class", names[class]);
	qmp_add_text(error, "desc", text);
	json_object_object_add(reply, "error", error);
	return reply;
}

struct json_object *qmp_event(const char *name, struct json_object *data, uint64_t time_us)
{
	struct json_object *event = json_object_new_object();
	struct json_object *timestamp = json_object_new_object();

	qmp_add_number(timestamp, "seconds", time_us / 1000000);
	qmp_add_number(timestamp, "microseconds", time_us % 1000000);
	json_object_object_add(event, "timestamp", timestamp);
	qmp_add_text(event, "event", name);
	if (data)
		json_object_object_add(event, "data", data);
	return event;
}

static struct json_object *address_of(const char *type, const char *name, const char *value)
{
	struct json_object *address = json_object_new_object();

	qmp_add_text(address, name, value);
	qmp_add_text(address, "type", type);
	return address;
}

struct json_object *qmp_address(const char *uri)
{
	struct json_object *address;
	const char *colon = strrchr(uri, ':');
	const char *host = uri + strcspn(uri, ":") + 1;
	char text[WH_ERR_TEXT];

	if (!strncmp(uri, "unix:", 5))
		return address_of("unix", "path", host);
	if (!strncmp(uri, "fd:", 3))
		return address_of("fd", "str", host);
	if ((strncmp(uri, "tcp:", 4) && strncmp(uri, "vsock:", 6)) || colon < host)
		return NULL;
	/* [::1] is written without its brackets there */
	if (*host == '[' && colon > host + 1 && colon[-1] == ']')
		snprintf(text, sizeof(text), "%.*s", (int)(colon - host) - 2, host + 1);
	else
		snprintf(text, sizeof(text), "%.*s", (int)(colon - host), host);
	address = *uri == 't' ? address_of("inet", "host", text) : address_of("vsock", "cid", text);
	qmp_add_text(address, "port", colon + 1);
	return address;
}

char *qmp_line(struct json_object *object, size_t *length)
{
	const char *text =
		json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
							       JSON_C_TO_STRING_NOSLASHESCAPE);
	char *line = text ? malloc(strlen(text) + 3) : NULL;

	if (line)
		*length = (size_t)sprintf(line, "%s\r\n", text);
	return line;
}
