/* SPDX-License-Identifier: MIT */
#ifndef WIRE_FIELDS_H
#define WIRE_FIELDS_H

#include "base/bytes.h"
#include "wire/name.h"

#include <errno.h>

/*
 * The fields that messages of the .def tables are made of. For each type: how many
 * bytes it has at least and at most, how it is put, and how it is got. The two
 * codecs expand their tables with these and have no list of kinds of their own.
 */
enum {
	FIELD_MIN_u32 = 4,
	FIELD_MAX_u32 = 4,
	FIELD_MIN_u64 = 8,
	FIELD_MAX_u64 = 8,
	FIELD_MIN_NAME = 1 + 1,
	FIELD_MAX_NAME = 1 + 255,
};

/* Payload not taken yet; length is what the header promised. */
struct payload {
	const uint8_t *at;
	size_t length;
};

static inline uint8_t *put_u32(uint8_t *at, uint32_t value)
{
	put_be32(at, value);
	return at + 4;
}

static inline uint8_t *put_u64(uint8_t *at, uint64_t value)
{
	put_be64(at, value);
	return at + 8;
}

static inline int get_u32(struct payload *payload, uint32_t *value, struct wh_err *err)
{
	(void)err;
	if (payload->length < 4)
		return 0;
	*value = get_be32(payload->at);
	payload->at += 4;
	payload->length -= 4;
	return 1;
}

static inline int get_u64(struct payload *payload, uint64_t *value, struct wh_err *err)
{
	(void)err;
	if (payload->length < 8)
		return 0;
	*value = get_be64(payload->at);
	payload->at += 8;
	payload->length -= 8;
	return 1;
}

/* Return, as of the others: 1 got it, 0 the payload is too short; -EPROTO a bad name */
static inline int get_name(struct payload *payload, struct wire_name *name, struct wh_err *err)
{
	size_t length;
	int ret;

	if (!payload->length || payload->length < 1u + payload->at[0])
		return 0;
	length = payload->at[0];
	ret = wire_name_get(name, payload->at + 1, (uint8_t)length, err);
	if (ret < 0)
		return ret;
	payload->at += 1 + length;
	payload->length -= 1 + length;
	return 1;
}

#endif /* WIRE_FIELDS_H */
