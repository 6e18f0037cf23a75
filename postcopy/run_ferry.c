/* SPDX-License-Identifier: MIT */
/*
 * Joining: RDMA at the source, a connection that is up.
 *
 * All of it is the bulk loop's: nothing here waits, but for the device to pin memory. A batch of the
 * stream is copied into messages, one whenever the peer has room for it, and is sent when he has
 * acknowledged the last of them. Pages are handed to an engine (rdma/vsource.h), which says what is
 * written where.
 */
#ifndef WH_NO_RDMA
#include "postcopy/ferry.h"
#include "postcopy/on_demand.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#define BROKEN_NS (200 * NS_PER_MS) /* until the peer's farewell must be there, if it is one */
#define PIN_BYTES_PER_MS \
	(UINT64_C(64) << 10) /* which never were touched: slow, and less than that */

static_assert(VSOURCE_BLOCKS_MAX >= RAM_BLOCKS_MAX, "every block is one of its own");
static_assert(VSOURCE_WRITES_MAX >= VLINK_WRITES, "so many are counted");
static_assert(VLINK_SEND_MAX >= CONTROL_HEADER + (size_t)VSOURCE_ASK_MAX * 24, "it fits");
static_assert(VLINK_SEND_MAX >= CONTROL_HEADER + (size_t)RAM_BLOCKS_MAX * 32, "so does a list");

/* What the source's engine may wait for */
struct ferry_room {
	bool batch;
	unsigned ranges;
	bool open;
};

static void lose(struct ferry *ferry, const struct wh_err *err)
{
	ferry->lost = true;
	source_link_lost(ferry->m->source->engine, CHANNEL_MAIN, err, clock_now_ns());
}

/* ---- The engine's view of memory ---------------------------------------------------- */

static int pin(struct ferry *ferry, const struct vsource_write *write, uint32_t *lkey,
	       struct wh_err *err)
{
	uint64_t chunk = write->offset >> ferry->memory.bits;
	int ret = ferry->engine.pin_all ?
			  vmem_grant_whole(&ferry->memory, write->block, lkey, err) :
			  vmem_grant(&ferry->memory, write->block, chunk, lkey, err);

	on_demand_look(ferry->m, &ferry->memory);
	return ret;
}

/* Without room for it what is registered has to do, if there is any */
static int pin_chunk(struct ferry *ferry, const struct vsource_write *write, struct wh_err *err)
{
	struct wh_err full = { 0 };
	uint32_t lkey;
	int ret = pin(ferry, write, &lkey, &full);

	if (ret == -ENOMEM && vsource_not_pinned(&ferry->engine))
		return 0;
	if (ret < 0)
		*err = full;
	return ret;
}

static int unpin_chunk(struct ferry *ferry, const struct vsource_write *write, struct wh_err *err)
{
	return vmem_revoke(&ferry->memory, write->block, write->offset >> ferry->memory.bits, err);
}

static int write_memory(struct ferry *ferry, const struct vsource_write *write, struct wh_err *err)
{
	struct vlink_write out = {
		.from = ferry->memory.block[write->block].addr + write->offset,
		.length = write->length,
		.to = write->address,
		.rkey = write->rkey,
		.signal = write->signal,
	};
	int ret = pin(ferry, write, &out.lkey, err);

	return ret < 0 ? ret : vlink_write(&ferry->link, &out, err);
}

/* All that can be said and written now. Return: 0, or a negative errno */
static int do_next(struct ferry *ferry, struct wh_err *err)
{
	struct vsource_write write;
	uint8_t *at;
	size_t bytes;
	int ret;

	while ((ret = vlink_room(&ferry->link, &at, err)) > 0) {
		switch (vsource_next(&ferry->engine, at, &bytes, &write)) {
		case VSOURCE_SAY:
			ret = vlink_send(&ferry->link, bytes, err);
			break;
		case VSOURCE_WRITE:
			ret = write_memory(ferry, &write, err);
			break;
		case VSOURCE_PIN:
			ret = pin_chunk(ferry, &write, err);
			break;
		case VSOURCE_UNPIN:
			ret = unpin_chunk(ferry, &write, err);
			break;
		case VSOURCE_WAIT:
			return 0;
		}
		if (ret < 0)
			break;
	}
	return ret;
}

/* ---- The stream ----------------------------------------------------------------------- */

/* What is left of the batch, as much as a message has */
static size_t put_stream(struct ferry *ferry, uint8_t *at)
{
	const struct batch *batch = ferry->m->source->batch;
	size_t bytes = 0;

	while (bytes < CONTROL_STREAM_MAX && ferry->iov < batch->count) {
		const struct iovec *iov = &batch->iov[ferry->iov];
		size_t part = iov->iov_len - ferry->iov_at;

		if (part > CONTROL_STREAM_MAX - bytes)
			part = CONTROL_STREAM_MAX - bytes;
		memcpy(at + bytes, (const uint8_t *)iov->iov_base + ferry->iov_at, part);
		bytes += part;
		ferry->iov_at += part;
		if (ferry->iov_at == iov->iov_len) {
			ferry->iov++;
			ferry->iov_at = 0;
		}
	}
	return bytes;
}

static bool batch_is_out(const struct ferry *ferry)
{
	return ferry->iov == ferry->m->source->batch->count;
}

static int send_stream(struct ferry *ferry, struct wh_err *err)
{
	uint8_t *at;
	int ret = 0;

	while (ferry->batch && !batch_is_out(ferry) &&
	       (ret = vlink_room(&ferry->link, &at, err)) > 0) {
		size_t bytes;

		if (!vsource_may_stream(&ferry->engine))
			return 0;
		bytes = put_stream(ferry, at + CONTROL_HEADER);
		ret = vlink_send(&ferry->link, control_put(at, CONTROL_STREAM, 1, bytes), err);
		if (ret < 0)
			return ret;
	}
	return ret < 0 ? ret : 0;
}

/*
 * Behind the last batch of all the peer still loads what he has got, and is disturbed if the
 * connection ends before he ends it (QEMU takes that for a failure). With a return path he says so.
 */
static bool waits_for_goodbye(struct ferry *ferry, bool over, uint64_t now_ns)
{
	uint64_t limit_ns = ferry->m->config.dead_peer_ns;

	if (source_get_phase(ferry->m->source->engine) != SOURCE_HANDOVER || over ||
	    ferry->has_back)
		return false;
	if (!ferry->delivered_ns)
		ferry->delivered_ns = now_ns;
	if (!limit_ns)
		limit_ns = GOODBYE_NS;
	run_tick(ferry->m, ferry->delivered_ns + limit_ns);
	return now_ns - ferry->delivered_ns < limit_ns;
}

/* @over: nothing more will be heard, and he has not said that he gives up */
static void look_at_batch(struct ferry *ferry, bool over)
{
	uint64_t now_ns = clock_now_ns();

	if (!ferry->batch || !batch_is_out(ferry) || ferry->link.messages ||
	    waits_for_goodbye(ferry, over, now_ns))
		return;
	ferry->batch = false;
	source_sent(ferry->m->source->engine, ferry->m->source->batch->bytes, now_ns);
}

/* ---- The peer -------------------------------------------------------------------------- */

static int hear(struct ferry *ferry, struct wh_err *err)
{
	const uint8_t *message;
	size_t bytes;
	int ret;

	while ((ret = vlink_received(&ferry->link, &message, &bytes, err)) > 0) {
		ferry->since_ns = clock_now_ns();
		ret = vsource_take(&ferry->engine, message, bytes, err);
		if (ret == 0)
			ret = vlink_receive(&ferry->link, err);
		if (ret < 0)
			break;
	}
	return ret;
}

/* What is complete of what was sent */
static int reap(struct ferry *ferry, struct wh_err *err)
{
	uint8_t *at;
	int ret = vlink_room(&ferry->link, &at, err);

	if (ferry->link.written)
		ferry->since_ns = clock_now_ns();
	vsource_written(&ferry->engine, ferry->link.written);
	ferry->link.written = 0;
	return ret < 0 ? ret : 0;
}

static int look_at_events(struct ferry *ferry, struct wh_err *err)
{
	int ret;

	while ((ret = vlink_event(&ferry->link, err)) > 0)
		;
	if (ret == -ENOTCONN)
		ferry->gone = true;
	return ret;
}

/* How long he may take: to pin all of his memory, as long as that takes */
static uint64_t patience_ns(const struct ferry *ferry)
{
	uint64_t ns = ferry->m->config.dead_peer_ns;

	if (ns && ferry->engine.pin_all && ferry->engine.owed == CONTROL_BLOCKS_RESULT)
		ns += ferry->bytes / PIN_BYTES_PER_MS * NS_PER_MS;
	return ns;
}

/* A peer that is there and says nothing; one that is not, and nothing is under way that could fail */
static int look_at_clock(struct ferry *ferry, struct wh_err *err)
{
	uint64_t now_ns = clock_now_ns(), limit_ns = patience_ns(ferry);
	uint64_t probe_ns = ferry->m->config.dead_peer_ns / 4;
	bool waiting = ferry->engine.writes || ferry->engine.owed ||
		       (!ferry->engine.credit && (ferry->batch || vsource_is_open(&ferry->engine)));
	int ret = 0;

	if (!limit_ns)
		return 0;
	if (!waiting || !ferry->waiting)
		ferry->since_ns = now_ns;
	ferry->waiting = waiting && !ferry->delivered_ns;
	if (ferry->waiting && now_ns - ferry->since_ns >= limit_ns)
		return err_set(err, -ETIMEDOUT, "the destination has taken nothing for %llu ms",
			       (unsigned long long)(limit_ns / NS_PER_MS));
	if (ferry->waiting)
		run_tick(ferry->m, ferry->since_ns + limit_ns);
	if (now_ns - ferry->probed_ns >= probe_ns) {
		if (!ferry->link.sending)
			ret = vlink_probe(&ferry->link, err);
		ferry->probed_ns = now_ns;
	}
	run_tick(ferry->m, ferry->probed_ns + probe_ns);
	return ret;
}

/* Return: 0 it goes on, or wait for a reason; or the reason */
static int why(struct ferry *ferry, int ret, struct wh_err *err)
{
	struct wh_err sent = { 0 };
	uint64_t now_ns = clock_now_ns();

	if (ret != -ENOTCONN)
		return ret;
	/* what waits for a message only sees that it has ended; what was sent may know more */
	if (reap(ferry, &sent) < 0 && sent.code != -ENOTCONN) {
		*err = sent;
		return sent.code;
	}
	if (!ferry->broken_ns)
		ferry->broken_ns = now_ns;
	if (ferry->gone || now_ns - ferry->broken_ns >= BROKEN_NS)
		return ret;
	run_tick(ferry->m, ferry->broken_ns + BROKEN_NS);
	return 0;
}

/* What is complete first: the peer may have gone since, and with reason */
static int turn(struct ferry *ferry, struct wh_err *err)
{
	struct wh_err event = { 0 };
	int ret = 0;

	if (!ferry->broken_ns) {
		ret = hear(ferry, err);
		if (ret >= 0)
			ret = reap(ferry, err);
		if (ret >= 0)
			ret = do_next(ferry, err);
		if (ret >= 0)
			ret = send_stream(ferry, err);
		if (ret >= 0)
			ret = look_at_clock(ferry, err);
	} else {
		ret = err_set(err, -ENOTCONN, "rdma: the connection has ended");
	}
	if (ret >= 0 || ret == -ENOTCONN) {
		int gone = look_at_events(ferry, &event);

		if (gone < 0 && gone != -ENOTCONN)
			ret = gone;
		if (gone < 0)
			*err = event;
		if (ferry->gone && ret >= 0)
			ret = -ENOTCONN;
	}
	if (ret < 0)
		ret = why(ferry, ret, err);
	if (ret != -ECONNABORTED)
		look_at_batch(ferry, ret < 0);
	return ret;
}

static void tell_counters(struct ferry *ferry)
{
	const struct vsource *engine = &ferry->engine;

	source_beside_done(ferry->m->source->engine, engine->written_bytes - ferry->told_bytes,
			   engine->zero_bytes - ferry->told_zeros);
	ferry->told_bytes = engine->written_bytes;
	ferry->told_zeros = engine->zero_bytes;
}

/* What the source's engine waits for has become another: it is to be asked once more */
static bool may_go_on(const struct ferry *ferry, const struct ferry_room *before)
{
	return before->batch != ferry->batch || before->ranges > ferry->engine.ranges ||
	       before->open != vsource_is_open(&ferry->engine);
}

void ferry_turn(struct wh_migration *m)
{
	struct ferry *ferry = m->source->ferry;
	struct ferry_room before;
	struct wh_err err = { 0 };
	int ret;

	if (!ferry || ferry->lost || ferry->closing)
		return;
	if (!ferry->begun) {
		ferry_dial_turn(ferry);
		return;
	}
	before = (struct ferry_room){ ferry->batch, ferry->engine.ranges,
				      vsource_is_open(&ferry->engine) };
	ret = ferry->hung ? 0 : turn(ferry, &err);
	if (ferry->has_back && (ret >= 0 || ret == -ENOTCONN))
		ret = ferry_back_turn(ferry, ret, &err);
	if (ret >= 0)
		ret = ferry_read_turn(ferry, &err);
	tell_counters(ferry);
	if (ret < 0 || may_go_on(ferry, &before))
		loop_wake(m->bulk);
	if (ret == -ECONNABORTED) {
		ferry->lost = true;
		source_gave_up(m->source->engine);
	} else if (ret < 0 && !source_phase_ended(source_get_phase(m->source->engine))) {
		lose(ferry, &err);
	}
	if (ret < 0 || ferry->hung)
		return;
	ferry_watch(ferry, &ferry->event, vlink_event_fd(&ferry->link), POLLIN);
	if (ferry->broken_ns)
		return;
	ferry_watch(ferry, &ferry->receive, vlink_receive_fd(&ferry->link), POLLIN);
	ferry_watch(ferry, &ferry->send, vlink_send_fd(&ferry->link), POLLIN);
}

/* ---- The source engine's calls ----------------------------------------------------------- */

void ferry_send(struct wh_migration *m)
{
	struct ferry *ferry = m->source->ferry;

	ferry->batch = true;
	ferry->iov = 0;
	ferry->iov_at = 0;
}

void ferry_beside_open(struct wh_migration *m)
{
	vsource_open(&m->source->ferry->engine);
}

bool ferry_beside_page(struct wh_migration *m, unsigned block, uint64_t page)
{
	return vsource_range(&m->source->ferry->engine, block, page * TARGET_PAGE, TARGET_PAGE);
}

bool ferry_beside_close(struct wh_migration *m)
{
	struct vsource *engine = &m->source->ferry->engine;

	vsource_close(engine);
	return !vsource_is_open(engine);
}
#endif
