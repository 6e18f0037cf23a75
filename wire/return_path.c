/* SPDX-License-Identifier: MIT */
#include "wire/return_path.h"

#include "base/err.h"

#define TABLE "wire/return_path.def"
#define TABLE_MSG struct rp_msg
#include "wire/table.def"

/* Numbers without a kind, 0 among them, have no name here. */
static const struct {
	const char *name;
	size_t min;
	size_t max;
	uint8_t *(*put)(uint8_t *at, const struct rp_msg *msg);
	int (*get)(struct payload *in, struct rp_msg *msg, struct wh_err *err);
} kinds[] = {
#define MSG(kind, number, body, fields) \
	[number] = { #kind, MIN_##kind, MAX_##kind, put_##body, get_##body },
#include "wire/return_path.def"
#undef MSG
};

_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == RP_COUNT, "a row a kind");

#define MSG(kind, number, body, fields) \
	_Static_assert((size_t)MAX_##kind <= RP_PAYLOAD_MAX, "fits into a source's buffer");
#include "wire/return_path.def"
#undef MSG

size_t rp_put(uint8_t *buf, const struct rp_msg *msg)
{
	size_t length = (size_t)(kinds[msg->kind].put(buf + RP_HEADER, msg) - buf) - RP_HEADER;

	put_be16(buf, (uint16_t)msg->kind);
	put_be16(buf + 2, (uint16_t)length);
	return RP_HEADER + length;
}

#define TLS_ALERT 0x1503u /* a record's type, and its version's first byte */

static int header_check(unsigned kind, size_t length, struct wh_err *err)
{
	if (kind >= RP_COUNT || !kinds[kind].name)
		return err_set(err, -EPROTO, "return path message of unknown kind %u, %zu bytes%s",
			       kind, length,
			       kind == TLS_ALERT ? " (the destination speaks TLS)" : "");
	if (length < kinds[kind].min || length > kinds[kind].max) {
		if (kinds[kind].min == kinds[kind].max)
			return err_set(err, -EPROTO, "%s of %zu bytes, expected %zu",
				       kinds[kind].name, length, kinds[kind].min);
		return err_set(err, -EPROTO, "%s of %zu bytes, expected %zu to %zu",
			       kinds[kind].name, length, kinds[kind].min, kinds[kind].max);
	}
	return 0;
}

int rp_get(const uint8_t *buf, size_t length, size_t *used, struct rp_msg *msg, struct wh_err *err)
{
	struct payload in;
	unsigned kind;
	int ret;

	if (length < RP_HEADER)
		return 0;
	kind = get_be16(buf);
	in.at = buf + RP_HEADER;
	in.length = get_be16(buf + 2);
	ret = header_check(kind, in.length, err);
	if (ret < 0)
		return ret;
	if (length - RP_HEADER < in.length)
		return 0;
	*used = RP_HEADER + in.length;
	msg->kind = (enum rp_kind)kind;
	ret = kinds[kind].get(&in, msg, err);
	if (ret < 0) {
		err_wrap(err, "%s", kinds[kind].name);
		return ret;
	}
	if (!ret || in.length)
		return err_set(err, -EPROTO, "%s of %u bytes, which is not where its name ends",
			       kinds[kind].name, get_be16(buf + 2));
	return 1;
}

const char *rp_name(enum rp_kind kind)
{
	if ((unsigned)kind >= RP_COUNT || !kinds[kind].name)
		return "?";
	return kinds[kind].name;
}
