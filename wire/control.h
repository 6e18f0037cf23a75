/* SPDX-License-Identifier: MIT */
#ifndef WIRE_CONTROL_H
#define WIRE_CONTROL_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

enum control_kind {
#define KIND(kind, number, item, how) CONTROL_##kind = number,
#include "wire/control.def"
#undef KIND
	CONTROL_COUNT
};

/* struct control_block, control_zero, control_ask, control_grant; made from the table */
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define PAD
#define ITEM(item, fields)      \
	struct control_##item { \
		fields          \
	};
#include "wire/control.def"
#undef ITEM
#undef PAD
#undef F
#undef u64
#undef u32

#define CONTROL_HEADER 16u
#define CONTROL_REPEAT_MAX 4096u
#define CONTROL_STREAM_MAX 32768u /* bytes that one message of QEMU's has */
#define CONTROL_MSG_MAX ((size_t)512 << 10)
#define CONTROL_PAYLOAD_MAX (CONTROL_MSG_MAX - CONTROL_HEADER)

/*
 * Of a block; the last one of a block may be shorter. A write is of one at most, and what a key is of may
 * be larger where both ends are ours
 */
#define CONTROL_CHUNK_BITS 20u
#define CONTROL_CHUNK (UINT64_C(1) << CONTROL_CHUNK_BITS)

/**
 * struct control - A message
 * @count:	Items in it; for UNREGISTER_FINISHED, which has none, what was asked
 * @payload:	In the caller's buffer
 */
struct control {
	enum control_kind kind;
	uint32_t count;
	const uint8_t *payload;
	size_t length;
};

/**
 * control_get() - What a SEND contains
 *
 * Pure. Return: 0, or -EPROTO with a sentence: a length that is not the message's, an
 * unknown kind, a count that is not the kind's
 */
int control_get(const uint8_t *buf, size_t length, struct control *control, struct wh_err *err);

/**
 * control_put() - Write the header in front of a payload
 * @count:	Items; of a kind without: what its header says as repeat, mostly 1
 * @bytes:	STREAM only: the payload's
 *
 * Return: length of header and payload
 */
size_t control_put(uint8_t *buf, enum control_kind kind, uint32_t count, size_t bytes);

/* Item @i < control->count, or of a payload that is to be sent */
#define ITEM(item, fields)                                                 \
	void control_get_##item(const struct control *control, uint32_t i, \
				struct control_##item *item);              \
	void control_put_##item(uint8_t *buf, uint32_t i, const struct control_##item *item);
#include "wire/control.def"
#undef ITEM

/* Of one item of a kind; 0 where there are none */
size_t control_item_bytes(enum control_kind kind);
const char *control_name(enum control_kind kind);

/* ---- What either end says when it connects ------------------------------------ */

#define CONTROL_VERSION 1u
#define CONTROL_PIN_ALL 1u /* all memory is registered before the first round */
/* Ours: a REGISTER_REQUEST may be of several chunks. QEMU takes one, and does not know the bit */
#define CONTROL_SEVERAL 0x80000000u
/* Ours: no migration, but a connection of a protection (wire/parcel.def) */
#define CONTROL_CHECKPOINT 0x40000000u
/* Ours, too: in postcopy the destination may read pages, on a connection that says it is for that */
#define CONTROL_READS 0x10000000u
#define CONTROL_READER 0x08000000u
/* Ours: in a REGISTER_RESULT a key of 0 says that there is no room until some are given back */
#define CONTROL_NO_ROOM 0x20000000u
/*
 * Ours: a ticket follows. The answer to the first connection of a migration gives it, those behind that
 * show it: not everybody at the source's address is the source. Who has none yet says zeros
 */
#define CONTROL_TICKET 0x04000000u
/* Ours: a key is of 4 MiB, or of 16. Of what both ends say the largest counts */
#define CONTROL_CHUNK_16M 0x02000000u
#define CONTROL_CHUNK_4M 0x01000000u

/* Which of these make sense where so many bytes may be registered, or are all there are */
uint32_t control_chunk_flags(uint64_t bytes);
/* Of what both have said. Return: bits of an offset in what a key is of */
unsigned control_chunk_bits(uint32_t flags);

#define CONTROL_HELLO 8u
#define CONTROL_HELLO_MAX 24u
struct control_hello {
	uint32_t version;
	uint32_t flags;
	struct control_ticket {
		uint64_t high;
		uint64_t low;
	} ticket; /* zeros without CONTROL_TICKET */
};

/* Return: how long it is, CONTROL_HELLO_MAX bytes at most */
size_t control_put_hello(uint8_t *buf, const struct control_hello *hello);
/* @data may be NULL, and is often longer. Return: 0, or -EPROTO with a sentence */
int control_get_hello(const void *data, size_t length, struct control_hello *hello,
		      struct wh_err *err);

#endif /* WIRE_CONTROL_H */
