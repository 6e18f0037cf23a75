/* SPDX-License-Identifier: MIT */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * One sentence in a fixed place. It is made in a local buffer first, so that a
 * caller may name the old text of the same struct among the arguments, and a
 * sentence that does not fit ends in "..." rather than looking complete.
 */
static const char cut_mark[] = "...";

struct sentence {
	size_t length;
	char text[WH_ERR_TEXT];
};

static void sentence_cut(struct sentence *s)
{
	memcpy(s->text + sizeof(s->text) - sizeof(cut_mark), cut_mark, sizeof(cut_mark));
	s->length = sizeof(s->text) - 1;
}

__attribute__((format(printf, 2, 0))) static void sentence_vadd(struct sentence *s,
								const char *format, va_list args)
{
	size_t room = sizeof(s->text) - s->length;
	int n = vsnprintf(s->text + s->length, room, format, args);

	if (n < 0) /* a conversion that libc refuses: keep what is there */
		s->text[s->length] = '\0';
	else if ((size_t)n >= room)
		sentence_cut(s);
	else
		s->length += (size_t)n;
}

__attribute__((format(printf, 2, 3))) static void sentence_add(struct sentence *s,
							       const char *format, ...)
{
	va_list args;

	va_start(args, format);
	sentence_vadd(s, format, args);
	va_end(args);
}

int err_set(struct wh_err *err, int code, const char *format, ...)
{
	struct sentence s = { 0 };
	va_list args;

	if (!err)
		return code;
	va_start(args, format);
	sentence_vadd(&s, format, args);
	va_end(args);
	memcpy(err->text, s.text, s.length + 1);
	err->code = code;
	return code;
}

int err_sys(struct wh_err *err, int code, const char *format, ...)
{
	int number = code < 0 ? -code : code;
	struct sentence s = { 0 };
	const char *reason;
	va_list args;

	if (!err)
		return -number;
	va_start(args, format);
	sentence_vadd(&s, format, args);
	va_end(args);
	/* not strerror(): it may use a buffer that another thread writes */
	reason = strerrordesc_np(number);
	if (reason)
		sentence_add(&s, ": %s", reason);
	else
		sentence_add(&s, ": errno %d", number);
	memcpy(err->text, s.text, s.length + 1);
	err->code = -number;
	return -number;
}

int err_wrap(struct wh_err *err, const char *format, ...)
{
	struct sentence s = { 0 };
	va_list args;

	if (!err)
		return -EIO;
	va_start(args, format);
	sentence_vadd(&s, format, args);
	va_end(args);
	sentence_add(&s, ": %s", err->text);
	memcpy(err->text, s.text, s.length + 1);
	return err->code;
}
