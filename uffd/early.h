/* SPDX-License-Identifier: MIT */
#ifndef UFFD_EARLY_H
#define UFFD_EARLY_H

#include "uffd/mapping.h"

/*
 * Contents that come in a row before a block is watched, into pages that are fresh:
 *
 *	TOUCH		the kernel allocates each page in the middle of the copy into it. Huge
 *			pages, of which there are few
 *	POPULATE	all of the row is allocated by one call in front of it
 *	WRITE		shared, of a file in memory: by way of a buffer that stays in the cache,
 *			and pwrite(), which neither zeroes what it allocates nor maps it
 */
enum early_way {
	EARLY_TOUCH,
	EARLY_POPULATE,
	EARLY_WRITE
};

/**
 * struct early - How contents get into one block before it is watched
 * @huge:	Touched, it becomes huge pages, if it was not advised otherwise since
 * @writes:	The block's file takes pwrite()
 * @populates:	And its mapping MADV_POPULATE_WRITE, as far as is known
 * @touched:	Address of the huge page that early_touch() has seen to last
 */
struct early {
	const struct region *region;
	bool huge;
	bool writes;
	bool populates;
	uint64_t touched;
};

/**
 * early_init() - Find out which ways there are
 * @mapping:	Of @region; NULL if nothing is known of it
 */
void early_init(struct early *early, const struct region *region, const struct mapping *mapping);

/**
 * early_way() - How the next contents get into it
 * @small:	It was advised to have no huge pages meanwhile
 * @watched:	It may be watched later on: a page that is in the file and not mapped would be a
 *		fault then, so nothing is written to the file
 */
enum early_way early_way(const struct early *early, bool small, bool watched);

/**
 * early_touch() - Have the huge pages there that are about to be touched
 *
 * They come by touching as well, but then the kernel clears them in the middle of a copy, with
 * the socket locked. A hint, as early_populate() is, and to be called for what follows what
 * it was called for last: of that it does nothing again.
 */
void early_touch(struct early *early, uint64_t offset, uint64_t length);

/* A hint: what it does not do is done by touching */
void early_populate(struct early *early, uint64_t offset, uint64_t length);

/**
 * early_write() - Contents into the block's file
 * @offset:	In the block, any; with @length inside of it
 *
 * Return: 0, or a negative errno and a sentence: ENOSPC where touching would be SIGBUS
 */
int early_write(const struct early *early, const void *from, uint64_t offset, uint64_t length,
		struct wh_err *err);

#endif /* UFFD_EARLY_H */
