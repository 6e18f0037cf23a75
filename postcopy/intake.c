/* SPDX-License-Identifier: MIT */
/*
 * Engine: see intake.h.
 *
 * A plan is a row of units, a head, the contents, a head, ..., of pages expected one after
 * the other. Each unit that has come whole is handed on where it lies. A head that
 * announces something else ends the plan: what has come behind it lies in the wrong
 * places, is put together in the buffer, and goes on from there.
 */
#include "postcopy/intake.h"

#include <assert.h>
#include <string.h>

static_assert(INTAKE_BYTES >= (size_t)DEST_AHEAD_MAX * (DEST_HEAD_BYTES + TARGET_PAGE),
	      "all that was received in vain has room in the buffer");
static_assert(INTAKE_BYTES >= (size_t)3 * STREAM_NEED_MAX, "a unit, and room behind it");

void intake_init(struct intake *intake, struct dest *dest, enum channel channel, uint8_t *buf)
{
	memset(intake, 0, sizeof(*intake));
	intake->dest = dest;
	intake->channel = channel;
	intake->buf = buf;
}

static bool planned(const struct intake *intake)
{
	return intake->next < intake->units;
}

/* The page that a unit belongs to, of those in ahead */
static unsigned page_of(const struct intake *intake, unsigned unit)
{
	return (unit + intake->ahead.begun) / 2;
}

static bool is_head(const struct intake *intake, unsigned unit)
{
	return (unit + intake->ahead.begun) % 2 == 0;
}

/* What is left over in the buffer is the beginning of the first unit */
static bool plan(struct intake *intake)
{
	struct dest_ahead *ahead = &intake->ahead;
	unsigned units = 0;

	if (!dest_expect(intake->dest, intake->channel, ahead))
		return false;
	for (unsigned page = 0; page < ahead->count; page++) {
		if (page || !ahead->begun)
			intake->unit[units++] =
				(struct iovec){ intake->head[page], DEST_HEAD_BYTES };
		intake->unit[units++] = (struct iovec){ ahead->at[page], TARGET_PAGE };
	}
	if (intake->have >= intake->unit[0].iov_len)
		return false;
	memcpy(intake->unit[0].iov_base, intake->buf + intake->start, intake->have);
	intake->got = intake->have;
	intake->start = intake->have = 0;
	intake->units = units;
	intake->next = 0;
	return true;
}

unsigned intake_room(struct intake *intake, struct iovec *iov)
{
	size_t need = dest_need(intake->dest, intake->channel);
	unsigned count = 0;

	if (planned(intake) || plan(intake)) {
		for (unsigned unit = intake->next; unit < intake->units; unit++)
			iov[count++] = intake->unit[unit];
		iov[0].iov_base = (uint8_t *)iov[0].iov_base + intake->got;
		iov[0].iov_len -= intake->got;
		return count;
	}
	if (!intake->have)
		intake->start = 0;
	if (intake->start && INTAKE_BYTES - intake->start < 2 * need + STREAM_NEED_MAX) {
		memmove(intake->buf, intake->buf + intake->start, intake->have);
		intake->start = 0;
	}
	iov[0] = (struct iovec){
		.iov_base = intake->buf + intake->start + intake->have,
		.iov_len = INTAKE_BYTES - intake->start - intake->have,
	};
	return 1;
}

/* What has come of the plan and is not taken goes into the buffer. */
static void plan_end(struct intake *intake)
{
	unsigned first = page_of(intake, intake->next), end = first;
	size_t left = intake->got;

	for (unsigned unit = intake->next; left; unit++) {
		size_t bytes = intake->unit[unit].iov_len;

		if (bytes > left)
			bytes = left;
		memcpy(intake->buf + intake->have, intake->unit[unit].iov_base, bytes);
		intake->have += bytes;
		left -= bytes;
		if (!is_head(intake, unit))
			end = page_of(intake, unit) + 1;
	}
	dest_unexpected(intake->dest, intake->channel, &intake->ahead, first, end);
	intake->units = intake->next = 0;
	intake->got = 0;
}

static int take_buffer(struct intake *intake, uint64_t now_ns, struct wh_err *err)
{
	size_t used = 0;
	int ret = dest_input(intake->dest, intake->channel, intake->buf + intake->start,
			     intake->have, &used, now_ns, err);

	intake->start += used;
	intake->have -= used;
	return ret;
}

/* One unit that has come whole. Return: as dest_input() */
static int take_unit(struct intake *intake, uint64_t now_ns, struct wh_err *err)
{
	struct iovec *unit = &intake->unit[intake->next];
	bool head = is_head(intake, intake->next);
	unsigned page = page_of(intake, intake->next);
	size_t used = 0;
	int ret = dest_input(intake->dest, intake->channel, unit->iov_base, unit->iov_len, &used,
			     now_ns, err);

	intake->got -= used;
	if (used == unit->iov_len)
		intake->next++;
	else
		unit->iov_base = (uint8_t *)unit->iov_base + used, unit->iov_len -= used;
	if ((ret == 0 || ret == DEST_MARK) && head &&
	    dest_contents(intake->dest, intake->channel) != intake->ahead.at[page])
		plan_end(intake);
	return ret;
}

int intake_took(struct intake *intake, size_t bytes, uint64_t now_ns, struct wh_err *err)
{
	int ret = 0;

	if (!planned(intake)) {
		intake->have += bytes;
		return take_buffer(intake, now_ns, err);
	}
	intake->got += bytes;
	while (ret == 0 && planned(intake) && intake->got >= intake->unit[intake->next].iov_len)
		ret = take_unit(intake, now_ns, err);
	if (ret == 0 && !planned(intake) && intake->have)
		ret = take_buffer(intake, now_ns, err);
	return ret;
}
