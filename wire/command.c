/* SPDX-License-Identifier: MIT */
#include "wire/command.h"

#include "base/err.h"
#include "wire/fields.h"

#define COMMAND_TYPE 0x08u /* section type in front of it: SECTION_COMMAND */
#define RANGE_BYTES 16u

static int get_ranges(struct payload *in, struct wire_name *block, uint32_t *count,
		      const uint8_t **raw, struct wh_err *err)
{
	int ret;

	if (!in->length)
		return 0;
	if (in->at[0])
		return err_set(err, -EPROTO, "version %u, expected 0", in->at[0]);
	in->at++;
	in->length--;
	ret = get_name(in, block, err);
	if (ret <= 0)
		return ret;
	if (!in->length)
		return 0;
	if (in->at[0])
		return err_set(err, -EPROTO, "byte 0x%02x behind the block's name, expected 0",
			       in->at[0]);
	in->at++;
	in->length--;
	if (!in->length || in->length % RANGE_BYTES)
		return err_set(err, -EPROTO, "%zu bytes of ranges, expected pairs of %u bytes",
			       in->length, RANGE_BYTES);
	*raw = in->at;
	*count = (uint32_t)(in->length / RANGE_BYTES);
	in->length = 0;
	return 1;
}

static uint8_t *put_block(uint8_t *at, const struct wire_name *block)
{
	*at++ = 0;
	at += wire_name_put(at, block);
	*at++ = 0;
	return at;
}

#define RANGES PASS(RANGES)
#define RANGES_PUT at = put_block(at, &m->block);
#define RANGES_GET ret = get_ranges(in, &m->block, &m->count, &m->raw, err);
/* Version byte, a name, terminator byte, a pair; and all pairs that a be16 has room for */
#define RANGES_LEAST +1 + FIELD_MIN_NAME + 1 + (int)RANGE_BYTES
#define RANGES_MOST +65535
#define TABLE "wire/command.def"
#define TABLE_MSG struct cmd_msg
#include "wire/table.def"

/* Numbers without a kind, 0 among them, have no name here. */
static const struct {
	const char *name;
	size_t min;
	size_t max;
	uint8_t *(*put)(uint8_t *at, const struct cmd_msg *msg);
	int (*get)(struct payload *in, struct cmd_msg *msg, struct wh_err *err);
} kinds[] = {
#define MSG(kind, number, body, fields) \
	[number] = { #kind, MIN_##kind, MAX_##kind, put_##body, get_##body },
#include "wire/command.def"
#undef MSG
};

_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == CMD_COUNT, "a row a kind");

size_t cmd_put(uint8_t *buf, const struct cmd_msg *msg, const struct wire_range *ranges)
{
	uint8_t *end = buf + CMD_HEADER;
	uint32_t i;

	if (msg->kind != CMD_POSTCOPY_ADVISE || !msg->empty)
		end = kinds[msg->kind].put(end, msg);
	for (i = 0; msg->kind == CMD_POSTCOPY_RAM_DISCARD && i < msg->discard.count; i++) {
		end = put_u64(end, ranges[i].start);
		end = put_u64(end, ranges[i].length);
	}
	buf[0] = COMMAND_TYPE;
	put_be16(buf + 1, (uint16_t)msg->kind);
	put_be16(buf + 3, (uint16_t)(end - buf - CMD_HEADER));
	return (size_t)(end - buf);
}

static int header_check(unsigned kind, size_t length, struct wh_err *err)
{
	if (kind >= CMD_COUNT || !kinds[kind].name)
		return err_set(err, -EPROTO, "command of unknown kind %u, %zu bytes", kind, length);
	if (kind == CMD_POSTCOPY_ADVISE && !length)
		return 0;
	if (length < kinds[kind].min || length > kinds[kind].max) {
		if (kinds[kind].min == kinds[kind].max)
			return err_set(err, -EPROTO, "%s of %zu bytes, expected %zu",
				       kinds[kind].name, length, kinds[kind].min);
		return err_set(err, -EPROTO, "%s of %zu bytes, expected %zu to %zu",
			       kinds[kind].name, length, kinds[kind].min, kinds[kind].max);
	}
	return 0;
}

static int payload_get(struct payload *in, struct cmd_msg *msg, struct wh_err *err)
{
	size_t length = in->length;
	int ret;

	msg->empty = msg->kind == CMD_POSTCOPY_ADVISE && !length;
	if (msg->empty) {
		msg->advise.page_sizes = 0;
		msg->advise.target_page = 0;
		return 1;
	}
	ret = kinds[msg->kind].get(in, msg, err);
	if (ret < 0) {
		err_wrap(err, "%s", kinds[msg->kind].name);
		return ret;
	}
	if (!ret || in->length)
		return err_set(err, -EPROTO, "%s of %zu bytes, which is not where its name ends",
			       kinds[msg->kind].name, length);
	return 1;
}

int cmd_get(const uint8_t *buf, size_t length, size_t *used, struct cmd_msg *msg,
	    struct wh_err *err)
{
	struct payload in;
	unsigned kind;
	int ret;

	if (length && buf[0] != COMMAND_TYPE)
		return err_set(err, -EPROTO, "byte 0x%02x where a command begins, expected 0x%02x",
			       buf[0], COMMAND_TYPE);
	*used = CMD_HEADER;
	if (length < CMD_HEADER)
		return 0;
	kind = get_be16(buf + 1);
	in.at = buf + CMD_HEADER;
	in.length = get_be16(buf + 3);
	ret = header_check(kind, in.length, err);
	if (ret < 0)
		return ret;
	*used += in.length;
	if (length < *used)
		return 0;
	msg->kind = (enum cmd_kind)kind;
	return payload_get(&in, msg, err);
}

struct wire_range cmd_range(const struct cmd_msg *msg, uint32_t i)
{
	const uint8_t *raw = msg->discard.raw + (size_t)i * RANGE_BYTES;

	return (struct wire_range){ .start = get_be64(raw), .length = get_be64(raw + 8) };
}

const char *cmd_name(enum cmd_kind kind)
{
	if ((unsigned)kind >= CMD_COUNT || !kinds[kind].name)
		return "?";
	return kinds[kind].name;
}
