/* SPDX-License-Identifier: MIT */
#include "base/region.h"

#include <string.h>

int region_find(const struct region *regions, unsigned count, const void *addr, uint64_t *offset)
{
	unsigned i;

	for (i = 0; i < count; i++) {
		/* an address in front of the block wraps round to a large number */
		uint64_t at = (uintptr_t)addr - (uintptr_t)region_guest(&regions[i]);

		if (at < regions[i].length) {
			*offset = at;
			return (int)i;
		}
	}
	return -1;
}

int region_named(const struct region *regions, unsigned count, const char *name, size_t length)
{
	unsigned i;

	if (length >= REGION_NAME)
		return -1;
	for (i = 0; i < count; i++)
		if (!memcmp(regions[i].name, name, length) && !regions[i].name[length])
			return (int)i;
	return -1;
}
