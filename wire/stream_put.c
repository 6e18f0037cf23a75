/* SPDX-License-Identifier: MIT */
#include "base/bytes.h"
#include "wire/stream.h"

#include <string.h>

size_t stream_put_header(uint8_t *buf)
{
	put_be32(buf, STREAM_MAGIC);
	put_be32(buf + 4, STREAM_VERSION);
	return 8;
}

/* The machine type is no str8: its length has four bytes. */
size_t stream_put_config(uint8_t *buf, const struct wire_name *machine)
{
	buf[0] = SECTION_CONFIGURATION;
	put_be32(buf + 1, machine->length);
	memcpy(buf + 5, machine->text, machine->length);
	return 5u + machine->length;
}

size_t stream_put_capability(uint8_t *buf, const struct wire_name *capability)
{
	struct wire_name name;
	size_t length = 1;

	wire_name_set(&name, "configuration/capabilities");
	buf[0] = SECTION_SUBSECTION;
	length += wire_name_put(buf + length, &name);
	put_be32(buf + length, 1);     /* version */
	put_be32(buf + length + 4, 1); /* how many */
	return length + 8 + wire_name_put(buf + length + 8, capability);
}

size_t stream_put_start(uint8_t *buf, enum section_type start_or_full, uint32_t id,
			const struct wire_name *name, uint32_t instance, uint32_t version)
{
	size_t length = 5;

	buf[0] = (uint8_t)start_or_full;
	put_be32(buf + 1, id);
	length += wire_name_put(buf + length, name);
	put_be32(buf + length, instance);
	put_be32(buf + length + 4, version);
	return length + 8;
}

size_t stream_put_part(uint8_t *buf, enum section_type part_or_end, uint32_t id)
{
	buf[0] = (uint8_t)part_or_end;
	put_be32(buf + 1, id);
	return 5;
}

size_t stream_put_footer(uint8_t *buf, uint32_t id)
{
	buf[0] = SECTION_FOOTER;
	put_be32(buf + 1, id);
	return 5;
}

size_t stream_put_eof(uint8_t *buf)
{
	buf[0] = SECTION_EOF;
	return 1;
}

size_t stream_put_vmdesc(uint8_t *buf, uint32_t length)
{
	buf[0] = SECTION_VMDESCRIPTION;
	put_be32(buf + 1, length);
	return 5;
}

const char *section_name(enum section_type type)
{
	switch (type) {
	case SECTION_EOF:
		return "EOF";
	case SECTION_START:
		return "START";
	case SECTION_PART:
		return "PART";
	case SECTION_END:
		return "END";
	case SECTION_FULL:
		return "FULL";
	case SECTION_SUBSECTION:
		return "SUBSECTION";
	case SECTION_VMDESCRIPTION:
		return "VMDESCRIPTION";
	case SECTION_CONFIGURATION:
		return "CONFIGURATION";
	case SECTION_COMMAND:
		return "COMMAND";
	case SECTION_FOOTER:
		return "footer";
	}
	return "?";
}
