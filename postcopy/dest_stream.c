/* SPDX-License-Identifier: MIT */
/*
 * Destination: what the main channel says. The decoder has checked what a thing says
 * by itself; here is what depends on the phase, on the block list and on our set-up.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

static unsigned long long ull(uint64_t value)
{
	return value;
}

/* Pages of the block at the source */
static uint64_t source_page_size(const struct dest *dest, unsigned block)
{
	uint64_t size = dest->stream.blocks.block[block].page_size;

	return size ? size : TARGET_PAGE;
}

/* May this block be postcopied? */
static int check_advised(const struct dest *dest, unsigned at, struct wh_err *err)
{
	const struct dest_block *block = &dest->block[at];
	uint64_t size = source_page_size(dest, at);

	if (!(size & dest->advised_sizes))
		return err_set(err, -EPROTO,
			       "block '%s' has pages of 0x%llx, POSTCOPY_ADVISE said 0x%llx",
			       block->region->name, ull(size), ull(dest->advised_sizes));
	if (size < block->region->page_size)
		return err_set(err, -EPROTO,
			       "block '%s': postcopy comes in pages of 0x%llx, those here have 0x%llx",
			       block->region->name, ull(size), ull(block->region->page_size));
	return 0;
}

/*
 * Both POSTCOPY_ADVISE and the block list were seen: all memory is dropped, so that
 * what is there is what came.
 */
static int advise(struct dest *dest, struct wh_err *err)
{
	int ret;

	for (unsigned i = 0; i < dest->blocks; i++) {
		ret = check_advised(dest, i, err);
		if (ret < 0)
			return ret;
	}
	for (unsigned i = 0; i < dest->blocks; i++) {
		struct dest_block *block = &dest->block[i];

		ret = dest->ops->discard(dest->ctx, i, 0, block->used, err);
		if (ret < 0)
			return dest_because(err, ret, "dropping memory");
		bits_range_clear(block->arrived, 0, block->used / TARGET_PAGE);
		bits_range_clear(block->received, 0, block->used / TARGET_PAGE);
		block->fresh = true;
	}
	return 0;
}

/* What the world made of a line of the list */
static int check_block(const struct dest *dest, unsigned at, struct wh_err *err)
{
	const struct ram_block *line = &dest->stream.blocks.block[at];
	const struct dest_block *block = &dest->block[at];
	uint64_t here = block->region->page_size, there = source_page_size(dest, at);
	uint64_t most = here > there ? here : there;
	uint64_t size = block->page_size;

	if (block->used != line->used || block->used > block->region->length)
		return err_set(err, -EPROTO,
			       "block '%s': 0x%llx bytes are to come, it has 0x%llx here",
			       line->name.text, ull(line->used), ull(block->region->length));
	/* A request has 32 bits for the length of one page. */
	if (size != most || size > UINT32_MAX)
		return err_set(err, -EPROTO, "block '%s': host pages of 0x%llx bytes",
			       line->name.text, ull(size));
	return 0;
}

/* Once, when there is somebody to tell and all memory is there; devices are the VMM's affair. */
static int acknowledge(struct dest *dest, struct wh_err *err)
{
	const struct rp_msg ack = { .kind = RP_SWITCHOVER_ACK };

	if (!dest->config.switchover_ack || !dest->return_path || !dest->have_blocks || dest->acked)
		return 0;
	dest->acked = true;
	return dest_send(dest, &ack, err);
}

/* One only, in front of whatever needs it: the decoder and have_blocks see to that. */
int dest_block_list(struct dest *dest, struct wh_err *err)
{
	int ret;

	for (unsigned i = 0; i < dest->stream.blocks.count; i++) {
		const struct ram_block *line = &dest->stream.blocks.block[i];

		ret = dest->ops->block(dest->ctx, line, &dest->block[i], err);
		if (ret < 0)
			return dest_because(err, ret, line->name.text);
		dest->blocks = i + 1;
		ret = check_block(dest, i, err);
		if (ret < 0)
			return ret;
	}
	dest->have_blocks = true;
	ret = dest->advised ? advise(dest, err) : 0;
	return ret < 0 ? ret : acknowledge(dest, err);
}

static int command_advise(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	if (!dest->config.postcopy)
		return err_set(err, -EPROTO, "POSTCOPY_ADVISE, and postcopy is switched off here");
	if (msg->empty)
		return err_set(err, -EPROTO,
			       "POSTCOPY_ADVISE without RAM: of dirty bitmaps only (dirty-bitmaps)");
	/* it would drop what is registered already */
	if (dest->beside)
		return err_set(err, -EPROTO, "POSTCOPY_ADVISE behind flag HOOK");
	if (msg->advise.target_page != TARGET_PAGE)
		return err_set(err, -EPROTO,
			       "POSTCOPY_ADVISE: target pages of 0x%llx, expected 0x%llx",
			       ull(msg->advise.target_page), ull(TARGET_PAGE));
	dest->advised = true;
	dest->advised_sizes = msg->advise.page_sizes;
	dest_move(dest, DEST_ADVISED, NULL);
	return dest->have_blocks ? advise(dest, err) : 0;
}

static int discard_range(struct dest *dest, unsigned at, struct wire_range range,
			 struct wh_err *err)
{
	struct dest_block *block = &dest->block[at];
	int ret;

	if (!range.length || range.start > block->used ||
	    range.length > block->used - range.start ||
	    (range.start | range.length) % block->page_size)
		return err_set(err, -EPROTO,
			       "discard of 0x%llx at 0x%llx of block '%s': 0x%llx in pages of 0x%llx",
			       ull(range.length), ull(range.start), block->region->name,
			       ull(block->used), ull(block->page_size));
	bits_range_clear(block->received, range.start / TARGET_PAGE, range.length / TARGET_PAGE);
	bits_range_clear(block->arrived, range.start / TARGET_PAGE, range.length / TARGET_PAGE);
	ret = dest->ops->discard(dest->ctx, at, range.start, range.length, err);
	return ret < 0 ? dest_because(err, ret, "dropping memory") : 0;
}

/*
 * Pages that came beside the stream were seen by nobody here. All have come that the source does
 * not discard now; and before any memory is dropped it can be written to no longer.
 */
void dest_beside_end(struct dest *dest)
{
	if (!dest->beside)
		return;
	dest->beside = false;
	dest->ops->unhook(dest->ctx);
	for (unsigned i = 0; i < dest->blocks; i++) {
		struct dest_block *block = &dest->block[i];

		bits_range_set(block->arrived, 0, block->used / TARGET_PAGE);
		bits_range_set(block->received, 0, block->used / TARGET_PAGE);
	}
}

static int command_discard(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	const struct wire_name *name = &msg->discard.block;
	unsigned at;
	int ret;

	if (!dest->have_blocks)
		return err_set(err, -EPROTO, "discard before the block list");
	at = dest_find_block(dest, name);
	if (at == dest->blocks)
		return err_set(err, -EPROTO, "discard of unknown block '%s'", name->text);
	if (dest_get_phase(dest) == DEST_ADVISED) {
		dest_beside_end(dest);
		dest_move(dest, DEST_DISCARD, NULL);
	}
	for (uint32_t i = 0; i < msg->discard.count; i++) {
		ret = discard_range(dest, at, cmd_range(msg, i), err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int command_ping(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	uint32_t value = msg->ping.value == PING_WHO ? PONG_OURS : msg->ping.value;
	struct rp_msg pong = { .kind = RP_PONG, .pong.value = value };

	if (!dest->return_path)
		return err_set(err, -EPROTO, "PING without a return path");
	return dest_send(dest, &pong, err);
}

static int command(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);

	if (msg->kind == CMD_ENABLE_COLO)
		return err_set(err, -EPROTO,
			       "ENABLE_COLO: the source's capability x-colo is not supported");
	if (!dest_phase_accepts(phase, msg->kind))
		return err_set(err, -EPROTO, "%s in phase '%s'", cmd_name(msg->kind),
			       dest_phase_name(phase));
	switch (msg->kind) {
	case CMD_OPEN_RETURN_PATH:
		dest->return_path = true;
		return acknowledge(dest, err);
	case CMD_PING:
		return command_ping(dest, msg, err);
	case CMD_POSTCOPY_ADVISE:
		return command_advise(dest, msg, err);
	case CMD_POSTCOPY_RAM_DISCARD:
		return command_discard(dest, msg, err);
	case CMD_PACKAGED:
		return dest_buffer_begin(dest, msg->packaged.length, err);
	case CMD_SWITCHOVER_START:
		return 0;
	case CMD_POSTCOPY_LISTEN:
	case CMD_POSTCOPY_RUN:
		/* All device state is to be here before the first of it is loaded. */
		return err_set(err, -EPROTO, "%s outside of a package", cmd_name(msg->kind));
	case CMD_RECV_BITMAP:
		return dest_say_bitmap(dest, &msg->recv_bitmap.block, err);
	case CMD_POSTCOPY_RESUME:
		return dest_resume(dest, err);
	case CMD_WHERRY_ID:
		return dest_take_id(dest, msg, err);
	case CMD_WHERRY_HELLO:
		return dest_hello(dest, msg, err);
	case CMD_WHERRY_PROOF:
		return dest_proof(dest, msg, err);
	case CMD_ENABLE_COLO:
	case CMD_COUNT:
		break;
	}
	return err_set(err, -EPROTO, "%s, which is not supported", cmd_name(msg->kind));
}

/* What it announces writes to memory beside the stream: not once pages are placed */
static int hook(struct dest *dest, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);

	if (!dest->have_blocks || (phase != DEST_PRECOPY && phase != DEST_ADVISED))
		return err_set(err, -EPROTO, "flag HOOK in phase '%s'%s", dest_phase_name(phase),
			       dest->have_blocks ? "" : ", before the block list");
	if (!dest->ops->hook)
		return err_set(err, -EPROTO, "flag HOOK, which is for RDMA only");
	dest->beside = true;
	/* a page that nobody has seen may be anything by now */
	for (unsigned i = 0; i < dest->blocks; i++)
		dest->block[i].fresh = false;
	return dest->ops->hook(dest->ctx, err);
}

static int ram(struct dest *dest, const struct ram_event *event, uint64_t now_ns,
	       struct wh_err *err)
{
	switch (event->record) {
	case RAM_GOT_PAGE:
	case RAM_GOT_ZERO:
	case RAM_GOT_XBZRLE:
		return dest_page(dest, CHANNEL_MAIN, event, now_ns, err);
	case RAM_GOT_BLOCKS:
		return dest_block_list(dest, err);
	case RAM_GOT_HOOK:
		return hook(dest, err);
	case RAM_GOT_FLUSH:
	case RAM_GOT_EOS:
		return dest_multifd_mark(dest, event->record == RAM_GOT_FLUSH, now_ns, err);
	}
	return 0;
}

static int end_of_stream(struct dest *dest, const struct stream_event *event, uint64_t now_ns,
			 struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);

	if (phase == DEST_LISTENING || phase == DEST_RUNNING)
		return dest_ended(dest, now_ns, err);
	/* Precopy without any device state: it is all of it. */
	return dest_device(dest, event->data, event->data_length, err);
}

int dest_event(struct dest *dest, const struct stream_event *event, uint64_t now_ns,
	       struct wh_err *err)
{
	switch (event->kind) {
	case STREAM_COMMAND:
		return command(dest, &event->command, err);
	case STREAM_RAM:
		return ram(dest, &event->ram, now_ns, err);
	case STREAM_PACKAGE:
		return dest_package(dest, event, now_ns, err);
	case STREAM_DEVICE:
		return dest_device(dest, event->data, event->data_length, err);
	case STREAM_EOF:
		return end_of_stream(dest, event, now_ns, err);
	case STREAM_CAPABILITY:
		return err_set(err, -EPROTO,
			       "the source has capability '%s', which is not supported",
			       event->name.text);
	case STREAM_MACHINE:
		dest->machine = event->name;
		break;
	case STREAM_PAGE_BITS: /* the decoder refuses all but ours */
	case STREAM_HEADER:
	case STREAM_UUID:
	case STREAM_FOOTER:
		break;
	case STREAM_SECTION:
		dest->section = event->section;
		break;
	}
	return 0;
}
