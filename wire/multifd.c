/* SPDX-License-Identifier: MIT */
#include "wire/multifd.h"

#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define FLAG_SYNC 0x01u
#define FLAG_METHODS 0x3eu
#define FLAG_DEVICE 0x40u
#define NAME_BYTES 256u

/* Where things stand. Hello: */
enum {
	HELLO_UUID = 8,
	HELLO_CHANNEL = 24,
};

/* Head of a packet: */
enum {
	AT_VERSION = 4,
	AT_FLAGS = 8,
	AT_ROOM = 12, /* pages that a packet has room for */
	AT_NORMAL = 16,
	AT_BYTES = 20,
	AT_NUMBER = 24,
	AT_ZERO = 32,
	AT_BLOCK = 64,
	AT_OFFSETS = AT_BLOCK + NAME_BYTES,
};

_Static_assert(AT_OFFSETS + 8 * MULTIFD_PAGES == MULTIFD_HEAD_BYTES, "nothing between or behind");

static const struct {
	uint32_t bits;
	const char *name;
} methods[] = {
#define METHOD(name, bits, text) [MULTIFD_##name] = { bits, text },
#include "wire/multifd.def"
#undef METHOD
};
_Static_assert(sizeof(methods) / sizeof(methods[0]) == MULTIFD_METHOD_COUNT, "a line each");

const char *multifd_method_name(enum multifd_method method)
{
	return methods[method].name;
}

static bool same(const char *a, const char *b)
{
	for (; *a && *a == *b; a++, b++)
		;
	return *a == *b;
}

int multifd_method_named(const char *name)
{
	for (int i = 0; i < MULTIFD_METHOD_COUNT; i++)
		if (same(methods[i].name, name))
			return i;
	return -1;
}

size_t multifd_put_hello(uint8_t *buf, const struct multifd_hello *hello)
{
	memset(buf, 0, MULTIFD_HELLO_BYTES);
	put_be32(buf, MULTIFD_MAGIC);
	put_be32(buf + AT_VERSION, MULTIFD_VERSION);
	memcpy(buf + HELLO_UUID, hello->uuid, MULTIFD_UUID_BYTES);
	buf[HELLO_CHANNEL] = hello->channel;
	return MULTIFD_HELLO_BYTES;
}

size_t multifd_put_head(uint8_t *buf, const struct multifd_packet *packet)
{
	uint32_t pages = packet->normal + packet->zero;

	memset(buf, 0, MULTIFD_HEAD_BYTES);
	put_be32(buf, MULTIFD_MAGIC);
	put_be32(buf + AT_VERSION, MULTIFD_VERSION);
	put_be32(buf + AT_FLAGS, methods[packet->method].bits | (packet->sync ? FLAG_SYNC : 0));
	put_be32(buf + AT_ROOM, MULTIFD_PAGES);
	put_be32(buf + AT_NORMAL, packet->normal);
	/* QEMU 10 asserts that this is 0 where no contents follow */
	put_be32(buf + AT_BYTES, packet->normal ? packet->bytes : 0);
	put_be64(buf + AT_NUMBER, packet->number);
	put_be32(buf + AT_ZERO, packet->zero);
	memcpy(buf + AT_BLOCK, packet->block.text, packet->block.length);
	for (uint32_t i = 0; i < pages; i++)
		put_be64(buf + AT_OFFSETS + (size_t)8 * i, packet->offset[i]);
	return MULTIFD_HEAD_BYTES;
}

static int check_magic(const uint8_t *buf, const char *what, struct wh_err *err)
{
	if (get_be32(buf) != MULTIFD_MAGIC)
		return err_set(err, -EPROTO, "%s begins with 0x%08x, expected 0x%08x", what,
			       get_be32(buf), MULTIFD_MAGIC);
	if (get_be32(buf + AT_VERSION) != MULTIFD_VERSION)
		return err_set(err, -EPROTO, "%s of version %u, expected %u", what,
			       get_be32(buf + AT_VERSION), MULTIFD_VERSION);
	return 0;
}

int multifd_get_hello(const uint8_t *buf, size_t length, struct multifd_hello *hello,
		      struct wh_err *err)
{
	int ret;

	if (length < MULTIFD_HELLO_BYTES)
		return 0;
	ret = check_magic(buf, "multifd hello", err);
	if (ret < 0)
		return ret;
	memcpy(hello->uuid, buf + HELLO_UUID, MULTIFD_UUID_BYTES);
	hello->channel = buf[HELLO_CHANNEL];
	return 1;
}

static int get_flags(struct multifd_packet *packet, uint32_t flags, struct wh_err *err)
{
	if (flags & FLAG_DEVICE)
		return err_set(err, -EPROTO,
			       "multifd packet of device state, which is not supported");
	if (flags & ~(FLAG_SYNC | FLAG_METHODS))
		return err_set(err, -EPROTO, "multifd packet with unknown flags 0x%x", flags);
	packet->sync = flags & FLAG_SYNC;
	for (unsigned i = 0; i < MULTIFD_METHOD_COUNT; i++) {
		if (methods[i].bits != (flags & FLAG_METHODS))
			continue;
		packet->method = (enum multifd_method)i;
		return 0;
	}
	return err_set(err, -EPROTO, "multifd packet with flags 0x%x, compressed in several ways",
		       flags);
}

/* Contents that follow: are they as many as these pages can have? */
static int get_bytes(struct multifd_packet *packet, uint32_t bytes, struct wh_err *err)
{
	uint32_t most = packet->method == MULTIFD_NONE ? packet->normal * (uint32_t)PAGE :
							 MULTIFD_BYTES_MAX;
	uint32_t least = packet->method == MULTIFD_NONE ? most : 1;

	packet->bytes = packet->normal ? bytes : 0;
	if (packet->normal && (bytes < least || bytes > most))
		return err_set(err, -EPROTO,
			       "multifd packet of %u bytes for %u pages, expected %u to %u", bytes,
			       packet->normal, least, most);
	return 0;
}

static int get_block(struct multifd_packet *packet, const uint8_t *text, struct wh_err *err)
{
	unsigned length = 0;

	while (length < NAME_BYTES && text[length])
		length++;
	if (length == NAME_BYTES)
		return err_set(err, -EPROTO, "multifd packet with a block's name without end");
	return wire_name_get(&packet->block, text, (uint8_t)length, err);
}

static int get_offsets(struct multifd_packet *packet, const uint8_t *at, struct wh_err *err)
{
	for (uint32_t i = 0; i < packet->normal + packet->zero; i++) {
		packet->offset[i] = get_be64(at + (size_t)8 * i);
		if (packet->offset[i] % PAGE)
			return err_set(err, -EPROTO,
				       "multifd packet with a page at 0x%llx of block %s",
				       (unsigned long long)packet->offset[i], packet->block.text);
	}
	return 0;
}

int multifd_get_head(const uint8_t *buf, size_t length, struct multifd_packet *packet,
		     struct wh_err *err)
{
	int ret;

	if (length < MULTIFD_HEAD_BYTES)
		return 0;
	ret = check_magic(buf, "multifd packet", err);
	if (ret == 0)
		ret = get_flags(packet, get_be32(buf + AT_FLAGS), err);
	if (ret < 0)
		return ret;
	packet->normal = get_be32(buf + AT_NORMAL);
	packet->zero = get_be32(buf + AT_ZERO);
	packet->number = get_be64(buf + AT_NUMBER);
	if (packet->normal > MULTIFD_PAGES || packet->zero > MULTIFD_PAGES - packet->normal)
		return err_set(err, -EPROTO, "multifd packet of %u and %u zero pages, at most %u",
			       packet->normal, packet->zero, MULTIFD_PAGES);
	ret = get_bytes(packet, get_be32(buf + AT_BYTES), err);
	if (ret < 0)
		return ret;
	packet->block = (struct wire_name){ 0 };
	if (!packet->normal && !packet->zero)
		return 1;
	ret = get_block(packet, buf + AT_BLOCK, err);
	if (ret == 0)
		ret = get_offsets(packet, buf + AT_OFFSETS, err);
	return ret < 0 ? ret : 1;
}
