/* SPDX-License-Identifier: MIT */
/*
 * What a client of a monitor says, up to the answer: frames, JSON, requests, settings and
 * every command that needs nobody else, in pieces of a size that the first byte gives.
 */
#include "cli/qmp_commands.h"
#include "cli/qmp_json.h"

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void promised(bool is, const char *what)
{
	if (is)
		return;
	fprintf(stderr, "not so: %s\n", what);
	abort();
}

/* It is one line of JSON, and either an answer or an error with a class and a sentence. */
static void look_at(struct json_object *answer)
{
	size_t length = 0;
	char *line = qmp_line(answer, &length);
	struct json_object *again;
	struct json_object *error;

	promised(line && length >= 4 && !memcmp(line + length - 2, "\r\n", 2), "a line");
	promised(qmp_is_utf8(line), "UTF-8");
	promised(!memchr(line, '\n', length - 1), "one line");
	again = json_tokener_parse(line);
	promised(again, "JSON");
	if (json_object_object_get_ex(again, "error", &error)) {
		promised(qmp_member(error, "class"), "a class");
		promised(*qmp_member(error, "desc"), "a sentence");
	} else {
		promised(json_object_object_get_ex(again, "return", NULL), "an answer");
	}
	json_object_put(again);
	free(line);
}

static int migrate(void *opaque, const char *uri, const struct wh_config *config,
		   struct wh_err *err)
{
	(void)opaque;
	promised(strchr(uri, ':'), "a URI");
	promised(config->downtime_ns <= 2000000u * UINT64_C(1000000), "a downtime");
	return qmp_fail(err, -1, "%s", uri);
}

static int stop(void *opaque, struct wh_err *err)
{
	(void)opaque, (void)err;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static struct qmp_client client;
	static struct wh_qmp qmp;
	size_t piece = length ? bytes[0] + 1u : 1;

	memset(&client, 0, sizeof(client));
	memset(&qmp, 0, sizeof(qmp));
	qmp.wake = -1;
	qmp.callbacks = (struct wh_qmp_callbacks){ .migrate = migrate, .stop = stop, .cont = stop };
	qmp_settings_init(&qmp.settings, NULL);
	pthread_mutex_init(&qmp.migration_lock, NULL);
	pthread_mutex_init(&qmp.note_lock, NULL);
	client.negotiated = piece % 4 != 0;
	for (size_t at = 1; at < length;) {
		size_t part = length - at < piece ? length - at : piece;
		struct json_object *object, *answer;
		struct wh_err err = { 0 };
		size_t used = 0;
		enum qmp_frame is =
			qmp_frame_get(&client.frames, (const char *)bytes + at, part, &used, &err);

		promised(used <= part && (is != QMP_FRAME_MORE || used == part), "used");
		promised((is == QMP_FRAME_WRONG) == (err.text[0] != 0), "a sentence");
		at += used;
		if (is != QMP_FRAME_TEXT)
			continue;
		if (qmp_frame_parse(&client.frames, &object, &err)) {
			promised(err.text[0], "a sentence");
			continue;
		}
		answer = qmp_answer(&qmp, &client, object);
		look_at(answer);
		json_object_put(answer);
		json_object_put(object);
	}
	return 0;
}
