/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: what faults do to the bytes and the connections that they meet.
 */
#include "cli/drill_proxy.h"

#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define DELAY_SUM_MS 300u
#define WRONG_BYTE 0xff /* first of no message: no section, no command, beyond any block */

#define RP_HEAD 4u
#define RP_BITMAP 5u
#define MARK_BYTES 8u

void drill_pair_close(struct drill_pair *pair)
{
	for (unsigned way = 0; way < DRILL_WAYS; way++) {
		if (pair->fd[way] >= 0)
			close(pair->fd[way]);
		pair->fd[way] = -1;
		wh_dump_free(pair->flow[way].dump);
		pair->flow[way].dump = NULL;
	}
}

static void pair_reset(struct drill_pair *pair)
{
	const struct linger now = { .l_onoff = 1 };

	for (unsigned way = 0; way < DRILL_WAYS; way++)
		if (pair->fd[way] >= 0)
			setsockopt(pair->fd[way], SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	drill_pair_close(pair);
}

/* The listener hears the end behind the last byte; the speaker is cut off. */
static void pair_truncate(struct drill_pair *pair, enum drill_way way)
{
	shutdown(pair->fd[!way], SHUT_WR);
	shutdown(pair->fd[way], SHUT_RDWR);
	pair->flow[way].mute = pair->flow[!way].mute = true;
	pair->flow[way].ended = pair->flow[way].told = true;
}

static void mute(struct drill_pair *pair, enum drill_way way, bool both)
{
	pair->flow[way].mute = true;
	if (both)
		pair->flow[!way].mute = true;
}

/* What is done to one connection; it may be all of them */
static void pair_suffer(struct drill_pair *pair, const struct drill_fault *fault)
{
	switch (fault->kind) {
	case DRILL_CUT:
	case DRILL_HANDSHAKE:
		drill_pair_close(pair);
		break;
	case DRILL_RESET:
		pair_reset(pair);
		break;
	case DRILL_HALF_CLOSE:
		mute(pair, fault->way, false);
		shutdown(pair->fd[!fault->way], SHUT_WR);
		break;
	case DRILL_ONE_WAY:
		mute(pair, fault->way, fault->both);
		break;
	case DRILL_TRUNCATE:
		pair_truncate(pair, fault->way);
		break;
	case DRILL_DELAY:
		for (unsigned way = 0; way < DRILL_WAYS; way++) {
			if (way != fault->way && !fault->both)
				continue;
			pair->flow[way].delay_ms = fault->ms;
			pair->flow[way].delays = DELAY_SUM_MS / fault->ms;
		}
		break;
	case DRILL_STALL:
	case DRILL_STRANGER:
	case DRILL_CORRUPT:
	case DRILL_BITMAP:
	case DRILL_PAUSE:
	case DRILL_CANCEL:
	case DRILL_STOP:
	case DRILL_KILL:
	case DRILL_REMOVES:
	case DRILL_NO_MEMORY:
	case DRILL_NO_SPACE:
	case DRILL_AGENT:
	case DRILL_KINDS:
		break;
	}
}

static void happen(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way,
		   unsigned number)
{
	const struct drill_fault *fault = &proxy->plan->fault[number];

	proxy->due[number] = true;
	if (fault->kind == DRILL_CORRUPT) {
		pair->flow[way].corrupt = (int)number; /* it happens with the next message */
		return;
	}
	if (fault->kind == DRILL_STALL)
		proxy->stalled_until_ns = proxy->now_ns + fault->ms * NS_PER_MS;
	for (unsigned i = 0; i < DRILL_PAIRS; i++) {
		struct drill_pair *each = &proxy->pair[i];

		if (each->fd[DRILL_THERE] >= 0 && (each == pair || fault->all))
			pair_suffer(each, fault);
	}
	proxy->happened[number] = true;
	proxy->hit(proxy->opaque, number);
}

static bool fault_is_of(const struct drill_proxy *proxy, const struct drill_pair *pair,
			enum drill_way way, const struct drill_fault *fault)
{
	if (fault->connection != pair->connection || fault->channel != pair->channel ||
	    fault->way != way || fault->early || fault->kind == DRILL_REMOVES)
		return false;
	return !fault->postcopy || proxy->switched;
}

static uint64_t position(const struct drill_flow *flow, const struct drill_fault *fault)
{
	return fault->postcopy ? flow->count - flow->base : flow->count;
}

void drill_fault_meet(struct drill_proxy *proxy, struct drill_pair *pair)
{
	for (unsigned i = 0; i < proxy->plan->faults; i++) {
		const struct drill_fault *fault = &proxy->plan->fault[i];

		if (fault->connection != pair->connection || fault->channel != pair->channel)
			continue;
		if (fault->kind == DRILL_BITMAP)
			pair->flow[DRILL_BACK].lie = (int)i;
	}
}

size_t drill_fault_room(const struct drill_proxy *proxy, const struct drill_pair *pair,
			enum drill_way way, size_t room)
{
	for (unsigned i = 0; pair->known && i < proxy->plan->faults; i++) {
		const struct drill_fault *fault = &proxy->plan->fault[i];
		uint64_t at = position(&pair->flow[way], fault);

		if (!proxy->due[i] && fault->kind != DRILL_BITMAP && at < fault->at &&
		    fault_is_of(proxy, pair, way, fault))
			room = (size_t)MIN(room, fault->at - at);
	}
	return room;
}

void drill_fault_check(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way)
{
	for (unsigned i = 0; i < proxy->plan->faults && pair->fd[way] >= 0; i++) {
		const struct drill_fault *fault = &proxy->plan->fault[i];

		if (!proxy->due[i] && fault->kind != DRILL_BITMAP &&
		    position(&pair->flow[way], fault) >= fault->at &&
		    fault_is_of(proxy, pair, way, fault))
			happen(proxy, pair, way, i);
	}
}

struct finding {
	uint64_t from;
	uint64_t to;
	uint64_t at; /* UINT64_MAX: none */
};

/* What is in a package, and device state, are bytes that only the VMM understands. */
static void found_message(void *opaque, const struct wh_dump_message *message)
{
	struct finding *finding = opaque;
	uint64_t offset = message->offset;

	if (offset < finding->from || offset >= finding->to || finding->at != UINT64_MAX)
		return;
	if (!message->inside && strcmp(message->kind, "device-state") != 0 &&
	    strcmp(message->kind, "VMDESCRIPTION") != 0)
		finding->at = offset;
}

static bool corrupts(const struct drill_proxy *proxy, const struct drill_pair *pair,
		     enum drill_way way)
{
	for (unsigned i = 0; i < proxy->plan->faults; i++) {
		const struct drill_fault *fault = &proxy->plan->fault[i];

		if (fault->kind == DRILL_CORRUPT && fault->connection == pair->connection &&
		    fault->channel == pair->channel && fault->way == way)
			return true;
	}
	return false;
}

/*
 * Contents of a page carry no sum on this wire, so that a wrong byte of them is nobody's
 * fault but the wire's. What is made wrong is where a message begins, as far as
 * wh_dump can tell: all that has passed is given to it.
 */
static void corrupt_bytes(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way,
			  uint8_t *bytes, size_t length)
{
	static struct finding
		finding; /* outlives the dump's calls, of which there is one at a time */
	struct drill_flow *flow = &pair->flow[way];
	enum wh_dump_kind kind = pair->channel == DRILL_URGENT ? WH_DUMP_URGENT : WH_DUMP_STREAM;
	unsigned number = (unsigned)flow->corrupt;

	if (!flow->dump && (!corrupts(proxy, pair, way) || flow->count))
		return;
	if (way == DRILL_BACK)
		kind = WH_DUMP_RETURN_PATH;
	if (!flow->dump && wh_dump_new(&flow->dump, kind, true, found_message, &finding, NULL) < 0)
		return;
	finding = (struct finding){
		.from = flow->count,
		.to = flow->count + length,
		.at = UINT64_MAX,
	};
	/* before there is anything to be found too, and to be passed over */
	if (flow->corrupt < 0)
		finding.from = finding.to;
	(void)wh_dump_feed(flow->dump, bytes, length, NULL);
	if (flow->corrupt < 0 || finding.at == UINT64_MAX)
		return;
	bytes[finding.at - flow->count] = WRONG_BYTE;
	flow->corrupt = -1;
	wh_dump_free(flow->dump);
	flow->dump = NULL;
	proxy->happened[number] = true;
	proxy->hit(proxy->opaque, number);
}

static bool padded(const struct drill_plan *plan, unsigned block)
{
	return block < plan->blocks && plan->pages[block] % 64;
}

/* One byte of a bitmap; where it is in it is in @b. */
static void lie_byte(struct drill_proxy *proxy, struct drill_flow *flow, uint8_t *byte)
{
	unsigned number = (unsigned)flow->lie;
	const struct drill_fault *fault = &proxy->plan->fault[number];
	const struct drill_bitmaps *b = &flow->bitmaps;
	enum drill_lie lie = (enum drill_lie)fault->variant;
	bool here = false;

	if (b->number != fault->at)
		return;
	if (lie == DRILL_LIE_BEYOND && !padded(proxy->plan, b->number))
		lie = DRILL_LIE_MARK;
	if (lie == DRILL_LIE_SIZE)
		here = b->have == sizeof(b->head) - 1;
	else if (lie == DRILL_LIE_MARK)
		here = b->mark == MARK_BYTES;
	else
		here = b->have == sizeof(b->head) && b->skip == 1;
	if (!here)
		return;
	*byte ^= lie == DRILL_LIE_SIZE ? 8 : 0x80;
	flow->lie = -1;
	proxy->due[number] = proxy->happened[number] = true;
	proxy->hit(proxy->opaque, number);
}

static uint64_t number_of(const uint8_t *bytes, unsigned length)
{
	uint64_t number = 0;

	for (unsigned i = 0; i < length; i++)
		number = number << 8 | bytes[i];
	return number;
}

static void bitmap_byte(struct drill_bitmaps *b, uint8_t byte)
{
	if (b->have < sizeof(b->head)) {
		b->head[b->have++] = byte;
		b->skip = number_of(b->head, sizeof(b->head));
	} else if (b->skip) {
		if (--b->skip == 0)
			b->mark = MARK_BYTES;
	} else if (--b->mark == 0) {
		b->in_bitmap = false;
		b->have = 0;
		b->number++;
	}
}

static void message_byte(struct drill_bitmaps *b, uint8_t byte)
{
	if (b->have < RP_HEAD) {
		b->head[b->have++] = byte;
		if (b->have == RP_HEAD)
			b->skip = number_of(b->head + 2, 2);
	} else {
		b->skip--;
	}
	if (b->have < RP_HEAD || b->skip)
		return;
	b->in_bitmap = number_of(b->head, 2) == RP_BITMAP;
	b->have = 0;
}

void drill_fault_bytes(struct drill_proxy *proxy, struct drill_pair *pair, enum drill_way way,
		       uint8_t *bytes, size_t length)
{
	struct drill_flow *flow = &pair->flow[way];

	if (pair->known)
		corrupt_bytes(proxy, pair, way, bytes, length);
	for (size_t i = 0; flow->lie >= 0 && i < length; i++) {
		uint8_t was = bytes[i];

		if (flow->bitmaps.in_bitmap)
			lie_byte(proxy, flow, &bytes[i]);
		if (flow->bitmaps.in_bitmap)
			bitmap_byte(&flow->bitmaps, was);
		else
			message_byte(&flow->bitmaps, was);
	}
}
