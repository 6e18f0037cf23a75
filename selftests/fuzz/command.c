/* SPDX-License-Identifier: MIT */
/* Commands, one behind the other. */
#include "selftests/wire/feed.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void take(const uint8_t *bytes, size_t length, const struct cmd_msg *msg)
{
	static uint8_t out[CMD_PUT_MAX];
	struct cmd_msg shorter;
	size_t more;

	promised(length >= CMD_HEADER, "used");
	promised(reencode_is(out, reencode_command(out, msg), bytes, length), "put(get(b)) == b");
	promised(cmd_get(bytes, length - 1, &more, &shorter, NULL) == 0, "a prefix wants more");
	promised(more > length - 1 && more <= length, "and says how much");
	promised(cmd_name(msg->kind)[0] != '?', "a name");
	if (msg->kind == CMD_POSTCOPY_RAM_DISCARD)
		promised(msg->discard.count && msg->discard.count <= CMD_RANGES_MAX, "ranges");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct wh_err err = { 0 };
	struct cmd_msg msg;
	size_t used = 0;
	int ret;

	for (;;) {
		uint8_t *copy = malloc(length ? length : 1);

		memcpy(copy, bytes, length);
		ret = cmd_get(copy, length, &used, &msg, &err);
		promised(ret != 1 || used <= length, "used");
		if (ret == 1)
			take(copy, used, &msg);
		free(copy);
		if (ret != 1)
			break;
		bytes += used;
		length -= used;
	}
	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	promised(ret || (used > length && used <= CMD_HEADER + 65535), "says how much");
	return 0;
}
