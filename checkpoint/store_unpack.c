/* SPDX-License-Identifier: MIT */
/* Joining: what is packed is unpacked, beside the last complete checkpoint. libzstd. */
#include "checkpoint/store_internal.h"

#include "base/err.h"
#include "wire/xbzrle.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

static int unpack_zstd(struct cp_store *store, const struct store_part *part, const uint8_t *packed,
		       uint8_t *to, struct wh_err *err)
{
	size_t bytes = part->pages * CP_PAGE;
	size_t whole = ZSTD_findFrameCompressedSize(packed, part->bytes);
	size_t made;

	if (ZSTD_isError(whole) || whole != part->bytes)
		return err_set(err, -EPROTO, "checkpoint: %u bytes that are not one zstd frame",
			       part->bytes);
	made = ZSTD_decompressDCtx(store->zstd, to, bytes, packed, part->bytes);
	if (ZSTD_isError(made))
		return err_set(err, -EPROTO, "checkpoint: zstd: %s", ZSTD_getErrorName(made));
	if (made != bytes)
		return err_set(err, -EPROTO, "checkpoint: zstd: %zu bytes for %u pages", made,
			       part->pages);
	return 0;
}

int store_unpack(struct cp_store *store, const struct store_part *part, const uint8_t *packed,
		 uint8_t *to, struct wh_err *err)
{
	if (part->content == CP_ZSTD)
		return unpack_zstd(store, part, packed, to, err);
	memcpy(to, store_memory(store, part), CP_PAGE);
	return xbzrle_get(to, packed, part->bytes, err);
}

int cp_store_verify(struct cp_store *store, bool full, struct wh_err *err)
{
	struct store_slot *slot = store->coming;

	if (full)
		return store_full_verify(store, err);
	for (size_t i = 0; i < slot->count; i++) {
		struct store_part *part = &slot->parts[i];
		uint64_t bytes = part->pages * CP_PAGE, got;
		uint8_t *to;
		int ret;

		if (part->content == CP_ZERO || part->content == CP_PLAIN)
			continue;
		to = slab_room(&store->pool, &slot->pages, bytes, bytes, &got, err);
		if (!to)
			return -ENOSPC;
		ret = store_unpack(store, part, part->at, to, err);
		if (ret < 0)
			return ret;
		part->at = to;
		part->content = CP_PLAIN;
	}
	slab_chain_give(&store->pool, &slot->packed);
	return 0;
}
