/* SPDX-License-Identifier: MIT */
#ifndef WIRE_NAME_H
#define WIRE_NAME_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/* A str8: one length byte, then that many bytes. Here always terminated as well. */
struct wire_name {
	uint8_t length;
	char text[256];
};

struct wire_range {
	uint64_t start;
	uint64_t length;
};

/* from a C string; longer than 255 bytes is our own bug and asserts */
void wire_name_set(struct wire_name *name, const char *text);

/**
 * wire_name_get() - Take a name that came over the wire
 * @text:	@length bytes, not terminated
 *
 * A name is never empty and has no control characters: it will stand in sentences,
 * logs and file names, and no QEMU makes another.
 *
 * Return: 0, or -EPROTO with a sentence
 */
int wire_name_get(struct wire_name *name, const uint8_t *text, uint8_t length, struct wh_err *err);

/* Writes the length byte and the text. Return: bytes written */
size_t wire_name_put(uint8_t *buf, const struct wire_name *name);

#endif /* WIRE_NAME_H */
