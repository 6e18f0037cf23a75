/* SPDX-License-Identifier: MIT */
/* Device state: where it ends, what is in a package, whether it is our own. */
#include "wire/device.h"

#include "selftests/wire/feed.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void end(const uint8_t *bytes, size_t length)
{
	struct random random = { length };
	struct device_scan scan = { 0 };
	size_t state = 0, json = 0, json_length = 0, n, at[3] = { 0 };
	struct wh_err err = { 0 };
	int ret, again = 0;

	ret = device_end(bytes, length, &state, &json, &json_length, &err);
	promised(ret == 0 || ret == 1 || ret == -EPROTO, "1, 0 or -EPROTO");
	promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
	if (ret == 1) {
		promised(state + 6 == json && json + json_length <= length, "within the bytes");
		promised(bytes[json] == '{' && bytes[json + json_length - 1] == '}', "an object");
		promised(bytes[state] == 0 && bytes[state + 1] == 6, "EOF, VMDESCRIPTION");
		promised(!state || bytes[state - 5] == 0x7e, "a footer in front");
	}
	/* grown in pieces: the same, and not before all of it is there */
	for (n = 0; n < length && !again; n += 1 + random_below(&random, 9))
		again = device_scan(&scan, bytes, n, &at[0], &at[1], &at[2], &err);
	if (!again)
		again = device_scan(&scan, bytes, length, &at[0], &at[1], &at[2], &err);
	promised(again == ret, "the same in pieces");
	promised(ret != 1 || (at[0] == state && at[1] == json && at[2] == json_length),
		 "the same in pieces");
}

static void package(const uint8_t *bytes, size_t length)
{
	struct wh_err err = { 0 };
	struct package got;
	int ret = package_get(bytes, length, &got, &err);

	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	if (ret)
		return;
	promised(got.pings <= PACKAGE_PINGS_MAX, "pings");
	promised(got.state + got.state_length + got.pings * 9 + 5 == length, "all of the bytes");
	promised(!got.state_length || bytes[got.state] == 4, "a FULL section");
}

static void own(const uint8_t *bytes, size_t length)
{
	uint8_t head[DEVICE_OWN_FRAME], tail[DEVICE_OWN_FRAME];
	struct wh_err err = { 0 };
	size_t at = 0, n = 0;
	int ret = device_own(bytes, length, &at, &n, &err);
	uint32_t id;

	promised(ret == 0 || ret == 1 || ret == -EPROTO, "1, 0 or -EPROTO");
	promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
	if (ret != 1)
		return;
	promised(at <= length && n <= length - at, "within the bytes");
	id = (uint32_t)bytes[1] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 8 |
	     bytes[4];
	promised(device_put_own_head(head, id, (uint32_t)n) == at && !memcmp(head, bytes, at),
		 "put(get(b)) == b");
	promised(device_put_own_tail(tail, id) == length - at - n &&
			 !memcmp(tail, bytes + at + n, length - at - n),
		 "put(get(b)) == b");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint8_t *copy = malloc(length ? length : 1);

	memcpy(copy, bytes, length);
	end(copy, length);
	package(copy, length);
	own(copy, length);
	free(copy);
	return 0;
}
