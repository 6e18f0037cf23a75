/* SPDX-License-Identifier: MIT */
/*
 * wherry top: a migration watched through its monitor.
 */
#include "cli/cli.h"
#include "cli/metrics.h"
#include "cli/qmpcall.h"
#include "cli/top.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wherry/wherry.h>

#define INTERVAL_MS 1000
#define INTERVAL_MS_MIN 50

static const char help[] =
	"usage: wherry top [--json | --metrics] [--interval SECONDS] [--count N] SOCKET\n\n"
	"Shows how a migration goes on, as its QMP monitor tells: on a terminal one view that is\n"
	"kept up to date, else a line each time. Of a QEMU it shows what that tells.\n\n"
	"  --json              an object a line\n"
	"  --metrics           OpenMetrics text, once\n"
	"  --interval SECONDS  between two looks (1)\n"
	"  --count N           so many looks; without it until the migration has ended\n"
	"  --help              this text\n\n"
	"Exit status: 0; 1 if the monitor is not there or goes away.\n";

enum form {
	FORM_VIEW,
	FORM_LINES,
	FORM_JSON,
	FORM_METRICS,
};

struct options {
	const char *socket;
	enum form form;
	int interval_ms;
	long count; /* 0: until the end */
};

/* One look. A monitor that has no figures of ours tells those that QEMU has. */
static int look(struct qmpcall *call, struct json_object **info, struct wh_err *err)
{
	struct json_object *qemu = NULL;
	int ret = qmpcall_execute(call, "x-wherry-stats", NULL, info, err);

	if (ret != -EREMOTEIO || strncmp(err->text, "CommandNotFound", 15) != 0)
		return ret;
	ret = qmpcall_execute(call, "query-migrate", NULL, &qemu, err);
	if (!ret && json_object_is_type(qemu, json_type_object))
		*info = top_of_qemu(qemu);
	json_object_put(qemu);
	return ret;
}

static bool has_ended(struct json_object *info)
{
	static const char *const ends[] = { "completed", "failed", "cancelled" };

	if (json_object_object_get_ex(info, "checkpoint", NULL))
		return false; /* who watches over a guest looks on */
	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(qmpcall_text(info, "status"), ends[i]))
			return true;
	return false;
}

static void show(const struct options *options, struct json_object *info, long looks)
{
	switch (options->form) {
	case FORM_VIEW:
		top_view(stdout, info);
		break;
	case FORM_LINES:
		top_line(stdout, info, looks == 0);
		break;
	case FORM_JSON:
		printf("%s\n",
		       json_object_to_json_string_ext(info,
						      JSON_C_TO_STRING_PLAIN |
							      JSON_C_TO_STRING_NOSLASHESCAPE));
		break;
	case FORM_METRICS:
		metrics_print(stdout, info);
		break;
	}
	fflush(stdout);
}

static int watch(const struct options *options, struct qmpcall *call, struct wh_err *err)
{
	const struct timespec pause = { .tv_sec = options->interval_ms / 1000,
					.tv_nsec = options->interval_ms % 1000 * 1000000L };
	struct json_object *info = NULL;
	bool ended = false;
	int ret;

	for (long looks = 0; !ended; looks++) {
		ret = look(call, &info, err);
		if (ret)
			return ret;
		if (!json_object_is_type(info, json_type_object)) {
			json_object_put(info);
			snprintf(err->text, sizeof(err->text), "what it tells is no object");
			return -EPROTO;
		}
		show(options, info, looks);
		ended = options->count ? looks + 1 >= options->count : has_ended(info);
		json_object_put(info);
		info = NULL;
		if (!ended)
			nanosleep(&pause, NULL);
		if (ferror(stdout))
			return 0; /* cli_finish() says so */
	}
	return 0;
}

static int top(const struct options *options)
{
	static struct qmpcall call;
	struct wh_err err = { 0 };
	int ret = qmpcall_open(&call, options->socket, &err);

	if (!ret) {
		ret = watch(options, &call, &err);
		qmpcall_close(&call);
	}
	if (!ret)
		return 0;
	fflush(stdout);
	fprintf(stderr, "wherry top: %s: %s\n", options->socket, err.text);
	return 1;
}

static bool read_interval(const char *text, int *ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds * 1000 >= INTERVAL_MS_MIN && seconds <= 3600))
		return false;
	*ms = (int)(seconds * 1000);
	return true;
}

static bool read_count(const char *text, long *count)
{
	char *end;

	errno = 0;
	*count = strtol(text, &end, 10);
	return !errno && end != text && !*end && *count > 0;
}

/* Return: 0, or the exit status and the sentence is out */
static int read_option(struct options *options, int option)
{
	switch (option) {
	case 'j':
	case 'm':
		if (options->form == FORM_JSON || options->form == FORM_METRICS)
			return cli_usage("top", "--json and --metrics exclude each other");
		options->form = option == 'j' ? FORM_JSON : FORM_METRICS;
		return 0;
	case 'i':
		if (!read_interval(optarg, &options->interval_ms))
			return cli_usage("top", "'%s' is not 0.05 to 3600 seconds", optarg);
		return 0;
	case 'c':
		if (!read_count(optarg, &options->count))
			return cli_usage("top", "'%s' is no number of looks", optarg);
		return 0;
	default:
		return cli_usage("top", NULL);
	}
}

int cmd_top(int argc, char **argv)
{
	static const struct option names[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "metrics", no_argument, NULL, 'm' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = { .interval_ms = INTERVAL_MS };
	int option, status;

	options.form = isatty(STDOUT_FILENO) ? FORM_VIEW : FORM_LINES;
	while ((option = getopt_long(argc, argv, "+jmi:c:h", names, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return 0;
		}
		status = read_option(&options, option);
		if (status)
			return status;
	}
	if (argc - optind != 1)
		return cli_usage("top", "it takes one SOCKET, not %d", argc - optind);
	options.socket = argv[optind];
	if (options.form == FORM_METRICS)
		options.count = 1;
	return top(&options);
}
