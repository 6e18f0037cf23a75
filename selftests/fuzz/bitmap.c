/* SPDX-License-Identifier: MIT */
/* A received bitmap, for blocks of the size it says and of some others. */
#include "base/bits.h"
#include "base/bytes.h"
#include "selftests/wire/feed.h"
#include "wire/bitmap.h"

#include <errno.h>

#define PAGES_MAX (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void take(const uint8_t *bytes, size_t length, uint64_t pages)
{
	uint64_t *map = calloc(bits_words(pages) + 1, sizeof(*map));
	uint8_t *again = malloc(BITMAP_FRAME + bitmap_bytes(pages));
	struct wh_err err = { 0 };
	size_t used;
	int ret;

	ret = bitmap_get(bytes, length, &used, map, pages, &err);
	promised(ret == 0 || ret == 1 || ret == -EPROTO, "1, 0 or -EPROTO");
	promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
	promised(!map[bits_words(pages)], "nothing behind the map");
	if (ret == 1) {
		promised(used <= length && used == BITMAP_FRAME + bitmap_bytes(pages), "used");
		promised(bitmap_put(again, map, pages) == used && !memcmp(again, bytes, used),
			 "put(get(b)) == b");
	} else {
		promised(bits_count(map, pages) == 0, "written on 1 only");
	}
	promised(ret || length < BITMAP_FRAME + bitmap_bytes(pages), "wants no more than all");
	free(again);
	free(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint64_t pages = length >= 8 ? get_be64(bytes) * 8 % PAGES_MAX : 64;
	uint8_t *copy = malloc(length ? length : 1);

	memcpy(copy, bytes, length);
	take(copy, length, pages);
	take(copy, length, pages + 64);
	if (pages >= 64)
		take(copy, length, pages - length % 64);
	free(copy);
	return 0;
}
