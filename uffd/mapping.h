/* SPDX-License-Identifier: MIT */
#ifndef UFFD_MAPPING_H
#define UFFD_MAPPING_H

#include "base/region.h"

#include <stdbool.h>
#include <wherry/err.h>

/**
 * struct mapping - What kind of memory a block is
 * @shared:	MAP_SHARED; a write goes to the file
 * @file:	There is a file behind it (memfd, tmpfs, hugetlbfs, shared anonymous)
 * @hugetlb:	Of huge pages that never are anything else
 * @advice:	MADV_HUGEPAGE, MADV_NOHUGEPAGE, or -1 for neither
 * @huge:	Small pages may be made huge ones, by @advice and the system's setting
 * @huge_by_touch: The kernel makes huge ones itself when memory is touched. Of a file system
 *		that has a setting of its own (huge=) this is not known: false
 */
struct mapping {
	bool shared;
	bool file;
	bool hugetlb;
	int advice;
	bool huge;
	bool huge_by_touch;
};

/**
 * mapping_find() - Look a block up in /proc/self/smaps
 *
 * All of it must be mapped, in pages of the size the block says, in one kind; where
 * the block has a descriptor it must be of the file that is mapped, at the place
 * the block says.
 *
 * Return: 0, or a negative errno and a sentence naming the block
 */
int mapping_find(struct mapping *mapping, const struct region *region, struct wh_err *err);

/**
 * mapping_restore() - Give advice back as it was found
 *
 * There is no way back to "neither": where the system makes huge pages without being
 * asked that is MADV_HUGEPAGE, elsewhere it is the MADV_NOHUGEPAGE of now.
 */
int mapping_restore(const struct mapping *mapping, const struct region *region, struct wh_err *err);

/**
 * mapping_populate() - Have pages of a block allocated that are about to be written; any thread
 * @begin:	Of a mapping of all of the block: its own, or a second one of its file
 * @offset:	Of whole pages, as is @length
 *
 * Contents that are there stay.
 *
 * Return: 0, or a negative errno and a sentence: some are not there then; ENOSPC where who touches
 * one of them gets SIGBUS, EOPNOTSUPP before Linux 5.14
 */
int mapping_populate(const struct region *region, uint8_t *begin, uint64_t offset, uint64_t length,
		     struct wh_err *err);

#endif /* UFFD_MAPPING_H */
