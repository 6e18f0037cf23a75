/* SPDX-License-Identifier: MIT */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <wherry/err.h>

/**
 * err_set() - Say what failed, where it was detected
 * @err:	Filled in; may be NULL
 * @code:	Negative errno
 *
 * Any thread.
 *
 * Return: @code, so that a caller can return it in the same line
 */
int err_set(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * err_sys() - The same for a failed call: the error's own text is added
 * @err:	Filled in; may be NULL
 * @code:	Errno of the call, of either sign
 *
 * Return: -|@code|
 */
int err_sys(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * err_wrap() - Put in front of a sentence what only this layer knows
 * @err:	Holds a sentence already; may be NULL
 *
 * The result is "<what this layer says>: <what was there>".
 *
 * Return: the code that was in @err, or -EIO if @err is NULL
 */
int err_wrap(struct wh_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif /* BASE_ERR_H */
