/* SPDX-License-Identifier: MIT */
/* One message of the RDMA control channel, and what is said with a connection. */
#include "selftests/wire/feed.h"
#include "wire/control.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void hello(const uint8_t *bytes, size_t length)
{
	struct control_hello hello;
	uint8_t again[CONTROL_HELLO_MAX];
	size_t put;

	if (control_get_hello(bytes, length, &hello, NULL) < 0)
		return;
	put = control_put_hello(again, &hello);
	promised(length >= put && !memcmp(again, bytes, put), "a hello again");
}

/* Every item is read; what nobody looks at is not put again */
static void items(const struct control *msg, uint8_t *again)
{
	for (uint32_t i = 0; control_item_bytes(msg->kind) && i < msg->count; i++) {
		struct control_block block;
		struct control_zero zero;
		struct control_grant grant;
		struct control_ask ask;

		if (msg->kind == CONTROL_BLOCKS_RESULT) {
			control_get_block(msg, i, &block);
			control_put_block(again, i, &block);
		} else if (msg->kind == CONTROL_ZERO) {
			control_get_zero(msg, i, &zero);
			control_put_zero(again, i, &zero);
		} else if (msg->kind == CONTROL_REGISTER_RESULT ||
			   msg->kind == CONTROL_KEY_RESULT) {
			control_get_grant(msg, i, &grant);
			control_put_grant(again, i, &grant);
		} else {
			control_get_ask(msg, i, &ask);
			control_put_ask(again, i, &ask);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static uint8_t again[CONTROL_MSG_MAX];
	/* just so many bytes, so that one too many is seen */
	uint8_t *copy = malloc(length ? length : 1);
	struct control msg, second;
	struct wh_err err = { 0 };
	int ret;

	memcpy(copy, bytes, length);
	hello(copy, length);
	ret = control_get(copy, length, &msg, &err);
	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	if (ret == 0) {
		promised(msg.length == length - CONTROL_HEADER, "all of it");
		promised(msg.kind == CONTROL_STREAM || !control_item_bytes(msg.kind) ||
				 msg.length == msg.count * control_item_bytes(msg.kind),
			 "whole items");
		promised(control_put(again, msg.kind, msg.count, msg.length) == length, "length");
		items(&msg, again);
		promised(control_get(again, length, &second, &err) == 0, "put is taken");
		promised(second.kind == msg.kind && second.length == msg.length &&
				 second.count == msg.count,
			 "the same again");
	}
	free(copy);
	return 0;
}
