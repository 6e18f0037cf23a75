/* SPDX-License-Identifier: MIT */
#include "wire/mapped_ram.h"

#include "base/bytes.h"
#include "base/err.h"
#include "wire/bitmap.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define VERSION 1u

static uint64_t bitmap_of(uint64_t used)
{
	return bitmap_bytes(used / PAGE);
}

void mapped_in_init(struct mapped_in *in, uint64_t offset)
{
	*in = (struct mapped_in){ .need = 8, .offset = offset };
}

static int take_total(struct mapped_in *in, const uint8_t *buf, struct wh_err *err)
{
	uint64_t head = get_be64(buf);

	if ((head & (PAGE - 1)) != RAM_MEM_SIZE || head == RAM_MEM_SIZE)
		return err_set(err, -EPROTO, "record 0x%016llx, expected a block list",
			       (unsigned long long)head);
	in->total_left = head & ~(PAGE - 1);
	in->begun = true;
	in->offset += 8;
	in->need = 1;
	return 1;
}

static int take_name(struct ram_blocks *blocks, const uint8_t *text, uint8_t length,
		     struct wh_err *err)
{
	struct wire_name *name = &blocks->block[blocks->count].name;
	int ret;

	ret = wire_name_get(name, text, length, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < blocks->count; i++)
		if (blocks->block[i].name.length == length &&
		    !memcmp(blocks->block[i].name.text, text, length))
			return err_set(err, -EPROTO, "block list has %s twice", name->text);
	return 0;
}

static int take_length(struct mapped_in *in, struct ram_block *block, uint64_t used,
		       struct wh_err *err)
{
	block->used = used;
	block->page_size = 0;
	if (!used || used % PAGE)
		return err_set(err, -EPROTO, "block %s has 0x%llx bytes, expected whole pages",
			       block->name.text, (unsigned long long)used);
	if (used > in->total_left)
		return err_set(err, -EPROTO,
			       "block %s has 0x%llx bytes, of the total 0x%llx are left",
			       block->name.text, (unsigned long long)used,
			       (unsigned long long)in->total_left);
	return 0;
}

/* Whoever goes through the file in order meets header, bitmap and pages, and nothing twice. */
static int take_header(struct mapped_block *mapped, const struct ram_block *block,
		       const uint8_t *buf, struct wh_err *err)
{
	const char *name = block->name.text;

	if (get_be32(buf) != VERSION)
		return err_set(err, -EPROTO, "block %s: mapped-ram of version %u, expected %u",
			       name, get_be32(buf), VERSION);
	if (get_be64(buf + 4) != PAGE)
		return err_set(err, -EPROTO, "block %s: pages of 0x%llx, expected 0x1000", name,
			       (unsigned long long)get_be64(buf + 4));
	mapped->bitmap = get_be64(buf + 12);
	mapped->pages = get_be64(buf + 20);
	if (mapped->bitmap < mapped->header_end || mapped->bitmap > INT64_MAX)
		return err_set(err, -EPROTO,
			       "block %s: bitmap at 0x%llx of the file, its header ends at 0x%llx",
			       name, (unsigned long long)mapped->bitmap,
			       (unsigned long long)mapped->header_end);
	if (mapped->pages % MAPPED_RAM_ALIGN)
		return err_set(err, -EPROTO,
			       "block %s: pages at 0x%llx of the file, expected whole MiB", name,
			       (unsigned long long)mapped->pages);
	if (mapped->pages < mapped->bitmap ||
	    mapped->pages - mapped->bitmap < bitmap_of(block->used))
		return err_set(err, -EPROTO,
			       "block %s: pages at 0x%llx of the file, its bitmap is 0x%llx bytes "
			       "at 0x%llx",
			       name, (unsigned long long)mapped->pages,
			       (unsigned long long)bitmap_of(block->used),
			       (unsigned long long)mapped->bitmap);
	if (mapped->pages > INT64_MAX || block->used > INT64_MAX - mapped->pages)
		return err_set(err, -EPROTO,
			       "block %s: 0x%llx bytes of pages at 0x%llx of the file", name,
			       (unsigned long long)block->used, (unsigned long long)mapped->pages);
	mapped->end = mapped->pages + block->used;
	return 0;
}

static int take_block(struct mapped_in *in, struct ram_blocks *blocks, const uint8_t *buf,
		      struct mapped_block *mapped, struct wh_err *err)
{
	struct ram_block *block = &blocks->block[blocks->count];
	const uint8_t *at = buf + 1 + buf[0];
	int ret;

	ret = take_name(blocks, buf + 1, buf[0], err);
	if (!ret)
		ret = take_length(in, block, get_be64(at), err);
	if (ret < 0)
		return ret;
	mapped->block = blocks->count;
	mapped->header_end = in->offset + 1u + buf[0] + 8 + MAPPED_RAM_HEADER;
	ret = take_header(mapped, block, at + 8, err);
	if (ret < 0)
		return ret;
	blocks->count++;
	in->total_left -= block->used;
	in->done = !in->total_left;
	in->offset = mapped->end;
	in->need = 1;
	return 1;
}

int mapped_in_next(struct mapped_in *in, struct ram_blocks *blocks, const uint8_t *buf,
		   size_t length, size_t *used, struct mapped_block *block, struct wh_err *err)
{
	int ret;

	*used = 0;
	if (!in->begun) {
		if (length < in->need)
			return 0;
		ret = take_total(in, buf, err);
		if (ret < 0)
			return ret;
		*used = 8;
		blocks->count = 0;
	}
	if (blocks->count == RAM_BLOCKS_MAX)
		return err_set(err, -EPROTO, "block list has more than %u blocks", RAM_BLOCKS_MAX);
	if (length > *used)
		in->need = 1u + buf[*used] + 8 + MAPPED_RAM_HEADER;
	if (length - *used < in->need)
		return 0;
	length = in->need;
	ret = take_block(in, blocks, buf + *used, block, err);
	if (ret == 1)
		*used += length;
	return ret;
}

void mapped_block_lay(struct mapped_block *block, uint64_t header_end, uint64_t used)
{
	block->header_end = header_end;
	block->bitmap = header_end;
	block->pages = (header_end + bitmap_of(used) + MAPPED_RAM_ALIGN - 1) & -MAPPED_RAM_ALIGN;
	block->end = block->pages + used;
}

size_t mapped_block_put(uint8_t *buf, const struct mapped_block *block)
{
	put_be32(buf, VERSION);
	put_be64(buf + 4, PAGE);
	put_be64(buf + 12, block->bitmap);
	put_be64(buf + 20, block->pages);
	return MAPPED_RAM_HEADER;
}
