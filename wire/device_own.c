/* SPDX-License-Identifier: MIT */
#include "base/bytes.h"
#include "base/err.h"
#include "wire/device.h"
#include "wire/stream.h"

#include <errno.h>
#include <string.h>

#define OWN_VERSION 1u
#define OWN_NAME_LENGTH (sizeof(DEVICE_OWN_NAME) - 1)
#define OWN_HEAD (5 + 1 + OWN_NAME_LENGTH + 8 + 4)
#define OWN_TAIL 5u

_Static_assert(OWN_HEAD <= DEVICE_OWN_FRAME, "room for the head");

size_t device_put_own_head(uint8_t *buf, uint32_t id, uint32_t length)
{
	struct wire_name name;
	size_t at;

	wire_name_set(&name, DEVICE_OWN_NAME);
	at = stream_put_start(buf, SECTION_FULL, id, &name, 0, OWN_VERSION);
	put_be32(buf + at, length);
	return at + 4;
}

size_t device_put_own_tail(uint8_t *buf, uint32_t id)
{
	return stream_put_footer(buf, id);
}

int device_own(const uint8_t *buf, size_t length, size_t *at, size_t *own_length,
	       struct wh_err *err)
{
	const uint8_t *version;

	if (length < 6 + OWN_NAME_LENGTH || buf[0] != SECTION_FULL || buf[5] != OWN_NAME_LENGTH ||
	    memcmp(buf + 6, DEVICE_OWN_NAME, OWN_NAME_LENGTH))
		return 0;
	if (length < OWN_HEAD + OWN_TAIL)
		return err_set(err, -EPROTO, "section %s breaks off after %zu bytes",
			       DEVICE_OWN_NAME, length);
	version = buf + 6 + OWN_NAME_LENGTH + 4;
	if (get_be32(version - 4) || get_be32(version) != OWN_VERSION)
		return err_set(err, -EPROTO,
			       "section %s of instance %u, version %u, expected 0, %u",
			       DEVICE_OWN_NAME, get_be32(version - 4), get_be32(version),
			       OWN_VERSION);
	if (get_be32(version + 4) != length - OWN_HEAD - OWN_TAIL)
		return err_set(err, -EPROTO, "section %s of %u bytes, %zu are there",
			       DEVICE_OWN_NAME, get_be32(version + 4),
			       length - OWN_HEAD - OWN_TAIL);
	if (buf[length - OWN_TAIL] != SECTION_FOOTER || memcmp(buf + length - 4, buf + 1, 4))
		return err_set(err, -EPROTO, "section %s does not end with its footer",
			       DEVICE_OWN_NAME);
	*at = OWN_HEAD;
	*own_length = length - OWN_HEAD - OWN_TAIL;
	return 1;
}

static size_t put_text(uint8_t *buf, const char *text, size_t length)
{
	memcpy(buf, text, length);
	return length;
}

static size_t put_decimal(uint8_t *buf, uint32_t value)
{
	uint8_t digits[10];
	size_t count = 0, i;

	do {
		digits[count++] = (uint8_t)('0' + value % 10);
		value /= 10;
	} while (value);
	for (i = 0; i < count; i++)
		buf[i] = digits[count - 1 - i];
	return count;
}

size_t device_put_own_vmdesc(uint8_t *buf, uint32_t length)
{
	static const char head[] =
		"{\"page_size\":4096,\"devices\":[{\"name\":\"" DEVICE_OWN_NAME
		"\",\"instance_id\":0,\"vmsd_name\":\"" DEVICE_OWN_NAME
		"\",\"version\":1,\"fields\":[{\"name\":\"length\",\"type\":\"uint32\",\"size\":4},"
		"{\"name\":\"state\",\"type\":\"buffer\",\"size\":";
	static const char tail[] = "}]}]}";
	size_t at;

	_Static_assert(sizeof(head) + 10 + sizeof(tail) <= 256, "room for the description");
	at = put_text(buf, head, sizeof(head) - 1);
	at += put_decimal(buf + at, length);
	return at + put_text(buf + at, tail, sizeof(tail) - 1);
}
