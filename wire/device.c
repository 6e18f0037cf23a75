/* SPDX-License-Identifier: MIT */
#include "wire/device.h"

#include "base/bytes.h"
#include "base/err.h"
#include "wire/stream.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/*
 * Where does device state end, for somebody who cannot parse it? Behind it stand EOF,
 * VMDESCRIPTION, be32 n and a JSON object of n bytes; in front of EOF the footer of
 * the last section. The bytes of EOF, type and length may occur in device state too,
 * but a whole object behind them of exactly the length they give does not.
 *
 * JSON has no byte 00. So while one candidate's object is being read no other can
 * begin inside of it, and each byte is looked at once: as part of an object until
 * that breaks off, or as the beginning of one.
 */
#define FRAME 6u /* EOF, type, be32 */
#define FOOTER 5u
#define DEPTH_MAX 64u

enum scan_state {
	SCAN_SEARCH,
	SCAN_VALUE, /* in the object, outside of strings */
	SCAN_STRING,
	SCAN_ESCAPE, /* behind a backslash */
};

/* Is there a section that this footer may be of? */
static bool has_section(const uint8_t *state, const uint8_t *footer)
{
	for (; state + FOOTER <= footer; state++)
		if (state[0] == SECTION_FULL && !memcmp(state + 1, footer + 1, FOOTER - 1))
			return true;
	return false;
}

bool device_undescribed(const uint8_t *buf, size_t length, size_t *state)
{
	const uint8_t *footer;

	if (!length || buf[length - 1] != SECTION_EOF)
		return false;
	*state = length - 1;
	if (length == 1)
		return true;
	if (length <= FOOTER)
		return false;
	footer = buf + length - 1 - FOOTER;
	return footer[0] == SECTION_FOOTER && has_section(buf, footer);
}

static bool frame_at(const uint8_t *buf, size_t at)
{
	if (buf[at] != SECTION_EOF || buf[at + 1] != SECTION_VMDESCRIPTION ||
	    buf[at + FRAME] != '{')
		return false;
	return !at || (at >= FOOTER && buf[at - FOOTER] == SECTION_FOOTER);
}

/* The next candidate: 1 and the scan is in front of its object, 0 none so far */
static int search(struct device_scan *scan, const uint8_t *buf, size_t length)
{
	for (; length > FRAME && scan->at < length - FRAME; scan->at++) {
		if (!frame_at(buf, scan->at))
			continue;
		scan->eof = scan->at;
		scan->at += FRAME;
		scan->state = SCAN_VALUE;
		scan->depth = 0;
		scan->arrays = 0;
		return 1;
	}
	return 0;
}

static bool open_bracket(struct device_scan *scan, bool array)
{
	uint64_t bit = UINT64_C(1) << (scan->depth % DEPTH_MAX);

	if (scan->depth == DEPTH_MAX)
		return false;
	scan->arrays = array ? scan->arrays | bit : scan->arrays & ~bit;
	scan->depth++;
	return true;
}

static bool close_bracket(struct device_scan *scan, bool array)
{
	scan->depth--; /* never below 0: at 0 the object is complete */
	return (scan->arrays >> scan->depth & 1) == array;
}

static bool outside_string(struct device_scan *scan, uint8_t c)
{
	switch (c) {
	case '{':
	case '[':
		return open_bracket(scan, c == '[');
	case '}':
	case ']':
		return close_bracket(scan, c == ']');
	case '"':
		scan->state = SCAN_STRING;
		return true;
	case '\t':
	case '\n':
	case '\r':
		return true;
	default:
		return c >= 0x20 && c < 0x7f;
	}
}

/* One more byte of the object. False: it is none */
static bool json_byte(struct device_scan *scan, uint8_t c)
{
	if (scan->state == SCAN_VALUE)
		return outside_string(scan, c);
	if (c < 0x20)
		return false;
	if (scan->state == SCAN_ESCAPE)
		scan->state = SCAN_STRING;
	else if (c == '\\')
		scan->state = SCAN_ESCAPE;
	else if (c == '"')
		scan->state = SCAN_VALUE;
	return true;
}

/* 1 the object is complete and ends at scan->at, 0 not yet, -1 it is none */
static int object(struct device_scan *scan, const uint8_t *buf, size_t length, size_t limit)
{
	while (scan->at < length) {
		if (scan->at >= limit || !json_byte(scan, buf[scan->at]))
			return -1;
		scan->at++;
		if (!scan->depth)
			return scan->at == limit ? 1 : -1;
	}
	return 0;
}

/* With no section at all there is nothing to search: the description must be here. */
static int check_begin(const uint8_t *buf, size_t length, struct wh_err *err)
{
	if (length && buf[0] != SECTION_FULL && buf[0] != SECTION_EOF)
		return err_set(err, -EPROTO, "device state begins with byte 0x%02x, expected FULL",
			       buf[0]);
	if (!length || buf[0] == SECTION_FULL)
		return 0;
	if (length > 1 && buf[1] != SECTION_VMDESCRIPTION)
		return err_set(err, -EPROTO, "byte 0x%02x behind EOF, expected VMDESCRIPTION",
			       buf[1]);
	if (length > FRAME && buf[FRAME] != '{')
		return err_set(err, -EPROTO, "description begins with byte 0x%02x, expected a {",
			       buf[FRAME]);
	return 0;
}

int device_scan(struct device_scan *scan, const uint8_t *buf, size_t length, size_t *state,
		size_t *json, size_t *json_length, struct wh_err *err)
{
	size_t begin, n;
	int ret = check_begin(buf, length, err);

	if (ret < 0)
		return ret;
	while (scan->state != SCAN_SEARCH || search(scan, buf, length)) {
		begin = scan->eof + FRAME;
		n = get_be32(buf + scan->eof + 2);
		ret = object(scan, buf, length, begin + n);
		if (!ret)
			return 0;
		if (ret > 0) {
			*state = scan->eof;
			*json = begin;
			*json_length = n;
			return 1;
		}
		if (!scan->eof)
			return err_set(err, -EPROTO,
				       "description of %zu bytes is no JSON object, at %zu of it",
				       n, scan->at - begin);
		scan->state = SCAN_SEARCH;
	}
	return 0;
}

int device_end(const uint8_t *buf, size_t length, size_t *state, size_t *json, size_t *json_length,
	       struct wh_err *err)
{
	struct device_scan scan = { 0 };

	return device_scan(&scan, buf, length, state, json, json_length, err);
}

static const uint8_t package_listen[] = { 8, 0, CMD_POSTCOPY_LISTEN, 0, 0 };
static const uint8_t package_run[] = { 8, 0, CMD_POSTCOPY_RUN, 0, 0 };
static const uint8_t package_ping[] = { 8, 0, CMD_PING, 0, 4 };

#define PING_BYTES (sizeof(package_ping) + 4)

/*
 * Strips PINGs from the end, where sections have their footer: the byte 5 in front of
 * the end is 04 of a PING's length or 7e of a footer, so one is never the other.
 */
static int strip_pings(const uint8_t *buf, size_t begin, size_t *end, struct package *package,
		       struct wh_err *err)
{
	unsigned i;

	package->pings = 0;
	while (*end - begin >= PING_BYTES &&
	       !memcmp(buf + *end - PING_BYTES, package_ping, sizeof(package_ping))) {
		if (package->pings == PACKAGE_PINGS_MAX)
			return err_set(err, -EPROTO, "package has more than %u PINGs",
				       PACKAGE_PINGS_MAX);
		package->ping[package->pings++] = get_be32(buf + *end - 4);
		*end -= PING_BYTES;
	}
	for (i = 0; i < package->pings / 2; i++) {
		uint32_t last = package->ping[package->pings - 1 - i];

		package->ping[package->pings - 1 - i] = package->ping[i];
		package->ping[i] = last;
	}
	return 0;
}

int package_get(const uint8_t *buf, size_t length, struct package *package, struct wh_err *err)
{
	size_t begin = sizeof(package_listen), end;
	int ret;

	if (length < begin || memcmp(buf, package_listen, begin))
		return err_set(err, -EPROTO, "package of %zu bytes does not begin with LISTEN",
			       length);
	if (length - begin < sizeof(package_run) ||
	    memcmp(buf + length - sizeof(package_run), package_run, sizeof(package_run)))
		return err_set(err, -EPROTO, "package of %zu bytes does not end with RUN", length);
	end = length - sizeof(package_run);
	ret = strip_pings(buf, begin, &end, package, err);
	if (ret < 0)
		return ret;
	package->state = begin;
	package->state_length = end - begin;
	if (end == begin)
		return 0;
	if (buf[begin] != SECTION_FULL)
		return err_set(err, -EPROTO, "package has section type 0x%02x behind LISTEN",
			       buf[begin]);
	if (end - begin < FOOTER || buf[end - FOOTER] != SECTION_FOOTER)
		return err_set(err, -EPROTO, "package has no footer at %zu, behind device state",
			       end);
	return 0;
}
