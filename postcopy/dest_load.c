/* SPDX-License-Identifier: MIT */
/*
 * Destination: device state and what depends on it. In postcopy it comes in a package
 * of known length. In precopy nothing says how long it is: it ends where a whole
 * description begins, or, without a return path, where the connection does.
 *
 * The order at the end of precopy: load, say SHUT 0, start. Until SHUT 0 is said the
 * source may run the guest again; so the guest does not start before it is, and not at
 * all if it cannot be.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

#define BUFFER_FIRST 65536u

static unsigned long long ull(uint64_t value)
{
	return value;
}

static int buffer_add(struct dest *dest, const uint8_t *data, size_t length, size_t most,
		      struct wh_err *err)
{
	size_t room = dest->buffer_room;
	uint8_t *buffer;

	if (length > most - dest->buffered)
		return err_set(err, -EPROTO, "device state: more than %zu bytes", most);
	if (length > room - dest->buffered) {
		/* As it comes, and not as it is promised. */
		room = room ? room * 2 : BUFFER_FIRST;
		if (room < dest->buffered + length)
			room = dest->buffered + length;
		if (room > most)
			room = most;
		buffer = dest->ops->buffer(dest->ctx, room, err);
		if (!buffer)
			return dest_because(err, -ENOMEM, "device state");
		dest->buffer = buffer;
		dest->buffer_room = room;
	}
	memcpy(dest->buffer + dest->buffered, data, length);
	dest->buffered += length;
	return 0;
}

int dest_buffer_begin(struct dest *dest, uint32_t length, struct wh_err *err)
{
	if (!dest->have_blocks)
		return err_set(err, -EPROTO, "PACKAGED before the block list");
	if (length > dest->config.device_state_max)
		return err_set(err, -EPROTO,
			       "PACKAGED of %u bytes, of which at most %llu are taken", length,
			       ull(dest->config.device_state_max));
	dest->buffered = 0;
	return 0;
}

/* Hand the state over. Return: 0, WH_PENDING or a negative errno */
static int load(struct dest *dest, size_t at, size_t length, struct wh_err *err)
{
	const uint8_t *state = dest->buffer ? dest->buffer + at : NULL;
	enum wh_device_format format = WH_DEVICE_QEMU;
	size_t own, own_length;
	int ret;

	if (length > dest->config.device_state_max)
		return err_set(err, -EPROTO,
			       "device state of %zu bytes, of which at most %llu are taken", length,
			       ull(dest->config.device_state_max));
	ret = length ? device_own(state, length, &own, &own_length, err) : 0;
	if (ret < 0)
		return ret;
	if (ret) {
		state += own;
		length = own_length;
		format = WH_DEVICE_OWN;
	}
	ret = dest->ops->device(dest->ctx, state, length, format, err);
	if (ret < 0)
		return dest_because(err, ret, "loading the device state");
	dest->device_pending = ret == WH_PENDING;
	return ret;
}

/*
 * A host page that is half there could neither be placed nor be left out. The block has
 * whole ones only: in postcopy they are the source's, which the decoder has checked.
 */
static int check_whole(const struct dest_block *block, struct wh_err *err)
{
	uint64_t each = block->page_size / TARGET_PAGE;
	uint64_t pages = block->used / TARGET_PAGE;

	for (uint64_t first = 0; each > 1 && first < pages; first += each) {
		uint64_t there = bits_range_count(block->received, first, each);

		if (there && there < each)
			return err_set(err, -EPROTO,
				       "'%s': host page 0x%llx has %llu of %llu pages, not discarded",
				       block->region->name, ull(first * TARGET_PAGE), ull(there),
				       ull(each));
	}
	return 0;
}

/* POSTCOPY_LISTEN: nothing is missing before this, nothing is lost after it. */
static int listen(struct dest *dest, struct wh_err *err)
{
	uint64_t missing = 0;
	int ret;

	if (!dest->return_path)
		return err_set(err, -EPROTO, "POSTCOPY_LISTEN without a return path");
	dest_beside_end(dest);
	for (unsigned i = 0; i < dest->blocks; i++) {
		const struct dest_block *block = &dest->block[i];
		uint64_t pages = block->used / TARGET_PAGE;

		ret = check_whole(block, err);
		if (ret < 0)
			return ret;
		missing += pages - bits_count(block->received, pages);
	}
	__atomic_store_n(&dest->counters.pages_missing, missing, __ATOMIC_RELEASE);
	/* Before arming: what faults from then on is asked for, and comes, in this phase. */
	dest_move(dest, DEST_LISTENING, NULL);
	ret = dest->ops->arm(dest->ctx, err);
	if (ret < 0)
		return dest_because(err, ret, "arming");
	if (!missing)
		dest->ops->last_page(dest->ctx);
	return 0;
}

int dest_package(struct dest *dest, const struct stream_event *event, uint64_t now_ns,
		 struct wh_err *err)
{
	struct package package;
	int ret;

	ret = buffer_add(dest, event->data, event->data_length,
			 (size_t)dest->config.device_state_max, err);
	if (ret < 0 || !event->last)
		return ret;
	ret = package_get(dest->buffer, dest->buffered, &package, err);
	if (ret < 0)
		return ret;
	ret = listen(dest, err);
	if (ret < 0)
		return ret;
	dest->pending_pings = package.pings;
	memcpy(dest->pending_ping, package.ping, sizeof(dest->pending_ping));
	ret = load(dest, package.state, package.state_length, err);
	if (ret)
		return ret < 0 ? ret : 0;
	return dest_loaded(dest, now_ns, err);
}

static int start(struct dest *dest, struct wh_err *err)
{
	int ret;

	/* Even if it fails: how much of the guest is running then, nobody knows. */
	dest->committed = true;
	ret = dest->ops->start(dest->ctx, err);
	if (ret < 0)
		return dest_because(err, ret, "starting the guest");
	return 0;
}

/* Precopy: all is here. */
static int take_over(struct dest *dest, struct wh_err *err)
{
	int ret;

	if (dest->return_path) {
		ret = dest_say_shut(dest, 0, err);
		if (ret < 0) {
			err_wrap(err, "the guest is not started: the source cannot be told");
			return ret;
		}
	}
	ret = start(dest, err);
	if (ret < 0)
		return ret;
	dest_move(dest, DEST_DONE, NULL);
	return 0;
}

int dest_loaded(struct dest *dest, uint64_t now_ns, struct wh_err *err)
{
	struct rp_msg pong = { .kind = RP_PONG };
	int ret;

	dest->device_pending = false;
	if (dest_get_phase(dest) == DEST_LOADING)
		return take_over(dest, err);
	for (unsigned i = 0; i < dest->pending_pings; i++) {
		pong.pong.value = dest->pending_ping[i];
		ret = dest_send(dest, &pong, err);
		if (ret < 0)
			return ret;
	}
	ret = start(dest, err);
	if (ret < 0)
		return ret;
	dest_move(dest, DEST_RUNNING, NULL);
	return dest->ended ? dest_ended(dest, now_ns, err) : 0;
}

/*
 * EOF while device state is being loaded is kept: ENDING is only behind RUNNING. What
 * cannot be placed right now is dest_step()'s.
 */
int dest_ended(struct dest *dest, uint64_t now_ns, struct wh_err *err)
{
	dest->ended = true;
	if (dest_get_phase(dest) == DEST_LISTENING)
		return 0;
	if (dest->channel[CHANNEL_MAIN].inside)
		return err_set(err, -EPROTO, "the stream ends within a host page, at 0x%llx",
			       ull(dest->channel[CHANNEL_MAIN].next_offset));
	dest->ending_since_ns = now_ns;
	dest_move(dest, DEST_ENDING, NULL);
	return dest_flush(dest, CHANNEL_MAIN, now_ns, err);
}

static int load_precopy(struct dest *dest, size_t length, struct wh_err *err)
{
	int ret;

	dest_move(dest, DEST_LOADING, NULL);
	ret = load(dest, 0, length, err);
	if (ret)
		return ret < 0 ? ret : 0;
	return dest_loaded(dest, 0, err);
}

int dest_device(struct dest *dest, const uint8_t *data, size_t length, struct wh_err *err)
{
	uint64_t most = dest->config.device_state_max + DEST_VMDESC_MAX;
	enum dest_phase phase = dest_get_phase(dest);
	size_t state, json, json_length;
	int ret;

	/* What follows the end cannot change anything any more. */
	if (dest->ended || phase == DEST_LOADING || dest_over(phase))
		return 0;
	if (phase != DEST_PRECOPY && phase != DEST_ADVISED)
		return err_set(err, -EPROTO, "device state in phase '%s'", dest_phase_name(phase));
	ret = buffer_add(dest, data, length, (size_t)most, err);
	if (ret < 0)
		return ret;
	ret = device_scan(&dest->scan, dest->buffer, dest->buffered, &state, &json, &json_length,
			  err);
	return ret > 0 ? load_precopy(dest, state, err) : ret;
}

int dest_device_closed(struct dest *dest, struct wh_err *err)
{
	size_t length = dest->buffered;
	size_t state;

	if (device_undescribed(dest->buffer, length, &state))
		return load_precopy(dest, state, err);
	if (!length)
		return err_set(err, -EPROTO, "the source closed before the end of the stream");
	return err_set(err, -EPROTO,
		       "the source closed within the stream, after %zu bytes of device state",
		       length);
}
