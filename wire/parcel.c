/* SPDX-License-Identifier: MIT */
#include "wire/parcel.h"

#include "base/err.h"
#include "wire/fields.h"

#include <string.h>

#define COMMON (4 + 4 + 8)

/* Number 0 is no kind */
static const size_t headers[] = {
#define F(type, name) +FIELD_MAX_##type
#define BYTES(name) +FIELD_MAX_u32
#define PARCEL(kind, number, body, fields) [number] = COMMON fields,
#include "wire/parcel.def"
#undef PARCEL
#undef BYTES
#undef F
};

_Static_assert(sizeof(headers) / sizeof(headers[0]) == PARCEL_COUNT, "a row a kind");

size_t parcel_header(enum parcel_kind kind)
{
	return headers[kind];
}

size_t parcel_put(uint8_t *buf, const struct parcel *parcel)
{
	uint8_t *at = put_u32(buf, parcel->kind);

	at = put_u32(at, parcel->taken);
	at = put_u64(at, parcel->emptied);
	switch (parcel->kind) {
#define F(type, name) at = put_##type(at, body->name);
#define BYTES(name) at = put_u32(at, body->name);
#define PARCEL(kind, number, member, fields)                              \
	case PARCEL_##kind: {                                             \
		const __typeof__(parcel->member) *body = &parcel->member; \
                                                                          \
		fields break;                                             \
	}
#include "wire/parcel.def"
#undef PARCEL
#undef BYTES
#undef F
	case PARCEL_COUNT:
		break;
	}
	return (size_t)(at - buf);
}

int parcel_get(const uint8_t *buf, size_t length, struct parcel *parcel, struct wh_err *err)
{
	struct payload left = { buf, length };
	size_t bytes = 0;
	uint32_t kind;

	memset(parcel, 0, sizeof(*parcel));
	if (length < COMMON)
		return err_set(err, -EPROTO, "rdma: a message of %zu bytes", length);
	kind = get_be32(buf);
	if (kind >= PARCEL_COUNT || !headers[kind])
		return err_set(err, -EPROTO, "rdma: message of unknown kind %u, %zu bytes", kind,
			       length);
	if (length < headers[kind])
		return err_set(err, -EPROTO, "rdma: message of kind %u, %zu bytes", kind, length);
	parcel->kind = (enum parcel_kind)kind;
	parcel->taken = get_be32(buf + 4);
	parcel->emptied = get_be64(buf + 8);
	left.at += COMMON;
	switch (parcel->kind) {
#define F(type, name) (void)get_##type(&left, &body->name, err);
#define BYTES(name)                             \
	(void)get_u32(&left, &body->name, err); \
	bytes = body->name;
#define PARCEL(kind, number, member, fields)                        \
	case PARCEL_##kind: {                                       \
		__typeof__(parcel->member) *body = &parcel->member; \
                                                                    \
		fields break;                                       \
	}
#include "wire/parcel.def"
#undef PARCEL
#undef BYTES
#undef F
	case PARCEL_COUNT:
		break;
	}
	if (length - headers[kind] != bytes)
		return err_set(err, -EPROTO, "rdma: a message of %zu bytes that says it has %zu",
			       length - headers[kind], bytes);
	parcel->payload = buf + headers[kind];
	return 0;
}
