/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cli/qmp_frame.c: JSON texts in a stream of bytes, whole and in pieces of any size; what
 * is refused, and that the next line is a beginning again.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "cli/qmp_frame.h"

#include "kselftest_harness.h"

FIXTURE(frame)
{
	struct qmp_frames *frames;
	char got[1024];
};

FIXTURE_SETUP(frame)
{
	self->frames = calloc(1, sizeof(*self->frames));
	ASSERT_NE(NULL, self->frames);
	self->got[0] = '\0';
}

FIXTURE_TEARDOWN(frame)
{
	free(self->frames);
}

/* What comes of one frame: its JSON, "!" if it was none, "?" if there can be none */
static void note(char *got, size_t room, struct qmp_frames *frames, enum qmp_frame is)
{
	size_t have = strlen(got);
	struct json_object *object;

	if (is == QMP_FRAME_WRONG) {
		snprintf(got + have, room - have, "? ");
	} else if (qmp_frame_parse(frames, &object, NULL)) {
		snprintf(got + have, room - have, "! ");
	} else {
		snprintf(got + have, room - have, "%s ",
			 json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
		json_object_put(object);
	}
}

/* All of @bytes, no more than @piece at a time */
static const char *feed(struct qmp_frames *frames, char *got, size_t room, const char *bytes,
			size_t length, size_t piece)
{
	memset(frames, 0, sizeof(*frames));
	got[0] = '\0';
	while (length) {
		size_t part = length < piece ? length : piece;
		struct wh_err err = { 0 };
		size_t used = 0;
		enum qmp_frame is = qmp_frame_get(frames, bytes, part, &used, &err);

		if (is != QMP_FRAME_MORE)
			note(got, room, frames, is);
		bytes += used;
		length -= used;
	}
	return got;
}

/* clang-format off */
static const struct {
	const char *bytes;
	const char *wanted;
} cases[] = {
	{ "{}", "{} " },
	{ "{}{}\r\n [] ", "{} {} [] " },
	{ "{\"a\":[1,-2.5e1,null,true]}", "{\"a\":[1,-2.5e1,null,true]} " },
	{ "{\"a\":\"}\\\"{\"}", "{\"a\":\"}\\\"{\"} " },
	{ "{\"a\"\n:\n1\n}", "{\"a\":1} " },
	/* Words that are in nothing end where they cannot go on */
	{ "1 null\n", "1 null " },
	{ "1{}", "1 {} " },
	{ "xyz\n{}", "! {} " },
	{ "\"a\"\"b\"", "\"a\" \"b\" " },
	/* Single quotes are QEMU's */
	{ "{'a':'b\"c'}", "{\"a\":\"b\\\"c\"} " },
	{ "{'a':'it\\'s'}", "{\"a\":\"it's\"} " },
	{ "{\"a\":\"it's\"}", "{\"a\":\"it's\"} " },
	/* What json-c would take, and JSON is not */
	{ "{\"a\":1,}{}", "! {} " },
	{ "[1,]", "! " },
	{ "[NaN]", "! " },
	{ "[Infinity]", "! " },
	{ "[/* */1]", "! " },
	{ "[TRUE]", "! " },
	{ "[01]", "! " },
	{ "{\"a\":1,\"a\":2}", "! " },
	{ "[{\"a\":{\"b\":1,\"b\":1}}]", "! " },
	{ "{\"a\":1,\"b\":{\"a\":1}}", "{\"a\":1,\"b\":{\"a\":1}} " },
	{ "{\"a\":\"::\"}", "{\"a\":\"::\"} " },
	{ "{]", "! " },
	{ "{\"a\" 1}", "! " },
	{ "{} }\n{}", "{} ? {} " },
	/* Not UTF-8 */
	{ "{\"a\":\"\xff\xfe\"}{}", "! {} " },
	{ "{\"a\":\"\xc3\"}", "! " },
	{ "{\"a\":\"\xed\xa0\x80\"}", "! " },
	{ "{\"a\":\"\xc3\xa9\"}", "{\"a\":\"\xc3\xa9\"} " },
	/* A control character in a string: the line is lost, and only that */
	{ "{\"a\":\"b\nc\n{}", "? ! {} " },
	{ "{\"a\":\"\x01\"} {}\n{}", "? {} " },
};
/* clang-format on */

TEST_F(frame, cases_in_pieces)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t length = strlen(cases[i].bytes);

		for (size_t piece = 1; piece <= length; piece++) {
			EXPECT_STREQ(cases[i].wanted,
				     feed(self->frames, self->got, sizeof(self->got),
					  cases[i].bytes, length, piece))
			{
				TH_LOG("%s, %zu at a time", cases[i].bytes, piece);
			}
		}
	}
}

/* A zero is the end of a string in C only */
TEST_F(frame, zeros)
{
	static const char bytes[] = "[1]\0[2] [3\0]\n{\"a\":\"\0\"}\n[4]";

	EXPECT_STREQ("[1] ! [2] ! ? [4] ", feed(self->frames, self->got, sizeof(self->got), bytes,
						sizeof(bytes) - 1, 64));
}

/* As deep as it may be, and one more */
TEST_F(frame, depth)
{
	char bytes[4 * QMP_DEPTH_MAX];
	size_t n = 0;

	for (unsigned more = 0; more < 2; more++) {
		n = 0;
		for (unsigned i = 0; i < QMP_DEPTH_MAX + more; i++)
			bytes[n++] = '[';
		for (unsigned i = 0; i < QMP_DEPTH_MAX + more; i++)
			bytes[n++] = ']';
		bytes[n++] = '\n';
		memcpy(bytes + n, "{}", 2);
		n += 2;
		feed(self->frames, self->got, sizeof(self->got), bytes, n, 7);
		if (more) {
			EXPECT_STREQ("? {} ", self->got);
		} else {
			EXPECT_EQ('[', self->got[0]);
		}
	}
}

/* As long as it may be, and one more; a string that never ends */
TEST_F(frame, length)
{
	char *bytes = malloc(2 * QMP_FRAME_MAX);
	struct wh_err err = { 0 };
	size_t used;

	ASSERT_NE(NULL, bytes);
	memset(bytes, 'a', 2 * QMP_FRAME_MAX);
	bytes[0] = '"';
	bytes[QMP_FRAME_MAX - 1] = '"';
	EXPECT_EQ(QMP_FRAME_TEXT,
		  qmp_frame_get(self->frames, bytes, 2 * QMP_FRAME_MAX, &used, &err));
	EXPECT_EQ(QMP_FRAME_MAX, used);
	bytes[QMP_FRAME_MAX - 1] = 'a';
	bytes[QMP_FRAME_MAX] = '"';
	EXPECT_EQ(QMP_FRAME_WRONG,
		  qmp_frame_get(self->frames, bytes, 2 * QMP_FRAME_MAX, &used, &err));
	EXPECT_NE('\0', err.text[0]);
	/* All of the line goes, and nothing is said of it twice */
	EXPECT_EQ(QMP_FRAME_MORE,
		  qmp_frame_get(self->frames, bytes, 2 * QMP_FRAME_MAX, &used, &err));
	EXPECT_EQ(2 * QMP_FRAME_MAX, used);
	EXPECT_EQ(QMP_FRAME_TEXT, qmp_frame_get(self->frames, "\n{}", 3, &used, &err));
	free(bytes);
}

TEST_HARNESS_MAIN
