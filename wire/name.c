/* SPDX-License-Identifier: MIT */
#include "wire/name.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

void wire_name_set(struct wire_name *name, const char *text)
{
	unsigned i;

	for (i = 0; text[i]; i++) {
		assert(i < 255);
		name->text[i] = text[i];
	}
	name->text[i] = '\0';
	name->length = (uint8_t)i;
}

int wire_name_get(struct wire_name *name, const uint8_t *text, uint8_t length, struct wh_err *err)
{
	unsigned i;

	if (!length)
		return err_set(err, -EPROTO, "empty name");
	for (i = 0; i < length; i++)
		if (text[i] < 0x20 || text[i] == 0x7f)
			return err_set(err, -EPROTO, "byte 0x%02x in a name, at %u of %u", text[i],
				       i, length);
	memcpy(name->text, text, length);
	name->text[length] = '\0';
	name->length = length;
	return 0;
}

size_t wire_name_put(uint8_t *buf, const struct wire_name *name)
{
	buf[0] = name->length;
	memcpy(buf + 1, name->text, name->length);
	return 1u + name->length;
}
