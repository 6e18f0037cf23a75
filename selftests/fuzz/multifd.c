/* SPDX-License-Identifier: MIT */
/* A channel of multifd: the hello, and heads with their contents behind them. */
#include "selftests/wire/feed.h"
#include "wire/multifd.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* Return: bytes of the packet, 0: no more of them */
static size_t take(const uint8_t *at, size_t left)
{
	uint8_t *copy = malloc(left ? left : 1), head[MULTIFD_HEAD_BYTES];
	struct multifd_packet packet = { 0 }, again = { 0 };
	struct wh_err err = { 0 };
	int ret;

	memcpy(copy, at, left);
	ret = multifd_get_head(copy, left, &packet, &err);
	free(copy);
	promised(ret == 1 || ret == 0 || ret == -EPROTO, "1, 0 or -EPROTO");
	promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
	if (ret != 1)
		return 0;
	promised(packet.normal + packet.zero <= MULTIFD_PAGES, "pages");
	promised(packet.bytes <= MULTIFD_BYTES_MAX, "bytes");
	promised(!packet.normal == !packet.bytes, "bytes of pages");
	multifd_put_head(head, &packet);
	promised(multifd_get_head(head, sizeof(head), &again, &err) == 1, "taken again");
	promised(!memcmp(&packet, &again, sizeof(packet)), "get(put(x)) == x");
	return MULTIFD_HEAD_BYTES + packet.bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct multifd_hello hello;
	struct wh_err err = { 0 };
	size_t at, used;
	int ret = multifd_get_hello(bytes, length, &hello, &err);

	promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
	for (at = ret == 1 ? MULTIFD_HELLO_BYTES : 0; at <= length; at += used) {
		used = take(bytes + at, length - at);
		if (!used)
			break;
	}
	return 0;
}
