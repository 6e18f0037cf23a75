/* SPDX-License-Identifier: MIT */
#include "base/bytes.h"
#include "wire/ram.h"

static size_t put_head(uint8_t *buf, uint64_t offset, enum ram_flag flag,
		       const struct wire_name *name)
{
	uint64_t flags = name ? flag : (uint64_t)flag | RAM_CONTINUE;

	put_be64(buf, offset | flags);
	return name ? 8 + wire_name_put(buf + 8, name) : 8;
}

size_t ram_put_page(uint8_t *buf, uint64_t offset, const struct wire_name *name)
{
	return put_head(buf, offset, RAM_PAGE, name);
}

size_t ram_put_zero(uint8_t *buf, uint64_t offset, const struct wire_name *name)
{
	size_t length = put_head(buf, offset, RAM_ZERO, name);

	buf[length] = 0;
	return length + 1;
}

size_t ram_put_xbzrle(uint8_t *buf, uint64_t offset, const struct wire_name *name,
		      uint16_t delta_length)
{
	size_t length = put_head(buf, offset, RAM_XBZRLE, name);

	buf[length] = 1;
	put_be16(buf + length + 1, delta_length);
	return length + 3;
}

size_t ram_put_eos(uint8_t *buf)
{
	put_be64(buf, RAM_EOS);
	return 8;
}

size_t ram_put_flush(uint8_t *buf)
{
	put_be64(buf, RAM_MULTIFD_FLUSH);
	return 8;
}

size_t ram_put_hook(uint8_t *buf)
{
	put_be64(buf, RAM_HOOK);
	return 8;
}

size_t ram_put_total(uint8_t *buf, uint64_t total)
{
	put_be64(buf, total | RAM_MEM_SIZE);
	return 8;
}

size_t ram_put_block(uint8_t *buf, const struct ram_block *block)
{
	size_t length = wire_name_put(buf, &block->name);

	put_be64(buf + length, block->used);
	length += 8;
	if (block->page_size) {
		put_be64(buf + length, block->page_size);
		length += 8;
	}
	return length;
}
