/* SPDX-License-Identifier: MIT */
#ifndef WIRE_XBZRLE_H
#define WIRE_XBZRLE_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/**
 * xbzrle_get() - Apply a delta to a page
 * @page:	Previous contents in, new contents out; 4096 bytes
 *
 * The whole delta is checked before the first byte of @page is written.
 *
 * Return: 0, or -EPROTO with a sentence
 */
int xbzrle_get(uint8_t *page, const uint8_t *delta, size_t length, struct wh_err *err);

/**
 * xbzrle_put() - Make a delta
 * @out:	Room for @room bytes
 *
 * Return: bytes of delta, 0 if the pages are equal, -EOVERFLOW if it does not fit
 */
int xbzrle_put(uint8_t *out, size_t room, const uint8_t *before, const uint8_t *after);

#endif /* WIRE_XBZRLE_H */
