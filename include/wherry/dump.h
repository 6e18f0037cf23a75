/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_DUMP_H
#define WHERRY_DUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

enum wh_dump_kind {
	WH_DUMP_STREAM,	     /* main channel, source to destination */
	WH_DUMP_URGENT,	     /* preempt channel */
	WH_DUMP_RETURN_PATH, /* destination to source */
	WH_DUMP_MULTIFD,     /* a channel of multifd */
	WH_DUMP_MC, /* micro-checkpoints of a QEMU of 2014, behind a migration; one direction */
};

struct wh_dump;

/* How a field is usually shown */
enum wh_dump_form {
	WH_DUMP_DECIMAL,
	WH_DUMP_HEX,
	WH_DUMP_ID, /* all 64 bits of it, as 16 hexadecimal digits */
	WH_DUMP_TEXT,
};

/* @number, or for WH_DUMP_TEXT @text: printable, a quote or a backslash may be in it */
struct wh_dump_field {
	const char *name;
	enum wh_dump_form form;
	uint64_t number;
	const char *text;
};

/**
 * struct wh_dump_message - One message of a stream, and what is in it
 * @offset:	Of its first byte
 * @kind:	The name of a command or message, as QEMU calls it; or "machine", "block", "pages"
 *		and so on (wherry-dump(1) has a list)
 * @line:	All of it as a line of text, without newline
 * @inside:	Part of the message before: what is in a package, a range of a discard
 *
 * Valid during the call.
 */
struct wh_dump_message {
	uint64_t offset;
	const char *kind;
	const char *line;
	bool inside;
	unsigned fields;
	const struct wh_dump_field *field;
};

/**
 * wh_dump_new() - Take a recorded stream apart, message by message
 * @pages:	A message for each page too, else runs of pages are one
 * @message:	Called with each message, in the order of the stream
 *
 * Return: 0 and *@dump, for wh_dump_free(); or -ENOMEM
 */
int wh_dump_new(struct wh_dump **dump, enum wh_dump_kind kind, bool pages,
		void (*message)(void *opaque, const struct wh_dump_message *message), void *opaque,
		struct wh_err *err);
/*
 * Before the first byte: it is at this offset of its file. Files with mapped-ram (QEMU 9.0) say
 * where in the file something is
 */
void wh_dump_at(struct wh_dump *dump, uint64_t offset);
/* Next bytes, in pieces of any size. Return: 0, or -EPROTO and the sentence */
int wh_dump_feed(struct wh_dump *dump, const void *bytes, size_t length, struct wh_err *err);
/*
 * After a wh_dump_feed(): so many of the next bytes are contents of pages, which are not shown and
 * not to be fed. Who cannot leave them out does not ask
 */
uint64_t wh_dump_skip(struct wh_dump *dump);
/* No more bytes: what is left, -EPROTO if the stream breaks off */
int wh_dump_end(struct wh_dump *dump, struct wh_err *err);
void wh_dump_free(struct wh_dump *dump);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_DUMP_H */
