/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_FUZZ_SOURCE_PLAY_H
#define SELFTESTS_FUZZ_SOURCE_PLAY_H

/* The world in which selftests/fuzz/source.c plays, and what is always true of it. */
#include "base/bytes.h"
#include "selftests/postcopy/source_world.h"

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

struct play {
	struct world w;
	bool sending;
	bool urgent_sending;
	bool deaf; /* source_input() has refused something, and why */
	struct wh_err refusal;
	uint8_t held[4 * RP_MSG_MAX]; /* bytes of the return path not taken yet */
	size_t have;
	bool committed; /* the destination may have started */
	bool promised;	/* it will be cancelled */
	struct source_ops ops;
	bool again; /* the connection resumes */
	/* in RECOVER: pages that had come before, and afterwards what is to come at least */
	unsigned pages_before;
	bool noted;
	uint64_t missing[2];
};

static const struct world_block blocks[] = {
	{ "pc.ram", 12, 4096 },
	{ "huge", 8, 16384 },
};

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static uint64_t take_number(struct input *in, unsigned bytes)
{
	uint64_t number = 0;

	while (bytes--)
		number = number << 8 | take(in);
	return number;
}

/* Every piece of a batch lies where it may. */
static void check_batch(const struct play *p, const struct batch *batch)
{
	const struct world *w = &p->w;

	check(batch->count && batch->count <= BATCH_IOV && batch->arena_used <= BATCH_ARENA);
	for (unsigned i = 0; i < batch->count; i++) {
		const uint8_t *at = batch->iov[i].iov_base;
		size_t length = batch->iov[i].iov_len;
		bool known = at >= batch->arena && at + length <= batch->arena + batch->arena_used;

		known |= at == w->device && length == w->device_bytes;
		for (unsigned b = 0; b < w->blocks; b++)
			known |= at >= w->region[b].addr && length == TARGET_PAGE &&
				 at + length <= w->region[b].addr + w->region[b].length;
		check(known);
	}
}

/*
 * Who has not proved to be the destination hears nothing but HELLO, and nobody gets a page
 * before all is told. What was told to be missing has come when the stream ends.
 */
static void check_recovery(struct play *p)
{
	const struct world *w = &p->w;
	const struct source *source = w->source;
	const struct model *m = &w->model;

	if (w->phase == SOURCE_RECOVER) {
		check(m->pages == p->pages_before);
		if (source->identity.known && !source->identity.proven)
			check(m->commands <= 1);
		if (!source->resumed)
			return;
	}
	if (p->again && source->identity.known && w->tape[CHANNEL_URGENT].length)
		check(get_be64(w->tape[CHANNEL_URGENT].bytes) ==
		      identity_proof(&source->identity, IDENTITY_URGENT));
	if (source->resumed && !p->noted) {
		p->noted = true;
		for (unsigned b = 0; b < w->blocks; b++)
			p->missing[b] = *w->dirty[b];
	}
	for (unsigned b = 0; b < w->blocks && m->eof && p->noted; b++)
		for (uint64_t page = 0; page < world_pages(w, b); page++)
			check(!(p->missing[b] >> page & 1) || m->came[b][page]);
}

static void check_all(struct play *p)
{
	struct world *w = &p->w;
	enum source_phase phase = source_get_phase(w->source);

	check(phase == w->phase);
	check(!w->model.strange && !w->model.interleaved);
	check(source_pages_left(w->source) <= 20);
	check(w->resumes <= w->pauses);
	check(!p->committed || (phase != SOURCE_CANCELLED && phase < SOURCE_PHASE_COUNT));
	check(!p->promised || phase <= SOURCE_SWITCHOVER || phase == SOURCE_CANCELLED ||
	      (phase == SOURCE_FAILED && w->resume_ret));
	switch (phase) {
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_CANCELLED:
		check(!w->paused);
		break;
	case SOURCE_FAILED:
		check(!w->paused || w->resume_ret);
		check(w->reason.code < 0 && w->reason.text[0]);
		break;
	case SOURCE_HANDOVER:
	case SOURCE_POSTCOPY:
	case SOURCE_ENDING:
	case SOURCE_RECOVER:
	case SOURCE_DONE:
		check(w->paused && !w->resumes);
		break;
	case SOURCE_PAUSED:
	case SOURCE_UNKNOWN:
		check(w->paused && !w->resumes);
		check(w->reason.code < 0 && w->reason.text[0]);
		break;
	case SOURCE_SWITCHOVER:
	case SOURCE_PHASE_COUNT:
		break;
	}
	check_recovery(p);
	/* but for what is asked for by one of ours, who has it already */
	if (w->model.package_over && !source_get_counters(w->source)->pages_again)
		check(world_came(w, true) <= 1);
}

static void do_next(struct play *p)
{
	struct world *w = &p->w;
	int todo;

	w->err = (struct wh_err){ 0 };
	todo = world_ask(w);
	if (todo < 0)
		check(w->err.code == todo && w->err.text[0]);
	if (todo != SOURCE_SEND)
		return;
	check(!p->sending);
	p->sending = true;
	p->committed |= w->phase == SOURCE_HANDOVER || w->phase == SOURCE_POSTCOPY;
	check_batch(p, w->batch);
}

static void do_sent(struct play *p)
{
	struct world *w = &p->w;

	if (!p->sending || source_over(w->phase))
		return;
	p->sending = false;
	world_deliver(w);
}

static void do_urgent(struct play *p)
{
	struct world *w = &p->w;

	if (p->urgent_sending) {
		p->urgent_sending = false;
		world_carry(w, CHANNEL_URGENT, w->urgent);
		source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
		return;
	}
	p->urgent_sending = source_urgent(w->source, w->urgent);
	if (p->urgent_sending)
		check_batch(p, w->urgent);
}

/* More bytes behind those that were not taken */
static void hear(struct play *p, const uint8_t *bytes, size_t length)
{
	struct world *w = &p->w;
	size_t used;

	if (p->deaf)
		return;
	if (length > sizeof(p->held) - p->have)
		length = sizeof(p->held) - p->have;
	if (length)
		memcpy(p->held + p->have, bytes, length);
	p->have += length;
	w->err = (struct wh_err){ 0 };
	if (world_input(w, p->held, p->have, &used) < 0) {
		check(w->err.code < 0 && w->err.text[0]);
		p->deaf = true;
		p->refusal = w->err;
		return;
	}
	check(used <= p->have);
	p->have -= used;
	memmove(p->held, p->held + used, p->have);
	/* what is not taken is less than a message, or the queue is full */
	check(p->have < RP_MSG_MAX || !source_queue_empty(w->source));
}

#endif /* SELFTESTS_FUZZ_SOURCE_PLAY_H */
