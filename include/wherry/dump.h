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
};

struct wh_dump;

/**
 * wh_dump_new() - Print a recorded stream, message by message
 * @pages:	A line for each page too, else runs of pages are one line
 * @line:	Called with each line: offset of its first byte, text without newline
 *
 * Return: 0 and *@dump, for wh_dump_free(); or -ENOMEM
 */
int wh_dump_new(struct wh_dump **dump, enum wh_dump_kind kind, bool pages,
		void (*line)(void *opaque, uint64_t offset, const char *text), void *opaque,
		struct wh_err *err);
/* Next bytes, in pieces of any size. Return: 0, or -EPROTO and the sentence */
int wh_dump_feed(struct wh_dump *dump, const void *bytes, size_t length, struct wh_err *err);
/* No more bytes: prints what is left, -EPROTO if the stream breaks off */
int wh_dump_end(struct wh_dump *dump, struct wh_err *err);
void wh_dump_free(struct wh_dump *dump);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_DUMP_H */
