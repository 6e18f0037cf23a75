/* SPDX-License-Identifier: MIT */
#ifndef WIRE_RETURN_PATH_H
#define WIRE_RETURN_PATH_H

#include "wire/name.h"

#include <stddef.h>
#include <wherry/err.h>

enum rp_kind {
#define MSG(kind, number, body, fields) RP_##kind = number,
#include "wire/return_path.def"
#undef MSG
	RP_COUNT
};

/* Each kind's payload; made from the table. */
struct rp_msg {
	enum rp_kind kind;
	union {
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define NAME(name) struct wire_name name;
#define NOTHING
#define MSG(kind, number, body, fields) \
	struct {                        \
		fields                  \
	} body;
#include "wire/return_path.def"
#undef MSG
#undef NOTHING
#undef NAME
#undef F
#undef u64
#undef u32
	};
};

#define RP_HEADER 4u
#define RP_PAYLOAD_MAX 512u
#define RP_MSG_MAX (RP_HEADER + RP_PAYLOAD_MAX)

/*
 * Are both ends ours? A PING with PING_WHO is echoed by a QEMU as any other; a destination
 * of ours answers PONG_OURS: in postcopy it takes a page for the second time, whichever
 * copy comes first, and drops the other.
 */
#define PING_WHO UINT32_C(0x57485259)
#define PONG_OURS UINT32_C(0x57485201)

/* Its PONG says that all in front of it has arrived; 1 to 4 are as of a QEMU */
#define PING_ARRIVED UINT32_C(5)

/* Writes the message; buf has room for RP_MSG_MAX. Return: bytes written */
size_t rp_put(uint8_t *buf, const struct rp_msg *msg);

/**
 * rp_get() - Take one message off the front of some bytes
 * @used:	On 1: bytes it took
 * @msg:	On 1: filled in
 *
 * Pure. Checks the kind, and the length against the kind's own.
 *
 * Return: 1 a message, 0 more bytes are needed, -EPROTO with a sentence
 */
int rp_get(const uint8_t *buf, size_t length, size_t *used, struct rp_msg *msg, struct wh_err *err);

const char *rp_name(enum rp_kind kind);

#endif /* WIRE_RETURN_PATH_H */
