/* SPDX-License-Identifier: MIT */
#include "wire/checkpoint.h"

#include "base/err.h"

#include <assert.h>
#include <string.h>

/* Of the header file alone: nothing to link, and nothing that is not pure */
#define XXH_INLINE_ALL
#include <xxhash.h>

#define MAGIC UINT32_C(0x57484350)

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct cp_hash), "has room for the state");

#define BYTES(max) PASS(BYTES)(max)
#define BYTES_PUT(max)
#define BYTES_GET(max)
#define BYTES_LEAST(max) +1
#define BYTES_MOST(max) +(max)
#define ENTRIES(max) PASS(ENTRIES)(max)
#define ENTRIES_PUT(max)
#define ENTRIES_GET(max)
#define ENTRIES_LEAST(max) +(int)CP_ENTRY
#define ENTRIES_MOST(max) +(max) * (int)CP_ENTRY
#define TABLE "wire/checkpoint.def"
#define TABLE_MSG struct cp_msg
#include "wire/table.def"

/* The unit of what has one */
enum {
#define F_UNIT(type, name) +0
#define NAME_UNIT(name) +0
#define NOTHING_UNIT +0
#define BYTES_UNIT(max) +1
#define ENTRIES_UNIT(max) +(int)CP_ENTRY
#define PASS(field) field##_UNIT
#define MSG(kind, number, body, fields, from) UNIT_##kind = 0 fields,
#include "wire/checkpoint.def"
#undef MSG
#undef PASS
};

#define MSG(kind, number, body, fields, from)                                          \
	_Static_assert(UNIT_##kind > 0 || MAX_##kind <= (int)(CP_MSG_MAX - CP_HEADER), \
		       "a message with fields fits");
#include "wire/checkpoint.def"
#undef MSG

/* Number 0 has no kind. */
static const struct {
	const char *name;
	enum cp_from from;
	uint32_t min, max, unit; /* bytes; unit 0: it has fields */
	uint8_t *(*put)(uint8_t *at, const struct cp_msg *msg);
	int (*get)(struct payload *in, struct cp_msg *msg, struct wh_err *err);
} kinds[] = {
#define MSG(kind, number, body, fields, from)                             \
	[number] = { #kind,	  CP_FROM_##from, MIN_##kind, MAX_##kind, \
		     UNIT_##kind, put_##body,	  get_##body },
#include "wire/checkpoint.def"
#undef MSG
};
_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == CP_KIND_COUNT, "a row for each kind");

size_t cp_put(uint8_t *buf, struct cp_header *header, const struct cp_msg *msg)
{
	size_t length = CP_HEADER;

	if (!kinds[header->kind].unit) {
		length = (size_t)(kinds[header->kind].put(buf + CP_HEADER, msg) - buf);
		header->length = (uint32_t)(length - CP_HEADER);
	}
	assert(header->length >= kinds[header->kind].min &&
	       header->length <= kinds[header->kind].max);
	put_be32(buf, MAGIC);
	buf[4] = CP_VERSION;
	buf[5] = (uint8_t)header->kind;
	put_be16(buf + 6, 0);
	put_be64(buf + 8, header->generation);
	put_be64(buf + 16, header->epoch);
	put_be32(buf + 24, header->length);
	put_be32(buf + 28, XXH32(buf, 28, 0));
	return length;
}

int cp_header_get(const uint8_t *buf, enum cp_from from, struct cp_header *header,
		  struct wh_err *err)
{
	unsigned kind = buf[5];

	if (get_be32(buf) != MAGIC)
		return err_set(err, -EPROTO, "checkpoint: not a message: it begins with %#x",
			       get_be32(buf));
	if (get_be32(buf + 28) != XXH32(buf, 28, 0))
		return err_set(err, -EPROTO, "checkpoint: a header whose checksum is wrong");
	if (buf[4] != CP_VERSION)
		return err_set(err, -EPROTO, "checkpoint: version %u; this end speaks %u", buf[4],
			       CP_VERSION);
	if (kind >= CP_KIND_COUNT || !kinds[kind].name)
		return err_set(err, -EPROTO, "checkpoint: message of unknown kind %u", kind);
	if (get_be16(buf + 6))
		return err_set(err, -EPROTO, "checkpoint: %s with unknown flags %#x",
			       kinds[kind].name, get_be16(buf + 6));
	if (!(kinds[kind].from & from))
		return err_set(err, -EPROTO, "checkpoint: %s from the wrong side",
			       kinds[kind].name);
	header->kind = (enum cp_kind)kind;
	header->generation = get_be64(buf + 8);
	header->epoch = get_be64(buf + 16);
	header->length = get_be32(buf + 24);
	if (header->length < kinds[kind].min || header->length > kinds[kind].max ||
	    (kinds[kind].unit && header->length % kinds[kind].unit))
		return err_set(err, -EPROTO, "checkpoint: %s of %u bytes, which is not its length",
			       kinds[kind].name, header->length);
	return 0;
}

int cp_get(const struct cp_header *header, const uint8_t *payload, struct cp_msg *msg,
	   struct wh_err *err)
{
	struct payload in = { .at = payload, .length = header->length };
	int ret;

	assert(!kinds[header->kind].unit);
	ret = kinds[header->kind].get(&in, msg, err);
	if (ret < 0) {
		err_wrap(err, "checkpoint: %s", kinds[header->kind].name);
		return ret;
	}
	if (!ret || in.length)
		return err_set(err, -EPROTO, "checkpoint: %s of %u bytes, which is not its length",
			       kinds[header->kind].name, header->length);
	return 0;
}

/* be16 block, u8 content, u8 0, be32 pages, be64 first page, be32 bytes of PAGES */
void cp_entry_put(uint8_t *buf, const struct cp_entry *entry)
{
	put_be16(buf, (uint16_t)entry->block);
	buf[2] = (uint8_t)entry->content;
	buf[3] = 0;
	put_be32(buf + 4, entry->pages);
	put_be64(buf + 8, entry->first);
	put_be32(buf + 16, entry->bytes);
}

int cp_entry_get(const uint8_t *buf, struct cp_entry *entry, struct wh_err *err)
{
	if (buf[2] >= CP_CONTENT_COUNT || buf[3])
		return err_set(err, -EPROTO, "checkpoint: contents of unknown kind %u, %u", buf[2],
			       buf[3]);
	entry->block = get_be16(buf);
	entry->content = (enum cp_content)buf[2];
	entry->pages = get_be32(buf + 4);
	entry->first = get_be64(buf + 8);
	entry->bytes = get_be32(buf + 16);
	if (!entry->pages)
		return err_set(err, -EPROTO, "checkpoint: a run of no pages");
	return 0;
}

const char *cp_name(enum cp_kind kind)
{
	return (unsigned)kind < CP_KIND_COUNT && kinds[kind].name ? kinds[kind].name : "?";
}

int cp_has_bytes(enum cp_kind kind)
{
	return kinds[kind].unit != 0;
}

/*
 * The library's state wants to be aligned to more than malloc() aligns; so it is kept as bytes,
 * and worked with in a place of its own.
 */
struct place {
	uint8_t bytes[sizeof(XXH3_state_t) + 64];
};

static XXH3_state_t *place_state(struct place *place)
{
	size_t off = (uintptr_t)place->bytes % 64;

	return (XXH3_state_t *)(void *)(place->bytes + (off ? 64 - off : 0));
}

void cp_hash_begin(struct cp_hash *hash)
{
	struct place place = { 0 };

	XXH3_64bits_reset(place_state(&place));
	memcpy(hash->state, place_state(&place), sizeof(XXH3_state_t));
}

void cp_hash_add(struct cp_hash *hash, const void *bytes, size_t length)
{
	struct place place = { 0 };

	memcpy(place_state(&place), hash->state, sizeof(XXH3_state_t));
	XXH3_64bits_update(place_state(&place), bytes, length);
	memcpy(hash->state, place_state(&place), sizeof(XXH3_state_t));
}

uint64_t cp_hash_end(const struct cp_hash *hash)
{
	struct place place = { 0 };

	memcpy(place_state(&place), hash->state, sizeof(XXH3_state_t));
	return XXH3_64bits_digest(place_state(&place));
}
