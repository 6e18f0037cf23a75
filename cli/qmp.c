/* SPDX-License-Identifier: MIT */
/*
 * wherry qmp: one command for a monitor, and its events.
 */
#include "cli/cli.h"
#include "cli/qmpcall.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wherry/wherry.h>

#define EXIT_TIME_IS_UP 3
#define FOREVER_MS (24 * 3600 * 1000)

static const char help[] =
	"usage: wherry qmp [--events] [--timeout SECONDS] SOCKET [COMMAND [NAME=VALUE]...]\n\n"
	"Gives a QMP monitor one command and prints what it returns, as JSON. The monitor may be\n"
	"one of libwherry or of a QEMU. VALUE is a number, true, false, JSON that begins with\n"
	"[, { or \", or else a string; A.B=VALUE is a member of an object.\n\n"
	"  --events           print events, a line each, until the migration has ended\n"
	"  --timeout SECONDS  with --events: not longer than that\n"
	"  --help             this text\n\n"
	"Exit status: 0; 1 if the command was refused or the migration did not complete; 2 usage;\n"
	"3 if the time is up.\n";

struct options {
	const char *socket;
	const char *command; /* NULL: none */
	struct json_object *arguments;
	bool events;
	int timeout_ms;
};

/* As QEMU's qmp-shell has it. Return: whether it is one */
static bool value_of(const char *text, struct json_object **value)
{
	enum json_tokener_error error;
	char *end;
	long long number;

	if (!strcmp(text, "true") || !strcmp(text, "false")) {
		*value = json_object_new_boolean(*text == 't');
		return true;
	}
	if (*text == '{' || *text == '[' || *text == '"') {
		*value = json_tokener_parse_verbose(text, &error);
		return error == json_tokener_success;
	}
	errno = 0;
	number = strtoll(text, &end, 10);
	if (!errno && !*end && *text && strchr("-0123456789", *text))
		*value = json_object_new_int64(number);
	else
		*value = json_object_new_string(text);
	return true;
}

/* Where A.B.C leads to, objects made on the way. Return: NULL if something else is there */
static struct json_object *object_for(struct json_object *object, char *name, const char **last)
{
	char *dot;

	for (; (dot = strchr(name, '.')); name = dot + 1) {
		struct json_object *inner;

		*dot = '\0';
		if (!json_object_object_get_ex(object, name, &inner)) {
			inner = json_object_new_object();
			json_object_object_add(object, name, inner);
		}
		if (!json_object_is_type(inner, json_type_object))
			return NULL;
		object = inner;
	}
	*last = name;
	return object;
}

/* NAME=VALUE. Return: whether it is one */
static bool add_argument(struct json_object *arguments, const char *text)
{
	struct json_object *value, *object;
	const char *equals = strchr(text, '=');
	const char *last = "";
	char name[256];

	if (!equals || equals == text || equals - text >= (ptrdiff_t)sizeof(name) ||
	    !value_of(equals + 1, &value))
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
	object = object_for(arguments, name, &last);
	if (object && *last && !json_object_object_get_ex(object, last, NULL))
		return !json_object_object_add(object, last, value);
	json_object_put(value);
	return false;
}

static void print(struct json_object *object, int flags)
{
	printf("%s\n",
	       json_object_to_json_string_ext(object, flags | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int failed(const struct options *options, const struct wh_err *err)
{
	fflush(stdout);
	fprintf(stderr, "wherry qmp: %s: %s\n",
		err->code == -EREMOTEIO && options->command ? options->command : options->socket,
		err->text);
	return 1;
}

static bool has_events(struct json_object *capabilities)
{
	for (size_t i = 0; i < json_object_array_length(capabilities); i++) {
		struct json_object *row = json_object_array_get_idx(capabilities, i);
		struct json_object *state;

		if (!strcmp(qmpcall_text(row, "capability"), "events"))
			return json_object_object_get_ex(row, "state", &state) &&
			       json_object_get_boolean(state);
	}
	return false;
}

/* A monitor tells of migrations only when it was asked to, and some not during one. */
static int ask_for_events(struct qmpcall *call, struct wh_err *err)
{
	struct json_object *all = NULL;
	int ret = qmpcall_execute(call, "query-migrate-capabilities", NULL, &all, err);
	bool there = !ret && json_object_is_type(all, json_type_array) && has_events(all);

	json_object_put(all);
	if (ret || there)
		return ret;
	return qmpcall_execute(
		call, "migrate-set-capabilities",
		json_tokener_parse(
			"{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}"),
		NULL, err);
}

/* Exit status if @event says that the migration has ended, else -1 */
static int end_of(struct json_object *event)
{
	struct json_object *data = NULL;
	const char *text;

	json_object_object_get_ex(event, "data", &data);
	text = qmpcall_text(data, "status");
	if (!strcmp(text, "completed"))
		return 0;
	return !strcmp(text, "failed") || !strcmp(text, "cancelled") ? 1 : -1;
}

static int print_events(struct qmpcall *call, const struct options *options, struct wh_err *err)
{
	uint64_t until_ms = qmpcall_now_ms() + (uint64_t)options->timeout_ms;
	struct json_object *event;
	int status = -1;
	int ret;

	while (status < 0) {
		uint64_t now = qmpcall_now_ms();

		ret = qmpcall_event(call, until_ms > now ? (int)(until_ms - now) : 0, &event, err);
		if (ret < 0)
			return failed(options, err);
		if (ret == 0)
			return EXIT_TIME_IS_UP;
		print(event, JSON_C_TO_STRING_PLAIN);
		fflush(stdout);
		status = end_of(event);
		json_object_put(event);
	}
	return status;
}

static int talk(struct options *options)
{
	static struct qmpcall call;
	struct json_object *result = NULL;
	struct wh_err err = { 0 };
	int status = 0;
	int ret;

	ret = qmpcall_open(&call, options->socket, &err);
	if (ret) {
		json_object_put(options->arguments);
		return failed(options, &err);
	}
	if (options->events && ask_for_events(&call, &err)) {
		fprintf(stderr, "wherry qmp: %s: no events: %s\n", options->socket, err.text);
		json_object_put(options->arguments);
		status = 1;
	} else if (!options->command) {
		json_object_put(options->arguments);
	} else if (qmpcall_execute(&call, options->command, options->arguments, &result, &err)) {
		status = failed(options, &err);
	} else {
		print(result, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
	}
	json_object_put(result);
	if (!status && options->events)
		status = print_events(&call, options, &err);
	qmpcall_close(&call);
	return status;
}

static bool read_seconds(const char *text, int *ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0 && seconds * 1000 <= FOREVER_MS))
		return false;
	*ms = (int)(seconds * 1000);
	return true;
}

int cmd_qmp(int argc, char **argv)
{
	static const struct option names[] = {
		{ "events", no_argument, NULL, 'e' },
		{ "timeout", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = { .timeout_ms = FOREVER_MS };
	int option;

	while ((option = getopt_long(argc, argv, "+et:h", names, NULL)) != -1) {
		switch (option) {
		case 'e':
			options.events = true;
			break;
		case 't':
			if (!read_seconds(optarg, &options.timeout_ms))
				return cli_usage("qmp", "'%s' is no number of seconds", optarg);
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return cli_usage("qmp", NULL);
		}
	}
	if (argc - optind < (options.events ? 1 : 2))
		return cli_usage("qmp", "it takes a SOCKET and a COMMAND");
	options.socket = argv[optind++];
	options.command = optind < argc ? argv[optind++] : NULL;
	options.arguments = json_object_new_object();
	for (; optind < argc; optind++)
		if (!add_argument(options.arguments, argv[optind])) {
			json_object_put(options.arguments);
			return cli_usage("qmp", "'%s' is not NAME=VALUE, or comes twice",
					 argv[optind]);
		}
	return talk(&options);
}
