/* SPDX-License-Identifier: MIT */
/*
 * Joining: the lanes of multifd, from their sockets into the destination's engine.
 *
 * On the bulk thread, all of them: what limits a lane is the copy out of the socket, into
 * the guest's memory, and whoever makes it is as fast as the memory. One receive is under way
 * on each lane: contents of a packet where they are to lie, or into a stage where a write() to the
 * block's file is cheaper (uffd/early.h), and behind them the next head.
 */
#include "postcopy/run_dest.h"
#include "postcopy/zstd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGE_PAGES_BYTES ((size_t)MULTIFD_PAGES * TARGET_PAGE)

struct lane {
	struct wh_migration *m;
	struct op recv;
	struct msghdr msg;
	unsigned at; /* the engine's number */
	int fd;
	bool ended;    /* nothing more is received */
	bool contents; /* of a packet: got of the bytes have come */
	size_t bytes;  /* where they are received: as they are, or packed */
	size_t got;
	size_t have; /* of the next head */
	uint8_t head[MULTIFD_HEAD_BYTES];
	unsigned pieces;
	struct iovec room[MULTIFD_PAGES]; /* of the packet's pages */
	struct iovec piece[MULTIFD_PAGES + 1];
	uint8_t *packed;
	struct unpack *unpack;
	const struct early *early; /* of the packet's block: by way of the stage; NULL: straight */
	uint8_t *stage;		   /* a packet's pages */
};

static struct dest *engine(const struct lane *lane)
{
	return &lane->m->dest->engine;
}

static void lane_received(struct op *op, int result);

/* Behind the contents, unless they end in a SYNC: what follows that may be long in coming */
static void lane_receive(struct lane *lane)
{
	const struct multifd_packet *packet = &engine(lane)->multifd.lane[lane->at].packet;
	unsigned pieces = 0;

	if (lane->contents && lane->unpack) {
		lane->piece[pieces++] = (struct iovec){ lane->packed, lane->bytes };
	} else if (lane->contents && lane->early) {
		lane->piece[pieces++] = (struct iovec){ lane->stage, lane->bytes };
	} else if (lane->contents) {
		memcpy(lane->piece, lane->room, lane->pieces * sizeof(*lane->room));
		pieces = lane->pieces;
	}
	if (!lane->contents || !packet->sync)
		lane->piece[pieces++] = (struct iovec){ lane->head, sizeof(lane->head) };
	lane->msg = (struct msghdr){ .msg_iov = lane->piece, .msg_iovlen = pieces };
	msg_advance(&lane->msg, lane->got + lane->have);
	loop_recvmsg(lane->m->bulk, &lane->recv, lane->fd, &lane->msg, MSG_WAITALL);
}

static void lane_end(struct lane *lane, const struct wh_err *reason)
{
	lane->ended = true;
	dest_lane_lost(engine(lane), lane->at, lane->got || lane->have || lane->contents, reason);
}

static void lane_received(struct op *op, int result)
{
	struct lane *lane = (struct lane *)((char *)op - offsetof(struct lane, recv));
	size_t bytes = result > 0 ? (size_t)result : 0;
	struct wh_err err = { 0 };

	if (lane->ended || result == -EINTR || result == -EAGAIN)
		return; /* the turn begins it anew */
	if (result <= 0) {
		int why = run_why(lane->m, lane->fd, &err);

		/* QEMU 7.2 does without TLS's end; what it owes is seen at the next mark */
		if (why == -ECONNABORTED)
			err.code = 0;
		else if (why == 0 && result < 0)
			err_sys(&err, result, "receive");
		lane_end(lane, err.code ? &err : NULL);
		return;
	}
	if (lane->contents && lane->got < lane->bytes) {
		size_t more = lane->bytes - lane->got;

		if (more > bytes)
			more = bytes;
		lane->got += more;
		bytes -= more;
	}
	lane->have += bytes;
}

static int lane_unpack_open(struct lane *lane, struct wh_err *err)
{
	if (lane->unpack)
		return 0;
	lane->packed = malloc(MULTIFD_BYTES_MAX);
	lane->unpack = lane->packed ? unpack_new() : NULL;
	if (!lane->unpack)
		return err_set(err, -ENOMEM, "no memory to decompress");
	return 0;
}

/* A head is there, whole. Return: 0, or it has failed */
static int take_head(struct lane *lane, struct wh_err *err)
{
	const struct multifd_packet *packet = &engine(lane)->multifd.lane[lane->at].packet;
	int ret;

	lane->have = 0;
	ret = dest_lane_head(engine(lane), lane->at, lane->head, clock_now_ns(), err);
	if (ret < 0 || dest_lane_state(engine(lane), lane->at) != LANE_CONTENTS)
		return ret;
	if (packet->method != MULTIFD_NONE)
		ret = lane_unpack_open(lane, err);
	else if (lane->unpack)
		ret = err_set(err, -EPROTO, "a packet that is not compressed behind one that is");
	if (ret < 0) {
		dest_lane_lost(engine(lane), lane->at, true, err);
		return ret;
	}
	lane->pieces = dest_lane_room(engine(lane), lane->at, lane->room);
	lane->early = early_pieces(lane->m,
				   &engine(lane)->block[engine(lane)->multifd.lane[lane->at].block],
				   lane->room, lane->pieces);
	if (lane->early && !lane->stage)
		lane->stage = malloc(STAGE_PAGES_BYTES);
	if (!lane->stage)
		lane->early = NULL;
	lane->contents = true;
	lane->bytes = packet->bytes;
	lane->got = 0;
	return 0;
}

/* From the stage to where they are to lie */
static int write_pages(const struct lane *lane, struct wh_err *err)
{
	const uint8_t *from = lane->stage;
	int ret = 0;

	for (unsigned i = 0; i < lane->pieces && !ret; i++) {
		const struct iovec *room = &lane->room[i];
		const uint8_t *at = room->iov_base;

		ret = early_write(lane->early, from,
				  (uint64_t)(at - (uint8_t *)lane->early->region->addr),
				  room->iov_len, err);
		from += room->iov_len;
	}
	return ret;
}

static int unpack_contents(struct lane *lane, struct wh_err *err)
{
	uint32_t pages = engine(lane)->multifd.lane[lane->at].packet.normal;
	const struct iovec stage = { lane->stage, (size_t)pages * TARGET_PAGE };

	if (lane->early)
		return unpack_pages(lane->unpack, lane->packed, lane->bytes, &stage, 1, err);
	return unpack_pages(lane->unpack, lane->packed, lane->bytes, lane->room, lane->pieces, err);
}

static int take_contents(struct lane *lane, struct wh_err *err)
{
	int ret = 0;

	lane->contents = false;
	lane->got = 0;
	if (lane->unpack)
		ret = unpack_contents(lane, err);
	if (!ret && lane->early)
		ret = write_pages(lane, err);
	if (ret < 0) {
		dest_lane_lost(engine(lane), lane->at, true, err);
		return ret;
	}
	return dest_lane_contents(engine(lane), lane->at, clock_now_ns(), err);
}

/* Return: something was taken, which others may have waited for */
static bool lane_turn(struct lane *lane)
{
	struct wh_err err = { 0 };
	bool taken = false;

	while (!lane->ended && !op_busy(&lane->recv)) {
		enum dest_lane_state state = dest_lane_state(engine(lane), lane->at);
		int ret = 0;

		if (state == LANE_CONTENTS && lane->got == lane->bytes)
			ret = take_contents(lane, &err);
		else if (state == LANE_HEAD && lane->have == sizeof(lane->head))
			ret = take_head(lane, &err);
		else if (state == LANE_CONTENTS || state == LANE_HEAD)
			lane_receive(lane);
		else
			break;
		taken |= !op_busy(&lane->recv);
		lane->ended |= ret < 0;
	}
	return taken;
}

void lane_adopt(struct wh_migration *m, int fd, const uint8_t *hello)
{
	struct lane *lane = calloc(1, sizeof(*lane));
	struct multifd_hello says;
	struct wh_err err = { 0 };
	uint8_t taken[MULTIFD_HELLO_BYTES];
	int ret;

	if (!lane) {
		run_log(m, WH_LOG_WARNING, "a connection was refused: no memory");
		close(fd);
		return;
	}
	ret = multifd_get_hello(hello, MULTIFD_HELLO_BYTES, &says, &err);
	if (ret == 1)
		ret = dest_lane_open(&m->dest->engine, &says, clock_now_ns(), &err);
	if (ret < 0) {
		run_log(m, WH_LOG_WARNING, "a connection was refused: %s", err.text);
		free(lane);
		close(fd);
		return;
	}
	/* they are there: somebody has looked at them */
	(void)recv(fd, taken, sizeof(taken), MSG_DONTWAIT);
	*lane = (struct lane){ .m = m, .fd = fd, .at = says.channel, .recv.done = lane_received };
	m->dest->lane[lane->at] = lane;
	__atomic_fetch_add(&m->own_bytes, sizeof(*lane), __ATOMIC_RELAXED);
}

void lanes_turn(struct wh_migration *m)
{
	struct dest_side *side = m->dest;
	bool taken;

	if (dest_multifd_gathers(&side->engine) && accept_gathered(m))
		dest_multifd_gathered(&side->engine);
	do {
		taken = false;
		for (unsigned i = 0; i < DEST_LANES_MAX; i++)
			if (side->lane[i])
				taken |= lane_turn(side->lane[i]);
		taken |= inlet_go_on(&side->inlet[CHANNEL_MAIN]);
	} while (taken);
	/* whoever has connected to resume has not said so yet, and what was said before is no matter */
	if (side->main_up && dest_multifd_begun(&side->engine) && !side->all_told)
		accept_told(m);
}

bool lanes_close(struct wh_migration *m)
{
	bool busy = false;

	for (unsigned i = 0; i < DEST_LANES_MAX; i++) {
		struct lane *lane = m->dest->lane[i];

		if (!lane)
			continue;
		lane->ended = true;
		if (!op_busy(&lane->recv))
			continue;
		loop_cancel(m->bulk, &lane->recv);
		busy = true;
	}
	return busy;
}

void lanes_free(struct wh_migration *m)
{
	for (unsigned i = 0; i < DEST_LANES_MAX; i++) {
		struct lane *lane = m->dest->lane[i];

		if (!lane)
			continue;
		close(lane->fd);
		unpack_free(lane->unpack);
		free(lane->packed);
		free(lane->stage);
		free(lane);
		m->dest->lane[i] = NULL;
		__atomic_fetch_sub(&m->own_bytes, sizeof(*lane), __ATOMIC_RELAXED);
	}
}
