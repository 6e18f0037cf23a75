/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_FUZZ_DEST_AGAIN_H
#define SELFTESTS_FUZZ_DEST_AGAIN_H

/*
 * A destination whose link breaks, or whose engine dies, and who comes to it then: the
 * source, or somebody who says some of what a source would say. Whatever was said, a guest
 * that is paused can be brought to its end by an honest source (play_honest_end()).
 */
#include "selftests/fuzz/dest_play.h"

static void line_begin(struct line *line)
{
	line->start = line->bytes.length = 0;
	line->block = -1;
	line->lost = false;
}

/* What was in runs is dropped: what has arrived is in place, all other may come again. */
static void check_parked(const struct play *p)
{
	const struct dest *d = &p->w->dest;

	for (unsigned i = 0; i < d->blocks && !p->w->removes; i++) {
		const struct dest_block *b = &d->block[i];
		uint64_t each = b->page_size / TARGET_PAGE;

		for (uint64_t page = 0; page < b->used / TARGET_PAGE; page += each)
			check(bits_test(b->arrived, page) ==
			      (bits_range_count(b->received, page, each) == each));
	}
}

/* The fault thread has let go of the connection. */
static void play_park(struct play *p)
{
	if (p->parked || dest_get_phase(&p->w->dest) != DEST_PAUSED)
		return;
	p->line[CHANNEL_MAIN].lost = p->line[CHANNEL_URGENT].lost = true;
	dest_parked(&p->w->dest);
	p->parked = true;
	p->urgent_before = p->w->dest.counters.pages_urgent;
	check_parked(p);
}

/* Somebody connects. */
static void play_again(struct play *p)
{
	struct world *w = p->w;

	play_park(p);
	if (!p->parked)
		return;
	p->parked = false;
	line_begin(&p->line[CHANNEL_MAIN]);
	line_begin(&p->line[CHANNEL_URGENT]);
	w->shut = false;
	w->told = 0;
	check(dest_connected(&w->dest, CHANNEL_MAIN, NULL) == 0);
	check(dest_get_phase(&w->dest) == DEST_RECOVER);
}

static void say(struct play *p, struct cmd_msg *msg)
{
	bytes_msg(&p->line[CHANNEL_MAIN].bytes, msg, NULL);
	play_input(p, CHANNEL_MAIN);
}

static void say_id(struct play *p)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_ID };

	msg.wherry_id.high = 7;
	msg.wherry_id.low = 9;
	say(p, &msg);
}

static void say_hello(struct play *p)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_HELLO };

	msg.wherry_hello.high = 5;
	msg.wherry_hello.low = 6;
	say(p, &msg);
}

/* The right one, but for what is @wrong in it */
static void say_proof(struct play *p, uint8_t wrong)
{
	struct cmd_msg msg = { .kind = CMD_WHERRY_PROOF };

	msg.wherry_proof.proof = identity_proof(&p->w->dest.identity, IDENTITY_SOURCE) ^ wrong;
	say(p, &msg);
}

static void say_urgent(struct play *p, bool prove, uint8_t wrong)
{
	struct bytes *b = &p->line[CHANNEL_URGENT].bytes;
	const struct dest *d = &p->w->dest;

	(void)dest_connected(&p->w->dest, CHANNEL_URGENT, NULL);
	if (!prove || !dest_urgent_proves(d))
		return;
	put_be64(bytes_room(b, sizeof(uint64_t)),
		 identity_proof(&d->identity, IDENTITY_URGENT) ^ wrong);
	b->length += sizeof(uint64_t);
	play_input(p, CHANNEL_URGENT);
}

static void ask_bitmap(struct play *p, unsigned block)
{
	struct cmd_msg msg = { .kind = CMD_RECV_BITMAP };

	wire_name_set(&msg.recv_bitmap.block, "nobody");
	if (block < p->w->dest.blocks)
		msg.recv_bitmap.block = p->w->dest.stream.blocks.block[block].name;
	say(p, &msg);
}

static void say_resume(struct play *p)
{
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_RESUME };

	say(p, &msg);
}

static void play_handshake(struct play *p, bool urgent)
{
	if (p->w->dest.identity.known) {
		say_hello(p);
		say_proof(p, 0);
	}
	for (unsigned i = 0; i < p->w->dest.blocks; i++)
		ask_bitmap(p, i);
	if (urgent)
		say_urgent(p, true, 0);
	say_resume(p);
}

/* Any of it, right or wrong, in whatever order */
static void play_recovery(struct play *p, struct input *in)
{
	unsigned what = take(in), more = what / 8;

	switch (what % 8) {
	case 0:
		say_hello(p);
		break;
	case 1:
		say_proof(p, more & 16 ? 1u << more % 8 : 0);
		break;
	case 2:
		ask_bitmap(p, more % (WORLD_BLOCKS + 1));
		break;
	case 3:
		say_resume(p);
		break;
	case 4:
		say_urgent(p, more & 1, more & 16 ? 1u << more % 8 : 0);
		break;
	case 5:
		say_id(p);
		break;
	case 6:
		if (p->armed)
			(void)dest_announce(&p->w->dest, 1 + more, NULL);
		break;
	case 7:
		play_again(p);
		play_handshake(p, more & 1);
		break;
	}
}

/* As much of a page's placing as the one that died had marked */
static void unmark(struct play *p, struct input *in)
{
	unsigned block = take(in) % WORLD_BLOCKS;
	uint64_t page = take16(in), count = take(in);
	struct dest *d = &p->w->dest;

	for (uint64_t i = page; block < d->blocks && i < page + count; i++)
		if (i < d->block[block].used / TARGET_PAGE && !bits_test(p->zero[block], i))
			bits_clear(d->block[block].received, i);
}

/* Another engine, with nothing but the received bits and the list of blocks */
static int adopt(struct play *p, const struct dest_past *past, struct wh_err *err)
{
	struct dest_config config = p->w->dest.config;
	struct world *w = p->w;

	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		size_t words = bits_words(w->region[i].length / TARGET_PAGE);

		memset(w->bitmaps[i], 0, words * sizeof(uint64_t));
		memset(w->bitmaps[i] + 2 * words, 0, words * sizeof(uint64_t));
	}
	dest_init(&w->dest, &world_ops, w, &config);
	w->known = 0;
	w->last_pages = 0;
	w->told = 0;
	p->urgent_before = 0;
	p->line[CHANNEL_MAIN].lost = p->line[CHANNEL_URGENT].lost = true;
	p->parked = false;
	return dest_adopt(&w->dest, past, err);
}

static void no_more_failures(struct world *w)
{
	w->fail_send = w->fail_wake = w->fail_discard = w->fail_arm = w->fail_disarm = 0;
	w->fail_start = w->fail_buffer = w->block_result = 0;
	w->steps = w->step_at = 0;
}

/* Not of one whose memory is removed: agent.rst */
static void play_death(struct play *p, struct input *in)
{
	const struct dest *d = &p->w->dest;
	struct dest_past past = { .blocks = d->stream.blocks,
				  .ram_id = d->stream.ram_id,
				  .id = d->identity.id,
				  .has_id = d->identity.known };
	enum dest_phase phase = dest_get_phase(d);
	struct wh_err err = { 0 };
	int ret;

	if (p->w->removes || !p->w->starts || !p->armed || dest_phase_ended(phase))
		return;
	unmark(p, in);
	ret = adopt(p, &past, &err);
	if (ret < 0) {
		check(err.code == ret && err.text[0] && dest_get_phase(d) == DEST_SETUP);
		no_more_failures(p->w);
		check(adopt(p, &past, &err) == 0);
	}
	check(dest_get_phase(d) == DEST_PAUSED);
}

static void say_footer(struct bytes *b, uint32_t section)
{
	bytes_eos(b);
	b->length += stream_put_footer(bytes_room(b, STREAM_PUT_MAX), section);
}

/* All that is missing, as zeros */
static void say_missing(struct play *p)
{
	struct bytes *b = &p->line[CHANNEL_MAIN].bytes;
	const struct dest *d = &p->w->dest;
	uint32_t id = d->stream.ram_id;

	b->bare = true;
	b->block = -1;
	b->length += stream_put_part(bytes_room(b, STREAM_PUT_MAX), SECTION_PART, id);
	for (unsigned i = 0; i < d->blocks; i++) {
		uint64_t each = d->block[i].page_size / TARGET_PAGE;
		uint64_t pages = d->block[i].used / TARGET_PAGE;

		for (uint64_t page = 0; page < pages; page++)
			if (!bits_test(d->block[i].arrived, page - page % each))
				bytes_zero(b, p->w->block_of[i], PAGES(page));
	}
	say_footer(b, id);
	b->length += stream_put_part(bytes_room(b, STREAM_PUT_MAX), SECTION_END, id);
	say_footer(b, id);
	b->length += stream_put_eof(bytes_room(b, STREAM_PUT_MAX));
	play_input(p, CHANNEL_MAIN);
}

static void play_honest_end(struct play *p)
{
	struct world *w = p->w;
	struct wh_err err = { 0 };
	uint64_t wake_ns;

	if (dest_get_phase(&w->dest) != DEST_PAUSED)
		return;
	no_more_failures(w);
	play_again(p);
	play_handshake(p, false);
	check(dest_get_phase(&w->dest) == DEST_RUNNING);
	while (dest_announce(&w->dest, 100, &err))
		check(!err.code);
	say_missing(p);
	check(dest_step(&w->dest, p->now_ns, &wake_ns, &err) == 0);
	check_all(p);
	check(dest_get_phase(&w->dest) == DEST_DONE);
}

#endif /* SELFTESTS_FUZZ_DEST_AGAIN_H */
