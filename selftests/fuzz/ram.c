/* SPDX-License-Identifier: MIT */
/*
 * Records: of the main channel if they begin with a block list, else of the urgent
 * one, whose list came before.
 */
#include "base/bytes.h"
#include "selftests/wire/feed.h"

#include <errno.h>

/* Of a longer recording the beginning: more of the same pages would only cost time */
#define LENGTH_MAX 16384u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void begin(struct ram_in *in, struct ram_blocks *blocks, const uint8_t *bytes, size_t length)
{
	bool list = length >= 8 && get_be64(bytes) & RAM_MEM_SIZE;

	memset(blocks, 0, sizeof(*blocks));
	ram_in_init(in, !list);
	if (list)
		return;
	blocks->count = 3;
	wire_name_set(&blocks->block[0].name, "mem");
	wire_name_set(&blocks->block[1].name, "pc.ram");
	wire_name_set(&blocks->block[2].name, "pc.rom");
	blocks->block[0].used = UINT64_C(0x400000);
	blocks->block[0].page_size = UINT64_C(0x200000);
	blocks->block[1].used = UINT64_C(1) << 50;
	blocks->block[2].used = 4096;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct random random = { length ? length * 257 + bytes[length / 2] : 0 };
	const struct pieces pieces[] = {
		{ piece_all, NULL },
		{ piece_need, NULL },
		{ piece_random, &random },
	};
	static struct ram_blocks blocks;
	struct wh_err err[3] = { 0 };
	struct text text[3];
	struct ram_in in;
	int ret[3];
	unsigned i;

	length = length < LENGTH_MAX ? length : LENGTH_MAX;
	for (i = 0; i < 3; i++) {
		text_init(&text[i]);
		begin(&in, &blocks, bytes, length);
		ret[i] = feed_ram(&in, &blocks, bytes, length, &pieces[i], &text[i], &err[i]);
		promised(ret[i] == 0 || ret[i] == -EPROTO, "0 or -EPROTO");
		promised(!ret[i] == !err[i].text[0], "a sentence with an error");
	}
	for (i = 1; i < 3; i++) {
		promised(ret[i] == ret[0] && !strcmp(err[i].text, err[0].text),
			 "the same end, in whatever pieces");
		promised(!strcmp(text_get(&text[i]), text_get(&text[0])),
			 "the same events, in whatever pieces");
	}
	for (i = 0; i < 3; i++)
		text_fini(&text[i]);
	return 0;
}
