/* SPDX-License-Identifier: MIT */
/* The bytes as a delta, and as what has changed in a page. */
#include "wire/xbzrle.h"

#include "selftests/wire/feed.h"

#include <errno.h>

#define PAGE 4096u
#define DELTA_MAX (2 * PAGE)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void make_page(uint8_t *page)
{
	unsigned i;

	for (i = 0; i < PAGE; i++)
		page[i] = (uint8_t)(i * 7 + i / 256);
}

static void as_delta(const uint8_t *bytes, size_t length)
{
	uint8_t *page = malloc(PAGE), *copy = malloc(length ? length : 1), before[PAGE];
	struct wh_err err = { 0 };
	int ret;

	make_page(page);
	memcpy(before, page, PAGE);
	memcpy(copy, bytes, length);
	ret = xbzrle_get(page, copy, length, &err);
	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	promised(!ret || !memcmp(page, before, PAGE), "nothing is written of what is refused");
	free(copy);
	free(page);
}

/* Each byte of the input is where to go on, or what to write there */
static void as_change(const uint8_t *bytes, size_t length)
{
	uint8_t *before = malloc(PAGE), *after = malloc(PAGE), *delta = malloc(DELTA_MAX);
	struct wh_err err = { 0 };
	size_t i, at = 0, room;
	int made;

	make_page(before);
	memcpy(after, before, PAGE);
	for (i = 0; i + 1 < length && at < PAGE; i += 2) {
		at += bytes[i] & 0x80 ? (bytes[i] & 0x7fu) * 16u : bytes[i];
		if (at < PAGE)
			after[at] = bytes[i + 1];
	}
	made = xbzrle_put(delta, DELTA_MAX, before, after);
	promised(made >= 0 && made <= (int)DELTA_MAX, "a delta");
	promised((made == 0) == !memcmp(before, after, PAGE), "0 if equal");
	promised(xbzrle_get(before, delta, (size_t)made, &err) == 0, "get(put(x))");
	promised(!memcmp(before, after, PAGE), "get(put(x)) == x");
	make_page(before);
	for (room = 0; room < (size_t)made; room += 1 + room / 4)
		promised(xbzrle_put(delta, room, before, after) == -EOVERFLOW, "does not fit");
	free(delta);
	free(after);
	free(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	as_delta(bytes, length);
	as_change(bytes, length);
	return 0;
}
