/* SPDX-License-Identifier: MIT */
/*
 * The part of a mapped-ram file that is no stream: lines of the list, and between them bitmaps and
 * pages. What is shown is which pages have a bit, at their places; contents are passed over.
 */
#include "postcopy/dump_internal.h"

#include "base/bits.h"
#include "base/err.h"
#include "wire/bitmap.h"

#include <errno.h>
#include <stdlib.h>

#define RAM_PAGE UINT64_C(4096)

void dump_mapped_begin(struct wh_dump *dump)
{
	mapped_in_init(&dump->mapped, dump->stream.offset);
	dump->mapping = true;
	dump->inside = false;
}

static uint64_t pages_of(const struct wh_dump *dump)
{
	return dump->stream.blocks.block[dump->block.block].used / RAM_PAGE;
}

static void say_block(struct wh_dump *dump)
{
	const struct ram_block *block = &dump->stream.blocks.block[dump->block.block];
	struct dump_message m = { .kind = "block" };

	dump_text(&m, "name", block->name.text);
	dump_number(&m, "length", WH_DUMP_HEX, block->used);
	dump_number(&m, "bitmap_offset", WH_DUMP_HEX, dump->block.bitmap);
	dump_number(&m, "pages_offset", WH_DUMP_HEX, dump->block.pages);
	dump_say(dump, dump->begin, &m, "block %s 0x%llx bytes, bitmap at 0x%llx, pages at 0x%llx",
		 block->name.text, (unsigned long long)block->used,
		 (unsigned long long)dump->block.bitmap, (unsigned long long)dump->block.pages);
}

/* As if they came one after the other, each from its place */
static int say_pages(struct wh_dump *dump, struct wh_err *err)
{
	uint64_t pages = pages_of(dump), page;
	uint64_t *map = malloc(dump->kept.length);
	struct ram_event event = { .record = RAM_GOT_PAGE, .block = dump->block.block };
	int ret;

	if (!map)
		return err_set(err, -ENOMEM, "no memory for a bitmap of %zu bytes",
			       dump->kept.length);
	ret = bitmap_bits_get(dump->kept.at, map, pages, err);
	if (ret < 0) {
		err_wrap(err, "block %s", dump->stream.blocks.block[event.block].name.text);
		free(map);
		return ret;
	}
	dump->begin = dump->block.bitmap;
	dump_say_bitmap(dump, dump->kept.length, bits_count(map, pages));
	for (page = bits_next_set(map, 0, pages); page < pages;
	     page = bits_next_set(map, page + 1, pages)) {
		event.offset = page * RAM_PAGE;
		dump->begin = dump->block.pages + event.offset;
		dump_say_ram(dump, &event);
	}
	dump_run_end(dump);
	free(map);
	return 0;
}

/* Bytes between a line and the next one. Of these only the bitmap is kept. */
static int take_region(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		       struct wh_err *err)
{
	uint64_t bitmap = dump->block.bitmap, bitmap_end = bitmap + bitmap_bytes(pages_of(dump));
	uint64_t to = dump->region < bitmap	? bitmap :
		      dump->region < bitmap_end ? bitmap_end :
						  dump->block.end;
	size_t length = left < to - dump->region ? left : (size_t)(to - dump->region);
	int ret = 0;

	if (!length)
		return 0;
	if (to == bitmap_end)
		ret = dump_keep(&dump->kept, at, length, err);
	dump->region += length;
	*used = length;
	if (!ret && dump->region == bitmap_end) {
		ret = say_pages(dump, err);
		dump->kept.length = 0;
	}
	dump->begin = dump->region;
	dump->inside = dump->region < dump->block.end;
	return ret ? ret : 1;
}

int dump_mapped_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		     struct wh_err *err)
{
	int ret;

	*used = 0;
	if (dump->inside)
		return take_region(dump, at, left, used, err);
	if (dump->mapped.done) {
		dump->mapping = false;
		stream_in_listed(&dump->stream, dump->mapped.offset);
		return 1;
	}
	ret = mapped_in_next(&dump->mapped, &dump->stream.blocks, at, left, used, &dump->block,
			     err);
	if (ret < 0)
		err_wrap(err, "stream at %llu", (unsigned long long)dump->begin);
	if (ret <= 0)
		return ret;
	say_block(dump);
	dump->inside = true;
	dump->region = dump->block.header_end;
	dump->begin = dump->region;
	return 1;
}

uint64_t wh_dump_skip(struct wh_dump *dump)
{
	uint64_t length;

	if (!dump->mapping || !dump->inside || dump->buffer.length ||
	    dump->region < dump->block.bitmap + bitmap_bytes(pages_of(dump)))
		return 0;
	length = dump->block.end - dump->region;
	dump->region = dump->block.end;
	dump->begin = dump->region;
	dump->offset = dump->region;
	dump->inside = false;
	return length;
}
