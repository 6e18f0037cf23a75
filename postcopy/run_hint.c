/* SPDX-License-Identifier: MIT */
/*
 * Joining: what the VMM expects of its memory, a byte for each MiB. Whoever registers memory reads it
 * (rdma/vsource_keep.c): a hint that comes late has an effect late, and no order is needed.
 */
#include "base/err.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HINT_BITS 20u

static uint64_t hints(const struct region *region)
{
	return ((region->length - 1) >> HINT_BITS) + 1;
}

int hint_new(struct wh_migration *m, unsigned block, struct wh_err *err)
{
	if (m->role != WH_SOURCE)
		return 0;
	m->hint[block] = calloc(hints(&m->region[block]), 1);
	if (!m->hint[block])
		return err_set(err, -ENOMEM, "block '%s': no memory for its hints",
			       m->region[block].name);
	__atomic_fetch_add(&m->own_bytes, hints(&m->region[block]), __ATOMIC_RELAXED);
	return 0;
}

void hint_free(struct wh_migration *m)
{
	for (unsigned i = 0; i < m->regions; i++)
		free(m->hint[i]);
}

int wh_hint(struct wh_migration *m, const char *block, uint64_t offset, uint64_t length,
	    enum wh_hint hint, struct wh_err *err)
{
	int at = region_named(m->region, m->regions, block, strlen(block));

	if (m->role != WH_SOURCE)
		return err_set(err, -EINVAL, "hint: this end is the destination");
	if (at < 0)
		return err_set(err, -ENOENT, "hint: there is no block '%s'", block);
	if (hint != WH_HINT_NONE && hint != WH_HINT_HOT && hint != WH_HINT_COLD)
		return err_set(err, -EINVAL, "hint: %d is none", hint);
	if (offset > m->region[at].length || length > m->region[at].length - offset || !length)
		return err_set(err, -EINVAL, "hint: block '%s' has %llu bytes, not %llu at %llu",
			       block, (unsigned long long)m->region[at].length,
			       (unsigned long long)length, (unsigned long long)offset);
	for (uint64_t i = offset >> HINT_BITS; i <= (offset + length - 1) >> HINT_BITS; i++)
		__atomic_store_n(&m->hint[at][i], (uint8_t)hint, __ATOMIC_RELAXED);
	return 0;
}
