/* SPDX-License-Identifier: MIT */
#ifndef WIRE_CHECKPOINT_H
#define WIRE_CHECKPOINT_H

#include "wire/name.h"

#include <stddef.h>
#include <wherry/err.h>

/*
 * What a protected guest's two hosts say to each other. Both ends are ours. Header, big
 * endian:
 *
 *	 0	be32	"WHCP"
 *	 4	u8	version, 1
 *	 5	u8	number of the message
 *	 6	be16	0
 *	 8	be64	generation of the session: the fencing token
 *	16	be64	epoch
 *	24	be32	bytes of payload
 *	28	be32	XXH32, seed 0, of the 28 bytes before
 */

enum cp_kind {
#define MSG(kind, number, body, fields, from) CP_##kind = number,
#include "wire/checkpoint.def"
#undef MSG
	CP_KIND_COUNT
};

enum cp_from {
	CP_FROM_SOURCE = 1,
	CP_FROM_DEST = 2,
	CP_FROM_EITHER = CP_FROM_SOURCE | CP_FROM_DEST,
};

#define CP_HEADER 32u
#define CP_VERSION 1u
/* Of a message without BYTES or ENTRIES, its header included */
#define CP_MSG_MAX 320u

/* What a payload's bytes may be; a bit of HELLO's and READY's features each, but PLAIN */
enum cp_content {
	CP_PLAIN,  /* the pages as they are */
	CP_ZERO,   /* zeros; no bytes */
	CP_XBZRLE, /* one page, against what the other end has of it */
	CP_ZSTD,   /* one frame */
	CP_CONTENT_COUNT
};
#define CP_FEATURE(content) (UINT32_C(1) << (content))
#define CP_FEATURES (CP_FEATURE(CP_ZERO) | CP_FEATURE(CP_XBZRLE) | CP_FEATURE(CP_ZSTD))

#define CP_BLOCKS_MAX 64u
/* Bytes of guest memory that one entry describes at most */
#define CP_RUN_BYTES_MAX (UINT64_C(1) << 30)
/* The same of what has to be unpacked as a whole */
#define CP_PACKED_BYTES_MAX (UINT64_C(2) << 20)

struct cp_header {
	enum cp_kind kind;
	uint32_t length; /* of the payload */
	uint64_t generation;
	uint64_t epoch;
};

struct cp_msg {
	union {
#define u32 uint32_t
#define u64 uint64_t
#define F(type, name) type name;
#define NAME(name) struct wire_name name;
#define NOTHING
#define BYTES(max)
#define ENTRIES(max)
#define MSG(kind, number, body, fields, from) \
	struct {                              \
		fields                        \
	} body;
#include "wire/checkpoint.def"
#undef MSG
#undef ENTRIES
#undef BYTES
#undef NOTHING
#undef NAME
#undef F
#undef u64
#undef u32
	};
};

/* A run of pages of one block, and how many bytes of PAGES are theirs. */
struct cp_entry {
	uint32_t block;
	enum cp_content content;
	uint32_t pages;
	uint64_t first;
	uint32_t bytes;
};
#define CP_ENTRY 20u

/* Writes header and payload; buf has room for CP_MSG_MAX. Sets header->length.
 * Of a kind with BYTES or ENTRIES only the header is written, with the length that is
 * there. Return: bytes written */
size_t cp_put(uint8_t *buf, struct cp_header *header, const struct cp_msg *msg);

/**
 * cp_header_get() - The next message's header
 * @buf:	CP_HEADER bytes
 * @from:	Who is at the other end: one side
 *
 * Pure. When it returns 0, header->length is one that the kind may have.
 *
 * Return: 0, or -EPROTO with a sentence
 */
int cp_header_get(const uint8_t *buf, enum cp_from from, struct cp_header *header,
		  struct wh_err *err);

/* The payload (header->length bytes), of a kind that has fields. Return: as above */
int cp_get(const struct cp_header *header, const uint8_t *payload, struct cp_msg *msg,
	   struct wh_err *err);

void cp_entry_put(uint8_t *buf, const struct cp_entry *entry);
/* Return: 0, or -EPROTO: what no block could make right */
int cp_entry_get(const uint8_t *buf, struct cp_entry *entry, struct wh_err *err);

const char *cp_name(enum cp_kind kind);
/* It has BYTES or ENTRIES: its payload is not got by cp_get() */
int cp_has_bytes(enum cp_kind kind);

/*
 * XXH3 (64 bits) of BEGIN to the last message before COMMIT, headers and payloads as they are on the
 * wire. The state is kept by the caller.
 */
struct cp_hash {
	uint8_t state[576];
};
void cp_hash_begin(struct cp_hash *hash);
void cp_hash_add(struct cp_hash *hash, const void *bytes, size_t length);
uint64_t cp_hash_end(const struct cp_hash *hash);

#endif /* WIRE_CHECKPOINT_H */
