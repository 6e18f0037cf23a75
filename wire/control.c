/* SPDX-License-Identifier: MIT */
#include "wire/control.h"

#include "base/err.h"
#include "wire/fields.h"

#include <string.h>

/* How many items, see the table */
enum count {
	NO_ITEMS,
	ONE,
	REPEAT,
	LENGTH,
	BYTES
};

enum {
	BYTES_none = 0,
#define PAD +4
#define F(type, name) +FIELD_MAX_##type
#define ITEM(item, fields) BYTES_##item = 0 fields,
#include "wire/control.def"
#undef ITEM
#undef F
#undef PAD
};

/* Number 0 is no kind */
static const struct {
	const char *name;
	size_t item;
	enum count count;
} kinds[] = {
#define KIND(kind, number, item, how) [number] = { #kind, BYTES_##item, how },
#include "wire/control.def"
#undef KIND
};

_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == CONTROL_COUNT, "a row a kind");
_Static_assert((size_t)CONTROL_REPEAT_MAX *BYTES_block <= CONTROL_PAYLOAD_MAX, "all of them fit");

/* Items that a payload of @length must have; 0: it cannot be */
static uint32_t items_of(enum control_kind kind, uint32_t repeat, size_t length)
{
	switch (kinds[kind].count) {
	case ONE:
		return length == kinds[kind].item;
	case REPEAT:
		return repeat <= CONTROL_REPEAT_MAX && length == repeat * kinds[kind].item ?
			       repeat :
			       0;
	case LENGTH:
		return length % kinds[kind].item || length / kinds[kind].item > CONTROL_REPEAT_MAX ?
			       0 :
			       (uint32_t)(length / kinds[kind].item);
	case BYTES:
		return length != 0;
	case NO_ITEMS:
		break;
	}
	return length == 0 && repeat <= CONTROL_REPEAT_MAX;
}

int control_get(const uint8_t *buf, size_t length, struct control *control, struct wh_err *err)
{
	uint32_t kind, repeat, count;

	if (length < CONTROL_HEADER || length > CONTROL_MSG_MAX)
		return err_set(err, -EPROTO, "rdma: a message of %zu bytes", length);
	if (get_be32(buf) != length - CONTROL_HEADER)
		return err_set(err, -EPROTO, "rdma: a message of %zu bytes that says it has %u",
			       length - CONTROL_HEADER, get_be32(buf));
	kind = get_be32(buf + 4);
	repeat = get_be32(buf + 8);
	length -= CONTROL_HEADER;
	if (kind >= CONTROL_COUNT || !kinds[kind].name)
		return err_set(err, -EPROTO, "rdma: message of unknown kind %u, %zu bytes", kind,
			       length);
	/* QEMU 7.2 leaves what it finds there in the repeat count of the stream's */
	count = items_of((enum control_kind)kind, repeat, length);
	if (!count)
		return err_set(err, -EPROTO, "rdma: %s of %zu bytes, repeated %u times",
			       kinds[kind].name, length, repeat);
	control->kind = (enum control_kind)kind;
	control->count = kinds[kind].count == NO_ITEMS ? repeat : count;
	control->payload = buf + CONTROL_HEADER;
	control->length = length;
	return 0;
}

size_t control_put(uint8_t *buf, enum control_kind kind, uint32_t count, size_t bytes)
{
	size_t length = kinds[kind].count == BYTES ? bytes : count * kinds[kind].item;

	put_be32(buf, (uint32_t)length);
	put_be32(buf + 4, kind);
	/* QEMU's list of blocks is one item to its header */
	put_be32(buf + 8, kinds[kind].count == LENGTH ? 1 : count);
	put_be32(buf + 12, 0);
	return CONTROL_HEADER + length;
}

#define F(type, name) at = put_##type(at, from->name);
#define PAD at = put_u32(at, 0);
#define ITEM(item, fields)                                                                   \
	void control_put_##item(uint8_t *buf, uint32_t i, const struct control_##item *from) \
	{                                                                                    \
		uint8_t *at = buf + CONTROL_HEADER + (size_t)i * BYTES_##item;               \
                                                                                             \
		fields(void) at;                                                             \
	}
#include "wire/control.def"
#undef ITEM
#undef PAD
#undef F

static void item_u32(const uint8_t **at, uint32_t *value)
{
	*value = get_be32(*at);
	*at += 4;
}

static void item_u64(const uint8_t **at, uint64_t *value)
{
	*value = get_be64(*at);
	*at += 8;
}

#define F(type, name) item_##type(&at, &to->name);
#define PAD at += 4;
#define ITEM(item, fields)                                                       \
	void control_get_##item(const struct control *control, uint32_t i,       \
				struct control_##item *to)                       \
	{                                                                        \
		const uint8_t *at = control->payload + (size_t)i * BYTES_##item; \
                                                                                 \
		fields(void) at;                                                 \
	}
#include "wire/control.def"
#undef ITEM
#undef PAD
#undef F

size_t control_item_bytes(enum control_kind kind)
{
	return kinds[kind].item;
}

const char *control_name(enum control_kind kind)
{
	return (unsigned)kind < CONTROL_COUNT && kinds[kind].name ? kinds[kind].name : "?";
}

/* Fewer than that, and each is too large a part of what there is */
#define CHUNKS_MIN 8u

static const struct {
	uint32_t flag;
	unsigned bits;
} large[] = {
	{ CONTROL_CHUNK_16M, 24 },
	{ CONTROL_CHUNK_4M, 22 },
};

uint32_t control_chunk_flags(uint64_t bytes)
{
	uint32_t flags = 0;

	for (unsigned i = 0; i < sizeof(large) / sizeof(large[0]); i++)
		if (bytes >> large[i].bits >= CHUNKS_MIN)
			flags |= large[i].flag;
	return flags;
}

unsigned control_chunk_bits(uint32_t flags)
{
	for (unsigned i = 0; i < sizeof(large) / sizeof(large[0]); i++)
		if (flags & large[i].flag)
			return large[i].bits;
	return CONTROL_CHUNK_BITS;
}

size_t control_put_hello(uint8_t *buf, const struct control_hello *hello)
{
	put_be32(buf, hello->version);
	put_be32(buf + 4, hello->flags);
	if (!(hello->flags & CONTROL_TICKET))
		return CONTROL_HELLO;
	put_be64(buf + 8, hello->ticket.high);
	put_be64(buf + 16, hello->ticket.low);
	return CONTROL_HELLO_MAX;
}

int control_get_hello(const void *data, size_t length, struct control_hello *hello,
		      struct wh_err *err)
{
	const uint8_t *bytes = data;

	if (!data || length < CONTROL_HELLO)
		return err_set(err, -EPROTO, "rdma: the peer does not say which version it speaks");
	hello->version = get_be32(bytes);
	hello->flags = get_be32(bytes + 4);
	hello->ticket = (struct control_ticket){ 0 };
	if (hello->version < 1 || hello->version > CONTROL_VERSION)
		return err_set(err, -EPROTO, "rdma: the peer speaks version %u, this is %u",
			       hello->version, CONTROL_VERSION);
	if (!(hello->flags & CONTROL_TICKET))
		return 0;
	if (length < CONTROL_HELLO_MAX)
		return err_set(err, -EPROTO, "rdma: the peer speaks of a ticket, and shows none");
	hello->ticket.high = get_be64(bytes + 8);
	hello->ticket.low = get_be64(bytes + 16);
	return 0;
}
