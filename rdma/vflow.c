/* SPDX-License-Identifier: MIT */
#include "rdma/vflow.h"

#include "base/err.h"

#include <errno.h>
#include <string.h>

void vflow_init(struct vflow *flow, unsigned room)
{
	*flow = (struct vflow){ .room = room };
}

static unsigned credits(const struct vflow *flow)
{
	return flow->room - (flow->sent - flow->taken);
}

bool vflow_may_send(const struct vflow *flow)
{
	return credits(flow) > 1;
}

bool vflow_owes(const struct vflow *flow)
{
	return credits(flow) &&
	       (flow->gone - flow->gone_told >= flow->room / 2 ||
		(flow->lent_bytes && flow->left - flow->left_told >= flow->lent_bytes / 4));
}

uint64_t vflow_space(const struct vflow *flow, uint64_t *to)
{
	uint64_t at, space = flow->area - (flow->written - flow->emptied);

	if (!space)
		return 0;
	at = flow->written % flow->area;
	*to = flow->address + at;
	return space < flow->area - at ? space : flow->area - at;
}

void vflow_wrote(struct vflow *flow, uint64_t bytes)
{
	flow->written += bytes;
}

/* What is in every message */
static struct parcel say(struct vflow *flow, enum parcel_kind kind)
{
	flow->sent++;
	flow->gone_told = flow->gone;
	flow->left_told = flow->left;
	return (struct parcel){ .kind = kind, .taken = flow->gone, .emptied = flow->left };
}

size_t vflow_put(struct vflow *flow, uint8_t *buf, uint32_t bytes, uint32_t landed)
{
	struct parcel parcel = say(flow, PARCEL_STREAM);

	parcel.stream.bytes = bytes;
	parcel.stream.landed = landed;
	parcel.stream.at = flow->written - landed;
	return parcel_put(buf, &parcel) + bytes;
}

size_t vflow_lend(struct vflow *flow, uint8_t *buf, const uint8_t *area, uint64_t bytes,
		  uint32_t key)
{
	struct parcel parcel = say(flow, PARCEL_AREA);

	flow->lent = area;
	flow->lent_bytes = bytes;
	parcel.area.address = (uintptr_t)area;
	parcel.area.length = bytes;
	parcel.area.key = key;
	return parcel_put(buf, &parcel);
}

/* What the other end has done with can only be what it was given */
static int given_back(struct vflow *flow, const struct parcel *parcel, struct wh_err *err)
{
	uint64_t wrote = flow->written - flow->emptied;

	if (parcel->taken - flow->taken > flow->sent - flow->taken)
		return err_set(err, -EPROTO, "rdma: %u messages taken, of %u", parcel->taken,
			       flow->sent);
	if (parcel->emptied - flow->emptied > wrote)
		return err_set(err, -EPROTO, "rdma: %llu bytes taken out, of %llu",
			       (unsigned long long)parcel->emptied,
			       (unsigned long long)flow->written);
	flow->taken = parcel->taken;
	flow->emptied = parcel->emptied;
	return 0;
}

static int get_stream(struct vflow *flow, const struct parcel *parcel, struct wh_err *err)
{
	uint64_t full = flow->landed - flow->left;

	if (parcel->stream.landed > flow->lent_bytes - full)
		return err_set(err, -EPROTO, "rdma: %u bytes written, %llu of %llu are free",
			       parcel->stream.landed, (unsigned long long)(flow->lent_bytes - full),
			       (unsigned long long)flow->lent_bytes);
	if (parcel->stream.landed && parcel->stream.at != flow->landed)
		return err_set(err, -EPROTO, "rdma: bytes written at %llu, not at %llu",
			       (unsigned long long)parcel->stream.at,
			       (unsigned long long)flow->landed);
	flow->bytes = parcel->stream.bytes;
	flow->in_area = parcel->stream.landed;
	flow->landed += parcel->stream.landed;
	return 0;
}

static int get_area(struct vflow *flow, const struct parcel *parcel, struct wh_err *err)
{
	if (flow->area || !parcel->area.length ||
	    parcel->area.address > UINT64_MAX - parcel->area.length)
		return err_set(err, -EPROTO, "rdma: %llu bytes at %#llx to write to%s",
			       (unsigned long long)parcel->area.length,
			       (unsigned long long)parcel->area.address,
			       flow->area ? ", again" : "");
	flow->address = parcel->area.address;
	flow->area = parcel->area.length;
	flow->key = parcel->area.key;
	return 0;
}

int vflow_get(struct vflow *flow, const uint8_t *message, size_t bytes, struct wh_err *err)
{
	struct parcel parcel;
	int ret = parcel_get(message, bytes, &parcel, err);

	if (ret == 0)
		ret = given_back(flow, &parcel, err);
	if (ret < 0)
		return ret;
	flow->reading = true;
	flow->at = parcel.payload;
	flow->bytes = flow->in_area = 0;
	return parcel.kind == PARCEL_AREA ? get_area(flow, &parcel, err) :
					    get_stream(flow, &parcel, err);
}

static size_t take_written(struct vflow *flow, uint8_t *to, size_t room)
{
	uint64_t at = flow->left % flow->lent_bytes, bytes = flow->lent_bytes - at;

	if (bytes > flow->in_area)
		bytes = flow->in_area;
	if (bytes > room)
		bytes = room;
	memcpy(to, flow->lent + at, bytes);
	flow->in_area -= (uint32_t)bytes;
	flow->left += bytes;
	return (size_t)bytes;
}

size_t vflow_take(struct vflow *flow, uint8_t *to, size_t room)
{
	size_t bytes = flow->bytes < room ? flow->bytes : room;

	if (bytes) {
		memcpy(to, flow->at, bytes);
		flow->at += bytes;
		flow->bytes -= (uint32_t)bytes;
	}
	while (!flow->bytes && flow->in_area && bytes < room)
		bytes += take_written(flow, to + bytes, room - bytes);
	return bytes;
}

void vflow_gone(struct vflow *flow)
{
	flow->reading = false;
	flow->gone++;
}
