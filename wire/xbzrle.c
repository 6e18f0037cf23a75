/* SPDX-License-Identifier: MIT */
#include "wire/xbzrle.h"

#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/*
 * A delta is (equal run length, data run length, data bytes) again and again. A
 * length has seven bits to the byte, low ones first, in at most two bytes. Only the
 * first equal run may be 0, no data run may, and an equal run at the end is left out.
 */
#define PAGE 4096u

/* Return: bytes taken, 0 if there is no whole length here */
static size_t length_get(const uint8_t *at, size_t left, unsigned *value)
{
	if (left >= 1 && !(at[0] & 0x80)) {
		*value = at[0];
		return 1;
	}
	if (left >= 2 && !(at[1] & 0x80)) {
		*value = (at[0] & 0x7fu) | (unsigned)at[1] << 7;
		return 2;
	}
	return 0;
}

static size_t length_put(uint8_t *at, unsigned value)
{
	if (value < 0x80) {
		at[0] = (uint8_t)value;
		return 1;
	}
	at[0] = (uint8_t)(value | 0x80);
	at[1] = (uint8_t)(value >> 7);
	return 2;
}

/* One pair of runs, its data at delta[*at]; *at and *to move behind the lengths */
static int runs_get(const uint8_t *delta, size_t length, size_t *at, unsigned *to, unsigned *data,
		    struct wh_err *err)
{
	bool first = !*at;
	size_t begin = *at, n;
	unsigned equal;

	n = length_get(delta + *at, length - *at, &equal);
	*at += n;
	if (n) {
		n = length_get(delta + *at, length - *at, data);
		*at += n;
	}
	if (!n)
		return err_set(err, -EPROTO, "XBZRLE: no run length at %zu of %zu", *at, length);
	if ((!equal && !first) || !*data)
		return err_set(err, -EPROTO, "XBZRLE: empty run at %zu of %zu", begin, length);
	if (*data > length - *at)
		return err_set(err, -EPROTO, "XBZRLE: run of %u bytes at %zu, %zu are left", *data,
			       begin, length - *at);
	if (equal + *data > PAGE - *to)
		return err_set(err, -EPROTO, "XBZRLE: runs of %u and %u bytes at %u of the page",
			       equal, *data, *to);
	*to += equal;
	return 0;
}

static int apply(uint8_t *page, const uint8_t *delta, size_t length, struct wh_err *err)
{
	unsigned to = 0, data = 0;
	size_t at = 0;
	int ret;

	while (at < length) {
		ret = runs_get(delta, length, &at, &to, &data, err);
		if (ret < 0)
			return ret;
		if (page)
			memcpy(page + to, delta + at, data);
		at += data;
		to += data;
	}
	return 0;
}

int xbzrle_get(uint8_t *page, const uint8_t *delta, size_t length, struct wh_err *err)
{
	int ret = apply(NULL, delta, length, err);

	return ret < 0 ? ret : apply(page, delta, length, err);
}

static unsigned equal_end(const uint8_t *a, const uint8_t *b, unsigned at)
{
	uint64_t x, y;

	while (at + 8 <= PAGE) {
		memcpy(&x, a + at, 8);
		memcpy(&y, b + at, 8);
		if (x != y)
			break;
		at += 8;
	}
	while (at < PAGE && a[at] == b[at])
		at++;
	return at;
}

/*
 * A data run goes on over one or two equal bytes: to break it off and begin another
 * costs two lengths, no less than the bytes themselves.
 */
static unsigned data_end(const uint8_t *a, const uint8_t *b, unsigned at)
{
	unsigned end = at;

	for (; at < PAGE && at - end <= 2; at++)
		if (a[at] != b[at])
			end = at + 1;
	return end;
}

int xbzrle_put(uint8_t *out, size_t room, const uint8_t *before, const uint8_t *after)
{
	unsigned from = 0, first, end;
	uint8_t lengths[4];
	size_t used = 0, n;

	while ((first = equal_end(before, after, from)) < PAGE) {
		end = data_end(before, after, first);
		n = length_put(lengths, first - from);
		n += length_put(lengths + n, end - first);
		if (n + (end - first) > room - used)
			return -EOVERFLOW;
		memcpy(out + used, lengths, n);
		memcpy(out + used + n, after + first, end - first);
		used += n + (end - first);
		from = end;
	}
	return (int)used;
}
