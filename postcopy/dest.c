/* SPDX-License-Identifier: MIT */
/*
 * Destination: connections, phases, failures, the end.
 *
 * Before the guest runs here a failure is FAILED, and the source is told so (SHUT 1),
 * since it may run the guest again. From start() on it is PAUSED, and the source is
 * told nothing but that the connection is gone: on any complaint a QEMU would start
 * its copy of the guest beside ours. dest_recover.c leads out of it.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"

#include <errno.h>
#include <string.h>

static const char *const channel_names[] = {
	[CHANNEL_MAIN] = "main",
	[CHANNEL_URGENT] = "urgent",
};
_Static_assert(sizeof(channel_names) / sizeof(channel_names[0]) == CHANNEL_COUNT, "a name each");

static unsigned long long ull(uint64_t value)
{
	return value;
}

void dest_init(struct dest *dest, const struct dest_ops *ops, void *ctx,
	       const struct dest_config *config)
{
	memset(dest, 0, sizeof(*dest));
	dest->ops = ops;
	dest->ctx = ctx;
	dest->config = *config;
	if (dest->config.device_state_max > PTRDIFF_MAX / 2)
		dest->config.device_state_max = PTRDIFF_MAX / 2;
	if (dest->config.urgent_wait_ns > INT64_MAX)
		dest->config.urgent_wait_ns = INT64_MAX;
	dest->multifd.gathered = !config->gather;
	dest->last_asked = -1;
	dest->phase = DEST_SETUP;
	dest->plan.part = PLAN_END;
	stream_in_init(&dest->stream, false);
	ram_in_init(&dest->channel[CHANNEL_URGENT].urgent, true);
}

enum dest_phase dest_get_phase(const struct dest *dest)
{
	return __atomic_load_n(&dest->phase, __ATOMIC_ACQUIRE);
}

void dest_move(struct dest *dest, enum dest_phase to, const struct wh_err *err)
{
	enum dest_phase from = dest_get_phase(dest);

	dest_phase_move(&dest->phase, to);
	dest->ops->moved(dest->ctx, from, to, err);
}

/* Where there is none yet; the caller's may hold an old sentence */
static struct wh_err *err_begin(struct wh_err *err, struct wh_err *own)
{
	if (!err)
		err = own;
	err->code = 0;
	err->text[0] = '\0';
	return err;
}

int dest_because(struct wh_err *err, int ret, const char *what)
{
	if (!err->text[0] || err->code >= 0)
		err_sys(err, ret, "%s", what);
	return err->code;
}

int dest_send(struct dest *dest, const struct rp_msg *msg, struct wh_err *err)
{
	uint8_t buf[RP_MSG_MAX];
	int ret;

	ret = dest->ops->send(dest->ctx, buf, rp_put(buf, msg), err);
	return ret < 0 ? dest_because(err, ret, rp_name(msg->kind)) : 0;
}

int dest_say_shut(struct dest *dest, uint32_t value, struct wh_err *err)
{
	struct rp_msg shut = { .kind = RP_SHUT, .shut.value = value };

	/* Said, even if it fails: part of it may be on its way. */
	dest->committed = true;
	return dest_send(dest, &shut, err);
}

int dest_fail(struct dest *dest, struct wh_err *err)
{
	enum dest_phase from = dest_get_phase(dest);
	struct wh_err ignored = { 0 };

	dest_because(err, -EIO, "the migration");
	if (dest_over(from))
		return err->code;
	dest_drop(dest, CHANNEL_MAIN);
	if (!dest_phase_may(from, DEST_FAILED)) {
		dest_move(dest, DEST_PAUSED, err);
		return err->code;
	}
	/* Known here before the source may act on it: what has failed is not to be taken up again */
	dest_move(dest, DEST_FAILED, err);
	if (dest->return_path && !dest->committed)
		(void)dest_say_shut(dest, 1, &ignored);
	return err->code;
}

int dest_fail_later(struct dest *dest, const struct wh_err *err)
{
	if (!__atomic_load_n(&dest->fault_failed, __ATOMIC_RELAXED)) {
		dest->fault_err = *err;
		__atomic_store_n(&dest->fault_failed, true, __ATOMIC_RELEASE);
	}
	return err->code;
}

int dest_connected(struct dest *dest, enum channel channel, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);
	struct dest_channel *c = &dest->channel[channel];
	struct wh_err own;

	err = err_begin(err, &own);
	if (channel == CHANNEL_MAIN && phase == DEST_PAUSED) {
		dest_reconnected(dest);
		return 0;
	}
	if (dest_over(phase))
		return err_set(err, -EPROTO, "%s channel: connected in phase '%s'",
			       channel_names[channel], dest_phase_name(phase));
	if (channel == CHANNEL_URGENT && phase == DEST_SETUP)
		return err_set(err, -EPROTO, "urgent channel: connected before the main one");
	if (c->open || c->eos || (channel == CHANNEL_MAIN && phase != DEST_SETUP))
		return err_set(err, -EPROTO, "%s channel: connected for the second time",
			       channel_names[channel]);
	__atomic_store_n(&c->open, true, __ATOMIC_RELEASE);
	if (channel == CHANNEL_MAIN)
		dest_move(dest, DEST_PRECOPY, NULL);
	return 0;
}

/* A page there was no room for: its contents are at the front now. Return: as input_main() */
static int input_held(struct dest *dest, enum channel channel, const uint8_t *buf, size_t length,
		      size_t *used, uint64_t now_ns, struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[channel];
	struct ram_event event = c->held;
	int ret;

	if (length < event.data_length)
		return 0;
	event.data = buf;
	*used = event.data_length;
	c->holding = false;
	ret = dest_page(dest, channel, &event, now_ns, err);
	return ret ? ret : 1;
}

/* One event. Return: 1 go on, DEST_HELD, or as dest_input() */
static int input_main(struct dest *dest, const uint8_t *buf, size_t length, size_t *used,
		      uint64_t now_ns, struct wh_err *err)
{
	struct stream_event event;
	int ret;

	ret = stream_in_next(&dest->stream, buf, length, used, &event, err);
	if (ret <= 0)
		return ret;
	ret = dest_event(dest, &event, now_ns, err);
	if (ret < 0)
		err_wrap(err, "stream before %llu", ull(dest->stream.offset));
	return ret ? ret : 1;
}

static int input_urgent(struct dest *dest, const uint8_t *buf, size_t length, size_t *used,
			uint64_t now_ns, struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[CHANNEL_URGENT];
	struct ram_event event = { 0 };
	int ret;

	if (c->eos && length)
		return err_set(err, -EPROTO, "%zu bytes behind the end mark", length);
	if (dest_urgent_unproven(dest))
		return dest_urgent_proof(dest, buf, length, used, err);
	ret = ram_in_next(&c->urgent, &dest->stream.blocks, buf, length, used, &event, err);
	if (ret <= 0)
		return ret;
	if (event.record != RAM_GOT_EOS) {
		ret = dest_page(dest, CHANNEL_URGENT, &event, now_ns, err);
		return ret ? ret : 1;
	}
	if (c->inside)
		return err_set(err, -EPROTO, "the end mark within a host page, at 0x%llx",
			       ull(c->next_offset));
	/* Behind its last page: who sees the mark finds them all placed. */
	__atomic_store_n(&c->eos, true, __ATOMIC_RELEASE);
	return 1;
}

static int input(struct dest *dest, enum channel channel, const uint8_t *buf, size_t length,
		 size_t *used, uint64_t now_ns, struct wh_err *err)
{
	struct dest_channel *c = &dest->channel[channel];
	int ret;

	if (channel == CHANNEL_MAIN && dest_multifd_waits(dest))
		return DEST_MARK;
	/* What could not be placed the last time comes first. */
	if (c->retry_ns) {
		ret = dest_flush(dest, channel, now_ns, err);
		if (ret)
			return ret;
	}
	do {
		const uint8_t *at = buf + *used;
		size_t left = length - *used, taken = 0;

		if (c->holding)
			ret = input_held(dest, channel, at, left, &taken, now_ns, err);
		else if (channel == CHANNEL_MAIN)
			ret = input_main(dest, at, left, &taken, now_ns, err);
		else
			ret = input_urgent(dest, at, left, &taken, now_ns, err);
		*used += taken;
	} while (ret == 1);
	if (ret != DEST_HELD)
		return ret;
	/* Its contents, the last of what was taken, are given back until there is room. */
	*used -= c->held.data_length;
	return DEST_RETRY;
}

/* Urgent channel: the list of blocks is the other thread's until LISTEN. */
static int check_input(struct dest *dest, enum channel channel, enum dest_phase phase,
		       struct wh_err *err)
{
	if (!dest->channel[channel].open)
		return err_set(err, -EPROTO, "bytes, and it is not connected");
	if (channel == CHANNEL_URGENT && !dest_armed(phase))
		return err_set(err, -EPROTO, "bytes in phase '%s'", dest_phase_name(phase));
	return 0;
}

int dest_input(struct dest *dest, enum channel channel, const uint8_t *buf, size_t length,
	       size_t *used, uint64_t now_ns, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);
	struct wh_err own;
	int ret = 0;

	*used = 0;
	err = err_begin(err, &own);
	/* At the end of precopy the urgent channel has nothing to say that matters. */
	if (phase == DEST_DONE || (phase == DEST_LOADING && channel == CHANNEL_URGENT)) {
		*used = length;
		return 0;
	}
	if (dest_over(phase)) {
		dest_drop(dest, channel);
		return err_set(err, -ECANCELED, "%s channel: bytes in phase '%s'",
			       channel_names[channel], dest_phase_name(phase));
	}
	if (length)
		ret = check_input(dest, channel, phase, err);
	if (ret == 0)
		ret = input(dest, channel, buf, length, used, now_ns, err);
	count_add(&dest->counters.bytes[channel], *used);
	if (ret >= 0)
		return ret;
	err_wrap(err, "%s channel", channel_names[channel]);
	if (channel == CHANNEL_MAIN)
		return dest_fail(dest, err);
	dest_drop(dest, channel);
	return dest_fail_later(dest, err);
}

size_t dest_need(const struct dest *dest, enum channel channel)
{
	const struct dest_channel *c = &dest->channel[channel];

	if (c->holding)
		return c->held.data_length;
	if (channel == CHANNEL_URGENT && dest_urgent_unproven(dest))
		return DEST_PROOF_BYTES;
	return channel == CHANNEL_MAIN ? dest->stream.need : c->urgent.need;
}

int dest_idle(struct dest *dest, enum channel channel, uint64_t now_ns, struct wh_err *err)
{
	struct wh_err own;
	int ret;

	err = err_begin(err, &own);
	/* Taken back first, as in page_must_go() */
	if (channel == CHANNEL_MAIN)
		__atomic_store_n(&dest->hurry, false, __ATOMIC_SEQ_CST);
	/* In whatever phase: what has come need not come again. */
	ret = dest_flush(dest, channel, now_ns, err);
	if (ret >= 0)
		return ret;
	err_wrap(err, "%s channel", channel_names[channel]);
	return channel == CHANNEL_MAIN ? dest_fail(dest, err) : dest_fail_later(dest, err);
}

int dest_device_loaded(struct dest *dest, int result, uint64_t now_ns, struct wh_err *err)
{
	struct wh_err own;
	int ret;

	err = err_begin(err, &own);
	/* The link may have gone meanwhile: it is too late for the guest to start. */
	if (!dest->device_pending || dest_over(dest_get_phase(dest)))
		return 0;
	if (result < 0) {
		dest->device_pending = false;
		dest_because(err, result, "loading the device state");
		return dest_fail(dest, err);
	}
	ret = dest_loaded(dest, now_ns, err);
	return ret < 0 ? dest_fail(dest, err) : 0;
}

/* Does the migration go on without this channel? */
static bool can_spare(const struct dest *dest, enum channel channel, enum dest_phase phase,
		      const struct wh_err *reason)
{
	if (dest_over(phase))
		return true;
	/*
	 * Nobody waits for an answer: it is closed when everything is said. A QEMU does so
	 * without the end that TLS has (-ECONNABORTED), and nothing is missing.
	 */
	if (channel == CHANNEL_MAIN)
		return phase == DEST_LOADING && !dest->return_path &&
		       (!reason || reason->code == -ECONNABORTED);
	if (phase == DEST_LOADING || !dest->channel[channel].open ||
	    __atomic_load_n(&dest->channel[channel].eos, __ATOMIC_ACQUIRE))
		return true;
	return phase == DEST_ENDING &&
	       !__atomic_load_n(&dest->counters.pages_missing, __ATOMIC_ACQUIRE);
}

void dest_link_lost(struct dest *dest, enum channel channel, const struct wh_err *reason)
{
	enum dest_phase phase = dest_get_phase(dest);
	struct wh_err err = { 0 };
	bool spared;

	trace(link_lost, channel, reason ? reason->code : 0, phase);
	spared = can_spare(dest, channel, phase, reason);
	dest_drop(dest, channel);
	__atomic_store_n(&dest->channel[channel].open, false, __ATOMIC_RELEASE);
	if (spared)
		return;
	if (channel == CHANNEL_MAIN && !reason && !dest->return_path &&
	    (phase == DEST_PRECOPY || phase == DEST_ADVISED)) {
		if (dest_device_closed(dest, &err) < 0) {
			stream_in_where(&dest->stream, &err);
			dest_fail(dest, &err);
		}
		return;
	}
	if (reason)
		err = *reason;
	else
		err_set(&err, -ECONNRESET, "the source closed the %s channel in phase '%s'",
			channel_names[channel], dest_phase_name(phase));
	/* Nobody is there to be told. */
	if (channel == CHANNEL_MAIN) {
		dest->return_path = false;
		if (phase != DEST_SETUP && !dest->ended)
			stream_in_where(&dest->stream, &err);
	}
	dest_fail(dest, &err);
}

/* All pages are in. */
static int finish(struct dest *dest, struct wh_err *err)
{
	int ret;

	/* Before disarming: the source must not go on waiting for what has happened. */
	ret = dest_say_shut(dest, 0, err);
	if (ret < 0)
		return ret;
	ret = dest->ops->disarm(dest->ctx, err);
	if (ret < 0)
		return dest_because(err, ret, "disarming");
	dest_move(dest, DEST_DONE, NULL);
	return 0;
}

/* Return: -EPROTO and what is missing, or 0 */
static int say_missing(const struct dest *dest, uint64_t missing, struct wh_err *err)
{
	for (unsigned i = 0; i < dest->blocks; i++) {
		const struct dest_block *block = &dest->block[i];
		uint64_t pages = block->used / TARGET_PAGE;
		uint64_t first = bits_next_clear(block->received, 0, pages);

		if (first < pages)
			return err_set(err, -EPROTO,
				       "%llu pages are missing at the end, the first 0x%llx of '%s'",
				       ull(missing), ull(first * TARGET_PAGE), block->region->name);
	}
	/* Marked since we counted */
	return 0;
}

static int step_ending(struct dest *dest, uint64_t now_ns, uint64_t *wake_ns, struct wh_err *err)
{
	const struct dest_channel *c = &dest->channel[CHANNEL_URGENT];
	uint64_t waited_ns = now_ns > dest->ending_since_ns ? now_ns - dest->ending_since_ns : 0;
	uint64_t missing;
	bool urgent, reading;
	int ret;

	ret = dest_flush(dest, CHANNEL_MAIN, now_ns, err);
	if (ret < 0)
		return ret;
	if (ret == DEST_RETRY) {
		*wake_ns = now_ns + dest->channel[CHANNEL_MAIN].retry_ns;
		return 0;
	}
	/* In this order: behind the end mark nothing is missing that still comes. */
	urgent = __atomic_load_n(&c->open, __ATOMIC_ACQUIRE) &&
		 !__atomic_load_n(&c->eos, __ATOMIC_ACQUIRE);
	reading = __atomic_load_n(&dest->reading, __ATOMIC_ACQUIRE);
	missing = __atomic_load_n(&dest->counters.pages_missing, __ATOMIC_ACQUIRE);
	if (!missing)
		return finish(dest, err);
	/* It is here, and is tried again */
	if (reading) {
		*wake_ns = now_ns + NS_PER_MS;
		return 0;
	}
	if (urgent && waited_ns < dest->config.urgent_wait_ns) {
		*wake_ns = now_ns + (dest->config.urgent_wait_ns - waited_ns);
		return 0;
	}
	*wake_ns = now_ns;
	return say_missing(dest, missing, err);
}

int dest_step(struct dest *dest, uint64_t now_ns, uint64_t *wake_ns, struct wh_err *err)
{
	enum dest_phase phase = dest_get_phase(dest);
	struct wh_err own;
	int ret;

	*wake_ns = UINT64_MAX;
	err = err_begin(err, &own);
	if (dest_over(phase))
		return 0;
	if (__atomic_load_n(&dest->fault_failed, __ATOMIC_ACQUIRE)) {
		*err = dest->fault_err;
		return dest_fail(dest, err);
	}
	ret = dest_multifd_step(dest, now_ns, wake_ns, err);
	if (ret == 0 && phase == DEST_ENDING)
		ret = step_ending(dest, now_ns, wake_ns, err);
	return ret < 0 ? dest_fail(dest, err) : 0;
}
