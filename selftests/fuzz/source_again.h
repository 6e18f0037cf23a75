/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_FUZZ_SOURCE_AGAIN_H
#define SELFTESTS_FUZZ_SOURCE_AGAIN_H

/* A source whose link breaks in postcopy, and who answers when it connects again. */
#include "selftests/fuzz/source_play.h"
#include "wire/bitmap.h"

static int play_random(void *ctx, struct identity_number *number, struct wh_err *err)
{
	(void)ctx;
	(void)err;
	*number = (struct identity_number){ .high = 0x1234, .low = 0x5678 };
	return 0;
}

/* Tapes and model begin anew: neither header nor list comes. */
static void reconnect(struct play *p, bool urgent)
{
	struct world *w = &p->w;

	if (w->phase != SOURCE_PAUSED)
		return;
	for (unsigned i = 0; i < CHANNEL_COUNT; i++) {
		w->tape[i].length = 0;
		w->model.taken[i] = 0;
		w->model.open[i] = (struct source_span){ 0 };
	}
	for (unsigned b = 0; b < w->blocks; b++)
		memset(w->model.came[b], 0, world_pages(w, b) * sizeof(unsigned));
	stream_in_resume(&w->model.in);
	ram_in_init(&w->model.urgent, true);
	/* the first bytes are its proof */
	if (w->source->identity.known)
		w->model.taken[CHANNEL_URGENT] = sizeof(uint64_t);
	w->model.commands = 0;
	w->model.eof = w->model.ended = w->model.urgent_eos = false;
	p->sending = p->urgent_sending = p->deaf = p->noted = false;
	p->have = 0;
	p->again = true;
	p->pages_before = w->model.pages;
	source_reconnected(w->source, urgent, w->now_ns);
}

/* The proof of who knows the id, but for what is @wrong in it */
static void say_hello(struct play *p, uint8_t wrong)
{
	struct identity as = p->w.source->identity;
	struct rp_msg msg = { .kind = RP_WHERRY_HELLO };
	uint8_t buf[RP_MSG_MAX];

	as.dest = (struct identity_number){ .high = 3, .low = 4 };
	msg.wherry_hello.high = as.dest.high;
	msg.wherry_hello.low = as.dest.low;
	msg.wherry_hello.proof = identity_proof(&as, IDENTITY_DEST) ^ wrong;
	hear(p, buf, rp_put(buf, &msg));
}

static void say_bitmap(struct play *p, unsigned block, uint64_t have)
{
	uint8_t buf[RP_MSG_MAX + BITMAP_FRAME + sizeof(uint64_t)];
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };
	size_t length;

	wire_name_set(&msg.recv_bitmap.block, p->w.region[block].name);
	length = rp_put(buf, &msg);
	length += bitmap_put(buf + length, &have, world_pages(&p->w, block));
	hear(p, buf, length);
}

static void say_ack(struct play *p, uint32_t value)
{
	struct rp_msg msg = { .kind = RP_RESUME_ACK, .resume_ack.value = value };
	uint8_t buf[RP_MSG_MAX];

	hear(p, buf, rp_put(buf, &msg));
}

/* Whatever it sends next, if it sends */
static void carry_on(struct play *p)
{
	do_next(p);
	do_sent(p);
}

/* As the destination of this migration would */
static void honest(struct play *p, uint64_t have)
{
	struct world *w = &p->w;

	reconnect(p, true);
	if (w->source->identity.known) {
		carry_on(p);
		say_hello(p, 0);
		carry_on(p);
	}
	carry_on(p);
	for (unsigned b = 0; b < w->blocks; b++)
		say_bitmap(p, b, have >> 16 * b & ((UINT64_C(1) << world_pages(w, b)) - 1));
	carry_on(p);
	if (w->phase == SOURCE_RECOVER && w->source->urgent == URGENT_OPENING) {
		source_urgent_opened(w->source, 0);
		carry_on(p);
	}
	say_ack(p, 1);
	carry_on(p);
}

static void do_again(struct play *p, struct input *in)
{
	unsigned what = take(in), more = what / 8;

	switch (what % 8) {
	case 0:
	case 1:
		reconnect(p, what % 8);
		break;
	case 2:
		say_hello(p, more & 16 ? 1u << more % 8 : 0);
		break;
	case 3:
	case 4:
		say_bitmap(p, what % 8 - 3, take_number(in, 2) & (what % 8 == 3 ? 0xfff : 0xff));
		break;
	case 5:
		say_ack(p, more ? more : 1);
		break;
	case 6:
		honest(p, take_number(in, 4));
		break;
	case 7:
		source_link_lost(p->w.source, CHANNEL_MAIN, NULL, p->w.now_ns);
		break;
	}
}

#endif /* SELFTESTS_FUZZ_SOURCE_AGAIN_H */
