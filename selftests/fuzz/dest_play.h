/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_FUZZ_DEST_PLAY_H
#define SELFTESTS_FUZZ_DEST_PLAY_H

/* The world in which selftests/fuzz/dest.c plays, and what is always true of it. */
#include "base/bytes.h"
#include "postcopy/dest_engine.h"
#include "selftests/postcopy/dest_guest.h"

/* The world's functions are called with what was checked; who does otherwise aborts there. */
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

/* A channel's bytes that were not taken yet, as the joining keeps them */
struct line {
	struct bytes bytes;
	size_t start;
	int block; /* of the record before */
	bool lost;
};

struct play {
	struct world *w;
	struct line line[CHANNEL_COUNT];
	uint64_t now_ns;
	/* pages that may be marked and absent: zero since precopy, or removed */
	uint64_t zero[WORLD_BLOCKS][(UINT64_C(6) << 20) / TARGET_PAGE / 64];
	uint64_t packets; /* of multifd */
	bool armed;
	bool parked;		/* in PAUSED: nothing is left of the connection */
	uint64_t urgent_before; /* pages of the urgent channel of other connections */
};

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static unsigned take16(struct input *in)
{
	unsigned high = take(in);

	return high << 8 | take(in);
}

/* What was marked before arming need not be there. */
static void note_armed(struct play *p)
{
	struct world *w = p->w;

	if (p->armed || !w->arms)
		return;
	p->armed = true;
	for (unsigned i = 0; i < w->dest.blocks; i++)
		for (uint64_t word = 0; word < bits_words(w->dest.block[i].used / TARGET_PAGE);
		     word++)
			p->zero[i][word] |= w->dest.block[i].received[word];
}

static void check_block(const struct play *p, unsigned block)
{
	const struct dest_block *b = &p->w->dest.block[block];
	const uint64_t *present = p->w->present[p->w->block_of[block]];
	uint64_t pages = b->used / TARGET_PAGE;
	uint64_t room = b->region->length / TARGET_PAGE;

	for (uint64_t word = 0; p->armed && word < bits_words(pages); word++)
		check(!(b->received[word] & ~(present[word] | p->zero[block][word])));
	check(bits_next_set(b->received, pages, room) == room);
	check(bits_next_set(b->arrived, pages, room) == room);
	check(bits_next_set(b->asked, pages, room) == room);
}

/* Who has not proved that this is his migration learns nothing, and brings nothing. */
static void check_proven(const struct play *p)
{
	const struct dest *d = &p->w->dest;

	if (!d->resumes || !d->identity.known)
		return;
	if (!d->identity.proven)
		check(!p->w->told && dest_get_phase(d) != DEST_RUNNING);
	if (!d->channel[CHANNEL_URGENT].proven)
		check(d->counters.pages_urgent == p->urgent_before);
}

static void check_all(struct play *p)
{
	struct world *w = p->w;
	enum dest_phase phase = dest_get_phase(&w->dest);
	uint64_t missing = 0;

	note_armed(p);
	check_proven(p);
	for (unsigned i = 0; i < w->dest.blocks; i++) {
		uint64_t pages = w->dest.block[i].used / TARGET_PAGE;

		check_block(p, i);
		missing += pages - bits_count(w->dest.block[i].received, pages);
	}
	if (p->armed)
		check(w->dest.counters.pages_missing == missing);
	check(w->dest.waiting <= DEST_WAITERS);
	check(dest_need(&w->dest, CHANNEL_MAIN) <= STREAM_NEED_MAX);
	check(dest_need(&w->dest, CHANNEL_URGENT) <= STREAM_NEED_MAX);
	check(w->starts <= 1 && w->disarms <= w->arms && w->last_pages <= 1);
	/* once it runs here, it must not be said to the source that it does not */
	check(!strstr(w->order, "S1") && !(strchr(w->order, 'S') && strchr(w->order, '1')));
	if (phase == DEST_FAILED || phase == DEST_PAUSED)
		check(w->reason.code < 0 && w->reason.text[0] && !w->disarms);
	if (phase == DEST_DONE)
		check(w->starts == 1 && (!p->armed || (!missing && w->disarms == 1)));
	if (phase == DEST_FAILED)
		check(!w->starts);
}

/* What is not taken stays; after an error nothing more is given. */
static void play_input(struct play *p, enum channel channel)
{
	struct line *line = &p->line[channel];
	struct wh_err err;
	size_t used;
	int ret;

	if (line->lost)
		return;
	for (unsigned tries = 0; tries < 3; tries++) {
		ret = dest_input(&p->w->dest, channel,
				 bytes_room(&line->bytes, 1) - line->bytes.length + line->start,
				 line->bytes.length - line->start, &used, p->now_ns, &err);
		line->start += used;
		check(line->start <= line->bytes.length);
		if (ret < 0) {
			check(err.code == ret && err.text[0]);
			line->lost = true;
		}
		if (ret != DEST_RETRY)
			break;
		check(p->w->dest.channel[channel].retry_ns);
	}
	if (line->start == line->bytes.length)
		line->start = line->bytes.length = 0;
}

static void play_lost(struct play *p, enum channel channel, bool reason)
{
	struct wh_err err = { -ECONNRESET, "reset" };

	p->line[channel].lost = true;
	dest_link_lost(&p->w->dest, channel, reason ? &err : NULL);
}

#endif /* SELFTESTS_FUZZ_DEST_PLAY_H */
