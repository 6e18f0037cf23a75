/* SPDX-License-Identifier: MIT */
/*
 * The destination engine among strangers. An input that begins as a stream does is one,
 * as recorded. Any other is a list of what happens: bytes and well-formed records on
 * either channel, faults, removals, answers of the world, lost links, time, other
 * connections, and the death of the engine. After each of them what must always be true
 * is looked at; and a guest that is paused at last is brought to its end.
 */
#include "selftests/fuzz/dest_again.h"

/* A well-formed run of pages, contents or zeros, in a section or without */
static void play_pages(struct play *p, struct input *in)
{
	unsigned what = take(in), block = take(in) % WORLD_BLOCKS;
	uint64_t page = take16(in) % (world_blocks[block].used / TARGET_PAGE);
	unsigned count = 1 + take(in);
	enum channel channel = what & 1 ? CHANNEL_URGENT : CHANNEL_MAIN;
	struct bytes *b = &p->line[channel].bytes;

	b->bare = what & 1;
	b->block = p->line[channel].block;
	if (what & 8)
		count = world_blocks[block].used / TARGET_PAGE - page;
	if (!b->bare && what & 2)
		bytes_part(b, SECTION_PART);
	while (count-- && page < world_blocks[block].used / TARGET_PAGE) {
		if (what & 4 || (what & 16 && count % 3))
			bytes_zero(b, block, PAGES(page));
		else
			bytes_page(b, block, PAGES(page));
		page++;
	}
	if (!b->bare && what & 2)
		bytes_eos(b);
	p->line[channel].block = b->block;
	play_input(p, channel);
}

/* Pieces of a proper stream, in any order */
static void play_stream(struct play *p, struct input *in)
{
	struct bytes *b = &p->line[CHANNEL_MAIN].bytes;
	unsigned what = take(in);
	uint64_t from = take(in), count = take(in);

	b->bare = false;
	b->block = p->line[CHANNEL_MAIN].block;
	switch (what % 10) {
	case 0:
		bytes_begin(b, true, true, 1 + take(in) % ALL);
		break;
	case 1:
		bytes_begin(b, what & 16, false, 1 + take(in) % ALL);
		break;
	case 2:
		bytes_switch(b);
		break;
	case 3:
		bytes_end(b);
		break;
	case 4:
		bytes_part(b, SECTION_END);
		bytes_eos(b);
		bytes_state(b);
		bytes_vmdesc(b);
		break;
	case 5:
		bytes_discard(b, world_blocks[take(in) % WORLD_BLOCKS].name, from * TARGET_PAGE,
			      count * TARGET_PAGE);
		break;
	case 6:
		bytes_ping(b, 7);
		break;
	case 7:
		bytes_advise(b, ALL_SIZES, TARGET_PAGE);
		break;
	case 8:
		bytes_package(b, NULL, (unsigned)count % 10);
		break;
	case 9:
		bytes_eos(b);
		break;
	}
	p->line[CHANNEL_MAIN].block = b->block;
	play_input(p, CHANNEL_MAIN);
}

static void play_bytes(struct play *p, struct input *in)
{
	enum channel channel = take(in) % CHANNEL_COUNT;
	size_t length = take16(in);

	if (length > in->left)
		length = in->left;
	bytes_add(&p->line[channel].bytes, in->at, length);
	in->at += length;
	in->left -= length;
	play_input(p, channel);
}

static void play_fault(struct play *p, struct input *in)
{
	unsigned block = take(in) % (WORLD_BLOCKS + 1);
	uint64_t offset = take16(in) * UINT64_C(4095);
	struct wh_err err;
	int ret;

	/* Nothing faults before that */
	if (!p->w->armed)
		return;
	ret = dest_fault(&p->w->dest, block, offset, take(in) % 4, p->now_ns, &err);
	check(ret == 0 || ret == DEST_RETRY || (ret == err.code && err.text[0]));
}

static void play_removed(struct play *p, struct input *in)
{
	struct dest *d = &p->w->dest;
	unsigned block = take(in) % WORLD_BLOCKS;
	uint64_t page = take16(in), count = take(in);

	/* who never removes has no lock for it, and may have an agent */
	if (!p->w->removes)
		return;
	dest_removed(d, block, PAGES(page), PAGES(count));
	/* marked by that, or not, but never to be there */
	for (uint64_t i = page; p->armed && block < d->blocks && i < page + count &&
				i < d->block[block].used / TARGET_PAGE;
	     i++)
		p->zero[block][i / 64] |= d->block[block].received[i / 64] & UINT64_C(1) << i % 64;
}

static void play_world(struct play *p, struct input *in)
{
	static const enum placed outcomes[] = { PLACED_OK,	  PLACED_BEFORE, PLACED_CHANGING,
						PLACED_CHANGING,  PLACED_GONE,	 PLACED_NO_MEMORY,
						PLACED_NO_MEMORY, PLACED_DEAD,	 PLACED_FAILED,
						PLACED_PINNED };
	unsigned what = take(in);
	struct world *w = p->w;

	if (what < 200) {
		world_script(w, outcomes[what % 10], PAGES(what / 10), 1);
		return;
	}
	w->mute = what & 1;
	w->device_result = what & 2 ? WH_PENDING : what & 4 ? -EIO : 0;
	what = take(in);
	w->fail_send = what == 1 ? -EPIPE : 0;
	w->fail_wake = what == 2 ? -EIO : 0;
	w->fail_discard = what == 3 ? -EIO : 0;
	w->fail_arm = what == 5 ? -EIO : 0;
	w->fail_disarm = what == 6 ? -EIO : 0;
	w->fail_start = what == 7 ? -EIO : 0;
	w->fail_buffer = what == 8 ? -EIO : 0;
	w->block_result = what == 9 ? -EIO : 0;
}

/* A head made of numbers that may be good ones, or of bytes */
static void lane_head(struct play *p, struct input *in, unsigned lane, bool raw)
{
	struct multifd_packet packet = { .method = MULTIFD_NONE };
	uint8_t head[MULTIFD_HEAD_BYTES] = { 0 };
	unsigned what = take(in), block = take(in) % WORLD_BLOCKS;
	uint64_t page = take16(in);
	struct wh_err err = { 0 };
	size_t length;
	int ret;

	packet.sync = what & 1;
	packet.normal = what & 2 ? take(in) % (MULTIFD_PAGES + 1) : 0;
	packet.zero = what & 4 ? take(in) % (MULTIFD_PAGES + 1 - packet.normal) : 0;
	packet.method = what & 8 ? MULTIFD_ZSTD : MULTIFD_NONE;
	packet.bytes = packet.normal * (packet.method == MULTIFD_NONE ? (unsigned)TARGET_PAGE : 7);
	packet.number = what & 16 ? take(in) : p->packets++;
	wire_name_set(&packet.block, world_blocks[block].name);
	for (unsigned i = 0; i < packet.normal + packet.zero; i++)
		packet.offset[i] = PAGES(page + i * (what & 32 ? 1 : 3));
	multifd_put_head(head, &packet);
	if (raw) {
		length = in->left < sizeof(head) ? in->left : sizeof(head);
		memcpy(head, in->at, length);
		in->at += length;
		in->left -= length;
	}
	ret = dest_lane_head(&p->w->dest, lane, head, p->now_ns, &err);
	check(ret == 0 || (ret == err.code && err.text[0]));
}

/* Where they are to lie is inside of the block, which is written to as a socket would do it */
static void lane_contents(struct play *p, unsigned lane)
{
	struct dest *d = &p->w->dest;
	struct iovec room[MULTIFD_PAGES];
	struct wh_err err = { 0 };
	uint64_t bytes = 0;
	unsigned pieces;
	int ret;

	pieces = dest_lane_room(d, lane, room);
	check(pieces && pieces <= MULTIFD_PAGES);
	for (unsigned i = 0; i < pieces; i++) {
		memset(room[i].iov_base, 0x55, room[i].iov_len);
		bytes += room[i].iov_len;
	}
	check(bytes == d->multifd.lane[lane].packet.normal * TARGET_PAGE);
	ret = dest_lane_contents(d, lane, p->now_ns, &err);
	check(ret == 0 || (ret == err.code && err.text[0]));
}

/* Channels of multifd: they come, have packets, end; in whatever order the joining may call */
static void play_lane(struct play *p, struct input *in)
{
	struct multifd_hello hello = { 0 };
	struct dest *d = &p->w->dest;
	unsigned what = take(in), lane = what % 4;
	struct wh_err err = { 0 };
	struct wh_err reason = { -EIO, "receive" };

	switch (what / 4 % 8) {
	case 0:
	case 1:
		hello.channel = (uint8_t)(what & 32 ? take(in) : lane);
		hello.uuid[0] = (uint8_t)(what >> 7);
		if (dest_lane_open(d, &hello, p->now_ns, &err) < 0)
			check(err.code < 0 && err.text[0]);
		break;
	case 2:
	case 3:
	case 4:
		if (dest_lane_state(d, lane) == LANE_HEAD)
			lane_head(p, in, lane, what / 4 % 8 == 4);
		break;
	case 5:
		if (dest_lane_state(d, lane) == LANE_CONTENTS)
			lane_contents(p, lane);
		break;
	case 6:
		if (dest_multifd_gathers(d))
			dest_multifd_gathered(d);
		break;
	case 7:
		if (dest_lane_state(d, lane) != LANE_NONE &&
		    dest_lane_state(d, lane) != LANE_CLOSED)
			dest_lane_lost(d, lane, what & 32, what & 64 ? &reason : NULL);
		break;
	}
	play_input(p, CHANNEL_MAIN); /* which may have waited for it */
}

static void play_one(struct play *p, struct input *in)
{
	struct dest *d = &p->w->dest;
	unsigned what = take(in);
	struct wh_err err;
	uint64_t wake_ns;

	switch (what % 16) {
	case 0:
		play_bytes(p, in);
		break;
	case 1:
	case 2:
		play_pages(p, in);
		break;
	case 3:
		play_stream(p, in);
		break;
	case 4:
	case 5:
		play_fault(p, in);
		break;
	case 6:
		play_removed(p, in);
		break;
	case 7:
		play_world(p, in);
		break;
	case 8:
		p->now_ns += take(in) * UINT64_C(100000000);
		(void)dest_step(d, p->now_ns, &wake_ns, &err);
		break;
	case 9:
		(void)dest_idle(d, what / 16 % CHANNEL_COUNT, p->now_ns, &err);
		break;
	case 10:
		if (what & 16)
			(void)dest_device_loaded(d, what & 32 ? -EIO : 0, p->now_ns, &err);
		else if (dest_get_phase(d) == DEST_PAUSED && !(what & 32))
			play_again(p);
		else
			(void)dest_connected(d, what / 32 % CHANNEL_COUNT, &err);
		break;
	case 11:
		if (what & 64)
			play_lost(p, what / 16 % CHANNEL_COUNT, what & 128);
		else
			play_lane(p, in);
		break;
	case 12:
	case 13:
		play_recovery(p, in);
		break;
	case 14:
		if (what & 64)
			play_lost(p, CHANNEL_MAIN, what & 128);
		play_park(p);
		break;
	case 15:
		play_death(p, in);
		break;
	}
	check_all(p);
}

/* Some way into a migration, since there are many ways to get nowhere */
static void play_begin(struct play *p, unsigned where, bool id)
{
	struct bytes *b = &p->line[CHANNEL_MAIN].bytes;
	struct world *w = p->w;
	bool postcopy = w->dest.config.postcopy;
	unsigned blocks = where & 8 ? 1u << ROM : ALL;

	if (where % 8 == 7 && postcopy) {
		check(run(w));
		return;
	}
	check(dest_connected(&w->dest, CHANNEL_MAIN, NULL) == 0);
	if (where % 8 == 0)
		return;
	bytes_begin(b, where & 16, where % 8 > 1 && postcopy, blocks);
	if (id) {
		play_input(p, CHANNEL_MAIN);
		say_id(p);
	}
	if (where % 8 == 3) {
		bytes_part(b, SECTION_PART);
		bytes_all_zero(b, ROM);
		bytes_eos(b);
	}
	if (where % 8 == 4)
		bytes_discard(b, "rom", 0, PAGES(16));
	if (where % 8 == 5)
		w->device_result = WH_PENDING;
	if (where % 8 >= 5)
		bytes_switch(b);
	p->line[CHANNEL_MAIN].block = b->block;
	play_input(p, CHANNEL_MAIN);
	if (where & 16)
		(void)dest_connected(&w->dest, CHANNEL_URGENT, NULL);
	check_all(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *w;
	struct input in = { data, size };
	struct play p = { 0 };
	uint64_t wake_ns;
	unsigned flags, more = 0;

	if (!w)
		w = world_new(true);
	world_reset(w, true);
	p.w = w;
	p.line[CHANNEL_MAIN].block = p.line[CHANNEL_URGENT].block = -1;
	if (size >= 4 && !memcmp(data, "QEVM", 4)) {
		check(dest_connected(&w->dest, CHANNEL_MAIN, NULL) == 0);
		bytes_add(&p.line[CHANNEL_MAIN].bytes, data, size);
		play_input(&p, CHANNEL_MAIN);
		check_all(&p);
	} else {
		flags = take(&in);
		w->alias = flags & 1;
		w->removes = flags & 2;
		w->dest.config.postcopy = !(flags & 4);
		more = take(&in);
		play_begin(&p, flags >> 3, more & 1);
		while (in.left)
			play_one(&p, &in);
	}
	(void)dest_step(&w->dest, p.now_ns, &wake_ns, NULL);
	play_lost(&p, CHANNEL_URGENT, false);
	play_lost(&p, CHANNEL_MAIN, false);
	check_all(&p);
	if (more & 2)
		play_honest_end(&p);
	for (unsigned i = 0; i < CHANNEL_COUNT; i++)
		bytes_free(&p.line[i].bytes);
	return 0;
}
