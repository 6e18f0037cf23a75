/* SPDX-License-Identifier: MIT */
/*
 * Joining: a checkpoint as messages. Each is a head and pieces of what lies in slabs; the head
 * is all that is made.
 */
#include "checkpoint/stage_internal.h"

#include <string.h>

/* As wire/checkpoint.def has it */
#define META_ENTRIES 4096u
#define BYTES_MAX (1u << 20)

void stage_send_part(struct cp_stage *stage)
{
	stage->described = stage->sent = 0;
	stage->sent_bytes = 0;
	stage->device_sent = 0;
}

void cp_stage_rewind(struct cp_stage *stage)
{
	stage_send_part(stage);
	stage->begun = false;
}

/* The next piece of the message, together with the one before where they touch */
static bool add_piece(struct cp_out *out, const uint8_t *at, size_t bytes)
{
	struct iovec *last = &out->iov[out->count - 1];
	union {
		const void *from;
		void *to;
	} piece = { at };

	if (out->count > 1 && (const uint8_t *)last->iov_base + last->iov_len == at) {
		last->iov_len += bytes;
	} else {
		if (out->count == CP_OUT_PIECES)
			return false;
		/* an iovec has no const, whoever sends it only reads */
		out->iov[out->count++] = (struct iovec){ piece.to, bytes };
	}
	out->bytes += bytes;
	out->header.length += (uint32_t)bytes;
	return true;
}

static void begin(struct cp_stage *stage, struct cp_out *out)
{
	out->header.kind = CP_BEGIN;
	stage->begun = true;
	stage->totals = (struct cp_msg){ .commit = { 0 } };
	cp_hash_begin(&stage->hash);
}

static void describe(struct cp_stage *stage, struct cp_out *out)
{
	const uint8_t *wire = stage->wire_array.items;
	size_t count = stage->entry_count - stage->described;

	if (count > META_ENTRIES)
		count = META_ENTRIES;
	out->header.kind = CP_META;
	add_piece(out, wire + stage->described * CP_ENTRY, count * CP_ENTRY);
	stage->described += count;
	stage->totals.commit.entries += count;
}

/* Contents of what was described, up to what a message takes */
static void contents(struct cp_stage *stage, struct cp_out *out)
{
	out->header.kind = CP_PAGES;
	while (stage->sent < stage->described && out->header.length < BYTES_MAX) {
		const struct stage_entry *entry = &stage_entries(stage)[stage->sent];
		uint32_t left = entry->entry.bytes - stage->sent_bytes;
		uint32_t room = BYTES_MAX - out->header.length;
		uint32_t bytes = left < room ? left : room;

		if (bytes && !add_piece(out, entry->at + stage->sent_bytes, bytes))
			break;
		stage->sent_bytes += bytes;
		if (bytes == left) {
			stage->sent++;
			stage->sent_bytes = 0;
		}
	}
	stage->totals.commit.contents += out->header.length;
}

static void device(struct cp_stage *stage, struct cp_out *out)
{
	size_t bytes = stage->device_length - stage->device_sent;

	if (bytes > BYTES_MAX)
		bytes = BYTES_MAX;
	out->header.kind = CP_DEVICE;
	add_piece(out, stage->device + stage->device_sent, bytes);
	stage->device_sent += bytes;
	stage->totals.commit.device += bytes;
}

/* What has no bytes is described and that is all */
static void pass_zeros(struct cp_stage *stage)
{
	while (stage->sent < stage->described && !stage_entries(stage)[stage->sent].entry.bytes)
		stage->sent++;
}

bool cp_stage_next(struct cp_stage *stage, struct cp_out *out)
{
	struct cp_msg msg = { .begin = { .full = stage->full } };
	size_t put;

	out->header = (struct cp_header){
		.generation = stage->set.generation,
		.epoch = stage->epoch,
	};
	out->count = 1;
	out->bytes = 0;
	pass_zeros(stage);
	if (!stage->begun)
		begin(stage, out);
	else if (stage->sent < stage->described)
		contents(stage, out);
	else if (stage->described < stage->entry_count)
		describe(stage, out);
	else if (stage->device_sent < stage->device_length)
		device(stage, out);
	else
		return false;
	put = cp_put(out->head, &out->header, &msg);
	out->iov[0] = (struct iovec){ out->head, put };
	out->bytes += put;
	for (unsigned i = 0; i < out->count; i++)
		cp_hash_add(&stage->hash, out->iov[i].iov_base, out->iov[i].iov_len);
	stage->now.wire += out->bytes;
	return true;
}

void cp_stage_totals(const struct cp_stage *stage, struct cp_msg *commit)
{
	*commit = stage->totals;
	commit->commit.hash = cp_hash_end(&stage->hash);
}
