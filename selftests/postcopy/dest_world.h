/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_DEST_WORLD_H
#define SELFTESTS_POSTCOPY_DEST_WORLD_H

/*
 * A world for the destination engine made of arrays: guest memory between pages that
 * nobody may touch, pages that are there or are not, and a record of all that was done.
 * For selftests/postcopy/dest*.c and selftests/fuzz/dest.c; the writers of streams are
 * in dest_bytes.h.
 */
#include "selftests/postcopy/dest_world_ops.h"

static const struct world_block {
	const char *name;
	uint64_t length;
	uint64_t used;
	uint64_t page_size;	   /* here */
	uint64_t source_page_size; /* there */
} world_blocks[WORLD_BLOCKS] = {
	[RAM] = { "pc.ram", UINT64_C(6) << 20, UINT64_C(6) << 20, TARGET_PAGE, 0 },
	[HUGE] = { "huge", 2 * HUGE_PAGE, 2 * HUGE_PAGE, HUGE_PAGE, HUGE_PAGE },
	[ROM] = { "rom", UINT64_C(128) << 10, UINT64_C(64) << 10, TARGET_PAGE, 4 * TARGET_PAGE },
};

/* Before and behind it there is nothing */
static uint8_t *world_map(size_t bytes)
{
	uint8_t *at = mmap(NULL, bytes + 2 * HUGE_PAGE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED || mprotect(at + HUGE_PAGE, bytes, PROT_READ | PROT_WRITE) < 0)
		abort();
	return at + HUGE_PAGE;
}

static void world_init_dest(struct world *w, bool postcopy)
{
	struct dest_config config = {
		.postcopy = postcopy,
		.device_state_max = WORLD_DEVICE,
		.urgent_wait_ns = 1000,
	};

	dest_init(&w->dest, &world_ops, w, &config);
}

static struct world *world_new(bool postcopy)
{
	struct world *w = calloc(1, sizeof(*w));

	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		const struct world_block *from = &world_blocks[i];
		size_t words = bits_words(from->length / TARGET_PAGE);

		w->region[i] = (struct region){
			.addr = world_map(from->length),
			.length = from->length,
			.page_size = from->page_size,
			.fd = -1,
		};
		snprintf(w->region[i].name, sizeof(w->region[i].name), "%s", from->name);
		w->bitmaps[i] = calloc(3 * words, sizeof(uint64_t));
		w->present[i] = calloc(words, sizeof(uint64_t));
	}
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		w->stage[i] = world_map(WORLD_STAGE);
	pthread_mutex_init(&w->gate, NULL);
	pthread_mutex_init(&w->lock, NULL);
	world_init_dest(w, postcopy);
	return w;
}

/* As new, for the next of many runs in one process */
UNUSED static void world_reset(struct world *w, bool postcopy)
{
	struct world old = *w;

	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		size_t words = bits_words(w->region[i].length / TARGET_PAGE);

		memset(w->bitmaps[i], 0, 3 * words * sizeof(uint64_t));
		memset(w->present[i], 0, words * sizeof(uint64_t));
		if (madvise(w->region[i].addr, w->region[i].length, MADV_DONTNEED) < 0)
			abort();
	}
	free(w->buffer);
	free(w->device);
	memset(w, 0, sizeof(*w));
	memcpy(w->region, old.region, sizeof(w->region));
	memcpy(w->bitmaps, old.bitmaps, sizeof(w->bitmaps));
	memcpy(w->present, old.present, sizeof(w->present));
	memcpy(w->stage, old.stage, sizeof(w->stage));
	pthread_mutex_init(&w->gate, NULL);
	pthread_mutex_init(&w->lock, NULL);
	world_init_dest(w, postcopy);
}

UNUSED static void world_free(struct world *w)
{
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		munmap(w->region[i].addr - HUGE_PAGE, w->region[i].length + 2 * HUGE_PAGE);
		free(w->bitmaps[i]);
		free(w->present[i]);
	}
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		munmap(w->stage[i] - HUGE_PAGE, WORLD_STAGE + 2 * HUGE_PAGE);
	free(w->buffer);
	free(w->device);
	free(w);
}

/* The next answers of place() and zero() */
UNUSED static void world_script(struct world *w, enum placed outcome, uint64_t done, unsigned times)
{
	while (times-- && w->steps < WORLD_STEPS)
		w->step[w->steps++] = (struct world_step){ outcome, done };
}

/* How many of these were sent */
UNUSED static unsigned world_count(const struct world *w, enum rp_kind kind)
{
	unsigned count = 0;

	for (unsigned i = 0; i < w->sents && i < WORLD_SENT; i++)
		count += w->sent[i].kind == kind;
	return count;
}

#endif /* SELFTESTS_POSTCOPY_DEST_WORLD_H */
