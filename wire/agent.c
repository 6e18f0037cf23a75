/* SPDX-License-Identifier: MIT */
#include "wire/agent.h"

#include "base/err.h"

#define TABLE "wire/agent.def"
#define TABLE_MSG struct agent_msg
#include "wire/table.def"

#define MSG(kind, number, body, fields, descriptors)                                \
	_Static_assert((size_t)MAX_##kind + AGENT_HEADER <= AGENT_MSG_MAX, "fits"); \
	_Static_assert((descriptors) <= AGENT_FDS, "no more than there is room for");
#include "wire/agent.def"
#undef MSG

/* Number 0 has no kind. */
static const struct {
	const char *name;
	unsigned fds;
	uint8_t *(*put)(uint8_t *at, const struct agent_msg *msg);
	int (*get)(struct payload *in, struct agent_msg *msg, struct wh_err *err);
} kinds[] = {
#define MSG(kind, number, body, fields, descriptors) \
	[number] = { #kind, descriptors, put_##body, get_##body },
#include "wire/agent.def"
#undef MSG
};

_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == AGENT_COUNT, "a row a kind");

size_t agent_put(uint8_t *buf, const struct agent_msg *msg)
{
	uint8_t *payload = buf + AGENT_HEADER;
	size_t length = (size_t)(kinds[msg->kind].put(payload, msg) - payload);

	put_be16(buf, (uint16_t)msg->kind);
	put_be16(buf + 2, (uint16_t)length);
	return AGENT_HEADER + length;
}

int agent_get(const uint8_t *buf, size_t length, struct agent_msg *msg, struct wh_err *err)
{
	struct payload in = { .at = buf + AGENT_HEADER };
	unsigned kind;
	int ret;

	if (length < AGENT_HEADER || get_be16(buf + 2) != length - AGENT_HEADER)
		return err_set(err, -EPROTO, "agent: a packet of %zu bytes, which is no message",
			       length);
	kind = get_be16(buf);
	if (kind >= AGENT_COUNT || !kinds[kind].name)
		return err_set(err, -EPROTO, "agent: message of unknown kind %u", kind);
	in.length = length - AGENT_HEADER;
	msg->kind = (enum agent_kind)kind;
	ret = kinds[kind].get(&in, msg, err);
	if (ret < 0) {
		err_wrap(err, "agent: %s", kinds[kind].name);
		return ret;
	}
	if (!ret || in.length)
		return err_set(err, -EPROTO, "agent: %s of %zu bytes, which is not its length",
			       kinds[kind].name, length - AGENT_HEADER);
	return 0;
}

const char *agent_name(enum agent_kind kind)
{
	return (unsigned)kind < AGENT_COUNT && kinds[kind].name ? kinds[kind].name : "?";
}

unsigned agent_fds(enum agent_kind kind)
{
	return kinds[kind].fds;
}

void agent_text(struct wire_name *name, const char *text)
{
	size_t length = 0;

	for (; length < 255 && text[length]; length++) {
		name->text[length] = text[length];
		if ((unsigned char)text[length] < 0x20 || text[length] == 0x7f)
			name->text[length] = '?';
	}
	if (!length)
		name->text[length++] = '-';
	name->text[length] = '\0';
	name->length = (uint8_t)length;
}
