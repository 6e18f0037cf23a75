/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_FRAME_H
#define CLI_QMP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <wherry/err.h>

struct json_object;

#define QMP_FRAME_MAX 65536u /* bytes of one JSON text */
#define QMP_DEPTH_MAX 64u    /* of objects and arrays in each other */

/**
 * enum qmp_frame - What came of some bytes
 * @QMP_FRAME_MORE:	All were taken, and what they begin is not whole
 * @QMP_FRAME_TEXT:	A whole one, for qmp_frame_parse()
 * @QMP_FRAME_WRONG:	Nothing can come of this, a sentence says why
 */
enum qmp_frame {
	QMP_FRAME_MORE,
	QMP_FRAME_TEXT,
	QMP_FRAME_WRONG,
};

/**
 * struct qmp_frames - What of a client's bytes is not a whole JSON text yet
 *
 * All zero: nothing. The caller's storage.
 */
struct qmp_frames {
	size_t have;
	unsigned depth;
	unsigned colons;
	char quote; /* in a string that it ends, or 0 */
	bool escaped;
	bool skipping; /* up to the end of the line */
	bool whole;
	char text[QMP_FRAME_MAX + 1];
};

/**
 * qmp_frame_get() - Look for the end of a JSON text
 * @bytes:	Next bytes of the stream
 * @used:	How many of them were taken
 *
 * There may be more in @bytes after a TEXT or a WRONG: call it again with the rest.
 */
enum qmp_frame qmp_frame_get(struct qmp_frames *frames, const char *bytes, size_t length,
			     size_t *used, struct wh_err *err);

/**
 * qmp_frame_parse() - The text that qmp_frame_get() has found
 * @object:	For json_object_put(); NULL is JSON's null
 *
 * Return: 0, or -EPROTO and a sentence
 */
int qmp_frame_parse(const struct qmp_frames *frames, struct json_object **object,
		    struct wh_err *err);

#endif /* CLI_QMP_FRAME_H */
