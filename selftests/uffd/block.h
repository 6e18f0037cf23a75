/* SPDX-License-Identifier: MIT */
#ifndef UFFD_BLOCK_H
#define UFFD_BLOCK_H

#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"
#include "uffd/placer.h"

#include <string.h>

/* A block of three stages, with everything that is needed to fill it */
#define BLOCK_STAGES 3
#define BLOCK_BYTES (BLOCK_STAGES * STAGE_BYTES)

struct block {
	struct memory memory;
	struct uffd uffd;
	struct placer placer;
	struct stage stage[2];
	struct wh_err err;
	uint8_t *at;
	uint64_t page; /* bytes */
	uint64_t pages;
};

static inline int block_open(struct block *block, enum memory_kind kind, uint64_t features)
{
	int ret, i;

	memset(block, 0, sizeof(*block));
	block->uffd.fd = -1;
	block->page = memory_traits[kind].page_size;
	block->pages = BLOCK_BYTES / block->page;
	ret = memory_new(&block->memory, kind, BLOCK_BYTES, &block->err);
	if (ret < 0)
		return ret;
	block->at = block->memory.region.addr;
	ret = uffd_open(&block->uffd, features, false, &block->err);
	if (ret == 0)
		ret = placer_init(&block->placer, &block->memory.region, &block->uffd, &block->err);
	for (i = 0; i < 2 && ret == 0; i++)
		ret = stage_init(&block->stage[i], STAGE_BYTES, &block->err);
	return ret;
}

static inline void block_close(struct block *block)
{
	int i;

	if (block->placer.armed)
		(void)placer_disarm(&block->placer, NULL);
	if (block->placer.region)
		placer_fini(&block->placer);
	for (i = 0; i < 2; i++)
		if (block->stage[i].memory)
			stage_fini(&block->stage[i]);
	uffd_close(&block->uffd);
	memory_free(&block->memory);
}

/* A page's contents, in its version @v */
static inline void page_fill(uint8_t *at, uint64_t bytes, uint64_t page, unsigned v)
{
	uint64_t i, word = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) + v;

	for (i = 0; i < bytes; i += sizeof(word)) {
		uint64_t mixed = word ^ i;

		memcpy(at + i, &mixed, sizeof(mixed));
	}
}

static inline bool page_is(const uint8_t *at, uint64_t bytes, uint64_t page, unsigned v)
{
	uint64_t i, word = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) + v;

	for (i = 0; i < bytes; i += sizeof(word)) {
		uint64_t mixed = word ^ i;

		if (memcmp(at + i, &mixed, sizeof(mixed)) != 0)
			return false;
	}
	return true;
}

/* The whole block, through the guest's own mapping */
static inline void block_fill(struct block *block, unsigned v)
{
	uint64_t i;

	for (i = 0; i < block->pages; i++)
		page_fill(block->at + i * block->page, block->page, i, v);
}

/* The first page of [first, end) that is not of version @v, or end; -1: zeros */
static inline uint64_t block_wrong(struct block *block, uint64_t first, uint64_t end, int v)
{
	static const uint8_t zeros[4096];
	uint64_t i, at;

	for (i = first; i < end; i++) {
		const uint8_t *page = block->at + i * block->page;

		if (v >= 0) {
			if (!page_is(page, block->page, i, (unsigned)v))
				return i;
			continue;
		}
		for (at = 0; at < block->page; at += sizeof(zeros))
			if (memcmp(page + at, zeros, sizeof(zeros)) != 0)
				return i;
	}
	return end;
}

/* As a channel does: contents into the room of each page, then the run is placed */
static inline enum placed block_place(struct block *block, unsigned channel, uint64_t first,
				      uint64_t pages, unsigned v, bool wake, uint64_t *done)
{
	uint64_t i;

	for (i = first; i < first + pages; i++)
		page_fill(placer_room(&block->placer, &block->stage[channel], i * block->page),
			  block->page, i, v);
	return placer_place(&block->placer, &block->stage[channel], first * block->page,
			    pages * block->page, wake, done, &block->err);
}

static inline enum placed block_zero(struct block *block, uint64_t first, uint64_t pages,
				     uint64_t *done)
{
	return placer_zero(&block->placer, &block->stage[0], first * block->page,
			   pages * block->page, true, done, &block->err);
}

/* Anybody waiting or announced: a page was touched that is missing */
static inline bool block_quiet(struct block *block)
{
	return waiting(&block->uffd) == 0;
}

#endif /* UFFD_BLOCK_H */
