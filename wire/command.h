/* SPDX-License-Identifier: MIT */
#ifndef WIRE_COMMAND_H
#define WIRE_COMMAND_H

#include "wire/name.h"

#include <stdbool.h>
#include <stddef.h>
#include <wherry/err.h>

enum cmd_kind {
#define MSG(kind, number, body, fields) CMD_##kind = number,
#include "wire/command.def"
#undef MSG
	CMD_COUNT
};

#define CMD_DISCARD_RANGES 12u /* that QEMU sends at most in one command */
#define CMD_RANGES_MAX ((65535u - 2u) / 16u)

struct cmd_msg {
	enum cmd_kind kind;
	bool empty; /* of ADVISE: only dirty bitmaps are postcopied */
	union {
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define NAME(name) struct wire_name name;
#define NOTHING
/* put: taken from @range; get: points at the raw pairs, see cmd_range() */
#define RANGES                  \
	struct wire_name block; \
	uint32_t count;         \
	const uint8_t *raw;
#define MSG(kind, number, body, fields) \
	struct {                        \
		fields                  \
	} body;
#include "wire/command.def"
#undef MSG
#undef RANGES
#undef NOTHING
#undef NAME
#undef F
#undef u64
#undef u32
	};
};

/* type byte, number, length; then at most 65535 bytes of payload */
#define CMD_HEADER 5u
/* of every command we send: RAM_DISCARD with CMD_DISCARD_RANGES and a full name */
#define CMD_PUT_MAX (CMD_HEADER + 2u + 256u + 16u * CMD_DISCARD_RANGES)

/*
 * Writes type byte 08, header and payload; buf has room for CMD_PUT_MAX. For
 * RAM_DISCARD the pairs come from @ranges (discard.count of them, 1 to
 * CMD_DISCARD_RANGES), else it is NULL. Return: bytes written
 */
size_t cmd_put(uint8_t *buf, const struct cmd_msg *msg, const struct wire_range *ranges);

/**
 * cmd_get() - Take one command off the front of some bytes
 * @buf:	Begins at the type byte 08
 *
 * Pure. The ranges of a discard stay where they are: msg->discard.raw points
 * into @buf.
 *
 * Return: 1 a command, 0 more bytes are needed (*@used is then how many there
 * must be altogether to go on), -EPROTO with a sentence
 */
int cmd_get(const uint8_t *buf, size_t length, size_t *used, struct cmd_msg *msg,
	    struct wh_err *err);

/* The i-th range of a discard that cmd_get() gave */
struct wire_range cmd_range(const struct cmd_msg *msg, uint32_t i);

const char *cmd_name(enum cmd_kind kind);

#endif /* WIRE_COMMAND_H */
