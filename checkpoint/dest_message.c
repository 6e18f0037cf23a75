/* SPDX-License-Identifier: MIT */
/*
 * What the source says: may it come now, is it right, what follows.
 */
#include "checkpoint/dest_internal.h"

#include "base/err.h"

#include <errno.h>

/* Of what may come now by state, what may not by what came before. */
static int check_order(const struct cp_dest *dest, enum cp_kind kind, uint64_t epoch,
		       struct wh_err *err)
{
	const char *name = cp_name(kind);

	switch (kind) {
	case CP_HELLO:
		if (dest->block_count)
			return err_set(err, -EPROTO, "checkpoint: a second HELLO");
		return 0;
	case CP_BLOCK:
		if (dest->blocks_seen >= dest->block_count)
			return err_set(err, -EPROTO, "checkpoint: a block too many");
		return 0;
	case CP_BEGIN:
		if (!dest->block_count || dest->blocks_seen < dest->block_count)
			return err_set(err, -EPROTO, "checkpoint: BEGIN before all blocks");
		if (dest->begun)
			return err_set(err, -EPROTO, "checkpoint: BEGIN in another");
		if (epoch != dest->complete + 1)
			return err_set(err, -EPROTO, "checkpoint: epoch %llu behind %llu",
				       (unsigned long long)epoch,
				       (unsigned long long)dest->complete);
		return 0;
	case CP_META:
	case CP_PAGES:
	case CP_DEVICE:
	case CP_COMMIT:
		if (epoch != dest->epoch || (!dest->begun && !dest->refused))
			return err_set(err, -EPROTO, "checkpoint: %s of epoch %llu outside of it",
				       name, (unsigned long long)epoch);
		return 0;
	case CP_READY:
	case CP_ACK:
	case CP_NACK:
	case CP_HEARTBEAT:
	case CP_DEGRADE:
	case CP_BYE:
	case CP_BYE_ACK:
	case CP_TAKEOVER_NOTICE:
	case CP_KIND_COUNT:
		break;
	}
	return 0;
}

int cp_dest_expects(struct cp_dest *dest, const struct cp_header *header, struct wh_err *err)
{
	bool contents =
		header->kind == CP_META || header->kind == CP_PAGES || header->kind == CP_DEVICE;
	int ret;

	/* Of a session that has not begun here: HELLO is still on its way, on the other channel */
	if (!dest->generation && header->kind == CP_HEARTBEAT)
		return 0;
	/* Somebody who does not know yet that he is fenced */
	if (dest->generation && header->generation < dest->generation) {
		(void)cp_dest_say(dest, CP_TAKEOVER_NOTICE, dest->complete, NULL, NULL);
		return err_set(err, -ESTALE, "checkpoint: %s of generation %llu, in %llu",
			       cp_name(header->kind), (unsigned long long)header->generation,
			       (unsigned long long)dest->generation);
	}
	if (header->kind != CP_HELLO && header->generation != dest->generation)
		return err_set(err, -EPROTO, "checkpoint: %s of generation %llu, in %llu",
			       cp_name(header->kind), (unsigned long long)header->generation,
			       (unsigned long long)dest->generation);
	if (!cp_dest_accepts(dest->state, header->kind))
		return err_set(err, -EPROTO, "checkpoint: %s while in %s", cp_name(header->kind),
			       cp_dest_state_name(dest->state));
	ret = check_order(dest, header->kind, header->epoch, err);
	if (ret < 0)
		return ret;
	if (contents && dest->refused)
		return 1;
	if (header->kind == CP_PAGES && header->length > dest->described - dest->contents)
		return err_set(err, -EPROTO, "checkpoint: %u bytes of pages, %llu are described",
			       header->length,
			       (unsigned long long)(dest->described - dest->contents));
	if (header->kind == CP_DEVICE && header->length > dest->set.device_max - dest->device)
		return err_set(err, -EPROTO, "checkpoint: device state of over %llu bytes",
			       (unsigned long long)dest->set.device_max);
	return 0;
}

static int hear_hello(struct cp_dest *dest, const struct cp_header *header,
		      const struct cp_msg *msg, struct wh_err *err)
{
	if (header->generation <= dest->set.generation)
		return err_set(err, -ESTALE, "checkpoint: a session of generation %llu after %llu",
			       (unsigned long long)header->generation,
			       (unsigned long long)dest->set.generation);
	if (!msg->hello.blocks || msg->hello.blocks > CP_BLOCKS_MAX)
		return err_set(err, -EPROTO, "checkpoint: %u blocks", msg->hello.blocks);
	if (!msg->hello.heartbeat_ns || msg->hello.lease_ns < msg->hello.heartbeat_ns ||
	    msg->hello.lease_ns > UINT64_MAX / 4)
		return err_set(err, -EPROTO, "checkpoint: a heartbeat each %llu ns, lease %llu ns",
			       (unsigned long long)msg->hello.heartbeat_ns,
			       (unsigned long long)msg->hello.lease_ns);
	if (msg->hello.contents_max > dest->set.contents_max ||
	    msg->hello.device_max > dest->set.device_max)
		return err_set(err, -ENOSPC,
			       "checkpoint: %llu and %llu bytes in one, room for %llu and %llu",
			       (unsigned long long)msg->hello.contents_max,
			       (unsigned long long)msg->hello.device_max,
			       (unsigned long long)dest->set.contents_max,
			       (unsigned long long)dest->set.device_max);
	dest->set.contents_max = msg->hello.contents_max;
	dest->set.device_max = msg->hello.device_max;
	dest->generation = header->generation;
	dest->block_count = msg->hello.blocks;
	dest->features = msg->hello.features & dest->set.features & CP_FEATURES;
	dest->heartbeat_ns = msg->hello.heartbeat_ns;
	dest->lease_ns = msg->hello.lease_ns;
	return 0;
}

static int hear_block(struct cp_dest *dest, const struct cp_msg *msg, struct wh_err *err)
{
	struct cp_block *block = &dest->blocks[dest->blocks_seen];
	struct cp_msg ready = { .ready = { .features = dest->features } };
	uint64_t page = msg->block.page_size, pages;
	int ret;

	if (page < 4096 || page > CP_RUN_BYTES_MAX || (page & (page - 1)) || !msg->block.length ||
	    msg->block.length % page)
		return err_set(err, -EPROTO, "checkpoint: block %s of %llu bytes, pages of %llu",
			       msg->block.name.text, (unsigned long long)msg->block.length,
			       (unsigned long long)page);
	pages = msg->block.length / page;
	if (pages > UINT64_MAX / 8 - dest->pages_max)
		return err_set(err, -EPROTO, "checkpoint: block %s makes it too much memory",
			       msg->block.name.text);
	*block = (struct cp_block){
		.length = msg->block.length,
		.page_size = page,
		.name = msg->block.name,
	};
	ret = dest->ops->block(dest->world, dest->blocks_seen, block, err);
	if (ret < 0)
		return ret;
	dest->pages_max += pages;
	if (++dest->blocks_seen < dest->block_count)
		return 0;
	return cp_dest_say(dest, CP_READY, 0, &ready, err);
}

static int hear_begin(struct cp_dest *dest, const struct cp_header *header,
		      const struct cp_msg *msg, struct wh_err *err)
{
	/* who has said that it does not fit in one sends no other until it did, in parts */
	bool full = header->epoch == 1 || dest->degraded;

	if (msg->begin.full > 1 || msg->begin.full != full)
		return err_set(err, -EPROTO, "checkpoint: epoch %llu, full: %u%s",
			       (unsigned long long)header->epoch, msg->begin.full,
			       dest->degraded ? ", degraded" : "");
	dest->epoch = header->epoch;
	dest->full = msg->begin.full;
	dest->begun = true;
	dest->refused = false;
	dest->entries = dest->contents = dest->described = dest->device = dest->pages = 0;
	cp_hash_begin(&dest->hash);
	if (dest->state == CP_DEST_READY)
		cp_dest_to(dest, CP_DEST_RECEIVING);
	return 0;
}

static int check_entry(const struct cp_dest *dest, const struct cp_entry *entry, struct wh_err *err)
{
	const struct cp_block *block;
	uint64_t bytes, count;

	if (entry->block >= dest->block_count)
		return err_set(err, -EPROTO, "checkpoint: pages of block %u of %u", entry->block,
			       dest->block_count);
	block = &dest->blocks[entry->block];
	count = block->length / block->page_size;
	if (entry->first >= count || entry->pages > count - entry->first)
		return err_set(err, -EPROTO, "checkpoint: pages %llu + %u of %llu of block %s",
			       (unsigned long long)entry->first, entry->pages,
			       (unsigned long long)count, block->name.text);
	if (entry->content != CP_PLAIN && !(dest->features & CP_FEATURE(entry->content)))
		return err_set(err, -EPROTO, "checkpoint: contents of kind %d, not agreed on",
			       (int)entry->content);
	bytes = entry->pages * block->page_size;
	switch (entry->content) {
	case CP_PLAIN:
		if (bytes <= CP_RUN_BYTES_MAX && entry->bytes == bytes)
			return 0;
		break;
	case CP_ZERO:
		if (!entry->bytes)
			return 0;
		break;
	case CP_XBZRLE:
		if (entry->pages == 1 && bytes <= CP_PACKED_BYTES_MAX && entry->bytes < bytes)
			return 0;
		break;
	case CP_ZSTD:
		if (bytes <= CP_PACKED_BYTES_MAX && entry->bytes && entry->bytes < bytes)
			return 0;
		break;
	case CP_CONTENT_COUNT:
		break;
	}
	return err_set(err, -EPROTO, "checkpoint: %u pages of block %s, kind %d, in %u bytes",
		       entry->pages, block->name.text, (int)entry->content, entry->bytes);
}

static int hear_meta(struct cp_dest *dest, const uint8_t *payload, uint32_t length,
		     struct wh_err *err)
{
	struct wh_err why = { 0 };
	struct cp_entry entry;
	int ret;

	for (uint32_t at = 0; at < length; at += CP_ENTRY) {
		ret = cp_entry_get(payload + at, &entry, err);
		if (!ret)
			ret = check_entry(dest, &entry, err);
		if (ret < 0)
			return ret;
		/* a page may be described again, when it has changed; not for ever */
		dest->pages += entry.pages;
		if (!dest->full && dest->pages > 4 * dest->pages_max)
			return err_set(err, -EPROTO, "checkpoint: all of memory four times");
		dest->described += entry.bytes;
		if (!dest->full && dest->described > dest->set.contents_max)
			return err_set(err, -EPROTO, "checkpoint: over %llu bytes of contents",
				       (unsigned long long)dest->set.contents_max);
		dest->entries++;
		ret = dest->ops->entry(dest->world, &entry, dest->full, &why);
		if (ret < 0)
			return cp_dest_refuse(dest, &why, err);
	}
	return 0;
}

static int hear_commit(struct cp_dest *dest, const struct cp_msg *msg, struct wh_err *err)
{
	const __typeof__(msg->commit) *said = &msg->commit;

	if (dest->refused)
		return 0;
	if (said->entries != dest->entries || said->contents != dest->contents ||
	    said->device != dest->device || dest->contents != dest->described)
		return err_set(err, -EPROTO,
			       "checkpoint %llu: %llu runs, %llu bytes and %llu of devices are here, "
			       "not %llu, %llu, %llu",
			       (unsigned long long)dest->epoch, (unsigned long long)dest->entries,
			       (unsigned long long)dest->contents, (unsigned long long)dest->device,
			       (unsigned long long)said->entries,
			       (unsigned long long)said->contents,
			       (unsigned long long)said->device);
	if (said->hash != cp_hash_end(&dest->hash))
		return err_set(err, -EPROTO, "checkpoint %llu: its hash is another",
			       (unsigned long long)dest->epoch);
	cp_dest_to(dest, CP_DEST_COMPLETE);
	if (!dest->applying) {
		dest->verifying = true;
		dest->ops->verify(dest->world, dest->epoch, dest->full);
	}
	return 0;
}

static int hear(struct cp_dest *dest, const struct cp_header *header, const uint8_t *payload,
		struct wh_err *err)
{
	struct cp_msg msg = { .hello = { 0 } };
	int ret = 0;

	if (!cp_has_bytes(header->kind))
		ret = cp_get(header, payload, &msg, err);
	if (ret < 0)
		return ret;
	switch (header->kind) {
	case CP_HELLO:
		return hear_hello(dest, header, &msg, err);
	case CP_BLOCK:
		return hear_block(dest, &msg, err);
	case CP_BEGIN:
		return hear_begin(dest, header, &msg, err);
	case CP_META:
		return hear_meta(dest, payload, header->length, err);
	case CP_PAGES:
		dest->contents += header->length;
		return 0;
	case CP_DEVICE:
		dest->device += header->length;
		return 0;
	case CP_COMMIT:
		return hear_commit(dest, &msg, err);
	case CP_DEGRADE:
		dest->degraded = true;
		return 0;
	case CP_BYE:
		cp_dest_end(dest);
		return cp_dest_say(dest, CP_BYE_ACK, dest->complete, NULL, err);
	case CP_HEARTBEAT:
	case CP_READY:
	case CP_ACK:
	case CP_NACK:
	case CP_BYE_ACK:
	case CP_TAKEOVER_NOTICE:
	case CP_KIND_COUNT:
		break;
	}
	return 0;
}

int cp_dest_message(struct cp_dest *dest, const struct cp_header *header, const uint8_t *bytes,
		    uint64_t now_ns, struct wh_err *err)
{
	int ret = cp_dest_expects(dest, header, err);
	bool hashed;

	if (ret < 0)
		return ret;
	dest->now_ns = dest->heard_ns = now_ns;
	if (ret)
		return 0;
	hashed = header->kind == CP_META || header->kind == CP_PAGES || header->kind == CP_DEVICE;
	if (hashed)
		cp_hash_add(&dest->hash, bytes, CP_HEADER + header->length);
	ret = hear(dest, header, bytes + CP_HEADER, err);
	if (!ret && header->kind == CP_BEGIN)
		cp_hash_add(&dest->hash, bytes, CP_HEADER + header->length);
	return ret;
}
