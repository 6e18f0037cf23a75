/* SPDX-License-Identifier: MIT */
#ifndef BASE_REGION_H
#define BASE_REGION_H

#include <stddef.h>
#include <stdint.h>

#define TARGET_PAGE UINT64_C(4096)
#define REGION_NAME 256

/**
 * struct region - One registered block of guest RAM, as a piece of memory
 * @name:	Key on the wire, at most 255 bytes
 * @addr:	The guest's own mapping, aligned to @page_size
 * @guest:	Where the guest has it, if that is in another process: then @addr is a mapping of
 *		ours of the same file, of @fd. Else NULL
 * @length:	Bytes, a multiple of @page_size
 * @page_size:	Of the host pages behind @addr: 4096, or that of hugetlb
 * @fd:		Of the memfd or hugetlb file behind it, -1 for private anonymous
 * @fd_offset:	Where in @fd the block begins
 */
struct region {
	char name[REGION_NAME];
	uint8_t *addr;
	uint8_t *guest;
	uint64_t length;
	uint64_t page_size;
	uint64_t fd_offset;
	int fd;
};

/* What faults are told by, and pages are placed at */
static inline uint8_t *region_guest(const struct region *region)
{
	return region->guest ? region->guest : region->addr;
}

/**
 * region_find() - Which block an address of the guest lies in
 * @regions:	Table of @count
 * @offset:	Filled in on success: bytes from the block's beginning
 *
 * Pure; any thread.
 *
 * Return: index of the block, or -1
 */
int region_find(const struct region *regions, unsigned count, const void *addr, uint64_t *offset);

/* The block of this name (no terminator needed), or -1. */
int region_named(const struct region *regions, unsigned count, const char *name, size_t length);

#endif /* BASE_REGION_H */
