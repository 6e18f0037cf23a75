/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_POSTCOPY_SOURCE_MODEL_H
#define SELFTESTS_POSTCOPY_SOURCE_MODEL_H

/*
 * A destination that believes every byte of a source: wire's decoders, and a copy of
 * the memory. It knows what came how often, and whether host pages came whole.
 */
#include "base/bits.h"
#include "postcopy/source_internal.h"

#include <stdlib.h>
#include <string.h>

#define WORLD_BLOCKS 4
#define WORLD_COMMANDS 256

struct tape {
	uint8_t *bytes;
	size_t length;
	size_t room;
};

/* What one destination made of the bytes. */
struct model {
	const struct region *region;
	unsigned blocks;
	struct stream_in in;
	struct ram_in urgent;
	size_t taken[CHANNEL_COUNT];
	uint8_t *copy[WORLD_BLOCKS];
	unsigned *came[WORLD_BLOCKS]; /* how often each page came in this phase */
	unsigned zeros;
	unsigned pages;
	unsigned flushes; /* of multifd */
	unsigned hooks;	  /* of RDMA */
	unsigned commands;
	struct cmd_msg command[WORLD_COMMANDS];
	uint64_t *discarded[WORLD_BLOCKS];
	struct tape package;
	struct tape device;
	bool package_over; /* the pages that follow are postcopy's */
	bool ended;	   /* ram END */
	bool eof;
	bool urgent_eos;
	bool interleaved; /* a host page was broken off on a channel */
	bool strange;	  /* err says what */
	struct wh_err err;
	struct source_span open[CHANNEL_COUNT]; /* the rest of the host page begun */
};

static inline void tape_add(struct tape *tape, const void *bytes, size_t length)
{
	if (tape->length + length > tape->room) {
		tape->room = 2 * (tape->length + length);
		tape->bytes = realloc(tape->bytes, tape->room);
	}
	if (length)
		memcpy(tape->bytes + tape->length, bytes, length);
	tape->length += length;
}

static inline void model_page(struct model *m, enum channel channel, const struct ram_event *event)
{
	uint64_t page = event->offset / TARGET_PAGE;
	uint64_t group = m->region[event->block].page_size / TARGET_PAGE;
	struct source_span *open = &m->open[channel];
	uint8_t *to = m->copy[event->block] + event->offset;

	if (m->package_over && group > 1) {
		bool next = open->page < open->end;

		if (next ? open->block != event->block || open->page != page : page % group)
			m->interleaved = true;
		*open = (struct source_span){ event->block, page + 1, page - page % group + group };
	} else if (open->page < open->end) {
		m->interleaved = true;
	}
	m->came[event->block][page]++;
	m->pages++;
	if (event->record == RAM_GOT_ZERO) {
		m->zeros++;
		memset(to, 0, TARGET_PAGE);
	} else {
		memcpy(to, event->data, TARGET_PAGE);
	}
}

static inline void model_command(struct model *m, const struct cmd_msg *msg)
{
	if (m->commands < WORLD_COMMANDS)
		m->command[m->commands] = *msg;
	m->commands++;
	if (msg->kind != CMD_POSTCOPY_RAM_DISCARD)
		return;
	for (uint32_t i = 0; i < msg->discard.count; i++) {
		struct wire_range range = cmd_range(msg, i);

		for (unsigned b = 0; b < m->blocks; b++)
			if (!strcmp(m->region[b].name, msg->discard.block.text))
				bits_range_set(m->discarded[b], range.start / TARGET_PAGE,
					       range.length / TARGET_PAGE);
	}
}

static inline void model_event(struct model *m, const struct stream_event *event)
{
	switch (event->kind) {
	case STREAM_COMMAND:
		model_command(m, &event->command);
		break;
	case STREAM_SECTION:
		m->ended |= event->section == SECTION_END;
		break;
	case STREAM_RAM:
		if (event->ram.record == RAM_GOT_PAGE || event->ram.record == RAM_GOT_ZERO)
			model_page(m, CHANNEL_MAIN, &event->ram);
		m->flushes += event->ram.record == RAM_GOT_FLUSH;
		m->hooks += event->ram.record == RAM_GOT_HOOK;
		break;
	case STREAM_PACKAGE:
		tape_add(&m->package, event->data, event->data_length);
		if (event->last) {
			m->package_over = true;
			for (unsigned i = 0; i < m->blocks; i++)
				memset(m->came[i], 0,
				       m->region[i].length / TARGET_PAGE * sizeof(unsigned));
		}
		break;
	case STREAM_EOF:
		m->eof = true;
		tape_add(&m->device, event->data, event->data_length);
		break;
	case STREAM_DEVICE:
		tape_add(&m->device, event->data, event->data_length);
		break;
	case STREAM_HEADER:
	case STREAM_MACHINE:
	case STREAM_CAPABILITY:
	case STREAM_PAGE_BITS:
	case STREAM_UUID:
	case STREAM_FOOTER:
		break;
	}
}

static inline void model_take_main(struct model *m, const struct tape *tape)
{
	int got = 1;

	while (got > 0) {
		struct stream_event event;
		size_t used = 0;

		got = stream_in_next(&m->in, tape->bytes + m->taken[CHANNEL_MAIN],
				     tape->length - m->taken[CHANNEL_MAIN], &used, &event, &m->err);
		m->taken[CHANNEL_MAIN] += used;
		if (got > 0)
			model_event(m, &event);
	}
	m->strange |= got < 0;
}

static inline void model_take_urgent(struct model *m, const struct tape *tape)
{
	int got = 1;

	while (got > 0) {
		struct ram_event event;
		size_t used = 0;

		got = ram_in_next(&m->urgent, &m->in.blocks, tape->bytes + m->taken[CHANNEL_URGENT],
				  tape->length - m->taken[CHANNEL_URGENT], &used, &event, &m->err);
		m->taken[CHANNEL_URGENT] += used;
		if (got > 0 && event.record == RAM_GOT_EOS)
			m->urgent_eos = true;
		else if (got > 0)
			model_page(m, CHANNEL_URGENT, &event);
	}
	m->strange |= got < 0;
}

#endif /* SELFTESTS_POSTCOPY_SOURCE_MODEL_H */
