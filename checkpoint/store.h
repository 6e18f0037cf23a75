/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_STORE_H
#define CHECKPOINT_STORE_H

#include "base/region.h"
#include "checkpoint/dest.h"

/*
 * A checkpoint's bytes at the destination: from messages, through slabs, to the replica's
 * memory. The functions are what cp_dest_ops ask for; nothing here knows a socket, a clock
 * or a thread.
 *
 * Why no byte is lost. There is memory, and beside it slabs. What comes is put into slabs; when
 * all of it is here, each difference and each packed run of it is unpacked, into slabs again, and
 * only when that has been done is it acknowledged. From then on putting it in place is copying
 * from local memory to local memory: there is nothing left that could be wrong with it. So memory
 * is at any time either wholly the last complete checkpoint, or being made so from bytes that
 * were checked; and what is dropped was never in it.
 *
 * A difference is against the last complete checkpoint, which memory *is* when it is unpacked:
 * the engine does not have the next one verified before this one is in place. That is also so if
 * a page is described twice in one checkpoint; the last description counts.
 *
 * The first checkpoint is all of memory, and goes straight there, since there is nothing to
 * keep. It is complete when each page of each block was described in it. A later one that comes
 * in parts, of any size, is put beside memory, at the same places of blocks as large: a page of
 * that is there once it is written.
 *
 * A stranger can have no more memory made than the settings say: contents_max three times (what
 * comes, unpacked, and what is being put in place), and 32 bytes for each page of the guest; and
 * with one in parts memory once more, until it is in place.
 */

struct cp_store;

/**
 * struct cp_store_settings - As in struct cp_dest_settings
 * @zeroed:	Memory is as it came from the kernel, so pages of zeros need not be written at first
 * @huge:	Slabs of hugetlb pages where there are any
 */
struct cp_store_settings {
	uint64_t contents_max, device_max;
	bool zeroed, huge;
};

/**
 * cp_store_new() - One for a replica
 * @regions:	Its memory; addr is what is written. Stays
 *
 * One thread at a time is in any function of a store; cp_store_apply() may be on another
 * beside those that receive.
 *
 * Return: NULL and a sentence: no memory
 */
struct cp_store *cp_store_new(const struct cp_store_settings *settings,
			      const struct region *regions, unsigned count, struct wh_err *err);
/* NULL is fine. Nothing is being verified or applied. */
void cp_store_free(struct cp_store *store);

/* For cp_dest_ops.block. Return: 0; -ENOENT, -EPROTO, ...: no such memory here; with a sentence */
int cp_store_block(struct cp_store *store, uint32_t index, const struct cp_block *block,
		   struct wh_err *err);

/* For cp_dest_ops.entry: room for it is made. Return: 0, or a negative errno with a sentence */
int cp_store_entry(struct cp_store *store, const struct cp_entry *entry, bool full,
		   struct wh_err *err);

/**
 * cp_store_pages() - Contents, where they belong
 *
 * The payload of PAGES, when cp_dest_expects() said 0, before cp_dest_message().
 *
 * Return: 0, or -EPROTO with a sentence: as if the engine had said so
 */
int cp_store_pages(struct cp_store *store, const uint8_t *payload, size_t length,
		   struct wh_err *err);

/* The payload of DEVICE, in the same way. Return: also -ENOMEM */
int cp_store_device(struct cp_store *store, const uint8_t *payload, size_t length,
		    struct wh_err *err);

/**
 * cp_store_verify() - For cp_dest_ops.verify: unpack it, beside the last complete one
 *
 * May be called on another thread; then nothing else of the store is, until it is back: a
 * cp_dest_ops.drop that comes meanwhile has to wait for it.
 *
 * Return: for cp_dest_verified(); with a sentence
 */
int cp_store_verify(struct cp_store *store, bool full, struct wh_err *err);

/* What verify found, for a VMM that wants to look at it: stays until keep or drop */
const void *cp_store_coming_device(const struct cp_store *store, size_t *length);

/* For cp_dest_ops.drop: what was on its way is gone. */
void cp_store_drop(struct cp_store *store);

/* For cp_dest_ops.keep: no more than pointers; then cp_store_apply() is due. */
void cp_store_keep(struct cp_store *store);

/**
 * cp_store_apply() - Put what was kept in place
 *
 * Any thread, while the next one is received. It only copies, and cannot fail. Then
 * cp_store_applied(), on the store's own, before cp_dest_applied().
 *
 * Return: false: of one in parts a part is left, and this is to be called again
 */
bool cp_store_apply(struct cp_store *store);
void cp_store_applied(struct cp_store *store);

/* Device state of the last that was kept: stays until the next is. NULL: it had none */
const void *cp_store_kept_device(const struct cp_store *store, size_t *length);

/* About once a second: the slabs shrink. */
void cp_store_step(struct cp_store *store, uint64_t now_ns);

/* Bytes of slabs that there are */
uint64_t cp_store_slabs(const struct cp_store *store);

#endif /* CHECKPOINT_STORE_H */
