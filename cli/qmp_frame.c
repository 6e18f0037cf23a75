/* SPDX-License-Identifier: MIT */
/*
 * Codec: a stranger's bytes, and the JSON texts in them.
 *
 * QMP has no frames: a text ends where its braces balance, and the next may follow without
 * a newline. So quotes and braces are looked at here, byte by byte and with limits, and
 * the parser gets whole texts. After bytes that nothing can come of, the next line is
 * a beginning again.
 *
 * Where QEMU's JSON is not that of json-c's strict parser: strings may be in single
 * quotes, which become double ones here; and no object has a name twice. json-c would keep
 * the later one without a word, so the colons outside of strings are counted, and
 * whoever has more of them than there are members in the result has lost one.
 */
#include "cli/qmp_frame.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdint.h>
#include <string.h>

static void begin(struct qmp_frames *frames)
{
	frames->have = 0;
	frames->depth = 0;
	frames->colons = 0;
	frames->quote = 0;
	frames->escaped = false;
	frames->whole = false;
}

static enum qmp_frame wrong(struct qmp_frames *frames, char at, struct wh_err *err, const char *why)
{
	begin(frames);
	frames->skipping = at != '\n';
	qmp_fail(err, -EPROTO, "JSON parse error, %s", why);
	return QMP_FRAME_WRONG;
}

static enum qmp_frame whole(struct qmp_frames *frames)
{
	frames->whole = true;
	frames->text[frames->have] = '\0';
	return QMP_FRAME_TEXT;
}

static enum qmp_frame keep(struct qmp_frames *frames, char c, struct wh_err *err)
{
	if (frames->have == QMP_FRAME_MAX)
		return wrong(frames, c, err, "it is longer than 65536 bytes");
	frames->text[frames->have++] = c;
	return QMP_FRAME_MORE;
}

static enum qmp_frame in_string(struct qmp_frames *frames, char c, struct wh_err *err)
{
	if ((unsigned char)c < ' ')
		return wrong(frames, c, err, "control character in a string");
	if (frames->escaped) {
		frames->escaped = false;
		if (c == '\'') /* needs no backslash any more */
			frames->have--;
		return keep(frames, c, err);
	}
	if (c == frames->quote) {
		frames->quote = 0;
		if (keep(frames, '"', err) == QMP_FRAME_WRONG)
			return QMP_FRAME_WRONG;
		return frames->depth ? QMP_FRAME_MORE : whole(frames);
	}
	frames->escaped = c == '\\';
	if (c == '"' && keep(frames, '\\', err) == QMP_FRAME_WRONG)
		return QMP_FRAME_WRONG;
	return keep(frames, c, err);
}

static enum qmp_frame at_brace(struct qmp_frames *frames, char c, struct wh_err *err)
{
	bool opens = c == '{' || c == '[';

	if (opens ? frames->depth == QMP_DEPTH_MAX : frames->depth == 0)
		return opens ? wrong(frames, c, err, "nesting depth limit exceeded") :
			       wrong(frames, '\n', err, "a brace that closes nothing");
	frames->depth += opens ? 1 : -1u;
	if (keep(frames, c, err) == QMP_FRAME_WRONG)
		return QMP_FRAME_WRONG;
	return frames->depth ? QMP_FRAME_MORE : whole(frames);
}

/* What JSON has outside of strings; json-c has NaN as well, and comments */
static bool is_json(char c)
{
	return c && strchr("+-.:,0123456789abcdefghijklmnopqrstuvwxyzE", c);
}

static enum qmp_frame outside(struct qmp_frames *frames, char c, struct wh_err *err)
{
	if (strchr("{}[]", c) && c)
		return at_brace(frames, c, err);
	if (c == '"' || c == '\'') {
		frames->quote = c;
		return keep(frames, '"', err);
	}
	if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
		return frames->depth ? keep(frames, ' ', err) : QMP_FRAME_MORE;
	frames->colons += c == ':';
	if (!is_json(c))
		c = '?';
	return keep(frames, c, err);
}

/* A word that is in nothing, as 1 or null, ends before whatever cannot be part of it. */
static bool ends_word(const struct qmp_frames *frames, char c)
{
	return frames->have && !frames->depth && !frames->quote && c && strchr(" \t\r\n{}[]\"'", c);
}

enum qmp_frame qmp_frame_get(struct qmp_frames *frames, const char *bytes, size_t length,
			     size_t *used, struct wh_err *err)
{
	enum qmp_frame is = QMP_FRAME_MORE;
	size_t i = 0;

	if (frames->whole)
		begin(frames);
	while (i < length && is == QMP_FRAME_MORE) {
		char c = bytes[i];

		if (ends_word(frames, c)) {
			is = whole(frames);
			break;
		}
		i++;
		if (frames->skipping)
			frames->skipping = c != '\n';
		else if (frames->quote)
			is = in_string(frames, c, err);
		else
			is = outside(frames, c, err);
	}
	*used = i;
	return is;
}

/* The parser has limited the depth. */
static size_t members(struct json_object *object) // NOLINT(misc-no-recursion)
{
	size_t count = 0;

	if (json_object_is_type(object, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(object); i++)
			count += members(json_object_array_get_idx(object, i));
	} else if (json_object_is_type(object, json_type_object)) {
		json_object_object_foreach(object, name, value)
		{
			(void)name;
			count += 1 + members(value);
		}
	}
	return count;
}

int qmp_frame_parse(const struct qmp_frames *frames, struct json_object **object,
		    struct wh_err *err)
{
	struct json_tokener *parser;
	enum json_tokener_error error;

	*object = NULL;
	if (!qmp_is_utf8(frames->text)) /* json-c would take surrogates */
		return qmp_fail(err, -EPROTO, "JSON parse error, it is not UTF-8");
	parser = json_tokener_new_ex(QMP_DEPTH_MAX + 2);
	if (!parser)
		return qmp_fail(err, -ENOMEM, "no memory for a parser");
	json_tokener_set_flags(parser, JSON_TOKENER_STRICT);
	/* With its zero, since a number alone ends nowhere else */
	*object = json_tokener_parse_ex(parser, frames->text, (int)frames->have + 1);
	error = json_tokener_get_error(parser);
	if (error == json_tokener_success && json_tokener_get_parse_end(parser) < frames->have)
		error = json_tokener_error_parse_unexpected;
	json_tokener_free(parser);
	if (error == json_tokener_success && members(*object) == frames->colons)
		return 0;
	json_object_put(*object);
	*object = NULL;
	return qmp_fail(err, -EPROTO, "JSON parse error, %s",
			error == json_tokener_success ? "duplicate key" :
							json_tokener_error_desc(error));
}
