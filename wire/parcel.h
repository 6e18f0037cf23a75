/* SPDX-License-Identifier: MIT */
#ifndef WIRE_PARCEL_H
#define WIRE_PARCEL_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

enum parcel_kind {
#define PARCEL(kind, number, body, fields) PARCEL_##kind = number,
#include "wire/parcel.def"
#undef PARCEL
	PARCEL_COUNT
};

#define PARCEL_HEADER_MAX 36u

/**
 * struct parcel - A message
 * @taken:	Messages of the other side's whose room is free again, since the beginning
 * @emptied:	The same of bytes that it has written
 * @payload:	STREAM: in the caller's buffer
 */
struct parcel {
	enum parcel_kind kind;
	uint32_t taken;
	uint64_t emptied;
	union {
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define BYTES(name) uint32_t name;
#define PARCEL(kind, number, body, fields) \
	struct {                           \
		fields                     \
	} body;
#include "wire/parcel.def"
#undef PARCEL
#undef BYTES
#undef F
#undef u64
#undef u32
	};
	const uint8_t *payload;
};

/* Of all that is in front of the stream's bytes */
size_t parcel_header(enum parcel_kind kind);
/* Writes that. Return: its bytes */
size_t parcel_put(uint8_t *buf, const struct parcel *parcel);
/* What a SEND contains. Pure. Return: 0, or -EPROTO with a sentence */
int parcel_get(const uint8_t *buf, size_t length, struct parcel *parcel, struct wh_err *err);

#endif /* WIRE_PARCEL_H */
