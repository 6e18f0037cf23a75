/* SPDX-License-Identifier: MIT */
#ifndef WIRE_AGENT_H
#define WIRE_AGENT_H

#include "wire/name.h"

#include <stddef.h>
#include <wherry/err.h>

enum agent_kind {
#define MSG(kind, number, body, fields, descriptors) AGENT_##kind = number,
#include "wire/agent.def"
#undef MSG
	AGENT_COUNT
};

#define AGENT_VERSION 2u
#define AGENT_FDS 2u /* descriptors that one message has at most */

/* Each kind's payload; made from the table. */
struct agent_msg {
	enum agent_kind kind;
	union {
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define NAME(name) struct wire_name name;
#define NOTHING
#define MSG(kind, number, body, fields, descriptors) \
	struct {                                     \
		fields                               \
	} body;
#include "wire/agent.def"
#undef MSG
#undef NOTHING
#undef NAME
#undef F
#undef u64
#undef u32
	};
};

#define AGENT_HEADER 4u
#define AGENT_MSG_MAX 512u

/* Writes the message; buf has room for AGENT_MSG_MAX. Return: bytes written */
size_t agent_put(uint8_t *buf, const struct agent_msg *msg);

/**
 * agent_get() - A packet as a message
 *
 * Pure. Return: 0, or -EPROTO with a sentence: of no kind, or not of its kind's length
 */
int agent_get(const uint8_t *buf, size_t length, struct agent_msg *msg, struct wh_err *err);

const char *agent_name(enum agent_kind kind);
/* How many descriptors come with it */
unsigned agent_fds(enum agent_kind kind);

/* Any sentence as a name: cut off, control characters replaced, never empty */
void agent_text(struct wire_name *name, const char *text);

#endif /* WIRE_AGENT_H */
