/* SPDX-License-Identifier: MIT */
/* Destination: pages that come on the lanes of multifd; see dest_multifd.h. */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/trace.h"

#include <errno.h>
#include <string.h>

static unsigned long long ull(uint64_t value)
{
	return value;
}

/* Return: have all lanes come to this mark? */
static bool all_there(const struct dest_multifd *mf)
{
	for (unsigned i = 0; i < DEST_LANES_MAX; i++)
		if (mf->lane[i].state != LANE_NONE && mf->lane[i].syncs < mf->marks)
			return false;
	return true;
}

/* The first mark: are there all lanes, as far as can be known? */
static bool have_lanes(const struct dest *dest)
{
	const struct dest_multifd *mf = &dest->multifd;

	if (!mf->gathered || (mf->by_flush && !mf->lanes) || mf->lanes < dest->config.lanes)
		return false;
	for (unsigned i = 0; i < mf->lanes; i++)
		if (mf->lane[i].state == LANE_NONE)
			return false;
	return true;
}

/* At the end: has not all come that was sent? */
static bool is_missing(const struct dest_multifd *mf)
{
	uint64_t come = mf->packets;

	for (unsigned i = 0; i < DEST_LANES_MAX; i++)
		come += mf->lane[i].owes;
	return mf->last && come < mf->numbers;
}

/* Goes on from a mark, if it can: first the lanes, then the main channel. */
static void go_on(struct dest_multifd *mf, const struct dest *dest)
{
	if (!mf->waiting || (!mf->begun && !have_lanes(dest)) || !all_there(mf))
		return;
	mf->begun = true;
	for (unsigned i = 0; i < DEST_LANES_MAX; i++)
		if (mf->lane[i].state == LANE_HELD && mf->lane[i].syncs <= mf->marks)
			mf->lane[i].state = LANE_HEAD;
	mf->waiting = is_missing(mf);
}

bool dest_multifd_waits(const struct dest *dest)
{
	return dest->multifd.waiting && !dest_over(dest_get_phase(dest));
}

bool dest_multifd_gathers(const struct dest *dest)
{
	return dest_multifd_waits(dest) && !dest->multifd.gathered;
}

bool dest_multifd_begun(const struct dest *dest)
{
	return dest->multifd.begun;
}

void dest_multifd_gathered(struct dest *dest)
{
	dest->multifd.gathered = true;
	go_on(&dest->multifd, dest);
}

/* A lane that is closed comes to no more marks. */
static int check_closed(const struct dest_multifd *mf, struct wh_err *err)
{
	for (unsigned i = 0; i < DEST_LANES_MAX; i++)
		if (mf->lane[i].state == LANE_CLOSED && mf->lane[i].syncs < mf->marks)
			return err_set(err, -ECONNRESET,
				       "multifd channel %u was closed in front of a mark", i);
	return 0;
}

static int mark(struct dest *dest, uint64_t now_ns, struct wh_err *err)
{
	struct dest_multifd *mf = &dest->multifd;
	int ret;

	mf->marks++;
	mf->waiting = true;
	mf->heard_ns = now_ns;
	ret = check_closed(mf, err);
	if (ret < 0)
		return ret;
	go_on(mf, dest);
	return mf->waiting ? DEST_MARK : 0;
}

int dest_multifd_mark(struct dest *dest, bool flush, uint64_t now_ns, struct wh_err *err)
{
	struct dest_multifd *mf = &dest->multifd;

	mf->last = dest->section == SECTION_END && !dest_armed(dest_get_phase(dest));
	if (flush) {
		if (mf->begun && !mf->by_flush)
			return err_set(err, -EPROTO,
				       "multifd flush, which the first section did not have");
		mf->by_flush = true;
		return mark(dest, now_ns, err);
	}
	if (!mf->begun || (!mf->by_flush && mf->lanes))
		return mark(dest, now_ns, err);
	/* no mark, but nothing may be missing behind it */
	mf->waiting = is_missing(mf);
	mf->heard_ns = now_ns;
	return mf->waiting ? DEST_MARK : 0;
}

/* Of two of a connection that resumes there is nothing but the main one. */
void dest_multifd_forget(struct dest *dest)
{
	dest->multifd = (struct dest_multifd){ .begun = true };
}

static int check_hello(const struct dest *dest, const struct multifd_hello *hello,
		       struct wh_err *err)
{
	const struct dest_multifd *mf = &dest->multifd;
	unsigned most = dest->config.lanes ? dest->config.lanes : DEST_LANES_MAX;

	if (mf->begun)
		return err_set(err, -EPROTO, "it comes when the pages have begun");
	if (hello->channel >= most)
		return err_set(err, -EPROTO, "one too many, at most %u are taken", most);
	if (mf->lane[hello->channel].state != LANE_NONE)
		return err_set(err, -EPROTO, "there is one of that number already");
	if (mf->lanes && memcmp(mf->uuid, hello->uuid, sizeof(mf->uuid)) != 0)
		return err_set(err, -EPROTO, "it is of another guest than those before");
	return 0;
}

int dest_lane_open(struct dest *dest, const struct multifd_hello *hello, uint64_t now_ns,
		   struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);
	struct dest_multifd *mf = &dest->multifd;

	if (dest_over(phase))
		return err_set(err, -EPROTO, "multifd channel %u: connected in phase '%s'",
			       hello->channel, dest_phase_name(phase));
	if (check_hello(dest, hello, err) < 0) {
		err_wrap(err, "multifd channel %u", hello->channel);
		/* What comes on it would be missing, unless it is no part of this at all */
		if (dest->section == SECTION_END || (phase > DEST_ADVISED) ||
		    (mf->begun && !mf->lanes && dest->counters.pages_normal))
			return err->code;
		return dest_fail(dest, err);
	}
	memcpy(mf->uuid, hello->uuid, sizeof(mf->uuid));
	mf->lane[hello->channel].state = LANE_HEAD;
	mf->lanes++;
	mf->heard_ns = now_ns;
	go_on(mf, dest);
	return hello->channel;
}

enum dest_lane_state dest_lane_state(const struct dest *dest, unsigned lane)
{
	return dest->multifd.lane[lane].state;
}

static int fail(struct dest *dest, unsigned lane, struct wh_err *err)
{
	err_wrap(err, "multifd channel %u", lane);
	return dest_fail(dest, err);
}

static int check_packet(struct dest *dest, struct dest_lane *lane, struct wh_err *err)
{
	const struct multifd_packet *packet = &lane->packet;
	enum dest_phase phase = dest_get_phase(dest);
	const struct dest_block *block;

	if (!packet->normal && !packet->zero)
		return 0;
	if (!dest_phase_accepts_pages(phase) || dest_armed(phase))
		return err_set(err, -EPROTO, "pages in phase '%s'", dest_phase_name(phase));
	if (!dest->multifd.begun)
		return err_set(err, -EPROTO, "pages in front of the first mark");
	if (packet->method != MULTIFD_NONE && packet->method != MULTIFD_ZSTD)
		return err_set(err, -EPROTO,
			       "pages compressed by %s, which is not supported: none and zstd are",
			       multifd_method_name(packet->method));
	lane->block = dest_find_block(dest, &packet->block);
	if (lane->block == dest->blocks)
		return err_set(err, -EPROTO, "pages of unknown block %s", packet->block.text);
	block = &dest->block[lane->block];
	for (unsigned i = 0; i < packet->normal + packet->zero; i++)
		if (packet->offset[i] > block->used - TARGET_PAGE)
			return err_set(err, -EPROTO,
				       "page at 0x%llx of block %s, which has 0x%llx bytes",
				       ull(packet->offset[i]), packet->block.text,
				       ull(block->used));
	return 0;
}

static void mark_page(struct dest *dest, unsigned block, uint64_t offset)
{
	uint64_t page = offset / TARGET_PAGE;

	trace(page_arrive, block, page, CHANNEL_MAIN);
	bits_set(dest->block[block].arrived, page);
	bits_set(dest->block[block].received, page);
}

/* All of a packet is in place. */
static void packet_end(struct dest *dest, struct dest_lane *lane)
{
	struct dest_multifd *mf = &dest->multifd;

	mf->packets++;
	if (lane->packet.number < UINT64_MAX && mf->numbers <= lane->packet.number)
		mf->numbers = lane->packet.number + 1;
	lane->state = LANE_HEAD;
	if (lane->packet.sync && lane->packet.normal)
		lane->owes = true;
	else if (!lane->packet.sync && !lane->packet.normal && !lane->packet.zero)
		lane->owes = false;
	if (lane->packet.sync) {
		lane->syncs++;
		/* also if the main channel waits at this one: for others, perhaps */
		lane->state = LANE_HELD;
		if (!mf->waiting && lane->syncs <= mf->marks)
			lane->state = LANE_HEAD;
	}
	go_on(mf, dest);
}

int dest_lane_head(struct dest *dest, unsigned at, const uint8_t *head, uint64_t now_ns,
		   struct wh_err *err)
{
	struct dest_lane *lane = &dest->multifd.lane[at];
	struct multifd_packet *packet = &lane->packet;

	dest_lane_heard(dest, MULTIFD_HEAD_BYTES, now_ns);
	if (dest_over(dest_get_phase(dest)))
		return err_set(err, -ECANCELED, "multifd channel %u: bytes at the end", at);
	if (multifd_get_head(head, MULTIFD_HEAD_BYTES, packet, err) < 0 ||
	    check_packet(dest, lane, err) < 0)
		return fail(dest, at, err);
	for (unsigned i = packet->normal; i < packet->normal + packet->zero; i++) {
		dest_zero_early(dest, lane->block, packet->offset[i]);
		mark_page(dest, lane->block, packet->offset[i]);
	}
	count_add(&dest->counters.pages_zero, packet->zero);
	if (packet->normal)
		lane->state = LANE_CONTENTS;
	else
		packet_end(dest, lane);
	return 0;
}

int dest_lane_contents(struct dest *dest, unsigned at, uint64_t now_ns, struct wh_err *err)
{
	struct dest_lane *lane = &dest->multifd.lane[at];

	dest_lane_heard(dest, lane->packet.bytes, now_ns);
	if (dest_over(dest_get_phase(dest)))
		return err_set(err, -ECANCELED, "multifd channel %u: bytes at the end", at);
	for (unsigned i = 0; i < lane->packet.normal; i++)
		mark_page(dest, lane->block, lane->packet.offset[i]);
	count_add(&dest->counters.pages_normal, lane->packet.normal);
	packet_end(dest, lane);
	return 0;
}

unsigned dest_lane_room(struct dest *dest, unsigned at, struct iovec *piece)
{
	const struct dest_lane *lane = &dest->multifd.lane[at];
	unsigned pieces = 0;

	for (unsigned i = 0; i < lane->packet.normal; i++) {
		uint8_t *room = dest->ops->room(dest->ctx, CHANNEL_MAIN, lane->block,
						lane->packet.offset[i]);
		struct iovec *last = piece + pieces - 1;

		if (pieces && (uint8_t *)last->iov_base + last->iov_len == room)
			last->iov_len += TARGET_PAGE;
		else
			piece[pieces++] = (struct iovec){ room, TARGET_PAGE };
	}
	return pieces;
}

void dest_lane_heard(struct dest *dest, size_t bytes, uint64_t now_ns)
{
	dest->multifd.heard_ns = now_ns;
	count_add(&dest->counters.bytes[CHANNEL_MAIN], bytes);
}

void dest_lane_lost(struct dest *dest, unsigned at, bool inside, const struct wh_err *reason)
{
	struct dest_lane *lane = &dest->multifd.lane[at];
	enum dest_phase phase = dest_get_phase(dest);
	struct wh_err err = { 0 };

	trace(link_lost, CHANNEL_COUNT + at, reason ? reason->code : 0, phase);
	lane->state = LANE_CLOSED;
	/* Behind precopy they have nothing more to say */
	if (phase != DEST_PRECOPY && phase != DEST_ADVISED)
		return;
	if (reason)
		err = *reason;
	else if (inside)
		err_set(&err, -ECONNRESET, "the source closed it within a packet");
	else if (dest->multifd.waiting && lane->syncs < dest->multifd.marks)
		err_set(&err, -ECONNRESET, "the source closed it in front of a mark");
	else if (dest->return_path && dest->section != SECTION_END)
		err_set(&err, -ECONNRESET, "the source closed it in phase '%s'",
			dest_phase_name(phase));
	else
		return; /* what it owes is seen at the next mark */
	fail(dest, at, &err);
}

/* The main channel waits at a mark: for how long? */
int dest_multifd_step(struct dest *dest, uint64_t now_ns, uint64_t *wake_ns, struct wh_err *err)
{
	const struct dest_multifd *mf = &dest->multifd;
	uint64_t limit_ns = mf->begun ? dest->config.lane_wait_ns : dest->config.gather_wait_ns;

	if (!mf->waiting || !limit_ns)
		return 0;
	if (now_ns < mf->heard_ns || now_ns - mf->heard_ns < limit_ns) {
		*wake_ns = mf->heard_ns + limit_ns;
		return 0;
	}
	if (!mf->begun && !have_lanes(dest))
		return err_set(err, -ETIMEDOUT,
			       "multifd: %u channels have come, and others not within %llu ms",
			       mf->lanes, ull(limit_ns / 1000000));
	for (unsigned i = 0; i < DEST_LANES_MAX; i++)
		if (mf->lane[i].state != LANE_NONE && mf->lane[i].syncs < mf->marks)
			return err_set(err, -ETIMEDOUT,
				       "multifd channel %u: nothing has come for %llu ms", i,
				       ull(limit_ns / 1000000));
	return err_set(err, -ETIMEDOUT, "multifd: %llu packets are missing at the end",
		       ull(mf->numbers - mf->packets));
}
