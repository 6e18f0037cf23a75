/* SPDX-License-Identifier: MIT */
/*
 * One end of an exchange of bitmaps, for hosts of every byte order and word size
 * (selftests/recover/other_hosts.sh). It draws bitmaps from a seed, the same ones on every
 * host, and
 *
 *	exchange host		says what it runs on
 *	exchange put SEED	writes them to stdout as a destination sends them
 *	exchange take SEED	reads them from stdin, compares them with what it draws itself,
 *				inverts them, and writes what is left to send in the same form
 *	exchange plan SEED	prints in which order what is missing comes
 *	exchange refuse SEED	prints what is said of damaged ones
 */
#include "base/err.h"
#include "recover/plan.h"
#include "recover/received.h"
#include "selftests/recover/maps.h"
#include "wire/bitmap.h"

#include <stdio.h>
#include <stdlib.h>

#define ROOM (BITMAP_FRAME + MAP_WORDS * 8)

/* A block, drawn */
struct block {
	uint64_t pages;
	uint64_t group;
	uint64_t received[MAP_WORDS];
	uint64_t asked[MAP_WORDS];
};

/* Return: is there one more? */
static bool draw(struct block *block, struct random *random)
{
	block->pages = map_next_size(block->pages);
	block->group = UINT64_C(1) << random_below(random, 10);
	map_fill(block->received, random_below(random, MAP_KINDS), block->pages, random);
	map_fill(block->asked, MAP_SPARSE, block->pages, random);
	return block->pages;
}

static void die(uint64_t pages, const char *what)
{
	fprintf(stderr, "%llu pages: %s\n", (unsigned long long)pages, what);
	exit(1);
}

static void write_map(const uint64_t *map, uint64_t pages)
{
	uint8_t bytes[ROOM];
	size_t length = bitmap_put(bytes, map, pages);

	if (fwrite(bytes, 1, length, stdout) != length)
		die(pages, "cannot be written");
}

static void host(void)
{
	const uint16_t one = 1;
	uint8_t first;

	memcpy(&first, &one, 1);
	printf("%zu %s\n", sizeof(void *) * 8, first ? "little" : "big");
}

static void put(struct block *block, struct random *random)
{
	while (draw(block, random))
		write_map(block->received, block->pages);
}

static void take(struct block *block, struct random *random)
{
	while (draw(block, random)) {
		size_t length = BITMAP_FRAME + (size_t)bitmap_bytes(block->pages), used;
		struct wh_err err = { 0 };
		uint64_t map[MAP_WORDS];
		uint8_t bytes[ROOM];

		if (fread(bytes, 1, length, stdin) != length)
			die(block->pages, "the bytes end");
		if (bitmap_get(bytes, length, &used, map, block->pages, &err) != 1)
			die(block->pages, err.text);
		for (uint64_t page = 0; page < block->pages; page++)
			if (bits_test(map, page) != bits_test(block->received, page))
				die(block->pages, "is not what was drawn here");
		received_invert(map, map, block->pages, block->group);
		write_map(map, block->pages);
	}
	if (getchar() != EOF)
		die(0, "bytes behind the last one");
}

static void plan(struct block *block, struct random *random)
{
	while (draw(block, random)) {
		struct plan_block all = { block->asked, block->received, block->pages,
					  block->group };
		enum plan_part part;
		struct plan_run run;
		struct plan walk;

		plan_init(&walk, &all, 1, 64);
		while ((part = plan_next(&walk, &run)) != PLAN_END)
			printf("%s %llu+%u\n", part == PLAN_ASKED ? "asked" : "rest",
			       (unsigned long long)run.page, run.pages);
	}
}

static void refuse(struct block *block, struct random *random)
{
	while (draw(block, random)) {
		struct wh_err err = { 0 };
		uint64_t map[MAP_WORDS];
		uint8_t bytes[ROOM];
		size_t length, used;
		int ret;

		length = bitmap_put(bytes, block->received, block->pages);
		bytes[random_below(random, length)] ^= 0x80;
		ret = bitmap_get(bytes, length, &used, map, block->pages, &err);
		printf("%llu pages: %d %s\n", (unsigned long long)block->pages, ret, err.text);
	}
}

int main(int argc, char **argv)
{
	static struct block block;
	struct random random = { 0 };

	if (argc > 2)
		random.state = strtoull(argv[2], NULL, 10);
	if (argc == 2 && !strcmp(argv[1], "host"))
		host();
	else if (argc == 3 && !strcmp(argv[1], "put"))
		put(&block, &random);
	else if (argc == 3 && !strcmp(argv[1], "take"))
		take(&block, &random);
	else if (argc == 3 && !strcmp(argv[1], "plan"))
		plan(&block, &random);
	else if (argc == 3 && !strcmp(argv[1], "refuse"))
		refuse(&block, &random);
	else
		return 2;
	return fflush(stdout) ? 1 : 0;
}
